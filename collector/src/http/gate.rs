//! Who asks, and may they? What the guard of every route asks first.

use std::{net::IpAddr, sync::PoisonError, time::Duration};

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
use crate::{
    registry::{credentials::NoteDenied, services::By},
    scope::Scope,
};

/// How long a refusal waits for its entry in the audit trail.
const NOTE_WITHIN: Duration = Duration::from_secs(1);

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
    pub(super) fn way(&self) -> &'static str {
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

/// Tells who asks, if the operation demands that somebody does.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`], [`ProblemCode::Throttled`], and [`ProblemCode::IssuerUnavailable`] where nobody
/// can tell now.
pub(super) async fn know(state: &State, operation: &Operation, showing: Showing) -> Result<Option<Caller>, Problem> {
    if operation.permission == Permission::Open {
        return Ok(None);
    }
    let (now, ip, way) = (state.registry.now(), showing.ip(), showing.way());
    let caller = identify(state, showing, now).await.map_err(|problem| {
        if problem.code() == ProblemCode::Unauthenticated { failed(state, ip, now, problem) } else { problem }
    });
    if let Err(problem) = &caller {
        state.counts.authenticated(way, refusal(problem));
    }
    caller.map(Some)
}

/// Refuses who may not.
///
/// # Errors
/// [`ProblemCode::Forbidden`].
pub(super) async fn permit(
    state: &State,
    operation: &Operation,
    caller: &Caller,
    way: &'static str,
) -> Result<(), Problem> {
    let demanded = caller.demand(operation.permission);
    let allowed = demanded.and_then(|()| if operation.scoped { Ok(()) } else { caller.demand_everything() });
    state.counts.authenticated(way, allowed.as_ref().err().map_or("accepted", refusal));
    allowed?;
    if let Via::Credential(id) = caller.via {
        state.uses.note(id, state.registry.now().wall);
    }
    bootstrap::retire(state, caller).await;
    Ok(())
}

/// Puts on record that a caller was denied what changes something or is an administrator's, whether the guard or the
/// handler said no. Reading is only counted, and of a flood most is only counted too.
pub(super) async fn note_denial(state: &State, operation: &Operation, by: By, problem: &Problem) {
    if !operation.changes() && operation.permission != Permission::Administer {
        return;
    }
    let (everybody, now) = (IpAddr::from([0, 0, 0, 0]), state.registry.now().boot);
    if state.denials.lock().unwrap_or_else(PoisonError::into_inner).note(everybody, now).is_some() {
        return;
    }
    let operation = format!("{} {}", operation.method, operation.path);
    let note = state.registry.ask(NoteDenied { operation, why: problem.detail().to_owned(), by });
    // The refusal stands whether or not it can be written down: nobody waits for a store to hear it.
    match tokio::time::timeout(NOTE_WITHIN, note).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a denied act was not written down"),
        Err(_) => tracing::debug!("a denied act was not written down in time"),
    }
}

/// What became of somebody who was refused, as it is counted.
fn refusal(problem: &Problem) -> &'static str {
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
