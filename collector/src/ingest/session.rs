//! The pure half of a heartbeat session: frames in, steps out.
//!
//! Knows nothing of QUIC, tasks or the registry. Who the peer is was settled by its certificate before the
//! first frame; a frame that claims otherwise ends the session.

use rollcall_common::{
    code::Code,
    health::{HealthReport, HostFacts, ProgressReport},
    id::{BeatNo, InstanceId, ServiceKey, SessionNo},
    lease::Pace,
    time::BootTime,
    wire::{
        BEAT_VERSION,
        children::{Children, ChildrenAck, ChildrenGone, MAX_CHILDREN, MAX_GONE},
        message::{About, Ack, Goodbye, Hello, Up, capability},
        settings::{MAX_SHOWN, SettingsState},
    },
};

use crate::admission::{BeatBucket, BeatVerdict, Bucket};

/// Versions that a Hello may list.
const MAX_VERSIONS: usize = 8;

/// Renewals at once; afterwards one a second.
const RENEWALS: u32 = 5;

/// Batches of child reports at once: four thousand children in one breath.
const BATCHES: u32 = 16;
/// Batches of child reports a second, in the long run.
const BATCHES_PER_SECOND: u32 = 4;
/// Batches in a row that are answered without effect before the session ends.
const BATCHES_PATIENCE: u8 = 32;

/// What the shell does about a frame.
#[derive(Debug)]
pub enum Step {
    /// Touch the lease under this pace, then acknowledge.
    Beat {
        /// Which beat.
        beat_no: BeatNo,
        /// What governs it.
        pace: Pace,
        /// Whether it was sent under the pace that is granted now.
        echoes: bool,
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
    /// Progress changed.
    Progress(ProgressReport),
    /// Which settings are in force.
    Settings(Box<SettingsState>),
    /// What the host says of itself.
    About(Box<About>),
    /// What is said of children.
    Children(Box<Children>),
    /// Goodbyes for children.
    ChildrenGone(Box<ChildrenGone>),
    /// Too many batches: answer without effect.
    ChildrenThrottled(ChildrenAck),
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
    /// Abilities that both ends have.
    capabilities: u64,
    batches: Bucket,
    /// Batches in a row that were too many.
    throttled: u8,
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
            capabilities: hello.capabilities & capability::OURS,
            batches: Bucket::new(BATCHES_PER_SECOND, BATCHES, now),
            throttled: 0,
        };
        Ok((session, hello))
    }

    /// Whether both ends have an ability.
    #[must_use]
    pub fn has(&self, ability: u64) -> bool {
        self.capabilities & ability != 0
    }

    /// Another pace is granted from now on. What was saved at the old one buys too little at a longer one, and the
    /// sidecar beats at the old one until it has heard.
    pub fn repaced(&mut self, now: BootTime) {
        self.bucket = BeatBucket::new(now);
    }

    /// Whether another renewal may start now: each costs two signatures and a commit.
    pub fn may_renew(&mut self, now: BootTime) -> bool {
        self.renewals.take(now).is_ok()
    }

    /// A batch of child reports, from a sidecar that said it would send some.
    fn on_children(&mut self, batch: Box<Children>, now: BootTime) -> Step {
        if !self.has(capability::CHILDREN) || batch.children.len() > MAX_CHILDREN {
            return Step::Close(Code::Protocol);
        }
        self.paced(batch.batch_no, now).unwrap_or(Step::Children(batch))
    }

    /// Goodbyes for children, from a sidecar that said it would say them.
    fn on_children_gone(&mut self, gone: Box<ChildrenGone>, now: BootTime) -> Step {
        if !self.has(capability::CHILDREN_GONE) || gone.children.len() > MAX_GONE {
            return Step::Close(Code::Protocol);
        }
        self.paced(gone.batch_no, now).unwrap_or(Step::ChildrenGone(gone))
    }

    /// What becomes of a batch that is one too many.
    fn paced(&mut self, batch_no: u64, now: BootTime) -> Option<Step> {
        match self.batches.take(now) {
            Ok(()) => {
                self.throttled = 0;
                None
            }
            Err(_) if self.throttled >= BATCHES_PATIENCE => Some(Step::Close(Code::Throttled)),
            Err(wait) => {
                self.throttled += 1;
                let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
                Some(Step::ChildrenThrottled(ChildrenAck { batch_no, refused: Vec::new(), retry_after_ms }))
            }
        }
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
                        Step::Beat {
                            beat_no: beat.beat_no,
                            pace: governing,
                            echoes: beat.pace_no == pace.no,
                            ack: ack(0),
                        }
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
            Up::Children(batch) => self.on_children(batch, now),
            Up::ChildrenGone(gone) => self.on_children_gone(gone, now),
            Up::Progress(report) if self.has(capability::PROGRESS) => Step::Progress(report),
            Up::Settings(state) if self.has(capability::SETTINGS) && state.probes.len() <= MAX_SHOWN => {
                Step::Settings(state)
            }
            Up::About(about) if self.has(capability::ABOUT) => Step::About(about),
            Up::Settings(_) | Up::About(_) | Up::Progress(_) => Step::Close(Code::Protocol),
            Up::Enroll(_) | Up::Rejoin(_) | Up::Hello(_) => Step::Close(Code::Protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{
        id::{BootId, PaceNo},
        time::Timestamp,
        wire::{
            children::ChildGone,
            message::{Beat, GoodbyeReason},
        },
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
                | Step::Progress(_)
                | Step::Settings(_)
                | Step::About(_)
                | Step::Children(_)
                | Step::ChildrenGone(_)
                | Step::ChildrenThrottled(_)
                | Step::Renew(_)
                | Step::Goodbye(_)
                | Step::Close(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        assert!(seen.0 <= 7 && seen.1 > 0 && seen.2 == 1, "{seen:?}");
    }

    fn children(batch_no: u64, count: usize) -> Up {
        use rollcall_common::{
            health::{Health, HealthReport, Text},
            wire::children::ChildReport,
        };
        let report = ChildReport {
            child: "checker/c".parse().unwrap(),
            parent: None,
            report: HealthReport { health: Health::Healthy, reason: Text::default() },
            about: None,
        };
        Up::Children(Box::new(Children { batch_no, interval_ms: 1_000, children: vec![report; count] }))
    }

    fn greeted_with(capabilities: u64) -> Session {
        let Up::Hello(hello) = hello("agent/a") else { unreachable!() };
        let hello = Up::Hello(Hello { capabilities, ..hello });
        Session::greet(hello, &"agent/a".parse().unwrap(), BootTime(0)).unwrap().0
    }

    #[test]
    fn children_come_only_from_a_sidecar_that_announced_them() {
        let step = greeted_with(0).on_frame(children(1, 1), BootTime(1), (PACE, None));
        assert!(matches!(step, Step::Close(Code::Protocol)));
        let mut session = greeted_with(capability::CHILDREN | 0x100);
        let step = session.on_frame(children(1, MAX_CHILDREN), BootTime(1), (PACE, None));
        assert!(matches!(step, Step::Children(batch) if batch.batch_no == 1));
        let step = session.on_frame(children(2, MAX_CHILDREN + 1), BootTime(1), (PACE, None));
        assert!(matches!(step, Step::Close(Code::Protocol)));
    }

    fn gone(batch_no: u64, count: usize) -> Up {
        let gone = ChildGone { child: "checker/c".parse().unwrap(), parent: None, reason: GoodbyeReason::Uninstall };
        Up::ChildrenGone(Box::new(ChildrenGone { batch_no, children: vec![gone; count] }))
    }

    /// Goodbyes for children are announced, bounded and paced with the reports of them: both share one bucket.
    #[test]
    fn goodbyes_for_children_come_only_from_a_sidecar_that_announced_them() {
        for announced in [0, capability::CHILDREN] {
            let step = greeted_with(announced).on_frame(gone(1, 1), BootTime(1), (PACE, None));
            assert!(matches!(step, Step::Close(Code::Protocol)), "{announced}");
        }
        let mut session = greeted_with(capability::CHILDREN | capability::CHILDREN_GONE);
        let step = session.on_frame(gone(1, MAX_GONE), BootTime(1), (PACE, None));
        assert!(matches!(step, Step::ChildrenGone(batch) if batch.children.len() == MAX_GONE));
        let step = session.on_frame(gone(2, MAX_GONE + 1), BootTime(1), (PACE, None));
        assert!(matches!(step, Step::Close(Code::Protocol)));
        let mut session = greeted_with(capability::CHILDREN | capability::CHILDREN_GONE);
        let mut heard = 0;
        let throttled = (1..=u64::from(BATCHES) * 2).find(|no| {
            let frame = if no % 2 == 0 { gone(*no, 1) } else { children(*no, 1) };
            let step = session.on_frame(frame, BootTime(1), (PACE, None));
            let is_full =
                matches!(&step, Step::ChildrenThrottled(ack) if ack.batch_no == *no && ack.retry_after_ms > 0);
            heard += u32::from(!is_full);
            is_full
        });
        assert_eq!((heard, throttled), (BATCHES, Some(u64::from(BATCHES) + 1)));
    }

    #[test]
    fn a_flood_of_children_is_throttled_and_then_closed() {
        let mut session = greeted_with(capability::CHILDREN);
        let (mut heard, mut throttled) = (0, 0);
        let end = (1..=1_000).find(|no| match session.on_frame(children(*no, 1), BootTime(*no), (PACE, None)) {
            Step::Children(_) => {
                heard += 1;
                false
            }
            Step::ChildrenThrottled(ack) => {
                assert!(ack.batch_no == *no && ack.retry_after_ms > 0);
                throttled += 1;
                false
            }
            Step::Close(Code::Throttled) => true,
            other @ (Step::Beat { .. }
            | Step::Throttle(_)
            | Step::Replayed { .. }
            | Step::Health(_)
            | Step::Facts(_)
            | Step::Progress(_)
            | Step::Settings(_)
            | Step::About(_)
            | Step::ChildrenGone(_)
            | Step::Renew(_)
            | Step::Goodbye(_)
            | Step::Close(_)) => panic!("{other:?}"),
        });
        assert!(end.is_some() && heard == 16 && throttled == 32, "{heard} {throttled} {end:?}");
        // Whoever keeps to the rate is never throttled.
        let mut session = greeted_with(capability::CHILDREN);
        for no in 1..1_000 {
            let step = session.on_frame(children(no, 1), BootTime(no * 250), (PACE, None));
            assert!(matches!(step, Step::Children(_)), "{no}");
        }
    }

    #[test]
    fn an_echo_is_of_the_pace_that_is_granted_now() {
        let quick = Pace { no: PaceNo(2), ..PACE };
        let mut session = greeted();
        for (no, pace_no, wanted) in [(1, 1, false), (2, 2, true)] {
            let frame = Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(pace_no) });
            let step = session.on_frame(frame, BootTime(no * 1_000), (quick, Some(PACE)));
            assert!(matches!(step, Step::Beat { echoes, .. } if echoes == wanted), "{step:?}");
        }
    }

    /// A sidecar cannot know of a longer pace before an acknowledgement has told it.
    #[test]
    fn the_beats_around_a_longer_pace_are_heard() {
        let slow = Pace { no: PaceNo(2), interval_ms: 600_000, ttl_ms: 1_800_000 };
        let mut session = greeted();
        for no in 1..10 {
            assert!(matches!(beat(&mut session, no, no * 1_000), Step::Beat { .. }));
        }
        session.repaced(BootTime(9_500));
        let at = |session: &mut Session, no, at, pace_no| {
            let frame = Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(pace_no) });
            session.on_frame(frame, BootTime(at), (slow, Some(PACE)))
        };
        let step = at(&mut session, 10, 10_000, 1);
        assert!(matches!(step, Step::Beat { pace: Pace { ttl_ms: 1_800_000, .. }, .. }), "{step:?}");
        assert!(matches!(at(&mut session, 11, 11_000, 2), Step::Beat { .. }));
        assert!(matches!(at(&mut session, 12, 611_000, 2), Step::Beat { .. }));
    }

    fn later_frames() -> [(u64, Up); 3] {
        let state = SettingsState { revision: 1, refused: None, probes: Vec::new(), more: 0 };
        [
            (capability::SETTINGS, Up::Settings(Box::new(state))),
            (capability::ABOUT, Up::About(Box::default())),
            (capability::PROGRESS, Up::Progress(ProgressReport::default())),
        ]
    }

    /// What was not greeted ends the session, whatever else was.
    #[test]
    fn settings_names_and_progress_come_only_where_both_can() {
        for (ability, frame) in later_frames() {
            let step = greeted_with(!ability).on_frame(frame.clone(), BootTime(1), (PACE, None));
            assert!(matches!(step, Step::Close(Code::Protocol)), "{frame:?}");
            let step = greeted_with(ability).on_frame(frame, BootTime(1), (PACE, None));
            assert!(matches!(step, Step::Settings(_) | Step::About(_) | Step::Progress(_)), "{step:?}");
        }
    }

    #[test]
    fn a_state_of_more_probes_than_there_may_be_ends_the_session() {
        use rollcall_common::{health::Text, wire::settings::ProbeState};
        let probe = ProbeState {
            child: None,
            probe: "port".parse().unwrap(),
            sort: Text::default(),
            allowed: true,
            runs: true,
            interval_ms: 1,
            timeout_ms: 1,
            rise: 1,
            fall: 1,
        };
        let state = |count| SettingsState { revision: 1, refused: None, probes: vec![probe.clone(); count], more: 0 };
        for (count, passes) in [(MAX_SHOWN, true), (MAX_SHOWN + 1, false)] {
            let frame = Up::Settings(Box::new(state(count)));
            let step = greeted_with(capability::SETTINGS).on_frame(frame, BootTime(1), (PACE, None));
            assert_eq!(matches!(step, Step::Settings(_)), passes, "{step:?}");
        }
    }

    #[test]
    fn frames_of_the_other_protocol_end_the_session() {
        assert!(matches!(greeted().on_frame(hello("agent/a"), BootTime(1), (PACE, None)), Step::Close(Code::Protocol)));
    }
}
