//! Probes: how the service beside us, and each child, is looked at.
//!
//! Three facts stay apart: that the sidecar lives, which its beats say; that a service is well, which its probes say;
//! and that it gets on, which a probe of type progress says. What a look sees is a shell's ([`check`]); what a row of
//! looks is worth, when to look and what does not move is pure ([`gauge`], [`rota`], [`movement`], and their sum, the
//! [`ledger`]); [`keeper`] owns the tasks and says on the [board](crate::health) what they saw. No look waits for a heartbeat, and no heartbeat for a look.

pub mod check;
pub mod gauge;
pub mod keeper;
pub mod ledger;
pub mod movement;
pub mod plan;
pub mod rota;
pub mod watch;
