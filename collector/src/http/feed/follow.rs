//! One reader of the stream, from `hello` to its end.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use rollcall_common::id::Seq;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Call, Filter, Place, REMEDY};
use crate::{http::server::Seat, registry::feed::Next};

/// A silent stream says so often that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// How often it is asked whether the caller may still read.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long a reader waits before it comes back, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// Whether the caller of a long request may still read: its credential may end while it is open.
pub(super) fn is_in(call: &Call) -> bool {
    let now = call.state.registry.now().wall;
    let over = |end: Option<rollcall_common::time::Timestamp>| end.is_some_and(|end| now >= end);
    if over(call.caller.ends) {
        return false;
    }
    let super::super::access::Via::Credential(id) = call.caller.via else { return true };
    call.state
        .registry
        .read(|roster| roster.credential(id).is_some_and(|row| row.revoked_at.is_none() && !over(row.expires_at)))
}

/// Where the readers of the stream stand; for metrics alone. Bounded by the places of streams.
#[derive(Debug, Default)]
pub(in crate::http) struct Readers(Mutex<(u64, BTreeMap<u64, Arc<AtomicU64>>)>);

impl Readers {
    fn join(self: &Arc<Self>, at: Seq) -> Standing {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.0 += 1;
        let (no, place) = (readers.0, Arc::new(AtomicU64::new(at.0)));
        readers.1.insert(no, Arc::clone(&place));
        Standing { readers: Arc::clone(self), no, at: place }
    }

    /// The position of whoever is furthest behind.
    pub(in crate::http) fn last(&self) -> Option<Seq> {
        let readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.1.values().map(|at| Seq(at.load(Relaxed))).min()
    }
}

/// A reader's place among the others; given up when dropped.
struct Standing {
    readers: Arc<Readers>,
    no: u64,
    at: Arc<AtomicU64>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.readers.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.no);
    }
}

pub(super) struct Follower {
    call: Call,
    filter: Filter,
    epoch: u64,
    at: Seq,
    /// A position that cannot be followed from.
    gone: bool,
    begun: bool,
    ended: bool,
    head: watch::Receiver<Seq>,
    beat: Interval,
    ask: Interval,
    seat: Arc<Seat>,
    standing: Standing,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if !self.ended && self.seat.is_stalled() {
            self.call.state.counts.drop_reader("stalled");
        }
    }
}

impl Follower {
    pub(super) fn new(
        call: Call,
        filter: Filter,
        since: Option<Place>,
        permit: OwnedSemaphorePermit,
        seat: Arc<Seat>,
    ) -> Self {
        let feed = call.state.registry.feed();
        let (epoch, head) = (feed.epoch(), feed.watch());
        let at = since.map_or_else(|| feed.range().1, |place| place.seq);
        let gone = since.is_some_and(|place| place.epoch != epoch) || matches!(feed.after(at), Next::Gone);
        let ticks = |every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.reset();
            ticks
        };
        let (beat, ask) = (ticks(BEAT_EVERY), ticks(ASK_EVERY));
        // Whoever is told at once that its position is gone is not behind.
        let standing = call.state.readers.join(if gone { feed.range().1 } else { at });
        let (begun, ended) = (false, false);
        Self { call, filter, epoch, at, gone, begun, ended, head, beat, ask, seat, standing, _permit: permit }
    }

    /// The stream's body.
    pub(super) fn frames(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, async |mut follower| {
            let bytes = follower.next().await?;
            Some((Ok(bytes), follower))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !self.begun {
            self.begun = true;
            return Some(if self.gone { self.lost_at_once() } else { self.hello() });
        }
        loop {
            if self.call.state.draining.is_cancelled() {
                return Some(self.end("bye", "the collector is stopping: come back with the last id"));
            }
            match self.call.state.registry.feed().after(self.at) {
                Next::Gone => {
                    self.call.state.counts.drop_reader("lagged");
                    return Some(self.end("dropped", &format!("lagged: it read too slowly; {REMEDY}")));
                }
                Next::Batch(batch) => {
                    let frames = self.filter.frames(&batch, self.at);
                    self.move_to(batch.last());
                    if !frames.is_empty() {
                        self.beat.reset();
                        return Some(frames);
                    }
                    // A filter may pass over all that the ring holds.
                    tokio::task::yield_now().await;
                }
                Next::Wait(upto) => {
                    self.move_to(upto);
                    if let Some(said) = self.wait().await {
                        return Some(said);
                    }
                }
            }
        }
    }

    fn move_to(&mut self, at: Seq) {
        self.at = at;
        self.standing.at.store(at.0, Relaxed);
    }

    /// Waits for something new; answers with what there is to say meanwhile.
    async fn wait(&mut self) -> Option<Bytes> {
        tokio::select! {
            () = self.call.state.draining.cancelled() => None,
            _ = self.head.changed() => None,
            // An id without data moves a reader's position although nothing passed its filter.
            _ = self.beat.tick() => Some(format!(": alive\nid: {}\n\n", self.place()).into()),
            _ = self.ask.tick() => (!is_in(&self.call)).then(|| {
                self.call.state.counts.drop_reader("credential");
                self.end("dropped", "credential: it has ended or was revoked")
            }),
        }
    }

    fn place(&self) -> Place {
        Place { epoch: self.epoch, seq: self.at }
    }

    fn hello(&self) -> Bytes {
        let (oldest, seq) = self.call.state.registry.feed().range();
        let (place, epoch, at) = (self.place(), self.epoch, self.at);
        format!(
            "retry: {RETRY_MS}\nid: {place}\nevent: hello\n\
             data: {{\"epoch\":{epoch},\"seq\":{at},\"oldest\":{oldest},\"newest\":{seq}}}\n\n"
        )
        .into()
    }

    fn lost_at_once(&mut self) -> Bytes {
        self.ended = true;
        let (oldest, seq) = self.call.state.registry.feed().range();
        let epoch = self.epoch;
        format!(
            "event: gone\ndata: {{\"epoch\":{epoch},\"oldest\":{oldest},\"seq\":{seq},\"detail\":\"the changes after \
             this position are no longer held: {REMEDY}\"}}\n\n"
        )
        .into()
    }

    fn end(&mut self, event: &str, reason: &str) -> Bytes {
        self.ended = true;
        let place = self.place();
        format!("id: {place}\nevent: {event}\ndata: {{\"reason\":\"{reason}\",\"since\":\"{place}\"}}\n\n").into()
    }
}
