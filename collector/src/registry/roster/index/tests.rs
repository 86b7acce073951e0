//! The indexes against a naive look at the rows, whatever happened to them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rollcall_common::id::Seq;

use super::*;
use crate::{
    http::fixture::{NOW, host, pairs, row, said},
    registry::roster::{Roster, text},
    store::rows::Write,
};

#[derive(Debug, Clone)]
enum Step {
    Comes(usize, usize),
    Goes(usize),
    Turns(usize, usize),
    IsDescribed(usize, usize),
    Says(usize, usize),
}

const KEYS: [&str; 6] = ["poller/p", "poller/q", "agent/a", "agent/b", "instance/a", "instance/z"];
const SITES: [&str; 4] = ["one", "two", "Three", "one two"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..5usize, 0..KEYS.len(), 0..8usize).prop_map(|(what, who, how)| match what {
        0 => Step::Comes(who, how),
        1 => Step::Goes(who),
        2 => Step::Turns(who, how),
        3 => Step::IsDescribed(who, how),
        _ => Step::Says(who, how),
    });
    proptest::collection::vec(step, 0..60)
}

fn write(roster: &Roster, step: &Step) -> Option<Write> {
    let labels = |how: usize| pairs(&[("site", SITES[how % 4]), (["k", "l"][how % 2], "v")]);
    let (Step::Comes(who, _) | Step::Goes(who) | Step::Turns(who, _) | Step::IsDescribed(who, _) | Step::Says(who, _)) =
        *step;
    let service: ServiceKey = KEYS[who].parse().unwrap();
    let there = roster.get(&service).is_some();
    Some(match *step {
        Step::Comes(_, how) if !there => {
            Write::InsertService(Box::new(ServiceRow { labels: labels(how), ..row(KEYS[who]) }))
        }
        _ if !there => return None,
        Step::Comes(..) => return None,
        Step::Goes(_) => Write::RemoveService { service, expect: Seq(0) },
        Step::Turns(_, how) => {
            Write::SetStatus { service, expect: Seq(0), to: Status::ALL[how % 5], at: NOW, seen: None, archived: false }
        }
        Step::IsDescribed(_, how) => {
            Write::Describe { service, expect: Seq(0), labels: labels(how), metadata: pairs(&[("n", "Änders")]) }
        }
        Step::Says(_, how) => Write::Note {
            service,
            health: said(Health::ALL[how % 4], ""),
            facts: Some(host(["edge", "core"][how % 2])),
        },
    })
}

proptest! {
    #[test]
    fn what_is_indexed_is_what_is_there(steps in steps(), after in 0..KEYS.len() + 1) {
        let mut roster = Roster::default();
        for step in &steps {
            if let Some(write) = write(&roster, step) {
                roster.apply_write(&write, Seq(1));
            }
        }
        let after: Option<ServiceKey> = KEYS.get(after).map(|key| key.parse().unwrap());
        let index = roster.index();
        let facets: BTreeSet<_> = SITES.iter().map(|site| Facet::Label("site".into(), (*site).into()))
            .chain(Status::ALL.map(Facet::Status))
            .chain([Health::Healthy, Health::Degraded, Health::Unhealthy].map(Facet::Health))
            .map(|facet| format!("{facet:?}")).collect();
        prop_assert_eq!(facets.len(), 12);
        for pair in [
            vec![Facet::Status(Status::Pending)],
            vec![Facet::Status(Status::Active), Facet::Status(Status::Revoked)],
            vec![Facet::Health(Health::Healthy)],
            SITES.iter().map(|site| Facet::Label("site".into(), (*site).into())).collect(),
        ] {
            for kind in [None, Some(Kind::Poller), Some(Kind::Agent), Some(Kind::Instance)] {
                let naive: Vec<_> = roster.iter()
                    .filter(|entry| Facet::of(&entry.row).any(|facet| pair.contains(&facet)))
                    .filter(|entry| kind.is_none_or(|kind| entry.row.key.kind == kind))
                    .filter(|entry| after.as_ref().is_none_or(|after| entry.row.key > *after))
                    .map(|entry| entry.row.key.to_string()).collect();
                let found: Vec<_> =
                    roster.seek_having(&pair, kind, after.as_ref()).map(|entry| entry.row.key.to_string()).collect();
                prop_assert_eq!(found, naive);
            }
            let count = roster.iter().filter(|entry| Facet::of(&entry.row).any(|facet| pair.contains(&facet))).count();
            prop_assert_eq!(pair.iter().map(|facet| index.count_of(facet)).sum::<usize>(), count);
        }
        for kind in Kind::ALL {
            let of_kind = || roster.iter().filter(|entry| entry.row.key.kind == kind);
            let counted = index.counted().get(&kind).cloned().unwrap_or_default();
            prop_assert_eq!(counted.total, of_kind().count() as u64);
            for status in Status::ALL {
                let naive = of_kind().filter(|entry| entry.row.status == status).count() as u64;
                prop_assert_eq!(counted.status.get(&status).copied().unwrap_or(0), naive);
            }
        }
        for site in SITES {
            let naive = roster.iter().filter(|entry| entry.row.labels.get("site") == Some(site)).count() as u64;
            let found = index.values_of("site").find(|(value, _)| *value == site).map_or(0, |(_, count)| count);
            prop_assert_eq!(found, naive);
        }
        for needle in ["one", "two", "ä", "edge", "p", "z", "nowhere", "\n"] {
            let mut slots = Vec::new();
            for segment in index.texts() {
                segment.find(needle, 1000, &mut slots);
            }
            for entry in roster.iter() {
                let holds = text::fields(&entry.row).any(|field| field.to_lowercase().contains(needle));
                prop_assert!(!holds || slots.contains(&entry.slot), "{needle} in {:?}", entry.row.key);
            }
        }
    }
}

/// Texts that were replaced are let go, whatever their number, and nothing that lives is lost.
#[test]
fn replaced_texts_do_not_pile_up() {
    let mut roster = Roster::default();
    let keys: Vec<String> = (0..200).map(|n| format!("instance/i{n}")).collect();
    for key in &keys {
        roster.apply_write(&Write::InsertService(Box::new(row(key))), Seq(1));
    }
    let long = "x".repeat(250);
    for round in 0..200 {
        for key in &keys {
            let metadata = pairs(&[("a", &long), ("b", &format!("round-{round}-{key}"))]);
            let service = key.parse().unwrap();
            roster.apply_write(&Write::Describe { service, expect: Seq(0), labels: pairs(&[]), metadata }, Seq(1));
        }
    }
    let size: usize = roster.index().texts().iter().map(|segment| format!("{segment:?}").len()).sum();
    assert!(size < 3_000_000, "{size} bytes for 60 kB that live");
    for key in &keys {
        let mut slots = Vec::new();
        let needle = format!("round-199-{key}\n");
        roster.index().texts().iter().for_each(|segment| segment.find(&needle, 10, &mut slots));
        assert_eq!(slots, [roster.get(&key.parse().unwrap()).unwrap().slot]);
    }
}
