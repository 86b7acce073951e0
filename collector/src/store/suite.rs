//! What every store must pass: each promise of the traits, asked of a real back end.
//!
//! A back end's own tests bring a way to open it and call [`registry_suite`] or [`liveness_suite`]; what is
//! special to it (a damaged file, a killed server) it tests beside them. Knows no back end.

mod liveness;
#[cfg(test)]
pub(crate) mod property;
mod registry;
pub mod samples;
pub mod server;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::RegistryStore;

pub use self::{
    liveness::{liveness_suite, mark},
    registry::registry_suite,
};

/// How long any awaited fact may take to come true.
const DEADLINE: Duration = Duration::from_secs(60);

/// A place where one registry lives, empty at first.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the registry there; again only after the earlier one was closed.
    async fn open(&self) -> Arc<dyn RegistryStore>;
    /// All that is kept there, as raw bytes.
    async fn dump(&self) -> Vec<u8>;
}

/// Looks again and again until something is there.
///
/// # Panics
/// When it does not come within 20 s: the test has failed.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    seen.await.unwrap_or_else(|_| unreachable!("in {DEADLINE:?} it did not happen that {what}"))
}
