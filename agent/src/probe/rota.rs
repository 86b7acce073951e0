//! When which probe looks: pure.
//!
//! The looks of one sidecar lie on one grid, so that probes of equal and of multiple intervals wake the process
//! together; where the grid begins is drawn for each sidecar, so that a fleet does not look in step.

use std::time::Duration;

use rollcall_common::time::BootTime;

/// The next look of each probe.
#[derive(Debug, Clone)]
pub struct Rota {
    /// Where the grid begins.
    origin: u64,
    turns: Vec<Turn>,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    interval: Duration,
    due: BootTime,
    looked: Option<BootTime>,
    /// It was put off the grid by a change, and owes a whole interval after that look too.
    changed: bool,
}

/// What a probe did before the rota changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It was in the rota, in this place.
    Place(usize),
    /// It rested, and had looked then, if ever.
    Rested(Option<BootTime>),
}

impl Rota {
    /// Every probe looks at once, and then on its grid.
    #[must_use]
    pub fn new(intervals: impl IntoIterator<Item = Duration>, seed: u64, now: BootTime) -> Self {
        let turn = |interval: Duration| Turn {
            interval: interval.max(Duration::from_millis(1)),
            due: now,
            looked: None,
            changed: false,
        };
        Self { origin: seed, turns: intervals.into_iter().map(turn).collect() }
    }

    /// When the next look is due.
    #[must_use]
    pub fn next(&self) -> Option<BootTime> {
        self.turns.iter().map(|turn| turn.due).min()
    }

    /// Who is to look now. Each has its next turn after that, however late this one comes.
    pub fn take(&mut self, now: BootTime) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, turn) in self.turns.iter_mut().enumerate() {
            if turn.due <= now {
                // A change would else win half an interval, and the next change another half.
                let least = if turn.changed { turn.interval } else { turn.interval / 2 + Duration::from_millis(1) };
                turn.due = on_grid(self.origin, turn.interval, now.after(least));
                turn.changed = false;
                turn.looked = Some(now);
                due.push(index);
            }
        }
        due
    }

    /// From now on these look. Who keeps its interval keeps its turn; nobody looks sooner than an interval after its
    /// last look, however often the rota changes.
    pub fn follow(&mut self, probes: impl IntoIterator<Item = (Duration, Before)>, now: BootTime) {
        let turn = |(interval, before): (Duration, Before)| {
            let interval = interval.max(Duration::from_millis(1));
            let old = match before {
                Before::Place(place) => self.turns.get(place).copied(),
                Before::Rested(_) => None,
            };
            if let Some(old) = old.filter(|old| old.interval == interval) {
                return old;
            }
            let looked = match before {
                Before::Place(_) => old.and_then(|old| old.looked),
                Before::Rested(looked) => looked,
            };
            Turn { interval, due: looked.map_or(now, |looked| looked.after(interval).max(now)), looked, changed: true }
        };
        self.turns = probes.into_iter().map(turn).collect();
    }

    /// When a probe looked last in turn.
    #[must_use]
    pub fn looked(&self, index: usize) -> Option<BootTime> {
        self.turns.get(index)?.looked
    }

    /// One probe looks at this moment, if not before.
    pub fn hurry(&mut self, index: usize, at: BootTime) {
        if let Some(turn) = self.turns.get_mut(index) {
            turn.due = turn.due.min(at);
        }
    }
}

/// The first point of the grid that is no sooner than that.
fn on_grid(origin: u64, interval: Duration, soonest: BootTime) -> BootTime {
    let step = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let soonest = soonest.0;
    let into = soonest.saturating_sub(origin % step) % step;
    BootTime(if into == 0 { soonest } else { soonest.saturating_add(step - into) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn multiples_look_together() {
        let intervals = [10, 30, 10].map(Duration::from_secs);
        let mut rota = Rota::new(intervals, 12_345, BootTime(777));
        assert_eq!(rota.take(BootTime(777)), [0, 1, 2]);
        assert_eq!(rota.take(BootTime(777)), [0; 0]);
        let (mut now, mut together, mut alone) = (777, 0, 0);
        while now < 200_000 {
            now = rota.next().unwrap().0;
            match &rota.take(BootTime(now))[..] {
                [0, 2] => alone += 1,
                [0, 1, 2] => together += 1,
                other => panic!("{other:?} at {now}"),
            }
        }
        assert!(together >= 5 && alone >= 10, "{together} {alone}");
        rota.hurry(1, BootTime(now));
        assert_eq!(rota.take(BootTime(now)), [1]);
    }

    #[test]
    fn a_change_keeps_turns_and_hurries_nobody() {
        let [one, ten, minute] = [1, 10, 60].map(Duration::from_secs);
        let mut rota = Rota::new([ten, minute], 3, BootTime(0));
        rota.take(BootTime(0));
        let due = rota.turns[0].due;
        rota.follow([(minute, Before::Rested(None)), (ten, Before::Place(0)), (ten, Before::Place(1))], BootTime(500));
        assert_eq!(rota.turns.iter().map(|turn| turn.due).collect::<Vec<_>>(), [BootTime(500), due, BootTime(10_000)]);
        assert_eq!(rota.take(BootTime(500)), [0]);
        // Away and back, faster and slower, as often as it may be.
        for now in (600..9_000).step_by(100) {
            rota.follow([(one, Before::Rested(Some(BootTime(8_500))))], BootTime(now));
            assert!(rota.take(BootTime(now)).is_empty());
            assert_eq!(rota.looked(0), Some(BootTime(8_500)));
        }
        rota.follow([(ten, Before::Place(0))], BootTime(9_000));
        rota.follow([(one, Before::Place(0))], BootTime(9_400));
        assert_eq!(rota.next(), Some(BootTime(9_500)));
    }

    proptest! {
        /// Whoever changes intervals as it likes wins no look: between any two of them lies what was said last.
        #[test]
        fn no_change_brings_looks_closer(
            seed in any::<u64>(), changes in proptest::collection::vec((0_usize..5, 0_u64..40_000), 1..200)
        ) {
            let intervals = [30_000, 30_001, 45_000, 30_000].map(Duration::from_millis);
            let mut rota = Rota::new(intervals.first().copied(), seed, BootTime(0));
            // The first look is wherever it starts, and the one behind it falls in with the grid.
            rota.take(BootTime(0));
            let mut now = rota.next().unwrap().0;
            rota.take(BootTime(now));
            let (mut last, mut rests) = (now, None);
            for (change, pause) in changes {
                let end = now + pause;
                while let Some(BootTime(due)) = rota.next().filter(|due| due.0 <= end) {
                    rota.take(BootTime(due));
                    prop_assert!(due - last >= 30_000, "{} after the last", due - last);
                    last = due;
                }
                now = end;
                let before = match rests.take() {
                    Some(looked) => Before::Rested(looked),
                    None => Before::Place(0),
                };
                match intervals.get(change) {
                    Some(interval) => rota.follow([(*interval, before)], BootTime(now)),
                    None => {
                        let looked = match before {
                            Before::Rested(looked) => looked,
                            Before::Place(place) => rota.looked(place),
                        };
                        rests = Some(looked);
                        rota.follow([], BootTime(now));
                    }
                }
            }
        }

        #[test]
        fn nobody_looks_too_often_or_too_seldom(
            seed in any::<u64>(), start in 0_u64..1 << 40, interval in 1_u64..100_000, lateness in proptest::collection::vec(0_u64..5_000, 1..50)
        ) {
            let mut rota = Rota::new([Duration::from_millis(interval)], seed, BootTime(start));
            let mut last = start;
            prop_assert_eq!(rota.take(BootTime(start)), vec![0]);
            for late in lateness {
                let due = rota.next().unwrap().0;
                prop_assert!(due > last && due - last > interval / 2 && due - last <= interval + interval / 2 + 1);
                prop_assert!(rota.take(BootTime(due - 1)).is_empty());
                last = due + late;
                prop_assert_eq!(rota.take(BootTime(last)), vec![0]);
            }
        }
    }
}
