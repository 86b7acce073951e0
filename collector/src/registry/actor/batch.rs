//! Group commits: what waits is gathered, committed as one transaction, and settled one by one.
//!
//! At most one is under way. When the store fails, those who asked are told at once; presence, notes and
//! audit events wait for the next try.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    AFTER_FAILURE, Actor, COMMIT_WITHIN, MAX_AUDITS_AT_ONCE, MAX_BATCH, MAX_PLANS, MAX_PUT_OFF, MAX_ROWS, MAX_WEIGHT,
    Note, RENEW_AGAIN,
};
use rollcall_common::{
    id::ServiceKey,
    identity::Pin,
    lifecycle::Status,
    time::{BootTime, Timestamp},
    token::TokenId,
    wire::message::About,
};

use crate::{
    registry::{
        Job, Refusal, World,
        about::announced,
        packages::activation,
        roster::{Roster, Shown, Slot, parent_key},
        settings::{paced, reported},
    },
    store::{
        StoreError,
        rows::{AnswerKey, Applied, AuditDraft, BlindScope, Change, Conflict, IntervalRow, ServiceRow, Write},
    },
};

/// Whom a change of a batch belongs to.
#[derive(Debug)]
pub(super) enum Owner {
    Job(Box<dyn Job>, u8),
    /// A service, and when it was heard.
    Waking(Slot, Timestamp),
    Note(Slot, Box<Note>),
    About(Slot, Box<About>),
    Rows(Vec<IntervalRow>),
    Audits(Vec<AuditDraft>),
}

/// A group commit under way. Its owners do not travel with its task: they outlive one that panics.
#[derive(Debug)]
pub(super) struct UnderWay {
    task: tokio::task::Id,
    since: BootTime,
    owners: Vec<Owner>,
    changes: Arc<Vec<Change>>,
}

/// What a task of the store's has done.
#[derive(Debug)]
pub(super) enum Done {
    /// A group commit.
    Batch(Committed),
    /// A look whether the store takes changes again.
    Probe(Result<(), StoreError>),
    /// A blind interval, recorded or warned about.
    Blind,
}

#[derive(Debug)]
pub(super) struct Committed {
    outcome: Result<Vec<Result<Applied, Conflict>>, StoreError>,
    took: Duration,
}

impl Actor {
    /// Starts a group commit when none is under way and something waits.
    pub(super) fn launch(&mut self) {
        if !self.commits.is_empty() || self.clock.now().boot < self.retry_at {
            return;
        }
        let (owners, changes) = self.gather();
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        if !changes.is_empty() {
            let (since, changes) = (clock.now().boot, Arc::new(changes));
            let batch = Arc::clone(&changes);
            let task = self.commits.spawn(async move {
                let start = clock.now();
                let outcome = store.commit(&batch, start.wall).await;
                Done::Batch(Committed { outcome, took: clock.now().boot.since(start.boot) })
            });
            self.under_way = Some(UnderWay { task: task.id(), since, owners, changes });
            self.overdue = false;
        } else if !self.shared.store_ok.load(Relaxed) {
            self.commits.spawn(async move { Done::Probe(store.ping().await) });
        }
    }

    fn gather(&mut self) -> (Vec<Owner>, Vec<Change>) {
        let (mut owners, mut changes) = (Vec::new(), Vec::new());
        let mut ground = Ground::default();
        let shared = Arc::clone(&self.shared);
        let roster = shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let (mut put_off, mut load) = (Vec::new(), Load::default());
        let mut room = roster.room();
        while changes.len() < MAX_BATCH && put_off.len() < MAX_PUT_OFF {
            let Some((mut job, plans)) = self.jobs.pop_front() else { break };
            if plans >= MAX_PLANS {
                job.finish(Err(Refusal::Busy));
                continue;
            }
            match job.plan(World { roster: &roster, now }) {
                Some(change) if change.writes.is_empty() && change.audit.is_empty() => job.finish(Ok(())),
                Some(change) if newcomers(&change) > room => job.finish(Err(Refusal::Full(room))),
                Some(change) if !load.takes(&change) => {
                    // First come, first served: what fits behind it does not overtake it.
                    put_off.push((job, plans));
                    break;
                }
                Some(change) if !ground.bears(&change, &roster) => {
                    // It was planned on what this very batch changes: the next one takes it.
                    put_off.push((job, plans));
                }
                Some(change) => {
                    load.add(&change);
                    room -= newcomers(&change);
                    changes.push(change);
                    owners.push(Owner::Job(job, plans + 1));
                }
                None => job.finish(Ok(())),
            }
        }
        for job in put_off.into_iter().rev() {
            self.jobs.push_front(job);
        }
        let mut put_off = Vec::new();
        while changes.len() < MAX_BATCH && !load.is_full() {
            let Some((slot, seen)) = self.waking.pop_first() else { break };
            let reporter = self.reporter(slot);
            let change = roster.at(slot).and_then(|entry| activation(&roster, entry, reporter.as_ref(), seen));
            let Some(change) = change else { continue };
            if ground.bears(&change, &roster) {
                load.add(&change);
                changes.push(change);
                owners.push(Owner::Waking(slot, seen));
            } else {
                put_off.push((slot, seen));
            }
        }
        self.waking.extend(put_off);
        while changes.len() < MAX_BATCH && !load.is_full() {
            let Some((slot, note)) = self.notes.pop_first() else { break };
            let Some(change) = roster.at(slot).and_then(|entry| noted(&entry.row, &note, now.wall)) else { continue };
            load.add(&change);
            changes.push(change);
            owners.push(Owner::Note(slot, Box::new(note)));
        }
        let mut put_off = Vec::new();
        while changes.len() < MAX_BATCH && !load.is_full() {
            let Some((slot, about)) = self.abouts.pop_first() else { break };
            let Some(entry) = roster.at(slot) else { continue };
            let change = announced(entry, &about, now.wall);
            if change.writes.is_empty() {
                continue;
            }
            if ground.bears(&change, &roster) {
                load.add(&change);
                changes.push(change);
                owners.push(Owner::About(slot, about));
            } else {
                put_off.push((slot, about));
            }
        }
        self.abouts.extend(put_off);
        // Rows of those that this very batch removes wait to see them gone.
        let going: HashSet<_> = changes.iter().flat_map(removed).collect();
        let (later, rows): (Vec<_>, Vec<_>) =
            self.history.take(MAX_ROWS).into_iter().partition(|row| going.contains(&row.service));
        drop(going);
        self.history.put_back(later);
        if !rows.is_empty() {
            let writes = rows.iter().map(|row| Write::BeginInterval(Box::new(row.clone()))).collect();
            changes.push(Change { writes, audit: Vec::new() });
            owners.push(Owner::Rows(rows));
        }
        if !self.audits.is_empty() {
            let audit: Vec<_> = self.audits.drain(..self.audits.len().min(MAX_AUDITS_AT_ONCE)).collect();
            changes.push(Change { writes: Vec::new(), audit: audit.clone() });
            owners.push(Owner::Audits(audit));
        }
        (owners, changes)
    }

    /// A commit that hangs is an outage too, although nothing has failed yet.
    pub(super) fn watch_commit(&mut self, now: BootTime) {
        let late = |under_way: &UnderWay| now.since(under_way.since) > COMMIT_WITHIN;
        if !self.overdue && self.under_way.as_ref().is_some_and(late) {
            self.overdue = true;
            let why = format!("a commit has not ended after {} s", COMMIT_WITHIN.as_secs());
            self.store_is(Err(&StoreError::Unavailable { store: "registry".into(), why }));
        }
    }

    pub(super) fn settle(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let committed = match done {
            Ok(Done::Batch(committed)) => committed,
            Ok(Done::Probe(Ok(()))) => return self.store_is(Ok(())),
            Ok(Done::Probe(Err(error))) => return self.store_is(Err(&error)),
            Ok(Done::Blind) => return,
            Err(error) if self.under_way.as_ref().is_none_or(|under_way| under_way.task != error.id()) => {
                tracing::error!(%error, "a task of the store's panicked");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "a group commit panicked");
                let why = "a commit ended without an answer".into();
                let outcome = Err(StoreError::Unavailable { store: "registry".into(), why });
                Committed { outcome, took: Duration::ZERO }
            }
        };
        let Some(UnderWay { owners, changes, .. }) = self.under_way.take() else { return };
        self.metrics.commits.inc();
        self.metrics.commit_seconds.observe(committed.took.as_secs_f64());
        let rows: usize = changes.iter().map(Load::of).sum();
        self.metrics.commit_rows.observe(u32::try_from(rows).unwrap_or(u32::MAX).into());
        match committed.outcome {
            Ok(outcomes) => {
                self.store_is(Ok(()));
                let (mut settled, mut events, mut position) = (Vec::new(), Vec::new(), None);
                let mut gone = HashSet::new();
                for ((owner, change), outcome) in owners.into_iter().zip(changes.iter()).zip(outcomes) {
                    if let Ok(applied) = &outcome {
                        self.apply(change, applied, &mut events);
                        gone.extend(removed(change));
                        position = Some(applied.position);
                    }
                    settled.push((owner, outcome));
                }
                if !gone.is_empty() {
                    // Another service may have that name before they would be written.
                    let rows = self.history.forget(&gone);
                    self.recorded(&rows);
                }
                // Only now is all of the batch in memory; whoever asked reads what was answered. The ring comes first:
                // nobody may be given a position that it does not know yet.
                if let Some(position) = position {
                    self.shared.feed.add(&events, position.seq, self.clock.now().boot);
                    self.write(|roster| roster.reach(position));
                }
                for (owner, outcome) in settled {
                    self.settle_one(owner, outcome);
                }
            }
            Err(error) => {
                self.metrics.commits_failed.inc();
                self.store_is(Err(&error));
                for owner in owners {
                    self.put_back(owner, &error);
                }
            }
        }
    }

    fn store_is(&mut self, state: Result<(), &StoreError>) {
        let was_ok = self.shared.store_ok.swap(state.is_ok(), Relaxed);
        match state {
            Ok(()) => {
                // Nobody could renew meanwhile: that is held against no sidecar (`Ledger`).
                if let Some(since) = self.store_down.take() {
                    let now = self.clock.now();
                    self.expiry_at = now.boot.after(RENEW_AGAIN);
                    let now = now.wall;
                    tracing::info!("the registry store takes changes again");
                    self.went_blind(BlindScope::Store("registry".into()), since, now, "store_outage");
                }
            }
            Err(error) => {
                let now = self.clock.now();
                self.retry_at = now.boot.after(AFTER_FAILURE);
                if was_ok {
                    self.store_down = Some(now.wall);
                    tracing::error!(%error, "the registry store takes no changes; presence goes on in memory");
                }
            }
        }
    }

    fn settle_one(&mut self, owner: Owner, outcome: Result<Applied, Conflict>) {
        match (owner, outcome) {
            (Owner::Job(job, _), Ok(_)) => job.finish(Ok(())),
            (Owner::Rows(rows), Ok(_)) => self.recorded(&rows),
            (Owner::Waking(..) | Owner::Note(..) | Owner::About(..) | Owner::Audits(_), Ok(_)) => {}
            (Owner::Job(mut job, plans), Err(conflict)) => {
                if job.conflict(conflict) {
                    self.jobs.push_front((job, plans));
                } else {
                    job.finish(Ok(()));
                }
            }
            (Owner::Waking(slot, seen), Err(_)) => {
                // Memory and store disagree about its row, which a moment may cure and a hot loop does not.
                self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                self.awaken(slot, seen);
            }
            (Owner::Rows(rows), Err(conflict)) => {
                // One of the services is gone: the others' rows must not go with it.
                let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
                let (kept, gone): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|row| roster.get(&row.service).is_some());
                drop(roster);
                self.recorded(&gone);
                tracing::debug!(%conflict, kept = kept.len(), "presence rows are written again");
                // Without those that are gone they meet no conflict; where none is, a pause spares a hot loop.
                if gone.is_empty() {
                    self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                }
                self.history.put_back(kept);
            }
            (Owner::Note(slot, _), Err(conflict)) => {
                tracing::debug!(slot = slot.number(), %conflict, "a note was too late")
            }
            (Owner::About(slot, about), Err(_)) => {
                self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                // What it said since is newer.
                self.abouts.entry(slot).or_insert(about);
            }
            (Owner::Audits(_), Err(conflict)) => tracing::error!(%conflict, "audit events met a conflict"),
        }
    }

    fn put_back(&mut self, owner: Owner, error: &StoreError) {
        match owner {
            Owner::Job(job, _) => job.finish(Err(Refusal::Store(error.clone()))),
            Owner::Waking(slot, seen) => self.awaken(slot, seen),
            Owner::Note(slot, old) => {
                let Note { shown, settings, paced } = *old;
                let note = self.notes.entry(slot).or_default();
                note.shown.health = note.shown.health.take().or(shown.health);
                note.shown.facts = note.shown.facts.take().or(shown.facts);
                note.shown.progress = note.shown.progress.take().or(shown.progress);
                note.settings = note.settings.take().or(settings);
                note.paced = note.paced.or(paced);
            }
            Owner::About(slot, about) => {
                self.abouts.entry(slot).or_insert(about);
            }
            Owner::Rows(rows) => self.history.put_back(rows),
            Owner::Audits(audits) => {
                for draft in audits.into_iter().rev() {
                    self.audits.push_front(draft);
                }
            }
        }
    }
}

/// What is kept of what a sidecar said; nothing where none of it is new.
fn noted(row: &ServiceRow, note: &Note, at: Timestamp) -> Option<Change> {
    let mut change = Change::default();
    let Shown { health, facts, progress } = note.shown.clone();
    let service = || row.key.clone();
    if health.is_some() || facts.is_some() {
        change.writes.push(Write::Note { service: service(), health, facts });
    }
    change.writes.extend(progress.map(|said| Write::Progress { service: service(), said }));
    let mut kept = note.settings.as_ref().and_then(|heard| reported(row, heard, at)).map(|(next, audit)| {
        change.audit = audit;
        next
    });
    if let Some(next) = note.paced.and_then(|revision| paced(row, kept.as_ref(), revision)) {
        kept = Some(next);
    }
    if let Some(next) = kept {
        change.writes.push(Write::KeepReported { service: service(), row: Some(Arc::new(next)) });
    }
    (!change.writes.is_empty()).then_some(change)
}

/// Whom a change removes.
fn removed(change: &Change) -> impl Iterator<Item = ServiceKey> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "one write removes a service")]
    let service = |write: &Write| match write {
        Write::RemoveService { service, .. } => Some(service.clone()),
        _ => None,
    };
    change.writes.iter().filter_map(service)
}

/// How many rows a batch writes: what its commit takes follows from that, not from the number of its changes.
#[derive(Debug, Default)]
struct Load(usize);

impl Load {
    fn of(change: &Change) -> usize {
        change.writes.len() + change.audit.len()
    }

    /// Whether there is room for a change. Whatever it weighs, it may go alone.
    fn takes(&self, change: &Change) -> bool {
        self.0 == 0 || self.0 + Self::of(change) <= MAX_WEIGHT
    }

    fn add(&mut self, change: &Change) {
        self.0 += Self::of(change);
    }

    fn is_full(&self) -> bool {
        self.0 >= MAX_WEIGHT
    }
}

/// How many services a change registers.
fn newcomers(change: &Change) -> usize {
    change.writes.iter().filter(|write| matches!(write, Write::InsertService(_))).count()
}

/// What a batch stands on: every change in it was planned on the same roster, so none may change what
/// another one looked at.
#[derive(Debug, Default)]
struct Ground {
    changed: HashSet<Spot>,
    looked_at: HashSet<Spot>,
}

/// A thing that plans stand on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Spot {
    Service(ServiceKey),
    Token(TokenId),
    /// What an operator decides, or a token gives, to a key.
    Claim(TokenId, Pin),
    Job(String),
    Answer(AnswerKey),
}

impl Ground {
    /// Takes a change into the batch, if it and the batch leave one another's ground alone.
    fn bears(&mut self, change: &Change, roster: &Roster) -> bool {
        let (mut changed, mut looked_at) = (HashSet::new(), HashSet::new());
        for write in &change.writes {
            match write {
                Write::InsertService(row) => {
                    changed.insert(Spot::Service(row.key.clone()));
                    looked_at.extend(parent_key(row).map(Spot::Service));
                }
                Write::SetStatus { service, to, .. } => {
                    changed.insert(Spot::Service(service.clone()));
                    // Whoever is let in again stands below a parent that must not go meanwhile.
                    if matches!(to, Status::Pending | Status::Inactive) {
                        let parent = roster.get(service).and_then(|entry| parent_key(&entry.row));
                        looked_at.extend(parent.map(Spot::Service));
                    }
                }
                Write::Describe { service, .. }
                | Write::Edit { service, .. }
                | Write::PutSettings { service, .. }
                | Write::Announce { service, .. }
                | Write::RemoveService { service, .. }
                | Write::DropIdentity(service) => {
                    changed.insert(Spot::Service(service.clone()));
                }
                Write::PutIdentity { row, .. } => {
                    changed.insert(Spot::Service(row.service.clone()));
                }
                // Two packages that bring in one service must meet.
                Write::PutPackage { row, .. } => {
                    changed.insert(Spot::Service(row.service.clone()));
                }
                Write::Note { .. }
                | Write::Progress { .. }
                | Write::KeepReported { .. }
                | Write::Deny { .. }
                | Write::Allow(_)
                | Write::InsertToken(_)
                | Write::InsertCredential(_)
                | Write::TouchCredential { .. }
                | Write::RevokeCredential { .. }
                | Write::BeginInterval(_)
                // A window carries its seq.
                | Write::PutHold(_)
                | Write::DropHold(_)
                | Write::PutWindow { .. }
                | Write::DropWindow(_)
                | Write::DropPackage(_)
                | Write::ForgetAnswer(_) => {}
                // Of two that name themselves alike the second one must see the first.
                Write::KeepAnswer(row) => {
                    changed.insert(Spot::Answer(row.of.clone()));
                }
                // Decisions on one key and its enrollment stand on each other's ground; all of them on the token.
                // Two enrollments with one token do not: the store counts its uses.
                Write::PutApproval(row) => {
                    changed.insert(Spot::Claim(row.token, row.key));
                    looked_at.insert(Spot::Token(row.token));
                }
                Write::DropApproval(id) => {
                    changed.extend(roster.approvals().get(*id).map(|row| Spot::Claim(row.token, row.key)));
                }
                Write::UseToken { token, key, .. } => {
                    changed.insert(Spot::Claim(*token, *key));
                    looked_at.insert(Spot::Token(*token));
                }
                Write::RevokeToken { token, .. } | Write::RemoveToken(token) => {
                    changed.insert(Spot::Token(*token));
                }
                // A record is planned from the one before it.
                Write::PutJob(row) => {
                    changed.insert(Spot::Job(row.name.clone()));
                }
            }
        }
        // What a change does itself is no ground that others stand on.
        looked_at.retain(|spot| !changed.contains(spot));
        let clash = changed.iter().any(|spot| self.changed.contains(spot) || self.looked_at.contains(spot))
            || looked_at.iter().any(|spot| self.changed.contains(spot));
        if !clash {
            self.changed.extend(changed);
            self.looked_at.extend(looked_at);
        }
        !clash
    }
}

#[cfg(test)]
mod load_tests;
#[cfg(test)]
mod tests;
