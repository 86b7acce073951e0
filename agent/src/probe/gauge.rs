//! What a row of results of one probe is worth: a pure state machine with hysteresis.
//!
//! A change for the worse must be seen `fall` times in a row, one for the better `rise` times; what is shown moves
//! only as far as every one of them agrees. The first result counts at once, since there is nothing to hold on to.
//! Within the start grace a bad result does not count, and a good one ends the grace. The end of a watched process
//! is no opinion but a fact: it counts at once, grace or not.

use std::time::Duration;

use rollcall_common::{health::Health, time::BootTime};

/// How steady a probe's statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Results in a row that make it better; at least one.
    pub rise: u32,
    /// Results in a row that make it worse; at least one.
    pub fall: u32,
    /// How long after the start bad results do not count.
    pub grace: Duration,
}

/// The steps from well to ill. Who cannot look is worse than well, and better than what was seen to be ill.
const STEPS: [Health; 4] = [Health::Healthy, Health::Unchecked, Health::Degraded, Health::Unhealthy];

fn severity(health: Health) -> usize {
    usize::from(crate::health::severity(health))
}

/// The state of one probe.
#[derive(Debug, Clone)]
pub struct Gauge {
    rules: Rules,
    /// Bad results do not count before this; none once a good one was seen.
    grace_until: Option<BootTime>,
    shown: Option<Health>,
    /// How many of the latest results in a row were at least as bad as each step.
    worse: [u32; STEPS.len()],
    /// How many of the latest results in a row were at most as bad as each step.
    better: [u32; STEPS.len()],
}

impl Gauge {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(rules: Rules, now: BootTime) -> Self {
        let rules = Rules { rise: rules.rise.max(1), fall: rules.fall.max(1), ..rules };
        let grace_until = (!rules.grace.is_zero()).then(|| now.after(rules.grace));
        Self { rules, grace_until, shown: None, worse: [0; STEPS.len()], better: [0; STEPS.len()] }
    }

    /// Other rules for the same thing: what was seen stays, and counts by these from now on.
    pub fn retune(&mut self, rules: Rules) {
        self.rules = Rules { rise: rules.rise.max(1), fall: rules.fall.max(1), ..rules };
    }

    /// What it shows; `None` while there is nothing to go by.
    #[must_use]
    pub fn shown(&self) -> Option<Health> {
        self.shown
    }

    /// Whether bad results do not count yet.
    #[must_use]
    pub fn is_in_grace(&self, now: BootTime) -> bool {
        self.grace_until.is_some_and(|until| now < until)
    }

    /// Takes a result in; tells whether what is shown changed.
    pub fn take(&mut self, result: Health, now: BootTime) -> bool {
        if self.is_in_grace(now) && result != Health::Healthy {
            return false;
        }
        self.grace_until = None;
        self.count(result, 1);
        let before = self.shown;
        self.shown = Some(match before {
            None => result,
            Some(shown) => self.settled(shown),
        });
        self.shown != before
    }

    /// The watched process is gone: no second look is asked for. Tells whether what is shown changed.
    pub fn crashed(&mut self) -> bool {
        self.grace_until = None;
        self.count(Health::Unhealthy, self.rules.fall);
        self.shown.replace(Health::Unhealthy) != Some(Health::Unhealthy)
    }

    fn count(&mut self, result: Health, times: u32) {
        let at = severity(result);
        for (step, (worse, better)) in self.worse.iter_mut().zip(&mut self.better).enumerate() {
            *worse = if at >= step { worse.saturating_add(times) } else { 0 };
            *better = if at <= step { better.saturating_add(times) } else { 0 };
        }
    }

    /// The mildest of the last `fall` results where all of them are worse than what is shown, the worst of the last
    /// `rise` results where all of them are better, and otherwise what is shown.
    fn settled(&self, shown: Health) -> Health {
        let steps = || STEPS.into_iter().zip(self.worse.into_iter().zip(self.better));
        let worst = steps().rev().find(|(_, (worse, _))| *worse >= self.rules.fall).map(|(step, _)| step);
        let best = steps().find(|(_, (_, better))| *better >= self.rules.rise).map(|(step, _)| step);
        match (worst, best) {
            (Some(worst), _) if severity(worst) > severity(shown) => worst,
            (_, Some(best)) if severity(best) < severity(shown) => best,
            _ => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const AT_ONCE: Rules = Rules { rise: 1, fall: 1, grace: Duration::ZERO };

    fn after(rules: Rules, results: &[Health]) -> Option<Health> {
        let mut gauge = Gauge::new(rules, BootTime(0));
        for (n, result) in results.iter().enumerate() {
            gauge.take(*result, BootTime(n as u64));
        }
        gauge.shown()
    }

    #[test]
    fn the_first_result_counts_and_later_ones_must_insist() {
        use Health::{Degraded, Healthy, Unchecked, Unhealthy};
        let rules = Rules { rise: 2, fall: 3, grace: Duration::ZERO };
        for (results, wanted) in [
            (&[][..], None),
            (&[Unhealthy][..], Some(Unhealthy)),
            (&[Healthy, Unhealthy, Unhealthy][..], Some(Healthy)),
            (&[Healthy, Unhealthy, Unhealthy, Healthy, Unhealthy][..], Some(Healthy)),
            (&[Healthy, Unhealthy, Unhealthy, Unhealthy][..], Some(Unhealthy)),
            // As far as all three agree, and no farther.
            (&[Healthy, Unhealthy, Degraded, Unhealthy][..], Some(Degraded)),
            (&[Healthy, Unhealthy, Degraded, Unhealthy, Unhealthy, Unhealthy][..], Some(Unhealthy)),
            (&[Unhealthy, Healthy][..], Some(Unhealthy)),
            (&[Unhealthy, Healthy, Degraded][..], Some(Degraded)),
            (&[Unhealthy, Healthy, Healthy][..], Some(Healthy)),
            (&[Healthy, Unchecked, Unchecked, Unchecked][..], Some(Unchecked)),
        ] {
            assert_eq!(after(rules, results), wanted, "{results:?}");
        }
        assert_eq!(after(AT_ONCE, &[Healthy, Unhealthy, Degraded]), Some(Degraded));
    }

    #[test]
    fn a_start_has_its_grace_and_a_crash_has_none() {
        let mut gauge = Gauge::new(Rules { grace: Duration::from_secs(10), ..AT_ONCE }, BootTime(0));
        assert!(!gauge.take(Health::Unhealthy, BootTime(9_999)));
        assert_eq!(gauge.shown(), None);
        assert!(gauge.take(Health::Unhealthy, BootTime(10_000)));
        // A good result ends the grace.
        let mut gauge = Gauge::new(Rules { grace: Duration::from_secs(10), ..AT_ONCE }, BootTime(0));
        assert!(gauge.take(Health::Healthy, BootTime(1)));
        assert!(gauge.take(Health::Unhealthy, BootTime(2)));
        let mut gauge = Gauge::new(Rules { rise: 2, fall: 9, grace: Duration::from_secs(10) }, BootTime(0));
        assert!(gauge.crashed());
        assert_eq!(gauge.shown(), Some(Health::Unhealthy));
        assert!(!gauge.crashed(), "nothing new");
        assert!(!gauge.take(Health::Healthy, BootTime(1)), "once is not enough");
        assert!(gauge.take(Health::Healthy, BootTime(2)));
    }

    /// The same, remembering every result.
    struct Naive {
        rules: Rules,
        grace_until: Option<u64>,
        shown: Option<Health>,
        results: VecDeque<Health>,
    }

    impl Naive {
        fn take(&mut self, result: Health, now: u64) {
            if self.grace_until.is_some_and(|until| now < until) && result != Health::Healthy {
                return;
            }
            self.grace_until = None;
            self.results.push_front(result);
            let last =
                |n: u32| self.results.iter().take(n as usize).map(|health| severity(*health)).collect::<Vec<_>>();
            let Some(shown) = self.shown else {
                self.shown = Some(result);
                return;
            };
            let (falling, rising) = (last(self.rules.fall), last(self.rules.rise));
            let at = severity(shown);
            if falling.len() == self.rules.fall as usize && falling.iter().all(|step| *step > at) {
                self.shown = falling.iter().min().map(|step| STEPS[*step]);
            } else if rising.len() == self.rules.rise as usize && rising.iter().all(|step| *step < at) {
                self.shown = rising.iter().max().map(|step| STEPS[*step]);
            }
        }

        fn crashed(&mut self) {
            self.grace_until = None;
            for _ in 0..self.rules.fall {
                self.results.push_front(Health::Unhealthy);
            }
            self.shown = Some(Health::Unhealthy);
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_one_that_remembers_everything(
            (rise, fall, grace) in (1_u32..5, 1_u32..5, 0_u64..8),
            steps in proptest::collection::vec((0_u64..3, proptest::option::weighted(0.95, 0_usize..4)), 0..120),
        ) {
            let rules = Rules { rise, fall, grace: Duration::from_millis(grace) };
            let mut gauge = Gauge::new(rules, BootTime(0));
            let mut naive =
                Naive { rules, grace_until: (grace > 0).then_some(grace), shown: None, results: VecDeque::new() };
            let mut now = 0;
            for (passed, step) in steps {
                now += passed;
                let before = gauge.shown();
                let changed = match step {
                    Some(step) => {
                        naive.take(STEPS[step], now);
                        gauge.take(STEPS[step], BootTime(now))
                    }
                    None => {
                        naive.crashed();
                        gauge.crashed()
                    }
                };
                prop_assert_eq!(gauge.shown(), naive.shown);
                prop_assert_eq!(changed, before != gauge.shown());
            }
        }
    }
}
