//! What is read back: pages, marks, and everything after a restart.

use std::collections::BTreeMap;

use rollcall_common::{
    address::Address,
    id::{BootId, CollectorName, Seq},
    identity::Pin,
    lease::Presence,
    time::{BootTime, Timestamp},
    token::{Credential, CredentialKind, Secret, Token},
};

use super::{commit, load};
use crate::store::{
    RegistryStore, StoreError,
    rows::{AuditQuery, BlindRow, BlindScope, Change, CredentialRow, Loaded, ObserverMark, ServiceRow, Write},
    suite::{
        Place,
        samples::{
            NOON, cert, credential, event, hold, identity, interval, job, key, package, put, registered, service,
            token, token_id, use_token, window,
        },
    },
};

fn later(ms: i64) -> Timestamp {
    Timestamp(NOON.0 + ms)
}

fn mark(collector: &str, boot: u64) -> ObserverMark {
    ObserverMark {
        collector: CollectorName::new(collector).unwrap_or_else(|error| unreachable!("{error}")),
        boot_id: BootId([3; 16]),
        boot: BootTime(boot),
        wall: later(7),
    }
}

pub(super) async fn last_seen_never_moves_back(store: &dyn RegistryStore) {
    commit(store, ["agent/a", "agent/b", "poller/a"].map(|name| Write::InsertService(Box::new(service(name))))).await;
    let flush = |seen: &[(&str, i64)]| {
        let seen: Vec<_> = seen.iter().map(|(name, ms)| (key(name), later(*ms))).collect();
        async move { assert_eq!(store.flush_last_seen(&seen).await, Ok(())) }
    };
    flush(&[]).await;
    flush(&[("agent/a", 50), ("agent/nobody", 50), ("agent/b", 10)]).await;
    flush(&[("agent/a", 40), ("agent/b", 30), ("agent/b", 20)]).await;
    let loaded = load(store).await;
    let seen: BTreeMap<_, _> = loaded.services.iter().map(|row| (row.key.to_string(), row.last_seen)).collect();
    let want = [("agent/a", Some(later(50))), ("agent/b", Some(later(30))), ("poller/a", None)];
    assert_eq!(seen, want.map(|(name, at)| (name.to_owned(), at)).into());
    assert_eq!(loaded.position.seq, Seq(3), "a flush takes no seq");
    assert!(
        loaded
            .services
            .iter()
            .all(|row| *row == ServiceRow { seq: row.seq, last_seen: row.last_seen, ..service(&row.key.to_string()) })
    );
}

pub(super) async fn observers_and_blind_times(store: &dyn RegistryStore) {
    for given in [mark("one", 5), mark("two", 6), mark("one", 4)] {
        assert_eq!(store.mark_observing(&given).await, Ok(()));
    }
    let mut marks = load(store).await.marks;
    marks.sort_by(|a, b| a.collector.cmp(&b.collector));
    assert_eq!(marks, [mark("one", 4), mark("two", 6)], "one row a collector, the last that was given");

    let blind = |scope: BlindScope, from: i64, to: i64| BlindRow {
        scope,
        from: later(from),
        to: later(to),
        cause: "restart".into(),
    };
    let rows = [
        blind(BlindScope::Collector(mark("one", 0).collector), 30, 40),
        blind(BlindScope::Store("redis".into()), 10, 50),
        blind(BlindScope::Everything, 0, 20),
    ];
    for row in &rows {
        assert_eq!(store.record_blind(row).await, Ok(()));
    }
    let [newest, middle, _] = rows;
    assert_eq!(store.blind_since(later(20), 10).await, Ok(vec![middle, newest.clone()]), "oldest first");
    assert_eq!(store.blind_since(later(20), 1).await, Ok(vec![newest]), "the newest count");
    assert_eq!(store.blind_since(later(50), 10).await, Ok(vec![]));
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(load(store).await.position.seq, Seq(0), "none of this takes a seq");
}

pub(super) async fn audit_pages(store: &dyn RegistryStore) {
    for n in 0..30 {
        let action = if n % 3 == 0 { "token.created" } else { "service.registered" };
        let object = format!("agent/a{}", n % 2);
        let audit = vec![event(action, &object), event("service.activated", &object)];
        let batch = [Change { writes: Vec::new(), audit }];
        assert!(store.commit(&batch, NOON).await.is_ok());
    }
    let ask = async |object: Option<&str>, action: Option<&str>, before: Option<u64>, limit| {
        let query = AuditQuery {
            object: object.map(Into::into),
            action: action.map(Into::into),
            before: before.map(Seq),
            limit,
            ..AuditQuery::default()
        };
        let events = store.audit(&query).await.unwrap_or_else(|error| unreachable!("{error}"));
        for event in &events {
            assert!(object.is_none_or(|object| event.draft.object == object));
            assert!(action.is_none_or(|action| event.draft.action == action));
        }
        events.iter().map(|event| event.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(ask(None, None, None, 3).await, [60, 59, 58]);
    assert_eq!(ask(None, None, Some(58), 2).await, [57, 56]);
    assert_eq!(ask(None, None, Some(1), 2).await, [0_u64; 0]);
    assert_eq!(ask(None, None, None, usize::MAX).await.len(), 60);
    assert_eq!(ask(Some("agent/a1"), None, None, 100).await.len(), 30);
    assert_eq!(ask(None, Some("token.created"), None, 100).await.len(), 10);
    assert_eq!(ask(Some("agent/a0"), Some("token.created"), Some(37), 2).await, [25, 13]);
    assert_eq!(ask(Some("agent/nobody"), None, None, 100).await, [0_u64; 0]);
    let nasty = "agent/a' OR 1=1 --";
    assert_eq!(ask(Some(nasty), None, None, 100).await, [0_u64; 0]);
}

fn sorted(mut loaded: Loaded) -> Loaded {
    loaded.services.sort_by(|a, b| a.key.cmp(&b.key));
    loaded.tokens.sort_by_key(|row| row.id);
    loaded
}

pub(super) async fn what_was_answered_is_there_after_reopening(place: &impl Place) {
    let store = place.open().await;
    let mut renewing = identity("agent/edge-1", 1, 1);
    renewing.pending = Some(cert(2, 2));
    commit(
        &*store,
        [
            Write::InsertToken(Box::new(token(1, 3))),
            use_token(1, 1, NOON),
            Write::InsertService(Box::new(service("agent/edge-1"))),
            put(renewing, None),
            Write::Deny { serial: cert(7, 7).serial, until: later(70) },
            Write::InsertCredential(credential(4)),
            Write::BeginInterval(Box::new(interval("agent/edge-1", Presence::Alive, 3))),
            Write::PutJob(Box::new(job("purge", 3))),
            Write::PutHold(Box::new(hold("clock_step", 4))),
            Write::PutWindow { row: Box::new(window(1, "new disks")), expect: None },
            Write::PutPackage { row: Box::new(package(1, "for the roof")), expect: None },
        ],
    )
    .await;
    assert!(store.commit(&[registered("checker/c")], NOON).await.is_ok());
    assert_eq!(store.mark_observing(&mark("one", 5)).await, Ok(()));
    let query = AuditQuery { limit: 10, ..AuditQuery::default() };
    let (before, audit) = (sorted(load(&*store).await), store.audit(&query).await);
    store.close().await;
    drop(store);
    let store = place.open().await;
    assert_eq!(sorted(load(&*store).await), before);
    assert_eq!(store.audit(&query).await, audit);
    assert_eq!(
        commit(&*store, [Write::InsertToken(Box::new(token(2, 3)))]).await.rows,
        [Some(before.position.seq.next())]
    );
    store.close().await;
}

/// T11: what a thief of the store gets enrolls nobody and opens nothing.
pub(super) async fn a_dump_enrolls_nobody(place: &impl Place) {
    let store = place.open().await;
    let full = Token {
        id: token_id(1),
        secret: Secret::from_bytes(*b"a secret of exactly 32 bytes...."),
        pin: Pin([3; 32]),
        expires: later(0),
        trust_domain: "fleet.example".parse().unwrap_or_else(|error| unreachable!("{error}")),
        addresses: vec!["192.0.2.1:7411".parse::<Address>().unwrap_or_else(|error| unreachable!("{error}"))],
    };
    let door = Credential::random(CredentialKind::Bootstrap).unwrap_or_else(|error| unreachable!("{error}"));
    let mut row = token(1, 3);
    row.hash = full.secret.hash(full.id);
    let opened = CredentialRow { id: door.id, hash: door.hash(), ..credential(1) };
    commit(
        &*store,
        [Write::InsertToken(Box::new(row)), use_token(1, 1, NOON), Write::InsertCredential(opened.clone())],
    )
    .await;
    store.close().await;
    let dump = place.dump().await;
    let holds = |needle: &[u8]| dump.windows(needle.len()).any(|window| window == needle);
    assert!(holds(&opened.hash.0) && holds(full.id.to_string().as_bytes()), "the dump is of the store");
    assert!(!holds(b"a secret of exactly 32 bytes"));
    for text in [full.reveal(), door.reveal()] {
        let blob = text.rsplit('_').next().unwrap_or_default();
        // Base32 in groups of eight characters: any aligned stretch of the blob would show.
        for part in blob.as_bytes().chunks_exact(24) {
            assert!(!holds(part), "a part of a secret's text is in the dump");
        }
    }
}

pub(super) async fn a_closed_store_says_so(store: &dyn RegistryStore) {
    store.close().await;
    let unavailable = |error: StoreError| matches!(error, StoreError::Unavailable { .. });
    assert!(store.ping().await.is_err_and(unavailable));
    assert!(store.load().await.is_err_and(unavailable));
    assert!(store.commit(&[registered("agent/a")], NOON).await.is_err_and(unavailable));
}
