//! Who may speak of whom, and what follows from it.

use rollcall_common::{
    health::{Health, Text},
    time::{Now, Timestamp},
};

use super::*;
use crate::store::{
    Position,
    rows::{Applied, Loaded},
    suite::samples::{identity, key, pairs, service},
};

fn row(name: &str, parent: Option<&str>, poller: Option<&str>) -> ServiceRow {
    let id = |text: &str| text.parse().ok();
    ServiceRow {
        parent: parent.and_then(id),
        poller: poller.and_then(id),
        status: Status::Active,
        labels: pairs("site", "north"),
        implicit_children: false,
        ephemeral_after: None,
        ..service(name)
    }
}

/// poller/p with agent/a and its checkers; poller/q with agent/b.
fn loaded() -> Loaded {
    let parents = |name, parent| row(name, Some(parent), Some(parent));
    let open = |row: ServiceRow| ServiceRow { implicit_children: true, ..row };
    Loaded {
        services: vec![
            open(row("poller/p", None, None)),
            row("poller/q", None, None),
            open(parents("agent/a", "p")),
            parents("agent/b", "q"),
            row("checker/bound", Some("a"), Some("p")),
            row("checker/bare", Some("a"), Some("p")),
            row("checker/foreign", Some("b"), Some("q")),
            ServiceRow { status: Status::Revoked, ..row("checker/barred", Some("a"), Some("p")) },
        ],
        identities: vec![identity("checker/bound", 1, 7), identity("agent/a", 1, 8), identity("poller/p", 1, 9)],
        ..Loaded::default()
    }
}

fn report(child: &str, parent: Option<&str>) -> ChildReport {
    ChildReport {
        child: key(child),
        parent: parent.and_then(|id| id.parse().ok()),
        report: HealthReport { health: Health::Healthy, reason: Text::default() },
        about: None,
    }
}

fn judged(reporter: &str, child: &str, parent: Option<&str>) -> Result<Meaning, Code> {
    let roster = Roster::from_loaded(&loaded());
    Jury::new(&roster, &key(reporter)).judge(&report(child, parent))
}

/// W4, as a table.
#[test]
fn a_sidecar_speaks_for_its_own_subtree_only() {
    let slot = |name: &str| Roster::from_loaded(&loaded()).get(&key(name)).map(|entry| entry.slot).unwrap();
    let (bare, bound) = (Meaning::Counts(slot("checker/bare")), Meaning::Shown(slot("checker/bound")));
    for (reporter, child, parent, wanted) in [
        ("agent/a", "checker/bare", None, Ok(bare)),
        ("agent/a", "checker/bare", Some("a"), Ok(bare)),
        ("agent/a", "checker/bound", None, Ok(bound)),
        ("poller/p", "checker/bare", Some("a"), Ok(bare)),
        ("poller/p", "agent/a", None, Ok(Meaning::Shown(slot("agent/a")))),
        // Of another parent, whether it is named or not.
        ("agent/a", "checker/foreign", None, Err(Code::ChildOfAnother)),
        ("agent/a", "checker/foreign", Some("b"), Err(Code::ChildOfAnother)),
        ("poller/p", "checker/foreign", Some("b"), Err(Code::ChildOfAnother)),
        ("poller/p", "checker/foreign", Some("a"), Err(Code::ChildOfAnother)),
        ("poller/q", "agent/a", None, Err(Code::ChildOfAnother)),
        ("poller/q", "agent/a", Some("p"), Err(Code::ChildOfAnother)),
        // A grandchild without its parent's name.
        ("poller/p", "checker/bare", None, Err(Code::ParentUnknown)),
        ("poller/p", "checker/new", Some("nobody"), Err(Code::ParentUnknown)),
        ("poller/p", "checker/new", Some("b"), Err(Code::ChildOfAnother)),
        // Not below anybody, or above.
        ("agent/a", "agent/a", None, Err(Code::ParentKind)),
        ("agent/a", "poller/p", None, Err(Code::ParentKind)),
        ("agent/a", "instance/i", None, Err(Code::ParentKind)),
        ("checker/bound", "checker/bare", None, Err(Code::ParentKind)),
        ("agent/a", "checker/barred", None, Err(Code::Revoked)),
        // Unknown: by policy of whoever reports.
        ("agent/a", "checker/new", None, Ok(Meaning::New)),
        ("poller/p", "checker/new", Some("a"), Ok(Meaning::New)),
        ("poller/p", "agent/new", None, Ok(Meaning::New)),
        ("agent/b", "checker/new", None, Err(Code::ChildUnknown)),
        ("poller/q", "agent/new", None, Err(Code::ChildUnknown)),
    ] {
        assert_eq!(judged(reporter, child, parent), wanted, "{reporter} of {child} under {parent:?}");
    }
}

/// Goodbyes are judged as reports are: one's own subtree, and nobody who has an identity.
#[test]
fn a_sidecar_says_goodbye_for_its_own_subtree_only() {
    let roster = Roster::from_loaded(&loaded());
    let slot = |name: &str| roster.get(&key(name)).map(|entry| entry.slot).unwrap();
    let said = |reporter: &str, all: &[(&str, Option<&str>)]| {
        let gone = |(child, parent): &(&str, Option<&str>)| ChildGone {
            child: key(child),
            parent: parent.and_then(|id| id.parse().ok()),
            reason: GoodbyeReason::Uninstall,
        };
        let gone: Vec<ChildGone> = all.iter().map(gone).collect();
        let (parted, refused) = farewells(&roster, &key(reporter), &gone);
        (parted, refused.iter().map(|refused| (refused.index, refused.code)).collect::<Vec<_>>())
    };
    let bare = vec![(slot("checker/bare"), GoodbyeReason::Uninstall)];
    let all = [
        ("checker/foreign", None),
        ("checker/bare", None),
        // It lives by its own beats, and says its own goodbye.
        ("checker/bound", None),
        ("checker/nobody", None),
        ("poller/p", None),
        ("checker/barred", None),
    ];
    let refused = vec![(0, Code::ChildOfAnother), (4, Code::ParentKind), (5, Code::Revoked)];
    assert_eq!(said("agent/a", &all), (bare.clone(), refused));
    assert_eq!(said("poller/p", &[("checker/bare", Some("a")), ("agent/a", None)]), (bare, vec![]));
    assert_eq!(said("poller/q", &[("checker/bare", Some("a"))]), (vec![], vec![(0, Code::ChildOfAnother)]));
    // Where nobody may be registered by reports, nobody unknown is refused a goodbye either.
    assert_eq!(said("agent/b", &[("checker/nobody", None)]), (vec![], vec![]));
}

#[test]
fn a_parent_gets_so_many_children_by_reports_and_no_more() {
    let mut all = loaded();
    let implicit =
        |n: usize| ServiceRow { source: Source::Implicit, ..row(&format!("checker/i{n}"), Some("a"), Some("p")) };
    all.services.extend((0..MAX_IMPLICIT - 2).map(implicit));
    let roster = Roster::from_loaded(&all);
    let reporter = key("agent/a");
    let mut jury = Jury::new(&roster, &reporter);
    let verdicts: Vec<_> = (0..4).map(|n| jury.judge(&report(&format!("checker/new{n}"), None))).collect();
    assert_eq!(verdicts, [Ok(Meaning::New), Ok(Meaning::New), Err(Code::ChildLimit), Err(Code::ChildLimit)]);
    // Those that are there go on living.
    assert!(matches!(jury.judge(&report("checker/i7", None)), Ok(Meaning::Counts(_))));

    let reports = (0..9).map(|n| report(&format!("checker/new{n}"), None)).collect();
    let now = Now { boot: BootTime(5), wall: Timestamp(5) };
    let (change, ()) = RegisterChildren { reporter, reports }.plan(World { roster: &roster, now }).unwrap();
    assert_eq!((change.writes.len(), change.audit.len()), (2, 2));
}

/// Whoever may register at two heights has one allowance, not one for each parent.
#[test]
fn the_limit_is_that_of_a_reporter_with_all_that_is_below_it() {
    let mut all = loaded();
    let implicit = |row: ServiceRow| ServiceRow { source: Source::Implicit, ..row };
    let half = MAX_IMPLICIT / 2;
    let agents = (0..half).map(|n| implicit(row(&format!("agent/i{n}"), Some("p"), Some("p"))));
    let checkers = (0..half - 1).map(|n| implicit(row(&format!("checker/i{n}"), Some(&format!("i{n}")), Some("p"))));
    all.services.extend(agents.chain(checkers));
    let mut roster = Roster::from_loaded(&all);
    let reporter = key("poller/p");
    let mut jury = Jury::new(&roster, &reporter);
    assert_eq!(jury.judge(&report("checker/new", Some("i1"))), Ok(Meaning::New));
    assert_eq!(jury.judge(&report("checker/newer", Some("i2"))), Err(Code::ChildLimit));
    assert_eq!(jury.judge(&report("agent/newer", None)), Err(Code::ChildLimit));
    let (service, expect) = (key("checker/i1"), Seq(0));
    let change = Change { writes: vec![Write::RemoveService { service, expect }], audit: Vec::new() };
    let applied = Applied { rows: vec![Some(Seq(1))], audit: Vec::new(), position: Position::default() };
    roster.apply(&change, &applied);
    let mut jury = Jury::new(&roster, &reporter);
    let left: Vec<_> = (0..3).map(|n| jury.judge(&report(&format!("agent/new{n}"), None))).collect();
    assert_eq!(left, [Ok(Meaning::New), Ok(Meaning::New), Err(Code::ChildLimit)]);
}

#[test]
fn a_registered_child_stands_where_its_parent_does() {
    let mut all = loaded();
    for row in &mut all.services {
        row.ephemeral_after = (row.key == key("agent/a")).then_some(900);
    }
    let roster = Roster::from_loaded(&all);
    let about = ChildAbout {
        labels: pairs("site", "elsewhere"),
        metadata: pairs("port", "3"),
        checker_kind: "snmp".parse().ok(),
    };
    let reported = ChildReport { about: Some(Box::new(about)), ..report("checker/new", Some("a")) };
    let request = RegisterChildren { reporter: key("poller/p"), reports: vec![reported.clone(), reported] };
    let now = Now { boot: BootTime(5), wall: Timestamp(5) };
    let (change, ()) = request.plan(World { roster: &roster, now }).unwrap();
    let [Write::InsertService(row)] = &change.writes[..] else { panic!("{change:?}") };
    assert_eq!((row.parent.as_ref().unwrap().as_str(), row.poller.as_ref().unwrap().as_str()), ("a", "p"));
    assert_eq!(
        (row.labels.get("site"), row.metadata.get("port")),
        (Some("north"), Some("3")),
        "the parent's label wins"
    );
    assert_eq!((row.source, row.status, row.ephemeral_after), (Source::Implicit, Status::Pending, Some(900)));
    assert_eq!(row.checker_kind.as_ref().map(|kind| kind.as_str()), Some("snmp"));
    assert_eq!(row.created_by, "sidecar:poller/p");
    assert!(!row.implicit_children, "what has no sidecar reports nobody");
}

#[test]
fn intervals_are_bounded_and_good_for_three() {
    for (asked, interval_ms, ttl_ms) in
        [(0, 1_000, 3_000), (60_000, 60_000, 180_000), (u32::MAX, 3_600_000, 10_800_000)]
    {
        let pace = pace_of(asked);
        assert_eq!((pace.interval_ms, pace.ttl_ms), (interval_ms, ttl_ms));
    }
    let evidence = json!({ "origin": "parent", "interval_ms": 60_000 });
    assert_eq!(recorded_pace(&evidence), Some(pace_of(60_000)));
    assert_eq!(recorded_pace(&json!({ "interval_ms": 60_000 })), None);
    assert_eq!(recorded_pace(&json!({ "origin": "parent", "interval_ms": -1 })), None);
}

fn told(at: u64, interval_ms: u32, reason: &str) -> Told {
    Told {
        by: key("agent/a"),
        at: BootTime(at),
        interval_ms,
        report: HealthReport { health: Health::Degraded, reason: Text::fit(reason) },
        passed: None,
        recorded_ms: 0,
    }
}

#[test]
fn what_is_said_reaches_the_store_once_a_second_at_most_and_never_without_change() {
    let mut book = Book::default();
    let said = |reason: &str| HealthReport { health: Health::Degraded, reason: Text::fit(reason) };
    let slot = Slot::new(3, 0);
    let health = |book: &mut Book, at, reason: &str, shown: Option<&HealthReport>| {
        book.keep(slot, told(at, 1_000, reason), shown, Some(1_000)).health
    };
    assert_eq!(health(&mut book, 10_000, "a", None), Some(said("a")));
    assert_eq!(health(&mut book, 10_100, "b", Some(&said("a"))), None, "too soon");
    assert_eq!(health(&mut book, 11_000, "c", Some(&said("a"))), Some(said("c")), "the last one counts");
    assert_eq!(health(&mut book, 13_000, "c", Some(&said("c"))), None, "nothing new");
    assert_eq!(book.told(slot).map(|told| told.report.clone()), Some(said("c")));
    book.forget(slot);
    assert_eq!(book.told(slot), None);
}

/// The history learns of a longer interval by doublings: a dozen rows from the shortest to the longest, however
/// a sidecar plays with it.
#[test]
fn a_longer_interval_is_written_down_by_doublings() {
    let mut book = Book::default();
    let slot = Slot::new(3, 0);
    let mut repaced = |interval_ms, running| {
        let due = book.keep(slot, told(1, interval_ms, ""), None, running).repaced;
        if due {
            book.records(slot, interval_ms);
        }
        due
    };
    assert!(!repaced(1_000, None), "the row that begins tells it");
    assert!(!repaced(1_900, Some(1_000)));
    assert!(repaced(2_000, Some(1_900)));
    assert!(!repaced(2_000, Some(2_000)) && !repaced(1_000, Some(2_000)) && !repaced(3_999, Some(1_000)));
    let steps = (0..10_000_u32).filter(|n| repaced(1_000 + n * 360, Some(1_000))).count();
    assert!(steps <= 12, "{steps}");
    let mut fresh = Book::default();
    let again = |book: &mut Book| book.keep(slot, told(1, 9_000, ""), None, Some(1_000)).repaced;
    assert!(again(&mut fresh) && again(&mut fresh), "what was not taken is told again");
    let mut fresh = Book::default();
    // After a restart the lease runs at the interval that the history had.
    assert!(!fresh.keep(slot, told(1, 60_000, ""), None, Some(60_000)).repaced);
}
