//! One look at one thing: the shells that perform what a probe asks for.
//!
//! A look ends within its timeout, whatever it looks at, and reads a bounded amount of it. It says what it saw in
//! words; what a row of looks is worth is [`super::gauge`]'s business. Files, names and programs may hang in the
//! kernel: they have threads of their own (`hands`), [`THREADS`] at most, and whoever finds none free says so.

mod bus;
mod exec;
mod file;
mod grpc;
mod hands;
mod http;
mod net;
mod process;
mod systemd;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rollcall_common::health::Health;

use self::hands::Hands;
use super::plan::Check;

/// Files and programs that are reached for at a time, and how many of them may hang beside these.
const FILES: (usize, usize) = (2, 4);
/// The same of names: a resolver that is away keeps its threads for long, and takes none from files.
const NAMES: (usize, usize) = (1, 2);
/// Threads that may hang on behalf of probes. The process has more: looking up collectors never waits here.
pub const THREADS: usize = FILES.0 + FILES.1 + NAMES.0 + NAMES.1;

/// What a look saw.
#[derive(Debug, Clone)]
pub struct Look {
    /// How that is.
    pub health: Health,
    /// In words.
    pub words: String,
    /// Whether it saw somebody live, or saw that nobody does; `None` where it says nothing of that.
    pub alive: Option<bool>,
    /// What must move, as it is now.
    pub mark: Option<u64>,
    /// Whose sudden end is worth a look at once.
    pub prey: Option<Prey>,
    /// By what that was found, where that outlives it: a number in a file is given to others.
    pub found_by: Option<u64>,
}

impl Look {
    fn well(words: impl Into<String>) -> Self {
        let (health, words) = (Health::Healthy, words.into());
        Self { health, words, alive: Some(true), mark: None, prey: None, found_by: None }
    }

    /// Something is there and is not well.
    fn ill(words: impl Into<String>) -> Self {
        Self { health: Health::Unhealthy, ..Self::well(words) }
    }

    /// Nobody is there.
    pub(super) fn gone(words: impl Into<String>) -> Self {
        Self { alive: Some(false), ..Self::ill(words) }
    }

    /// Nothing came: somebody may be there.
    fn silent(words: impl Into<String>) -> Self {
        Self { alive: None, ..Self::ill(words) }
    }

    /// We cannot look: that is no fault of the service.
    fn blind(words: impl Into<String>) -> Self {
        Self { health: Health::Unchecked, alive: None, ..Self::well(words) }
    }

    fn with_prey(self, prey: Prey) -> Self {
        Self { prey: Some(prey), ..self }
    }
}

/// Who is watched between looks.
#[derive(Debug, Clone)]
pub enum Prey {
    /// A process, by a descriptor that no other process can inherit.
    Process(Arc<OwnedFd>, i32),
    /// A control group, by its `cgroup.events`.
    Group(PathBuf),
}

impl PartialEq for Prey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process(_, a), Self::Process(_, b)) => a == b,
            (Self::Group(a), Self::Group(b)) => a == b,
            (Self::Process(..), Self::Group(_)) | (Self::Group(_), Self::Process(..)) => false,
        }
    }
}

/// What looks need of the host.
#[derive(Debug)]
pub struct Host {
    files: Hands,
    names: Hands,
    remains: exec::Remains,
    tls: tls::Shelf,
    proc: PathBuf,
    cgroups: Vec<PathBuf>,
    bus: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        let bus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
        let bus = bus
            .as_deref()
            .and_then(|address| address.strip_prefix("unix:path="))
            .and_then(|path| path.split([',', ';']).next());
        Self {
            files: Hands::new(FILES.0, FILES.1),
            names: Hands::new(NAMES.0, NAMES.1),
            remains: exec::Remains::default(),
            tls: tls::Shelf::default(),
            proc: "/proc".into(),
            cgroups: ["", "unified", "systemd"].map(|part| Path::new("/sys/fs/cgroup").join(part)).into(),
            bus: bus.unwrap_or("/run/dbus/system_bus_socket").into(),
        }
    }
}

#[cfg(test)]
impl Host {
    /// Another view of processes.
    pub(super) fn with_proc(proc: &Path) -> Self {
        Self { proc: proc.into(), ..Self::default() }
    }
}

/// Looks once. `held` is the process that is being watched, whose end would have been noticed.
pub async fn look(check: &Check, timeout: Duration, host: &Host, held: Option<&Prey>) -> Look {
    if let Check::Exec(command) = check {
        // It ends what it started, which takes a moment beyond its time.
        return exec::look(command, timeout, host).await;
    }
    let looking = async {
        match check {
            Check::Systemd(unit) => systemd::look(unit, host).await,
            Check::Process(process) => process::look(process, host, held).await,
            Check::Tcp(target) => match net::connect(target, timeout, host).await {
                Ok(_) => Look::well("takes connections"),
                Err(look) => look,
            },
            Check::Http(http) => http::look(http, timeout, host).await,
            Check::Grpc(grpc) => grpc::look(grpc, timeout, host).await,
            Check::Exec(command) => exec::look(command, timeout, host).await,
            Check::Progress(progress) => file::look(progress, host).await,
        }
    };
    match tokio::time::timeout(timeout, looking).await {
        Ok(look) => look,
        Err(_) => match check {
            Check::Systemd(_) => Look::blind(format!("systemd did not answer within {timeout:?}")),
            Check::Process(_) | Check::Progress(_) => {
                Look::blind(format!("the look did not end within {timeout:?}: does a file system hang?"))
            }
            Check::Tcp(_) | Check::Http(_) | Check::Grpc(_) | Check::Exec(_) => {
                Look::silent(format!("no answer within {timeout:?}"))
            }
        },
    }
}

/// Whether a control group has anybody in it, by its events file. These files lie in memory and never hang.
pub(super) fn populated(events: &Path) -> Option<bool> {
    process::is_populated(&file::head(events, 4_096).ok()?)
}
