//! What carries a session: the fallback to TCP, and the way back beside a beating one.

use super::*;
use crate::carriage::Turn;

fn auto(addresses: &[&str]) -> Setup {
    Setup { carriage: Carriage::new(Policy::Auto, 7), ..setup(addresses) }
}

fn turns(seen: &[Action]) -> Vec<Turn> {
    let turn = |action: &Action| {
        if let Action::Note(Notice::Turned { turn, .. }) = action { Some(turn.clone()) } else { None }
    };
    seen.iter().filter_map(turn).collect()
}

impl World {
    fn greet_over(&mut self, no: SessionNo, transport: Transport) {
        self.tell(Event::Opened(no, transport));
        let ack = self.hello_ack();
        self.tell(Event::Frame(no, Down::HelloAck(ack)));
    }

    /// A session that TCP carries, as nobody answered over QUIC.
    fn over_tcp() -> (Self, SessionNo) {
        let mut world = Self::new(auto(&["a"]));
        let first = world.dial();
        assert_eq!(first.ways, Ways::Only(Transport::Quic));
        let (second, _) = world.until_dial();
        assert_eq!(second.ways, Ways::Both(Transport::Quic));
        world.greet_over(second.no, Transport::Tcp);
        let told = turns(&world.take());
        assert!(matches!(&told[..], [Turn::Fell { why, probe_in: Some(_) }] if why.contains("over QUIC")), "{told:?}");
        world.ack_last(second.no);
        world.take();
        (world, second.no)
    }

    /// Lets time pass until something is dialed; beats are acknowledged meanwhile.
    fn until_dial(&mut self) -> (Dial, Duration) {
        let mut waited = Duration::ZERO;
        for _ in 0..10_000 {
            waited += self.reach_deadline();
            let seen = self.take();
            let live = seen
                .iter()
                .find_map(|action| if let Action::Send(no, Up::Beat(_)) = action { Some(*no) } else { None });
            if let Some(no) = live {
                self.ack_last(no);
            }
            let dial = |action: &Action| if let Action::Dial(dial) = action { Some(dial.clone()) } else { None };
            if let Some(dial) = seen.iter().find_map(dial) {
                return (dial, waited);
            }
        }
        panic!("never dialed");
    }
}

#[test]
fn quic_comes_back_beside_a_beating_session_without_a_missed_beat() {
    let (mut world, over_tcp) = World::over_tcp();
    let view = world.session.view();
    assert_eq!((view.state, view.transport), (State::Live, Some(Transport::Tcp)));
    assert!(view.fallback.is_some_and(|fallback| fallback.probe_at.is_some()));
    let (probe, waited) = world.until_dial();
    assert_eq!((probe.ways, probe.paper), (Ways::Only(Transport::Quic), Paper::Current));
    assert!((40..=75).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(world.state(), State::Live, "TCP beats on meanwhile");
    world.greet_over(probe.no, Transport::Quic);
    let seen = world.take();
    assert_eq!(turns(&seen), [Turn::Returned]);
    assert!(seen.iter().any(|action| matches!(action, Action::Close(no, Code::Superseded) if *no == over_tcp)));
    assert!(seen.iter().any(|action| matches!(action, Action::Send(no, Up::Beat(_)) if *no == probe.no)), "{seen:?}");
    let view = world.session.view();
    assert_eq!((view.transport, view.fallback), (Some(Transport::Quic), None));
}

#[test]
fn a_probe_that_nobody_answers_disturbs_nothing_and_comes_again_later() {
    let (mut world, over_tcp) = World::over_tcp();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let (probe, waited) = world.until_dial();
        assert_eq!(probe.ways, Ways::Only(Transport::Quic));
        waits.push(waited);
        assert_eq!(world.state(), State::Live);
        assert!(matches!(&world.session.phase, Phase::Live(live) if live.no == over_tcp));
    }
    assert!(waits[3] > waits[0] * 4, "{waits:?}");
    // Its late success means nothing any more.
    world.tell(Event::Opened(SessionNo(3), Transport::Quic));
    assert_eq!(world.session.view().transport, Some(Transport::Tcp));
}

#[test]
fn a_session_that_tcp_loses_does_not_wait_for_the_probe() {
    let (mut world, over_tcp) = World::over_tcp();
    let (probe, _) = world.until_dial();
    world.tell(Event::Closed(over_tcp, lost()));
    let seen = world.take();
    assert!(seen.iter().any(|action| matches!(action, Action::Close(no, _) if *no == probe.no)), "{seen:?}");
    assert_eq!(world.state(), State::Offline);
    let (again, _) = world.next_dial();
    assert_eq!(again.ways, Ways::Both(Transport::Quic), "both are tried, QUIC first");
}

#[test]
fn a_certificate_is_proven_over_what_works_even_if_a_probe_is_under_way() {
    let (mut world, _) = World::over_tcp();
    let (probe, _) = world.until_dial();
    let next = term(2, world.now.wall);
    world.tell(Event::NextKept(next));
    let seen = world.take();
    assert!(seen.iter().any(|action| matches!(action, Action::Close(no, _) if *no == probe.no)), "{seen:?}");
    let Some(Action::Dial(proof)) = seen.into_iter().find(|action| matches!(action, Action::Dial(_))) else {
        panic!("no proof")
    };
    assert_eq!((proof.paper, proof.ways), (Paper::Next, Ways::Both(Transport::Tcp)), "either may prove it");
    world.greet_over(proof.no, Transport::Tcp);
    assert_eq!(world.session.view().current, next);
    world.ack_last(proof.no);
    world.take();
    let (probe, _) = world.until_dial();
    assert_eq!(probe.ways, Ways::Only(Transport::Quic), "and QUIC is tried after it");
}

#[test]
fn an_operators_word_tries_quic_at_once() {
    let (mut world, _) = World::over_tcp();
    world.tell(Event::Retry);
    let dial = world.dial();
    assert_eq!(dial.ways, Ways::Only(Transport::Quic));
}

/// UDP is cut under a live session: TCP has it again before the lease is over.
#[test]
fn a_cut_of_udp_is_bridged_within_the_lease() {
    let mut world = World::new(auto(&["a", "b"]));
    let first = world.dial();
    world.greet_over(first.no, Transport::Quic);
    for _ in 0..3 {
        world.ack_last(first.no);
        world.reach_deadline();
    }
    world.ack_last(first.no);
    world.take();
    let lease_end = world.session.lease_until.unwrap();
    let (mut ways, mut head_start) = (Vec::new(), Duration::ZERO);
    while ways.last() != Some(&Ways::Both(Transport::Quic)) {
        world.reach_deadline();
        for dial in world.dials() {
            ways.push(dial.ways);
            head_start = dial.head_start;
        }
    }
    assert!(world.now.boot.after(head_start + Duration::from_secs(1)) < lease_end, "{ways:?}, {head_start:?}");
    assert_eq!(ways.len(), 3, "two tries of QUIC come first");
}

/// Refusals of a collector that is there never lead away from QUIC.
#[test]
fn a_collector_that_answers_keeps_us_on_quic() {
    let mut world = World::new(auto(&["a"]));
    let mut dial = world.dial();
    for end in [End::Told(Code::Busy), End::Alert(40), End::Distrusted("x".into()), End::Told(Code::Revoked)] {
        for _ in 0..4 {
            assert_eq!(dial.ways, Ways::Only(Transport::Quic));
            world.tell(Event::Closed(dial.no, end.clone()));
            world.take();
            (dial, _) = world.next_dial();
        }
    }
}

/// The collector ends the TCP session as soon as it has heard the probe's greeting, and its answer to that comes later.
#[test]
fn the_end_of_the_session_on_tcp_does_not_cost_the_probe_that_takes_its_place() {
    let (mut world, over_tcp) = World::over_tcp();
    let (probe, _) = world.until_dial();
    world.tell(Event::Opened(probe.no, Transport::Quic));
    world.tell(Event::Frame(over_tcp, bye(Code::Superseded, 0)));
    let seen = world.take();
    assert!(!seen.iter().any(|action| matches!(action, Action::Close(no, _) if *no == probe.no)), "{seen:?}");
    assert_eq!(world.state(), State::Greeting);
    let ack = world.hello_ack();
    world.tell(Event::Frame(probe.no, Down::HelloAck(ack)));
    let seen = world.take();
    assert_eq!(turns(&seen), [Turn::Returned]);
    assert!(seen.iter().any(|action| matches!(action, Action::Send(no, Up::Beat(_)) if *no == probe.no)), "{seen:?}");
}

/// Where QUIC shakes hands and falls silent, a probe may end the session on TCP: then TCP is next, and QUIC waits longer.
#[test]
fn a_probe_that_falls_silent_in_its_greeting_leads_back_to_tcp_at_once() {
    let (mut world, over_tcp) = World::over_tcp();
    let (probe, first) = world.until_dial();
    world.tell(Event::Opened(probe.no, Transport::Quic));
    world.tell(Event::Frame(over_tcp, bye(Code::Superseded, 0)));
    world.take();
    let (again, _) = world.until_dial();
    assert_eq!(again.ways, Ways::Both(Transport::Tcp));
    world.greet_over(again.no, Transport::Tcp);
    world.ack_last(again.no);
    world.take();
    let (_, second) = world.until_dial();
    assert!(second > first + Duration::from_secs(20), "{first:?}, {second:?}");
}

#[test]
fn no_probe_makes_a_certificate_worthless_that_is_not_proven_yet() {
    let (mut world, _) = World::over_tcp();
    let next = term(2, world.now.wall);
    world.tell(Event::NextKept(next));
    for _ in 0..6 {
        let (dial, _) = world.until_dial();
        assert_eq!(dial.paper, Paper::Next, "{dial:?}");
        world.tell(Event::Closed(dial.no, End::Unanswered("nobody is there".into())));
        world.tell(Event::Retry);
    }
    assert!(world.session.view().has_next);
}

/// Another address asked for patience, or this one did: the collector that serves us is there.
#[test]
fn a_probe_goes_to_the_collector_that_serves_us_and_none_is_lost() {
    let (mut world, _) = World::over_tcp();
    for _ in 0..3 {
        world.session.rotation.failed(world.now.boot, Duration::from_secs(3600));
        let (probe, _) = world.until_dial();
        assert_eq!((probe.address.host(), probe.ways), ("a".into(), Ways::Only(Transport::Quic)));
        world.tell(Event::Closed(probe.no, End::Unanswered("nobody is there".into())));
        world.take();
    }
    world.tell(Event::Retry);
    assert_eq!(world.dial().ways, Ways::Only(Transport::Quic), "an operator's word counts between two probes");
}

#[test]
fn what_a_rejoin_learned_of_transports_is_kept() {
    let (mut world, over_tcp) = World::over_tcp();
    world.tell(Event::Closed(over_tcp, lost()));
    let mut learned = world.session.carriage().clone();
    learned.opened(Transport::Quic);
    assert_eq!(learned.greeted(Transport::Quic, world.now.boot), Some(Turn::Returned));
    world.tell(Event::Rejoined(term(2, world.now.wall), Box::new(learned)));
    world.take();
    assert_eq!(world.next_dial().0.ways, Ways::Only(Transport::Quic));
}
