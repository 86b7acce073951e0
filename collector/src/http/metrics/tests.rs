//! What a scrape answers: in either form, whole, and in words of ours alone.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    body::{Body, to_bytes},
    http::{Request, header},
};
use tower::ServiceExt;

use super::*;
use crate::http::{
    fixture::{World, row, settings},
    router,
    server::Peer,
};

fn world() -> World {
    let mut rows: Vec<_> = ["poller/p", "agent/a", "checker/c", "instance/i"].map(row).into();
    for row in &mut rows {
        row.status = Status::Active;
    }
    World::new(&rows)
}

/// A collector that is asked, with what it may tell.
struct Asked {
    world: World,
    router: axum::Router,
}

impl Asked {
    fn with(extra: Extra) -> Self {
        let world = world();
        let parts = world.parts(world.registry().beaten("agent/a"));
        let state = State::new(parts, crate::http::Settings { extra, ..settings() }).unwrap();
        let router = router(Arc::new(state)).0;
        Self { world, router }
    }

    async fn send(&self, method: &str, path: &str, accept: Option<&str>) -> (HeaderMap, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:7410")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.world.credentials["admin"]));
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer::Net("127.0.0.1:5".parse().unwrap()));
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    async fn scrape(&self, accept: Option<&str>) -> String {
        self.send("GET", "/metrics", accept).await.1
    }
}

const OPEN: Option<&str> = Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");

/// The name and the labels of a sample, and its value.
fn sample(line: &str) -> (&str, BTreeSet<&str>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap().split("\",").map(|label| label.split('=').next().unwrap());
    (name, labels.filter(|label| !label.is_empty()).collect(), value.parse().unwrap())
}

/// Reads an exposition as strictly as its description demands: every sample below the head of its family, no family
/// and no series twice, no family without a sample, histograms that rise to their count. Answers types by name.
fn strict(text: &str, counter: &str) -> BTreeMap<String, String> {
    let (mut types, mut series, mut help): (BTreeMap<String, String>, BTreeSet<&str>, _) = Default::default();
    let (mut now, mut rising, mut empty) = (String::new(), 0.0, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, about) = rest.split_once(' ').unwrap();
            assert!(about.len() > 5 && about.ends_with('.') && !about.ends_with(".."), "{line}");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(help, name, "a type without its help");
            assert!(!empty, "{now} has no sample");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            (now, empty) = (name.to_owned(), true);
        } else if line != "# EOF" {
            assert!(!line.starts_with('#'), "{line}");
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(now.as_str()).unwrap_or_else(|| panic!("{line} below {now}"));
            match types[&now].as_str() {
                "counter" => assert_eq!((suffix, value >= 0.0), (counter, true), "{line}"),
                "gauge" => assert_eq!(suffix, "", "{line}"),
                "histogram" => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
                other => panic!("{other}"),
            }
            assert_eq!(labels.contains("le"), suffix == "_bucket", "{line}");
            // A histogram's sum and count come before its buckets.
            if suffix == "_bucket" {
                assert!(rising <= value, "{line} falls");
                rising = value;
            } else {
                rising = 0.0;
            }
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "{line} comes twice");
            empty = false;
        }
    }
    types
}

#[tokio::test]
async fn both_forms_are_whole_and_tell_the_same() {
    let api = Asked::with(Extra { service_ages: Some(10), total_alias: false });
    api.scrape(None).await;
    let (head, open) = api.send("GET", "/metrics", OPEN).await;
    assert_eq!(head[header::CONTENT_TYPE], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(head[header::VARY], "Accept");
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    let (head, plain) = api.send("GET", "/metrics", Some("text/plain")).await;
    assert_eq!(head[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(head[header::VARY], "Accept");
    assert!(!plain.contains("# EOF"));

    let (open, plain) = (strict(&open, "_total"), strict(&plain, ""));
    let suffixed = |(name, kind): (&String, &String)| match kind.as_str() {
        "counter" => (format!("{name}_total"), kind.clone()),
        _ => (name.clone(), kind.clone()),
    };
    assert_eq!(open.iter().map(suffixed).collect::<BTreeMap<_, _>>(), plain);
    assert!(open.len() > 50, "{}", open.len());
}

#[tokio::test]
async fn ages_are_told_together_and_singly_only_where_wanted() {
    let bare = Asked::with(Extra::default()).scrape(None).await;
    for line in [
        "service_registry_heartbeat_age_seconds_count{type=\"agent\"} 1",
        "service_registry_heartbeat_age_seconds_count{type=\"checker\"} 0",
        "service_registry_heartbeat_age_seconds_bucket{le=\"1.0\",type=\"agent\"} 1",
        "service_registry_heartbeat_age_seconds_bucket{le=\"+Inf\",type=\"agent\"} 1",
    ] {
        assert!(bare.lines().any(|found| found == line), "{line} is missing in\n{bare}");
    }
    assert!(!bare.contains("service_registry_service_heartbeat_age") && !bare.contains("service_registry_total"));
    let full = Asked::with(Extra { service_ages: Some(0), total_alias: true }).scrape(OPEN).await;
    for line in [
        "service_registry_service_heartbeat_ages_cut 1",
        "# TYPE service_registry_total gauge",
        "service_registry_total{type=\"agent\",status=\"active\"} 1",
    ] {
        assert!(full.lines().any(|found| found == line), "{line} is missing in\n{full}");
    }
}

/// H19: ids, paths, methods, kinds and agents of strangers are in no label, and make no series after the first.
#[tokio::test]
async fn strangers_make_no_series() {
    let api = Asked::with(Extra::default());
    let noise = async |n: usize| {
        for path in ["/x", "/api/admin/services/x", "/api/admin/services/agents/x", "/api/admin/services/x/y/known"] {
            for method in ["GET", "PATCH", &format!("EVIL{n}")] {
                api.send(method, &format!("{path}evil{n}"), Some(&format!("evil/{n}"))).await;
            }
        }
        api.send("GET", &format!("/api/admin/services?evil{n}=1"), None).await;
    };
    let series = async || {
        let text = api.scrape(None).await;
        assert!(!text.to_ascii_lowercase().contains("evil"), "a stranger's word is in the metrics");
        let all =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
        all.collect::<BTreeSet<_>>()
    };
    noise(0).await;
    series().await;
    let before = series().await;
    for n in 1..10 {
        noise(n).await;
    }
    assert_eq!(series().await.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    let undeclared = before.iter().filter(|name| name.contains("route=\"none\""));
    assert!(undeclared.count() <= 3, "{before:?}");
}
