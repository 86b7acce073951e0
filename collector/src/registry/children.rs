//! What a sidecar says of children that have no sidecar of their own: whether it is its to say, and what of it
//! counts.
//!
//! A service with a bound identity lives by its own beats: what a parent says of it is kept to be shown, and
//! moves nothing. A service without one lives by these reports: each is good for three times the interval that
//! it carries, in the same lease table as everybody's. Unknown children are registered where the reporter may
//! do that, through the registry's mailbox; nothing else here waits for anything.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_common::{
    code::Code,
    health::{Health, HealthReport, Text},
    id::{BeatNo, Kind, PaceNo, Seq, ServiceKey, SessionNo},
    lease::Pace,
    lifecycle::Status,
    service::{Pairs, Source},
    time::BootTime,
    wire::{
        children::{ChildAbout, ChildGone, ChildRefused, ChildReport, MAX_INTERVAL_MS, MIN_INTERVAL_MS},
        message::GoodbyeReason,
    },
};
use serde_json::json;

use super::{
    Notice, Refusal, Registry, Request, World,
    identities::barred,
    leases::{Origin, Phase, Touch},
    roster::{Entry, Roster, Slot, parent_key},
    services::By,
};
use crate::{
    metrics::CodeLabel,
    store::rows::{Change, ServiceRow, Write},
};

/// Services below one reporter that reports may have registered, its children's children included; what an operator
/// registered does not count.
pub const MAX_IMPLICIT: usize = 1_000;
/// How often what is said of one child reaches the store, however often it changes.
const NOTES_EVERY: Duration = Duration::from_secs(1);
/// How often a report is good for its interval before the child counts as lost.
const GOOD_FOR: u32 = 3;

/// The pace that a reported interval makes.
#[must_use]
pub fn pace_of(interval_ms: u32) -> Pace {
    let interval_ms = interval_ms.clamp(MIN_INTERVAL_MS, MAX_INTERVAL_MS);
    Pace { no: PaceNo(0), interval_ms, ttl_ms: interval_ms * GOOD_FOR }
}

/// What a report means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The child lives by it.
    Counts(Slot),
    /// The child has an identity: it is shown beside what the child says itself.
    Shown(Slot),
    /// The child is unknown and may be registered.
    New,
}

/// Judges reports of one reporter; remembers how many it let in.
#[derive(Debug)]
pub struct Jury<'r> {
    roster: &'r Roster,
    reporter: &'r ServiceKey,
    /// Those that it let in.
    fresh: usize,
}

impl<'r> Jury<'r> {
    /// For one batch.
    #[must_use]
    pub fn new(roster: &'r Roster, reporter: &'r ServiceKey) -> Self {
        Self { roster, reporter, fresh: 0 }
    }

    /// What a report means.
    ///
    /// # Errors
    /// Why it is not heard.
    pub fn judge(&mut self, report: &ChildReport) -> Result<Meaning, Code> {
        let parent = self.parent_of(report)?;
        let Some(entry) = self.roster.get(&report.child) else { return self.judge_unknown(&parent) };
        let own = parent_key(&entry.row).is_some_and(|found| found == parent);
        if !own || !self.is_below(&parent) {
            return Err(Code::ChildOfAnother);
        }
        match barred(entry.row.status) {
            Some(code) => Err(code),
            None if entry.identity.is_some() => Ok(Meaning::Shown(entry.slot)),
            None => Ok(Meaning::Counts(entry.slot)),
        }
    }

    /// The parent that a report names: the reporter, or a child of its own.
    fn parent_of(&self, report: &ChildReport) -> Result<ServiceKey, Code> {
        let kind = report.child.kind.parent().ok_or(Code::ParentKind)?;
        let named = report.parent.clone().map(|id| ServiceKey::new(kind, id));
        if kind == self.reporter.kind {
            let itself = named.is_none_or(|named| named == *self.reporter);
            return if itself { Ok(self.reporter.clone()) } else { Err(Code::ChildOfAnother) };
        }
        if kind.parent() == Some(self.reporter.kind) {
            return named.ok_or(Code::ParentUnknown);
        }
        Err(Code::ParentKind)
    }

    /// Whether a service is the reporter or a child of its own.
    fn is_below(&self, key: &ServiceKey) -> bool {
        let child = || self.roster.get(key).and_then(|entry| parent_key(&entry.row));
        key == self.reporter || child().is_some_and(|above| above == *self.reporter)
    }

    fn judge_unknown(&mut self, parent: &ServiceKey) -> Result<Meaning, Code> {
        let Some(above) = self.roster.get(parent) else { return Err(Code::ParentUnknown) };
        if !self.is_below(parent) {
            return Err(Code::ChildOfAnother);
        }
        if above.row.status.is_barred() {
            return Err(Code::ParentBarred);
        }
        if !self.roster.get(self.reporter).is_some_and(|entry| entry.row.implicit_children) {
            return Err(Code::ChildUnknown);
        }
        let there = usize::try_from(self.roster.implicit_below(self.reporter)).unwrap_or(usize::MAX);
        if there.saturating_add(self.fresh) >= MAX_IMPLICIT {
            return Err(Code::ChildLimit);
        }
        self.fresh += 1;
        Ok(Meaning::New)
    }
}

/// Registers children that were reported and are not known.
#[derive(Debug, Clone)]
pub struct RegisterChildren {
    /// Who reports.
    pub reporter: ServiceKey,
    /// The reports.
    pub reports: Vec<ChildReport>,
}

impl Request for RegisterChildren {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let mut jury = Jury::new(world.roster, &self.reporter);
        let mut change = Change::default();
        let mut taken = BTreeSet::new();
        for report in &self.reports {
            if !taken.insert(&report.child) || jury.judge(report) != Ok(Meaning::New) {
                continue;
            }
            let above = jury.parent_of(report).ok().and_then(|parent| world.roster.get(&parent));
            // Labels that do not go together with the parent's leave the child unregistered, as reported.
            let Some(row) = above.and_then(|above| self.row(world, above, report)) else { continue };
            change.audit.push(By::sidecar(&self.reporter).did(
                world.now.wall,
                "service.registered",
                row.key.to_string(),
                [("source", json!(row.source)), ("parent", json!(row.parent))],
            ));
            change.writes.push(Write::InsertService(Box::new(row)));
        }
        Ok((change, ()))
    }
}

impl RegisterChildren {
    /// A child stands where its parent does: the parent's labels win over what the report proposes, and what
    /// goes with an ephemeral parent goes as it does.
    fn row(&self, world: World<'_>, above: &Entry, report: &ChildReport) -> Option<ServiceRow> {
        let (key, at) = (&report.child, world.now.wall);
        let (labels, metadata, checker_kind) = match report.about.as_deref() {
            Some(ChildAbout { checker_kind, labels, metadata }) => {
                (labels.clone(), metadata.clone(), checker_kind.clone())
            }
            None => (Pairs::default(), Pairs::default(), None),
        };
        Some(ServiceRow {
            key: key.clone(),
            parent: Some(above.row.key.id.clone()),
            poller: match above.row.key.kind {
                Kind::Poller => Some(above.row.key.id.clone()),
                Kind::Agent => above.row.parent.clone(),
                Kind::Checker | Kind::Instance => None,
            },
            checker_kind: checker_kind.filter(|_| key.kind == Kind::Checker),
            component_id: None,
            source: Source::Implicit,
            labels: labels.overlaid(&above.row.labels).ok()?,
            metadata,
            placeholder: false,
            declared_spiffe: None,
            ephemeral_after: above.row.ephemeral_after,
            implicit_children: false,
            created_by: By::sidecar(&self.reporter).actor,
            first_registered: at,
            first_seen: None,
            last_seen: None,
            status: Status::Pending,
            status_since: at,
            archived: false,
            health: None,
            facts: None,
            progress: None,
            settings: None,
            reported: None,
            announced: None,
            seq: Seq::default(),
        })
    }
}

/// What a parent last said of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who said it.
    pub by: ServiceKey,
    /// When.
    pub at: BootTime,
    /// The interval it promised, as it counts.
    pub interval_ms: u32,
    /// What it said.
    pub report: HealthReport,
    /// When a change of it was last passed on.
    passed: Option<BootTime>,
    /// The interval that the presence history knows of.
    recorded_ms: u32,
}

/// What parents last said, one entry for each child that was ever reported.
#[derive(Debug, Default)]
pub struct Book(HashMap<Slot, Told>);

/// What follows from a counted report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Follows {
    /// What is said of the child changed.
    pub health: Option<HealthReport>,
    /// A restart would have too little patience with what the history knows: it must learn the new interval.
    pub repaced: bool,
}

impl Book {
    /// What was last said of a child.
    #[must_use]
    pub fn told(&self, slot: Slot) -> Option<&Told> {
        self.0.get(&slot)
    }

    /// Who last reported a child.
    #[must_use]
    pub fn reporter(&self, slot: Slot) -> Option<&ServiceKey> {
        self.0.get(&slot).map(|told| &told.by)
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.0.remove(&slot);
    }

    /// Keeps a report. `shown` is what the registry shows of the child's health, `running_ms` the interval that
    /// its lease runs under, if it runs.
    fn keep(&mut self, slot: Slot, heard: Told, shown: Option<&HealthReport>, running_ms: Option<u32>) -> Follows {
        let before = self.0.remove(&slot);
        let (passed, recorded) = before.map_or((None, 0), |told| (told.passed, told.recorded_ms));
        // A lease that does not run is begun by this report, and its row will tell the interval.
        let recorded = running_ms.map_or(heard.interval_ms, |running| if recorded == 0 { running } else { recorded });
        let repaced = heard.interval_ms >= recorded.saturating_mul(2);
        let due = passed.is_none_or(|at| heard.at.since(at) >= NOTES_EVERY);
        let health = (due && shown != Some(&heard.report)).then(|| heard.report.clone());
        let passed = if health.is_some() { Some(heard.at) } else { passed };
        self.0.insert(slot, Told { passed, recorded_ms: recorded, ..heard });
        Follows { health, repaced }
    }

    /// The presence history learns of an interval.
    fn records(&mut self, slot: Slot, interval_ms: u32) {
        if let Some(told) = self.0.get_mut(&slot) {
            told.recorded_ms = interval_ms;
        }
    }
}

/// A batch on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'b> {
    /// Who reports, proven by its certificate.
    pub reporter: &'b ServiceKey,
    /// The dial that it came over.
    pub session: SessionNo,
    /// Its number.
    pub batch_no: u64,
    /// The interval it promises.
    pub interval_ms: u32,
    /// The reports.
    pub reports: &'b [ChildReport],
    /// When it arrived.
    pub at: BootTime,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Hearing {
    /// Who was not heard.
    pub refused: Vec<ChildRefused>,
    /// Who is to be registered first.
    pub unknown: Vec<ChildReport>,
}

impl Registry {
    /// Hears a batch: touches the leases of those who live by it, tells the registry what changed, keeps the rest
    /// to be shown.
    #[must_use]
    pub fn hear_children(&self, batch: Batch<'_>) -> Hearing {
        let pace = pace_of(batch.interval_ms);
        let mut hearing = Hearing::default();
        let mut heard = Vec::with_capacity(batch.reports.len());
        self.read(|roster| {
            let mut jury = Jury::new(roster, batch.reporter);
            for (index, report) in batch.reports.iter().enumerate() {
                match jury.judge(report) {
                    Ok(Meaning::New) => hearing.unknown.push(report.clone()),
                    Ok(meaning @ (Meaning::Counts(slot) | Meaning::Shown(slot))) => {
                        let shown = roster.at(slot).and_then(|entry| entry.row.health.as_ref());
                        heard.push((slot, meaning, report, shown.map(|(report, _)| report.clone())));
                    }
                    Err(code) => {
                        let index = u16::try_from(index).unwrap_or(u16::MAX);
                        hearing.refused.push(ChildRefused { index, code });
                    }
                }
            }
        });
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.metrics.child_reports.inc_by(count(heard.len()));
        for refused in &hearing.refused {
            self.metrics.child_refused.get_or_create(&CodeLabel { code: refused.code.as_str() }).inc();
        }
        let mut notices = Vec::new();
        let mut book = self.children();
        for (slot, meaning, report, shown) in heard {
            let told = Told {
                by: batch.reporter.clone(),
                at: batch.at,
                interval_ms: pace.interval_ms,
                report: report.report.clone(),
                passed: None,
                recorded_ms: 0,
            };
            if let Meaning::Counts(_) = meaning {
                let running = self.leases().sight(slot, batch.at).filter(|sight| sight.phase == Phase::Live);
                let follows = book.keep(slot, told, shown.as_ref(), running.map(|sight| sight.pace.interval_ms));
                let touch = self.leases().touch_by_parent(slot, batch.session, BeatNo(batch.batch_no), pace, batch.at);
                notices.extend((touch == Touch::Woke).then_some(Notice::Woke(slot)));
                // A notice that finds no room is due again with the next report.
                if touch == Touch::Kept && follows.repaced && self.tell(Notice::Repaced(slot)) {
                    book.records(slot, pace.interval_ms);
                }
                notices.extend(follows.health.map(|health| Notice::Health(slot, health)));
            } else {
                let shown = told.report.clone();
                book.keep(slot, told, Some(&shown), None);
            }
        }
        drop(book);
        for notice in notices {
            self.tell(notice);
        }
        hearing
    }

    /// Hears goodbyes for children: who of them stops, and whose goodbye was not the reporter's to say. Whoever has an
    /// identity says its own; whoever is not known has nothing to end.
    #[must_use]
    pub fn hear_farewells(
        &self,
        reporter: &ServiceKey,
        gone: &[ChildGone],
    ) -> (Vec<(Slot, GoodbyeReason)>, Vec<ChildRefused>) {
        let (parted, refused) = self.read(|roster| farewells(roster, reporter, gone));
        for refused in &refused {
            self.metrics.child_refused.get_or_create(&CodeLabel { code: refused.code.as_str() }).inc();
        }
        (parted, refused)
    }

    /// What parents last said of their children.
    pub fn children(&self) -> MutexGuard<'_, Book> {
        self.shared.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who of them stops, and whose goodbye is not the reporter's to say.
fn farewells(
    roster: &Roster,
    reporter: &ServiceKey,
    gone: &[ChildGone],
) -> (Vec<(Slot, GoodbyeReason)>, Vec<ChildRefused>) {
    let (mut parted, mut refused) = (Vec::new(), Vec::new());
    let mut jury = Jury::new(roster, reporter);
    for (index, gone) in gone.iter().enumerate() {
        let report = ChildReport {
            child: gone.child.clone(),
            parent: gone.parent.clone(),
            report: HealthReport { health: Health::Unchecked, reason: Text::default() },
            about: None,
        };
        match jury.judge(&report) {
            Ok(Meaning::Counts(slot)) => parted.push((slot, gone.reason)),
            Ok(Meaning::Shown(_) | Meaning::New) | Err(Code::ChildUnknown) => {}
            Err(code) => refused.push(ChildRefused { index: u16::try_from(index).unwrap_or(u16::MAX), code }),
        }
    }
    (parted, refused)
}

/// Whether a lease is one that a parent's reports feed, as its open row of history tells it.
#[must_use]
pub(super) fn recorded_pace(evidence: &serde_json::Value) -> Option<Pace> {
    let by_parent = evidence.get("origin")?.as_str()? == Origin::Parent.as_str();
    let interval = evidence.get("interval_ms")?.as_u64()?;
    by_parent.then(|| pace_of(u32::try_from(interval).unwrap_or(MAX_INTERVAL_MS)))
}

#[cfg(test)]
mod tests;
