//! Every source of settings → one validated [`Config`].
//!
//! Later sources win: defaults, the main file, the fragments of its `.d` directory in name order, the
//! environment, flags. Files and environment come through a [`Source`], so that tests bring their own.
//! An error names the file, the line and the key, or the variable. The onboarding token is not a setting:
//! only the places where it may be found are.

mod announce;
mod change;
mod instance;
mod layer;
pub mod limits;
mod local;
mod probes;
mod remote;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId},
    service::{CheckerKind, Pairs},
    wire::{
        children::{MAX_INTERVAL_MS, MIN_INTERVAL_MS},
        message::MAX_ADDRESSES,
    },
};
use secrecy::SecretString;
use serde::Deserialize;

use self::announce::{fitting, with_names, with_places};
pub use self::{
    change::{Followed, follow},
    instance::Instance,
    layer::{EnrollmentLayer, Layer, LogLayer, Period},
    local::{LocalLayer, LocalPort},
    remote::RemoteLayer,
};
use crate::{
    carriage::Policy,
    leave::{self, Whose},
    plain,
    probe::plan::{Child, MAX_ALL_PROBES, MAX_CHILDREN, MAX_PROBES, Probe},
    remote::{Host, Remote},
};

/// The main file.
pub const MAIN_FILE: &str = "/etc/rollcall/agent.toml";
/// Where the state is kept.
pub const STATE_DIR: &str = "/var/lib/rollcall-agent";
/// Where the onboarding token is looked for.
pub const TOKEN_FILE: &str = "/etc/rollcall/agent/token";
/// The status socket of the packaged service.
pub const RUNTIME_SOCKET: &str = "/run/rollcall-agent/agent.sock";
const UNIT: &str = "rollcall-agent.service";
const SOCKET_NAME: &str = "agent.sock";
const REVOKED_RETRY: Duration = Duration::from_secs(3600);
const REVOKED_RETRY_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How often children are reported.
const CHILDREN_INTERVAL: Duration = Duration::from_secs(10);
const CHILDREN_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(MIN_INTERVAL_MS as u64)..=Duration::from_millis(MAX_INTERVAL_MS as u64);

/// No file of settings is larger.
const MAX_FILE: usize = 1024 * 1024;

const RETRY_DELAYS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

/// Where settings come from.
pub trait Source {
    /// The text of a file; `None` where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn text(&self, path: &Path) -> io::Result<Option<String>>;

    /// The files of a directory, in any order; empty where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be listed.
    fn files(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;

    /// The name of the host, where it tells one.
    fn hostname(&self) -> Option<String> {
        None
    }

    /// Whether the program runs as root.
    fn is_root(&self) -> bool;
}

/// The host's files and the process's environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostSource;

impl Source for HostSource {
    fn text(&self, path: &Path) -> io::Result<Option<String>> {
        match plain::read(path, MAX_FILE) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn files(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn hostname(&self) -> Option<String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "(none)")
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }
}

/// The validated settings of one sidecar.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which of several sidecars on this host.
    pub instance: Option<Instance>,
    /// The files that it was read from, and their directory.
    pub files: Vec<PathBuf>,
    /// What the service is; needed to enroll.
    pub kind: Option<Kind>,
    /// The id to ask for.
    pub id: Option<ServiceId>,
    /// The parent it believes it has.
    pub parent: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels to propose.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Where identity and keys are kept.
    pub state_dir: PathBuf,
    /// Where `status` is answered.
    pub socket: PathBuf,
    /// Where the packaged service of that instance answers it, which only systemd tells a sidecar.
    pub packaged_socket: PathBuf,
    /// The loopback port of the local service, if there is one.
    pub local: LocalPort,
    /// Whether the identity belongs to this machine alone.
    pub bind_machine: bool,
    /// Where the machine's id is, if not where systemd keeps it; `ROLLCALL_MACHINE_ID_FILE`.
    pub machine_id_file: Option<PathBuf>,
    /// Where the onboarding token may be.
    pub token: TokenPlaces,
    /// Addresses that override those of the token and of the collector; empty: no override.
    pub addresses: Vec<Address>,
    /// What may carry its connections.
    pub transport: Policy,
    /// How often a barred sidecar tries again.
    pub revoked_retry: Duration,
    /// How to log.
    pub log: Log,
    /// How the service beside it is looked at.
    pub probes: Vec<Probe>,
    /// Services of its subtree without a sidecar of their own.
    pub children: Vec<Child>,
    /// What of the probes the collector may change.
    pub remote: Remote,
    /// How often children are reported.
    pub children_interval: Duration,
    /// Whether it says goodbye when it stops; otherwise its lease runs out, as if it had died.
    pub deregister_on_stop: bool,
    /// How a first identity is asked for.
    pub enrollment: Enrollment,
}

/// How patiently a first identity is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enrollment {
    /// Tries at the pace below; none: as many as it takes.
    pub tries: Option<u32>,
    /// At most so long between two tries; none: a growing pause.
    pub retry_delay: Option<Duration>,
    /// Whether the process ends when the tries are used up; otherwise it goes on, slowly.
    pub fail_on_error: bool,
}

/// The places where an onboarding token may be found, in this order.
#[derive(Debug, Clone)]
pub struct TokenPlaces {
    /// The systemd credential `token`.
    pub credential: Option<PathBuf>,
    /// The token file.
    pub file: PathBuf,
    /// The value of `ROLLCALL_TOKEN`.
    pub environment: Option<SecretString>,
    /// Remove the token file once it did its work.
    pub consume_file: bool,
}

/// How to log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Log {
    /// In which form.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

/// The form of log lines, on standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, and for journald, with priorities where it listens.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs a hand.
    Error,
    /// And what may need one.
    Warn,
    /// And what changes.
    #[default]
    Info,
    /// And each connection.
    Debug,
    /// And each heartbeat.
    Trace,
}

/// One thing wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}{}", .path.display(), leave::hint(.path, .source, Whose::Ours))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file that was asked for is not there.
    #[error("{}: there is no such file", .0.display())]
    Missing(PathBuf),
    /// A line in a file.
    #[error("{}:{line}: {}{why}", .path.display(), .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// The key of that line, where there is one.
        key: Option<String>,
        /// What is wrong.
        why: String,
    },
    /// An environment variable.
    #[error("environment variable {name}: {why}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Contradiction(String),
}

/// Everything wrong with the settings, one line each.
#[derive(Debug)]
pub struct Problems(pub Vec<ConfigError>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let line_break = if n == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads all sources. `file` is the main file that a flag names, or else that of the instance which they name;
    /// `flags` win over everything.
    ///
    /// # Errors
    /// [`Problems`] with all that is wrong, not only the first.
    pub fn load(source: &dyn Source, file: Option<&Path>, flags: Layer) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut all = Layer::default();
        let of_instance = flags.instance.as_ref().map(Instance::config_file);
        for layer in layer::from_files(source, file.or(of_instance.as_deref()))
            .into_iter()
            .chain([layer::from_environment(source)])
        {
            match layer {
                Ok(layer) => all = all.overlaid(layer),
                Err(found) => problems.extend(found),
            }
        }
        all = all.overlaid(flags);
        problems.extend(contradictions(&all).into_iter().map(ConfigError::Contradiction));
        let fault = |(key, why): (&str, String)| ConfigError::Contradiction(format!("{key}: {why}"));
        let labels = with_places(all.labels.take().unwrap_or_default(), all.site.take(), all.environment.take());
        let labels = labels.map_err(fault);
        let metadata = match whereabouts(source, &mut all) {
            Ok(host) => {
                let free = all.metadata.take().unwrap_or_default();
                with_names(free, all.display_name.take(), all.version.take(), host, all.port).map_err(fault)
            }
            Err(why) => Err(ConfigError::Contradiction(why)),
        };
        match (labels, metadata) {
            (Ok(labels), Ok(metadata)) if problems.is_empty() => {
                fitting(&labels, &metadata).map_err(|why| Problems(vec![fault(why)]))?;
                let files = layer::files(source, file.or(of_instance.as_deref()));
                Self { files, ..Self::of(source, all, labels, metadata) }.sound()
            }
            (labels, metadata) => {
                problems.extend(labels.err().into_iter().chain(metadata.err()));
                Err(Problems(problems))
            }
        }
    }

    /// The service that systemd runs it as, where the packages made it.
    #[must_use]
    pub fn unit(&self) -> String {
        self.instance.as_ref().map_or_else(|| UNIT.into(), Instance::unit)
    }

    /// What concerns the settings as a whole.
    fn sound(self) -> Result<Self, Problems> {
        let idle = self.host().unreachable().into_iter().map(|probe| {
            let why = "rests until the collector asks for it, which it may not";
            ConfigError::Contradiction(format!("[[probe]] standby: {probe} {why}: list it in remote.probes"))
        });
        let idle: Vec<_> = idle.collect();
        if idle.is_empty() { Ok(self) } else { Err(Problems(idle)) }
    }

    /// What it says of probes.
    #[must_use]
    pub fn host(&self) -> Host<'_> {
        Host { probes: &self.probes, children: &self.children, remote: &self.remote }
    }

    /// What may be a mistake, and hinders nothing.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let idle = self.host().idle().into_iter();
        idle.map(|allowed| format!("remote.probes: there is no probe {:?} here", allowed.to_string())).collect()
    }

    fn of(source: &dyn Source, all: Layer, labels: Pairs, metadata: Pairs) -> Self {
        let instance = all.instance.as_ref();
        let packaged_dir = instance.map_or_else(|| STATE_DIR.into(), Instance::state_dir);
        let packaged_socket = instance.map_or_else(|| RUNTIME_SOCKET.into(), Instance::socket);
        let token_file = instance.map_or_else(|| TOKEN_FILE.into(), Instance::token_file);
        let state_dir = all
            .state_dir
            .unwrap_or_else(|| given_by_systemd(source, "STATE_DIRECTORY").unwrap_or_else(|| packaged_dir.clone()));
        let packaged = (state_dir == packaged_dir).then_some(&packaged_socket);
        let socket = all.socket.unwrap_or_else(|| default_socket(source, &state_dir, packaged));
        let log = all.log.unwrap_or_default();
        let enrollment = all.enrollment.unwrap_or_default();
        Self {
            instance: all.instance,
            files: Vec::new(),
            kind: all.kind,
            id: all.id,
            parent: all.parent,
            checker_kind: all.checker_kind,
            labels,
            metadata,
            state_dir,
            socket,
            packaged_socket,
            local: all.local.unwrap_or_default().port(),
            bind_machine: all.bind_machine.unwrap_or(true),
            machine_id_file: source
                .variable("ROLLCALL_MACHINE_ID_FILE")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            token: TokenPlaces {
                credential: source.variable("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join("token")),
                file: all.token_file.unwrap_or(token_file),
                environment: source.variable("ROLLCALL_TOKEN").map(SecretString::from),
                consume_file: all.consume_token_file.unwrap_or(false),
            },
            addresses: all.addresses.unwrap_or_default(),
            transport: all.transport.unwrap_or_default(),
            revoked_retry: all.revoked_retry.map_or(REVOKED_RETRY, |period| period.0),
            log: Log { format: log.format.unwrap_or_default(), level: log.level.unwrap_or_default() },
            probes: all.probes.into_iter().map(|(probe, _)| probe).collect(),
            children: all.children.into_iter().map(|(child, _)| child).collect(),
            remote: all.remote.map(RemoteLayer::remote).unwrap_or_default(),
            children_interval: all.children_interval.map_or(CHILDREN_INTERVAL, |period| period.0),
            deregister_on_stop: all.deregister_on_stop.unwrap_or(true),
            enrollment: Enrollment {
                tries: enrollment.tries,
                retry_delay: enrollment.retry_delay.map(|period| period.0),
                fail_on_error: enrollment.fail_on_error.unwrap_or(false),
            },
        }
    }
}

/// Under which name the service is reached, where that is announced: as it is set (flag, `ROLLCALL_HOST`, file), or as
/// the host calls itself.
fn whereabouts(source: &dyn Source, all: &mut Layer) -> Result<Option<String>, String> {
    match all.host.take() {
        Some(host) => Ok(Some(host)),
        None if all.port.is_none() => Ok(None),
        None => {
            let unknown = || "host: this host does not tell its name: set it, or leave `port` out".to_owned();
            source.hostname().map(Some).ok_or_else(unknown)
        }
    }
}

/// systemd may give several directories; the first is ours.
fn given_by_systemd(source: &dyn Source, variable: &str) -> Option<PathBuf> {
    let given = source.variable(variable).and_then(|all| all.split(':').next().map(PathBuf::from));
    given.filter(|dir| dir.is_absolute())
}

/// The packaged service's socket for root with the packaged state directory; otherwise beside the state,
/// so that several sidecars on one host do not meet.
fn default_socket(source: &dyn Source, state_dir: &Path, packaged: Option<&PathBuf>) -> PathBuf {
    match (given_by_systemd(source, "RUNTIME_DIRECTORY"), packaged) {
        (Some(dir), _) => dir.join(SOCKET_NAME),
        (None, Some(packaged)) if source.is_root() => packaged.clone(),
        (None, Some(_) | None) => state_dir.join(SOCKET_NAME),
    }
}

fn contradictions(all: &Layer) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(kind), Some(parent)) = (all.kind, &all.parent)
        && kind.parent().is_none()
    {
        found.push(format!(
            "parent: a {kind} has no parent, but {parent:?} is given: remove `parent`, or correct `kind`"
        ));
    }
    if all.checker_kind.is_some() && all.kind.is_some_and(|kind| kind != Kind::Checker) {
        found.push("checker_kind: only a checker has one: remove it, or set kind = \"checker\"".into());
    }
    if let Some(addresses) = &all.addresses {
        if addresses.is_empty() {
            found.push("addresses: the list is empty: leave it out to use those of the token".into());
        }
        if addresses.len() > MAX_ADDRESSES {
            found.push(format!("addresses: {} are given; at most {MAX_ADDRESSES} are allowed", addresses.len()));
        }
    }
    if let Some(Period(period)) = all.revoked_retry
        && !REVOKED_RETRY_RANGE.contains(&period)
    {
        found.push("revoked_retry: give a time between 1s and 24h".into());
    }
    found.extend(all.local.as_ref().and_then(LocalLayer::fault));
    found.extend(all.remote.as_ref().map(RemoteLayer::faults).unwrap_or_default());
    if let Some(Period(period)) = all.children_interval
        && !CHILDREN_INTERVALS.contains(&period)
    {
        found.push("children_interval: give a time between 1s and 1h".into());
    }
    if all.port == Some(0) {
        found.push("port: give a number between 1 and 65535".into());
    }
    if let Some(enrollment) = all.enrollment {
        if enrollment.tries == Some(0) {
            found.push("enrollment.tries: give at least 1, or leave it out to try for ever".into());
        }
        if enrollment.fail_on_error == Some(true) && enrollment.tries.is_none() {
            found.push("enrollment.fail_on_error: say with `tries` after how many".into());
        }
        if enrollment.retry_delay.is_some_and(|Period(delay)| !RETRY_DELAYS.contains(&delay)) {
            found.push("enrollment.retry_delay: give a time between 100ms and 1h".into());
        }
    }
    found.extend(crowds(all));
    let paths = [("state_dir", &all.state_dir), ("socket", &all.socket), ("token_file", &all.token_file)];
    for (name, path) in paths {
        if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            found.push(format!("{name}: the path is empty"));
        }
    }
    found
}

/// What several files say together.
fn crowds(all: &Layer) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<&str, &Path> = BTreeMap::new();
    for (probe, file) in &all.probes {
        if let Some(other) = seen.insert(probe.name.as_str(), file) {
            let (name, other, file) = (probe.name.as_str(), other.display(), file.display());
            found.push(format!("[[probe]] {name:?} is in {other} and in {file}: give each its own name"));
        }
    }
    if all.probes.len() > MAX_PROBES {
        found.push(format!("[[probe]]: {} are given; at most {MAX_PROBES} of one service", all.probes.len()));
    }
    let mut seen: BTreeMap<String, &Path> = BTreeMap::new();
    for (child, file) in &all.children {
        let key = child.key.to_string();
        if let Some(other) = seen.insert(key.clone(), file) {
            found.push(format!("[[child]] {key} is in {} and in {}: remove one", other.display(), file.display()));
        }
        found.extend(misplaced(all.kind, child).map(|why| format!("{}: [[child]] {key}: {why}", file.display())));
    }
    if all.children.len() > MAX_CHILDREN {
        found.push(format!("[[child]]: {} are given; at most {MAX_CHILDREN} for one sidecar", all.children.len()));
    }
    let probes = all.probes.len() + all.children.iter().map(|(child, _)| child.probes.len()).sum::<usize>();
    if probes > MAX_ALL_PROBES {
        found.push(format!("{probes} probes are given, children's included; at most {MAX_ALL_PROBES} for one sidecar"));
    }
    found
}

/// Why a child does not stand below a service of that kind.
fn misplaced(own: Option<Kind>, child: &Child) -> Option<String> {
    let kind = child.key.kind;
    let Some(above) = kind.parent() else { return Some(format!("a {kind} is nobody's child")) };
    let own = own?;
    if above == own {
        return None;
    }
    if above.parent() != Some(own) {
        return Some(format!("a {kind} does not stand below this {own}"));
    }
    child.parent.is_none().then(|| format!("parent: name the {above} that it stands below"))
}
