//! The audit trail's integrity: events are sealed in batches, and each seal covers the one before it.
//!
//! Whoever changes, removes or slips in an event, or a seal, breaks the chain at a batch that can be named;
//! whoever rewrites the whole chain ends with another head than the one that was noted elsewhere, which is
//! why the head is logged, shown and kept beside the database. Batches that were kept long enough lose their
//! events and keep their seals. Knows stores, and nothing of HTTP.
//!
//! | module | owns |
//! |---|---|
//! | [`chain`] | the encoding, the hash, the check of a chain: pure |
//! | [`sealer`] | the task that seals |
//! | [`offline`] | an exported trail, checked without a collector |
//! | [`outlet`] | the trail on its way out |

pub mod chain;
pub mod offline;
pub mod outlet;
pub mod sealer;
#[cfg(test)]
mod tests;

pub use self::{chain::Break, sealer::Sealer};
