//! The Rollcall collector.

pub mod admission;
pub mod ca;
pub mod ingest;
pub mod statedir;
