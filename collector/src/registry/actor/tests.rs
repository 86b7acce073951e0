//! The actor on a real SQLite store, under a clock moved by hand. Ticks are real; what they judge is not.

use std::path::Path;

use rollcall_common::{
    id::{BeatNo, BootId, PaceNo, SessionNo},
    lifecycle::Act,
    service::Source,
    time::ManualClock,
    wire::message::{Goodbye, GoodbyeReason},
};

use super::*;
use crate::{
    registry::services::{By, Move, Register},
    store::{
        rows::{AuditQuery, Change, IntervalRow, Said, ServiceRow, Write},
        sqlite::SqliteStore,
        suite::samples::{interval, service},
    },
};

const START: Timestamp = Timestamp(1_795_229_160_000);
const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };

struct Running {
    registry: Registry,
    store: Arc<dyn RegistryStore>,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn open(dir: &Path, clock: &Arc<ManualClock>) -> Self {
        let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.join("registry.db")).await.unwrap());
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let (actor, registry) =
            Actor::open(Arc::clone(&store), Arc::clone(clock) as _, whoami, (PACE, None), Arc::default())
                .await
                .unwrap();
        let stop = CancellationToken::new();
        let task = start(actor, stop.clone());
        Self { registry, store, clock: Arc::clone(clock), stop, task }
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.store.close().await;
    }

    async fn register(&self, key: &str) -> Slot {
        let key: ServiceKey = key.parse().unwrap();
        let request = Register {
            key: key.clone(),
            parent: None,
            checker_kind: None,
            source: Source::Config,
            said: Said::default(),
            by: By::system(),
        };
        self.registry.ask(request).await.unwrap();
        self.registry.read(|roster| roster.get(&key).unwrap().slot)
    }

    fn beat(&self, slot: Slot, no: u64) {
        let touch = self.registry.leases().touch(slot, SessionNo(1), BeatNo(no), PACE, self.clock.now().boot);
        if touch == crate::registry::leases::Touch::Woke {
            self.registry.tell(Notice::Woke(slot));
        }
    }

    fn presence(&self, slot: Slot) -> Presence {
        self.registry.leases().sight(slot, self.clock.now().boot).unwrap().presence
    }

    fn status(&self, slot: Slot) -> Status {
        self.registry.read(|roster| roster.at(slot).unwrap().row.status)
    }

    /// Waits until the actor has made something true.
    async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let mut polls = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..1_000 {
            polls.tick().await;
            if fact() {
                return;
            }
        }
        panic!("not within 10 s: {what}");
    }

    async fn recorded(&self, key: &str, presence: Presence) -> IntervalRow {
        let key: ServiceKey = key.parse().unwrap();
        let mut polls = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..1_000 {
            polls.tick().await;
            let rows = self.store.history(&key, 10, false).await.unwrap();
            if let Some(row) = rows.into_iter().next().filter(|row| row.presence == presence) {
                return row;
            }
        }
        panic!("{key} was not recorded as {presence} within 10 s");
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited by Running::close")]
fn start(actor: Actor, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(actor.run(stop))
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START))
}

#[tokio::test]
async fn a_service_lives_is_lost_and_returns() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let slot = fleet.register("poller/p").await;
    assert_eq!((fleet.presence(slot), fleet.status(slot)), (Presence::NeverSeen, Status::Pending));

    fleet.beat(slot, 1);
    fleet.until("active", || fleet.status(slot) == Status::Active).await;
    assert_eq!(fleet.presence(slot), Presence::Alive);
    assert_eq!(fleet.recorded("poller/p", Presence::Alive).await.cause, "first_beat");
    let first_seen = fleet.registry.read(|roster| roster.at(slot).unwrap().row.first_seen);
    assert_eq!(first_seen, Some(START));

    // Small steps, so that the ticks in between are no stall.
    for _ in 0..60 {
        clock.advance(Duration::from_millis(500));
        let observed = clock.now();
        fleet.until("a tick", || fleet.registry.observed() == observed).await;
        if fleet.presence(slot) == Presence::Lost {
            break;
        }
    }
    let lost = fleet.recorded("poller/p", Presence::Lost).await;
    assert_eq!(lost.cause, "ttl");
    assert_eq!(lost.from, START.after(PACE.interval()), "dated back to the first missed beat");
    assert_eq!(lost.decided_at, START.after(PACE.ttl()));
    assert_eq!(fleet.status(slot), Status::Active, "presence moves no status");

    fleet.beat(slot, 2);
    fleet.until("alive again", || fleet.presence(slot) == Presence::Alive).await;
    assert_eq!(fleet.recorded("poller/p", Presence::Alive).await.cause, "beat");
    fleet.close().await;
}

#[tokio::test]
async fn a_goodbye_is_no_loss() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let slot = fleet.register("poller/p").await;
    fleet.beat(slot, 1);
    fleet.until("alive", || fleet.presence(slot) == Presence::Alive).await;
    let goodbye = Goodbye { reason: GoodbyeReason::Stop, back_in_secs: Some(60) };
    fleet.registry.tell(Notice::Goodbye(slot, goodbye));
    fleet.until("stopped", || fleet.presence(slot) == Presence::Stopped).await;
    let row = fleet.recorded("poller/p", Presence::Stopped).await;
    assert_eq!(row.evidence["back_in_secs"], 60);
    fleet.close().await;
}

#[tokio::test]
async fn a_revoked_service_cannot_wake() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let slot = fleet.register("poller/p").await;
    fleet.beat(slot, 1);
    fleet.until("active", || fleet.status(slot) == Status::Active).await;
    let act = |act| Move::new("poller/p".parse().unwrap(), act, "lost laptop", By::system());
    fleet.registry.ask(act(Act::Revoke)).await.unwrap();
    fleet.until("stopped", || fleet.presence(slot) == Presence::Stopped).await;
    fleet.beat(slot, 2);
    fleet.register("poller/after").await;
    assert_eq!((fleet.presence(slot), fleet.status(slot)), (Presence::Stopped, Status::Revoked));
    let refused = fleet.registry.ask(act(Act::Revoke)).await;
    assert!(matches!(refused, Err(Refusal::Arrow(_))), "{refused:?}");
    let trail =
        fleet.store.audit(&AuditQuery { object: Some("poller/p".into()), limit: 10, ..AuditQuery::default() }).await;
    let actions: Vec<_> = trail.unwrap().into_iter().map(|event| event.draft.action).collect();
    assert_eq!(actions, ["service.revoked", "service.activated", "service.registered"]);
    fleet.close().await;
}

/// Neither may a restart look like death, nor hide it.
#[tokio::test]
async fn a_restart_rearms_exactly_what_was_expected() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let (alive, stopped, never) = (
        fleet.register("poller/alive").await,
        fleet.register("poller/stopped").await,
        fleet.register("poller/never").await,
    );
    fleet.beat(alive, 1);
    fleet.beat(stopped, 1);
    fleet.until("both active", || [alive, stopped].iter().all(|s| fleet.status(*s) == Status::Active)).await;
    fleet.registry.tell(Notice::Goodbye(stopped, Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None }));
    fleet.recorded("poller/stopped", Presence::Stopped).await;
    fleet.close().await;

    clock.advance(Duration::from_secs(600));
    let fleet = Running::open(dir.path(), &clock).await;
    let slot = |key: &str| fleet.registry.read(|roster| roster.get(&key.parse().unwrap()).unwrap().slot);
    let sight = fleet.registry.leases().sight(slot("poller/alive"), clock.now().boot).unwrap();
    assert_eq!(
        (sight.presence, sight.unknown),
        (Presence::Unknown, Some(rollcall_common::lease::Unknown::CollectorBlind))
    );
    assert!(sight.deadline >= clock.now().boot.after(PACE.ttl()), "a full chance");
    assert_eq!(fleet.presence(slot("poller/stopped")), Presence::Stopped);
    assert_eq!(fleet.presence(slot("poller/never")), Presence::NeverSeen);
    // It does not come back: the loss is found, by the roster and not by who reconnects.
    let alive = slot("poller/alive");
    for _ in 0..80 {
        clock.advance(Duration::from_millis(500));
        let observed = clock.now();
        fleet.until("a tick", || fleet.registry.observed() == observed).await;
    }
    assert_eq!(fleet.presence(alive), Presence::Lost);
    let _ = never;
    fleet.close().await;
}

/// A kill between the two commits that a first beat makes leaves one of them.
#[tokio::test]
async fn what_a_kill_left_half_written_is_made_whole_by_the_next_beat() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let store = SqliteStore::open(&dir.path().join("registry.db")).await.unwrap();
    let bare = |name: &str, status| ServiceRow { status, ephemeral_after: None, ..service(name) };
    let begun = |name: &str, presence| {
        let row = IntervalRow { from: Timestamp(START.0 - 1_000), ..interval(name, presence, 0) };
        Write::BeginInterval(Box::new(row))
    };
    let past = |row: ServiceRow| ServiceRow { first_seen: Some(START), last_seen: Some(START), ..row };
    let rows = [
        ServiceRow { first_seen: None, last_seen: None, ..bare("poller/pending", Status::Pending) },
        past(bare("poller/inactive", Status::Inactive)),
        past(bare("poller/active", Status::Active)),
        past(bare("poller/veiled", Status::Active)),
    ];
    let mut writes: Vec<_> = rows.into_iter().map(|row| Write::InsertService(Box::new(row))).collect();
    writes.extend(["poller/pending", "poller/inactive"].map(|name| begun(name, Presence::Alive)));
    writes.push(begun("poller/veiled", Presence::Unknown));
    store.commit(&[Change { writes, audit: Vec::new() }], START).await.unwrap()[0].as_ref().unwrap();
    store.close().await;

    let fleet = Running::open(dir.path(), &clock).await;
    let slot = |key: &str| fleet.registry.read(|roster| roster.get(&key.parse().unwrap()).unwrap().slot);
    for name in ["poller/pending", "poller/inactive"] {
        fleet.beat(slot(name), 1);
        fleet.until("active", || fleet.status(slot(name)) == Status::Active).await;
    }
    for name in ["poller/active", "poller/veiled"] {
        fleet.beat(slot(name), 1);
        assert_eq!(fleet.recorded(name, Presence::Alive).await.cause, "beat");
    }
    let touch = fleet.registry.leases().touch(slot("poller/active"), SessionNo(1), BeatNo(2), PACE, clock.now().boot);
    assert_eq!(touch, crate::registry::leases::Touch::Kept, "once is enough");
    fleet.close().await;
}

/// Presence is that of a service, not of how long this collector has known it.
#[tokio::test]
async fn whoever_was_heard_before_it_was_registered_is_not_never_seen() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let before = Running::open(dir.path(), &clock).await;
    let past = |name: &str, status, seen: bool| {
        let seen = seen.then_some(Timestamp(START.0 - 5_000));
        ServiceRow { status, first_seen: seen, last_seen: seen, ephemeral_after: None, ..service(name) }
    };
    #[derive(Debug)]
    struct Insert(ServiceRow);
    impl crate::registry::Request for Insert {
        type Answer = ();
        fn plan(&self, _: crate::registry::World<'_>) -> Result<(Change, ()), Refusal> {
            Ok((Change { writes: vec![Write::InsertService(Box::new(self.0.clone()))], audit: Vec::new() }, ()))
        }
    }
    for row in [
        past("poller/silent", Status::Inactive, true),
        past("poller/barred", Status::Revoked, true),
        past("poller/new", Status::Pending, false),
        past("poller/refused", Status::Revoked, false),
    ] {
        before.registry.ask(Insert(row)).await.unwrap();
    }
    let all = |fleet: &Running| {
        ["silent", "barred", "new", "refused"].map(|id| {
            let key = format!("poller/{id}").parse().unwrap();
            fleet.presence(fleet.registry.read(|roster| roster.get(&key).unwrap().slot))
        })
    };
    let expected = [Presence::Lost, Presence::Stopped, Presence::NeverSeen, Presence::NeverSeen];
    assert_eq!(all(&before), expected);
    before.close().await;
    let after = Running::open(dir.path(), &clock).await;
    assert_eq!(all(&after), expected, "and a restart changes nothing");
    after.close().await;
}

/// Services come and go for ever; only how many there are at once is bounded.
#[tokio::test]
async fn a_place_is_given_away_again_and_a_full_registry_says_so() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    fleet.registry.shared.roster.write().unwrap().limit(2);
    let first = fleet.register("poller/first").await;
    fleet.register("poller/second").await;
    let ask = |id: &str| {
        let key = format!("poller/{id}").parse().unwrap();
        fleet.registry.ask(Register::new(key, None, Source::Config, By::system()))
    };
    assert_eq!(ask("third").await, Err(Refusal::Full(0)));
    for act in [Act::Revoke, Act::Remove] {
        fleet.registry.ask(Move::new("poller/first".parse().unwrap(), act, "", By::system())).await.unwrap();
    }
    assert_eq!(ask("third").await, Err(Refusal::Full(0)), "its place rests");
    clock.advance(Duration::from_secs(61));
    fleet.until("room", || fleet.registry.metrics().room.get() == 1).await;
    ask("third").await.unwrap();
    let third = fleet.registry.read(|roster| roster.get(&"poller/third".parse().unwrap()).unwrap().slot);
    assert_eq!((third.index(), third == first), (first.index(), false));
    // What the former holder's connection still says is nobody's.
    fleet.beat(first, 7);
    fleet.registry.tell(Notice::Goodbye(first, Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None }));
    fleet.beat(third, 1);
    fleet.until("active", || fleet.status(third) == Status::Active).await;
    assert_eq!((fleet.presence(third), fleet.registry.metrics().room.get()), (Presence::Alive, 0));
    fleet.close().await;
}

#[tokio::test]
async fn a_stall_is_recorded_and_credited() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let slot = fleet.register("poller/p").await;
    fleet.beat(slot, 1);
    fleet.until("alive", || fleet.presence(slot) == Presence::Alive).await;
    clock.advance(Duration::from_secs(40));
    let observed = clock.now();
    fleet.until("a tick", || fleet.registry.observed() == observed).await;
    assert_eq!(fleet.presence(slot), Presence::Unknown, "no verdict, and never alive");
    let written = async {
        loop {
            let blind = fleet.store.blind_since(START, 10).await.unwrap();
            if !blind.is_empty() {
                return blind;
            }
            tokio::task::yield_now().await;
        }
    };
    let blind = tokio::time::timeout(Duration::from_secs(20), written).await.expect("the blindness is recorded");
    assert_eq!(blind.first().map(|row| row.cause.as_str()), Some("stall"));
    assert_eq!(fleet.registry.blind_within(START, observed.wall), Duration::from_secs(40));
    fleet.close().await;
}

#[tokio::test]
async fn concurrent_requests_commit_in_groups_and_none_is_lost() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = Running::open(dir.path(), &clock).await;
    let mut asks = JoinSet::new();
    for n in 0..200 {
        let registry = fleet.registry.clone();
        let request = Register {
            // Every second one asks for an id that its neighbour asks for too.
            key: format!("poller/p{}", n / 2).parse().unwrap(),
            parent: None,
            checker_kind: None,
            source: Source::Config,
            said: Said::default(),
            by: By::system(),
        };
        asks.spawn(async move { registry.ask(request).await });
    }
    let outcomes = asks.join_all().await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (100, 100));
    assert!(refused.iter().all(|r| matches!(r, Err(Refusal::Exists(_)))));
    assert!(fleet.registry.metrics().commits.get() < 50, "they were grouped");
    let (epoch_seq, events) = (
        fleet.registry.read(Roster::position),
        fleet.store.audit(&AuditQuery { limit: 1_000, ..AuditQuery::default() }).await.unwrap(),
    );
    assert_eq!((epoch_seq.seq.0, events.len()), (200, 100), "a seq for each row and each event, without gaps");
    fleet.close().await;
}

mod children;
