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
}

impl Rota {
    /// Every probe looks at once, and then on its grid.
    #[must_use]
    pub fn new(intervals: impl IntoIterator<Item = Duration>, seed: u64, now: BootTime) -> Self {
        let turn = |interval: Duration| Turn { interval: interval.max(Duration::from_millis(1)), due: now };
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
                turn.due = on_grid(self.origin, turn.interval, now);
                due.push(index);
            }
        }
        due
    }

    /// One probe looks at this moment, if not before.
    pub fn hurry(&mut self, index: usize, at: BootTime) {
        if let Some(turn) = self.turns.get_mut(index) {
            turn.due = turn.due.min(at);
        }
    }
}

/// The first point of the grid behind `now`, and never sooner than half an interval.
fn on_grid(origin: u64, interval: Duration, now: BootTime) -> BootTime {
    let step = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let soonest = now.0.saturating_add(step / 2).saturating_add(1);
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

    proptest! {
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
