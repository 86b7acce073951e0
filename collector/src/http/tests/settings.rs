//! Settings, progress and what a host says of itself, through the router, on a real registry.

use rollcall_common::{
    health::{Progress, ProgressReport, Text},
    wire::{
        message::About,
        settings::{ProbeState, SettingsRefused, SettingsState},
    },
};

use super::{lifecycle::Live, *};
use crate::{
    registry::{Notice, settings::Heard},
    store::{rows::Write, suite::samples},
};

const A: &str = "/agents/a/settings";

struct Scene {
    live: Live,
    made: u32,
}

impl Scene {
    async fn open() -> Self {
        let live = Live::open().await;
        for (kinds, id, parent) in [("pollers", "p", None), ("agents", "a", Some("p")), ("agents", "b", Some("p"))] {
            let body = json!({"id": id, "parent": parent, "labels": {"site": "3"}});
            assert_eq!(live.post(&format!("/{kinds}"), body).await.0, 201);
        }
        Self { live, made: 0 }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.live.send_as("admin", method, path, body).await
    }

    async fn put(&self, body: Value) -> (u16, Value) {
        self.send(Method::PUT, A, body).await
    }

    async fn look(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Has the registry hear something, and waits until it is on record: what is asked for later is committed later.
    async fn hears(&mut self, notice: impl FnOnce(crate::registry::roster::Slot) -> Notice) {
        let key: rollcall_common::id::ServiceKey = "agent/a".parse().unwrap();
        let slot = self.live.registry.read(|roster| roster.get(&key).unwrap().slot);
        self.live.registry.tell_surely(notice(slot)).await;
        self.made += 1;
        assert_eq!(self.live.post("/instances", json!({"id": format!("i{}", self.made)})).await.0, 201);
    }

    async fn audited(&self) -> Vec<String> {
        let (_, page) = self.live.api.get("admin", "/api/admin/audit?object=agent/a&limit=100").await;
        let items = page["items"].as_array().unwrap();
        items.iter().rev().map(|event| event["action"].as_str().unwrap().to_owned()).collect()
    }
}

fn state(revision: u64, refused: Option<u64>) -> Heard {
    let probe = |name: &str, allowed| ProbeState {
        child: None,
        probe: name.parse().unwrap(),
        sort: Text::fit("tcp"),
        allowed,
        runs: true,
        interval_ms: 10_000,
        timeout_ms: 3_000,
        rise: 2,
        fall: 3,
    };
    let refused = refused.map(|revision| SettingsRefused { revision, why: Text::fit("the disk is full") });
    let probes = vec![probe("port", true), probe("db", false)];
    Heard::State(Box::new(SettingsState { revision, refused, probes, more: 0 }))
}

#[tokio::test]
async fn settings_are_wanted_told_of_and_taken_back() {
    let mut scene = Scene::open().await;
    let bare = scene.look(A).await;
    assert_eq!((&bare["state"], &bare["revision"], &bare["wanted"]), (&json!("none"), &json!(0), &Value::Null));
    assert_eq!(bare["pace"], json!({"interval_ms": 10_000, "ttl_ms": 30_000}));
    let (status, view) = scene.put(json!({"interval": "1m", "probes": [{"probe": "port", "run": false}]})).await;
    assert_eq!((status, &view["state"], &view["revision"]), (200, &json!("pending"), &json!(1)), "{view}");
    assert_eq!(view["pace"], json!({"interval_ms": 60_000, "ttl_ms": 180_000}));
    assert_eq!(view["wanted"]["probes"][0]["run"], false);
    assert!(view["wanted"]["set_by"].as_str().unwrap().starts_with("credential:"));
    // The same again is no change, and moves no tag.
    let again = scene.put(json!({"interval": "60s", "probes": [{"probe": "port", "run": false}]})).await.1;
    assert_eq!(again, view);

    scene.hears(|slot| Notice::Settings(slot, state(0, Some(1)))).await;
    let view = scene.look(A).await;
    assert_eq!((&view["state"], &view["why"]), (&json!("refused"), &json!("the disk is full")));
    assert_eq!(scene.look("?settings=refused").await["items"][0]["id"], "a");
    scene.hears(|slot| Notice::Settings(slot, state(1, None))).await;
    let view = scene.look(A).await;
    assert_eq!((&view["state"], &view["in_force"]["revision"]), (&json!("applied"), &json!(1)));
    assert_eq!(view["in_force"]["probes"][1]["allowed"], false);
    assert_eq!(scene.look("?settings=applied,pending").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(scene.look("/agents/a?fields=settings").await, json!({"settings": "applied"}));
    let stats = scene.look("/stats").await;
    assert_eq!((&stats["settings"]["applied"], &stats["kinds"]["agents"]["settings"]["none"]), (&json!(1), &json!(1)));

    // Now it is known what the host has and allows.
    for (probe, status, code) in [("db", 409, "probe_not_allowed"), ("web", 422, "unknown_probe")] {
        let (found, problem) = scene.put(json!({"probes": [{"probe": probe, "run": false}]})).await;
        assert_eq!((found, &problem["code"], &problem["probe"]), (status, &json!(code), &json!(probe)), "{problem}");
    }
    let (status, view) = scene.send(Method::DELETE, A, Value::Null).await;
    assert_eq!((status, &view["state"], &view["wanted"]), (200, &json!("pending"), &Value::Null), "{view}");
    assert_eq!(view["pace"]["interval_ms"], 10_000);
    scene.hears(|slot| Notice::Settings(slot, state(2, None))).await;
    assert_eq!(scene.look(A).await["state"], "none");
    let told = scene.audited().await;
    let wanted = [
        "service.registered",
        "service.settings_changed",
        "settings.refused",
        "settings.applied",
        "service.settings_changed",
        "settings.applied",
    ];
    assert_eq!(told, wanted);
    // All of it outlives the process.
    let live = scene.live.restarted().await;
    let scene = Scene { live, made: 0 };
    let view = scene.look(A).await;
    assert_eq!((&view["revision"], &view["in_force"]["revision"]), (&json!(2), &json!(2)));
    scene.live.close().await;
}

#[tokio::test]
async fn what_cannot_be_wanted_is_refused_by_its_field() {
    let scene = Scene::open().await;
    for (body, field) in [
        (json!({"interval": "10ms"}), "interval"),
        (json!({"interval": "soon"}), "interval"),
        (json!({"ttl": "20s"}), "ttl"),
        (json!({"probes": [{"probe": "port", "interval": "1ms"}]}), "probes[0].interval"),
        (json!({"probes": [{"probe": "port", "run": true}, {"probe": "db", "rise": 0}]}), "probes[1].rise"),
        (json!({"probes": [{"probe": "port", "child": "robot/x", "run": true}]}), "probes[0].child"),
        (json!({"probes": [{"probe": "port"}]}), "probes[0].probe"),
    ] {
        let (status, problem) = scene.put(body.clone()).await;
        assert_eq!(
            (status, &problem["code"], &problem["field"]),
            (422, &json!("invalid"), &json!(field)),
            "{body}: {problem}"
        );
    }
    // Nothing else can be said: no command, no path, no target.
    for word in ["command", "path", "target", "url", "file", "type"] {
        let (status, _) = scene.put(json!({"probes": [{"probe": "port", "run": true, (word): "/bin/sh"}]})).await;
        assert_eq!(status, 422, "{word}");
        assert_eq!(scene.put(json!({(word): "x"})).await.0, 422, "{word}");
    }
    let (status, problem) = scene.send(Method::PUT, "/agents/nobody/settings", json!({"interval": "1m"})).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_service")));
    assert_eq!(scene.live.post("/instances", json!({"id": "h", "placeholder": true})).await.0, 201);
    let (status, problem) = scene.send(Method::PUT, "/instances/h/settings", json!({"interval": "1m"})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("no_sidecar")), "{problem}");
    // Who may: an operator within reach; a viewer looks.
    assert_eq!(scene.live.send_as("viewer", Method::PUT, A, json!({"interval": "1m"})).await.0, 403);
    assert_eq!(scene.live.send_as("viewer", Method::GET, A, Value::Null).await.0, 200);
    assert_eq!(scene.live.send_as("operator@3", Method::PUT, A, json!({"interval": "1m"})).await.0, 200);
    let (status, _) = scene.send(Method::PATCH, "/agents/a", json!({"labels": {"site": "4"}})).await;
    assert_eq!(status, 200);
    assert_eq!(scene.live.send_as("operator@3", Method::PUT, A, json!({"interval": "2m"})).await.0, 404);
    scene.live.close().await;
}

#[tokio::test]
async fn a_change_of_settings_can_be_bound_to_what_was_seen() {
    let scene = Scene::open().await;
    let call = async |method: Method, tag: Option<&str>, body: Value| {
        let path = format!("/api/admin/services{A}");
        let mut request =
            scene.live.api.request("admin", &method, &path).header(header::CONTENT_TYPE, "application/json");
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        let (status, head, _) = scene.live.api.send(request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), head.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned()))
    };
    let (_, seen) = call(Method::GET, None, Value::Null).await;
    let (status, next) = call(Method::PUT, seen.as_deref(), json!({"interval": "1m"})).await;
    assert_eq!(status, 200);
    assert_ne!(seen, next);
    assert_eq!(call(Method::PUT, seen.as_deref(), json!({"interval": "2m"})).await.0, 412);
    assert_eq!(call(Method::DELETE, seen.as_deref(), Value::Null).await.0, 412);
    assert_eq!(call(Method::DELETE, next.as_deref(), Value::Null).await.0, 200);
    scene.live.close().await;
}

#[tokio::test]
async fn progress_stands_beside_health() {
    let mut scene = Scene::open().await;
    let said = || ProgressReport { progress: Progress::Stalled, reason: Text::fit("no row for 5 min") };
    scene.hears(|slot| Notice::Progress(slot, said())).await;
    let seq = |scene: &Scene| scene.live.registry.read(|roster| roster.position().seq);
    let view = scene.look("/agents/a").await;
    assert_eq!((&view["progress"], &view["progress_reason"]), (&json!("stalled"), &json!("no row for 5 min")));
    assert_eq!(view["health"]["health"], "unchecked");
    assert_eq!(scene.look("?progress=stalled").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(scene.look("/stats").await["progress"]["stalled"], 1);
    // What is known already costs no write.
    let before = seq(&scene);
    scene.hears(|slot| Notice::Progress(slot, said())).await;
    let (registered, its_audit) = (1, 1);
    assert_eq!(seq(&scene).0, before.0 + registered + its_audit);
    let live = scene.live.restarted().await;
    let scene = Scene { live, made: 9 };
    assert_eq!(scene.look("/agents/a").await["progress"], "stalled");
    scene.live.close().await;
}

#[tokio::test]
async fn a_host_says_what_it_is_and_labels_nothing() {
    let mut scene = Scene::open().await;
    let store = |writes| crate::store::rows::Change { writes, audit: Vec::new() };
    let bind = store(vec![samples::put(
        crate::store::rows::IdentityRow { machine: None, ..samples::identity("agent/a", 1, 1) },
        None,
    )]);
    scene.live.registry.ask(Plain(bind)).await.unwrap();
    let tag = |n: u8| samples::machine(n).tag;
    let about = |machine, rack: &str| {
        let (labels, metadata) = (samples::pairs("site", "9"), samples::pairs("rack", rack));
        Box::new(About { machine: Some(machine), labels, metadata })
    };
    scene.hears(|slot| Notice::About(slot, about(tag(1), "b7"))).await;
    let view = scene.look("/agents/a").await;
    assert_eq!((&view["labels"], &view["announced_labels"]), (&json!({"site": "3"}), &json!({"site": "9"})));
    assert_eq!((&view["metadata"], &view["machine"]), (&json!({"rack": "b7"}), &json!(tag(1).to_string())));
    assert_eq!(view["machine_before"], Value::Null);
    // What an operator changes stands; what nobody touched follows the host.
    scene.hears(|slot| Notice::About(slot, about(tag(1), "b8"))).await;
    assert_eq!(scene.look("/agents/a").await["metadata"]["rack"], "b8");
    let (status, _) = scene.send(Method::PATCH, "/agents/a", json!({"metadata": {"rack": "mine"}})).await;
    assert_eq!(status, 200);
    scene.hears(|slot| Notice::About(slot, about(tag(2), "b9"))).await;
    let view = scene.look("/agents/a").await;
    assert_eq!(view["metadata"]["rack"], "mine");
    assert_eq!((&view["machine"], &view["machine_before"]), (&json!(tag(2).to_string()), &json!(tag(1).to_string())));
    let found = scene.look(&format!("?machine={}", tag(2))).await;
    assert_eq!((found["items"].as_array().unwrap().len(), &found["items"][0]["id"]), (1, &json!("a")));
    assert_eq!(scene.look(&format!("?machine={}", tag(1))).await["items"], json!([]));
    assert_eq!(scene.send(Method::GET, "?machine=x", Value::Null).await.0, 400);
    let told = scene.audited().await;
    assert_eq!(told.iter().filter(|action| *action == "identity.machine_changed").count(), 1, "{told:?}");
    // An operator who takes the proposal has nothing proposed any more.
    let (status, _) = scene.send(Method::PATCH, "/agents/a", json!({"labels": {"site": "9"}})).await;
    assert_eq!((status, &scene.look("/agents/a").await["announced_labels"]), (200, &json!({})));
    scene.live.close().await;
}

/// A change as it is, for what no request of the API does.
#[derive(Debug)]
struct Plain(crate::store::rows::Change);

impl crate::registry::Request for Plain {
    type Answer = ();
    fn plan(
        &self,
        _: crate::registry::World<'_>,
    ) -> Result<(crate::store::rows::Change, ()), crate::registry::Refusal> {
        let writes: Vec<Write> = self.0.writes.clone();
        Ok((crate::store::rows::Change { writes, audit: Vec::new() }, ()))
    }
}
