//! [`LivenessStore`] in this process: for one collector, with nothing to install.
//!
//! A bounded map whose entries end by the collector's boot clock. It dies with the process, as it may:
//! a published view is no witness.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rollcall_common::{
    id::ServiceKey,
    time::{BootTime, Clock},
};

use super::{Continuity, LivenessStore, Mark, StoreError};

/// Most services it holds; ten times the largest fleet that one collector is built for.
const MAX_MARKS: usize = 1_000_000;

/// The published view in memory.
#[derive(Debug)]
pub struct MemoryLiveness {
    clock: Arc<dyn Clock>,
    marks: Mutex<HashMap<ServiceKey, (Mark, BootTime)>>,
    most: usize,
}

impl MemoryLiveness {
    /// An empty view, whose entries end by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, marks: Mutex::default(), most: MAX_MARKS }
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<ServiceKey, (Mark, BootTime)>> {
        // Every write to the map is whole before anything could panic.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LivenessStore for MemoryLiveness {
    async fn publish(&self, new: &[Mark]) -> Result<Continuity, StoreError> {
        let now = self.clock.now().boot;
        let mut marks = self.marks();
        if marks.len().saturating_add(new.len()) > self.most {
            marks.retain(|_, (_, end)| now < *end);
        }
        let mut left_out = 0_usize;
        for mark in new {
            // When full, newcomers lose; who is in stays fresh.
            if marks.len() >= self.most && !marks.contains_key(&mark.service) {
                left_out += 1;
                continue;
            }
            let end = now.after(Duration::from_millis(mark.ttl_ms.into()));
            marks.insert(mark.service.clone(), (mark.clone(), end));
        }
        if left_out > 0 {
            let why = format!("it holds {} services, its most; {left_out} were left out", self.most);
            return Err(StoreError::Unavailable { store: self.name(), why });
        }
        Ok(Continuity::Kept)
    }

    async fn retire(&self, services: &[ServiceKey]) -> Result<(), StoreError> {
        let mut marks = self.marks();
        for service in services {
            marks.remove(service);
        }
        Ok(())
    }

    async fn get(&self, service: &ServiceKey) -> Result<Option<Mark>, StoreError> {
        let now = self.clock.now().boot;
        Ok(self.marks().get(service).filter(|(_, end)| now < *end).map(|(mark, _)| mark.clone()))
    }

    async fn all(&self) -> Result<Vec<Mark>, StoreError> {
        let now = self.clock.now().boot;
        let mut marks = self.marks();
        marks.retain(|_, (_, end)| now < *end);
        Ok(marks.values().map(|(mark, _)| mark.clone()).collect())
    }

    fn name(&self) -> String {
        "memory".into()
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::time::{ManualClock, Timestamp};

    use super::*;
    use crate::store::suite::{liveness_suite, mark, samples::key};

    #[tokio::test]
    async fn keeps_every_promise() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let fresh = || -> Arc<dyn LivenessStore> { Arc::new(MemoryLiveness::new(clock.clone())) };
        liveness_suite(fresh, |by| clock.advance(by)).await;
    }

    #[tokio::test]
    async fn a_mark_ends_at_its_millisecond_whatever_the_wall_clock_does() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let store = MemoryLiveness::new(clock.clone());
        store.publish(&[mark("agent/a", 1, 1, 1_000)]).await.unwrap();
        clock.step_wall(1_000_000);
        clock.advance(Duration::from_millis(999));
        assert!(store.get(&key("agent/a")).await.unwrap().is_some());
        clock.advance(Duration::from_millis(1));
        assert_eq!(store.get(&key("agent/a")).await, Ok(None));
        assert_eq!(store.all().await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn when_full_newcomers_lose_until_others_end() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let store = MemoryLiveness { most: 2, ..MemoryLiveness::new(clock.clone()) };
        store.publish(&[mark("agent/a", 1, 1, 1_000), mark("agent/b", 1, 1, 5_000)]).await.unwrap();
        let error = store.publish(&[mark("agent/c", 1, 1, 1_000), mark("agent/b", 1, 2, 5_000)]).await.unwrap_err();
        assert!(error.to_string().contains("1 were left out"), "{error}");
        assert_eq!(store.get(&key("agent/b")).await, Ok(Some(mark("agent/b", 1, 2, 5_000))), "who is in stays fresh");
        clock.advance(Duration::from_secs(2));
        assert_eq!(store.publish(&[mark("agent/c", 1, 1, 1_000)]).await, Ok(Continuity::Kept));
    }
}
