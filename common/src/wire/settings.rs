//! Settings of a sidecar that its collector may change, and what the sidecar tells of them.
//!
//! Nothing here can name a command, a path or a target: a collector chooses among the probes that the host's
//! own files define and allow, and how often and how patiently they look. Both ends agree on
//! [`super::message::capability::SETTINGS`] in their greeting before the first of these frames is sent.

use serde::{Deserialize, Serialize};

use crate::{
    health::Text,
    id::{ServiceId, ServiceKey},
    service::Pairs,
};

/// Most probes that one set of settings may tune: with the most labels there may be, it fits a frame.
pub const MAX_TUNED: usize = 32;
/// Most probes that one report shows; those that may be tuned come first.
pub const MAX_SHOWN: usize = 64;

/// What the collector wants. It replaces what it wanted before, as a whole: what is not named is as the host's
/// files have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which settings these are. Any other number than that of those in force is news, a smaller one too: a
    /// collector may have been put back from a copy.
    pub revision: u64,
    /// The labels in force at the collector, for the sidecar to show.
    pub labels: Pairs,
    /// At most [`MAX_TUNED`].
    pub probes: Vec<Tuning>,
}

/// How one probe is to run; what is left out is as the host's files have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Whose probe, where it is a child's.
    pub child: Option<ServiceKey>,
    /// The name that the host's files give it.
    pub probe: ServiceId,
    /// Whether it runs.
    pub run: Option<bool>,
    /// Milliseconds between two looks.
    pub interval_ms: Option<u32>,
    /// Milliseconds that a look may take.
    pub timeout_ms: Option<u32>,
    /// Good looks in a row that make it healthy.
    pub rise: Option<u32>,
    /// Bad looks in a row that make it unhealthy.
    pub fall: Option<u32>,
}

/// What is in force on a host; sent after each greeting, each [`Settings`] and each change of the host's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsState {
    /// The settings in force; 0: the host's files alone.
    pub revision: u64,
    /// The last settings that were not taken, where they are newer than those in force; with the number of those in
    /// force: what of them the host's files do not allow any more, while the rest stays.
    pub refused: Option<SettingsRefused>,
    /// At most [`MAX_SHOWN`].
    pub probes: Vec<ProbeState>,
    /// How many more probes there are.
    pub more: u32,
}

/// Settings that a sidecar did not take; those in force stayed as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRefused {
    /// Which.
    pub revision: u64,
    /// Why, in words.
    pub why: Text,
}

/// One probe as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeState {
    /// Whose probe, where it is a child's.
    pub child: Option<ServiceKey>,
    /// Its name.
    pub probe: ServiceId,
    /// The word for its type.
    pub sort: Text,
    /// Whether the host lets the collector tune it.
    pub allowed: bool,
    /// Whether it runs.
    pub runs: bool,
    /// Milliseconds between two looks.
    pub interval_ms: u32,
    /// Milliseconds that a look may take.
    pub timeout_ms: u32,
    /// Good looks in a row that make it healthy.
    pub rise: u32,
    /// Bad looks in a row that make it unhealthy.
    pub fall: u32,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        codec::{decode, encode},
        message::{Down, Up},
    };

    fn longest() -> (ServiceKey, ServiceId) {
        let id = "x".repeat(64);
        (format!("checker/{id}").parse().expect("a key"), id.parse().expect("an id"))
    }

    #[test]
    fn the_longest_settings_fit_a_frame() {
        let (child, probe) = longest();
        let labels: BTreeMap<_, _> = (0..32).map(|n| (format!("{n:063}"), "v".repeat(256))).collect();
        let tuning = Tuning {
            child: Some(child),
            probe,
            run: Some(true),
            interval_ms: Some(u32::MAX),
            timeout_ms: Some(u32::MAX),
            rise: Some(u32::MAX),
            fall: Some(u32::MAX),
        };
        let labels = labels.try_into().expect("pairs");
        let settings = Settings { revision: u64::MAX, labels, probes: vec![tuning; MAX_TUNED] };
        assert!(encode(&Down::Settings(Box::new(settings))).is_ok());
    }

    #[test]
    fn the_longest_state_fits_a_frame() {
        let (child, probe) = longest();
        let state = ProbeState {
            child: Some(child),
            probe,
            sort: Text::fit("progress"),
            allowed: true,
            runs: true,
            interval_ms: u32::MAX,
            timeout_ms: u32::MAX,
            rise: u32::MAX,
            fall: u32::MAX,
        };
        let refused = SettingsRefused { revision: u64::MAX, why: Text::fit(&"w".repeat(256)) };
        let state = SettingsState {
            revision: u64::MAX,
            refused: Some(refused),
            probes: vec![state; MAX_SHOWN],
            more: u32::MAX,
        };
        assert!(encode(&Up::Settings(Box::new(state))).is_ok());
    }

    proptest! {
        /// Whatever the bytes after the variant's number, reading them ends without harm.
        #[test]
        fn hostile_settings_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let up = [&[10_u8], bytes.as_slice()].concat();
            if let Ok(up) = decode::<Up>(&up) {
                prop_assert!(matches!(up, Up::Settings(_)));
            }
            let down = [&[8_u8], bytes.as_slice()].concat();
            if let Ok(down) = decode::<Down>(&down) {
                prop_assert!(matches!(down, Down::Settings(_)));
            }
        }
    }
}
