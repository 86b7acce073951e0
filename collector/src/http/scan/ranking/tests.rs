//! Pages against a naive model, while the roster and the clocks move.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use rollcall_common::{
    id::{BeatNo, SessionNo},
    time::{Clock, Timestamp},
};

use super::*;
use crate::{
    http::{
        filter::Order,
        fixture::{NOW, PACE, World, row},
        page,
    },
    registry::Registry,
    store::rows::ServiceRow,
};

/// What happens between two pages, to a service that then counts as changed.
#[derive(Debug, Clone)]
enum Change {
    Beat(usize),
    /// Time passes, and the wall clock is corrected on the way.
    Pass(u32, i32),
}

fn rows() -> impl Strategy<Value = Vec<ServiceRow>> {
    // Few values, so that many are alike.
    let one = ("[a-z]{1,2}", 0..3_i64, 0..3_i64, prop::option::of(0..3_i64));
    proptest::collection::vec(one, 1..40).prop_map(|all| {
        let rows = all.into_iter().map(|(id, registered, since, seen)| {
            let mut row = row(&format!("poller/{id}"));
            row.first_registered = Timestamp(NOW.0 - registered);
            row.status_since = Timestamp(NOW.0 - since);
            row.last_seen = seen.map(|seen| Timestamp(NOW.0 - 60_000 - seen));
            (row.key.clone(), row)
        });
        rows.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..40_usize).prop_map(Change::Beat),
        (1..5_000_u32, -50..50_i32).prop_map(|(passed, off)| Change::Pass(passed, off))
    ]
}

fn one_page(registry: &Registry, wanted: Wanted, now: Now) -> (Vec<Seen>, Option<Mark>) {
    let sight = |slot| registry.leases().sight(slot, now.boot);
    let mut ranking = Ranking::new(Scope::everything(), wanted, Way::All, now, Arc::default());
    while registry.read(|roster| ranking.advance(roster, &sight)) {}
    registry.read(|roster| ranking.finish(roster, &sight))
}

fn wanted(order: &str, cursor: Option<&str>, limit: usize) -> Wanted {
    let mut query = vec![("order".to_owned(), order.to_owned())];
    query.extend(cursor.map(|cursor| ("cursor".to_owned(), cursor.to_owned())));
    Wanted { limit, ..Wanted::read(None, &query).unwrap() }
}

proptest! {
    /// Pages laid end to end: everybody who did not change exactly once, in order, whatever the page's size and
    /// whatever happens in between.
    #[test]
    fn pages_show_everybody_once(
        rows in rows(),
        order in 1..8_usize,
        limit in 1..7_usize,
        beaten in prop::collection::vec(0..40_usize, 0..8),
        changes in prop::collection::vec(change(), 0..12),
    ) {
        let order = Order::ALL[order];
        let world = World::new(&rows);
        let registry = world.registry();
        let beat = |n: usize, at| {
            let key = &rows[n % rows.len()].key;
            let slot = registry.read(|roster| roster.get(key).unwrap().slot);
            registry.leases().touch(slot, SessionNo(1), BeatNo(1), PACE, at);
            key.clone()
        };
        for n in beaten {
            world.clock.advance(Duration::from_millis(3));
            beat(n, world.clock.now().boot);
        }
        let mut now = world.clock.now();
        // As a model has it: all of it sorted at once, by what is shown.
        let anchor = Anchor::at(now);
        let order_of: Order = order.parse().unwrap();
        let mut model: Vec<Mark> = rows.iter().map(|row| {
            let slot = registry.read(|roster| roster.get(&row.key).unwrap().slot);
            Mark::of(order_of, anchor, row, registry.leases().sight(slot, now.boot).as_ref())
        }).collect();
        model.sort();
        let (mut shown, mut cursor, mut changed) = (Vec::new(), None::<String>, Vec::new());
        let mut changes = changes.into_iter();
        loop {
            let (seen, next) = one_page(&registry, wanted(order, cursor.as_deref(), limit), now);
            prop_assert!(seen.len() == limit || next.is_none());
            shown.extend(seen.into_iter().map(|seen| seen.entry.row.key.clone()));
            let Some(next) = next else { break };
            cursor = Some(page::cursor(&next.to_string()));
            for change in changes.by_ref().take(2) {
                match change {
                    Change::Beat(n) => changed.push(beat(n, now.boot)),
                    Change::Pass(passed, off) => {
                        now.boot = now.boot.after(Duration::from_millis(passed.into()));
                        now.wall = Timestamp(now.wall.0 + i64::from(passed) + i64::from(off));
                    }
                }
            }
        }
        let by_beat = order.ends_with("last_seen");
        let same = |key: &ServiceKey| !by_beat || !changed.contains(key);
        let expected: Vec<_> = model.into_iter().map(|mark| mark.key).filter(same).collect();
        shown.retain(|key| same(key));
        prop_assert_eq!(shown, expected);
    }
}

#[test]
fn orders_are_what_they_say() {
    let mut rows = ["poller/a", "poller/b", "poller/c"].map(row);
    for (row, (registered, seen)) in rows.iter_mut().zip([(3, Some(1)), (1, None), (2, Some(2))]) {
        row.first_registered = Timestamp(NOW.0 - registered);
        row.last_seen = seen.map(|seen| Timestamp(NOW.0 - seen));
    }
    let world = World::new(&rows);
    let registry = world.registry();
    let ids = |order: &str| {
        let (seen, next) = one_page(&registry, wanted(order, None, 9), world.clock.now());
        assert!(next.is_none());
        seen.iter().map(|seen| seen.entry.row.key.id.to_string()).collect::<String>()
    };
    assert_eq!(
        (ids("-key"), ids("first_registered"), ids("-first_registered")),
        ("cba".into(), "acb".into(), "bca".into())
    );
    assert_eq!((ids("last_seen"), ids("-last_seen")), ("bca".into(), "acb".into()), "never seen stands first");
}
