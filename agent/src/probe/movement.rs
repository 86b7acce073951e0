//! Whether something moves: a pure judge of marks. What a mark is made of is a look's business; it is never read as
//! a time, and only the sidecar's own clock says how long nothing moved.

use std::time::Duration;

use rollcall_common::time::BootTime;

/// What was last seen, and since when.
#[derive(Debug, Clone)]
pub struct Movement {
    within: Duration,
    mark: Option<u64>,
    moved: BootTime,
}

impl Movement {
    /// Everybody has a whole period from the start.
    #[must_use]
    pub fn new(within: Duration, now: BootTime) -> Self {
        Self { within, mark: None, moved: now }
    }

    /// A mark was seen, or none; how long nothing has moved, where that is longer than allowed.
    pub fn see(&mut self, mark: Option<u64>, now: BootTime) -> Option<Duration> {
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
        let mut movement = Movement::new(secs(5), BootTime(0));
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
}
