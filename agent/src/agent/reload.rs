//! SIGHUP: the host's files are read again, and what can change in a running process changes.
//!
//! A file that does not pass changes nothing; what is wrong with it is logged as at the start, and shown until it is
//! mended. What cannot change is named.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use super::{Agent, disagreements, watching::Watching};
use crate::{
    config::{Config, Followed, Problems, follow},
    drive::Drive,
    log,
    session::Event,
};

/// Reads the configuration from where the running one came from.
pub struct Reread(Box<dyn Fn() -> Result<Config, Problems> + Send + Sync>);

impl Reread {
    /// By this.
    pub fn by(read: impl Fn() -> Result<Config, Problems> + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reread")
    }
}

/// What an operator should look at, by where it comes from.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    /// Of the start: a port that somebody else has.
    pub(super) start: Vec<String>,
    /// Of the last reading of the files.
    pub(super) files: Vec<String>,
    /// Of what lies in the state directory.
    pub(super) kept: Vec<String>,
}

impl Agent {
    /// Has the configuration read again when somebody asks for it; without this, it stays as it is.
    #[must_use]
    pub fn rereading(self, reread: Reread) -> Self {
        Self { reread: Some(reread), ..self }
    }

    /// Reads the host's files again. What runs by them follows with [`Self::follow`], once it runs.
    pub(super) fn reload(&mut self, enrolled: bool) {
        let Some(Reread(read)) = &self.reread else { return };
        self.systemd.reloading();
        match read() {
            Ok(read) => self.take(read, enrolled),
            Err(Problems(problems)) => {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                lines.iter().for_each(|line| tracing::error!("the configuration stays as it was: {line}"));
                self.warnings.files.retain(|warning| !warning.starts_with(NOT_TAKEN));
                self.warnings.files.extend(lines.iter().map(|line| format!("{NOT_TAKEN}{line}")));
            }
        }
        self.show_warnings();
        if !enrolled || !self.has_reread {
            self.systemd.ready();
        }
    }

    fn take(&mut self, read: Config, enrolled: bool) {
        let Followed { config, needs_restart, told_once } = follow(&self.config, read, enrolled);
        let before = std::mem::replace(&mut self.config, config);
        if !enrolled {
            // Nobody looks yet who would do it.
            self.recast(&before);
        }
        self.warnings.files = self.config.remarks();
        if !needs_restart.is_empty() {
            let keys = needs_restart.join(", ");
            self.warnings.files.push(format!("until the next start these stay as they were: {keys}"));
        }
        if !told_once.is_empty() {
            let keys = told_once.join(", ");
            self.warnings.files.push(format!("{keys}: told at enrollment only; change it at the collector"));
        }
        for warning in &self.warnings.files {
            tracing::warn!("{warning}");
        }
        self.carriage.allow(self.config.transport, self.clock.now().boot);
        log::set_level(self.config.log.level);
        self.loopback_reports.store(self.config.local.http_reports, Relaxed);
        let kept = self.kept.take();
        self.settle_addresses(kept);
        self.has_reread = true;
        tracing::info!("the configuration was read again");
    }

    /// Whom something can be said of, and what is shown of probes.
    fn recast(&mut self, before: &Config) {
        self.health.edit(|board| {
            before.children.iter().for_each(|child| board.dismiss(&child.key));
            self.config.children.iter().for_each(|child| board.admit(child.key.clone()));
        });
        self.steer();
    }

    /// What runs follows the files that were read.
    pub(super) fn follow(&mut self, drive: &mut Drive, watching: &mut Watching) {
        self.warnings.files.extend(disagreements(&self.config, drive.identity()));
        self.show_warnings();
        self.reconsider();
        self.steer();
        watching.follow(&self.steering.effective, self.config.children_interval);
        drive.tell(Event::ChildrenGone(self.parted()));
        drive.tell(Event::About(Box::new(self.about())));
        drive.tell(Event::InForce(Box::new(self.steering.state())));
        drive.tell(Event::Reconfigured {
            addresses: self.addresses.clone(),
            follow_addresses: self.config.addresses.is_empty(),
            revoked_retry: self.config.revoked_retry,
            transport: self.config.transport,
        });
        self.systemd.ready();
    }

    pub(super) fn show_warnings(&self) {
        let Warnings { start, files, kept } = &self.warnings;
        let all: Vec<String> = start.iter().chain(files).chain(kept).cloned().collect();
        self.edit(|board| board.warnings = all);
    }
}

const NOT_TAKEN: &str = "the configuration was not taken: ";
