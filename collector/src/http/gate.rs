//! Who asks, and may they? What the guard of every route asks first.

use std::net::IpAddr;

use axum::extract::Request;
use rollcall_common::time::Now;

use super::{
    State,
    access::{self, Caller, Permission, Role, Shown, Via},
    bootstrap,
    error::{Problem, ProblemCode},
    local,
    oidc::Verdict,
    routes::Operation,
    server::Peer,
};
use crate::scope::Scope;

/// What a request shows of whoever sends it.
pub(super) struct Showing {
    credential: Result<Option<Shown>, Problem>,
    peer: Option<Peer>,
}

impl Showing {
    /// Looks at a request's head and at where it comes from.
    pub(super) fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().copied();
        Self { credential: access::bearer(request.headers()), peer }
    }

    /// How whoever sends it means to prove who it is.
    fn way(&self) -> &'static str {
        match (&self.credential, self.peer) {
            (Ok(Some(Shown::Credential(_))), _) => "credential",
            (Ok(Some(Shown::Token(_))), _) => "token",
            (Err(_), _) => "damaged",
            (Ok(None), Some(Peer::Local(_))) => "local",
            (Ok(None), Some(Peer::Net(_)) | None) => "none",
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match self.peer {
            Some(Peer::Net(address)) => Some(address.ip()),
            Some(Peer::Local(_)) | None => None,
        }
    }
}

/// Tells who asks, if the operation demands that somebody does, and refuses who may not.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`], [`ProblemCode::Throttled`], [`ProblemCode::Forbidden`], and
/// [`ProblemCode::IssuerUnavailable`] where nobody can tell now.
pub(super) async fn admit(state: &State, operation: &Operation, showing: Showing) -> Result<Option<Caller>, Problem> {
    if operation.permission == Permission::Open {
        return Ok(None);
    }
    let (now, ip, way) = (state.registry.now(), showing.ip(), showing.way());
    let caller = identify(state, showing, now).await.map_err(|problem| {
        if problem.code() == ProblemCode::Unauthenticated { failed(state, ip, now, problem) } else { problem }
    });
    let caller = caller.and_then(|caller| {
        caller.demand(operation.permission)?;
        if !operation.scoped {
            caller.demand_everything()?;
        }
        Ok(caller)
    });
    state.counts.authenticated(way, outcome(&caller));
    let caller = caller?;
    if let Via::Credential(id) = caller.via {
        state.uses.note(id, now.wall);
    }
    bootstrap::retire(state, &caller).await;
    Ok(Some(caller))
}

/// What became of somebody, as it is counted.
fn outcome(caller: &Result<Caller, Problem>) -> &'static str {
    let Err(problem) = caller else { return "accepted" };
    let words = [
        (ProblemCode::Forbidden, "forbidden"),
        (ProblemCode::Throttled, "throttled"),
        (ProblemCode::IssuerUnavailable, "unavailable"),
    ];
    words.into_iter().find(|(code, _)| *code == problem.code()).map_or("refused", |(_, word)| word)
}

async fn identify(state: &State, showing: Showing, now: Now) -> Result<Caller, Problem> {
    match (showing.credential?, showing.peer) {
        (Some(Shown::Credential(credential)), _) => {
            state.registry.read(|roster| access::check(roster, &credential, now.wall))
        }
        (Some(Shown::Token(token)), _) => match state.oidc.verify(&token).await {
            Verdict::Caller(caller) => Ok(*caller),
            Verdict::Refused => {
                Err(access::refused("the token is not accepted; the collector's log says why at debug"))
            }
            Verdict::Unavailable => {
                let detail = "the identity provider's keys cannot be had now; try again, or use another credential";
                Err(Problem::new(ProblemCode::IssuerUnavailable, detail))
            }
        },
        (None, Some(Peer::Local(uid))) if !local::is_administrator(uid) => {
            tracing::warn!(uid, "a local user that is no administrator was refused");
            let detail = "only root and the collector's own user are administrators here: show a credential";
            Err(Problem::new(ProblemCode::Forbidden, detail))
        }
        (None, Some(Peer::Local(uid))) => Ok(Caller {
            actor: format!("local:uid={uid}"),
            roles: Role::Admin.into(),
            scope: Scope::everything(),
            via: Via::Local,
            policy: None,
            ends: None,
        }),
        (None, Some(Peer::Net(_)) | None) => Err(access::missing()),
    }
}

/// Counts a failure, and brakes an address that makes too many.
fn failed(state: &State, ip: Option<IpAddr>, now: Now, problem: Problem) -> Problem {
    match ip.and_then(|ip| state.note_failure(ip, now.boot)) {
        Some(secs) => {
            Problem::new(ProblemCode::Throttled, "too many failed attempts from this address").retry_after(secs)
        }
        None => problem,
    }
}
