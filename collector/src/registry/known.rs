//! Whether a service counts as one of ours, from memory: right from the moment a change commits.
//!
//! A service is known while it is registered and neither revoked nor deleted. Pollers that the configuration
//! names are known as long as nothing else is registered of them; a revocation is not overruled by a list.

use std::{collections::BTreeSet, sync::PoisonError};

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    lifecycle::Status,
};

use super::Registry;
use crate::store::Position;

/// What makes a service known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// It is registered.
    Registry,
    /// The configuration names it.
    Static,
    /// Nothing: it is not known.
    None,
}

impl Via {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Registry, Self::Static, Self::None];

    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Static => "static",
            Self::None => "none",
        }
    }
}

/// The answer, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// By what.
    pub via: Via,
    /// Its status, where it is registered.
    pub status: Option<Status>,
    /// The registry as it was read.
    pub position: Position,
}

impl Known {
    /// The answer alone.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.via != Via::None
    }
}

impl Registry {
    /// Whether a service is known. One look into memory, whatever else goes on.
    #[must_use]
    pub fn is_known(&self, key: &ServiceKey) -> Known {
        let (status, position) = self.read(|roster| (roster.get(key).map(|entry| entry.row.status), roster.position()));
        let via = match status {
            Some(status) if status.is_barred() => Via::None,
            Some(_) => Via::Registry,
            None if self.is_listed(key) => Via::Static,
            None => Via::None,
        };
        Known { via, status, position }
    }

    /// Replaces the pollers that count as known without being registered.
    pub fn set_known_pollers(&self, pollers: impl IntoIterator<Item = ServiceId>) {
        let pollers: BTreeSet<ServiceId> = pollers.into_iter().collect();
        *self.shared.known_pollers.write().unwrap_or_else(PoisonError::into_inner) = pollers;
    }

    fn is_listed(&self, key: &ServiceKey) -> bool {
        key.kind == Kind::Poller
            && self.shared.known_pollers.read().unwrap_or_else(PoisonError::into_inner).contains(&key.id)
    }
}
