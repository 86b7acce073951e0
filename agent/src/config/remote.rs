//! The `[remote]` table: what a collector may change.

use serde::Deserialize;

use super::{Period, limits};
use crate::remote::{Allowed, Remote};

/// Most entries of the list; `*` says all.
const MAX_ENTRIES: usize = 1_024;

/// What one source says of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented in Remote")]
pub struct RemoteLayer {
    pub probes: Option<Vec<Entry>>,
    pub min_interval: Option<Period>,
    pub min_exec_interval: Option<Period>,
    pub max_timeout: Option<Period>,
}

/// One entry of `probes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Entry(pub Allowed);

impl TryFrom<String> for Entry {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl RemoteLayer {
    /// The lists of all sources count together: a file of `agent.d` allows what it defines.
    pub(super) fn overlaid(under: Option<Self>, over: Option<Self>) -> Option<Self> {
        match (under, over) {
            (Some(under), Some(over)) => Some(Self {
                probes: match (under.probes, over.probes) {
                    (Some(under), Some(over)) => Some(under.into_iter().chain(over).collect()),
                    (under, over) => over.or(under),
                },
                min_interval: over.min_interval.or(under.min_interval),
                min_exec_interval: over.min_exec_interval.or(under.min_exec_interval),
                max_timeout: over.max_timeout.or(under.max_timeout),
            }),
            (under, over) => over.or(under),
        }
    }

    pub(super) fn remote(self) -> Remote {
        let otherwise = Remote::default();
        Remote {
            probes: self.probes.unwrap_or_default().into_iter().map(|entry| entry.0).collect(),
            min_interval: self.min_interval.map_or(otherwise.min_interval, |period| period.0),
            min_exec_interval: self.min_exec_interval.map_or(otherwise.min_exec_interval, |period| period.0),
            max_timeout: self.max_timeout.map(|period| period.0),
        }
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let periods = [("min_interval", self.min_interval), ("min_exec_interval", self.min_exec_interval)];
        let beyond = |(_, period): &(&str, Option<Period>)| period.is_some_and(|p| !limits::INTERVALS.contains(&p.0));
        let mut found: Vec<String> = periods
            .into_iter()
            .filter(beyond)
            .map(|(key, _)| format!("remote.{key}: give a time between 1s and 1h"))
            .collect();
        if self.max_timeout.is_some_and(|period| !limits::TIMEOUTS.contains(&period.0)) {
            found.push("remote.max_timeout: give a time between 50ms and 60s".to_owned());
        }
        if self.probes.as_ref().is_some_and(|probes| probes.len() > MAX_ENTRIES) {
            found.push(format!("remote.probes: at most {MAX_ENTRIES} entries; \"*\" allows all"));
        }
        found
    }
}
