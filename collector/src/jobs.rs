//! What happens by itself: jobs on a schedule, each with a record that outlives a restart.
//!
//! One task owns the schedule and every run; [`Jobs`] is the handle by which others ask for a run and look on. When
//! a job runs ([`due`]), whether it must hold still ([`doubt`]) and whom it concerns (`registry::retention`) are
//! pure judgements; what it does goes to the registry as requests, a slice at a time ([`slices`]), like everybody
//! else's. It never writes past the registry what takes a seq, and it knows neither HTTP nor the wire.
//!
//! A run of a job excludes another of the same job; different jobs may run side by side. What is recorded at its
//! begin and its end is in the store; progress and lists are in memory, of the last few runs.
//!
//! | module | owns |
//! |---|---|
//! | `due` | when a job runs |
//! | `doubt` | when nobody should be removed by the clock |
//! | `slices` | how much at once |
//! | `record` | the requests that keep a job's record |
//! | `run` | one run as it is looked at |
//! | `runner` | the task |
//! | `work` | what each job does |

mod doubt;
mod due;
mod record;
mod run;
mod runner;
mod slices;
mod work;

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_common::{id::Seq, lifecycle::Status, time::Timestamp};
use tokio::sync::{mpsc, oneshot};

pub use self::{
    doubt::{Doubts, Hold, Tolerance, holds},
    record::SetJob,
    run::{Report, Run},
    runner::Runner,
};
use crate::{
    audit::outlet::Floor,
    config::{JobSettings, Upkeep},
    registry::{
        Refusal, Registry,
        retention::{Departures, Retention},
        services::By,
    },
    store::{
        RegistryStore,
        rows::{HoldRow, JobRow, RowId},
    },
};

/// Runs that are remembered of each job.
const RECENT: usize = 8;
/// Orders that may wait.
const ORDERS: usize = 64;
/// The hold of a stepped wall clock.
const CLOCK_STEP: &str = "clock_step";
/// That an operator has seen a time of blindness: what lies before it counts no more.
const BLIND_SEEN: &str = "blind_seen";

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $about:literal;)*) => {
        /// Every job there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum JobName { $($(#[$doc])* $name,)* }

        impl JobName {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name,)*];

            /// The word used in the configuration, the API and in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it does, in a line.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

names! {
    /// Silent services become inactive.
    MarkInactive = "mark_inactive", "makes active services inactive that have been silent";
    /// Inactive ones of old are revoked.
    Archive = "archive", "revokes services that have been inactive for very long";
    /// Records go after their retention.
    Purge = "purge", "removes services whose retention is over";
    /// What was never meant to stay goes.
    Ephemeral = "ephemeral", "removes ephemeral services that are gone";
    /// Old history goes.
    Retention = "retention", "removes history that was kept long enough";
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no job {0:?}: there are mark_inactive, archive, purge, ephemeral and retention")]
pub struct NoJob(String);

impl FromStr for JobName {
    type Err = NoJob;
    fn from_str(text: &str) -> Result<Self, NoJob> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(|| NoJob(text.chars().take(40).collect()))
    }
}

/// What jobs go by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As configured.
    pub upkeep: Upkeep,
    /// The life of a certificate.
    pub leaf_ttl: Duration,
    /// How far the audit trail has gone out.
    pub sent: Floor,
}

impl Settings {
    /// The settings of one job.
    #[must_use]
    pub fn of(&self, name: JobName) -> &JobSettings {
        match name {
            JobName::MarkInactive => &self.upkeep.mark_inactive,
            JobName::Archive => &self.upkeep.archive,
            JobName::Purge => &self.upkeep.purge,
            JobName::Ephemeral => &self.upkeep.ephemeral,
            JobName::Retention => &self.upkeep.retention,
        }
    }

    /// How long services are kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let keep = &self.upkeep.keep;
        Retention {
            pending: keep.pending,
            inactive: keep.inactive,
            revoked: keep.revoked,
            deleted: keep.deleted,
            leaf_ttl: self.leaf_ttl,
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { within: self.upkeep.hold_after_blind, blind: self.upkeep.blind_limit }
    }
}

/// What a run is asked for beyond its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Only look.
    pub dry_run: bool,
    /// For a purge: whom, by what rule.
    pub purge: Option<PurgeAsk>,
    /// Who asks.
    pub by: By,
}

/// Whom a purge concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeAsk {
    /// How long services are kept.
    pub retention: Retention,
    /// Only services that stand there.
    pub statuses: Vec<Status>,
    /// At most so many.
    pub cap: usize,
    /// Nothing happens where the number is another one.
    pub expect: Option<usize>,
}

/// Why no run began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    /// One of this job is under way.
    #[error("{0} runs already: look at it, or wait for its end")]
    Running(JobName),
    /// Too many orders wait.
    #[error("too many orders wait; try again in a second")]
    Busy,
    /// The collector is stopping.
    #[error("the collector is stopping")]
    Stopping,
    /// The operating system has no randomness.
    #[error("{0}")]
    Randomness(String),
}

/// A job as it is looked at.
#[derive(Debug, Clone)]
pub struct JobSight {
    /// Which.
    pub name: JobName,
    /// Its settings.
    pub settings: JobSettings,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// Its record, if it has one.
    pub row: Option<Arc<JobRow>>,
    /// When it is due.
    pub next_at: Option<Timestamp>,
    /// What holds it back.
    pub hold: Option<Hold>,
    /// Its last runs since this collector started, the newest first; one may be under way.
    pub runs: Vec<Arc<Run>>,
}

/// A handle on the jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    store: Arc<dyn RegistryStore>,
    settings: Settings,
    orders: mpsc::Sender<Order>,
    board: Mutex<BTreeMap<JobName, Post>>,
}

/// What is known of one job in memory.
#[derive(Debug, Clone, Default)]
struct Post {
    next_at: Option<Timestamp>,
    runs: Vec<Arc<Run>>,
}

#[derive(Debug)]
struct Order {
    name: JobName,
    ask: Ask,
    reply: oneshot::Sender<Result<Arc<Run>, NotStarted>>,
}

impl Jobs {
    /// The handle, and the task that must run for it to be of use.
    #[must_use]
    pub fn new(registry: Registry, store: Arc<dyn RegistryStore>, settings: Settings) -> (Self, Runner) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let board = JobName::ALL.into_iter().map(|name| (name, Post::default())).collect();
        let inner = Arc::new(Inner { registry, store, settings, orders: sender, board: Mutex::new(board) });
        let jobs = Self(inner);
        (jobs.clone(), Runner::new(jobs, orders))
    }

    /// What jobs go by.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Looks at a job.
    #[must_use]
    pub fn sight(&self, name: JobName) -> JobSight {
        let row = self.row(name);
        let post = self.board().get(&name).cloned().unwrap_or_default();
        JobSight {
            name,
            settings: self.settings().of(name).clone(),
            enabled: self.is_enabled(name, row.as_deref()),
            hold: self.hold(name),
            row,
            next_at: post.next_at,
            runs: post.runs,
        }
    }

    /// One of the last runs.
    #[must_use]
    pub fn run(&self, name: JobName, id: RowId) -> Option<Arc<Run>> {
        self.board().get(&name)?.runs.iter().find(|run| run.id() == id).cloned()
    }

    /// What holds a job back now.
    #[must_use]
    pub fn hold(&self, name: JobName) -> Option<Hold> {
        holds(name, &self.doubts(), self.settings().tolerance())
    }

    /// What speaks against acting by time now.
    #[must_use]
    pub fn doubts(&self) -> Doubts {
        let registry = &self.0.registry;
        let now = registry.now().wall;
        let (step, seen) = registry.read(|roster| {
            let upkeep = roster.upkeep();
            (upkeep.hold(CLOCK_STEP).cloned(), upkeep.hold(BLIND_SEEN).map(|row| row.since))
        });
        let step_ms = |row: &HoldRow| row.detail.get("step_ms").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let within = self.settings().tolerance().within;
        // What was seen in the future was seen before the clock was put back.
        let from = now.before(within).max(seen.filter(|seen| *seen <= now).unwrap_or(Timestamp(i64::MIN)));
        Doubts {
            clock_step: step.map(|row| (row.since, step_ms(&row))),
            blind: registry.blind_within(from, now),
            blind_end: registry.blind_until(from),
        }
    }

    /// Begins a run.
    ///
    /// # Errors
    /// Why none began.
    pub async fn start(&self, name: JobName, ask: Ask) -> Result<Arc<Run>, NotStarted> {
        let (reply, answer) = oneshot::channel();
        self.0.orders.try_send(Order { name, ask, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotStarted::Busy,
            mpsc::error::TrySendError::Closed(_) => NotStarted::Stopping,
        })?;
        answer.await.unwrap_or(Err(NotStarted::Stopping))
    }

    /// What a purge would do now; nothing is changed, nothing recorded.
    pub async fn departures(&self, ask: &PurgeAsk) -> Departures {
        work::departures(&self.0.registry, ask).await
    }

    /// The rule that the scheduled purge goes by.
    #[must_use]
    pub fn purge_ask(&self) -> PurgeAsk {
        PurgeAsk {
            retention: self.settings().retention(),
            statuses: vec![Status::Pending, Status::Inactive, Status::Revoked, Status::Deleted],
            cap: self.settings().upkeep.purge.cap,
            expect: None,
        }
    }

    /// Switches a job on or off, or pauses it. `None` leaves a thing as it is, `Some(None)` gives it back to the
    /// configuration, or ends the pause. To be asked of the registry.
    #[must_use]
    pub fn setting(
        &self,
        name: JobName,
        enabled: Option<Option<bool>>,
        paused_until: Option<Option<Timestamp>>,
        by: By,
    ) -> SetJob {
        let schedule = self.settings().of(name).schedule.as_str().to_owned();
        SetJob { name, schedule, enabled, paused_until, by }
    }

    /// Confirms that all is well: what holds jobs back holds them no longer.
    ///
    /// # Errors
    /// The registry's refusal; where nothing is held there is nothing to confirm.
    pub async fn confirm(&self, by: By) -> Result<(), Refusal> {
        let held = JobName::ALL.into_iter().filter_map(|name| self.hold(name)).map(|hold| hold.to_string());
        let held: std::collections::BTreeSet<String> = held.collect();
        self.0.registry.ask(record::Confirm { held: held.into_iter().collect(), by }).await
    }

    /// The seq of the registry, for answers.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.0.registry.read(|roster| roster.position().seq)
    }

    fn row(&self, name: JobName) -> Option<Arc<JobRow>> {
        self.0.registry.read(|roster| roster.upkeep().job(name.as_str()).cloned())
    }

    fn is_enabled(&self, name: JobName, row: Option<&JobRow>) -> bool {
        row.and_then(|row| row.enabled).unwrap_or(self.settings().of(name).enabled)
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<JobName, Post>> {
        // Every change of the board is whole before anything could panic.
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
