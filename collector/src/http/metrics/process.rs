//! The process itself, under the names that everybody's dashboards know.
//!
//! Reads `/proc/self`; what cannot be read is left out.

use std::fs;

use rollcall_common::time::Now;

/// The kernel tells times in hundredths of a second, on every machine that Linux still runs on.
const TICKS: f64 = 100.0;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// CPU time, user and system.
    pub(super) cpu_seconds: f64,
    /// When it started, in seconds since the Unix epoch.
    pub(super) started: f64,
    /// Memory in RAM.
    pub(super) resident_bytes: u64,
    /// Open file descriptors.
    pub(super) open_files: u64,
    /// How many it may open.
    pub(super) most_files: u64,
}

impl Process {
    /// Looks at this process.
    pub(super) fn look(now: Now) -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The program's name may hold anything: what follows stands behind the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |n: usize| fields.get(n)?.parse::<u32>().ok().map(f64::from);
        let started = fields.get(19)?.parse::<u64>().ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let ago = now.boot.0.saturating_sub(started.saturating_mul(10));
        Some(Self {
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
            started: std::time::Duration::from_millis(u64::try_from(now.wall.0).ok()?.checked_sub(ago)?).as_secs_f64(),
            resident_bytes: resident.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024),
            open_files: fs::read_dir("/proc/self/fd").ok()?.count().try_into().ok()?,
            most_files: files.split_whitespace().next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::time::{Clock as _, SystemClock};

    use super::*;

    #[test]
    fn this_very_process_is_found() {
        let now = SystemClock.now();
        let found = Process::look(now).unwrap();
        assert!(found.resident_bytes > 1 << 20 && found.open_files >= 3 && found.most_files >= found.open_files);
        let age = std::time::Duration::from_millis(now.wall.0.try_into().unwrap()).as_secs_f64() - found.started;
        assert!((-1.0..86_400.0).contains(&age), "it is {age} s old");
    }
}
