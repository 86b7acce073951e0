//! The change feed: what happened to services, in commit order, for whoever follows.
//!
//! A committed [`Change`](crate::store::rows::Change) becomes [`Event`]s (`derive`, pure), each printed
//! once; they lie in a bounded ring (`ring`) that knows no reader. A reader holds a position and nothing
//! here holds anything for it: slow ones fall off the ring's end and are told so. Readers wait on a watch
//! and copy whole batches that are printed already. Knows neither HTTP nor credentials.
//!
//! Positions are complete: a reader that has seen everything up to a seq and goes on behind it misses
//! nothing, and a page of the roster that was begun at a seq may be followed from that very seq.

mod derive;
mod event;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use rollcall_common::{
    id::Seq,
    time::{BootTime, Timestamp},
};
use tokio::sync::watch;

use self::ring::Ring;
pub use self::{
    derive::{Deriver, Telling, subject},
    event::{Event, EventKind, Subject},
    ring::{Batch, Kept, Limits, Next},
};
use crate::store::Position;

/// Events are handed out at most so often: a thousand readers are woken for many events at once.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// The feed, shared by the actor that fills it and all who read it.
#[derive(Debug)]
pub struct Feed {
    ring: RwLock<Ring>,
    head: watch::Sender<Seq>,
}

/// What the feed holds, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Events in the ring.
    pub events: usize,
    /// Bytes that they take, printed.
    pub bytes: usize,
    /// When the oldest one happened.
    pub oldest: Option<Timestamp>,
    /// All events since the start.
    pub total: u64,
}

impl Feed {
    /// An empty feed that begins behind a position.
    #[must_use]
    pub fn new(position: Position) -> Self {
        Self { ring: RwLock::new(Ring::new(position, Limits::default())), head: watch::Sender::new(position.seq) }
    }

    /// Sets what the ring may hold.
    pub fn limit(&self, limits: Limits) {
        self.write(|ring| ring.limit(limits));
    }

    /// Adds what was committed up to a position. Handed out when its time has come.
    pub(super) fn add(&self, events: &[Event], upto: Seq, now: BootTime) {
        let due = self.write(|ring| {
            for event in events {
                ring.push(event);
            }
            ring.reach(upto);
            ring.is_due(now, PUBLISH_EVERY)
        });
        if due {
            self.publish(now);
        }
    }

    /// Hands out what was added, if anything was.
    pub(super) fn publish(&self, now: BootTime) {
        let head = self.write(|ring| ring.publish(now));
        self.head.send_if_modified(|held| {
            let moved = *held < head;
            *held = head.max(*held);
            moved
        });
    }

    /// What comes behind a position.
    #[must_use]
    pub fn after(&self, seq: Seq) -> Next {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).after(seq)
    }

    /// Which epoch its positions are of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).epoch()
    }

    /// The first position that can still be resumed from, and the last one handed out.
    #[must_use]
    pub fn range(&self) -> (Seq, Seq) {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).range()
    }

    /// When the first event happened that waits for whoever stands at a position; `None` = nothing waits.
    #[must_use]
    pub fn waits_since(&self, at: Seq) -> Option<Timestamp> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).waits_since(at)
    }

    /// What it holds.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).depth()
    }

    /// Tells of each position that is handed out.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Seq> {
        self.head.subscribe()
    }

    fn write<T>(&self, change: impl FnOnce(&mut Ring) -> T) -> T {
        change(&mut self.ring.write().unwrap_or_else(PoisonError::into_inner))
    }
}
