//! The change feed over HTTP: a stream of events (`text/event-stream`) and its long-polled twin.
//!
//! It owns positions as callers write them, filters, and the conversation with one reader; events and their
//! print belong to [`crate::registry::feed`]. Nothing is queued for a reader: it holds a position, and what
//! it is sent next is copied from the ring when its connection takes it. A reader that is too slow learns
//! why it was dropped, an open stream never holds up a stop, and one whose credential ends, ends.

mod filter;
mod follow;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use rollcall_common::id::Seq;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

pub(super) use self::follow::Readers;
use self::{filter::Filter, follow::Follower};
use super::{
    access::Permission,
    call::Call,
    error::{Problem, ProblemCode},
    extract::Query,
    openapi::words,
    page,
    routes::{Operation, Param, Routes},
    server::Seated,
};
use crate::{config::duration, registry::feed::Next};

/// Streams and waiting polls at once where the configuration names no number.
pub const DEFAULT_STREAMS: usize = 1_024;
/// Longest wait of a poll.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// What a reader does whose position is gone.
const REMEDY: &str = "read /api/admin/services from its first page, whose answer carries epoch and seq, and resume with \
                      since=EPOCH-SEQ";

const FILTERS: &[Param] = &[
    Param::of::<words::Position>("since", "Only what came after this position, as in `since=EPOCH-SEQ`"),
    Param::list::<words::EventKind>("type", "Only these types of event"),
    Param::list::<words::Kind>("kind", "Only services of these kinds"),
    Param::list::<words::Status>("status", "Only services that then have one of these statuses"),
    Param::of::<words::Id>("id", "Only services with this id"),
    Param::of::<words::Id>("parent", "Only services with this parent"),
    Param::of::<words::Key>("subtree", "Only this service and all below it"),
    Param::each::<words::LabelTest>("label", "Only services with this label, before or after the event"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    let text = "Events in commit order, without a gap: begin with a snapshot, whose first page carries `epoch` and `seq`, \
                and follow from there. The stream begins with `hello`; `Last-Event-ID` or `since` resume it. A position \
                that is no longer held, or of another epoch, is answered with `gone` and what to do. A reader that is \
                too slow gets `dropped`, a stop of the collector `bye`; both end the stream, and the last id resumes it. \
                Presence and health are told as they come on record; `late` is computed when somebody looks and never fed.";
    routes
        .tag("feed", "What changes, as it changes")
        .add(
            Operation::get("/api/admin/feed", Permission::Read, "stream_feed")
                .scoped()
                .streams()
                .about("A stream of changes")
                .more(text)
                .query(FILTERS)
                .header(Param::of::<words::Position>("last-event-id", "The last id that was received; wins over `since`"))
                .answer_as(200, "text/event-stream", "Events, until one side ends")
                .gives(&[ProblemCode::Busy, ProblemCode::Draining]),
            stream,
        )
        .add(
            Operation::get("/api/admin/changes", Permission::Read, "poll_changes")
                .scoped()
                .streams()
                .about("Changes after a position, waiting for one")
                .more("The events of the stream, for those who poll: follow `next`. Without `since` it answers where the feed stands.")
                .query(FILTERS)
                .query(&[
                    Param::of::<words::Duration>("wait", "How long to wait for a change, at most 60s [0s]"),
                    Param::of::<words::Limit>("limit", "Events of an answer"),
                ])
                .answer::<ChangesView>(200, "What came, in order; perhaps nothing yet")
                .gives(&[ProblemCode::Gone, ProblemCode::Draining]),
            changes,
        )
}

/// An event of the feed.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "the registry prints events; this is their shape in the document")]
pub(super) struct EventView {
    /// Its place in the commit order.
    seq: u64,
    /// The registry's epoch.
    epoch: u64,
    /// When it happened.
    #[schema(value_type = words::Time)]
    at: String,
    /// What happened.
    #[schema(value_type = words::EventKind)]
    r#type: String,
    /// What the service is.
    #[schema(value_type = words::Kind)]
    kind: String,
    /// Its id.
    #[schema(value_type = words::Id)]
    id: String,
    /// The parent's id.
    #[schema(value_type = Option<words::Id>, nullable = false)]
    parent: Option<String>,
    /// For checkers, the poller above the parent.
    #[schema(value_type = Option<words::Id>, nullable = false)]
    poller: Option<String>,
    /// Its status after the event.
    #[schema(value_type = words::Status)]
    status: String,
    /// Its presence on record.
    #[schema(value_type = words::Presence)]
    presence: String,
    /// Its health on record.
    #[schema(value_type = words::Health)]
    health: String,
    /// Why, where the record says so.
    #[schema(nullable = false)]
    reason: Option<String>,
    /// What changed, as it was before, by field.
    #[schema(value_type = Option<words::Details>, nullable = false)]
    previous: Option<String>,
    /// Its labels.
    #[schema(value_type = words::Pairs)]
    labels: String,
    /// Who did it.
    #[schema(nullable = false)]
    actor: Option<String>,
    /// The request that did it.
    #[schema(nullable = false)]
    request_id: Option<String>,
}

/// Changes after a position.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "printed by hand, since its events are printed already; this is its shape in the document")]
pub(super) struct ChangesView {
    /// What came, in order. Members beyond those named depend on the type.
    items: Vec<EventView>,
    /// Where to go on: the next `since`.
    #[schema(value_type = words::Position)]
    next: String,
    /// The seq of `next`.
    seq: u64,
    /// The registry's epoch.
    epoch: u64,
}

/// A position as callers write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    epoch: u64,
    seq: Seq,
}

impl Place {
    fn read(text: &str) -> Result<Self, Problem> {
        let parts = text.split_once('-').and_then(|(epoch, seq)| {
            let plain = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
            (plain(epoch) && plain(seq)).then_some(())?;
            Some(Self { epoch: epoch.parse().ok()?, seq: Seq(seq.parse().ok()?) })
        });
        parts.ok_or_else(|| {
            let detail = "a position is EPOCH-SEQ, as `next` and the ids of events are";
            Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "since")
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// Takes the place of a stream, apart from the places of ordinary requests.
fn place(call: &Call) -> Result<OwnedSemaphorePermit, Problem> {
    if call.state.draining.is_cancelled() {
        return Err(Problem::new(ProblemCode::Draining, "the collector is stopping"));
    }
    let streams = std::sync::Arc::clone(&call.state.streams);
    streams.try_acquire_owned().map_err(|_| {
        let detail = "there are as many streams as limits.http_streams allows; try again later, or poll without wait";
        Problem::new(ProblemCode::Busy, detail).retry_after(5)
    })
}

async fn stream(call: Call, query: Query, headers: HeaderMap, Seated(seat): Seated) -> Result<Response, Problem> {
    let filter = Filter::read(&query.0, call.scope())?;
    let sent = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let since = sent.filter(|text| !text.is_empty()).or(query.get("since")).map(Place::read).transpose()?;
    let permit = place(&call)?;
    seat.stand_up();
    let follower = Follower::new(call, filter, since, permit, seat);
    let mut answer = Response::new(Body::from_stream(follower.frames()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Its connection has no place among the ordinary ones any more; and a proxy must not hold events back.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(answer)
}

async fn changes(call: Call, query: Query, Seated(seat): Seated) -> Result<Response, Problem> {
    let filter = Filter::read(&query.0, call.scope())?;
    let limit = query.get("limit").map_or(Ok(page::DEFAULT_LIMIT), page::limit)?;
    let wait = query.get("wait").map_or(Ok(Duration::ZERO), wait)?;
    let feed = call.state.registry.feed();
    let epoch = feed.epoch();
    let since = query.get("since").map(Place::read).transpose()?;
    let start = since.map_or_else(|| feed.range().1, |place| place.seq);
    let gone = || {
        let (oldest, seq) = feed.range();
        Problem::new(ProblemCode::Gone, format!("the changes after this position are no longer held: {REMEDY}"))
            .with("epoch", epoch)
            .with("oldest", oldest.0)
            .with("seq", seq.0)
    };
    if since.is_some_and(|place| place.epoch != epoch) {
        return Err(gone());
    }
    let mut page = Polled { items: Vec::new(), count: 0, at: start };
    page.fill(&call, &filter, limit).map_err(|Fallen| gone())?;
    let mut close = false;
    if page.count == 0 && !wait.is_zero() && since.is_some() {
        // While it waits it takes the place of a stream, so that ordinary requests find theirs. Without one it
        // does not wait.
        if let Ok(permit) = place(&call) {
            seat.stand_up();
            let waiting = async {
                let mut head = feed.watch();
                while page.count == 0 && head.changed().await.is_ok() {
                    page.fill(&call, &filter, limit)?;
                }
                Ok(())
            };
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(wait, waiting) => outcome.unwrap_or(Ok(())),
                () = call.state.draining.cancelled() => Ok(()),
            };
            drop(permit);
            close = !seat.sit_down();
            outcome.map_err(|Fallen| gone())?;
            if !follow::is_in(&call) {
                return Err(Problem::new(ProblemCode::Unauthenticated, "the credential ended meanwhile"));
            }
        }
    }
    let place = Place { epoch, seq: page.at };
    let mut body = b"{\"items\":[".to_vec();
    body.append(&mut page.items);
    body.extend_from_slice(format!("],\"next\":\"{place}\",\"seq\":{},\"epoch\":{epoch}}}", page.at).as_bytes());
    let mut answer = Response::new(Body::from(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if close {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

fn wait(text: &str) -> Result<Duration, Problem> {
    let wait = duration::parse(text).ok().filter(|wait| *wait <= MAX_WAIT);
    wait.ok_or_else(|| {
        let detail = format!("wait is a duration of at most {} s, as in 30s", MAX_WAIT.as_secs());
        Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "wait")
    })
}

/// The position is no longer held.
struct Fallen;

/// What a poll gathers.
struct Polled {
    items: Vec<u8>,
    count: usize,
    at: Seq,
}

impl Polled {
    fn fill(&mut self, call: &Call, filter: &Filter, limit: usize) -> Result<(), Fallen> {
        while self.count < limit {
            match call.state.registry.feed().after(self.at) {
                Next::Gone => return Err(Fallen),
                Next::Wait(upto) => {
                    self.at = upto;
                    return Ok(());
                }
                Next::Batch(batch) => {
                    let first = batch.events().partition_point(|kept| kept.seq <= self.at);
                    for kept in batch.events().iter().skip(first) {
                        if self.count == limit {
                            return Ok(());
                        }
                        self.at = kept.seq;
                        if let Some(json) = filter.json(&batch, kept) {
                            if self.count > 0 {
                                self.items.push(b',');
                            }
                            self.items.extend_from_slice(&json);
                            self.count += 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
