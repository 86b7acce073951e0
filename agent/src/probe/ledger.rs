//! What the probes of each service have seen, and what follows from it: pure.
//!
//! It judges what looks saw, with the gauge of each probe and the movement of what must move, and makes of it what
//! is said on the [board](crate::health): one statement a probe. Whether a child lives is another fact than its health:
//! somebody must have seen it live.

use std::time::Duration;

use rollcall_common::{
    health::{Health, Text},
    time::BootTime,
};

use super::{
    check::Look,
    gauge::Gauge,
    movement::Movement,
    plan::{Check, Probe, ProbeName},
};
use crate::health::{Fact, Sort, Source, Statement};

/// How soon other words for the same health are said: figures in them change with each look.
const WORDS_EVERY: Duration = Duration::from_secs(60);

/// One probe of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Whose: 0 is the service beside us, the others are its children.
    pub subject: usize,
    /// Which of its probes.
    pub probe: usize,
}

/// What is known by all probes.
#[derive(Debug, Clone)]
pub struct Ledger {
    subjects: Vec<Vec<Standing>>,
}

/// What is known by one probe.
#[derive(Debug, Clone)]
struct Standing {
    name: ProbeName,
    fact: Fact,
    worst: Health,
    gauge: Gauge,
    movement: Option<(Movement, String)>,
    /// Somebody was seen live, and nothing that lasts has spoken against it since.
    alive: bool,
    said: Health,
    words: String,
    /// When the words were chosen.
    worded: BootTime,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follows {
    /// What the probe says now.
    pub statement: Statement,
    /// Whether that, or whether somebody lives, is news.
    pub news: bool,
}

impl Ledger {
    /// Nobody was looked at yet.
    pub fn new<'p>(families: impl IntoIterator<Item = &'p [Probe]>, now: BootTime) -> Self {
        let family = |probes: &[Probe]| probes.iter().map(|probe| Standing::new(probe, now)).collect();
        Self { subjects: families.into_iter().map(family).collect() }
    }

    /// From now on these look: what one of before has seen stays, where it looks at the same thing.
    pub fn follow<'p>(
        &mut self,
        families: impl IntoIterator<Item = &'p [Probe]>,
        was: impl Fn(At) -> Option<At>,
        now: BootTime,
    ) {
        let mut old: Vec<Vec<Option<Standing>>> = std::mem::take(&mut self.subjects)
            .into_iter()
            .map(|family| family.into_iter().map(Some).collect())
            .collect();
        let mut standing = |at: At, probe: &Probe| {
            let kept = was(at).and_then(|was| old.get_mut(was.subject)?.get_mut(was.probe)?.take());
            kept.map_or_else(|| Standing::new(probe, now), |standing| standing.retuned(probe))
        };
        for (subject, probes) in families.into_iter().enumerate() {
            let family = probes.iter().enumerate().map(|(probe, plan)| standing(At { subject, probe }, plan));
            self.subjects.push(family.collect());
        }
    }

    /// Takes in what a look saw. `sudden` where the end of what is watched was the reason to look.
    pub fn take(&mut self, at: At, look: &Look, sudden: bool, now: BootTime) -> Option<Follows> {
        let was_alive = self.is_alive(at.subject);
        let standing = self.subjects.get_mut(at.subject)?.get_mut(at.probe)?;
        let reworded = standing.take(look, sudden, now);
        let statement = standing.statement(now);
        let news = reworded || self.is_alive(at.subject) != was_alive;
        Some(Follows { statement, news })
    }

    /// What a probe says before it has looked.
    #[must_use]
    pub fn statement(&self, at: At, now: BootTime) -> Option<Statement> {
        Some(self.subjects.get(at.subject)?.get(at.probe)?.statement(now))
    }

    /// Under which name a probe speaks.
    #[must_use]
    pub fn source(&self, at: At) -> Option<Source> {
        let standing = self.subjects.get(at.subject)?.get(at.probe)?;
        Some(Source { sort: Sort::Probe, name: standing.name.clone(), fact: standing.fact })
    }

    /// Whether a probe saw somebody live.
    #[must_use]
    pub fn is_alive(&self, subject: usize) -> bool {
        self.subjects.get(subject).is_some_and(|standings| standings.iter().any(|standing| standing.alive))
    }
}

impl Standing {
    fn new(probe: &Probe, now: BootTime) -> Self {
        let movement = match &probe.check {
            Check::Progress(progress) => {
                let words = format!("{} has not moved for longer than {:?}", progress.file.display(), progress.within);
                Some((Movement::new(progress.within, probe.interval, now), words))
            }
            Check::Systemd(_)
            | Check::Process(_)
            | Check::Tcp(_)
            | Check::Http(_)
            | Check::Grpc(_)
            | Check::Exec(_) => None,
        };
        Self {
            name: probe.name.clone(),
            fact: if movement.is_some() { Fact::Progress } else { Fact::Service },
            worst: probe.worst,
            gauge: Gauge::new(probe.rules, now),
            movement,
            alive: false,
            said: Health::Unchecked,
            words: "not looked at yet".to_owned(),
            worded: now,
        }
    }

    fn retuned(mut self, probe: &Probe) -> Self {
        self.gauge.retune(probe.rules);
        if let Some((movement, _)) = &mut self.movement {
            movement.retune(probe.interval);
        }
        self.worst = probe.worst;
        self
    }

    /// What counts: never worse than the probe may say.
    fn shown(&self) -> Health {
        let shown = self.gauge.shown().unwrap_or(Health::Unchecked);
        if shown == Health::Unhealthy { self.worst } else { shown }
    }

    /// Tells whether it says something else than before.
    fn take(&mut self, look: &Look, sudden: bool, now: BootTime) -> bool {
        let (mut health, mut words, mut alive) = (look.health, look.words.clone(), look.alive);
        if let Some((movement, still)) = self.movement.as_mut().filter(|_| look.health != Health::Unchecked) {
            match movement.see(look.mark, now) {
                Some(_) => (health, words) = (Health::Unhealthy, still.clone()),
                None => alive = look.mark.map(|_| true),
            }
        }
        let changed = if sudden && health != Health::Healthy {
            if look.alive != Some(false) {
                "what it watches has ended".clone_into(&mut words);
            }
            alive = Some(false);
            self.gauge.crashed()
        } else {
            self.gauge.take(health, now)
        };
        self.alive = alive == Some(true) || (self.alive && self.gauge.shown() != Some(Health::Unhealthy));
        let words = match self.gauge.shown() {
            Some(Health::Healthy) => String::new(),
            Some(shown) if changed || shown == health => words,
            None => format!("starting: {words}"),
            Some(_) => return false,
        };
        let shown = self.shown();
        let said = std::mem::replace(&mut self.said, shown);
        let settled = said == self.said && (words == self.words || now.since(self.worded) < WORDS_EVERY);
        // The first look always has something to say.
        if settled && self.words != "not looked at yet" {
            return false;
        }
        self.words = words;
        self.worded = now;
        true
    }

    fn statement(&self, now: BootTime) -> Statement {
        Statement {
            health: self.shown(),
            reason: Text::fit(&self.words),
            as_of: now,
            stale_after: None,
            count: None,
            by: None,
        }
    }
}

#[cfg(test)]
mod tests;
