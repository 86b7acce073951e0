//! When children are reported: pure.
//!
//! All who live are told in each round, whose interval their reports promise. What changes is told at once, and told
//! again a little later, since a collector writes down only so many changes a second. Whoever lives no longer is told
//! once more, with the reason, and then no more: nobody is kept alive by a report of its death.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rollcall_common::time::BootTime;

/// A change is told again after so long.
const ECHO: Duration = Duration::from_millis(1_200);
/// Changes that come closer together share a batch.
const TOGETHER: Duration = Duration::from_millis(250);
/// After a greeting a second round follows soon: whom the first one made known is heard by it.
const SETTLE: Duration = Duration::from_secs(2);

/// The rounds of one sidecar.
#[derive(Debug, Clone)]
pub struct Rounds {
    interval: Duration,
    next: BootTime,
    changed: BTreeSet<usize>,
    echoes: BTreeMap<usize, BootTime>,
    last: Option<BootTime>,
}

/// Whom to tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// All who live, and those of them who changed.
    Everybody(BTreeSet<usize>),
    /// These, who changed.
    Changed(BTreeSet<usize>),
}

impl Rounds {
    /// The first round is due at once.
    #[must_use]
    pub fn new(interval: Duration, now: BootTime) -> Self {
        Self { interval, next: now, changed: BTreeSet::new(), echoes: BTreeMap::new(), last: None }
    }

    /// There is something new to say of one.
    pub fn changed(&mut self, who: usize) {
        self.changed.insert(who);
    }

    /// There are others now, told so often: what is known of one that stays goes with it to its new place.
    pub fn follow(&mut self, interval: Duration, place: impl Fn(usize) -> Option<usize>, now: BootTime) {
        self.interval = interval;
        self.next = self.next.min(now.after(interval));
        self.changed = self.changed.iter().filter_map(|who| place(*who)).collect();
        self.echoes = self.echoes.iter().filter_map(|(who, at)| Some((place(*who)?, *at))).collect();
    }

    /// A collector that may know nothing yet listens.
    pub fn greeted(&mut self, now: BootTime) {
        self.next = now;
        self.last = None;
        self.echoes.clear();
    }

    /// When to ask again.
    #[must_use]
    pub fn deadline(&self) -> BootTime {
        let changed = (!self.changed.is_empty()).then(|| self.last.map_or(BootTime(0), |last| last.after(TOGETHER)));
        let echo = self.echoes.values().min().copied();
        [Some(self.next), changed, echo].into_iter().flatten().min().unwrap_or(self.next)
    }

    /// Whom to tell of now.
    pub fn due(&mut self, now: BootTime) -> Option<Due> {
        if now < self.deadline() {
            return None;
        }
        let first = self.last.is_none();
        self.last = Some(now);
        let mut who = std::mem::take(&mut self.changed);
        let fresh: Vec<usize> = who.iter().copied().collect();
        who.extend(self.echoes.extract_if(.., |_, at| *at <= now).map(|(who, _)| who));
        self.echoes.extend(fresh.into_iter().map(|who| (who, now.after(ECHO))));
        if self.next <= now {
            self.next = now.after(if first { SETTLE.min(self.interval) } else { self.interval });
            return Some(Due::Everybody(who));
        }
        Some(Due::Changed(who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn set(of: &[usize]) -> BTreeSet<usize> {
        of.iter().copied().collect()
    }

    #[test]
    fn rounds_keep_their_interval_and_changes_do_not_wait_for_them() {
        let mut rounds = Rounds::new(TEN, BootTime(0));
        assert_eq!(rounds.due(BootTime(0)), Some(Due::Everybody(set(&[]))));
        assert_eq!(rounds.due(BootTime(1_999)), None);
        assert_eq!(rounds.due(BootTime(2_000)), Some(Due::Everybody(set(&[]))));
        assert_eq!(rounds.deadline(), BootTime(12_000));
        rounds.changed(3);
        assert_eq!(rounds.due(BootTime(5_000)), Some(Due::Changed(set(&[3]))));
        rounds.changed(4);
        rounds.changed(3);
        assert_eq!(rounds.due(BootTime(5_249)), None, "they share a batch");
        assert_eq!(rounds.due(BootTime(5_250)), Some(Due::Changed(set(&[3, 4]))));
        // They are told again, once.
        assert_eq!(rounds.deadline(), BootTime(6_450));
        assert_eq!(rounds.due(BootTime(6_450)), Some(Due::Changed(set(&[3, 4]))));
        assert_eq!(rounds.deadline(), BootTime(12_000));
        assert_eq!(rounds.due(BootTime(12_000)), Some(Due::Everybody(set(&[]))));
        rounds.changed(3);
        rounds.changed(5);
        rounds.follow(TEN / 2, |who| (who == 3).then_some(0), BootTime(12_500));
        assert_eq!(rounds.due(BootTime(12_500)), Some(Due::Changed(set(&[0]))));
        assert_eq!(rounds.due(BootTime(13_700)), Some(Due::Changed(set(&[0]))));
        assert_eq!(rounds.deadline(), BootTime(17_500), "the shorter interval holds at once");
        rounds.greeted(BootTime(13_000));
        assert_eq!(rounds.due(BootTime(13_000)), Some(Due::Everybody(set(&[]))));
    }
}
