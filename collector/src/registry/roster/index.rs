//! Which services have what: ordered indexes and running counts, for queries that would otherwise walk everybody.
//!
//! It is kept by the very writes that change the roster, so that it never differs from the rows. Each posting
//! is in key order, so that a page of a rare status seeks in it as it would seek in the whole. It knows nothing
//! of queries: who asks chooses what to seek in.
//!
//! What it costs: about 45 bytes for each service and each of its labels, status, source, checker kind, version
//! and known health, and its text once more in lower case ([`text`]).

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use rollcall_common::{
    health::{Health, Progress},
    id::{Kind, ServiceKey},
    lifecycle::Status,
    service::Source,
};

use super::{
    Slot,
    text::{Segment, Texts},
};
use crate::{
    registry::settings::{Standing, progress_of},
    store::rows::ServiceRow,
};

/// Something that services have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Facet {
    /// The lifecycle status.
    Status(Status),
    /// How it was registered.
    Source(Source),
    /// What was said of it. [`Health::Unchecked`] is what everybody has to whom nothing was said: no posting.
    Health(Health),
    /// What was said of its progress, where anybody looks.
    Progress(Progress),
    /// Where the settings of its sidecar stand, where there are any.
    Settings(Standing),
    /// For checkers.
    CheckerKind(String),
    /// The version of its sidecar.
    Version(String),
    /// A label with its value.
    Label(String, String),
}

impl Facet {
    fn of(row: &ServiceRow) -> impl Iterator<Item = Self> {
        let health = health(row);
        let fixed = [
            Some(Self::Status(row.status)),
            Some(Self::Source(row.source)),
            (health != Health::Unchecked).then_some(Self::Health(health)),
            Some(progress_of(row)).filter(|progress| *progress != Progress::Unwatched).map(Self::Progress),
            Some(Standing::of(row)).filter(|standing| *standing != Standing::None).map(Self::Settings),
            row.checker_kind.as_ref().map(|kind| Self::CheckerKind(kind.to_string())),
            version(row).map(|version| Self::Version(version.to_owned())),
        ];
        let labels = row.labels.iter().map(|(key, value)| Self::Label(key.to_owned(), value.to_owned()));
        fixed.into_iter().flatten().chain(labels)
    }
}

fn health(row: &ServiceRow) -> Health {
    row.health.as_ref().map_or(Health::Unchecked, |(report, _)| report.health)
}

fn version(row: &ServiceRow) -> Option<&str> {
    row.facts.as_ref().map(|facts| facts.agent_version.as_str()).filter(|version| !version.is_empty())
}

/// Services in key order. Most values of a label that names things have one service each: it takes no tree.
#[derive(Debug)]
pub(super) enum Posting {
    One(ServiceKey, Slot),
    Many(BTreeMap<ServiceKey, Slot>),
}

impl Posting {
    fn insert(&mut self, key: ServiceKey, slot: Slot) {
        match self {
            Self::One(held, only) if *held == key => *only = slot,
            Self::One(held, only) => *self = Self::Many(BTreeMap::from([(held.clone(), *only), (key, slot)])),
            Self::Many(all) => {
                all.insert(key, slot);
            }
        }
    }

    /// Answers whether nobody is left.
    fn remove(&mut self, key: &ServiceKey) -> bool {
        match self {
            Self::One(held, _) => held == key,
            Self::Many(all) => {
                all.remove(key);
                all.is_empty()
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn seek(&self, after: Option<&ServiceKey>) -> Box<dyn Iterator<Item = (&ServiceKey, Slot)> + '_> {
        match self {
            Self::One(key, slot) => {
                let behind = after.is_none_or(|after| key > after);
                Box::new(behind.then_some((key, *slot)).into_iter())
            }
            Self::Many(all) => {
                let from = after.map_or(Unbounded, Excluded);
                Box::new(all.range::<ServiceKey, _>((from, Unbounded)).map(|(key, slot)| (key, *slot)))
            }
        }
    }
}

/// How many services of one kind there are, by what they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub total: u64,
    /// By status.
    pub status: BTreeMap<Status, u64>,
    /// By what was said of them.
    pub health: BTreeMap<Health, u64>,
    /// By what was said of their progress.
    pub progress: BTreeMap<Progress, u64>,
    /// By where the settings of their sidecars stand.
    pub settings: BTreeMap<Standing, u64>,
    /// By how they were registered.
    pub source: BTreeMap<Source, u64>,
}

/// The indexes.
#[derive(Debug, Default)]
pub struct Index {
    postings: HashMap<Facet, Posting>,
    /// The values of each label, for tests of its mere presence and for counts.
    values: HashMap<String, BTreeMap<String, u64>>,
    versions: BTreeMap<String, u64>,
    counted: BTreeMap<Kind, Counted>,
    /// Who has each place, by kind, for counts of what the lease table alone knows.
    kinds: Vec<Option<(Slot, Kind)>>,
    texts: Texts,
}

impl Index {
    pub(super) fn insert(&mut self, row: &ServiceRow, slot: Slot) {
        for facet in Facet::of(row) {
            self.add(facet, row, slot);
        }
        self.count(row, true);
        if self.kinds.len() <= slot.index() {
            self.kinds.resize(slot.index() + 1, None);
        }
        if let Some(kind) = self.kinds.get_mut(slot.index()) {
            *kind = Some((slot, row.key.kind));
        }
        self.texts.put(slot, row);
    }

    pub(super) fn remove(&mut self, row: &ServiceRow, slot: Slot) {
        for facet in Facet::of(row) {
            self.drop(&facet, row);
        }
        self.count(row, false);
        if let Some(kind) = self.kinds.get_mut(slot.index()) {
            *kind = None;
        }
        self.texts.forget(slot);
    }

    /// Follows a change of a row.
    pub(super) fn change(&mut self, before: &ServiceRow, after: &ServiceRow, slot: Slot) {
        if Facet::of(before).ne(Facet::of(after)) {
            for facet in Facet::of(before) {
                if !Facet::of(after).any(|kept| kept == facet) {
                    self.drop(&facet, before);
                }
            }
            for facet in Facet::of(after) {
                if !Facet::of(before).any(|had| had == facet) {
                    self.add(facet, after, slot);
                }
            }
            self.count(before, false);
            self.count(after, true);
        }
        if !Texts::alike(before, after) {
            self.texts.put(slot, after);
        }
    }

    fn add(&mut self, facet: Facet, row: &ServiceRow, slot: Slot) {
        match &facet {
            Facet::Label(key, value) => {
                let values = self.values.entry(key.clone()).or_default();
                *values.entry(value.clone()).or_default() += 1;
            }
            Facet::Version(version) => *self.versions.entry(version.clone()).or_default() += 1,
            Facet::Status(_)
            | Facet::Source(_)
            | Facet::Health(_)
            | Facet::Progress(_)
            | Facet::Settings(_)
            | Facet::CheckerKind(_) => {}
        }
        match self.postings.get_mut(&facet) {
            Some(posting) => posting.insert(row.key.clone(), slot),
            None => {
                self.postings.insert(facet, Posting::One(row.key.clone(), slot));
            }
        }
    }

    fn drop(&mut self, facet: &Facet, row: &ServiceRow) {
        if self.postings.get_mut(facet).is_some_and(|posting| posting.remove(&row.key)) {
            self.postings.remove(facet);
        }
        match facet {
            Facet::Label(key, value) => {
                if let Some(values) = self.values.get_mut(key) {
                    lower(values, value);
                    if values.is_empty() {
                        self.values.remove(key);
                    }
                }
            }
            Facet::Version(version) => lower(&mut self.versions, version),
            Facet::Status(_)
            | Facet::Source(_)
            | Facet::Health(_)
            | Facet::Progress(_)
            | Facet::Settings(_)
            | Facet::CheckerKind(_) => {}
        }
    }

    fn count(&mut self, row: &ServiceRow, more: bool) {
        let counted = self.counted.entry(row.key.kind).or_default();
        let step = |count: &mut u64| *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        step(&mut counted.total);
        step(counted.status.entry(row.status).or_default());
        step(counted.health.entry(health(row)).or_default());
        step(counted.progress.entry(progress_of(row)).or_default());
        step(counted.settings.entry(Standing::of(row)).or_default());
        step(counted.source.entry(row.source).or_default());
    }

    /// How many services have something; costs the same whatever their number.
    #[must_use]
    pub fn count_of(&self, facet: &Facet) -> usize {
        self.postings.get(facet).map_or(0, Posting::len)
    }

    /// Services that have one of several things, in key order, behind a key. The things must exclude each other.
    pub(super) fn seek<'a>(
        &'a self,
        facets: &'a [Facet],
        after: Option<&ServiceKey>,
    ) -> Box<dyn Iterator<Item = (&'a ServiceKey, Slot)> + 'a> {
        let lists: Vec<_> =
            facets.iter().filter_map(|facet| self.postings.get(facet)).map(|posting| posting.seek(after)).collect();
        merged(lists)
    }

    /// The values of a label, with how many services have each.
    pub fn values_of(&self, label: &str) -> impl Iterator<Item = (&str, u64)> {
        self.values.get(label).into_iter().flatten().map(|(value, count)| (value.as_str(), *count))
    }

    /// The versions of sidecars, with how many services have each.
    pub fn versions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.versions.iter().map(|(version, count)| (version.as_str(), *count))
    }

    /// Counts by kind.
    #[must_use]
    pub fn counted(&self) -> &BTreeMap<Kind, Counted> {
        &self.counted
    }

    /// Every slot that holds a service, with its kind.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, Kind)> {
        self.kinds.iter().flatten().copied()
    }

    /// Up to `most` slots from the `from`th on that hold a service, with its kind; `None` = there are none behind it.
    pub fn slots_from(&self, from: usize, most: usize) -> Option<impl Iterator<Item = (Slot, Kind)>> {
        let some =
            self.kinds.get(from..from.saturating_add(most).min(self.kinds.len())).filter(|some| !some.is_empty())?;
        Some(some.iter().flatten().copied())
    }

    /// The texts, to be searched without holding the roster.
    #[must_use]
    pub fn texts(&self) -> Vec<std::sync::Arc<Segment>> {
        self.texts.segments()
    }
}

fn lower(counts: &mut BTreeMap<String, u64>, word: &str) {
    if let Some(count) = counts.get_mut(word) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(word);
        }
    }
}

/// Lays ordered lists together into one.
pub(super) fn merged<'a>(
    mut lists: Vec<Box<dyn Iterator<Item = (&'a ServiceKey, Slot)> + 'a>>,
) -> Box<dyn Iterator<Item = (&'a ServiceKey, Slot)> + 'a> {
    if lists.len() <= 1 {
        return lists.pop().unwrap_or_else(|| Box::new(std::iter::empty()));
    }
    let mut heads = std::collections::BinaryHeap::new();
    for (n, list) in lists.iter_mut().enumerate() {
        heads.extend(list.next().map(|(key, slot)| std::cmp::Reverse((key, slot, n))));
    }
    Box::new(std::iter::from_fn(move || {
        let std::cmp::Reverse((key, slot, n)) = heads.pop()?;
        let next = lists.get_mut(n).and_then(Iterator::next);
        heads.extend(next.map(|(key, slot)| std::cmp::Reverse((key, slot, n))));
        Some((key, slot))
    }))
}

#[cfg(test)]
mod tests;
