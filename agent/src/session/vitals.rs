//! What the host says, on its way to the collector: of the service beside us, of its progress, of itself, and of the
//! settings in force. Part of the pure state machine.
//!
//! The last word counts: between two words of one sort on one connection lies at least [`APART`], and what changed
//! meanwhile is told at its end. A new connection is told at once, and nothing is told twice. Worse news than what was
//! told waits for nothing: that can happen but three times before something better has to wait. Whoever does not know
//! progress apart from health hears them as one.

use std::time::Duration;

use rollcall_common::{
    health::{HealthReport, Progress, ProgressReport},
    time::{BootTime, Now},
    wire::{
        message::{About, Up, capability},
        settings::SettingsState,
    },
};

use super::{Action, Live, Phase, Session};
use crate::health::{Vitals, severity};

/// No two words of one sort are closer: a collector hears no more than that.
const APART: Duration = Duration::from_secs(1);

/// What was told on a connection, and when the next word may follow.
#[derive(Debug)]
pub(super) struct Told<T> {
    word: Option<T>,
    not_before: BootTime,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self { word: None, not_before: BootTime::default() }
    }
}

impl<T: PartialEq + Clone> Told<T> {
    /// When a word may be told; `None` where it was.
    fn due(&self, word: Option<&T>) -> Option<BootTime> {
        word.filter(|word| self.word.as_ref() != Some(word)).map(|_| self.not_before)
    }

    /// The word, if it is news here and its time has come; it counts as told then. `hurries` tells whether it waits
    /// for nothing, compared with what was told.
    fn tell(&mut self, word: Option<&T>, hurries: impl FnOnce(&T, &T) -> bool, now: Now) -> Option<T> {
        let (word, due) = (word?, self.due(word)?);
        if due > now.boot && !self.word.as_ref().is_some_and(|told| hurries(word, told)) {
            return None;
        }
        *self = Self { word: Some(word.clone()), not_before: now.boot.after(APART) };
        Some(word.clone())
    }

    /// Whatever was told shall be told again.
    pub(super) fn forget(&mut self) {
        self.word = None;
    }
}

/// What is told on one connection.
#[derive(Debug, Default)]
pub(super) struct Telling {
    health: Told<HealthReport>,
    progress: Told<ProgressReport>,
    about: Told<About>,
    pub(super) in_force: Told<SettingsState>,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Of the service beside us.
    pub(super) vitals: Option<Box<Vitals>>,
    /// Of the host and of what the service is called.
    pub(super) about: Option<Box<About>>,
    /// Of the settings in force.
    pub(super) in_force: Option<Box<SettingsState>>,
}

impl Words {
    fn health(&self, live: &Live) -> Option<&HealthReport> {
        let vitals = self.vitals.as_ref()?;
        Some(if live.can(capability::PROGRESS) { &vitals.service } else { &vitals.all })
    }

    fn progress(&self, live: &Live) -> Option<&ProgressReport> {
        self.vitals.as_ref().map(|vitals| &vitals.progress).filter(|_| live.can(capability::PROGRESS))
    }

    fn about(&self, live: &Live) -> Option<&About> {
        self.about.as_deref().filter(|_| live.can(capability::ABOUT))
    }

    fn in_force(&self, live: &Live) -> Option<&SettingsState> {
        // What is being applied is told when that is over.
        self.in_force.as_deref().filter(|_| live.can(capability::SETTINGS) && !live.owes_state)
    }
}

impl Session {
    /// When what is said now may be told.
    pub(super) fn telling_due(&self) -> Option<BootTime> {
        let Phase::Live(live) = &self.phase else { return None };
        let (told, words) = (&live.telling, &self.words);
        let all = [
            told.health.due(words.health(live)),
            told.progress.due(words.progress(live)),
            told.about.due(words.about(live)),
            told.in_force.due(words.in_force(live)),
        ];
        all.into_iter().flatten().min()
    }

    /// Tells what is said, as far as it is news on this connection and its time has come.
    pub(super) fn tell_all(&mut self, now: Now) {
        let Phase::Live(live) = &mut self.phase else { return };
        let mut told = std::mem::take(&mut live.telling);
        let words = &self.words;
        let worse = |new: &HealthReport, told: &HealthReport| severity(new.health) > severity(told.health);
        let stuck = |new: &ProgressReport, told: &ProgressReport| {
            new.progress == Progress::Stalled && told.progress != Progress::Stalled
        };
        let ups = [
            told.health.tell(words.health(live), worse, now).map(Up::Health),
            told.progress.tell(words.progress(live), stuck, now).map(Up::Progress),
            told.about.tell(words.about(live), |_, _| false, now).map(Box::new).map(Up::About),
            told.in_force.tell(words.in_force(live), |_, _| false, now).map(Box::new).map(Up::Settings),
        ];
        live.telling = told;
        let no = live.no;
        self.actions.extend(ups.into_iter().flatten().map(|up| Action::Send(no, up)));
    }
}
