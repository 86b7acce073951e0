//! Settings on their way down, and what the host says of itself on its way up.

use rollcall_common::{
    health::{Health, HealthReport, Progress, ProgressReport, Text},
    service::Pairs,
    wire::{
        message::{About, capability},
        settings::SettingsState,
    },
};

use super::*;
use crate::health::Vitals;

fn settings(revision: u64) -> Down {
    Down::Settings(Box::new(Settings { revision, labels: Pairs::default(), probes: Vec::new() }))
}

fn in_force(revision: u64) -> Event {
    Event::InForce(Box::new(SettingsState { revision, refused: None, probes: Vec::new(), more: 0 }))
}

/// A session with a collector that can do that.
fn live(capabilities: u64) -> (World, SessionNo) {
    let mut world = World::new(setup(&["a"]));
    let no = world.dial().no;
    greet(&mut world, no, capabilities);
    (world, no)
}

fn greet(world: &mut World, no: SessionNo, capabilities: u64) {
    world.tell(Event::Opened(no, Transport::Quic));
    let ack = HelloAck { capabilities, ..world.hello_ack() };
    world.tell(Event::Frame(no, Down::HelloAck(ack)));
}

fn applied(world: &mut World) -> Vec<u64> {
    let applied = world.take().into_iter();
    applied
        .filter_map(|action| if let Action::Apply(settings) = action { Some(settings.revision) } else { None })
        .collect()
}

fn told(world: &mut World) -> Vec<u64> {
    let sent = world.sent().into_iter();
    sent.filter_map(|(_, up)| if let Up::Settings(state) = up { Some(state.revision) } else { None }).collect()
}

/// Until a condition holds at some deadline; beats are acknowledged.
fn until<T>(world: &mut World, no: SessionNo, look: impl Fn(&mut World) -> Vec<T>) -> Vec<T> {
    for _ in 0..10 {
        world.reach_deadline();
        let seen = look(world);
        if !seen.is_empty() {
            return seen;
        }
        world.ack_last(no);
    }
    Vec::new()
}

#[test]
fn settings_of_a_collector_that_has_none_are_nonsense() {
    let (mut world, no) = live(capability::CHILDREN);
    world.take();
    world.tell(Event::Frame(no, settings(1)));
    assert!(world.take().iter().any(|action| matches!(action, Action::Close(_, Code::Protocol))));
    let (mut world, _) = live(capability::CHILDREN);
    world.take();
    world.tell(in_force(1));
    world.tell(Event::About(Box::default()));
    assert!(world.sent().is_empty(), "it would not know them");
}

#[test]
fn of_many_settings_the_last_is_applied_and_each_application_is_answered() {
    let (mut world, no) = live(capability::SETTINGS);
    world.tell(in_force(0));
    assert_eq!(told(&mut world), [0]);
    for revision in 1..=40 {
        world.tell(Event::Frame(no, settings(revision)));
    }
    assert_eq!(applied(&mut world), [1], "the others wait");
    let start = world.now.boot;
    world.tell(in_force(1));
    assert_eq!(until(&mut world, no, applied), [40]);
    assert_eq!(world.now.boot.since(start), Duration::from_secs(1));
    // What was told before is told again: somebody waits for an answer.
    world.tell(in_force(1));
    assert_eq!(until(&mut world, no, told), [1]);
    world.tell(in_force(1));
    world.ack_last(no);
    world.reach_deadline();
    assert_eq!(told(&mut world), [0; 0], "nobody asked");
    world.tell(Event::Closed(no, lost()));
    world.take();
    let no = world.next_dial().0.no;
    greet(&mut world, no, capability::SETTINGS);
    assert_eq!(told(&mut world), [1], "another connection, perhaps another collector");
}

#[test]
fn a_shorter_pace_is_heard_at_once_and_costs_one_beat() {
    let beats = |world: &mut World| world.sent().iter().filter(|(_, up)| matches!(up, Up::Beat(_))).count();
    let (mut world, no) = live(capability::SETTINGS);
    assert_eq!(beats(&mut world), 1);
    world.tell(Event::Frame(no, settings(1)));
    assert_eq!(beats(&mut world), 0, "the answer to the one under way tells it");
    world.tell(in_force(1));
    world.ack_last(no);
    world.now.boot = world.now.boot.after(Duration::from_secs(2));
    world.tell(Event::Frame(no, settings(2)));
    world.tell(in_force(2));
    assert_eq!(beats(&mut world), 1, "nobody waits for the end of the interval");
    // However many come.
    world.ack_last(no);
    for revision in 3..30 {
        world.tell(Event::Frame(no, settings(revision)));
    }
    assert_eq!(beats(&mut world), 0);
}

/// Nothing of it survives the connection, and the next one is no faster for it.
#[test]
fn a_flood_of_orders_ends_the_connection_and_backs_off() {
    let (mut world, mut no) = live(capability::SETTINGS);
    let start = world.now.boot;
    let mut applications = 0;
    let mut dials = 0;
    while world.now.boot.since(start) < Duration::from_secs(600) {
        let mut revision = 0;
        while world.state() == State::Live {
            revision += 1;
            assert!(revision <= 65, "it goes on listening");
            world.tell(Event::Frame(no, settings(revision)));
        }
        applications += applied(&mut world).len();
        no = loop {
            if let Ok(dial) = world.dials().pop().ok_or(world.reach_deadline()) {
                break dial.no;
            }
        };
        dials += 1;
        greet(&mut world, no, capability::SETTINGS);
    }
    assert!(applications <= dials + 1 && dials < 200, "{applications} applications, {dials} dials in ten minutes");
}

#[test]
fn what_the_service_is_called_is_told_at_each_greeting_and_when_it_changes() {
    let about = |tier: &str| {
        let labels = Pairs::try_from(std::collections::BTreeMap::from([("tier".to_owned(), tier.to_owned())]));
        Box::new(About { labels: labels.unwrap(), ..About::default() })
    };
    let names = |world: &mut World| -> Vec<String> {
        let sent = world.sent().into_iter();
        let tier = |up| if let Up::About(about) = up { about.labels.get("tier").map(str::to_owned) } else { None };
        sent.filter_map(|(_, up)| tier(up)).collect()
    };
    let (mut world, no) = live(capability::ABOUT);
    world.take();
    world.tell(Event::About(about("1")));
    assert_eq!(names(&mut world), ["1"]);
    for tier in ["1", "2", "3"] {
        world.tell(Event::About(about(tier)));
    }
    assert_eq!(names(&mut world), [""; 0]);
    assert_eq!(until(&mut world, no, names), ["3"]);
    world.tell(Event::Closed(no, lost()));
    world.take();
    let no = world.next_dial().0.no;
    greet(&mut world, no, capability::ABOUT);
    assert_eq!(names(&mut world), ["3"]);
}

fn stalled() -> Vitals {
    let report = |health, reason: &str| HealthReport { health, reason: Text::fit(reason) };
    Vitals {
        service: report(Health::Healthy, ""),
        progress: ProgressReport { progress: Progress::Stalled, reason: Text::fit("stuck") },
        all: report(Health::Unhealthy, "stuck"),
    }
}

#[test]
fn progress_is_a_fact_of_its_own_to_whoever_knows_it() {
    for capabilities in [0, capability::PROGRESS] {
        let (mut world, no) = live(capabilities);
        world.tell(said(HealthReport { health: Health::Healthy, reason: Text::default() }));
        world.take();
        world.tell(Event::Vitals(Box::new(stalled())));
        let sent = world.sent();
        if capabilities == 0 {
            assert!(matches!(&sent[..], [(_, Up::Health(told))] if *told == stalled().all), "{sent:?}");
            continue;
        }
        assert!(matches!(&sent[..], [(_, Up::Progress(told))] if *told == stalled().progress), "{sent:?}");
        // Good news waits, and what became bad again meanwhile is no news.
        world.tell(said(HealthReport { health: Health::Healthy, reason: Text::default() }));
        assert!(world.sent().is_empty());
        world.tell(Event::Vitals(Box::new(stalled())));
        world.ack_last(no);
        world.take();
        assert!(world.reach_deadline() > Duration::from_secs(1));
    }
}

#[test]
fn a_barred_sidecar_dials_where_and_when_the_host_says_now() {
    let (mut world, no) = World::live(&["a"]);
    let addresses = vec!["b".parse().unwrap()];
    let revoked_retry = Duration::from_secs(10);
    world.tell(Event::Reconfigured { addresses, follow_addresses: false, revoked_retry, transport: Policy::Quic });
    assert_eq!(world.state(), State::Live, "who is well stays");
    let list = vec!["c".parse().unwrap()];
    world.tell(Event::Frame(no, Down::Directive(Directive::Addresses(Addresses { revision: 9, list }))));
    world.tell(Event::Closed(no, End::Told(Code::Revoked)));
    world.take();
    let (dial, waited) = world.next_dial();
    assert_eq!(dial.address.host(), "b");
    assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
}
