//! A file that the first schema was written to, opened by this program.

use std::sync::Arc;

use rollcall_common::{
    health::Health,
    id::{BootId, Seq},
    lifecycle::Status,
};

use super::*;
use crate::{
    audit::{
        Sealer,
        sealer::{Head, verify},
    },
    store::rows::{BlindScope, IdRule, Loaded},
};

/// Every table of that time, with rows in it.
const FIRST: &str = include_str!("../../../../tests/old/registry-1.sql");
const EPOCH: u64 = 9_117_702_823_170_066_151;

fn names(loaded: &Loaded) -> Vec<String> {
    let mut names: Vec<_> = loaded.services.iter().map(|row| row.key.to_string()).collect();
    names.sort();
    names
}

/// Nothing is lost, what came later stands at its beginning, and everything goes on where it stood.
#[tokio::test]
async fn what_the_first_schema_holds_is_all_there_and_goes_on() {
    let folder = Folder::new();
    tamper(&folder.file(), FIRST).await;
    let store: Arc<dyn RegistryStore> = folder.open().await;
    let loaded = store.load().await.unwrap();
    assert_eq!((loaded.position.epoch, loaded.position.seq), (EPOCH, Seq(27)));
    assert_eq!(names(&loaded), ["agent/edge-17", "instance/db-1", "poller/site-3"]);
    let of = |name: &str| loaded.services.iter().find(|row| row.key.to_string() == name).unwrap();
    let agent = of("agent/edge-17");
    assert_eq!((agent.status, agent.seq), (Status::Active, Seq(19)));
    assert_eq!(agent.labels.get("town"), Some("Zürich"));
    assert_eq!(agent.metadata.get("rack"), Some("B 4"));
    assert_eq!(agent.parent.as_ref().map(|parent| parent.as_str()), Some("site-3"));
    assert_eq!(agent.component_id.as_deref(), Some("c-17"));
    assert_eq!(agent.health.as_ref().map(|(report, _)| report.health), Some(Health::Degraded));
    assert_eq!(agent.facts.as_ref().map(|facts| facts.cpus), Some(2));
    assert_eq!(agent.last_seen, Some(Timestamp(1_795_282_941_273)), "as of the last flush");
    // What that schema did not know.
    assert!(!agent.placeholder && !agent.archived && !agent.implicit_children);
    assert!(agent.declared_spiffe.is_none() && agent.ephemeral_after.is_none());
    assert_eq!(of("instance/db-1").status, Status::Revoked);
    assert_eq!((loaded.identities.len(), loaded.denied.len()), (2, 1));
    assert_eq!((loaded.tokens.len(), loaded.token_uses.len()), (3, 2));
    let many = loaded.tokens.iter().find(|row| row.policy.max_uses == 3).unwrap();
    assert_eq!((&many.policy.id_rule, many.note.as_str()), (&IdRule::Prefix("snmp-".into()), "for the north"));
    let [credential] = loaded.credentials.as_slice() else { panic!("{:?}", loaded.credentials) };
    assert_eq!((credential.role.as_str(), credential.expires_at), ("bootstrap", None));
    assert!(credential.scope.is_everything() && credential.policy.is_none());
    assert_eq!((loaded.open_intervals.len(), loaded.marks.len()), (2, 1));
    assert_ne!(loaded.marks[0].boot_id, BootId([0; 16]));
    assert!(loaded.jobs.is_empty() && loaded.holds.is_empty() && loaded.windows.is_empty());
    assert!(loaded.packages.is_empty() && loaded.approvals.is_empty() && loaded.knocks.is_empty());
    assert_eq!(store.history(&agent.key, 10, true).await.unwrap().len(), 1);
    let blind = store.blind_since(Timestamp(0), 10).await.unwrap();
    assert!(matches!(&blind[0].scope, BlindScope::Collector(name) if name.as_str() == "main"), "{blind:?}");
    let everything = AuditQuery { limit: 100, ..AuditQuery::default() };
    let audit = store.audit(&everything).await.unwrap();
    assert_eq!((audit.len(), audit[0].seq, audit[0].draft.action.as_str()), (12, Seq(27), "service.revoked"));

    // Seqs go on, and the chain of seals begins with the very first event.
    let applied = store.commit(&[registered("agent/new")], NOON).await.unwrap().remove(0).unwrap();
    assert_eq!((applied.position.epoch, applied.rows[0]), (EPOCH, Some(Seq(28))));
    assert_eq!(store.last_seal().await.unwrap(), None);
    let sealer = Sealer::new(Arc::clone(&store), EPOCH, Arc::new(Head::default()), Arc::new(|_| {}));
    sealer.open().await.unwrap();
    assert!(sealer.seal(true, NOON).await.unwrap());
    let seal = store.last_seal().await.unwrap().unwrap();
    assert_eq!((seal.no, seal.first, seal.epoch), (1, Seq(1), EPOCH));
    assert!(seal.count >= 12, "{seal:?}");
    let verdict = verify(&*store, 0, 10, None).await.unwrap();
    assert!(verdict.broken.is_none() && verdict.whole);
    store.close().await;
    drop((sealer, store));

    let store = folder.open().await;
    let again = store.load().await.unwrap();
    assert_eq!((names(&again).len(), again.position.epoch), (4, EPOCH));
    assert_eq!(store.last_seal().await.unwrap(), Some(seal));
    store.close().await;
}

/// The first migration is what it was: whoever edits a released one shuts every older deployment out.
#[tokio::test]
async fn a_released_migration_that_changed_is_noticed() {
    let folder = Folder::new();
    tamper(&folder.file(), FIRST).await;
    tamper(&folder.file(), "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").await;
    let error = SqliteStore::open(&folder.file()).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
}
