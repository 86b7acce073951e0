//! What a host says of itself, laid beside what operators said. Pure.
//!
//! Metadata are merged from three sides: what the host said last, what it says now, and what is in force. Whatever is
//! in force as the host said it last follows the host; whatever an operator has changed, added or taken out since
//! stays so. Labels are proposed only: scopes hang on those in force, and no host may move itself out of one. A
//! machine that differs from the one before is evidence, and no verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rollcall_common::{
    service::{MAX_PAIRS, Pairs},
    time::Timestamp,
    wire::message::About,
};
use serde_json::json;

use super::{roster::Entry, services::By};
use crate::store::rows::{AnnouncedRow, Change, IdentityRow, MachineRow, Write};

/// What follows from what a host says of itself; an empty change where nothing is new.
#[must_use]
pub fn announced(entry: &Entry, about: &About, at: Timestamp) -> Change {
    let mut change = Change::default();
    let (row, by) = (&entry.row, By::sidecar(&entry.row.key));
    let held = row.announced.as_deref();
    let nothing = AnnouncedRow::default();
    let (metadata, base) = match held {
        // It has been here since before its words were kept: what is not in force may have been taken out.
        None if row.first_seen.is_some() => (row.metadata.clone(), about.metadata.clone()),
        Some(_) | None => merged(held.map(|held| &held.metadata), &row.metadata, &about.metadata),
    };
    let said = AnnouncedRow { labels: about.labels.clone(), metadata: base };
    if held.unwrap_or(&nothing) != &said || metadata != row.metadata {
        let before = held.unwrap_or(&nothing);
        let mut details = Vec::new();
        if metadata != row.metadata {
            details.push(("before", json!({ "metadata": row.metadata })));
            details.push(("after", json!({ "metadata": metadata })));
        }
        if before.labels != said.labels {
            details.push(("labels_before", json!(before.labels)));
            details.push(("labels", json!(said.labels)));
        }
        // The first word repeats what its enrollment said.
        if !details.is_empty() && (held.is_some() || metadata != row.metadata) {
            change.audit.push(by.did(at, "service.announced", row.key.to_string(), details));
        }
        let (service, expect) = (row.key.clone(), row.seq);
        change.writes.push(Write::Announce { service, expect, row: Arc::new(said), metadata });
    }
    if let (Some(tag), Some(identity)) = (about.machine, &entry.identity)
        && identity.machine.is_none_or(|held| held.tag != tag)
    {
        let before = identity.machine.map(|held| held.tag);
        let machine = Some(MachineRow { tag, since: at, before });
        let next = IdentityRow { machine, ..IdentityRow::clone(identity) };
        change.writes.push(Write::PutIdentity { row: Box::new(next), expect: Some(identity.latest()) });
        if let Some(before) = before {
            let details = [("before", json!(before.to_string())), ("after", json!(tag.to_string()))];
            change.audit.push(by.did(at, "identity.machine_changed", row.key.to_string(), details));
        }
    }
    change
}

/// Lays what a host says now over what is in force, by what it said before. Where there is no room for all, what is
/// in force stays, and the host's new pairs lose, the last by name first. Answers what is in force from now on, and what
/// the next word is to be compared with: without those that lost, so that they come in once there is room.
#[must_use]
pub fn merged(before: Option<&Pairs>, in_force: &Pairs, now: &Pairs) -> (Pairs, Pairs) {
    let nothing = Pairs::default();
    let base = before.unwrap_or(&nothing);
    let keys: BTreeSet<&str> = [base, in_force, now].into_iter().flat_map(Pairs::iter).map(|(key, _)| key).collect();
    let (mut kept, mut fresh) = (BTreeMap::new(), Vec::new());
    for key in keys {
        let (was, is) = (base.get(key), in_force.get(key));
        let next = if was == is { now.get(key) } else { is };
        match next {
            Some(value) if is.is_some() => {
                kept.insert(key.to_owned(), value.to_owned());
            }
            Some(value) => fresh.push((key.to_owned(), value.to_owned())),
            None => {}
        }
    }
    let room = MAX_PAIRS.saturating_sub(kept.len());
    let lost: BTreeSet<String> = fresh.iter().skip(room).map(|(key, _)| key.clone()).collect();
    kept.extend(fresh.into_iter().take(room));
    let base: BTreeMap<_, _> = now.iter().filter(|(key, _)| !lost.contains(*key)).map(own).collect();
    // Each pair has passed its rule on one of the sides, and there is room for them.
    let of = |all, otherwise: &Pairs| Pairs::try_from(all).unwrap_or_else(|_| otherwise.clone());
    (of(kept, in_force), of(base, now))
}

fn own((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// The labels that a host proposes and that are not in force.
pub fn proposed<'a>(announced: &'a AnnouncedRow, in_force: &'a Pairs) -> impl Iterator<Item = (&'a str, &'a str)> {
    announced.labels.iter().filter(|(key, value)| in_force.get(key) != Some(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        http::fixture::{NOW, row},
        store::rows::{Loaded, ServiceRow},
    };

    fn pairs(all: &[(&str, &str)]) -> Pairs {
        let all: BTreeMap<String, String> = all.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        all.try_into().unwrap()
    }

    #[test]
    fn what_the_host_said_follows_the_host_and_what_an_operator_said_stays() {
        let before = pairs(&[("rack", "7"), ("os", "12"), ("gone", "x"), ("taken", "out")]);
        let in_force = pairs(&[("rack", "B"), ("os", "12"), ("gone", "x"), ("note", "mine")]);
        let now = pairs(&[("rack", "8"), ("os", "13"), ("new", "y"), ("taken", "again")]);
        let wanted = pairs(&[("rack", "B"), ("os", "13"), ("note", "mine"), ("new", "y")]);
        assert_eq!(merged(Some(&before), &in_force, &now), (wanted, now));
        // Nothing is known of what it said before: what is in force stays, and what is new comes in.
        assert_eq!(
            merged(None, &pairs(&[("rack", "7")]), &pairs(&[("rack", "8"), ("a", "b")])).0,
            pairs(&[("rack", "7"), ("a", "b")])
        );
    }

    fn entry(row: ServiceRow) -> Entry {
        let key = row.key.clone();
        let loaded = Loaded { services: vec![row], ..Loaded::default() };
        crate::registry::roster::Roster::from_loaded(&loaded).get(&key).unwrap().clone()
    }

    fn told(row: &ServiceRow, about: &About) -> Option<(Pairs, Pairs)> {
        let change = announced(&entry(row.clone()), about, NOW);
        let Some(Write::Announce { row, metadata, .. }) = change.writes.first() else { return None };
        Some((metadata.clone(), row.metadata.clone()))
    }

    /// Its words were not kept from the beginning: what an operator took out does not come back with the first one.
    #[test]
    fn the_first_word_of_who_was_there_before_brings_nothing_back() {
        let about = About { metadata: pairs(&[("rack", "7"), ("os", "12")]), ..About::default() };
        let old = ServiceRow { metadata: pairs(&[("os", "12")]), first_seen: Some(NOW), ..row("agent/a") };
        let (metadata, base) = told(&old, &about).unwrap();
        assert_eq!((&metadata, &base), (&old.metadata, &about.metadata));
        let announced = AnnouncedRow { metadata: base, ..AnnouncedRow::default() };
        let old = ServiceRow { announced: Some(Arc::new(announced)), ..old };
        assert_eq!(told(&old, &about), None);
        // From then on it is followed.
        let about = About { metadata: pairs(&[("rack", "8"), ("os", "13")]), ..About::default() };
        assert_eq!(told(&old, &about).unwrap().0, pairs(&[("os", "13")]));
    }

    /// What found no room comes in once there is some.
    #[test]
    fn what_found_no_room_is_not_forgotten() {
        let many = |count: usize| -> BTreeMap<String, String> {
            (0..count).map(|n| (format!("k{n:03}"), "x".to_owned())).collect()
        };
        let full: Pairs = many(MAX_PAIRS).try_into().unwrap();
        let now = pairs(&[("zone", "9")]);
        let (metadata, base) = merged(None, &full, &now);
        assert_eq!((&metadata, base.get("zone")), (&full, None));
        let room: Pairs = many(MAX_PAIRS - 1).try_into().unwrap();
        assert_eq!(merged(Some(&base), &room, &now).0.get("zone"), Some("9"));
    }

    fn few() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-d]", "[xy]", 0..5)
    }

    proptest! {
        /// Key by key, in the plainest words.
        #[test]
        fn each_key_is_the_hosts_or_the_operators(base in few(), current in few(), now in few()) {
            let of = |map: &BTreeMap<String, String>| Pairs::try_from(map.clone()).unwrap();
            let (result, _) = merged(Some(&of(&base)), &of(&current), &of(&now));
            for key in ["a", "b", "c", "d"] {
                let touched = base.get(key) != current.get(key);
                let wanted = if touched { current.get(key) } else { now.get(key) };
                prop_assert_eq!(result.get(key), wanted.map(String::as_str), "{}", key);
            }
        }

        /// The same word again changes nothing, and no word brings more pairs than there may be.
        #[test]
        fn a_repetition_changes_nothing_and_there_is_an_end(
            base in prop::collection::btree_map("[a-z]{2}", "[xy]", 0..32),
            current in prop::collection::btree_map("[a-z]{2}", "[xy]", 0..32),
            now in prop::collection::btree_map("[a-z]{2}", "[xy]", 0..32),
        ) {
            let of = |map: &BTreeMap<String, String>| Pairs::try_from(map.clone()).unwrap();
            let (once, kept) = merged(Some(&of(&base)), &of(&current), &of(&now));
            prop_assert!(once.iter().count() <= MAX_PAIRS);
            prop_assert_eq!(merged(Some(&kept), &once, &of(&now)), (once, kept));
        }
    }
}
