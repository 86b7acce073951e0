//! Counts of everybody, without visiting everybody for each caller.
//!
//! What the rows say is counted as they change (the roster's index); presence is read off the lease table, which
//! takes about a millisecond for 100,000 services. The result is shared for [`FRESH`] while nothing was changed,
//! and for [`BUSY`] whatever happens. A caller with a scope is counted for by walking, and shares with its like; so
//! is everybody while a maintenance window is in force, because its cover is known by looking at each row only.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rollcall_common::{id::Kind, lease::Presence, time::BootTime};

use super::Tally;
use crate::{
    http::scan::{presence_of, walk},
    registry::{Registry, roster::Roster},
    scope::Scope,
    store::Position,
};

/// How old a count may be while the registry stands where it stood.
const FRESH: Duration = Duration::from_millis(200);
/// How old it may be in any case.
const BUSY: Duration = Duration::from_millis(20);
/// Scopes whose counts are kept; beyond them all are forgotten.
const MAX_SCOPES: usize = 32;
/// Most values of a label, and most versions, that are counted by name; the rest are one number.
pub(in crate::http) const MAX_VALUES: usize = 200;
/// The name of the rest; no label value that is counted by name can be mistaken for it in practice.
pub(in crate::http) const REST: &str = "(others)";

/// Counts by words of others.
pub(in crate::http) type Named = BTreeMap<String, u64>;

/// Everything that is counted, at a moment.
#[derive(Debug, Clone)]
pub(in crate::http) struct Count {
    /// By kind.
    pub kinds: BTreeMap<Kind, Tally>,
    /// By version of the sidecar.
    pub versions: Named,
    /// By the values of the labels that are counted.
    pub labels: BTreeMap<String, Named>,
    /// Where the registry stood.
    pub position: Position,
    at: BootTime,
}

/// Counts that are shared.
#[derive(Debug, Default)]
pub(in crate::http) struct Counting(Mutex<BTreeMap<String, Arc<Count>>>);

impl Counting {
    /// The counts of a scope, as fresh as they must be.
    pub(in crate::http) fn of(&self, registry: &Registry, scope: &Scope, labels: &[String]) -> Arc<Count> {
        let name = scope.to_string();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = registry.now().boot;
        let position = registry.read(Roster::position);
        let good = |count: &&Arc<Count>| {
            let age = now.since(count.at);
            age < BUSY || (age < FRESH && count.position == position)
        };
        if let Some(count) = kept.get(&name).filter(good) {
            return Arc::clone(count);
        }
        // Whoever comes meanwhile waits for this one, a millisecond, instead of doing it again. Walks are longer,
        // and hold nobody.
        let indexed_only = scope.is_everything() && registry.cover().is_clear();
        if !indexed_only {
            drop(kept);
            let count = Arc::new(walked(registry, scope, labels, now));
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= MAX_SCOPES {
                kept.clear();
            }
            kept.insert(name, Arc::clone(&count));
            return count;
        }
        let count = Arc::new(indexed(registry, labels, now));
        kept.insert(name, Arc::clone(&count));
        count
    }
}

fn none() -> BTreeMap<Kind, Tally> {
    Kind::ALL.into_iter().map(|kind| (kind, Tally::default())).collect()
}

fn indexed(registry: &Registry, labels: &[String], now: BootTime) -> Count {
    let leases = registry.leases();
    registry.read(|roster| {
        let index = roster.index();
        let mut kinds = none();
        for (kind, counted) in index.counted() {
            let tally = kinds.entry(*kind).or_default();
            tally.total = counted.total;
            tally.status.extend(counted.status.iter().map(|(word, count)| (word.as_str(), *count)));
            tally.health.extend(counted.health.iter().map(|(word, count)| (word.as_str(), *count)));
            tally.progress.extend(counted.progress.iter().map(|(word, count)| (word.as_str(), *count)));
            tally.settings.extend(counted.settings.iter().map(|(word, count)| (word.as_str(), *count)));
            tally.source.extend(counted.source.iter().map(|(word, count)| (word.as_str(), *count)));
        }
        let mut seen: BTreeMap<(Kind, Presence), u64> = BTreeMap::new();
        for (slot, kind) in index.slots() {
            let presence = presence_of(leases.sight(slot, now).as_ref());
            *seen.entry((kind, presence)).or_default() += 1;
        }
        for ((kind, presence), count) in seen {
            kinds.entry(kind).or_default().presence.insert(presence.as_str(), count);
        }
        Count {
            kinds,
            versions: few(index.versions()),
            labels: labels.iter().map(|label| (label.clone(), few(index.values_of(label)))).collect(),
            position: roster.position(),
            at: now,
        }
    })
}

fn walked(registry: &Registry, scope: &Scope, labels: &[String], now: BootTime) -> Count {
    let position = registry.read(Roster::position);
    let (mut kinds, mut versions) = (none(), Named::new());
    let mut values: BTreeMap<String, Named> = labels.iter().map(|label| (label.clone(), Named::new())).collect();
    let cover = registry.cover();
    walk(registry, scope, None, |_, entry, sight| {
        let row = &entry.row;
        let tally = kinds.entry(row.key.kind).or_default();
        tally.count(row, presence_of(sight.as_ref()));
        tally.maintenance += u64::from(cover.of(row).is_some());
        let version = row.facts.as_ref().map(|facts| facts.agent_version.as_str()).filter(|text| !text.is_empty());
        if let Some(version) = version {
            *versions.entry(version.to_owned()).or_default() += 1;
        }
        for (label, counts) in &mut values {
            if let Some(value) = row.labels.get(label) {
                *counts.entry(value.to_owned()).or_default() += 1;
            }
        }
    });
    let few = |named: &Named| few(named.iter().map(|(word, count)| (word.as_str(), *count)));
    let labels = values.iter().map(|(label, counts)| (label.clone(), few(counts))).collect();
    Count { kinds, versions: few(&versions), labels, position, at: now }
}

/// The most frequent words, and the rest as one.
fn few<'a>(words: impl Iterator<Item = (&'a str, u64)>) -> Named {
    let mut all: Vec<(&str, u64)> = words.collect();
    if all.len() > MAX_VALUES {
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    }
    let rest: u64 = all.iter().skip(MAX_VALUES).map(|(_, count)| count).sum();
    let mut named: Named = all.into_iter().take(MAX_VALUES).map(|(word, count)| (word.to_owned(), count)).collect();
    if rest > 0 {
        *named.entry(REST.to_owned()).or_default() += rest;
    }
    named
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::fixture::{World, host, pairs, row};

    proptest! {
        /// What is counted as it changes is what a walk counts.
        #[test]
        fn both_ways_count_alike(rows in proptest::collection::vec((0..4usize, "[a-z]{1,3}", 0..5usize), 0..40)) {
            let mut all = BTreeMap::new();
            for (kind, id, what) in rows {
                let mut row = row(&format!("{}/{id}", Kind::ALL[kind]));
                row.status = rollcall_common::lifecycle::Status::ALL[what];
                row.labels = pairs(&[("site", ["a", "b", "c", "d", "e"][what])]);
                row.facts = (what > 2).then(|| host("h"));
                all.insert(row.key.clone(), row);
            }
            let world = World::new(&all.values().cloned().collect::<Vec<_>>());
            let registry = all.keys().step_by(2).fold(world.registry(), |registry, key| registry.beaten(&key.to_string()));
            let labels = ["site".to_owned(), "none".to_owned()];
            let now = registry.now().boot;
            let (indexed, walked) =
                (indexed(&registry, &labels, now), walked(&registry, &Scope::everything(), &labels, now));
            prop_assert_eq!(format!("{indexed:?}"), format!("{walked:?}"));
        }
    }

    #[test]
    fn many_words_are_few() {
        let words: Vec<String> = (0..500).map(|n| format!("w{n:03}")).collect();
        let named = few(words.iter().enumerate().map(|(n, word)| (word.as_str(), n as u64)));
        assert_eq!((named.len(), named.values().sum::<u64>()), (MAX_VALUES + 1, (0..500).sum()));
        assert_eq!((named.get("w499"), named.get("w000")), (Some(&499), None));
    }
}
