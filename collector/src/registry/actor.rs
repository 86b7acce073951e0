//! The task that owns the registry.
//!
//! It never waits for the store: at most one group commit is under way, in a task of its own, while ticks
//! and notices go on. Whoever asked for a change waits for the commit that carries it; presence does not.

mod announce;
mod batch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLockWriteGuard, atomic::Ordering::Relaxed},
    time::Duration,
};

use rollcall_common::{
    health::{Health, Progress},
    id::ServiceKey,
    lease::{Pace, Presence},
    lifecycle::Status,
    time::{BootTime, Clock, Now, Timestamp},
    wire::message::About,
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::batch::{Done, UnderWay};
use super::{
    Job, Mail, Notice, Refusal, Registry, Shared, Whoami,
    feed::Deriver,
    history::{History, Ledger, Verdict},
    judge::{self, Judge, Sense},
    leases::{Leases, Origin, Phase, Sight},
    packages,
    roster::{Entry, MAX_SERVICES, Roster, Shown, Slot, parent_key},
    services,
    settings::Heard,
};
use crate::{
    metrics::{self, Metrics, PresenceLabel},
    store::{
        RegistryStore, StoreError,
        rows::{AuditDraft, BlindRow, BlindScope, IntervalRow},
    },
};

/// Mails that may wait. It is emptied at each turn and fills only while the host gives no time.
const MAILBOX: usize = 8_192;
/// Requests that may wait for their commit; beyond it they are refused as busy.
const MAX_JOBS: usize = 4_096;
/// Changes in one group commit.
const MAX_BATCH: usize = 1_024;
/// Rows of the changes in one group commit, audit events included: it bounds how long the next one waits. A change
/// that is larger by itself goes alone.
const MAX_WEIGHT: usize = 4_096;
/// Requests that one batch may plan in vain, because they stand on what it changes.
const MAX_PUT_OFF: usize = 64;
/// Audit notices in one group commit.
const MAX_AUDITS_AT_ONCE: usize = 1_024;
/// Presence rows in one group commit.
const MAX_ROWS: usize = 2_048;
/// How often a request is planned again before it is refused as busy.
const MAX_PLANS: u8 = 8;
/// Audit notices that may wait; beyond it the newest is lost and counted.
const MAX_AUDITS: usize = 4_096;
/// Pause after a failed commit.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// A commit that takes longer counts as an outage: nobody could renew meanwhile.
const COMMIT_WITHIN: Duration = Duration::from_secs(2);
/// After an outage of ours, ended certificates get this long to be renewed: longer than a sidecar's longest
/// pause between two tries (15 min).
const RENEW_AGAIN: Duration = Duration::from_secs(20 * 60);
/// How often ended certificates are looked for.
const EXPIRY_EVERY: Duration = Duration::from_secs(1);
/// How long the place of a removed service rests. A touch that had found its lease just before is over by then.
const REST: Duration = Duration::from_secs(60);
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
    /// Who was heard and is not active yet, with the time of its waking.
    waking: BTreeMap<Slot, Timestamp>,
    /// Whose lease has run since the start without a row that says so.
    unwritten: BTreeSet<Slot>,
    notes: BTreeMap<Slot, Note>,
    /// What hosts say of themselves: the last word of each.
    abouts: BTreeMap<Slot, Box<About>>,
    /// Places of removed services, the first to rest first; as many as there are places at most.
    resting: VecDeque<(Slot, BootTime)>,
    audits: VecDeque<AuditDraft>,
    history: History,
    deriver: Deriver,
    commits: JoinSet<Done>,
    retry_at: BootTime,
    /// Since when the store takes no changes.
    store_down: Option<Timestamp>,
    under_way: Option<UnderWay>,
    /// Whether the commit under way counts as an outage already.
    overdue: bool,
    expiry_at: BootTime,
}

/// Whether a blind interval kept sidecars from renewing: a lost view of liveness did not.
fn is_ours(scope: &BlindScope) -> bool {
    match scope {
        BlindScope::Collector(_) | BlindScope::Everything => true,
        BlindScope::Store(name) => name == "registry",
    }
}

impl std::fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

#[derive(Debug, Default, Clone)]
struct Note {
    shown: Shown,
    settings: Option<Heard>,
    /// The revision whose pace was echoed last.
    paced: Option<u64>,
}

impl Actor {
    /// Loads the store, arms what was expected to be alive, and gives the handle. `pace` is the pace to
    /// grant and the one that was granted until the last stop, where it differs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        store: Arc<dyn RegistryStore>,
        clock: Arc<dyn Clock>,
        whoami: Whoami,
        (pace, previous): (Pace, Option<Pace>),
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Registry), StoreError> {
        let loaded = store.load().await?;
        let now = clock.now();
        let (sender, mail) = mpsc::channel(MAILBOX);
        let roster = Roster::from_loaded(&loaded);
        if roster.len() > MAX_SERVICES {
            let why = format!("it holds {} services, and a collector takes {MAX_SERVICES}", roster.len());
            return Err(StoreError::Misconfigured { store: "registry".into(), why });
        }
        metrics.room.set(i64::try_from(roster.room()).unwrap_or(i64::MAX));
        let leases = Leases::default();
        let armed = judge::arm(&roster, &leases, &loaded, now, (pace, previous));
        let mut ledger = Ledger::default();
        let month = now.wall.before(super::identities::REJOIN_WITHIN);
        for blind in store.blind_since(month, super::history::MAX_LEDGER).await? {
            if is_ours(&blind.scope) {
                ledger.add(blind.from, blind.to);
            }
        }
        if let Some(mark) = loaded.marks.iter().find(|mark| mark.collector == whoami.collector) {
            // Within one boot its clock tells how long it was, whatever became of the wall clock.
            let same_boot = mark.boot_id == whoami.boot_id && mark.boot <= now.boot;
            let from = if same_boot { now.wall_of(mark.boot) } else { mark.wall };
            let scope = BlindScope::Collector(whoami.collector.clone());
            let blind = BlindRow { scope, from, to: now.wall, cause: "restart".into() };
            if blind.from < blind.to {
                store.record_blind(&blind).await?;
                ledger.add(blind.from, blind.to);
            }
            let blind_ms = blind.to.since(blind.from).as_millis();
            tracing::info!(blind_ms, armed = armed.count, "observing again after a restart");
        }
        let mark_before = loaded.marks.iter().find(|mark| mark.collector == whoami.collector).cloned();
        let knocks = super::knocks::Knocks::from_rows(&loaded.knocks);
        let shared = Arc::new(Shared::new(roster, leases, ledger, (pace, previous), now));
        *shared.knocks.lock().unwrap_or_else(PoisonError::into_inner) = knocks;
        if let Some(mark) = mark_before {
            // Set once, before anybody can look.
            let _ = shared.mark_before.set(mark);
        }
        let whoami = Arc::new(whoami);
        let registry = Registry {
            mail: sender,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            whoami: Arc::clone(&whoami),
            metrics: Arc::clone(&metrics),
        };
        let mut actor = Self {
            mail,
            shared,
            store,
            clock,
            whoami,
            metrics,
            judge: Judge::new(now),
            jobs: VecDeque::new(),
            waking: BTreeMap::new(),
            unwritten: armed.unwritten,
            notes: BTreeMap::new(),
            abouts: BTreeMap::new(),
            resting: VecDeque::new(),
            audits: VecDeque::new(),
            history: History::default(),
            deriver: Deriver::from_loaded(&loaded),
            commits: JoinSet::new(),
            retry_at: BootTime(0),
            store_down: None,
            under_way: None,
            overdue: false,
            expiry_at: BootTime(0),
        };
        for verdict in armed.overdue {
            actor.judge_presence(verdict, now);
        }
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
                count = self.mail.recv_many(&mut mails, 256) => {
                    if count == 0 {
                        break;
                    }
                    self.accept(&mut mails);
                }
            }
            self.launch();
            self.count_queues();
        }
        self.finish(mails).await;
    }

    async fn finish(&mut self, mut mails: Vec<Mail>) {
        self.mail.close();
        while let Ok(mail) = self.mail.try_recv() {
            mails.push(mail);
        }
        self.accept(&mut mails);
        // A pause after a failure is for a store that has time.
        self.retry_at = BootTime(0);
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
        let (rows, notes, audits) = (self.history.len(), self.notes.len() + self.abouts.len(), self.audits.len());
        if rows + notes + audits > 0 {
            tracing::error!(rows, notes, audits, "the registry store did not take these before the end");
        }
    }

    fn accept(&mut self, mails: &mut Vec<Mail>) {
        for mail in mails.drain(..) {
            match mail {
                // The mailbox is always emptied: presence must not wait behind requests that wait for the store.
                Mail::Job(job) if self.jobs.len() >= MAX_JOBS => job.finish(Err(Refusal::Busy)),
                Mail::Job(job) => self.jobs.push_back((job, 0)),
                Mail::Notice(notice) => self.hear(notice),
            }
        }
    }

    fn hear(&mut self, notice: Notice) {
        let now = self.clock.now();
        match notice {
            Notice::Woke(slot) => self.wake(slot, now),
            Notice::Repaced(slot) => self.repace(slot, now),
            Notice::Goodbye(slot, goodbye) => {
                let evidence = json!({ "reason": goodbye.reason.as_str(), "back_in_secs": goodbye.back_in_secs });
                self.stop_lease(slot, now, "goodbye", evidence);
            }
            // A sidecar says it to every collector that greets it: what is known already costs no write.
            Notice::Health(slot, report)
                if self.look(slot, |entry| match &entry.row.health {
                    Some((known, _)) => *known == report,
                    // Nobody looks: that is shown of whom nothing is known.
                    None => report.health == Health::Unchecked && report.reason.as_str().is_empty(),
                }) == Some(true) => {}
            Notice::Health(slot, report) => {
                let said = Shown { health: Some((report, now.wall)), ..Shown::default() };
                self.write(|roster| roster.note(slot, &said));
                self.notes.entry(slot).or_default().shown.health = said.health;
            }
            Notice::Facts(slot, facts) => {
                let said = Shown { facts: Some(*facts), ..Shown::default() };
                self.write(|roster| roster.note(slot, &said));
                self.notes.entry(slot).or_default().shown.facts = said.facts;
            }
            Notice::Progress(slot, report)
                if self.look(slot, |entry| match &entry.row.progress {
                    Some((known, _)) => *known == report,
                    None => report.progress == Progress::Unwatched && report.reason.as_str().is_empty(),
                }) == Some(true) => {}
            Notice::Progress(slot, report) => {
                let said = Shown { progress: Some((report, now.wall)), ..Shown::default() };
                self.write(|roster| roster.note(slot, &said));
                self.notes.entry(slot).or_default().shown.progress = said.progress;
            }
            Notice::Settings(slot, heard) => self.notes.entry(slot).or_default().settings = Some(heard),
            Notice::Paced(slot, revision) => self.notes.entry(slot).or_default().paced = Some(revision),
            Notice::About(slot, about) => {
                self.abouts.insert(slot, about);
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

    /// A beat found its lease not running, or one that a kill left half written: it runs again, and the status
    /// follows when the store takes it.
    fn wake(&mut self, slot: Slot, now: Now) {
        let Some((key, status)) = self.look(slot, |entry| (entry.row.key.clone(), entry.row.status)) else { return };
        if status.is_barred() {
            return;
        }
        self.shared.leases.calm(slot);
        let Some(sight) = self.shared.leases.sight(slot, now.boot) else { return };
        let unwritten = self.unwritten.remove(&slot);
        if sight.phase != Phase::Live || unwritten {
            self.shared.leases.set_phase(slot, Phase::Live);
            let cause = match (sight.origin, sight.phase) {
                (Origin::Own, Phase::NeverSeen) => "first_beat",
                (Origin::Own, _) => "beat",
                (Origin::Parent, Phase::NeverSeen) => "first_report",
                (Origin::Parent, _) => "report",
            };
            let from = sight.last_beat.unwrap_or(now.boot);
            let evidence = self.heard(slot, sight);
            self.unveil_children(&key, now);
            self.judge_presence(Verdict { service: key, presence: Presence::Alive, cause, evidence, from }, now);
        }
        let awaited = {
            let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
            roster.at(slot).is_some_and(|entry| packages::awaited(&roster, entry))
        };
        if status != Status::Active || awaited {
            self.awaken(slot, sight.last_seen(now).unwrap_or(now.wall));
        }
    }

    /// Has a service become active with the next commit. The first time counts, however long the store is away.
    fn awaken(&mut self, slot: Slot, heard: Timestamp) {
        let first = self.waking.entry(slot).or_insert(heard);
        *first = heard.min(*first);
    }

    /// What a verdict rests on that something was heard.
    fn heard(&self, slot: Slot, sight: Sight) -> serde_json::Value {
        match sight.origin {
            Origin::Own => json!({ "session": sight.session, "beat_no": sight.beat_no }),
            Origin::Parent => json!({
                "origin": sight.origin.as_str(),
                "by": self.reporter(slot).map(|by| by.to_string()),
                "session": sight.session,
                "batch_no": sight.beat_no,
                "interval_ms": sight.pace.interval_ms,
            }),
        }
    }

    fn reporter(&self, slot: Slot) -> Option<ServiceKey> {
        self.shared.children.lock().unwrap_or_else(PoisonError::into_inner).reporter(slot).cloned()
    }

    /// A longer interval is written down: a restart reads there how long a child is to be waited for.
    fn repace(&mut self, slot: Slot, now: Now) {
        let Some(sight) = self.shared.leases.sight(slot, now.boot) else { return };
        let Some(service) = self.look(slot, |entry| entry.row.key.clone()) else { return };
        if sight.phase == Phase::Live && sight.origin == Origin::Parent {
            let (evidence, from) = (self.heard(slot, sight), sight.last_beat.unwrap_or(now.boot));
            let verdict = Verdict { service, presence: Presence::Alive, cause: "interval", evidence, from };
            self.judge_presence(verdict, now);
        }
    }

    /// Whoever reports others is back: they get a fair chance to be reported again before a verdict falls.
    fn unveil_children(&self, reporter: &ServiceKey, now: Now) {
        if !self.shared.leases.any_veiled() {
            return;
        }
        let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        for child in roster.children(reporter) {
            for entry in std::iter::once(child).chain(roster.children(&child.row.key)) {
                let sight = self.shared.leases.sight(entry.slot, now.boot);
                if let Some(sight) = sight.filter(|sight| sight.phase == Phase::Unseen) {
                    let chance = judge::chance(sight.pace, entry.slot.number());
                    self.shared.leases.unveil(entry.slot, now.boot.after(chance));
                }
            }
        }
    }

    /// Until when nothing can be said of a service, because whoever reports it is silent too: until it is back,
    /// or until it is known whether it is lost. What is ephemeral is not waited for: it is removed after its
    /// loss, and is never alerted of.
    fn veiled_until(&self, slot: Slot, sight: Sight, now: Now) -> Option<BootTime> {
        if sight.origin == Origin::Own {
            return None;
        }
        let reporter = self.reporter(slot);
        let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        let entry = roster.at(slot).filter(|entry| entry.row.ephemeral_after.is_none())?;
        let reporter = reporter.or_else(|| parent_key(&entry.row))?;
        let seen = roster.get(&reporter).and_then(|entry| self.shared.leases.sight(entry.slot, now.boot));
        match seen {
            Some(seen) if seen.phase == Phase::Live && seen.presence == Presence::Alive => None,
            Some(seen) if seen.phase == Phase::Live => Some(seen.deadline.max(now.boot).after(judge::TICK * 2)),
            Some(_) | None => Some(BootTime(u64::MAX)),
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
                self.shared.leases.credit(now.boot, gap.length, gap.renews);
                self.metrics.credited_seconds.inc_by(gap.length.as_secs_f64());
                self.went_blind(self.own_scope(), gap.from, gap.to, "stall");
            }
            Sense::Unobservable(gap) => {
                self.shared.leases.credit(now.boot, gap.length, gap.renews);
                self.went_blind(self.own_scope(), gap.from, gap.to, "stall");
            }
        }
        self.watch_commit(now.boot);
        self.shared.feed.publish(now.boot);
        *self.shared.observed.lock().unwrap_or_else(PoisonError::into_inner) = now;
        // Together: a reporter that is lost in this very tick veils those that it reports.
        let expired = self.shared.leases.expire(now.boot);
        let veiled = self.shared.leases.expire_veiled(now.boot);
        for slot in expired {
            self.lose(slot, false, now);
        }
        for slot in veiled {
            self.lose(slot, true, now);
        }
        self.release(now.boot);
        // A renewal that we cannot give must not cost a live connection.
        let renewable = self.shared.store_ok.load(Relaxed) && self.shared.signs.load(Relaxed);
        if renewable && now.boot >= self.expiry_at {
            self.expiry_at = now.boot.after(EXPIRY_EVERY);
            self.shared.links.close_expired(now.boot);
        }
    }

    /// Gives away the places that have rested.
    fn release(&mut self, now: BootTime) {
        let rested = self.resting.partition_point(|(_, since)| now.since(*since) >= REST);
        if rested > 0 {
            let places: Vec<_> = self.resting.drain(..rested).collect();
            self.write(|roster| places.into_iter().for_each(|(slot, _)| roster.release(slot)));
            self.count_room();
        }
    }

    fn count_room(&self) {
        let room = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner).room();
        self.metrics.room.set(i64::try_from(room).unwrap_or(i64::MAX));
    }

    /// A lease ran out, or the time that a veiled one was given.
    fn lose(&mut self, slot: Slot, was_veiled: bool, now: Now) {
        let Some(sight) = self.shared.leases.sight(slot, now.boot) else { return };
        let Some((key, seen)) = self.look(slot, |entry| (entry.row.key.clone(), entry.row.last_seen)) else { return };
        if let Some(until) = self.veiled_until(slot, sight, now) {
            self.shared.leases.veil(slot, until);
            if was_veiled {
                return;
            }
            let verdict = judge::veiled(judge::loss(key, seen, sight, now));
            self.retire(verdict.service.clone());
            return self.judge_presence(verdict, now);
        }
        let verdict = judge::loss(key, seen, sight, now);
        tracing::info!(service = %verdict.service, last_beat = ?verdict.evidence.get("last_beat"), "lost");
        self.retire(verdict.service.clone());
        self.judge_presence(verdict, now);
    }

    fn own_scope(&self) -> BlindScope {
        BlindScope::Collector(self.whoami.collector.clone())
    }

    fn went_blind(&mut self, scope: BlindScope, from: Timestamp, to: Timestamp, cause: &str) {
        tracing::warn!(blind_ms = to.since(from).as_millis(), ?scope, cause, "there was a time without observation");
        self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner).add(from, to);
        let (action, object) = match &scope {
            BlindScope::Collector(name) => ("collector.blind", format!("collector:{name}")),
            BlindScope::Store(name) => ("store.blind", format!("store:{name}")),
            BlindScope::Everything => ("collector.blind", "everything".into()),
        };
        let blind = BlindRow { scope, from, to, cause: cause.into() };
        let details = [("from", json!(from.to_string())), ("to", json!(to.to_string())), ("cause", json!(cause))];
        let audit = services::By::system().did(to, action, object, details);
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
        *self.unrecorded().entry(verdict.service.clone()).or_default() += 1;
        if let Some(lost) = self.history.push(verdict.row(now, self.whoami.boot_id)) {
            self.metrics.unrecorded_lost.inc();
            self.recorded(&[lost]);
        }
        self.count_unrecorded();
    }

    fn unrecorded(&self) -> RwLockWriteGuard<'_, HashMap<ServiceKey, u32>> {
        self.shared.unrecorded.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that wait no longer.
    fn recorded(&self, rows: &[IntervalRow]) {
        let mut waiting = self.unrecorded();
        for row in rows {
            match waiting.get_mut(&row.service) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) | None => {
                    waiting.remove(&row.service);
                }
            }
        }
        drop(waiting);
        self.count_unrecorded();
    }

    fn count_queues(&self) {
        let queues = &self.metrics.queues;
        metrics::set(&queues.mailbox, self.mail.len());
        metrics::set(&queues.requests, self.jobs.len());
        metrics::set(&queues.activations, self.waking.len());
        metrics::set(&queues.notes, self.notes.len() + self.abouts.len());
        metrics::set(&queues.audit, self.audits.len());
    }

    fn count_unrecorded(&self) {
        metrics::set(&self.metrics.unrecorded, self.history.len());
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

#[cfg(test)]
mod tests;
