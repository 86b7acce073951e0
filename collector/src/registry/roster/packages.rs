//! Onboarding packages in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use rollcall_common::{
    id::{Seq, ServiceKey},
    token::TokenId,
};

use crate::store::rows::{Loaded, PackageId, PackageRow, PackageStatus};

/// All packages, by id and by the service that they bring in.
#[derive(Debug, Default)]
pub struct Packages {
    by_id: BTreeMap<PackageId, Arc<PackageRow>>,
    by_service: HashMap<ServiceKey, BTreeSet<PackageId>>,
}

impl Packages {
    pub(super) fn from_loaded(loaded: &Loaded) -> Self {
        let mut packages = Self::default();
        for row in &loaded.packages {
            packages.put(row, row.seq);
        }
        packages
    }

    /// One package.
    #[must_use]
    pub fn get(&self, id: PackageId) -> Option<&Arc<PackageRow>> {
        self.by_id.get(&id)
    }

    /// Packages behind an id, in the order of ids: the seek of a page.
    pub fn seek(&self, after: Option<PackageId>) -> impl Iterator<Item = &Arc<PackageRow>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, row)| row)
    }

    /// The packages of a service.
    pub fn of<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = &'a Arc<PackageRow>> {
        let ids = self.by_service.get(service).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// The package that waits for the first heartbeat of a service that its token let in.
    #[must_use]
    pub fn awaiting(&self, service: &ServiceKey, token: TokenId) -> Option<&Arc<PackageRow>> {
        self.of(service).find(|row| row.token == token && row.status == PackageStatus::Delivered)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn put(&mut self, row: &PackageRow, seq: Seq) {
        self.by_service.entry(row.service.clone()).or_default().insert(row.id);
        self.by_id.insert(row.id, Arc::new(PackageRow { seq, ..row.clone() }));
    }

    pub(super) fn drop(&mut self, id: PackageId) {
        let Some(row) = self.by_id.remove(&id) else { return };
        if let Some(ids) = self.by_service.get_mut(&row.service) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_service.remove(&row.service);
            }
        }
    }
}
