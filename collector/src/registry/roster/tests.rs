//! The index of children against a naive one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rollcall_common::service::Source;

use super::*;
use crate::http::fixture::row;

/// A row of a small family: two pollers, three agents, four checkers, an instance.
fn member(n: usize) -> ServiceRow {
    const FAMILY: [(&str, Option<&str>, Option<&str>); 10] = [
        ("poller/p", None, None),
        ("poller/q", None, None),
        ("agent/a", Some("p"), None),
        ("agent/b", Some("p"), None),
        ("agent/c", Some("q"), None),
        ("checker/w", Some("a"), Some("p")),
        ("checker/x", Some("a"), Some("p")),
        ("checker/y", Some("b"), Some("p")),
        ("checker/z", Some("c"), Some("q")),
        ("instance/p", None, None),
    ];
    let (key, parent, poller) = FAMILY[n % FAMILY.len()];
    let id = |text: &str| text.parse().unwrap();
    let source = if n.is_multiple_of(2) { Source::Implicit } else { Source::Config };
    ServiceRow { parent: parent.map(id), poller: poller.map(id), source, ..row(key) }
}

proptest! {
    /// In whatever order services come and go, each knows its own, in order and by number.
    #[test]
    fn children_are_known_in_order(steps in proptest::collection::vec((0..10usize, any::<bool>()), 0..60)) {
        let (mut roster, mut model) = (Roster::default(), BTreeMap::new());
        for (n, comes) in steps {
            let row = member(n);
            let key = row.key.clone();
            if !comes {
                roster.apply_write(&Write::RemoveService { service: key.clone(), expect: Seq(0) }, Seq(0));
                model.remove(&key);
            } else if roster.get(&key).is_none() {
                roster.apply_write(&Write::InsertService(Box::new(row.clone())), Seq(1));
                model.insert(key, row);
            }
        }
        for key in (0..10).map(|n| member(n).key) {
            let children: Vec<_> =
                model.values().filter(|row| parent_key(row).as_ref() == Some(&key)).map(|row| row.key.clone()).collect();
            let has = |row: &&ServiceRow| match key.kind {
                Kind::Poller => row.poller.as_ref() == Some(&key.id),
                Kind::Agent => row.parent.as_ref() == Some(&key.id),
                Kind::Checker | Kind::Instance => false,
            };
            let checkers = model.values().filter(|row| row.key.kind == Kind::Checker).filter(has);
            let is_below = |row: &&ServiceRow| parent_key(row).as_ref() == Some(&key) || row.key.kind == Kind::Checker && has(row);
            let implicit = model.values().filter(|row| row.source == Source::Implicit).filter(is_below).count();
            prop_assert_eq!(roster.implicit_below(&key), u32::try_from(implicit).unwrap());
            let below = Below {
                children: u32::try_from(children.len()).unwrap(),
                checkers: u32::try_from(checkers.count()).unwrap(),
            };
            prop_assert_eq!(roster.below(&key), below);
            let found: Vec<_> = roster.children(&key).map(|entry| entry.row.key.clone()).collect();
            prop_assert_eq!(&found, &children);
            for (n, child) in children.iter().enumerate() {
                let behind: Vec<_> =
                    roster.children_after(&key, Some(&child.id)).map(|entry| entry.row.key.clone()).collect();
                prop_assert_eq!(&behind, &children[n + 1..]);
            }
        }
    }
}

#[test]
fn an_empty_branch_leaves_nothing_behind() {
    let mut roster = Roster::default();
    for n in [5, 2, 0] {
        roster.apply_write(&Write::InsertService(Box::new(member(n))), Seq(1));
    }
    assert_eq!(roster.below(&"poller/p".parse().unwrap()), Below { children: 1, checkers: 1 });
    for n in [0, 2, 5] {
        roster.apply_write(&Write::RemoveService { service: member(n).key, expect: Seq(1) }, Seq(0));
    }
    assert!(roster.is_empty());
    assert!(format!("{:?}", roster.tree).len() < 16, "{:?}", roster.tree);
}
