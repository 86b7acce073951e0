//! H8: whoever reaches one site finds nothing of another: not by name, not in lists, not in counts.

use super::*;
use crate::http::fixture::pairs;

/// `p` with `a` and `c` is site 3, `x` with its agent is site 4; `b` stands at site 4 under site 3's poller.
fn two_sites() -> Api {
    let mut rows: Vec<_> =
        ["poller/p", "agent/a", "agent/b", "checker/c", "poller/x", "agent/x", "instance/bare"].map(row).into();
    for row in &mut rows {
        let site = match row.key.id.as_str() {
            "p" | "a" | "c" => Some("3"),
            "bare" => None,
            _ => Some("4"),
        };
        row.labels = site.map(|site| pairs(&[("site", site)])).unwrap_or_default();
        if row.key.to_string() == "agent/x" {
            row.parent = Some("x".parse().unwrap());
        }
    }
    let world = World::new(&rows);
    let (router, table) = router(world.state(world.registry()));
    Api { world, router, table }
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| format!("{}/{}", item["kind"].as_str().unwrap(), item["id"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn what_is_out_of_reach_is_not_there() {
    let api = two_sites();
    for path in [
        "pollers/x",
        "agents/b",
        "agents/x",
        "instances/bare",
        "x",
        "bare",
        "pollers/x/agents",
        "agents/x/checkers",
        "agents/b/history",
        "tree?root=poller/x",
    ] {
        let (status, body) = api.get("viewer@3", &format!("/api/admin/services/{path}")).await;
        assert_eq!((status, &body["code"]), (404, &json!("unknown_service")), "{path}");
        let (status, _) = api.get("viewer", &format!("/api/admin/services/{path}")).await;
        assert_ne!(status, 404, "{path} is there for others");
    }
    for (role, path, body) in [
        ("operator@3", "agents/b/status", json!({"act": "unrevoke"})),
        ("admin@3", "agents/b/status", json!({"act": "revoke"})),
    ] {
        assert_eq!(api.post(role, &format!("/api/admin/services/{path}"), &body).await.0, 404, "{path}");
    }
    let request = api.request("admin@3", &Method::DELETE, "/api/admin/services/pollers/x");
    assert_eq!(api.send(request.body(Body::empty()).unwrap()).await.0, 404);
    assert_eq!(api.get("viewer@3", "/api/admin/services/agents/a").await.0, 200);
}

#[tokio::test]
async fn lists_counts_and_trees_hold_the_scope_only() {
    let api = two_sites();
    let (_, page) = api.get("viewer@3", "/api/admin/services").await;
    assert_eq!(ids(&page), ["poller/p", "agent/a", "checker/c"]);
    let (_, page) = api.get("viewer@3", "/api/admin/services/pollers/p/agents").await;
    assert_eq!(ids(&page), ["agent/a"]);
    let (_, page) = api.get("viewer@3", "/api/admin/services?q=x").await;
    assert!(ids(&page).is_empty());
    let (_, stats) = api.get("viewer@3", "/api/admin/services/stats").await;
    assert_eq!((&stats["total"], &stats["kinds"]["agents"]["total"]), (&json!(3), &json!(1)));
    let (_, tree) = api.get("viewer@3", "/api/admin/services/tree").await;
    assert_eq!(tree["items"].as_array().unwrap().len(), 1);
    assert_eq!(tree["items"][0]["children"].as_array().unwrap().len(), 1);
    // The tokens of the fixture carry site 3.
    assert_eq!(api.get("viewer@3", "/api/admin/tokens").await.1["items"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn nothing_is_made_outside_the_scope() {
    let api = two_sites();
    let label = |site: &str| json!({ "site": site });
    for (path, body, expected) in [
        ("services/agents", json!({"id": "n", "parent": "p", "labels": label("3")}), 503),
        ("services/agents", json!({"id": "n", "parent": "p", "labels": label("4")}), 422),
        ("services/agents", json!({"id": "n", "parent": "p"}), 422),
        ("services/agents", json!({"id": "n", "parent": "x", "labels": label("3")}), 422),
        ("tokens", json!({"kind": "agent", "parent": "p", "labels": label("3")}), 503),
        ("tokens", json!({"kind": "agent", "parent": "p"}), 422),
        ("tokens", json!({"kind": "agent", "parent": "x", "labels": label("3")}), 422),
        ("tokens", json!({"kind": "agent", "labels": label("3")}), 422),
        ("tokens", json!({"kind": "agent", "parent": "p", "id": "b", "labels": label("3")}), 409),
        ("tokens", json!({"kind": "agent", "parent": "p", "id_prefix": "b", "labels": label("3")}), 409),
        ("tokens", json!({"kind": "agent", "parent": "p", "id": "a", "labels": label("3")}), 503),
    ] {
        let (status, answer) = api.post("operator@3", &format!("/api/admin/{path}"), &body).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
    }
}

/// A route that does not narrow its answers is closed to whoever reaches a part only.
#[tokio::test]
async fn routes_for_the_whole_are_closed() {
    let api = two_sites();
    let whole: Vec<_> = api.table.operations.iter().filter(|route| !route.scoped).collect();
    assert!(whole.iter().any(|route| route.path == "/metrics"));
    for route in whole.into_iter().filter(|route| route.permission != Permission::Open) {
        let request = api.request("admin@3", &route.method, &route.path.replace("{id}", "a"));
        let (status, _, body) = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, 403, "{} {}: {body}", route.method, route.path);
    }
}
