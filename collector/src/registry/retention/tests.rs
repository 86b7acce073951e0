//! Who may go, against a model that is told in as few words as the rule itself.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rollcall_common::{
    id::{BeatNo, PaceNo, SessionNo},
    lease::Pace,
    time::BootTime,
};

use super::*;
use crate::registry::leases::Origin;
use crate::{
    registry::roster::Roster,
    store::{
        rows::{IdentityRow, Loaded, ServiceRow},
        suite::samples::{NOON, identity, service},
    },
};

const DAY: Duration = Duration::from_secs(86_400);
const RETENTION: Retention = Retention {
    pending: DAY.saturating_mul(30),
    inactive: DAY.saturating_mul(90),
    revoked: DAY.saturating_mul(90),
    deleted: DAY.saturating_mul(7),
    leaf_ttl: DAY.saturating_mul(7),
};
const ALL: [Status; 5] = Status::ALL;

fn row(key: &str, parent: Option<&str>, status: Status, days: u32) -> ServiceRow {
    ServiceRow {
        parent: parent.map(|id| id.parse().unwrap()),
        poller: None,
        placeholder: false,
        status,
        status_since: NOON.before(DAY * days),
        ..service(key)
    }
}

fn sight(phase: Phase, presence: Presence, last_beat: Option<u64>) -> Sight {
    let pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
    Sight {
        phase,
        presence,
        unknown: None,
        last_beat: last_beat.map(BootTime),
        pace,
        deadline: BootTime(0),
        beat_no: BeatNo(1),
        session: SessionNo(1),
        origin: Origin::Own,
    }
}

fn judge(roster: &Roster, cap: usize, edit: impl Fn(&mut Look<'_>)) -> Departures {
    let mut gathering = Gathering::new(RETENTION, &ALL, NOON);
    for entry in roster.iter() {
        let children = roster.below(&entry.row.key).children;
        let mut look = Look { entry, sight: None, children, covered: false };
        edit(&mut look);
        gathering.look(look);
    }
    gathering.decide(cap)
}

fn roster(services: Vec<ServiceRow>, identities: Vec<IdentityRow>) -> Roster {
    Roster::from_loaded(&Loaded { services, identities, ..Loaded::default() })
}

fn names(going: &[Leaving]) -> Vec<String> {
    going.iter().map(|leaving| leaving.key.to_string()).collect()
}

#[test]
fn each_status_has_its_time_and_active_has_none() {
    use Status::{Active, Deleted, Inactive, Pending, Revoked};
    for (status, days, goes) in [
        (Pending, 29, false),
        (Pending, 30, true),
        (Active, 10_000, false),
        (Inactive, 89, false),
        (Inactive, 90, true),
        (Revoked, 89, false),
        (Revoked, 90, true),
        (Deleted, 6, false),
        (Deleted, 7, true),
    ] {
        let found = judge(&roster(vec![row("instance/i", None, status, days)], vec![]), 10, |_| {});
        assert_eq!(found.going.len(), usize::from(goes), "{status} after {days} days");
        assert!(found.kept.is_empty(), "whose time is not over is not mentioned");
    }
}

#[test]
fn no_revoked_service_goes_before_its_last_certificate_ends() {
    let short = Retention { revoked: Duration::ZERO, ..RETENTION };
    assert_eq!(short.of(Status::Revoked), Some(DAY * 7), "the life of a certificate counts whatever is asked");
    assert_eq!(short.all(Duration::ZERO).of(Status::Revoked), Some(DAY * 7));
    let mut long = identity("instance/i", 1, 1);
    long.current.not_after = NOON.after(DAY);
    let kept = judge(&roster(vec![row("instance/i", None, Status::Revoked, 100)], vec![long]), 10, |_| {});
    assert_eq!(kept.kept.first().map(|kept| kept.why), Some("its certificate has not ended"));
    let mut over = identity("instance/i", 1, 1);
    over.current.not_after = NOON;
    let gone = judge(&roster(vec![row("instance/i", None, Status::Revoked, 100)], vec![over]), 10, |_| {});
    assert_eq!(names(&gone.going), ["instance/i"]);
}

#[test]
fn a_tree_goes_from_its_leaves_and_only_where_all_of_it_goes() {
    let tree = |checker_days| {
        roster(
            vec![
                row("poller/p", None, Status::Deleted, 10),
                row("agent/a", Some("p"), Status::Deleted, 20),
                row("checker/c", Some("a"), Status::Deleted, checker_days),
                row("checker/d", Some("a"), Status::Deleted, 9),
            ],
            vec![],
        )
    };
    let found = judge(&tree(8), 10, |_| {});
    assert_eq!(names(&found.going), ["checker/d", "checker/c", "agent/a", "poller/p"], "leaves first, oldest first");
    let found = judge(&tree(8), 3, |_| {});
    assert_eq!((names(&found.going).len(), found.over_cap), (3, 1));
    let found = judge(&tree(1), 10, |_| {});
    assert_eq!(names(&found.going), ["checker/d"]);
    let kept: Vec<_> = found.kept.iter().map(|kept| (kept.key.to_string(), kept.why)).collect();
    assert_eq!(kept, [("poller/p".to_owned(), HAS_CHILDREN), ("agent/a".to_owned(), HAS_CHILDREN)]);
}

#[test]
fn what_is_worked_on_heard_or_stands_for_others_is_held_back() {
    let one = || roster(vec![row("instance/i", None, Status::Inactive, 100)], vec![]);
    let why = |found: Departures| found.kept.first().map(|kept| kept.why);
    assert_eq!(why(judge(&one(), 10, |look| look.covered = true)), Some("it is under maintenance"));
    let live = sight(Phase::Live, Presence::Alive, Some(1));
    assert_eq!(why(judge(&one(), 10, |look| look.sight = Some(live))), Some("it may still be heard"));
    let lost = sight(Phase::Lost, Presence::Lost, Some(1));
    assert_eq!(why(judge(&one(), 10, |look| look.sight = Some(lost))), None);
    let placeholder = ServiceRow { placeholder: true, ..row("poller/p", None, Status::Pending, 400) };
    let with_child = roster(vec![placeholder.clone(), row("agent/a", Some("p"), Status::Deleted, 8)], vec![]);
    let found = judge(&with_child, 10, |_| {});
    assert_eq!(names(&found.going), ["agent/a"]);
    assert_eq!(why(found), Some("it is a placeholder with children"));
    assert_eq!(names(&judge(&roster(vec![placeholder], vec![]), 10, |_| {}).going), ["poller/p"], "alone it goes");
}

#[test]
fn silence_is_known_of_whom_was_lost_or_said_goodbye() {
    let now = Now { boot: BootTime(100_000), wall: NOON };
    let mut active = row("instance/i", None, Status::Active, 5);
    active.last_seen = Some(NOON.before(DAY));
    let roster = roster(vec![active], vec![]);
    let entry = roster.iter().next().unwrap();
    let since = |phase, presence, beat| silent_since(entry, Some(sight(phase, presence, beat)), now);
    assert_eq!(since(Phase::Live, Presence::Alive, Some(1)), None);
    assert_eq!(since(Phase::NeverSeen, Presence::NeverSeen, None), None);
    assert_eq!(since(Phase::Lost, Presence::Unknown, Some(1)), None, "no verdict pauses the count");
    assert_eq!(since(Phase::Lost, Presence::Lost, None), Some((NOON.before(DAY), false)));
    let beat = Timestamp(NOON.0 - 40_000);
    assert_eq!(since(Phase::Stopped, Presence::Stopped, Some(60_000)), Some((beat, true)));
    let gone = |phase, presence, beat| gone_since(entry, Some(sight(phase, presence, beat)), now);
    assert_eq!(gone(Phase::Stopped, Presence::Stopped, Some(60_000)), Some((Timestamp(beat.0 + 10_000), true)));
    assert_eq!(gone(Phase::NeverSeen, Presence::NeverSeen, None), None, "nobody enrolled as it");
}

#[test]
fn an_ephemeral_one_that_never_beat_is_gone_since_its_enrollment() {
    let now = Now { boot: BootTime(100_000), wall: NOON };
    let mut pending = row("instance/i", None, Status::Pending, 5);
    pending.first_seen = None;
    let mut bound = identity("instance/i", 1, 1);
    bound.enrolled_at = NOON.before(DAY);
    let roster = roster(vec![pending], vec![bound]);
    let entry = roster.iter().next().unwrap();
    let never = sight(Phase::NeverSeen, Presence::NeverSeen, None);
    assert_eq!(gone_since(entry, Some(never), now), Some((NOON.before(DAY), false)));
}

/// A forest: for each poller its agents, for each agent its checkers; each with a status and an age.
fn forest() -> impl Strategy<Value = Vec<ServiceRow>> {
    let one = || (0..ALL.len(), prop::sample::select(vec![1_u32, 8, 40, 100]));
    let agents = prop::collection::vec((one(), prop::collection::vec(one(), 0..3)), 0..3);
    prop::collection::vec((one(), any::<bool>(), agents), 1..4).prop_map(|pollers| {
        let mut rows = Vec::new();
        for (p, ((status, days), placeholder, agents)) in pollers.into_iter().enumerate() {
            let poller = row(&format!("poller/p{p}"), None, ALL[status], days);
            rows.push(ServiceRow { placeholder, ..poller });
            for (a, ((status, days), checkers)) in agents.into_iter().enumerate() {
                let id = format!("p{p}-a{a}");
                rows.push(row(&format!("agent/{id}"), Some(&format!("p{p}")), ALL[status], days));
                for (c, (status, days)) in checkers.into_iter().enumerate() {
                    rows.push(row(&format!("checker/{id}-c{c}"), Some(&id), ALL[status], days));
                }
            }
        }
        rows
    })
}

proptest! {
    /// The rule in one sentence: it goes if its time is over, it is not a placeholder with children, and every
    /// child of it goes.
    #[test]
    fn what_goes_agrees_with_the_rule(rows in forest(), cap in 0..20_usize) {
        let children: BTreeMap<ServiceKey, Vec<&ServiceRow>> = rows.iter().map(|row| {
            (row.key.clone(), rows.iter().filter(|child| parent_key(child).as_ref() == Some(&row.key)).collect())
        }).collect();
        fn goes(row: &ServiceRow, children: &BTreeMap<ServiceKey, Vec<&ServiceRow>>) -> bool {
            let days = NOON.since(row.status_since).as_secs() / 86_400;
            let over = match row.status {
                Status::Pending => days >= 30,
                Status::Active => false,
                Status::Inactive | Status::Revoked => days >= 90,
                Status::Deleted => days >= 7,
            };
            let below = &children[&row.key];
            over && (!row.placeholder || below.is_empty()) && below.iter().all(|child| goes(child, children))
        }
        let naive: BTreeSet<_> = rows.iter().filter(|row| goes(row, &children)).map(|row| row.key.clone()).collect();
        let roster = roster(rows.clone(), vec![]);
        let all = judge(&roster, usize::MAX, |_| {});
        let found: BTreeSet<_> = all.going.iter().map(|leaving| leaving.key.clone()).collect();
        prop_assert_eq!(&found, &naive);
        // Whatever the cap, removing one after the other never removes one that has a child left.
        let capped = judge(&roster, cap, |_| {});
        prop_assert_eq!(capped.going.len() + capped.over_cap, naive.len());
        prop_assert_eq!(&capped.going[..], &all.going[..capped.going.len()], "the cap cuts the end off");
        let mut left: BTreeSet<_> = rows.iter().map(|row| row.key.clone()).collect();
        for leaving in &capped.going {
            left.remove(&leaving.key);
            prop_assert!(children[&leaving.key].iter().all(|child| !left.contains(&child.key)));
        }
        // Nobody is both gone and kept, and whoever is kept has had its time.
        prop_assert!(all.kept.iter().all(|kept| !naive.contains(&kept.key) && kept.status != Status::Active));
    }
}
