//! Who is who in a swarm: every place has a kind and, in a tree, a parent. Pure.

use rollcall_common::id::Kind;
use serde::{Deserialize, Serialize};

/// Agents under one poller of a tree.
const AGENTS: u32 = 20;
/// Checkers under one agent of a tree.
const CHECKERS: u32 = 4;
/// Places of an agent and its checkers.
const BRANCH: u32 = 1 + CHECKERS;
/// Places of one tree.
const TREE: u32 = 1 + AGENTS * BRANCH;

/// How places relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// Pollers only.
    Flat,
    /// One poller, 20 agents under it, 4 checkers under each; then the next tree.
    Tree,
}

impl Shape {
    /// The kind at a place.
    #[must_use]
    pub fn kind(self, place: u32) -> Kind {
        match (self, place % TREE) {
            (Self::Flat, _) | (Self::Tree, 0) => Kind::Poller,
            (Self::Tree, n) if (n - 1) % BRANCH == 0 => Kind::Agent,
            (Self::Tree, _) => Kind::Checker,
        }
    }

    /// The place of the parent; always before its children.
    #[must_use]
    pub fn parent(self, place: u32) -> Option<u32> {
        let within = place % TREE;
        let poller = place - within;
        match self.kind(place) {
            Kind::Agent => Some(poller),
            Kind::Checker => Some(poller + 1 + (within - 1) / BRANCH * BRANCH),
            Kind::Poller | Kind::Instance => None,
        }
    }

    /// Kinds that occur, parents first.
    #[must_use]
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Flat => &[Kind::Poller],
            Self::Tree => &[Kind::Poller, Kind::Agent, Kind::Checker],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_proportions() {
        let count = |kind| (0..TREE * 3).filter(|place| Shape::Tree.kind(*place) == kind).count();
        assert_eq!((count(Kind::Poller), count(Kind::Agent), count(Kind::Checker)), (3, 60, 240));
    }

    #[test]
    fn every_parent_is_of_the_right_kind_and_comes_first() {
        for shape in [Shape::Flat, Shape::Tree] {
            for place in 0..TREE * 3 {
                let parent = shape.parent(place);
                assert_eq!(parent.map(|parent| shape.kind(parent)), shape.kind(place).parent(), "{place}");
                assert!(parent.is_none_or(|parent| parent < place && place - parent < TREE));
            }
        }
    }
}
