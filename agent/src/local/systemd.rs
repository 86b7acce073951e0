//! The service manager: readiness, a status line, the watchdog. Without one, nothing happens.

use std::{path::Path, time::Duration};

use sd_notify::NotifyState;

/// Tells systemd what changes, and nothing twice.
#[derive(Debug, Default)]
pub struct Systemd {
    line: String,
}

impl Systemd {
    /// The local loop runs. Whether a collector is reached is in the status line: a service that cannot
    /// reach one has started all the same.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is read again, until it is ready.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "no time to tell systemd"),
        }
    }

    /// What `systemctl status` shows.
    pub fn status(&mut self, line: String) {
        if line != self.line {
            tell(&[NotifyState::Status(&line)]);
            self.line = line;
        }
    }

    /// What it shows now.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The process is leaving.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// How often the watchdog wants to be fed, where there is one.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| (within / 3).max(Duration::from_millis(10)))
}

/// Tells the watchdog that the loop turns.
pub fn feed_watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Whether the host seems to be going down: what systemd leaves in /run before and while it does. A
/// guess that costs two look-ups; without these marks a stop is just a stop.
#[must_use]
pub fn host_is_stopping() -> bool {
    ["/run/systemd/shutdown/scheduled", "/run/nologin"].iter().any(|path| Path::new(path).exists())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
