//! What the sessions saw, added up. Pure: sessions tell, it counts.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::quantile::Quantiles;

/// Sums over all sessions.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Plain counts.
    pub counts: Counts,
    /// Time from a beat to its acknowledgement.
    pub ack: Quantiles,
    /// Time from the moment at which a dial was due to the greeting: handshake, queueing, hello.
    pub reach: Quantiles,
    /// Why connections, and tries at them, ended.
    pub ends: BTreeMap<String, u64>,
    /// Interval and TTL that were granted last.
    pub pace: (Duration, Duration),
}

/// Plain counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Beats acknowledged.
    pub acked: u64,
    /// Beats acknowledged with the word to slow down: they did not count.
    pub throttled: u64,
    /// Beats that were never acknowledged, the late ones included.
    pub lost: u64,
    /// Beats whose acknowledgement did not come in time, so that the session left its connection.
    pub late: u64,
    /// Greetings that were not a sidecar's first.
    pub reconnects: u64,
}

impl Counts {
    /// Beats sent and settled, one way or the other.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.acked + self.lost
    }

    /// What was counted since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            acked: self.acked - earlier.acked,
            throttled: self.throttled - earlier.throttled,
            lost: self.lost - earlier.lost,
            late: self.late - earlier.late,
            reconnects: self.reconnects - earlier.reconnects,
        }
    }
}

/// The beats of one sidecar's life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beats {
    settled: u64,
}

impl Beats {
    /// Notes an acknowledgement, which covers earlier beats too. Answers how many it covered.
    pub fn acked(&mut self, beat_no: u64) -> u64 {
        let covered = beat_no.saturating_sub(self.settled);
        self.settled = self.settled.max(beat_no);
        covered
    }

    /// Notes that nothing up to this beat will be acknowledged any more. Answers how many are lost.
    pub fn cut(&mut self, last_sent: u64) -> u64 {
        self.acked(last_sent)
    }
}

impl Tally {
    /// A beat was acknowledged.
    pub fn acked(&mut self, covered: u64, after: Duration, throttled: bool) {
        self.counts.acked += covered;
        self.counts.throttled += u64::from(throttled);
        self.ack.add(after);
    }

    /// A connection, or a try at one, ended.
    pub fn ended(&mut self, why: &str, lost: u64, late: bool) {
        self.counts.lost += lost;
        self.counts.late += u64::from(late && lost > 0);
        *self.ends.entry(why.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beat_is_settled_once() {
        let mut beats = Beats::default();
        assert_eq!(beats.acked(1), 1);
        assert_eq!(beats.acked(3), 2, "an acknowledgement covers the earlier ones");
        assert_eq!(beats.cut(5), 2, "two were in flight");
        assert_eq!(beats.acked(4), 0, "too late");
        assert_eq!(beats.acked(6), 1);
        assert_eq!(beats.cut(6), 0);
    }

    #[test]
    fn late_beats_are_lost_beats() {
        let mut tally = Tally::default();
        tally.acked(1, Duration::from_millis(2), false);
        tally.ended("silent", 1, true);
        tally.ended("reset", 0, true);
        assert_eq!(tally.counts, Counts { acked: 1, lost: 1, late: 1, ..Counts::default() });
        assert_eq!((tally.counts.settled(), tally.ends.len()), (2, 2));
    }
}
