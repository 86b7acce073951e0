//! Whoever has the database alone: every edit of a row is found, and named.

use std::{path::Path, sync::Arc};

use rollcall_common::{id::Seq, time::Timestamp};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::{
    chain::{Break, SealHash},
    offline::{self, Line, Refused},
    sealer::{Head, Sealer, verify},
};
use crate::store::{
    RegistryStore,
    rows::Change,
    sqlite::SqliteStore,
    suite::samples::{NOON, event},
};

async fn sealed(dir: &Path, batches: usize) -> Arc<dyn RegistryStore> {
    let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.join("registry.db")).await.unwrap());
    let sealer = Sealer::new(Arc::clone(&store), 7, Arc::new(Head::default()), Arc::new(|_| {}));
    for n in 0..batches {
        let audit = (0..3).map(|k| event("service.did", &format!("agent/a{n}-{k}"))).collect();
        store.commit(&[Change { writes: Vec::new(), audit }], NOON).await.unwrap();
        assert!(!sealer.seal(false, NOON).await.unwrap(), "three are not enough for a batch that is not due");
        assert!(sealer.seal(true, NOON).await.unwrap());
    }
    store
}

async fn edit(dir: &Path, sql: &str) {
    let path = format!("sqlite://{}", dir.join("registry.db").display());
    let mut conn = SqliteConnection::connect(&path).await.unwrap();
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql} touched nothing");
    conn.close().await.unwrap();
}

async fn found(store: &dyn RegistryStore, mut head: Option<SealHash>) -> Option<Break> {
    let mut after = 0;
    loop {
        let verdict = verify(store, after, 2, head).await.unwrap();
        head = head.filter(|_| !verdict.met);
        if verdict.broken.is_some() || verdict.whole {
            return verdict.broken;
        }
        after = verdict.no;
    }
}

#[tokio::test]
async fn a_trail_holds_until_somebody_touches_it() {
    let range = |no: u64| (no, Seq(no * 3 - 2), Seq(no * 3));
    let changed = |no| {
        let (no, first, last) = range(no);
        Some(Break::Changed { no, first, last })
    };
    let missing = |no, found| {
        let (no, first, last) = range(no);
        Some(Break::Missing { no, first, last, found, sealed: 3 })
    };
    let insert = |seq: i64| {
        format!(
            "INSERT INTO audit_events (seq, at, action, actor, object, request_id, details) \
             VALUES ({seq}, 1, 'service.did', 'system', 'agent/x', NULL, '{{}}')"
        )
    };
    let cases = [
        (insert(-4), changed(1)),
        ("UPDATE audit_events SET actor = 'nobody' WHERE seq = 5".to_owned(), changed(2)),
        ("UPDATE audit_events SET at = at + 1 WHERE seq = 9".to_owned(), changed(3)),
        ("UPDATE audit_events SET details = '{\"a\":1}' WHERE seq = 1".to_owned(), changed(1)),
        ("UPDATE audit_events SET details = 'no json' WHERE seq = 8".to_owned(), changed(3)),
        ("UPDATE audit_events SET request_id = 'r' WHERE seq = 11".to_owned(), changed(4)),
        ("DELETE FROM audit_events WHERE seq = 6".to_owned(), missing(2, 2)),
        ("DELETE FROM audit_events WHERE seq BETWEEN 7 AND 9".to_owned(), missing(3, 0)),
        (insert(0), Some(Break::Extra { no: 1, first: Seq(1), last: Seq(3), extra: Seq(0) })),
        ("DELETE FROM audit_seals WHERE no = 2".to_owned(), Some(Break::Seal { no: 2 })),
        (
            "UPDATE audit_seals SET retired_at = 1 WHERE no = 2".to_owned(),
            Some(Break::Extra { no: 2, first: Seq(4), last: Seq(6), extra: Seq(4) }),
        ),
        ("UPDATE audit_seals SET epoch = 8 WHERE no = 3".to_owned(), changed(3)),
    ];
    for (sql, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = sealed(dir.path(), 5).await;
        assert_eq!(found(&*store, None).await, None, "before: {sql}");
        edit(dir.path(), &sql).await;
        assert_eq!(found(&*store, None).await, wanted, "{sql}");
        store.close().await;
    }
}

#[test]
fn one_that_was_slipped_into_a_batch_is_named() {
    use super::chain::{AuditEvent, Checker, seal};
    let at = |seq| AuditEvent { seq: Seq(seq), draft: event("service.did", "agent/a") };
    let sealed = seal(None, 7, &[at(2), at(4), at(6)], NOON).unwrap();
    let broken = Checker::default().take(&sealed, &[at(2), at(4), at(5), at(6)]).unwrap_err();
    assert_eq!(broken, Break::Extra { no: 1, first: Seq(2), last: Seq(6), extra: Seq(5) });
    assert_eq!(Checker::default().take(&sealed, &[at(2), at(4), at(6)]), Ok(()));
}

#[tokio::test]
async fn a_cut_or_rewritten_end_lacks_the_head_that_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 3).await;
    let head = store.last_seal().await.unwrap().unwrap().hash;
    for seal in store.seals(0, 10).await.unwrap() {
        assert_eq!(found(&*store, Some(seal.hash)).await, None, "wherever in the chain it is: {}", seal.no);
    }
    assert!(!verify(&*store, 0, 2, None).await.unwrap().met, "nothing was asked for");
    edit(dir.path(), "DELETE FROM audit_seals WHERE no = 3").await;
    edit(dir.path(), "DELETE FROM audit_events WHERE seq > 6").await;
    assert_eq!(found(&*store, None).await, None, "what is left holds by itself");
    assert_eq!(found(&*store, Some(head)).await, Some(Break::Head(head)));
    store.close().await;
}

#[tokio::test]
async fn retired_batches_keep_their_seals_and_the_chain_holds_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 4).await;
    let (later, all) = (Timestamp(NOON.0 + 1_000_000), Seq(u64::MAX));
    assert_eq!(store.retire_audit(Timestamp(0), all, later).await, Ok(None), "nothing is old enough");
    assert_eq!(store.retire_audit(later, Seq(2), later).await, Ok(None), "not all of it was passed on");
    assert_eq!(store.retire_audit(later, Seq(6), later).await, Ok(Some(3)));
    assert_eq!(store.retire_audit(later, Seq(6), later).await, Ok(Some(3)));
    assert_eq!(store.retire_audit(later, Seq(6), later).await, Ok(None));
    assert_eq!(store.trail(Seq(0), all, 100).await.unwrap().len(), 6);
    assert_eq!(found(&*store, None).await, None);
    let first = store.seals(0, 1).await.unwrap();
    assert_eq!(first[0].retired_at, Some(later));
    edit(dir.path(), "UPDATE audit_seals SET hash = prev_hash WHERE no = 1").await;
    assert_eq!(found(&*store, None).await, Some(Break::Seal { no: 2 }));
    store.close().await;
}

#[tokio::test]
async fn a_batch_dated_in_the_future_keeps_nothing_for_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 3).await;
    let (all, later) = (Seq(u64::MAX), Timestamp(NOON.0 + 1_000_000));
    edit(dir.path(), "UPDATE audit_seals SET until_at = 4000000000000 WHERE no < 3").await;
    assert_eq!(store.retire_audit(NOON, all, later).await, Ok(None), "the first that is well dated is not old enough");
    for _ in 0..3 {
        assert_eq!(store.retire_audit(later, all, later).await, Ok(Some(3)));
    }
    let store_of_one = tempfile::tempdir().unwrap();
    let store = sealed(store_of_one.path(), 1).await;
    edit(store_of_one.path(), "UPDATE audit_seals SET until_at = 4000000000000").await;
    assert_eq!(store.retire_audit(later, all, later).await, Ok(None), "nothing tells how old it is");
}

#[tokio::test]
async fn an_export_is_checked_without_a_collector() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 3).await;
    let mut lines = Vec::new();
    let mut at = Seq(0);
    for seal in store.seals(0, 10).await.unwrap() {
        lines.extend(store.trail(at, seal.last, 10).await.unwrap().into_iter().map(Line::Event));
        at = seal.last;
        lines.push(Line::Seal(seal));
    }
    let print =
        |lines: &[Line]| lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect::<String>();
    let head = store.last_seal().await.unwrap().unwrap().hash;
    let good = offline::verify(print(&lines).as_bytes(), Some(head)).unwrap();
    assert_eq!((good.seals, good.events, good.unsealed, good.head), (3, 9, 0, head));
    let part = offline::verify(print(&lines[4..]).as_bytes(), None).unwrap();
    assert_eq!((part.seals, part.events), (2, 6), "an export may begin in the middle");
    let fails = |text: String| offline::verify(text.as_bytes(), Some(head)).unwrap_err();
    assert!(matches!(fails(print(&lines[..8])), Refused::Broken(Break::Head(_))), "cut off");
    assert!(matches!(
        fails(print(&lines).replace("agent/a1-1", "agent/a1-9")),
        Refused::Broken(Break::Changed { no: 2, .. })
    ));
    let mut short = lines.clone();
    short.remove(5);
    assert!(matches!(fails(print(&short)), Refused::Broken(Break::Missing { no: 2, found: 2, .. })));
    assert!(matches!(fails("{\"event\":".into()), Refused::Line(1, _)));
    store.close().await;
}
