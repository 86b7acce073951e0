//! Composition: opens, binds, starts and stops every part in order.
//!
//! [`Collector::start`] returns once the listeners truly listen; the handle tells their addresses and stops
//! everything: first the rim, so that nothing new arrives, then the keepers with a last flush, then the
//! registry with its last commit, then the store. Tests start the same thing and swap only its [`Parts`].

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rollcall_common::{
    id::BootId,
    identity::{Pin, tls},
    lease::Pace,
    time::{Clock, SystemClock},
    wire::message::Addresses,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Lanes, Limits},
    audit::{Sealer, chain::SealRow, outlet, sealer::Head},
    ca::{Ca, CaError, CaSettings, CertPolicy},
    config::{self, Config},
    http::{
        self,
        bootstrap::{self, Bootstrap, BootstrapError},
    },
    ingest::{
        Context, Ingest, OverTcp,
        endpoint::{self, EndpointError, EndpointSettings, ResetKeys, ResetKeysError},
    },
    jobs::{self, Jobs},
    keeper, logincode,
    metrics::{Metrics, OutletLabel},
    registry::{Actor, Notice, Registry, Whoami, services::By},
    restored::{self, EVIDENCE_FILE, Finding, Noted, RestoredError},
    statedir::{StateDir, StateDirError},
    store::{
        LivenessStore, RegistryStore, StoreError, memory::MemoryLiveness, redis::RedisLiveness, sqlite::SqliteStore,
    },
};

/// The file that tells where a collector listens, once it does.
pub const ENDPOINTS_FILE: &str = "endpoints.json";
const ADDRESSES_FILE: &str = "addresses.json";
const PACE_FILE: &str = "pace.json";
/// Connections of sidecars over TCP, where no other number is set: the way round for a part of a fleet.
const TCP_CONNECTIONS: usize = 16_384;
/// How long HTTP requests in flight get at a stop.
const HTTP_WITHIN: Duration = Duration::from_secs(3);
/// How long the last flush and publication may take at a stop.
const LAST_FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// How long the registry store may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long the last commits may take at a stop.
const LAST_COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// What a collector is made of, where it differs from the configuration.
#[derive(Debug, Default)]
pub struct Parts {
    /// The clock; the host's where none is given.
    pub clock: Option<Arc<dyn Clock>>,
    /// The registry store.
    pub registry: Option<Arc<dyn RegistryStore>>,
    /// The liveness store.
    pub liveness: Option<Arc<dyn LivenessStore>>,
}

/// Why a collector did not start. Each says what to do; nothing on disk was destroyed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The keys of the QUIC endpoint.
    #[error(transparent)]
    ResetKeys(#[from] ResetKeysError),
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whether the database is the one that was left behind.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// The QUIC listener.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The HTTP listener.
    #[error(transparent)]
    Http(#[from] http::StartError),
    /// TLS settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A setting that only the start can judge.
    #[error("{0}")]
    Setting(String),
    /// An identity provider's settings that only the start can judge.
    #[error("an identity provider cannot be set up: {0}")]
    Oidc(#[from] http::oidc::FetchError),
    /// The bootstrap credential.
    #[error(transparent)]
    Credential(#[from] BootstrapError),
}

impl StartError {
    /// Whether a restart may help without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Restored(RestoredError::Store(error)) => error.is_transient(),
            Self::Restored(RestoredError::Randomness(_)) => false,
            Self::StateDir(error) | Self::Restored(RestoredError::State(error)) => error.is_transient(),
            Self::Http(error) => error.is_transient(),
            Self::Endpoint(_) | Self::Credential(_) => true,
            Self::Ca(_) | Self::ResetKeys(_) | Self::Tls(_) | Self::Setting(_) | Self::Oidc(_) => false,
        }
    }
}

/// Where a collector listens, as others on the host may read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// HTTP, host and port.
    pub http: SocketAddr,
    /// QUIC, host and port.
    pub quic: SocketAddr,
    /// How HTTP is spoken: `http` or `https`.
    #[serde(default)]
    pub scheme: Scheme,
    /// The administrators' socket, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear, on loopback.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    endpoints: Endpoints,
    registry: Registry,
    pin: Pin,
    http: (http::Server, CancellationToken),
    ingest: (JoinHandle<()>, CancellationToken),
    keepers: (TaskTracker, CancellationToken),
    sealer: (JoinHandle<()>, CancellationToken),
    actor: (JoinHandle<()>, CancellationToken),
    store: Arc<dyn RegistryStore>,
}

impl Collector {
    /// Starts everything.
    ///
    /// # Errors
    /// The first thing that does not work, with its fix.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let clock = parts.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let state = StateDir::open(&config.state_dir)?;
        let ca = Arc::new(open_ca(&config, &state, &clock)?);
        let store = match parts.registry {
            Some(store) => store,
            None => open_registry(&config).await?,
        };
        let liveness = match parts.liveness {
            Some(liveness) => liveness,
            None => open_liveness(&config, &clock)?,
        };
        // Before anything is loaded: a database that was put back begins a new epoch.
        let restored = restored::look(&state, &*store).await?;
        let metrics = Arc::new(Metrics::default());
        let whoami =
            Whoami { trust_domain: config.trust_domain.clone(), collector: config.name.clone(), boot_id: boot_id()? };
        let (actor, registry) =
            Actor::open(Arc::clone(&store), Arc::clone(&clock), whoami, granted(&state, &config)?, metrics).await?;
        registry.set_known_pollers(config.known_pollers.iter().cloned());

        registry.feed().limit(config.feed.held);
        let tls = tls::collector_config(
            Arc::new(tls::SidecarVerifier::new(&ca.roots(), config.trust_domain.clone(), Arc::new(registry.clone()))?),
            ca.certificate_resolver(),
            Arc::clone(&clock),
        )?;
        let settings =
            EndpointSettings { listen: config.quic_listen, tcp: config.tcp_fallback, tcp_asked: config.tcp_asked };
        if !config.tcp_fallback && !config.tcp_asked {
            tracing::warn!(
                "http_listen has the port of quic_listen: sidecars come over QUIC alone; choose another port"
            );
        }
        let mut bound = endpoint::bind(settings, tls.clone(), ResetKeys::open(&state)?)?;
        let most = tcp_connections(config.limits.tcp_connections);
        let tcp = bound.tcp.take().map(|listener| OverTcp { listener, tls: Arc::new(tls), most });
        let addresses = Arc::new(ArcSwap::from_pointee(advertised(&state, &config)?));

        let stop_actor = CancellationToken::new();
        let actor = (spawn(actor.run(stop_actor.clone())), stop_actor);
        let well = Arc::new(AtomicBool::new(true));
        let draining = CancellationToken::new();
        let sealed = Arc::new(Head::default());
        let sealer = sealer(&state, &registry, &store, &sealed).await?;
        tell_restored(&state, &registry, restored.as_ref())?;
        let outlets = outlets(&config, &state, &registry, &store, &sealed)?;
        let sent = outlet::Floor::of(&outlets);
        let settings = jobs::Settings { upkeep: config.upkeep.clone(), leaf_ttl: config.leaf_ttl, sent };
        let (jobs, runner) = Jobs::new(registry.clone(), Arc::clone(&store), settings);
        let http = http::bind(
            http::Parts {
                registry: registry.clone(),
                store: Arc::clone(&store),
                liveness: sight(&liveness, &well),
                pin: ca.pin(),
                advertised: Arc::new(ArcSwap::from_pointee(config.advertise.clone())),
                quic: bound.address,
                jobs,
                oidc: Arc::new(http::oidc::Issuers::new(config.oidc.clone(), Arc::clone(&clock))?),
                login_file: Arc::new(LoginFile(state.clone())),
                draining: draining.clone(),
                sealed: Arc::clone(&sealed),
            },
            http_settings(&config),
        )
        .await?;
        let found = state.read(config::CREDENTIAL_FILE)?;
        let write = |text: &[u8]| state.write(config::CREDENTIAL_FILE, text);
        if bootstrap::ensure(&registry, found.as_deref().map(Vec::as_slice), write).await? == Bootstrap::Made {
            tracing::info!(file = %state.path_of(config::CREDENTIAL_FILE).display(), "the administrator's credential was made");
        }

        let keepers = keep(&config, &registry, &store, (&liveness, well), &ca);
        keepers.0.spawn(runner.run(keepers.1.clone()));
        for run in outlets {
            let stop = keepers.1.clone();
            keepers.0.spawn(run.run(stop));
        }
        // Beside the keepers, and stopped after the registry: its last events are to be sealed too.
        let stop_sealer = CancellationToken::new();
        let reads = registry.clock();
        let read = move || {
            let now = reads.now();
            (now.boot, now.wall)
        };
        let sealer = (spawn(sealer.run(read, stop_sealer.clone())), stop_sealer);
        let context = Context {
            registry: registry.clone(),
            ca: Arc::clone(&ca),
            addresses,
            lanes: Lanes::new(limits(&config.limits), clock.now().boot).into(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        let stop_ingest = CancellationToken::new();
        let ingest = Ingest::new(bound.endpoint, tcp, Arc::new(context));
        let ingest = (spawn(ingest.run(stop_ingest.clone())), stop_ingest);

        let scheme = if http.is_encrypted() { Scheme::Https } else { Scheme::Http };
        let socket = http.has_local_door().then(|| config.admin_socket.clone());
        let endpoints = Endpoints { http: http.address(), quic: bound.address, scheme, socket };
        let text = serde_json::to_vec(&endpoints).map_err(|error| StartError::Setting(error.to_string()))?;
        state.write(ENDPOINTS_FILE, &text)?;
        tracing::info!(
            quic = %endpoints.quic,
            tcp_fallback = config.tcp_fallback,
            http = %endpoints.http,
            name = %config.name,
            trust_domain = %config.trust_domain,
            services = registry.read(crate::registry::roster::Roster::len),
            "listening"
        );
        Ok(Self { endpoints, registry, pin: ca.pin(), http: (http, draining), ingest, keepers, sealer, actor, store })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Its registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Takes what may be replaced while it runs: the HTTPS certificate, and of the settings as they now stand those
    /// that need no restart.
    pub fn reload(&self, settings: &Config) {
        self.http.0.reload();
        self.registry.set_known_pollers(settings.known_pollers.iter().cloned());
    }

    /// What tokens pin.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Stops in order: no newcomers, goodbyes, last flush, last commit.
    pub async fn shutdown(self) {
        let (http, draining) = self.http;
        draining.cancel();
        let (ingest, stop) = self.ingest;
        stop.cancel();
        ended("ingest", ingest.await);
        http.stop(HTTP_WITHIN).await;
        let (keepers, stop) = self.keepers;
        stop.cancel();
        keepers.close();
        if tokio::time::timeout(LAST_FLUSH_WITHIN, keepers.wait()).await.is_err() {
            tracing::warn!("the stores did not take the last flush in time");
        }
        let (actor, stop) = self.actor;
        stop.cancel();
        match tokio::time::timeout(LAST_COMMIT_WITHIN, actor).await {
            Ok(outcome) => ended("registry", outcome),
            Err(_) => tracing::error!("the registry store did not take the last changes in time"),
        }
        let (sealer, stop) = self.sealer;
        stop.cancel();
        match tokio::time::timeout(CLOSE_WITHIN, sealer).await {
            Ok(outcome) => ended("sealer", outcome),
            Err(_) => tracing::warn!("the last events of the audit trail are not sealed yet"),
        }
        if tokio::time::timeout(CLOSE_WITHIN, self.store.close()).await.is_err() {
            tracing::warn!("the registry store did not close in time");
        }
        tracing::info!("stopped");
    }
}

async fn sealer(
    state: &StateDir,
    registry: &Registry,
    store: &Arc<dyn RegistryStore>,
    sealed: &Arc<Head>,
) -> Result<Sealer, StartError> {
    let epoch = registry.read(crate::registry::roster::Roster::position).epoch;
    let keeper = state.clone();
    let keep = move |seal: &SealRow| {
        if let Err(error) = (Noted { epoch, no: seal.no, head: seal.hash }).keep(&keeper) {
            tracing::warn!(%error, "the head of the audit trail could not be noted beside the database");
        }
    };
    let sealer = Sealer::new(Arc::clone(store), epoch, Arc::clone(sealed), Arc::new(keep));
    sealer.open().await?;
    Ok(sealer)
}

/// Tells of a database that is not the one that was left behind, here and in its trail.
fn tell_restored(state: &StateDir, registry: &Registry, finding: Option<&Finding>) -> Result<(), StartError> {
    if let Some(finding) = finding {
        let Finding { noted, found, epoch } = finding;
        tracing::error!(missed_seal = noted.no, missed_head = %noted.head, seq = found.seq.0, epoch,
            "the database is not the one that this collector left behind: put back from a copy, or tampered with; \
             a new epoch begins, and what was revoked since that copy must be revoked again");
        let (now, object) = (registry.now().wall, format!("collector:{}", registry.whoami().collector));
        let draft = By::system().did(now, "registry.restored", object, finding.details());
        registry.tell(Notice::Audit(Box::new(draft)));
    }
    let evidence = state.read(EVIDENCE_FILE)?.is_some();
    if evidence {
        tracing::warn!(file = %state.path_of(EVIDENCE_FILE).display(),
            "a head of the audit trail was missed once; look into it, then remove the file");
    }
    registry.metrics().audit_evidence.set(evidence.into());
    Ok(())
}

/// The ways out of the audit trail that are configured, each where it stood.
fn outlets(
    config: &Config,
    state: &StateDir,
    registry: &Registry,
    store: &Arc<dyn RegistryStore>,
    sealed: &Head,
) -> Result<Vec<outlet::Run>, StartError> {
    // No event was committed yet: a cursor ahead of the store has seen events that are gone, not those to come.
    let (position, seal) = (registry.read(crate::registry::roster::Roster::position), sealed.get());
    let end = outlet::Cursor { seq: position.seq, seal: seal.map_or(0, |seal| seal.no) };
    let read = |key: &str, path: &std::path::Path| {
        std::fs::read(path).map_err(|error| StartError::Setting(format!("{key}: {}: {error}", path.display())))
    };
    let wrong = |key: &'static str| move |why: String| StartError::Setting(format!("{key}: {why}"));
    let mut outlets: Vec<(Box<dyn outlet::Outlet>, &'static str)> = Vec::new();
    if let Some(path) = &config.audit.file {
        outlets.push((Box::new(outlet::JsonLines(path.clone())), "audit-file.json"));
    }
    if let Some(at) = &config.audit.syslog {
        let roots = at.ca_file.as_ref().map(|file| read("audit.syslog.ca_file", file)).transpose()?;
        let client = match &at.client {
            None => None,
            Some((cert, key)) => {
                private(key).map_err(wrong("audit.syslog.key_file"))?;
                let key = zeroize::Zeroizing::new(read("audit.syslog.key_file", key)?);
                Some((read("audit.syslog.cert_file", cert)?, key))
            }
        };
        let client = client.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        let syslog = outlet::Syslog::new(&at.address, roots.as_deref(), client, config.name.as_str());
        let syslog = syslog.map_err(wrong("audit.syslog"))?;
        outlets.push((Box::new(syslog), "audit-syslog.json"));
    }
    if let Some((url, file)) = &config.audit.webhook {
        let secret = zeroize::Zeroizing::new(read("audit.webhook.secret_file", file)?);
        if secret.trim_ascii().len() < 16 {
            return Err(wrong("audit.webhook.secret_file")("the secret must have at least 16 bytes".into()));
        }
        let webhook = outlet::Webhook::new(url, secret.trim_ascii()).map_err(wrong("audit.webhook.url"))?;
        outlets.push((Box::new(webhook), "audit-webhook.json"));
    }
    let mut runs = Vec::new();
    for (outlet, file) in outlets {
        let read = state.read(file)?;
        let cursor: outlet::Cursor = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let cursor = outlet::Cursor { seq: cursor.seq.min(end.seq), seal: cursor.seal.min(end.seal) };
        let keeper = state.clone();
        let keep = move |cursor: outlet::Cursor| {
            let text = serde_json::to_vec(&cursor).map_err(|error| error.to_string())?;
            keeper.write(file, &text).map_err(|error| error.to_string())
        };
        let lag = registry.metrics().outlet_lag.get_or_create(&OutletLabel { sink: outlet.name() }).clone();
        runs.push(outlet::Run {
            seed: u64::try_from(registry.now().wall.0).unwrap_or(1),
            store: Arc::clone(store),
            head: registry.feed().watch(),
            keep: Arc::new(keep),
            passed: Arc::new(cursor.seq.0.into()),
            outlet,
            cursor,
            lag,
        });
    }
    Ok(runs)
}

/// Refuses a key that others on the host could read.
fn private(path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("{} is open to others: chmod 600 {}", path.display(), path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited by Collector::shutdown")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

fn ended(part: &str, outcome: Result<(), tokio::task::JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(part, %error, "a part ended by panicking");
    }
}

fn open_ca(config: &Config, state: &StateDir, clock: &Arc<dyn Clock>) -> Result<Ca, StartError> {
    let policy = CertPolicy::short_lived(config.leaf_ttl).map_err(|error| StartError::Setting(error.to_string()))?;
    let settings = CaSettings { trust_domain: config.trust_domain.clone(), collector: config.name.clone(), policy };
    Ok(Ca::open(state, settings, Arc::clone(clock))?)
}

async fn open_registry(config: &Config) -> Result<Arc<dyn RegistryStore>, StoreError> {
    match &config.registry {
        config::RegistryAt::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path).await?)),
    }
}

fn open_liveness(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<dyn LivenessStore>, StoreError> {
    match &config.liveness {
        config::Liveness::Memory => Ok(Arc::new(MemoryLiveness::new(Arc::clone(clock)))),
        config::Liveness::Redis(url) => Ok(Arc::new(RedisLiveness::open(url.expose(), Arc::clone(clock))?)),
    }
}

fn keep(
    config: &Config,
    registry: &Registry,
    store: &Arc<dyn RegistryStore>,
    (liveness, well): (&Arc<dyn LivenessStore>, Arc<AtomicBool>),
    ca: &Arc<Ca>,
) -> (TaskTracker, CancellationToken) {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let registry = || registry.clone();
    let store = || Arc::clone(store);
    tasks.spawn(keeper::publish(registry(), Arc::clone(liveness), store(), well, stop.clone()));
    tasks.spawn(keeper::flush(registry(), store(), config.last_seen_flush, stop.clone()));
    tasks.spawn(keeper::knocks(registry(), store(), stop.clone()));
    tasks.spawn(keeper::mark(registry(), store(), config.observe_mark, stop.clone()));
    tasks.spawn(keeper::refresh(registry(), Arc::clone(ca), stop.clone()));
    tasks.spawn(keeper::sweep_packages(registry(), stop.clone()));
    (tasks, stop)
}

/// The login code that the host's own tools leave in the state directory.
struct LoginFile(StateDir);

impl http::login::CodeFile for LoginFile {
    fn read(&self) -> Option<Vec<u8>> {
        self.0
            .read(logincode::FILE)
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the login code cannot be read");
                None
            })
            .map(|bytes| bytes.to_vec())
    }

    fn clear(&self) {
        if let Err(error) = self.0.write(logincode::FILE, b"") {
            tracing::warn!(%error, "the file of the used login code was not emptied");
        }
    }
}

/// The pace to grant, with its number, and the one that was granted until the last stop, where it differs:
/// sidecars keep that one until they have been told.
fn granted(state: &StateDir, config: &Config) -> Result<(Pace, Option<Pace>), StartError> {
    let saved = state.read(PACE_FILE)?.and_then(|bytes| serde_json::from_slice::<Pace>(&bytes).ok());
    let same = |old: &Pace| (old.interval_ms, old.ttl_ms) == (config.pace.interval_ms, config.pace.ttl_ms);
    let (pace, previous) = match saved {
        Some(old) if same(&old) => return Ok((old, None)),
        Some(old) => (Pace { no: old.no.next(), ..config.pace }, Some(old)),
        None => (config.pace, None),
    };
    let text = serde_json::to_vec(&pace).map_err(|error| StartError::Setting(error.to_string()))?;
    state.write(PACE_FILE, &text)?;
    Ok((pace, previous))
}

/// The address list with its revision, which rises when the list differs from the last start's.
fn advertised(state: &StateDir, config: &Config) -> Result<Addresses, StartError> {
    #[derive(Serialize, Deserialize)]
    struct Saved {
        revision: u64,
        list: Vec<rollcall_common::address::Address>,
    }
    let saved = state.read(ADDRESSES_FILE)?.and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
    let revision = match saved {
        Some(saved) if saved.list == config.advertise => saved.revision,
        Some(saved) => saved.revision.saturating_add(1),
        None => 1,
    };
    let saved = Saved { revision, list: config.advertise.clone() };
    let text = serde_json::to_vec(&saved).map_err(|error| StartError::Setting(error.to_string()))?;
    state.write(ADDRESSES_FILE, &text)?;
    Ok(Addresses { revision, list: saved.list })
}

fn sight(
    liveness: &Arc<dyn LivenessStore>,
    well: &Arc<AtomicBool>,
) -> Box<dyn Fn() -> http::LivenessSight + Send + Sync> {
    let (liveness, well) = (Arc::clone(liveness), Arc::clone(well));
    Box::new(move || http::LivenessSight { store: liveness.name(), ok: well.load(Relaxed) })
}

fn http_settings(config: &Config) -> http::Settings {
    let count = |asked: Option<u32>| asked.and_then(|n| usize::try_from(n).ok());
    let (connections, streams) = (count(config.limits.http_connections), count(config.limits.http_streams));
    http::Settings {
        listen: config.http_listen,
        socket: Some(config.admin_socket.clone()),
        hosts: config.http_hosts.clone(),
        tls: config.http_tls.clone(),
        connections: connections.unwrap_or(http::DEFAULT_CONNECTIONS),
        streams: streams.unwrap_or(http::DEFAULT_STREAMS),
        write_within: config.feed.write_within,
        extra: config.metrics,
        counted_labels: config.stats_labels.clone(),
    }
}

fn boot_id() -> Result<BootId, StartError> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(|error| StartError::Setting(format!("{FILE}: {error}")))?;
    text.trim().parse().map_err(|error| StartError::Setting(format!("{FILE}: {error}")))
}

/// Connections of sidecars over TCP: as configured, and never more than half of the files that may be open, so that the
/// API and the stores have theirs.
fn tcp_connections(asked: Option<u32>) -> usize {
    let asked = asked.and_then(|most| usize::try_from(most).ok()).unwrap_or(TCP_CONNECTIONS);
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let room = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    if room < asked {
        tracing::info!(most = room, asked, "fewer sidecars can come over TCP than allowed: raise LimitNOFILE");
    }
    asked.min(room)
}

fn limits(asked: &config::Limits) -> Limits {
    let built_in = Limits::default();
    let size = |asked: Option<u32>, built_in| asked.and_then(|n| usize::try_from(n).ok()).unwrap_or(built_in);
    Limits {
        handshakes: size(asked.handshakes, built_in.handshakes),
        incoming: size(asked.incoming, built_in.incoming),
        per_address: size(asked.per_address, built_in.per_address),
        enroll_per_second: asked.enroll_per_second.unwrap_or(built_in.enroll_per_second),
        enroll_burst: asked.enroll_burst.unwrap_or(built_in.enroll_burst),
        rejoin_per_second: asked.rejoin_per_second.unwrap_or(built_in.rejoin_per_second),
        hello_per_second: asked.hello_per_second.unwrap_or(built_in.hello_per_second),
        ..built_in
    }
}
