//! Presence intervals on their way to the store.
//!
//! Presence changes in memory at once; its row waits here until a group commit takes it. The queue is
//! bounded: when the store stays away for long, the oldest rows are lost and counted, since the lasting
//! presence of every service is known anyway and the newest rows tell most.

use std::collections::VecDeque;

use rollcall_common::{
    id::{BootId, ServiceKey},
    lease::Presence,
    time::{BootTime, Now, Timestamp},
};
use serde_json::Value;

use crate::store::rows::IntervalRow;

/// Rows that may wait: ten changes for each of 10,000 services.
const MAX_WAITING: usize = 100_000;

/// Rows that the store has not taken yet, oldest first.
#[derive(Debug, Default)]
pub struct History {
    waiting: VecDeque<IntervalRow>,
}

impl History {
    /// Adds a row. Answers the oldest, if it had to go for it.
    pub fn push(&mut self, row: IntervalRow) -> Option<IntervalRow> {
        let lost = if self.waiting.len() >= MAX_WAITING { self.waiting.pop_front() } else { None };
        self.waiting.push_back(row);
        lost
    }

    /// Takes the oldest rows for a commit.
    pub fn take(&mut self, most: usize) -> Vec<IntervalRow> {
        let count = most.min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }

    /// Puts rows back whose commit failed, in front of what came since.
    pub fn put_back(&mut self, rows: Vec<IntervalRow>) {
        for row in rows.into_iter().rev() {
            self.waiting.push_front(row);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// A verdict, ready to be recorded.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Of whom.
    pub service: ServiceKey,
    /// What.
    pub presence: Presence,
    /// Why, in one word.
    pub cause: &'static str,
    /// What it rests on.
    pub evidence: Value,
    /// Since when: a loss is dated back to the first missed beat.
    pub from: BootTime,
}

impl Verdict {
    /// The row for it.
    #[must_use]
    pub fn row(self, now: Now, boot_id: BootId) -> IntervalRow {
        IntervalRow {
            service: self.service,
            from: now.wall_of(self.from),
            to: None,
            presence: self.presence,
            cause: self.cause.into(),
            evidence: self.evidence,
            decided_at: now.wall,
            recorded_at: None,
            superseded_at: None,
            boot_id,
            from_boot: self.from,
        }
    }
}

/// A time of blindness kept in memory, to tell whose fault a late renewal was.
#[derive(Debug, Default)]
pub struct Ledger {
    blind: VecDeque<(Timestamp, Timestamp)>,
}

/// Blind intervals kept in memory; the store has all of them.
pub const MAX_LEDGER: usize = 1_000;

impl Ledger {
    /// Adds an interval; the oldest goes when full.
    pub fn add(&mut self, from: Timestamp, to: Timestamp) {
        if self.blind.len() >= MAX_LEDGER {
            self.blind.pop_front();
        }
        self.blind.push_back((from, to));
    }

    /// When the last interval ended that ended after a moment.
    #[must_use]
    pub fn last_end(&self, after: Timestamp) -> Option<Timestamp> {
        self.blind.iter().map(|(_, to)| *to).filter(|to| *to > after).max()
    }

    /// How much of a time could not be observed, with one interval more where there is one. Overlapping intervals
    /// count once.
    #[must_use]
    pub fn overlap(&self, from: Timestamp, to: Timestamp, more: Option<(Timestamp, Timestamp)>) -> std::time::Duration {
        let all = self.blind.iter().copied().chain(more);
        let mut parts: Vec<_> = all.map(|(a, b)| (a.max(from), b.min(to))).filter(|(a, b)| a < b).collect();
        parts.sort_unstable();
        let (mut sum, mut reached) = (std::time::Duration::ZERO, from);
        for (a, b) in parts {
            sum += b.since(a.max(reached));
            reached = reached.max(b);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(n: u64) -> IntervalRow {
        Verdict {
            service: "poller/p".parse().unwrap(),
            presence: Presence::Alive,
            cause: "beat",
            evidence: Value::Null,
            from: BootTime(n),
        }
        .row(Now { boot: BootTime(n), wall: Timestamp(0) }, BootId([0; 16]))
    }

    #[test]
    fn rows_keep_their_order_through_a_failed_commit() {
        let mut history = History::default();
        for n in 0..4 {
            history.push(row(n));
        }
        let taken = history.take(2);
        history.push(row(4));
        history.put_back(taken);
        let order: Vec<u64> = history.take(9).iter().map(|row| row.from_boot.0).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_full_queue_loses_its_oldest() {
        let mut history = History::default();
        for n in 0..MAX_WAITING {
            assert!(history.push(row(n as u64)).is_none());
        }
        assert_eq!(history.push(row(7)).map(|lost| lost.from_boot.0), Some(0));
        assert_eq!(history.len(), MAX_WAITING);
        assert_eq!(history.take(1).first().map(|row| row.from_boot.0), Some(1));
    }

    #[test]
    fn overlaps_count_once() {
        let mut ledger = Ledger::default();
        ledger.add(Timestamp(1_000), Timestamp(4_000));
        ledger.add(Timestamp(3_000), Timestamp(5_000));
        ledger.add(Timestamp(9_000), Timestamp(20_000));
        let overlap = |from, to, more| ledger.overlap(Timestamp(from), Timestamp(to), more);
        assert_eq!(overlap(2_000, 10_000, None), Duration::from_secs(4));
        assert_eq!(overlap(5_000, 9_000, None), Duration::ZERO);
        let more = Some((Timestamp(4_500), Timestamp(6_000)));
        assert_eq!(overlap(2_000, 10_000, more), Duration::from_secs(5));
    }
}
