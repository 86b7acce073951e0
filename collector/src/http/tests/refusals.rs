//! Refusals are counted by their code; denied acts are on record, and a flood of them mostly counted.

use std::time::Duration;

use super::{lifecycle::Live, *};

/// The path of an operation about things that are not there, or about `a`.
fn path_of(route: &Operation) -> String {
    let token = format!("{}", rollcall_common::token::TokenId([1; 10]));
    let id = if route.path.contains("/tokens/") || route.path.contains("/keys/") { &token } else { "a" };
    route.path.replace("{id}", id).replace("{file}", "start.js").replace("{name}", "purge")
}

/// Every route for everybody: whoever hears 401, 403 or 429 is counted once, under that very code, and nobody else.
#[tokio::test]
async fn every_refusal_is_counted_by_its_code() {
    let world = world();
    let state = world.state(world.registry());
    let (router, table) = router(Arc::clone(&state));
    let api = Api { world, router, table };
    let counted = || {
        [401, 403, 429].map(|status| {
            let codes = ProblemCode::ALL.iter().filter(|code| code.status().as_u16() == status);
            codes.map(|code| state.counts.problems_of(*code)).sum::<u64>()
        })
    };
    for route in &api.table.operations {
        let path = path_of(route);
        for role in Role::ALL.map(Role::as_str).into_iter().chain(["nobody", "expired"]) {
            let mut expected = counted();
            let request = api.request(role, &route.method, &path).header(header::CONTENT_TYPE, "application/json");
            let status = api.send(request.body(Body::from("{}")).unwrap()).await.0.as_u16();
            match status {
                401 => expected[0] += 1,
                403 => expected[1] += 1,
                429 => expected[2] += 1,
                _ => {}
            }
            assert_eq!(counted(), expected, "{} {path} as {role}: {status}", route.method);
        }
    }
    let [unauthenticated, forbidden, throttled] = counted();
    assert!(unauthenticated > 0 && forbidden > 100 && throttled > 0, "{unauthenticated} {forbidden} {throttled}");
}

/// What a caller may not do and tried is in the audit trail, whether the guard or the handler said no.
#[tokio::test]
async fn denied_acts_are_on_record_and_a_flood_of_them_is_not() {
    let live = Live::open().await;
    live.post("/pollers", json!({ "id": "p" })).await;
    let told = async || {
        let (status, page) = live.api.get("admin", "/api/admin/audit?action=access.denied&limit=500").await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    };
    let (status, _) = live.api.get("metrics", "/api/admin/services").await;
    assert_eq!((status, told().await.len()), (403, 0), "a look at what is not one's own changes nothing");
    // The body decides that this takes an administrator.
    let (status, problem) = live.send_as("operator", Method::POST, "/pollers/p/status", json!({"act": "revoke"})).await;
    assert_eq!(status, 403, "{problem}");
    let first = told().await;
    let [event] = first.as_slice() else { panic!("{first:?}") };
    let operator = live.api.get("operator", "/api/admin/whoami").await.1;
    assert_eq!((&event["actor"], &event["object"]), (&operator["actor"], &json!("api")));
    assert_eq!(event["details"]["operation"], "POST /api/admin/services/pollers/{id}/status");
    assert_eq!(event["details"]["why"], problem["detail"]);
    assert_eq!(event["request_id"], problem["request_id"]);
    let mut denied = 1;
    for route in &live.api.table.operations {
        if !route.changes() && route.permission != Permission::Administer {
            continue;
        }
        for role in Role::ALL.into_iter().filter(|role| !role.may(route.permission)) {
            let (status, problem) = live.api.change(role.as_str(), &route.method, &path_of(route), &json!({})).await;
            assert_eq!(status, 403, "{} {} as {}: {problem}", route.method, route.path, role.as_str());
            denied += 1;
        }
    }
    assert!(denied > 60, "{denied}");
    assert_eq!(told().await.len(), 20, "the rest is counted only");
    live.api.world.clock.advance(Duration::from_secs(2));
    for _ in 0..5 {
        live.api.post("viewer", "/api/admin/keys", &json!({})).await;
    }
    assert_eq!(told().await.len(), 22, "one a second comes back");
    assert_eq!(live.api.get("admin", "/api/admin/services/pollers/p").await.1["status"], "pending");
    live.close().await;
}
