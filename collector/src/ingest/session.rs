//! The pure half of a heartbeat session: frames in, steps out.
//!
//! Knows nothing of QUIC, tasks or the registry. Who the peer is was settled by its certificate before the
//! first frame; a frame that claims otherwise ends the session.

use rollcall_common::{
    code::Code,
    health::{HealthReport, HostFacts},
    id::{BeatNo, InstanceId, ServiceKey, SessionNo},
    lease::Pace,
    time::BootTime,
    wire::{
        BEAT_VERSION,
        message::{Ack, Goodbye, Hello, Up},
    },
};

use crate::admission::{BeatBucket, BeatVerdict, Bucket};

/// Versions that a Hello may list.
const MAX_VERSIONS: usize = 8;

/// Renewals at once; afterwards one a second.
const RENEWALS: u32 = 5;

/// What the shell does about a frame.
#[derive(Debug)]
pub enum Step {
    /// Touch the lease under this pace, then acknowledge.
    Beat {
        /// Which beat.
        beat_no: BeatNo,
        /// What governs it.
        pace: Pace,
        /// What to answer.
        ack: Ack,
    },
    /// Acknowledge without touching the lease.
    Throttle(Ack),
    /// A number that had been seen: nothing is answered. The first one of a session is worth an audit event.
    Replayed {
        /// Which beat.
        beat_no: BeatNo,
        /// Whether it is the first of this session.
        first: bool,
    },
    /// Health changed.
    Health(HealthReport),
    /// Facts changed.
    Facts(Box<HostFacts>),
    /// A certificate request in DER.
    Renew(Vec<u8>),
    /// The sidecar says goodbye.
    Goodbye(Goodbye),
    /// End the session.
    Close(Code),
}

/// A greeted session.
#[derive(Debug)]
pub struct Session {
    /// The process at the other end.
    pub instance: InstanceId,
    /// Its dial.
    pub session: SessionNo,
    last: BeatNo,
    replayed: bool,
    bucket: BeatBucket,
    renewals: Bucket,
}

impl Session {
    /// Takes the first frame of a connection whose certificate names `service`.
    ///
    /// # Errors
    /// The code to close with.
    pub fn greet(first: Up, service: &ServiceKey, now: BootTime) -> Result<(Self, Hello), Code> {
        let Up::Hello(hello) = first else { return Err(Code::Protocol) };
        if hello.versions.len() > MAX_VERSIONS {
            return Err(Code::Protocol);
        }
        if hello.service != *service {
            return Err(Code::IdentityMismatch);
        }
        if !hello.versions.contains(&BEAT_VERSION) {
            return Err(Code::VersionUnsupported);
        }
        let session = Self {
            instance: hello.instance_id,
            session: hello.session,
            last: BeatNo(0),
            replayed: false,
            bucket: BeatBucket::new(now),
            renewals: Bucket::new(1, RENEWALS, now),
        };
        Ok((session, hello))
    }

    /// Whether another renewal may start now: each costs two signatures and a commit.
    pub fn may_renew(&mut self, now: BootTime) -> bool {
        self.renewals.take(now).is_ok()
    }

    /// Takes a later frame. `pace` is the pace in force and the one before it.
    pub fn on_frame(&mut self, frame: Up, now: BootTime, pace: (Pace, Option<Pace>)) -> Step {
        match frame {
            Up::Beat(beat) => {
                let (pace, previous) = pace;
                if beat.beat_no <= self.last {
                    let first = !std::mem::replace(&mut self.replayed, true);
                    return Step::Replayed { beat_no: beat.beat_no, first };
                }
                let ack = |retry_after_ms| Ack { beat_no: beat.beat_no, pace: pace.into(), retry_after_ms };
                match self.bucket.take(now, pace) {
                    BeatVerdict::Pass => {
                        self.last = beat.beat_no;
                        let governing = pace.governing(previous, beat.pace_no);
                        Step::Beat { beat_no: beat.beat_no, pace: governing, ack: ack(0) }
                    }
                    BeatVerdict::Throttle { retry_after_ms } => {
                        self.last = beat.beat_no;
                        Step::Throttle(ack(retry_after_ms))
                    }
                    BeatVerdict::Close => Step::Close(Code::Throttled),
                }
            }
            Up::Health(report) => Step::Health(report),
            Up::Facts(facts) => Step::Facts(facts),
            Up::Renew(renew) => Step::Renew(renew.csr.0),
            Up::Bye(goodbye) => Step::Goodbye(goodbye),
            Up::Enroll(_) | Up::Rejoin(_) | Up::Hello(_) | Up::Children(_) => Step::Close(Code::Protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{
        id::{BootId, PaceNo},
        time::Timestamp,
        wire::message::Beat,
    };

    use super::*;

    const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 1_000, ttl_ms: 3_000 };

    fn hello(service: &str) -> Up {
        Up::Hello(Hello {
            versions: vec![9, BEAT_VERSION],
            capabilities: 0,
            service: service.parse().unwrap(),
            instance_id: InstanceId([1; 16]),
            session: SessionNo(3),
            boot_id: BootId([2; 16]),
            clock: Timestamp(0),
        })
    }

    fn greeted() -> Session {
        Session::greet(hello("agent/a"), &"agent/a".parse().unwrap(), BootTime(0)).unwrap().0
    }

    fn beat(session: &mut Session, no: u64, at: u64) -> Step {
        session.on_frame(Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(1) }), BootTime(at), (PACE, None))
    }

    /// W3: the body may repeat the identity, never change it.
    #[test]
    fn a_hello_for_another_is_refused() {
        let me: ServiceKey = "agent/a".parse().unwrap();
        for other in ["agent/b", "poller/a"] {
            assert!(matches!(Session::greet(hello(other), &me, BootTime(0)), Err(Code::IdentityMismatch)));
        }
        let beat = Up::Beat(Beat { beat_no: BeatNo(1), pace_no: PaceNo(0) });
        assert!(matches!(Session::greet(beat, &me, BootTime(0)), Err(Code::Protocol)));
    }

    /// W10: older numbers are ignored, and the first one is told.
    #[test]
    fn replayed_beats_do_not_touch_the_lease() {
        let mut session = greeted();
        assert!(matches!(beat(&mut session, 5, 1_000), Step::Beat { .. }));
        assert!(matches!(beat(&mut session, 5, 2_000), Step::Replayed { first: true, .. }));
        assert!(matches!(beat(&mut session, 4, 3_000), Step::Replayed { first: false, .. }));
        assert!(matches!(beat(&mut session, 6, 4_000), Step::Beat { .. }));
    }

    /// W5: a flood is acknowledged without effect, then ends the session.
    #[test]
    fn a_flood_is_throttled_and_then_closed() {
        let mut session = greeted();
        let mut seen = (0, 0, 0);
        for no in 1..=1_000 {
            match beat(&mut session, no, no) {
                Step::Beat { .. } => seen.0 += 1,
                Step::Throttle(ack) => {
                    assert!(ack.retry_after_ms > 0);
                    seen.1 += 1;
                }
                Step::Close(Code::Throttled) => {
                    seen.2 += 1;
                    break;
                }
                other @ (Step::Replayed { .. }
                | Step::Health(_)
                | Step::Facts(_)
                | Step::Renew(_)
                | Step::Goodbye(_)
                | Step::Close(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        assert!(seen.0 <= 7 && seen.1 > 0 && seen.2 == 1, "{seen:?}");
    }

    #[test]
    fn frames_of_the_other_protocol_end_the_session() {
        assert!(matches!(greeted().on_frame(hello("agent/a"), BootTime(1), (PACE, None)), Step::Close(Code::Protocol)));
    }
}
