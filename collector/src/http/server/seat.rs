//! The place of a connection among the ordinary ones, and a write that must get somewhere.
//!
//! A connection that turns into a stream stands up: its place goes to the next in the backlog, so that
//! streams and ordinary requests never starve one another. [`Paced`] gives a connection up whose peer takes
//! nothing for too long; whatever waits to be written is then dropped with it. A seat knows whether its
//! connection keeps us waiting, which decides who yields to a newcomer.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{extract::FromRequestParts, http::request::Parts};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// A connection's place.
#[derive(Debug, Default)]
pub(in crate::http) struct Seat {
    room: Option<Arc<Semaphore>>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    stood: AtomicBool,
    stalled: AtomicBool,
    stage: Mutex<Stage>,
    yields: CancellationToken,
    /// Told when the connection keeps us waiting again.
    idle: Arc<Notify>,
}

/// Where a connection stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Something is still to come from its peer.
    #[default]
    Waiting,
    /// A whole request is here.
    Serving,
    /// The answer is made, and not sent yet.
    Answered,
}

impl Seat {
    /// Takes a place with its permit.
    pub(in crate::http) fn taken(room: Arc<Semaphore>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { room: Some(room), permit: Mutex::new(permit), ..Self::default() }
    }

    /// Tells somebody when the connection keeps us waiting again.
    pub(super) fn tells(self, idle: &Arc<Notify>) -> Self {
        Self { idle: Arc::clone(idle), ..self }
    }

    /// Whether something is to come from its peer, and it may go for that.
    pub(super) fn keeps_waiting(&self) -> bool {
        *self.stage() == Stage::Waiting && !self.yields.is_cancelled()
    }

    /// Asks the connection to go.
    pub(super) fn yields(&self) {
        self.yields.cancel();
    }

    /// Whether it was asked to.
    #[cfg(test)]
    pub(super) fn has_yielded(&self) -> bool {
        self.yields.is_cancelled()
    }

    /// Waits until it is asked to. Answers whether it may go at once: a request may have come meanwhile.
    pub(super) async fn asked_to_yield(&self) -> bool {
        self.yields.cancelled().await;
        *self.stage() == Stage::Waiting
    }

    /// A whole request is here.
    pub(super) fn serves(&self) {
        *self.stage() = Stage::Serving;
    }

    /// Its answer is made.
    pub(super) fn answered(&self) {
        *self.stage() = Stage::Answered;
    }

    /// All that was written is out.
    pub(super) fn flushed(&self) {
        let mut stage = self.stage();
        if *stage == Stage::Answered {
            *stage = Stage::Waiting;
            self.idle.notify_one();
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the place up for as long as a stream lasts.
    pub(in crate::http) fn stand_up(&self) {
        self.stood.store(true, Relaxed);
        drop(self.permit.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Takes a place again; `false` where none is free, and the connection must end with its answer.
    pub(in crate::http) fn sit_down(&self) -> bool {
        let Some(permit) = self.room.as_ref().and_then(|room| Arc::clone(room).try_acquire_owned().ok()) else {
            return false;
        };
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        self.stood.store(false, Relaxed);
        true
    }

    /// Whether the connection serves a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.stood.load(Relaxed)
    }

    /// Whether its peer took nothing for too long.
    pub(in crate::http) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }
}

/// The seat of a request's connection; one without consequence where there is no connection, as in tests.
pub(in crate::http) struct Seated(pub(in crate::http) Arc<Seat>);

impl<S: Sync> FromRequestParts<S> for Seated {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Arc<Seat>>().cloned().unwrap_or_default()))
    }
}

/// A transport whose writes must get somewhere.
pub(in crate::http) struct Paced<S> {
    inner: S,
    within: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    seat: Arc<Seat>,
}

impl<S> Paced<S> {
    pub(in crate::http) fn new(inner: S, within: Duration, seat: Arc<Seat>) -> Self {
        Self { inner, within, waiting: None, seat }
    }

    fn pace<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let within = self.within;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(waiting.as_mut().poll(cx));
        self.seat.stalled.store(true, Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.pace(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.pace(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.seat.flushed();
        }
        self.pace(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.pace(cx, outcome)
    }
}
