//! Services over HTTP: list, look up, register, change status, remove, history.
//!
//! What is asked is planned by the registry; this file only reads requests and shows answers. Which act a
//! wished status means is found in the lifecycle table itself ([`act_for`]), so that the two cannot differ.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{Kind, ServiceId, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
    service::{CheckerKind, Pairs, Source},
};
use serde::Deserialize;

use super::{
    State,
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query, unknown_parameter},
    filter::Wanted,
    page::{self, Page},
    scan::{Listing, Seen},
    view::{IntervalView, Light, ServiceDetail, ServiceView},
};
use crate::registry::{
    Refusal,
    services::{Move, Register, standing},
};

/// The acts that an operator may ask for.
const ACTS: [(Act, &str, Permission); 4] = [
    (Act::Revoke, "revoke", Permission::Administer),
    (Act::Unrevoke, "unrevoke", Permission::Operate),
    (Act::Delete, "delete", Permission::Administer),
    (Act::Recover, "recover", Permission::Operate),
];

/// A service to register ahead of its first heartbeat.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    id: ServiceId,
    parent: Option<ServiceId>,
    checker_kind: Option<CheckerKind>,
    component_id: Option<Text>,
    #[serde(default)]
    labels: Pairs,
    #[serde(default)]
    metadata: Pairs,
}

/// A change of status: either the act, or the status that it is to lead to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusBody {
    status: Option<Status>,
    act: Option<String>,
    #[serde(default)]
    reason: Text,
}

pub(super) async fn list(
    kind: Option<Kind>,
    call: Call,
    query: Query,
) -> Result<axum::Json<Page<ServiceView>>, Problem> {
    Ok(axum::Json(call.state.page(Wanted::read(kind, &query.0)?)))
}

/// `…/pollers/{id}/agents` and `…/agents/{id}/checkers`.
pub(super) async fn children(
    parent: Kind,
    child: Kind,
    call: Call,
    id: Id,
    query: Query,
) -> Result<axum::Json<Page<ServiceView>>, Problem> {
    let key = ServiceKey::new(parent, id.0);
    call.state.find(&key)?;
    if query.0.iter().any(|(name, _)| name == "parent") {
        return Err(Problem::new(ProblemCode::InvalidQuery, "the path names the parent already"));
    }
    let mut pairs = query.0;
    pairs.push(("parent".into(), key.id.to_string()));
    Ok(axum::Json(call.state.page(Wanted::read(Some(child), &pairs)?)))
}

pub(super) async fn show(kind: Kind, call: Call, id: Id, query: Query) -> Result<axum::Json<ServiceDetail>, Problem> {
    query.none()?;
    let seen = call.state.find(&ServiceKey::new(kind, id.0))?;
    Ok(axum::Json(call.state.detail(&seen)))
}

/// A lookup without a kind: answered where it is unambiguous.
pub(super) async fn show_any(call: Call, id: Id, query: Query) -> Result<axum::Json<ServiceDetail>, Problem> {
    query.none()?;
    let found: Vec<Seen> =
        Kind::ALL.into_iter().filter_map(|kind| call.state.find(&ServiceKey::new(kind, id.0.clone())).ok()).collect();
    match found.as_slice() {
        [one] => Ok(axum::Json(call.state.detail(one))),
        [] => Err(Problem::new(ProblemCode::UnknownService, format!("no service of any kind has the id {}", id.0))),
        several => {
            let keys: Vec<String> = several.iter().map(|seen| seen.entry.row.key.to_string()).collect();
            let detail = format!("name the kind: {} exist", keys.join(" and "));
            Err(Problem::new(ProblemCode::Ambiguous, detail).with("candidates", keys))
        }
    }
}

pub(super) async fn register(kind: Kind, call: Call, Json(body): Json<RegisterBody>) -> Result<Response, Problem> {
    let key = ServiceKey::new(kind, body.id);
    let request = Register {
        key: key.clone(),
        parent: body.parent,
        checker_kind: body.checker_kind,
        component_id: body.component_id.map(String::from),
        source: Source::Config,
        labels: body.labels,
        metadata: body.metadata,
        by: call.by(),
    };
    call.state.registry.ask(request).await?;
    let seen = call.state.find(&key)?;
    let mut response = (StatusCode::CREATED, axum::Json(call.state.detail(&seen))).into_response();
    let place = format!("/api/admin/services/{}/{}", kind.plural(), key.id);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

pub(super) async fn set_status(
    kind: Kind,
    call: Call,
    id: Id,
    Json(body): Json<StatusBody>,
) -> Result<axum::Json<ServiceDetail>, Problem> {
    let key = ServiceKey::new(kind, id.0);
    let seen = call.state.find(&key)?;
    let standing = standing(&seen.entry, call.state.registry.now().wall);
    let (act, permission) = asked(standing, &body)?;
    call.demand(permission)?;
    let reason = body.reason.to_string();
    call.state.registry.ask(Move { key: key.clone(), act, reason, by: call.by() }).await?;
    let seen = call.state.find(&key)?;
    Ok(axum::Json(call.state.detail(&seen)))
}

pub(super) async fn remove(kind: Kind, call: Call, id: Id, query: Query) -> Result<StatusCode, Problem> {
    let mut reason = Text::default();
    for (name, value) in &query.0 {
        match name.as_str() {
            "reason" => {
                reason =
                    Text::new(value).map_err(|error| Problem::new(ProblemCode::InvalidQuery, error.to_string()))?;
            }
            other => return Err(unknown_parameter(other, &["reason"])),
        }
    }
    let key = ServiceKey::new(kind, id.0);
    let request = Move { key, act: Act::Remove, reason: reason.to_string(), by: call.by() };
    call.state.registry.ask(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn history(
    kind: Kind,
    call: Call,
    id: Id,
    query: Query,
) -> Result<axum::Json<Page<IntervalView>>, Problem> {
    let (mut limit, mut superseded) = (page::DEFAULT_LIMIT, false);
    for (name, value) in &query.0 {
        match (name.as_str(), value.as_str()) {
            ("limit", value) => limit = page::limit(value)?,
            ("superseded", "true") => superseded = true,
            ("superseded", "false") => superseded = false,
            ("superseded", _) => {
                return Err(Problem::new(ProblemCode::InvalidQuery, "superseded is true or false"));
            }
            (other, _) => return Err(unknown_parameter(other, &["limit", "superseded"])),
        }
    }
    let key = ServiceKey::new(kind, id.0);
    call.state.find(&key)?;
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

impl State {
    /// One service.
    pub(super) fn find(&self, key: &ServiceKey) -> Result<Seen, Problem> {
        let now = self.registry.now().boot;
        let seen = self.registry.read(|roster| {
            let entry = roster.get(key)?;
            Some(Seen::look(roster, entry, self.registry.leases().sight(entry.slot, now)))
        });
        seen.ok_or_else(|| Refusal::UnknownService(key.clone()).into())
    }

    fn detail(&self, seen: &Seen) -> ServiceDetail {
        let link = self.registry.links().get(seen.entry.slot);
        ServiceDetail::of(seen, link.as_ref(), self.light())
    }

    fn page(&self, wanted: Wanted) -> Page<ServiceView> {
        let registry = &self.registry;
        let now = registry.now().boot;
        let sight = |slot| registry.leases().sight(slot, now);
        let position = registry.read(|roster| roster.position());
        let mut listing = Listing::new(wanted);
        while registry.read(|roster| listing.advance(roster, &sight)) {}
        let (found, next) = listing.finish();
        let light = self.light();
        let show = |seen: &Seen| ServiceView::of(seen, registry.links().get(seen.entry.slot).as_ref(), light);
        let items = found.iter().map(show).collect();
        Page::at(position, items, next.map(|key| page::cursor(&key.to_string())))
    }

    fn light(&self) -> Light<'_> {
        Light {
            now: self.registry.now(),
            trust_domain: &self.registry.whoami().trust_domain,
            recorded: (self.registry.metrics().unrecorded.get() == 0).then_some(true),
        }
    }
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
