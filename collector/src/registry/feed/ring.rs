//! The ring: printed events in batches, oldest first, bounded by number and bytes.
//!
//! When it is full the oldest batch goes. Whoever stood before it learns that its position is gone, which
//! is what snapshots are for; nobody else loses anything.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use rollcall_common::{
    id::Seq,
    time::{BootTime, Timestamp},
};

use super::{
    Depth,
    event::{Event, EventKind, Subject},
};
use crate::store::Position;

/// A batch is closed beyond so many bytes, so that no reader gets more in one piece.
const BATCH_BYTES: usize = 256 * 1024;
/// What an event takes beside its print, about.
const BESIDE: usize = 256;

/// What the ring may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes, about.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 65_536, bytes: 32 * 1024 * 1024 }
    }
}

/// An event in a batch.
#[derive(Debug)]
pub struct Kept {
    /// Its place.
    pub seq: Seq,
    /// When it happened.
    pub at: Timestamp,
    /// What it tells.
    pub kind: EventKind,
    /// Of whom.
    pub subject: Subject,
    frame: Range<usize>,
    json: Range<usize>,
}

/// Events that are handed out together, printed one behind the other.
#[derive(Debug)]
pub struct Batch {
    events: Vec<Kept>,
    text: Bytes,
}

impl Batch {
    /// The events, in order.
    #[must_use]
    pub fn events(&self) -> &[Kept] {
        &self.events
    }

    /// The seq of the last one.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.events.last().map_or(Seq(0), |kept| kept.seq)
    }

    /// All events behind a seq as frames of an event stream. Nothing is copied.
    #[must_use]
    pub fn frames_after(&self, seq: Seq) -> Bytes {
        let first = self.events.partition_point(|kept| kept.seq <= seq);
        self.events.get(first).map_or_else(Bytes::new, |kept| self.text.slice(kept.frame.start..))
    }

    /// One event as a frame of an event stream.
    #[must_use]
    pub fn frame(&self, kept: &Kept) -> &[u8] {
        self.text.get(kept.frame.clone()).unwrap_or_default()
    }

    /// One event as JSON.
    #[must_use]
    pub fn json(&self, kept: &Kept) -> &[u8] {
        self.text.get(kept.json.clone()).unwrap_or_default()
    }
}

/// What comes behind a position.
#[derive(Debug, Clone)]
pub enum Next {
    /// These events, and perhaps more.
    Batch(Arc<Batch>),
    /// Nothing yet; everything up to this seq is known.
    Wait(Seq),
    /// The position is before what the ring holds, or was never one of this registry.
    Gone,
}

#[derive(Debug)]
pub(super) struct Ring {
    epoch: u64,
    limits: Limits,
    /// Positions before this one are gone.
    floor: Seq,
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    bytes: usize,
    total: u64,
    pending: Vec<Kept>,
    text: Vec<u8>,
    /// What was committed.
    reached: Seq,
    /// What was handed out.
    published: Seq,
    published_at: BootTime,
}

impl Ring {
    pub(super) fn new(position: Position, limits: Limits) -> Self {
        Self {
            epoch: position.epoch,
            limits,
            floor: position.seq,
            batches: VecDeque::new(),
            events: 0,
            bytes: 0,
            total: 0,
            pending: Vec::new(),
            text: Vec::new(),
            reached: position.seq,
            published: position.seq,
            published_at: BootTime(0),
        }
    }

    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.shrink();
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn range(&self) -> (Seq, Seq) {
        (self.floor, self.published)
    }

    /// When the first event happened that was handed out and lies behind a position.
    pub(super) fn waits_since(&self, at: Seq) -> Option<Timestamp> {
        let first = self.batches.partition_point(|batch| batch.last() <= at);
        let batch = self.batches.get(first)?;
        batch.events.get(batch.events.partition_point(|kept| kept.seq <= at)).map(|kept| kept.at)
    }

    pub(super) fn depth(&self) -> Depth {
        Depth {
            events: self.events,
            bytes: self.bytes,
            oldest: self.batches.front().and_then(|batch| batch.events.first()).map(|kept| kept.at),
            total: self.total,
        }
    }

    /// Takes an event; seqs rise.
    pub(super) fn push(&mut self, event: &Event) {
        let start = self.text.len();
        let head = format!("id: {}-{}\nevent: {}\ndata: ", self.epoch, event.seq, event.kind.as_str());
        self.text.extend_from_slice(head.as_bytes());
        let json = self.text.len();
        event.print(self.epoch, &mut self.text);
        let json = json..self.text.len();
        self.text.extend_from_slice(b"\n\n");
        self.pending.push(Kept {
            seq: event.seq,
            at: event.at,
            kind: event.kind,
            subject: event.subject.clone(),
            frame: start..self.text.len(),
            json,
        });
        self.total = self.total.saturating_add(1);
        if self.text.len() >= BATCH_BYTES {
            self.close();
        }
    }

    /// Everything up to a seq was pushed.
    pub(super) fn reach(&mut self, seq: Seq) {
        self.reached = self.reached.max(seq);
    }

    pub(super) fn is_due(&self, now: BootTime, every: Duration) -> bool {
        self.reached > self.published && now.since(self.published_at) >= every
    }

    /// Hands out what is pending; answers with the position reached.
    pub(super) fn publish(&mut self, now: BootTime) -> Seq {
        if self.reached > self.published {
            self.close();
            self.published = self.reached;
            self.published_at = now;
        }
        self.published
    }

    /// What comes behind a position.
    pub(super) fn after(&self, seq: Seq) -> Next {
        if seq < self.floor || seq > self.reached {
            return Next::Gone;
        }
        let first = self.batches.partition_point(|batch| batch.last() <= seq);
        match self.batches.get(first) {
            // A batch that was closed for its size may not have been handed out: its commit is not whole.
            Some(batch) if batch.last() <= self.published => Next::Batch(Arc::clone(batch)),
            Some(_) | None => Next::Wait(seq.max(self.published)),
        }
    }

    fn close(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.pending);
        let text = Bytes::from(std::mem::take(&mut self.text));
        self.events += events.len();
        self.bytes += text.len() + events.len() * BESIDE;
        self.batches.push_back(Arc::new(Batch { events, text }));
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.events > self.limits.events || self.bytes > self.limits.bytes {
            let Some(batch) = self.batches.pop_front() else { return };
            self.events -= batch.events.len();
            self.bytes -= batch.text.len() + batch.events.len() * BESIDE;
            self.floor = self.floor.max(batch.last());
        }
    }
}
