//! Jobs, holds and maintenance windows, and what retention takes out.

use std::collections::BTreeSet;

use rollcall_common::{id::Seq, lease::Presence, time::Timestamp};

use super::{commit, conflict, load};
use crate::store::{
    RegistryStore,
    rows::{AnswerRow, BlindRow, BlindScope, Conflict, JobRow, Outlived, Prune, WindowRow, Write},
    suite::samples::{NOON, answer, hold, interval, job, key, service, window},
};

fn later(ms: i64) -> Timestamp {
    Timestamp(NOON.0 + ms)
}

pub(super) async fn jobs_and_holds(store: &dyn RegistryStore) {
    let put = |row: JobRow| Write::PutJob(Box::new(row));
    let bare = JobRow {
        enabled: None,
        paused_until: None,
        next_at: None,
        last: None,
        last_success: None,
        ..job("archive", 0)
    };
    assert_eq!(commit(store, [put(job("purge", 1)), put(bare.clone())]).await.rows, [None, None]);
    commit(store, [put(job("purge", 2))]).await;
    let mut jobs = load(store).await.jobs;
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(jobs, [bare, job("purge", 2)], "the last one that was given");

    commit(store, [Write::PutHold(Box::new(hold("clock_step", 1))), Write::PutHold(Box::new(hold("other", 2)))]).await;
    commit(store, [Write::PutHold(Box::new(hold("clock_step", 3))), Write::DropHold("other".into())]).await;
    assert_eq!(load(store).await.holds, [hold("clock_step", 3)]);
    commit(store, [Write::DropHold("clock_step".into()), Write::DropHold("nobody".into())]).await;
    assert!(load(store).await.holds.is_empty());
    assert_eq!(load(store).await.position.seq, Seq(0), "none of this takes a seq");
}

pub(super) async fn windows(store: &dyn RegistryStore) {
    let put = |row: WindowRow, expect: Option<u64>| Write::PutWindow { row: Box::new(row), expect: expect.map(Seq) };
    assert_eq!(conflict(store, [put(window(1, "x"), Some(1))]).await, Conflict::Missing);
    assert_eq!(commit(store, [put(window(1, "new disks"), None)]).await.rows, [Some(Seq(1))]);
    assert_eq!(conflict(store, [put(window(1, "x"), None)]).await, Conflict::Exists);
    assert_eq!(conflict(store, [put(window(1, "x"), Some(9))]).await, Conflict::Stale);
    let plain = WindowRow { recurrence: None, ..window(1, "older disks") };
    assert_eq!(commit(store, [put(plain.clone(), Some(1))]).await.rows, [Some(Seq(2))]);
    // A change does not trip over itself.
    commit(store, [put(window(2, "a"), None), put(window(2, "b"), Some(7))]).await;
    let mut rows = load(store).await.windows;
    rows.sort_by_key(|row| row.id);
    assert_eq!(rows, [WindowRow { seq: Seq(2), ..plain }, WindowRow { seq: Seq(4), ..window(2, "b") }]);
    commit(store, [Write::DropWindow(window(1, "").id), Write::DropWindow(window(9, "").id)]).await;
    assert_eq!(load(store).await.windows.len(), 1);
}

pub(super) async fn answers(store: &dyn RegistryStore) {
    let keep = |n, body: &str| Write::KeepAnswer(Box::new(answer(n, body)));
    let insert = |name: &str| Write::InsertService(Box::new(service(name)));
    let applied = commit(store, [insert("poller/p"), keep(1, "{\"seq\":0}"), insert("poller/q")]).await;
    assert_eq!(applied.rows, [Some(Seq(1)), None, Some(Seq(2))], "an answer takes no seq");
    assert_eq!(commit(store, [keep(2, "null")]).await.rows, [None]);
    // Kept once, and with it what it is about.
    assert_eq!(conflict(store, [insert("poller/r"), keep(1, "{}")]).await, Conflict::Exists);
    assert_eq!(load(store).await.services.len(), 2);
    let mut rows = load(store).await.answers;
    rows.sort_by_key(|row| row.at);
    let first = AnswerRow { seq: Seq(1), ..answer(1, "{\"seq\":0}") };
    assert_eq!(rows, [first, answer(2, "null")], "it has the seq of what was written before it");
    commit(store, [Write::ForgetAnswer(answer(1, "").of), keep(1, "[]"), Write::ForgetAnswer(answer(9, "").of)]).await;
    commit(store, [Write::ForgetAnswer(answer(2, "").of)]).await;
    assert_eq!(load(store).await.answers, [answer(1, "[]")]);
}

pub(super) async fn retention_takes_what_ended(store: &dyn RegistryStore) {
    let begin = |name: &str, after| Write::BeginInterval(Box::new(interval(name, Presence::Alive, after)));
    commit(store, ["agent/a", "agent/b"].map(|name| Write::InsertService(Box::new(service(name))))).await;
    for after in [0, 100, 200, 300] {
        commit(store, [begin("agent/a", after), begin("agent/b", after)]).await;
    }
    // Ended at 100, 200 and 300; the last one lasts.
    let outlived = async |before, keep| {
        let what = Outlived::History { before: later(before), keep };
        store.outlived(&what).await
    };
    assert_eq!(outlived(100, 9).await, Ok(0));
    assert_eq!((outlived(201, 9).await, outlived(201, 1).await, outlived(0, 2).await), (Ok(4), Ok(4), Ok(2)));
    assert_eq!(outlived(201, 0).await, Ok(6), "what lasts is not counted");
    let before = |ms| Prune::HistoryBefore(later(ms));
    assert_eq!(store.prune(&before(100), 10).await, Ok(0), "what ended at that moment stays");
    assert_eq!(store.prune(&before(201), 3).await, Ok(3), "a slice at a time");
    assert_eq!(store.prune(&before(201), 3).await, Ok(1));
    assert_eq!(store.prune(&before(i64::MAX - NOON.0), 100).await, Ok(2));
    for name in ["agent/a", "agent/b"] {
        let rows = store.history(&key(name), 10, true).await;
        assert_eq!(rows.map(|rows| rows.len()), Ok(1), "{name}: what lasts stays");
    }
    for (from, to) in [(0, 10), (5, 20), (30, 40)] {
        let blind =
            BlindRow { scope: BlindScope::Everything, from: later(from), to: later(to), cause: "restart".into() };
        assert_eq!(store.record_blind(&blind).await, Ok(()));
    }
    assert_eq!(store.outlived(&Outlived::Blind(later(20))).await, Ok(1));
    assert_eq!(store.prune(&Prune::BlindBefore(later(20)), 10).await, Ok(1));
    assert_eq!(store.blind_since(NOON, 10).await.map(|rows| rows.len()), Ok(2));
}

pub(super) async fn a_crowded_history_is_cut(store: &dyn RegistryStore) {
    let begin = |name: &str, after| Write::BeginInterval(Box::new(interval(name, Presence::Alive, after)));
    let names = ["agent/a", "agent/b", "checker/c"];
    commit(store, names.map(|name| Write::InsertService(Box::new(service(name))))).await;
    for (name, rows) in [("agent/a", 6), ("agent/b", 3), ("checker/c", 5)] {
        for n in 0..rows {
            commit(store, [begin(name, n * 10)]).await;
        }
    }
    let crowded = async |after: Option<&str>, limit| {
        let found = store.crowded(3, after.map(key).as_ref(), limit).await.unwrap_or_default();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(crowded(None, 10).await, ["agent/a", "checker/c"], "what lasts is not counted");
    assert_eq!(crowded(None, 1).await, ["agent/a"]);
    assert_eq!(crowded(Some("agent/a"), 10).await, ["checker/c"]);
    let cut = Prune::HistoryOf { service: key("agent/a"), keep: 3 };
    assert_eq!(store.prune(&cut, 1).await, Ok(1));
    assert_eq!(store.prune(&cut, 10).await, Ok(1));
    assert_eq!(store.prune(&cut, 10).await, Ok(0));
    let rows = store.history(&key("agent/a"), 10, true).await.unwrap_or_default();
    let from: BTreeSet<_> = rows.iter().map(|row| row.from).collect();
    assert_eq!(from, [20, 30, 40, 50].map(later).into(), "the newest stay, and the one that lasts");
    assert_eq!(store.history(&key("checker/c"), 10, true).await.map(|rows| rows.len()), Ok(5), "nobody else's");
}
