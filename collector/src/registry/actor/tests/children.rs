//! Children that live by reports: registered, alive, lost, without a verdict, and through a restart.

use rollcall_common::{
    health::{Health, HealthReport, Text},
    lease::Unknown,
    wire::children::ChildReport,
};

use super::*;
use crate::{
    registry::children::{Batch, Hearing, RegisterChildren},
    store::{
        rows::{Change, ServiceRow},
        suite::samples::service,
    },
};

const SHORT: u32 = 5_000;
const LONG: u32 = 60_000;

fn report(child: &str) -> ChildReport {
    ChildReport {
        child: child.parse().unwrap(),
        parent: None,
        report: HealthReport { health: Health::Healthy, reason: Text::default() },
        about: None,
    }
}

/// A fleet with a poller that may register its agents.
async fn fleet(dir: &Path, clock: &Arc<ManualClock>) -> Running {
    let store = SqliteStore::open(&dir.join("registry.db")).await.unwrap();
    let row = ServiceRow { implicit_children: true, ephemeral_after: None, ..service("poller/p") };
    let change = Change { writes: vec![Write::InsertService(Box::new(row))], audit: Vec::new() };
    store.commit(&[change], START).await.unwrap()[0].as_ref().unwrap();
    store.close().await;
    Running::open(dir, clock).await
}

impl Running {
    fn slot(&self, key: &str) -> Slot {
        self.registry.read(|roster| roster.get(&key.parse().unwrap()).unwrap().slot)
    }

    fn hear(&self, batch_no: u64, interval_ms: u32, child: &str) -> Hearing {
        let reporter: ServiceKey = "poller/p".parse().unwrap();
        let (reports, at) = ([report(child)], self.clock.now().boot);
        let session = SessionNo(1);
        self.registry.hear_children(Batch {
            reporter: &reporter,
            session,
            batch_no,
            interval_ms,
            reports: &reports,
            at,
        })
    }

    async fn adopt(&self, child: &str, interval_ms: u32) -> Slot {
        let heard = self.hear(1, interval_ms, child);
        assert_eq!((heard.unknown.len(), heard.refused.len()), (1, 0));
        let request = RegisterChildren { reporter: "poller/p".parse().unwrap(), reports: heard.unknown };
        self.registry.ask(request).await.unwrap();
        assert!(self.hear(1, interval_ms, child).unknown.is_empty());
        self.slot(child)
    }

    /// Lets time pass in steps that are no stall, until a fact holds.
    async fn pass_until(&self, what: &str, fact: impl Fn() -> bool) {
        for _ in 0..200 {
            if fact() {
                return;
            }
            self.clock.advance(Duration::from_millis(900));
            let observed = self.clock.now();
            self.until("a tick", || self.registry.observed() == observed).await;
        }
        panic!("not within three minutes: {what}");
    }

    fn unknown(&self, slot: Slot) -> Option<Unknown> {
        self.registry.leases().sight(slot, self.clock.now().boot).unwrap().unknown
    }
}

#[tokio::test]
async fn a_reported_child_lives_by_the_promised_interval() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = fleet(dir.path(), &clock).await;
    let poller = fleet.slot("poller/p");
    fleet.beat(poller, 1);
    let child = fleet.adopt("agent/a", SHORT).await;
    fleet.until("active", || fleet.status(child) == Status::Active).await;
    assert_eq!(fleet.presence(child), Presence::Alive);
    let row = fleet.recorded("agent/a", Presence::Alive).await;
    assert_eq!((row.cause.as_str(), &row.evidence["by"]), ("first_report", &json!("poller/p")));
    assert_eq!((&row.evidence["origin"], &row.evidence["interval_ms"]), (&json!("parent"), &json!(SHORT)));
    let trail =
        fleet.store.audit(&AuditQuery { object: Some("agent/a".into()), limit: 10, ..AuditQuery::default() }).await;
    let told: Vec<_> = trail.unwrap().into_iter().map(|event| (event.draft.action, event.draft.actor)).collect();
    let by = |action: &str| (action.to_owned(), "sidecar:poller/p".to_owned());
    assert_eq!(told, [by("service.activated"), by("service.registered")]);

    // The poller beats on and does not report it again.
    let mut no = 1;
    for _ in 0..200 {
        no += 1;
        fleet.beat(poller, no);
        clock.advance(Duration::from_millis(950));
        let observed = clock.now();
        fleet.until("a tick", || fleet.registry.observed() == observed).await;
        if fleet.presence(child) == Presence::Lost {
            break;
        }
    }
    let lost = fleet.recorded("agent/a", Presence::Lost).await;
    assert_eq!((lost.cause.as_str(), &lost.evidence["origin"]), ("ttl", &json!("parent")));
    let silent = lost.decided_at.since(lost.from);
    assert!(
        (Duration::from_secs(10)..Duration::from_secs(12)).contains(&silent),
        "three, from the first missed: {silent:?}"
    );
    fleet.close().await;
}

#[tokio::test]
async fn a_silent_reporter_makes_no_verdict_and_its_return_a_fair_chance() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = fleet(dir.path(), &clock).await;
    let poller = fleet.slot("poller/p");
    fleet.beat(poller, 1);
    let child = fleet.adopt("agent/a", SHORT).await;
    fleet.until("alive", || fleet.presence(child) == Presence::Alive).await;
    fleet.registry.tell(Notice::Goodbye(poller, Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None }));
    fleet.until("stopped", || fleet.presence(poller) == Presence::Stopped).await;
    assert_eq!(fleet.presence(child), Presence::Alive, "a goodbye of the reporter is none of the child");
    fleet.pass_until("no verdict", || fleet.unknown(child) == Some(Unknown::ViaParent)).await;
    let row = fleet.recorded("agent/a", Presence::Unknown).await;
    assert_eq!(row.cause, "via_parent");

    // The reporter is back and says nothing of it: it gets another chance, then it is lost.
    fleet.beat(poller, 2);
    fleet.until("back", || fleet.presence(poller) == Presence::Alive).await;
    assert_eq!(fleet.unknown(child), Some(Unknown::ViaParent));
    let back = clock.now().wall;
    let mut no = 2;
    while fleet.presence(child) != Presence::Lost {
        no += 1;
        fleet.beat(poller, no);
        clock.advance(Duration::from_millis(950));
        let observed = clock.now();
        fleet.until("a tick", || fleet.registry.observed() == observed).await;
        assert!(clock.now().wall.since(back) < Duration::from_secs(60), "never lost");
    }
    assert!(clock.now().wall.since(back) >= Duration::from_secs(15), "no fair chance");
    // And a report brings it back like any other.
    fleet.hear(9, SHORT, "agent/a");
    fleet.until("alive again", || fleet.presence(child) == Presence::Alive).await;
    assert_eq!(fleet.recorded("agent/a", Presence::Alive).await.cause, "report");
    fleet.close().await;
}

#[tokio::test]
async fn a_restart_waits_for_a_child_as_long_as_was_promised() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let fleet = fleet(dir.path(), &clock).await;
    fleet.beat(fleet.slot("poller/p"), 1);
    let child = fleet.adopt("agent/a", LONG).await;
    fleet.until("alive", || fleet.presence(child) == Presence::Alive).await;
    // Its interval grows twentyfold: the history learns of it.
    fleet.hear(2, 20 * LONG, "agent/a");
    let mut polls = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..1_000 {
        polls.tick().await;
        if fleet.recorded("agent/a", Presence::Alive).await.cause == "interval" {
            break;
        }
    }
    fleet.close().await;

    clock.advance(Duration::from_secs(60));
    let fleet = Running::open(dir.path(), &clock).await;
    let sight = fleet.registry.leases().sight(fleet.slot("agent/a"), clock.now().boot).unwrap();
    assert_eq!((sight.presence, sight.pace.interval_ms), (Presence::Unknown, 20 * LONG));
    assert!(sight.deadline.since(clock.now().boot) >= Duration::from_secs(3_600), "{:?}", sight.deadline);
    let heard = fleet.hear(1, 20 * LONG, "agent/a");
    assert!(heard.refused.is_empty() && heard.unknown.is_empty());
    assert_eq!(fleet.presence(fleet.slot("agent/a")), Presence::Alive);
    fleet.close().await;
}
