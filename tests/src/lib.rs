//! End-to-end tests of Rollcall: real processes, real sockets, real files, and faults on cue.
//!
//! | module | owns |
//! |---|---|
//! | [`until`] | bounded waiting: the one place where time passes |
//! | [`net`] | a UDP relay with weather |
//! | [`peer`] | a sidecar driven by hand |
//! | [`fleet`] | many of them that keep their pace |
//! | [`flood`] | handshakes that are begun and never finished |
//! | [`forge`] | certificates that nobody should trust |
//! | [`impostor`] | a false collector |
//! | [`redis`] | a real redis-server |
//! | [`lab`] | a collector in this process, with another clock or store |
//! | [`swarm`] | the load generator |
//! | [`papers`] | what a package carries beside its program |
//! | [`world`] | collector and sidecars as processes, the API, the logs |

pub mod fleet;
pub mod flood;
pub mod forge;
pub mod impostor;
pub mod lab;
pub mod net;
pub mod papers;
pub mod peer;
pub mod redis;
pub mod swarm;
pub mod until;
pub mod world;
