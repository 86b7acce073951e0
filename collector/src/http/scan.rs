//! Walking the roster without holding it: a stride under the lock, then the lock is let go.
//!
//! A walk is no photograph. A service that is there from beginning to end is seen exactly once; one that
//! comes or goes meanwhile may be seen or not. Changes and heartbeats never wait for more than a stride.

mod ranking;

use std::{ops::ControlFlow, sync::Arc};

use rollcall_common::{
    id::{Kind, ServiceKey},
    lease::Presence,
    time::Now,
};

pub(super) use self::ranking::Ranking;
use super::filter::{Wanted, Way};
use crate::{
    registry::{
        Registry,
        leases::Sight,
        maintenance::Cover,
        roster::{Below, Entry, Roster, Slot},
    },
    scope::Scope,
};

/// Entries that are looked at before the lock is let go.
pub(super) const STRIDE: usize = 1024;

/// An entry as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// What is registered.
    pub entry: Entry,
    /// Its lease.
    pub sight: Option<Sight>,
    /// How many services stand below it.
    pub below: Below,
}

impl Seen {
    /// Looks at an entry.
    pub(super) fn look(roster: &Roster, scope: &Scope, entry: &Entry, sight: Option<Sight>) -> Self {
        Self { entry: entry.clone(), sight, below: below_within(roster, scope, &entry.row.key) }
    }
}

/// How many of those below a service lie within a scope.
fn below_within(roster: &Roster, scope: &Scope, key: &ServiceKey) -> Below {
    if scope.is_everything() {
        return roster.below(key);
    }
    let count = |key: &ServiceKey| {
        let within = roster.children(key).filter(|child| scope.admits(&child.row.labels)).count();
        u32::try_from(within).unwrap_or(u32::MAX)
    };
    let children = count(key);
    let checkers = match key.kind {
        Kind::Poller => roster.children(key).map(|agent| count(&agent.row.key)).fold(0, u32::saturating_add),
        Kind::Agent => children,
        Kind::Checker | Kind::Instance => 0,
    };
    Below { children, checkers }
}

/// What is observed, where there is no lease: nothing was ever heard.
#[must_use]
pub(super) fn presence_of(sight: Option<&Sight>) -> Presence {
    sight.map_or(Presence::NeverSeen, |sight| sight.presence)
}

/// Visits entries behind `after` that lie within a scope; looks at a stride of them at most. Answers where to go on; `None` = the end, or
/// the visitor has seen enough.
pub(super) fn stride(
    roster: &Roster,
    way: &Way,
    scope: &Scope,
    kind: Option<Kind>,
    after: Option<&ServiceKey>,
    visit: &mut dyn FnMut(&Entry) -> ControlFlow<()>,
) -> Option<ServiceKey> {
    let mut last = None;
    for (n, entry) in way.entries(roster, kind, after).enumerate() {
        if n == STRIDE {
            return last;
        }
        if scope.admits(&entry.row.labels) && visit(entry).is_break() {
            return None;
        }
        last = Some(entry.row.key.clone());
    }
    None
}

/// Visits every entry of a kind, or all of them, that lies within a scope, stride by stride.
pub(super) fn walk(
    registry: &Registry,
    scope: &Scope,
    kind: Option<Kind>,
    mut visit: impl FnMut(&Roster, &Entry, Option<Sight>),
) {
    let now = registry.now().boot;
    let mut after = None;
    loop {
        let next = registry.read(|roster| {
            stride(roster, &Way::All, scope, kind, after.as_ref(), &mut |entry| {
                visit(roster, entry, registry.leases().sight(entry.slot, now));
                ControlFlow::Continue(())
            })
        });
        match next {
            Some(key) => after = Some(key),
            None => return,
        }
    }
}

/// A page of a list on its way: strides until it is full or the roster ends.
#[derive(Debug)]
pub(super) struct Listing {
    scope: Scope,
    cover: Arc<Cover>,
    wanted: Wanted,
    way: Way,
    now: Now,
    after: Option<ServiceKey>,
    found: Vec<Seen>,
    /// Something more passes behind the last one found.
    more: bool,
}

impl Listing {
    /// Begins a page of what lies within a scope, on a way that holds all that can pass.
    #[must_use]
    pub(super) fn new(scope: Scope, wanted: Wanted, way: Way, now: Now) -> Self {
        let (cover, after) = (Arc::default(), wanted.after.clone());
        Self { scope, cover, after, wanted, way, now, found: Vec::new(), more: false }
    }

    /// The same while services are being worked on.
    pub(super) fn under(self, cover: Arc<Cover>) -> Self {
        Self { cover, ..self }
    }

    /// Goes one stride. Answers whether there is another to go.
    pub(super) fn advance(&mut self, roster: &Roster, sight: &dyn Fn(Slot) -> Option<Sight>) -> bool {
        let Self { scope, cover, wanted, way, now, after, found, more } = self;
        let next = stride(roster, way, scope, wanted.kind, after.as_ref(), &mut |entry| {
            let sight = sight(entry.slot);
            if !wanted.filter.passes(entry, sight.as_ref(), *now) || !wanted.filter.is_worked_on(entry, cover) {
                return ControlFlow::Continue(());
            }
            // One more than the page holds tells whether there is a next one.
            if found.len() == wanted.limit {
                *more = true;
                return ControlFlow::Break(());
            }
            found.push(Seen::look(roster, scope, entry, sight));
            ControlFlow::Continue(())
        });
        let goes_on = next.is_some();
        self.after = next;
        goes_on
    }

    /// What was found, and the key behind which the next page begins, if there is one.
    #[must_use]
    pub(super) fn finish(self) -> (Vec<Seen>, Option<ServiceKey>) {
        let last = self.found.last().filter(|_| self.more).map(|seen| seen.entry.row.key.clone());
        (self.found, last)
    }
}

#[cfg(test)]
mod tests;
