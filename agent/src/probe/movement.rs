//! Whether something moves: a pure judge of marks. What a mark is made of is a look's business; it is never read as
//! a time, and only the sidecar's own clock says how long nothing moved. While nobody looked (the host was suspended,
//! the sidecar held up, the file not to be seen), nobody is blamed for standing still.

use std::time::Duration;

use rollcall_common::time::BootTime;

/// What was last seen, and since when.
#[derive(Debug, Clone)]
pub struct Movement {
    within: Duration,
    every: Duration,
    /// The longest of the intervals since the last look.
    lately: Duration,
    mark: Option<u64>,
    moved: BootTime,
    /// The look before.
    looked: BootTime,
}

/// So many intervals without a look, and nobody looked: one comes late on a busy host, and two are half as far apart.
const UNSEEN: u32 = 3;

impl Movement {
    /// Everybody has a whole period from the start. A look is to be taken so often.
    #[must_use]
    pub fn new(within: Duration, every: Duration, now: BootTime) -> Self {
        Self { within, every, lately: every, mark: None, moved: now, looked: now }
    }

    /// From now on a look is to be taken so often. What lies between the last look and the next one was to be no closer
    /// than the longer of both: whoever looks more often now has not missed those looks before.
    pub fn retune(&mut self, every: Duration) {
        self.every = every;
        self.lately = self.lately.max(every);
    }

    /// A mark was seen, or none; how long nothing has moved, where that is longer than allowed.
    pub fn see(&mut self, mark: Option<u64>, now: BootTime) -> Option<Duration> {
        let between = now.since(std::mem::replace(&mut self.looked, now));
        let every = std::mem::replace(&mut self.lately, self.every);
        if between > every.saturating_mul(UNSEEN) {
            let unseen = between.saturating_sub(every);
            self.moved = self.moved.after(unseen).min(now);
        }
        if mark.is_some() && mark != self.mark {
            self.mark = mark;
            self.moved = now;
        }
        Some(now.since(self.moved)).filter(|still| *still > self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stands_still_too_long_is_told_how_long() {
        let secs = Duration::from_secs;
        let mut movement = Movement::new(secs(5), secs(3_600), BootTime(0));
        assert_eq!(movement.see(None, BootTime(5_000)), None, "a period from the start");
        assert_eq!(movement.see(None, BootTime(5_001)), Some(Duration::from_millis(5_001)));
        assert_eq!(movement.see(Some(7), BootTime(6_000)), None, "there it is");
        assert_eq!(movement.see(Some(7), BootTime(11_000)), None);
        assert_eq!(movement.see(Some(7), BootTime(12_000)), Some(secs(6)));
        // A file that is gone has not moved, and is not news when it comes back as it was.
        assert_eq!(movement.see(None, BootTime(13_000)), Some(secs(7)));
        assert_eq!(movement.see(Some(7), BootTime(14_000)), Some(secs(8)));
        // Backwards is movement too: a counter starts again.
        assert_eq!(movement.see(Some(3), BootTime(15_000)), None);
    }

    #[test]
    fn whoever_looks_more_often_excuses_no_standstill() {
        let (secs, hour) = (Duration::from_secs, 3_600_000);
        let mut movement = Movement::new(secs(600), secs(3_600), BootTime(0));
        assert_eq!(movement.see(Some(1), BootTime(0)), None);
        movement.retune(secs(10));
        assert_eq!(movement.see(Some(1), BootTime(hour)), Some(secs(3_600)), "it was to look once an hour until then");
        // From here on, it is to look each ten seconds, and a gap is a gap again.
        assert_eq!(movement.see(Some(2), BootTime(hour + 10_000)), None);
        assert_eq!(movement.see(Some(2), BootTime(3 * hour)), None, "nobody looked");
        // Faster and slower at once: the slower one is what was missed.
        movement.retune(secs(3_600));
        movement.retune(secs(10));
        assert_eq!(movement.see(Some(2), BootTime(4 * hour)), Some(secs(3_610)));
    }

    /// As after a night with the lid closed: whoever could not move is not blamed, and whoever does not now is, later.
    #[test]
    fn a_suspended_host_is_no_standstill() {
        let secs = Duration::from_secs;
        let mut movement = Movement::new(secs(60), secs(10), BootTime(0));
        assert_eq!(movement.see(Some(1), BootTime(0)), None);
        assert_eq!(movement.see(Some(1), BootTime(50_000)), None, "one look came late");
        let woken = 50_000 + 8 * 3_600_000;
        assert_eq!(movement.see(Some(1), BootTime(woken)), None, "nobody could move");
        assert_eq!(movement.see(Some(1), BootTime(woken + 10_000)), None);
        let still = (2..30).find_map(|n| movement.see(Some(1), BootTime(woken + n * 10_000)));
        assert!(still.is_some_and(|still| still > secs(60) && still < secs(80)), "{still:?}");
    }
}
