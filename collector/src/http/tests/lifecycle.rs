//! Registration, edits, acts and bulk work through the router, on a real registry with a SQLite store.

use rollcall_common::{id::BootId, time::Clock};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    audit::sealer::Sealer,
    http::fixture::PACE,
    registry::{Actor, Whoami},
    store::{
        rows::{Change, Write},
        sqlite::SqliteStore,
        suite::samples::event,
    },
};

pub(super) struct Live {
    pub(super) api: Api,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    pub(super) registry: Registry,
    store: Arc<dyn RegistryStore>,
    dir: tempfile::TempDir,
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited by Live::close")]
fn start(actor: Actor, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(actor.run(stop))
}

impl Live {
    pub(super) async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(&[]);
        let store = Self::store(&dir).await;
        let credentials = world.credentials().into_iter().map(Write::InsertCredential).collect();
        let now = world.clock.now().wall;
        store.commit(&[Change { writes: credentials, audit: Vec::new() }], now).await.unwrap()[0].as_ref().unwrap();
        Self::on(dir, world, store).await
    }

    async fn store(dir: &tempfile::TempDir) -> Arc<dyn RegistryStore> {
        Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap())
    }

    /// Everything that memory held is gone; the store is what it was.
    pub(super) async fn restarted(self) -> Self {
        self.stop.cancel();
        self.task.await.unwrap();
        drop(self.store);
        let store = Self::store(&self.dir).await;
        Self::on(self.dir, self.api.world, store).await
    }

    async fn on(dir: tempfile::TempDir, world: World, store: Arc<dyn RegistryStore>) -> Self {
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "c1".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        let clock: Arc<dyn Clock> = Arc::<rollcall_common::time::ManualClock>::clone(&world.clock);
        let (actor, registry) =
            Actor::open(Arc::clone(&store), clock, whoami, (PACE, None), Arc::default()).await.unwrap();
        let stop = CancellationToken::new();
        let task = start(actor, stop.clone());
        let parts = Parts { store: Arc::clone(&store), ..world.parts(registry.clone()) };
        let (router, table) = router(Arc::new(State::new(parts, settings()).unwrap()));
        Self { api: Api { world, router, table }, stop, task, registry, store, dir }
    }

    pub(super) async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.send_as("admin", method, path, body).await
    }

    pub(super) async fn send_as(&self, role: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let path = format!("/api/admin/services{path}");
        let request = self.api.request(role, &method, &path).header(header::CONTENT_TYPE, "application/json");
        let (status, _, body) = self.api.send(request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), body)
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.api.get("admin", &format!("/api/admin/services{path}")).await
    }

    /// p > a, b > x, y under a; and q.
    async fn family(&self) {
        for (kinds, id, parent) in [
            ("pollers", "p", None),
            ("pollers", "q", None),
            ("agents", "a", Some("p")),
            ("agents", "b", Some("p")),
            ("checkers", "x", Some("a")),
            ("checkers", "y", Some("a")),
        ] {
            let (status, body) = self.post(&format!("/{kinds}"), json!({"id": id, "parent": parent})).await;
            assert_eq!(status, 201, "{body}");
        }
    }
}

#[tokio::test]
async fn a_registration_says_everything_and_is_refused_with_its_own_code() {
    let live = Live::open().await;
    let (status, body) = live
        .post(
            "/pollers",
            json!({
                "id": "p", "source": "k8s_spiffe", "spiffe_identity": "spiffe://k8s.example/ns/edge/sa/p",
                "labels": {"site": "3"}, "metadata": {"rack": "b7"}, "component_id": "c-9", "placeholder": true,
                "implicit_children": true, "ephemeral_after_secs": 600,
            }),
        )
        .await;
    assert_eq!(status, 201, "{body}");
    for (field, value) in [
        ("source", json!("k8s_spiffe")),
        ("spiffe_identity", json!("spiffe://k8s.example/ns/edge/sa/p")),
        ("placeholder", json!(true)),
        ("implicit_children", json!(true)),
        ("ephemeral_after_secs", json!(600)),
        ("component_id", json!("c-9")),
        ("labels", json!({"site": "3"})),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    assert!(body["created_by"].as_str().unwrap().starts_with("credential:"));
    assert_eq!(live.post("/agents", json!({"id": "a", "parent": "p"})).await.1["source"], "http");
    for (kinds, body, status, code) in [
        ("pollers", json!({"id": "p"}), 409, "exists"),
        ("agents", json!({"id": "n"}), 422, "parent_missing"),
        ("agents", json!({"id": "n", "parent": "nobody"}), 422, "parent_unknown"),
        ("checkers", json!({"id": "n", "parent": "p"}), 422, "parent_kind"),
        ("pollers", json!({"id": "n", "parent": "p"}), 422, "parent_unwanted"),
        ("pollers", json!({"id": "n", "source": "edge_onboarding"}), 422, "invalid"),
        ("pollers", json!({"id": "n", "source": "implicit"}), 422, "invalid"),
        ("pollers", json!({"id": "n", "source": "k8s_spiffe"}), 422, "spiffe_identity"),
        ("pollers", json!({"id": "n", "spiffe_identity": "spiffe://k8s.example/x"}), 422, "spiffe_identity"),
        ("pollers", json!({"id": "n", "ephemeral_after_secs": 0}), 422, "invalid"),
    ] {
        let (found, answer) = live.post(&format!("/{kinds}"), body.clone()).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{kinds} {body}: {answer}");
    }
    for (act, code) in [("revoke", "parent_revoked"), ("delete", "parent_deleted")] {
        let (status, body) = live.post("/pollers/p/status", json!({"act": act, "cascade": true})).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(live.post("/agents", json!({"id": "n", "parent": "p"})).await.1["code"], code);
    }
    live.close().await;
}

#[tokio::test]
async fn an_edit_is_a_merge_patch() {
    let live = Live::open().await;
    live.family().await;
    let patch = async |body: Value| live.send(Method::PATCH, "/agents/a", body).await;
    let (status, body) = patch(json!({"labels": {"site": "3", "env": "prod"}, "placeholder": true})).await;
    assert_eq!((status, &body["labels"]), (200, &json!({"site": "3", "env": "prod"})), "{body}");
    let (_, body) = patch(json!({"labels": {"env": null}})).await;
    assert_eq!((&body["labels"], &body["placeholder"]), (&json!({"site": "3"}), &json!(true)));
    for (body, code) in [
        (json!({"status": "active"}), "invalid"),
        (json!({"labels": {"Site": "3"}}), "invalid"),
        (json!({"spiffe_identity": "spiffe://other.example/x"}), "spiffe_identity"),
    ] {
        let (status, answer) = patch(body).await;
        assert_eq!((status, &answer["code"]), (422, &json!(code)), "{answer}");
    }
    assert_eq!(live.send(Method::PATCH, "/agents/nobody", json!({})).await.0, 404);
    // Whoever reaches a site only does not move a service out of it.
    let edit = async |body| live.send_as("operator@3", Method::PATCH, "/agents/a", body).await;
    assert_eq!(edit(json!({"metadata": {"rack": "7"}})).await.0, 200);
    assert_eq!(edit(json!({"labels": {"site": "4"}})).await.0, 422);
    assert_eq!(live.send_as("operator@3", Method::PATCH, "/agents/b", json!({})).await.0, 404);
    live.close().await;
}

#[tokio::test]
async fn what_is_known_is_right_at_once() {
    let live = Live::open().await;
    live.registry.set_known_pollers(["old".parse().unwrap(), "p".parse().unwrap()]);
    live.family().await;
    let known = async |path: &str| {
        let (status, body) = live.get(&format!("/{path}/known")).await;
        assert_eq!(status, 200, "{body}");
        (body["known"].as_bool().unwrap(), body["via"].as_str().unwrap().to_owned(), body["status"].clone())
    };
    assert_eq!(known("agents/a").await, (true, "registry".into(), json!("pending")));
    assert_eq!(known("agents/old").await, (false, "none".into(), Value::Null));
    assert_eq!(known("pollers/old").await, (true, "static".into(), Value::Null));
    live.post("/pollers/p/status", json!({"act": "revoke"})).await;
    assert_eq!(known("pollers/p").await, (false, "none".into(), json!("revoked")), "no list overrules a revocation");
    live.post("/agents/a/status", json!({"act": "delete", "cascade": true})).await;
    assert_eq!(known("checkers/x").await, (false, "none".into(), json!("deleted")));
    live.post("/agents/a/status", json!({"act": "recover"})).await;
    assert!(known("agents/a").await.0);
    assert!(live.registry.is_known(&"agent/b".parse().unwrap()).is_known());
    let (_, scoped) = live.api.get("viewer@3", "/api/admin/services/agents/b/known").await;
    assert_eq!((&scoped["known"], &scoped["status"]), (&json!(false), &Value::Null), "{scoped}");
    live.close().await;
}

#[tokio::test]
async fn acts_cascade_and_need_no_kind_where_one_has_the_id() {
    let live = Live::open().await;
    live.family().await;
    let (status, body) = live.send(Method::PUT, "/p/status", json!({"status": "deleted"})).await;
    assert_eq!((status, &body["code"], &body["children"]), (409, &json!("has_children"), &json!(2)), "{body}");
    let (status, body) = live.send(Method::PUT, "/p/status", json!({"status": "deleted", "cascade": true})).await;
    assert_eq!((status, &body["changed"], &body["status"]), (200, &json!(5), &json!("deleted")), "{body}");
    assert_eq!(live.post("/y/status", json!({"act": "recover"})).await.1["code"], "parent_deleted");
    live.post("/agents", json!({"id": "q", "parent": "q"})).await;
    assert_eq!(live.post("/q/status", json!({"act": "revoke"})).await.1["code"], "ambiguous");
    assert_eq!(live.post("/nobody/status", json!({"act": "revoke"})).await.0, 404);
    assert_eq!(live.post("/checkers/y/status", json!({"act": "recover", "cascade": true})).await.0, 422);
    // A caller with a scope takes nothing along that it does not reach.
    live.send(Method::PATCH, "/pollers/q", json!({"labels": {"site": "3"}})).await;
    let asked = json!({"act": "revoke", "cascade": true});
    let (status, body) = live.send_as("admin@3", Method::POST, "/pollers/q/status", asked).await;
    assert_eq!(status, 403, "{body}");
    live.close().await;
}

/// A name tells nothing of those who had it before.
#[tokio::test]
async fn a_scope_reads_nothing_of_a_former_holder_of_a_name() {
    let live = Live::open().await;
    let made = live.post("/pollers", json!({"id": "r", "labels": {"site": "9"}, "metadata": {"rack": "hidden"}})).await;
    assert_eq!(made.0, 201);
    for act in ["revoke", "delete"] {
        let (status, body) = live.post("/pollers/r/status", json!({"act": act})).await;
        assert_eq!(status, 200, "{act}: {body}");
    }
    let (status, body) = live.send(Method::DELETE, "/pollers/r", Value::Null).await;
    assert_eq!(status, 204, "{body}");
    // Whatever its importer says of its past.
    let item =
        json!({"kind": "poller", "id": "r", "labels": {"site": "3"}, "first_registered": "2020-01-01T00:00:00Z"});
    let (status, body) = live.post("/apply", json!({"items": [item], "backfill": true})).await;
    assert_eq!(status, 200, "{body}");
    for query in ["object=poller/r", "object=poller/r&until=2100-01-01T00:00:00Z", "action=service."] {
        let (status, page) = live.api.get("viewer@3", &format!("/api/admin/audit?{query}")).await;
        let actions: Vec<_> = page["items"].as_array().unwrap().iter().map(|event| event["action"].clone()).collect();
        assert_eq!((status, actions), (200, vec![json!("service.registered")]), "{query}: {page}");
        assert!(!page.to_string().contains("hidden"), "{page}");
    }
    let (_, whole) = live.api.get("viewer", "/api/admin/audit?object=poller/r").await;
    assert_eq!(whole["items"].as_array().unwrap().len(), 5, "{whole}");
    live.close().await;
}

#[tokio::test]
async fn a_re_enrollment_answers_a_token_once() {
    let live = Live::open().await;
    live.family().await;
    assert_eq!(live.post("/agents/b/reenroll", json!({})).await.1["code"], "no_arrow");
    // A token that would be refused cuts nobody off.
    let (status, body) = live.post("/agents/b/reenroll", json!({"revoke": true, "ttl": "60d"})).await;
    assert_eq!(status, 422, "{body}");
    assert_ne!(live.send(Method::GET, "/agents/b", Value::Null).await.1["status"], "revoked");
    let (status, body) = live.post("/agents/b/reenroll", json!({"revoke": true, "reason": "key lost"})).await;
    assert_eq!(status, 201, "{body}");
    assert!(body["token"].as_str().unwrap().starts_with("rollcall_enr1_"));
    assert_eq!((&body["kind"], &body["parent"], &body["max_uses"]), (&json!("agent"), &json!("p"), &json!(1)));
    assert_eq!(live.get("/agents/b").await.1["status"], "pending");
    assert_eq!(live.send_as("operator", Method::POST, "/agents/b/reenroll", json!({})).await.0, 403);
    live.close().await;
}

#[tokio::test]
async fn a_bulk_act_is_looked_at_first() {
    let live = Live::open().await;
    live.family().await;
    let ask = async |body: Value| live.post("/bulk", body).await;
    let (status, seen) = ask(json!({"act": "delete", "selector": {"subtree": "agent/a"}})).await;
    assert_eq!((status, &seen["count"], &seen["dry_run"], &seen["done"]), (200, &json!(3), &json!(true), &json!(0)));
    let names: Vec<_> = seen["changes"].as_array().unwrap().iter().map(|one| one["service"].clone()).collect();
    assert_eq!(names, ["checker/x", "checker/y", "agent/a"], "children first, so that their parent may follow");
    assert_eq!(seen["changes"][2], json!({"service": "agent/a", "before": "pending", "after": "deleted"}));

    let (_, alone) = ask(json!({"act": "delete", "services": ["poller/p"]})).await;
    assert_eq!((&alone["count"], &alone["refused"][0]["code"]), (&json!(0), &json!("has_children")));
    let (_, whole) = ask(json!({"act": "delete", "services": ["poller/p"], "cascade": true})).await;
    assert_eq!(whole["count"], 5);

    let real = |expect: Value| {
        json!({"act": "delete", "selector": {"subtree": "agent/a"}, "dry_run": false, "expect": expect,
               "reason": "spring"})
    };
    for expect in [Value::Null, json!(2)] {
        let (status, body) = ask(real(expect)).await;
        assert_eq!((status, &body["code"], &body["count"]), (409, &json!("unexpected_count"), &json!(3)), "{body}");
    }
    let (status, done) = ask(real(json!(3))).await;
    assert_eq!((status, &done["done"], &done["complete"]), (200, &json!(3), &json!(true)), "{done}");
    assert_eq!(live.get("/checkers/x").await.1["status"], "deleted");
    let (_, again) = ask(real(json!(0))).await;
    assert_eq!((&again["done"], &again["refused_count"]), (&json!(0), &json!(3)), "{again}");

    for (body, word) in [
        (json!({"act": "revoke"}), "say which"),
        (json!({"act": "purge", "selector": {"kind": "agent"}}), "is unknown"),
        (json!({"act": "revoke", "selector": {"limit": "3"}}), "no word"),
        (json!({"act": "revoke", "selector": {"status": ["pending", "active"]}}), "commas between them"),
        (json!({"act": "revoke", "selector": {"parent": ["p", "q"]}}), "takes one value"),
        (json!({"act": "recover", "selector": {"kind": "agent"}, "cascade": true}), "cascade"),
    ] {
        let (status, answer) = ask(body).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(word), "{answer}");
    }
    assert_eq!(ask(json!({"act": "revoke", "selector": {"status": "asleep"}})).await.0, 400);
    let bar = json!({"act": "revoke", "selector": {"kind": "agent"}});
    assert_eq!(live.send_as("operator", Method::POST, "/bulk", bar.clone()).await.0, 403);
    // Whoever reaches a site only selects within it.
    live.send(Method::PATCH, "/agents/b", json!({"labels": {"site": "3"}})).await;
    let (_, scoped) = live.send_as("admin@3", Method::POST, "/bulk", bar).await;
    assert_eq!((&scoped["count"], &scoped["changes"][0]["service"]), (&json!(1), &json!("agent/b")));
    live.close().await;
}

#[tokio::test]
async fn what_is_desired_is_applied_once() {
    let live = Live::open().await;
    let items = json!([
        {"kind": "checker", "id": "c", "parent": "a", "checker_kind": "snmp"},
        {"kind": "agent", "id": "a", "parent": "p", "labels": {"site": "3"}},
        {"kind": "poller", "id": "p", "placeholder": true},
        {"kind": "agent", "id": "lost", "parent": "nobody"},
        {"kind": "agent", "id": "a", "colour": "red"},
        17,
    ]);
    let counts = |body: &Value| ["created", "updated", "unchanged", "refused"].map(|word| body[word].as_u64().unwrap());
    let (status, body) = live.post("/apply", json!({"dry_run": true, "items": items})).await;
    assert_eq!((status, counts(&body)), (200, [3, 0, 0, 3]), "{body}");
    assert_eq!(live.get("/pollers/p").await.0, 404, "a dry run changes nothing");
    let (_, body) = live.post("/apply", json!({"items": items})).await;
    assert_eq!(counts(&body), [3, 0, 0, 3], "{body}");
    assert_eq!(body["items"][3]["code"], "parent_unknown");
    assert_eq!((&body["items"][4]["service"], &body["items"][4]["code"]), (&json!("agent/a"), &json!("invalid")));
    let (_, body) = live.post("/apply", json!({"items": items})).await;
    assert_eq!(counts(&body), [0, 0, 3, 3]);
    assert_eq!(live.get("/checkers/c").await.1["poller"], "p");
    assert_eq!(live.get("/agents/a").await.1["source"], "config");

    let lines = "{\"kind\":\"agent\",\"id\":\"a\",\"labels\":{\"site\":\"4\"}}\n\nnonsense\n";
    let path = "/api/admin/services/apply?recover=true";
    let request =
        live.api.request("operator", &Method::POST, path).header(header::CONTENT_TYPE, "application/x-ndjson");
    let (status, _, body) = live.api.send(request.body(Body::from(lines)).unwrap()).await;
    assert_eq!((status.as_u16(), counts(&body)), (200, [0, 1, 0, 1]), "{body}");
    let difference = json!([{"field": "labels.site", "before": "3", "after": "4"}]);
    assert_eq!(body["items"][0]["differences"], difference);

    let past = json!({"backfill": true, "items": [{"kind": "poller", "id": "old", "source": "edge_onboarding",
        "created_by": "migration", "first_seen": "2026-01-01T00:00:00Z", "status": "active"}]});
    assert_eq!(live.send_as("operator", Method::POST, "/apply", past.clone()).await.0, 403);
    let (_, body) = live.post("/apply", past).await;
    assert_eq!(counts(&body), [1, 0, 0, 0], "{body}");
    let (_, old) = live.get("/pollers/old").await;
    assert_eq!((&old["status"], &old["created_by"]), (&json!("inactive"), &json!("migration")));
    assert_eq!(old["first_seen"], "2026-01-01T00:00:00.000Z");

    let many: Vec<Value> = (0..1_001).map(|n| json!({"kind": "poller", "id": format!("p{n}")})).collect();
    assert_eq!(live.post("/apply", json!({"items": many})).await.0, 422);
    let (_, body) = live.post("/apply", json!({"items": many[..1_000]})).await;
    assert_eq!(counts(&body), [1_000, 0, 0, 0]);
    live.close().await;
}

#[tokio::test]
async fn an_export_of_the_trail_is_never_silently_short() {
    let live = Live::open().await;
    let audit = async |path: &str| {
        let request = live.api.request("admin", &Method::GET, &format!("/api/admin/audit/{path}"));
        let (status, answer, body) = live.api.send(request.body(Body::empty()).unwrap()).await;
        (status, answer.headers().clone(), body)
    };
    let sealer = Sealer::new(Arc::clone(&live.store), 1, Arc::default(), Arc::new(|_| {}));
    let burst = |n: usize| {
        let audit = (0..n).map(|n| event("service.did", &format!("agent/a{n}"))).collect();
        [Change { writes: Vec::new(), audit }]
    };
    let now = live.api.world.clock.now().wall;
    for change in [burst(3), burst(2)] {
        live.store.commit(&change, now).await.unwrap()[0].as_ref().unwrap();
        assert!(sealer.seal(true, now).await.unwrap());
    }
    let first = live.store.seals(0, 1).await.unwrap()[0].hash;
    let (_, _, found) = audit(&format!("verify?head={first}")).await;
    assert_eq!((&found["holds"], &found["head_met"]), (&json!(true), &json!(true)), "{found}");
    let (_, _, found) = audit(&format!("verify?after=1&head={first}")).await;
    assert_eq!((&found["holds"], &found["head_met"]), (&json!(true), &json!(true)), "the part begins there: {found}");
    let (_, _, found) = audit(&format!("verify?after=2&head={first}")).await;
    assert_eq!((&found["broken"]["kind"], &found["head_met"]), (&json!("head"), &json!(false)), "{found}");

    live.store.commit(&burst(999), now).await.unwrap()[0].as_ref().unwrap();
    let (status, headers, lines) = audit("export").await;
    assert_eq!((status.as_u16(), headers.get("x-next")), (200, None));
    assert_eq!(lines.as_str().unwrap().lines().count(), 3 + 1 + 2 + 1 + 999);
    // One more, and nobody can tell from here whether it is the last one.
    live.store.commit(&burst(1), now).await.unwrap()[0].as_ref().unwrap();
    let (_, headers, lines) = audit("export").await;
    assert_eq!(headers["x-next"], "2", "until it is sealed");
    assert_eq!(lines.as_str().unwrap().lines().count(), 3 + 1 + 2 + 1);
    assert!(sealer.seal(false, now).await.unwrap());
    let (_, headers, lines) = audit("export?after=2").await;
    assert_eq!((headers.get("x-next"), lines.as_str().unwrap().lines().count()), (None, 1_001));
    let (status, _, problem) = audit("export?after=9").await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid_query")), "{problem}");
    live.close().await;
}
