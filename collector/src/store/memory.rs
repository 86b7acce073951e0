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
