//! End-to-end tests of Rollcall, and its load generator.

pub mod swarm;
