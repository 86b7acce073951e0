//! Delays between tries: exponential, fully jittered, capped, and never longer than a lease can bear.

use std::time::Duration;

/// A seeded sequence of delays.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Delays drawn from `[base/2, min(cap, base·2ⁿ)]`; equal seeds give equal delays.
    #[must_use]
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self { base, cap, tries: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    /// The next delay. Where a lease is running, at least two tries fit into what remains of it.
    #[must_use]
    pub fn next_delay(&mut self, lease_left: Option<Duration>) -> Duration {
        let ceiling = self.base.saturating_mul(2u32.saturating_pow(self.tries)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let ceiling = match lease_left {
            // A lease that is over has nothing left to protect.
            Some(left) if !left.is_zero() => ceiling.min(left / 3),
            Some(_) | None => ceiling,
        };
        self.between((self.base / 2).min(ceiling), ceiling)
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How many delays were drawn since the last success.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// A duration drawn evenly from a range.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_micros()).unwrap_or(u64::MAX);
        low + Duration::from_micros(self.rng.u64(0..=span))
    }

    /// A duration within ± the given percentage.
    pub fn jitter(&mut self, around: Duration, percent: u32) -> Duration {
        let spread = around.saturating_mul(percent) / 100;
        self.between(around.saturating_sub(spread), around.saturating_add(spread))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_within_bounds(seed: u64, left in proptest::option::of(0u64..60_000), tries in 1usize..40) {
            let (base, cap) = (Duration::from_millis(500), Duration::from_secs(30));
            let mut backoff = Backoff::new(base, cap, seed);
            let left = left.map(Duration::from_millis);
            for _ in 0..tries {
                let delay = backoff.next_delay(left);
                prop_assert!(delay <= cap);
                if let Some(left) = left.filter(|left| !left.is_zero()) {
                    prop_assert!(delay.saturating_mul(2) <= left, "two tries fit");
                }
            }
        }
    }

    #[test]
    fn two_sidecars_differ_and_one_repeats() {
        let draw = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            (0..8).map(|_| backoff.next_delay(None)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
