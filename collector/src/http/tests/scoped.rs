//! Whoever reaches one site works there with everything that is not the whole deployment's, and nowhere else.

use super::{lifecycle::Live, *};

async fn post(live: &Live, role: &str, path: &str, body: Value) -> (u16, Value) {
    live.api.post(role, &format!("/api/admin/{path}"), &body).await
}

/// `p` and its agent `a` at site 3, `q` at site 4, and `b` of site 4 below `p`.
async fn two_sites() -> Live {
    let live = Live::open().await;
    let at = |site: &str| json!({ "site": site });
    for (path, body) in [
        ("services/pollers", json!({"id": "p", "labels": at("3")})),
        ("services/pollers", json!({"id": "q", "labels": at("4")})),
        ("services/agents", json!({"id": "a", "parent": "p", "labels": at("3")})),
        ("services/agents", json!({"id": "b", "parent": "p", "labels": at("4")})),
    ] {
        let (status, made) = post(&live, "admin", path, body).await;
        assert_eq!(status, 201, "{made}");
    }
    live
}

fn window(selector: Value) -> Value {
    json!({"selector": selector, "for": "2h", "reason": "new disks"})
}

#[tokio::test]
async fn windows_stay_within_the_scope_for_ever() {
    let live = two_sites().await;
    for selector in
        [json!({"services": ["poller/q"]}), json!({"subtree": "poller/q"}), json!({"services": ["agent/b"]})]
    {
        let (status, problem) = post(&live, "operator@3", "maintenance", window(selector.clone())).await;
        assert_eq!((status, &problem["code"]), (404, &json!("unknown_service")), "{selector}");
    }
    let (_, whole) = post(&live, "operator", "maintenance", window(json!({"subtree": "poller/p"}))).await;
    let (_, other) = post(&live, "operator", "maintenance", window(json!({"labels": {"site": "4"}}))).await;
    let (_, ours) = post(&live, "operator", "maintenance", window(json!({"labels": {"site": "3"}}))).await;
    let (status, mine) = post(&live, "operator@3", "maintenance", window(json!({"subtree": "poller/p"}))).await;
    assert_eq!(status, 201, "{mine}");
    assert_eq!((&mine["selector"]["within"], &mine["covers"]), (&json!("site=3"), &json!(2)), "b is of another site");
    assert_eq!(whole["covers"], 3);
    let id = |window: &Value| window["id"].as_str().unwrap().to_owned();
    let listed = async |role: &str| {
        let (_, page) = live.api.get(role, "/api/admin/maintenance").await;
        let mut ids: Vec<_> = page["items"].as_array().unwrap().iter().map(&id).collect();
        ids.sort();
        ids
    };
    let mut reached = vec![id(&ours), id(&mine)];
    reached.sort();
    assert_eq!(listed("viewer@3").await, reached, "what can cover others is not there");
    assert_eq!(listed("viewer").await.len(), 4);
    for window in [&whole, &other] {
        let path = format!("/api/admin/maintenance/{}", id(window));
        assert_eq!(live.api.get("operator@3", &path).await.0, 404);
        let (status, _) = live.api.change("operator@3", &Method::PATCH, &path, &json!({"reason": "x"})).await;
        assert_eq!(status, 404);
        assert_eq!(live.api.change("operator@3", &Method::DELETE, &path, &Value::Null).await.0, 404);
    }
    // A service that leaves the site leaves the window, whoever moved it there.
    let path = "/api/admin/services/agents/a";
    let (status, _) = live.api.change("admin", &Method::PATCH, path, &json!({"labels": {"site": "4"}})).await;
    assert_eq!(status, 200);
    let mine = format!("/api/admin/maintenance/{}", id(&mine));
    assert_eq!(live.api.get("operator@3", &mine).await.1["services"], json!(["poller/p"]));
    for path in [mine, format!("/api/admin/maintenance/{}", id(&ours))] {
        let (status, ended) = live.api.change("operator@3", &Method::DELETE, &path, &Value::Null).await;
        assert_eq!((status, &ended["state"]), (200, &json!("ended")), "{ended}");
    }
    assert_eq!(live.api.get("operator@3", "/api/admin/jobs").await.0, 403, "jobs are the whole deployment's");
    live.close().await;
}

#[tokio::test]
async fn desired_state_is_applied_within_the_scope() {
    let live = two_sites().await;
    let at = |site: &str| json!({ "site": site });
    let items = json!([
        {"kind": "agent", "id": "n", "parent": "p", "labels": at("3")},
        {"kind": "poller", "id": "p", "labels": {"site": "3", "rack": "b"}},
        {"kind": "poller", "id": "q", "labels": {"rack": "b"}},
        {"kind": "agent", "id": "m", "parent": "q", "labels": at("3")},
        {"kind": "agent", "id": "b", "labels": at("3")},
        {"kind": "agent", "id": "o", "parent": "p"},
    ]);
    let expected = [
        ("created", ""),
        ("updated", ""),
        ("refused", "unknown_service"),
        ("refused", "parent_unknown"),
        ("refused", "unknown_service"),
        ("refused", "invalid"),
    ];
    for dry_run in [true, false] {
        let (status, view) =
            post(&live, "operator@3", "services/apply", json!({"items": items, "dry_run": dry_run})).await;
        assert_eq!(status, 200, "{view}");
        let outcomes = view["items"].as_array().unwrap().iter();
        let outcomes: Vec<_> = outcomes
            .map(|item| (item["outcome"].as_str().unwrap(), item["code"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(outcomes, expected, "dry_run={dry_run}");
    }
    assert_eq!(live.api.get("admin", "/api/admin/services/pollers/q").await.1["labels"], at("4"), "untouched");
    // The past of another registry, too, fills what lies within.
    let past = json!({"backfill": true, "items": [
        {"kind": "poller", "id": "old", "labels": at("3"), "status": "inactive", "last_seen": "2026-01-01T00:00:00Z"},
        {"kind": "poller", "id": "older", "labels": at("4"), "last_seen": "2026-01-01T00:00:00Z"},
    ]});
    assert_eq!(post(&live, "operator@3", "services/apply", past.clone()).await.0, 403, "it takes an administrator");
    let (status, view) = post(&live, "admin@3", "services/apply", past).await;
    assert_eq!((status, &view["created"], &view["refused"]), (200, &json!(1), &json!(1)), "{view}");
    assert_eq!(live.api.get("viewer@3", "/api/admin/services/pollers/old").await.1["status"], "inactive");
    live.close().await;
}
