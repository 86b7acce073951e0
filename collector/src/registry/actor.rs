//! The task that owns the registry.
//!
//! It never waits for the store: at most one group commit is under way, in a task of its own, while ticks
//! and notices go on. Whoever asked for a change waits for the commit that carries it; presence does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use rollcall_common::{
    code::Code,
    health::{HealthReport, HostFacts},
    id::ServiceKey,
    lease::{Pace, Presence},
    lifecycle::Status,
    time::{BootTime, Clock, Now, Timestamp},
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Job, Mail, Notice, Refusal, Registry, Shared, Whoami, World,
    history::{History, Ledger, Verdict},
    judge::{self, Judge, Sense},
    leases::{Leases, Phase, Sight},
    links::{Links, Order},
    roster::{Entry, Roster, Slot},
    services,
};
use crate::{
    metrics::{CodeLabel, Metrics, PresenceLabel, TransitionLabel},
    store::{
        RegistryStore, StoreError,
        rows::{Applied, AuditDraft, BlindRow, BlindScope, Change, Conflict, IntervalRow, Loaded, Write},
    },
};

/// Mails that may wait; beyond it requests are refused as busy.
const MAILBOX: usize = 8_192;
/// Requests that may wait for their commit, beyond the mailbox.
const MAX_JOBS: usize = 4_096;
/// Changes in one group commit.
const MAX_BATCH: usize = 1_024;
/// Presence rows in one group commit.
const MAX_ROWS: usize = 2_048;
/// How often a request is planned again before it is refused as busy.
const MAX_PLANS: u8 = 8;
/// Audit notices that may wait; beyond it the newest is lost and counted.
const MAX_AUDITS: usize = 4_096;
/// Pause after a failed commit.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How often ended certificates are looked for.
const EXPIRY_EVERY: Duration = Duration::from_secs(1);
/// Services that may wait to be taken out of the liveness store; their keys end by themselves.
const MAX_RETIRED: usize = 65_536;

/// The registry before its task runs.
#[derive(Debug)]
pub struct Actor {
    mail: mpsc::Receiver<Mail>,
    shared: Arc<Shared>,
    store: Arc<dyn RegistryStore>,
    clock: Arc<dyn Clock>,
    whoami: Arc<Whoami>,
    metrics: Arc<Metrics>,
    judge: Judge,
    jobs: VecDeque<(Box<dyn Job>, u8)>,
    waking: BTreeSet<Slot>,
    notes: BTreeMap<Slot, Note>,
    audits: VecDeque<AuditDraft>,
    history: History,
    commits: JoinSet<Done>,
    retry_at: BootTime,
    expiry_at: BootTime,
}

impl std::fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

#[derive(Debug, Default, Clone)]
struct Note {
    health: Option<(HealthReport, Timestamp)>,
    facts: Option<HostFacts>,
}

/// Whom a change of a batch belongs to.
#[derive(Debug)]
enum Owner {
    Job(Box<dyn Job>, u8),
    Waking(Slot),
    Note(Slot, Note),
    Rows(Vec<IntervalRow>),
    Audits(Vec<AuditDraft>),
}

/// What a task of the store's has done.
#[derive(Debug)]
enum Done {
    /// A group commit.
    Batch(Committed),
    /// A look whether the store takes changes again.
    Probe(Result<(), StoreError>),
    /// A blind interval, recorded or warned about.
    Blind,
}

#[derive(Debug)]
struct Committed {
    owners: Vec<Owner>,
    changes: Vec<Change>,
    outcome: Result<Vec<Result<Applied, Conflict>>, StoreError>,
    took: Duration,
}

impl Actor {
    /// Loads the store, arms what was expected to be alive, and gives the handle.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        store: Arc<dyn RegistryStore>,
        clock: Arc<dyn Clock>,
        whoami: Whoami,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Registry), StoreError> {
        let loaded = store.load().await?;
        let now = clock.now();
        let (sender, mail) = mpsc::channel(MAILBOX);
        let roster = Roster::from_loaded(&loaded);
        let leases = Leases::default();
        let armed = arm(&roster, &leases, &loaded, now, pace);
        let mut ledger = Ledger::default();
        let month = now.wall.before(super::identities::REJOIN_WITHIN);
        for blind in store.blind_since(month, super::history::MAX_LEDGER).await? {
            ledger.add(blind.from, blind.to);
        }
        if let Some(mark) = loaded.marks.iter().find(|mark| mark.collector == whoami.collector) {
            let scope = BlindScope::Collector(whoami.collector.clone());
            let blind = BlindRow { scope, from: mark.wall, to: now.wall, cause: "restart".into() };
            if blind.from < blind.to {
                store.record_blind(&blind).await?;
                ledger.add(blind.from, blind.to);
            }
            tracing::info!(blind_ms = blind.to.since(blind.from).as_millis(), armed, "observing again after a restart");
        }
        let shared = Arc::new(Shared {
            roster: RwLock::new(roster),
            leases,
            links: Links::default(),
            pace: RwLock::new((pace, None)),
            ledger: RwLock::new(ledger),
            unrecorded: RwLock::default(),
            retired: Mutex::default(),
            store_ok: true.into(),
            signs: true.into(),
            observed: Mutex::new(now),
        });
        let whoami = Arc::new(whoami);
        let registry = Registry {
            mail: sender,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            whoami: Arc::clone(&whoami),
            metrics: Arc::clone(&metrics),
        };
        let actor = Self {
            mail,
            shared,
            store,
            clock,
            whoami,
            metrics,
            judge: Judge::new(now),
            jobs: VecDeque::new(),
            waking: BTreeSet::new(),
            notes: BTreeMap::new(),
            audits: VecDeque::new(),
            history: History::default(),
            commits: JoinSet::new(),
            retry_at: BootTime(0),
            expiry_at: BootTime(0),
        };
        Ok((actor, registry))
    }

    /// Runs until stopped, then commits what waits, within the caller's patience.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(judge::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mails = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                Some(done) = self.commits.join_next() => self.settle(done),
                () = stop.cancelled() => break,
                count = self.mail.recv_many(&mut mails, 256), if self.jobs.len() < MAX_JOBS => {
                    if count == 0 {
                        break;
                    }
                    self.accept(&mut mails);
                }
            }
            self.launch();
        }
        self.finish(mails).await;
    }

    async fn finish(&mut self, mut mails: Vec<Mail>) {
        self.mail.close();
        while let Ok(mail) = self.mail.try_recv() {
            mails.push(mail);
        }
        self.accept(&mut mails);
        loop {
            self.launch();
            match self.commits.join_next().await {
                Some(done) => self.settle(done),
                None => break,
            }
        }
        for (job, _) in self.jobs.drain(..) {
            job.finish(Err(Refusal::Stopping));
        }
    }

    fn accept(&mut self, mails: &mut Vec<Mail>) {
        for mail in mails.drain(..) {
            match mail {
                Mail::Job(job) => self.jobs.push_back((job, 0)),
                Mail::Notice(notice) => self.hear(notice),
            }
        }
    }

    fn hear(&mut self, notice: Notice) {
        let now = self.clock.now();
        match notice {
            Notice::Woke(slot) => self.wake(slot, now),
            Notice::Goodbye(slot, goodbye) => {
                let evidence = json!({ "reason": goodbye.reason.as_str(), "back_in_secs": goodbye.back_in_secs });
                self.stop_lease(slot, now, "goodbye", evidence);
            }
            Notice::Health(slot, report) => {
                let health = Some((report, now.wall));
                self.write(|roster| roster.note(slot, health.clone(), None));
                self.notes.entry(slot).or_default().health = health;
            }
            Notice::Facts(slot, facts) => {
                self.write(|roster| roster.note(slot, None, Some(HostFacts::clone(&facts))));
                self.notes.entry(slot).or_default().facts = Some(*facts);
            }
            Notice::Audit(draft) => {
                if self.audits.len() < MAX_AUDITS {
                    self.audits.push_back(*draft);
                } else {
                    self.metrics.mailbox_full.inc();
                }
            }
        }
    }

    /// A beat found its lease not running: it runs again, and the status follows when the store takes it.
    fn wake(&mut self, slot: Slot, now: Now) {
        let Some((key, status)) = self.look(slot, |entry| (entry.row.key.clone(), entry.row.status)) else { return };
        if status.is_barred() {
            return;
        }
        let Some(sight) = self.shared.leases.sight(slot, now.boot) else { return };
        if sight.phase != Phase::Live {
            self.shared.leases.set_phase(slot, Phase::Live);
            let cause = if sight.phase == Phase::NeverSeen { "first_beat" } else { "beat" };
            let from = sight.last_beat.unwrap_or(now.boot);
            let evidence = json!({ "session": sight.session, "beat_no": sight.beat_no });
            self.judge_presence(Verdict { service: key, presence: Presence::Alive, cause, evidence, from }, now);
        }
        if status != Status::Active {
            self.waking.insert(slot);
        }
    }

    fn stop_lease(&mut self, slot: Slot, now: Now, cause: &'static str, evidence: serde_json::Value) {
        let Some(key) = self.look(slot, |entry| entry.row.key.clone()) else { return };
        let live = self.shared.leases.sight(slot, now.boot).is_some_and(|sight| sight.phase == Phase::Live);
        if live {
            self.shared.leases.set_phase(slot, Phase::Stopped);
            self.retire(key.clone());
            let verdict = Verdict { service: key, presence: Presence::Stopped, cause, evidence, from: now.boot };
            self.judge_presence(verdict, now);
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        let (pace, _) = *self.shared.pace.read().unwrap_or_else(PoisonError::into_inner);
        match self.judge.tick(now, pace) {
            Sense::Clear => {}
            Sense::Credit(gap) => {
                let millis = u64::try_from(gap.length.as_millis()).unwrap_or(u64::MAX);
                self.shared.leases.credit(millis);
                self.metrics.credited_ms.inc_by(millis);
                self.went_blind(gap.from, gap.to, "stall");
            }
            Sense::Unobservable(gap) => {
                self.shared.leases.rearm_all(now.boot, pace);
                self.went_blind(gap.from, gap.to, "stall");
            }
        }
        *self.shared.observed.lock().unwrap_or_else(PoisonError::into_inner) = now;
        for slot in self.shared.leases.expire(now.boot) {
            self.lose(slot, now);
        }
        // A renewal that we cannot give must not cost a live connection.
        let renewable = self.shared.store_ok.load(Relaxed) && self.shared.signs.load(Relaxed);
        if renewable && now.boot >= self.expiry_at {
            self.expiry_at = now.boot.after(EXPIRY_EVERY);
            self.shared.links.close_expired(now.wall);
        }
    }

    fn lose(&mut self, slot: Slot, now: Now) {
        let Some(sight) = self.shared.leases.sight(slot, now.boot) else { return };
        let Some((key, seen)) = self.look(slot, |entry| (entry.row.key.clone(), entry.row.last_seen)) else { return };
        let verdict = loss(key, seen, sight, now);
        tracing::info!(service = %verdict.service, last_seen = %verdict.evidence["last_beat"], "lost");
        self.retire(verdict.service.clone());
        self.judge_presence(verdict, now);
    }

    fn went_blind(&mut self, from: Timestamp, to: Timestamp, cause: &str) {
        tracing::warn!(blind_ms = to.since(from).as_millis(), cause, "the collector could not observe");
        self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner).add(from, to);
        let scope = BlindScope::Collector(self.whoami.collector.clone());
        let blind = BlindRow { scope, from, to, cause: cause.into() };
        let audit = services::By::system().did(
            to,
            "collector.blind",
            format!("collector:{}", self.whoami.collector),
            [("from", json!(from.to_string())), ("to", json!(to.to_string())), ("cause", json!(cause))],
        );
        self.audits.push_back(audit);
        let store = Arc::clone(&self.store);
        // Rides with the commits so that it has an owner; a failure leaves the audit event to tell of it.
        self.commits.spawn(async move {
            if let Err(error) = store.record_blind(&blind).await {
                tracing::warn!(%error, "a blind interval was not recorded");
            }
            Done::Blind
        });
    }

    fn judge_presence(&mut self, verdict: Verdict, now: Now) {
        let label = PresenceLabel { r#type: verdict.service.kind.as_str(), presence: verdict.presence.as_str() };
        self.metrics.verdicts.get_or_create(&label).inc();
        if self.history.push(verdict.row(now, self.whoami.boot_id)) {
            self.metrics.unrecorded_lost.inc();
        }
        self.count_unrecorded();
    }

    /// Starts a group commit when none is under way and something waits.
    fn launch(&mut self) {
        if !self.commits.is_empty() || self.clock.now().boot < self.retry_at {
            return;
        }
        let (owners, changes) = self.gather();
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        if !changes.is_empty() {
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
        let shared = Arc::clone(&self.shared);
        let roster = shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        while changes.len() < MAX_BATCH {
            let Some((mut job, plans)) = self.jobs.pop_front() else { break };
            if plans >= MAX_PLANS {
                job.finish(Err(Refusal::Busy));
                continue;
            }
            match job.plan(World { roster: &roster, now }) {
                Some(change) if change.writes.is_empty() && change.audit.is_empty() => job.finish(Ok(())),
                Some(change) => {
                    changes.push(change);
                    owners.push(Owner::Job(job, plans + 1));
                }
                None => job.finish(Ok(())),
            }
        }
        while changes.len() < MAX_BATCH {
            let Some(slot) = self.waking.pop_first() else { break };
            let seen = shared.leases.sight(slot, now.boot).and_then(|sight| sight.last_seen(now)).unwrap_or(now.wall);
            if let Some(change) = roster.at(slot).and_then(|entry| services::activation(entry, seen)) {
                changes.push(change);
                owners.push(Owner::Waking(slot));
            }
        }
        while changes.len() < MAX_BATCH {
            let Some((slot, note)) = self.notes.pop_first() else { break };
            if let Some(entry) = roster.at(slot) {
                let service = entry.row.key.clone();
                let write = Write::Note { service, health: note.health.clone(), facts: note.facts.clone() };
                changes.push(Change { writes: vec![write], audit: Vec::new() });
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
            let audit: Vec<_> = self.audits.drain(..).collect();
            changes.push(Change { writes: Vec::new(), audit: audit.clone() });
            owners.push(Owner::Audits(audit));
        }
        (owners, changes)
    }

    fn settle(&mut self, done: Result<Done, tokio::task::JoinError>) {
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
        match done.outcome {
            Ok(outcomes) => {
                self.store_is(Ok(()));
                for ((owner, change), outcome) in done.owners.into_iter().zip(&done.changes).zip(outcomes) {
                    self.settle_one(owner, change, outcome);
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
        self.count_unrecorded();
    }

    fn store_is(&mut self, state: Result<(), &StoreError>) {
        let was_ok = self.shared.store_ok.swap(state.is_ok(), Relaxed);
        match state {
            Ok(()) if was_ok => {}
            Ok(()) => tracing::info!("the registry store takes changes again"),
            Err(error) => {
                self.retry_at = self.clock.now().boot.after(AFTER_FAILURE);
                if was_ok {
                    tracing::error!(%error, "the registry store takes no changes; presence goes on in memory");
                }
            }
        }
    }

    fn settle_one(&mut self, owner: Owner, change: &Change, outcome: Result<Applied, Conflict>) {
        match (owner, outcome) {
            (owner, Ok(applied)) => {
                self.apply(change, &applied);
                match owner {
                    Owner::Job(job, _) => job.finish(Ok(())),
                    Owner::Waking(_) | Owner::Note(..) | Owner::Rows(_) | Owner::Audits(_) => {}
                }
            }
            (Owner::Job(mut job, plans), Err(conflict)) => {
                if job.conflict(conflict) {
                    self.jobs.push_front((job, plans));
                } else {
                    job.finish(Ok(()));
                }
            }
            (Owner::Waking(slot), Err(_)) => {
                // Somebody else moved its status in the same batch: look again.
                self.waking.insert(slot);
            }
            (Owner::Rows(rows), Err(conflict)) => {
                // One of the services is gone: the others' rows must not go with it.
                let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
                let kept: Vec<_> = rows.into_iter().filter(|row| roster.get(&row.service).is_some()).collect();
                drop(roster);
                tracing::debug!(%conflict, kept = kept.len(), "presence rows are written again");
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

    /// Repeats a committed change in memory and announces what follows from it.
    fn apply(&mut self, change: &Change, applied: &Applied) {
        let before: Vec<_> = change.writes.iter().map(|write| self.before(write)).collect();
        self.write(|roster| roster.apply(change, applied));
        let now = self.clock.now();
        for (write, before) in change.writes.iter().zip(before) {
            self.announce(write, before, now);
        }
    }

    fn before(&self, write: &Write) -> Option<(Slot, Status)> {
        let key = match write {
            Write::SetStatus { service, .. } | Write::RemoveService { service, .. } => service,
            Write::InsertService(_)
            | Write::Describe { .. }
            | Write::Note { .. }
            | Write::PutIdentity { .. }
            | Write::DropIdentity(_)
            | Write::Deny { .. }
            | Write::Allow(_)
            | Write::InsertToken(_)
            | Write::RevokeToken { .. }
            | Write::UseToken { .. }
            | Write::InsertCredential(_)
            | Write::BeginInterval(_) => return None,
        };
        let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        roster.get(key).map(|entry| (entry.slot, entry.row.status))
    }

    fn announce(&mut self, write: &Write, before: Option<(Slot, Status)>, now: Now) {
        match (write, before) {
            (Write::InsertService(row), _) => {
                if let Some(slot) = self.find(&row.key) {
                    self.shared.leases.reserve(slot);
                    self.shared.leases.set_phase(slot, Phase::NeverSeen);
                }
            }
            (Write::SetStatus { service, to, .. }, Some((slot, from))) => {
                let label = TransitionLabel { r#type: service.kind.as_str(), from: from.as_str(), to: to.as_str() };
                self.metrics.transitions.get_or_create(&label).inc();
                tracing::info!(%service, %from, %to, "status");
                if let Some(code) = super::identities::barred(*to) {
                    self.close(slot, code);
                    self.stop_lease(slot, now, to.as_str(), json!({}));
                }
            }
            (Write::RemoveService { service, .. }, Some((slot, _))) => {
                self.close(slot, Code::UnknownIdentity);
                self.shared.leases.vacate(slot);
                self.waking.remove(&slot);
                self.notes.remove(&slot);
                self.retire(service.clone());
            }
            (Write::PutIdentity { row, .. }, _) => {
                let Some(slot) = self.find(&row.service) else { return };
                let held =
                    |serial| row.current.serial == serial || row.pending.as_ref().is_some_and(|p| p.serial == serial);
                if self.shared.links.get(slot).is_some_and(|link| !held(link.serial)) {
                    self.close(slot, Code::Superseded);
                }
            }
            (
                Write::SetStatus { .. }
                | Write::RemoveService { .. }
                | Write::Describe { .. }
                | Write::Note { .. }
                | Write::DropIdentity(_)
                | Write::Deny { .. }
                | Write::Allow(_)
                | Write::InsertToken(_)
                | Write::RevokeToken { .. }
                | Write::UseToken { .. }
                | Write::InsertCredential(_)
                | Write::BeginInterval(_),
                _,
            ) => {}
        }
    }

    fn close(&self, slot: Slot, code: Code) {
        if self.shared.links.order(slot, Order::Close(code)) {
            self.metrics.closed.get_or_create(&CodeLabel { code: code.as_str() }).inc();
        }
    }

    fn retire(&self, key: ServiceKey) {
        let mut retired = self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner);
        if retired.len() < MAX_RETIRED {
            retired.push(key);
        }
    }

    fn count_unrecorded(&self) {
        self.metrics.unrecorded.set(i64::try_from(self.history.len()).unwrap_or(i64::MAX));
        // While commits go well nothing waits for longer than one of them; only an outage is worth showing.
        let shown = if self.shared.store_ok.load(Relaxed) { HashSet::new() } else { self.history.unrecorded() };
        *self.shared.unrecorded.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    fn look<T>(&self, slot: Slot, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.shared.roster.read().unwrap_or_else(PoisonError::into_inner).at(slot).map(look)
    }

    fn find(&self, key: &ServiceKey) -> Option<Slot> {
        self.shared.roster.read().unwrap_or_else(PoisonError::into_inner).get(key).map(|entry| entry.slot)
    }

    fn write(&self, change: impl FnOnce(&mut Roster)) {
        change(&mut self.shared.roster.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Sets every lease as the durable rows have it. `lost` and `stopped` stay so; every other active service
/// was expected to beat, and gets its chance whether or not it reconnects. Answers how many were armed.
fn arm(roster: &Roster, leases: &Leases, loaded: &Loaded, now: Now, pace: Pace) -> usize {
    let lasting: BTreeMap<&ServiceKey, Presence> =
        loaded.open_intervals.iter().map(|row| (&row.service, row.presence)).collect();
    let mut armed = 0;
    for entry in roster.iter() {
        leases.reserve(entry.slot);
        let lasting = lasting.get(&entry.row.key).copied();
        match (lasting, entry.row.status) {
            (Some(Presence::Lost), _) => leases.set_phase(entry.slot, Phase::Lost),
            (Some(Presence::Stopped), _) | (_, Status::Revoked | Status::Deleted) => {
                leases.set_phase(entry.slot, Phase::Stopped);
            }
            (Some(Presence::Alive | Presence::Late | Presence::Unknown), _) | (_, Status::Active) => {
                leases.rearm(
                    entry.slot,
                    pace,
                    now.boot.after(judge::chance(pace, entry.slot.0.wrapping_mul(2_654_435_761))),
                );
                armed += 1;
            }
            (Some(Presence::NeverSeen) | None, Status::Pending | Status::Inactive) => {
                leases.set_phase(entry.slot, Phase::NeverSeen);
            }
        }
    }
    armed
}

/// The verdict of a loss, dated back to the first missed beat.
fn loss(key: ServiceKey, last_seen: Option<Timestamp>, sight: Sight, now: Now) -> Verdict {
    let interval = sight.pace.interval();
    let from = sight.lease().first_missed().or_else(|| {
        // Not heard since a restart: the flushed last_seen is the best that is known.
        let missed = last_seen?.after(interval);
        Some(BootTime(now.boot.0.saturating_sub(u64::try_from(now.wall.since(missed).as_millis()).unwrap_or(0))))
    });
    let evidence = json!({
        "last_beat": sight.last_seen(now).or(last_seen).map(|at| at.to_string()),
        "heard_since_start": sight.last_beat.is_some(),
        "interval_ms": sight.pace.interval_ms,
        "ttl_ms": sight.pace.ttl_ms,
        "deadline": now.wall_of(sight.deadline).to_string(),
    });
    Verdict { service: key, presence: Presence::Lost, cause: "ttl", evidence, from: from.unwrap_or(now.boot) }
}

#[cfg(test)]
mod tests;
