//! Quantiles of durations, exact to the millisecond. Knows nothing of what is measured.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// Counts by millisecond. As small as the spread of what was seen: latencies of a healthy fleet fill a few
/// dozen entries, and nothing here is measured for longer than minutes.
#[derive(Debug, Clone, Default)]
pub struct Quantiles {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

/// The telling ones, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Half were at most this.
    pub p50_ms: u64,
    /// Nine in ten were at most this.
    pub p90_ms: u64,
    /// Ninety-nine in a hundred were at most this.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Quantiles {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        *self.counts.entry(ms).or_default() += 1;
        self.total += 1;
    }

    /// The smallest value that is not below `share` (0 to 1) of all; `None` where there are none.
    #[must_use]
    pub fn at(&self, share: f64) -> Option<u64> {
        let mut seen = 0;
        let reached = |(ms, count): (&u64, &u64)| {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            (seen as f64 >= share * self.total as f64).then_some(*ms)
        };
        self.counts.iter().find_map(reached)
    }

    /// The telling ones; `None` where nothing was measured.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Some(Summary {
            count: self.total,
            p50_ms: self.at(0.5)?,
            p90_ms: self.at(0.9)?,
            p99_ms: self.at(0.99)?,
            max_ms: *self.counts.last_key_value()?.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_measured_has_no_quantiles() {
        assert_eq!(Quantiles::default().summary(), None);
    }

    proptest! {
        #[test]
        fn agree_with_a_sorted_list(mut all in proptest::collection::vec(0u64..5_000, 1..300)) {
            let mut quantiles = Quantiles::default();
            all.iter().for_each(|ms| quantiles.add(Duration::from_millis(*ms)));
            all.sort_unstable();
            let nth = |per_cent: usize| all.get((all.len() * per_cent).div_ceil(100) - 1).copied();
            let summary = quantiles.summary().unwrap();
            prop_assert_eq!(
                (Some(summary.p50_ms), Some(summary.p90_ms), Some(summary.p99_ms), Some(summary.max_ms)),
                (nth(50), nth(90), nth(99), nth(100))
            );
            prop_assert_eq!(summary.count, all.len() as u64);
        }
    }
}
