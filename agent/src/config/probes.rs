//! `[[probe]]` and `[[child]]` tables → [`plan`]. What is wrong is told with its file, line, table and key.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use rollcall_common::{
    health::Health,
    id::{Kind, ServiceId, ServiceKey},
    service::{CheckerKind, Pairs},
    wire::children::ChildAbout,
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Period,
    announce::with_names,
    limits::{INTERVALS, STEADY, TIMEOUTS},
};
use crate::probe::{
    gauge::Rules,
    plan::{Check, Child, Grpc, Http, MAX_PROBES, Moves, Probe, Process, Progress, Target, Trust, Url},
};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(3);
const GRACE_CAP: Duration = Duration::from_secs(3_600);
const WITHIN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const RISE: u32 = 2;
const FALL: u32 = 3;
/// Longest text that a page may be asked to hold, or a gRPC service's name.
const MAX_BODY: usize = 1_024;
const MAX_REDIRECTS: u8 = 10;
const MAX_WORDS: usize = 64;

/// A `[[probe]]` table as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeTable {
    name: Option<ServiceId>,
    r#type: Sort,
    interval: Option<Period>,
    timeout: Option<Period>,
    rise: Option<u32>,
    fall: Option<u32>,
    start_grace: Option<Period>,
    worst: Option<Worst>,
    standby: Option<bool>,
    unit: Option<String>,
    pid_file: Option<PathBuf>,
    process: Option<String>,
    cgroup: Option<String>,
    address: Option<String>,
    url: Option<String>,
    status: Option<Vec<StatusWord>>,
    body: Option<String>,
    redirects: Option<u8>,
    ca: Option<PathBuf>,
    verify: Option<bool>,
    service: Option<String>,
    command: Option<Vec<String>>,
    file: Option<PathBuf>,
    within: Option<Period>,
    moves: Option<MovesWord>,
}

/// A `[[child]]` table as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildTable {
    kind: Kind,
    id: ServiceId,
    parent: Option<ServiceId>,
    checker_kind: Option<CheckerKind>,
    display_name: Option<String>,
    version: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    assume_alive: Option<bool>,
    #[serde(default)]
    probe: Vec<Spanned<ProbeTable>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    Systemd,
    Process,
    Tcp,
    Http,
    Grpc,
    Exec,
    Progress,
}

impl Sort {
    fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Process => "process",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Exec => "exec",
            Self::Progress => "progress",
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Worst {
    Degraded,
    Unhealthy,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MovesWord {
    Mtime,
    Size,
    Content,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum StatusWord {
    One(u16),
    Range(String),
}

/// One thing wrong with a table: where it begins, the key, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Where the table begins in its file, in bytes.
    pub(super) table: usize,
    /// The table, and whose.
    pub(super) of: String,
    /// The key, where it is one key's fault.
    pub(super) key: Option<&'static str>,
    /// What is wrong.
    pub(super) why: String,
}

type Faults = Vec<(Option<&'static str>, String)>;

/// The probes of one service.
pub(super) fn probes(tables: Vec<Spanned<ProbeTable>>, whose: &str, wrong: &mut Vec<Wrong>) -> Vec<Probe> {
    let mut all: Vec<Probe> = Vec::with_capacity(tables.len());
    for table in tables {
        let at = table.span().start;
        let table = table.into_inner();
        let of = match &table.name {
            Some(name) => format!("[[{whose}probe]] {:?}", name.as_str()),
            None => format!("[[{whose}probe]]"),
        };
        match probe(table) {
            Ok(probe) if all.iter().any(|other| other.name == probe.name) => wrong.push(Wrong {
                table: at,
                of,
                key: Some("name"),
                why: format!("there are two named {:?}: give each its own", probe.name.as_str()),
            }),
            Ok(_) if all.len() >= MAX_PROBES => {
                wrong.push(Wrong { table: at, of, key: None, why: format!("over {MAX_PROBES} probes of one service") });
            }
            Ok(probe) => all.push(probe),
            Err(faults) => {
                wrong.extend(faults.into_iter().map(|(key, why)| Wrong { table: at, of: of.clone(), key, why }))
            }
        }
    }
    all
}

/// One child.
pub(super) fn child(table: Spanned<ChildTable>, wrong: &mut Vec<Wrong>) -> Option<Child> {
    let at = table.span().start;
    let table = table.into_inner();
    let key = ServiceKey::new(table.kind, table.id);
    let before = wrong.len();
    let mut fault = |key_name: Option<&'static str>, why: String| {
        wrong.push(Wrong { table: at, of: format!("[[child]] {key}"), key: key_name, why });
    };
    if table.checker_kind.is_some() && key.kind != Kind::Checker {
        fault(Some("checker_kind"), "only a checker has one: remove it, or set kind = \"checker\"".into());
    }
    let assume_alive = table.assume_alive.unwrap_or(false);
    if table.probe.is_empty() && table.assume_alive.is_none() {
        fault(
            None,
            "it has no probe, so that nothing would be said of it: add a [[child.probe]], or set assume_alive = false \
             where programs report for it (`rollcall-agent report --child`), or assume_alive = true to call it alive \
             for as long as this sidecar is"
                .into(),
        );
    }
    let labels = Pairs::try_from(table.labels).map_err(|error| fault(Some("labels"), error.to_string())).ok();
    let metadata = with_names(table.metadata, table.display_name, table.version, None, None)
        .map_err(|(key_name, why)| fault(Some(key_name), why))
        .ok();
    let probes = probes(table.probe, "child.", wrong);
    if wrong.len() > before {
        return None;
    }
    let about = ChildAbout { checker_kind: table.checker_kind, labels: labels?, metadata: metadata? };
    Some(Child { key, parent: table.parent, about, probes, assume_alive })
}

/// What of a period is out of its range.
fn within(
    given: Option<Period>,
    otherwise: Duration,
    range: &RangeInclusive<Duration>,
    key: &'static str,
    faults: &mut Faults,
) -> Duration {
    let period = given.map_or(otherwise, |period| period.0);
    if !range.contains(&period) {
        faults.push((Some(key), format!("give a time between {} and {}", words(*range.start()), words(*range.end()))));
    }
    period
}

fn words(period: Duration) -> String {
    match period.as_secs() {
        0 => format!("{}ms", period.as_millis()),
        secs if secs % 86_400 == 0 => format!("{}d", secs / 86_400),
        secs if secs % 3_600 == 0 => format!("{}h", secs / 3_600),
        secs => format!("{secs}s"),
    }
}

fn probe(table: ProbeTable) -> Result<Probe, Faults> {
    let mut faults = misplaced(&table);
    let interval = within(table.interval, INTERVAL, &INTERVALS, "interval", &mut faults);
    let timeout = within(table.timeout, TIMEOUT.min(interval), &TIMEOUTS, "timeout", &mut faults);
    if timeout > interval {
        let why = format!("a look of {} does not fit into an interval of {}", words(timeout), words(interval));
        faults.push((Some("timeout"), why));
    }
    let grace = within(table.start_grace, Duration::ZERO, &(Duration::ZERO..=GRACE_CAP), "start_grace", &mut faults);
    let mut steady = |given: Option<u32>, otherwise, key| {
        let count = given.unwrap_or(otherwise);
        if !STEADY.contains(&count) {
            faults.push((Some(key), format!("give a count between {} and {}", STEADY.start(), STEADY.end())));
        }
        count
    };
    let rules = Rules { rise: steady(table.rise, RISE, "rise"), fall: steady(table.fall, FALL, "fall"), grace };
    let worst = match table.worst {
        Some(Worst::Degraded) => Health::Degraded,
        Some(Worst::Unhealthy) | None => Health::Unhealthy,
    };
    let (sort, standby) = (table.r#type, table.standby.unwrap_or(false));
    let name = table.name.clone().or_else(|| sort.word().parse().ok());
    match (check(table), name) {
        (Ok(check), Some(name)) if faults.is_empty() => {
            Ok(Probe { name, check, interval, timeout, rules, worst, standby })
        }
        (check, _) => {
            faults.extend(check.err());
            Err(faults)
        }
    }
}

/// Keys that mean nothing to a probe of this type.
fn misplaced(table: &ProbeTable) -> Faults {
    use Sort::{Exec, Grpc, Http, Process, Progress, Systemd, Tcp};
    let given: [(&str, bool, &[Sort]); 16] = [
        ("unit", table.unit.is_some(), &[Systemd]),
        ("pid_file", table.pid_file.is_some(), &[Process]),
        ("process", table.process.is_some(), &[Process]),
        ("cgroup", table.cgroup.is_some(), &[Process]),
        ("address", table.address.is_some(), &[Tcp]),
        ("url", table.url.is_some(), &[Http, Grpc]),
        ("status", table.status.is_some(), &[Http]),
        ("body", table.body.is_some(), &[Http]),
        ("redirects", table.redirects.is_some(), &[Http]),
        ("ca", table.ca.is_some(), &[Http, Grpc]),
        ("verify", table.verify.is_some(), &[Http, Grpc]),
        ("service", table.service.is_some(), &[Grpc]),
        ("command", table.command.is_some(), &[Exec]),
        ("file", table.file.is_some(), &[Progress]),
        ("within", table.within.is_some(), &[Progress]),
        ("moves", table.moves.is_some(), &[Progress]),
    ];
    let stray = given.into_iter().filter(|(_, given, sorts)| *given && !sorts.contains(&table.r#type));
    stray
        .map(|(key, _, sorts)| {
            let sorts: Vec<&str> = sorts.iter().map(|sort| sort.word()).collect();
            (Some(key), format!("belongs to type {}, not to {}", sorts.join(" or "), table.r#type.word()))
        })
        .collect()
}

type Fault = (Option<&'static str>, String);

fn check(table: ProbeTable) -> Result<Check, Fault> {
    let missing = |key: &'static str| (Some(key), format!("a probe of type {} needs it", table.r#type.word()));
    match table.r#type {
        Sort::Systemd => Ok(Check::Systemd(unit(table.unit.ok_or_else(|| missing("unit"))?)?)),
        Sort::Process => process(table).map(Check::Process),
        Sort::Tcp => {
            let address = table.address.as_deref().ok_or_else(|| missing("address"))?;
            let why = || (Some("address"), format!("{address:?} is no address: write host:port or [2001:db8::1]:port"));
            Target::read(address).map(Check::Tcp).ok_or_else(why)
        }
        Sort::Http => {
            let url = page(table.url.as_deref().ok_or_else(|| missing("url"))?)?;
            let trust = trust(url.tls, table.ca, table.verify)?;
            if table.body.as_ref().is_some_and(|body| body.is_empty() || body.len() > MAX_BODY) {
                return Err((Some("body"), format!("give 1 to {MAX_BODY} bytes")));
            }
            let redirects = table.redirects.unwrap_or(0);
            if redirects > MAX_REDIRECTS {
                return Err((Some("redirects"), format!("at most {MAX_REDIRECTS} are followed")));
            }
            Ok(Check::Http(Http { url, status: statuses(table.status)?, body: table.body, redirects, trust }))
        }
        Sort::Grpc => {
            let url = page(table.url.as_deref().ok_or_else(|| missing("url"))?)?;
            if url.path != "/" {
                return Err((Some("url"), "has no path: the health service has its own".into()));
            }
            let service = table.service.unwrap_or_default();
            if service.len() > 127 || !service.bytes().all(|b| b.is_ascii_graphic()) {
                return Err((Some("service"), "give a name of at most 127 printable characters".into()));
            }
            let trust = trust(url.tls, table.ca, table.verify)?;
            Ok(Check::Grpc(Grpc { url, service, trust }))
        }
        Sort::Exec => {
            let command = table.command.ok_or_else(|| missing("command"))?;
            let absolute = command.first().is_some_and(|program| program.starts_with('/'));
            if !absolute {
                return Err((
                    Some("command"),
                    "is a list that begins with the program's whole path, like [\"/usr/lib/nagios/plugins/check_load\", \
                     \"-w\", \"4\"]; there is no shell"
                        .into(),
                ));
            }
            if command.len() > MAX_WORDS || command.iter().any(|word| word.contains('\0') || word.len() > 4_096) {
                return Err((Some("command"), format!("at most {MAX_WORDS} words of 4096 bytes")));
            }
            Ok(Check::Exec(command))
        }
        Sort::Progress => {
            let file = absolute(table.file.ok_or_else(|| missing("file"))?, "file")?;
            let period = table.within.ok_or_else(|| missing("within"))?.0;
            if !WITHIN.contains(&period) {
                return Err((
                    Some("within"),
                    format!("give a time between {} and {}", words(*WITHIN.start()), words(*WITHIN.end())),
                ));
            }
            let moves = match table.moves {
                Some(MovesWord::Size) => Moves::Size,
                Some(MovesWord::Content) => Moves::Content,
                Some(MovesWord::Mtime) | None => Moves::Mtime,
            };
            Ok(Check::Progress(Progress { file, within: period, moves }))
        }
    }
}

fn unit(unit: String) -> Result<String, Fault> {
    let known = ["service", "socket", "timer", "mount", "target", "path", "scope", "slice"];
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    let ends = unit.rsplit_once('.').is_some_and(|(name, suffix)| !name.is_empty() && known.contains(&suffix));
    if ends && unit.len() <= 255 && unit.bytes().all(byte) {
        Ok(unit)
    } else {
        Err((Some("unit"), format!("{unit:?} is no unit: write its whole name, like nginx.service")))
    }
}

fn process(table: ProbeTable) -> Result<Process, Fault> {
    let name = |name: String| {
        let fits = !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']);
        let why = || (Some("process"), format!("{name:?} is no name of a process: write it without its path"));
        if fits { Ok(name) } else { Err(why()) }
    };
    match (table.pid_file, table.process, table.cgroup) {
        (Some(file), given, None) => {
            Ok(Process::PidFile { file: absolute(file, "pid_file")?, name: given.map(name).transpose()? })
        }
        (None, Some(given), None) => Ok(Process::Name(name(given)?)),
        (None, None, Some(group)) => {
            let group = group.trim_matches('/').to_owned();
            if group.is_empty() || group.len() > 1_024 || group.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err((
                    Some("cgroup"),
                    "write its path from the root of the hierarchy, like system.slice/x".into(),
                ));
            }
            Ok(Process::Cgroup(group))
        }
        _ => Err((
            None,
            "a probe of type process needs `pid_file`, `process` or `cgroup`; the first two go together".into(),
        )),
    }
}

fn absolute(path: PathBuf, key: &'static str) -> Result<PathBuf, Fault> {
    if path.is_absolute() { Ok(path) } else { Err((Some(key), "is not a whole path, beginning with /".into())) }
}

fn page(text: &str) -> Result<Url, Fault> {
    let why = || {
        let shown: String = text.chars().take(80).collect();
        (
            Some("url"),
            format!("{shown:?} is no address of a page: write http://host:port/path, without user and password"),
        )
    };
    Url::read(text).ok_or_else(why)
}

fn trust(tls: bool, ca: Option<PathBuf>, verify: Option<bool>) -> Result<Trust, Fault> {
    match (ca, verify) {
        (None, None) => Ok(Trust::Host),
        (Some(_), _) if !tls => Err((Some("ca"), "belongs to https".into())),
        (None, Some(_)) if !tls => Err((Some("verify"), "belongs to https".into())),
        (Some(_), Some(false)) => {
            Err((Some("verify"), "with `ca`, everything is verified: leave one of them out".into()))
        }
        (Some(file), Some(true) | None) => Ok(Trust::File(absolute(file, "ca")?)),
        (None, Some(true)) => Ok(Trust::Host),
        (None, Some(false)) => Ok(Trust::Anybody),
    }
}

fn statuses(given: Option<Vec<StatusWord>>) -> Result<Vec<(u16, u16)>, Fault> {
    let Some(given) = given else { return Ok(vec![(200, 299)]) };
    let why = || (Some("status"), "give numbers from 100 to 599 or ranges, like [200, \"301-302\"]".to_owned());
    let range = |word: StatusWord| match word {
        StatusWord::One(status) => Some((status, status)),
        StatusWord::Range(text) => {
            let (from, to) = text.split_once('-').unwrap_or((&text, &text));
            Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
        }
    };
    let ranges: Option<Vec<_>> = given.into_iter().map(range).collect();
    let fits = |ranges: &Vec<(u16, u16)>| {
        !ranges.is_empty()
            && ranges.len() <= 16
            && ranges.iter().all(|(from, to)| 100 <= *from && from <= to && *to < 600)
    };
    ranges.filter(fits).ok_or_else(why)
}
