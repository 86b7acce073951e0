//! What the sealed audit trail asks of a store, beside the queries of [`RegistryStore`](super::RegistryStore).

use async_trait::async_trait;
use rollcall_common::{id::Seq, time::Timestamp};

use super::{
    Position, StoreError,
    rows::{AuditEvent, SealRow},
};

/// The audit trail in order, and its seals. Nothing here takes a seq.
#[async_trait]
pub trait TrailStore: Send + Sync {
    /// Where the store stands.
    async fn position(&self) -> Result<Position, StoreError>;

    /// Gives the store another epoch: positions of the one before are refused from then on. Called before anything
    /// is loaded.
    async fn begin_epoch(&self, epoch: u64) -> Result<(), StoreError>;

    /// Audit events behind `after` up to `upto`, in order, at most `limit`, capped at 2,000.
    async fn trail(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<AuditEvent>, StoreError>;

    /// Seals behind a number, in order, at most `limit`, capped at 1,000.
    async fn seals(&self, after: u64, limit: usize) -> Result<Vec<SealRow>, StoreError>;

    /// The newest seal.
    async fn last_seal(&self) -> Result<Option<SealRow>, StoreError>;

    /// Adds a seal, durably. `false` where its number is taken or its predecessor is not there.
    async fn seal(&self, row: &SealRow) -> Result<bool, StoreError>;

    /// Removes the events of the oldest batch that has them, where all of them happened before a moment and none
    /// lies behind `floor`; its seal stays and says when. Answers how many went; `None` where nothing is due.
    async fn retire_audit(&self, before: Timestamp, floor: Seq, at: Timestamp) -> Result<Option<u64>, StoreError>;
}
