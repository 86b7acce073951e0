//! CPU time and memory of processes, as the kernel accounts them. Reads `/proc`, judges nothing.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid(pub u32);

impl Pid {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Whether it is there and not a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The name may hold anything; the state follows its closing parenthesis.
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    /// Time on a CPU of all its threads; waiting for one is not in it. Threads that ended are not either:
    /// both processes keep theirs.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(self) -> Result<Duration> {
        let dir = format!("/proc/{}/task", self.0);
        let tasks = fs::read_dir(&dir).with_context(|| format!("no process {}", self.0))?;
        let mut sum = 0;
        for task in tasks {
            // A thread may end between the listing and the reading.
            let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += on_cpu(&stat).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Anonymous resident memory, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn anonymous(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("no process {}", self.0))?;
        kilobytes(&status, "RssAnon:").map(|kb| kb * 1024).with_context(|| format!("{path} has no RssAnon"))
    }
}

/// The machine while it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Logical processors.
    pub cpus: usize,
    /// Processor model.
    pub model: String,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute.
    pub load: String,
}

impl Machine {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            model: model.map_or_else(String::new, |(_, name)| name.trim().into()),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().into(),
        }
    }
}

/// Nanoseconds on a CPU: the first field of `schedstat`.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_words() {
        assert_eq!(on_cpu("123456789 987 42\n"), Some(123_456_789));
        assert_eq!(on_cpu(""), None);
        assert_eq!(kilobytes("VmRSS:\t  20 kB\nRssAnon:\t    1234 kB\n", "RssAnon:"), Some(1_234));
    }

    #[test]
    fn this_process_is_seen() {
        let me = Pid::own();
        assert!(me.is_alive());
        assert!(me.anonymous().unwrap() > 0);
        let before = me.cpu().unwrap();
        let spent = std::hint::black_box((0..20_000_000u64).fold(0, |a, n| std::hint::black_box(a ^ n)));
        assert!(me.cpu().unwrap() > before, "{spent}");
        assert!(!Pid(u32::MAX).is_alive());
        assert!(Machine::now().cpus > 0);
    }
}
