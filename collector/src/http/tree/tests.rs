//! Paths, documents, and an archive that is complete.

use std::{collections::BTreeMap, io::Read};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request, header},
};
use tower::ServiceExt;

use crate::http::{fixture, router, server::Peer};

fn world() -> fixture::World {
    let mut rows: Vec<_> =
        ["poller/p", "poller/q", "agent/a", "agent/b", "checker/c", "instance/i"].map(fixture::row).into();
    for row in &mut rows {
        row.labels = fixture::pairs(&[("site", if row.key.id.as_str() == "q" { "4" } else { "3" })]);
        row.parent = match row.key.to_string().as_str() {
            "agent/a" => Some("p".parse().unwrap()),
            "agent/b" => Some("q".parse().unwrap()),
            "checker/c" => Some("a".parse().unwrap()),
            _ => None,
        };
    }
    fixture::World::new(&rows)
}

async fn get(world: &fixture::World, role: &str, path: &str, known: Option<&str>) -> (u16, HeaderMap, Vec<u8>) {
    let (router, _) = router(world.state(world.registry()));
    let mut request = Request::get(path)
        .header(header::HOST, "127.0.0.1:7410")
        .header(header::AUTHORIZATION, format!("Bearer {}", world.credentials[role]));
    if let Some(known) = known {
        request = request.header(header::IF_NONE_MATCH, known);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Peer::Net("127.0.0.1:5".parse().unwrap()));
    let answer = router.oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    (parts.status.as_u16(), parts.headers, to_bytes(body, 1 << 24).await.unwrap().to_vec())
}

async fn files(world: &fixture::World, role: &str, path: &str) -> BTreeMap<String, serde_json::Value> {
    let (status, _, bytes) = get(world, role, path, None).await;
    assert_eq!(status, 200, "{path}");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), serde_json::from_str(&text).unwrap())
    });
    entries.collect()
}

#[tokio::test]
async fn every_service_has_one_document() {
    let world = world();
    let all = files(&world, "viewer", "/api/admin/config.tar.gz").await;
    let paths: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "config/agents/a/checkers/c.json",
            "config/instances/i.json",
            "config/pollers/p.json",
            "config/pollers/p/agents/a.json",
            "config/pollers/q.json",
            "config/pollers/q/agents/b.json",
        ]
    );
    assert_eq!(all["config/pollers/p/agents/a.json"]["status"], "pending");
    for path in paths {
        let (status, headers, bytes) = get(&world, "viewer", &format!("/api/admin/{path}"), None).await;
        assert_eq!(status, 200, "{path}");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), all[path], "{path}");
        let etag = headers[header::ETAG].to_str().unwrap().to_owned();
        let (status, _, bytes) = get(&world, "viewer", &format!("/api/admin/{path}"), Some(&etag)).await;
        assert_eq!((status, bytes.len()), (304, 0), "{path}");
    }
}

#[tokio::test]
async fn a_poller_gets_its_own_part_and_a_scope_narrows_it() {
    let world = world();
    let own = files(&world, "viewer", "/api/admin/config.tar.gz?poller=p").await;
    assert_eq!(
        own.keys().collect::<Vec<_>>(),
        ["config/agents/a/checkers/c.json", "config/pollers/p.json", "config/pollers/p/agents/a.json"]
    );
    let scoped = files(&world, "viewer@3", "/api/admin/config.tar.gz").await;
    assert!(!scoped.contains_key("config/pollers/q.json") && scoped.len() == 5, "{:?}", scoped.keys());
    assert_eq!(get(&world, "viewer@3", "/api/admin/config.tar.gz?poller=q", None).await.0, 404);
    assert_eq!(get(&world, "viewer@3", "/api/admin/config/pollers/q.json", None).await.0, 404);
}

#[tokio::test]
async fn paths_are_listed_page_by_page() {
    let world = world();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/admin/config?limit=2&prefix=config/pollers/{cursor}");
        let (status, _, bytes) = get(&world, "viewer", &path, None).await;
        assert_eq!(status, 200);
        let page: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected = [
        "config/pollers/p.json",
        "config/pollers/q.json",
        "config/pollers/p/agents/a.json",
        "config/pollers/q/agents/b.json",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn nothing_but_ids_makes_a_path() {
    let world = world();
    for path in [
        "pollers/p",
        "pollers/..json",
        "pollers/%2e%2e%2fp.json",
        "pollers/P.json",
        "pollers/%2e%2e/agents/a.json",
        "pollers/p/agents/a%00.json",
        "instances/i.json.json%2f",
    ] {
        let (status, _, _) = get(&world, "admin", &format!("/api/admin/config/{path}"), None).await;
        assert!(status == 400 || status == 404, "{path}: {status}");
    }
    // A real service under another parent is not there.
    assert_eq!(get(&world, "admin", "/api/admin/config/pollers/q/agents/a.json", None).await.0, 404);
}
