//! Services over HTTP: list, look up, history here; register, edit and act in rooms of their own.
//!
//! What is asked is planned by the registry; these files only read requests and show answers.

pub(super) mod acts;
mod edit;
pub(super) mod register;
mod settings;

use axum::response::Response;
use rollcall_common::id::{Kind, Seq, ServiceId, ServiceKey};
use serde_json::Value;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Query},
    fields::{self, Fields},
    filter::{self, Wanted},
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    scan::Seen,
    view::{IntervalView, ServiceDetail, ServiceView},
};
use crate::registry::roster::Roster;

const HISTORY: &[Param] = &[
    Param::of::<words::Limit>("limit", "Rows of a page"),
    Param::of::<words::Flag>("superseded", "Also rows that a later finding replaced"),
];
const TAG: &str = "The tag follows what is registered. What is only observed (presence, the last heartbeat, the \
    connection) moves no tag: ask without `If-None-Match` to see it.";
const ROOT: &str = "/api/admin/services";

/// A kind's word in a path is one of four, so that a service of any id has a place; without a kind, an id that
/// is one of the fixed words here is found under its kind only.
pub(super) fn routes(routes: Routes) -> Routes {
    let routes = routes
        .tag("services", "What is registered, and what is observed of it")
        .add(
            Operation::get(ROOT, Permission::Read, "list_services")
                .scoped()
                .about("Services of every kind, in the order of the tree of kinds and then by id")
                .query(&[filter::KIND, filter::PARENT])
                .query(filter::QUERY)
                .query(&[filter::ORDER, fields::PARAM])
                .selected::<Page<ServiceView>>(200, "A page"),
            |call: Call, query: Query| list(None, call, query),
        )
        .add(
            Operation::get(&format!("{ROOT}/{{id}}"), Permission::Read, "find_service")
                .scoped()
                .about("A service by its id alone, where one kind only has it")
                .path::<words::Id>("id", "The service")
                .more(TAG)
                .query(&[fields::PARAM])
                .tagged()
                .selected::<ServiceDetail>(200, "The service")
                .gives(&[ProblemCode::UnknownService, ProblemCode::Ambiguous]),
            show_any,
        );
    Kind::ALL.into_iter().fold(acts::of_any(routes), of_kind)
}

/// The operations of one kind.
fn of_kind(routes: Routes, kind: Kind) -> Routes {
    use Permission as P;
    let (word, words) = (kind.as_str(), kind.plural());
    let all = format!("{ROOT}/{words}");
    let one = format!("{all}/{{id}}");
    let known =
        |operation: Operation| operation.path::<words::Id>("id", "The service").gives(&[ProblemCode::UnknownService]);
    let list_all = Operation::get(&all, P::Read, &format!("list_{words}"))
        .scoped()
        .about(format!("Services of kind {word}, by id"))
        .query(&[filter::PARENT])
        .query(filter::QUERY)
        .query(&[filter::ORDER, fields::PARAM])
        .selected::<Page<ServiceView>>(200, "A page");
    let show_one = known(Operation::get(&one, P::Read, &format!("get_{word}")).scoped())
        .about(format!("One service of kind {word}, with everything that is known of it"))
        .more(TAG)
        .query(&[fields::PARAM])
        .tagged()
        .selected::<ServiceDetail>(200, "The service");
    let history_of = known(Operation::get(&format!("{one}/history"), P::Read, &format!("get_{word}_history")).scoped())
        .about("Presence intervals of a service, newest first")
        .query(HISTORY)
        .answer::<Page<IntervalView>>(200, "The newest intervals")
        .gives(&[ProblemCode::StoreUnavailable]);
    let routes = edit::of_kind(acts::of_kind(register::of_kind(routes, kind), kind), kind);
    let routes = settings::of_kind(routes, kind);
    let mut routes = routes
        .add(list_all, move |call: Call, query: Query| list(Some(kind), call, query))
        .add(show_one, move |call: Call, id: Id, query: Query| show(kind, call, id, query))
        .add(history_of, move |call: Call, id: Id, query: Query| history(kind, call, id, query));
    if let Some(parent) = kind.parent() {
        let below = format!("{ROOT}/{}/{{id}}/{words}", parent.plural());
        let list_below = known(Operation::get(&below, P::Read, &format!("list_{words}_of_{parent}")).scoped())
            .about(format!("The {words} of one {parent}, by id"))
            .query(filter::QUERY)
            .query(&[filter::ORDER, fields::PARAM])
            .selected::<Page<ServiceView>>(200, "A page");
        routes =
            routes.add(list_below, move |call: Call, id: Id, query: Query| children(parent, kind, call, id, query));
    }
    routes
}

async fn list(kind: Option<Kind>, call: Call, query: Query) -> Result<Response, Problem> {
    let fields = Fields::read(&query)?;
    Ok(fields.page(call.page(Wanted::read(kind, &query.0)?).await))
}

/// `…/pollers/{id}/agents` and `…/agents/{id}/checkers`.
async fn children(parent: Kind, child: Kind, call: Call, id: Id, query: Query) -> Result<Response, Problem> {
    let fields = Fields::read(&query)?;
    let key = ServiceKey::new(parent, id.0);
    call.find(&key)?;
    let mut pairs = query.0;
    pairs.push(("parent".into(), key.id.to_string()));
    Ok(fields.page(call.page(Wanted::read(Some(child), &pairs)?).await))
}

/// Finds the seq of a service.
fn seq_of(key: &ServiceKey) -> impl Fn(&Roster) -> Option<Seq> + Send + use<> {
    let key = key.clone();
    move |roster| roster.get(&key).map(|entry| entry.row.seq)
}

fn shown(call: &Call, seen: &Seen) -> Tagged<ServiceDetail> {
    call.tagged(seen.entry.row.seq, call.detail(seen))
}

async fn show(kind: Kind, call: Call, id: Id, query: Query) -> Result<Tagged<Value>, Problem> {
    let fields = Fields::read(&query)?;
    let seen = call.find(&ServiceKey::new(kind, id.0))?;
    Ok(call.tagged(seen.entry.row.seq, fields.of(&call.detail(&seen))))
}

/// A lookup without a kind: answered where it is unambiguous.
async fn show_any(call: Call, id: Id, query: Query) -> Result<Tagged<Value>, Problem> {
    let fields = Fields::read(&query)?;
    let seen = only(&call, &id.0)?;
    Ok(call.tagged(seen.entry.row.seq, fields.of(&call.detail(&seen))))
}

/// The one service of an id.
fn only(call: &Call, id: &ServiceId) -> Result<Seen, Problem> {
    let kinds = Kind::ALL.into_iter();
    let mut found: Vec<Seen> = kinds.filter_map(|kind| call.find(&ServiceKey::new(kind, id.clone())).ok()).collect();
    if found.len() > 1 {
        let keys: Vec<String> = found.iter().map(|seen| seen.entry.row.key.to_string()).collect();
        let detail = format!("name the kind: {} exist", keys.join(" and "));
        return Err(Problem::new(ProblemCode::Ambiguous, detail).with("candidates", keys));
    }
    let unknown = || Problem::new(ProblemCode::UnknownService, format!("no service of any kind has the id {id}"));
    found.pop().ok_or_else(unknown)
}

async fn history(kind: Kind, call: Call, id: Id, query: Query) -> Result<axum::Json<Page<IntervalView>>, Problem> {
    let (mut limit, mut superseded) = (page::DEFAULT_LIMIT, false);
    for (name, value) in &query.0 {
        match (name.as_str(), value.as_str()) {
            ("limit", value) => limit = page::limit(value)?,
            ("superseded", "true") => superseded = true,
            ("superseded", "false") => superseded = false,
            ("superseded", _) => {
                return Err(Problem::new(ProblemCode::InvalidQuery, "superseded is true or false"));
            }
            (_, _) => {}
        }
    }
    let key = ServiceKey::new(kind, id.0);
    call.find(&key)?;
    let position = call.state.registry.read(|roster| roster.position());
    let rows = call.state.store.history(&key, limit, superseded).await?;
    Ok(axum::Json(Page::at(position, rows.into_iter().map(IntervalView::of).collect(), None)))
}
