//! A small world per test: a collector and sidecars as real processes, with everything they say kept.
//!
//! [`run`] starts a world, plays a scenario in it and ends it: whatever runs is killed, no log may hold a
//! secret or tell of a panic, and where the scenario failed its error carries the tail of every log. The
//! world decides nothing about the product; it knows names of binaries, files and settings, and the public
//! API.
//!
//! | module | owns |
//! |---|---|
//! | `logs` | what the processes said |
//! | [`process`] | one child process, its log, its signals |
//! | [`dialog`] | a program at a terminal |
//! | [`api`] | the public HTTP API, as an operator uses it |
//! | [`policy`] | what a token should allow |
//! | [`sidecar`] | one `rollcall-agent` with its files |
//! | [`secrets`] | what must never be said |

pub mod api;
pub mod dialog;
pub(crate) mod logs;
pub mod policy;
pub mod process;
pub mod secrets;
pub mod sidecar;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rollcall_common::{id::Kind, token::Token};
use serde_json::Value;
use tempfile::TempDir;

pub use self::{
    api::{Api, Reply},
    dialog::Dialog,
    policy::Policy,
    process::Process,
    secrets::Secrets,
    sidecar::Sidecar,
};
use crate::{
    peer::{Ask, Identity, Live, Phone, Puppet, SOON, enroll},
    until::until,
};

/// The trust domain of every world.
pub const TRUST_DOMAIN: &str = "fleet.test";

/// How a world is set up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Time between two beats.
    pub interval: Duration,
    /// Time to live of one beat.
    pub ttl: Duration,
    /// More settings of the collector, as TOML lines; tables last.
    pub settings: String,
}

impl Default for Plan {
    /// Fast enough to wait for a loss, slow enough for a busy machine.
    fn default() -> Self {
        Self { interval: Duration::from_millis(500), ttl: Duration::from_secs(3), settings: String::new() }
    }
}

impl Plan {
    /// A pace at which nobody is lost by accident, for tests that are not about loss.
    #[must_use]
    pub fn calm() -> Self {
        Self { interval: Duration::from_millis(100), ttl: Duration::from_secs(30), ..Self::default() }
    }

    /// More settings.
    #[must_use]
    pub fn with(mut self, settings: &str) -> Self {
        self.settings.push_str(settings);
        self.settings.push('\n');
        self
    }

    pub(crate) fn collector_toml(&self, state: &Path) -> String {
        format!(
            "name = \"main\"\ntrust_domain = \"{TRUST_DOMAIN}\"\nstate_dir = \"{}\"\nquic_listen = \"127.0.0.1:0\"\n\
             http_listen = \"127.0.0.1:0\"\ninterval = \"{}ms\"\nttl = \"{}ms\"\nlast_seen_flush = \"500ms\"\n\
             observe_mark = \"500ms\"\n{}",
            state.display(),
            self.interval.as_millis(),
            self.ttl.as_millis(),
            self.settings,
        )
    }
}

/// A collector with its sidecars.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    plan: Plan,
    collector: Process,
    doors: Doors,
    secrets: Secrets,
}

/// Where the collector of this moment listens, and the credential for it.
#[derive(Debug, Clone)]
struct Doors {
    quic: SocketAddr,
    api: Api,
}

/// Plays a scenario in a fresh world.
///
/// # Errors
/// What went wrong in the scenario, with the tail of every log; or what the logs give away.
pub async fn run(plan: Plan, scenario: impl AsyncFnOnce(&mut World) -> Result<()>) -> Result<()> {
    let mut world = World::start(plan).await?;
    let outcome = scenario(&mut world).await;
    world.collector.kill9().await?;
    outcome.map_err(|error| error.context(logs::tails(world.dir())))?;
    logs::check(world.dir(), &world.secrets)
}

impl World {
    /// Starts a collector in a scratch directory.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start(plan: Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rollcall-e2e-").tempdir()?;
        let config = dir.path().join("collector.toml");
        fs::write(&config, plan.collector_toml(&dir.path().join("collector")))?;
        let mut collector = Process::new("rollcall-collector", "collector", dir.path())?;
        collector.args(["serve".into(), "--config".into(), config.display().to_string()]);
        collector.env("ROLLCALL_LOG_LEVEL", "info,rollcall_collector=trace,rollcall_common=trace,quinn=debug");
        let doors = Doors { quic: ([127, 0, 0, 1], 0).into(), api: Api::nowhere() };
        let mut world = Self { dir, plan, collector, doors, secrets: Secrets::default() };
        world.start_collector().await.map_err(|error| error.context(logs::tails(world.dir())))?;
        Ok(world)
    }

    /// Starts the collector again, with the same state.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start_collector(&mut self) -> Result<()> {
        let endpoints = self.state().join("endpoints.json");
        match fs::remove_file(&endpoints) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        self.collector.start()?;
        let collector = &mut self.collector;
        let doors = until(SOON, "the collector listens", async || {
            if let Some(status) = collector.exited()? {
                return Err(anyhow!("it ended with {status}"));
            }
            read_doors(&endpoints)
        })
        .await?;
        let credential = fs::read_to_string(self.state().join("admin.credential"))?;
        self.secrets.add("admin credential", credential.trim());
        self.doors = Doors { quic: doors.1, api: Api::new(doors.0, credential.trim()) };
        self.keep_ports()?;
        let api = &self.doors.api;
        until(SOON, "the collector is ready", async || api.get("/readyz").await?.expect(200).map(drop)).await
    }

    /// A restarted collector listens where it did, as in any deployment.
    fn keep_ports(&self) -> Result<()> {
        let config = self.dir.path().join("collector.toml");
        let text = self.plan.collector_toml(&self.state());
        let text = text.replace("quic_listen = \"127.0.0.1:0\"", &format!("quic_listen = \"{}\"", self.doors.quic));
        let http = self.doors.api.addr();
        fs::write(config, text.replace("http_listen = \"127.0.0.1:0\"", &format!("http_listen = \"{http}\"")))?;
        Ok(())
    }

    /// Kills the collector and starts it again.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn crash_collector(&mut self) -> Result<()> {
        self.collector.kill9().await?;
        self.start_collector().await
    }

    /// One more collector, with a state directory of its own; it is started.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn another_collector(&self, state: &Path) -> Result<Process> {
        let config = state.with_extension("toml");
        fs::write(&config, self.plan.collector_toml(state))?;
        let mut process = Process::new("rollcall-collector", "another", self.dir.path())?;
        process.args(["serve".into(), "--config".into(), config.display().to_string()]);
        process.start()?;
        Ok(process)
    }

    /// The collector's process.
    pub fn collector(&mut self) -> &mut Process {
        &mut self.collector
    }

    /// Where sidecars dial.
    #[must_use]
    pub fn quic(&self) -> SocketAddr {
        self.doors.quic
    }

    /// The public API, as an administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.doors.api
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The collector's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("collector")
    }

    /// The plan it runs by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Remembers what must not be said.
    pub fn keep_secret(&mut self, what: &str, text: &str) {
        self.secrets.add(what, text);
    }

    /// Makes a token by the API.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token(&mut self, policy: Policy) -> Result<Token> {
        Ok(self.token_text(policy).await?.parse()?)
    }

    /// As [`Self::token`], in the form that is handed to a host.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token_text(&mut self, policy: Policy) -> Result<String> {
        let made = self.doors.api.post("/api/admin/tokens", &policy.body()).await?.expect(201)?;
        let text = made.get("token").and_then(Value::as_str).context("no token in the answer")?;
        self.secrets.add_token(text)?;
        Ok(text.to_owned())
    }

    /// A sidecar with its own directory; it is not started yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn sidecar(&self, name: &str, settings: &str) -> Result<Sidecar> {
        Sidecar::new(self.dir.path(), name, settings)
    }

    /// Enrolls a poller by hand.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enroll_poller(&mut self, phone: &Phone, id: &str) -> Result<Identity> {
        let token = self.token(Policy::fixed(Kind::Poller, id)).await?;
        enroll(phone, self.quic(), &token, &Ask::poller(id)?).await?.identity()
    }

    /// Enrolls a poller by hand, greets and beats once.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn live_poller(&mut self, phone: &Phone, id: &str) -> Result<(Puppet, Live)> {
        let mut puppet = Puppet::new(self.enroll_poller(phone, id).await?)?;
        let mut live = puppet.live(phone, self.quic()).await?;
        live.beat().await?;
        self.api().wait_alive(&format!("poller/{id}")).await?;
        Ok((puppet, live))
    }

    /// What was kept secret so far.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

fn read_doors(path: &Path) -> Result<(SocketAddr, SocketAddr)> {
    let told: Value = serde_json::from_slice(&fs::read(path)?)?;
    let door = |name: &str| -> Result<SocketAddr> {
        Ok(told.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {told}"))?.parse()?)
    };
    Ok((door("http")?, door("quic")?))
}
