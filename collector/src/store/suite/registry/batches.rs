//! Batches: alone, in order, side by side.

#![expect(clippy::indexing_slicing, reason = "a test that finds too few rows has failed")]

use std::{collections::BTreeSet, sync::Arc};

use rollcall_common::{id::Seq, lifecycle::Status};
use tokio::task::JoinSet;

use super::{commit, load};
use crate::store::{
    RegistryStore,
    rows::{AuditQuery, Change, Conflict, Write},
    suite::samples::{NOON, change, event, identity, key, put, registered, service, token, use_token},
};

pub(super) async fn each_change_stands_or_falls_alone(store: &dyn RegistryStore) {
    commit(store, [Write::InsertToken(Box::new(token(1, 1)))]).await;
    // An enrollment that fails at its last write leaves nothing: no service, no use, no event, no seq.
    let enroll = |name: &str, key_no: u8| Change {
        writes: vec![
            use_token(1, key_no, NOON),
            Write::InsertService(Box::new(service(name))),
            put(identity(name, 1, key_no), None),
        ],
        audit: vec![event("service.registered", name)],
    };
    let mut burned = enroll("agent/edge-2", 2);
    burned.writes.push(Write::SetStatus {
        service: key("agent/nobody"),
        expect: Seq(0),
        to: Status::Active,
        at: NOON,
        seen: None,
        archived: false,
    });
    let batch = [burned, enroll("agent/edge-1", 1), enroll("agent/edge-3", 3), registered("agent/edge-1")];
    let answers = store.commit(&batch, NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!(answers[0], Err(Conflict::Missing));
    let applied = answers[1].as_ref().unwrap_or_else(|conflict| unreachable!("{conflict}"));
    assert_eq!(applied.rows, [Some(Seq(2)), Some(Seq(3)), Some(Seq(4))]);
    assert_eq!((applied.audit.as_slice(), applied.position.seq), ([Seq(5)].as_slice(), Seq(5)));
    assert_eq!(answers[2], Err(Conflict::TokenSpent));
    assert_eq!(answers[3], Err(Conflict::Exists));

    let loaded = load(store).await;
    assert_eq!(loaded.position.seq, Seq(5));
    assert_eq!(loaded.services.iter().map(|row| &row.key).collect::<Vec<_>>(), [&key("agent/edge-1")]);
    assert_eq!((loaded.identities.len(), loaded.token_uses.len(), loaded.tokens[0].uses), (1, 1, 1));
    let audit = store.audit(&AuditQuery { limit: 10, ..AuditQuery::default() }).await;
    assert_eq!(audit.map(|events| events.len()), Ok(1));
    assert_eq!(store.commit(&[], NOON).await, Ok(Vec::new()));
}

/// More events than any statement carries at once; each one lands under the seq that was answered.
pub(super) async fn seqs_follow_the_order(store: &dyn RegistryStore) {
    let batch: Vec<_> = (0..150).map(|n| registered(&format!("agent/a{n}"))).collect();
    let answers = store.commit(&batch, NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
    let mut next = Seq(0);
    for answer in &answers {
        let applied = answer.as_ref().unwrap_or_else(|conflict| unreachable!("{conflict}"));
        let (row, event) = (next.next(), next.next().next());
        assert_eq!((applied.rows.as_slice(), applied.audit.as_slice()), ([Some(row)].as_slice(), [event].as_slice()));
        assert_eq!(applied.position.seq, Seq(300));
        next = event;
    }
    for row in load(store).await.services {
        let query = AuditQuery { object: Some(row.key.to_string()), limit: 10, ..AuditQuery::default() };
        let events = store.audit(&query).await.unwrap_or_else(|error| unreachable!("{error}"));
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [row.seq.next()], "{}", row.key);
        assert_eq!(events[0].draft, event("service.registered", &row.key.to_string()));
    }
}

pub(super) async fn concurrent_batches_do_not_mix(store: Arc<dyn RegistryStore>) {
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            for batch in 0..10 {
                let changes: Vec<_> = (0..3).map(|n| registered(&format!("agent/t{task}-{batch}-{n}"))).collect();
                let answers = store.commit(&changes, NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
                let mut seqs = Vec::new();
                for applied in answers.into_iter().flatten() {
                    seqs.extend(applied.rows.into_iter().flatten());
                    seqs.extend(applied.audit);
                    assert!(seqs.iter().all(|seq| *seq <= applied.position.seq));
                }
                assert!(seqs.windows(2).all(|two| two[1] == two[0].next()), "a batch's range is one: {seqs:?}");
                taken.extend(seqs);
            }
            taken
        });
    }
    let mut all = BTreeSet::new();
    while let Some(taken) = tasks.join_next().await {
        for seq in taken.unwrap_or_else(|error| unreachable!("{error}")) {
            assert!(all.insert(seq), "{seq} was given twice");
        }
    }
    assert_eq!(all.into_iter().collect::<Vec<_>>(), (1..=480).map(Seq).collect::<Vec<_>>(), "there are no gaps");
    assert_eq!(load(&*store).await.position.seq, Seq(480));
}

/// T3: fifty different keys at once.
pub(super) async fn a_token_is_never_overspent(store: Arc<dyn RegistryStore>, max_uses: u32) {
    commit(&*store, [Write::InsertToken(Box::new(token(1, max_uses)))]).await;
    let mut tasks = JoinSet::new();
    for key_no in 1..=50 {
        let store = store.clone();
        tasks.spawn(async move { store.commit(&[change([use_token(1, key_no, NOON)])], NOON).await });
    }
    let mut passed = 0;
    while let Some(answer) = tasks.join_next().await {
        let answers = answer.map_err(|error| error.to_string()).map(|answers| answers.map(|mut all| all.remove(0)));
        match answers {
            Ok(Ok(Ok(_))) => passed += 1,
            Ok(Ok(Err(conflict))) => assert_eq!(conflict, Conflict::TokenSpent),
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(passed, max_uses);
    let loaded = load(&*store).await;
    assert_eq!((loaded.tokens[0].uses, loaded.token_uses.len()), (max_uses, passed as usize));
}
