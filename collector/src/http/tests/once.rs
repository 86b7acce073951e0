//! Requests that name themselves, through the router, on a real registry with a SQLite store.

use std::collections::BTreeSet;

use super::{lifecycle::Live, *};
use crate::{http::once::REPLAYED, registry::answers::KEPT_FOR};

const POLLERS: &str = "/api/admin/services/pollers";

type Answered = (StatusCode, Response<()>, Value);

async fn send(live: &Live, role: &str, path: &str, key: &str, body: &Value) -> Answered {
    let request = live.api.request(role, &Method::POST, path).header(header::CONTENT_TYPE, "application/json");
    let request = request.header("idempotency-key", key).body(Body::from(body.to_string()));
    live.api.send(request.unwrap()).await
}

fn code(answer: &Answered) -> (u16, &str) {
    (answer.0.as_u16(), answer.2["code"].as_str().unwrap_or_default())
}

fn is_replayed(answer: &Answered) -> bool {
    answer.1.headers().get(&REPLAYED).is_some_and(|value| value == "true")
}

/// Asserts that a repetition was answered as the first time, its secret apart.
fn same(first: &Answered, again: &Answered, secrets: &[&str], name: &str) {
    assert!(first.0.is_success() && !is_replayed(first), "{name}: {}", first.2);
    assert!(is_replayed(again), "{name}: {}", again.2);
    let head = |answer: &Answered, header: &header::HeaderName| answer.1.headers().get(header).cloned();
    assert_eq!(head(first, &header::LOCATION), head(again, &header::LOCATION), "{name}");
    if secrets.is_empty() {
        assert_eq!((first.0, &first.2), (again.0, &again.2), "{name}");
        assert_eq!(head(first, &header::ETAG), head(again, &header::ETAG), "{name}");
    } else {
        assert_eq!(code(again), (409, "secret_already_shown"), "{name}: {}", again.2);
        let mut made = first.2.clone();
        for secret in secrets {
            let told = made.as_object_mut().unwrap().remove(*secret).unwrap_or_else(|| panic!("{name}: {secret}"));
            let told = told.as_str().map(str::to_owned).unwrap_or_default();
            assert!(told.is_empty() || !again.2.to_string().contains(&told), "{name} tells {secret}");
        }
        assert_eq!(made, again.2["created"], "{name}");
    }
}

/// One request for each operation that is done once, in an order in which they all pass, with the members of its
/// answer that are told this once.
fn requests() -> Vec<(&'static str, String, Value, &'static [&'static str])> {
    let services = "/api/admin/services";
    let new = |parent: &str| json!({"id": "n", "parent": parent, "labels": {"site": "3"}, "metadata": {"rack": "9"}});
    let token: &[&str] = &["token", "addresses"];
    let mut all = vec![
        ("register_pollers", POLLERS.to_owned(), json!({"id": "n", "labels": {"site": "3"}}), &[][..]),
        ("register_agents", format!("{services}/agents"), new("n"), &[][..]),
        ("register_checkers", format!("{services}/checkers"), new("n"), &[][..]),
        ("register_instances", format!("{services}/instances"), json!({"id": "n", "placeholder": true}), &[][..]),
        ("create_token", "/api/admin/tokens".into(), json!({"kind": "poller", "id_prefix": "e-", "ttl": "1h"}), token),
        ("create_key", "/api/admin/keys".into(), json!({"role": "viewer", "note": "x"}), &["key"][..]),
        ("create_login_code", "/api/admin/login/codes".into(), Value::Null, &["code"][..]),
        (
            "open_maintenance",
            "/api/admin/maintenance".into(),
            json!({"selector": {"subtree": "poller/n"}, "for": "2h", "reason": "new disks"}),
            &[][..],
        ),
        (
            "create_package",
            "/api/admin/packages".into(),
            json!({"kind": "agent", "id": "packed", "parent": "n"}),
            &["download_secret", "addresses"][..],
        ),
    ];
    for kind in ["checker", "agent", "poller", "instance"] {
        let name: &'static str = match kind {
            "checker" => "reenroll_checker",
            "agent" => "reenroll_agent",
            "poller" => "reenroll_poller",
            _ => "reenroll_instance",
        };
        all.push((name, format!("{services}/{kind}s/n/reenroll"), json!({"revoke": true}), token));
    }
    all
}

#[tokio::test]
async fn whatever_makes_something_makes_it_once_even_across_a_crash() {
    let mut live = Live::open().await;
    let mut once: BTreeSet<String> = {
        let all = live.api.table.operations.iter().filter(|operation| operation.once);
        all.map(|operation| operation.id.clone()).collect()
    };
    let mut done = Vec::new();
    let mut all = requests();
    let mut package = String::new();
    while let Some((name, path, body, secrets)) = (!all.is_empty()).then(|| all.remove(0)) {
        let first = send(&live, "admin", &path, name, &body).await;
        let again = send(&live, "admin", &path, &format!("\"{name}\""), &body).await;
        same(&first, &again, secrets, name);
        if name == "create_package" {
            package = first.2["id"].as_str().unwrap().to_owned();
            let path = format!("/api/admin/packages/{package}/reissue");
            all.push(("reissue_package", path, json!({}), &["download_secret", "addresses"]));
        }
        assert!(once.remove(name), "{name} is not declared to be done once");
        done.push((name, path, body, secrets, first));
    }
    assert!(once.is_empty(), "no request of this test asks for {once:?}");
    assert!(!package.is_empty());
    let services = live.registry.read(|roster| roster.len());
    let tokens = live.registry.read(|roster| roster.tokens().count());
    // As a client does that lost its answers, and whose collector died.
    live = live.restarted().await;
    for (name, path, body, secrets, first) in &done {
        let again = send(&live, "admin", path, name, body).await;
        same(first, &again, secrets, name);
    }
    assert_eq!(live.registry.read(|roster| roster.len()), services);
    assert_eq!(live.registry.read(|roster| roster.tokens().count()), tokens);
    live.close().await;
}

#[tokio::test]
async fn a_name_belongs_to_one_request_of_one_caller() {
    let live = Live::open().await;
    let body = |id: &str| json!({"id": id});
    assert_eq!(send(&live, "admin", POLLERS, "k", &body("a")).await.0, 201);
    for (path, other) in [(POLLERS, body("b")), ("/api/admin/services/instances", body("a"))] {
        let answer = send(&live, "admin", path, "k", &other).await;
        assert_eq!(code(&answer), (422, "idempotency_key_reused"), "{path}");
    }
    // Another caller's name is another one: the second registration meets the first.
    assert_eq!(code(&send(&live, "operator", POLLERS, "k", &body("a")).await), (409, "exists"));
    for bad in ["two words", "\"open", &"k".repeat(256)] {
        assert_eq!(code(&send(&live, "admin", POLLERS, bad, &body("c")).await), (400, "invalid_head"), "{bad}");
    }
    // What is not done once passes over it.
    let revoke = format!("{POLLERS}/a/status");
    for _ in 0..2 {
        let answer = send(&live, "admin", &revoke, "k", &json!({"act": "delete"})).await;
        assert!(!is_replayed(&answer));
    }
    live.close().await;
}

#[tokio::test]
async fn a_refusal_is_not_remembered_and_an_answer_not_for_ever() {
    let live = Live::open().await;
    let agents = "/api/admin/services/agents";
    let body = json!({"id": "x", "parent": "p"});
    assert_eq!(code(&send(&live, "admin", agents, "k", &body).await), (422, "parent_unknown"));
    assert_eq!(send(&live, "admin", POLLERS, "p", &json!({"id": "p"})).await.0, 201);
    let first = send(&live, "admin", agents, "k", &body).await;
    assert_eq!(first.0, 201, "{}", first.2);
    same(&first, &send(&live, "admin", agents, "k", &body).await, &[], "x");
    live.api.world.clock.advance(KEPT_FOR);
    assert_eq!(code(&send(&live, "admin", agents, "k", &body).await), (409, "exists"), "it is done again");
    live.close().await;
}

#[tokio::test]
async fn a_repetition_waits_for_the_first_to_end() {
    let live = Live::open().await;
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let late = futures_util::stream::once(async move {
        finished.await.unwrap();
        Ok::<_, std::io::Error>("{\"id\":\"late\"}")
    });
    let request = live.api.request("admin", &Method::POST, POLLERS).header(header::CONTENT_TYPE, "application/json");
    let request = request.header("idempotency-key", "k").body(Body::from_stream(late)).unwrap();
    let meanwhile = async {
        let answer = send(&live, "admin", POLLERS, "k", &json!({"id": "late"})).await;
        finish.send(()).unwrap();
        answer
    };
    let (first, second) = tokio::join!(live.api.send(request), meanwhile);
    assert_eq!(code(&second), (409, "idempotency_key_in_progress"));
    assert!(second.1.headers().contains_key(header::RETRY_AFTER));
    same(&first, &send(&live, "admin", POLLERS, "k", &json!({"id": "late"})).await, &[], "late");
    live.close().await;
}

/// What tells a secret keeps none: not in memory, and not on the disk.
#[tokio::test]
async fn no_secret_is_kept() {
    let live = Live::open().await;
    for (name, path, body, secrets) in requests().into_iter().filter(|(.., secrets)| !secrets.is_empty()).take(3) {
        let (.., answer) = send(&live, "admin", &path, name, &body).await;
        let secret = answer[secrets[0]].as_str().unwrap_or_else(|| panic!("{name}: {answer}"));
        let kept = live.registry.read(|roster| format!("{:?}", roster.answers()));
        assert!(kept.contains(name) && !kept.contains(secret), "{name}");
    }
    live.close().await;
}
