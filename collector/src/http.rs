//! The HTTP API: what is asked of the registry from outside, and what is answered.
//!
//! Reads snapshots of the registry and sends it requests, like every other door; holds no state of its own
//! but counters. Queries are answered from memory; only history and the audit trail come from the store.
//!
//! | module | owns |
//! |---|---|
//! | `routes` | the table: every operation declared once, with its permission, words, parameters and answers |
//! | `openapi` | the contract, made from that table, and its viewer |
//! | `gate`, `call` | who asks, and may they; nothing outside the caller's scope |
//! | [`access`] | roles, credentials, hosts, the brake on guessing |
//! | [`oidc`] | tokens of identity providers |
//! | `keys` | API keys, and who the caller is |
//! | [`local`] | the administrators' socket |
//! | [`bootstrap`] | the first credential |
//! | [`error`] | problem documents |
//! | `view` | the shapes that leave |
//! | `extract` | the shapes that enter |
//! | `services`, `overview`, `tokens`, `packages`, `tree`, `audit`, `feed`, `sd`, `health`, `metrics` | one resource each |
//! | `position` | tags, `If-Match`, `min_seq`: where the registry stands |
//! | `filter`, `fields`, `page`, `scan` | lists: what, which members, how much, from where |
//! | `server` | the listener |
//! | [`tls`] | its encryption |

pub mod access;
mod apply;
mod approvals;
mod audit;
pub mod bootstrap;
mod bulk;
mod call;
pub mod error;
mod extract;
mod feed;
mod fields;
mod filter;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod health;
mod jobs;
mod keys;
mod knocks;
mod known;
pub mod local;
pub mod login;
mod maintenance;
mod metrics;
pub mod oidc;
mod openapi;
mod overview;
mod packages;
mod page;
mod position;
mod routes;
mod scan;
mod sd;
mod server;
mod services;
pub mod tls;
mod tokens;
mod tree;
mod view;

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use std::time::Duration;

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{MatchedPath, Request, State as Held},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use rollcall_common::{
    address::Address,
    id::{NoRandomness, random},
    identity::Pin,
    time::BootTime,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::{
    access::Failures,
    error::{Problem, ProblemCode},
    extract::RequestId,
    login::{CodeFile, Logins},
    metrics::Counts,
    routes::{Operation, Routes, Table},
    tls::{Certificates, TlsError},
};
pub use self::{
    feed::DEFAULT_STREAMS,
    metrics::Extra,
    server::{BindError, Server},
};
use crate::{config::HttpTls, registry::Registry, store::RegistryStore};

/// Connections at once where the configuration names no number.
pub const DEFAULT_CONNECTIONS: usize = 512;
/// How long a connection whose peer takes nothing is kept, where the configuration says nothing.
pub const DEFAULT_WRITE_WITHIN: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How the liveness store is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivenessSight {
    /// What it is and where, without secrets.
    pub store: String,
    /// Whether the last publication went well.
    pub ok: bool,
}

/// What the API stands on; filled by the composition.
pub struct Parts {
    /// What is registered.
    pub registry: Registry,
    /// For history and audit.
    pub store: Arc<dyn RegistryStore>,
    /// Looks at the liveness store; must answer at once.
    pub liveness: Box<dyn Fn() -> LivenessSight + Send + Sync>,
    /// The pin of the CA's root, for tokens.
    pub pin: Pin,
    /// What tokens tell sidecars to dial.
    pub advertised: Arc<ArcSwap<Vec<Address>>>,
    /// Where QUIC really listens.
    pub quic: SocketAddr,
    /// What happens by itself.
    pub jobs: crate::jobs::Jobs,
    /// Whose tokens are taken.
    pub oidc: Arc<oidc::Issuers>,
    /// The file in which the host's own tools leave a login code.
    pub login_file: Arc<dyn CodeFile>,
    /// Cancelled when the collector begins to stop.
    pub draining: CancellationToken,
    /// The newest seal of the audit trail.
    pub sealed: Arc<crate::audit::sealer::Head>,
}

/// How the server is to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the administrators' socket is to be, if anywhere.
    pub socket: Option<PathBuf>,
    /// Names under which it may be called beside addresses and `localhost`, in lower case.
    pub hosts: Vec<String>,
    /// Connections at once, streams apart.
    pub connections: usize,
    /// What it is encrypted with.
    pub tls: Option<HttpTls>,
    /// Streams and waiting polls at once.
    pub streams: usize,
    /// How long a connection whose peer takes nothing is kept.
    pub write_within: Duration,
    /// What `/metrics` holds beyond what it always does.
    pub extra: Extra,
    /// Labels whose values the statistics count.
    pub counted_labels: Vec<String>,
}

/// What handlers share.
pub(crate) struct State {
    registry: Registry,
    store: Arc<dyn RegistryStore>,
    liveness: Box<dyn Fn() -> LivenessSight + Send + Sync>,
    pin: Pin,
    advertised: Arc<ArcSwap<Vec<Address>>>,
    quic: SocketAddr,
    jobs: crate::jobs::Jobs,
    draining: CancellationToken,
    sealed: Arc<crate::audit::sealer::Head>,
    hosts: Vec<String>,
    certificates: Option<Arc<Certificates>>,
    logins: Logins,
    extra: Extra,
    /// Where the readers of the feed stand.
    readers: Arc<feed::Readers>,
    /// Places of streams and waiting polls.
    streams: Arc<Semaphore>,
    /// How many there are.
    stream_places: usize,
    counts: Counts,
    counting: overview::Counting,
    counted_labels: Vec<String>,
    failures: Mutex<Failures>,
    /// Guesses of download secrets: apart, so that an installer and an account never pay for one another.
    guesses: Mutex<Failures>,
    oidc: Arc<oidc::Issuers>,
    uses: keys::Uses,
    /// Whether the administrators' socket listens.
    local_door: bool,
    /// The OpenAPI document, once the routes are known.
    contract: OnceLock<String>,
    /// Request ids: unique across restarts by the first, within one by the second.
    run: String,
    requests: AtomicU64,
}

/// Why the API did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operating system has no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl StartError {
    /// Whether a restart may help without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Bind(_) | Self::Randomness(_) => true,
            Self::Tls(_) => false,
        }
    }
}

/// Starts the API; it listens when this returns.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn bind(parts: Parts, settings: Settings) -> Result<Server, StartError> {
    let (listen, bounds) = (settings.listen, server::Bounds::of(&settings));
    // Without the socket everything else works: its way in is missed only when it is needed.
    let door = settings.socket.as_ref().and_then(|path| {
        let listening = local::listen(path);
        listening
            .inspect_err(|error| {
                tracing::warn!(socket = %path.display(), %error, "there is no administrators' socket");
            })
            .ok()
    });
    let mut state = State::new(parts, settings)?;
    state.local_door = door.is_some();
    let state = Arc::new(state);
    let (router, _) = router(Arc::clone(&state));
    Ok(Server::bind(listen, door, router, state, bounds).await?)
}

/// The router and what it serves.
fn router(state: Arc<State>) -> (Router, Table) {
    let (router, table) = table(Arc::clone(&state)).finish();
    state.contract.get_or_init(|| openapi::contract(&table).to_string());
    (router.layer(middleware::from_fn_with_state(state, attend)), table)
}

/// Every route there is: each resource brings its own.
fn table(state: Arc<State>) -> Routes {
    let resources: &[fn(Routes) -> Routes] = &[
        login::routes,
        health::routes,
        metrics::routes,
        openapi::routes,
        sd::routes,
        overview::routes,
        services::routes,
        known::routes,
        bulk::routes,
        apply::routes,
        audit::routes,
        feed::routes,
        tokens::routes,
        packages::routes,
        jobs::routes,
        maintenance::routes,
        keys::routes,
        tree::routes,
        approvals::routes,
        knocks::routes,
    ];
    resources.iter().fold(Routes::new(state), |routes, resource| resource(routes))
}

impl State {
    fn new(parts: Parts, settings: Settings) -> Result<Self, StartError> {
        let chance: [u8; 4] = random()?;
        let mut run = String::new();
        for byte in chance {
            // Writing to a String cannot fail.
            let _ = write!(run, "{byte:02x}");
        }
        let now = parts.registry.now().wall;
        let certificates = settings.tls.map(|files| Certificates::open(files, now)).transpose()?;
        Ok(Self {
            certificates: certificates.map(Arc::new),
            logins: Logins::new(parts.login_file),
            registry: parts.registry,
            store: parts.store,
            liveness: parts.liveness,
            pin: parts.pin,
            advertised: parts.advertised,
            quic: parts.quic,
            jobs: parts.jobs,
            draining: parts.draining,
            sealed: parts.sealed,
            hosts: settings.hosts,
            extra: settings.extra,
            readers: Arc::default(),
            streams: Arc::new(Semaphore::new(settings.streams)),
            stream_places: settings.streams,
            counts: Counts::default(),
            counting: overview::Counting::default(),
            counted_labels: settings.counted_labels,
            failures: Mutex::default(),
            guesses: Mutex::default(),
            oidc: parts.oidc,
            uses: keys::Uses::default(),
            local_door: false,
            contract: OnceLock::new(),
            run,
            requests: AtomicU64::new(1),
        })
    }

    fn note_failure(&self, from: IpAddr, now: BootTime) -> Option<u32> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).note(from, now)
    }

    fn note_guess(&self, from: IpAddr, now: BootTime) -> Option<u32> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner).note(from, now)
    }

    /// The caller's own name for the request where it is a modest one, else a new one.
    fn request_id(&self, request: &Request) -> RequestId {
        let modest = |text: &&str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let sent = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(modest);
        RequestId(match sent {
            Some(text) => text.into(),
            None => format!("{}-{}", self.run, self.requests.fetch_add(1, Ordering::Relaxed)).into(),
        })
    }
}

/// The outermost layer: names the request, bounds it, and finishes every answer.
async fn attend(Held(state): Held<Arc<State>>, mut request: Request, next: Next) -> Response {
    let (id, begun) = (state.request_id(&request), state.registry.now().boot);
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let span = tracing::debug_span!("http", request = %id.0, method = method_word(request.method()), route);
    request.extensions_mut().insert(id.clone());
    let answer = match host_problem(&state, &request) {
        Some(problem) => problem.into_response(),
        None => caught(&state, next.run(request)).instrument(span.clone()).await,
    };
    let answer = finish(answer, &id.0, state.certificates.is_some());
    let _entered = span.enter();
    tracing::debug!(status = answer.status().as_u16(), "answered");
    let operation = answer.extensions().get::<Arc<Operation>>().cloned();
    state.counts.answered(operation, answer.status().as_u16(), state.registry.now().boot.since(begun));
    answer
}

async fn caught(state: &State, answer: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
        state.counts.panics.inc();
        tracing::error!("a request ended in a panic");
        Problem::new(ProblemCode::Internal, "the log has more under the request id").into_response()
    })
}

fn host_problem(state: &State, request: &Request) -> Option<Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Some(Problem::new(ProblemCode::InvalidHead, "send one Host header"));
    };
    let ours = |host: &str| state.certificates.as_ref().is_some_and(|certificates| certificates.covers(host));
    let served = host.to_str().is_ok_and(|host| access::host_allowed(host, &state.hosts) || ours(host));
    (!served).then(|| {
        let detail = "call the API by its address or as localhost; for a reverse proxy add its name to http_hosts";
        Problem::new(ProblemCode::WrongHost, detail)
    })
}

/// Methods are words of ours in the log, whatever a caller invents.
fn method_word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Prints a problem that travelled here, and sets what every answer carries.
fn finish(mut answer: Response, request_id: &str, encrypted: bool) -> Response {
    if let Some(problem) = answer.extensions_mut().remove::<Problem>() {
        let carried = std::mem::take(answer.headers_mut());
        let extensions = std::mem::take(answer.extensions_mut());
        answer = problem.respond(request_id);
        answer.extensions_mut().extend(extensions);
        answer.extensions_mut().insert(problem.code());
        if let Some(allow) = carried.get(header::ALLOW) {
            answer.headers_mut().insert(header::ALLOW, allow.clone());
        }
    }
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if encrypted {
        // For the host of this name alone, and not for ever: other services may live below it.
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=2592000"));
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    answer
}

#[cfg(test)]
mod tests;
