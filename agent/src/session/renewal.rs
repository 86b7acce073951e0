//! When to ask for the next certificate, and how far that got. Pure.
//!
//! Due times come from the collector's clock carried on the host's boot clock, so that a step of the
//! host's wall clock neither hastens nor delays a renewal. Failures back off from 30 s to 15 min.

use std::time::Duration;

use rollcall_common::{backoff::Backoff, time::BootTime};

const BACKOFF_BASE: Duration = Duration::from_secs(60);
const BACKOFF_CAP: Duration = Duration::from_secs(15 * 60);
/// How long a collector may take to issue.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Shortest and longest rest after a success.
const REST_FLOOR: Duration = Duration::from_secs(1);
const REST_CAP: Duration = Duration::from_secs(60);
const NEVER: BootTime = BootTime(u64::MAX);

/// The state of the renewal.
#[derive(Debug)]
pub(super) struct Renewal {
    stage: Stage,
    backoff: Backoff,
    /// No earlier than this, because the last try failed or has just succeeded.
    not_before: BootTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing to do before that moment.
    Resting(BootTime),
    /// The owner makes a key and keeps it.
    Making,
    /// The request is out; an answer is expected by then.
    Asked(BootTime),
    /// The owner keeps the new certificate.
    Keeping,
    /// The new certificate is kept; a connection shall prove it at that moment.
    Proving(BootTime),
}

/// What has to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Have a key made.
    MakeKey,
    /// The collector did not answer in time.
    GiveUp,
    /// Dial with the new certificate.
    Prove,
}

impl Renewal {
    /// Rests until the first greeting; or, where a certificate waits to be proven, for that.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            stage: Stage::Resting(NEVER),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, seed),
            not_before: BootTime::default(),
        }
    }

    /// The collector said when; a failed try is not repeated sooner than its backoff.
    pub(super) fn schedule(&mut self, due: BootTime) {
        match self.stage {
            Stage::Resting(_) | Stage::Making | Stage::Asked(_) | Stage::Proving(_) => {
                self.stage = Stage::Resting(due.max(self.not_before));
            }
            // The owner is at work: its answer decides what follows.
            Stage::Keeping => {}
        }
    }

    /// The collector wants it now.
    pub(super) fn hasten(&mut self, due: BootTime) {
        if let Stage::Resting(_) = self.stage {
            self.stage = Stage::Resting(due);
        }
    }

    /// When something has to be done, for [`Self::step`].
    pub(super) fn deadline(&self) -> Option<BootTime> {
        match self.stage {
            Stage::Resting(at) | Stage::Asked(at) | Stage::Proving(at) => Some(at).filter(|at| *at < NEVER),
            Stage::Making | Stage::Keeping => None,
        }
    }

    /// What has to be done now, if anything. The caller does it.
    pub(super) fn step(&mut self, now: BootTime) -> Option<Step> {
        match self.stage {
            Stage::Resting(at) if at <= now => {
                self.stage = Stage::Making;
                Some(Step::MakeKey)
            }
            Stage::Asked(at) if at <= now => Some(Step::GiveUp),
            Stage::Proving(at) if at <= now => {
                self.stage = Stage::Proving(NEVER);
                Some(Step::Prove)
            }
            Stage::Resting(_) | Stage::Asked(_) | Stage::Proving(_) | Stage::Making | Stage::Keeping => None,
        }
    }

    /// The owner has a key: whether it is still wanted. If so, the request leaves now.
    pub(super) fn ask(&mut self, now: BootTime) -> bool {
        let wanted = self.stage == Stage::Making;
        if wanted {
            self.stage = Stage::Asked(now.after(ANSWER_WITHIN));
        }
        wanted
    }

    /// Whether an answer of the collector is awaited.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked(_))
    }

    /// The answer is here; the owner keeps it.
    pub(super) fn keep(&mut self) {
        self.stage = Stage::Keeping;
    }

    /// The owner kept it: prove it at that moment.
    pub(super) fn prove(&mut self, at: BootTime) {
        self.stage = Stage::Proving(at);
    }

    /// The connection ended: what was under way on it is lost, and tried again later.
    pub(super) fn interrupted(&mut self, now: BootTime) {
        match self.stage {
            Stage::Making | Stage::Asked(_) => drop(self.failed(now, Duration::ZERO)),
            Stage::Resting(_) | Stage::Keeping | Stage::Proving(_) => {}
        }
    }

    /// It failed: tells the delay until the next try.
    pub(super) fn failed(&mut self, now: BootTime, patience: Duration) -> Duration {
        let delay = self.backoff.next_delay(None).max(patience);
        self.not_before = now.after(delay);
        self.stage = Stage::Resting(self.not_before);
        delay
    }

    /// The proof did not come about for want of a connection: tells the delay until the next try.
    pub(super) fn unproven(&mut self, now: BootTime) -> Duration {
        let delay = self.backoff.next_delay(None);
        self.stage = Stage::Proving(now.after(delay));
        delay
    }

    /// The new certificate is in use. Whatever dates it carries, the next one is not asked for at once: a
    /// collector with wrong dates must not be renewed at in a loop.
    pub(super) fn succeeded(&mut self, now: BootTime, half_life: Duration) {
        self.backoff.reset();
        self.not_before = now.after((half_life / 4).clamp(REST_FLOOR, REST_CAP));
        self.stage = Stage::Resting(NEVER);
    }
}
