//! The way through the roster that a filter takes: the shortest list that holds everything that can pass.
//!
//! It is chosen once for a page, by counts that cost nothing to read; each entry on the way is still tested. A
//! walk over everybody is taken where nothing rare is asked for: then the page is full soon.

use rollcall_common::{
    health::{Health, Progress},
    id::{Kind, ServiceKey},
    lease::Presence,
    time::BootTime,
};

use super::{Filter, LabelTest};
use crate::http::scan::STRIDE;
use crate::registry::{
    Registry,
    roster::{Entry, Facet, Roster},
    settings::Standing,
};

/// Most services that are named one by one, after a look at all leases or texts.
const PICKED: usize = 4096;
/// A list of so many services is short enough to look no further.
pub(in crate::http) const SHORT: usize = 256;
/// Most values of a label that are laid together.
const MAX_LISTS: usize = 256;

/// A way through the roster, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Way {
    /// Everybody.
    All,
    /// Those that have one of several things that exclude each other.
    Having(Vec<Facet>),
    /// The children of several services, which are of one kind and stand in key order.
    Below(Vec<ServiceKey>),
    /// These, in key order.
    Named(Vec<ServiceKey>),
}

impl Way {
    /// Chooses. A list that is `short` is taken without a look at leases and texts.
    pub(in crate::http) fn choose(registry: &Registry, filter: &Filter, now: BootTime, short: usize) -> Self {
        let (way, length) = registry.read(|roster| Self::by_counts(roster, filter));
        if length <= short {
            return way;
        }
        let mut slots = None;
        // Whoever was never heard may have no lease yet.
        let observed = !filter.presence.is_empty() && !filter.presence.contains(&Presence::NeverSeen);
        if observed || !filter.presence_reason.is_empty() {
            let wanted = if observed { filter.presence.as_slice() } else { &[Presence::Unknown] };
            slots = registry.leases().with_presence(wanted, now, PICKED.min(length));
        }
        if let Some(text) = filter.text.as_ref().filter(|_| slots.is_none()) {
            let mut found = Vec::new();
            let most = PICKED.min(length);
            for segment in registry.read(|roster| roster.index().texts()) {
                segment.find(text, most, &mut found);
            }
            slots = Some(found).filter(|found| found.len() < most);
        }
        let Some(slots) = slots else { return way };
        let mut keys: Vec<ServiceKey> = registry.read(|roster| {
            slots.into_iter().filter_map(|slot| roster.at(slot).map(|entry| entry.row.key.clone())).collect()
        });
        keys.sort_unstable();
        keys.dedup();
        Self::Named(keys)
    }

    /// The shortest list by the counts of the index, and its length.
    pub(in crate::http) fn by_counts(roster: &Roster, filter: &Filter) -> (Self, usize) {
        let index = roster.index();
        let mut best = (Self::All, roster.len());
        let mut offer = |way: Self, length: usize| {
            if length < best.1 {
                best = (way, length);
            }
        };
        let mut having = |facets: Vec<Facet>| {
            let length = facets.iter().map(|facet| index.count_of(facet)).sum();
            offer(Self::Having(facets), length);
        };
        if !filter.status.is_empty() {
            having(filter.status.iter().copied().map(Facet::Status).collect());
        }
        if !filter.source.is_empty() {
            having(filter.source.iter().copied().map(Facet::Source).collect());
        }
        if !filter.health.is_empty() && !filter.health.contains(&Health::Unchecked) {
            having(filter.health.iter().copied().map(Facet::Health).collect());
        }
        if !filter.progress.is_empty() && !filter.progress.contains(&Progress::Unwatched) {
            having(filter.progress.iter().copied().map(Facet::Progress).collect());
        }
        if !filter.settings.is_empty() && !filter.settings.contains(&Standing::None) {
            having(filter.settings.iter().copied().map(Facet::Settings).collect());
        }
        if let Some(kind) = &filter.checker_kind {
            having(vec![Facet::CheckerKind(kind.to_string())]);
        }
        if let Some(version) = &filter.version {
            having(vec![Facet::Version(version.clone())]);
        }
        for test in &filter.labels {
            match test {
                LabelTest::In(key, values) => {
                    having(values.iter().map(|value| Facet::Label(key.clone(), value.clone())).collect());
                }
                LabelTest::Exists(key) if index.values_of(key).take(MAX_LISTS + 1).count() <= MAX_LISTS => {
                    having(
                        index.values_of(key).map(|(value, _)| Facet::Label(key.clone(), value.to_owned())).collect(),
                    );
                }
                LabelTest::Exists(_) | LabelTest::NotIn(..) | LabelTest::Missing(_) => {}
            }
        }
        if let Some(parent) = &filter.parent {
            let parents: Vec<_> = [Kind::Poller, Kind::Agent].map(|kind| ServiceKey::new(kind, parent.clone())).into();
            let length = parents.iter().map(|parent| roster.below(parent).children as usize).sum();
            offer(Self::Below(parents), length);
        }
        if let Some(root) = &filter.subtree {
            let below = roster.below(root);
            let length = below.children as usize + below.checkers as usize + 1;
            // Everybody below is named one by one: a poller's agents, then their checkers, by key.
            if length <= PICKED {
                let mut keys = vec![root.clone()];
                for child in roster.children(root) {
                    keys.push(child.row.key.clone());
                    keys.extend(roster.children(&child.row.key).map(|below| below.row.key.clone()));
                }
                keys.sort_unstable();
                offer(Self::Named(keys), length);
            }
        }
        if let Some(token) = filter.token {
            // Whoever used it; whether it is still bound by it is tested.
            let mut keys: Vec<ServiceKey> = roster.users_of(token).cloned().collect();
            let length = keys.len();
            if length <= PICKED {
                keys.sort_unstable();
                keys.dedup();
                offer(Self::Named(keys), length);
            }
        }
        // The same word twice would name its services twice.
        if let (Self::Having(facets), _) = &mut best {
            let mut once = std::collections::HashSet::new();
            facets.retain(|facet| once.insert(facet.clone()));
        }
        best
    }

    /// The entries on this way, of one kind or of all, behind a key.
    pub(in crate::http) fn entries<'a>(
        &'a self,
        roster: &'a Roster,
        kind: Option<Kind>,
        after: Option<&'a ServiceKey>,
    ) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        match self {
            Self::All => Box::new(roster.seek(kind, after)),
            Self::Having(facets) => Box::new(roster.seek_having(facets, kind, after)),
            Self::Below(parents) => {
                let mut found: Vec<&Entry> = Vec::new();
                for parent in parents {
                    let Some(child) = Kind::ALL.into_iter().find(|kind| kind.parent() == Some(parent.kind)) else {
                        continue;
                    };
                    // A cursor of a kind further on lies behind all of these.
                    if kind.is_some_and(|kind| kind != child) || after.is_some_and(|after| child < after.kind) {
                        continue;
                    }
                    let from = after.filter(|after| after.kind == child).map(|after| &after.id);
                    found.extend(roster.children_after(parent, from).take(STRIDE + 1));
                }
                Box::new(found.into_iter())
            }
            Self::Named(keys) => {
                let from = after.map_or(0, |after| keys.partition_point(|key| key <= after));
                let behind = keys.get(from..).unwrap_or_default().iter();
                let wanted = behind.filter(move |key| kind.is_none_or(|kind| key.kind == kind));
                Box::new(wanted.filter_map(|key| roster.get(key)))
            }
        }
    }
}
