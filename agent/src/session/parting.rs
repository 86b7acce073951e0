//! How a connection ends and what follows. Part of the pure state machine: every refusal is obeyed here
//! and nowhere else.

use std::time::Duration;

use rollcall_common::{
    address::Address,
    code::{Advice, Code},
    id::SessionNo,
    lease::Pace,
    time::Now,
    wire::message::{Goodbye, Up},
};

use super::{
    Action, Attempt, BACKOFF_BASE, DRAIN_WITHIN, End, Errand, Notice, PATIENCE_CAP, Paper, Phase, Session, Then,
};

impl Session {
    pub(super) fn parted(&mut self, no: SessionNo, end: End, patience: Duration, now: Now) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Reaching(attempt) if attempt.no == no => {
                self.judge_way(&attempt, &end, now);
                self.offline(no, attempt.address, end, patience, attempt.paper, now);
            }
            Phase::Live(live) if live.no == no => {
                self.renewal.interrupted(now.boot);
                let (lived, silent) = (now.boot.since(live.since), matches!(end, End::Silent(_)));
                self.setup.carriage.ended(live.transport, lived, silent, end.to_string());
                match live.successor {
                    // The next connection is under way already; a probe that greets is one too, and the collector ends
                    // this one as soon as it has heard that greeting.
                    Some(attempt) if attempt.errand != Errand::ProveQuic || attempt.is_greeting() => {
                        self.note_parted(no, live.address, end, None);
                        self.phase = Phase::Reaching(attempt);
                    }
                    // It may never come about, and the lease does not wait for it.
                    Some(probe) => {
                        self.actions.push_back(Action::Close(probe.no, Code::Goodbye));
                        self.offline(no, live.address, end, patience, Paper::Current, now);
                    }
                    None => self.offline(no, live.address, end, patience, Paper::Current, now),
                }
            }
            Phase::Live(mut live) => {
                if let Some(attempt) = live.successor.take_if(|attempt| attempt.no == no) {
                    self.successor_failed(&attempt, end, patience, now);
                }
                self.phase = Phase::Live(live);
            }
            Phase::Draining { no: draining, .. } if draining == no => self.leave(no),
            other @ (Phase::Offline { .. }
            | Phase::Rejoining
            | Phase::Reaching(_)
            | Phase::Draining { .. }
            | Phase::Over) => self.phase = other,
        }
    }

    /// What a dial that gave no connection says of its way.
    fn judge_way(&mut self, attempt: &Attempt, end: &End, now: Now) {
        let carriage = &mut self.setup.carriage;
        match (end, attempt.opened) {
            (End::Unanswered(words), _) => carriage.unanswered(attempt.ways, words),
            (End::Silent(words), Some((transport, at))) => {
                carriage.ended(transport, now.boot.since(at), true, words);
            }
            (End::Told(_) | End::Alert(_) | End::Distrusted(_) | End::Nonsense(_), _) => {
                carriage.answered(attempt.ways)
            }
            (End::Silent(_), None) | (End::Lost(_), _) => {}
        }
    }

    pub(super) fn successor_failed(&mut self, attempt: &Attempt, end: End, patience: Duration, now: Now) {
        if attempt.errand == Errand::ProveQuic {
            let silent = attempt.is_greeting() && matches!(end, End::Silent(_));
            self.setup.carriage.probe_failed(end.to_string(), silent, now.boot);
            let again_in = self.setup.carriage.probe_at().map(|at| at.since(now.boot));
            self.actions.push_back(Action::Note(Notice::QuicStillAway { why: end.to_string(), again_in }));
            return;
        }
        let why = format!("the new certificate could not be proven: {end}");
        if end.blames_certificate() {
            self.setup.next = None;
            self.paper = Paper::Current;
            self.actions.push_back(Action::DropNext);
            self.renewal_failed(why, patience, now);
        } else {
            let again_in = self.renewal.unproven(now.boot);
            self.actions.push_back(Action::Note(Notice::RenewalFailed { why, again_in }));
        }
        self.note_parted(attempt.no, attempt.address.clone(), end, None);
    }

    /// No connection is left: what follows is decided here and nowhere else.
    pub(super) fn offline(
        &mut self,
        no: SessionNo,
        address: Address,
        end: End,
        patience: Duration,
        paper: Paper,
        now: Now,
    ) {
        let patience = patience.min(PATIENCE_CAP);
        let patience = self.backoff.between(patience, patience.saturating_add(patience / 4));
        self.rotation.failed(now.boot, patience);
        let pause = self.pause(now);
        let mut then = Then::Dial;
        let delay = if end.blames_certificate() && self.setup.next.is_some() && !self.swapped {
            self.paper = paper.other();
            self.swapped = true;
            pause
        } else {
            // Once both were refused, the newer one has its turn first again.
            self.swapped = false;
            self.paper = if self.setup.next.is_some() { Paper::Next } else { Paper::Current };
            match self.advice(&end, now) {
                Advice::Retry if end == End::Told(Code::Draining) => self.spread(now).max(pause),
                Advice::Retry => pause,
                Advice::RetrySlowly | Advice::GiveUp => self.backoff.jitter(self.setup.revoked_retry, 10).max(pause),
                Advice::Rejoin => {
                    then = Then::Rejoin;
                    pause
                }
                // Another process holds this identity: do not race it.
                Advice::Stand => self.spread(now).max(pause),
            }
        };
        self.phase = Phase::Offline { at: now.boot.after(delay), then };
        self.note_parted(no, address, end, Some(delay));
    }

    /// A random share of the interval, within the lease.
    pub(super) fn spread(&mut self, now: Now) -> Duration {
        let interval = self.pace.map_or(BACKOFF_BASE, Pace::interval);
        let bound = self.lease_left(now).map_or(interval, |left| interval.min(left / 3));
        self.backoff.between(bound / 2, bound)
    }

    /// The advice of an end, where our own certificate's date may change it.
    pub(super) fn advice(&self, end: &End, now: Now) -> Advice {
        let collector_now = self.anchor.map_or(now.wall, |(wall, at)| wall.after(now.boot.since(at)));
        let expired = collector_now >= self.setup.current.not_after;
        match end {
            End::Told(Code::SerialRefused) if expired => Advice::Rejoin,
            End::Told(_) | End::Alert(_) | End::Distrusted(_) | End::Nonsense(_) => end.advice(),
            End::Unanswered(_) | End::Silent(_) | End::Lost(_) => end.advice(),
        }
    }

    pub(super) fn note_parted(&mut self, session: SessionNo, address: Address, end: End, again_in: Option<Duration>) {
        self.last_end = Some(end.clone());
        self.actions.push_back(Action::Note(Notice::Parted { session, address, end, again_in }));
    }

    pub(super) fn stop(&mut self, goodbye: Option<Goodbye>, now: Now) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Live(live) => {
                if let Some(attempt) = live.successor {
                    self.actions.push_back(Action::Close(attempt.no, Code::Goodbye));
                }
                let Some(goodbye) = goodbye else { return self.leave(live.no) };
                self.actions.push_back(Action::Send(live.no, Up::Bye(goodbye)));
                self.actions.push_back(Action::Finish(live.no));
                self.phase = Phase::Draining { no: live.no, until: now.boot.after(DRAIN_WITHIN) };
            }
            Phase::Reaching(attempt) => self.leave(attempt.no),
            Phase::Draining { no, .. } => self.leave(no),
            Phase::Offline { .. } | Phase::Rejoining => self.actions.push_back(Action::Ended),
            Phase::Over => {}
        }
    }

    pub(super) fn delivered(&mut self, no: SessionNo) {
        if matches!(self.phase, Phase::Draining { no: draining, .. } if draining == no) {
            self.leave(no);
        }
    }

    pub(super) fn leave(&mut self, no: SessionNo) {
        self.phase = Phase::Over;
        self.actions.push_back(Action::Close(no, Code::Goodbye));
        self.actions.push_back(Action::Ended);
    }
}
