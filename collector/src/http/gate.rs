//! Who asks, and may they? What the guard of every route asks first.

use axum::extract::Request;

use super::{
    State,
    access::{self, Caller, Permission},
    error::{Problem, ProblemCode},
    routes::Operation,
    server::Peer,
};

/// Tells who asks, if the operation demands that somebody does, and refuses who may not.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`], [`ProblemCode::Throttled`] and [`ProblemCode::Forbidden`].
pub(super) fn admit(state: &State, operation: &Operation, request: &Request) -> Result<Option<Caller>, Problem> {
    if operation.permission == Permission::Open {
        return Ok(None);
    }
    let now = state.registry.now();
    let caller = access::bearer(request.headers())
        .and_then(|credential| state.registry.read(|roster| access::check(roster, &credential, now.wall)));
    let caller = caller.map_err(|problem| {
        state.counts.unauthenticated.inc();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let wait = peer.and_then(|ip| state.note_failure(ip, now.boot));
        match wait {
            Some(secs) => {
                Problem::new(ProblemCode::Throttled, "too many failed attempts from this address").retry_after(secs)
            }
            None => problem,
        }
    })?;
    caller.demand(operation.permission)?;
    if !operation.scoped {
        caller.demand_everything()?;
    }
    Ok(Some(caller))
}
