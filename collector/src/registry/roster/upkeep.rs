//! What stands beside the services: the records of jobs, what holds jobs back, maintenance windows.

use std::{collections::BTreeMap, sync::Arc};

use rollcall_common::id::Seq;

use crate::store::rows::{HoldRow, JobRow, Loaded, RowId, WindowRow};

/// Jobs, holds and windows in memory.
#[derive(Debug, Default)]
pub struct Upkeep {
    jobs: BTreeMap<String, Arc<JobRow>>,
    holds: BTreeMap<String, Arc<HoldRow>>,
    windows: BTreeMap<RowId, Arc<WindowRow>>,
    revision: u64,
}

impl Upkeep {
    pub(super) fn from_loaded(loaded: &Loaded) -> Self {
        Self {
            jobs: loaded.jobs.iter().map(|row| (row.name.clone(), Arc::new(row.clone()))).collect(),
            holds: loaded.holds.iter().map(|row| (row.name.clone(), Arc::new(row.clone()))).collect(),
            windows: loaded.windows.iter().map(|row| (row.id, Arc::new(row.clone()))).collect(),
            revision: 1,
        }
    }

    /// The record of a job, if it has one.
    #[must_use]
    pub fn job(&self, name: &str) -> Option<&Arc<JobRow>> {
        self.jobs.get(name)
    }

    /// A hold, if it is in force.
    #[must_use]
    pub fn hold(&self, name: &str) -> Option<&Arc<HoldRow>> {
        self.holds.get(name)
    }

    /// One maintenance window.
    #[must_use]
    pub fn window(&self, id: RowId) -> Option<&Arc<WindowRow>> {
        self.windows.get(&id)
    }

    /// All maintenance windows, in the order of their making.
    pub fn windows(&self) -> impl DoubleEndedIterator<Item = &Arc<WindowRow>> {
        self.windows.values()
    }

    /// Rises with each change of a window.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn put_job(&mut self, row: &JobRow) {
        self.jobs.insert(row.name.clone(), Arc::new(row.clone()));
    }

    pub(super) fn put_hold(&mut self, row: &HoldRow) {
        self.holds.insert(row.name.clone(), Arc::new(row.clone()));
    }

    pub(super) fn drop_hold(&mut self, name: &str) {
        self.holds.remove(name);
    }

    pub(super) fn put_window(&mut self, row: &WindowRow, seq: Seq) {
        self.windows.insert(row.id, Arc::new(WindowRow { seq, ..row.clone() }));
        self.revision += 1;
    }

    pub(super) fn drop_window(&mut self, id: RowId) {
        self.windows.remove(&id);
        self.revision += 1;
    }
}
