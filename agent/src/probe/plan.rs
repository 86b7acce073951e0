//! What is to be probed and how: values that were checked once and are never wrong afterwards. Where they come from
//! is `config`'s to know, how a look is done is [`super::check`]'s.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use rollcall_common::{
    health::Health,
    id::{ServiceId, ServiceKey},
    wire::children::ChildAbout,
};

use super::gauge::Rules;

/// Most probes of one service.
pub const MAX_PROBES: usize = 16;
/// Most children of one sidecar: they fit one batch of reports.
pub const MAX_CHILDREN: usize = 256;
/// Most probes of one sidecar, children's included.
pub const MAX_ALL_PROBES: usize = 512;

/// The name of a probe, unique within its service.
pub type ProbeName = ServiceId;

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name.
    pub name: ProbeName,
    /// What it looks at.
    pub check: Check,
    /// Time between two looks.
    pub interval: Duration,
    /// What a look may take.
    pub timeout: Duration,
    /// How steady its statement is.
    pub rules: Rules,
    /// The worst that it can say of the service.
    pub worst: Health,
    /// Whether it rests until the collector asks for it.
    pub standby: bool,
}

/// What a probe looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A unit of systemd.
    Systemd(String),
    /// A process.
    Process(Process),
    /// A port that takes connections.
    Tcp(Target),
    /// A page.
    Http(Http),
    /// The gRPC health service.
    Grpc(Grpc),
    /// A program that tells by its exit code.
    Exec(Vec<String>),
    /// Something that must move.
    Progress(Progress),
}

impl Check {
    /// The word for its type.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Systemd(_) => "systemd",
            Self::Process(_) => "process",
            Self::Tcp(_) => "tcp",
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
            Self::Exec(_) => "exec",
            Self::Progress(_) => "progress",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd(unit) => write!(f, "unit {unit}"),
            Self::Process(process) => process.fmt(f),
            Self::Tcp(target) => write!(f, "connect to {target}"),
            Self::Http(http) => write!(f, "GET {}", http.url),
            Self::Grpc(grpc) => write!(f, "gRPC health of {:?} at {}", grpc.service, grpc.url.target),
            Self::Exec(command) => write!(f, "run {}", command.join(" ")),
            Self::Progress(progress) => {
                write!(f, "{} must move within {} s", progress.file.display(), progress.within.as_secs())
            }
        }
    }
}

/// How a process is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// By the number in a file, and its name where one is given.
    PidFile {
        /// The file.
        file: PathBuf,
        /// The name that the process must have.
        name: Option<String>,
    },
    /// By its name: the oldest one that has it.
    Name(String),
    /// By its control group, from the root of the hierarchy: somebody is in it.
    Cgroup(String),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PidFile { file, name: None } => write!(f, "process in {}", file.display()),
            Self::PidFile { file, name: Some(name) } => write!(f, "process {name} in {}", file.display()),
            Self::Name(name) => write!(f, "process {name}"),
            Self::Cgroup(group) => write!(f, "processes in cgroup {group}"),
        }
    }
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Reads `host:port`; a port has no default.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok()).or_else(|| {
            let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            Some(host).filter(|host| !host.is_empty() && host.len() <= 253 && host.bytes().all(name))
        })?;
        Some(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Ok(IpAddr::V4(_)) | Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The address of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Over TLS.
    pub tls: bool,
    /// Whose.
    pub target: Target,
    /// Path and query, beginning with a slash.
    pub path: String,
}

impl Url {
    /// Reads an absolute `http://` or `https://` address without user, password or fragment.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(at)?;
        let default = if tls { 443 } else { 80 };
        let target = Target::read(authority).or_else(|| Target::read(&format!("{authority}:{default}")))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        (plain && path.len() <= 2_048).then_some(Self { tls, target, path })
    }

    /// Where a redirect leads.
    #[must_use]
    pub fn follow(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            let path = location.split('#').next()?.to_owned();
            let plain = path.bytes().all(|b| b.is_ascii_graphic());
            return (plain && path.len() <= 2_048).then(|| Self { path, ..self.clone() });
        }
        Self::read(location.split('#').next()?)
    }

    /// What a request calls its host.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let shown = self.target.to_string();
        if self.target.port == default {
            shown.rsplit_once(':').map_or_else(|| shown.clone(), |(host, _)| host.to_owned())
        } else {
            shown
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Whom a TLS target is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Whoever the host believes.
    #[default]
    Host,
    /// Whoever these certificates vouch for.
    File(PathBuf),
    /// Anybody: the probe says that something answers, not who.
    Anybody,
}

/// A page and what it must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it is.
    pub url: Url,
    /// Which answers are good, from and to.
    pub status: Vec<(u16, u16)>,
    /// What its beginning must hold.
    pub body: Option<String>,
    /// How many redirects are followed.
    pub redirects: u8,
    /// Whom it is believed.
    pub trust: Trust,
}

/// A server that has the gRPC health service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grpc {
    /// Where it is; no path.
    pub url: Url,
    /// Of which service; empty: of all of it.
    pub service: String,
    /// Whom it is believed.
    pub trust: Trust,
}

/// A file that must change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub file: PathBuf,
    /// Within how long.
    pub within: Duration,
    /// What of it.
    pub moves: Moves,
}

/// What of a file must change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moves {
    /// When it was written.
    #[default]
    Mtime,
    /// How large it is.
    Size,
    /// What it begins with: a counter, a token.
    Content,
}

/// A service of our subtree without a sidecar of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Who.
    pub key: ServiceKey,
    /// Its parent, where that is not our own service.
    pub parent: Option<ServiceId>,
    /// What it takes to register it.
    pub about: ChildAbout,
    /// How it is looked at.
    pub probes: Vec<Probe>,
    /// Whether it counts as alive while we are, though nobody looks.
    pub assume_alive: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_pages_read_or_do_not() {
        for (text, shown) in [
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("[::1]:443", Some("[::1]:443")),
            ("localhost:1", Some("localhost:1")),
            ("localhost", None),
            ("::1:443", None),
            ("host:0", None),
            ("host:65536", None),
            (":80", None),
            ("a b:80", None),
            ("user@host:80", None),
        ] {
            assert_eq!(Target::read(text).map(|target| target.to_string()).as_deref(), shown, "{text}");
        }
        for (text, shown) in [
            ("http://localhost:8080/health?x=1", Some("http://localhost:8080/health?x=1")),
            ("https://[::1]", Some("https://[::1]/")),
            ("http://a?x", Some("http://a/?x")),
            ("https://a:443/x", Some("https://a/x")),
            ("ftp://a/x", None),
            ("a/x", None),
            ("http:///x", None),
            ("http://user:pw@a/x", None),
            ("http://a/x#y", None),
            ("http://a/\nx", None),
        ] {
            assert_eq!(Url::read(text).map(|url| url.to_string()).as_deref(), shown, "{text}");
        }
        let url = Url::read("http://a:81/x").unwrap();
        assert_eq!(url.follow("/y#z").unwrap().to_string(), "http://a:81/y");
        assert_eq!(url.follow("https://b/").unwrap().to_string(), "https://b/");
        assert!(url.follow("//b/").is_none() && url.follow("y").is_none() && url.follow("/a b").is_none());
    }
}
