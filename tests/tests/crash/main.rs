//! What survives: collectors killed at any moment, stores that stall, Redis that comes and goes.
//!
//! `ROLLCALL_KILL_ROUNDS` and `ROLLCALL_RESTART_SIDECARS` make the long runs of `make soak`.

mod kill;
mod redis;
mod restart;
mod stall;

use anyhow::{Context as _, Result};

/// A number from the environment, for longer runs.
fn number(name: &str, otherwise: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(otherwise),
    }
}
