//! How much at once: pure. Work is cut into slices that a commit takes quickly, with a pause after each, so that
//! whoever else wants to change something waits for one slice at most.

use std::time::Duration;

/// A slice that took longer is halved.
const LONG: Duration = Duration::from_millis(50);
/// A slice that was quicker may grow.
const QUICK: Duration = Duration::from_millis(20);
/// Longest pause between two slices.
const PAUSE: Duration = Duration::from_millis(250);

/// The size of the next slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slices {
    size: usize,
    least: usize,
    most: usize,
}

impl Slices {
    /// Begins small.
    pub(super) fn new(least: usize, most: usize) -> Self {
        Self { size: least, least, most }
    }

    /// Things in the next slice.
    pub(super) fn size(self) -> usize {
        self.size
    }

    /// Learns from a slice how long it took; answers how long to pause: as long as it worked.
    pub(super) fn took(&mut self, time: Duration) -> Duration {
        if time > LONG {
            self.size = (self.size / 2).max(self.least);
        } else if time < QUICK {
            self.size = self.size.saturating_mul(2).min(self.most);
        }
        time.min(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slices_grow_where_they_are_quick_and_shrink_where_not() {
        let mut slices = Slices::new(16, 256);
        let sizes: Vec<_> = (0..6)
            .map(|_| {
                slices.took(Duration::from_millis(5));
                slices.size()
            })
            .collect();
        assert_eq!(sizes, [32, 64, 128, 256, 256, 256]);
        assert_eq!(slices.took(Duration::from_millis(30)), Duration::from_millis(30));
        assert_eq!(slices.size(), 256);
        assert_eq!(slices.took(Duration::from_secs(9)), PAUSE);
        assert_eq!(slices.size(), 128);
    }

    proptest! {
        #[test]
        fn a_slice_keeps_its_bounds(times in prop::collection::vec(0..1_000_u64, 0..50)) {
            let mut slices = Slices::new(16, 256);
            for time in times {
                slices.took(Duration::from_millis(time));
                prop_assert!((16..=256).contains(&slices.size()));
            }
        }
    }
}
