//! The task that seals: at most every ten seconds, or as soon as a batch is full.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rollcall_common::{
    id::Seq,
    time::{BootTime, Timestamp},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::chain::{self, BATCH, Break, Checker, SealHash, SealRow};
use crate::store::{RegistryStore, StoreError};

/// How often it is looked whether a batch is full.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An event waits no longer for its seal.
const SEAL_EVERY: Duration = Duration::from_secs(10);

/// The newest seal, for all who show it.
#[derive(Debug, Default)]
pub struct Head(RwLock<Option<SealRow>>);

impl Head {
    /// The newest seal that this collector made or found.
    #[must_use]
    pub fn get(&self) -> Option<SealRow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, seal: SealRow) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(seal);
    }
}

/// Where the newest head is kept outside the store. It may wait for a disk.
pub type Keep = Arc<dyn Fn(&SealRow) + Send + Sync>;

/// Seals the trail of a store.
pub struct Sealer {
    store: Arc<dyn RegistryStore>,
    epoch: u64,
    head: Arc<Head>,
    keep: Keep,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer. `keep` is told of each new head.
    #[must_use]
    pub fn new(store: Arc<dyn RegistryStore>, epoch: u64, head: Arc<Head>, keep: Keep) -> Self {
        Self { store, epoch, head, keep }
    }

    /// Finds the chain's end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(&self) -> Result<(), StoreError> {
        if let Some(last) = self.store.last_seal().await? {
            tracing::info!(seal = last.no, head = %last.hash, upto = last.last.0, "the audit trail is sealed up to here");
            self.head.set(last);
        }
        Ok(())
    }

    /// Runs until stopped, then seals what is left.
    pub async fn run(self, clock: impl Fn() -> (BootTime, Timestamp) + Send, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sealed_at = clock().0;
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let (boot, wall) = clock();
            let due = stopping || boot.since(sealed_at) >= SEAL_EVERY;
            match self.seal(due, wall).await {
                Ok(true) => sealed_at = boot,
                Ok(false) if due => sealed_at = boot,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the audit trail could not be sealed now"),
            }
            if stopping {
                return;
            }
        }
    }

    /// Seals what there is; only full batches unless it is due. Answers whether there was one.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn seal(&self, due: bool, now: Timestamp) -> Result<bool, StoreError> {
        let mut any = false;
        loop {
            let last = self.store.last_seal().await?;
            if let (Some(held), found) = (self.head.get(), &last) {
                // Nobody but this collector seals: another end than its own was put there by somebody.
                if found.as_ref().map(|found| found.hash) != Some(held.hash) {
                    tracing::error!(seal = held.no, head = %held.hash, "the audit trail's newest seal is not the one that was made");
                }
            }
            let after = last.as_ref().map_or(Seq(0), |last| last.last);
            let events = self.store.trail(after, Seq(u64::MAX), BATCH).await?;
            if events.len() < BATCH && !due {
                return Ok(any);
            }
            let full = events.len() == BATCH;
            let Some(seal) = chain::seal(last.as_ref(), self.epoch, &events, now) else { return Ok(any) };
            if !self.store.seal(&seal).await? {
                tracing::error!(seal = seal.no, "the audit trail's seals changed under the sealer's hands");
                return Ok(any);
            }
            tracing::info!(seal = seal.no, head = %seal.hash, upto = seal.last.0, events = seal.count, "sealed the audit trail");
            let (keep, noted) = (Arc::clone(&self.keep), seal.clone());
            // It logs its failure itself; a panic in there must not end the sealing.
            let _ = tokio::task::spawn_blocking(move || keep(&noted)).await;
            self.head.set(seal);
            any = true;
            if !full {
                return Ok(any);
            }
        }
    }
}

/// What a look at a part of the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Seals that hold, from the beginning of the look.
    pub seals: u64,
    /// Events that they cover and that are there.
    pub events: u64,
    /// The last seal that holds.
    pub no: u64,
    /// Its hash.
    pub head: SealHash,
    /// Whether the end of the chain was reached.
    pub whole: bool,
    /// Whether the head that was asked for was met by then.
    pub met: bool,
    /// Where the chain does not hold.
    pub broken: Option<Break>,
}

/// Checks at most so many batches behind a seal. `wanted` is a head that must be met by the end; whoever goes on
/// behind a part that met it asks for it no more.
///
/// # Errors
/// When the store does not answer. A row that cannot be read is a break.
pub async fn verify(
    store: &dyn RegistryStore,
    after: u64,
    most: usize,
    wanted: Option<SealHash>,
) -> Result<Verdict, StoreError> {
    let begin = if after == 0 { None } else { store.seals(after - 1, 1).await?.into_iter().next() };
    let mut checker = Checker::behind(begin.as_ref(), wanted);
    let mut verdict =
        Verdict { seals: 0, events: 0, no: checker.no(), head: checker.head(), whole: false, met: false, broken: None };
    verdict.met = wanted.is_some() && checker.met();
    if after > 0 && begin.as_ref().map(|seal| seal.no) != Some(after) {
        verdict.broken = Some(Break::Seal { no: after });
        return Ok(verdict);
    }
    let seals = store.seals(after, most).await?;
    verdict.whole = seals.len() < most;
    for seal in &seals {
        // One more than there may be tells of one that was slipped in.
        let limit = usize::try_from(seal.count).unwrap_or(BATCH).min(BATCH) + 1;
        let events = match store.trail(checker.last(), seal.last, limit).await {
            Ok(events) => events,
            Err(StoreError::Corrupt { .. }) => {
                verdict.broken = Some(Break::Changed { no: seal.no, first: seal.first, last: seal.last });
                return Ok(verdict);
            }
            Err(error) => return Err(error),
        };
        if let Err(broken) = checker.take(seal, &events) {
            verdict.broken = Some(broken);
            return Ok(verdict);
        }
        verdict.seals += 1;
        verdict.events += events.len() as u64;
        (verdict.no, verdict.head) = (checker.no(), checker.head());
        verdict.met = wanted.is_some() && checker.met();
    }
    if verdict.whole {
        verdict.broken = checker.finish().err();
    }
    Ok(verdict)
}
