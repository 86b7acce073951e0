//! The route table: what is served, declared once, as data.
//!
//! Each resource file owns a `routes(Routes) -> Routes` that adds its operations. An [`Operation`] is built
//! where it is added and says everything that a caller may know: method, path, permission, name, words,
//! parameters, bodies, answers and the problems that it can give. Four readers share that one declaration,
//! so that none can differ from another: the guard in front of every handler (permission, unknown or repeated
//! query parameters, the time an answer may take, the size of a body), the OpenAPI document
//! ([`super::openapi`]), the metrics' route label, and the tests that walk the table.
//!
//! ```ignore
//! const QUERY: &[Param] = &[
//!     Param::of::<words::Limit>("limit", "Items of a page"),
//!     Param::list::<words::Status>("status", "Only these"),       // status=active,pending
//!     Param::each::<words::LabelTest>("label", "Only with it"),   // label=a&label=b
//!     Param::of::<words::Flag>("dry_run", "Only look").required(),
//! ];
//!
//! pub(super) fn routes(routes: Routes) -> Routes {
//!     routes
//!         .tag("widgets", "Things that are made")
//!         .add(
//!             Operation::get("/api/admin/widgets", Permission::Read, "list_widgets")
//!                 .about("Widgets, by id")
//!                 .query(QUERY)
//!                 .answer::<Page<WidgetView>>(200, "A page")
//!                 .scoped(),                                       // it asks `call.scope()`
//!             list,
//!         )
//!         .add(
//!             Operation::post("/api/admin/widgets/{id}/turn", Permission::Operate, "turn_widget")
//!                 .about("Turns a widget")
//!                 .path::<words::Id>("id", "The widget")
//!                 .body::<TurnBody>()
//!                 .answer::<WidgetView>(200, "As it is now")
//!                 .empty(204, "It stood that way already")
//!                 .gives(&[ProblemCode::UnknownWidget]),
//!             turn,
//!         )
//! }
//! ```
//!
//! View types derive `utoipa::ToSchema`; a field of a domain type names its schema from
//! [`super::openapi::words`]: `#[schema(value_type = words::Kind)]`. What every operation can answer (401, 403,
//! 400, 429, 500 and so on) is added by the table itself, see [`Operation::problems`].
//!
//! The contract is pinned by `collector/openapi.json`; `UPDATE_SNAPSHOT=1 cargo test --workspace --lib
//! http::openapi` renews it, and its difference belongs to the change that caused it.

mod operation;
mod param;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State as Held},
    handler::Handler,
    http::{HeaderMap, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

pub(super) use self::{
    operation::{Answer, Operation, Shape},
    param::{Form, Param},
};
use super::{
    State,
    access::Caller,
    error::{Problem, ProblemCode},
    extract::{Query, RequestId},
    gate::{self, Showing},
    once::{self, Begun},
    position,
};

use crate::registry::expect::Expect;

/// How long an answer may take, unless its operation streams.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Routes on their way to a router.
pub(super) struct Routes {
    state: Arc<State>,
    router: Router<Arc<State>>,
    table: Vec<Arc<Operation>>,
    tags: Vec<Tag>,
}

/// A group of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
}

/// What is served: the table that the guard, the document and the tests read.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Every operation, in the order of declaration.
    pub operations: Vec<Arc<Operation>>,
    /// Their groups.
    pub tags: Vec<Tag>,
}

impl Routes {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, router: Router::new(), table: Vec::new(), tags: Vec::new() }
    }

    /// Names the group of the operations that follow.
    pub(super) fn tag(mut self, name: &'static str, about: &'static str) -> Self {
        self.tags.retain(|tag| tag.name != name);
        self.tags.push(Tag { name, about });
        self
    }

    /// Adds an operation. Two of one path and method are a mistake that ends the start-up.
    pub(super) fn add<H, T>(mut self, mut operation: Operation, handler: H) -> Self
    where
        H: Handler<T, Arc<State>>,
        T: 'static,
    {
        let Ok(filter) = MethodFilter::try_from(operation.method.clone()) else { return self };
        if operation.waits() {
            operation = operation.query(&[position::MIN_SEQ_PARAM]).header(position::MIN_SEQ_HEADER);
        }
        operation.tag = self.tags.last().map_or("", |tag| tag.name);
        let operation = Arc::new(operation);
        let gate = Gate { state: Arc::clone(&self.state), operation: Arc::clone(&operation) };
        let guarded = on(filter, handler).route_layer(middleware::from_fn_with_state(gate, guard));
        self.router = self.router.route(&operation.path, guarded);
        self.table.push(operation);
        self
    }

    /// The router, and what it serves.
    pub(super) fn finish(self) -> (Router, Table) {
        let table = Table { operations: self.table, tags: self.tags };
        let router = self
            .router
            .fallback(|| async { Problem::new(ProblemCode::NotFound, "no such path; the API is under /api/admin") })
            .method_not_allowed_fallback(|method: Method| async move {
                Problem::new(ProblemCode::MethodNotAllowed, format!("{method} is not allowed on this path"))
            })
            .with_state(self.state);
        (router, table)
    }
}

#[derive(Clone)]
struct Gate {
    state: Arc<State>,
    operation: Arc<Operation>,
}

/// What stands in front of every handler: who asks, then what is asked, then how long it may take.
async fn guard(Held(gate): Held<Gate>, mut request: Request, next: Next) -> Response {
    let operation = gate.operation;
    let shown = Showing::of(&request);
    let way = shown.way();
    let known = gate::know(&gate.state, &operation, shown).await;
    let request_id = request.extensions().get::<RequestId>().cloned();
    let by = known.as_ref().ok().and_then(Option::as_ref).zip(request_id).map(|(caller, id)| caller.by(&id.0));
    let passed = match known {
        Ok(Some(caller)) => gate::permit(&gate.state, &operation, &caller, way).await.map(|()| Some(caller)),
        Ok(None) | Err(_) => known,
    };
    let passed = passed.and_then(|caller| {
        let query = Query::read(request.uri().query().unwrap_or_default(), &operation)?;
        Ok((caller, query))
    });
    let passed = match passed {
        Ok((caller, query)) => {
            demanded(&gate.state, &operation, request.headers(), &query).await.map(|expect| (caller, query, expect))
        }
        Err(problem) => Err(problem),
    };
    let mut answer = match passed {
        Ok((caller, query, expect)) => {
            request.extensions_mut().insert(Arc::clone(&operation));
            let begun = once::begin(&gate.state, &operation, caller.as_ref(), request).await;
            run(&operation, begun, (caller, query, expect), next).await
        }
        Err(problem) => problem.into_response(),
    };
    let denied = answer.extensions().get::<Problem>().filter(|problem| problem.code() == ProblemCode::Forbidden);
    if let Some((by, problem)) = by.zip(denied.cloned()) {
        gate::note_denial(&gate.state, &operation, by, &problem).await;
    }
    if operation.changes() && answer.status().is_success() {
        position::stamp(&mut answer, gate.state.registry.read(|roster| roster.position()));
    }
    answer.extensions_mut().insert(operation);
    answer
}

/// Hands a request that passed to its handler, unless it was done before.
async fn run(
    operation: &Operation,
    begun: Result<Begun, Problem>,
    (caller, query, expect): (Option<Caller>, Query, Option<Expect>),
    next: Next,
) -> Response {
    // The place is given up when the answer is there.
    let (mut request, _place) = match begun {
        Ok(Begun::New(request, place)) => (request, place),
        Ok(Begun::Known(answer)) => return answer,
        Err(problem) => return problem.into_response(),
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    request.extensions_mut().insert(query);
    if operation.tagged {
        return position::spared(in_time(operation, next.run(request)).await, expect.as_ref());
    }
    request.extensions_mut().insert(Expected(expect));
    in_time(operation, next.run(request)).await
}

/// What a change is bound to.
#[derive(Debug, Clone)]
pub(super) struct Expected(pub(super) Option<Expect>);

/// What the caller demands of the moment: that the registry has come so far, that a tag stands.
async fn demanded(
    state: &State,
    operation: &Operation,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<Expect>, Problem> {
    if operation.waits() {
        position::reached(&state.registry, query, headers).await?;
    }
    if operation.tagged {
        return position::expected(headers, &header::IF_NONE_MATCH);
    }
    let expect = position::expected(headers, &header::IF_MATCH)?;
    if expect.is_some() && operation.changes() && !operation.matches {
        // A condition that is silently passed over would let through what it was to hold up.
        return Err(Problem::new(
            ProblemCode::InvalidHead,
            "this operation cannot be bound to a tag: leave If-Match out",
        ));
    }
    Ok(expect)
}

async fn in_time(operation: &Operation, answer: impl Future<Output = Response>) -> Response {
    if operation.streams {
        return answer.await;
    }
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
        let detail = format!(
            "there was no answer within {} s; a change may still have been made: look before you try again",
            ANSWER_WITHIN.as_secs()
        );
        Problem::new(ProblemCode::TimedOut, detail).into_response()
    })
}
