//! Service discovery for Prometheus (`http_sd`): who is there, as targets with meta labels.
//!
//! A target is `metadata.address` (or `host`, or the id) with
//! `metadata.port` behind it where there is one. It takes the filters of a list, so that each scrape job asks for its
//! own part: `?label=site=3&status=active`. Label names are made fit for Prometheus; two that become one keep the first.
//! Where nothing is said of them, neither the barred nor placeholders are targets. A list is whole or refused: targets
//! that are missing look like targets that are gone, and a refused scrape of the list leaves Prometheus what it has.

use std::collections::BTreeMap;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Query},
    filter::{self, Wanted},
    page,
    routes::{Operation, Param, Routes},
    view::ServiceView,
};

/// Most targets of an answer.
const MAX_TARGETS: usize = 50_000;

/// A group of targets, as Prometheus reads it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TargetGroup {
    /// `host:port`, or `host`.
    targets: Vec<String>,
    /// `__meta_rollcall_*`.
    labels: BTreeMap<String, String>,
}

/// Everybody who is there.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Targets(Vec<TargetGroup>);

/// The filters of a list, without what makes pages.
fn query() -> Vec<Param> {
    let all = [filter::KIND, filter::PARENT].into_iter().chain(filter::QUERY.iter().copied());
    all.filter(|param| !matches!(param.name, "limit" | "cursor")).collect()
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes.tag("discovery", "For Prometheus: who is there").add(
        Operation::get("/api/admin/sd", Permission::Read, "discover")
            .scoped()
            .about("Targets for Prometheus `http_sd_configs`, with `__meta_rollcall_*` labels")
            .more(
                "Labels: `kind`, `id`, `parent`, `poller`, `checker_kind`, `status`, `presence`, `health`, `source`, \
                 `label_*` and `metadata_*`. Unless `status` or `placeholder` say otherwise: the pending, active and \
                 inactive ones that are no placeholders. Beyond 50,000 targets it is refused, and Prometheus keeps what \
                 it has: ask for parts.",
            )
            .query(&query())
            .answer::<Targets>(200, "One group for each service")
            .gives(&[ProblemCode::Invalid]),
        discover,
    )
}

/// What is asked for, and what is meant where nothing is said.
fn asked(mut query: Vec<(String, String)>) -> Vec<(String, String)> {
    for (name, value) in [("status", "pending,active,inactive"), ("placeholder", "false")] {
        if query.iter().all(|(said, _)| said != name) {
            query.push((name.to_owned(), value.to_owned()));
        }
    }
    query
}

async fn discover(call: Call, query: Query) -> Result<Response, Problem> {
    let mut wanted = Wanted::read(None, &asked(query.0))?;
    wanted.limit = page::MAX_LIMIT;
    let mut groups = Vec::new();
    loop {
        let (_, seen, next) = call.seen(wanted.clone());
        groups.extend(seen.iter().map(group));
        match next {
            Some(_) if groups.len() >= MAX_TARGETS => {
                let detail = format!("there are more than {MAX_TARGETS} targets: ask for parts, as in ?label=site=3");
                return Err(Problem::new(ProblemCode::Invalid, detail));
            }
            Some(key) => wanted.after = Some(key),
            None => break,
        }
        // Other requests have their turn between two pages.
        tokio::task::yield_now().await;
    }
    Ok((StatusCode::OK, axum::Json(Targets(groups))).into_response())
}

fn group(view: &ServiceView) -> TargetGroup {
    let mut labels = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        labels.entry(format!("__meta_rollcall_{}", fit(name))).or_insert_with(|| value.to_owned());
    };
    set("kind", view.kind.as_str());
    set("id", &view.id);
    set("status", view.status.as_str());
    set("presence", view.presence.as_str());
    set("health", view.health.health.as_str());
    set("source", view.source.as_str());
    for (name, value) in [("parent", &view.parent), ("poller", &view.poller), ("checker_kind", &view.checker_kind)] {
        set(name, value.as_deref().unwrap_or_default());
    }
    for (key, value) in &view.labels {
        set(&format!("label_{key}"), value);
    }
    for (key, value) in &view.metadata {
        set(&format!("metadata_{key}"), value);
    }
    TargetGroup { targets: vec![target(view)], labels }
}

fn target(view: &ServiceView) -> String {
    let of = |key: &str| view.metadata.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let host = of("address").or(of("host")).unwrap_or(&view.id);
    // An address of IPv6 stands in brackets before a port.
    let host = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    match of("port").and_then(|port| port.parse::<u16>().ok()) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// A name that Prometheus takes.
fn fit(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::{
            filter::{Wanted, Way},
            fixture::{World, pairs, row},
            scan::Listing,
            view::Light,
        },
        scope::Scope,
    };

    #[test]
    fn a_service_is_a_target_with_fit_labels() {
        for (metadata, wanted) in [
            (&[("address", "10.0.0.7"), ("port", "9100")][..], "10.0.0.7:9100"),
            (&[("address", "2001:db8::1"), ("port", "9100")], "[2001:db8::1]:9100"),
            (&[("host", "edge.example"), ("port", "99999")], "edge.example"),
            (&[], "edge-17"),
        ] {
            let mut row = row("agent/edge-17");
            row.labels = pairs(&[("a.b", "1"), ("a-b", "2")]);
            row.metadata = pairs(metadata);
            let world = World::new(&[row]);
            let registry = world.registry();
            let now = registry.now();
            let mut listing =
                Listing::new(Scope::everything(), Wanted { limit: 1, ..Wanted::default() }, Way::All, now);
            while registry.read(|roster| listing.advance(roster, &|_| None)) {}
            let seen = listing.finish().0.remove(0);
            let cover = registry.cover();
            let light = Light { now, trust_domain: &registry.whoami().trust_domain, recorded: None, cover: &cover };
            let group = group(&ServiceView::of(&seen, None, light));
            assert_eq!(group.targets, [wanted]);
            assert_eq!(group.labels["__meta_rollcall_id"], "edge-17");
            // Of two names that become one, the first in order stays.
            assert_eq!(group.labels["__meta_rollcall_label_a_b"], "2");
            assert_eq!(group.labels["__meta_rollcall_parent"], "p");
        }
    }
}
