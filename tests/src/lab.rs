//! A collector inside the test's own process: with a clock moved by hand, or a store that fails on cue.
//!
//! It is the collector that the program runs, with other [`Parts`]; what it logs at trace level is kept in
//! memory and searched for secrets when the lab closes.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use rollcall_collector::{
    collector::{Collector, Parts},
    config::{Config, Flags, Source},
    store::{flaky::Flaky, sqlite::SqliteStore},
};
use rollcall_common::{
    time::{Clock, Now, SystemClock, Timestamp},
    token::Token,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    peer::{Ask, Identity, Phone, enroll},
    world::{Api, Plan, Policy, Secrets, Sidecar, logs},
};

/// The last bytes of the log that are kept: enough for every lab of one test binary.
const LOG_KEPT: usize = 64 * 1024 * 1024;

/// The host's clocks, moved ahead by hand: they go on from wherever they were put.
#[derive(Debug, Default)]
pub struct Shifted {
    boot_ms: AtomicU64,
    wall_ms: AtomicI64,
}

impl Shifted {
    /// Steps the wall clock alone, as an administrator does.
    pub fn step_wall(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, SeqCst);
    }

    /// Lets time pass in which nobody looked, as a suspended host does.
    pub fn sleep(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.boot_ms.fetch_add(ms, SeqCst);
        self.step_wall(i64::try_from(ms).unwrap_or(i64::MAX));
    }
}

impl Clock for Shifted {
    fn now(&self) -> Now {
        let Now { boot, wall } = SystemClock.now();
        Now {
            boot: boot.after(Duration::from_millis(self.boot_ms.load(SeqCst))),
            wall: Timestamp(wall.0.saturating_add(self.wall_ms.load(SeqCst))),
        }
    }
}

/// How a lab differs from a world.
#[derive(Debug, Default)]
pub struct Bench {
    /// A clock moved by hand; the host's where none is given.
    pub clock: Option<Arc<Shifted>>,
    /// Life of a sidecar's certificate, shorter than a configuration may ask for.
    pub leaf_ttl: Option<Duration>,
}

impl Bench {
    /// With a clock that can be moved.
    #[must_use]
    pub fn with_clock() -> (Self, Arc<Shifted>) {
        let clock = Arc::new(Shifted::default());
        (Self { clock: Some(Arc::clone(&clock)), ..Self::default() }, clock)
    }
}

/// A collector in this process.
#[derive(Debug)]
pub struct Lab {
    collector: Collector,
    api: Api,
    store: Arc<Flaky<SqliteStore>>,
    secrets: Secrets,
    /// Last, so that the files outlive the collector.
    dir: TempDir,
}

/// Plays a scenario in a fresh lab.
///
/// # Errors
/// What went wrong in the scenario, with the tail of every sidecar's log; or what the logs give away.
pub async fn run(plan: &Plan, bench: Bench, scenario: impl AsyncFnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    keep_logs();
    let mut lab = Lab::start(plan, bench).await?;
    let outcome = scenario(&mut lab).await;
    lab.store.resume();
    lab.store.fail_all(false);
    lab.collector.shutdown().await;
    outcome.map_err(|error| error.context(logs::tails(lab.dir.path())))?;
    logs::check(lab.dir.path(), &lab.secrets)?;
    let log = kept().lock().unwrap_or_else(PoisonError::into_inner).clone();
    logs::check_text(&log, &lab.secrets).context("the collector's log")
}

impl Lab {
    async fn start(plan: &Plan, bench: Bench) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rollcall-lab-").tempdir()?;
        let state = dir.path().join("collector");
        fs::create_dir(&state)?;
        // The collector refuses a directory that others can look into.
        fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let file = dir.path().join("collector.toml");
        fs::write(&file, plan.collector_toml(&state))?;
        let mut config = Config::load(&Alone, &Flags { file: Some(file), values: Vec::new() })?;
        if let Some(leaf_ttl) = bench.leaf_ttl {
            config.leaf_ttl = leaf_ttl;
        }
        let store = Arc::new(Flaky::new(Arc::new(SqliteStore::open(&state.join("registry.db")).await?)));
        let clock: Arc<dyn Clock> = match bench.clock {
            Some(clock) => clock,
            None => Arc::new(SystemClock),
        };
        let parts = Parts { clock: Some(clock), registry: Some(Arc::clone(&store) as _), liveness: None };
        let collector = Collector::start(config, parts).await?;
        let credential = fs::read_to_string(state.join("admin.credential"))?;
        let mut secrets = Secrets::default();
        secrets.add("admin credential", credential.trim());
        let bootstrap = Api::new(collector.endpoints().http, credential.trim());
        // The credential of the first day ends when a clock is moved by more.
        let made = bootstrap.post("/api/admin/keys", &json!({ "role": "admin" })).await?.expect(201)?;
        let key = made.get("key").and_then(Value::as_str).context("a key")?;
        secrets.add("admin key", key);
        let api = Api::new(collector.endpoints().http, key);
        Ok(Self { collector, api, store, secrets, dir })
    }

    /// Where sidecars dial.
    #[must_use]
    pub fn quic(&self) -> std::net::SocketAddr {
        self.collector.endpoints().quic
    }

    /// The public API, as an administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The registry store, with its cues.
    #[must_use]
    pub fn store(&self) -> &Flaky<SqliteStore> {
        &self.store
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a token by the API, in the form that is handed to a host.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token_text(&mut self, policy: Policy) -> Result<String> {
        let made = self.api.post("/api/admin/tokens", &policy.body()).await?.expect(201)?;
        let text = made.get("token").and_then(Value::as_str).context("no token in the answer")?;
        self.secrets.add_token(text)?;
        Ok(text.to_owned())
    }

    /// Makes a token by the API.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token(&mut self, policy: Policy) -> Result<Token> {
        Ok(self.token_text(policy).await?.parse()?)
    }

    /// Enrolls a poller by hand.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enroll_poller(&mut self, phone: &Phone, id: &str, policy: Policy) -> Result<Identity> {
        let token = self.token(policy).await?;
        enroll(phone, self.quic(), &token, &Ask::poller(id)?).await?.identity()
    }

    /// A sidecar process with its own directory; it is not started yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn sidecar(&self, name: &str, settings: &str) -> Result<Sidecar> {
        Sidecar::new(self.dir.path(), name, settings)
    }
}

/// One file and nothing of this process's environment.
struct Alone;

impl Source for Alone {
    fn file(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn files_in(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn variable(&self, _: &str) -> Option<OsString> {
        None
    }
}

fn kept() -> &'static Mutex<Vec<u8>> {
    static KEPT: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    KEPT.get_or_init(Mutex::default)
}

/// Keeps the log of every lab of this process, once.
fn keep_logs() {
    let filter = EnvFilter::new("info,rollcall_collector=trace,rollcall_common=trace");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Kept);
    // A second lab finds it done.
    let _ = lines.try_init();
}

#[derive(Debug, Clone, Copy)]
struct Kept;

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = kept().lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < LOG_KEPT {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
