//! Pages against a naive model, and walks while the roster changes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rollcall_common::{
    lifecycle::Status,
    time::{BootTime, Clock},
};

use super::*;
use crate::{
    http::{
        fixture::{NOW, World, host, pairs, row, sight},
        page,
    },
    store::rows::{Loaded, ServiceRow},
};

fn roster(rows: impl IntoIterator<Item = ServiceRow>) -> Roster {
    Roster::from_loaded(&Loaded { services: rows.into_iter().collect(), ..Loaded::default() })
}

fn one_page(roster: &Roster, wanted: Wanted) -> (Vec<ServiceKey>, Option<ServiceKey>) {
    let way = Way::by_counts(roster, &wanted.filter).0;
    let now = Now { wall: NOW, boot: BootTime(1) };
    let mut listing = Listing::new(Scope::everything(), wanted, way, now);
    while listing.advance(roster, &|_| None) {}
    let (found, next) = listing.finish();
    (found.iter().map(|seen| seen.entry.row.key.clone()).collect(), next)
}

fn wanted(kind: Option<Kind>, query: &[(&str, &str)], limit: usize, after: Option<ServiceKey>) -> Wanted {
    let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Wanted { limit, after, ..Wanted::read(kind, &query).unwrap() }
}

fn rows() -> impl Strategy<Value = Vec<ServiceRow>> {
    let one = (0..Kind::ALL.len(), "[a-z0-9]{1,3}", any::<bool>()).prop_map(|(kind, id, active)| {
        let kind = Kind::ALL.get(kind).copied().unwrap_or(Kind::Poller);
        let mut row = row(&format!("{kind}/{id}"));
        row.status = if active { Status::Active } else { Status::Pending };
        row
    });
    proptest::collection::vec(one, 0..60).prop_map(|mut rows| {
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows.dedup_by(|a, b| a.key == b.key);
        rows
    })
}

const TESTS: [(&str, &str); 18] = [
    ("status", "active"),
    ("status", "pending,active,pending"),
    ("status", "revoked"),
    ("health", "healthy"),
    ("health", "unchecked,healthy"),
    ("source", "config"),
    ("presence", "alive"),
    ("presence", "never_seen"),
    ("parent", "p"),
    ("subtree", "poller/p"),
    ("subtree", "agent/a"),
    ("label", "site=a"),
    ("label", "site in (a,b)"),
    ("label", "site"),
    ("label", "n=3"),
    ("label", "site!=a"),
    ("q", "Seven"),
    ("q", "a"),
];

proptest! {
    /// Pages laid end to end are the whole list: in order, nothing twice, nothing missing, and the cursor
    /// survives the trip through its printed form.
    #[test]
    fn pages_make_the_whole_list(rows in rows(), limit in 1usize..9, kind in 0..5usize) {
        let kind = Kind::ALL.get(kind).copied();
        let expected: Vec<_> = rows
            .iter()
            .filter(|row| row.status == Status::Active && kind.is_none_or(|kind| row.key.kind == kind))
            .map(|row| row.key.clone())
            .collect();
        let roster = roster(rows);
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (keys, next) = one_page(&roster, wanted(kind, &[("status", "active")], limit, after));
            prop_assert!(keys.len() == limit || next.is_none(), "only the last page is short");
            all.extend(keys);
            let Some(next) = next else { break };
            let cursor = page::cursor(&next.to_string());
            after = Some(page::seek(&cursor).map_err(|problem| TestCaseError::fail(problem.detail().to_owned()))?);
        }
        prop_assert_eq!(all, expected);
    }

    /// Whatever way a filter takes, the pages are those of a plain walk.
    #[test]
    fn every_way_gives_the_pages_of_a_walk(
        rows in rows(),
        site in 0..4usize,
        limit in 1usize..9,
        kind in 0..8usize,
        tests in proptest::sample::subsequence(TESTS.to_vec(), 0..4),
    ) {
        let mut rows = rows;
        for (n, row) in rows.iter_mut().enumerate() {
            row.labels = pairs(&[("site", ["a", "b", "c"][n % 3]), ("n", &n.to_string())]);
            row.facts = (n % 4 == site).then(|| host("Host-Seven"));
        }
        let world = World::new(&rows);
        let registry = rows.iter().fold(world.registry(), |registry, row| {
            if row.status == Status::Active { registry.beaten(&row.key.to_string()) } else { registry }
        });
        let kind = Kind::ALL.get(kind).copied();
        let now = world.clock.now();
        let pages = |by: &dyn Fn(&Wanted) -> Way| {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let wanted = wanted(kind, &tests, limit, after);
                let way = by(&wanted);
                let mut listing = Listing::new(Scope::everything(), wanted, way, now);
                let sight = |slot| registry.leases().sight(slot, now.boot);
                while registry.read(|roster| listing.advance(roster, &sight)) {}
                let (found, next) = listing.finish();
                all.extend(found.iter().map(|seen| seen.entry.row.key.to_string()));
                let Some(next) = next else { break all };
                after = Some(next);
            }
        };
        let walked = pages(&|_| Way::All);
        prop_assert_eq!(&pages(&|wanted| Way::choose(&registry, &wanted.filter, now.boot, 0)), &walked);
        prop_assert_eq!(&pages(&|wanted| registry.read(|roster| Way::by_counts(roster, &wanted.filter).0)), &walked);
    }

    /// Services that come and go between two pages disturb nobody else.
    #[test]
    fn pages_are_stable_while_the_list_changes(before in rows(), after in rows(), limit in 1usize..9) {
        let (keys, next) = one_page(&roster(before.clone()), wanted(None, &[], limit, None));
        let mut all = keys;
        let mut seek = next;
        let changed = roster(after.clone());
        while let Some(key) = seek {
            let (keys, next) = one_page(&changed, wanted(None, &[], limit, Some(key)));
            all.extend(keys);
            seek = next;
        }
        let given: BTreeSet<_> = all.iter().cloned().collect();
        prop_assert_eq!(given.len(), all.len(), "nothing twice");
        prop_assert!(all.is_sorted());
        if all.len() > limit {
            let has = |rows: &[ServiceRow], key: &ServiceKey| rows.iter().any(|row| row.key == *key);
            let stayed = before.iter().map(|row| &row.key).filter(|key| has(&after, key));
            for key in stayed {
                prop_assert!(given.contains(key), "{key} was there all the time");
            }
        }
    }
}

#[test]
fn a_walk_lets_the_lock_go_and_sees_everyone_once() {
    let rows = (0..3 * STRIDE).map(|n| row(&format!("instance/i{n:05}")));
    let all = roster(rows);
    let (mut strides, mut seen, mut after) = (0, Vec::new(), None);
    loop {
        strides += 1;
        let next = stride(&all, &Way::All, &Scope::everything(), None, after.as_ref(), &mut |entry| {
            seen.push(entry.row.key.clone());
            ControlFlow::Continue(())
        });
        match next {
            Some(key) => after = Some(key),
            None => break,
        }
    }
    assert_eq!(strides, 3);
    assert_eq!(seen.len(), 3 * STRIDE);
    assert!(seen.is_sorted());
}

#[test]
fn a_sparse_page_goes_on_until_it_is_full() {
    let rows = (0..3 * STRIDE).map(|n| {
        let mut row = row(&format!("instance/i{n:05}"));
        row.status = if n % 1500 == 0 { Status::Active } else { Status::Pending };
        row
    });
    let all = roster(rows);
    let active = [("status", "active")];
    let (keys, next) = one_page(&all, wanted(Some(Kind::Instance), &active, 2, None));
    assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>(), ["instance/i00000", "instance/i01500"]);
    let (keys, next) = one_page(&all, wanted(Some(Kind::Instance), &active, 2, next));
    assert_eq!((keys.len(), next), (1, None));
}

#[test]
fn presence_is_what_the_lease_says() {
    let world = World::new(&[row("poller/p"), row("poller/q")]);
    let registry = world.registry().beaten("poller/p");
    let mut seen = Vec::new();
    walk(&registry, &Scope::everything(), Some(Kind::Poller), |_, entry, sight| {
        seen.push((entry.row.key.id.to_string(), presence_of(sight.as_ref())));
    });
    assert_eq!(seen, [("p".to_owned(), Presence::Alive), ("q".to_owned(), Presence::NeverSeen)]);
    let now = registry.now();
    assert_eq!(now.wall, NOW);
    assert_eq!(presence_of(Some(&sight(Presence::Lost, None, now.boot))), Presence::Lost);
    assert_eq!(presence_of(None), Presence::NeverSeen);
}
