//! Who stands below whom: an ordered index of the children of every service.
//!
//! It knows rows by their names only and holds what the roster tells it; whether a parent exists is the
//! business of whoever registers. A row may come before its parent does.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    service::Source,
};

use super::{Slot, parent_key};
use crate::store::rows::ServiceRow;

/// How many services stand below one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Below {
    /// Those that have it as their parent: a poller's agents, an agent's checkers.
    pub children: u32,
    /// The checkers among its children and theirs.
    pub checkers: u32,
}

#[derive(Debug, Default)]
struct Branch {
    /// Children are all of one kind, so that their ids tell them apart.
    children: BTreeMap<ServiceId, Slot>,
    checkers: u32,
    implicit: u32,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Tree(HashMap<ServiceKey, Branch>);

impl Tree {
    pub(super) fn insert(&mut self, row: &ServiceRow, slot: Slot) {
        let Some(parent) = parent_key(row) else { return };
        self.0.entry(parent).or_default().children.insert(row.key.id.clone(), slot);
        for above in Self::above(row) {
            let branch = self.0.entry(above).or_default();
            branch.checkers = branch.checkers.saturating_add(u32::from(row.key.kind == Kind::Checker));
            branch.implicit = branch.implicit.saturating_add(u32::from(row.source == Source::Implicit));
        }
    }

    pub(super) fn remove(&mut self, row: &ServiceRow) {
        let Some(parent) = parent_key(row) else { return };
        if let Some(branch) = self.0.get_mut(&parent) {
            branch.children.remove(&row.key.id);
        }
        for above in Self::above(row) {
            if let Some(branch) = self.0.get_mut(&above) {
                branch.checkers = branch.checkers.saturating_sub(u32::from(row.key.kind == Kind::Checker));
                branch.implicit = branch.implicit.saturating_sub(u32::from(row.source == Source::Implicit));
            }
            self.prune(&above);
        }
    }

    /// Services that count a row as one below them.
    fn above(row: &ServiceRow) -> impl Iterator<Item = ServiceKey> {
        let top = match row.key.kind {
            Kind::Checker => row.poller.clone().map(|poller| ServiceKey::new(Kind::Poller, poller)),
            Kind::Poller | Kind::Agent | Kind::Instance => None,
        };
        parent_key(row).into_iter().chain(top)
    }

    fn prune(&mut self, key: &ServiceKey) {
        if self
            .0
            .get(key)
            .is_some_and(|branch| branch.children.is_empty() && branch.checkers == 0 && branch.implicit == 0)
        {
            self.0.remove(key);
        }
    }

    pub(super) fn below(&self, key: &ServiceKey) -> Below {
        let Some(branch) = self.0.get(key) else { return Below::default() };
        Below { children: u32::try_from(branch.children.len()).unwrap_or(u32::MAX), checkers: branch.checkers }
    }

    pub(super) fn implicit(&self, key: &ServiceKey) -> u32 {
        self.0.get(key).map_or(0, |branch| branch.implicit)
    }

    /// The children of a service in the order of their ids, behind one of them or from the first.
    pub(super) fn children(&self, key: &ServiceKey, after: Option<&ServiceId>) -> impl Iterator<Item = Slot> {
        let from = after.map_or(Unbounded, Excluded);
        let branch = self.0.get(key);
        branch.into_iter().flat_map(move |branch| branch.children.range((from, Unbounded)).map(|(_, slot)| *slot))
    }
}
