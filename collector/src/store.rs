//! The two narrow store traits, in the registry's words; no SQL and no Redis notion leaks through them.
//!
//! [`RegistryStore`] is the durable truth: rows, audit events, presence intervals. A [`Change`] is one
//! compare-and-set with its audit events; a batch of changes commits in one transaction, each change
//! standing or falling alone. [`LivenessStore`] is a cache that others read: what is alive, for how long.
//! It is never a witness: losing it costs nobody a lease.
//!
//! Every back end passes `store/suite.rs`.

#[cfg(any(test, feature = "test-util"))]
pub mod flaky;
pub mod memory;
pub mod redis;
pub mod rows;
pub mod sqlite;
#[cfg(any(test, feature = "test-util"))]
pub mod suite;
mod trail;

use std::fmt;

use async_trait::async_trait;
use rollcall_common::{
    id::{BeatNo, Seq, ServiceKey, SessionNo},
    time::Timestamp,
    token::TokenId,
};

use self::rows::{
    Applied, AuditEvent, AuditQuery, BlindRow, Change, Conflict, IntervalRow, KnockRow, Loaded, ObserverMark, Outlived,
    Prune,
};
pub use self::trail::TrailStore;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or written now; asking again may help.
    #[error("the {store} store is unavailable: {why}")]
    Unavailable {
        /// Which store, with its path or address.
        store: String,
        /// The cause.
        why: String,
    },
    /// What it holds cannot be read; asking again will not help.
    #[error("the {store} store holds something unreadable: {why}")]
    Corrupt {
        /// Which store, with its path or address.
        store: String,
        /// What and where.
        why: String,
    },
    /// It was made by a newer version.
    #[error(
        "the {store} store was written by a newer version (schema {found}, this program knows {known}): upgrade the collector"
    )]
    Newer {
        /// Which store, with its path or address.
        store: String,
        /// The schema found.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// Its address or its setting cannot work; asking again will not help.
    #[error("the {store} store is not set up: {why}")]
    Misconfigured {
        /// Which store.
        store: String,
        /// What is wrong; never the address, which may hold a password.
        why: String,
    },
}

impl StoreError {
    /// Whether asking again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Corrupt { .. } | Self::Newer { .. } | Self::Misconfigured { .. } => false,
        }
    }
}

/// The durable registry. Implementations are safe to share; one collector has one writer.
#[async_trait]
pub trait RegistryStore: TrailStore + Send + Sync + fmt::Debug {
    /// Everything that a collector holds in memory: called once, at start.
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// Applies changes in order in ONE durable transaction. A change whose precondition fails is rolled
    /// back alone and answered with its conflict; an error means that nothing of the batch happened.
    /// Answers are in the order of the changes. `at` is the commit's wall time (`recorded_at`).
    /// Each write that takes a seq takes the next one, then each audit event of its change; a conflict
    /// gives back what its change took, so that there are no gaps. Whoever drops the future before it
    /// ends does not learn whether the batch happened: all of it did, or nothing.
    async fn commit(&self, batch: &[Change], at: Timestamp) -> Result<Vec<Result<Applied, Conflict>>, StoreError>;

    /// Moves `last_seen` forward, never back; takes no seq. Unknown services are passed over.
    async fn flush_last_seen(&self, seen: &[(ServiceKey, Timestamp)]) -> Result<(), StoreError>;

    /// Keeps knocks as they are now and removes those that are gone, in one transaction; takes no seq.
    async fn keep_knocks(&self, put: &[KnockRow], gone: &[TokenId]) -> Result<(), StoreError>;

    /// Persists that a collector was observing at this moment; one row a collector.
    async fn mark_observing(&self, mark: &ObserverMark) -> Result<(), StoreError>;

    /// Records a time that could not be observed.
    async fn record_blind(&self, blind: &BlindRow) -> Result<(), StoreError>;

    /// Blind intervals that end after `since`, the newest of them, oldest first, at most `limit`, capped at 1,000.
    async fn blind_since(&self, since: Timestamp, limit: usize) -> Result<Vec<BlindRow>, StoreError>;

    /// Audit events, newest first.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, StoreError>;

    /// The presence history of a service, newest first, superseded rows left out unless asked for. The
    /// limit is capped at 1,000.
    async fn history(
        &self,
        service: &ServiceKey,
        limit: usize,
        superseded: bool,
    ) -> Result<Vec<IntervalRow>, StoreError>;

    /// Takes out what retention has outlived: at most `limit` rows, capped at 10,000, in one transaction. Answers
    /// how many went; fewer than asked for means that no more are there. Takes no seq. An interval that lasts
    /// stays.
    async fn prune(&self, what: &Prune, limit: usize) -> Result<u64, StoreError>;

    /// How many rows [`RegistryStore::prune`] and [`TrailStore::retire_audit`] would take out, were they asked until
    /// nothing is left. Changes nothing, and no commit waits for it.
    async fn outlived(&self, what: &Outlived) -> Result<u64, StoreError>;

    /// Services that have more than `keep` presence intervals which ended, in the order of their names behind
    /// `after`, at most `limit`, capped at 1,000.
    async fn crowded(&self, keep: u32, after: Option<&ServiceKey>, limit: usize)
    -> Result<Vec<ServiceKey>, StoreError>;

    /// Proof that it can be written now: a small durable write that changes nothing.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Flushes and closes; further calls fail.
    async fn close(&self);
}

/// What a tick publishes of one service that beat since the last tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Who.
    pub service: ServiceKey,
    /// The dial that the beat came over.
    pub session: SessionNo,
    /// The beat.
    pub beat_no: BeatNo,
    /// The granted time to live, in milliseconds.
    pub ttl_ms: u32,
}

/// What a publication found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The store holds what was published before.
    Kept,
    /// Since this handle's last publication the store was flushed, restarted or failed over: everything
    /// must be published again. This is a blind interval of that store and of nothing else. Told once, by
    /// the publication that finds it; a handle that never published has nothing to lose.
    Lost,
}

/// The published view of liveness.
#[async_trait]
pub trait LivenessStore: Send + Sync + fmt::Debug {
    /// Publishes a tick's marks, in one round trip where they are few. Each replaces the service's earlier
    /// mark and starts its time to live anew. After an error some may be published and some not.
    async fn publish(&self, marks: &[Mark]) -> Result<Continuity, StoreError>;

    /// Takes services out at once: goodbye, revoked, lost, removed.
    async fn retire(&self, services: &[ServiceKey]) -> Result<(), StoreError>;

    /// The mark of one service, if its time to live is not over.
    async fn get(&self, service: &ServiceKey) -> Result<Option<Mark>, StoreError>;

    /// All marks whose time to live is not over, in no order.
    async fn all(&self) -> Result<Vec<Mark>, StoreError>;

    /// What it is and where, for logs and `/readyz`.
    fn name(&self) -> String;
}

/// The position of a store: answers carry it, reads can ask for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Changes when a store is restored or replaced.
    pub epoch: u64,
    /// The last committed seq.
    pub seq: Seq,
}
