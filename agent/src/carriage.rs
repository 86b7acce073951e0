//! What carries the next connection: QUIC, or TLS on TCP where the way lets no UDP pass. Pure.
//!
//! QUIC comes first, always, and TCP only after dials that *nobody answered*: a collector that refuses has answered.
//! From then on each dial tries both, QUIC with a head start, so that neither a collector's restart nor its absence
//! takes a fleet off QUIC: where neither is answered, it is the collector that is missing, and QUIC's silence counts for
//! nothing. A session that TCP carries has QUIC tried beside it, after a minute and then ever
//! less often, and moves back when that works. Where QUIC shakes hands and then falls silent, again and again, it is
//! TCP that gets the head start, until QUIC has held for a while.
//!
//! It knows no socket and no clock: an enrollment and a session ask it, and tell it what came of it.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use rollcall_common::{backoff::Backoff, time::BootTime, wire::Transport};
use serde::Deserialize;

/// How long the preferred transport has for itself where both are tried: a handshake over a long way.
const HEAD_START: Duration = Duration::from_millis(400);
/// The same of QUIC where it has worked before: a collector that a whole fleet comes back to answers late.
const PATIENT_HEAD_START: Duration = Duration::from_secs(2);
/// Dials in a row that nobody answered over QUIC, where QUIC has worked before in this process.
const MISSES: u32 = 2;
/// The same where it never has: nothing says that it could.
const FIRST_MISSES: u32 = 1;
/// Connections over QUIC in a row that fell silent soon.
const STRIKES: u32 = 2;
/// How long one over QUIC must hold to be trusted again.
const TRUSTED_AFTER: Duration = Duration::from_secs(600);
/// When QUIC is tried first beside a session that TCP carries.
const PROBE_FIRST: Duration = Duration::from_secs(60);
/// The longest time between two such tries.
const PROBE_CAP: Duration = Duration::from_secs(1_800);
/// Jitter of these times, in percent.
const PROBE_JITTER: u32 = 20;

/// What the configuration allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// QUIC, and TCP where UDP is blocked.
    #[default]
    Auto,
    /// QUIC alone.
    Quic,
    /// TCP alone.
    Tcp,
}

/// What one dial tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// This one alone.
    Only(Transport),
    /// Both: this one with a head start.
    Both(Transport),
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(Transport::Quic) => f.write_str("QUIC"),
            Self::Only(Transport::Tcp) => f.write_str("TCP"),
            Self::Both(_) => f.write_str("QUIC or TCP"),
        }
    }
}

/// A change worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// TCP carries it from now on.
    Fell {
        /// What went wrong with QUIC.
        why: String,
        /// When QUIC is tried again; `None` = never, as the configuration asks for TCP.
        probe_in: Option<Duration>,
    },
    /// QUIC carries it again.
    Returned,
}

/// Why TCP carries it, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// What went wrong with QUIC.
    pub why: String,
    /// When QUIC is tried again.
    pub probe_at: Option<BootTime>,
}

/// The decision, and what it rests on.
#[derive(Debug, Clone)]
pub struct Carriage {
    policy: Policy,
    /// Dials over QUIC alone that nobody answered, in a row.
    misses: u32,
    /// Connections over QUIC that fell silent soon after they began, in a row.
    strikes: u32,
    /// Whether QUIC ever carried anything.
    had_quic: bool,
    /// What was said last of QUIC's failing.
    why: String,
    /// Whether TCP carries it, as far as was told.
    fallen: bool,
    probe_delay: Duration,
    /// When QUIC is tried beside a session that TCP carries.
    probe_at: Option<BootTime>,
    chance: Backoff,
}

impl Carriage {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            misses: 0,
            strikes: 0,
            had_quic: false,
            why: String::new(),
            fallen: false,
            probe_delay: PROBE_FIRST,
            probe_at: None,
            chance: Backoff::new(PROBE_FIRST, PROBE_CAP, seed),
        }
    }

    /// The configuration allows something else from now on. A connection that stands stays, until QUIC is found to work
    /// where it is wanted.
    pub fn allow(&mut self, policy: Policy, now: BootTime) {
        if policy == self.policy {
            return;
        }
        self.policy = policy;
        (self.misses, self.strikes, self.probe_delay) = (0, 0, PROBE_FIRST);
        self.probe_at = (self.fallen && policy != Policy::Tcp).then_some(now);
    }

    /// What the next dial tries.
    #[must_use]
    pub fn ways(&self) -> Ways {
        match self.policy {
            Policy::Quic => Ways::Only(Transport::Quic),
            Policy::Tcp => Ways::Only(Transport::Tcp),
            Policy::Auto if self.strikes >= STRIKES => Ways::Both(Transport::Tcp),
            Policy::Auto if self.misses >= if self.had_quic { MISSES } else { FIRST_MISSES } => {
                Ways::Both(Transport::Quic)
            }
            Policy::Auto => Ways::Only(Transport::Quic),
        }
    }

    /// What a dial tries beside a session that stands, to take its place.
    #[must_use]
    pub fn ways_beside(&self, transport: Transport) -> Ways {
        match (transport, self.policy) {
            // It leads back to QUIC where that works, and needs none where it does not.
            (Transport::Tcp, Policy::Auto) => Ways::Both(transport),
            (Transport::Tcp, Policy::Quic | Policy::Tcp) | (Transport::Quic, _) => Ways::Only(transport),
        }
    }

    /// How long the preferred transport has for itself where both are tried.
    #[must_use]
    pub fn head_start(&self) -> Duration {
        if self.had_quic && self.strikes < STRIKES { PATIENT_HEAD_START } else { HEAD_START }
    }

    /// Nobody answered a dial.
    pub fn unanswered(&mut self, ways: Ways, why: impl Into<String>) {
        match ways {
            Ways::Only(Transport::Quic) => {
                self.misses = self.misses.saturating_add(1);
                self.why = why.into();
            }
            // Nobody is there: what QUIC alone did not reach says nothing of QUIC.
            Ways::Both(_) => self.misses = 0,
            Ways::Only(Transport::Tcp) => {}
        }
    }

    /// A collector answered a dial, if only to refuse: the way there is open.
    pub fn answered(&mut self, ways: Ways) {
        match ways {
            Ways::Only(Transport::Quic) => self.misses = 0,
            Ways::Only(Transport::Tcp) | Ways::Both(_) => {}
        }
    }

    /// A handshake was done.
    pub fn opened(&mut self, transport: Transport) {
        match transport {
            Transport::Quic => self.misses = 0,
            Transport::Tcp => {}
        }
    }

    /// A collector accepted a connection: what that changes.
    pub fn greeted(&mut self, transport: Transport, now: BootTime) -> Option<Turn> {
        match transport {
            Transport::Quic => {
                self.misses = 0;
                self.had_quic = true;
                self.probe_at = None;
                if !std::mem::take(&mut self.fallen) {
                    return None;
                }
                // On probation: if it falls silent soon, TCP is next.
                self.strikes = self.strikes.max(1);
                Some(Turn::Returned)
            }
            Transport::Tcp => {
                self.schedule(now);
                let was_fallen = std::mem::replace(&mut self.fallen, true);
                let why = match self.policy {
                    Policy::Tcp => "the configuration asks for TCP".to_owned(),
                    Policy::Auto | Policy::Quic => self.why.clone(),
                };
                self.why.clone_from(&why);
                let probe_in = self.probe_at.map(|at| at.since(now));
                (!was_fallen).then_some(Turn::Fell { why, probe_in })
            }
        }
    }

    /// A connection is over that had been accepted, or at least opened, so long ago; `silent` tells whether it ended
    /// because nothing came any more.
    pub fn ended(&mut self, transport: Transport, lived: Duration, silent: bool, why: impl Into<String>) {
        match transport {
            Transport::Quic if lived >= TRUSTED_AFTER => {
                self.strikes = 0;
                self.probe_delay = PROBE_FIRST;
            }
            Transport::Quic if silent => {
                self.strikes = self.strikes.saturating_add(1);
                if self.fallen {
                    // It was a try while TCP carried it, and took its place without ever being accepted.
                    self.strikes = self.strikes.max(STRIKES);
                }
                self.why = why.into();
                if self.strikes >= STRIKES {
                    self.slow_down();
                }
            }
            Transport::Quic => {}
            Transport::Tcp => self.probe_at = None,
        }
    }

    /// When QUIC is tried beside a session that TCP carries.
    #[must_use]
    pub fn probe_at(&self) -> Option<BootTime> {
        self.probe_at
    }

    /// That try has begun.
    pub fn probing(&mut self) {
        self.probe_at = None;
    }

    /// It came to nothing; `silent` tells whether it fell silent after its handshake.
    pub fn probe_failed(&mut self, why: impl Into<String>, silent: bool, now: BootTime) {
        self.why = why.into();
        if silent {
            self.strikes = self.strikes.max(STRIKES);
        }
        self.slow_down();
        self.schedule(now);
    }

    /// It was given up for something that matters more.
    pub fn probe_put_off(&mut self, now: BootTime) {
        self.schedule(now);
    }

    /// Somebody asked for a try right now: whatever stood in the way may be gone. `is_idle` tells whether there is a
    /// session with nothing under way beside it.
    pub fn hurry(&mut self, is_idle: bool, now: BootTime) {
        self.probe_delay = PROBE_FIRST;
        if is_idle && self.fallen && self.policy != Policy::Tcp {
            self.probe_at = Some(now);
        }
    }

    /// Why TCP carries it, where it does.
    #[must_use]
    pub fn fallback(&self) -> Option<Fallback> {
        self.fallen.then(|| Fallback { why: self.why.clone(), probe_at: self.probe_at })
    }

    fn slow_down(&mut self) {
        self.probe_delay = self.probe_delay.saturating_mul(2).min(PROBE_CAP);
    }

    fn schedule(&mut self, now: BootTime) {
        let delay = self.chance.jitter(self.probe_delay, PROBE_JITTER);
        self.probe_at = (self.policy != Policy::Tcp).then(|| now.after(delay));
    }
}
