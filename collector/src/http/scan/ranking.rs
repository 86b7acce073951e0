//! A page of a list in an order that no index has: all that passes is looked at, a stride at a time, and the first
//! few behind a mark are kept in a heap.
//!
//! Page N costs what page 1 costs: a walk over what the filter leaves (a tenth of a second at most for 100,000), and
//! memory for one page. A service that does not change meanwhile is seen exactly once, whatever else does.

use std::{collections::BinaryHeap, ops::ControlFlow, sync::Arc};

use rollcall_common::{id::ServiceKey, time::Now};

use super::{Seen, stride};
use crate::{
    http::filter::{Anchor, Mark, Wanted, Way},
    registry::{
        leases::Sight,
        maintenance::Cover,
        roster::{Roster, Slot},
    },
    scope::Scope,
};

/// A page on its way.
#[derive(Debug)]
pub(in crate::http) struct Ranking {
    scope: Scope,
    cover: Arc<Cover>,
    wanted: Wanted,
    way: Way,
    now: Now,
    anchor: Anchor,
    after: Option<ServiceKey>,
    /// The best so far, the worst of them on top: one more than the page holds, which tells whether there is another.
    best: BinaryHeap<Mark>,
}

impl Ranking {
    /// Begins a page of what lies within a scope, on a way that holds all that can pass.
    pub(in crate::http) fn new(scope: Scope, wanted: Wanted, way: Way, now: Now, cover: Arc<Cover>) -> Self {
        let anchor = wanted.behind.as_ref().map_or_else(|| Anchor::at(now), Mark::anchor);
        Self { scope, cover, wanted, way, now, anchor, after: None, best: BinaryHeap::new() }
    }

    /// Goes one stride. Answers whether there is another to go.
    pub(in crate::http) fn advance(&mut self, roster: &Roster, sight: &dyn Fn(Slot) -> Option<Sight>) -> bool {
        let Self { scope, cover, wanted, way, now, anchor, after, best } = self;
        let next = stride(roster, way, scope, wanted.kind, after.as_ref(), &mut |entry| {
            let sight = sight(entry.slot);
            if wanted.filter.passes(entry, sight.as_ref(), *now) && wanted.filter.is_worked_on(entry, cover) {
                let mark = Mark::of(wanted.order, *anchor, &entry.row, sight.as_ref());
                let is_behind = wanted.behind.as_ref().is_none_or(|behind| mark > *behind);
                let is_good = best.len() <= wanted.limit || best.peek().is_some_and(|worst| mark < *worst);
                if is_behind && is_good {
                    best.push(mark);
                    if best.len() > wanted.limit + 1 {
                        best.pop();
                    }
                }
            }
            ControlFlow::Continue(())
        });
        let goes_on = next.is_some();
        self.after = next;
        goes_on
    }

    /// What was found, in order, and the mark behind which the next page begins, if there is one. What went away
    /// since it was found is left out.
    pub(in crate::http) fn finish(
        self,
        roster: &Roster,
        sight: &dyn Fn(Slot) -> Option<Sight>,
    ) -> (Vec<Seen>, Option<Mark>) {
        let (limit, scope) = (self.wanted.limit, self.scope);
        let mut marks = self.best.into_sorted_vec();
        let more = marks.len() > limit;
        marks.truncate(limit);
        let last = marks.last().filter(|_| more).cloned();
        let there = marks.iter().filter_map(|mark| roster.get(&mark.key));
        let there = there.filter(|entry| scope.admits(&entry.row.labels));
        (there.map(|entry| Seen::look(roster, &scope, entry, sight(entry.slot))).collect(), last)
    }
}

#[cfg(test)]
mod tests;
