//! Renewal, proof, fallback and rejoin: whatever happens, one certificate is good.

use super::*;

#[test]
fn renewal_is_two_phase_and_make_before_break() {
    let (mut world, old) = World::live(&["a", "b"]);
    world.tell(Event::Frame(old, Down::Directive(Directive::RenewNow)));
    while !world.take().iter().any(|action| matches!(action, Action::MakeKey)) {
        world.reach_deadline();
        world.ack_last(old);
    }
    world.tell(Event::KeyMade(vec![1, 2, 3]));
    assert!(
        matches!(&world.sent()[..], [(no, Up::Renew(Renew { csr: Bytes(csr) }))] if *no == old && *csr == [1, 2, 3])
    );
    let renewed = renewed(2, world.now.wall);
    world.tell(Event::Frame(old, Down::Renewed(Box::new(renewed.clone()))));
    assert!(matches!(&world.take()[..], [Action::KeepNext(kept)] if *kept == renewed));
    world.tell(Event::NextKept(term(2, world.now.wall)));
    let dial = world.dial();
    assert_eq!((dial.paper, dial.address.host()), (Paper::Next, "a".into()), "where we are known to be served");
    assert_eq!(world.state(), State::Live, "the old connection goes on");
    world.reach_deadline();
    world.tell(Event::Opened(dial.no, Transport::Quic));
    world.take();
    // The collector promotes the new one, and may close the old one first.
    let ack = world.hello_ack();
    world.tell(Event::Frame(dial.no, Down::HelloAck(ack)));
    let seen = world.take();
    assert!(
        matches!(seen[..2], [Action::Close(no, Code::Superseded), Action::Adopt(Paper::Next)] if no == old),
        "{seen:?}"
    );
    assert_eq!(world.session.view().current.generation, Generation(2));
    world.tell(Event::Closed(old, End::Told(Code::Superseded)));
    assert_eq!(world.state(), State::Live);
    assert!(world.dials().is_empty());
}

#[test]
fn a_collector_may_close_the_old_connection_before_it_greets_the_new_one() {
    let (mut world, old, dial) = proving();
    world.tell(Event::Opened(dial.no, Transport::Quic));
    world.tell(Event::Closed(old, End::Told(Code::Superseded)));
    assert_eq!(world.state(), State::Greeting);
    let ack = world.hello_ack();
    world.tell(Event::Frame(dial.no, Down::HelloAck(ack)));
    assert_eq!(world.state(), State::Live);
    assert!(world.dials().is_empty());
    assert_eq!(world.session.view().current.generation, Generation(2));
}

#[test]
fn a_refused_new_certificate_falls_back_to_the_old() {
    let (mut world, old, dial) = proving();
    world.tell(Event::Closed(dial.no, End::Told(Code::SerialRefused)));
    let seen = world.take();
    assert!(seen.iter().any(|action| matches!(action, Action::DropNext)), "{seen:?}");
    assert_eq!(world.state(), State::Live);
    assert!(!world.session.view().has_next);
    world.ack_last(old);
    world.reach_deadline();
    assert!(world.sent().iter().all(|(no, _)| *no == old));
}

#[test]
fn an_unreachable_proof_is_tried_again_later() {
    let (mut world, old, dial) = proving();
    world.tell(Event::Closed(dial.no, lost()));
    assert!(world.session.view().has_next);
    let start = world.now.boot;
    let again = loop {
        world.reach_deadline();
        world.ack_last(old);
        if let Some(dial) = world.dials().pop() {
            break dial;
        }
    };
    assert_eq!(again.paper, Paper::Next);
    assert!((30..=60).contains(&world.now.boot.since(start).as_secs()));
}

/// After a kill in mid-renewal, both certificates may be the good one.
#[test]
fn both_certificates_are_tried_after_a_kill() {
    let with_next = || Setup { next: Some(term(2, Timestamp(0))), ..setup(&["a"]) };
    for refusal in [End::Told(Code::SerialRefused), End::Alert(42), End::Alert(44), End::Alert(45)] {
        let mut world = World::new(with_next());
        let first = world.dial();
        assert_eq!(first.paper, Paper::Next);
        world.tell(Event::Closed(first.no, refusal.clone()));
        world.take();
        let (second, waited) = world.next_dial();
        assert_eq!(second.paper, Paper::Current);
        assert!(waited < Duration::from_secs(1));
        world.greet(second.no);
        assert!(world.take().iter().any(|action| matches!(action, Action::Adopt(Paper::Current))));
        assert!(!world.session.view().has_next);
    }
    let mut world = World::new(with_next());
    let first = world.dial().no;
    world.greet(first);
    assert_eq!(world.session.view().current.generation, Generation(2));
}

#[test]
fn an_expired_certificate_is_rejoined_for() {
    for end in [End::Told(Code::CertExpired), End::Alert(45)] {
        let (mut world, no) = World::live(&["a"]);
        world.tell(Event::Closed(no, end));
        world.take();
        world.reach_deadline();
        assert!(matches!(world.take()[..], [Action::Rejoin]));
        assert_eq!((world.state(), world.session.deadline()), (State::Rejoining, None));
        let carriage = Box::new(world.session.carriage().clone());
        world.tell(Event::Rejoined(term(2, world.now.wall), carriage));
        assert_eq!(world.dial().paper, Paper::Next);
    }
    // A refused serial means a rejoin only once the certificate is past its time by the collector's clock.
    let (mut world, no) = World::live(&["a"]);
    world.tell(Event::Closed(no, End::Told(Code::SerialRefused)));
    assert!(world.reach_deadline() > Duration::from_secs(3_000));
    let (mut world, no) = World::live(&["a"]);
    world.now.boot = world.now.boot.after(DAY * 8);
    world.tell(Event::Closed(no, End::Told(Code::SerialRefused)));
    world.take();
    world.reach_deadline();
    assert!(matches!(world.take()[..], [Action::Rejoin]));
}

/// L13: the host's wall clock neither hastens nor delays anything.
#[test]
fn steps_of_the_wall_clock_change_nothing() {
    for step in [-10, 0, 10_i64] {
        let (mut world, no) = World::live(&["a"]);
        world.now.wall = Timestamp(world.now.wall.0 + step * 365 * 86_400_000);
        let start = world.now.boot;
        while !world.take().iter().any(|action| matches!(action, Action::MakeKey)) {
            world.reach_deadline();
            world.ack_last(no);
            assert_eq!(world.state(), State::Live);
        }
        let days = world.now.boot.since(start).as_secs_f64() / 86_400.0;
        assert!((3.1..=3.9).contains(&days), "renewed after {days} days with a step of {step} years");
    }
}

#[test]
fn failed_renewals_back_off_and_keep_beating() {
    let (mut world, no) = World::live(&["a"]);
    world.tell(Event::Frame(no, Down::Directive(Directive::RenewNow)));
    let mut waits = Vec::new();
    let mut last = world.now.boot;
    while waits.len() < 12 {
        world.reach_deadline();
        world.ack_last(no);
        if world.take().iter().any(|action| matches!(action, Action::MakeKey)) {
            waits.push(world.now.boot.since(last).as_secs());
            last = world.now.boot;
            match waits.len() % 3 {
                0 => world.tell(Event::KeepingFailed("disk full".into())),
                1 => {
                    world.tell(Event::KeyMade(vec![]));
                    let refused =
                        Refused { code: Code::StoreUnavailable, retry_after_ms: 0, server_time: Timestamp(0) };
                    world.tell(Event::Frame(no, Down::Refused(refused)));
                }
                _ => world.tell(Event::KeyMade(vec![])),
            }
        }
    }
    assert!(waits[1..].iter().all(|secs| (30..=930).contains(secs)), "{waits:?}");
    assert_eq!(world.state(), State::Live);
    assert!(world.dials().is_empty());
}

/// A live session with a second connection under way that proves generation 2.
fn proving() -> (World, SessionNo, Dial) {
    let (mut world, old) = World::live(&["a"]);
    world.tell(Event::NextKept(term(2, world.now.wall)));
    let dial = world.dial();
    assert_eq!(dial.paper, Paper::Next);
    (world, old, dial)
}
