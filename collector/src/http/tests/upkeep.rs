//! Jobs, purges and maintenance windows through the whole router.

use std::time::Duration;

use rollcall_common::{id::Seq, lifecycle::Status, time::Timestamp};
use serde_json::{Value, json};

use super::{Api, router};
use crate::{
    http::fixture::{NOW, World, row},
    store::rows::{RowId, Selector, ServiceKeyText, ServiceRow, WindowRow},
};

const DAY: Duration = Duration::from_secs(86_400);

fn since(key: &str, status: Status, days: u32) -> ServiceRow {
    ServiceRow { status, status_since: NOW.before(DAY * days), ..row(key) }
}

fn api(rows: &[ServiceRow], windows: Vec<WindowRow>) -> Api {
    let world = World::new(rows).working_on(windows);
    let (router, table) = router(world.state(world.registry()));
    Api { world, router, table }
}

fn window(n: u128, selector: Selector, from: i64, to: i64) -> WindowRow {
    WindowRow {
        id: RowId::numbered(n),
        selector,
        starts_at: Timestamp(NOW.0 + from),
        ends_at: Timestamp(NOW.0 + to),
        recurrence: None,
        reason: "new disks".into(),
        author: "credential:x".into(),
        created_at: NOW,
        ended_early: None,
        seq: Seq(5),
    }
}

fn below(root: &str) -> Selector {
    Selector { subtree: Some(ServiceKeyText(root.parse().unwrap())), ..Selector::default() }
}

#[tokio::test]
async fn a_purge_only_looks_unless_it_is_told_otherwise() {
    let api = api(
        &[
            since("poller/p", Status::Inactive, 100),
            since("agent/a", Status::Revoked, 100),
            since("checker/c", Status::Pending, 100),
            since("poller/q", Status::Deleted, 8),
            since("poller/fresh", Status::Deleted, 1),
            since("instance/i", Status::Active, 1_000),
        ],
        vec![],
    );
    let path = "/api/admin/services/purge";
    let names = |list: &Value| -> Vec<String> {
        let items = list.as_array().unwrap().iter();
        items.map(|item| format!("{}/{}", item["kind"].as_str().unwrap(), item["id"].as_str().unwrap())).collect()
    };
    // As the seeds have it: without the pending ones, who keep their parents.
    let (status, view) = api.post("admin", path, &json!({})).await;
    assert_eq!((status, &view["dry_run"], &view["run"]), (200, &json!(true), &Value::Null), "{view}");
    assert_eq!(names(&view["going"]), ["poller/q"]);
    assert_eq!((&view["going"][0]["status"], &view["going"][0]["why"]), (&json!("deleted"), &json!("it was deleted")));
    assert_eq!(names(&view["kept"]), ["poller/p", "agent/a"]);
    assert_eq!(view["kept"][0]["why"], "it has children that stay");
    let all = json!({"statuses": ["pending", "inactive", "revoked", "deleted"]});
    let (_, view) = api.post("admin", path, &all).await;
    assert_eq!(names(&view["going"]), ["checker/c", "agent/a", "poller/p", "poller/q"], "leaves first");
    assert_eq!((&view["count"], &view["kept_count"]), (&json!(4), &json!(0)));
    let (_, view) = api.post("admin", path, &json!({"retention_days": 0, "statuses": ["deleted"]})).await;
    assert_eq!(names(&view["going"]), ["poller/q", "poller/fresh"]);

    for (body, expected, code) in [
        (json!({"expect": 2}), 409, "unexpected_count"),
        (json!({"dry_run": false, "expect": 7}), 409, "unexpected_count"),
        (json!({"statuses": ["active"]}), 422, "invalid"),
        (json!({"statuses": ["asleep"]}), 422, "invalid"),
        (json!({"retention_days": -1}), 422, "invalid"),
        (json!({"retention_days": 40_000}), 422, "invalid"),
        (json!({"everything": true}), 422, "invalid"),
        // The jobs of this world do not run.
        (json!({"dry_run": false, "expect": 1}), 503, "draining"),
    ] {
        let (status, problem) = api.post("admin", path, &body).await;
        assert_eq!((status, &problem["code"]), (expected, &json!(code)), "{body}: {problem}");
    }
    assert_eq!(api.post("operator", path, &json!({})).await.0, 403);
}

#[tokio::test]
async fn jobs_show_what_they_go_by() {
    let api = api(&[row("poller/p")], vec![]);
    let (status, list) = api.get("viewer", "/api/admin/jobs").await;
    assert_eq!(status, 200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|job| job["name"].clone()).collect();
    assert_eq!(names, ["mark_inactive", "archive", "purge", "ephemeral", "retention"]);
    let (_, job) = api.get("viewer", "/api/admin/jobs/purge").await;
    assert_eq!((&job["schedule"], &job["enabled"], &job["cap"]), (&json!("0 2 * * *"), &json!(true), &json!(10_000)));
    assert_eq!((&job["last_run"], &job["held_by"], &job["running"]), (&Value::Null, &Value::Null, &json!(false)));
    let (status, problem) = api.get("viewer", "/api/admin/jobs/bake").await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_job")));
    assert!(problem["detail"].as_str().unwrap().contains("mark_inactive"), "{problem}");
    let run = format!("/api/admin/jobs/purge/runs/{}", RowId::numbered(7));
    assert_eq!(api.get("viewer", &run).await.1["code"], "unknown_run");
    assert_eq!(api.get("viewer", "/api/admin/jobs/purge/runs/x").await.1["code"], "invalid_id");
    for (path, body, expected) in [
        ("/api/admin/jobs/purge/run", json!({"dry_run": true}), 503),
        ("/api/admin/jobs/retention/run", json!({"dry_run": true}), 503),
        ("/api/admin/jobs/purge/run", json!({"now": true}), 422),
        ("/api/admin/jobs/bake/run", json!({}), 404),
    ] {
        let (status, problem) = api.post("admin", path, &body).await;
        assert_eq!(status, expected, "{path} {body}: {problem}");
    }
    for (body, expected) in [
        (json!({}), 422),
        (json!({"paused_until": "soon"}), 422),
        (json!({"enabled": "yes"}), 422),
        (json!({"enabled": null, "paused_until": null}), 503),
        (json!({"enabled": false, "paused_until": "2027-02-01T00:00:00Z"}), 503),
    ] {
        let (status, problem) = api.put("admin", "/api/admin/jobs/purge", &body).await;
        assert_eq!(status, expected, "{body}: {problem}");
    }
}

#[tokio::test]
async fn what_is_worked_on_shows_it_everywhere() {
    let rows = ["poller/p", "agent/a", "instance/i"].map(row);
    let api = api(&rows, vec![window(1, below("poller/p"), -10, 60_000), window(2, below("poller/p"), 90_000, 99_000)]);
    let (_, agent) = api.get("viewer", "/api/admin/services/agents/a").await;
    let expected = json!({
        "id": RowId::numbered(1).to_string(),
        "until": Timestamp(NOW.0 + 60_000).to_string(),
        "reason": "new disks",
    });
    assert_eq!(agent["maintenance"], expected);
    assert_eq!(api.get("viewer", "/api/admin/services/instances/i").await.1["maintenance"], Value::Null);
    let ids = async |query: &str| {
        let (_, page) = api.get("viewer", &format!("/api/admin/services?maintenance={query}")).await;
        page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids("true").await, ["p", "a"]);
    assert_eq!(ids("false").await, ["i"]);
    // An act on many selects by the very same word.
    for (word, list) in [("true", "maintenance=true"), ("false", "maintenance=false")] {
        let (_, page) = api.get("viewer", &format!("/api/admin/services?{list}")).await;
        let body = json!({"act": "revoke", "selector": {"maintenance": word}});
        let (_, seen) = api.post("admin", "/api/admin/services/bulk", &body).await;
        assert_eq!(seen["count"].as_u64(), Some(page["items"].as_array().unwrap().len() as u64), "{seen}");
    }
    assert_eq!(api.get("viewer", "/api/admin/services?maintenance=maybe").await.0, 400);
    let (_, stats) = api.get("viewer", "/api/admin/services/stats").await;
    assert_eq!((&stats["maintenance"], &stats["kinds"]["agents"]["maintenance"]), (&json!(2), &json!(1)));
    let (_, text) = api.get("metrics", "/metrics").await;
    assert!(text.as_str().unwrap().contains("\nrollcall_services_in_maintenance 2\n"), "{text}");

    let (_, page) = api.get("viewer", "/api/admin/maintenance?limit=1").await;
    assert_eq!((&page["items"][0]["state"], &page["items"][0]["until"]), (&json!("scheduled"), &Value::Null));
    let next = page["next"].as_str().unwrap();
    let (_, page) = api.get("viewer", &format!("/api/admin/maintenance?limit=1&cursor={next}")).await;
    assert_eq!((&page["items"][0]["state"], &page["next"]), (&json!("active"), &Value::Null));
    let (_, page) = api.get("viewer", "/api/admin/maintenance?state=ended").await;
    assert_eq!(page["items"], json!([]));
    assert_eq!(api.get("viewer", "/api/admin/maintenance?state=over").await.0, 400);
    let (_, one) = api.get("viewer", &format!("/api/admin/maintenance/{}", RowId::numbered(1))).await;
    assert_eq!((&one["covers"], &one["services"]), (&json!(2), &json!(["poller/p", "agent/a"])));

    // The minute is over, and nobody had to say so.
    api.world.clock.advance(Duration::from_secs(60));
    assert_eq!(api.get("viewer", "/api/admin/services/agents/a").await.1["maintenance"], Value::Null);
}

#[tokio::test]
async fn a_window_that_does_not_end_or_covers_nobody_is_refused() {
    let api = api(&[row("poller/p")], vec![]);
    let path = "/api/admin/maintenance";
    let good = json!({"selector": {"subtree": "poller/p"}, "for": "2h", "reason": "new disks"});
    assert_eq!(api.post("operator", path, &good).await.0, 503, "it got as far as the registry");
    assert_eq!(api.post("viewer", path, &good).await.0, 403);
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let mut endless = good.clone();
    endless.as_object_mut().unwrap().remove("for");
    let mut recurring = endless.clone();
    recurring["cron"] = json!("0 3 * * 0");
    let mut unexplained = good.clone();
    unexplained.as_object_mut().unwrap().remove("reason");
    for (body, word) in [
        (endless, "say when it ends"),
        (unexplained, "missing field `reason`"),
        (with("ends_at", json!("2027-02-01T00:00:00Z")), "either for or ends_at"),
        (with("starts_at", json!("tomorrow")), "is no time"),
        (with("for", json!("long")), "is no duration"),
        (with("selector", json!({"services": ["edge-17"]})), "write kind/id"),
        (with("selector", json!({"everything": true})), "unknown field"),
        (recurring, "how long each one lasts"),
    ] {
        let (status, problem) = api.post("operator", path, &body).await;
        assert_eq!(status, 422, "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{body}: {problem}");
    }
    let nobody = format!("{path}/{}", RowId::numbered(9));
    assert_eq!(api.get("viewer", &nobody).await.1["code"], "unknown_window");
    assert_eq!(api.get("viewer", &format!("{path}/UPPER")).await.1["code"], "invalid_id");
}
