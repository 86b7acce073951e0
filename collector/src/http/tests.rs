//! The whole router: who may do what, what every answer carries, and how it ends. The registry behind it
//! stands still, so that a change which gets through is answered with 503 and nothing else.

use std::collections::BTreeMap;

use axum::{
    body::{Body, to_bytes},
    http::{StatusCode, request::Builder},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    access::{Permission, Role},
    fixture::{World, row, settings},
    routes::Operation,
    server::Peer,
    *,
};

fn world() -> World {
    let mut rows: Vec<_> = ["poller/p", "agent/a", "checker/c", "instance/i", "poller/x", "agent/x"].map(row).into();
    for row in &mut rows {
        row.status = rollcall_common::lifecycle::Status::Active;
    }
    World::new(&rows)
}

struct Api {
    world: World,
    router: Router,
    table: Table,
}

impl Api {
    fn new() -> Self {
        let world = world();
        let (router, table) = router(world.state(world.registry().beaten("agent/a")));
        Self { world, router, table }
    }

    /// A request as the role whose word is given; an unknown word sends no credential.
    fn request(&self, role: &str, method: &Method, path: &str) -> Builder {
        let request = axum::http::Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:7410");
        match self.world.credentials.get(role) {
            Some(credential) => request.header(header::AUTHORIZATION, format!("Bearer {credential}")),
            None => request,
        }
    }

    async fn send(&self, mut request: axum::http::Request<Body>) -> (StatusCode, Response<()>, Value) {
        request.extensions_mut().insert(Peer::Net("127.0.0.1:5".parse().unwrap()));
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        // Whatever is answered, the table declares it.
        if let Some(operation) = parts.extensions.get::<Arc<Operation>>() {
            let status = parts.status.as_u16();
            let name = format!("{} {} answered {status}", operation.method, operation.path);
            match parts.extensions.get::<ProblemCode>() {
                Some(code) => assert!(operation.problems().contains(code), "{name} {}: undeclared", code.as_str()),
                None => assert!(operation.answers.iter().any(|answer| answer.status == status), "{name}: undeclared"),
            }
        }
        // A stream ends when its reader has enough.
        let is_stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|media| media == "text/event-stream");
        let body = if is_stream { Body::empty() } else { body };
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (parts.status, Response::from_parts(parts, ()), value)
    }

    async fn get(&self, role: &str, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send(self.request(role, &Method::GET, path).body(Body::empty()).unwrap()).await;
        (status.as_u16(), body)
    }

    async fn post(&self, role: &str, path: &str, body: &Value) -> (u16, Value) {
        self.change(role, &Method::POST, path, body).await
    }

    async fn put(&self, role: &str, path: &str, body: &Value) -> (u16, Value) {
        self.change(role, &Method::PUT, path, body).await
    }

    async fn change(&self, role: &str, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.request(role, method, path).header(header::CONTENT_TYPE, "application/json");
        let (status, _, body) = self.send(request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), body)
    }
}

type Response<T> = axum::http::Response<T>;

/// Everything that is served, written down once more: a route that is added, moved or opened shows here.
fn declared() -> BTreeMap<(String, String), Permission> {
    use Permission as P;
    let mut all = vec![
        ("GET", "/livez".to_owned(), P::Open),
        ("GET", "/readyz".into(), P::Open),
        ("GET", "/metrics".into(), P::Scrape),
        ("GET", "/api/openapi.json".into(), P::Open),
        ("GET", "/api/docs".into(), P::Open),
        ("GET", "/api/docs/{file}".into(), P::Open),
        ("GET", "/api/admin/whoami".into(), P::Know),
        ("GET", "/api/admin/approvals".into(), P::Read),
        ("GET", "/api/admin/approvals/{id}".into(), P::Read),
        ("POST", "/api/admin/approvals/{id}/approve".into(), P::Operate),
        ("POST", "/api/admin/approvals/{id}/reject".into(), P::Operate),
        ("GET", "/api/admin/knocks".into(), P::Read),
        ("DELETE", "/api/admin/knocks".into(), P::Operate),
        ("DELETE", "/api/admin/knocks/{id}".into(), P::Operate),
        ("GET", "/api/admin/keys".into(), P::Administer),
        ("POST", "/api/admin/keys".into(), P::Administer),
        ("GET", "/api/admin/keys/{id}".into(), P::Administer),
        ("POST", "/api/admin/keys/{id}/revoke".into(), P::Administer),
        ("POST", "/api/admin/bootstrap/close".into(), P::Administer),
        ("GET", "/api/admin/sd".into(), P::Read),
        ("GET", "/api/admin/services".into(), P::Read),
        ("GET", "/api/admin/services/stats".into(), P::Read),
        ("GET", "/api/admin/services/tree".into(), P::Read),
        ("GET", "/api/admin/services/{id}".into(), P::Read),
        ("POST", "/api/admin/services/{id}/status".into(), P::Operate),
        ("PUT", "/api/admin/services/{id}/status".into(), P::Operate),
        ("POST", "/api/admin/services/bulk".into(), P::Operate),
        ("POST", "/api/admin/services/apply".into(), P::Operate),
        ("GET", "/api/admin/services/pollers/{id}/agents".into(), P::Read),
        ("GET", "/api/admin/services/agents/{id}/checkers".into(), P::Read),
        ("GET", "/api/admin/audit".into(), P::Read),
        ("GET", "/api/admin/audit/seals".into(), P::Read),
        ("GET", "/api/admin/audit/verify".into(), P::Read),
        ("GET", "/api/admin/audit/export".into(), P::Read),
        ("GET", "/api/admin/feed".into(), P::Read),
        ("GET", "/api/admin/changes".into(), P::Read),
        ("POST", "/api/admin/login".into(), P::Open),
        ("POST", "/api/admin/login/codes".into(), P::Administer),
        ("POST", "/api/admin/logout".into(), P::Administer),
        ("GET", "/api/admin/tokens".into(), P::Read),
        ("POST", "/api/admin/tokens".into(), P::Mint),
        ("GET", "/api/admin/tokens/{id}".into(), P::Read),
        ("POST", "/api/admin/tokens/{id}/revoke".into(), P::Operate),
        ("GET", "/api/admin/packages".into(), P::Read),
        ("POST", "/api/admin/packages".into(), P::Operate),
        ("GET", "/api/admin/packages/{id}".into(), P::Read),
        ("DELETE", "/api/admin/packages/{id}".into(), P::Operate),
        ("POST", "/api/admin/packages/{id}/download".into(), P::Operate),
        ("POST", "/api/admin/packages/{id}/reissue".into(), P::Operate),
        ("POST", "/api/admin/packages/{id}/revoke".into(), P::Operate),
        ("POST", "/api/packages/download".into(), P::Open),
        ("GET", "/api/admin/jobs".into(), P::Read),
        ("GET", "/api/admin/jobs/{name}".into(), P::Read),
        ("PUT", "/api/admin/jobs/{name}".into(), P::Administer),
        ("POST", "/api/admin/jobs/{name}/run".into(), P::Administer),
        ("GET", "/api/admin/jobs/{name}/runs/{id}".into(), P::Read),
        ("POST", "/api/admin/jobs/{name}/confirm".into(), P::Administer),
        ("POST", "/api/admin/services/purge".into(), P::Administer),
        ("GET", "/api/admin/maintenance".into(), P::Read),
        ("POST", "/api/admin/maintenance".into(), P::Operate),
        ("GET", "/api/admin/maintenance/{id}".into(), P::Read),
        ("PATCH", "/api/admin/maintenance/{id}".into(), P::Operate),
        ("DELETE", "/api/admin/maintenance/{id}".into(), P::Operate),
        ("GET", "/api/admin/config".into(), P::Read),
        ("GET", "/api/admin/config.tar.gz".into(), P::Read),
        ("GET", "/api/admin/config/pollers/{file}".into(), P::Read),
        ("GET", "/api/admin/config/pollers/{id}/agents/{file}".into(), P::Read),
        ("GET", "/api/admin/config/agents/{id}/checkers/{file}".into(), P::Read),
        ("GET", "/api/admin/config/instances/{file}".into(), P::Read),
    ];
    for kind in ["pollers", "agents", "checkers", "instances"] {
        let all_of = format!("/api/admin/services/{kind}");
        all.extend([
            ("GET", all_of.clone(), P::Read),
            ("POST", all_of.clone(), P::Operate),
            ("GET", format!("{all_of}/{{id}}"), P::Read),
            ("DELETE", format!("{all_of}/{{id}}"), P::Administer),
            ("PATCH", format!("{all_of}/{{id}}"), P::Operate),
            ("POST", format!("{all_of}/{{id}}/reenroll"), P::Administer),
            ("GET", format!("{all_of}/{{id}}/known"), P::Read),
            ("POST", format!("{all_of}/{{id}}/status"), P::Operate),
            ("PUT", format!("{all_of}/{{id}}/status"), P::Operate),
            ("GET", format!("{all_of}/{{id}}/history"), P::Read),
            ("GET", format!("{all_of}/{{id}}/settings"), P::Read),
            ("PUT", format!("{all_of}/{{id}}/settings"), P::Operate),
            ("DELETE", format!("{all_of}/{{id}}/settings"), P::Operate),
        ]);
    }
    all.into_iter().map(|(method, path, permission)| ((method.to_owned(), path), permission)).collect()
}

#[test]
fn the_table_is_the_declared_one() {
    let world = world();
    let (_, table) = router(world.state(world.registry()));
    let count = table.operations.len();
    let served: BTreeMap<_, _> = table
        .operations
        .iter()
        .map(|route| ((route.method.to_string(), route.path.clone()), route.permission))
        .collect();
    assert_eq!(served.len(), count, "each route once");
    assert_eq!(served, declared());
}

/// H6: every route for every role, for nobody, and for a credential whose time is over.
#[tokio::test]
async fn every_route_lets_in_exactly_its_roles() {
    let api = Api::new();
    for route in &api.table.operations {
        let token = format!("{}", rollcall_common::token::TokenId([1; 10]));
        let id = if route.path.contains("/tokens/") || route.path.contains("/keys/") { &token } else { "a" };
        let path = route.path.replace("{id}", id).replace("{file}", "start.js").replace("{name}", "purge");
        let ask = async |role: &str| {
            let request = api.request(role, &route.method, &path).header(header::CONTENT_TYPE, "application/json");
            api.send(request.body(Body::from("{}")).unwrap()).await.0.as_u16()
        };
        for role in Role::ALL {
            let status = ask(role.as_str()).await;
            let name = format!("{} {path} as {}: {status}", route.method, role.as_str());
            if role.may(route.permission) {
                assert!(status != 401 && status != 403 && status != 405 && status != 500, "{name}");
            } else {
                assert_eq!(status, 403, "{name}");
            }
        }
        for role in ["nobody", "expired"] {
            let status = ask(role).await;
            // Failures may be braked by now, as they all come from one address.
            let refused = status == 401 || status == 429;
            assert_eq!(refused, route.permission != Permission::Open, "{} {path} as {role}: {status}", route.method);
        }
    }
}

/// The body decides whether a change of status takes an administrator.
#[tokio::test]
async fn an_operator_lets_back_in_and_does_not_bar() {
    let api = Api::new();
    let path = "/api/admin/services/agents/a/status";
    for (role, body, expected) in [
        ("operator", json!({"act": "revoke"}), 403),
        ("operator", json!({"status": "deleted"}), 403),
        ("operator", json!({"act": "unrevoke"}), 503),
        ("admin", json!({"act": "revoke", "reason": "gone"}), 503),
        ("admin", json!({"status": "revoked"}), 503),
        ("admin", json!({"status": "active"}), 409),
        ("admin", json!({"status": "asleep"}), 422),
        ("admin", json!({"act": "purge"}), 422),
    ] {
        let (status, document) = api.post(role, path, &body).await;
        assert_eq!(status, expected, "{role} {body}: {document}");
    }
}

#[tokio::test]
async fn lists_answer_in_the_released_envelope() {
    let api = Api::new();
    let (status, page) = api.get("viewer", "/api/admin/services/pollers?limit=1").await;
    assert_eq!(status, 200, "{page}");
    assert_eq!((&page["seq"], &page["epoch"]), (&json!(41), &json!(2)));
    assert_eq!(page["items"][0]["id"], "p");
    let next = page["next"].as_str().unwrap();
    let (_, page) = api.get("viewer", &format!("/api/admin/services/pollers?limit=1&cursor={next}")).await;
    assert_eq!((&page["items"][0]["id"], &page["next"]), (&json!("x"), &Value::Null));

    let (_, page) = api.get("viewer", "/api/admin/services?presence=alive").await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
    assert_eq!(page["items"][0]["last_seen"], "2027-01-15T08:00:00.000Z");
    let (_, page) = api.get("viewer", "/api/admin/services/pollers/p/agents?status=active").await;
    let ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, ["a", "x"]);
    let (_, page) = api.get("viewer", "/api/admin/tokens?limit=2&state=usable").await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    let next = page["next"].as_str().unwrap();
    let (_, page) = api.get("viewer", &format!("/api/admin/tokens?limit=5&cursor={next}")).await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_lookup_without_a_kind_answers_where_it_is_unambiguous() {
    let api = Api::new();
    assert_eq!(api.get("viewer", "/api/admin/services/a").await.1["kind"], "agent");
    let (status, problem) = api.get("viewer", "/api/admin/services/x").await;
    assert_eq!((status, &problem["code"]), (409, &json!("ambiguous")));
    assert_eq!(problem["candidates"], json!(["poller/x", "agent/x"]));
    assert_eq!(api.get("viewer", "/api/admin/services/nobody").await.0, 404);
    assert_eq!(api.get("viewer", "/api/admin/services/agents/nobody").await.1["code"], "unknown_service");
    assert_eq!(api.get("viewer", "/api/admin/services/pollers/nobody/agents").await.0, 404);
}

/// H11: what is no id is refused before it is looked for.
#[tokio::test]
async fn hostile_ids_and_queries_are_refused_as_problems() {
    let api = Api::new();
    let long = format!("/api/admin/services/agents/{}", "a".repeat(10_000));
    for (path, statuses) in [
        ("/api/admin/services/agents/..%2f..%2fetc%2fpasswd", &[400][..]),
        ("/api/admin/services/agents/%2e%2e", &[400]),
        ("/api/admin/services/agents/a%00b", &[400]),
        ("/api/admin/services/agents/%ff", &[400]),
        ("/api/admin/services/agents/*", &[400]),
        ("/api/admin/services/agents/A", &[400]),
        ("/api/admin/services/agents/a%0d%0aSet-Cookie:x", &[400]),
        ("/api/admin/services/agents/%D0%B0", &[400]),
        (&long, &[400]),
        ("/api/admin/services/agents/a/b", &[404]),
        ("/api/admin/services/agents//a", &[404]),
        ("/api/admin/tokens/short", &[400]),
        ("/api/admin/services/agents?limit=100000", &[400]),
        ("/api/admin/services/agents?access_token=x", &[400]),
        ("/api/admin/services/agents?q=%ff", &[200, 400]),
        ("/api/admin/services/stats?x=1", &[400]),
        ("/api/admin/services/tree?root=agent/nobody", &[404]),
        ("/api/admin/audit?before=x", &[400]),
    ] {
        let (status, body) = api.get("admin", path).await;
        assert!(statuses.contains(&status), "{path}: {status} {body}");
        if status >= 400 {
            assert!(body["code"].is_string() && body["request_id"].is_string(), "{path}: {body}");
        }
    }
}

#[tokio::test]
async fn every_answer_names_its_request_and_is_not_kept_or_sniffed() {
    let api = Api::new();
    for (method, path, status) in [
        (Method::GET, "/livez", 200),
        (Method::GET, "/readyz", 200),
        (Method::GET, "/metrics", 401),
        (Method::GET, "/nowhere", 404),
        (Method::PATCH, "/api/admin/tokens", 405),
        (Method::OPTIONS, "/api/admin/services", 405),
    ] {
        let request = api.request("nobody", &method, path).header("origin", "https://evil.example");
        let (answered, answer, _) = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answered.as_u16(), status, "{method} {path}");
        let headers = answer.headers();
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self'"));
        assert!(!headers[REQUEST_ID].is_empty());
        assert!(
            !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) && !headers.contains_key(header::SET_COOKIE)
        );
        assert_eq!(headers.contains_key(header::ALLOW), status == 405);
        assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        if status >= 400 {
            assert_eq!(headers[header::CONTENT_TYPE], error::MEDIA_TYPE, "{path}");
        }
    }
    let named = |id: &str| {
        let request = api.request("nobody", &Method::GET, "/livez").header(REQUEST_ID, id);
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(api.send(named("mine-1")).await.1.headers()[REQUEST_ID], "mine-1");
    assert_ne!(api.send(named("not a modest one")).await.1.headers()[REQUEST_ID], "not a modest one");
}

/// H1, H18: nothing but the header counts, and a web page's own name is not served.
#[tokio::test]
async fn credentials_elsewhere_and_foreign_hosts_are_refused() {
    let api = Api::new();
    let credential = api.world.credentials["admin"].clone();
    let (status, _) = api.get("nobody", &format!("/api/admin/services?access_token={credential}")).await;
    assert_eq!(status, 401);
    for hosts in [&["evil.example"][..], &["127.0.0.1:7410", "evil.example"], &[]] {
        let mut request = axum::http::Request::builder().uri("/livez");
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let (status, _, body) = api.send(request.body(Body::empty()).unwrap()).await;
        assert!(status == StatusCode::MISDIRECTED_REQUEST || status == StatusCode::BAD_REQUEST, "{hosts:?} {body}");
    }
}

/// H17, H18: bodies are small, said to be JSON, and of the wanted shape.
#[tokio::test]
async fn bodies_are_bounded_and_must_be_json() {
    let api = Api::new();
    let path = "/api/admin/services/agents";
    let send = async |media: &str, body: String| {
        let request = api.request("admin", &Method::POST, path).header(header::CONTENT_TYPE, media);
        api.send(request.body(Body::from(body)).unwrap()).await
    };
    let good = json!({"id": "new", "parent": "p"}).to_string();
    let (status, answer, _) = send("application/json", good.clone()).await;
    assert_eq!(status, 503, "it got as far as the registry");
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(send("text/plain", good.clone()).await.0, 415);
    assert_eq!(send("application/x-www-form-urlencoded", "id=new".into()).await.0, 415);
    assert_eq!(send("application/json", format!("{{\"id\":\"{}\"}}", "x".repeat(70_000))).await.0, 413);
    assert_eq!(send("application/json", "{".into()).await.0, 400);
    assert_eq!(send("application/json", "[".repeat(20_000)).await.0, 422);
    let (status, _, problem) = send("application/json", json!({"id": "a", "status": "active"}).to_string()).await;
    assert_eq!(status, 422);
    assert!(problem["detail"].as_str().unwrap().contains("unknown field `status`"), "{problem}");
}

#[tokio::test]
async fn a_flood_of_bad_credentials_is_braked_without_locking_anyone_out() {
    let api = Api::new();
    let mut last = 0;
    for _ in 0..40 {
        last = api.get("nobody", "/api/admin/services").await.0;
    }
    assert_eq!(last, 429);
    assert_eq!(api.get("viewer", "/api/admin/services").await.0, 200);
}

#[tokio::test]
async fn a_deaf_store_is_a_503_without_its_address() {
    let api = Api::new();
    for path in ["/api/admin/audit", "/api/admin/services/agents/a/history"] {
        let (status, problem) = api.get("viewer", path).await;
        assert_eq!((status, &problem["code"]), (503, &json!("store_unavailable")), "{path}");
        assert!(!problem.to_string().contains("deaf"), "{problem}");
    }
}

#[tokio::test]
async fn metrics_are_complete() {
    let world = world();
    let registry = world.registry().beaten("agent/a");
    let change = crate::metrics::TransitionLabel { r#type: "agent", from: "pending", to: "active" };
    registry.metrics().transitions.get_or_create(&change).inc();
    let (router, table) = router(world.state(registry));
    let api = Api { world, router, table };
    api.get("viewer", "/api/admin/services/agents/a").await;
    let (status, text) = api.get("metrics", "/metrics").await;
    assert_eq!(status, 200);
    let text = text.as_str().unwrap();
    for line in [
        "# TYPE service_registry_services gauge",
        "service_registry_services{type=\"agent\",status=\"active\"} 2",
        "service_registry_services{type=\"checker\",status=\"deleted\"} 0",
        "service_registry_presence{type=\"agent\",presence=\"alive\"} 1",
        "service_registry_presence{type=\"agent\",presence=\"never_seen\"} 1",
        "service_registry_service_heartbeat_age_seconds{type=\"agent\",id=\"a\"} 0.0",
        "service_registry_state_transitions_total{type=\"agent\",from=\"pending\",to=\"active\"} 1",
        "rollcall_http_answers_total{route=\"/api/admin/services/agents/{id}\",method=\"GET\",status=\"200\"} 1",
        "rollcall_registry_store_up 1",
        "rollcall_connections{transport=\"quic\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn stats_and_tree_show_the_whole() {
    let api = Api::new();
    let (_, stats) = api.get("viewer", "/api/admin/services/stats").await;
    assert_eq!((&stats["total"], &stats["status"]["active"]), (&json!(6), &json!(6)));
    assert_eq!(stats["kinds"]["agents"]["presence"]["alive"], 1);
    assert_eq!((&stats["collector"], &stats["interval_ms"]), (&json!("c1"), &json!(10_000)));
    let (_, tree) = api.get("viewer", "/api/admin/services/tree?root=poller/p").await;
    assert_eq!(tree["items"][0]["children"][0]["children"][0]["id"], "c");
    assert_eq!(tree["truncated"], false);
}

#[tokio::test]
async fn readiness_falls_when_the_collector_drains() {
    let world = world();
    let state = world.state(world.registry());
    let (router, table) = router(Arc::clone(&state));
    let api = Api { world, router, table };
    assert_eq!(api.get("nobody", "/readyz").await.0, 200);
    state.draining.cancel();
    let (status, body) = api.get("nobody", "/readyz").await;
    assert_eq!((status, &body["draining"], &body["ready"]), (503, &json!(true), &json!(false)));
    assert_eq!(api.get("nobody", "/livez").await.0, 200);
}

mod discovery;
mod lifecycle;
mod once;
mod refusals;
mod scoped;
mod scopes;
mod served;
mod settings;
mod tags;
mod upkeep;

/// Tags, positions and picked members, over the whole router.
mod positions {
    use super::*;

    fn ask(api: &Api, method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> axum::http::Request<Body> {
        let mut request = api.request("admin", method, path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(body.to_owned())).unwrap()
    }

    #[tokio::test]
    async fn a_detail_has_a_tag_and_is_spared_to_whoever_has_it() {
        let api = Api::new();
        let token = format!("/api/admin/tokens/{}", rollcall_common::token::TokenId([1; 10]));
        for (path, tag) in
            [("/api/admin/services/agents/a", "\"2-3\""), ("/api/admin/services/a", "\"2-3\""), (&token, "\"2-9\"")]
        {
            let (status, answer, _) = api.send(ask(&api, &Method::GET, path, &[], "")).await;
            assert_eq!((status.as_u16(), answer.headers()[header::ETAG].to_str().unwrap()), (200, tag), "{path}");
            for (wanted, status) in
                [(tag, 304), ("*", 304), ("\"2-2\"", 200), ("\"1-3\"", 200), ("W/\"2-3\"", 200), ("nonsense", 400)]
            {
                let request = ask(&api, &Method::GET, path, &[("if-none-match", wanted)], "");
                let (answered, answer, body) = api.send(request).await;
                assert_eq!(answered.as_u16(), status, "{path} {wanted}");
                assert!(status != 304 || (body == "" && answer.headers()[header::ETAG] == tag));
            }
        }
    }

    /// What is bound to a tag gets as far as the registry, which compares; what cannot be bound is refused.
    #[tokio::test]
    async fn only_what_heeds_a_tag_takes_one() {
        let api = Api::new();
        let path = "/api/admin/services/agents/a/status";
        let body = r#"{"act":"revoke"}"#;
        assert_eq!(api.send(ask(&api, &Method::PUT, path, &[("if-match", "\"2-3\"")], body)).await.0, 503);
        assert_eq!(api.send(ask(&api, &Method::PUT, path, &[("if-match", "2-3")], body)).await.0, 400);
        let (status, _, problem) =
            api.send(ask(&api, &Method::POST, "/api/admin/tokens", &[("if-match", "*")], "{}")).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid_head")));
        for route in &api.table.operations {
            assert!(!route.matches || route.changes(), "{}", route.path);
            assert!(!route.tagged || !route.changes(), "{}", route.path);
        }
    }

    #[tokio::test]
    async fn a_read_waits_for_what_its_caller_knows() {
        let api = Api::new();
        for (text, status, code) in [
            ("41", 200, None),
            ("2-41", 200, None),
            ("0", 200, None),
            ("42", 503, Some("behind")),
            ("1-41", 409, Some("other_epoch")),
            ("x", 400, Some("invalid_query")),
        ] {
            let (answered, body) = api.get("viewer", &format!("/api/admin/services/agents/a?min_seq={text}")).await;
            assert_eq!((answered, body["code"].as_str()), (status, code), "{text}");
            if code == Some("behind") {
                assert_eq!((&body["seq"], &body["epoch"]), (&json!(41), &json!(2)));
                continue;
            }
            let request = ask(&api, &Method::GET, "/api/admin/services", &[("rollcall-min-seq", text)], "");
            let (answered, _, body) = api.send(request).await;
            assert_eq!((answered.as_u16(), body["code"].as_str()), (status, code), "{text} as a header");
        }
    }

    #[tokio::test]
    async fn a_list_goes_on_in_the_order_that_it_began_with() {
        let api = Api::new();
        for (path, expected) in [
            ("services?order=-key", vec!["i", "c", "x", "a", "x", "p"]),
            ("services?order=-last_seen&kind=agent", vec!["a", "x"]),
            ("services/agents?order=last_seen", vec!["x", "a"]),
            ("services/pollers/p/agents?order=-status_since", vec!["x", "a"]),
            ("services?order=first_registered&limit=6", vec!["p", "x", "a", "x", "c", "i"]),
        ] {
            let (mut ids, mut cursor) = (Vec::new(), String::new());
            loop {
                let more = if path.contains("limit") { "" } else { "&limit=1" };
                let (status, page) = api.get("viewer", &format!("/api/admin/{path}{more}{cursor}")).await;
                assert_eq!(status, 200, "{path}: {page}");
                ids.extend(
                    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
                );
                let Some(next) = page["next"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(ids, expected, "{path}");
        }
        let (_, page) = api.get("viewer", "/api/admin/services?order=-last_seen&limit=1").await;
        let next = page["next"].as_str().unwrap();
        for other in ["", "&order=last_seen", "&order=-status_since"] {
            let (status, problem) = api.get("viewer", &format!("/api/admin/services?cursor={next}{other}")).await;
            assert_eq!((status, &problem["code"]), (400, &json!("invalid_cursor")), "{other}");
            assert_eq!(problem["order"], "-last_seen");
        }
        let (status, problem) = api.get("viewer", "/api/admin/services?order=id").await;
        assert_eq!((status, &problem["parameter"]), (400, &json!("order")));
        assert!(problem["allowed"].as_array().unwrap().contains(&json!("-last_seen")));
    }

    #[tokio::test]
    async fn members_are_picked_in_lists_and_details() {
        let api = Api::new();
        let (_, page) = api.get("viewer", "/api/admin/services/pollers?fields=id,health.health&limit=1").await;
        assert_eq!(page["items"], json!([{"id": "p", "health": {"health": "unchecked"}}]));
        assert!(page["next"].is_string());
        let (_, detail) = api.get("viewer", "/api/admin/services/agents/a?fields=kind,host").await;
        assert_eq!(detail, json!({"kind": "agent", "host": null}));
        let (status, problem) = api.get("viewer", "/api/admin/services?fields=id,secret").await;
        assert_eq!((status, &problem["parameter"]), (400, &json!("fields")));
    }
}
