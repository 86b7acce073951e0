//! The beats of one live connection: when the next is due, which wait for their acknowledgement. Pure.

use std::{collections::VecDeque, time::Duration};

use rollcall_common::{id::BeatNo, time::BootTime};

/// Sent and due beats.
#[derive(Debug)]
pub(super) struct Beats {
    due: BootTime,
    /// The collector asked for no beat before.
    not_before: BootTime,
    /// Oldest first. Bounded: the connection is given up `ack_within` after the oldest was sent.
    in_flight: VecDeque<(BeatNo, BootTime)>,
}

impl Beats {
    /// The first beat is due at once.
    pub(super) fn new(now: BootTime) -> Self {
        Self { due: now, not_before: now, in_flight: VecDeque::new() }
    }

    /// When the next beat is due.
    pub(super) fn due(&self) -> BootTime {
        self.due
    }

    /// Puts the next beat at another moment.
    pub(super) fn reschedule(&mut self, due: BootTime) {
        self.due = due;
    }

    /// Puts the next beat at the moment that the collector asked for, and none before.
    pub(super) fn defer(&mut self, until: BootTime) {
        self.due = until;
        self.not_before = until;
    }

    /// Has a beat leave now whose answer tells what is new; one on its way will be answered with that too.
    pub(super) fn hasten(&mut self, now: BootTime) {
        if self.in_flight.is_empty() && self.not_before <= now {
            self.due = self.due.min(now);
        }
    }

    /// Notes a beat that leaves now; the next follows after the interval.
    pub(super) fn sent(&mut self, no: BeatNo, now: BootTime, interval: Duration) {
        self.in_flight.push_back((no, now));
        self.due = now.after(interval);
    }

    /// Notes an acknowledgement, which covers all earlier beats too: one stream keeps its order. Tells
    /// when the acknowledged beat was sent, or `None` where it waits no more.
    pub(super) fn acked(&mut self, no: BeatNo) -> Option<BootTime> {
        let (_, sent) = self.in_flight.iter().find(|(waiting, _)| *waiting == no).copied()?;
        self.in_flight.retain(|(waiting, _)| *waiting > no);
        Some(sent)
    }

    /// The beat that has waited longest.
    pub(super) fn oldest(&self) -> Option<(BeatNo, BootTime)> {
        self.in_flight.front().copied()
    }
}
