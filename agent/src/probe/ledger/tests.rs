//! What follows from what probes saw.

use super::*;
use crate::probe::{
    gauge::Rules,
    plan::{Moves, Progress, Target},
};

fn probe(name: &str, check: Check) -> Probe {
    Probe {
        name: name.parse().unwrap(),
        check,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        rules: Rules { rise: 1, fall: 1, grace: Duration::ZERO },
        worst: Health::Unhealthy,
        standby: false,
    }
}

fn tcp(name: &str) -> Probe {
    probe(name, Check::Tcp(Target::read("localhost:1").unwrap()))
}

fn look(health: Health, words: &str, alive: Option<bool>) -> Look {
    Look { health, words: words.to_owned(), alive, mark: None, prey: None, found_by: None }
}

const OWN: At = At { subject: 0, probe: 0 };

struct World(Ledger);

impl World {
    fn new(families: &[&[Probe]]) -> Self {
        Self(Ledger::new(families.iter().copied(), BootTime(0)))
    }

    /// What is said, and whether that is news.
    fn see(&mut self, at: At, look: &Look, sudden: bool, now: u64) -> (Health, String, bool) {
        let Follows { statement, news } = self.0.take(at, look, sudden, BootTime(now)).unwrap();
        assert_eq!(statement.as_of, BootTime(now));
        (statement.health, statement.reason.to_string(), news)
    }
}

#[test]
fn nobody_is_well_unseen() {
    let world = World::new(&[&[tcp("a")]]);
    let said = world.0.statement(OWN, BootTime(0)).unwrap();
    assert_eq!((said.health, said.reason.as_str()), (Health::Unchecked, "not looked at yet"));
    assert!(world.0.statement(At { subject: 0, probe: 1 }, BootTime(0)).is_none());
    assert!(world.0.statement(At { subject: 1, probe: 0 }, BootTime(0)).is_none());
}

#[test]
fn figures_in_words_are_no_news_within_a_minute() {
    let mut world = World::new(&[&[tcp("a")]]);
    let slow = |n: u64| look(Health::Degraded, &format!("load {n}"), Some(true));
    assert_eq!(world.see(OWN, &slow(1), false, 1), (Health::Degraded, "load 1".into(), true));
    assert_eq!(world.see(OWN, &slow(2), false, 2), (Health::Degraded, "load 1".into(), false));
    assert_eq!(world.see(OWN, &slow(3), false, 60_001), (Health::Degraded, "load 3".into(), true));
    assert_eq!(
        world.see(OWN, &look(Health::Healthy, "load 0", Some(true)), false, 60_002),
        (Health::Healthy, String::new(), true)
    );
    assert_eq!(
        world.see(OWN, &look(Health::Unhealthy, "down", None), false, 60_003).1,
        "down",
        "other health, other words"
    );
}

#[test]
fn a_probe_says_no_worse_than_it_may() {
    let mut world = World::new(&[&[Probe { worst: Health::Degraded, ..tcp("a") }]]);
    let down = look(Health::Unhealthy, "down", Some(false));
    assert_eq!(world.see(OWN, &down, false, 1), (Health::Degraded, "down".into(), true));
    assert!(!world.see(OWN, &down, true, 2).2);
}

#[test]
fn a_crash_needs_no_second_look() {
    let steady = Probe { rules: Rules { rise: 2, fall: 9, grace: Duration::from_secs(60) }, ..tcp("a") };
    let mut world = World::new(&[&[steady]]);
    let well = look(Health::Healthy, "fine", Some(true));
    world.see(OWN, &well, false, 1);
    assert!(!world.see(OWN, &look(Health::Unhealthy, "slow", None), false, 2).2);
    let gone = look(Health::Unhealthy, "process 7 is gone", Some(false));
    assert_eq!(world.see(OWN, &gone, true, 3), (Health::Unhealthy, "process 7 is gone".into(), true));
    // Nobody could say what happened: it happened all the same.
    world.see(OWN, &well, false, 4);
    world.see(OWN, &well, false, 5);
    let blind = look(Health::Unchecked, "/proc hangs", None);
    assert_eq!(world.see(OWN, &blind, true, 6), (Health::Unhealthy, "what it watches has ended".into(), true));
    // A restart that was quicker than the look is no crash.
    world.see(OWN, &well, false, 7);
    world.see(OWN, &well, false, 8);
    assert!(!world.see(OWN, &look(Health::Healthy, "process 8 runs", Some(true)), true, 9).2);
}

#[test]
fn what_stands_still_is_a_fact_of_its_own() {
    let progress = Progress { file: "/x".into(), within: Duration::from_secs(5), moves: Moves::Mtime };
    let mut world = World::new(&[&[probe("moves", Check::Progress(progress)), tcp("port")]]);
    let facts = [0, 1].map(|probe| world.0.source(At { subject: 0, probe }).unwrap().fact);
    assert_eq!(facts, [Fact::Progress, Fact::Service]);
    let mark = |mark| Look { mark, ..look(Health::Healthy, "moves", None) };
    assert_eq!(world.see(OWN, &mark(Some(1)), false, 1).0, Health::Healthy);
    assert!(!world.see(OWN, &mark(Some(1)), false, 5_000).2);
    let still = (Health::Unhealthy, "/x has not moved for longer than 5s".to_owned(), true);
    assert_eq!(world.see(OWN, &mark(Some(1)), false, 5_002), still);
    assert_eq!(world.see(OWN, &mark(Some(2)), false, 6_000).0, Health::Healthy);
    // Who cannot look does not say that it stands still.
    let blind = look(Health::Unchecked, "no leave", None);
    assert_eq!(world.see(OWN, &blind, false, 60_000), (Health::Unchecked, "no leave".into(), true));
}

#[test]
fn a_child_lives_where_somebody_saw_it_live() {
    let mut world = World::new(&[&[], &[tcp("a"), tcp("b")]]);
    let (a, b) = (At { subject: 1, probe: 0 }, At { subject: 1, probe: 1 });
    assert!(!world.0.is_alive(1));
    assert!(world.see(a, &look(Health::Healthy, "", Some(true)), false, 1).2);
    assert!(world.0.is_alive(1) && !world.0.is_alive(0) && !world.0.is_alive(2));
    // One that cannot look takes nothing back; one that lastingly sees nobody does.
    world.see(a, &look(Health::Unchecked, "", None), false, 2);
    assert!(world.0.is_alive(1));
    world.see(b, &look(Health::Unhealthy, "", Some(false)), false, 3);
    assert!(world.0.is_alive(1), "a saw it");
    assert!(world.see(a, &look(Health::Unhealthy, "no answer", None), false, 4).2);
    assert!(!world.0.is_alive(1));
    // Ill is alive.
    world.see(a, &look(Health::Unhealthy, "answers 500", Some(true)), false, 5);
    assert!(world.0.is_alive(1));
}

#[test]
fn one_slow_answer_ends_nobody() {
    let steady = Probe { rules: Rules { rise: 1, fall: 3, grace: Duration::ZERO }, ..tcp("a") };
    let mut world = World::new(&[&[steady]]);
    world.see(OWN, &look(Health::Healthy, "", Some(true)), false, 1);
    for n in 2..4 {
        assert!(!world.see(OWN, &look(Health::Unhealthy, "no answer", None), false, n).2);
        assert!(world.0.is_alive(0));
    }
    world.see(OWN, &look(Health::Unhealthy, "no answer", None), false, 4);
    assert!(!world.0.is_alive(0));
}
