//! Who yields when too many callers come: the oldest of the class that has most of them. Pure.
//!
//! An honest caller is gone in milliseconds, so that a slow crowd fights with itself; and whoever floods meets its
//! own callers first, not those of others.

use std::collections::{BTreeMap, VecDeque};

/// Whose callers share a fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A user of this host, as the kernel tells; `None` where it does not.
    User(Option<u32>),
    /// Anybody on loopback.
    Loopback,
}

/// Those who are being served, oldest first.
#[derive(Debug)]
pub(super) struct Crowd<T> {
    room: usize,
    inside: VecDeque<(Class, T)>,
}

impl<T> Crowd<T> {
    pub(super) fn new(room: usize) -> Self {
        Self { room, inside: VecDeque::with_capacity(room) }
    }

    /// Forgets those who are gone.
    pub(super) fn leave(&mut self, is_gone: impl Fn(&T) -> bool) {
        self.inside.retain(|(_, caller)| !is_gone(caller));
    }

    /// Takes one in; gives back who must yield for it.
    pub(super) fn enter(&mut self, class: Class, caller: T) -> Option<T> {
        self.inside.push_back((class, caller));
        if self.inside.len() <= self.room {
            return None;
        }
        let mut count: BTreeMap<Class, usize> = BTreeMap::new();
        for (class, _) in &self.inside {
            *count.entry(*class).or_default() += 1;
        }
        let most = count.into_iter().max_by_key(|(_, count)| *count).map(|(class, _)| class)?;
        let oldest = self.inside.iter().position(|(class, _)| *class == most)?;
        self.inside.remove(oldest).map(|(_, caller)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_yields_to_itself() {
        let (mut crowd, flood, other) = (Crowd::new(4), Class::User(Some(33)), Class::User(Some(0)));
        assert_eq!(crowd.enter(other, 0), None);
        for n in 1..=3 {
            assert_eq!(crowd.enter(flood, n), None);
        }
        assert_eq!(crowd.enter(flood, 4), Some(1), "its own oldest");
        assert_eq!(crowd.enter(other, 5), Some(2), "not the other's oldest, which came before");
        crowd.leave(|n| *n == 3);
        assert_eq!(crowd.enter(flood, 6), None, "who is gone takes no room");
    }
}
