//! The feed through the router: positions, filters, scopes, bounds and farewells.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{Request, StatusCode, header},
};
use futures_util::StreamExt;
use proptest::prelude::*;
use rollcall_common::{health::Health, lease::Presence, service::Pairs, time::Timestamp};
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::{
    http::{
        State,
        fixture::{World, pairs, row},
        router,
    },
    registry::feed::{Event, EventKind, Subject},
};

struct Api {
    world: World,
    router: Router,
    state: std::sync::Arc<State>,
}

fn event(seq: u64, key: &str, kind: EventKind, labels: Pairs) -> Event {
    let row = row(key);
    Event {
        seq: Seq(seq),
        at: Timestamp(1_000),
        kind,
        subject: Subject {
            key: row.key,
            parent: row.parent,
            poller: None,
            status: row.status,
            labels,
            labels_before: None,
        },
        presence: Presence::Alive,
        health: Health::Healthy,
        reason: None,
        previous: BTreeMap::new(),
        now: BTreeMap::new(),
        actor: None,
        request_id: None,
    }
}

/// A stream that is being read.
struct Reading {
    body: BodyDataStream,
    text: String,
}

impl Reading {
    /// The next event that is no comment, as its type, id and data; `None` at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let line = frame.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                    line.unwrap_or_default().to_owned()
                };
                if field("event").is_empty() {
                    continue;
                }
                let data = serde_json::from_str(&field("data")).unwrap();
                return Some((field("event"), field("id"), data));
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.expect("in time");
            self.text.push_str(std::str::from_utf8(&more?.unwrap()).unwrap());
        }
    }

    async fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let (_, id, data) = self.next().await.expect("more events");
            assert_eq!(id, format!("2-{}", data["seq"]));
            seqs.push(data["seq"].as_u64().unwrap());
        }
        seqs
    }
}

impl Api {
    fn new() -> Self {
        let world = World::new(&["poller/p", "agent/a", "agent/b"].map(row));
        let state = world.state(world.registry());
        let (router, _) = router(std::sync::Arc::clone(&state));
        Self { world, router, state }
    }

    fn tell(&self, events: &[Event]) {
        self.state.registry.feeds(events);
    }

    async fn ask(&self, path: &str, last: Option<&str>) -> Response {
        let credential = &self.world.credentials["viewer"];
        let mut request = Request::builder()
            .uri(path)
            .header(header::HOST, "127.0.0.1:7410")
            .header(header::AUTHORIZATION, format!("Bearer {credential}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn read(&self, path: &str, last: Option<&str>) -> Reading {
        let answer = self.ask(path, last).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(answer.headers()[header::CONNECTION], "close");
        Reading { body: answer.into_body().into_data_stream(), text: String::new() }
    }

    async fn poll(&self, query: &str) -> (StatusCode, Value) {
        let answer = self.ask(&format!("/api/admin/changes{query}"), None).await;
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

fn status(seq: u64, key: &str) -> Event {
    event(seq, key, EventKind::Status, Pairs::default())
}

#[tokio::test]
async fn a_stream_begins_now_and_resumes_where_it_was() {
    let api = Api::new();
    api.tell(&[status(42, "agent/a")]);
    let mut reading = api.read("/api/admin/feed", None).await;
    let (event, id, hello) = reading.next().await.unwrap();
    assert_eq!((event.as_str(), id.as_str(), hello["seq"].as_u64()), ("hello", "2-42", Some(42)));
    api.tell(&[status(43, "agent/a"), status(44, "poller/p")]);
    assert_eq!(reading.seqs(2).await, [43, 44]);
    // The header wins over the query, as browsers that come back send it.
    let mut again = api.read("/api/admin/feed?since=2-41", Some("2-43")).await;
    again.next().await.unwrap();
    assert_eq!(again.seqs(1).await, [44]);
    let mut all = api.read("/api/admin/feed?since=2-41", None).await;
    all.next().await.unwrap();
    assert_eq!(all.seqs(3).await, [42, 43, 44]);
}

#[tokio::test]
async fn a_position_that_is_gone_is_told_with_the_way_on() {
    let api = Api::new();
    for since in ["2-40", "1-41", "2-4200"] {
        let mut reading = api.read(&format!("/api/admin/feed?since={since}"), None).await;
        let (event, _, data) = reading.next().await.unwrap();
        assert_eq!((event.as_str(), data["seq"].as_u64()), ("gone", Some(41)), "{since}");
        assert!(data["detail"].as_str().unwrap().contains("/api/admin/services"), "{data}");
        assert!(reading.next().await.is_none(), "it ends");
        let (status, problem) = api.poll(&format!("?since={since}")).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::GONE, Some("gone")), "{since}");
    }
}

#[tokio::test]
async fn a_reader_that_falls_off_the_ring_is_told_why() {
    let api = Api::new();
    let mut reading = api.read("/api/admin/feed", None).await;
    reading.next().await.unwrap();
    let limits = crate::registry::feed::Limits { events: 2, bytes: usize::MAX };
    api.state.registry.feed().limit(limits);
    for seq in 42..50 {
        api.tell(&[status(seq, "agent/a")]);
    }
    let (event, id, data) = reading.next().await.unwrap();
    assert_eq!((event.as_str(), id.as_str()), ("dropped", "2-41"));
    assert!(data["reason"].as_str().unwrap().starts_with("lagged"), "{data}");
    assert!(reading.next().await.is_none());
}

#[tokio::test]
async fn filters_pass_what_they_name() {
    let api = Api::new();
    let site = |n| pairs(&[("site", n)]);
    api.tell(&[
        event(42, "poller/p", EventKind::Registered, site("1")),
        event(43, "agent/a", EventKind::Status, site("1")),
        event(44, "agent/b", EventKind::Presence, site("2")),
        event(45, "checker/c", EventKind::Health, Pairs::default()),
    ]);
    for (query, wanted) in [
        ("", &[42, 43, 44, 45][..]),
        ("&type=service.status,service.health", &[43, 45]),
        ("&kind=agent", &[43, 44]),
        ("&id=b", &[44]),
        ("&parent=a", &[45]),
        ("&subtree=agent/a", &[43, 45]),
        ("&subtree=poller/p", &[42, 43, 44]),
        ("&label=site:1", &[42, 43]),
        ("&label=site&kind=agent&type=service.presence", &[44]),
        ("&status=revoked", &[]),
    ] {
        let (_, page) = api.poll(&format!("?since=2-41{query}")).await;
        let seqs: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, wanted, "{query}");
        assert_eq!(page["next"], "2-45", "what does not pass is behind one all the same");
        if !wanted.is_empty() {
            let mut reading = api.read(&format!("/api/admin/feed?since=2-41{query}"), None).await;
            reading.next().await.unwrap();
            assert_eq!(reading.seqs(wanted.len()).await, wanted, "{query}");
        }
    }
    for bad in [
        "type=service.late",
        "kind=cat",
        "since=2",
        "since=2-x",
        "id=A",
        "subtree=x",
        "label=a%20b",
        "limit=0",
        "wait=2h",
    ] {
        let (status, problem) = api.poll(&format!("?{bad}")).await;
        assert_eq!((status.as_u16(), problem["code"].as_str()), (400, Some("invalid_query")), "{bad}");
    }
}

#[tokio::test]
async fn a_poll_pages_and_waits_for_what_comes() {
    let api = Api::new();
    let (_, here) = api.poll("").await;
    assert_eq!((here["next"].as_str(), here["items"].as_array().map(Vec::len)), (Some("2-41"), Some(0)));
    api.tell(&[status(42, "agent/a"), status(43, "agent/b"), status(44, "poller/p")]);
    let (_, first) = api.poll("?since=2-41&limit=2").await;
    assert_eq!((first["items"].as_array().map(Vec::len), first["next"].as_str()), (Some(2), Some("2-43")));
    let (waiting, ()) = tokio::join!(api.poll("?since=2-44&wait=10s&kind=poller"), async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        api.tell(&[status(45, "agent/a")]);
        tokio::task::yield_now().await;
        api.tell(&[status(46, "poller/p")]);
    });
    assert_eq!((waiting.1["items"][0]["seq"].as_u64(), waiting.1["next"].as_str()), (Some(46), Some("2-46")));
    let (_, empty) = api.poll("?since=2-46&wait=1ms").await;
    assert_eq!((empty["items"].as_array().map(Vec::len), empty["next"].as_str()), (Some(0), Some("2-46")));
}

#[tokio::test]
async fn streams_are_bounded_and_give_their_place_back() {
    let api = Api::new();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(api.read("/api/admin/feed", None).await);
    }
    assert_eq!(api.ask("/api/admin/feed", None).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    // A poll that finds no place to wait in answers at once.
    assert_eq!(api.poll("?since=2-41&wait=60s").await.0, StatusCode::OK);
    open.pop();
    assert_eq!(api.ask("/api/admin/feed", None).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stop_ends_every_stream_with_a_word() {
    let api = Api::new();
    let mut reading = api.read("/api/admin/feed", None).await;
    reading.next().await.unwrap();
    let ((), (_, page)) = tokio::join!(
        async {
            tokio::task::yield_now().await;
            api.state.draining.cancel();
        },
        api.poll("?since=2-41&wait=60s")
    );
    assert_eq!(page["next"], "2-41");
    let (event, id, _) = reading.next().await.unwrap();
    assert_eq!((event.as_str(), id.as_str()), ("bye", "2-41"));
    assert!(reading.next().await.is_none());
    assert_eq!(api.ask("/api/admin/feed", None).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn what_leaves_a_scope_is_told_of_once_and_without_what_it_became() {
    let api = Api::new();
    let mut moved = event(42, "agent/a", EventKind::Updated, pairs(&[("site", "9")]));
    moved.subject.labels_before = Some(pairs(&[("site", "1")]));
    api.tell(&[moved, event(43, "agent/a", EventKind::Status, pairs(&[("site", "9")]))]);
    let filter = Filter::read(&[], &"site=1".parse().unwrap()).unwrap();
    let Next::Batch(batch) = api.state.registry.feed().after(Seq(41)) else { panic!("nothing told") };
    let text = String::from_utf8(filter.frames(&batch, Seq(41)).to_vec()).unwrap();
    assert_eq!(text.matches("event: ").count(), 1, "{text}");
    assert!(text.starts_with("id: 2-42\nevent: service.left\ndata: {\"seq\":42,"), "{text}");
    assert!(!text.contains("\"9\""), "{text}");
}

proptest! {
    #[test]
    fn positions_are_read_as_they_are_printed_and_nothing_else_is(epoch: u64, seq: u64, text in "\\PC{0,60}") {
        let place = Place { epoch, seq: Seq(seq) };
        prop_assert_eq!(Place::read(&place.to_string()).ok(), Some(place));
        if let Ok(read) = Place::read(&text) {
            prop_assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'-'), "{:?}", read);
        }
    }
}
