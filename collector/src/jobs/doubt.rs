//! When nobody should be removed by the clock: pure.
//!
//! Retention is reckoned in wall time. A wall clock that stepped has made every age wrong, and a collector that
//! could not look has seen nobody; in both cases a job that removes or revokes holds still, and says why. All of it
//! is one question, [`holds`], so that whatever else should hold the lifecycle has one place to join: the brake on
//! mass losses will be one more field of [`Doubts`] and one more arm of [`Hold`].

use std::{fmt, time::Duration};

use rollcall_common::{
    id::BootId,
    time::{BootTime, Now, Timestamp},
};

use super::JobName;
use crate::{config::duration, store::rows::ObserverMark};

/// A step of the wall clock that is no slewing.
const STEP_MS: u64 = 60_000;
/// What a clock that is being slewed may gain or lose, in thousandths of the time that passes.
const SLEW: u64 = 1_000;

/// Compares the wall clock with the boot clock, which never steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockWatch {
    /// Wall time less boot time, as it should be.
    offset: i64,
    last: BootTime,
}

impl ClockWatch {
    /// Begins to watch.
    pub(super) fn new(now: Now) -> Self {
        Self { offset: offset(now), last: now.boot }
    }

    /// Looks; answers by how many milliseconds the wall clock stepped, if it did.
    pub(super) fn look(&mut self, now: Now) -> Option<i64> {
        let passed = u64::try_from(now.boot.since(self.last).as_millis()).unwrap_or(u64::MAX);
        let found = offset(now);
        let off = found.saturating_sub(self.offset);
        self.last = now.boot;
        if off.unsigned_abs() > STEP_MS {
            self.offset = found;
            return Some(off);
        }
        // A daemon that slews the clock may take it far in a month, and that is no step.
        let slewed = i64::try_from(passed / SLEW).unwrap_or(i64::MAX).max(1);
        self.offset = self.offset.saturating_add(off.clamp(-slewed, slewed));
        None
    }

    /// The step between what was written down before a restart and now. Over a reboot only a step back is seen.
    pub(super) fn across(mark: &ObserverMark, boot: BootId, now: Now) -> Option<i64> {
        if mark.boot_id == boot && mark.boot <= now.boot {
            let passed = u64::try_from(now.boot.since(mark.boot).as_millis()).unwrap_or(u64::MAX) / SLEW;
            let off = offset(now).saturating_sub(offset(Now { boot: mark.boot, wall: mark.wall }));
            return (off.unsigned_abs() > STEP_MS.saturating_add(passed)).then_some(off);
        }
        let off = now.wall.0.saturating_sub(mark.wall.0);
        (off < 0 && off.unsigned_abs() > STEP_MS).then_some(off)
    }
}

fn offset(now: Now) -> i64 {
    now.wall.0.saturating_sub(i64::try_from(now.boot.0).unwrap_or(i64::MAX))
}

/// What speaks against acting by time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    /// When the wall clock stepped, and by how many milliseconds, where nobody has confirmed it since.
    pub clock_step: Option<(Timestamp, i64)>,
    /// How much of the time that counts could not be observed.
    pub blind: Duration,
    /// When the last such interval ended.
    pub blind_end: Option<Timestamp>,
}

/// How much doubt is put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// The time that counts.
    pub within: Duration,
    /// The blindness that is put up with in it.
    pub blind: Duration,
}

/// Why a job holds still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The wall clock stepped; an operator must confirm that it is right.
    ClockStep {
        /// When that was seen.
        since: Timestamp,
        /// By how much, in milliseconds.
        step_ms: i64,
    },
    /// Nobody was looking; it passes by itself.
    Blind {
        /// For how long.
        blind: Duration,
        /// When it has passed at the latest.
        until: Timestamp,
    },
}

impl Hold {
    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClockStep { .. } => "clock_step",
            Self::Blind { .. } => "blind",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClockStep { since, step_ms } => {
                let by = duration::print(Duration::from_millis(step_ms.unsigned_abs()));
                let way = if *step_ms < 0 { "back" } else { "forward" };
                write!(f, "the wall clock stepped {way} by {by} ({since}): look whether it is right, then confirm")
            }
            Self::Blind { blind, until } => write!(
                f,
                "this collector could not observe for {}: nothing is removed until {until} at the latest",
                duration::print(*blind)
            ),
        }
    }
}

/// Whether a job holds still, and why.
#[must_use]
pub fn holds(job: JobName, doubts: &Doubts, tolerance: Tolerance) -> Option<Hold> {
    let (by_clock, by_blindness) = match job {
        // Its silence is reckoned by the boot clock and without blind times; what is not it leaves alone.
        JobName::MarkInactive => (false, false),
        JobName::Archive | JobName::Purge => (true, true),
        // How long it has been gone is reckoned without blind times.
        JobName::Ephemeral | JobName::Retention => (true, false),
    };
    if let Some((since, step_ms)) = doubts.clock_step.filter(|_| by_clock) {
        return Some(Hold::ClockStep { since, step_ms });
    }
    let end = doubts.blind_end.filter(|_| by_blindness && doubts.blind > tolerance.blind)?;
    Some(Hold::Blind { blind: doubts.blind, until: end.after(tolerance.within) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(boot: u64, wall: i64) -> Now {
        Now { boot: BootTime(boot), wall: Timestamp(1_800_000_000_000 + wall) }
    }

    #[test]
    fn a_step_is_seen_once_and_slewing_is_none() {
        let mut watch = ClockWatch::new(at(0, 0));
        assert_eq!(watch.look(at(1_000, 1_000)), None);
        assert_eq!(watch.look(at(2_000, 2_000 + 59_000)), None, "under a minute");
        assert_eq!(watch.look(at(3_000, 3_000 + 61_000)), Some(60_999), "it adds up");
        assert_eq!(watch.look(at(4_000, 4_000 + 61_000)), None, "once");
        assert_eq!(watch.look(at(5_000, 5_000 - 100_000)), Some(-161_000));
        // Half a thousandth a second for a month: a daemon at work.
        let mut watch = ClockWatch::new(at(0, 0));
        for second in 1..3_000_000_i64 {
            let ms = u64::try_from(second * 1_000).unwrap();
            assert_eq!(watch.look(at(ms, second * 1_000 + second / 2)), None);
        }
        // A suspended host: the boot clock counts it too.
        let mut watch = ClockWatch::new(at(0, 0));
        assert_eq!(watch.look(at(90_000_000, 90_000_000)), None);
    }

    #[test]
    fn a_step_over_a_restart_is_seen_by_the_mark() {
        let mark = |boot: u8, at: Now| ObserverMark {
            collector: "main".parse().unwrap(),
            boot_id: BootId([boot; 16]),
            boot: at.boot,
            wall: at.wall,
        };
        let (same, other) = (BootId([1; 16]), BootId([2; 16]));
        let before = mark(1, at(10_000, 10_000));
        assert_eq!(ClockWatch::across(&before, same, at(500_000, 500_000)), None);
        assert_eq!(ClockWatch::across(&before, same, at(500_000, 700_000)), Some(200_000));
        assert_eq!(ClockWatch::across(&before, same, at(500_000, -700_000)), Some(-1_200_000));
        assert_eq!(ClockWatch::across(&before, other, at(1_000, 90_000_000)), None, "a long stop looks the same");
        assert_eq!(ClockWatch::across(&before, other, at(1_000, -90_000)), Some(-100_000));
    }

    #[test]
    fn who_removes_holds_still_and_says_why() {
        let tolerance = Tolerance { within: Duration::from_secs(3_600), blind: Duration::from_secs(300) };
        let held = |job, doubts: Doubts| holds(job, &doubts, tolerance).map(Hold::as_str);
        let step = Doubts { clock_step: Some((Timestamp(5), -90_000)), ..Doubts::default() };
        let blind = Doubts { blind: Duration::from_secs(301), blind_end: Some(Timestamp(7)), ..Doubts::default() };
        let short = Doubts { blind: Duration::from_secs(300), ..blind };
        for job in JobName::ALL {
            assert_eq!(held(job, Doubts::default()), None);
            assert_eq!(held(job, short), None);
            assert_eq!(held(job, step), (job != JobName::MarkInactive).then_some("clock_step"));
            assert_eq!(held(job, blind), matches!(job, JobName::Purge | JobName::Archive).then_some("blind"));
        }
        let told = holds(JobName::Purge, &step, tolerance).unwrap().to_string();
        assert!(told.contains("stepped back by 1m30s"), "{told}");
    }

    proptest! {
        #[test]
        fn no_reading_of_the_clocks_panics(readings in prop::collection::vec((any::<u64>(), any::<i64>()), 1..20)) {
            let mut watch = ClockWatch::new(Now { boot: BootTime(0), wall: Timestamp(0) });
            for (boot, wall) in readings {
                let _ = watch.look(Now { boot: BootTime(boot), wall: Timestamp(wall) });
            }
        }
    }
}
