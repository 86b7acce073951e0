//! A store that fails or stalls on cue, around any real one.
//!
//! A call that fails never reaches the store inside, so that "an error means that nothing happened" holds. A
//! call that stalls waits before it reaches the store and goes through after [`Flaky::resume`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use rollcall_common::{
    id::{Seq, ServiceKey},
    time::Timestamp,
    token::TokenId,
};
use tokio::sync::watch;

use super::{
    Continuity, LivenessStore, Mark, Position, RegistryStore, StoreError, TrailStore,
    rows::{
        Applied, AuditEvent, AuditQuery, BlindRow, Change, Conflict, IntervalRow, KnockRow, Loaded, ObserverMark,
        Outlived, Prune, SealRow,
    },
};

/// A store and the cues that a test gives it. Works for both traits; share it in an [`Arc`].
#[derive(Debug)]
pub struct Flaky<S: ?Sized> {
    fail_all: AtomicBool,
    fail_next: AtomicUsize,
    panic_next: AtomicUsize,
    stalled: watch::Sender<bool>,
    held: AtomicUsize,
    inner: Arc<S>,
}

impl<S: ?Sized> Flaky<S> {
    /// Around a store, at first without any fault.
    #[must_use]
    pub fn new(inner: Arc<S>) -> Self {
        Self {
            fail_all: AtomicBool::new(false),
            fail_next: AtomicUsize::new(0),
            panic_next: AtomicUsize::new(0),
            stalled: watch::Sender::new(false),
            held: AtomicUsize::new(0),
            inner,
        }
    }

    /// From now on every call waits.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Lets the waiting calls go, and later ones through.
    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }

    /// The next `n` calls fail.
    pub fn fail_next(&self, n: usize) {
        self.fail_next.store(n, Ordering::SeqCst);
    }

    /// The next `n` calls panic.
    pub fn panic_next(&self, n: usize) {
        self.panic_next.store(n, Ordering::SeqCst);
    }

    /// Every call fails, until told otherwise.
    pub fn fail_all(&self, fail: bool) {
        self.fail_all.store(fail, Ordering::SeqCst);
    }

    /// How many calls wait at this moment.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// The store inside, past all faults.
    #[must_use]
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// Waits, then fails, as the cues say; passes where they say nothing.
    async fn pass(&self) -> Result<(), StoreError> {
        let mut stalled = self.stalled.subscribe();
        if *stalled.borrow_and_update() {
            let _held = Held::new(&self.held);
            // The sender lives in `self`: it cannot go away meanwhile.
            let _released = stalled.wait_for(|stalled| !stalled).await;
        }
        let takes =
            |left: &AtomicUsize| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        assert!(!takes(&self.panic_next), "it was told to panic");
        if takes(&self.fail_next) || self.fail_all.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { store: "flaky".into(), why: "it was told to fail".into() });
        }
        Ok(())
    }
}

/// Counts a waiting call, also one whose caller gives up.
struct Held<'c>(&'c AtomicUsize);

impl<'c> Held<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl<S: RegistryStore + ?Sized> RegistryStore for Flaky<S> {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.pass().await?;
        self.inner.load().await
    }

    async fn commit(&self, batch: &[Change], at: Timestamp) -> Result<Vec<Result<Applied, Conflict>>, StoreError> {
        self.pass().await?;
        self.inner.commit(batch, at).await
    }

    async fn flush_last_seen(&self, seen: &[(ServiceKey, Timestamp)]) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.flush_last_seen(seen).await
    }

    async fn keep_knocks(&self, put: &[KnockRow], gone: &[TokenId]) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.keep_knocks(put, gone).await
    }

    async fn mark_observing(&self, mark: &ObserverMark) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.mark_observing(mark).await
    }

    async fn record_blind(&self, blind: &BlindRow) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.record_blind(blind).await
    }

    async fn blind_since(&self, since: Timestamp, limit: usize) -> Result<Vec<BlindRow>, StoreError> {
        self.pass().await?;
        self.inner.blind_since(since, limit).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, StoreError> {
        self.pass().await?;
        self.inner.audit(query).await
    }

    async fn history(
        &self,
        service: &ServiceKey,
        limit: usize,
        superseded: bool,
    ) -> Result<Vec<IntervalRow>, StoreError> {
        self.pass().await?;
        self.inner.history(service, limit, superseded).await
    }

    async fn prune(&self, what: &Prune, limit: usize) -> Result<u64, StoreError> {
        self.pass().await?;
        self.inner.prune(what, limit).await
    }

    async fn outlived(&self, what: &Outlived) -> Result<u64, StoreError> {
        self.pass().await?;
        self.inner.outlived(what).await
    }

    async fn crowded(
        &self,
        keep: u32,
        after: Option<&ServiceKey>,
        limit: usize,
    ) -> Result<Vec<ServiceKey>, StoreError> {
        self.pass().await?;
        self.inner.crowded(keep, after, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.ping().await
    }

    /// Closes at once, whatever the cues say: a test must be able to end.
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl<S: RegistryStore + ?Sized> TrailStore for Flaky<S> {
    async fn position(&self) -> Result<Position, StoreError> {
        self.pass().await?;
        self.inner.position().await
    }

    async fn begin_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.begin_epoch(epoch).await
    }

    async fn trail(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<AuditEvent>, StoreError> {
        self.pass().await?;
        self.inner.trail(after, upto, limit).await
    }

    async fn seals(&self, after: u64, limit: usize) -> Result<Vec<SealRow>, StoreError> {
        self.pass().await?;
        self.inner.seals(after, limit).await
    }

    async fn last_seal(&self) -> Result<Option<SealRow>, StoreError> {
        self.pass().await?;
        self.inner.last_seal().await
    }

    async fn seal(&self, row: &SealRow) -> Result<bool, StoreError> {
        self.pass().await?;
        self.inner.seal(row).await
    }

    async fn retire_audit(&self, before: Timestamp, floor: Seq, at: Timestamp) -> Result<Option<u64>, StoreError> {
        self.pass().await?;
        self.inner.retire_audit(before, floor, at).await
    }
}

#[async_trait]
impl<S: LivenessStore + ?Sized> LivenessStore for Flaky<S> {
    async fn publish(&self, marks: &[Mark]) -> Result<Continuity, StoreError> {
        self.pass().await?;
        self.inner.publish(marks).await
    }

    async fn retire(&self, services: &[ServiceKey]) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.retire(services).await
    }

    async fn get(&self, service: &ServiceKey) -> Result<Option<Mark>, StoreError> {
        self.pass().await?;
        self.inner.get(service).await
    }

    async fn all(&self) -> Result<Vec<Mark>, StoreError> {
        self.pass().await?;
        self.inner.all().await
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::time::ManualClock;

    use super::*;
    use crate::store::{
        memory::MemoryLiveness,
        suite::{liveness_suite, mark, until},
    };

    fn memory() -> Arc<dyn LivenessStore> {
        Arc::new(MemoryLiveness::new(Arc::new(ManualClock::new(Timestamp(0)))))
    }

    #[tokio::test]
    async fn without_a_cue_it_is_the_store_inside() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let fresh = || -> Arc<dyn LivenessStore> { Arc::new(Flaky::new(Arc::new(MemoryLiveness::new(clock.clone())))) };
        liveness_suite(fresh, |by| clock.advance(by)).await;
    }

    #[tokio::test]
    async fn what_fails_does_not_happen() {
        let store = Flaky::new(memory());
        let marks = [mark("agent/a", 1, 1, 1_000)];
        store.fail_next(2);
        assert!(store.publish(&marks).await.is_err_and(|error| error.is_transient()));
        assert!(store.all().await.is_err());
        assert_eq!(store.all().await, Ok(Vec::new()));
        store.fail_all(true);
        assert!(store.publish(&marks).await.is_err());
        store.fail_all(false);
        assert_eq!(store.all().await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn what_stalls_goes_through_later() {
        let store = Arc::new(Flaky::new(memory()));
        store.stall();
        let mut tasks = tokio::task::JoinSet::new();
        let waiting = store.clone();
        tasks.spawn(async move { waiting.publish(&[mark("agent/a", 1, 1, 1_000)]).await });
        until("the call waits", async || (store.held() == 1).then_some(())).await;
        assert_eq!(store.inner().all().await, Ok(Vec::new()));
        store.resume();
        assert!(matches!(tasks.join_next().await, Some(Ok(Ok(Continuity::Kept)))));
        assert_eq!((store.held(), store.all().await.map(|marks| marks.len())), (0, Ok(1)));

        // A caller that gives up is not held any more.
        store.stall();
        let asking = store.clone();
        tasks.spawn(async move { asking.publish(&[]).await });
        until("the call waits", async || (store.held() == 1).then_some(())).await;
        tasks.shutdown().await;
        assert_eq!(store.held(), 0);
    }
}
