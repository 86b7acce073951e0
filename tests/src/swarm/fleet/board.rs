//! Where the sessions of a fleet write down what they see. Shared by all of them; decides nothing.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rollcall_common::{
    lease::Pace,
    time::{BootTime, Timestamp},
};

use super::super::{quantile::Quantiles, tally::Tally};

/// What is seen, in sums and by sidecar.
#[derive(Debug)]
pub struct Board {
    tally: Mutex<Tally>,
    live: AtomicUsize,
    /// Boot time of an outage's begin, or zero.
    outage: AtomicU64,
    /// By sidecar: boot time of the first acknowledgement since, or zero.
    back: Box<[AtomicU64]>,
    /// By sidecar: wall time of its goodbye, or zero.
    left: Box<[AtomicI64]>,
}

impl Board {
    /// An empty one.
    #[must_use]
    pub fn new(sidecars: usize) -> Self {
        Self {
            tally: Mutex::default(),
            live: AtomicUsize::new(0),
            outage: AtomicU64::new(0),
            back: (0..sidecars).map(|_| AtomicU64::new(0)).collect(),
            left: (0..sidecars).map(|_| AtomicI64::new(0)).collect(),
        }
    }

    /// The sums.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions are greeted now.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// Begins to watch who is back since that moment.
    pub fn mark_outage(&self, at: BootTime) {
        self.back.iter().for_each(|back| back.store(0, Relaxed));
        self.outage.store(at.0, Relaxed);
    }

    /// How many had a beat acknowledged since the outage began.
    #[must_use]
    pub fn back(&self) -> usize {
        self.back.iter().filter(|back| back.load(Relaxed) > 0).count()
    }

    /// Time from `since` to each one's first acknowledged beat after the outage began.
    #[must_use]
    pub fn returns(&self, since: BootTime) -> Quantiles {
        let mut all = Quantiles::default();
        for at in self.back.iter().map(|back| back.load(Relaxed)).filter(|at| *at > 0) {
            all.add(BootTime(at).since(since));
        }
        all
    }

    /// When the nth said goodbye, if it did.
    #[must_use]
    pub fn left(&self, n: usize) -> Option<Timestamp> {
        self.left.get(n).map(|left| left.load(Relaxed)).filter(|at| *at != 0).map(Timestamp)
    }

    pub(super) fn greeted(&self, pace: Pace, reached_in: Duration, again: bool) {
        self.live.fetch_add(1, Relaxed);
        let mut tally = self.tally();
        tally.pace = (pace.interval(), pace.ttl());
        tally.reach.add(reached_in);
        tally.counts.reconnects += u64::from(again);
    }

    pub(super) fn acked(&self, n: usize, now: BootTime, covered: u64, after: Duration, throttled: bool) {
        self.tally().acked(covered, after, throttled);
        if self.outage.load(Relaxed) > 0
            && let Some(back) = self.back.get(n)
        {
            // Only the first one counts: the exchange fails for all others.
            let _ = back.compare_exchange(0, now.0, Relaxed, Relaxed);
        }
    }

    pub(super) fn ended(&self, why: &str, lost: u64, late: bool) {
        self.tally().ended(why, lost, late);
    }

    pub(super) fn no_longer_live(&self) {
        self.live.fetch_sub(1, Relaxed);
    }

    pub(super) fn says_goodbye(&self, n: usize, now: Timestamp) {
        if let Some(left) = self.left.get(n) {
            left.store(now.0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_acknowledgement_after_an_outage_tells_the_return() {
        let board = Board::new(2);
        board.acked(0, BootTime(900), 1, Duration::ZERO, false);
        board.mark_outage(BootTime(1_000));
        assert_eq!(board.back(), 0);
        board.acked(0, BootTime(1_500), 1, Duration::ZERO, false);
        board.acked(0, BootTime(9_000), 1, Duration::ZERO, false);
        assert_eq!(board.back(), 1);
        assert_eq!(board.returns(BootTime(1_200)).summary().unwrap().max_ms, 300);
        board.mark_outage(BootTime(10_000));
        assert_eq!(board.back(), 0, "a second outage begins anew");
    }
}
