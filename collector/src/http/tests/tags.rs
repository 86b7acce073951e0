//! Every change of a single object can be bound to the tag that its caller saw.

use rollcall_common::{code::Code, id::Kind, token::TokenId};

use super::{lifecycle::Live, *};
use crate::{
    registry::knocks::Knock,
    store::rows::{Change, Door, Why, Write},
};

async fn call(
    live: &Live,
    method: Method,
    path: &str,
    tag: Option<&str>,
    body: &Value,
) -> (u16, Option<String>, Value) {
    let mut request = live.api.request("admin", &method, path).header(header::CONTENT_TYPE, "application/json");
    if let Some(tag) = tag {
        request = request.header(header::IF_MATCH, tag);
    }
    let (status, head, body) = live.api.send(request.body(Body::from(body.to_string())).unwrap()).await;
    let tag = head.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned());
    (status.as_u16(), tag, body)
}

async fn make(live: &Live, path: &str, body: Value) -> (String, String) {
    let (status, tag, made) = call(live, Method::POST, path, None, &body).await;
    assert_eq!(status, 201, "{path}: {made}");
    (made["id"].as_str().unwrap().to_owned(), tag.unwrap_or_default())
}

#[tokio::test]
async fn every_change_of_one_object_heeds_the_tag_that_was_seen() {
    let live = Live::open().await;
    let tokens = "/api/admin/tokens";
    make(&live, "/api/admin/services/pollers", json!({"id": "p"})).await;
    let (token, made) = make(&live, tokens, json!({"kind": "poller", "id_prefix": "e-"})).await;
    let (key, _) = make(&live, "/api/admin/keys", json!({"role": "viewer"})).await;
    let (window, opened) = make(
        &live,
        "/api/admin/maintenance",
        json!({"selector": {"services": ["poller/p"]}, "for": "2h", "reason": "new disks"}),
    )
    .await;
    let (package, issued) =
        make(&live, "/api/admin/packages", json!({"kind": "agent", "id": "n", "parent": "p"})).await;
    // An answer to a creation carries the tag that a look at it has.
    for (path, tag) in [
        (format!("{tokens}/{token}"), made),
        (format!("/api/admin/maintenance/{window}"), opened),
        (format!("/api/admin/packages/{package}"), issued),
    ] {
        assert_eq!(call(&live, Method::GET, &path, None, &Value::Null).await.1, Some(tag), "{path}");
    }
    let window = format!("/api/admin/maintenance/{window}");
    let package = format!("/api/admin/packages/{package}");
    for (method, seen, path, body) in [
        (Method::POST, format!("{tokens}/{token}"), format!("{tokens}/{token}/revoke"), json!({})),
        (Method::POST, format!("/api/admin/keys/{key}"), format!("/api/admin/keys/{key}/revoke"), json!({})),
        (Method::PATCH, window.clone(), window.clone(), json!({"reason": "newer disks"})),
        (Method::DELETE, window.clone(), window.clone(), Value::Null),
        (Method::POST, package.clone(), format!("{package}/reissue"), json!({})),
        (Method::POST, package.clone(), format!("{package}/revoke"), json!({})),
        (Method::DELETE, package.clone(), package.clone(), Value::Null),
        (Method::PUT, "/api/admin/jobs/purge".into(), "/api/admin/jobs/purge".into(), json!({"enabled": false})),
    ] {
        let name = format!("{method} {path}");
        let (status, tag, shown) = call(&live, Method::GET, &seen, None, &Value::Null).await;
        assert_eq!(status, 200, "{seen}: {shown}");
        let tag = tag.unwrap_or_else(|| panic!("{seen} has no tag"));
        let (status, _, problem) = call(&live, method.clone(), &path, Some("\"1-99999999\""), &body).await;
        assert_eq!((status, &problem["code"]), (412, &json!("changed")), "{name}: {problem}");
        assert_eq!(
            call(&live, Method::GET, &seen, None, &Value::Null).await.1.as_ref(),
            Some(&tag),
            "{name} changed it"
        );
        let (status, after, shown) = call(&live, method.clone(), &path, Some(&tag), &body).await;
        assert_eq!(status, 200, "{name}: {shown}");
        assert_ne!(after.as_ref(), Some(&tag), "{name} moves the tag");
        assert_eq!(
            call(&live, Method::GET, &seen, None, &Value::Null).await.1,
            after,
            "{name} answers with the new tag"
        );
        // Whoever saw the old one is told, and changes nothing.
        let (status, _, problem) = call(&live, method, &path, Some(&tag), &body).await;
        assert_eq!((status, &problem["code"]), (412, &json!("changed")), "{name} again: {problem}");
    }
    // What can be bound can be looked at with its tag.
    let bound = live.api.table.operations.iter().filter(|operation| operation.matches);
    for operation in bound {
        assert!(operation.problems().contains(&ProblemCode::Changed), "{}", operation.id);
    }
    live.close().await;
}

#[tokio::test]
async fn many_knocks_are_forgotten_at_once() {
    let live = Live::open().await;
    let now = live.registry.now().wall;
    let note = |id: &str, from: &str| {
        let knock = Knock {
            proven: true,
            door: Door::Enroll,
            why: Why::Code(Code::IdTaken),
            token: None,
            kind: Some(Kind::Agent),
            service: id.parse().ok(),
            parent: None,
            from: from.parse().unwrap(),
        };
        live.registry.knocks().note(knock, now);
    };
    for (id, from) in [("a", "192.0.2.7"), ("b", "192.0.2.9"), ("c", "198.51.100.1"), ("d", "198.51.100.1")] {
        note(id, from);
    }
    let forget = async |query: &str| {
        let (status, _, body) =
            call(&live, Method::DELETE, &format!("/api/admin/knocks{query}"), None, &Value::Null).await;
        (status, body)
    };
    let (status, problem) = forget("").await;
    assert_eq!((status, &problem["parameter"]), (400, &json!("all")), "nothing said is not everything");
    assert_eq!(forget("?all=false").await.0, 400);
    assert_eq!(forget("?claimed_id=d").await, (200, json!({"dismissed": 1})));
    let (_, listed) = live.api.get("admin", "/api/admin/knocks").await;
    let network =
        listed["items"].as_array().unwrap().iter().find(|item| item["claimed_id"] == "a").unwrap()["network"].clone();
    assert_eq!(forget(&format!("?network={}", network.as_str().unwrap())).await, (200, json!({"dismissed": 2})));
    assert_eq!(forget("?all=true").await, (200, json!({"dismissed": 1})));
    assert_eq!(live.api.get("admin", "/api/admin/knocks").await.1["items"], json!([]));
    let (_, audit) = live.api.get("admin", "/api/admin/audit?action=knock.dismissed").await;
    assert_eq!(audit["items"].as_array().unwrap().len(), 4, "each of them is on record");
    live.close().await;
}

#[tokio::test]
async fn services_are_found_by_the_token_that_let_them_in() {
    use crate::store::suite::samples::{identity, use_token};
    let live = Live::open().await;
    let (token, _) =
        make(&live, "/api/admin/tokens", json!({"kind": "poller", "id_prefix": "e-", "max_uses": 9})).await;
    let (other, _) = make(&live, "/api/admin/tokens", json!({"kind": "agent", "parent": "e-1"})).await;
    for id in ["e-1", "e-2", "plain"] {
        make(&live, "/api/admin/services/pollers", json!({ "id": id })).await;
    }
    let id: TokenId = token.parse().unwrap();
    let bind = |name: &str, n: u8| {
        let mut row = identity(name, 1, n);
        row.enrolled_via = id;
        let mut used = use_token(1, n, live.registry.now().wall);
        if let Write::UseToken { token, service, .. } = &mut used {
            (*token, *service) = (id, name.parse().unwrap());
        }
        Change { writes: vec![used, Write::PutIdentity { row: Box::new(row), expect: None }], audit: Vec::new() }
    };
    for (name, n) in [("poller/e-1", 1), ("poller/e-2", 2)] {
        live.registry.ask(Raw(bind(name, n))).await.unwrap();
    }
    let ids = async |query: String| {
        let (status, page) = live.api.get("admin", &format!("/api/admin/{query}")).await;
        assert_eq!(status, 200, "{query}: {page}");
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(format!("services?token={token}")).await, ["e-1", "e-2"]);
    assert_eq!(ids(format!("services?token={token}&order=-key")).await, ["e-2", "e-1"]);
    assert!(ids(format!("services?token={other}")).await.is_empty());
    assert_eq!(ids("tokens?kind=agent".into()).await, std::slice::from_ref(&other));
    assert_eq!(ids("tokens?kind=agent,poller".into()).await.len(), 2);
    assert!(ids("tokens?kind=checker".into()).await.is_empty());
    assert_eq!(live.api.get("admin", "/api/admin/tokens?kind=poler").await.0, 400);
    // What `tokens revoke --cascade` does: exactly those, and nobody else.
    let act = json!({"act": "revoke", "selector": {"token": token}});
    let (_, _, seen) = call(&live, Method::POST, "/api/admin/services/bulk", None, &act).await;
    assert_eq!(seen["count"], 2, "{seen}");
    let act = json!({"act": "revoke", "selector": {"token": token}, "dry_run": false, "expect": 2});
    let (_, _, done) = call(&live, Method::POST, "/api/admin/services/bulk", None, &act).await;
    assert_eq!((&done["done"], &done["complete"]), (&json!(2), &json!(true)), "{done}");
    assert_eq!(ids("services?status=revoked".into()).await, ["e-1", "e-2"]);
    live.close().await;
}

/// A change as it is.
#[derive(Debug)]
struct Raw(Change);

impl crate::registry::Request for Raw {
    type Answer = ();

    fn plan(&self, _: crate::registry::World<'_>) -> Result<(Change, ()), crate::registry::Refusal> {
        Ok((self.0.clone(), ()))
    }
}
