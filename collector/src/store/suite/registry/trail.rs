//! The audit trail in order, its seals, and what retention leaves of them. Nothing of it takes a seq.

use rollcall_common::{id::Seq, time::Timestamp};

use super::load;
use crate::store::{
    RegistryStore, StoreError,
    rows::{AuditQuery, Change, SealHash, SealRow},
    suite::{
        Place,
        samples::{NOON, event, registered},
    },
};

const EPOCH: u64 = 7;

fn later(ms: i64) -> Timestamp {
    Timestamp(NOON.0 + ms)
}

fn done<T>(outcome: Result<T, StoreError>) -> T {
    outcome.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Commits events, one a change.
async fn tell(store: &dyn RegistryStore, events: u8) {
    for n in 0..events {
        let audit = vec![event("service.did", &format!("agent/a{n}"))];
        done(store.commit(&[Change { writes: Vec::new(), audit }], NOON).await);
    }
}

/// A seal over events from one seq to another; its hash is its number.
fn seal(no: u64, first: u64, last: u64, until: i64) -> SealRow {
    let hash = |no: u64| SealHash([u8::try_from(no).unwrap_or(u8::MAX); 32]);
    SealRow {
        no,
        epoch: EPOCH,
        first: Seq(first),
        last: Seq(last),
        count: last - first + 1,
        prev: hash(no - 1),
        hash: hash(no),
        sealed_at: later(500),
        until: later(until),
        retired_at: None,
    }
}

/// What happened, by seq and not by time, within its bounds, whatever else took seqs in between.
pub(super) async fn events_come_in_order(store: &dyn RegistryStore) {
    tell(store, 2).await;
    assert!(done(store.commit(&[registered("agent/x")], NOON).await).iter().all(Result::is_ok));
    let at = done(store.commit(&[Change { writes: Vec::new(), audit: vec![event("later", "agent/y")] }], NOON).await);
    assert!(at.iter().all(Result::is_ok));
    let last = load(store).await.position.seq;
    let seqs = async |after: u64, upto: u64, limit: usize| {
        done(store.trail(Seq(after), Seq(upto), limit).await).iter().map(|event| event.seq.0).collect::<Vec<_>>()
    };
    let all = seqs(0, last.0, 100).await;
    assert!(all.is_sorted() && all.len() >= 3 && all.starts_with(&[1, 2]) && all.ends_with(&[last.0]), "{all:?}");
    assert_eq!(seqs(0, last.0, 2).await, [1, 2]);
    assert_eq!(seqs(1, 2, 100).await, [2]);
    assert_eq!(seqs(last.0, u64::MAX, 100).await, [0_u64; 0]);
    assert_eq!(seqs(0, last.0, usize::MAX).await, all, "a limit beyond the cap is the cap");
    let query = AuditQuery { limit: 100, ..AuditQuery::default() };
    let mut newest = done(store.audit(&query).await);
    newest.reverse();
    assert_eq!(done(store.trail(Seq(0), last, 100).await), newest, "both ways tell the same events");
}

/// Each seal has the next number and its predecessor's hash; nobody slips in another, and a restart keeps them.
pub(super) async fn seals_follow_one_another(place: &impl Place) {
    let store = place.open().await;
    tell(&*store, 6).await;
    let before = load(&*store).await.position;
    assert_eq!((done(store.last_seal().await), done(store.seals(0, 10).await)), (None, Vec::new()));
    assert!(!done(store.seal(&seal(2, 3, 4, 20)).await), "its predecessor is not there");
    for no in 1..=3 {
        assert!(done(store.seal(&seal(no, no * 2 - 1, no * 2, 20)).await), "{no}");
    }
    assert!(!done(store.seal(&seal(2, 3, 4, 20)).await), "the number is taken");
    assert!(!done(store.seal(&SealRow { prev: SealHash([9; 32]), ..seal(4, 7, 7, 20) }).await), "another chain");
    assert!(!done(store.seal(&seal(5, 7, 7, 20)).await), "a number is left out");
    let all: Vec<_> = (1..=3).map(|no| seal(no, no * 2 - 1, no * 2, 20)).collect();
    assert_eq!(done(store.seals(0, usize::MAX).await), all);
    assert_eq!(done(store.seals(1, 1).await), [seal(2, 3, 4, 20)]);
    assert_eq!(load(&*store).await.position, before, "a seal takes no seq");
    store.close().await;
    assert!(store.seal(&seal(4, 7, 7, 20)).await.is_err() && store.last_seal().await.is_err(), "it is closed");
    drop(store);
    let store = place.open().await;
    assert_eq!(done(store.last_seal().await), all.last().cloned());
    store.close().await;
}

/// Whole batches go, oldest first, as far as their time is over and everybody outside has them.
pub(super) async fn retired_batches_keep_their_seals(store: &dyn RegistryStore) {
    tell(store, 8).await;
    for no in 1..=3 {
        let until = i64::try_from(no).unwrap_or(0) * 10;
        assert!(done(store.seal(&seal(no, no * 2 - 1, no * 2, until)).await));
    }
    let end = Seq(u64::MAX >> 1);
    let left = async || done(store.trail(Seq(0), end, 100).await).iter().map(|event| event.seq.0).collect::<Vec<_>>();
    let retire = async |before: i64, floor: u64| done(store.retire_audit(later(before), Seq(floor), later(900)).await);
    assert_eq!(retire(10, 100).await, None, "what ended at that very moment stays");
    assert_eq!(retire(25, 1).await, None, "not before it was sent everywhere");
    assert_eq!(retire(25, 100).await, Some(2));
    assert_eq!(left().await, [3, 4, 5, 6, 7, 8]);
    assert_eq!(retire(25, 100).await, Some(2));
    assert_eq!(retire(25, 100).await, None, "the third is too young");
    assert_eq!(retire(1_000, 100).await, Some(2));
    assert_eq!(retire(1_000, 100).await, None, "what is not sealed is not retired");
    assert_eq!(left().await, [7, 8]);
    let retired: Vec<_> = done(store.seals(0, 10).await).into_iter().map(|seal| (seal.no, seal.retired_at)).collect();
    assert_eq!(retired, [1, 2, 3].map(|no| (no, Some(later(900)))), "the chain stays whole");
    assert!(done(store.seal(&seal(4, 7, 8, 40)).await), "and goes on");
}
