//! What the sidecar says of others: the service beside it, and its children. Joins the probes with the rounds; what
//! comes out are events for the session, which knows whether anybody listens.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rollcall_common::{
    health::{Health, HealthReport, Text},
    id::{NoRandomness, ServiceId, ServiceKey},
    time::{BootTime, Clock},
    wire::{
        children::{ChildGone, ChildReport},
        message::GoodbyeReason,
    },
};

use super::{Agent, warn_of};
use crate::{
    health::{SharedHealth, Subject},
    probe::{check::Host, keeper::Keeper, plan::Child},
    remote::Effective,
    rounds::{Due, Rounds},
    session::Event,
};

/// Probes and rounds at work.
pub(super) struct Watching {
    keeper: Keeper,
    rounds: Rounds,
    interval: Duration,
    children: Vec<Kid>,
    board: SharedHealth,
    clock: Arc<dyn Clock>,
}

/// A child, and what was told of it.
struct Kid {
    child: Child,
    subject: Subject,
    told: HealthReport,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody saw it live, or its end was told.
    Absent,
    /// It was told of as living.
    Living,
    /// Its end was told once.
    Leaving,
}

impl Agent {
    pub(super) fn watching(&self, effective: &Effective) -> Result<Watching, NoRandomness> {
        let config = &self.config;
        let seed = u64::from_be_bytes(rollcall_common::id::random()?);
        let (board, clock) = (self.health.clone(), Arc::clone(&self.clock));
        Ok(Watching {
            children: effective.children.iter().map(Kid::new).collect(),
            keeper: Keeper::new(
                &effective.probes,
                &effective.children,
                board.clone(),
                Host::default(),
                seed,
                Arc::clone(&clock),
            ),
            rounds: Rounds::new(config.children_interval, clock.now().boot),
            interval: config.children_interval,
            board,
            clock,
        })
    }
}

impl Agent {
    /// The children of the configuration.
    pub(super) fn spoken_for(&self) -> BTreeMap<ServiceKey, Option<ServiceId>> {
        self.config.children.iter().map(|child| (child.key.clone(), child.parent.clone())).collect()
    }

    /// Children that were spoken for and are so no longer. Until a collector has heard of it, they are remembered.
    pub(super) fn parted(&self) -> Vec<ChildGone> {
        let now = self.spoken_for();
        let kept = self.vault.children().unwrap_or_else(|error| {
            tracing::warn!(%error, "whom to say goodbye for is not known");
            BTreeMap::new()
        });
        let all: BTreeMap<_, _> = kept.clone().into_iter().chain(now.clone()).collect();
        if all != kept {
            warn_of(self.vault.keep_children(&all));
        }
        let gone = kept.into_iter().filter(|(key, _)| !now.contains_key(key));
        gone.map(|(child, parent)| ChildGone { child, parent, reason: GoodbyeReason::Uninstall }).collect()
    }

    /// A collector heard the goodbyes for these. Others may have left since: theirs are still to be said.
    pub(super) fn forget(&self, heard: &[ServiceKey]) {
        match self.vault.children() {
            Ok(kept) => warn_of(self.vault.keep_children(&remembered(kept, &self.spoken_for(), heard))),
            Err(error) => tracing::warn!(%error, "for whom goodbye was said is not noted"),
        }
    }
}

/// Who is still to be remembered once a collector has heard the goodbyes for some.
fn remembered(
    mut kept: BTreeMap<ServiceKey, Option<ServiceId>>,
    spoken_for: &BTreeMap<ServiceKey, Option<ServiceId>>,
    heard: &[ServiceKey],
) -> BTreeMap<ServiceKey, Option<ServiceId>> {
    kept.retain(|key, _| spoken_for.contains_key(key) || !heard.contains(key));
    kept
}

impl Kid {
    fn new(child: &Child) -> Self {
        Self {
            subject: Subject::Child(child.key.clone()),
            child: child.clone(),
            told: HealthReport { health: Health::Unchecked, reason: Text::default() },
            stage: Stage::Absent,
        }
    }
}

impl Watching {
    /// Looks at these from now on, and tells of their children so often.
    pub(super) fn follow(&mut self, effective: &Effective, interval: Duration) {
        self.keeper.follow(&effective.probes, &effective.children);
        let old = std::mem::take(&mut self.children).into_iter().enumerate();
        let mut old: BTreeMap<ServiceKey, (usize, Kid)> =
            old.map(|(place, kid)| (kid.child.key.clone(), (place, kid))).collect();
        let (mut places, mut changed) = (BTreeMap::new(), Vec::new());
        for (place, child) in effective.children.iter().enumerate() {
            let kid = match old.remove(&child.key) {
                Some((was, kid)) => {
                    places.insert(was, place);
                    if kid.child.about != child.about || kid.child.parent != child.parent {
                        changed.push(place);
                    }
                    Kid { child: child.clone(), ..kid }
                }
                None => {
                    changed.push(place);
                    Kid::new(child)
                }
            };
            self.children.push(kid);
        }
        self.interval = interval;
        self.rounds.follow(interval, |was| places.get(&was).copied(), self.clock.now().boot);
        changed.into_iter().for_each(|place| self.rounds.changed(place));
    }

    /// A collector listens that may know nothing of the children.
    pub(super) fn greeted(&mut self) {
        self.rounds.greeted(self.clock.now().boot);
    }

    /// Works until there is something to tell of children. What is said of the service itself is on the board, which
    /// wakes the agent. Cancel-safe.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let now = self.clock.now().boot;
            let has_children = !self.children.is_empty();
            if has_children && let Some(due) = self.rounds.due(now) {
                let reports = self.reports(due, now);
                if !reports.is_empty() {
                    let interval_ms = u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX);
                    return Event::Children { interval_ms, reports };
                }
            }
            let wait = self.rounds.deadline().since(now);
            tokio::select! {
                (subject, news) = self.keeper.next() => if let Some(child) = subject.checked_sub(1).filter(|_| news) {
                    self.rounds.changed(child);
                },
                () = tokio::time::sleep(wait), if has_children => {}
            }
        }
    }

    /// Looks at the board for children of whom something else is said than was told.
    pub(super) fn weigh(&mut self) {
        let now = self.clock.now().boot;
        let changed = self.board.read(|board| {
            let news = |kid: &Kid| kid.stage == Stage::Living && board.verdict(&kid.subject, now) != kid.told;
            let changed = self.children.iter().enumerate().filter(|(_, kid)| news(kid));
            changed.map(|(child, _)| child).collect::<Vec<_>>()
        });
        changed.into_iter().for_each(|child| self.rounds.changed(child));
    }

    fn reports(&mut self, due: Due, now: BootTime) -> Vec<ChildReport> {
        let (everybody, changed) = match due {
            Due::Everybody(changed) => (true, changed),
            Due::Changed(changed) => (false, changed),
        };
        let patience = self.interval.saturating_mul(3);
        let mut reports = Vec::new();
        for (n, kid) in self.children.iter_mut().enumerate() {
            let has_changed = changed.contains(&n);
            if !everybody && !has_changed {
                continue;
            }
            let assumed = kid.child.assume_alive && kid.child.probes.is_empty();
            let seen = assumed || self.keeper.is_alive(n + 1);
            let (report, spoken_of) = self
                .board
                .read(|board| (board.verdict(&kid.subject, now), board.is_spoken_of(&kid.subject, patience, now)));
            let is_alive = seen || spoken_of;
            kid.stage = match kid.stage {
                _ if is_alive => Stage::Living,
                // A last word for whoever was told to live, and its echo; not one more, since each feeds the lease.
                Stage::Living if has_changed => Stage::Leaving,
                Stage::Leaving if has_changed => Stage::Absent,
                Stage::Living | Stage::Leaving | Stage::Absent => continue,
            };
            kid.told = report.clone();
            reports.push(ChildReport {
                child: kid.child.key.clone(),
                parent: kid.child.parent.clone(),
                report,
                about: Some(Box::new(kid.child.about.clone())),
            });
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_that_nobody_heard_yet_is_not_forgotten() {
        let key = |id: &str| format!("checker/{id}").parse::<ServiceKey>().unwrap();
        let all = |ids: &[&str]| ids.iter().map(|id| (key(id), None)).collect::<BTreeMap<_, _>>();
        // While the goodbye for `gone` was under way, `later` left and `back` came back.
        let kept = all(&["gone", "later", "back", "here"]);
        let left = remembered(kept, &all(&["back", "here"]), &[key("gone"), key("back")]);
        assert_eq!(left, all(&["later", "back", "here"]));
    }
}
