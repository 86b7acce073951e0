//! What becomes of a running sidecar's settings when the host's files are read again: pure.
//!
//! What was read is in force, except for what a running process cannot change: that stays as it was at the start, and
//! is named.

use super::{Config, LocalPort, Log};

/// The settings in force after a reading, and what keeps its old value until a restart.
#[derive(Debug)]
pub struct Followed {
    /// What is in force.
    pub config: Config,
    /// Keys that say something else than what is in force.
    pub needs_restart: Vec<&'static str>,
    /// Keys that only an enrollment tells, and that say something else than before.
    pub told_once: Vec<&'static str>,
}

/// Joins what runs with what was read. `enrolled`: whether there is an identity already.
#[must_use]
pub fn follow(running: &Config, read: Config, enrolled: bool) -> Followed {
    let fixed = [
        ("state_dir", running.state_dir != read.state_dir),
        ("socket", running.socket != read.socket),
        ("local.http", running.local.http != read.local.http),
        ("bind_machine", running.bind_machine != read.bind_machine),
        ("log.format", running.log.format != read.log.format),
    ];
    let once = [("parent", running.parent != read.parent), ("checker_kind", running.checker_kind != read.checker_kind)];
    let named =
        |keys: &[(&'static str, bool)]| keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect();
    Followed {
        needs_restart: named(&fixed),
        told_once: if enrolled { named(&once) } else { Vec::new() },
        config: Config {
            state_dir: running.state_dir.clone(),
            socket: running.socket.clone(),
            packaged_socket: running.packaged_socket.clone(),
            local: LocalPort { http: running.local.http, ..read.local },
            bind_machine: running.bind_machine,
            machine_id_file: running.machine_id_file.clone(),
            log: Log { format: running.log.format, ..read.log },
            ..read
        },
    }
}
