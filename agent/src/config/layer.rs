//! One source of settings: what it says, and nothing of what others say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId},
    service::CheckerKind,
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError, Instance, LocalLayer, LogFormat, LogLevel, MAIN_FILE, RemoteLayer, Source,
    probes::{self, ChildTable, ProbeTable, Wrong},
    remote::Entry,
};
use crate::{
    carriage::Policy,
    probe::plan::{Child, Probe},
};

/// The settings of one source; whatever is absent is left to the sources below.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented in Config")]
pub struct Layer {
    /// A flag's alone: it says which files are read.
    #[serde(skip)]
    pub instance: Option<Instance>,
    pub kind: Option<Kind>,
    pub id: Option<ServiceId>,
    pub parent: Option<ServiceId>,
    pub checker_kind: Option<CheckerKind>,
    pub labels: Option<BTreeMap<String, String>>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub state_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub consume_token_file: Option<bool>,
    pub addresses: Option<Vec<Address>>,
    pub transport: Option<Policy>,
    pub revoked_retry: Option<Period>,
    pub bind_machine: Option<bool>,
    pub local: Option<LocalLayer>,
    pub children_interval: Option<Period>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub display_name: Option<String>,
    pub version: Option<String>,
    pub site: Option<String>,
    pub environment: Option<String>,
    pub deregister_on_stop: Option<bool>,
    pub enrollment: Option<EnrollmentLayer>,
    pub remote: Option<RemoteLayer>,
    pub log: Option<LogLayer>,
    #[serde(default)]
    pub probe: Vec<Spanned<ProbeTable>>,
    #[serde(default)]
    pub child: Vec<Spanned<ChildTable>>,
    /// What the tables say, and in which file they stand.
    #[serde(skip)]
    pub probes: Vec<(Probe, PathBuf)>,
    /// What the tables say, and in which file they stand.
    #[serde(skip)]
    pub children: Vec<(Child, PathBuf)>,
}

/// The `[log]` table.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented in Log")]
pub struct LogLayer {
    pub format: Option<LogFormat>,
    pub level: Option<LogLevel>,
}

/// The `[enrollment]` table.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented in Enrollment")]
pub struct EnrollmentLayer {
    pub tries: Option<u32>,
    pub retry_delay: Option<Period>,
    pub fail_on_error: Option<bool>,
}

/// A length of time, written as `500ms`, `90s`, `15m`, `1h` or `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time: write 500ms, 90s, 15m, 1h or 2d");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (count, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
        let count: u64 = count.parse().map_err(|_| wrong())?;
        if unit == "ms" {
            return Ok(Self(Duration::from_millis(count)));
        }
        let secs = match unit {
            "s" => Some(count),
            "m" => count.checked_mul(60),
            "h" => count.checked_mul(3_600),
            "d" => count.checked_mul(86_400),
            _ => None,
        };
        secs.map(|secs| Self(Duration::from_secs(secs))).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Layer {
    /// These settings with others laid over them. Labels and metadata are joined key by key; probes and children
    /// of all sources stand side by side.
    #[must_use]
    pub fn overlaid(mut self, over: Self) -> Self {
        self.probes.extend(over.probes);
        self.children.extend(over.children);
        let log = match (self.log, over.log) {
            (Some(under), Some(over)) => {
                Some(LogLayer { format: over.format.or(under.format), level: over.level.or(under.level) })
            }
            (under, over) => over.or(under),
        };
        let enrollment = match (self.enrollment, over.enrollment) {
            (Some(under), Some(over)) => Some(EnrollmentLayer {
                tries: over.tries.or(under.tries),
                retry_delay: over.retry_delay.or(under.retry_delay),
                fail_on_error: over.fail_on_error.or(under.fail_on_error),
            }),
            (under, over) => over.or(under),
        };
        Self {
            instance: over.instance.or(self.instance),
            kind: over.kind.or(self.kind),
            id: over.id.or(self.id),
            parent: over.parent.or(self.parent),
            checker_kind: over.checker_kind.or(self.checker_kind),
            labels: joined(self.labels, over.labels),
            metadata: joined(self.metadata, over.metadata),
            state_dir: over.state_dir.or(self.state_dir),
            socket: over.socket.or(self.socket),
            token_file: over.token_file.or(self.token_file),
            consume_token_file: over.consume_token_file.or(self.consume_token_file),
            addresses: over.addresses.or(self.addresses),
            transport: over.transport.or(self.transport),
            revoked_retry: over.revoked_retry.or(self.revoked_retry),
            bind_machine: over.bind_machine.or(self.bind_machine),
            local: LocalLayer::overlaid(self.local, over.local),
            remote: RemoteLayer::overlaid(self.remote, over.remote),
            children_interval: over.children_interval.or(self.children_interval),
            host: over.host.or(self.host),
            port: over.port.or(self.port),
            display_name: over.display_name.or(self.display_name),
            version: over.version.or(self.version),
            site: over.site.or(self.site),
            environment: over.environment.or(self.environment),
            deregister_on_stop: over.deregister_on_stop.or(self.deregister_on_stop),
            enrollment,
            log,
            probe: Vec::new(),
            child: Vec::new(),
            probes: self.probes,
            children: self.children,
        }
    }
}

type Table = Option<BTreeMap<String, String>>;

fn joined(under: Table, over: Table) -> Table {
    match (under, over) {
        (Some(mut under), Some(over)) => {
            under.extend(over);
            Some(under)
        }
        (under, over) => over.or(under),
    }
}

type Found = Result<Layer, Vec<ConfigError>>;

/// The main file and its fragments. The default main file may be missing; one that was asked for may not.
pub(super) fn from_files(source: &dyn Source, asked: Option<&Path>) -> Vec<Found> {
    let named = asked.map(PathBuf::from).or_else(|| source.variable("ROLLCALL_CONFIG").map(PathBuf::from));
    let main = named.clone().unwrap_or_else(|| MAIN_FILE.into());
    let mut layers = vec![from_file(source, &main, named.is_some())];
    let dir = main.with_extension("d");
    match source.files(&dir) {
        Ok(mut fragments) => {
            fragments.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
            fragments.sort();
            layers.extend(fragments.iter().map(|path| from_file(source, path, true)));
        }
        Err(error) => layers.push(Err(vec![ConfigError::Unreadable { path: dir, source: error }])),
    }
    layers
}

/// Which files and directories these are, as far as they are there.
pub(super) fn files(source: &dyn Source, asked: Option<&Path>) -> Vec<PathBuf> {
    let named = asked.map(PathBuf::from).or_else(|| source.variable("ROLLCALL_CONFIG").map(PathBuf::from));
    let main = named.unwrap_or_else(|| MAIN_FILE.into());
    let dir = main.with_extension("d");
    let mut fragments = source.files(&dir).unwrap_or_default();
    fragments.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    fragments.sort();
    [main, dir].into_iter().chain(fragments).collect()
}

fn from_file(source: &dyn Source, path: &Path, required: bool) -> Found {
    let text = match source.text(path) {
        Ok(Some(text)) => text,
        Ok(None) if required => return Err(vec![ConfigError::Missing(path.into())]),
        Ok(None) => return Ok(Layer::default()),
        Err(error) => return Err(vec![ConfigError::Unreadable { path: path.into(), source: error }]),
    };
    let layer = toml::from_str(&text).map_err(|error| vec![in_file(path, &text, &error)])?;
    with_probes(layer, path, &text)
}

/// Checks the tables of probes and children while their file is at hand.
fn with_probes(mut layer: Layer, path: &Path, text: &str) -> Found {
    let mut wrong = Vec::new();
    let probes = probes::probes(std::mem::take(&mut layer.probe), "", &mut wrong);
    layer.probes = probes.into_iter().map(|probe| (probe, path.to_owned())).collect();
    for table in std::mem::take(&mut layer.child) {
        layer.children.extend(probes::child(table, &mut wrong).map(|child| (child, path.to_owned())));
    }
    if wrong.is_empty() {
        return Ok(layer);
    }
    Err(wrong.into_iter().map(|wrong| in_table(path, text, wrong)).collect())
}

/// Names the line of the key within its table, or of the table.
fn in_table(path: &Path, text: &str, wrong: Wrong) -> ConfigError {
    let Wrong { table, of, key, why } = wrong;
    let before = text.get(..table).unwrap_or_default().matches('\n').count();
    let names = |line: &str| key.is_some_and(|key| line.split_once('=').is_some_and(|(name, _)| name.trim() == key));
    let body = text.lines().skip(before + 1).take_while(|line| !line.trim_start().starts_with('['));
    let line = body.zip(before + 2..).find(|(line, _)| names(line)).map_or(before + 1, |(_, line)| line);
    let key = key.map_or_else(|| of.clone(), |key| format!("{of}: {key}"));
    ConfigError::Line { path: path.into(), line, key: Some(key), why }
}

/// Names the line and the key, so that an editor can jump there and a reader sees what is meant.
fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let content = text.lines().nth(line - 1).unwrap_or_default().trim();
    let key = content.split_once('=').map(|(key, _)| key.trim()).or_else(|| content.strip_prefix('['));
    let key = key.map(|key| key.trim_end_matches(']').to_owned()).filter(|key| !key.is_empty());
    ConfigError::Line { path: path.into(), line, key, why: error.message().replace('\n', "; ") }
}

pub(super) fn from_environment(source: &dyn Source) -> Found {
    let mut reader = Variables { source, problems: Vec::new() };
    let layer = Layer {
        instance: None,
        kind: reader.read("ROLLCALL_KIND", parsed),
        id: reader.read("ROLLCALL_ID", parsed),
        parent: reader.read("ROLLCALL_PARENT", parsed),
        checker_kind: reader.read("ROLLCALL_CHECKER_KIND", parsed),
        labels: reader.read("ROLLCALL_LABELS", pairs),
        metadata: reader.read("ROLLCALL_METADATA", pairs),
        state_dir: reader.read("ROLLCALL_STATE_DIR", parsed),
        socket: reader.read("ROLLCALL_SOCKET", parsed),
        token_file: reader.read("ROLLCALL_TOKEN_FILE", parsed),
        consume_token_file: reader.read("ROLLCALL_CONSUME_TOKEN_FILE", parsed),
        addresses: reader
            .read("ROLLCALL_ADDRESSES", |text| text.split(',').map(|address| parsed(address.trim())).collect()),
        transport: reader.read("ROLLCALL_TRANSPORT", word),
        revoked_retry: reader.read("ROLLCALL_REVOKED_RETRY", parsed),
        bind_machine: reader.read("ROLLCALL_BIND_MACHINE", parsed),
        local: Some(LocalLayer {
            http: reader.read("ROLLCALL_LOCAL_HTTP", parsed),
            http_reports: reader.read("ROLLCALL_LOCAL_HTTP_REPORTS", parsed),
        }),
        remote: Some(RemoteLayer {
            probes: reader.read("ROLLCALL_REMOTE_PROBES", |text| {
                text.split(',').map(|entry| Entry::try_from(entry.trim().to_owned())).collect()
            }),
            min_interval: reader.read("ROLLCALL_REMOTE_MIN_INTERVAL", parsed),
            min_exec_interval: reader.read("ROLLCALL_REMOTE_MIN_EXEC_INTERVAL", parsed),
            max_timeout: reader.read("ROLLCALL_REMOTE_MAX_TIMEOUT", parsed),
        }),
        children_interval: reader.read("ROLLCALL_CHILDREN_INTERVAL", parsed),
        host: reader.read("ROLLCALL_HOST", parsed),
        port: reader.read("ROLLCALL_PORT", parsed),
        display_name: reader.read("ROLLCALL_DISPLAY_NAME", parsed),
        version: reader.read("ROLLCALL_VERSION", parsed),
        site: reader.read("ROLLCALL_SITE", parsed),
        environment: reader.read("ROLLCALL_ENVIRONMENT", parsed),
        deregister_on_stop: reader.read("ROLLCALL_DEREGISTER_ON_STOP", parsed),
        enrollment: Some(EnrollmentLayer {
            tries: reader.read("ROLLCALL_ENROLLMENT_TRIES", parsed),
            retry_delay: reader.read("ROLLCALL_ENROLLMENT_RETRY_DELAY", parsed),
            fail_on_error: reader.read("ROLLCALL_ENROLLMENT_FAIL_ON_ERROR", parsed),
        }),
        log: Some(LogLayer {
            format: reader.read("ROLLCALL_LOG_FORMAT", word),
            level: reader.read("ROLLCALL_LOG_LEVEL", word),
        }),
        ..Layer::default()
    };
    if reader.problems.is_empty() { Ok(layer) } else { Err(reader.problems) }
}

struct Variables<'a> {
    source: &'a dyn Source,
    problems: Vec<ConfigError>,
}

impl Variables<'_> {
    /// An empty variable counts as absent: unit files and shells cannot always unset one.
    fn read<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.source.variable(name).filter(|text| !text.trim().is_empty())?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(ConfigError::Variable { name, why });
                None
            }
        }
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn word<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let known: Vec<String> =
            T::value_variants().iter().filter_map(|v| v.to_possible_value()).map(|v| v.get_name().to_owned()).collect();
        format!("{text:?} is unknown: use {}", known.join(", "))
    })
}

/// Reads `key=value,key=value`.
pub(crate) fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is no key=value"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
}
