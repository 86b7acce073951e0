//! The collector's configuration: every source laid over the next, then checked as a whole.
//!
//! Defaults < `collector.toml` < `collector.d/*.toml` < `ROLLCALL_*` < flags. A [`Config`] is proof that
//! every rule holds; a text that breaks one is answered with who said it, the key and what would work,
//! and all such answers come at once. It opens nothing beyond the files it reads.

pub mod duration;
mod issuers;
mod layers;
mod upkeep;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rollcall_common::{
    address::Address,
    id::{CollectorName, PaceNo, ServiceId, TrustDomain},
    lease::{Pace, PaceError},
    token::MAX_ADDRESSES,
};
use secrecy::{ExposeSecret, SecretString};

pub use self::layers::{ConfigError, DEFAULT_FILE, Flags, Origin, Source, System};
use self::layers::{Layers, Value};
pub use self::upkeep::{JobSettings, Keep, Upkeep};
use crate::{
    http::{Extra, oidc::Issuer},
    registry::feed::Limits as Held,
    statedir::outside::Keeper,
};

/// The state directory where systemd names none.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/rollcall-collector";
/// Where HTTP listens by default.
pub const DEFAULT_HTTP: &str = "127.0.0.1:7410";
/// Wanted size of the QUIC socket's buffers each way, in bytes: with the kernel's usual 208 kB, a fleet that
/// reconnects at once loses packets for minutes.
pub const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// The file of the bootstrap credential within the state directory.
pub const CREDENTIAL_FILE: &str = "admin.credential";

/// The file of the administrators' socket.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Ages of single services in one scrape, where they are wanted and no number is named.
const DEFAULT_AGES: usize = 10_000;

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Everything that a collector is told before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps its state.
    pub state_dir: PathBuf,
    /// Its name: the last segment of its SPIFFE id.
    pub name: CollectorName,
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// The UDP address for sidecars; port 0 takes a free one.
    pub quic_listen: SocketAddr,
    /// Whether it listens on TCP at the same address too, for sidecars whose network lets no UDP pass.
    pub tcp_fallback: bool,
    /// Whether a source says so: what nobody asked for is not worth a failed start.
    pub tcp_asked: bool,
    /// The TCP address for the API; loopback, unless `http_tls` encrypts it. Port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// Host names under which the API may be called beside addresses and `localhost`: those of a reverse
    /// proxy on this host.
    pub http_hosts: Vec<String>,
    /// What the API is encrypted with.
    pub http_tls: Option<HttpTls>,
    /// Pollers that count as known although they are not registered.
    pub known_pollers: Vec<ServiceId>,
    /// What tokens tell sidecars to dial; at most [`MAX_ADDRESSES`], none unspecified.
    pub advertise: Vec<Address>,
    /// The beat that is granted.
    pub pace: Pace,
    /// The life of a sidecar's certificate.
    pub leaf_ttl: Duration,
    /// Where liveness is published.
    pub liveness: Liveness,
    /// Where the registry is kept.
    pub registry: RegistryAt,
    /// How often `last_seen` is written down.
    pub last_seen_flush: Duration,
    /// How often the collector writes down that it observes.
    pub observe_mark: Duration,
    /// How it logs.
    pub log: Log,
    /// What `/metrics` holds beyond what it always does.
    pub metrics: Extra,
    /// Where the audit trail goes.
    pub audit: AuditOut,
    /// Labels whose values the statistics count.
    pub stats_labels: Vec<String>,
    /// What the change feed holds, and how long it waits for a reader.
    pub feed: Feed,
    /// Bounds that differ from the built-in ones.
    pub limits: Limits,
    /// What happens by itself.
    pub upkeep: Upkeep,
    /// Where the administrators' socket is: in the directory that systemd gives at run time, or else in the
    /// state directory.
    pub admin_socket: PathBuf,
    /// The identity providers whose tokens are taken.
    pub oidc: Vec<Issuer>,
}

/// The files that the API is encrypted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTls {
    /// The certificate and those that vouch for it, as PEM, the server's own first.
    pub cert: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// Who answers for the key's privacy.
    pub keeper: Keeper,
}

/// Where liveness is published.
#[derive(Debug, Clone)]
pub enum Liveness {
    /// In this process.
    Memory,
    /// On a Valkey or Redis server.
    Redis(RedisUrl),
}

/// The URL of a Redis server; shows itself without its password.
#[derive(Clone)]
pub struct RedisUrl(SecretString);

impl RedisUrl {
    /// The URL with its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.expose();
        let (scheme, rest) = url.split_once("://").unwrap_or(("redis", ""));
        // A path may be a secret's end where the password holds an unescaped slash: the last '@' decides.
        match rest.rsplit_once('@') {
            Some((_, place)) => write!(f, "{scheme}://***@{place}"),
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the registry is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAt {
    /// In a SQLite file.
    Sqlite(PathBuf),
}

/// How the collector logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is logged: a level, or a filter such as `info,rollcall_collector=debug`.
    pub level: String,
}

/// For people or for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// The `[audit]` table: where the trail goes beside the registry store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditOut {
    /// A file of JSON lines.
    pub file: Option<PathBuf>,
    /// A syslog server.
    pub syslog: Option<SyslogAt>,
    /// A web hook, and the file of the secret that signs what it gets.
    pub webhook: Option<(String, PathBuf)>,
}

/// The `[audit.syslog]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogAt {
    /// `host:port`.
    pub address: String,
    /// The authorities that vouch for it, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to it, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The `[feed]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// What it holds for readers that come back.
    pub held: Held,
    /// How long an HTTP connection whose peer takes nothing is kept.
    pub write_within: Duration,
}

/// The `[limits]` table; `None` leaves the built-in bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// QUIC handshakes that progress at once.
    pub handshakes: Option<u32>,
    /// QUIC connection attempts that wait.
    pub incoming: Option<u32>,
    /// Handshakes that one address may have in progress.
    pub per_address: Option<u32>,
    /// Enrollments a second.
    pub enroll_per_second: Option<u32>,
    /// Enrollments at once.
    pub enroll_burst: Option<u32>,
    /// Rejoins a second.
    pub rejoin_per_second: Option<u32>,
    /// Greetings a second.
    pub hello_per_second: Option<u32>,
    /// Open connections of sidecars over TCP.
    pub tcp_connections: Option<u32>,
    /// Open HTTP connections.
    pub http_connections: Option<u32>,
    /// Streams and waiting polls at once.
    pub http_streams: Option<u32>,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads every source and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn load(source: &dyn Source, flags: &Flags) -> Result<Self, ConfigErrors> {
        let layers = Layers::gather(source, flags).map_err(ConfigErrors)?;
        let mut read = Reader { layers: &layers, errors: Vec::new() };
        let http_tls = read.http_tls(source);
        let state_dir = read.text("state_dir", || state_dir_of(source), absolute);
        let quic_listen = read.required("quic_listen", "[::]:7411", listen);
        let http_listen = read.http_listen(http_tls.is_some());
        let (tcp_fallback, tcp_asked) = read.tcp_fallback(quic_listen, http_listen);
        let config = Self {
            name: read.text("name", || name_of_host(source), str::parse),
            trust_domain: read.required("trust_domain", "rollcall.local", str::parse),
            quic_listen,
            tcp_fallback,
            tcp_asked,
            http_listen,
            http_hosts: read.list("http_hosts", host_name),
            http_tls,
            known_pollers: read.list("known_pollers", ServiceId::new),
            advertise: read.advertise(),
            pace: read.pace(),
            leaf_ttl: read.within("leaf_ttl", "7d", "10m", "30d"),
            liveness: read.required("liveness", "memory", liveness),
            registry: read.required("registry", "sqlite", |text| registry(text, &state_dir)),
            last_seen_flush: read.within("last_seen_flush", "10s", "100ms", "10m"),
            observe_mark: read.within("observe_mark", "5s", "100ms", "1m"),
            log: Log {
                format: read.required("log.format", "text", log_format),
                level: read.required("log.level", "info", log_level),
            },
            metrics: read.metrics(),
            audit: read.audit(),
            stats_labels: read.labels("stats_labels"),
            feed: read.feed(),
            limits: read.limits(),
            upkeep: read.upkeep(),
            oidc: read.issuers(),
            admin_socket: runtime_dir_of(source).unwrap_or_else(|| state_dir.clone()).join(ADMIN_SOCKET),
            state_dir,
        };
        if read.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(read.errors)) }
    }
}

/// The state directory that the environment names, as systemd does, or the default one.
#[must_use]
pub fn state_dir_of(source: &dyn Source) -> PathBuf {
    let named = source.variable("STATE_DIRECTORY").and_then(|dirs| dirs.into_string().ok());
    // systemd joins several with colons; the first is ours.
    let first = named.as_deref().and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
    first.unwrap_or(DEFAULT_STATE_DIR).into()
}

/// The directory for what lives no longer than the process, where systemd names one.
#[must_use]
pub fn runtime_dir_of(source: &dyn Source) -> Option<PathBuf> {
    let named = source.variable("RUNTIME_DIRECTORY")?.into_string().ok()?;
    named.split(':').next().filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Reads values one by one and keeps what is wrong with them.
struct Reader<'a> {
    layers: &'a Layers,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn wrong(&mut self, key: &str, why: impl fmt::Display) {
        self.errors.push(ConfigError { origin: self.layers.origin(key), key: key.into(), why: why.to_string() });
    }

    fn issuers(&mut self) -> Vec<Issuer> {
        self.errors.extend(issuers::together(&self.layers.issuers));
        self.layers.issuers.iter().map(|(issuer, _)| issuer.clone()).collect()
    }

    fn text<T, E: fmt::Display>(
        &mut self,
        key: &str,
        default: impl FnOnce() -> T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        let Some((value, _)) = self.layers.get(key) else { return default() };
        let parsed = match value {
            Value::Text(text) => parse(text).map_err(|error| error.to_string()),
            Value::Number(_) | Value::Flag(_) | Value::List(_) => Err("must be a text in quotes".into()),
        };
        parsed.unwrap_or_else(|why| {
            self.wrong(key, why);
            default()
        })
    }

    /// A text with a default that is written as a person would.
    fn required<T, E: fmt::Display>(&mut self, key: &str, default: &str, parse: impl Fn(&str) -> Result<T, E>) -> T {
        let fallback = || match parse(default) {
            Ok(value) => value,
            Err(error) => unreachable!("the default of {key} breaks its own rule: {error}"),
        };
        self.text(key, fallback, &parse)
    }

    fn within(&mut self, key: &str, default: &str, low: &str, high: &str) -> Duration {
        let bound = |text: &str| duration::parse(text).unwrap_or_default();
        self.required(key, default, |text| {
            let value = duration::parse(text).map_err(|error| error.to_string())?;
            if value < bound(low) || value > bound(high) {
                return Err(format!("must lie between {low} and {high}, not {text}"));
            }
            Ok(value)
        })
    }

    fn list<T, E: fmt::Display>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        let items: Vec<String> = match self.layers.get(key) {
            None => return Vec::new(),
            Some((Value::List(items), _)) => items.clone(),
            Some((Value::Text(text), _)) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            Some((Value::Number(_) | Value::Flag(_), _)) => {
                self.wrong(key, "must be a list of texts");
                return Vec::new();
            }
        };
        let parsed: Result<Vec<T>, E> = items.iter().map(|item| parse(item)).collect();
        parsed.unwrap_or_else(|error| {
            self.wrong(key, error);
            Vec::new()
        })
    }

    /// Keys of labels, at most 8; `site` where none is set.
    fn labels(&mut self, key: &str) -> Vec<String> {
        if self.layers.get(key).is_none() {
            return vec!["site".into()];
        }
        let labels = self.list(key, label_key);
        if labels.len() > MAX_STATS_LABELS {
            self.wrong(key, format!("holds at most {MAX_STATS_LABELS} labels"));
        }
        labels
    }

    fn flag(&mut self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    fn flag_or(&mut self, key: &str, default: bool) -> bool {
        let flag = match self.layers.get(key) {
            None => Some(default),
            Some((Value::Flag(flag), _)) => Some(*flag),
            Some((Value::Text(text), _)) => text.parse().ok(),
            Some((Value::Number(_) | Value::List(_), _)) => None,
        };
        flag.unwrap_or_else(|| {
            self.wrong(key, "must be true or false");
            default
        })
    }

    fn limit(&mut self, key: &str) -> Option<u32> {
        let number = match self.layers.get(key)?.0 {
            Value::Number(number) => u32::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            Value::Flag(_) | Value::List(_) => None,
        };
        let number = number.filter(|number| (1..=1_000_000).contains(number));
        if number.is_none() {
            self.wrong(key, "must be a whole number between 1 and 1000000");
        }
        number
    }

    fn audit(&mut self) -> AuditOut {
        AuditOut {
            file: self.text("audit.file.path", || None, |text| absolute(text).map(Some)),
            syslog: self.syslog(),
            webhook: self.with_file("audit.webhook.url", "audit.webhook.secret_file"),
        }
    }

    fn syslog(&mut self) -> Option<SyslogAt> {
        let address = self.text("audit.syslog.address", || None, |text| Ok::<_, String>(Some(text.to_owned())));
        let mut file = |key| self.text(key, || None, |text| absolute(text).map(Some));
        let (ca_file, cert, key) =
            (file("audit.syslog.ca_file"), file("audit.syslog.cert_file"), file("audit.syslog.key_file"));
        if cert.is_some() != key.is_some() {
            let (given, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            self.wrong(&format!("audit.syslog.{given}_file"), format!("needs audit.syslog.{missing}_file beside it"));
        }
        if address.is_none() {
            let files = [("ca_file", &ca_file), ("cert_file", &cert), ("key_file", &key)];
            if let Some((name, _)) = files.into_iter().find(|(_, file)| file.is_some()) {
                self.wrong(&format!("audit.syslog.{name}"), "needs audit.syslog.address beside it");
            }
        }
        Some(SyslogAt { address: address?, ca_file, client: cert.zip(key) })
    }

    /// A text that needs a file beside it: both or none.
    fn with_file(&mut self, key: &str, file_key: &str) -> Option<(String, PathBuf)> {
        let text = self.text(key, || None, |text| Ok::<_, String>(Some(text.to_owned())));
        let file = self.text(file_key, || None, |text| absolute(text).map(Some));
        match (text, file) {
            (Some(text), Some(file)) => Some((text, file)),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong(key, format!("needs {file_key} beside it"));
                None
            }
            (None, Some(_)) => {
                self.wrong(file_key, format!("needs {key} beside it"));
                None
            }
        }
    }

    fn feed(&mut self) -> Feed {
        let built_in = Held::default();
        let size = |asked: Option<u32>| asked.and_then(|n| usize::try_from(n).ok());
        let events = size(self.limit("feed.events")).unwrap_or(built_in.events);
        let bytes = size(self.limit("feed.mebibytes")).map_or(built_in.bytes, |n| n.saturating_mul(1024 * 1024));
        Feed { held: Held { events, bytes }, write_within: self.within("feed.write_within", "30s", "1s", "10m") }
    }

    fn metrics(&mut self) -> Extra {
        let most = self.limit("metrics.service_ages_most").and_then(|most| usize::try_from(most).ok());
        let wanted = self.flag("metrics.service_ages");
        Extra {
            service_ages: wanted.then(|| most.unwrap_or(DEFAULT_AGES)),
            total_alias: self.flag("metrics.total_alias"),
        }
    }

    fn limits(&mut self) -> Limits {
        Limits {
            handshakes: self.limit("limits.handshakes"),
            incoming: self.limit("limits.incoming"),
            per_address: self.limit("limits.per_address"),
            enroll_per_second: self.limit("limits.enroll_per_second"),
            enroll_burst: self.limit("limits.enroll_burst"),
            rejoin_per_second: self.limit("limits.rejoin_per_second"),
            hello_per_second: self.limit("limits.hello_per_second"),
            tcp_connections: self.limit("limits.tcp_connections"),
            http_connections: self.limit("limits.http_connections"),
            http_streams: self.limit("limits.http_streams"),
        }
    }

    /// Whether TCP listens beside QUIC, and whether a source says so. Where the API has that port, it keeps it.
    fn tcp_fallback(&mut self, quic: SocketAddr, http: SocketAddr) -> (bool, bool) {
        let asked = self.layers.get("tcp_fallback").is_some();
        let wanted = self.flag_or("tcp_fallback", true);
        let (here, there) = (quic.ip().to_canonical(), http.ip().to_canonical());
        let overlap = here == there || here.is_unspecified() || there.is_unspecified();
        let is_taken = quic.port() != 0 && quic.port() == http.port() && overlap;
        if wanted && asked && is_taken {
            let words =
                format!("TCP {quic} is to carry heartbeats, and http_listen has it for the API: choose another port");
            self.wrong("tcp_fallback", words);
        }
        (wanted && !is_taken, asked)
    }

    fn http_listen(&mut self, encrypted: bool) -> SocketAddr {
        let address = self.required("http_listen", DEFAULT_HTTP, http_address);
        // A pair that is only half named is complained about by itself.
        let meant = ["http_tls_cert", "http_tls_key"].iter().any(|key| self.layers.get(key).is_some());
        if !encrypted && !meant && !address.ip().to_canonical().is_loopback() {
            self.wrong(
                "http_listen",
                format!(
                    "{address} would send credentials over the network unencrypted: name a certificate and its key in \
                     http_tls_cert and http_tls_key, or listen on 127.0.0.1 or [::1] with a TLS reverse proxy on this \
                     host in front, whose name stands in http_hosts"
                ),
            );
        }
        address
    }

    fn http_tls(&mut self, source: &dyn Source) -> Option<HttpTls> {
        let file = |text: &str| absolute(text).map(Some);
        let cert = self.text("http_tls_cert", || None, file);
        let key = self.text("http_tls_key", || None, file);
        let told = |key: &str| self.layers.get(key).is_some();
        match (told("http_tls_cert"), told("http_tls_key")) {
            (true, false) => self.wrong("http_tls_cert", "needs its private key: set http_tls_key as well"),
            (false, true) => self.wrong("http_tls_key", "needs its certificate: set http_tls_cert as well"),
            (true, true) | (false, false) => {}
        }
        let (cert, key) = (cert?, key?);
        let entrusted = source.variable("CREDENTIALS_DIRECTORY").is_some_and(|dir| {
            let dir = Path::new(&dir);
            dir.is_absolute() && key.parent() == Some(dir)
        });
        let keeper = if entrusted { Keeper::ServiceManager } else { Keeper::Operator };
        Some(HttpTls { cert, key, keeper })
    }

    fn pace(&mut self) -> Pace {
        let mut millis = |key, default| {
            let duration = self.required(key, default, duration::parse);
            u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
        };
        let (interval_ms, ttl_ms) = (millis("interval", "10s"), millis("ttl", "30s"));
        Pace::new(PaceNo(1), interval_ms, ttl_ms).unwrap_or_else(|error| {
            match error {
                PaceError::Interval(_) => self.wrong("interval", error),
                // The TTL may be the default one: then it is the interval that does not fit.
                PaceError::Ttl { .. } if self.layers.get("ttl").is_none() => {
                    self.wrong("interval", format!("{error}; set ttl as well"));
                }
                PaceError::Ttl { .. } => self.wrong("ttl", error),
            }
            Pace { no: PaceNo(1), interval_ms, ttl_ms }
        })
    }

    fn advertise(&mut self) -> Vec<Address> {
        let addresses = self.list("advertise", advertised);
        if addresses.len() > MAX_ADDRESSES {
            self.wrong(
                "advertise",
                format!("{} addresses given; a token carries at most {MAX_ADDRESSES}", addresses.len()),
            );
        }
        addresses
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() { Ok(path.into()) } else { Err(format!("must be an absolute path, not {text:?}")) }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address to listen on: write 0.0.0.0:7411 or [::]:7411"))
}

fn http_address(text: &str) -> Result<SocketAddr, String> {
    listen(text).map_err(|why| why.replace("0.0.0.0:7411 or [::]:7411", "127.0.0.1:7410 or [::1]:7410"))
}

/// Most labels whose values are counted.
const MAX_STATS_LABELS: usize = 8;

fn label_key(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let good = (1..=63).contains(&text.len()) && text.bytes().all(fits);
    good.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is no label: use 1 to 63 of a-z 0-9 _ . -"))
}

fn host_name(text: &str) -> Result<String, String> {
    match text.parse::<Address>() {
        Ok(address) if address.ip().is_none() && !text.contains(':') => Ok(text.to_ascii_lowercase()),
        Ok(_) | Err(_) => Err(format!("{text:?} is no host name: write it without scheme and port")),
    }
}

fn advertised(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|error: rollcall_common::address::AddressError| error.to_string())?;
    if address.ip().is_some_and(|ip| ip.is_unspecified()) {
        return Err(format!("{text} can be listened on but not dialed: give the address that sidecars reach"));
    }
    Ok(address)
}

/// The text may hold a password, so that no error repeats it.
fn liveness(text: &str) -> Result<Liveness, &'static str> {
    match text.split_once("://") {
        None if text == "memory" => Ok(Liveness::Memory),
        Some(("redis" | "valkey", place)) if !place.is_empty() => Ok(Liveness::Redis(RedisUrl(text.into()))),
        Some(("rediss" | "valkeys", _)) => Err("TLS to the liveness store is not supported yet: use redis://"),
        None | Some(_) => Err("write \"memory\" or \"redis://host:6379\""),
    }
}

fn registry(text: &str, state_dir: &Path) -> Result<RegistryAt, String> {
    match (text, text.strip_prefix("sqlite://")) {
        ("sqlite", _) => Ok(RegistryAt::Sqlite(state_dir.join("registry.db"))),
        (_, Some(path)) => absolute(path).map(RegistryAt::Sqlite),
        (_, None) => Err(format!("{text:?} names no registry store: write \"sqlite\" or \"sqlite:///path/to/file\"")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("must be \"text\" or \"json\", not {other:?}")),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{error}: write error, warn, info, debug, trace or a filter of them")),
    }
}

/// The first label of the host's name made a valid id, or `collector`.
fn name_of_host(source: &dyn Source) -> CollectorName {
    let host = source.file(Path::new(HOST_NAME)).unwrap_or_default().to_ascii_lowercase();
    let label = host.trim().split('.').next().unwrap_or_default();
    let id: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    match id.trim_matches('-').parse::<CollectorName>().or_else(|_| "collector".parse()) {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

#[cfg(test)]
mod tests;
