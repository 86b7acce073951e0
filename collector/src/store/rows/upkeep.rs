//! Rows of what runs on a schedule: jobs with their last run, what holds them back, maintenance windows.

use std::{collections::BTreeMap, fmt, str::FromStr};

use rollcall_common::{
    id::{NoRandomness, Seq, ServiceKey, random},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::scope::Scope;

/// The id of a window or a run: a ULID in lower case, so that ids sort by the time of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowId(Ulid);

/// A text that is no [`RowId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: 26 characters of 0-9 and a-z are expected")]
pub struct RowIdError(String);

impl RowId {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn new(at: Timestamp) -> Result<Self, NoRandomness> {
        let chance = u128::from_be_bytes(random()?);
        Ok(Self(Ulid::from_parts(u64::try_from(at.0).unwrap_or(0), chance)))
    }

    /// One that is told apart by a number, for samples.
    #[must_use]
    pub fn numbered(n: u128) -> Self {
        Self(Ulid::from_bytes(n.to_be_bytes()))
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string().to_ascii_lowercase())
    }
}

impl FromStr for RowId {
    type Err = RowIdError;

    fn from_str(text: &str) -> Result<Self, RowIdError> {
        let bad = || RowIdError(text.chars().take(40).collect());
        let id = Ulid::from_string(text).map(Self).map_err(|_| bad())?;
        // One spelling an id: whatever else decodes to it is refused.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl TryFrom<String> for RowId {
    type Error = RowIdError;
    fn try_from(text: String) -> Result<Self, RowIdError> {
        text.parse()
    }
}

impl From<RowId> for String {
    fn from(id: RowId) -> Self {
        id.to_string()
    }
}

/// A job: what an operator set, and the record of its last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Which.
    pub name: String,
    /// The schedule that `next_at` was reckoned from.
    pub schedule: String,
    /// Whether an operator switched it on or off; `None` leaves it to the configuration.
    pub enabled: Option<bool>,
    /// Until when an operator paused it.
    pub paused_until: Option<Timestamp>,
    /// When it is due next.
    pub next_at: Option<Timestamp>,
    /// Its last run, if it ever ran.
    pub last: Option<RunRow>,
    /// When it last ended well; dry runs do not count.
    pub last_success: Option<Timestamp>,
    /// Runs so far.
    pub runs: u64,
    /// Runs so far that did not end well.
    pub failures: u64,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Which.
    pub id: RowId,
    /// Why it ran.
    pub cause: RunCause,
    /// Who asked for it.
    pub by: String,
    /// Whether it only looked.
    pub dry_run: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs, or where nobody could write it down.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// What it did, counted.
    pub counts: BTreeMap<String, u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What held it back.
    pub held_by: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word used in the API, in rows and in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// Why a job ran.
    RunCause {
        /// Its time had come.
        Schedule = "schedule",
        /// Its time had come while the collector was away.
        Missed = "missed",
        /// Somebody asked for it.
        Manual = "manual",
    }
}

words! {
    /// How a run ended.
    Outcome {
        /// Well.
        Succeeded = "succeeded",
        /// With an error.
        Failed = "failed",
        /// It did not begin, or not go on, because something held it back.
        Held = "held",
        /// It took too long.
        TimedOut = "timed_out",
        /// The collector stopped.
        Stopped = "stopped",
        /// The collector died under it.
        Interrupted = "interrupted",
    }
}

impl Outcome {
    /// Whether a run that ended so counts as a failure: being held back or stopped is none.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Failed | Self::TimedOut | Self::Interrupted => true,
            Self::Succeeded | Self::Held | Self::Stopped => false,
        }
    }
}

/// Something that holds jobs back until somebody confirms that all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// What, in one word: `clock_step`.
    pub name: String,
    /// Since when.
    pub since: Timestamp,
    /// What was seen.
    pub detail: serde_json::Value,
}

/// A time in which services are worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRow {
    /// Which.
    pub id: RowId,
    /// Whom it covers.
    pub selector: Selector,
    /// When it begins; for a recurring one, from when on.
    pub starts_at: Timestamp,
    /// When it ends; for a recurring one, until when.
    pub ends_at: Timestamp,
    /// When it comes again.
    pub recurrence: Option<Recurrence>,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub author: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was ended before its time.
    pub ended_early: Option<Timestamp>,
    /// The seq of its last change.
    pub seq: Seq,
}

/// Whom a window covers: every condition that is given must hold; at least one is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// One of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceKeyText>,
    /// All of these labels; `None` = with any value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// This service and all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtree: Option<ServiceKeyText>,
    /// Of these only what lies within: what its maker reached. It names nobody by itself.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub within: Scope,
}

impl Selector {
    /// What each service that it can ever cover lies within, whatever becomes of the services that it names.
    #[must_use]
    pub fn reach(&self) -> Scope {
        let exact = self.labels.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)));
        self.within.clone().narrowed(&Scope::of_labels(exact))
    }
}

/// A service's key that JSON shows as `kind/id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceKeyText(pub ServiceKey);

impl TryFrom<String> for ServiceKeyText {
    type Error = rollcall_common::id::NameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<ServiceKeyText> for String {
    fn from(key: ServiceKeyText) -> Self {
        key.0.to_string()
    }
}

/// When a window comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// When each one begins: a cron expression with its time zone.
    pub cron: String,
    /// How long each one lasts.
    pub duration_ms: u64,
}

/// What retention would take out of the store, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlived {
    /// Presence intervals that ended before a moment, and those beyond the newest of each service.
    History {
        /// The moment.
        before: rollcall_common::time::Timestamp,
        /// How many of a service stay.
        keep: u32,
    },
    /// Blind intervals that ended before a moment.
    Blind(rollcall_common::time::Timestamp),
    /// Events of the oldest batches of the audit trail, as far as every batch is due one way or the other.
    Audit {
        /// Batches that were over before this moment go, if they were sent.
        before: rollcall_common::time::Timestamp,
        /// The last event that was sent.
        sent: Seq,
        /// Those that were over before this moment go in any case.
        anyway: rollcall_common::time::Timestamp,
    },
}

/// What retention takes out of the store, in slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prune {
    /// Presence intervals that ended before a moment.
    HistoryBefore(rollcall_common::time::Timestamp),
    /// Of one service's presence intervals that ended, all but the newest.
    HistoryOf {
        /// Whose.
        service: ServiceKey,
        /// How many stay.
        keep: u32,
    },
    /// Blind intervals that ended before a moment.
    BlindBefore(rollcall_common::time::Timestamp),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_sorts_by_time() {
        let (older, newer) = (RowId::new(Timestamp(1_000)).unwrap(), RowId::new(Timestamp(2_000)).unwrap());
        assert!(older < newer && older.to_string() < newer.to_string());
        let text = newer.to_string();
        assert_eq!((text.len(), text.parse()), (26, Ok(newer)));
        assert_eq!(text, text.to_ascii_lowercase());
        for bad in [text.to_ascii_uppercase(), format!("{text}0"), String::new(), text.replace(&text[..1], "i")] {
            assert!(bad.parse::<RowId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_round_trip(n: u128) {
            let id = RowId::numbered(n);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
