//! The Rollcall collector: liveness, lifecycle, audit and queries for a monitoring fleet.
//!
//! Data flows one way: sidecar → [`ingest`] → [`registry`] → [`store`] → [`http`]. Only an acknowledgement
//! returns, and it waits for memory, never for a database.

pub mod admission;
pub mod audit;
pub mod ca;
pub mod cidr;
pub mod cli;
pub mod collector;
pub mod config;
mod crowd;
pub mod http;
pub mod ingest;
pub mod jobs;
pub mod keeper;
pub mod log;
pub mod logincode;
pub mod metrics;
pub mod naming;
pub mod registry;
pub mod restored;
pub mod schedule;
pub mod scope;
pub mod serve;
pub mod statedir;
pub mod store;
