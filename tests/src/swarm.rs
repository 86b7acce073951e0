//! The load generator: thousands of sidecar sessions in one process, and what they saw.
//!
//! Each session is the sidecar's own state machine, driven by the sidecar's own [`rollcall_agent::drive`];
//! nothing of the protocol is written a second time here. What differs from a fleet of real sidecars: keys
//! come from one file, host facts are not sampled, and many sessions share a few UDP sockets.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | flags and their explanation |
//! | [`guard`] | what a load generator refuses to be aimed at |
//! | [`plan`] | who is who: flat, or a tree |
//! | [`shelf`] | identities on disk |
//! | [`recruit`] | from a token to identities on the shelf |
//! | [`wire`] | UDP sockets that count, and that can fall silent |
//! | [`fleet`] | the sessions and their fates |
//! | [`tally`] | what the sessions saw |
//! | [`quantile`] | quantiles of milliseconds |
//! | [`gauge`] | CPU time and memory of processes |
//! | [`api`] | the collector's public API |
//! | [`witness`] | what the collector recorded about our services |
//! | [`run`] | the measured run, with faults |
//! | [`storm`] | a collector that goes away and comes back |
//! | [`baseline`] | what a user would build instead |
//! | [`feed`] | many readers of the change feed |
//! | [`tree`] | a realistic fleet as registrations |
//! | [`queries`] | operators and programs that ask |
//! | [`report`] | figures as a table or as JSON |

pub mod api;
pub mod baseline;
pub mod cli;
pub mod feed;
pub mod fleet;
pub mod gauge;
pub mod guard;
pub mod plan;
pub mod quantile;
pub mod queries;
pub mod recruit;
pub mod report;
pub mod run;
pub mod shelf;
pub mod storm;
pub mod tally;
pub mod tree;
pub mod wire;
pub mod witness;
