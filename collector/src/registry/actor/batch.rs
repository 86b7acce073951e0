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
use rollcall_common::{id::ServiceKey, lifecycle::Status, time::BootTime};

use crate::{
    registry::{
        Job, Refusal, World,
        packages::activation,
        roster::{Roster, Slot, parent_key},
    },
    store::{
        StoreError,
        rows::{Applied, AuditDraft, BlindScope, Change, Conflict, IntervalRow, Write},
    },
};

/// Whom a change of a batch belongs to.
#[derive(Debug)]
pub(super) enum Owner {
    Job(Box<dyn Job>, u8),
    Waking(Slot),
    Note(Slot, Note),
    Rows(Vec<IntervalRow>),
    Audits(Vec<AuditDraft>),
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
    owners: Vec<Owner>,
    changes: Vec<Change>,
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
            self.committing = Some(clock.now().boot);
            self.commits.spawn(async move {
                let start = clock.now();
                let outcome = store.commit(&changes, start.wall).await;
                Done::Batch(Committed { owners, changes, outcome, took: clock.now().boot.since(start.boot) })
            });
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
        while changes.len() < MAX_BATCH && put_off.len() < MAX_PUT_OFF {
            let Some((mut job, plans)) = self.jobs.pop_front() else { break };
            if plans >= MAX_PLANS {
                job.finish(Err(Refusal::Busy));
                continue;
            }
            match job.plan(World { roster: &roster, now }) {
                Some(change) if change.writes.is_empty() && change.audit.is_empty() => job.finish(Ok(())),
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
            let Some(slot) = self.waking.pop_first() else { break };
            let seen = shared.leases.sight(slot, now.boot).and_then(|sight| sight.last_seen(now)).unwrap_or(now.wall);
            let reporter = self.reporter(slot);
            let change = roster.at(slot).and_then(|entry| activation(&roster, entry, reporter.as_ref(), seen));
            let Some(change) = change else { continue };
            if ground.bears(&change, &roster) {
                load.add(&change);
                changes.push(change);
                owners.push(Owner::Waking(slot));
            } else {
                put_off.push(slot);
            }
        }
        self.waking.extend(put_off);
        while changes.len() < MAX_BATCH && !load.is_full() {
            let Some((slot, note)) = self.notes.pop_first() else { break };
            if let Some(entry) = roster.at(slot) {
                let service = entry.row.key.clone();
                let write = Write::Note { service, health: note.health.clone(), facts: note.facts.clone() };
                let change = Change { writes: vec![write], audit: Vec::new() };
                load.add(&change);
                changes.push(change);
                owners.push(Owner::Note(slot, note));
            }
        }
        let rows = self.history.take(MAX_ROWS);
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
        if self.committing.is_some_and(|since| now.since(since) > COMMIT_WITHIN) {
            self.committing = None;
            let why = format!("a commit has not ended after {} s", COMMIT_WITHIN.as_secs());
            self.store_is(Err(&StoreError::Unavailable { store: "registry".into(), why }));
        }
    }

    pub(super) fn settle(&mut self, done: Result<Done, tokio::task::JoinError>) {
        self.committing = None;
        let done = match done {
            Ok(Done::Batch(done)) => done,
            Ok(Done::Probe(Ok(()))) => return self.store_is(Ok(())),
            Ok(Done::Probe(Err(error))) => return self.store_is(Err(&error)),
            Ok(Done::Blind) => return,
            Err(error) => {
                // Its jobs are gone with it, which their askers see; presence is derived anew at the next change.
                tracing::error!(%error, "a group commit panicked");
                return;
            }
        };
        self.metrics.commits.inc();
        self.metrics.commit_seconds.observe(done.took.as_secs_f64());
        let rows: usize = done.changes.iter().map(Load::of).sum();
        self.metrics.commit_rows.observe(u32::try_from(rows).unwrap_or(u32::MAX).into());
        match done.outcome {
            Ok(outcomes) => {
                self.store_is(Ok(()));
                let (mut settled, mut events, mut position) = (Vec::new(), Vec::new(), None);
                for ((owner, change), outcome) in done.owners.into_iter().zip(&done.changes).zip(outcomes) {
                    if let Ok(applied) = &outcome {
                        self.apply(change, applied, &mut events);
                        position = Some(applied.position);
                    }
                    settled.push((owner, outcome));
                }
                // Only now is all of the batch in memory; whoever asked reads what was answered.
                if let Some(position) = position {
                    self.write(|roster| roster.reach(position));
                    self.shared.feed.add(&events, position.seq, self.clock.now().boot);
                }
                for (owner, outcome) in settled {
                    self.settle_one(owner, outcome);
                }
            }
            Err(error) => {
                self.metrics.commits_failed.inc();
                self.store_is(Err(&error));
                for owner in done.owners {
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
            (Owner::Waking(_) | Owner::Note(..) | Owner::Audits(_), Ok(_)) => {}
            (Owner::Job(mut job, plans), Err(conflict)) => {
                if job.conflict(conflict) {
                    self.jobs.push_front((job, plans));
                } else {
                    job.finish(Ok(()));
                }
            }
            (Owner::Waking(slot), Err(_)) => {
                // Memory and store disagree about its row, which a moment may cure and a hot loop does not.
                self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                self.waking.insert(slot);
            }
            (Owner::Rows(rows), Err(conflict)) => {
                // One of the services is gone: the others' rows must not go with it.
                let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
                let (kept, gone): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|row| roster.get(&row.service).is_some());
                drop(roster);
                self.recorded(&gone);
                tracing::debug!(%conflict, kept = kept.len(), "presence rows are written again");
                self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                self.history.put_back(kept);
            }
            (Owner::Note(slot, _), Err(conflict)) => tracing::debug!(slot = slot.0, %conflict, "a note was too late"),
            (Owner::Audits(_), Err(conflict)) => tracing::error!(%conflict, "audit events met a conflict"),
        }
    }

    fn put_back(&mut self, owner: Owner, error: &StoreError) {
        match owner {
            Owner::Job(job, _) => job.finish(Err(Refusal::Store(error.clone()))),
            Owner::Waking(slot) => {
                self.waking.insert(slot);
            }
            Owner::Note(slot, old) => {
                let note = self.notes.entry(slot).or_default();
                note.health = note.health.take().or(old.health);
                note.facts = note.facts.take().or(old.facts);
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

/// What a batch stands on: every change in it was planned on the same roster, so none may change what
/// another one looked at.
#[derive(Debug, Default)]
struct Ground {
    changed: HashSet<ServiceKey>,
    looked_at: HashSet<ServiceKey>,
    jobs: HashSet<String>,
}

impl Ground {
    /// Takes a change into the batch, if it and the batch leave one another's ground alone.
    fn bears(&mut self, change: &Change, roster: &Roster) -> bool {
        let (mut changed, mut looked_at, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        for write in &change.writes {
            match write {
                Write::InsertService(row) => {
                    changed.push(row.key.clone());
                    looked_at.extend(parent_key(row));
                }
                Write::SetStatus { service, to, .. } => {
                    changed.push(service.clone());
                    // Whoever is let in again stands below a parent that must not go meanwhile.
                    if matches!(to, Status::Pending | Status::Inactive) {
                        looked_at.extend(roster.get(service).and_then(|entry| parent_key(&entry.row)));
                    }
                }
                Write::Describe { service, .. }
                | Write::Edit { service, .. }
                | Write::RemoveService { service, .. }
                | Write::DropIdentity(service) => changed.push(service.clone()),
                Write::PutIdentity { row, .. } => changed.push(row.service.clone()),
                // Two packages that bring in one service must meet.
                Write::PutPackage { row, .. } => changed.push(row.service.clone()),
                Write::Note { .. }
                | Write::Deny { .. }
                | Write::Allow(_)
                | Write::InsertToken(_)
                | Write::RevokeToken { .. }
                | Write::UseToken { .. }
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
                | Write::DropApproval(_) => {}
                // Two decisions on one key stand on each other's ground, and so does the end of its token.
                Write::PutApproval(row) => jobs.push(format!("approval {} {}", row.token, row.key)),
                Write::RemoveToken(token) => jobs.push(format!("token {token}")),
                // A record is planned from the one before it.
                Write::PutJob(row) => jobs.push(row.name.clone()),
            }
        }
        // What a change does itself is no ground that others stand on.
        looked_at.retain(|key| !changed.contains(key));
        let clash = changed.iter().any(|key| self.changed.contains(key) || self.looked_at.contains(key))
            || looked_at.iter().any(|key| self.changed.contains(key))
            || jobs.iter().any(|name| self.jobs.contains(name));
        if !clash {
            self.changed.extend(changed);
            self.looked_at.extend(looked_at);
            self.jobs.extend(jobs);
        }
        !clash
    }
}
