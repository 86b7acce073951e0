//! Services over HTTP: list, look up, register, change status, remove, history.
//!
//! What is asked is planned by the registry; this file only reads requests and shows answers. Which act a
//! wished status means is found in the lifecycle table itself ([`act_for`]), so that the two cannot differ.

use axum::{
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{Kind, Seq, ServiceId, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
    service::{CheckerKind, Pairs, Source},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query},
    fields::{self, Fields},
    filter::{self, Wanted},
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    scan::Seen,
    view::{IntervalView, ServiceDetail, ServiceView},
};
use crate::{
    registry::{
        roster::Roster,
        services::{Move, Register, standing},
    },
    store::rows::Said,
};

/// The acts that an operator may ask for.
const ACTS: [(Act, &str, Permission); 4] = [
    (Act::Revoke, "revoke", Permission::Administer),
    (Act::Unrevoke, "unrevoke", Permission::Operate),
    (Act::Delete, "delete", Permission::Administer),
    (Act::Recover, "recover", Permission::Operate),
];

/// A service to register ahead of its first heartbeat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    #[schema(value_type = words::Id)]
    id: ServiceId,
    /// Required of agents and checkers, and of nothing else.
    #[schema(value_type = Option<words::Id>)]
    parent: Option<ServiceId>,
    /// For checkers.
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<CheckerKind>,
    /// The onboarding package's component.
    #[schema(value_type = Option<words::Text>)]
    component_id: Option<Text>,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    metadata: Pairs,
}

/// A change of status: either the act, or the status that it is to lead to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusBody {
    /// Where it is to stand.
    #[schema(value_type = Option<words::Status>)]
    status: Option<Status>,
    /// `revoke`, `unrevoke`, `delete` or `recover`.
    act: Option<String>,
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
}

const REASON: &[Param] = &[Param::of::<words::Text>("reason", "Why, for the audit trail")];
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
                .query(&[fields::PARAM])
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
    Kind::ALL.into_iter().fold(routes, of_kind)
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
        .query(&[fields::PARAM])
        .selected::<Page<ServiceView>>(200, "A page");
    let register_one = Operation::post(&all, P::Operate, &format!("register_{word}"))
        .scoped()
        .about(format!("Registers a service of kind {word} ahead of its first heartbeat"))
        .body::<RegisterBody>()
        .answer::<ServiceDetail>(201, "It is registered; `Location` says where it is found")
        .gives(&[
            ProblemCode::Exists,
            ProblemCode::ParentMissing,
            ProblemCode::ParentUnwanted,
            ProblemCode::ParentUnknown,
            ProblemCode::ParentKind,
            ProblemCode::ParentRevoked,
            ProblemCode::ParentDeleted,
        ]);
    let show_one = known(Operation::get(&one, P::Read, &format!("get_{word}")).scoped())
        .about(format!("One service of kind {word}, with everything that is known of it"))
        .more(TAG)
        .query(&[fields::PARAM])
        .tagged()
        .selected::<ServiceDetail>(200, "The service");
    let remove_one = known(Operation::delete(&one, P::Administer, &format!("remove_{word}")).scoped())
        .about("Removes a service for good")
        .more("Pending and active services are not removed: delete or revoke them first.")
        .query(REASON)
        .matches()
        .empty(204, "It is gone")
        .gives(&[ProblemCode::NoArrow, ProblemCode::Refused]);
    let history_of = known(Operation::get(&format!("{one}/history"), P::Read, &format!("get_{word}_history")).scoped())
        .about("Presence intervals of a service, newest first")
        .query(HISTORY)
        .answer::<Page<IntervalView>>(200, "The newest intervals")
        .gives(&[ProblemCode::StoreUnavailable]);
    // The body decides whether this takes an administrator: see `ACTS`.
    let status = |method: Method, id: String| {
        known(Operation::new(method, &format!("{one}/status"), P::Operate, &id).scoped())
            .about("Changes the status of a service, by the act or by the status that it is to lead to")
            .more("Revoking and deleting take an administrator; letting back in takes an operator.")
            .body::<StatusBody>()
            .matches()
            .answer::<ServiceDetail>(200, "As it is now")
            .gives(&[ProblemCode::NoArrow, ProblemCode::Refused])
    };
    let set = move |call: Call, id: Id, body: Json<_>| set_status(kind, call, id, body);
    let mut routes = routes
        .add(list_all, move |call: Call, query: Query| list(Some(kind), call, query))
        .add(register_one, move |call: Call, body: Json<_>| register(kind, call, body))
        .add(show_one, move |call: Call, id: Id, query: Query| show(kind, call, id, query))
        .add(remove_one, move |call: Call, id: Id, query: Query| remove(kind, call, id, query))
        .add(status(Method::POST, format!("change_{word}_status")), set)
        .add(status(Method::PUT, format!("set_{word}_status")), set)
        .add(history_of, move |call: Call, id: Id, query: Query| history(kind, call, id, query));
    if let Some(parent) = kind.parent() {
        let below = format!("{ROOT}/{}/{{id}}/{words}", parent.plural());
        let list_below = known(Operation::get(&below, P::Read, &format!("list_{words}_of_{parent}")).scoped())
            .about(format!("The {words} of one {parent}, by id"))
            .query(filter::QUERY)
            .query(&[fields::PARAM])
            .selected::<Page<ServiceView>>(200, "A page");
        routes =
            routes.add(list_below, move |call: Call, id: Id, query: Query| children(parent, kind, call, id, query));
    }
    routes
}

async fn list(kind: Option<Kind>, call: Call, query: Query) -> Result<Response, Problem> {
    let fields = Fields::read(&query)?;
    Ok(fields.page(call.page(Wanted::read(kind, &query.0)?)))
}

/// `…/pollers/{id}/agents` and `…/agents/{id}/checkers`.
async fn children(parent: Kind, child: Kind, call: Call, id: Id, query: Query) -> Result<Response, Problem> {
    let fields = Fields::read(&query)?;
    let key = ServiceKey::new(parent, id.0);
    call.find(&key)?;
    let mut pairs = query.0;
    pairs.push(("parent".into(), key.id.to_string()));
    Ok(fields.page(call.page(Wanted::read(Some(child), &pairs)?)))
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
    let found: Vec<Seen> =
        Kind::ALL.into_iter().filter_map(|kind| call.find(&ServiceKey::new(kind, id.0.clone())).ok()).collect();
    match found.as_slice() {
        [one] => Ok(call.tagged(one.entry.row.seq, fields.of(&call.detail(one)))),
        [] => Err(Problem::new(ProblemCode::UnknownService, format!("no service of any kind has the id {}", id.0))),
        several => {
            let keys: Vec<String> = several.iter().map(|seen| seen.entry.row.key.to_string()).collect();
            let detail = format!("name the kind: {} exist", keys.join(" and "));
            Err(Problem::new(ProblemCode::Ambiguous, detail).with("candidates", keys))
        }
    }
}

async fn register(kind: Kind, call: Call, Json(body): Json<RegisterBody>) -> Result<Response, Problem> {
    let key = ServiceKey::new(kind, body.id);
    call.holds(&body.labels)?;
    if let Some((kind, parent)) = kind.parent().zip(body.parent.as_ref()) {
        call.finds_parent(&ServiceKey::new(kind, parent.clone()))?;
    }
    let request = Register {
        key: key.clone(),
        parent: body.parent,
        checker_kind: body.checker_kind,
        source: Source::Http,
        said: Said {
            component_id: body.component_id.map(String::from),
            labels: body.labels,
            metadata: body.metadata,
            ..Said::default()
        },
        by: call.by(),
    };
    call.state.registry.ask(request).await?;
    let seen = call.find(&key)?;
    let mut response = (StatusCode::CREATED, shown(&call, &seen)).into_response();
    let place = format!("/api/admin/services/{}/{}", kind.plural(), key.id);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn set_status(
    kind: Kind,
    call: Call,
    id: Id,
    Json(body): Json<StatusBody>,
) -> Result<Tagged<ServiceDetail>, Problem> {
    let key = ServiceKey::new(kind, id.0);
    let seen = call.find(&key)?;
    let standing = standing(&seen.entry, call.state.registry.now().wall);
    let (act, permission) = asked(standing, &body)?;
    call.demand(permission)?;
    let reason = body.reason.to_string();
    call.change(seq_of(&key), Move::new(key.clone(), act, reason, call.by())).await?;
    let seen = call.find(&key)?;
    Ok(shown(&call, &seen))
}

async fn remove(kind: Kind, call: Call, id: Id, query: Query) -> Result<StatusCode, Problem> {
    let reason = Text::new(query.get("reason").unwrap_or_default())
        .map_err(|error| Problem::new(ProblemCode::InvalidQuery, error.to_string()).with("parameter", "reason"))?;
    let key = ServiceKey::new(kind, id.0);
    call.find(&key)?;
    let row = seq_of(&key);
    call.change(row, Move::new(key, Act::Remove, reason.to_string(), call.by())).await?;
    Ok(StatusCode::NO_CONTENT)
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

/// What a body asks for, and what that demands.
fn asked(standing: Standing, body: &StatusBody) -> Result<(Act, Permission), Problem> {
    match (&body.act, body.status) {
        (Some(word), None) => {
            let found = ACTS.into_iter().find(|(_, known, _)| known == word);
            found.map(|(act, _, permission)| (act, permission)).ok_or_else(|| {
                let allowed = ACTS.map(|(_, word, _)| word).to_vec();
                let word: String = word.chars().take(40).collect();
                Problem::new(ProblemCode::Invalid, format!("act {word:?} is unknown: use {}", allowed.join(", ")))
                    .with("allowed", allowed)
            })
        }
        (None, Some(status)) => act_for(standing, status),
        (None, None) | (Some(_), Some(_)) => {
            Err(Problem::new(ProblemCode::Invalid, "give either a status or an act, as in {\"status\":\"revoked\"}"))
        }
    }
}

/// The act that leads from where a service stands to a wished status.
fn act_for(standing: Standing, wished: Status) -> Result<(Act, Permission), Problem> {
    let leads = |act| decide(standing, act).ok().filter(|arrow| *arrow != Arrow::Stay);
    let found = ACTS.into_iter().find(|(act, _, _)| leads(*act) == Some(Arrow::To(wished)));
    found.map(|(act, _, permission)| (act, permission)).ok_or_else(|| {
        let reachable: Vec<&str> = ACTS
            .into_iter()
            .filter_map(|(act, _, _)| match leads(act) {
                Some(Arrow::To(to)) => Some(to.as_str()),
                Some(Arrow::Removed | Arrow::Stay) | None => None,
            })
            .collect();
        let from = standing.status;
        let why = match wished {
            Status::Active => "only a heartbeat makes a service active".to_owned(),
            Status::Pending | Status::Inactive | Status::Revoked | Status::Deleted => {
                format!("an operator can lead it to {}", reachable.join(" or "))
            }
        };
        Problem::new(ProblemCode::NoArrow, format!("no arrow from {from} to {wished}: {why}"))
            .with("from", from.as_str())
            .with("allowed", reachable)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(status: Status, ever_seen: bool) -> Standing {
        Standing { status, since: Duration::ZERO, ever_seen, bound: true }
    }

    #[test]
    fn a_wished_status_finds_its_act_in_the_table() {
        use Status::{Active, Deleted, Inactive, Pending, Revoked};
        for (from, wished, expected) in [
            (Active, Revoked, Some(Act::Revoke)),
            (Pending, Revoked, Some(Act::Revoke)),
            (Revoked, Inactive, Some(Act::Unrevoke)),
            (Inactive, Deleted, Some(Act::Delete)),
            (Deleted, Inactive, Some(Act::Recover)),
            (Deleted, Pending, None),
            (Active, Inactive, None),
            (Active, Active, None),
            (Inactive, Active, None),
            (Revoked, Revoked, None),
            (Revoked, Pending, None),
        ] {
            let found = act_for(at(from, true), wished);
            assert_eq!(found.as_ref().ok().map(|(act, _)| *act), expected, "{from} to {wished}");
        }
        assert_eq!(act_for(at(Deleted, false), Pending).unwrap().0, Act::Recover);
        let problem = act_for(at(Revoked, true), Active).unwrap_err();
        assert_eq!(problem.code(), ProblemCode::NoArrow);
        assert!(problem.detail().contains("only a heartbeat"), "{}", problem.detail());
        let problem = act_for(at(Active, true), Inactive).unwrap_err();
        assert!(problem.detail().contains("revoked or deleted"), "{}", problem.detail());
    }

    #[test]
    fn a_body_asks_for_one_thing() {
        let ask = |text: &str| {
            let body: StatusBody = serde_json::from_str(text).unwrap();
            asked(at(Status::Active, true), &body)
        };
        assert_eq!(ask(r#"{"act":"revoke"}"#).unwrap(), (Act::Revoke, Permission::Administer));
        assert_eq!(ask(r#"{"status":"deleted","reason":"gone"}"#).unwrap(), (Act::Delete, Permission::Administer));
        assert_eq!(ask(r#"{"act":"unrevoke"}"#).unwrap(), (Act::Unrevoke, Permission::Operate));
        for bad in [r#"{"act":"heartbeat"}"#, r#"{"act":"purge"}"#, "{}", r#"{"act":"revoke","status":"revoked"}"#] {
            assert_eq!(ask(bad).unwrap_err().code(), ProblemCode::Invalid, "{bad}");
        }
    }

    /// What bars a sidecar takes an administrator; what lets it back in takes an operator.
    #[test]
    fn every_act_has_its_permission() {
        for (act, _, permission) in ACTS {
            let bars = matches!(act, Act::Revoke | Act::Delete | Act::Remove);
            assert_eq!(permission == Permission::Administer, bars, "{act:?}");
        }
    }
}
