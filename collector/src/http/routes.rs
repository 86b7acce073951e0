//! The route table: nothing is served without a declared permission.
//!
//! `Routes` is the only way to add a route, and it demands a [`Permission`] with each. The guard in front
//! of every handler reads that very declaration, so that the table that tests walk and the table that is
//! enforced are one.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State as Held},
    handler::Handler,
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

use super::{
    State,
    access::{self, Permission},
    error::{Problem, ProblemCode},
    server::Peer,
};

/// One route as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with `{names}` for the parts that vary.
    pub path: String,
    /// What it demands.
    pub permission: Permission,
}

/// Routes on their way to a router.
pub(super) struct Routes {
    state: Arc<State>,
    router: Router<Arc<State>>,
    table: Vec<Route>,
}

impl Routes {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, router: Router::new(), table: Vec::new() }
    }

    /// Adds a route. Two routes of one path and method are a mistake that ends the start-up.
    pub(super) fn add<H, T>(mut self, method: Method, path: &str, permission: Permission, handler: H) -> Self
    where
        H: Handler<T, Arc<State>>,
        T: 'static,
    {
        let Ok(filter) = MethodFilter::try_from(method.clone()) else { return self };
        let gate = Gate { state: Arc::clone(&self.state), permission };
        let guarded = on(filter, handler).route_layer(middleware::from_fn_with_state(gate, guard));
        self.router = self.router.route(path, guarded);
        self.table.push(Route { method, path: path.into(), permission });
        self
    }

    /// The router, and what it serves.
    pub(super) fn finish(self) -> (Router, Vec<Route>) {
        let router = self
            .router
            .fallback(|| async { Problem::new(ProblemCode::NotFound, "no such path; the API is under /api/admin") })
            .method_not_allowed_fallback(|method: Method| async move {
                Problem::new(ProblemCode::MethodNotAllowed, format!("{method} is not allowed on this path"))
            })
            .with_state(self.state);
        (router, self.table)
    }
}

#[derive(Clone)]
struct Gate {
    state: Arc<State>,
    permission: Permission,
}

async fn guard(Held(gate): Held<Gate>, mut request: Request, next: Next) -> Response {
    if gate.permission == Permission::Open {
        return next.run(request).await;
    }
    match admit(&gate, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn admit(gate: &Gate, request: &Request) -> Result<access::Caller, Problem> {
    let state = &gate.state;
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
    caller.demand(gate.permission)?;
    Ok(caller)
}
