//! The words, the wire and the identities of Rollcall.
//!
//! Everything here is a value or a pure function of (state, event, now): no sockets, no tasks, no
//! files, no environment. The sidecar and the collector both stand on this crate and never on one
//! another.
//!
//! | module | owns |
//! |---|---|
//! | [`id`] | names: services, collectors, instances, sequence numbers |
//! | [`time`] | wall time, boot time, and the [`time::Clock`] that shells hold |
//! | [`service`] | what is registered: source, labels, metadata |
//! | [`lifecycle`] | the status table: every allowed arrow, and nothing else |
//! | [`lease`] | presence from beats and deadlines |
//! | [`health`] | what a sidecar says of its service; host facts |
//! | [`address`] | where a collector can be dialed |
//! | [`backoff`] | seeded, jittered, capped delays |
//! | [`token`] | the onboarding token: parse, print, checksum |
//! | [`code`] | the one numeric table of refusals and close reasons |
//! | [`wire`] | ALPN, versions, size limits, messages, codec |
//! | [`log`] | what a line of the log looks like, and what never stands in it |
//! | [`identity`] | SPIFFE ids, pins, serials, verified peers, TLS settings |

pub mod address;
pub mod backoff;
pub mod code;
pub mod health;
pub mod id;
pub mod identity;
pub mod lease;
pub mod lifecycle;
pub mod log;
pub mod machine;
pub mod service;
pub mod time;
pub mod token;
pub mod wire;
