//! End-to-end tests of Rollcall: real processes, real sockets, real files, and faults on cue.
//!
//! | module | owns |
//! |---|---|
//! | [`until`] | bounded waiting: the one place where time passes |
//! | [`net`] | a UDP relay with weather |
//! | [`peer`] | a sidecar driven by hand |
//! | [`world`] | collector and sidecars as processes, the API, the logs |

pub mod net;
pub mod peer;
pub mod until;
pub mod world;
