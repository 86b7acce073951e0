//! How a keeper changes what it looks at while it works: who stays keeps what it has seen, its turn and its watch.
//!
//! A probe stays where one of the same name looks at the same thing for the same subject; its interval, timeout and
//! rules may differ. All others begin or end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rollcall_common::time::BootTime;

use super::{Keeper, Post};
use crate::{
    health::Subject,
    probe::{
        ledger::At,
        plan::{Child, MAX_ALL_PROBES, Probe, ProbeName},
        rota::Before,
    },
};

/// Nobody is remembered longer than the longest interval.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Who looks no more, with what, and when it looked last. Bounded: the one that looked first is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Rested(BTreeMap<(Subject, ProbeName), (Arc<Probe>, BootTime)>);

impl Rested {
    fn keep(&mut self, who: (Subject, ProbeName), probe: Arc<Probe>, looked: BootTime, now: BootTime) {
        self.0.retain(|_, (_, looked)| now.since(*looked) < REMEMBERED);
        if self.0.len() >= MAX_ALL_PROBES {
            let first = self.0.iter().min_by_key(|(_, (_, looked))| *looked).map(|(who, _)| who.clone());
            first.and_then(|first| self.0.remove(&first));
        }
        self.0.insert(who, (probe, looked));
    }

    fn back(&mut self, who: &(Subject, ProbeName), probe: &Probe) -> Option<BootTime> {
        self.0.remove(who).filter(|(old, _)| old.check == probe.check).map(|(_, looked)| looked)
    }
}

impl Post {
    pub(super) fn new(at: At, plan: &Probe, before: usize, now: BootTime) -> Self {
        Self {
            at,
            ticket: u64::try_from(before).unwrap_or(u64::MAX).saturating_add(1),
            probe: Arc::new(plan.clone()),
            looking: None,
            sudden: false,
            again: false,
            watch: None,
            spent: None,
            rests: now,
        }
    }
}

impl Keeper {
    /// Looks at these from now on.
    pub fn follow(&mut self, own: &[Probe], children: &[Child]) {
        let now = self.clock.now().boot;
        let families = || std::iter::once(own).chain(children.iter().map(|child| child.probes.as_slice()));
        let of_children = children.iter().map(|child| Subject::Child(child.key.clone()));
        let subjects: Vec<Subject> = std::iter::once(Subject::Own).chain(of_children).collect();
        let mut old = BTreeMap::new();
        for (place, post) in std::mem::take(&mut self.posts).into_iter().enumerate() {
            if let Some(subject) = self.subjects.get(post.at.subject) {
                old.insert((subject.clone(), post.probe.name.clone()), (place, post));
            }
        }
        let (mut posts, mut befores, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        let mut was = BTreeMap::new();
        for (subject, probes) in families().enumerate() {
            let Some(whose) = subjects.get(subject) else { continue };
            for (probe, plan) in probes.iter().enumerate() {
                let (at, who) = (At { subject, probe }, (whose.clone(), plan.name.clone()));
                let same = |(_, post): &(usize, Post)| post.probe.check == plan.check;
                if old.get(&who).is_some_and(same)
                    && let Some((place, post)) = old.remove(&who)
                {
                    was.insert((subject, probe), post.at);
                    befores.push((plan.interval, Before::Place(place)));
                    posts.push(Post { at, probe: Arc::new(plan.clone()), ..post });
                } else {
                    self.tickets = self.tickets.saturating_add(1);
                    befores.push((plan.interval, Before::Rested(self.rested.back(&who, plan))));
                    posts.push(Post { ticket: self.tickets, ..Post::new(at, plan, 0, now) });
                    fresh.push(at);
                }
            }
        }
        for ((subject, name), (place, post)) in old {
            self.leave(&subject, &post);
            if let Some(looked) = self.rota.looked(place) {
                self.rested.keep((subject, name), post.probe, looked, now);
            }
        }
        for gone in self.subjects.iter().filter(|subject| !subjects.contains(subject)) {
            if let Subject::Child(child) = gone {
                self.board.edit(|board| board.dismiss(child));
            }
        }
        for child in children {
            self.board.edit(|board| board.admit(child.key.clone()));
        }
        self.posts = posts;
        self.subjects = subjects;
        self.rota.follow(befores, now);
        self.ledger.follow(families(), |at| was.get(&(at.subject, at.probe)).copied(), now);
        for at in fresh {
            let said = self.ledger.statement(at, now);
            said.into_iter().for_each(|statement| self.say(at, statement, true));
        }
    }

    /// Whoever is taken from its post looks and watches no more, and what it said is forgotten.
    fn leave(&self, subject: &Subject, post: &Post) {
        for task in post.looking.iter().chain(post.watch.as_ref().map(|watch| &watch.task)) {
            task.abort();
        }
        if let Some(source) = self.ledger.source(post.at) {
            self.board.edit(|board| board.withdraw(subject, &source));
        }
    }
}
