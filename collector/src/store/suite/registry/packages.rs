//! Onboarding packages.

use rollcall_common::id::Seq;

use super::{commit, conflict, load};
use crate::store::{
    RegistryStore,
    rows::{Conflict, PackageRow, Write},
    suite::samples::package,
};

pub(super) async fn packages(store: &dyn RegistryStore) {
    let put = |row: PackageRow, expect: Option<u64>| Write::PutPackage { row: Box::new(row), expect: expect.map(Seq) };
    assert_eq!(conflict(store, [put(package(1, "x"), Some(1))]).await, Conflict::Missing);
    assert_eq!(commit(store, [put(package(2, "roof"), None)]).await.rows, [Some(Seq(1))]);
    assert_eq!(conflict(store, [put(package(2, "x"), None)]).await, Conflict::Exists);
    assert_eq!(conflict(store, [put(package(2, "x"), Some(9))]).await, Conflict::Stale);
    let bare = PackageRow {
        parent: None,
        sealed: None,
        delivered_at: None,
        delivered_to: None,
        activated_at: None,
        ..package(2, "cellar")
    };
    assert_eq!(commit(store, [put(bare.clone(), Some(1))]).await.rows, [Some(Seq(2))], "the sealed token is gone");
    commit(store, [put(package(3, "a"), None), put(package(3, "b"), Some(7))]).await;
    let mut rows = load(store).await.packages;
    rows.sort_by_key(|row| row.id);
    assert_eq!(rows, [PackageRow { seq: Seq(2), ..bare }, PackageRow { seq: Seq(4), ..package(3, "b") }]);
    commit(store, [Write::DropPackage(package(2, "").id), Write::DropPackage(package(9, "").id)]).await;
    assert_eq!(load(store).await.packages.len(), 1);
}
