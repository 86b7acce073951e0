//! The Rollcall sidecar: enrolls once, then heartbeats for the service beside it.
//!
//! Decisions are pure: [`session`] for a session, [`rotation`] for addresses, [`carriage`] for
//! what carries a connection, [`health`] for what probes saw,
//! [`rounds`] for when children are told of. Everything that touches the world has one home: [`link`] the network,
//! [`vault`] the state directory, [`key`] the private key, [`sample`] the host, [`probe`] the services,
//! [`local`] the Unix socket and systemd, [`plain`] small files, [`leave`] who may look where. [`agent`] builds these parts and takes a
//! sidecar from its token to its goodbye. [`drive`] and [`enroll`] work without a disk as well: a load
//! generator runs thousands of them in one process.

pub mod agent;
pub mod carriage;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod drive;
pub mod enroll;
pub mod health;
pub mod identity;
pub mod key;
pub mod leave;
pub mod link;
pub mod local;
pub mod log;
pub mod machine;
pub mod plain;
pub mod probe;
pub mod remote;
pub mod rotation;
pub mod rounds;
pub mod sample;
pub mod session;
pub mod signals;
pub mod status;
pub mod token;
pub mod vault;
