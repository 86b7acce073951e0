//! Changes that hold only while a row stands where their asker saw it.
//!
//! The comparison is part of the plan: it is made on the very ground that the change is made on, so that nothing
//! can slip in between.

use std::fmt;

use rollcall_common::id::Seq;

use super::{Refusal, Request, World, roster::Roster};
use crate::store::rows::{Change, Conflict};

/// What an asker takes for granted about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// That it is there.
    Any,
    /// That its last change was one of these, each an epoch and a seq.
    OneOf(Vec<(u64, Seq)>),
}

impl Expect {
    /// Whether a row of an epoch is as expected.
    #[must_use]
    pub fn admits(&self, epoch: u64, seq: Seq) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(seen) => seen.contains(&(epoch, seq)),
        }
    }
}

/// A request with an expectation.
pub struct Expecting<R, F> {
    /// What is asked for.
    pub request: R,
    /// Finds the seq of the row that the expectation is about. A row that is not there is the request's business.
    pub row: F,
    /// What is expected; `None` = nothing.
    pub expect: Option<Expect>,
}

impl<R: fmt::Debug, F> fmt::Debug for Expecting<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expecting")
            .field("request", &self.request)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

impl<R: Request, F: Fn(&Roster) -> Option<Seq> + Send + 'static> Request for Expecting<R, F> {
    type Answer = R::Answer;

    fn plan(&self, world: World<'_>) -> Result<(Change, Self::Answer), Refusal> {
        let epoch = world.roster.position().epoch;
        if let (Some(expect), Some(seq)) = (&self.expect, (self.row)(world.roster))
            && !expect.admits(epoch, seq)
        {
            return Err(Refusal::Moved { epoch, seq });
        }
        self.request.plan(world)
    }

    fn conflict(&self, conflict: Conflict) -> Option<Refusal> {
        self.request.conflict(conflict)
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{
        lifecycle::Act,
        time::{BootTime, Now},
    };

    use super::*;
    use crate::{
        http::fixture::{NOW, row},
        registry::services::{By, Move},
        store::{Position, rows::Loaded},
    };

    #[test]
    fn a_change_holds_only_from_where_its_asker_saw_the_row() {
        let loaded = Loaded {
            position: Position { epoch: 2, seq: Seq(41) },
            services: vec![row("poller/p")],
            ..Loaded::default()
        };
        let roster = Roster::from_loaded(&loaded);
        let world = World { roster: &roster, now: Now { wall: NOW, boot: BootTime(1) } };
        let plan = |key: &str, expect: Option<Expect>| {
            let key: rollcall_common::id::ServiceKey = key.parse().unwrap();
            let request = Move::new(key.clone(), Act::Revoke, String::new(), By::system());
            let row = move |roster: &Roster| roster.get(&key).map(|entry| entry.row.seq);
            Expecting { request, row, expect }.plan(world).map(|_| ())
        };
        assert_eq!(plan("poller/p", None), Ok(()));
        assert_eq!(plan("poller/p", Some(Expect::Any)), Ok(()));
        assert_eq!(plan("poller/p", Some(Expect::OneOf(vec![(2, Seq(9)), (2, Seq(3))]))), Ok(()));
        let moved = Err(Refusal::Moved { epoch: 2, seq: Seq(3) });
        assert_eq!(plan("poller/p", Some(Expect::OneOf(vec![(2, Seq(2))]))), moved);
        assert_eq!(plan("poller/p", Some(Expect::OneOf(vec![(1, Seq(3))]))), moved);
        assert_eq!(plan("poller/p", Some(Expect::OneOf(vec![]))), moved);
        assert!(matches!(plan("poller/q", Some(Expect::OneOf(vec![]))), Err(Refusal::UnknownService(_))));
    }
}
