//! The registry: the single writer of what is registered.
//!
//! A mailbox in, transitions out. Every change is a [`Request`], planned as a pure function of the roster
//! into a [`Change`], committed by the store in a group, then applied to
//! memory, then announced; an answer leaves only after the commit. Presence is different: it is observed,
//! so it changes in memory at once and its record follows ([`history`]).
//!
//! | module | owns |
//! |---|---|
//! | [`roster`] | all services in dense slots |
//! | [`leases`] | deadlines, touched by heartbeats |
//! | [`links`] | the live connection of each service |
//! | [`children`] | what parents say of those that have no sidecar |
//! | [`judge`] | verdicts: losses, stalls, restarts |
//! | [`history`] | presence intervals on their way to the store |
//! | [`feed`] | what happened, for those who follow |
//! | [`answers`] | requests that are done once, and what was answered |
//! | [`approvals`] | enrollments that an operator decides on |
//! | [`knocks`] | who was turned away |
//! | [`services`], [`tokens`], [`packages`], [`identities`], [`credentials`] | the requests, planned |
//! | [`retention`], [`sweep`] | who may go or be moved by time alone, and the requests that do it |
//! | [`settings`], [`about`] | what is wanted of a sidecar and became of it; what its host says of itself |
//! | [`maintenance`] | who is being worked on |
//! | `actor` | the task that owns all of it |

pub mod about;
mod actor;
pub mod answers;
pub mod approvals;
pub mod children;
pub mod credentials;
pub mod expect;
pub mod feed;
pub mod history;
pub mod identities;
pub mod judge;
pub mod knocks;
pub mod known;
pub mod leases;
pub mod links;
pub mod logins;
pub mod maintenance;
pub mod packages;
pub mod retention;
pub mod roster;
pub mod services;
pub mod settings;
#[cfg(test)]
mod still;
pub mod sweep;
pub mod tokens;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rollcall_common::{
    code::Code,
    health::{HealthReport, HostFacts, ProgressReport},
    id::{BootId, CollectorName, ServiceKey, TrustDomain},
    identity::{Serial, tls::DenySet},
    lease::Pace,
    lifecycle::NoArrow,
    time::{Clock, Now, Timestamp},
    wire::message::{About, Goodbye},
};
use tokio::sync::{mpsc, oneshot};

pub use self::actor::Actor;
use self::{
    children::Book,
    feed::Feed,
    history::Ledger,
    knocks::Knocks,
    leases::Leases,
    links::Links,
    maintenance::Cover,
    roster::{Roster, Slot},
};
use crate::{
    metrics::Metrics,
    store::{
        StoreError,
        rows::{Change, Conflict, ObserverMark},
    },
};

/// Why a request did not pass; the words are for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A service of that kind and id exists.
    #[error("{0} is registered already")]
    Exists(ServiceKey),
    /// No such service.
    #[error("{0} is not registered")]
    UnknownService(ServiceKey),
    /// The row is another than the caller saw.
    #[error("{service} has changed: it is at seq {} and not at {}", .found.0, .expected.0)]
    Changed {
        /// Who.
        service: ServiceKey,
        /// The seq that was expected.
        expected: rollcall_common::id::Seq,
        /// The seq that it has.
        found: rollcall_common::id::Seq,
    },
    /// Something stands below it that would be left without a parent.
    #[error("{service} has {children} children in the way: take them along with cascade, or begin with them")]
    HasChildren {
        /// Who.
        service: ServiceKey,
        /// How many children stand in the way.
        children: u32,
    },
    /// It is deleted, and only a recovery changes that.
    #[error("{0} is deleted: recover it first")]
    Deleted(ServiceKey),
    /// What is asked of an existing service was settled when it was registered.
    #[error("{service} keeps its {field}: remove it and register it anew for another one")]
    Settled {
        /// Who.
        service: ServiceKey,
        /// What cannot change.
        field: &'static str,
    },
    /// The SPIFFE id does not fit the service.
    #[error("{0}")]
    Spiffe(String),
    /// No such token.
    #[error("token {0} does not exist")]
    UnknownToken(rollcall_common::token::TokenId),
    /// No such credential.
    #[error("credential {0} does not exist")]
    UnknownCredential(rollcall_common::token::TokenId),
    /// The credential is revoked already.
    #[error("credential {0} is revoked already")]
    CredentialRevoked(rollcall_common::token::TokenId),
    /// The token is revoked already.
    #[error("token {0} is revoked already")]
    TokenRevoked(rollcall_common::token::TokenId),
    /// An onboarding package does not allow it.
    #[error(transparent)]
    Package(#[from] packages::PackageProblem),
    /// The lifecycle table has no such arrow.
    #[error(transparent)]
    Arrow(#[from] NoArrow),
    /// The parent does not fit.
    #[error("{0}")]
    Parent(#[from] ParentProblem),
    /// No such approval request.
    #[error("approval request {0} does not exist")]
    UnknownApproval(crate::store::rows::RowId),
    /// No such maintenance window.
    #[error("maintenance window {0} does not exist")]
    UnknownWindow(crate::store::rows::RowId),
    /// The maintenance window is over.
    #[error("maintenance window {0} is over already")]
    WindowEnded(crate::store::rows::RowId),
    /// The row is not as its asker saw it.
    #[error("it was changed meanwhile: it stands at \"{epoch}-{seq}\" now; look again and decide anew")]
    Moved {
        /// The registry's epoch.
        epoch: u64,
        /// The seq of the row's last change.
        seq: rollcall_common::id::Seq,
    },
    /// The name of the request is that of another one.
    #[error("another request had this key: give each request a key of its own, and repeat one only as it was")]
    NameReused,
    /// Settings cannot be wanted of it.
    #[error(transparent)]
    Settings(#[from] settings::SettingsProblem),
    /// What was asked for is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// A refusal of the wire's table: enrollment, rejoin, renewal.
    #[error("refused with {0}")]
    Wire(Code),
    /// There is no room for more services.
    #[error("the registry is full: there is room for {0} services more; remove or purge some that are gone")]
    Full(usize),
    /// Too many requests wait.
    #[error("the registry is busy; try again in a second")]
    Busy,
    /// The store does not take changes now.
    #[error("the change was not made: {0}")]
    Store(#[from] StoreError),
    /// The collector is stopping.
    #[error("the collector is stopping")]
    Stopping,
}

/// What is wrong with a parent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParentProblem {
    /// This kind needs one.
    #[error("a parent is required for {0}: name the {1} it belongs to")]
    Missing(rollcall_common::id::Kind, rollcall_common::id::Kind),
    /// This kind has none.
    #[error("{0} takes no parent")]
    Unwanted(rollcall_common::id::Kind),
    /// Not registered.
    #[error("parent {0} is not registered")]
    Unknown(ServiceKey),
    /// Registered, but under another kind.
    #[error("parent {found} is of the wrong kind: {wanted} is needed")]
    WrongKind {
        /// What has that id.
        found: ServiceKey,
        /// The kind that is needed.
        wanted: rollcall_common::id::Kind,
    },
    /// Revoked or deleted.
    #[error("parent {0} is {1}")]
    Barred(ServiceKey, rollcall_common::lifecycle::Status),
}

impl ParentProblem {
    /// The number for the wire.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing(..) | Self::Unknown(_) => Code::ParentUnknown,
            Self::Unwanted(_) | Self::WrongKind { .. } => Code::ParentKind,
            Self::Barred(..) => Code::ParentBarred,
        }
    }
}

impl Refusal {
    /// The number for the wire.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Wire(code) => *code,
            Self::Parent(problem) => problem.code(),
            Self::Exists(_) => Code::IdTaken,
            Self::UnknownService(_) => Code::UnknownIdentity,
            Self::UnknownToken(_) | Self::TokenRevoked(_) | Self::UnknownCredential(_) | Self::CredentialRevoked(_) => {
                Code::Denied
            }
            Self::Arrow(_)
            | Self::Package(_)
            | Self::Settings(_)
            | Self::Invalid(_)
            | Self::NameReused
            | Self::UnknownApproval(_)
            | Self::UnknownWindow(_)
            | Self::WindowEnded(_)
            | Self::Changed { .. }
            | Self::HasChildren { .. }
            | Self::Settled { .. }
            | Self::Moved { .. }
            | Self::Spiffe(_) => Code::Protocol,
            Self::Deleted(_) => Code::Deleted,
            Self::Full(_) => Code::RegistryFull,
            Self::Busy => Code::Busy,
            Self::Store(_) => Code::StoreUnavailable,
            Self::Stopping => Code::Draining,
        }
    }
}

/// What planning may look at.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// What is registered, as committed.
    pub roster: &'a Roster,
    /// The collector's clocks.
    pub now: Now,
}

/// A change that somebody asks for, as a pure plan.
pub trait Request: fmt::Debug + Send + 'static {
    /// What the asker gets once the change is durable.
    type Answer: Send + 'static;

    /// Turns the request into a change and its answer. May be called again after a conflict.
    ///
    /// # Errors
    /// The refusal that the asker gets.
    fn plan(&self, world: World<'_>) -> Result<(Change, Self::Answer), Refusal>;

    /// What a conflict means; `None` = memory has moved on, plan again.
    fn conflict(&self, conflict: Conflict) -> Option<Refusal> {
        match conflict {
            Conflict::TokenSpent => Some(Refusal::Wire(Code::TokenExhausted)),
            Conflict::TokenEnded => Some(Refusal::Wire(Code::TokenExpired)),
            Conflict::KeyInUse => Some(Refusal::Wire(Code::KeyInUse)),
            Conflict::Exists | Conflict::Missing | Conflict::Stale => None,
        }
    }
}

/// What a connection tells the registry; nobody waits for an answer.
#[derive(Debug)]
pub enum Notice {
    /// A beat found its lease not running.
    Woke(Slot),
    /// A child's parent reports it under an interval so much longer that the history must know.
    Repaced(Slot),
    /// The sidecar said goodbye.
    Goodbye(Slot, Goodbye),
    /// What is said of the service changed.
    Health(Slot, HealthReport),
    /// The host's facts changed.
    Facts(Slot, Box<HostFacts>),
    /// What is said of the service's progress changed.
    Progress(Slot, ProgressReport),
    /// What the sidecar says of its settings.
    Settings(Slot, settings::Heard),
    /// A beat echoed the pace of this revision of settings.
    Paced(Slot, u64),
    /// What the host says of itself.
    About(Slot, Box<About>),
    /// Something that only the audit trail wants to know.
    Audit(Box<crate::store::rows::AuditDraft>),
}

/// A queued request; hides its type.
trait Job: Send {
    fn plan(&mut self, world: World<'_>) -> Option<Change>;
    fn conflict(&mut self, conflict: Conflict) -> bool;
    fn finish(self: Box<Self>, outcome: Result<(), Refusal>);
}

struct Asked<R: Request> {
    request: R,
    answer: Option<Result<R::Answer, Refusal>>,
    reply: oneshot::Sender<Result<R::Answer, Refusal>>,
}

impl<R: Request> Job for Asked<R> {
    fn plan(&mut self, world: World<'_>) -> Option<Change> {
        let (change, answer) = match self.request.plan(world) {
            Ok((change, answer)) => (Some(change), Ok(answer)),
            Err(refusal) => (None, Err(refusal)),
        };
        self.answer = Some(answer);
        change
    }

    fn conflict(&mut self, conflict: Conflict) -> bool {
        match self.request.conflict(conflict) {
            Some(refusal) => {
                self.answer = Some(Err(refusal));
                false
            }
            None => true,
        }
    }

    fn finish(self: Box<Self>, outcome: Result<(), Refusal>) {
        let Self { answer, reply, .. } = *self;
        let answer = outcome.and_then(|()| answer.unwrap_or(Err(Refusal::Stopping)));
        // An asker that has gone away does not undo a durable change.
        let _ = reply.send(answer);
    }
}

enum Mail {
    Job(Box<dyn Job>),
    Notice(Notice),
}

/// Which deployment and collector this is.
#[derive(Debug, Clone)]
pub struct Whoami {
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// This collector.
    pub collector: CollectorName,
    /// This host's boot.
    pub boot_id: BootId,
}

/// Everything that is read without asking the actor.
#[derive(Debug)]
struct Shared {
    roster: RwLock<Roster>,
    leases: Leases,
    links: Links,
    feed: Feed,
    /// At most one entry for each service.
    children: Mutex<Book>,
    /// Bounded by itself.
    knocks: Mutex<Knocks>,
    pace: RwLock<(Pace, Option<Pace>)>,
    ledger: RwLock<Ledger>,
    /// Whose presence is shown but not recorded, with the number of rows that wait.
    unrecorded: RwLock<HashMap<ServiceKey, u32>>,
    /// Who left the liveness store's view since it was last told.
    retired: Mutex<Vec<ServiceKey>>,
    /// Pollers that count as known without being registered.
    known_pollers: RwLock<std::collections::BTreeSet<rollcall_common::id::ServiceId>>,
    store_ok: AtomicBool,
    /// Whether the CA can sign.
    signs: AtomicBool,
    /// The last moment at which the collector was observing.
    observed: Mutex<Now>,
    /// Who is being worked on, as of the last time that somebody asked.
    cover: ArcSwap<Cover>,
    /// What this collector wrote down of both clocks before it started.
    mark_before: OnceLock<ObserverMark>,
}

impl Shared {
    fn new(roster: Roster, leases: Leases, ledger: Ledger, pace: (Pace, Option<Pace>), now: Now) -> Self {
        Self {
            feed: Feed::new(roster.position()),
            roster: RwLock::new(roster),
            leases,
            links: Links::default(),
            children: Mutex::default(),
            knocks: Mutex::default(),
            pace: RwLock::new(pace),
            ledger: RwLock::new(ledger),
            unrecorded: RwLock::default(),
            retired: Mutex::default(),
            known_pollers: RwLock::default(),
            store_ok: true.into(),
            signs: true.into(),
            observed: Mutex::new(now),
            cover: ArcSwap::default(),
            mark_before: OnceLock::new(),
        }
    }
}

/// A handle on the registry; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    mail: mpsc::Sender<Mail>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    whoami: Arc<Whoami>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.whoami.collector)
    }
}

impl Registry {
    /// Reads what is registered. The closure must be short: changes wait for it.
    pub fn read<T>(&self, look: impl FnOnce(&Roster) -> T) -> T {
        look(&self.shared.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lease table.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.shared.leases
    }

    /// The live connections.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.shared.links
    }

    /// What happened, in commit order.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    /// The clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// The clock itself, for shells that start with the registry.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Who this collector is.
    #[must_use]
    pub fn whoami(&self) -> &Whoami {
        &self.whoami
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The pace in force and the one before it.
    #[must_use]
    pub fn pace(&self) -> (Pace, Option<Pace>) {
        *self.shared.pace.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last commit or ping of the registry store went well.
    #[must_use]
    pub fn store_ok(&self) -> bool {
        self.shared.store_ok.load(Relaxed)
    }

    /// Tells whether the CA can sign: while it cannot, ended certificates keep their live connections.
    pub fn set_signing(&self, signs: bool) {
        self.shared.signs.store(signs, Relaxed);
    }

    /// Who was turned away.
    pub fn knocks(&self) -> std::sync::MutexGuard<'_, Knocks> {
        self.shared.knocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of a time this collector could not observe. A stall counts as soon as it can be known, not only
    /// once a tick has written it down: who wakes first on a host that slept must not act as if all had been seen.
    #[must_use]
    pub fn blind_within(&self, from: Timestamp, to: Timestamp) -> Duration {
        // In this order: what leaves the stall is in the ledger by then, and overlaps count once.
        let stall = self.stall();
        self.shared.ledger.read().unwrap_or_else(PoisonError::into_inner).overlap(from, to, stall)
    }

    /// The time since the last tick, where it is too long.
    fn stall(&self) -> Option<(Timestamp, Timestamp)> {
        let (observed, now) = (self.observed(), self.now());
        let length = now.boot.since(observed.boot);
        (length >= judge::STALL).then(|| (now.wall.before(length), now.wall))
    }

    /// Who is being worked on now. Must not be asked for while the roster is being read.
    #[must_use]
    pub fn cover(&self) -> Arc<Cover> {
        let now = self.now().wall;
        let cover = self.shared.cover.load_full();
        if self.read(|roster| cover.stands(roster.upkeep().revision(), now)) {
            return cover;
        }
        // Compiled with the roster let go: many recurring windows take their time.
        let (revision, windows): (_, Vec<_>) =
            self.read(|roster| (roster.upkeep().revision(), roster.upkeep().windows().cloned().collect()));
        let cover = Arc::new(Cover::of_windows(revision, &windows, now));
        self.shared.cover.store(Arc::clone(&cover));
        cover
    }

    /// What this collector wrote down of both clocks before it started, if it ever did.
    #[must_use]
    pub fn mark_before(&self) -> Option<&ObserverMark> {
        self.shared.mark_before.get()
    }

    /// When the last blind interval ended that did within a time, if one did.
    #[must_use]
    pub fn blind_until(&self, from: Timestamp) -> Option<Timestamp> {
        let stall = self.stall().map(|(_, to)| to).filter(|to| *to > from);
        stall.max(self.shared.ledger.read().unwrap_or_else(PoisonError::into_inner).last_end(from))
    }

    /// Whether the presence that is shown of a service is on record.
    #[must_use]
    pub fn is_recorded(&self, key: &ServiceKey) -> bool {
        !self.shared.unrecorded.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// The last moment at which this collector was observing.
    #[must_use]
    pub fn observed(&self) -> Now {
        *self.shared.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who left since the last such call, for the liveness store.
    #[must_use]
    pub fn take_retired(&self) -> Vec<ServiceKey> {
        std::mem::take(&mut *self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts those back whom the liveness store could not be told of.
    pub fn put_back_retired(&self, services: Vec<ServiceKey>) {
        self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner).extend(services);
    }

    /// Whether a request would pass as things stand; nothing is changed.
    ///
    /// # Errors
    /// The refusal.
    pub fn foresee<R: Request>(&self, request: &R) -> Result<(), Refusal> {
        let now = self.now();
        self.read(|roster| request.plan(World { roster, now }).map(drop))
    }

    /// Asks for a change and waits until it is durable.
    ///
    /// # Errors
    /// The refusal; [`Refusal::Store`] means that nothing happened.
    pub async fn ask<R: Request>(&self, request: R) -> Result<R::Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Asked { request, answer: None, reply });
        self.mail.try_send(Mail::Job(job)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.mailbox_full.inc();
                Refusal::Busy
            }
            mpsc::error::TrySendError::Closed(_) => Refusal::Stopping,
        })?;
        answer.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Tells the registry something that must not be lost, waiting for room in the mailbox.
    pub async fn tell_surely(&self, notice: Notice) {
        // A closed mailbox means that the collector stops.
        let _ = self.mail.send(Mail::Notice(notice)).await;
    }

    /// Tells the registry something. When the mailbox is full the notice is lost and counted: a lost
    /// [`Notice::Woke`] is told again by the next beat. Answers whether it was taken.
    pub fn tell(&self, notice: Notice) -> bool {
        let told = self.mail.try_send(Mail::Notice(notice));
        if let Err(mpsc::error::TrySendError::Full(_)) = told {
            self.metrics.mailbox_full.inc();
        }
        told.is_ok()
    }
}

impl DenySet for Registry {
    fn denies(&self, serial: Serial) -> bool {
        self.read(|roster| roster.denies(serial))
    }
}
