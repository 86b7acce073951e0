//! What operators want of a sidecar, what became of it, and what its host proposes.

use rollcall_common::{
    machine::MachineTag,
    service::Pairs,
    time::Timestamp,
    wire::settings::{ProbeState, SettingsRefused, Tuning},
};
use serde::{Deserialize, Serialize};

/// Settings that operators want. Those that were taken back are kept too, empty: their number rises for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRow {
    /// Rises with each change.
    pub revision: u64,
    /// Milliseconds between two heartbeats, where not as for everybody.
    pub interval_ms: Option<u32>,
    /// Milliseconds that one heartbeat is good for, where it does not follow from the interval.
    pub ttl_ms: Option<u32>,
    /// How single probes are to run.
    pub probes: Vec<Tuning>,
    /// Who set them.
    pub set_by: String,
    /// When.
    pub set_at: Timestamp,
    /// Interval and time to live before the last change, in milliseconds: what its sidecar may keep until a beat of it
    /// has echoed the pace of this revision.
    pub paced_before: Option<(u32, u32)>,
}

impl SettingsRow {
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.interval_ms.is_none() && self.ttl_ms.is_none() && self.probes.is_empty()
    }
}

/// What a sidecar said of the settings in force on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRow {
    /// Whether it knows settings at all.
    pub supported: bool,
    /// Which are in force; 0 = the host's files alone.
    pub revision: u64,
    /// The last ones that it did not take, where they are newer.
    pub refused: Option<SettingsRefused>,
    /// Its probes as they run.
    pub probes: Vec<ProbeState>,
    /// How many more there are.
    pub more: u32,
    /// When it said so first.
    pub at: Timestamp,
    /// Since when it has these settings and refuses those.
    pub since: Timestamp,
    /// The revision of which the audit trail was told.
    pub told: u64,
    /// Whether it was told that they are in force.
    pub told_applied: bool,
    /// Whether it was told that they were refused.
    pub told_refused: bool,
    /// The revision whose pace a beat has echoed.
    #[serde(default)]
    pub paced: u64,
    /// Whether that is all that is known: nothing was said yet.
    #[serde(default)]
    pub unsaid: bool,
}

/// What a host proposed last. Its labels stand only here: scopes hang on those in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedRow {
    /// Labels.
    pub labels: Pairs,
    /// Free metadata: what the next one is compared with.
    pub metadata: Pairs,
}

/// The machine that an identity is used on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRow {
    /// Its tag.
    pub tag: MachineTag,
    /// Since when.
    pub since: Timestamp,
    /// The one before it, under the same enrollment.
    pub before: Option<MachineTag>,
}
