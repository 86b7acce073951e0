//! Jobs on a real registry and a real SQLite store, under a clock moved by hand.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use rollcall_common::{
    id::{BeatNo, BootId, Kind, PaceNo, ServiceKey, SessionNo},
    lease::{Pace, Presence},
    lifecycle::{Act, Status},
    service::Source,
    time::{Clock, ManualClock, Timestamp},
    token::{SecretHash, TokenId},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    http::fixture::job_settings,
    registry::{
        Actor, Notice, Whoami,
        leases::Touch,
        maintenance::{EndWindow, OpenWindow, WindowLimits},
        services::{Move, Register},
        tokens::CreateToken,
    },
    store::{
        Position, StoreError, TrailStore,
        flaky::Flaky,
        rows::{
            Applied, AuditEvent, AuditQuery, BlindRow, BlindScope, Change, Conflict, IdRule, IntervalRow, Loaded,
            ObserverMark, Outcome, Outlived, Prune, RowId, RunCause, SealRow, Selector, ServiceKeyText, TokenPolicy,
            Write,
        },
        sqlite::SqliteStore,
    },
};

const START: Timestamp = Timestamp(1_795_229_160_000);
const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
const DAY: Duration = Duration::from_secs(86_400);

/// A store that remembers how much each commit changed at once.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn RegistryStore>,
    /// For each change: services that it touched, and whether it registered one.
    changes: Mutex<Vec<(usize, bool)>>,
}

#[async_trait]
impl RegistryStore for Counting {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.inner.load().await
    }
    async fn commit(&self, batch: &[Change], at: Timestamp) -> Result<Vec<Result<Applied, Conflict>>, StoreError> {
        for change in batch {
            let touched = change
                .writes
                .iter()
                .filter(|write| matches!(write, Write::SetStatus { .. } | Write::RemoveService { .. }));
            let registers = change.writes.iter().any(|write| matches!(write, Write::InsertService(_)));
            self.changes.lock().unwrap().push((touched.count(), registers));
        }
        self.inner.commit(batch, at).await
    }
    async fn flush_last_seen(&self, seen: &[(ServiceKey, Timestamp)]) -> Result<(), StoreError> {
        self.inner.flush_last_seen(seen).await
    }
    async fn keep_knocks(
        &self,
        put: &[crate::store::rows::KnockRow],
        gone: &[rollcall_common::token::TokenId],
    ) -> Result<(), StoreError> {
        self.inner.keep_knocks(put, gone).await
    }
    async fn mark_observing(&self, mark: &ObserverMark) -> Result<(), StoreError> {
        self.inner.mark_observing(mark).await
    }
    async fn record_blind(&self, blind: &BlindRow) -> Result<(), StoreError> {
        self.inner.record_blind(blind).await
    }
    async fn blind_since(&self, since: Timestamp, limit: usize) -> Result<Vec<BlindRow>, StoreError> {
        self.inner.blind_since(since, limit).await
    }
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, StoreError> {
        self.inner.audit(query).await
    }
    async fn history(&self, service: &ServiceKey, limit: usize, all: bool) -> Result<Vec<IntervalRow>, StoreError> {
        self.inner.history(service, limit, all).await
    }
    async fn prune(&self, what: &Prune, limit: usize) -> Result<u64, StoreError> {
        self.inner.prune(what, limit).await
    }
    async fn outlived(&self, what: &Outlived) -> Result<u64, StoreError> {
        self.inner.outlived(what).await
    }
    async fn crowded(
        &self,
        keep: u32,
        after: Option<&ServiceKey>,
        limit: usize,
    ) -> Result<Vec<ServiceKey>, StoreError> {
        self.inner.crowded(keep, after, limit).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl TrailStore for Counting {
    async fn position(&self) -> Result<Position, StoreError> {
        self.inner.position().await
    }
    async fn begin_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        self.inner.begin_epoch(epoch).await
    }
    async fn trail(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<AuditEvent>, StoreError> {
        self.inner.trail(after, upto, limit).await
    }
    async fn seals(&self, after: u64, limit: usize) -> Result<Vec<SealRow>, StoreError> {
        self.inner.seals(after, limit).await
    }
    async fn last_seal(&self) -> Result<Option<SealRow>, StoreError> {
        self.inner.last_seal().await
    }
    async fn seal(&self, row: &SealRow) -> Result<bool, StoreError> {
        self.inner.seal(row).await
    }
    async fn retire_audit(&self, before: Timestamp, floor: Seq, at: Timestamp) -> Result<Option<u64>, StoreError> {
        self.inner.retire_audit(before, floor, at).await
    }
}

/// A registry with its jobs, running.
struct House {
    registry: Registry,
    jobs: Jobs,
    store: Arc<dyn RegistryStore>,
    clock: Arc<ManualClock>,
    stop: [CancellationToken; 2],
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited by House::close")]
fn start(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(task)
}

async fn sqlite(dir: &Path) -> Arc<dyn RegistryStore> {
    Arc::new(SqliteStore::open(&dir.join("registry.db")).await.unwrap())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START))
}

impl House {
    async fn open(store: Arc<dyn RegistryStore>, clock: &Arc<ManualClock>, edit: impl FnOnce(&mut Settings)) -> Self {
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let held: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
        let (actor, registry) =
            Actor::open(Arc::clone(&store), held, whoami, (PACE, None), Arc::default()).await.unwrap();
        let mut settings = job_settings();
        edit(&mut settings);
        let (jobs, runner) = Jobs::new(registry.clone(), Arc::clone(&store), settings);
        let stop = [CancellationToken::new(), CancellationToken::new()];
        let tasks = [start(actor.run(stop[0].clone())), start(runner.run(stop[1].clone()))];
        Self { registry, jobs, store, clock: Arc::clone(clock), stop, tasks }
    }

    /// As the collector stops: jobs, then the registry.
    async fn close(self) {
        let ([actor_stop, jobs_stop], [actor, runner]) = (self.stop, self.tasks);
        jobs_stop.cancel();
        runner.await.unwrap();
        actor_stop.cancel();
        actor.await.unwrap();
        self.store.close().await;
    }

    async fn register(&self, key: &str, parent: Option<&str>) {
        self.registry.ask(register(key, parent)).await.unwrap();
    }

    async fn act(&self, key: &str, act: Act) {
        let request = Move::new(key.parse().unwrap(), act, "", By::system());
        self.registry.ask(request).await.unwrap();
    }

    async fn beat(&self, key: &str) {
        let key: ServiceKey = key.parse().unwrap();
        let slot = self.registry.read(|roster| roster.get(&key).unwrap().slot);
        if self.registry.leases().touch(slot, SessionNo(1), BeatNo(1), PACE, self.clock.now().boot) == Touch::Woke {
            self.registry.tell_surely(Notice::Woke(slot)).await;
        }
    }

    fn status(&self, key: &str) -> Option<Status> {
        let key: ServiceKey = key.parse().unwrap();
        self.registry.read(|roster| roster.get(&key).map(|entry| entry.row.status))
    }

    fn presence(&self, key: &str) -> Presence {
        let key: ServiceKey = key.parse().unwrap();
        let slot = self.registry.read(|roster| roster.get(&key).unwrap().slot);
        self.registry.leases().sight(slot, self.clock.now().boot).unwrap().presence
    }

    async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let mut polls = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..24_000 {
            polls.tick().await;
            if fact() {
                return;
            }
        }
        panic!("not within 120 s: {what}");
    }

    /// Lets time pass in steps that are no stall.
    async fn pass(&self, time: Duration) {
        let step = Duration::from_millis(900);
        let mut left = time;
        while !left.is_zero() {
            let now = left.min(step);
            self.clock.advance(now);
            left -= now;
            let moment = self.clock.now();
            self.until("a tick", || self.registry.observed() == moment).await;
        }
    }

    /// Runs a job to its end.
    async fn run(&self, name: JobName, dry_run: bool) -> Arc<Run> {
        let ask = Ask { dry_run, purge: None, by: By { actor: "credential:x".into(), request_id: None } };
        let run = self.jobs.start(name, ask).await.unwrap();
        self.until_over(&run).await;
        run
    }

    /// Waits for the end of a run; time passes slowly meanwhile, since a failed commit is tried again later.
    async fn until_over(&self, run: &Run) {
        let mut polls = tokio::time::interval(Duration::from_millis(5));
        for n in 1..12_000 {
            if !run.is_running() {
                return;
            }
            polls.tick().await;
            if n % 50 == 0 {
                self.clock.advance(Duration::from_millis(300));
            }
        }
        panic!("the run did not end within a minute: {run:?}");
    }

    async fn actions(&self, object: &str) -> Vec<String> {
        let query = AuditQuery { object: Some(object.into()), limit: 100, ..AuditQuery::default() };
        let events = self.store.audit(&query).await.unwrap();
        events.into_iter().rev().map(|event| event.draft.action).collect()
    }
}

fn register(key: &str, parent: Option<&str>) -> Register {
    let parent = parent.map(|id| id.parse().unwrap());
    Register::new(key.parse().unwrap(), parent, Source::Config, By::system())
}

fn outcome(run: &Run) -> Option<Outcome> {
    run.record().outcome
}

fn count(run: &Run, word: &str) -> u64 {
    run.record().counts.get(word).copied().unwrap_or(0)
}

/// No job runs by itself here, unless its test says so.
fn quiet(settings: &mut Settings) {
    let upkeep = &mut settings.upkeep;
    for job in [
        &mut upkeep.mark_inactive,
        &mut upkeep.archive,
        &mut upkeep.purge,
        &mut upkeep.ephemeral,
        &mut upkeep.retention,
    ] {
        job.enabled = false;
        job.jitter = Duration::ZERO;
    }
}

#[tokio::test]
async fn the_silent_become_inactive_and_whoever_beats_again_is_active() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let house = House::open(sqlite(dir.path()).await, &clock, |settings| {
        quiet(settings);
        settings.upkeep.inactive_after = Duration::from_secs(60);
    })
    .await;
    for key in ["poller/silent", "poller/beats", "poller/worked-on", "poller/never"] {
        house.register(key, None).await;
    }
    for key in ["poller/silent", "poller/beats", "poller/worked-on"] {
        house.beat(key).await;
        house.until("active", || house.status(key) == Some(Status::Active)).await;
    }
    let window = OpenWindow {
        id: RowId::numbered(1),
        selector: Selector {
            services: vec![ServiceKeyText("poller/worked-on".parse().unwrap())],
            ..Selector::default()
        },
        starts_at: clock.now().wall,
        ends_at: clock.now().wall.after(Duration::from_secs(3_600)),
        recurrence: None,
        reason: "new disks".into(),
        limits: WindowLimits { longest: DAY, horizon: DAY },
        by: By::system(),
    };
    house.registry.ask(window).await.unwrap();
    house.pass(Duration::from_secs(32)).await;
    house.until("lost", || house.presence("poller/silent") == Presence::Lost).await;
    assert_eq!(count(&*house.run(JobName::MarkInactive, false).await, "marked"), 0, "lost is not yet inactive");
    house.beat("poller/beats").await;
    house.pass(Duration::from_secs(29)).await;

    let dry = house.run(JobName::MarkInactive, true).await;
    let named: Vec<_> = dry.report().targets.iter().map(|target| target.key.to_string()).collect();
    assert_eq!(named, ["poller/silent"]);
    assert_eq!(house.status("poller/silent"), Some(Status::Active), "a dry run changes nothing");
    let run = house.run(JobName::MarkInactive, false).await;
    assert_eq!((outcome(&run), count(&run, "marked"), count(&run, "kept")), (Some(Outcome::Succeeded), 1, 1));
    assert_eq!(house.status("poller/silent"), Some(Status::Inactive));
    assert_eq!(house.status("poller/beats"), Some(Status::Active));
    assert_eq!(house.status("poller/worked-on"), Some(Status::Active), "maintenance pauses it");
    assert_eq!(house.status("poller/never"), Some(Status::Pending));
    assert_eq!(house.actions("poller/silent").await.last().unwrap(), "service.deactivated");
    assert_eq!(house.presence("poller/silent"), Presence::Lost, "status moves no presence");

    house.beat("poller/silent").await;
    house.until("active again", || house.status("poller/silent") == Some(Status::Active)).await;
    house.registry.ask(EndWindow { id: RowId::numbered(1), by: By::system() }).await.unwrap();
    assert_eq!(count(&*house.run(JobName::MarkInactive, false).await, "marked"), 1, "the window is over");
    assert_eq!(house.status("poller/worked-on"), Some(Status::Inactive));
    house.close().await;
}

#[tokio::test]
async fn blind_time_is_no_silence() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let edit = |settings: &mut Settings| {
        quiet(settings);
        settings.upkeep.inactive_after = Duration::from_secs(60);
    };
    let house = House::open(sqlite(dir.path()).await, &clock, edit).await;
    house.register("poller/p", None).await;
    house.beat("poller/p").await;
    house.until("active", || house.status("poller/p") == Some(Status::Active)).await;
    // Nobody looks for an hour; the credit of the leases is spent, and then the service is found lost.
    clock.advance(Duration::from_secs(3_600));
    let moment = clock.now();
    house.until("a tick", || house.registry.observed() == moment).await;
    house.pass(Duration::from_secs(45)).await;
    house.until("lost", || house.presence("poller/p") == Presence::Lost).await;
    assert_eq!(count(&*house.run(JobName::MarkInactive, false).await, "marked"), 0, "an hour of it was not observed");
    house.pass(Duration::from_secs(20)).await;
    assert_eq!(count(&*house.run(JobName::MarkInactive, false).await, "marked"), 1);
    house.close().await;
}

#[tokio::test]
async fn a_purge_removes_exactly_what_its_dry_run_lists() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let house = House::open(sqlite(dir.path()).await, &clock, quiet).await;
    house.register("poller/p", None).await;
    house.register("agent/a", Some("p")).await;
    house.register("checker/old", Some("a")).await;
    house.register("checker/new", Some("a")).await;
    for n in 0..300 {
        house.register(&format!("instance/i{n}"), None).await;
        house.act(&format!("instance/i{n}"), Act::Delete).await;
    }
    house.act("checker/old", Act::Delete).await;
    // Whole days pass as they do for a collector that looks all the time: the wall and the boot clock together.
    clock.advance(Duration::from_secs(40 * 86_400));
    house.until("the gap is seen", || house.jobs.hold(JobName::Purge).is_some()).await;
    let held = house.run(JobName::Purge, false).await;
    assert_eq!(outcome(&held), Some(Outcome::Held), "nobody looked for forty days");
    assert!(held.record().held_by.unwrap().contains("could not observe"));
    house.jobs.confirm(By { actor: "credential:x".into(), request_id: None }).await.unwrap();
    assert_eq!(house.jobs.hold(JobName::Purge), None);
    assert!(house.jobs.confirm(By::system()).await.is_err(), "there is nothing to confirm");

    // Everything pending is forty days old by now: the agent goes only with all its checkers.
    house.register("checker/late", Some("a")).await;
    let dry = house.run(JobName::Purge, true).await;
    let departures = dry.report().departures.unwrap();
    let listed: std::collections::BTreeSet<_> = departures.going.iter().map(|leaving| leaving.key.clone()).collect();
    assert_eq!(listed.len(), 302, "{:?}", departures.kept);
    let kept: Vec<_> = departures.kept.iter().map(|kept| kept.key.to_string()).collect();
    assert_eq!(kept, ["poller/p", "agent/a"]);
    assert!(house.status("checker/old").is_some());

    let before: std::collections::BTreeSet<_> =
        house.registry.read(|roster| roster.iter().map(|entry| entry.row.key.clone()).collect());
    let run = house.run(JobName::Purge, false).await;
    assert_eq!((outcome(&run), count(&run, "removed"), run.done()), (Some(Outcome::Succeeded), 302, 302));
    let after: std::collections::BTreeSet<_> =
        house.registry.read(|roster| roster.iter().map(|entry| entry.row.key.clone()).collect());
    assert_eq!(before.difference(&after).cloned().collect::<std::collections::BTreeSet<_>>(), listed);
    assert_eq!(house.actions("checker/old").await.last().unwrap(), "service.purged");
    assert!(house.actions("job:purge").await.contains(&"job.confirmed".to_owned()));
    let row = house.jobs.sight(JobName::Purge).row.unwrap();
    assert_eq!((row.runs, row.failures), (2, 0), "dry runs are not on record");
    let stored = house.store.load().await.unwrap().jobs;
    let last = stored.iter().find(|row| row.name == "purge").unwrap().last.clone().unwrap();
    assert_eq!((last.outcome, last.cause, &last.by[..]), (Some(Outcome::Succeeded), RunCause::Manual, "credential:x"));
    house.close().await;
}

#[tokio::test]
async fn a_purge_that_meets_a_failing_store_ends_there_and_the_next_goes_on() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let flaky = Arc::new(Flaky::new(sqlite(dir.path()).await));
    let edit = |settings: &mut Settings| {
        quiet(settings);
        settings.upkeep.keep.deleted = Duration::ZERO;
    };
    let house = House::open(Arc::clone(&flaky) as _, &clock, edit).await;
    for n in 0..200 {
        house.register(&format!("instance/i{n:03}"), None).await;
        house.act(&format!("instance/i{n:03}"), Act::Delete).await;
    }
    let ask = Ask { dry_run: false, purge: None, by: By::system() };
    let run = house.jobs.start(JobName::Purge, ask).await.unwrap();
    house.until("it has begun to remove", || run.done() > 0).await;
    flaky.fail_all(true);
    house.until_over(&run).await;
    let removed = count(&run, "removed");
    assert_eq!(outcome(&run), Some(Outcome::Failed));
    assert!(removed > 0 && removed < 200, "{removed}");
    assert!(run.record().error.unwrap().contains("registry store takes no changes"));
    let left = house.registry.read(crate::registry::roster::Roster::len) as u64;
    assert_eq!(left, 200 - removed, "memory shows what was committed and nothing else");
    let refused = house.run(JobName::Purge, false).await;
    assert_eq!((outcome(&refused), count(&refused, "removed")), (Some(Outcome::Failed), 0), "unrecorded, not run");

    flaky.fail_all(false);
    clock.advance(Duration::from_millis(900));
    house.until("the store is back", || house.registry.store_ok()).await;
    let run = house.run(JobName::Purge, false).await;
    assert_eq!((outcome(&run), count(&run, "removed")), (Some(Outcome::Succeeded), left));
    // What could not be said when it failed is said afterwards.
    clock.advance(Duration::from_secs(6));
    house.until("the failures are on record", || house.jobs.sight(JobName::Purge).row.unwrap().failures >= 1).await;
    house.close().await;
}

#[tokio::test]
async fn retention_counts_what_would_go_and_takes_just_that() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let house = House::open(sqlite(dir.path()).await, &clock, |settings| {
        quiet(settings);
        settings.upkeep.keep.tokens = DAY;
        settings.upkeep.keep.blind = DAY;
        settings.upkeep.retention.cap = 5;
    })
    .await;
    let token = |n: u8, life: Duration| CreateToken {
        id: TokenId([n; 10]),
        hash: SecretHash([n; 32]),
        policy: TokenPolicy::single(
            Kind::Poller,
            IdRule::Prefix("e-".into()),
            clock.now().wall,
            clock.now().wall.after(life),
        ),
        note: String::new(),
        by: By::system(),
    };
    for n in 1..=3 {
        house.registry.ask(token(n, Duration::from_secs(60))).await.unwrap();
    }
    house.registry.ask(token(4, DAY * 20)).await.unwrap();
    for n in 0..4 {
        let from = clock.now().wall.before(DAY * 10);
        let blind = BlindRow { scope: BlindScope::Everything, from, to: from.after(DAY * n), cause: "restart".into() };
        house.store.record_blind(&blind).await.unwrap();
    }
    clock.advance(DAY * 2);
    let counts = |run: &Arc<Run>| ["tokens", "blind", "history", "over_cap"].map(|word| count(run, word));
    let looked = house.run(JobName::Retention, true).await;
    assert_eq!((outcome(&looked), counts(&looked)), (Some(Outcome::Succeeded), [3, 4, 0, 2]));
    let tokens = || house.registry.read(|roster| roster.tokens().count());
    assert_eq!(tokens(), 4, "a dry run takes nothing");
    let run = house.run(JobName::Retention, false).await;
    assert_eq!(counts(&run)[..2], [1, 4], "as many as one run may");
    let rest = house.run(JobName::Retention, true).await;
    assert_eq!(counts(&rest), [2, 0, 0, 0]);
    house.run(JobName::Retention, false).await;
    assert_eq!(tokens(), 1, "what has not ended stays");
    house.close().await;
}

#[tokio::test]
async fn a_record_survives_a_restart_and_a_run_that_was_cut_off_is_told() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let hourly = |settings: &mut Settings| {
        quiet(settings);
        settings.upkeep.ephemeral.enabled = true;
        settings.upkeep.ephemeral.schedule = "0 * * * *".parse().unwrap();
        settings.upkeep.grace = Duration::from_secs(5);
    };
    let house = House::open(sqlite(dir.path()).await, &clock, hourly).await;
    house.until("it is planned", || house.jobs.sight(JobName::Ephemeral).row.is_some()).await;
    let planned = house.jobs.sight(JobName::Ephemeral).next_at.unwrap();
    let run = house.run(JobName::Ephemeral, false).await;
    assert_eq!(outcome(&run), Some(Outcome::Succeeded));
    let until = clock.now().wall.after(DAY);
    let request = house.jobs.setting(JobName::Purge, Some(Some(true)), Some(Some(until)), By::system());
    house.registry.ask(request).await.unwrap();
    house.close().await;

    // It dies under a run; hours pass.
    let store = sqlite(dir.path()).await;
    let mut rows = store.load().await.unwrap().jobs;
    let mut cut = rows.remove(rows.iter().position(|row| row.name == "ephemeral").unwrap());
    assert_eq!((cut.runs, cut.next_at), (1, Some(planned)));
    cut.last.as_mut().unwrap().outcome = None;
    let change = Change { writes: vec![Write::PutJob(Box::new(cut))], audit: vec![] };
    store.commit(&[change], START).await.unwrap()[0].as_ref().unwrap();
    clock.advance(Duration::from_secs(3 * 3_600));
    let house = House::open(store, &clock, hourly).await;
    let row = |name| house.jobs.sight(name).row;
    house.until("told", || row(JobName::Ephemeral).unwrap().failures == 1).await;
    assert_eq!(row(JobName::Ephemeral).unwrap().last.as_ref().unwrap().outcome, Some(Outcome::Interrupted));
    let sight = house.jobs.sight(JobName::Purge);
    assert_eq!((sight.enabled, sight.row.unwrap().paused_until), (true, Some(until)), "what was set stays set");
    // Three times of its schedule have passed: it runs once, a grace after the start.
    house.pass(Duration::from_secs(6)).await;
    house.until("made up for", || row(JobName::Ephemeral).unwrap().runs == 2).await;
    let last = row(JobName::Ephemeral).unwrap();
    let last = last.last.as_ref().unwrap();
    assert_eq!((last.cause, &last.by[..]), (RunCause::Missed, "system"));
    house.close().await;
}

#[tokio::test]
async fn a_stepped_clock_holds_what_removes_until_somebody_confirms() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let edit = |settings: &mut Settings| {
        quiet(settings);
        settings.upkeep.keep.deleted = Duration::from_secs(3_600);
    };
    let house = House::open(sqlite(dir.path()).await, &clock, edit).await;
    house.register("instance/i", None).await;
    house.act("instance/i", Act::Delete).await;
    clock.step_wall(7_200_000);
    house.until("seen", || house.jobs.doubts().clock_step.is_some()).await;
    assert_eq!(house.jobs.doubts().clock_step.unwrap().1, 7_200_000);
    let run = house.run(JobName::Purge, false).await;
    assert_eq!((outcome(&run), house.status("instance/i")), (Some(Outcome::Held), Some(Status::Deleted)));
    assert!(run.record().held_by.unwrap().contains("stepped forward by 2h"));
    let dry = house.run(JobName::Purge, true).await;
    assert_eq!(dry.report().departures.unwrap().going.len(), 1, "a look is free");
    // A restart forgets neither the hold nor a step that happened meanwhile.
    let store = Arc::clone(&house.store);
    let now = clock.now();
    let mark =
        ObserverMark { collector: "main".parse().unwrap(), boot_id: BootId([1; 16]), boot: now.boot, wall: now.wall };
    store.mark_observing(&mark).await.unwrap();
    house.close().await;
    clock.step_wall(-3_600_000);
    let house = House::open(sqlite(dir.path()).await, &clock, edit).await;
    house.until("seen again", || house.jobs.doubts().clock_step.is_some_and(|(_, step)| step == -3_600_000)).await;
    house.jobs.confirm(By { actor: "credential:x".into(), request_id: None }).await.unwrap();
    assert_eq!(house.jobs.hold(JobName::Purge), None);
    clock.step_wall(3_600_000);
    house.until("a new step is a new doubt", || house.jobs.hold(JobName::Purge).is_some()).await;
    house.jobs.confirm(By::system()).await.unwrap();
    assert_eq!(count(&*house.run(JobName::Purge, false).await, "removed"), 1);
    let actions = house.actions("collector").await;
    assert_eq!(actions.iter().filter(|action| *action == "collector.clock_stepped").count(), 3);
    house.close().await;
}

/// What is to be reached: 10,000 at once, in slices that let everybody else through.
#[tokio::test]
async fn ten_thousand_are_marked_and_purged_in_slices_between_which_others_get_through() {
    const FLEET: usize = 10_000;
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let counting = Arc::new(Counting { inner: sqlite(dir.path()).await, changes: Mutex::default() });
    let rows: Vec<Change> = (0..FLEET)
        .map(|n| {
            let mut row = crate::store::suite::samples::service(&format!("instance/i{n:05}"));
            (row.status, row.status_since, row.placeholder) = (Status::Active, START.before(DAY * 9), false);
            (row.first_seen, row.last_seen) = (Some(START.before(DAY * 9)), Some(START.before(DAY * 3)));
            // A pace of its own would outlast the time that passes.
            row.settings = None;
            Change { writes: vec![Write::InsertService(Box::new(row))], audit: vec![] }
        })
        .collect();
    for some in rows.chunks(1_000) {
        assert!(counting.inner.commit(some, START).await.unwrap().iter().all(Result::is_ok));
    }
    let edit = |settings: &mut Settings| {
        quiet(settings);
        settings.upkeep.keep.inactive = Duration::ZERO;
    };
    let house = House::open(Arc::clone(&counting) as _, &clock, edit).await;
    house.pass(Duration::from_secs(40)).await;
    house.until("lost", || house.presence("instance/i00000") == Presence::Lost).await;
    for (name, word) in [(JobName::MarkInactive, "marked"), (JobName::Purge, "removed")] {
        counting.changes.lock().unwrap().clear();
        let ask = Ask { dry_run: false, purge: None, by: By::system() };
        let run = house.jobs.start(name, ask).await.unwrap();
        let mut through = 0;
        while run.is_running() {
            // Each of these is answered while the run goes on.
            let key = format!("poller/{word}{through}");
            let mut registered = std::pin::pin!(house.register(&key, None));
            // A row of history that came too late makes the registry pause, and only this moves its clock.
            while tokio::time::timeout(Duration::from_millis(100), &mut registered).await.is_err() {
                clock.advance(Duration::from_millis(100));
            }
            through += 1;
        }
        assert_eq!((outcome(&run), count(&run, word)), (Some(Outcome::Succeeded), FLEET as u64), "{name}");
        assert!(run.largest_slice() <= 256 && run.largest_slice() >= 32, "{}", run.largest_slice());
        let changes = counting.changes.lock().unwrap().clone();
        assert!(changes.iter().all(|(touched, _)| *touched <= 256));
        let slices: Vec<usize> = changes.iter().enumerate().filter(|(_, (n, _))| *n > 0).map(|(at, _)| at).collect();
        assert!(slices.len() >= FLEET / 256, "{name}: {} slices", slices.len());
        let between =
            slices.windows(2).filter(|pair| changes[pair[0]..pair[1]].iter().any(|(_, registers)| *registers));
        let between = between.count();
        assert!(between * 4 >= slices.len(), "{name}: others got through between {between} of {} slices", slices.len());
    }
    house.close().await;
}
