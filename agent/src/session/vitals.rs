//! What is said of the service beside us, on its way to the collector. Part of the pure state machine.
//!
//! The last word counts: between two reports of one connection lies at least [`APART`], and what changed meanwhile
//! is told at its end. A new connection is told at once, and nothing is told twice.

use std::time::Duration;

use rollcall_common::{
    health::HealthReport,
    time::{BootTime, Now},
    wire::message::Up,
};

use super::{Action, Phase, Session};

/// No two reports of one connection are closer: a collector hears no more than that.
const APART: Duration = Duration::from_secs(1);

/// What was told on a connection, and when the next word may follow.
#[derive(Debug, Default)]
pub(super) struct Told {
    report: Option<HealthReport>,
    not_before: BootTime,
}

impl Session {
    /// Takes a new verdict in.
    pub(super) fn health(&mut self, report: HealthReport, now: Now) {
        self.health = Some(report);
        self.tell_health(now);
    }

    /// When what is said now may be told.
    pub(super) fn health_due(&self) -> Option<BootTime> {
        let Phase::Live(live) = &self.phase else { return None };
        self.untold().then_some(live.health.not_before)
    }

    /// Tells what is said, if that is news on this connection and its time has come.
    pub(super) fn tell_health(&mut self, now: Now) {
        if !self.untold() {
            return;
        }
        let (Phase::Live(live), Some(report)) = (&mut self.phase, &self.health) else { return };
        if live.health.not_before > now.boot {
            return;
        }
        live.health = Told { report: Some(report.clone()), not_before: now.boot.after(APART) };
        self.actions.push_back(Action::Send(live.no, Up::Health(report.clone())));
    }

    fn untold(&self) -> bool {
        let (Phase::Live(live), Some(report)) = (&self.phase, &self.health) else { return false };
        match &live.health.report {
            Some(told) => told != report,
            None => true,
        }
    }
}
