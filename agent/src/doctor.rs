//! `rollcall-agent doctor`: what stands between this host and its collectors, in plain words, each with its fix.
//!
//! It looks and changes nothing: it holds no lock, and never dials with the identity, so that a sidecar that runs
//! beside it is not disturbed and no second one appears at the collector. What it reaches it reaches as a stranger
//! who checks the collector's certificate and leaves without a word. It works as root and as the service's user, with
//! and without a token, and says what it could not see.

mod clock;
mod eyes;
mod host;
mod network;
#[cfg(test)]
mod tests;
mod udp;

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use rollcall_common::{
    address::Address,
    time::{Clock, Timestamp},
};
use serde::Serialize;

use crate::{
    config::{Config, Problems},
    local,
    status::{Doing, Report},
    token::{self, Look},
    vault::{Stored, Vault, VaultError},
};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// All is well.
    Ok,
    /// Good to know.
    Note,
    /// It works, and will not for ever.
    Warn,
    /// It does not work.
    Fail,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub check: &'static str,
    /// How that is.
    pub grade: Grade,
    /// In words.
    pub words: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(check: &'static str, grade: Grade, words: impl Into<String>) -> Self {
        Self { check, grade, words: words.into(), fix: None }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// All findings.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Diagnosis {
    /// Whether nothing fails.
    pub ok: bool,
    /// In the order in which a sidecar meets them.
    pub findings: Vec<Finding>,
}

/// What fails, if anything does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Well,
    /// The way to the collectors alone.
    Unreachable,
    /// Something on this host.
    Ill,
}

/// Checks that are about the way to the collectors.
const WAYS: [&str; 4] = ["name", "quic", "tcp", "collectors"];

impl Diagnosis {
    fn of(findings: Vec<Finding>) -> Self {
        let ok = findings.iter().all(|finding| finding.grade != Grade::Fail);
        Self { ok, findings }
    }

    /// Of a configuration that does not read: nothing else can be looked at then.
    #[must_use]
    pub fn of_problems(problems: &Problems) -> Self {
        let finding = |problem: &crate::config::ConfigError| {
            Finding::new("settings", Grade::Fail, problem.to_string())
                .fix("correct it, see that `rollcall-agent check` finds nothing, and start the sidecar again")
        };
        Self::of(problems.0.iter().map(finding).collect())
    }

    /// What fails.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let mut failed = self.findings.iter().filter(|finding| finding.grade == Grade::Fail).peekable();
        if failed.peek().is_none() {
            Outcome::Well
        } else if failed.all(|finding| WAYS.contains(&finding.check)) {
            Outcome::Unreachable
        } else {
            Outcome::Ill
        }
    }

    /// For people: a line each, and the fix below it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, grade, words, fix } in &self.findings {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<5} {check:<12} {words}", grade.as_str());
            if let Some(fix) = fix {
                let _ = writeln!(text, "{:19}-> {fix}", "");
            }
        }
        let count = |grade| self.findings.iter().filter(|finding| finding.grade == grade).count();
        let _ = match (count(Grade::Fail), count(Grade::Warn)) {
            (0, 0) => writeln!(text, "Nothing is wrong."),
            (0, warnings) => writeln!(text, "Nothing fails; {warnings} to look at."),
            (failed, warnings) => writeln!(text, "{failed} to mend, {warnings} to look at."),
        };
        text
    }
}

/// What is known before anything is dialed.
struct Case<'a> {
    config: &'a Config,
    running: Option<Report>,
    stored: Option<Stored>,
    look: Option<Look>,
}

/// Looks at everything. `sockets` are where a running sidecar may answer.
pub async fn diagnose(config: &Config, sockets: &[PathBuf], clock: &Arc<dyn Clock>) -> Diagnosis {
    let mut found = Vec::new();
    let mut running = None;
    for socket in sockets {
        found.extend(host::socket(socket));
        running = match running {
            None => local::ask(socket).await.ok(),
            known => known,
        };
    }
    found.insert(0, sidecar(running.as_ref(), &config.unit()));
    found.extend(eyes::look(config));
    let inspected = Vault::inspect(&config.state_dir);
    found.extend(host::state(config, inspected.as_ref()));
    let stored = inspected.ok().flatten();
    let now = clock.now();
    found.extend(machine(config, stored.as_ref()));
    let enrolled = stored.as_ref().is_some_and(|stored| stored.current.is_some())
        || running.as_ref().is_some_and(|report| report.service.is_some());
    let look = token::look(&config.token);
    found.extend(host::token(config, &look, enrolled, now.wall));
    if let Some(current) = stored.as_ref().and_then(|stored| stored.current.as_ref()) {
        let term = current.term();
        found.push(certificate(term.not_after, term.renew_at, now.wall, running.is_some()));
    }
    let case = Case { config, running, stored, look: look.ok() };
    found.extend(network::ways(&case, clock).await);
    let term = case.stored.as_ref().and_then(|stored| stored.current.as_ref()).map(|current| current.term());
    found.push(clock::judge(case.running.as_ref(), term.as_ref(), clock::kept().await, now.wall));
    found.extend(host::buffers());
    found.extend(host::unit(&config.unit()).await);
    Diagnosis::of(found)
}

impl Case<'_> {
    /// Where a sidecar would dial, and who says so.
    fn addresses(&self) -> (Vec<Address>, &'static str) {
        if !self.config.addresses.is_empty() {
            return (self.config.addresses.clone(), "the configuration");
        }
        if let Some(kept) = self.stored.as_ref().and_then(|stored| stored.addresses.as_ref()) {
            return (kept.list.clone(), "the state directory");
        }
        if let Some(running) = self.running.as_ref().filter(|running| !running.addresses.is_empty()) {
            return (running.addresses.iter().filter_map(|text| text.parse().ok()).collect(), "the running sidecar");
        }
        if let Some(found) = self.look.as_ref().and_then(|look| look.found.as_ref()) {
            return (found.token.addresses.clone(), "the token");
        }
        (Vec::new(), "nobody")
    }
}

/// The sidecar that runs, if one does.
fn sidecar(running: Option<&Report>, unit: &str) -> Finding {
    let Some(report) = running else {
        return Finding::new("sidecar", Grade::Note, "none runs, or none that may be asked by this user")
            .fix(format!("systemctl start {unit}, or run this as root"));
    };
    let who = report.service.as_deref().unwrap_or("not enrolled");
    let reason = report.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let words = format!("runs as process {}, {who}, {}{reason}", report.pid, report.state);
    match report.state {
        Doing::Live => Finding::new("sidecar", Grade::Ok, words),
        Doing::Dialing | Doing::Greeting | Doing::Rejoining | Doing::Enrolling | Doing::Stopping => {
            Finding::new("sidecar", Grade::Note, words)
        }
        Doing::WaitingForToken | Doing::AwaitingApproval | Doing::Offline => {
            Finding::new("sidecar", Grade::Warn, words)
        }
    }
}

/// Whether the identity is this machine's.
fn machine(config: &Config, stored: Option<&Stored>) -> Option<Finding> {
    use crate::machine::{Belonging, Machine, belonging};
    let here = Machine::look(config.machine_id_file.as_deref());
    let enrolled = stored.filter(|stored| stored.current.is_some());
    let Some(stored) = enrolled else {
        return match here {
            Machine::Known(_) => None,
            Machine::Unknown(why) => Some(
                Finding::new(
                    "machine",
                    Grade::Note,
                    format!("it has no id ({why}): a copied identity is not recognized"),
                )
                .fix("systemd-machine-id-setup; in a container, mount the state directory for it alone"),
            ),
        };
    };
    Some(match belonging(stored.made_for, &here) {
        Belonging::Here => Finding::new("machine", Grade::Ok, "the identity was made for this machine"),
        Belonging::Unbound => Finding::new("machine", Grade::Note, "the identity is bound at the next start"),
        Belonging::Untold => Finding::new("machine", Grade::Note, "it has no id: a copied identity is not recognized"),
        Belonging::Elsewhere if !config.bind_machine => {
            Finding::new("machine", Grade::Warn, "the identity was made for another machine; bind_machine is off")
        }
        Belonging::Elsewhere => {
            Finding::new("machine", Grade::Fail, "the identity was made for another machine, and is not used here").fix(
                "lay down a token of this machine's own, or `rollcall-agent reset`; the same machine under a new \
                 machine-id starts once with bind_machine = false",
            )
        }
    })
}

/// How long the certificate is good for, by this host's clock: a gauge, the collector's judges.
fn certificate(not_after: Timestamp, renew_at: Timestamp, now: Timestamp, running: bool) -> Finding {
    if not_after <= now {
        let words = format!("ended {not_after}");
        return Finding::new("certificate", Grade::Warn, words)
            .fix("start the sidecar: it rejoins with its key; where that is refused, an operator re-enrolls it");
    }
    let words = format!("until {not_after}, renewal about {renew_at}");
    if renew_at <= now && running {
        return Finding::new("certificate", Grade::Warn, format!("{words}: overdue"))
            .fix("see `went wrong` in `rollcall-agent status`");
    }
    Finding::new("certificate", Grade::Ok, words)
}

/// Words for a vault that cannot be looked at.
fn vault_words(error: &VaultError) -> Finding {
    Finding::new("state", Grade::Fail, error.to_string())
}
