//! One run as it is looked at, while it goes and after it has ended.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use rollcall_common::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::JobName;
use crate::{
    registry::{
        retention::{Departures, Kept},
        sweep::Target,
    },
    store::rows::{Outcome, RowId, RunRow},
};

/// Lines of one list that are kept.
const MAX_LINES: usize = 10_000;

/// A run.
#[derive(Debug)]
pub struct Run {
    name: JobName,
    total: AtomicUsize,
    done: AtomicUsize,
    largest: AtomicUsize,
    row: Mutex<RunRow>,
    report: Mutex<Report>,
    over: CancellationToken,
}

/// Whom a run concerns, one by one; filled by those that only look.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What a purge would remove, and what it would keep.
    pub departures: Option<Departures>,
    /// What another job would change.
    pub targets: Vec<Target>,
}

impl Run {
    pub(super) fn new(name: JobName, row: RunRow) -> Self {
        Self {
            name,
            total: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
            row: Mutex::new(row),
            report: Mutex::default(),
            over: CancellationToken::new(),
        }
    }

    /// Of which job.
    #[must_use]
    pub fn name(&self) -> JobName {
        self.name
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> RowId {
        self.row().id
    }

    /// How many things it is about, as far as that is known.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// How many of them are done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done.load(Relaxed)
    }

    /// The largest slice that it committed at once.
    #[must_use]
    pub fn largest_slice(&self) -> usize {
        self.largest.load(Relaxed)
    }

    /// Its record as it is now.
    #[must_use]
    pub fn record(&self) -> RunRow {
        self.row().clone()
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.over.is_cancelled()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Its lists.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn expect(&self, total: usize) {
        self.total.fetch_add(total, Relaxed);
    }

    /// Counts what a slice did.
    pub(super) fn did(&self, word: &str, count: usize) {
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            *self.row().counts.entry(word.into()).or_default() += count;
        }
    }

    pub(super) fn advance(&self, slice: usize) {
        self.done.fetch_add(slice, Relaxed);
        self.largest.fetch_max(slice, Relaxed);
    }

    pub(super) fn lists_departures(&self, mut departures: Departures) {
        departures.going.truncate(MAX_LINES);
        departures.kept.truncate(MAX_LINES);
        self.lists().departures = Some(departures);
    }

    pub(super) fn lists_kept(&self, kept: Vec<Kept>) {
        let mut lists = self.lists();
        let departures = lists.departures.get_or_insert_default();
        departures.kept = kept;
        departures.kept.truncate(MAX_LINES);
    }

    pub(super) fn lists_targets(&self, mut targets: Vec<Target>) {
        targets.truncate(MAX_LINES);
        self.lists().targets = targets;
    }

    /// Writes down how it ended.
    pub(super) fn ends(&self, ending: Ending, at: Timestamp) -> RunRow {
        let mut row = self.row();
        let (outcome, error, held_by) = match ending {
            Ending::Well => (Outcome::Succeeded, None, None),
            Ending::Failed(why) => (Outcome::Failed, Some(why), None),
            Ending::Held(why) => (Outcome::Held, None, Some(why)),
            Ending::TimedOut(why) => (Outcome::TimedOut, Some(why), None),
            Ending::Stopped => (Outcome::Stopped, None, None),
        };
        (row.outcome, row.ended_at, row.error, row.held_by) = (Some(outcome), Some(at), error, held_by);
        row.clone()
    }

    /// Tells who waits that it is over; its record is written by then.
    pub(super) fn is_over(&self) {
        self.over.cancel();
    }

    fn row(&self) -> MutexGuard<'_, RunRow> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Well,
    Failed(String),
    Held(String),
    TimedOut(String),
    Stopped,
}
