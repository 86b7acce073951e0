//! Gathering and settling by hand, on a real SQLite store: what a batch takes together, and what a failure leaves.

use rollcall_common::{
    code::Code,
    health::{Health, HealthReport},
    id::{BeatNo, BootId, InstanceId, PaceNo, Seq, SessionNo},
    identity::Serial,
    lease::{Pace, Presence},
    lifecycle::Act,
    time::{Clock, ManualClock},
};
use tokio::sync::oneshot;

use super::*;
use crate::{
    registry::{
        Asked, Notice, Registry, Request, Whoami,
        history::Verdict,
        links::{Link, Order, Outbox},
        services::{By, Move},
    },
    store::{
        RegistryStore,
        flaky::Flaky,
        rows::{ApprovalRow, ApprovalState, Loaded, ServiceRow},
        sqlite::SqliteStore,
        suite::samples::{approval, change, health, key, pin, service, token, token_id, use_token},
    },
};

const START: Timestamp = Timestamp(1_795_229_160_000);
const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };

/// An actor whose turns a test takes for it.
struct Held {
    actor: Actor,
    registry: Registry,
    store: Arc<Flaky<SqliteStore>>,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

impl Held {
    async fn open(rows: impl IntoIterator<Item = ServiceRow>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Flaky::new(Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap())));
        let rows = change(rows.into_iter().map(|row| Write::InsertService(Box::new(row))));
        store.commit(&[rows], START).await.unwrap()[0].as_ref().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let shared: Arc<dyn RegistryStore> = store.clone();
        let opened = Actor::open(shared, clock.clone(), whoami, (PACE, None), Arc::default()).await;
        let (actor, registry) = opened.unwrap();
        Self { actor, registry, store, clock, _dir: dir }
    }

    fn slot(&self, service: &str) -> Slot {
        self.registry.read(|roster| roster.get(&key(service)).unwrap().slot)
    }

    fn row(&self, service: &str) -> Arc<ServiceRow> {
        self.registry.read(|roster| Arc::clone(&roster.get(&key(service)).unwrap().row))
    }

    fn beat(&mut self, service: &str, no: u64) {
        let slot = self.slot(service);
        let touch = self.registry.leases().touch(slot, SessionNo(1), BeatNo(no), PACE, self.clock.now().boot);
        if touch == crate::registry::leases::Touch::Woke {
            self.actor.hear(Notice::Woke(slot));
        }
    }

    fn asks<R: Request>(&mut self, request: R) -> oneshot::Receiver<Result<R::Answer, Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.actor.jobs.push_back((Box::new(Asked { request, answer: None, reply }), 0));
        answer
    }

    /// One commit, from its begin to its end.
    async fn commit(&mut self) {
        self.actor.launch();
        let done = self.actor.commits.join_next().await.expect("something to commit");
        self.actor.settle(done);
    }

    async fn presences(&self, service: &str) -> Vec<Presence> {
        let rows = self.store.inner().history(&key(service), 10, true).await.unwrap();
        rows.into_iter().map(|row| row.presence).collect()
    }
}

fn bare(name: &str) -> ServiceRow {
    ServiceRow { parent: None, poller: None, first_seen: None, last_seen: None, ephemeral_after: None, ..service(name) }
}

#[tokio::test]
async fn whoever_woke_becomes_active_through_a_panic_and_an_outage_and_since_it_woke() {
    let mut held = Held::open([bare("poller/p")]).await;
    held.clock.advance(Duration::from_secs(5));
    let woke = held.clock.now().wall;
    held.beat("poller/p", 1);
    held.store.panic_next(1);
    held.commit().await;
    assert!(!held.registry.store_ok());
    held.store.fail_next(1);
    held.clock.advance(Duration::from_secs(1_800));
    held.beat("poller/p", 2);
    held.commit().await;
    assert_eq!(held.row("poller/p").status, Status::Pending);
    held.clock.advance(Duration::from_secs(1_800));
    held.beat("poller/p", 3);
    held.commit().await;
    let row = held.row("poller/p");
    assert_eq!((row.status, row.first_seen), (Status::Active, Some(woke)));
    assert_eq!(held.presences("poller/p").await, [Presence::Alive]);
    assert!(held.registry.store_ok());
}

#[tokio::test]
async fn a_panic_tells_whoever_asked() {
    let mut held = Held::open([bare("poller/p")]).await;
    let answer = held.asks(Move::new(key("poller/p"), Act::Revoke, "", By::system()));
    held.store.panic_next(1);
    held.commit().await;
    assert!(matches!(answer.await, Ok(Err(Refusal::Store(_)))));
}

#[tokio::test]
async fn rows_of_those_that_go_hold_nobody_up() {
    let gone = ServiceRow { status: Status::Revoked, ..bare("poller/gone") };
    let mut held = Held::open([gone, bare("poller/p")]).await;
    let now = held.clock.now();
    let stopped = Verdict {
        service: key("poller/gone"),
        presence: Presence::Stopped,
        cause: "revoked",
        evidence: serde_json::json!({}),
        from: now.boot,
    };
    held.actor.judge_presence(stopped, now);
    held.beat("poller/p", 1);
    let removed = held.asks(Move::new(key("poller/gone"), Act::Remove, "", By::system()));
    held.commit().await;
    removed.await.unwrap().unwrap();
    assert_eq!(held.presences("poller/p").await, [Presence::Alive]);
    assert_eq!(held.actor.retry_at, BootTime(0), "no pause");
    assert!(held.actor.history.is_empty() && held.registry.is_recorded(&key("poller/gone")));
}

/// A certificate that was good when its connection began ends after the time that it had left then.
#[tokio::test]
async fn a_step_of_the_wall_clock_ends_no_connection() {
    let mut held = Held::open([bare("poller/p")]).await;
    let (slot, outbox) = (held.slot("poller/p"), Arc::new(Outbox::default()));
    let link = Link {
        instance: InstanceId([1; 16]),
        session: SessionNo(1),
        serial: Serial([1; 16]),
        ends: held.clock.now().boot.after(Duration::from_secs(86_400)),
        peer: "192.0.2.7:4711".parse().unwrap(),
        transport: rollcall_common::wire::Transport::Tcp,
        outbox: Arc::clone(&outbox),
    };
    held.registry.links().attach(slot, link);
    held.clock.step_wall(400 * 86_400_000);
    held.clock.advance(Duration::from_secs(2));
    held.actor.tick();
    let ordered = || tokio::time::timeout(Duration::ZERO, outbox.next());
    assert!(ordered().await.is_err(), "closed by the time of day");
    held.clock.step_wall(-800 * 86_400_000);
    held.clock.advance(Duration::from_secs(86_400));
    held.actor.tick();
    assert!(matches!(ordered().await, Ok(Order::Close(Code::CertExpired))));
}

#[tokio::test]
async fn a_note_that_becomes_durable_hides_no_newer_one() {
    let mut held = Held::open([bare("poller/p")]).await;
    let slot = held.slot("poller/p");
    let said = |reason: &str| -> HealthReport { health(Health::Degraded, reason) };
    held.actor.hear(Notice::Health(slot, said("old")));
    held.actor.launch();
    // The wall clock steps back: what was heard last counts nevertheless.
    held.clock.step_wall(-5_000);
    held.actor.hear(Notice::Health(slot, said("new")));
    let done = held.actor.commits.join_next().await.expect("a commit");
    held.actor.settle(done);
    assert_eq!(held.row("poller/p").health.as_ref().map(|(report, _)| report.clone()), Some(said("new")));
    held.commit().await;
    assert_eq!(held.row("poller/p").health.as_ref().map(|(report, _)| report.clone()), Some(said("new")));
}

#[test]
fn a_decision_and_the_enrollment_that_it_is_about_do_not_commit_together() {
    let waits = ApprovalRow { seq: Seq(3), ..approval(1, 7) };
    let loaded = Loaded { tokens: vec![token(1, 9)], approvals: vec![waits.clone()], ..Loaded::default() };
    let roster = Roster::from_loaded(&loaded);
    let rejected = ApprovalRow { state: ApprovalState::Rejected, ..waits.clone() };
    let rejects = change([Write::PutApproval(Box::new(rejected))]);
    let at = waits.first_asked;
    let enrolls = change([Write::DropApproval(waits.id), use_token(1, 7, at)]);
    let other = change([use_token(1, 8, at)]);
    let ends = change([Write::RevokeToken { token: token_id(1), at }]);
    assert_eq!(waits.key, pin(7));
    for (first, second, together) in [
        (&rejects, &enrolls, false),
        (&enrolls, &rejects, false),
        (&enrolls, &enrolls, false),
        (&enrolls, &other, true),
        (&rejects, &other, true),
        (&ends, &enrolls, false),
        (&other, &ends, false),
    ] {
        let mut ground = Ground::default();
        assert!(ground.bears(first, &roster));
        assert_eq!(ground.bears(second, &roster), together, "{first:?} and {second:?}");
    }
}
