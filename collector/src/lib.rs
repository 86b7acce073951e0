//! The Rollcall collector.

pub mod store;
