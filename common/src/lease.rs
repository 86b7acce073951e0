//! Presence from beats and deadlines.
//!
//! A lease is what one service was granted: an interval, a time to live, a deadline. This module turns
//! such a lease and a reading of the collector's boot clock into a [`Presence`]; it stores nothing and
//! decides no verdict. `late` exists only here: it is computed when somebody looks.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{id::PaceNo, service::UnknownWord, time::BootTime};

/// What the collectors observe of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// No heartbeat ever.
    NeverSeen,
    /// An acknowledged heartbeat within its interval.
    Alive,
    /// One granted interval plus max(1 s, 20 %) missed.
    Late,
    /// Its deadline passed while it was being observed.
    Lost,
    /// It said goodbye.
    Stopped,
    /// No verdict; always with an [`Unknown`] reason.
    Unknown,
}

impl Presence {
    /// Every presence.
    pub const ALL: [Self; 6] = [Self::NeverSeen, Self::Alive, Self::Late, Self::Lost, Self::Stopped, Self::Unknown];

    /// The word used in the API, in rows and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverSeen => "never_seen",
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Presence {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|presence| presence.as_str() == text)
            .ok_or_else(|| UnknownWord { what: "presence", text: text.into() })
    }
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The collector could not observe for a while and has not heard from it since.
    CollectorBlind,
    /// Too many of its group went silent at once.
    Brake,
    /// Its parent is lost, and its own evidence came through the parent.
    ViaParent,
}

impl Unknown {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::CollectorBlind, Self::Brake, Self::ViaParent];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CollectorBlind => "collector_blind",
            Self::Brake => "brake",
            Self::ViaParent => "via_parent",
        }
    }
}

impl FromStr for Unknown {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.ok_or_else(|| UnknownWord { what: "reason", text: text.into() })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The beat that a collector grants: how often, and for how long one beat is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Counts up with each change.
    pub no: PaceNo,
    /// Time between two beats, in milliseconds.
    pub interval_ms: u32,
    /// Time to live of one beat, in milliseconds.
    pub ttl_ms: u32,
}

/// Why a pace cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PaceError {
    /// The interval is out of range.
    #[error("the interval must lie between 100 ms and 10 min, not {0} ms")]
    Interval(u32),
    /// The TTL leaves no room for a lost beat and a reconnect.
    #[error("the TTL must be at least three intervals ({need} ms) and at most 1 h, not {ttl} ms")]
    Ttl {
        /// What was given, in milliseconds.
        ttl: u32,
        /// The least that works, in milliseconds.
        need: u32,
    },
}

impl Pace {
    /// Shortest interval, in milliseconds: short enough for tests, long enough for a timer.
    pub const MIN_INTERVAL_MS: u32 = 100;
    /// Longest interval, in milliseconds.
    pub const MAX_INTERVAL_MS: u32 = 600_000;
    /// Longest time to live, in milliseconds.
    pub const MAX_TTL_MS: u32 = 3_600_000;

    /// A pace that leaves room for two lost beats (`liveness.md`, D3: lease of at least three intervals).
    ///
    /// # Errors
    /// [`PaceError`] where the interval is out of range or the TTL shorter than three intervals.
    pub fn new(no: PaceNo, interval_ms: u32, ttl_ms: u32) -> Result<Self, PaceError> {
        if !(Self::MIN_INTERVAL_MS..=Self::MAX_INTERVAL_MS).contains(&interval_ms) {
            return Err(PaceError::Interval(interval_ms));
        }
        let need = interval_ms.saturating_mul(3);
        if ttl_ms < need || ttl_ms > Self::MAX_TTL_MS {
            return Err(PaceError::Ttl { ttl: ttl_ms, need });
        }
        Ok(Self { no, interval_ms, ttl_ms })
    }

    /// The interval.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    /// The time to live.
    #[must_use]
    pub fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl_ms.into())
    }

    /// How long a sidecar waits for an acknowledgement before it gives its connection up:
    /// min(4 s, (TTL − interval)/3), so that two more tries fit into the lease.
    #[must_use]
    pub fn ack_within(self) -> Duration {
        (self.ttl().saturating_sub(self.interval()) / 3).min(Duration::from_secs(4))
    }

    /// Silence after which a service is `late`: one interval plus max(1 s, 20 %).
    #[must_use]
    pub fn late_after(self) -> Duration {
        self.interval() + (self.interval() / 5).max(Duration::from_secs(1))
    }

    /// The pace that governs a beat sent under `echoed`: until the new pace is echoed, the longer
    /// interval and the longer time to live hold.
    #[must_use]
    pub fn governing(self, previous: Option<Self>, echoed: PaceNo) -> Self {
        match previous {
            Some(old) if echoed != self.no => Self {
                no: self.no,
                interval_ms: self.interval_ms.max(old.interval_ms),
                ttl_ms: self.ttl_ms.max(old.ttl_ms),
            },
            Some(_) | None => self,
        }
    }
}

/// A lease that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// When the last beat was accepted; `None` where this collector has heard none since it began to
    /// observe (after a restart).
    pub last_beat: Option<BootTime>,
    /// What was granted with it.
    pub pace: Pace,
    /// When the service is lost, credits for blind intervals included.
    pub deadline: BootTime,
}

impl Lease {
    /// A lease from one accepted beat.
    #[must_use]
    pub fn from_beat(now: BootTime, pace: Pace) -> Self {
        Self { last_beat: Some(now), pace, deadline: now.after(pace.ttl()) }
    }

    /// What a reader sees now. A lease that lives on credit past its own deadline is `unknown`,
    /// never `alive`; a lease whose deadline passed but whose verdict is not out yet is `late`.
    #[must_use]
    pub fn presence(self, now: BootTime) -> (Presence, Option<Unknown>) {
        let Some(beat) = self.last_beat else {
            return (Presence::Unknown, Some(Unknown::CollectorBlind));
        };
        let own = beat.after(self.pace.ttl());
        if now >= own && self.deadline > own {
            (Presence::Unknown, Some(Unknown::CollectorBlind))
        } else if now >= beat.after(self.pace.late_after()) {
            (Presence::Late, None)
        } else {
            (Presence::Alive, None)
        }
    }

    /// When the first beat was missed: where a loss is dated back to.
    #[must_use]
    pub fn first_missed(self) -> Option<BootTime> {
        self.last_beat.map(|beat| beat.after(self.pace.interval()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(no: u32, interval_ms: u32, ttl_ms: u32) -> Pace {
        Pace { no: PaceNo(no), interval_ms, ttl_ms }
    }

    #[test]
    fn a_pace_leaves_room_for_lost_beats() {
        assert!(Pace::new(PaceNo(1), 10_000, 30_000).is_ok());
        assert!(matches!(Pace::new(PaceNo(1), 10_000, 29_999), Err(PaceError::Ttl { need: 30_000, .. })));
        assert!(matches!(Pace::new(PaceNo(1), 10, 30_000), Err(PaceError::Interval(10))));
    }

    #[test]
    fn defaults_give_the_published_numbers() {
        let pace = pace(1, 10_000, 30_000);
        assert_eq!(pace.ack_within(), Duration::from_secs(4));
        assert_eq!(pace.late_after(), Duration::from_secs(12));
        assert_eq!(super::tests::pace(1, 1_000, 3_000).late_after(), Duration::from_secs(2));
    }

    #[test]
    fn the_longer_deadline_holds_until_the_new_pace_is_echoed() {
        let (old, new) = (pace(1, 30_000, 90_000), pace(2, 10_000, 30_000));
        assert_eq!(new.governing(Some(old), PaceNo(1)).ttl_ms, 90_000);
        assert_eq!(new.governing(Some(old), PaceNo(2)).ttl_ms, 30_000);
        assert_eq!(new.governing(None, PaceNo(0)).ttl_ms, 30_000);
    }

    #[test]
    fn a_credited_lease_is_unknown_past_its_own_deadline() {
        let mut lease = Lease::from_beat(BootTime(1_000), pace(1, 10_000, 30_000));
        assert_eq!(lease.presence(BootTime(12_999)), (Presence::Alive, None));
        assert_eq!(lease.presence(BootTime(13_000)), (Presence::Late, None));
        assert_eq!(lease.presence(BootTime(31_000)), (Presence::Late, None));
        lease.deadline = lease.deadline.after(Duration::from_secs(5));
        assert_eq!(lease.presence(BootTime(30_999)), (Presence::Late, None));
        assert_eq!(lease.presence(BootTime(31_000)), (Presence::Unknown, Some(Unknown::CollectorBlind)));
        lease.last_beat = None;
        assert_eq!(lease.presence(BootTime(1_000)).0, Presence::Unknown);
    }

    proptest! {
        #[test]
        fn presence_only_worsens_without_a_beat(
            interval in 100u32..600_000, factor in 3u32..6, credit in 0u64..100_000, a in 0u64..4_000_000, b in 0u64..4_000_000,
        ) {
            let mut lease = Lease::from_beat(BootTime(7), pace(1, interval, interval.saturating_mul(factor)));
            lease.deadline = BootTime(lease.deadline.0 + credit);
            let rank = |at| match lease.presence(BootTime(at)).0 {
                Presence::Alive => 0,
                Presence::Late => 1,
                Presence::Unknown => 2,
                Presence::NeverSeen | Presence::Lost | Presence::Stopped => 9,
            };
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(rank(early) <= rank(late));
            prop_assert!(rank(late) < 9);
        }
    }
}
