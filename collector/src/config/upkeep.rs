//! Settings of what happens by itself: jobs with their schedules, how long things are kept, maintenance windows.

use std::time::Duration;

use super::{Reader, Value};
use crate::schedule::Schedule;

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSettings {
    /// When it runs.
    pub schedule: Schedule,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// How much later than its schedule it may begin, so that a fleet of collectors does not act at once.
    pub jitter: Duration,
    /// How many things one run touches at most.
    pub cap: usize,
    /// How long a run may take.
    pub timeout: Duration,
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Services that were never heard.
    pub pending: Duration,
    /// Silent ones.
    pub inactive: Duration,
    /// Revoked ones; never less than the life of a certificate.
    pub revoked: Duration,
    /// Softly deleted ones.
    pub deleted: Duration,
    /// Presence intervals that ended.
    pub history: Duration,
    /// Presence intervals of one service, at most.
    pub history_rows: u32,
    /// Blind intervals.
    pub blind: Duration,
    /// Sealed batches of the audit trail.
    pub audit: Duration,
    /// Maintenance windows that are over.
    pub maintenance: Duration,
    /// Tokens that ended, with who used them.
    pub tokens: Duration,
}

/// Everything that happens by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// Silent services become inactive.
    pub mark_inactive: JobSettings,
    /// Inactive ones of old are revoked.
    pub archive: JobSettings,
    /// Records go after their retention.
    pub purge: JobSettings,
    /// Services go that were never meant to stay.
    pub ephemeral: JobSettings,
    /// Old history goes.
    pub retention: JobSettings,
    /// How long after a start what was missed meanwhile runs.
    pub grace: Duration,
    /// The silence after which a service is inactive.
    pub inactive_after: Duration,
    /// How long a service is inactive before it is archived.
    pub archive_after: Duration,
    /// How long things are kept.
    pub keep: Keep,
    /// Nothing is removed for so long after a time of blindness.
    pub hold_after_blind: Duration,
    /// The blindness within that time that is put up with.
    pub blind_limit: Duration,
    /// The longest maintenance window.
    pub longest_window: Duration,
    /// How far ahead a window may lie, and for how long one may come again.
    pub window_horizon: Duration,
}

/// The settings of every job, with their defaults: schedule, enabled, jitter, cap, timeout.
macro_rules! jobs {
    ($($name:literal: $schedule:literal, $enabled:literal, $jitter:literal, $cap:literal, $timeout:literal;)*) => {
        fn defaults(name: &str) -> (&'static str, bool, &'static str, u32, &'static str) {
            match name {
                $($name => ($schedule, $enabled, $jitter, $cap, $timeout),)*
                _ => unreachable!("there is no job {name}"),
            }
        }
    };
}

jobs! {
    "mark_inactive": "*/5 * * * *", true, "30s", 100_000, "4m";
    "archive": "30 3 * * 0", false, "5m", 10_000, "1h";
    "purge": "0 2 * * *", true, "5m", 10_000, "1h";
    "ephemeral": "*/5 * * * *", true, "30s", 10_000, "10m";
    "retention": "0 4 * * *", true, "5m", 1_000_000, "2h";
}

impl Reader<'_> {
    pub(super) fn upkeep(&mut self) -> Upkeep {
        Upkeep {
            mark_inactive: self.job("mark_inactive"),
            archive: self.job("archive"),
            purge: self.job("purge"),
            ephemeral: self.job("ephemeral"),
            retention: self.job("retention"),
            grace: self.within("jobs.grace", "1m", "0s", "1d"),
            inactive_after: self.within("inactive_after", "24h", "1s", "365d"),
            archive_after: self.within("retention.archive_after", "60d", "0s", "3650d"),
            keep: Keep {
                pending: self.within("retention.pending", "30d", "0s", "3650d"),
                inactive: self.within("retention.inactive", "90d", "0s", "3650d"),
                revoked: self.within("retention.revoked", "90d", "0s", "3650d"),
                deleted: self.within("retention.deleted", "7d", "0s", "3650d"),
                history: self.within("retention.history", "90d", "1h", "3650d"),
                history_rows: self.limit("retention.history_rows").unwrap_or(1_000),
                blind: self.within("retention.blind", "90d", "1h", "3650d"),
                audit: self.within("retention.audit", "90d", "1h", "3650d"),
                maintenance: self.within("retention.maintenance", "90d", "0s", "3650d"),
                tokens: self.within("retention.tokens", "90d", "0s", "3650d"),
            },
            hold_after_blind: self.within("retention.hold_after_blind", "1h", "0s", "30d"),
            blind_limit: self.within("retention.blind_limit", "5m", "0s", "30d"),
            longest_window: self.within("maintenance.longest", "30d", "1m", "366d"),
            window_horizon: self.within("maintenance.horizon", "366d", "1h", "3660d"),
        }
    }

    fn job(&mut self, name: &str) -> JobSettings {
        let key = |part: &str| format!("jobs.{name}.{part}");
        let (schedule, enabled, jitter, cap, timeout) = defaults(name);
        JobSettings {
            schedule: self.required(&key("schedule"), schedule, str::parse),
            enabled: self.switch(&key("enabled"), enabled),
            jitter: self.within(&key("jitter"), jitter, "0s", "1h"),
            cap: usize::try_from(self.limit(&key("cap")).unwrap_or(cap)).unwrap_or(usize::MAX),
            timeout: self.within(&key("timeout"), timeout, "1s", "1d"),
        }
    }

    fn switch(&mut self, key: &str, default: bool) -> bool {
        let found = match self.layers.get(key) {
            None => Some(default),
            Some((Value::Flag(flag), _)) => Some(*flag),
            Some((Value::Text(text), _)) => text.parse().ok(),
            Some((Value::Number(_) | Value::List(_), _)) => None,
        };
        found.unwrap_or_else(|| {
            self.wrong(key, "must be true or false");
            default
        })
    }
}
