//! Discovery through the whole router: who is a target, and what too many come to.

use rollcall_common::lifecycle::Status;
use serde_json::Value;

use super::{Api, router};
use crate::{
    http::fixture::{World, row},
    store::rows::ServiceRow,
};

fn api(rows: &[ServiceRow]) -> Api {
    let world = World::new(rows);
    let (router, table) = router(world.state(world.registry()));
    Api { world, router, table }
}

fn ids(groups: &Value) -> Vec<&str> {
    groups.as_array().unwrap().iter().map(|group| group["labels"]["__meta_rollcall_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn targets_are_who_may_be_there() {
    let with = |key: &str, status| ServiceRow { status, ..row(key) };
    let api = api(&[
        ServiceRow { placeholder: true, ..row("poller/p") },
        with("agent/active", Status::Active),
        with("agent/deleted", Status::Deleted),
        with("agent/idle", Status::Inactive),
        with("agent/revoked", Status::Revoked),
        with("agent/waits", Status::Pending),
    ]);
    for (query, wanted) in [
        ("", &["active", "idle", "waits"][..]),
        ("?status=revoked,active", &["active", "revoked"]),
        ("?placeholder=true", &["p"]),
        ("?kind=poller", &[]),
    ] {
        let (status, groups) = api.get("viewer", &format!("/api/admin/sd{query}")).await;
        assert_eq!((status, ids(&groups)), (200, wanted.to_vec()), "{query}");
    }
}

#[tokio::test]
async fn a_list_of_targets_is_whole_or_refused() {
    let mut rows: Vec<ServiceRow> = (0..50_000).map(|n| row(&format!("instance/i{n}"))).collect();
    rows.push(row("poller/p"));
    let more = api(&rows);
    let (status, problem) = more.get("viewer", "/api/admin/sd").await;
    assert_eq!(status, 422, "Prometheus keeps what it has");
    assert!(problem["detail"].as_str().unwrap().contains("ask for parts"), "{problem}");
    assert_eq!(ids(&more.get("viewer", "/api/admin/sd?kind=poller").await.1), ["p"]);
}
