//! Where settings come from: files, then the environment, then flags; the last one that speaks wins.
//!
//! It owns the names of the settings and remembers who set each one, so that an error can name file, line
//! and key. It does not know what a value means.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::issuers;
use crate::http::oidc::Issuer;

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "/etc/rollcall/collector.toml";

/// Every setting by its dotted name.
pub(super) const KEYS: &[&str] = &[
    "advertise",
    "audit.file.path",
    "audit.syslog.address",
    "audit.syslog.ca_file",
    "audit.syslog.cert_file",
    "audit.syslog.key_file",
    "audit.webhook.secret_file",
    "audit.webhook.url",
    "feed.events",
    "feed.mebibytes",
    "feed.write_within",
    "http_hosts",
    "http_listen",
    "http_tls_cert",
    "http_tls_key",
    "inactive_after",
    "interval",
    "jobs.archive.cap",
    "jobs.archive.enabled",
    "jobs.archive.jitter",
    "jobs.archive.schedule",
    "jobs.archive.timeout",
    "jobs.ephemeral.cap",
    "jobs.ephemeral.enabled",
    "jobs.ephemeral.jitter",
    "jobs.ephemeral.schedule",
    "jobs.ephemeral.timeout",
    "jobs.grace",
    "jobs.mark_inactive.cap",
    "jobs.mark_inactive.enabled",
    "jobs.mark_inactive.jitter",
    "jobs.mark_inactive.schedule",
    "jobs.mark_inactive.timeout",
    "jobs.purge.cap",
    "jobs.purge.enabled",
    "jobs.purge.jitter",
    "jobs.purge.schedule",
    "jobs.purge.timeout",
    "jobs.retention.cap",
    "jobs.retention.enabled",
    "jobs.retention.jitter",
    "jobs.retention.schedule",
    "jobs.retention.timeout",
    "known_pollers",
    "last_seen_flush",
    "leaf_ttl",
    "limits.enroll_burst",
    "limits.enroll_per_second",
    "limits.handshakes",
    "limits.hello_per_second",
    "limits.http_connections",
    "limits.http_streams",
    "limits.incoming",
    "limits.per_address",
    "limits.rejoin_per_second",
    "limits.tcp_connections",
    "liveness",
    "log.format",
    "log.level",
    "maintenance.horizon",
    "maintenance.longest",
    "metrics.service_ages",
    "metrics.service_ages_most",
    "metrics.total_alias",
    "name",
    "observe_mark",
    "quic_listen",
    "registry",
    "retention.archive_after",
    "retention.audit",
    "retention.blind",
    "retention.blind_limit",
    "retention.deleted",
    "retention.history",
    "retention.history_rows",
    "retention.hold_after_blind",
    "retention.inactive",
    "retention.maintenance",
    "retention.pending",
    "retention.revoked",
    "retention.tokens",
    "state_dir",
    "stats_labels",
    "tcp_fallback",
    "trust_domain",
    "ttl",
];

/// The outside world, as far as settings come from it.
pub trait Source {
    /// The text of a file.
    ///
    /// # Errors
    /// As reading a file does.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The files of a directory whose names end in `.toml`, in name order; none where it does not exist.
    ///
    /// # Errors
    /// As listing a directory does.
    fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Source for System {
    fn file(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        Ok(paths)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: the default stands.
    Default,
    /// A file, and the line in it.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{why}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct ConfigError {
    /// Where it was said.
    pub origin: Origin,
    /// The setting; empty where a file is wrong as a whole.
    pub key: String,
    /// What is wrong, and what would work.
    pub why: String,
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<String>),
}

/// All values that were set, each with whoever set it last.
#[derive(Debug, Default)]
pub(super) struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// The issuers of all files, in order.
    pub(super) issuers: Vec<(Issuer, Origin)>,
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The configuration file; it must then exist.
    pub file: Option<PathBuf>,
    /// Settings by their dotted names.
    pub values: Vec<(&'static str, String)>,
}

impl Layers {
    pub(super) fn gather(source: &dyn Source, flags: &Flags) -> Result<Self, Vec<ConfigError>> {
        let mut layers = Self::default();
        let mut errors = Vec::new();
        layers.gather_files(source, flags, &mut errors);
        for key in KEYS {
            let name = variable_of(key);
            let Some(value) = source.variable(&name) else { continue };
            match value.into_string() {
                Ok(text) => layers.set(key, Value::Text(text), Origin::Variable(name)),
                Err(_) => errors.push(ConfigError {
                    origin: Origin::Variable(name),
                    key: (*key).into(),
                    why: "the value is not UTF-8".into(),
                }),
            }
        }
        for (key, text) in &flags.values {
            layers.set(key, Value::Text(text.clone()), Origin::Flag(format!("--{}", key.replace(['_', '.'], "-"))));
        }
        if errors.is_empty() { Ok(layers) } else { Err(errors) }
    }

    pub(super) fn get(&self, key: &str) -> Option<(&Value, &Origin)> {
        self.values.get(key).map(|(value, origin)| (value, origin))
    }

    pub(super) fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    fn set(&mut self, key: &'static str, value: Value, origin: Origin) {
        self.values.insert(key, (value, origin));
    }

    fn gather_files(&mut self, source: &dyn Source, flags: &Flags, errors: &mut Vec<ConfigError>) {
        let named = flags.file.clone().or_else(|| source.variable("ROLLCALL_CONFIG").map(PathBuf::from));
        let main = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let drop_ins = main.with_extension("d");
        let whole =
            |path: &Path, why: String| ConfigError { origin: Origin::File(path.into(), 0), key: String::new(), why };
        match source.file(&main) {
            Ok(text) => self.gather_file(&main, &text, errors),
            // The default file may be absent; one that was asked for may not.
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => errors.push(whole(&main, format!("cannot be read: {error}"))),
        }
        let more = source.files_in(&drop_ins).unwrap_or_else(|error| {
            errors.push(whole(&drop_ins, format!("cannot be listed: {error}")));
            Vec::new()
        });
        for path in more {
            match source.file(&path) {
                Ok(text) => self.gather_file(&path, &text, errors),
                Err(error) => errors.push(whole(&path, format!("cannot be read: {error}"))),
            }
        }
    }

    fn gather_file(&mut self, path: &Path, text: &str, errors: &mut Vec<ConfigError>) {
        match DeTable::parse(text) {
            Ok(table) => self.gather_table("", table.get_ref(), &|at| line_of(text, at), path, errors),
            Err(error) => errors.push(ConfigError {
                origin: Origin::File(path.into(), error.span().map_or(0, |span| line_of(text, span.start))),
                key: String::new(),
                // The rendered error would quote the line, and with it perhaps a password.
                why: error.message().into(),
            }),
        }
    }

    fn gather_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        line: &dyn Fn(usize) -> usize,
        path: &Path,
        errors: &mut Vec<ConfigError>,
    ) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = Origin::File(path.into(), line(name.span().start));
            let is_table = KEYS.iter().any(|known| known.starts_with(&format!("{key}.")));
            match (value.get_ref(), KEYS.iter().find(|known| **known == key)) {
                (value, _) if key == "oidc" => {
                    let found = issuers::read(value, &origin, line, path, errors);
                    self.issuers.extend(found);
                }
                (DeValue::Table(inner), _) if is_table => {
                    self.gather_table(&format!("{key}."), inner, line, path, errors);
                }
                (_, _) if is_table => {
                    errors.push(ConfigError { origin, why: format!("must be a table: write [{key}]"), key });
                }
                (value, Some(known)) => match value_of(value) {
                    Some(value) => self.set(known, value, origin),
                    None => errors.push(ConfigError {
                        origin,
                        key,
                        why: "must be a text, a whole number, true, false or a list of texts".into(),
                    }),
                },
                (_, None) => {
                    errors.push(ConfigError { origin, why: format!("unknown key; known are {}", known(prefix)), key });
                }
            }
        }
    }
}

fn value_of(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::Text(text.to_string())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Number),
        DeValue::Boolean(flag) => Some(Value::Flag(*flag)),
        DeValue::Array(items) => {
            let text = |item: &DeValue<'_>| item.as_str().map(str::to_owned);
            items.iter().map(|item| text(item.get_ref())).collect::<Option<Vec<_>>>().map(Value::List)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// The names that may stand at a level, for an error.
fn known(prefix: &str) -> String {
    let mut names: Vec<&str> = KEYS.iter().filter_map(|key| key.strip_prefix(prefix)?.split('.').next()).collect();
    names.extend(prefix.is_empty().then_some("oidc"));
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// The environment variable of a setting.
fn variable_of(key: &str) -> String {
    format!("ROLLCALL_{}", key.replace('.', "_").to_uppercase())
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}
