//! Any history at all: random collectors, networks, operators and disks, with what must hold always.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rollcall_common::{
    health::{Health, HealthReport, Text},
    service::Pairs,
    wire::settings::SettingsState,
};

use super::*;

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    /// Nothing until the next deadline, or for that long where there is none.
    Wait(u64),
    /// The connection under way, or the newest one, opens.
    Open,
    Greet,
    AckLast,
    AckAny(u64),
    Throttle(u32),
    Close(u16),
    Alert(u8),
    Lose,
    Bye(u16, u32),
    Refuse(u16, u32),
    RenewNow,
    Renewed,
    Addresses(u8),
    Retry,
    Facts,
    Health(usize),
    Settings(u64),
    InForce(u64),
    About,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..60_000).prop_map(Step::Wait),
        6 => Just(Step::Open),
        6 => Just(Step::Greet),
        6 => Just(Step::AckLast),
        1 => (0u64..50).prop_map(Step::AckAny),
        1 => (1u32..60_000).prop_map(Step::Throttle),
        2 => (0u16..50).prop_map(Step::Close),
        1 => (40u8..50).prop_map(Step::Alert),
        2 => Just(Step::Lose),
        1 => (0u16..50, 0u32..100_000).prop_map(|(code, ms)| Step::Bye(code, ms)),
        1 => (0u16..50, 0u32..100_000).prop_map(|(code, ms)| Step::Refuse(code, ms)),
        1 => Just(Step::RenewNow),
        2 => Just(Step::Renewed),
        1 => (0u8..3).prop_map(Step::Addresses),
        1 => Just(Step::Retry),
        1 => Just(Step::Facts),
        2 => (0usize..4).prop_map(Step::Health),
        3 => (0u64..3).prop_map(Step::Settings),
        2 => (0u64..3).prop_map(Step::InForce),
        1 => Just(Step::About),
    ]
}

/// The owner, and an oracle that watches every order.
struct Oracle {
    world: World,
    /// Connections and whether they are open: dialed, and neither closed by us nor by the other side.
    lines: BTreeMap<SessionNo, bool>,
    last_dialed: SessionNo,
    last_beat: BeatNo,
    dials: Vec<BootTime>,
    disk_works: bool,
    generation: u64,
}

impl Oracle {
    fn new(setup: Setup, disk_works: bool) -> Self {
        let mut oracle = Self {
            world: World::new(setup),
            lines: BTreeMap::new(),
            last_dialed: SessionNo(0),
            last_beat: BeatNo(0),
            dials: Vec::new(),
            disk_works,
            generation: 1,
        };
        oracle.obey();
        oracle
    }

    fn tell(&mut self, event: Event) {
        self.world.tell(event);
        self.obey();
    }

    /// Does what was ordered, as an owner would, and checks each order.
    fn obey(&mut self) {
        loop {
            let orders = self.world.take();
            if orders.is_empty() {
                break;
            }
            for order in orders {
                self.obey_one(order);
            }
        }
        let state = self.world.state();
        let dialing = self.lines.iter().filter(|(_, open)| !**open).count();
        assert!(dialing <= 1, "two dials at once");
        assert!(self.lines.len() <= 2, "{:?}", self.lines);
        if state == State::Offline || state == State::Rejoining {
            assert!(self.lines.is_empty(), "offline with a connection");
        }
        if let Some(at) = self.world.session.deadline() {
            assert!(at > self.world.now.boot, "a deadline that has passed would spin: {state:?}");
        }
    }

    fn obey_one(&mut self, order: Action) {
        match order {
            Action::Dial(dial) => {
                assert!(dial.no > self.last_dialed, "session numbers rise");
                self.last_dialed = dial.no;
                self.lines.insert(dial.no, false);
                self.dials.push(self.world.now.boot);
            }
            Action::Send(no, up) => {
                assert_eq!(self.lines.get(&no), Some(&true), "a frame on no connection: {up:?}");
                if let Up::Beat(beat) = up {
                    assert!(beat.beat_no > self.last_beat, "beat numbers rise");
                    self.last_beat = beat.beat_no;
                }
            }
            Action::Close(no, _) => drop(self.lines.remove(&no)),
            Action::MakeKey if self.disk_works => self.world.tell(Event::KeyMade(vec![1])),
            Action::MakeKey => self.world.tell(Event::KeepingFailed("full".into())),
            Action::KeepNext(_) => {
                self.generation += 1;
                let term = term(self.generation, self.world.now.wall);
                self.world.tell(Event::NextKept(term));
            }
            Action::Rejoin => {
                self.generation += 1;
                let term = term(self.generation, self.world.now.wall);
                let carriage = self.world.session.carriage().clone();
                self.world.tell(Event::Rejoined(term, Box::new(carriage)));
            }
            Action::Finish(_)
            | Action::Adopt(_)
            | Action::DropNext
            | Action::KeepAddresses(_)
            | Action::Apply(_)
            | Action::Note(_)
            | Action::Ended => {}
        }
    }

    fn newest(&self, open: bool) -> Option<SessionNo> {
        self.lines.iter().rev().find(|(_, is_open)| **is_open == open).map(|(no, _)| *no)
    }

    fn end(&mut self, end: End) {
        let Some(no) = self.lines.keys().next_back().copied() else { return };
        self.lines.remove(&no);
        self.tell(Event::Closed(no, end));
    }

    fn say(&mut self, down: Down) {
        if let Some(no) = self.newest(true) {
            self.tell(Event::Frame(no, down));
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(ms) => {
                let wait = self.world.session.deadline().map(|at| at.since(self.world.now.boot));
                self.world.pass(wait.unwrap_or(Duration::from_millis(ms)));
                self.tell(Event::Tick);
            }
            Step::Open => {
                if let Some(no) = self.newest(false) {
                    self.lines.insert(no, true);
                    self.tell(Event::Opened(no, Transport::Quic));
                }
            }
            Step::Greet => {
                let ack = HelloAck { capabilities: u64::MAX, ..self.world.hello_ack() };
                self.say(Down::HelloAck(ack));
            }
            Step::AckLast => self.say(Down::Ack(Ack { beat_no: self.last_beat, pace: PACE, retry_after_ms: 0 })),
            Step::AckAny(no) => self.say(Down::Ack(Ack { beat_no: BeatNo(no), pace: PACE, retry_after_ms: 0 })),
            Step::Throttle(ms) => self.say(Down::Ack(Ack { beat_no: self.last_beat, pace: PACE, retry_after_ms: ms })),
            Step::Close(code) => self.end(End::Told(code.into())),
            Step::Alert(alert) => self.end(End::Alert(alert)),
            Step::Lose => self.end(lost()),
            Step::Bye(code, ms) => self.say(bye(code.into(), ms)),
            Step::Refuse(code, retry_after_ms) => {
                self.say(Down::Refused(Refused { code: code.into(), retry_after_ms, server_time: Timestamp(0) }));
            }
            Step::RenewNow => self.say(Down::Directive(Directive::RenewNow)),
            Step::Renewed => self.say(Down::Renewed(Box::new(renewed(2, self.world.now.wall)))),
            Step::Addresses(count) => {
                let list = ["x", "y", "z"].iter().take(count.into()).map(|text| text.parse().unwrap()).collect();
                self.say(Down::Directive(Directive::Addresses(Addresses { revision: 3, list })));
            }
            Step::Retry => self.tell(Event::Retry),
            Step::Facts => self.tell(Event::Facts(Box::default())),
            Step::Health(n) => {
                let health = Health::ALL[n];
                self.tell(said(HealthReport { health, reason: Text::default() }));
            }
            Step::Settings(revision) => {
                let settings = Settings { revision, labels: Pairs::default(), probes: Vec::new() };
                self.say(Down::Settings(Box::new(settings)));
            }
            Step::InForce(revision) => {
                let state = SettingsState { revision, refused: None, probes: Vec::new(), more: 0 };
                self.tell(Event::InForce(Box::new(state)));
            }
            Step::About => self.tell(Event::About(Box::default())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No history makes it panic, spin, dial twice at once, count backwards or talk into the void; and
    /// when the world is well again, it beats again.
    #[test]
    fn nothing_breaks_it(
        steps in proptest::collection::vec(step(), 0..200),
        seed: u64,
        has_next: bool,
        disk_works: bool,
        addresses in 1usize..4,
    ) {
        let next = has_next.then(|| term(2, Timestamp(0)));
        let mut oracle = Oracle::new(Setup { seed, next, ..setup(&["a", "b", "c"][..addresses]) }, disk_works);
        for step in &steps {
            oracle.step(step);
        }
        oracle.disk_works = true;
        oracle.tell(Event::Retry);
        let before = oracle.last_beat;
        for _ in 0..60 {
            oracle.step(&Step::Open);
            if oracle.world.state() == State::Greeting || oracle.lines.len() == 2 {
                oracle.step(&Step::Greet);
            }
            oracle.step(&Step::AckLast);
            oracle.step(&Step::Wait(1));
        }
        prop_assert_eq!(oracle.world.state(), State::Live);
        prop_assert!(oracle.last_beat > before, "it beats again");
    }

    /// However collectors and networks fail, an hour sees a bounded number of dials.
    #[test]
    fn no_dial_storm(codes in proptest::collection::vec(0u16..50, 1..6), seed: u64, opens: bool, greets: bool) {
        let mut oracle = Oracle::new(Setup { seed, ..setup(&["a", "b"]) }, true);
        let start = oracle.world.now.boot;
        for code in codes.iter().cycle() {
            if oracle.world.now.boot.since(start) > Duration::from_secs(3600) {
                break;
            }
            if opens {
                oracle.step(&Step::Open);
                if greets && oracle.world.state() == State::Greeting {
                    oracle.step(&Step::Greet);
                    oracle.step(&Step::AckLast);
                }
            }
            oracle.step(&Step::Close(*code));
            oracle.step(&Step::Wait(1_000));
        }
        prop_assert!(oracle.dials.len() < 900, "{} dials in an hour", oracle.dials.len());
        let burst = oracle.dials.windows(20).map(|few| few[19].since(few[0])).min();
        prop_assert!(burst.is_none_or(|time| time > Duration::from_secs(20)), "20 dials within {burst:?}");
    }

    /// Two tries fit into whatever is left of a lease, for every pace that a fleet would use.
    #[test]
    fn two_tries_fit_into_the_lease(seed: u64, interval_ms in 1_000u32..60_000, factor in 3u32..8, hanging: bool) {
        let mut world = World::new(Setup { seed, ..setup(&["a", "b"]) });
        let no = world.dial().no;
        let pace = Granted { pace_no: PaceNo(3), interval_ms, ttl_ms: interval_ms * factor };
        world.tell(Event::Opened(no, Transport::Quic));
        let ack = HelloAck { pace, ..world.hello_ack() };
        world.tell(Event::Frame(no, Down::HelloAck(ack)));
        world.tell(Event::Frame(no, Down::Ack(Ack { beat_no: BeatNo(1), pace, retry_after_ms: 0 })));
        let lease_end = world.now.boot.after(Duration::from_millis(pace.ttl_ms.into()));
        world.take();
        let mut tries = 0;
        while world.session.deadline().is_some_and(|at| at < lease_end) {
            world.reach_deadline();
            for dial in world.dials() {
                tries += 1;
                if !hanging {
                    world.tell(Event::Closed(dial.no, lost()));
                }
            }
        }
        prop_assert!(tries >= 2, "{} tries", tries);
    }
}
