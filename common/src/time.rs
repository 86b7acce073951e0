//! Two kinds of time and the clock that shells hold.
//!
//! [`BootTime`] judges: it counts a host's suspension too and never steps. [`Timestamp`] tells: it is
//! wall time for people and for rows, and may step. Pure cores receive a [`Now`]; they never read a clock.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Wall time in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment plus a duration, ending at the end of the range.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis_i64(duration)))
    }

    /// This moment less a duration, ending at the start of the range.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis_i64(duration)))
    }

    /// Time since an earlier moment; zero where that one is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// From whole seconds since the Unix epoch.
    #[must_use]
    pub fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as in `2026-11-21T02:46:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "@{}ms", self.0),
        }
    }
}

/// Milliseconds since the host booted, suspension included (`CLOCK_BOOTTIME`).
///
/// Comparable only within one boot: what is persisted carries the boot id beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This moment plus a duration, ending at the end of the range.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis_u64(duration)))
    }

    /// Time since an earlier moment; zero where that one is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What judges.
    pub boot: BootTime,
    /// What is told.
    pub wall: Timestamp,
}

impl Now {
    /// The wall time of another moment of this boot, as seen from this reading.
    #[must_use]
    pub fn wall_of(self, moment: BootTime) -> Timestamp {
        if moment <= self.boot {
            self.wall.before(self.boot.since(moment))
        } else {
            self.wall.after(moment.since(self.boot))
        }
    }
}

/// The only source of time; shells hold one and hand readings inward.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The host's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        use rustix::time::{ClockId, clock_gettime};
        let ms = |clock| {
            let t = clock_gettime(clock);
            t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)
        };
        Now {
            boot: BootTime(u64::try_from(ms(ClockId::Boottime)).unwrap_or(0)),
            wall: Timestamp(ms(ClockId::Realtime)),
        }
    }
}

/// A clock that tests move by hand.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug)]
pub struct ManualClock {
    boot: std::sync::atomic::AtomicU64,
    wall: std::sync::atomic::AtomicI64,
}

#[cfg(any(test, feature = "test-util"))]
impl ManualClock {
    /// Starts an hour after boot, at the given wall time.
    #[must_use]
    pub fn new(wall: Timestamp) -> Self {
        Self { boot: 3_600_000.into(), wall: wall.0.into() }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.boot.fetch_add(millis_u64(by), std::sync::atomic::Ordering::SeqCst);
        self.step_wall(millis_i64(by));
    }

    /// Steps the wall clock alone, by milliseconds, back if negative.
    pub fn step_wall(&self, by: i64) {
        self.wall.fetch_add(by, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now {
            boot: BootTime(self.boot.load(std::sync::atomic::Ordering::SeqCst)),
            wall: Timestamp(self.wall.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }
}

fn millis_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis_i64(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_795_229_160_123).to_string(), "2026-11-21T02:46:00.123Z");
        assert_eq!(Timestamp(i64::MAX).to_string(), format!("@{}ms", i64::MAX));
    }

    #[test]
    fn wall_of_translates_both_ways() {
        let now = Now { boot: BootTime(5_000), wall: Timestamp(1_000_000) };
        assert_eq!(now.wall_of(BootTime(4_000)), Timestamp(999_000));
        assert_eq!(now.wall_of(BootTime(6_500)), Timestamp(1_001_500));
    }

    #[test]
    fn nothing_wraps() {
        assert_eq!(BootTime(1).since(BootTime(2)), Duration::ZERO);
        assert_eq!(BootTime(u64::MAX).after(Duration::MAX), BootTime(u64::MAX));
        assert_eq!(Timestamp(i64::MIN).before(Duration::from_secs(1)), Timestamp(i64::MIN));
    }
}
