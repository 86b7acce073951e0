//! What a sidecar says beside its beats, on its way to the registry at a bounded rate: of each sort the last word goes,
//! and what it replaced never counted.

use std::{pin::Pin, time::Duration};

use rollcall_common::{
    health::{HealthReport, HostFacts, ProgressReport},
    time::BootTime,
    wire::{message::About, settings::SettingsState},
};

use super::children;
use crate::{
    admission::Bucket,
    registry::{Notice, Registry, roster::Slot, settings::Heard},
};

/// How often what is said of a service is passed on, in the long run.
const NOTES_PER_SECOND: u32 = 1;
/// What may be passed on at once: a greeting brings four, and a crash right after it does not wait.
const NOTES_BURST: u32 = 6;
/// What a host may say of itself at once; then once in [`ABOUT_EVERY`] seconds, since each word may be a commit and an
/// audit event.
const ABOUT_BURST: u32 = 3;
const ABOUT_EVERY: u64 = 60;

/// What is said and has not been passed on.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) health: Option<HealthReport>,
    pub(super) facts: Option<Box<HostFacts>>,
    pub(super) progress: Option<ProgressReport>,
    pub(super) settings: Option<Box<SettingsState>>,
    pub(super) about: Option<Box<About>>,
    /// What may be passed on.
    bucket: Bucket,
    /// The same for what hosts say of themselves, on a clock that goes [`ABOUT_EVERY`] times slower.
    slow: Bucket,
    /// When what waits may be passed on.
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Children on their way into the registry.
    pub(super) families: children::Registering,
    /// Whether a report for another's child was told.
    pub(super) foreign: bool,
    /// The revision of settings whose pace a beat has yet to echo.
    pub(super) awaited: Option<u64>,
}

/// The slow clock.
fn slowed(now: BootTime) -> BootTime {
    BootTime(now.0 / ABOUT_EVERY)
}

impl Notes {
    pub(super) fn new(now: BootTime) -> Self {
        Self {
            health: None,
            facts: None,
            progress: None,
            settings: None,
            about: None,
            bucket: Bucket::new(NOTES_PER_SECOND, NOTES_BURST, now),
            slow: Bucket::new(1, ABOUT_BURST, slowed(now)),
            alarm: None,
            families: children::Registering::default(),
            foreign: false,
            awaited: None,
        }
    }

    /// Returns when what waits may be passed on; never where nothing waits.
    pub(super) async fn due(&mut self) {
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what may go now, and answers how long the rest waits.
    fn take(&mut self, slot: Slot, now: BootTime) -> (Vec<Notice>, Option<Duration>) {
        let (mut due, mut wait) = (Vec::new(), None);
        let quick = self.health.is_some() || self.facts.is_some() || self.progress.is_some() || self.settings.is_some();
        if quick {
            match self.bucket.take(now) {
                Ok(()) => {
                    due.extend(self.health.take().map(|report| Notice::Health(slot, report)));
                    due.extend(self.facts.take().map(|facts| Notice::Facts(slot, facts)));
                    due.extend(self.progress.take().map(|report| Notice::Progress(slot, report)));
                    due.extend(self.settings.take().map(|state| Notice::Settings(slot, Heard::State(state))));
                }
                Err(pause) => wait = Some(pause),
            }
        }
        if self.about.is_some() {
            match self.slow.take(slowed(now)) {
                Ok(()) => due.extend(self.about.take().map(|about| Notice::About(slot, about))),
                Err(pause) => {
                    let pause = pause * u32::try_from(ABOUT_EVERY).unwrap_or(u32::MAX);
                    wait = Some(wait.map_or(pause, |wait: Duration| wait.min(pause)));
                }
            }
        }
        (due, wait)
    }

    /// Passes on what may go now.
    pub(super) async fn tell(&mut self, registry: &Registry, slot: Slot) {
        let (due, wait) = self.take(slot, registry.now().boot);
        // A box for the few that wait: a connection at rest holds none.
        self.alarm = wait.map(|wait| Box::pin(tokio::time::sleep(wait)));
        for notice in due {
            registry.tell_surely(notice).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::health::{Health, Progress, Text};

    use super::*;

    const SLOT: Slot = Slot::new(1, 0);

    fn progress(n: u64) -> ProgressReport {
        ProgressReport { progress: Progress::Stalled, reason: Text::fit(&n.to_string()) }
    }

    /// A flood of every sort for ten minutes, a hundred frames a second: few pass, and the last word is among them.
    #[test]
    fn a_flood_passes_at_its_rate_and_its_last_word_is_heard() {
        let mut notes = Notes::new(BootTime(7));
        let (mut quick, mut slow, mut last) = (0, 0, None);
        for n in 0..60_000_u64 {
            notes.progress = Some(progress(n));
            notes.settings = Some(Box::new(SettingsState { revision: n, refused: None, probes: vec![], more: 0 }));
            notes.about = Some(Box::default());
            let (due, wait) = notes.take(SLOT, BootTime(7 + n * 10));
            for notice in due {
                if let Notice::Settings(_, Heard::State(state)) = &notice {
                    quick += 1;
                    last = Some(state.revision);
                }
                slow += u32::from(matches!(notice, Notice::About(..)));
            }
            assert!(wait.is_some() || notes.about.is_none());
        }
        assert!((600..=606).contains(&quick) && (10..=13).contains(&slow), "{quick} {slow}");
        // It is heard once it may be, without another frame.
        let (due, _) = notes.take(SLOT, BootTime(7 + 60_000 * 10 + 1_000));
        let heard = due
            .iter()
            .any(|notice| matches!(notice, Notice::Settings(_, Heard::State(state)) if state.revision == 59_999));
        assert!(heard || last == Some(59_999), "{last:?}");
    }

    #[test]
    fn a_crash_right_after_a_greeting_does_not_wait() {
        let mut notes = Notes::new(BootTime(7));
        for _ in 0..5 {
            notes.facts = Some(Box::default());
            assert_eq!(notes.take(SLOT, BootTime(8)).0.len(), 1);
        }
        notes.health = Some(HealthReport { health: Health::Unhealthy, reason: Text::default() });
        let (due, wait) = notes.take(SLOT, BootTime(9));
        assert!(matches!(due.as_slice(), [Notice::Health(..)]) && wait.is_none());
        assert!(notes.take(SLOT, BootTime(9)).0.is_empty(), "nothing waits");
    }
}
