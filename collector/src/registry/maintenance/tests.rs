//! Windows against a naive reading of their rules.

use proptest::prelude::*;
use rollcall_common::{id::ServiceId, service::Pairs, time::Now};

use super::*;
use crate::{
    registry::roster::Roster,
    store::{
        rows::{Applied, Loaded, ServiceKeyText},
        suite::samples::{NOON, key, service},
    },
};

const HOUR: Duration = Duration::from_secs(3_600);
const LIMITS: WindowLimits =
    WindowLimits { longest: Duration::from_secs(30 * 86_400), horizon: Duration::from_secs(366 * 86_400) };

fn row(text: &str, parent: Option<&str>, poller: Option<&str>, labels: &[(&str, &str)]) -> ServiceRow {
    let labels: std::collections::BTreeMap<String, String> =
        labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let id = |text: &str| ServiceId::new(text).unwrap();
    ServiceRow {
        parent: parent.map(id),
        poller: poller.map(id),
        labels: Pairs::try_from(labels).unwrap(),
        ..service(text)
    }
}

fn selector(services: &[&str], labels: &[(&str, Option<&str>)], subtree: Option<&str>) -> Selector {
    Selector {
        services: services.iter().map(|text| ServiceKeyText(key(text))).collect(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect(),
        subtree: subtree.map(|text| ServiceKeyText(key(text))),
        ..Selector::default()
    }
}

fn window(n: u128, selector: Selector, from: i64, to: i64) -> WindowRow {
    WindowRow {
        id: RowId::numbered(n),
        selector,
        starts_at: Timestamp(NOON.0 + from),
        ends_at: Timestamp(NOON.0 + to),
        recurrence: None,
        reason: format!("reason {n}"),
        author: "credential:x".into(),
        created_at: NOON,
        ended_early: None,
        seq: Seq(1),
    }
}

fn upkeep(windows: Vec<WindowRow>) -> Roster {
    let services = [
        row("poller/p", None, None, &[]),
        row("agent/a", Some("p"), None, &[("site", "3")]),
        row("checker/c", Some("a"), Some("p"), &[("site", "3"), ("rack", "7")]),
        row("instance/i", None, None, &[("site", "4")]),
    ];
    Roster::from_loaded(&Loaded { services: services.to_vec(), windows, ..Loaded::default() })
}

fn covered(roster: &Roster, at: i64) -> Vec<String> {
    let cover = Cover::at(roster.upkeep(), Timestamp(NOON.0 + at));
    roster.iter().filter(|entry| cover.of(&entry.row).is_some()).map(|entry| entry.row.key.to_string()).collect()
}

#[test]
fn a_window_covers_by_name_by_label_by_subtree_and_by_all_of_them() {
    for (selector, expected) in [
        (selector(&["agent/a", "instance/i"], &[], None), &["agent/a", "instance/i"][..]),
        (selector(&[], &[], Some("poller/p")), &["poller/p", "agent/a", "checker/c"]),
        (selector(&[], &[], Some("agent/a")), &["agent/a", "checker/c"]),
        (selector(&[], &[("site", Some("3"))], None), &["agent/a", "checker/c"]),
        (selector(&[], &[("site", None)], None), &["agent/a", "checker/c", "instance/i"]),
        (selector(&[], &[("site", Some("3")), ("rack", None)], None), &["checker/c"]),
        (selector(&[], &[("site", None)], Some("poller/p")), &["agent/a", "checker/c"]),
        (selector(&["agent/a", "instance/i"], &[("site", Some("4"))], None), &["instance/i"]),
        (selector(&["instance/i"], &[], Some("poller/p")), &[]),
        (Selector::default(), &[]),
    ] {
        let roster = upkeep(vec![window(1, selector.clone(), 0, 10)]);
        assert_eq!(covered(&roster, 5), expected, "{selector:?}");
        assert!(covered(&roster, 10).is_empty() && covered(&roster, -1).is_empty(), "it begins and it ends");
    }
}

#[test]
fn of_several_windows_the_one_that_ends_last_is_shown() {
    let all = |n, to| window(n, selector(&["agent/a"], &[], None), 0, to);
    let roster = upkeep(vec![all(1, 10), all(2, 30), all(3, 20)]);
    let cover = Cover::at(roster.upkeep(), Timestamp(NOON.0 + 5));
    let shown = cover.of(&roster.get(&key("agent/a")).unwrap().row).unwrap();
    assert_eq!((shown.id, shown.until, &*shown.reason), (RowId::numbered(2), Timestamp(NOON.0 + 30), "reason 2"));
    assert!(cover.stands(1, Timestamp(NOON.0 + 9)));
    assert!(!cover.stands(1, Timestamp(NOON.0 + 10)), "the first of them ends");
    assert!(!cover.stands(2, Timestamp(NOON.0 + 9)), "a window changed");
    assert!(!cover.stands(1, Timestamp(NOON.0 + 4)), "the clock was put back");
}

#[test]
fn a_recurring_window_comes_and_goes_until_its_end() {
    let week = 7 * 24 * 3_600_000;
    let mut row = window(1, selector(&["agent/a"], &[], None), 0, 3 * week);
    // Noon of the samples is a Saturday.
    row.recurrence = Some(Recurrence { cron: "0 3 * * 0 UTC".into(), duration_ms: 7_200_000 });
    let sunday = 15 * 3_600_000;
    let at = |ms: i64| standing(&row, Timestamp(NOON.0 + ms));
    assert_eq!(at(0), (WindowState::Scheduled, Some(Timestamp(NOON.0 + sunday))));
    let end = Timestamp(NOON.0 + sunday + 7_200_000);
    assert_eq!(at(sunday), (WindowState::Active(end), Some(end)));
    assert_eq!(at(sunday + 7_199_999).0, WindowState::Active(end));
    assert_eq!(at(sunday + 7_200_000), (WindowState::Scheduled, Some(Timestamp(NOON.0 + sunday + week))));
    assert_eq!(at(2 * week + sunday + 1).0, WindowState::Active(Timestamp(end.0 + 2 * week)));
    assert_eq!(at(3 * week), (WindowState::Ended, None));
    // Made in the middle of what would have been an occurrence: it begins with the next one.
    row.starts_at = Timestamp(NOON.0 + sunday + 60_000);
    assert_eq!(standing(&row, Timestamp(NOON.0 + sunday + 120_000)).0, WindowState::Scheduled);
    // An occurrence does not outlive its window.
    row.starts_at = NOON;
    row.ends_at = Timestamp(NOON.0 + sunday + 60_000);
    assert_eq!(standing(&row, Timestamp(NOON.0 + sunday)).0, WindowState::Active(row.ends_at));
}

fn world(roster: &Roster) -> World<'_> {
    let now = Now { boot: rollcall_common::time::BootTime(1), wall: NOON };
    World { roster, now }
}

fn open(selector: Selector, length: Duration) -> OpenWindow {
    OpenWindow {
        id: RowId::numbered(9),
        selector,
        starts_at: NOON,
        ends_at: NOON.after(length),
        recurrence: None,
        reason: "new disks".into(),
        limits: LIMITS,
        by: By::system(),
    }
}

#[test]
fn what_cannot_be_a_window_is_refused_with_its_reason() {
    let roster = upkeep(Vec::new());
    let good = || open(selector(&["agent/a"], &[], None), HOUR);
    assert!(good().plan(world(&roster)).is_ok());
    let daily = |cron: &str, ms| Some(Recurrence { cron: cron.into(), duration_ms: ms });
    let year = Duration::from_secs(300 * 86_400);
    for (request, word) in [
        (OpenWindow { selector: Selector::default(), ..good() }, "a window of everything"),
        (OpenWindow { reason: "  ".into(), ..good() }, "say why"),
        (OpenWindow { ends_at: NOON, ..good() }, "end before it begins"),
        (OpenWindow { ends_at: NOON.after(LIMITS.longest + HOUR), ..good() }, "lasts 30d at most"),
        (OpenWindow { recurrence: daily("x", 60_000), ..good() }, "cron"),
        (OpenWindow { recurrence: daily("* * * * *", 59_999), ..good() }, "each one lasts between"),
        (OpenWindow { recurrence: daily("0 11 * * *", 60_000), ..good() }, "before it comes for the first time"),
        (OpenWindow { recurrence: daily("0 3 * * *", 60_000), ends_at: NOON.after(year * 2), ..good() }, "within 366d"),
        (OpenWindow { starts_at: NOON.after(year * 2), ends_at: NOON.after(year * 2 + HOUR), ..good() }, "begin in"),
        (open(selector(&["agent/nobody"], &[], None), HOUR), "agent/nobody is not registered"),
        (open(selector(&[], &[], Some("poller/nobody")), HOUR), "poller/nobody is not registered"),
    ] {
        let refused = request.plan(world(&roster)).unwrap_err().to_string();
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let good = OpenWindow { recurrence: daily("0 3 * * *", 60_000), ends_at: NOON.after(year), ..good() };
    assert!(good.plan(world(&roster)).is_ok());
    let full = (0..MAX_WINDOWS).map(|n| window(n as u128, selector(&["agent/a"], &[], None), 0, 10)).collect();
    let refused = open(selector(&["agent/a"], &[], None), HOUR).plan(world(&upkeep(full))).unwrap_err();
    assert!(refused.to_string().contains("end some first"), "{refused}");
}

#[test]
fn a_window_is_extended_shortened_and_ended_but_not_twice() {
    let mut roster = upkeep(vec![window(9, selector(&["agent/a"], &[], None), 0, 3_600_000)]);
    let id = RowId::numbered(9);
    let change = |ends: i64| ChangeWindow {
        id,
        ends_at: Some(Timestamp(NOON.0 + ends)),
        reason: None,
        expect: Some(Seq(1)),
        limits: LIMITS,
        by: By::system(),
    };
    let refused = change(-1).plan(world(&roster)).unwrap_err();
    assert!(refused.to_string().contains("end it instead"), "{refused}");
    let stale = ChangeWindow { expect: Some(Seq(7)), ..change(5) };
    assert!(stale.plan(world(&roster)).unwrap_err().to_string().contains("its seq is 1 now"));
    let (same, ()) = change(3_600_000).plan(world(&roster)).unwrap();
    assert!(same.writes.is_empty() && same.audit.is_empty(), "nothing to change, nothing to tell");
    let apply = |roster: &mut Roster, change: Change| {
        let rows = change.writes.iter().map(|_| Some(Seq(2))).collect();
        roster.apply(&change, &Applied { rows, audit: vec![], position: crate::store::Position::default() });
        change.audit.iter().map(|event| event.action.clone()).collect::<Vec<_>>()
    };
    let (longer, ()) = change(7_200_000).plan(world(&roster)).unwrap();
    assert_eq!(apply(&mut roster, longer), ["maintenance.changed"]);
    assert_eq!(covered(&roster, 7_199_999), ["agent/a"]);
    let end = EndWindow { id, by: By::system() };
    let (ended, ()) = end.plan(world(&roster)).unwrap();
    assert_eq!(apply(&mut roster, ended), ["maintenance.ended"]);
    assert!(covered(&roster, 1).is_empty());
    assert_eq!(end.plan(world(&roster)).unwrap_err(), Refusal::WindowEnded(id));
    let nobody = EndWindow { id: RowId::numbered(1), by: By::system() };
    assert_eq!(nobody.plan(world(&roster)).unwrap_err(), Refusal::UnknownWindow(RowId::numbered(1)));

    let forget = |after| ForgetWindows { before: Timestamp(NOON.0 + after), most: 10 };
    assert_eq!(forget(0).plan(world(&roster)).unwrap().1, 0);
    assert_eq!(forget(1).plan(world(&roster)).unwrap().1, 1, "it ended when it was ended");
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let services =
        prop::collection::vec(prop::sample::select(vec!["poller/p", "agent/a", "checker/c", "instance/i"]), 0..3);
    let label =
        (prop::sample::select(vec!["site", "rack"]), prop::option::of(prop::sample::select(vec!["3", "4", "7"])));
    let labels = prop::collection::vec(label, 0..3);
    let subtree = prop::option::of(prop::sample::select(vec!["poller/p", "agent/a"]));
    (services, labels, subtree).prop_map(|(services, labels, subtree)| selector(&services, &labels, subtree))
}

proptest! {
    /// The compiled form says what asking each window in turn would say.
    #[test]
    fn the_cover_agrees_with_asking_each_window(
        windows in prop::collection::vec((any_selector(), 0..20_i64, 1..20_i64, any::<bool>()), 0..12),
        at in -2..40_i64,
    ) {
        let rows: Vec<_> = windows.into_iter().enumerate().map(|(n, (selector, from, length, ended))| {
            let row = window(n as u128, selector, from, from + length);
            WindowRow { ended_early: ended.then_some(NOON), ..row }
        }).collect();
        let roster = upkeep(rows.clone());
        let now = Timestamp(NOON.0 + at);
        let cover = Cover::at(roster.upkeep(), now);
        for entry in roster.iter() {
            let naive = rows.iter()
                .filter(|row| row.ended_early.is_none() && row.starts_at <= now && now < row.ends_at)
                .filter(|row| matches(&row.selector, &entry.row))
                .max_by_key(|row| (row.ends_at, std::cmp::Reverse(row.id)));
            prop_assert_eq!(cover.of(&entry.row).map(|found| (found.id, found.until)), naive.map(|row| (row.id, row.ends_at)));
        }
        // Until it says otherwise, it would be compiled to the same again.
        let next = rows.iter().flat_map(|row| [row.starts_at, row.ends_at]).filter(|edge| *edge > now).min();
        if let Some(until) = cover.until {
            prop_assert!(next.is_some_and(|next| next <= until));
        }
    }
}

proptest! {
    /// Whatever a selector names and whatever labels a service has: what it covers lies within its reach.
    #[test]
    fn a_window_covers_nothing_beyond_its_reach(
        named in any::<bool>(),
        below in any::<bool>(),
        labels in prop::collection::btree_map("[kl]", prop::option::of("[a-c]"), 0..3),
        within in prop::collection::btree_map("[kl]", prop::collection::btree_set("[a-c]", 1..3), 0..3),
        outer in prop::collection::btree_map("[kl]", prop::collection::btree_set("[a-c]", 1..3), 0..3),
        has in prop::collection::btree_map("[kl]", "[a-c]", 0..3),
    ) {
        let text = |tests: std::collections::BTreeMap<String, std::collections::BTreeSet<String>>| {
            let tests = tests.into_iter().map(|(key, values)| {
                format!("{key} in ({})", values.into_iter().collect::<Vec<_>>().join(","))
            });
            tests.collect::<Vec<_>>().join(",").parse::<crate::scope::Scope>().unwrap()
        };
        let selector = Selector {
            services: named.then(|| ServiceKeyText(key("agent/a"))).into_iter().collect(),
            labels,
            subtree: below.then(|| ServiceKeyText(key("poller/p"))),
            within: text(within),
        };
        let has: Vec<(&str, &str)> = has.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let row = row("agent/a", Some("p"), None, &has);
        let outer = text(outer);
        if matches(&selector, &row) {
            prop_assert!(selector.reach().admits(&row.labels));
            if selector.reach().lies_within(&outer) {
                prop_assert!(outer.admits(&row.labels));
            }
        }
    }
}
