//! Health on its way: the last word, once, and not more often than a collector hears it.

use rollcall_common::health::{Health, HealthReport, Text};

use super::*;

fn report(health: Health) -> HealthReport {
    HealthReport { health, reason: Text::default() }
}

fn told(world: &mut World) -> Vec<Health> {
    let healths = world
        .sent()
        .into_iter()
        .filter_map(|(_, up)| if let Up::Health(report) = up { Some(report.health) } else { None });
    healths.collect()
}

#[test]
fn what_is_said_is_told_once_to_each_connection() {
    let mut world = World::new(setup(&["a"]));
    world.tell(said(report(Health::Degraded)));
    assert_eq!(told(&mut world), [], "nobody is there to hear it");
    let mut world = World::new(setup(&["a"]));
    world.tell(said(report(Health::Degraded)));
    let no = world.dial().no;
    world.greet(no);
    assert_eq!(told(&mut world), [Health::Degraded]);
    world.tell(said(report(Health::Degraded)));
    world.ack_last(no);
    world.reach_deadline();
    assert_eq!(told(&mut world), [], "it is known already");
    world.tell(Event::Closed(no, lost()));
    world.take();
    let (dial, _) = world.next_dial();
    world.greet(dial.no);
    assert_eq!(told(&mut world), [Health::Degraded], "another connection, perhaps another collector");
}

#[test]
fn a_burst_is_told_as_its_first_and_its_last_word() {
    let (mut world, no) = World::live(&["a"]);
    for health in [Health::Unhealthy, Health::Healthy, Health::Unhealthy, Health::Degraded] {
        world.tell(said(report(health)));
    }
    assert_eq!(told(&mut world), [Health::Unhealthy], "bad news does not wait");
    let waited = world.reach_deadline();
    assert!(waited <= Duration::from_secs(1), "{waited:?}");
    assert_eq!(told(&mut world), [Health::Degraded]);
    for health in [Health::Healthy, Health::Degraded] {
        world.tell(said(report(health)));
    }
    world.ack_last(no);
    world.take();
    let waited = world.reach_deadline();
    assert!(waited > Duration::from_secs(1), "what came back to what was told is no news: {waited:?}");
}

#[test]
fn a_crash_right_after_the_greeting_does_not_wait() {
    let mut world = World::new(setup(&["a"]));
    world.tell(said(report(Health::Healthy)));
    let no = world.dial().no;
    world.greet(no);
    assert_eq!(told(&mut world), [Health::Healthy]);
    world.tell(said(report(Health::Unhealthy)));
    assert_eq!(told(&mut world), [Health::Unhealthy]);
    world.tell(said(report(Health::Healthy)));
    assert_eq!(told(&mut world), [], "good news can wait");
}
