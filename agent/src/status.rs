//! What a sidecar shows of itself: kept by the agent, told by the Unix socket and to systemd.

mod settings;

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    path::PathBuf,
};

use rollcall_common::{
    address::Address,
    health::{Health, HealthReport},
    id::ServiceKey,
    identity::Pin,
    lease::Pace,
    time::{BootTime, Now, Timestamp},
    wire::Transport,
};
use serde::{Deserialize, Serialize};

use crate::{
    health::{Fact, HealthBoard, Subject},
    identity::Term,
    session::{SKEW_MS, State, View},
};

pub use self::settings::{ProbeView, RefusedView, SettingsView};

/// What the agent knows of itself right now.
#[derive(Debug, Clone)]
pub struct Board {
    /// What it is doing.
    pub stage: Stage,
    /// Who it is, once that is known.
    pub service: Option<ServiceKey>,
    /// Where it dials.
    pub addresses: Vec<Address>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
    /// What went wrong last, oldest first.
    pub errors: Errors,
    /// How the probes run, and what of that the collector set.
    pub settings: SettingsView,
    /// When the program started.
    pub started: Timestamp,
}

/// The last few things that went wrong; the oldest goes.
#[derive(Debug, Clone, Default)]
pub struct Errors(VecDeque<(Timestamp, String)>);

/// How many of them are kept.
const ERRORS: usize = 8;

impl Errors {
    /// Keeps one more. The same words again only move the time.
    pub fn push(&mut self, at: Timestamp, words: String) {
        if let Some((when, _)) = self.0.back_mut().filter(|(_, last)| *last == words) {
            *when = at;
            return;
        }
        if self.0.len() >= ERRORS {
            self.0.pop_front();
        }
        self.0.push_back((at, words));
    }
}

/// What the agent is doing.
#[derive(Debug, Clone)]
pub enum Stage {
    /// It has no identity and no token.
    WaitingForToken {
        /// Where one belongs.
        place: PathBuf,
        /// What is in its way elsewhere, in words.
        obstacles: Vec<String>,
    },
    /// It asks for an identity, its first one or a fresh one.
    Asking {
        /// Whether it had one that expired.
        rejoin: bool,
        /// Why the last try failed.
        last: Option<String>,
        /// When the next one is due.
        again_at: Option<BootTime>,
    },
    /// An operator has yet to let it in.
    AwaitingApproval {
        /// SHA-256 of its key, to be compared with what the operator sees.
        fingerprint: Pin,
        /// When it asks again.
        again_at: Option<BootTime>,
    },
    /// It has a session.
    Session(Box<View>),
    /// It is leaving.
    Stopping,
}

/// The word for what a sidecar does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// No identity, no token.
    WaitingForToken,
    /// Asking for a first identity.
    Enrolling,
    /// Waiting for an operator to let it in.
    AwaitingApproval,
    /// Asking for a fresh certificate.
    Rejoining,
    /// Between two dials.
    Offline,
    /// A handshake is under way.
    Dialing,
    /// The collector has not accepted yet.
    Greeting,
    /// Beating.
    Live,
    /// Leaving.
    Stopping,
}

impl Doing {
    /// Everything it may do.
    pub const ALL: [Self; 9] = [
        Self::WaitingForToken,
        Self::Enrolling,
        Self::AwaitingApproval,
        Self::Rejoining,
        Self::Offline,
        Self::Dialing,
        Self::Greeting,
        Self::Live,
        Self::Stopping,
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForToken => "waiting_for_token",
            Self::Enrolling => "enrolling",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Rejoining => "rejoining",
            Self::Offline => "offline",
            Self::Dialing => "dialing",
            Self::Greeting => "greeting",
            Self::Live => "live",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `GET /status` answers, one JSON object. Fields are added and never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `kind/id`, once enrolled.
    pub service: Option<String>,
    /// What it does.
    pub state: Doing,
    /// Why it is not live, where it is not.
    pub reason: Option<String>,
    /// The collector dialed or in use.
    pub collector: Option<String>,
    /// Where it may dial.
    pub addresses: Vec<String>,
    /// Counts its dials.
    pub session: u64,
    /// The pace in force.
    pub pace: Option<PaceReport>,
    /// Beats sent since the program started.
    pub beats_sent: u64,
    /// The last beat acknowledged.
    pub last_acked: Option<u64>,
    /// How long ago that was, in milliseconds.
    pub last_ack_ms_ago: Option<u64>,
    /// Until the next try, in milliseconds.
    pub again_in_ms: Option<u64>,
    /// The certificate in use.
    pub certificate: Option<CertificateReport>,
    /// Collector's clock less this host's, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
    /// When the program started, in milliseconds since the epoch.
    #[serde(default)]
    pub started_ms: i64,
    /// Since when it is live, RFC 3339.
    #[serde(default)]
    pub live_since: Option<String>,
    /// What it waits for, where it waits.
    #[serde(default)]
    pub waiting_for: Option<String>,
    /// What carries the session, while it is live: `quic` or `tcp`.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Why TCP carries it, where it does.
    #[serde(default)]
    pub fallback: Option<FallbackReport>,
    /// What went wrong last, oldest first.
    #[serde(default)]
    pub last_errors: Vec<ErrorReport>,
    /// How the service beside it is: the worst of what is said of it, its progress apart.
    #[serde(default)]
    pub health: HealthView,
    /// The same of its progress.
    #[serde(default)]
    pub progress: HealthView,
    /// Who says what.
    #[serde(default)]
    pub sources: Vec<SourceView>,
    /// How the probes run, and what of that the collector set.
    #[serde(default)]
    pub settings: SettingsView,
}

/// Why TCP carries the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackReport {
    /// What went wrong with QUIC.
    pub why: String,
    /// Until QUIC is tried again, in milliseconds.
    pub quic_again_in_ms: Option<u64>,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// When, RFC 3339.
    pub at: String,
    /// What.
    pub what: String,
}

/// How something is, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// How.
    pub health: Health,
    /// Why.
    pub reason: String,
}

impl From<HealthReport> for HealthView {
    fn from(report: HealthReport) -> Self {
        Self { health: report.health, reason: report.reason.into() }
    }
}

/// What one source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// `own`, or the child.
    pub subject: String,
    /// `service` or `progress`.
    pub fact: String,
    /// `probe` or `pushed`.
    pub sort: String,
    /// Its name.
    pub name: String,
    /// What it said.
    pub health: Health,
    /// Why.
    pub reason: String,
    /// How long ago, in milliseconds.
    pub ms_ago: u64,
    /// Whether it should have spoken again by now.
    pub stale: bool,
    /// A count of work done.
    pub count: Option<u64>,
    /// The user who said it.
    pub uid: Option<u32>,
}

/// The pace in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceReport {
    /// Milliseconds between beats.
    pub interval_ms: u32,
    /// Milliseconds that one beat is good for.
    pub ttl_ms: u32,
}

impl From<Pace> for PaceReport {
    fn from(pace: Pace) -> Self {
        Self { interval_ms: pace.interval_ms, ttl_ms: pace.ttl_ms }
    }
}

/// The certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Counts the identity's certificates.
    pub generation: u64,
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// The same in milliseconds since the epoch.
    #[serde(default)]
    pub not_after_ms: i64,
    /// When it is renewed, before jitter, RFC 3339.
    pub renew_at: String,
    /// Whether a renewed one waits to be proven.
    pub next_waits: bool,
}

impl Board {
    /// The report at this moment.
    #[must_use]
    pub fn report(&self, now: Now) -> Report {
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            service: self.service.as_ref().map(ToString::to_string),
            state: self.doing(),
            reason: None,
            collector: None,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            session: 0,
            pace: None,
            beats_sent: 0,
            last_acked: None,
            last_ack_ms_ago: None,
            again_in_ms: None,
            certificate: None,
            clock_skew_ms: None,
            warnings: self.warnings.clone(),
            started_ms: self.started.0,
            live_since: None,
            waiting_for: self.waiting(),
            transport: None,
            fallback: None,
            last_errors: self
                .errors
                .0
                .iter()
                .map(|(at, what)| ErrorReport { at: at.to_string(), what: what.clone() })
                .collect(),
            health: HealthView::default(),
            progress: HealthView::default(),
            sources: Vec::new(),
            settings: self.settings.clone(),
        };
        let until = |at: Option<BootTime>| {
            at.map(|at| at.since(now.boot)).and_then(|left| u64::try_from(left.as_millis()).ok())
        };
        match &self.stage {
            Stage::WaitingForToken { place, obstacles } => {
                report.reason = Some(listed(format!("put one into {}", place.display()), obstacles));
            }
            Stage::Asking { last, again_at, .. } => {
                report.reason = last.clone();
                report.again_in_ms = until(*again_at);
            }
            Stage::AwaitingApproval { fingerprint, again_at } => {
                report.reason = Some(approval_words(*fingerprint));
                report.again_in_ms = until(*again_at);
            }
            Stage::Session(view) => {
                report.collector = view.address.as_ref().map(ToString::to_string);
                report.session = view.session.0;
                report.pace = view.pace.map(Into::into);
                report.beats_sent = view.beat_no.0;
                report.last_acked = view.last_ack.map(|(no, _)| no.0);
                report.last_ack_ms_ago =
                    view.last_ack.and_then(|(_, at)| u64::try_from(now.boot.since(at).as_millis()).ok());
                report.again_in_ms = until(view.again_at);
                report.certificate = Some(certificate(view.current, view.has_next));
                report.clock_skew_ms = view.skew_ms;
                report.live_since = view.live_since.map(|at| now.wall_of(at).to_string());
                report.warnings.extend(view.skew_ms.and_then(skew_warning));
                report.transport = view.transport;
                report.fallback = view.fallback.as_ref().map(|fallback| FallbackReport {
                    why: fallback.why.clone(),
                    quic_again_in_ms: until(fallback.probe_at),
                });
                // Where TCP is asked for, nothing is amiss.
                if let (Some(fallback), Some(address)) = (&view.fallback, &view.address)
                    && fallback.probe_at.is_some()
                {
                    report.warnings.push(format!(
                        "QUIC is not answered, so that TLS on TCP carries the heartbeats: let UDP {} pass to the \
                         collector ({})",
                        address.port(),
                        fallback.why
                    ));
                }
                if view.state != State::Live {
                    report.reason = view.last_end.as_ref().map(ToString::to_string);
                }
            }
            Stage::Stopping => {}
        }
        report
    }

    /// The line that systemd shows.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.stage {
            Stage::WaitingForToken { place, obstacles } => {
                listed(format!("waiting for a token at {}", place.display()), obstacles)
            }
            Stage::Asking { last: Some(last), .. } => format!("{}: {last}", self.doing()),
            Stage::Asking { last: None, .. } => self.doing().to_string(),
            Stage::AwaitingApproval { fingerprint, .. } => approval_words(*fingerprint),
            Stage::Session(view) => match (view.state, &view.address, &view.last_end) {
                (State::Live, Some(address), _) => match (&view.fallback, view.transport) {
                    (Some(fallback), Some(Transport::Tcp)) => {
                        format!("connected to {address} over TCP: {}", fallback.why)
                    }
                    _ => format!("connected to {address}"),
                },
                (State::Offline, _, Some(end)) => format!("offline: {end}"),
                _ => self.doing().to_string(),
            },
            Stage::Stopping => "stopping".into(),
        }
    }

    fn waiting(&self) -> Option<String> {
        let words = match self.doing() {
            Doing::WaitingForToken => "an onboarding token",
            Doing::Enrolling => "a collector's answer to its enrollment",
            Doing::AwaitingApproval => "an operator's approval",
            Doing::Rejoining => "a fresh certificate",
            Doing::Offline => "the moment of the next try",
            Doing::Dialing => "a collector's handshake",
            Doing::Greeting => "a collector's greeting",
            Doing::Live | Doing::Stopping => return None,
        };
        Some(words.into())
    }

    fn doing(&self) -> Doing {
        match &self.stage {
            Stage::WaitingForToken { .. } => Doing::WaitingForToken,
            Stage::Asking { rejoin: false, .. } => Doing::Enrolling,
            Stage::Asking { rejoin: true, .. } => Doing::Rejoining,
            Stage::AwaitingApproval { .. } => Doing::AwaitingApproval,
            Stage::Session(view) => match view.state {
                State::Offline => Doing::Offline,
                State::Rejoining => Doing::Rejoining,
                State::Dialing => Doing::Dialing,
                State::Greeting => Doing::Greeting,
                State::Live => Doing::Live,
                State::Draining | State::Over => Doing::Stopping,
            },
            Stage::Stopping => Doing::Stopping,
        }
    }
}

fn listed(first: String, obstacles: &[String]) -> String {
    obstacles.iter().fold(first, |words, obstacle| words + "; " + obstacle)
}

/// What an operator must know to let this host in.
fn approval_words(fingerprint: Pin) -> String {
    format!("waiting for an operator's approval; the fingerprint of this host's key is {fingerprint}")
}

/// What to say of clocks that differ by so many milliseconds; nothing where that is little.
#[must_use]
pub fn skew_warning(by_ms: i64) -> Option<String> {
    let (seconds, side) = (by_ms.abs() / 1000, if by_ms > 0 { "behind" } else { "ahead of" });
    (by_ms.abs() > SKEW_MS).then(|| format!("this host's clock is {seconds} s {side} the collector's: correct it"))
}

fn certificate(term: Term, next_waits: bool) -> CertificateReport {
    let Term { generation, not_after, renew_at } = term;
    let told = |time: Timestamp| time.to_string();
    CertificateReport {
        generation: generation.0,
        not_after: told(not_after),
        not_after_ms: not_after.0,
        renew_at: told(renew_at),
        next_waits,
    }
}

impl Report {
    /// The report with what is said of the service.
    #[must_use]
    pub fn with_health(mut self, board: &HealthBoard, now: BootTime) -> Self {
        self.health = board.verdict_on(&Subject::Own, Fact::Service, now).into();
        self.progress = board.verdict_on(&Subject::Own, Fact::Progress, now).into();
        for subject in board.subjects() {
            let name = match subject {
                Subject::Own => "own".to_owned(),
                Subject::Child(child) => child.to_string(),
            };
            self.sources.extend(board.of(subject).map(|(source, said)| SourceView {
                subject: name.clone(),
                fact: match source.fact {
                    Fact::Service => "service".into(),
                    Fact::Progress => "progress".into(),
                },
                sort: source.sort.as_str().into(),
                name: source.name.to_string(),
                health: said.health,
                reason: said.reason.to_string(),
                ms_ago: u64::try_from(now.since(said.as_of).as_millis()).unwrap_or(u64::MAX),
                stale: said.is_stale(now),
                count: said.count,
                uid: said.by,
            }));
        }
        self
    }

    /// The report for people, one fact per line.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("service", self.service.clone().unwrap_or_else(|| "not enrolled".into())),
            ("state", self.state.to_string()),
        ];
        let mut row = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
        row("reason", self.reason.clone());
        row("waits for", self.waiting_for.clone());
        row("next try", self.again_in_ms.map(|ms| format!("in {}", seconds(ms))));
        row("collector", self.collector.clone());
        row("carried by", self.transport.map(|transport| carried(transport, self.fallback.as_ref())));
        row("live since", self.live_since.clone());
        row("addresses", (!self.addresses.is_empty()).then(|| self.addresses.join(", ")));
        row("last ack", self.last_ack_ms_ago.map(|ms| format!("{} ago", seconds(ms))));
        row(
            "beats",
            (self.session > 0).then(|| {
                format!(
                    "{} sent, {} acknowledged last, session {}",
                    self.beats_sent,
                    self.last_acked.unwrap_or(0),
                    self.session
                )
            }),
        );
        row(
            "pace",
            self.pace.map(|pace| {
                format!("every {}, lost after {}", seconds(pace.interval_ms.into()), seconds(pace.ttl_ms.into()))
            }),
        );
        row(
            "certificate",
            self.certificate.as_ref().map(|certificate| {
                let next = if certificate.next_waits { ", the next one is being proven" } else { "" };
                format!(
                    "generation {}, until {}, renewal about {}{next}",
                    certificate.generation, certificate.not_after, certificate.renew_at
                )
            }),
        );
        row("clock skew", self.clock_skew_ms.map(|ms| format!("{ms} ms")));
        if !self.sources.is_empty() {
            let reason =
                if self.health.reason.is_empty() { String::new() } else { format!(": {}", self.health.reason) };
            row("service is", Some(format!("{}{reason}", self.health.health)));
            let stuck = &self.progress.reason;
            let moves = match self.progress.health {
                Health::Healthy => Some("it gets on".to_owned()),
                Health::Degraded | Health::Unhealthy => Some(format!("stalled: {stuck}")),
                Health::Unchecked if stuck.is_empty() => None,
                Health::Unchecked => Some(format!("not known: {stuck}")),
            };
            row("progress", moves);
        }
        for source in &self.sources {
            let (stale, of) = (if source.stale { ", stale" } else { "" }, &source.subject);
            let of = if of == "own" { String::new() } else { format!(" of {of}") };
            let said = format!(
                "{} {}{of}: {}, {} ago{stale}",
                source.sort,
                source.name,
                source.health,
                seconds(source.ms_ago)
            );
            row("source", Some(said));
        }
        self.settings.rows(&mut row);
        row("program", Some(format!("version {}, process {}", self.version, self.pid)));
        for warning in &self.warnings {
            row("warning", Some(warning.clone()));
        }
        for error in &self.last_errors {
            row("went wrong", Some(format!("{} {}", error.at, error.what)));
        }
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:<12} {value}");
        }
        table
    }
}

fn carried(transport: Transport, fallback: Option<&FallbackReport>) -> String {
    match (transport, fallback) {
        (Transport::Quic, _) => "QUIC (UDP)".into(),
        (Transport::Tcp, None) => "TLS on TCP".into(),
        (Transport::Tcp, Some(fallback)) => {
            let again = fallback.quic_again_in_ms.map(|ms| format!("; QUIC again in {}", seconds(ms)));
            format!("TLS on TCP: {}{}", fallback.why, again.unwrap_or_default())
        }
    }
}

fn seconds(ms: u64) -> String {
    let tenths = ms / 100;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} s"),
        (whole, rest) if whole < 100 => format!("{whole}.{rest} s"),
        (whole, _) => format!("{whole} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_sidecar_says_what_it_waits_for() {
        let obstacles = vec!["cannot read that".into()];
        let stage = Stage::WaitingForToken { place: "/etc/rollcall/agent/token".into(), obstacles };
        let mut errors = Errors::default();
        for n in 0..20 {
            errors.push(Timestamp(n), format!("mishap {}", n / 2));
        }
        let warnings = vec!["mind this".into()];
        let board = Board {
            stage,
            service: None,
            addresses: vec![],
            warnings,
            errors,
            settings: SettingsView::default(),
            started: Timestamp(0),
        };
        let report = board.report(Now { boot: BootTime(1), wall: Timestamp(1) });
        let table = report.table();
        assert!(table.contains("state        waiting_for_token\n"), "{table}");
        assert!(table.contains("reason       put one into /etc/rollcall/agent/token; cannot read that\n"), "{table}");
        assert_eq!(board.line(), "waiting for a token at /etc/rollcall/agent/token; cannot read that");
        assert!(table.contains("warning      mind this\n"), "{table}");
        assert!(table.contains("waits for    an onboarding token\n"), "{table}");
        let told: Vec<_> = report.last_errors.iter().map(|error| error.what.as_str()).collect();
        assert_eq!(
            told,
            ["mishap 2", "mishap 3", "mishap 4", "mishap 5", "mishap 6", "mishap 7", "mishap 8", "mishap 9"]
        );
        assert_eq!(report.last_errors[0].at, "1970-01-01T00:00:00.005Z", "the same words only move the time");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn skew_names_the_side() {
        assert_eq!(skew_warning(-30_000), None);
        assert_eq!(skew_warning(-90_500).unwrap(), "this host's clock is 90 s ahead of the collector's: correct it");
        assert_eq!(skew_warning(31_000).unwrap(), "this host's clock is 31 s behind the collector's: correct it");
    }

    #[test]
    fn spans_of_time_are_short() {
        assert_eq!(seconds(10_000), "10 s");
        assert_eq!(seconds(1_234), "1.2 s");
        assert_eq!(seconds(123_456), "123 s");
    }
}
