//! What one group commit takes at most, and that nobody is left behind.

use std::sync::Mutex;

use rollcall_common::{
    id::{BootId, PaceNo},
    lease::Pace,
    time::{ManualClock, Timestamp},
};
use serde_json::json;

use super::*;
use crate::{
    registry::{Whoami, actor::MAX_WEIGHT, services::By},
    store::sqlite::SqliteStore,
};

/// A change of so many audit events, which stands on nobody's ground.
#[derive(Debug)]
struct Heavy {
    no: usize,
    rows: usize,
    done: Arc<Mutex<Vec<usize>>>,
}

impl Job for Heavy {
    fn plan(&mut self, world: World<'_>) -> Option<Change> {
        let event = By::system().did(world.now.wall, "test.heavy", format!("everything:{}", self.no), [("no", json!(1))]);
        Some(Change { writes: Vec::new(), audit: vec![event; self.rows] })
    }

    fn conflict(&mut self, _: Conflict) -> bool {
        false
    }

    fn finish(self: Box<Self>, outcome: Result<(), Refusal>) {
        outcome.unwrap();
        self.done.lock().unwrap().push(self.no);
    }
}

#[tokio::test]
async fn a_commit_is_bounded_by_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap());
    let whoami = Whoami {
        trust_domain: "fleet.example".parse().unwrap(),
        collector: "main".parse().unwrap(),
        boot_id: BootId([1; 16]),
    };
    let pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
    let clock = Arc::new(ManualClock::new(Timestamp(1_795_229_160_000)));
    let (mut actor, _registry) =
        Actor::open(store, clock, whoami, (pace, None), Arc::default()).await.unwrap();

    // Two that fit together, one that does not fit behind them, one that fits nowhere, and small ones behind it.
    let sizes = [1_500, 2_000, 1_000, MAX_WEIGHT * 2, 1, 1, 1];
    let done = Arc::new(Mutex::new(Vec::new()));
    for (no, rows) in sizes.into_iter().enumerate() {
        actor.jobs.push_back((Box::new(Heavy { no, rows, done: Arc::clone(&done) }), 0));
    }
    let mut commits = Vec::new();
    while !actor.jobs.is_empty() {
        let (owners, changes) = actor.gather();
        commits.push(changes.iter().map(Load::of).collect::<Vec<_>>());
        for owner in owners {
            actor.settle_one(owner, Ok(Applied { position: actor.shared.roster.read().unwrap().position() }));
        }
    }
    assert_eq!(commits, [vec![1_500, 2_000], vec![1_000], vec![MAX_WEIGHT * 2], vec![1, 1, 1]]);
    assert_eq!(*done.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6], "in the order in which they came");
}

#[tokio::test]
async fn notices_of_the_trail_are_taken_in_slices() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap());
    let whoami = Whoami {
        trust_domain: "fleet.example".parse().unwrap(),
        collector: "main".parse().unwrap(),
        boot_id: BootId([1; 16]),
    };
    let pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
    let clock = Arc::new(ManualClock::new(Timestamp(1_795_229_160_000)));
    let (mut actor, _registry) =
        Actor::open(store, clock, whoami, (pace, None), Arc::default()).await.unwrap();
    let event = By::system().did(Timestamp(0), "test.noted", "everything", [("no", json!(1))]);
    actor.audits.extend(vec![event; MAX_AUDITS_AT_ONCE + 7]);
    let taken = |actor: &mut Actor| actor.gather().1.iter().map(Load::of).sum::<usize>();
    assert_eq!((taken(&mut actor), taken(&mut actor), taken(&mut actor)), (MAX_AUDITS_AT_ONCE, 7, 0));
}
