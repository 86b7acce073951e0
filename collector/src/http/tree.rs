//! The configuration tree: one document for each service, where pollers and agents look for theirs.
//!
//! ```text
//! config/pollers/<id>.json
//! config/pollers/<id>/agents/<id>.json
//! config/agents/<id>/checkers/<id>.json
//! config/instances/<id>.json
//! ```
//! The registry is the only source: the tree is derived when somebody looks, whole or the part of one poller,
//! and nothing writes it. A document says what is registered and where it stands, and nothing that a heartbeat
//! changes, so that its version is the seq of the row. Paths are made of ids, which are safe by their grammar.

mod export;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rollcall_common::id::{Kind, ServiceId, ServiceKey};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::Permission,
    call::Call,
    error::{Problem, ProblemCode},
    extract::{Query, Words},
    filter::Way,
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    scan::stride,
    view::Time,
};
use crate::store::rows::ServiceRow;

const LIST: &[Param] = &[
    Param::of::<words::Search>("prefix", "Only paths that begin so, as in `config/pollers/site-3/`"),
    Param::of::<words::Limit>("limit", "Documents of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    let document = |path: &str, id: &str, what: &str| {
        let operation = Operation::get(&format!("/api/admin/config/{path}"), Permission::Read, id);
        let operation = match path.contains("{id}") {
            true => operation.path::<words::Id>("id", "The parent"),
            false => operation,
        };
        operation
            .about(format!("The configuration document of {what}"))
            .path::<words::JsonFile>("file", "Its id, and `.json`")
            .answer::<ConfigDocument>(200, "The document")
            .gives(&[ProblemCode::UnknownService])
            .scoped()
            .tagged()
    };
    routes
        .tag("config", "The configuration tree, derived from the registry")
        .add(
            Operation::get("/api/admin/config", Permission::Read, "list_config")
                .about("Paths of the configuration tree, with their versions")
                .query(LIST)
                .answer::<Page<ConfigPath>>(200, "A page")
                .scoped(),
            list,
        )
        .add(
            Operation::get("/api/admin/config.tar.gz", Permission::Read, "export_config")
                .about("The configuration tree as an archive: all of it, or the part of one poller")
                .query(&[Param::of::<words::Id>("poller", "Only this poller and what stands below it")])
                .answer_as(200, "application/gzip", "The archive")
                .gives(&[ProblemCode::UnknownService, ProblemCode::InvalidId])
                .scoped()
                .streams(),
            export::archive,
        )
        .add(document("pollers/{file}", "get_config_of_poller", "a poller"), poller)
        .add(document("pollers/{id}/agents/{file}", "get_config_of_agent", "an agent"), agent)
        .add(document("agents/{id}/checkers/{file}", "get_config_of_checker", "a checker"), checker)
        .add(document("instances/{file}", "get_config_of_instance", "an instance"), instance)
}

/// Where a document is, and of which version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConfigPath {
    /// Its path in the tree.
    path: String,
    /// The service that it is about.
    service: String,
    /// Its version.
    seq: u64,
}

/// What the tree says of one service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConfigDocument {
    /// What it is.
    #[schema(value_type = words::Kind)]
    kind: Kind,
    /// Its id.
    id: String,
    /// Its parent.
    parent: Option<String>,
    /// The poller that it belongs to.
    poller: Option<String>,
    /// For checkers.
    checker_kind: Option<String>,
    /// The onboarding package's component.
    component_id: Option<String>,
    /// Where it stands; `pending` until its first heartbeat.
    #[schema(value_type = words::Status)]
    status: &'static str,
    /// How it was registered.
    #[schema(value_type = words::Source)]
    registration_source: &'static str,
    /// When.
    first_registered: Time,
    /// By whom.
    created_by: String,
    /// Labels.
    #[schema(value_type = words::Pairs)]
    labels: BTreeMap<String, String>,
    /// Free metadata.
    #[schema(value_type = words::Pairs)]
    metadata: BTreeMap<String, String>,
    /// Its version.
    seq: u64,
}

impl ConfigDocument {
    fn of(row: &ServiceRow) -> Self {
        let pairs = |pairs: &rollcall_common::service::Pairs| {
            pairs.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        Self {
            kind: row.key.kind,
            id: row.key.id.to_string(),
            parent: row.parent.as_ref().map(ToString::to_string),
            poller: row.poller.as_ref().map(ToString::to_string),
            checker_kind: row.checker_kind.as_ref().map(|kind| kind.as_str().to_owned()),
            component_id: row.component_id.clone(),
            status: row.status.as_str(),
            registration_source: row.source.as_str(),
            first_registered: Time(row.first_registered),
            created_by: row.created_by.clone(),
            labels: pairs(&row.labels),
            metadata: pairs(&row.metadata),
            seq: row.seq.0,
        }
    }
}

/// Where the tree has a service. One without the parent that its kind needs has no place.
fn path_of(row: &ServiceRow) -> Option<String> {
    let id = &row.key.id;
    Some(match row.key.kind {
        Kind::Poller => format!("config/pollers/{id}.json"),
        Kind::Agent => format!("config/pollers/{}/agents/{id}.json", row.parent.as_ref()?),
        Kind::Checker => format!("config/agents/{}/checkers/{id}.json", row.parent.as_ref()?),
        Kind::Instance => format!("config/instances/{id}.json"),
    })
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<ConfigPath>>, Problem> {
    let prefix = query.get("prefix").unwrap_or_default();
    let limit = query.get("limit").map_or(Ok(page::DEFAULT_LIMIT), page::limit)?;
    let mut after = query.get("cursor").map(page::seek::<ServiceKey>).transpose()?;
    let registry = &call.state.registry;
    let position = registry.read(|roster| roster.position());
    let mut found: Vec<(ServiceKey, ConfigPath)> = Vec::new();
    loop {
        let next = registry.read(|roster| {
            stride(roster, &Way::All, call.scope(), None, after.as_ref(), &mut |entry| {
                if let Some(path) = path_of(&entry.row).filter(|path| path.starts_with(prefix)) {
                    let service = entry.row.key.to_string();
                    found.push((entry.row.key.clone(), ConfigPath { path, service, seq: entry.row.seq.0 }));
                }
                if found.len() > limit { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
            })
        });
        match next {
            Some(key) => after = Some(key),
            None => break,
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(key, _)| page::cursor(&key.to_string()));
    Ok(axum::Json(Page::at(position, found.into_iter().map(|(_, item)| item).collect(), next)))
}

async fn poller(call: Call, Words(file): Words<String>) -> Result<Tagged<ConfigDocument>, Problem> {
    document(&call, Kind::Poller, None, &file)
}

async fn instance(call: Call, Words(file): Words<String>) -> Result<Tagged<ConfigDocument>, Problem> {
    document(&call, Kind::Instance, None, &file)
}

async fn agent(call: Call, Words((parent, file)): Words<(String, String)>) -> Result<Tagged<ConfigDocument>, Problem> {
    document(&call, Kind::Agent, Some(&parent), &file)
}

async fn checker(
    call: Call,
    Words((parent, file)): Words<(String, String)>,
) -> Result<Tagged<ConfigDocument>, Problem> {
    document(&call, Kind::Checker, Some(&parent), &file)
}

fn document(call: &Call, kind: Kind, parent: Option<&str>, file: &str) -> Result<Tagged<ConfigDocument>, Problem> {
    let bad = |why: String| Problem::new(ProblemCode::InvalidId, why);
    let id = file.strip_suffix(".json").ok_or_else(|| bad("a document's name ends in .json".into()))?;
    let id: ServiceId = id.parse().map_err(|error: rollcall_common::id::NameError| bad(error.to_string()))?;
    let parent = parent.map(str::parse::<ServiceId>).transpose().map_err(|error| bad(error.to_string()))?;
    let key = ServiceKey::new(kind, id);
    let seen = call.find(&key)?;
    let row = &seen.entry.row;
    if parent.is_some() && row.parent != parent {
        return Err(crate::registry::Refusal::UnknownService(key).into());
    }
    Ok(call.tagged(row.seq, ConfigDocument::of(row)))
}
