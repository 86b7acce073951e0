//! How a session reaches a collector: dial, hello, greeting. Part of the pure state machine.

use std::time::Duration;

use rollcall_common::{
    code::Code,
    id::SessionNo,
    time::{Now, Timestamp},
    wire::{
        BEAT_VERSION, Transport,
        message::{Down, Hello, HelloAck, Up, capability},
    },
};

use super::{
    Action, Attempt, Dial, End, Errand, Live, Notice, PAUSE_FLOOR, Paper, Phase, REACH_CAP, REACH_FLOOR,
    REACH_FLOOR_BOTH, SKEW_MS, Session, Then, beats::Beats, millis, pace, vitals::Telling,
};
use crate::{carriage::Ways, rotation::Pick};

impl Session {
    pub(super) fn dial(&mut self, now: Now) {
        self.phase = match self.rotation.pick(now.boot) {
            Ok(pick) => {
                let ways = self.setup.carriage.ways();
                Phase::Reaching(self.attempt(pick, self.paper, Errand::Arrive, ways, now))
            }
            Err(at) => Phase::Offline { at, then: Then::Dial },
        };
    }

    /// The next certificate is proven at the collector that serves us now: it is known to be there.
    pub(super) fn dial_successor(&mut self, now: Now) {
        let Phase::Live(live) = &mut self.phase else { return };
        if self.setup.next.is_none() {
            return;
        }
        // A certificate matters more than what carries it.
        if let Some(probe) = live.successor.take_if(|attempt| attempt.errand == Errand::ProveQuic) {
            self.actions.push_back(Action::Close(probe.no, Code::Goodbye));
            self.setup.carriage.probe_put_off(now.boot);
        }
        let ways = self.setup.carriage.ways_beside(live.transport);
        self.dial_beside(Paper::Next, Errand::ProvePaper, ways, now);
    }

    /// QUIC is tried at the collector that serves us over TCP now.
    pub(super) fn dial_probe(&mut self, now: Now) {
        let Phase::Live(live) = &self.phase else { return };
        if live.successor.is_some() {
            return;
        }
        if self.setup.next.is_some() {
            // A connection with the current certificate would make the next one worthless, unproven as it is.
            return self.setup.carriage.probe_put_off(now.boot);
        }
        self.setup.carriage.probing();
        // It is known to be there, whatever patience was asked for elsewhere.
        let pick = Pick { address: live.address.clone(), variant: 0 };
        let ways = Ways::Only(Transport::Quic);
        let probe = self.attempt(pick, Paper::Current, Errand::ProveQuic, ways, now);
        if let Phase::Live(live) = &mut self.phase {
            live.successor = Some(probe);
        }
    }

    fn dial_beside(&mut self, paper: Paper, errand: Errand, ways: Ways, now: Now) {
        if !matches!(&self.phase, Phase::Live(live) if live.successor.is_none()) {
            return;
        }
        let Ok(pick) = self.rotation.pick(now.boot) else { return };
        let attempt = self.attempt(pick, paper, errand, ways, now);
        if let Phase::Live(live) = &mut self.phase {
            live.successor = Some(attempt);
        }
    }

    pub(super) fn attempt(&mut self, pick: Pick, paper: Paper, errand: Errand, ways: Ways, now: Now) -> Attempt {
        self.last_session = self.last_session.next();
        let no = self.last_session;
        let reach = match ways {
            Ways::Only(_) => self.reach(now),
            Ways::Both(_) => self.reach(now).max(REACH_FLOOR_BOTH),
        };
        let head_start = self.setup.carriage.head_start().min(reach / 2);
        let deadline = now.boot.after(reach);
        let Pick { address, variant } = pick;
        self.actions.push_back(Action::Dial(Dial { no, address: address.clone(), variant, paper, ways, head_start }));
        Attempt { no, address, paper, deadline, errand, ways, opened: None }
    }

    pub(super) fn opened(&mut self, no: SessionNo, transport: Transport, now: Now) {
        let deadline = now.boot.after(self.reach(now));
        let Some(attempt) = self.attempt_mut(no).filter(|attempt| !attempt.is_greeting()) else {
            return self.actions.push_back(Action::Close(no, Code::Goodbye));
        };
        attempt.opened = Some((transport, now.boot));
        attempt.deadline = deadline;
        self.setup.carriage.opened(transport);
        let hello = Hello {
            versions: vec![BEAT_VERSION],
            capabilities: capability::OURS,
            service: self.setup.service.clone(),
            instance_id: self.setup.instance_id,
            session: no,
            boot_id: self.setup.boot_id,
            clock: now.wall,
        };
        self.actions.push_back(Action::Send(no, Up::Hello(hello)));
    }

    pub(super) fn attempt_mut(&mut self, no: SessionNo) -> Option<&mut Attempt> {
        let attempt = match &mut self.phase {
            Phase::Reaching(attempt) => Some(attempt),
            Phase::Live(live) => live.successor.as_mut(),
            Phase::Offline { .. } | Phase::Rejoining | Phase::Draining { .. } | Phase::Over => None,
        };
        attempt.filter(|attempt| attempt.no == no)
    }

    pub(super) fn lease_left(&self, now: Now) -> Option<Duration> {
        self.lease_until.map(|until| until.since(now.boot)).filter(|left| *left > PAUSE_FLOOR * 3)
    }

    /// Patience with a handshake: two tries must fit into what is left of the lease.
    pub(super) fn reach(&self, now: Now) -> Duration {
        self.lease_left(now).map_or(REACH_CAP, |left| (left / 3).clamp(REACH_FLOOR, REACH_CAP))
    }

    pub(super) fn pause(&mut self, now: Now) -> Duration {
        let left = self.lease_left(now);
        self.backoff.next_delay(left).max(PAUSE_FLOOR)
    }

    pub(super) fn greeting_frame(&mut self, no: SessionNo, down: Down, now: Now) -> Result<(), String> {
        match down {
            Down::HelloAck(ack) => return self.greeted(no, ack, now),
            Down::Refused(refused) => {
                self.actions.push_back(Action::Close(no, Code::Goodbye));
                self.parted(no, End::Told(refused.code), millis(refused.retry_after_ms), now);
            }
            Down::Bye(bye) => {
                self.actions.push_back(Action::Close(no, Code::Goodbye));
                self.parted(no, End::Told(bye.code), millis(bye.retry_after_ms), now);
            }
            Down::Enrolled(_)
            | Down::Ack(_)
            | Down::Renewed(_)
            | Down::Directive(_)
            | Down::Children(_)
            | Down::Settings(_) => {
                return Err("a frame before the greeting".into());
            }
        }
        Ok(())
    }

    pub(super) fn greeted(&mut self, no: SessionNo, ack: HelloAck, now: Now) -> Result<(), String> {
        if ack.version != BEAT_VERSION {
            return Err(format!("it chose version {}, which was not offered", ack.version));
        }
        let pace = pace(ack.pace)?;
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        let (attempt, old) = match phase {
            Phase::Reaching(attempt) => (attempt, None),
            Phase::Live(live) => match *live {
                Live { no: old, successor: Some(attempt), .. } => (attempt, Some(old)),
                Live { successor: None, .. } => return Ok(()),
            },
            Phase::Offline { .. } | Phase::Rejoining | Phase::Draining { .. } | Phase::Over => return Ok(()),
        };
        if let Some(old) = old {
            self.actions.push_back(Action::Close(old, Code::Superseded));
        }
        let transport = attempt.opened.map_or(Transport::Quic, |(transport, _)| transport);
        let turn = self.setup.carriage.greeted(transport, now.boot);
        self.adopt(attempt.paper, now);
        self.rotation.succeeded();
        self.pace = Some(pace);
        self.anchor = Some((ack.server_time, now.boot));
        self.schedule_renewal(ack.renew_at, ack.server_time, now);
        self.actions.push_back(Action::Note(Notice::Greeted {
            session: no,
            address: attempt.address.clone(),
            pace,
            generation: self.setup.current.generation,
        }));
        if let Some(turn) = turn {
            self.actions.push_back(Action::Note(Notice::Turned { address: attempt.address.clone(), turn }));
        }
        self.gauge_skew(ack.server_time, now);
        if let Some(facts) = &self.facts {
            self.actions.push_back(Action::Send(no, Up::Facts(facts.clone())));
        }
        let beats = Beats::new(now.boot);
        self.phase = Phase::Live(Box::new(Live {
            no,
            address: attempt.address,
            since: now.boot,
            transport,
            beats,
            telling: Telling::default(),
            capabilities: ack.capabilities,
            wanted: None,
            owes_state: false,
            batch_no: 0,
            parting_no: None,
            successor: None,
        }));
        self.part_children();
        Ok(())
    }

    /// Whichever certificate was accepted is the current one from now on.
    pub(super) fn adopt(&mut self, paper: Paper, now: Now) {
        self.swapped = false;
        self.paper = Paper::Current;
        let Some(next) = self.setup.next.take() else { return };
        if paper == Paper::Next {
            self.setup.current = next;
            self.renewal.succeeded(now.boot, next.not_after.since(next.renew_at));
        }
        self.actions.push_back(Action::Adopt(paper));
    }

    pub(super) fn schedule_renewal(&mut self, renew_at: Timestamp, server_time: Timestamp, now: Now) {
        let half_life = self.setup.current.not_after.since(self.setup.current.renew_at);
        let until = renew_at.since(server_time);
        let due = if until.is_zero() {
            // Overdue: soon, and not all of a fleet at once.
            self.backoff.between(Duration::ZERO, (half_life / 100).min(Duration::from_secs(60)))
        } else {
            let spread = half_life / 10;
            self.backoff.between(until.saturating_sub(spread), until.saturating_add(spread))
        };
        self.renewal.schedule(now.boot.after(due));
    }

    pub(super) fn gauge_skew(&mut self, server_time: Timestamp, now: Now) {
        let skew = server_time.0.saturating_sub(now.wall.0);
        let was_skewed = self.skew_ms.is_some_and(|ms| ms.abs() > SKEW_MS);
        self.skew_ms = Some(skew);
        if skew.abs() > SKEW_MS && !was_skewed {
            self.actions.push_back(Action::Note(Notice::Skewed { by_ms: skew }));
        }
    }
}
