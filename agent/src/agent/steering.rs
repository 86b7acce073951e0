//! What the collector set on this host: kept on disk, laid over the host's files, told and shown.
//!
//! Settings are judged whole, kept, and only then applied: applying changes memory alone and cannot fail, so that
//! whatever could fail has happened before what is in force changed. Where they cannot be kept, those in force stay,
//! and are put back on the disk; if that fails too, the next start may find those that passed the judge but were not kept.
//! What was refused is remembered, and judged again when the host's files change.

use rollcall_common::{
    health::Text,
    wire::settings::{Settings, SettingsRefused, SettingsState},
};

use super::{Agent, warn_of, watching::Watching};
use crate::{
    drive::Drive,
    remote::{Effective, effective, judge, state},
    session::Event,
    status::SettingsView,
};

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Steering {
    /// What was taken last; of that, what fits the files is in force.
    settings: Option<Settings>,
    /// What was refused last: the host may yet be mended.
    wanted: Option<Settings>,
    /// What lies on the disk could not be read: only what the collector sends may take its place.
    unread: bool,
    /// What was not taken, or not in full.
    refused: Option<SettingsRefused>,
    /// What follows from both.
    pub(super) effective: Effective,
}

impl Steering {
    fn revision(&self) -> u64 {
        self.settings.as_ref().map_or(0, |settings| settings.revision)
    }

    pub(super) fn state(&self) -> SettingsState {
        state(self.revision(), self.refused.clone(), &self.effective.rows)
    }
}

impl Agent {
    /// Finds what was set before. What cannot be read is left alone until the collector sends what it wants, which
    /// takes its place; until then the host's files stand alone.
    pub(super) fn recall(&mut self) {
        match self.vault.settings() {
            Ok(settings) => self.steering.settings = settings,
            Err(error) => {
                let warning = format!("what the collector set is not in force: {error}");
                tracing::warn!("{warning}");
                self.steering.unread = true;
                self.warnings.kept.push(warning);
                self.show_warnings();
            }
        }
        self.steer();
    }

    /// Lays what was set over what the files say now.
    pub(super) fn steer(&mut self) {
        let Steering { settings, refused, .. } = &self.steering;
        let effective = effective(self.config.host(), settings.as_ref());
        let revision = self.steering.revision();
        let refused = if effective.dropped.is_empty() {
            // What was dropped once may fit again.
            refused.clone().filter(|refused| refused.revision != revision)
        } else {
            let why = effective.dropped.join("; ");
            tracing::warn!(revision, "of the collector's settings, some do not fit this host's files any more: {why}");
            Some(SettingsRefused { revision, why: Text::fit(&why) })
        };
        self.steering.effective = effective;
        self.steering.refused = refused;
        self.show_settings();
    }

    /// Judges settings, and applies them if they may be. Whatever comes of it is told.
    pub(super) fn apply(&mut self, settings: Settings, drive: &mut Drive, watching: &mut Watching) {
        if self.weigh_settings(settings) {
            self.steer();
            watching.follow(&self.steering.effective, self.config.children_interval);
        }
        drive.tell(Event::InForce(Box::new(self.steering.state())));
    }

    /// The host's files have changed: what they did not allow before they may allow now.
    pub(super) fn reconsider(&mut self) {
        if let Some(wanted) = self.steering.wanted.take() {
            self.weigh_settings(wanted);
        }
    }

    /// Takes settings or remembers that they were refused; tells whether what is in force follows from others now.
    fn weigh_settings(&mut self, settings: Settings) -> bool {
        let revision = settings.revision;
        match self.accept(&settings) {
            Ok(news) => {
                self.steering.wanted = None;
                if news {
                    self.steering.refused = None;
                    tracing::info!(revision, "the collector's settings are in force");
                }
                news
            }
            Err(why) => {
                let refused = SettingsRefused { revision, why: Text::fit(&why) };
                // The same again at each greeting would bury all else.
                if self.steering.refused.as_ref() == Some(&refused) {
                    tracing::debug!(revision, "the collector's settings are not taken: {why}");
                } else {
                    tracing::warn!(revision, "the collector's settings are not taken: {why}");
                }
                self.steering.refused = Some(refused);
                self.steering.wanted = Some(settings);
                self.show_settings();
                false
            }
        }
    }

    /// Keeps settings that may be applied; tells whether they are news.
    fn accept(&mut self, settings: &Settings) -> Result<bool, String> {
        let known = self.steering.settings.as_ref() == Some(settings);
        if known && self.steering.effective.dropped.is_empty() {
            if self.steering.refused.take().is_some() {
                self.show_settings();
            }
            return Ok(false);
        }
        judge(self.config.host(), settings)?;
        if let Err(error) = self.vault.keep_settings(Some(settings)) {
            // It may have failed after the new ones took their place. What nobody could read is not ours to remove.
            if !self.steering.unread {
                warn_of(self.vault.keep_settings(self.steering.settings.as_ref()));
            }
            return Err(format!("this host cannot keep them: {error}"));
        }
        self.steering.unread = false;
        self.warnings.kept.clear();
        self.show_warnings();
        self.steering.settings = Some(settings.clone());
        Ok(true)
    }

    fn show_settings(&self) {
        let Steering { settings, refused, effective, .. } = &self.steering;
        let view = SettingsView::of(settings.as_ref(), refused.as_ref(), effective);
        self.edit(|board| board.settings = view);
    }
}
