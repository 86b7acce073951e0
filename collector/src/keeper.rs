//! What is kept up to date beside the registry: the liveness store's view, `last_seen`, the observing mark,
//! the collector's own certificates, packages that were handed out.
//!
//! None of it is on a heartbeat's road, and none of it judges. Each duty is a loop of its own that ends with
//! the token; a store that fails costs freshness of a view, never a lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rollcall_common::time::Timestamp;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    ca::{Ca, CaError, REFRESH_EVERY},
    registry::{
        Registry,
        leases::Phase,
        packages::{self, SweepPackages},
        roster::Slot,
        services::By,
    },
    store::{
        Continuity, LivenessStore, Mark, RegistryStore, StoreError,
        rows::{BlindRow, BlindScope, ObserverMark},
    },
};

/// Time between two publications: one pipeline a second costs Redis 1.6 µs a service (`performance.md` §3).
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at the packages.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// How often knocks are written down.
const KNOCKS_EVERY: Duration = Duration::from_secs(5);
/// Rows of one `last_seen` statement.
const FLUSH_ROWS: usize = 5_000;

/// Publishes what beat, and takes out who left. `well` tells others whether the last publication passed.
pub async fn publish(
    registry: Registry,
    liveness: Arc<dyn LivenessStore>,
    store: Arc<dyn RegistryStore>,
    well: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let mut publisher = Publisher { registry, liveness, store, well, down_since: None };
    let mut ticks = Ticks::every(PUBLISH_EVERY, stop);
    while ticks.next().await {
        publisher.tick().await;
    }
    publisher.tick().await;
}

struct Publisher {
    registry: Registry,
    liveness: Arc<dyn LivenessStore>,
    store: Arc<dyn RegistryStore>,
    well: Arc<AtomicBool>,
    down_since: Option<Timestamp>,
}

impl Publisher {
    async fn tick(&mut self) {
        // Retired first: who left and came back within this tick is published after it was taken out.
        let retired = self.registry.take_retired();
        let outcome = match self.retire(&retired).await {
            Ok(()) => self.liveness.publish(&self.marks()).await,
            Err(error) => {
                self.registry.put_back_retired(retired);
                Err(error)
            }
        };
        let now = self.registry.now().wall;
        self.well.store(outcome.is_ok(), Relaxed);
        match outcome {
            Ok(found) => {
                if let Some(since) = self.down_since.take() {
                    tracing::info!(store = %self.liveness.name(), "the liveness store is back; publishing everything again");
                    self.lost(since, now, "store_outage").await;
                } else if found == Continuity::Lost {
                    tracing::warn!(store = %self.liveness.name(), "the liveness store had lost what was published; publishing everything again");
                    self.lost(now, now, "flush").await;
                }
            }
            Err(error) => {
                self.registry.metrics().publish_failed.inc();
                if self.down_since.is_none() {
                    tracing::warn!(%error, "liveness is not published; leases go on in memory");
                    self.down_since = Some(now);
                }
            }
        }
    }

    fn marks(&self) -> Vec<Mark> {
        let now = self.registry.now().boot;
        let slots = self.registry.leases().take_unpublished();
        self.registry.read(|roster| {
            let mark = |slot: &Slot| {
                let sight = self.registry.leases().sight(*slot, now).filter(|sight| sight.phase == Phase::Live)?;
                let service = roster.at(*slot)?.row.key.clone();
                Some(Mark { service, session: sight.session, beat_no: sight.beat_no, ttl_ms: sight.pace.ttl_ms })
            };
            slots.iter().filter_map(mark).collect()
        })
    }

    async fn retire(&self, retired: &[rollcall_common::id::ServiceKey]) -> Result<(), StoreError> {
        if retired.is_empty() { Ok(()) } else { self.liveness.retire(retired).await }
    }

    /// A blind interval of that store, and of nothing else.
    async fn lost(&self, from: Timestamp, to: Timestamp, cause: &str) {
        self.registry.metrics().liveness_lost.inc();
        self.registry.leases().republish_all();
        let blind = BlindRow { scope: BlindScope::Store(self.liveness.name()), from, to, cause: cause.into() };
        if let Err(error) = self.store.record_blind(&blind).await {
            tracing::warn!(%error, "a blind interval of the liveness store was not recorded");
        }
    }
}

/// Writes `last_seen` down in batches; it may trail by one flush, never more.
pub async fn flush(registry: Registry, store: Arc<dyn RegistryStore>, every: Duration, stop: CancellationToken) {
    let mut ticks = Ticks::every(every, stop);
    while ticks.next().await {
        flush_once(&registry, &*store).await;
    }
    flush_once(&registry, &*store).await;
}

async fn flush_once(registry: &Registry, store: &dyn RegistryStore) {
    let slots = registry.leases().take_unflushed();
    let mut failed = false;
    for chunk in slots.chunks(FLUSH_ROWS) {
        if failed {
            registry.leases().put_back_unflushed(chunk.iter().copied());
            continue;
        }
        let now = registry.now();
        let seen: Vec<_> = registry.read(|roster| {
            let seen = |slot: &Slot| {
                let at = registry.leases().sight(*slot, now.boot)?.last_seen(now)?;
                Some((roster.at(*slot)?.row.key.clone(), at))
            };
            chunk.iter().filter_map(seen).collect()
        });
        if let Err(error) = store.flush_last_seen(&seen).await {
            tracing::debug!(%error, services = chunk.len(), "last_seen waits for the next flush");
            registry.leases().put_back_unflushed(chunk.iter().copied());
            failed = true;
        }
    }
}

/// Writes down who was turned away: a bounded number of rows every few seconds, however many knocked.
pub async fn knocks(registry: Registry, store: Arc<dyn RegistryStore>, stop: CancellationToken) {
    let mut ticks = Ticks::every(KNOCKS_EVERY, stop);
    while ticks.next().await {
        knocks_once(&registry, &*store).await;
    }
    knocks_once(&registry, &*store).await;
}

async fn knocks_once(registry: &Registry, store: &dyn RegistryStore) {
    let now = registry.now().wall;
    let (put, gone) = {
        let mut knocks = registry.knocks();
        knocks.forget(now);
        knocks.take_unflushed()
    };
    if put.is_empty() && gone.is_empty() {
        return;
    }
    if let Err(error) = store.keep_knocks(&put, &gone).await {
        tracing::debug!(%error, rows = put.len(), "knocks wait for the next flush");
        registry.knocks().put_back(&put, &gone);
    }
}

/// Writes down that the collector was observing, as of the registry's last tick.
pub async fn mark(registry: Registry, store: Arc<dyn RegistryStore>, every: Duration, stop: CancellationToken) {
    let mut ticks = Ticks::every(every, stop);
    while ticks.next().await {
        mark_once(&registry, &*store).await;
    }
    mark_once(&registry, &*store).await;
}

async fn mark_once(registry: &Registry, store: &dyn RegistryStore) {
    let (observed, whoami) = (registry.observed(), registry.whoami());
    let mark = ObserverMark {
        collector: whoami.collector.clone(),
        boot_id: whoami.boot_id,
        boot: observed.boot,
        wall: observed.wall,
    };
    if let Err(error) = store.mark_observing(&mark).await {
        tracing::debug!(%error, "the observing mark waits");
    }
}

/// Renews the collector's own certificates before they end.
pub async fn refresh(registry: Registry, ca: Arc<Ca>, stop: CancellationToken) {
    let mut ticks = Ticks::every(REFRESH_EVERY, stop);
    while ticks.next().await {
        let ca = Arc::clone(&ca);
        // It signs and may write files.
        match tokio::task::spawn_blocking(move || ca.refresh()).await {
            Ok(Ok(refreshed)) => {
                tracing::debug!(?refreshed, "own certificates looked at");
                registry.set_signing(true);
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the collector's own certificate was not renewed");
                registry.set_signing(!matches!(error, CaError::IntermediateEnded { .. } | CaError::RootKeyAway { .. }));
            }
            Err(error) => tracing::error!(%error, "renewing the collector's own certificate panicked"),
        }
    }
}

/// Records what time does to onboarding packages: they expire, what was handed out is wiped, old rows go.
pub async fn sweep_packages(registry: Registry, stop: CancellationToken) {
    let mut ticks = Ticks::every(SWEEP_EVERY, stop);
    while ticks.next().await {
        let now = registry.now().wall;
        while registry.read(|roster| packages::needs_sweep(roster, now)) {
            match registry.ask(SweepPackages { by: By::system() }).await {
                Ok(swept) if swept.all() > 0 => tracing::debug!(?swept, "packages were swept"),
                // The next beat tries again.
                Ok(_) | Err(_) => break,
            }
        }
    }
}

/// A steady beat that ends with its token.
struct Ticks {
    interval: Interval,
    stop: CancellationToken,
}

impl Ticks {
    fn every(period: Duration, stop: CancellationToken) -> Self {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, stop }
    }

    /// Waits for the next tick; `false` = stopped.
    async fn next(&mut self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            _ = self.interval.tick() => true,
        }
    }
}
