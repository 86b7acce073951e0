//! The acts of the lifecycle: deactivate, revoke, unrevoke, delete, recover, remove, re-enroll.
//!
//! Which act a wished status means is found in the lifecycle table itself ([`act_for`]), so that the two
//! cannot differ.

use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use rollcall_common::{
    address::Address,
    health::Text,
    id::{Kind, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{
        access::Permission,
        error::{Problem, ProblemCode},
        extract::{Call, Id, Json, Query},
        openapi::words,
        position::Tagged,
        routes::{Operation, Param, Routes},
        scan::Seen,
        tokens,
        view::{NewTokenView, ServiceDetail},
    },
    ROOT, only, seq_of,
};
use crate::{
    registry::services::{Move, acts::Reenroll, standing},
    registry::tokens::CreateToken,
    store::rows::{IdRule, TokenPolicy},
};

/// The acts that an operator may ask for.
pub(in crate::http) const ACTS: [(Act, &str, Permission); 5] = [
    (Act::Deactivate, "deactivate", Permission::Operate),
    (Act::Revoke, "revoke", Permission::Administer),
    (Act::Unrevoke, "unrevoke", Permission::Operate),
    (Act::Delete, "delete", Permission::Administer),
    (Act::Recover, "recover", Permission::Operate),
];

/// A change of status: either the act, or the status that it is to lead to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusBody {
    /// Where it is to stand.
    #[schema(value_type = Option<words::Status>)]
    status: Option<Status>,
    /// `deactivate`, `revoke`, `unrevoke`, `delete` or `recover`.
    act: Option<String>,
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
    /// Whether everything below it goes with it; of revoking and deleting only.
    #[serde(default)]
    cascade: bool,
}

/// A fresh start for a revoked service.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReenrollBody {
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
    /// Whether it is revoked first, where it is not.
    #[serde(default)]
    revoke: bool,
    /// The life of its token.
    #[schema(value_type = Option<words::Duration>)]
    ttl: Option<String>,
    /// For a sidecar on the collector's own host.
    #[serde(default)]
    local: bool,
    /// What the token tells the sidecar to dial, instead of the advertised addresses.
    #[serde(default)]
    #[schema(value_type = Vec<words::Address>)]
    addresses: Vec<Address>,
}

/// A service after an act.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActedView {
    #[serde(flatten)]
    service: ServiceDetail,
    /// How many services the act has changed.
    changed: usize,
}

const REASON: &[Param] = &[Param::of::<words::Text>("reason", "Why, for the audit trail")];
const CHANGES: &[ProblemCode] =
    &[ProblemCode::NoArrow, ProblemCode::HasChildren, ProblemCode::ParentDeleted, ProblemCode::Refused];

/// The body decides whether this takes an administrator: see [`ACTS`].
fn status(method: Method, path: &str, id: &str) -> Operation {
    Operation::new(method, path, Permission::Operate, id)
        .scoped()
        .about("Changes the status of a service, by the act or by the status that it is to lead to")
        .more(
            "Revoking and deleting take an administrator; letting back in and deactivating take an operator. What is \
             deactivated is `inactive` until its next heartbeat, which makes it `active` again. A service with children \
             is deleted with `cascade` only, which takes everything below it along.",
        )
        .path::<words::Id>("id", "The service")
        .body::<StatusBody>()
        .matches()
        .answer::<ActedView>(200, "As it is now")
        .gives(&[ProblemCode::UnknownService])
        .gives(CHANGES)
}

pub(super) fn of_any(routes: Routes) -> Routes {
    let path = format!("{ROOT}/{{id}}/status");
    let set = |call: Call, id: Id, body: Json<_>| async move {
        let seen = only(&call, &id.0)?;
        set_status(call, seen, body).await
    };
    let any = |method, id| status(method, &path, id).gives(&[ProblemCode::Ambiguous]);
    routes.add(any(Method::POST, "change_status"), set).add(any(Method::PUT, "set_status"), set)
}

pub(super) fn of_kind(routes: Routes, kind: Kind) -> Routes {
    let one = format!("{ROOT}/{}/{{id}}", kind.plural());
    let path = format!("{one}/status");
    let set = move |call: Call, id: Id, body: Json<_>| async move {
        let seen = call.find(&ServiceKey::new(kind, id.0))?;
        set_status(call, seen, body).await
    };
    let remove_one = Operation::delete(&one, Permission::Administer, &format!("remove_{kind}"))
        .scoped()
        .about("Removes a service for good, with its presence history; the audit trail stays")
        .more("Pending and active services are not removed: delete or revoke them first.")
        .path::<words::Id>("id", "The service")
        .query(REASON)
        .matches()
        .empty(204, "It is gone")
        .gives(&[ProblemCode::UnknownService])
        .gives(CHANGES);
    let reenroll_one = Operation::post(&format!("{one}/reenroll"), Permission::Administer, &format!("reenroll_{kind}"))
        .scoped()
        .about("Lets a revoked service enroll afresh")
        .more(
            "Its identity is unbound and its certificates are refused for good; the answer holds a token for exactly \
             this service, once.",
        )
        .path::<words::Id>("id", "The service")
        .body::<ReenrollBody>()
        .once_told()
        .matches()
        .answer::<NewTokenView<'static>>(201, "The token")
        .gives(&[
            ProblemCode::UnknownService,
            ProblemCode::NoAddress,
            ProblemCode::ParentMissing,
            ProblemCode::ParentKind,
            ProblemCode::ParentRevoked,
            ProblemCode::Exists,
        ])
        .gives(CHANGES);
    routes
        .add(status(Method::POST, &path, &format!("change_{kind}_status")), set)
        .add(status(Method::PUT, &path, &format!("set_{kind}_status")), set)
        .add(remove_one, move |call: Call, id: Id, query: Query| remove(kind, call, id, query))
        .add(reenroll_one, move |call: Call, id: Id, body: Json<_>| reenroll(kind, call, id, body))
}

async fn set_status(call: Call, seen: Seen, Json(body): Json<StatusBody>) -> Result<Tagged<ActedView>, Problem> {
    let key = seen.entry.row.key.clone();
    let standing = standing(&seen.entry, call.state.registry.now().wall);
    let (act, permission) = asked(standing, &body)?;
    call.demand(permission)?;
    if body.cascade {
        call.below(&key)?;
    }
    let request = Move { cascade: body.cascade, ..Move::new(key.clone(), act, body.reason.to_string(), call.by()) };
    let mut changed = 0;
    loop {
        // Each round is durable: where time runs out, the same request goes on from there.
        let moved = call.change(seq_of(&key), request.clone()).await?;
        changed += moved.services;
        if !moved.more {
            break;
        }
    }
    let seen = call.find(&key)?;
    Ok(call.tagged(seen.entry.row.seq, ActedView { service: call.detail(&seen), changed }))
}

async fn remove(kind: Kind, call: Call, id: Id, query: Query) -> Result<StatusCode, Problem> {
    let reason = Text::new(query.get("reason").unwrap_or_default())
        .map_err(|error| Problem::new(ProblemCode::InvalidQuery, error.to_string()).with("parameter", "reason"))?;
    let key = ServiceKey::new(kind, id.0);
    call.find(&key)?;
    let request = Move::new(key.clone(), Act::Remove, reason.to_string(), call.by());
    call.change(seq_of(&key), request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reenroll(kind: Kind, call: Call, id: Id, Json(body): Json<ReenrollBody>) -> Result<Response, Problem> {
    let key = ServiceKey::new(kind, id.0);
    let seen = call.find(&key)?;
    let (row, now) = (&seen.entry.row, call.state.registry.now().wall);
    let expires_at = now.after(tokens::life(body.ttl.as_deref())?);
    let policy = TokenPolicy {
        parent: row.parent.clone(),
        checker_kind: row.checker_kind.clone(),
        labels: row.labels.clone(),
        ..TokenPolicy::single(kind, IdRule::Fixed(key.id.clone()), now, expires_at)
    };
    call.may_mint(&policy)?;
    let token = tokens::fresh(&call.state, &policy, &body.addresses, body.local)?;
    let reason = body.reason.to_string();
    let (id, hash) = (token.id, token.secret.hash(token.id));
    let create = CreateToken { id, hash, policy, note: format!("re-enrolls {key}"), by: call.by() };
    if body.revoke && !row.status.is_barred() {
        // Nobody is cut off for a token that would be refused.
        call.state.registry.foresee(&create)?;
        call.change(seq_of(&key), Move::new(key.clone(), Act::Revoke, reason.clone(), call.by())).await?;
    }
    let request = Reenroll { key: key.clone(), token: create, reason, expect: None };
    let tell = tokens::tell(&call, id);
    if body.revoke {
        call.once(request, tell).await?;
    } else {
        call.once(call.expecting(seq_of(&key), request), tell).await?;
    }
    let text = token.reveal();
    tokens::made(&call, &token, &text)
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
        Standing { status, since: Duration::ZERO, ever_seen, bound: true, archived: false }
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
            (Active, Inactive, Some(Act::Deactivate)),
            (Pending, Inactive, None),
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
        let problem = act_for(at(Pending, false), Inactive).unwrap_err();
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
        assert_eq!(ask(r#"{"status":"inactive"}"#).unwrap(), (Act::Deactivate, Permission::Operate));
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
