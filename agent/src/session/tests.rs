//! The session with a clock moved by hand: first what the design promises, then any history at all.

mod any_history;
mod carried;
mod certificates;
mod farewells;
mod settings;
mod vitals;

use std::time::Duration;

use rollcall_common::{
    code::Code,
    health::HostFacts,
    id::{BootId, Generation, InstanceId, PaceNo},
    wire::{
        BEAT_VERSION,
        message::{
            Ack, Addresses, Beat, Bye, Bytes, Directive, Goodbye, GoodbyeReason, HelloAck, Refused, Renew, Renewed,
        },
    },
};

use super::*;
use crate::carriage::Policy;

const PACE: Granted = Granted { pace_no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
const DAY: Duration = Duration::from_secs(86_400);

/// A session, its clock, and what it ordered.
struct World {
    session: Session,
    now: Now,
    seen: Vec<Action>,
}

fn term(generation: u64, wall: Timestamp) -> Term {
    Term { generation: Generation(generation), not_after: wall.after(DAY * 7), renew_at: wall.after(DAY * 7 / 2) }
}

fn setup(addresses: &[&str]) -> Setup {
    Setup {
        service: "poller/p1".parse().unwrap(),
        instance_id: InstanceId([1; 16]),
        boot_id: BootId([2; 16]),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        follow_addresses: true,
        current: term(1, Timestamp(0)),
        next: None,
        revoked_retry: Duration::from_secs(3600),
        first_dial_in: Duration::ZERO,
        seed: 7,
        carriage: Carriage::new(Policy::Quic, 7),
    }
}

impl World {
    fn new(setup: Setup) -> Self {
        let now = Now { boot: BootTime(1_000_000), wall: Timestamp(0) };
        let mut world = Self { session: Session::new(setup, now), now, seen: Vec::new() };
        world.tell(Event::Tick);
        world
    }

    fn tell(&mut self, event: Event) {
        self.session.handle(event, self.now);
        while let Some(action) = self.session.next_action() {
            self.seen.push(action);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { boot: self.now.boot.after(time), wall: self.now.wall.after(time) };
    }

    /// Moves the clock to the next deadline; tells how far that was.
    fn reach_deadline(&mut self) -> Duration {
        let wait = self.session.deadline().unwrap().since(self.now.boot);
        self.pass(wait);
        self.tell(Event::Tick);
        wait
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.seen)
    }

    fn dials(&mut self) -> Vec<Dial> {
        let dials = self
            .take()
            .into_iter()
            .filter_map(|action| if let Action::Dial(dial) = action { Some(dial) } else { None });
        dials.collect()
    }

    fn dial(&mut self) -> Dial {
        let mut dials = self.dials();
        assert_eq!(dials.len(), 1, "{dials:?}");
        dials.remove(0)
    }

    /// Waits for the next dial and gives it.
    fn next_dial(&mut self) -> (Dial, Duration) {
        let waited = self.reach_deadline();
        (self.dial(), waited)
    }

    fn hello_ack(&self) -> HelloAck {
        HelloAck {
            version: BEAT_VERSION,
            capabilities: 0,
            pace: PACE,
            addresses_revision: 1,
            server_time: self.now.wall,
            renew_at: self.session.setup.current.renew_at,
        }
    }

    fn greet(&mut self, no: SessionNo) {
        self.tell(Event::Opened(no, Transport::Quic));
        let ack = self.hello_ack();
        self.tell(Event::Frame(no, Down::HelloAck(ack)));
    }

    fn ack_last(&mut self, no: SessionNo) {
        let ack = Ack { beat_no: self.session.last_beat, pace: PACE, retry_after_ms: 0 };
        self.tell(Event::Frame(no, Down::Ack(ack)));
    }

    /// A session that has beaten and been acknowledged a few times.
    fn live(addresses: &[&str]) -> (Self, SessionNo) {
        let mut world = Self::new(setup(addresses));
        let no = world.dial().no;
        world.greet(no);
        for _ in 0..3 {
            world.ack_last(no);
            world.reach_deadline();
        }
        world.ack_last(no);
        world.take();
        (world, no)
    }

    fn sent(&mut self) -> Vec<(SessionNo, Up)> {
        let sent = self
            .take()
            .into_iter()
            .filter_map(|action| if let Action::Send(no, up) = action { Some((no, up)) } else { None });
        sent.collect()
    }

    fn state(&self) -> State {
        self.session.view().state
    }
}

fn bye(code: Code, retry_after_ms: u32) -> Down {
    Down::Bye(Bye { code, retry_after_ms })
}

fn said(report: rollcall_common::health::HealthReport) -> Event {
    Event::Vitals(Box::new(report.into()))
}

fn lost() -> End {
    End::Lost("gone".into())
}

#[test]
fn dials_at_once_greets_and_beats_at_once() {
    let mut world = World::new(setup(&["a"]));
    let facts = HostFacts { cpus: 3, ..HostFacts::default() };
    world.tell(Event::Facts(Box::new(facts.clone())));
    let dial = world.dial();
    assert_eq!((dial.no, dial.paper, dial.address.host()), (SessionNo(1), Paper::Current, "a".into()));
    assert_eq!(world.state(), State::Dialing);
    world.tell(Event::Opened(dial.no, Transport::Quic));
    assert_eq!(world.state(), State::Greeting);
    let Some((_, Up::Hello(hello))) = world.sent().pop() else { panic!("no hello") };
    assert_eq!((hello.session, hello.versions), (SessionNo(1), vec![1]));
    let ack = world.hello_ack();
    world.tell(Event::Frame(dial.no, Down::HelloAck(ack)));
    let sent = world.sent();
    assert!(
        matches!(&sent[..], [(_, Up::Facts(told)), (_, Up::Beat(Beat { beat_no: BeatNo(1), pace_no: PaceNo(1) }))] if **told == facts),
        "{sent:?}"
    );
}

#[test]
fn beats_keep_the_pace_within_five_percent() {
    let (mut world, no) = World::live(&["a"]);
    for _ in 0..50 {
        let waited = world.reach_deadline();
        assert!((9_500..=10_500).contains(&waited.as_millis()), "{waited:?}");
        assert!(matches!(world.sent()[..], [(_, Up::Beat(_))]));
        world.ack_last(no);
    }
}

#[test]
fn a_new_pace_holds_from_its_ack_and_is_echoed() {
    let (mut world, no) = World::live(&["a"]);
    world.reach_deadline();
    let pace = Granted { pace_no: PaceNo(2), interval_ms: 1_000, ttl_ms: 3_000 };
    let beat_no = world.session.last_beat;
    world.tell(Event::Frame(no, Down::Ack(Ack { beat_no, pace, retry_after_ms: 0 })));
    world.take();
    let waited = world.reach_deadline();
    assert!((950..=1_050).contains(&waited.as_millis()), "{waited:?}");
    assert!(matches!(world.sent()[..], [(_, Up::Beat(Beat { pace_no: PaceNo(2), .. }))]));
}

#[test]
fn a_throttled_beat_waits_as_told_and_does_not_prolong_the_lease() {
    let (mut world, no) = World::live(&["a"]);
    let lease = world.session.lease_until;
    world.reach_deadline();
    let beat_no = world.session.last_beat;
    world.tell(Event::Frame(no, Down::Ack(Ack { beat_no, pace: PACE, retry_after_ms: 15_000 })));
    assert_eq!(world.session.lease_until, lease);
    world.take();
    let waited = world.reach_deadline();
    assert!((15_000..=16_500).contains(&waited.as_millis()), "{waited:?}");
}

/// D9: 4 s for an acknowledgement, then the next address, early enough for two tries.
#[test]
fn an_unacknowledged_beat_leads_to_the_next_address_while_the_lease_lasts() {
    for hanging in [false, true] {
        let (mut world, no) = World::live(&["a", "b"]);
        let lease_end = world.session.lease_until.unwrap();
        world.reach_deadline();
        world.take();
        assert_eq!(world.reach_deadline(), Duration::from_secs(4));
        let seen = world.take();
        assert!(matches!(seen[0], Action::Close(closed, Code::Deadline) if closed == no), "{seen:?}");
        let mut dialed = Vec::new();
        while world.now.boot < lease_end {
            world.reach_deadline();
            for dial in world.dials() {
                dialed.push(dial.address.host());
                if !hanging {
                    world.tell(Event::Closed(dial.no, lost()));
                }
            }
        }
        assert!(dialed.len() >= 2, "hanging {hanging}: {dialed:?}");
        assert_eq!(dialed[..2], ["b", "a"]);
    }
}

#[test]
fn draining_spreads_and_goes_elsewhere() {
    let (mut world, no) = World::live(&["a", "b"]);
    world.tell(Event::Frame(no, bye(Code::Draining, 0)));
    world.take();
    let (dial, waited) = world.next_dial();
    assert_eq!(dial.address.host(), "b");
    assert!(waited <= Duration::from_secs(10), "{waited:?}");
}

#[test]
fn patience_is_obeyed_where_no_other_address_is() {
    let (mut world, no) = World::live(&["a"]);
    world.tell(Event::Frame(no, bye(Code::Busy, 20_000)));
    world.take();
    let mut waited = Duration::ZERO;
    let dials = loop {
        waited += world.reach_deadline();
        let dials = world.dials();
        if !dials.is_empty() {
            break dials;
        }
    };
    assert_eq!(dials.len(), 1);
    assert!((20_000..=25_000).contains(&waited.as_millis()), "{waited:?}");
}

/// L4: no hot loop for as long as it lasts, whatever way it is told; SIGHUP tries at once.
#[test]
fn a_revoked_sidecar_tries_each_hour() {
    for end in [End::Told(Code::Revoked), End::Alert(44), End::Told(Code::Quarantined)] {
        let (mut world, no) = World::live(&["a", "b"]);
        world.tell(Event::Closed(no, end.clone()));
        world.take();
        let start = world.now.boot;
        let mut dials = 0;
        while world.now.boot.since(start) < DAY {
            let (dial, waited) = world.next_dial();
            assert!((3_240..=3_960).contains(&waited.as_secs()), "{waited:?}");
            dials += 1;
            world.tell(Event::Closed(dial.no, end.clone()));
            world.take();
        }
        assert!((21..=27).contains(&dials), "{dials}");
        world.tell(Event::Retry);
        assert_eq!(world.dials().len(), 1, "an operator need not wait");
    }
}

/// Two processes with one identity displace each other: neither may race.
#[test]
fn a_displaced_sidecar_does_not_race() {
    let (mut world, mut no) = World::live(&["a"]);
    let start = world.now.boot;
    let mut dials = 0;
    while world.now.boot.since(start) < Duration::from_secs(600) {
        world.tell(Event::Closed(no, End::Told(Code::Superseded)));
        world.take();
        no = world.next_dial().0.no;
        dials += 1;
        world.greet(no);
        world.ack_last(no);
    }
    assert!(dials <= 120, "{dials} dials in 60 intervals");
}

/// A collector that accepts and drops at once is not dialed in a hot loop.
#[test]
fn being_accepted_is_not_yet_success() {
    let mut world = World::new(setup(&["a"]));
    let mut no = world.dial().no;
    let start = world.now.boot;
    let mut dials = 0;
    while world.now.boot.since(start) < Duration::from_secs(600) {
        world.greet(no);
        world.ack_last(no);
        world.tell(Event::Closed(no, lost()));
        world.take();
        no = world.next_dial().0.no;
        dials += 1;
    }
    assert!(dials < 200, "{dials} dials in ten minutes");
}

#[test]
fn children_are_reported_only_to_a_collector_that_takes_them() {
    use rollcall_common::{
        health::{Health, HealthReport, Text},
        wire::{
            children::{ChildRefused, ChildReport, ChildrenAck},
            message::capability,
        },
    };
    let report = |n: usize| ChildReport {
        child: format!("agent/a{n}").parse().unwrap(),
        parent: None,
        report: HealthReport { health: Health::Healthy, reason: Text::default() },
        about: None,
    };
    let round = || Event::Children { interval_ms: 60_000, reports: (0..300).map(report).collect() };
    let (mut world, no) = World::live(&["a"]);
    world.take();
    world.tell(round());
    assert!(world.take().is_empty(), "it never said that it takes them");

    world.tell(Event::Closed(no, lost()));
    let no = world.next_dial().0.no;
    world.tell(Event::Opened(no, Transport::Quic));
    let greeting = HelloAck { capabilities: capability::CHILDREN | 0x80, ..world.hello_ack() };
    world.tell(Event::Frame(no, Down::HelloAck(greeting)));
    world.take();
    world.tell(round());
    let sent: Vec<_> = world
        .take()
        .into_iter()
        .filter_map(|action| {
            let Action::Send(to, Up::Children(batch)) = action else { return None };
            Some((to, batch.batch_no, batch.children.len()))
        })
        .collect();
    assert_eq!(sent, [(no, 1, 256), (no, 2, 44)]);
    let refused = vec![ChildRefused { index: 3, code: Code::ChildUnknown }];
    let ack = ChildrenAck { batch_no: 2, refused: refused.clone(), retry_after_ms: 0 };
    world.tell(Event::Frame(no, Down::Children(Box::new(ack))));
    let noted = world.take();
    assert!(
        matches!(&noted[..], [Action::Note(Notice::ChildrenRefused { batch_no: 2, refused: told, .. })] if *told == refused),
        "{noted:?}"
    );
}

#[test]
fn a_goodbye_is_delivered_before_the_close() {
    let (mut world, no) = World::live(&["a"]);
    let goodbye = Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None };
    world.tell(Event::Stop(goodbye));
    assert!(matches!(&world.take()[..], [Action::Send(_, Up::Bye(said)), Action::Finish(_)] if *said == goodbye));
    assert_eq!(world.state(), State::Draining);
    world.tell(Event::Delivered(no));
    assert!(matches!(world.take()[..], [Action::Close(_, Code::Goodbye), Action::Ended]));

    let (mut world, _) = World::live(&["a"]);
    world.tell(Event::Stop(goodbye));
    world.take();
    assert_eq!(world.reach_deadline(), Duration::from_secs(1), "nobody answers: leave all the same");
    assert!(matches!(world.take()[..], [Action::Close(_, Code::Goodbye), Action::Ended]));

    let (mut world, _) = World::live(&["a"]);
    world.tell(Event::Stop(goodbye));
    world.take();
    world.tell(Event::Stop(goodbye));
    assert!(
        matches!(world.take()[..], [Action::Close(_, Code::Goodbye), Action::Ended]),
        "a second one leaves at once"
    );

    let (mut world, no) = World::live(&["a"]);
    world.tell(Event::Closed(no, lost()));
    world.take();
    world.tell(Event::Stop(goodbye));
    assert!(matches!(world.take()[..], [Action::Ended]));
}

#[test]
fn skew_is_told_once() {
    let mut world = World::new(setup(&["a"]));
    let mut no = world.dial().no;
    let mut told = 0;
    for _ in 0..3 {
        world.tell(Event::Opened(no, Transport::Quic));
        let ack = HelloAck { server_time: world.now.wall.after(Duration::from_secs(90)), ..world.hello_ack() };
        world.tell(Event::Frame(no, Down::HelloAck(ack)));
        world.tell(Event::Closed(no, lost()));
        told += world.take().iter().filter(|a| matches!(a, Action::Note(Notice::Skewed { by_ms: 90_000 }))).count();
        no = world.next_dial().0.no;
    }
    assert_eq!(told, 1);
    assert_eq!(world.session.view().skew_ms, Some(90_000));
}

#[test]
fn nonsense_closes_and_backs_off() {
    let impossible = Granted { ttl_ms: 1, ..PACE };
    let nonsense: Vec<Down> = vec![
        Down::Ack(Ack { beat_no: BeatNo(999), pace: PACE, retry_after_ms: 0 }),
        Down::Ack(Ack { beat_no: BeatNo(1), pace: impossible, retry_after_ms: 0 }),
        Down::Directive(Directive::Addresses(Addresses { revision: 9, list: vec![] })),
    ];
    for down in nonsense {
        let (mut world, no) = World::live(&["a"]);
        world.tell(Event::Frame(no, down.clone()));
        let seen = world.take();
        assert!(matches!(seen[0], Action::Close(_, Code::Protocol)), "{down:?} gave {seen:?}");
        let (_, waited) = world.next_dial();
        assert!(waited >= PAUSE_FLOOR);
    }
    let mut world = World::new(setup(&["a"]));
    let no = world.dial().no;
    world.tell(Event::Opened(no, Transport::Quic));
    let ack = HelloAck { version: 7, ..world.hello_ack() };
    world.tell(Event::Frame(no, Down::HelloAck(ack)));
    assert!(world.take().iter().any(|action| matches!(action, Action::Close(_, Code::Protocol))));
}

#[test]
fn addresses_are_followed_unless_they_are_overridden() {
    for follow in [true, false] {
        let mut world = World::new(Setup { follow_addresses: follow, ..setup(&["a"]) });
        let no = world.dial().no;
        world.greet(no);
        let list = vec!["b".parse().unwrap()];
        world.tell(Event::Frame(no, Down::Directive(Directive::Addresses(Addresses { revision: 2, list }))));
        assert!(world.take().iter().any(|action| matches!(action, Action::KeepAddresses(_))));
        world.tell(Event::Closed(no, lost()));
        world.take();
        assert_eq!(world.next_dial().0.address.host(), if follow { "b" } else { "a" });
    }
}

fn renewed(generation: u64, wall: Timestamp) -> Renewed {
    let Term { generation, not_after, renew_at } = term(generation, wall);
    Renewed { chain: vec![], bundle: vec![], bundle_revision: 1, generation, not_after, renew_at }
}
