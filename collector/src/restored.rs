//! Whether the registry's database is the one that this collector left behind.
//!
//! The newest seal of the audit trail is noted beside the database. A database that does not hold it was put back
//! from a copy, replaced, or tampered with. Whatever it was, positions that were told before mean nothing any more:
//! the store begins a new epoch, so that feeds, tags and `min_seq` of the old one are refused instead of being
//! answered wrongly. What was noted is kept as evidence until an operator has looked into it and removes it.
//! It knows the trail and the state directory, and judges nobody.

use rollcall_common::id::{self, NoRandomness};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    audit::chain::{SealHash, SealRow},
    statedir::{StateDir, StateDirError},
    store::{Position, RegistryStore, StoreError},
};

const HEAD_FILE: &str = "audit-head.json";
/// The first head that was missed; removed by an operator.
pub const EVIDENCE_FILE: &str = "audit-head.missed.json";

/// The newest seal, kept beside the store: whoever has the database alone cannot rewrite the trail unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The epoch it was made in.
    pub epoch: u64,
    /// Its number.
    pub no: u64,
    /// Its hash.
    pub head: SealHash,
}

impl Noted {
    /// Notes a seal.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(self, state: &StateDir) -> Result<(), StateDirError> {
        state.write(HEAD_FILE, &serde_json::to_vec(&self).unwrap_or_default())
    }
}

/// Why the database could not be compared with what was noted.
#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness for a new epoch.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// A database that is not the one that was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What should have been there.
    pub noted: Noted,
    /// Where the database stands.
    pub found: Position,
    /// The epoch that begins.
    pub epoch: u64,
}

impl Finding {
    /// For the audit trail.
    #[must_use]
    pub fn details(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("missed_seal", json!(self.noted.no)),
            ("missed_head", json!(self.noted.head.to_string())),
            ("epoch_before", json!(self.noted.epoch)),
            ("epoch", json!(self.epoch)),
            ("seq", json!(self.found.seq.0)),
        ]
    }
}

/// Whether a seal that was noted is in a store at that epoch.
fn holds(noted: Noted, position: Position, seal: Option<&SealRow>) -> bool {
    noted.epoch == position.epoch && seal.is_some_and(|seal| seal.no == noted.no && seal.hash == noted.head)
}

/// Compares, and begins a new epoch where the database is another one. To be called before the registry is loaded.
///
/// # Errors
/// When it cannot be told, or the new epoch not be written down: then nothing may start.
pub async fn look(state: &StateDir, store: &dyn RegistryStore) -> Result<Option<Finding>, RestoredError> {
    let Some(bytes) = state.read(HEAD_FILE)? else { return Ok(None) };
    // What cannot be read tells nothing; the next seal replaces it.
    let Ok(noted) = serde_json::from_slice::<Noted>(&bytes) else { return Ok(None) };
    let found = store.position().await?;
    let seal = store.seals(noted.no.saturating_sub(1), 1).await?;
    if holds(noted, found, seal.first()) {
        return Ok(None);
    }
    if state.read(EVIDENCE_FILE)?.is_none() {
        state.write(EVIDENCE_FILE, &bytes)?;
    }
    let epoch = new_epoch(&[noted.epoch, found.epoch])?;
    store.begin_epoch(epoch).await?;
    match store.last_seal().await? {
        Some(last) => Noted { epoch, no: last.no, head: last.hash }.keep(state)?,
        None => state.write(HEAD_FILE, b"{}")?,
    }
    Ok(Some(Finding { noted, found, epoch }))
}

/// One that was never told: epochs are compared for being the same, never for their order.
fn new_epoch(old: &[u64]) -> Result<u64, NoRandomness> {
    loop {
        let epoch = u64::from_be_bytes(id::random()?) >> 1;
        if epoch != 0 && !old.contains(&epoch) {
            return Ok(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use rollcall_common::id::Seq;

    use super::*;
    use crate::{
        audit::sealer::{Head, Sealer},
        store::{
            TrailStore,
            rows::Change,
            sqlite::SqliteStore,
            suite::samples::{NOON, event},
        },
    };

    async fn live(dir: &Path, state: &StateDir, events: usize) -> Position {
        let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.join("registry.db")).await.unwrap());
        assert_eq!(look(state, &*store).await.unwrap(), None);
        let epoch = store.position().await.unwrap().epoch;
        let keeper = state.clone();
        let keep = move |seal: &SealRow| Noted { epoch, no: seal.no, head: seal.hash }.keep(&keeper).unwrap();
        let sealer = Sealer::new(Arc::clone(&store), epoch, Arc::new(Head::default()), Arc::new(keep));
        for n in 0..events {
            let audit = vec![event("service.did", &format!("agent/a{n}"))];
            store.commit(&[Change { writes: Vec::new(), audit }], NOON).await.unwrap();
            sealer.seal(true, NOON).await.unwrap();
        }
        let position = store.position().await.unwrap();
        store.close().await;
        position
    }

    #[tokio::test]
    async fn a_database_put_back_begins_a_new_epoch_and_keeps_the_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let (db, copy) = (dir.path().join("registry.db"), dir.path().join("copy"));
        live(dir.path(), &state, 2).await;
        std::fs::copy(&db, &copy).unwrap();
        let before = live(dir.path(), &state, 2).await;
        assert_eq!(before.seq, Seq(4));
        std::fs::copy(&copy, &db).unwrap();

        let store = SqliteStore::open(&db).await.unwrap();
        let finding = look(&state, &store).await.unwrap().unwrap();
        assert_eq!((finding.noted.no, finding.found.seq, finding.found.epoch), (4, Seq(2), before.epoch));
        assert_ne!(finding.epoch, before.epoch);
        assert_eq!(store.position().await.unwrap(), Position { epoch: finding.epoch, seq: Seq(2) });
        let evidence = state.read(EVIDENCE_FILE).unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Noted>(&evidence).unwrap(), finding.noted);
        store.close().await;
        // Told once; what comes after is one history again, and a second finding leaves the first evidence.
        live(dir.path(), &state, 3).await;
        std::fs::copy(&copy, &db).unwrap();
        let store = SqliteStore::open(&db).await.unwrap();
        assert!(look(&state, &store).await.unwrap().is_some());
        assert_eq!(state.read(EVIDENCE_FILE).unwrap().unwrap(), evidence);
        store.close().await;
    }

    #[tokio::test]
    async fn another_database_altogether_is_told_too() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        live(dir.path(), &state, 1).await;
        let other = SqliteStore::open(&dir.path().join("other.db")).await.unwrap();
        assert_eq!(look(&state, &other).await.unwrap().map(|finding| finding.found.seq), Some(Seq(0)));
        assert_eq!(look(&state, &other).await.unwrap(), None, "an empty one holds nothing to be missed");
        other.close().await;
    }
}
