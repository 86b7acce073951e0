//! What is said of the service beside us and of its children: by whom, since when, and for how long. Pure.
//!
//! A *source* is a probe of ours or a program that reports to the local socket, which is a probe that pushes. Both
//! say the same thing, a [`Statement`], and whatever is said is weighed the same way: the worst one counts, and who
//! promised to speak again within a time and did not is [`Health::Unhealthy`]. Probes write what they saw with
//! [`HealthBoard::say`]; the agent reads [`HealthBoard::verdict`] when something changed and at
//! [`HealthBoard::next_change`]. The board knows no clock, no socket and no probe.
//!
//! While the sidecar did not run (the host was suspended), nobody could have spoken: that time counts for nobody
//! ([`Attention`]).
//!
//! Everything is bounded: [`MAX_SOURCES`] for each subject, and subjects are admitted by the configuration alone, so
//! that whoever reports fills nothing. Who comes too late is refused and counted by whoever asked.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_common::{
    health::{Health, HealthReport, Progress, ProgressReport, Text},
    id::{ServiceId, ServiceKey},
    time::BootTime,
};
use tokio::sync::Notify;

/// Most sources of one subject: its probes, and as many programs again.
pub const MAX_SOURCES: usize = 32;
/// Most children that something is said of.
pub const MAX_CHILDREN: usize = 256;

/// Whom a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The service beside us.
    Own,
    /// A service of its subtree that has no sidecar.
    Child(ServiceKey),
}

/// Which of the facts a statement is about; the third one, the sidecar itself, needs no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Whether the service works.
    Service,
    /// Whether it gets on with its work.
    Progress,
}

/// Of which sort a source is. Each sort has names of its own, so that no program can speak as a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A probe of ours.
    Probe,
    /// A program that reports.
    Pushed,
}

impl Sort {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Pushed => "pushed",
        }
    }
}

/// Who says something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Of which sort.
    pub sort: Sort,
    /// Its name, unique within its sort and subject.
    pub name: ServiceId,
    /// About which fact.
    pub fact: Fact,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// How it is.
    pub health: Health,
    /// Why.
    pub reason: Text,
    /// When that was seen.
    pub as_of: BootTime,
    /// How long that is good for: afterwards its silence is bad news. `None`: until it says something else.
    pub stale_after: Option<Duration>,
    /// A count of work done, where it tells one.
    pub count: Option<u64>,
    /// The user who said it, where that is known: nobody else may speak under this name.
    pub by: Option<u32>,
}

impl Statement {
    fn ends(&self) -> Option<BootTime> {
        self.stale_after.map(|period| self.as_of.after(period))
    }

    /// Whether it should have been repeated by now.
    #[must_use]
    pub fn is_stale(&self, now: BootTime) -> bool {
        self.ends().is_some_and(|ends| ends <= now)
    }

    /// What it is worth now.
    fn weighed(&self, source: &Source, now: BootTime) -> (Health, String) {
        if !self.is_stale(now) {
            return (self.health, format!("{source}: {}", self.reason).trim_end_matches([':', ' ']).to_owned());
        }
        let silent = now.since(self.as_of).as_secs();
        let words = match source.fact {
            Fact::Service => format!("{source}: said nothing for {silent} s, last {}", self.health),
            Fact::Progress => format!("{source}: no progress for {silent} s"),
        };
        (Health::Unhealthy, words)
    }
}

/// Why something is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// The configuration has no such child.
    #[error("there is no child {0} here: declare it with [[child]] in the configuration")]
    NoSuchChild(ServiceKey),
    /// There is no more room.
    #[error("{MAX_SOURCES} sources speak of this service already")]
    Full,
}

/// Everything that is said.
#[derive(Debug, Clone)]
pub struct HealthBoard {
    subjects: BTreeMap<Subject, BTreeMap<Source, Statement>>,
}

impl Default for HealthBoard {
    fn default() -> Self {
        Self { subjects: BTreeMap::from([(Subject::Own, BTreeMap::new())]) }
    }
}

impl HealthBoard {
    /// Takes a child in, so that something can be said of it. More than [`MAX_CHILDREN`] are passed over; the
    /// configuration refuses them before.
    pub fn admit(&mut self, child: ServiceKey) {
        if self.subjects.len() <= MAX_CHILDREN {
            self.subjects.entry(Subject::Child(child)).or_default();
        }
    }

    /// Nothing is said of a child any more.
    pub fn dismiss(&mut self, child: &ServiceKey) {
        self.subjects.remove(&Subject::Child(child.clone()));
    }

    /// A source says something, in place of what it said before.
    ///
    /// # Errors
    /// [`Unheard`] where nobody listens.
    pub fn say(&mut self, subject: &Subject, source: Source, statement: Statement) -> Result<(), Unheard> {
        let sources = match (self.subjects.get_mut(subject), subject) {
            (Some(sources), _) => sources,
            (None, Subject::Child(child)) => return Err(Unheard::NoSuchChild(child.clone())),
            // Its row is there from the start.
            (None, Subject::Own) => return Err(Unheard::Full),
        };
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            return Err(Unheard::Full);
        }
        sources.insert(source, statement);
        Ok(())
    }

    /// A source says that it got on. With a count, only another count is progress.
    ///
    /// # Errors
    /// [`Unheard`] where nobody listens.
    pub fn progress(&mut self, subject: &Subject, source: Source, mut statement: Statement) -> Result<(), Unheard> {
        let before = self.subjects.get(subject).and_then(|sources| sources.get(&source));
        if let Some(before) = before.filter(|before| statement.count.is_some() && before.count == statement.count) {
            statement.as_of = before.as_of;
        }
        self.say(subject, source, statement)
    }

    /// What a source says is forgotten; tells whether it had said anything.
    pub fn withdraw(&mut self, subject: &Subject, source: &Source) -> bool {
        self.subjects.get_mut(subject).is_some_and(|sources| sources.remove(source).is_some())
    }

    /// Nobody could speak for so long: whoever promised to has that much more time.
    pub fn excuse(&mut self, missed: Duration, now: BootTime) {
        let all = self.subjects.values_mut().flat_map(BTreeMap::values_mut);
        for said in all.filter(|said| said.stale_after.is_some()) {
            said.as_of = said.as_of.after(missed).min(now);
        }
    }

    /// What a source said last.
    #[must_use]
    pub fn said(&self, subject: &Subject, source: &Source) -> Option<&Statement> {
        self.subjects.get(subject)?.get(source)
    }

    /// Whom something can be said of.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.keys()
    }

    /// All that is said of a subject.
    pub fn of(&self, subject: &Subject) -> impl Iterator<Item = (&Source, &Statement)> {
        self.subjects.get(subject).into_iter().flatten()
    }

    /// The worst of what is said of a subject, and who says so.
    #[must_use]
    pub fn verdict(&self, subject: &Subject, now: BootTime) -> HealthReport {
        worst(self.of(subject), now)
    }

    /// The same about one fact.
    #[must_use]
    pub fn verdict_on(&self, subject: &Subject, fact: Fact, now: BootTime) -> HealthReport {
        worst(self.of(subject).filter(|(source, _)| source.fact == fact), now)
    }

    /// All of it, each fact apart. What nobody speaks of is unchecked, and unwatched.
    #[must_use]
    pub fn vitals(&self, subject: &Subject, now: BootTime) -> Vitals {
        let HealthReport { health, reason } = self.verdict_on(subject, Fact::Progress, now);
        let progress = match health {
            Health::Healthy => Progress::Moving,
            Health::Unchecked => Progress::Unwatched,
            Health::Degraded | Health::Unhealthy => Progress::Stalled,
        };
        Vitals {
            service: self.verdict_on(subject, Fact::Service, now),
            progress: ProgressReport { progress, reason },
            all: self.verdict(subject, now),
        }
    }

    /// Whether a program speaks of a subject: that is a sign of life, whatever it says. One that promised to speak
    /// again has that much time, any other one this much.
    #[must_use]
    pub fn is_spoken_of(&self, subject: &Subject, within: Duration, now: BootTime) -> bool {
        let speaks = |(source, said): (&Source, &Statement)| {
            let promised = said.stale_after.is_some();
            source.sort == Sort::Pushed && if promised { !said.is_stale(now) } else { now.since(said.as_of) <= within }
        };
        self.of(subject).any(speaks)
    }

    /// When a verdict changes by itself because somebody was expected to speak again.
    #[must_use]
    pub fn next_change(&self, now: BootTime) -> Option<BootTime> {
        let ends = self.subjects.values().flat_map(BTreeMap::values).filter_map(Statement::ends);
        ends.filter(|ends| *ends > now).min()
    }
}

/// What is said of one subject, fact by fact and all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vitals {
    /// Whether it works.
    pub service: HealthReport,
    /// Whether it gets on with its work.
    pub progress: ProgressReport,
    /// The worst of both, for whoever knows health alone.
    pub all: HealthReport,
}

impl From<HealthReport> for Vitals {
    /// Nobody looks at its progress.
    fn from(report: HealthReport) -> Self {
        Self { service: report.clone(), progress: ProgressReport::default(), all: report }
    }
}

/// Notices that the sidecar itself was away: it was to wake at a time, and came much later.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attention {
    planned: Option<BootTime>,
}

impl Attention {
    /// Who waits for others to speak wakes this often, so that its own absence is noticed.
    pub const EVERY: Duration = Duration::from_secs(30);
    /// A busy host may hold it up so long.
    const SLACK: Duration = Duration::from_secs(15);

    /// It will be there again then.
    pub fn plan(&mut self, at: BootTime) {
        self.planned = Some(at);
    }

    /// How long it was away beyond what was planned, where that is worth speaking of.
    pub fn missed(&mut self, now: BootTime) -> Option<Duration> {
        let late = now.since(self.planned.take()?);
        (late > Self::SLACK).then_some(late)
    }
}

/// How bad a health is, in comparison: who cannot look is worse than well, and better than what was seen to be ill.
#[must_use]
pub fn severity(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Unchecked => 1,
        Health::Degraded => 2,
        Health::Unhealthy => 3,
    }
}

fn worst<'a>(said: impl Iterator<Item = (&'a Source, &'a Statement)>, now: BootTime) -> HealthReport {
    let mut health: Option<Health> = None;
    let mut reasons = String::new();
    for (source, statement) in said {
        let (this, words) = statement.weighed(source, now);
        let worse = health.is_none_or(|worst| severity(this) > severity(worst));
        if worse {
            health = Some(this);
            reasons.clear();
        }
        if health == Some(this) && this != Health::Healthy {
            let between = if reasons.is_empty() { "" } else { "; " };
            reasons = format!("{reasons}{between}{words}");
        }
    }
    HealthReport { health: health.unwrap_or_default(), reason: Text::fit(&reasons) }
}

/// The board, shared between those who say, those who show and the agent, which is woken when something was said.
#[derive(Debug, Clone, Default)]
pub struct SharedHealth(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    board: Mutex<HealthBoard>,
    changed: Notify,
}

impl SharedHealth {
    /// Reads the board.
    pub fn read<T>(&self, look: impl FnOnce(&HealthBoard) -> T) -> T {
        look(&self.board())
    }

    /// Changes the board, and wakes the agent. What is said in a burst wakes it once.
    pub fn edit<T>(&self, change: impl FnOnce(&mut HealthBoard) -> T) -> T {
        let outcome = change(&mut self.board());
        self.0.changed.notify_one();
        outcome
    }

    /// Changes what wakes nobody: the same was said again.
    pub fn note<T>(&self, change: impl FnOnce(&mut HealthBoard) -> T) -> T {
        change(&mut self.board())
    }

    /// Waits until something was said. Cancel-safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn board(&self) -> MutexGuard<'_, HealthBoard> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
