//! The Rollcall collector: liveness, lifecycle, audit and queries for a monitoring fleet.
//!
//! Data flows one way: sidecar → ingest → [`registry`] → [`store`] → HTTP. Only an acknowledgement
//! returns, and it waits for memory, never for a database.

pub mod cli;
pub mod config;
pub mod http;
pub mod metrics;
pub mod registry;
pub mod store;
