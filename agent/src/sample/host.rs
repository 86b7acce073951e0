//! The host's facts, and the only home of sysinfo. What the host does not tell stays empty: a fact is
//! never worth a failure.

use rollcall_common::{
    health::{HostFacts, Text},
    id::{BootId, NameError},
};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The host's facts now.
#[must_use]
pub fn facts() -> HostFacts {
    let text = |told: Result<String, sysinfo::Error>| told.map(|text| Text::fit(&text)).unwrap_or_default();
    // Not std's available_parallelism: that is what the service's own quota leaves of the host.
    let wanted =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted);
    let (cpus, memory_mib) =
        system.map(|system| (system.cpus().len(), system.total_memory() >> 20)).unwrap_or_default();
    HostFacts {
        hostname: text(System::host_name()),
        os: text(System::long_os_version()),
        kernel: text(System::kernel_version()),
        arch: Text::fit(&System::cpu_arch()),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_mib,
        uptime_secs: System::uptime().unwrap_or(0),
        agent_version: Text::fit(env!("CARGO_PKG_VERSION")),
    }
}

/// Where Linux tells the boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the boot id is not known.
#[derive(Debug, thiserror::Error)]
pub enum BootIdError {
    /// It cannot be read.
    #[error("cannot read {BOOT_ID}: {0} (is /proc hidden from this service?)")]
    Read(#[from] std::io::Error),
    /// It is none.
    #[error("{BOOT_ID}: {0}")]
    Form(#[from] NameError),
}

/// The id of the host's boot.
///
/// # Errors
/// [`BootIdError`] where the kernel does not tell it.
pub fn boot_id() -> Result<BootId, BootIdError> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_known() {
        let facts = facts();
        assert!(!facts.hostname.as_str().is_empty());
        assert!(!facts.kernel.as_str().is_empty());
        assert!(facts.cpus > 0 && facts.memory_mib > 0 && facts.uptime_secs > 0);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
