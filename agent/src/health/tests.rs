use proptest::prelude::*;

use super::*;

fn source(sort: Sort, name: &str, fact: Fact) -> Source {
    Source { sort, name: name.parse().unwrap(), fact }
}

fn said(health: Health, reason: &str, at: u64, secs: Option<u64>) -> Statement {
    Statement {
        health,
        reason: Text::fit(reason),
        as_of: BootTime(at),
        stale_after: secs.map(Duration::from_secs),
        count: None,
        by: None,
    }
}

#[test]
fn the_worst_counts_and_says_who() {
    let mut board = HealthBoard::default();
    let now = BootTime(1_000);
    assert_eq!(board.verdict(&Subject::Own, now).health, Health::Unchecked, "nobody looked");
    let mut say = |name: &str, health, reason: &str| {
        board.say(&Subject::Own, source(Sort::Probe, name, Fact::Service), said(health, reason, 0, None)).unwrap();
        board.verdict(&Subject::Own, now)
    };
    let report = say("a", Health::Healthy, "all is well");
    assert_eq!((report.health, report.reason.as_str()), (Health::Healthy, ""));
    let report = say("b", Health::Degraded, "slow");
    assert_eq!((report.health, report.reason.as_str()), (Health::Degraded, "b: slow"));
    say("c", Health::Unchecked, "cannot look");
    let report = say("d", Health::Degraded, "");
    assert_eq!(report.reason.as_str(), "b: slow; d");
}

#[test]
fn who_promised_to_speak_and_does_not_is_ill() {
    let mut board = HealthBoard::default();
    let own = Subject::Own;
    board.say(&own, source(Sort::Pushed, "app", Fact::Service), said(Health::Healthy, "", 0, Some(60))).unwrap();
    assert_eq!(board.next_change(BootTime(0)), Some(BootTime(60_000)));
    assert_eq!(board.verdict(&own, BootTime(59_999)).health, Health::Healthy);
    let report = board.verdict(&own, BootTime(60_000));
    assert_eq!(report.health, Health::Unhealthy);
    assert_eq!(report.reason.as_str(), "app: said nothing for 60 s, last healthy");
    assert_eq!(board.next_change(BootTime(60_000)), None, "nothing more changes by itself");
    assert!(board.withdraw(&own, &source(Sort::Pushed, "app", Fact::Service)));
    assert_eq!(board.verdict(&own, BootTime(60_000)).health, Health::Unchecked);
}

#[test]
fn the_same_count_is_no_progress() {
    let mut board = HealthBoard::default();
    let (own, queue) = (Subject::Own, source(Sort::Pushed, "queue", Fact::Progress));
    let at = |at, count| Statement { count: Some(count), ..said(Health::Healthy, "", at, Some(10)) };
    board.progress(&own, queue.clone(), at(0, 7)).unwrap();
    board.progress(&own, queue.clone(), at(9_000, 7)).unwrap();
    let report = board.verdict_on(&own, Fact::Progress, BootTime(10_000));
    assert_eq!(report.reason.as_str(), "queue: no progress for 10 s");
    board.progress(&own, queue, at(11_000, 6)).unwrap();
    assert_eq!(board.verdict_on(&own, Fact::Progress, BootTime(12_000)).health, Health::Healthy);
    assert_eq!(board.verdict_on(&own, Fact::Service, BootTime(12_000)).health, Health::Unchecked, "another fact");
}

#[test]
fn nobody_fills_the_board_or_speaks_as_a_probe() {
    let mut board = HealthBoard::default();
    let own = Subject::Own;
    board.say(&own, source(Sort::Probe, "app", Fact::Service), said(Health::Unhealthy, "down", 0, None)).unwrap();
    board.say(&own, source(Sort::Pushed, "app", Fact::Service), said(Health::Healthy, "", 0, None)).unwrap();
    assert_eq!(board.verdict(&own, BootTime(0)).health, Health::Unhealthy);
    for n in 2..MAX_SOURCES {
        let name = format!("s{n}");
        board.say(&own, source(Sort::Pushed, &name, Fact::Service), said(Health::Healthy, "", 0, None)).unwrap();
    }
    let late = board.say(&own, source(Sort::Pushed, "late", Fact::Service), said(Health::Healthy, "", 0, None));
    assert_eq!(late, Err(Unheard::Full));
    let known = source(Sort::Pushed, "app", Fact::Service);
    assert_eq!(board.say(&own, known, said(Health::Healthy, "", 1, None)), Ok(()), "who has a place keeps it");
    let child: ServiceKey = "checker/c1".parse().unwrap();
    let of_child = Subject::Child(child.clone());
    let report = said(Health::Healthy, "", 0, None);
    let unknown = board.say(&of_child, source(Sort::Pushed, "a", Fact::Service), report.clone());
    assert_eq!(unknown, Err(Unheard::NoSuchChild(child.clone())));
    board.admit(child);
    assert_eq!(board.say(&of_child, source(Sort::Pushed, "a", Fact::Service), report), Ok(()));
    assert_eq!(board.verdict(&of_child, BootTime(0)).health, Health::Healthy);
}

proptest! {
    /// Between two moments without a word and without a `next_change` between them, no verdict changes.
    #[test]
    fn verdicts_change_when_foretold(
        said_at in prop::collection::vec((0_u8..4, 0_u64..100_000, prop::option::of(1_u64..60), 0_usize..4), 0..12),
        from in 0_u64..200_000,
        step in 1_u64..100_000,
    ) {
        let mut board = HealthBoard::default();
        for (name, at, secs, health) in said_at {
            let statement = said(Health::ALL[health], "x", at, secs);
            board.say(&Subject::Own, source(Sort::Pushed, &format!("s{name}"), Fact::Service), statement).unwrap();
        }
        let from = BootTime(from);
        let until = board.next_change(from).unwrap_or(BootTime(u64::MAX));
        let later = BootTime((from.0 + step).min(until.0 - 1));
        prop_assert_eq!(board.verdict(&Subject::Own, from).health, board.verdict(&Subject::Own, later).health);
    }
}

/// A night with the lid closed: nobody could speak, and nobody is blamed for it.
#[test]
fn who_could_not_speak_is_not_blamed() {
    let mut board = HealthBoard::default();
    let backup = source(Sort::Pushed, "backup", Fact::Service);
    board.say(&Subject::Own, backup, said(Health::Healthy, "", 0, Some(60))).unwrap();
    let mut attention = Attention::default();
    assert_eq!(attention.missed(BootTime(0)), None, "nothing was planned");
    attention.plan(BootTime(30_000));
    assert_eq!(attention.missed(BootTime(44_000)), None, "held up a little");
    attention.plan(BootTime(45_000));
    let woken = BootTime(8 * 3_600_000);
    assert_eq!(board.verdict(&Subject::Own, woken).health, Health::Unhealthy);
    let missed = attention.missed(woken).unwrap();
    board.excuse(missed, woken);
    assert_eq!(board.verdict(&Subject::Own, woken).health, Health::Healthy);
    let later = woken.after(Duration::from_secs(61));
    assert_eq!(board.verdict(&Subject::Own, later).health, Health::Unhealthy, "it had its time");
    // Nobody speaks out of the future.
    board.excuse(missed, woken);
    assert!(board.of(&Subject::Own).all(|(_, said)| said.as_of <= woken));
}
