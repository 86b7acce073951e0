//! Each [`Write`]: what it does, and each conflict it can meet.

#![expect(clippy::indexing_slicing, reason = "a test that finds too few rows has failed")]

use rollcall_common::{
    health::{Health, Progress},
    id::Seq,
    lease::Presence,
    lifecycle::Status,
    time::Timestamp,
};

use super::{commit, conflict, load};
use crate::store::{
    RegistryStore,
    rows::{AuditQuery, Conflict, CredentialRow, Said, ServiceRow, TokenUse, Write},
    suite::samples::{
        NOON, announced, cert, change, credential, facts, health, identity, interval, key, pairs, pin, progress, put,
        registered, reported, service, settings as wanted, token, token_id, use_token,
    },
};

fn later(ms: i64) -> Timestamp {
    Timestamp(NOON.0 + ms)
}

fn insert(name: &str) -> Write {
    Write::InsertService(Box::new(service(name)))
}

fn status(name: &str, expect: Seq, to: Status, seen: Option<Timestamp>) -> Write {
    Write::SetStatus { service: key(name), expect, to, at: later(1), seen, archived: to == Status::Revoked }
}

async fn only_service(store: &dyn RegistryStore) -> ServiceRow {
    let mut services = load(store).await.services;
    assert_eq!(services.len(), 1);
    services.swap_remove(0)
}

pub(super) async fn services(store: &dyn RegistryStore) {
    let start = load(store).await;
    assert_eq!(start.position.seq, Seq(0));
    assert!(start.position.epoch > 0, "the epoch is there from the first moment");

    let applied = commit(store, [insert("checker/disk")]).await;
    assert_eq!(applied.rows, [Some(Seq(1))]);
    assert_eq!((applied.position.epoch, applied.position.seq), (start.position.epoch, Seq(1)));
    assert_eq!(only_service(store).await, ServiceRow { seq: Seq(1), ..service("checker/disk") });
    assert_eq!(conflict(store, [insert("checker/disk")]).await, Conflict::Exists);

    // The same id under another kind is another service.
    commit(store, [insert("agent/disk")]).await;
    commit(store, [Write::RemoveService { service: key("agent/disk"), expect: Seq(2) }]).await;

    let gone = status("agent/nobody", Seq(1), Status::Active, None);
    assert_eq!(conflict(store, [gone]).await, Conflict::Missing);
    let stale = status("checker/disk", Seq(9), Status::Active, None);
    assert_eq!(conflict(store, [stale]).await, Conflict::Stale);

    let applied = commit(store, [status("checker/disk", Seq(1), Status::Active, Some(later(5)))]).await;
    assert_eq!(applied.rows, [Some(Seq(4))]);
    let row = only_service(store).await;
    assert_eq!((row.status, row.status_since, row.seq), (Status::Active, later(1), Seq(4)));
    assert_eq!((row.first_seen, row.last_seen), (Some(later(5)), Some(later(5))));
    assert_eq!(conflict(store, [status("checker/disk", Seq(1), Status::Inactive, None)]).await, Conflict::Stale);

    // first_seen is set once, last_seen never moves back, and a status write without a beat touches neither.
    commit(store, [status("checker/disk", Seq(4), Status::Inactive, Some(later(2)))]).await;
    let row = only_service(store).await;
    assert_eq!((row.first_seen, row.last_seen), (Some(later(5)), Some(later(5))));
    assert!(!row.archived);
    commit(store, [status("checker/disk", Seq(5), Status::Revoked, None)]).await;
    let row = only_service(store).await;
    assert!(row.archived);
    assert_eq!((row.first_seen, row.last_seen), (Some(later(5)), Some(later(5))));
    let untouched = ServiceRow { status: Status::Pending, status_since: NOON, seq: Seq(0), ..row.clone() };
    assert_eq!(
        untouched,
        ServiceRow { first_seen: row.first_seen, last_seen: row.last_seen, ..service("checker/disk") }
    );

    let describe = |name: &str, expect| Write::Describe {
        service: key(name),
        expect: Seq(expect),
        labels: pairs("site", "south"),
        metadata: pairs("rack", "8"),
    };
    assert_eq!(conflict(store, [describe("agent/nobody", 5)]).await, Conflict::Missing);
    assert_eq!(conflict(store, [describe("checker/disk", 5)]).await, Conflict::Stale);
    assert_eq!(commit(store, [describe("checker/disk", 6)]).await.rows, [Some(Seq(7))]);
    let row = only_service(store).await;
    assert_eq!((&row.labels, &row.metadata), (&pairs("site", "south"), &pairs("rack", "8")));
    assert_eq!(row.status, Status::Revoked);

    edits(store, &row).await;
    let note = |name: &str, said: Option<_>, facts| Write::Note { service: key(name), health: said, facts };
    let said = (health(Health::Unhealthy, "it is on fire"), later(9));
    assert_eq!(conflict(store, [note("agent/nobody", Some(said.clone()), None)]).await, Conflict::Missing);
    assert_eq!(commit(store, [note("checker/disk", Some(said.clone()), None)]).await.rows, [Some(Seq(10))]);
    let row = only_service(store).await;
    assert_eq!((row.health, row.facts, row.seq), (Some(said.clone()), Some(facts("edge")), Seq(9)));
    commit(store, [note("checker/disk", None, Some(facts("moved")))]).await;
    let row = only_service(store).await;
    assert_eq!((row.health, row.facts), (Some(said), Some(facts("moved"))));
    assert_eq!(load(store).await.position.seq, Seq(10), "facts take no seq, nor does a conflict");
}

/// What operators want moves the row's seq, what a sidecar says does not; each leaves everything else alone.
pub(super) async fn settings(store: &dyn RegistryStore) {
    commit(store, [insert("agent/a")]).await;
    let start = only_service(store).await;
    let put = |name: &str, expect, n| Write::PutSettings { service: key(name), expect: Seq(expect), row: wanted(n) };
    assert_eq!(conflict(store, [put("agent/nobody", 1, 4)]).await, Conflict::Missing);
    assert_eq!(conflict(store, [put("agent/a", 9, 4)]).await, Conflict::Stale);
    assert_eq!(commit(store, [put("agent/a", 1, 4)]).await.rows, [Some(Seq(2))]);
    let keep = |name: &str, row| Write::KeepReported { service: key(name), row };
    assert_eq!(conflict(store, [keep("agent/nobody", None)]).await, Conflict::Missing);
    assert_eq!(commit(store, [keep("agent/a", Some(reported(4)))]).await.rows, [Some(Seq(3))]);
    let said = (progress(Progress::Stalled, "no row for 5 min"), later(3));
    let tell = |name: &str| Write::Progress { service: key(name), said: said.clone() };
    assert_eq!(conflict(store, [tell("agent/nobody")]).await, Conflict::Missing);
    assert_eq!(commit(store, [tell("agent/a")]).await.rows, [Some(Seq(4))]);
    let announce = |name: &str, expect| Write::Announce {
        service: key(name),
        expect: Seq(expect),
        row: announced("9"),
        metadata: pairs("rack", "9"),
    };
    assert_eq!(conflict(store, [announce("agent/nobody", 2)]).await, Conflict::Missing);
    assert_eq!(conflict(store, [announce("agent/a", 3)]).await, Conflict::Stale);
    assert_eq!(commit(store, [announce("agent/a", 2)]).await.rows, [Some(Seq(5))]);
    let row = ServiceRow {
        settings: Some(wanted(4)),
        reported: Some(reported(4)),
        progress: Some(said),
        announced: Some(announced("9")),
        metadata: pairs("rack", "9"),
        seq: Seq(5),
        ..start
    };
    assert_eq!(only_service(store).await, row);
    commit(store, [keep("agent/a", None)]).await;
    assert_eq!(only_service(store).await, ServiceRow { reported: None, ..row });
}

/// What operators say is replaced as a whole; nothing else of the row is touched.
async fn edits(store: &dyn RegistryStore, before: &ServiceRow) {
    let edit = |name: &str, expect, said: &Said| Write::Edit {
        service: key(name),
        expect: Seq(expect),
        said: Box::new(said.clone()),
    };
    let said = Said { labels: pairs("site", "west"), ..Said::default() };
    assert_eq!(conflict(store, [edit("agent/nobody", 6, &said)]).await, Conflict::Missing);
    assert_eq!(conflict(store, [edit("checker/disk", 5, &said)]).await, Conflict::Stale);
    assert_eq!(commit(store, [edit("checker/disk", 7, &said)]).await.rows, [Some(Seq(8))]);
    let row = only_service(store).await;
    assert_eq!(row.said(), said);
    let mut back = row;
    back.say(&before.said());
    assert_eq!(back, ServiceRow { seq: Seq(8), ..before.clone() });
    assert_eq!(commit(store, [edit("checker/disk", 8, &before.said())]).await.rows, [Some(Seq(9))]);
    assert_eq!(only_service(store).await, ServiceRow { seq: Seq(9), ..before.clone() });
}

pub(super) async fn a_change_does_not_trip_over_itself(store: &dyn RegistryStore) {
    let first = commit(store, [insert("agent/a")]).await.position.seq;
    let describe = Write::Describe {
        service: key("agent/a"),
        expect: first,
        labels: pairs("site", "south"),
        metadata: pairs("rack", "8"),
    };
    let applied = commit(store, [describe, status("agent/a", first, Status::Active, None)]).await;
    assert_eq!(applied.rows, [Some(Seq(2)), Some(Seq(3))]);
    // Another change is judged by what it read, also within one batch.
    let two = [
        change([status("agent/a", Seq(3), Status::Inactive, None)]),
        change([status("agent/a", Seq(3), Status::Revoked, None)]),
    ];
    let answers = store.commit(&two, NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
    assert!(answers[0].is_ok());
    assert_eq!(answers[1], Err(Conflict::Stale));
}

pub(super) async fn removal(store: &dyn RegistryStore) {
    let remove = |expect| Write::RemoveService { service: key("agent/a"), expect: Seq(expect) };
    assert_eq!(conflict(store, [remove(0)]).await, Conflict::Missing);
    let mut registered = registered("agent/a");
    registered.writes.push(put(identity("agent/a", 1, 1), None));
    registered.writes.push(Write::BeginInterval(Box::new(interval("agent/a", Presence::Alive, 0))));
    let answers = store.commit(&[registered], NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
    assert!(answers[0].is_ok());
    assert_eq!(conflict(store, [remove(7)]).await, Conflict::Stale);
    assert_eq!(commit(store, [remove(1)]).await.rows, [Some(Seq(5))]);

    let left = load(store).await;
    assert!(left.services.is_empty() && left.identities.is_empty() && left.open_intervals.is_empty());
    let history = store.history(&key("agent/a"), 10, true).await;
    assert_eq!(history, Ok(Vec::new()));
    let audit = store.audit(&AuditQuery { limit: 10, ..AuditQuery::default() }).await;
    assert_eq!(audit.map(|events| events.len()), Ok(1), "the audit trail stays");
    // Its key is free again.
    commit(store, [insert("agent/b"), put(identity("agent/b", 1, 1), None)]).await;
}

pub(super) async fn identities(store: &dyn RegistryStore) {
    assert_eq!(conflict(store, [put(identity("agent/a", 1, 1), None)]).await, Conflict::Missing);
    commit(store, [insert("agent/a"), insert("agent/b")]).await;
    assert_eq!(conflict(store, [put(identity("agent/a", 1, 1), Some(1))]).await, Conflict::Stale);
    assert_eq!(commit(store, [put(identity("agent/a", 1, 1), None)]).await.rows, [Some(Seq(3))]);
    assert_eq!(load(store).await.identities, [identity("agent/a", 1, 1)]);
    assert_eq!(conflict(store, [put(identity("agent/a", 2, 2), None)]).await, Conflict::Stale);

    // A pending certificate counts as bound: its generation is the latest, its key is taken.
    let mut renewed = identity("agent/a", 1, 1);
    renewed.pending = Some(cert(2, 2));
    commit(store, [put(renewed.clone(), Some(1))]).await;
    assert_eq!(load(store).await.identities, [renewed]);
    assert_eq!(conflict(store, [put(identity("agent/a", 3, 3), Some(1))]).await, Conflict::Stale);
    for taken in [1, 2] {
        assert_eq!(conflict(store, [put(identity("agent/b", 1, taken), None)]).await, Conflict::KeyInUse);
        let mut pending = identity("agent/b", 1, 9);
        pending.pending = Some(cert(2, taken));
        assert_eq!(conflict(store, [put(pending, None)]).await, Conflict::KeyInUse);
    }

    // Promotion frees the old key; one's own key is never in the way, and both may be the same.
    commit(store, [put(identity("agent/a", 2, 2), Some(2))]).await;
    commit(store, [put(identity("agent/b", 1, 1), None)]).await;
    let mut same = identity("agent/a", 2, 2);
    same.pending = Some(cert(3, 2));
    commit(store, [put(same, Some(2))]).await;

    assert_eq!(commit(store, [Write::DropIdentity(key("agent/a"))]).await.rows, [Some(Seq(8))]);
    assert_eq!(commit(store, [Write::DropIdentity(key("agent/a"))]).await.rows, [None]);
    assert_eq!(load(store).await.identities, [identity("agent/b", 1, 1)]);
    commit(store, [Write::DropIdentity(key("agent/b")), put(identity("agent/a", 4, 1), None)]).await;
}

pub(super) async fn refused_serials(store: &dyn RegistryStore) {
    let serial = cert(1, 1).serial;
    let deny = |ms| Write::Deny { serial, until: later(ms) };
    assert_eq!(commit(store, [deny(5)]).await.rows, [None]);
    commit(store, [deny(9)]).await;
    commit(store, [deny(2)]).await;
    assert_eq!(load(store).await.denied, [(serial, later(9))], "the longer refusal holds");
    commit(store, [Write::Allow(serial)]).await;
    commit(store, [Write::Allow(serial)]).await;
    assert!(load(store).await.denied.is_empty());
}

pub(super) async fn tokens(store: &dyn RegistryStore) {
    let insert = |n, uses| Write::InsertToken(Box::new(token(n, uses)));
    assert_eq!(conflict(store, [use_token(1, 1, NOON)]).await, Conflict::Missing);
    assert_eq!(commit(store, [insert(1, 2)]).await.rows, [Some(Seq(1))]);
    assert_eq!(conflict(store, [insert(1, 5)]).await, Conflict::Exists);

    // T4: judged by the time that the change carries, to the millisecond, both ends included.
    let end = token(1, 2).policy.expires_at;
    assert_eq!(conflict(store, [use_token(1, 1, Timestamp(NOON.0 - 1))]).await, Conflict::TokenEnded);
    assert_eq!(conflict(store, [use_token(1, 1, Timestamp(end.0 + 1))]).await, Conflict::TokenEnded);
    assert_eq!(commit(store, [use_token(1, 1, end)]).await.rows, [Some(Seq(2))]);

    // T2: the same key again is no second use, and passes even when the token is spent, revoked or over.
    let one =
        |key_no: u8| TokenUse { token: token_id(1), key: pin(key_no), service: key(&format!("agent/edge-{key_no}")) };
    assert_eq!(commit(store, [use_token(1, 1, NOON)]).await.rows, [None]);
    assert_eq!(commit(store, [use_token(1, 2, NOON)]).await.rows, [Some(Seq(3))]);
    assert_eq!(conflict(store, [use_token(1, 3, NOON)]).await, Conflict::TokenSpent);
    assert_eq!(commit(store, [use_token(1, 1, Timestamp(end.0 + 1))]).await.rows, [None]);
    let loaded = load(store).await;
    assert_eq!(loaded.tokens.len(), 1);
    let row = &loaded.tokens[0];
    assert_eq!((row.uses, row.seq, row.last_used_at), (2, Seq(3), Some(NOON)));
    assert_eq!(row.last_used_from.as_deref(), Some("192.0.2.7:40000"));
    assert_eq!((&row.policy, &row.hash, &row.note), (&token(1, 2).policy, &token(1, 2).hash, &token(1, 2).note));
    let mut uses = loaded.token_uses;
    uses.sort_by_key(|used| used.key.0);
    assert_eq!(uses, [one(1), one(2)]);

    // T5
    commit(store, [insert(2, 1)]).await;
    let revoke = |n| Write::RevokeToken { token: token_id(n), at: later(3) };
    assert_eq!(conflict(store, [revoke(9)]).await, Conflict::Missing);
    assert_eq!(commit(store, [revoke(2)]).await.rows, [Some(Seq(5))]);
    assert_eq!(conflict(store, [revoke(2)]).await, Conflict::TokenEnded);
    assert_eq!(conflict(store, [use_token(2, 1, NOON)]).await, Conflict::TokenEnded);
    let revoked = load(store).await.tokens.into_iter().find(|row| row.id == token_id(2));
    assert_eq!(revoked.map(|row| (row.revoked_at, row.uses)), Some((Some(later(3)), 0)));
}

pub(super) async fn credentials(store: &dyn RegistryStore) {
    assert_eq!(commit(store, [Write::InsertCredential(credential(1))]).await.rows, [None]);
    assert_eq!(conflict(store, [Write::InsertCredential(credential(1))]).await, Conflict::Exists);
    assert_eq!(load(store).await.credentials, [credential(1)]);

    // Closing one opens nothing, and happens once: the first moment stays.
    let revoke = |n, ms| Write::RevokeCredential { id: credential(n).id, at: later(ms) };
    assert_eq!(conflict(store, [revoke(2, 3)]).await, Conflict::Missing);
    assert_eq!(commit(store, [revoke(1, 3)]).await.rows, [None]);
    assert_eq!(commit(store, [revoke(1, 9)]).await.rows, [None]);
    let closed = CredentialRow { revoked_at: Some(later(3)), ..credential(1) };
    assert_eq!(load(store).await.credentials, std::slice::from_ref(&closed));

    // One for another, or neither.
    assert_eq!(conflict(store, [Write::InsertCredential(credential(2)), revoke(3, 4)]).await, Conflict::Missing);
    assert_eq!(load(store).await.credentials, std::slice::from_ref(&closed));
    commit(store, [Write::InsertCredential(credential(2)), Write::InsertCredential(credential(3)), revoke(2, 5)]).await;
    let mut rows = load(store).await.credentials;
    rows.sort_by_key(|row| row.id);
    let second = CredentialRow { revoked_at: Some(later(5)), ..credential(2) };
    assert_eq!(rows, [closed.clone(), second.clone(), credential(3)]);

    // A use is noted late and out of order; the latest counts, and nobody minds one that is gone.
    let touch = |n, ms| Write::TouchCredential { id: credential(n).id, at: later(ms) };
    commit(store, [touch(3, 7), touch(3, 6), touch(9, 7)]).await;
    let mut rows = load(store).await.credentials;
    rows.sort_by_key(|row| row.id);
    assert_eq!(rows, [closed, second, CredentialRow { last_used_at: Some(later(7)), ..credential(3) }]);
}

pub(super) async fn intervals(store: &dyn RegistryStore) {
    let begin = |presence, after| Write::BeginInterval(Box::new(interval("agent/a", presence, after)));
    assert_eq!(conflict(store, [begin(Presence::Alive, 0)]).await, Conflict::Missing);
    commit(store, [insert("agent/a"), insert("agent/b")]).await;
    assert_eq!(commit(store, [begin(Presence::Alive, 100)]).await.rows, [Some(Seq(3))]);
    commit(store, [Write::BeginInterval(Box::new(interval("agent/b", Presence::Unknown, 0)))]).await;
    commit(store, [begin(Presence::Lost, 400)]).await;
    // Dated back behind the begin of the one before, which then lasts no time.
    commit(store, [begin(Presence::Alive, 300)]).await;

    let at = |presence, from, to: Option<i64>| {
        let mut row = interval("agent/a", presence, from);
        (row.to, row.recorded_at) = (to.map(later), Some(NOON));
        row
    };
    let (first, second) = (at(Presence::Alive, 100, Some(400)), at(Presence::Lost, 400, Some(400)));
    let third = at(Presence::Alive, 300, None);
    let who = key("agent/a");
    let history = |limit| store.history(&who, limit, false);
    let newest_first = vec![second, third.clone(), first];
    assert_eq!(history(10).await, Ok(newest_first.clone()));
    assert_eq!(history(2).await, Ok(newest_first[..2].to_vec()));
    let mut open = load(store).await.open_intervals;
    open.sort_by(|a, b| a.service.cmp(&b.service));
    assert_eq!(open.len(), 2, "one lasting interval for each");
    assert_eq!(open[0], third);
}
