//! What is answered to whom: requests in, answers out. Knows no stream and no parser.

mod say;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use rollcall_common::{
    health::Health,
    time::{BootTime, Clock},
};
use serde::{Deserialize, Serialize};

pub use self::say::{Progress, Report as Said};
use super::{SharedBoard, metrics};
use crate::{
    health::{Fact, SharedHealth, Subject},
    status::{Doing, Report},
};

/// Things said a second by all callers together, in the long run.
pub const WRITES_A_SECOND: u32 = 20;
/// Things said at once.
const WRITES_AT_ONCE: u32 = 100;

const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A user of this host over the socket; in a user namespace of its own, strangers look like one.
    Unix(Option<u32>),
    /// Anybody on this host.
    Loopback,
}

/// A request without its body.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// Behind the question mark.
    pub query: &'a str,
    /// Who asks.
    pub peer: Peer,
    /// Whom it believes to ask.
    pub host: Option<String>,
    /// Whether a page in a browser asks.
    pub from_a_page: bool,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub form: &'static str,
    /// The methods that would have been right.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: String,
}

/// A refusal in words.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub error: String,
}

/// What `/health` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct HealthAnswer {
    /// Whether all facts asked for are well.
    pub ok: bool,
    /// The sidecar itself: whether collectors hear it.
    pub sidecar: FactAnswer,
    /// Whether the service works.
    pub service: FactAnswer,
    /// Whether it gets on with its work.
    pub progress: FactAnswer,
}

/// One fact.
#[derive(Debug, Serialize, Deserialize)]
pub struct FactAnswer {
    /// Whether it is well enough.
    pub ok: bool,
    /// In a word.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// All that answers need.
#[derive(Debug)]
pub struct House {
    /// What the sidecar knows of itself.
    pub board: SharedBoard,
    /// What is said of the service.
    pub health: SharedHealth,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What was answered.
    pub tally: Tally,
    /// Whether anybody on loopback may say something; the host's files may change their mind.
    pub loopback_reports: Arc<AtomicBool>,
    /// Our own user.
    pub me: u32,
    writes: Mutex<Bucket>,
}

impl House {
    /// With nothing said yet.
    #[must_use]
    pub fn new(
        board: SharedBoard,
        health: SharedHealth,
        clock: Arc<dyn Clock>,
        loopback_reports: Arc<AtomicBool>,
    ) -> Self {
        let writes = Mutex::new(Bucket { left: WRITES_AT_ONCE, at: clock.now().boot });
        let me = rustix::process::geteuid().as_raw();
        Self { board, health, clock, tally: Tally::default(), loopback_reports, me, writes }
    }

    /// What is refused before its body is read.
    #[must_use]
    pub fn refuse(&self, asked: &Asked<'_>) -> Option<Answer> {
        let allowed = match asked.path {
            "/health" | "/status" | "/metrics" => "GET, HEAD",
            "/progress" | "/report" => "POST",
            _ => return Some(Answer::refusal(404, "ask /health, /status, /metrics, /progress or /report")),
        };
        if !allowed.split(", ").any(|method| method == asked.method) {
            return Some(Answer { allow: Some(allowed), ..Answer::refusal(405, format!("only {allowed}")) });
        }
        if asked.peer == Peer::Loopback {
            // A page in somebody's browser reaches loopback too, under a name of its own.
            if asked.from_a_page || !asked.host.as_deref().is_some_and(is_loopback) {
                return Some(Answer::refusal(403, "ask with localhost or its address, and not from a page"));
            }
            if asked.method == "POST" && !self.loopback_reports.load(Relaxed) {
                return Some(Answer::refusal(
                    403,
                    "say it over the socket, or set http_reports = true below [local] in the configuration",
                ));
            }
        }
        let now = self.clock.now().boot;
        let full = asked.method == "POST" && !self.writes.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        full.then(|| Answer::refusal(429, format!("at most {WRITES_A_SECOND} a second")))
    }

    /// Answers what was not refused.
    #[must_use]
    pub fn answer(&self, asked: &Asked<'_>, body: &[u8]) -> Answer {
        let now = self.clock.now();
        match asked.path {
            "/health" => self.health(asked.query),
            "/status" => Answer::json(200, &self.report()),
            "/metrics" => {
                let text = metrics::text(&self.report(), &self.tally, now);
                Answer { status: 200, form: PROMETHEUS, allow: None, body: text }
            }
            "/progress" => said(say::progress(self, asked.peer, body, now.boot)),
            "/report" => said(say::report(self, asked.peer, body, now.boot)),
            _ => Answer::refusal(404, "nothing is here"),
        }
    }

    /// Everything the sidecar knows of itself.
    #[must_use]
    pub fn report(&self) -> Report {
        let now = self.clock.now();
        let report = self.board.lock().unwrap_or_else(PoisonError::into_inner).report(now);
        self.health.read(|health| report.with_health(health, now.boot))
    }

    fn health(&self, query: &str) -> Answer {
        let mut of = "service,progress";
        for (key, value) in
            query.split('&').filter(|pair| !pair.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
        {
            match key {
                "of" => of = value,
                _ => return Answer::refusal(400, format!("{key:?} is no parameter: use of=sidecar,service,progress")),
            }
        }
        let now = self.clock.now();
        let report = self.board.lock().unwrap_or_else(PoisonError::into_inner).report(now);
        let fact = |fact| {
            let told = self.health.read(|health| health.verdict_on(&Subject::Own, fact, now.boot));
            FactAnswer {
                // What nobody looks at is no reason to take a service out of traffic.
                ok: told.health != Health::Unhealthy,
                state: told.health.to_string(),
                reason: told.reason.into(),
            }
        };
        let mut answer = HealthAnswer {
            ok: true,
            sidecar: FactAnswer {
                ok: report.state == Doing::Live,
                state: report.state.to_string(),
                reason: report.reason.clone().unwrap_or_default(),
            },
            service: fact(Fact::Service),
            progress: fact(Fact::Progress),
        };
        for name in of.split(',') {
            answer.ok &= match name {
                "sidecar" => answer.sidecar.ok,
                "service" => answer.service.ok,
                "progress" => answer.progress.ok,
                _ => return Answer::refusal(400, format!("{name:?} is no fact: use sidecar, service, progress")),
            };
        }
        Answer::json(if answer.ok { 200 } else { 503 }, &answer)
    }
}

fn said(outcome: Result<(), (u16, String)>) -> Answer {
    match outcome {
        Ok(()) => Answer { status: 204, form: JSON, allow: None, body: String::new() },
        Err((status, words)) => Answer::refusal(status, words),
    }
}

impl Answer {
    pub(super) fn refusal(status: u16, error: impl Into<String>) -> Self {
        Self::json(status, &Refusal { error: error.into() })
    }

    fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self { status, form: JSON, allow: None, body: body + "\n" },
            Err(error) => Self { status: 500, form: JSON, allow: None, body: format!("{{\"error\":{error:?}}}\n") },
        }
    }
}

/// Whether a `Host` names this host's loopback: a page that made its own name point here does not know it.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// How much may still be said now.
#[derive(Debug)]
struct Bucket {
    left: u32,
    at: BootTime,
}

impl Bucket {
    fn take(&mut self, now: BootTime) -> bool {
        let each = 1_000 / u64::from(WRITES_A_SECOND);
        let earned = now.0.saturating_sub(self.at.0) / each;
        self.at = BootTime(self.at.0.saturating_add(earned * each));
        self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(WRITES_AT_ONCE);
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

/// Which paths are counted apart.
pub(super) const PATHS: [&str; 6] = ["/health", "/status", "/metrics", "/progress", "/report", "other"];

/// What was answered, since the program started.
#[derive(Debug, Default)]
pub struct Tally {
    served: [AtomicU64; PATHS.len()],
    refused: [AtomicU64; PATHS.len()],
    crowded: AtomicU64,
    broken: AtomicU64,
}

impl Tally {
    /// A request was answered. That a service is unhealthy is no refusal.
    pub(super) fn answered(&self, path: &str, status: u16) {
        let at = PATHS.iter().position(|known| *known == path).unwrap_or(PATHS.len() - 1);
        let row = if (400..500).contains(&status) { &self.refused } else { &self.served };
        if let Some(cell) = row.get(at) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// A caller yielded to another one.
    pub(super) fn crowded(&self) {
        self.crowded.fetch_add(1, Relaxed);
    }

    /// A caller did not finish, or spoke no HTTP.
    pub(super) fn broken(&self) {
        self.broken.fetch_add(1, Relaxed);
    }

    /// Served and refused requests of each path.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let rows = PATHS.iter().zip(&self.served).zip(&self.refused);
        rows.map(|((path, served), refused)| (*path, served.load(Relaxed), refused.load(Relaxed)))
    }

    /// Callers that yielded, and callers that broke off.
    pub(super) fn lost(&self) -> (u64, u64) {
        (self.crowded.load(Relaxed), self.broken.load(Relaxed))
    }
}
