//! The rule as a table, and a rotation on a real registry.

use std::{convert::Infallible, path::Path, sync::Arc};

use rollcall_common::{
    id::{BootId, PaceNo},
    lease::Pace,
    time::ManualClock,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    registry::{Actor, Whoami},
    store::{
        RegistryStore,
        rows::{AuditQuery, Loaded},
        sqlite::SqliteStore,
    },
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const KEPT: Standing = Standing::Settled(Bootstrap::Kept);
const CLOSED: Standing = Standing::Settled(Bootstrap::Closed);

/// What there is, given rows and a file.
fn given(rows: &[&CredentialRow], found: Option<&[u8]>) -> Standing {
    let credentials = rows.iter().copied().cloned().collect();
    standing(&Roster::from_loaded(&Loaded { credentials, ..Loaded::default() }), found, NOW)
}

fn wanted(replaced: &[&CredentialRow]) -> Standing {
    Standing::Wanted { replaces: replaced.iter().map(|row| row.id).collect() }
}

fn revoked(row: &CredentialRow) -> CredentialRow {
    CredentialRow { revoked_at: Some(NOW), ..row.clone() }
}

#[test]
fn one_is_made_where_none_works_and_ends_all_others() {
    let (row, text) = make(NOW).unwrap();
    let (other, _) = make(NOW).unwrap();
    let text = Some(text.as_bytes());
    assert_eq!(given(&[], None), wanted(&[]), "first start");
    assert_eq!(given(&[], text), wanted(&[]), "a file of another deployment");
    assert_eq!(given(&[&row], text), KEPT);
    assert_eq!(given(&[&row], None), wanted(&[&row]), "a deleted file");
    assert_eq!(given(&[&row], Some(b"rubbish")), wanted(&[&row]));
    assert_eq!(given(&[&other], text), wanted(&[&other]), "a stale file");
    assert_eq!(row.expires_at, Some(NOW.after(LIFE)), "it is for the first day");
    let ended = CredentialRow { expires_at: Some(NOW), ..row.clone() };
    assert_eq!(given(&[&ended], text), wanted(&[&ended]), "time closes no door");
    let key = CredentialRow { role: "admin".into(), ..row };
    assert_eq!(given(&[&key], None), wanted(&[]), "an administrator's key is another door");
    assert_eq!(given(&[&revoked(&key)], None), wanted(&[]));
}

#[test]
fn a_door_is_closed_only_where_every_one_is_revoked() {
    let (row, text) = make(NOW).unwrap();
    let (other, _) = make(NOW).unwrap();
    let text = Some(text.as_bytes());
    assert_eq!(given(&[&revoked(&row)], text), CLOSED);
    assert_eq!(given(&[&revoked(&row), &revoked(&other)], None), CLOSED);
    assert_eq!(given(&[&row, &revoked(&other)], text), KEPT, "after a rotation");
    assert_eq!(given(&[&row, &revoked(&other)], None), wanted(&[&row]), "the next rotation");
    assert_eq!(given(&[&revoked(&row), &other], text), wanted(&[&other]), "the old file came back from a backup");
}

struct Started {
    clock: Arc<ManualClock>,
    registry: Registry,
    store: Arc<dyn RegistryStore>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Started {
    async fn open(dir: &Path) -> Self {
        let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.join("registry.db")).await.unwrap());
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };
        let clock = Arc::new(ManualClock::new(NOW));
        let (actor, registry) =
            Actor::open(Arc::clone(&store), Arc::<ManualClock>::clone(&clock), whoami, (pace, None), Arc::default())
                .await
                .unwrap();
        let stop = CancellationToken::new();
        let task = run(actor, stop.clone());
        Self { clock, registry, store, stop, task }
    }

    /// Does what a start of the collector does with the file.
    async fn ensure(&self, file: &mut Option<Vec<u8>>) -> Bootstrap {
        let found = file.take();
        let mut written = None;
        let write = |text: &[u8]| {
            written = Some(text.to_vec());
            Ok::<_, Infallible>(())
        };
        let done = ensure(&self.registry, found.as_deref(), write).await.unwrap();
        *file = written.or(found);
        done
    }

    async fn audit(&self, action: &str) -> Vec<String> {
        let query = AuditQuery { action: Some(action.into()), limit: 10, ..AuditQuery::default() };
        self.store.audit(&query).await.unwrap().into_iter().map(|event| event.draft.object).collect()
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.store.close().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited by Started::close")]
fn run(actor: Actor, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(actor.run(stop))
}

fn id_in(file: Option<&Vec<u8>>) -> TokenId {
    std::str::from_utf8(file.unwrap()).unwrap().parse::<Credential>().unwrap().id
}

#[tokio::test]
async fn deleting_the_file_rotates_and_the_old_credential_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = None;
    let first_start = Started::open(dir.path()).await;
    assert_eq!(first_start.ensure(&mut file).await, Bootstrap::Made);
    assert_eq!(first_start.ensure(&mut file).await, Bootstrap::Kept);
    assert!(first_start.audit("credential.revoked").await.is_empty());
    first_start.close().await;
    let first = id_in(file.take().as_ref());

    let second_start = Started::open(dir.path()).await;
    assert_eq!(second_start.ensure(&mut file).await, Bootstrap::Made);
    let second = id_in(file.as_ref());
    let revoked_at = |id| second_start.registry.read(|roster| roster.credential(id).unwrap().revoked_at);
    assert_eq!((revoked_at(first), revoked_at(second)), (Some(NOW), None));
    assert_eq!(second_start.audit("credential.revoked").await, [format!("credential:{first}")]);
    assert_eq!(second_start.ensure(&mut file).await, Bootstrap::Kept, "a rotation is no closed door");
    second_start.close().await;

    // The store says the same as memory did.
    let third_start = Started::open(dir.path()).await;
    assert_eq!(third_start.ensure(&mut file).await, Bootstrap::Kept);
    let replaced = third_start.registry.read(|roster| roster.credential(first).unwrap().revoked_at);
    assert_eq!(replaced, Some(NOW));
    third_start.close().await;
}

/// H10: it is good for a day and not a moment longer, and a restart makes the next one.
#[tokio::test]
async fn it_ends_after_a_day_and_a_restart_makes_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = None;
    let started = Started::open(dir.path()).await;
    assert_eq!(started.ensure(&mut file).await, Bootstrap::Made);
    let shown: Credential = std::str::from_utf8(file.as_ref().unwrap()).unwrap().parse().unwrap();
    let checked = |at: Timestamp| {
        started.registry.read(|roster| crate::http::access::check(roster, &shown, at).map(|caller| caller.actor))
    };
    assert_eq!(checked(NOW).unwrap(), format!("credential:{}", shown.id));
    checked(NOW.after(LIFE - Duration::from_millis(1))).unwrap();
    let over = checked(NOW.after(LIFE)).unwrap_err();
    assert_eq!(over.code(), crate::http::error::ProblemCode::Unauthenticated);
    // The next start after its end replaces it; one before its end keeps it.
    started.clock.advance(LIFE - Duration::from_secs(1));
    assert_eq!(started.ensure(&mut file).await, Bootstrap::Kept);
    started.clock.advance(Duration::from_secs(1));
    assert_eq!(started.ensure(&mut file).await, Bootstrap::Made);
    assert_ne!(id_in(file.as_ref()), shown.id);
    assert_eq!(started.audit("credential.revoked").await, [format!("credential:{}", shown.id)]);
    started.close().await;
}

#[tokio::test]
async fn a_credential_that_is_not_there_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let started = Started::open(dir.path()).await;
    let (row, _) = make(NOW).unwrap();
    let id = row.id;
    let ask = AddCredential { row, replaces: vec![TokenId([9; 10])], by: By::system() };
    let refused = started.registry.ask(ask).await;
    assert!(matches!(&refused, Err(Refusal::Invalid(why)) if why.contains("does not exist")), "{refused:?}");
    assert!(started.registry.read(|roster| roster.credential(id).is_none()));
    started.close().await;
}
