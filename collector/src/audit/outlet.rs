//! The trail on its way out: to a file, a syslog server, a web hook.
//!
//! Each outlet is a task of its own with a cursor that outlives the process; it sends events in order, each
//! seal behind its batch, and moves the cursor when they were taken: at least once. What it cannot send waits in
//! the store, so that nothing is queued here and no commit waits. Knows the store and the registry's position.

mod file;
mod syslog;
#[cfg(test)]
mod tests;
mod webhook;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use prometheus_client::metrics::gauge::Gauge;
use rollcall_common::{backoff::Backoff, id::Seq};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{file::JsonLines, syslog::Syslog, webhook::Webhook};
use super::offline::Line;
use crate::store::{RegistryStore, StoreError};

/// Events that go out at once.
const EVENTS: usize = 500;
/// Seals that are looked for at once.
const SEALS: usize = 100;
/// How often it is looked for seals, which nobody announces.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long one delivery may take.
const DELIVER_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Where an outlet stands: everything up to here was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The last event's seq.
    pub seq: Seq,
    /// The last seal's number.
    pub seal: u64,
}

/// Why an outlet did not take something.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// The file cannot be written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side refused.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("it took longer than {} s", DELIVER_WITHIN.as_secs())]
    Slow,
    /// The trail cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes lines of the trail.
#[async_trait]
pub trait Outlet: Send {
    /// Its word in logs and metrics.
    fn name(&self) -> &'static str;

    /// Takes all of them, in order; after an error some may have been taken.
    async fn take(&mut self, lines: &[Line]) -> Result<(), OutletError>;
}

/// Where a cursor is kept. It may wait for a disk.
pub type Keep = Arc<dyn Fn(Cursor) -> Result<(), String> + Send + Sync>;

/// How far every outlet has sent: what lies behind may be retired.
#[derive(Debug, Clone, Default)]
pub struct Floor(Vec<Arc<AtomicU64>>);

impl Floor {
    /// Follows these outlets.
    #[must_use]
    pub fn of(runs: &[Run]) -> Self {
        Self(runs.iter().map(|run| Arc::clone(&run.passed)).collect())
    }

    /// The last seq that all of them have sent; beyond every seq where there is none.
    #[must_use]
    pub fn get(&self) -> Seq {
        Seq(self.0.iter().map(|passed| passed.load(Relaxed)).min().unwrap_or(u64::MAX))
    }
}

/// One outlet with what it needs.
pub struct Run {
    /// The outlet.
    pub outlet: Box<dyn Outlet>,
    /// The trail.
    pub store: Arc<dyn RegistryStore>,
    /// Tells of commits.
    pub head: watch::Receiver<Seq>,
    /// Where it stands.
    pub cursor: Cursor,
    /// Keeps where it stands.
    pub keep: Keep,
    /// Tells how far it has sent; begins at the cursor.
    pub passed: Arc<AtomicU64>,
    /// How far it lags behind.
    pub lag: Gauge,
    /// Seeds the pauses.
    pub seed: u64,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({}, {:?})", self.outlet.name(), self.cursor)
    }
}

impl Run {
    /// Sends until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (base, cap) = PAUSE;
        let mut pauses = Backoff::new(base, cap, self.seed);
        loop {
            let pause = match self.once().await {
                Ok(true) => {
                    pauses.reset();
                    Duration::ZERO
                }
                Ok(false) => {
                    pauses.reset();
                    LOOK_EVERY
                }
                Err(error) => {
                    let outlet = self.outlet.name();
                    if pauses.tries() == 0 {
                        tracing::warn!(outlet, %error, "the audit trail does not go out; it waits in the store");
                    }
                    pauses.next_delay(None)
                }
            };
            let failing = pauses.tries() > 0;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                _ = self.head.changed(), if !failing && !pause.is_zero() => {}
            }
        }
    }

    /// Sends the next lines; whether there were any.
    ///
    /// # Errors
    /// When they were not taken, or could not be read.
    pub async fn once(&mut self) -> Result<bool, OutletError> {
        let events = self.store.trail(self.cursor.seq, Seq(u64::MAX), EVENTS).await?;
        let full = events.len() == EVENTS;
        let upto = events.last().map_or(self.cursor.seq, |event| event.seq);
        let mut seals = self.store.seals(self.cursor.seal, SEALS).await?;
        seals.retain(|seal| seal.last <= upto);
        self.lag.set(i64::try_from(events.len()).unwrap_or(i64::MAX));
        let mut after = Cursor { seq: upto, seal: self.cursor.seal };
        let mut lines = Vec::with_capacity(events.len() + seals.len());
        let mut seals = seals.into_iter().peekable();
        for event in events {
            while let Some(seal) = seals.next_if(|seal| seal.last < event.seq) {
                after.seal = seal.no;
                lines.push(Line::Seal(seal));
            }
            lines.push(Line::Event(event));
        }
        for seal in seals {
            after.seal = seal.no;
            lines.push(Line::Seal(seal));
        }
        if lines.is_empty() {
            return Ok(false);
        }
        let taken = tokio::time::timeout(DELIVER_WITHIN, self.outlet.take(&lines)).await;
        taken.map_err(|_| OutletError::Slow)??;
        // A cursor that is not kept sends these lines again after a restart, which is what was promised.
        let keep = Arc::clone(&self.keep);
        let kept =
            tokio::task::spawn_blocking(move || keep(after)).await.unwrap_or_else(|error| Err(error.to_string()));
        kept.map_err(OutletError::Refused)?;
        self.cursor = after;
        self.passed.store(after.seq.0, Relaxed);
        if !full {
            self.lag.set(0);
        }
        Ok(true)
    }
}

/// Lines as JSON, one a line.
fn print(lines: &[Line]) -> Result<Vec<u8>, OutletError> {
    let mut out = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut out, line).map_err(|error| OutletError::Refused(error.to_string()))?;
        out.push(b'\n');
    }
    Ok(out)
}
