//! `/metrics`: what the collector counts, and what the roster holds at the moment of the scrape.
//!
//! Gauges of services are computed when somebody asks, so that no series outlives its service. Labels are
//! words of ours and never texts from outside; only the ages of single heartbeats carry ids, and those are
//! off unless configured, and capped.

use std::{fmt, sync::Arc};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry as Exposition,
};
use rollcall_common::{id::Kind, lease::Presence, lifecycle::Status};

use super::{
    State,
    access::Permission,
    error::{Problem, ProblemCode},
    extract::Call,
    routes::{Operation, Routes},
    scan::walk,
};
use crate::scope::Scope;

/// Most heartbeat ages in one scrape.
const MAX_AGES: usize = 10_000;
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An answered request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AnswerLabel {
    /// The route as declared, never the path as sent.
    pub(super) route: String,
    pub(super) method: &'static str,
    pub(super) status: u16,
}

/// What the HTTP server counts about itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answers: Family<AnswerLabel, Counter>,
    pub(super) unauthenticated: Counter,
    pub(super) connections: Counter,
    pub(super) panics: Counter,
    pub(super) repeated: Counter,
    pub(super) forgotten: Counter,
    pub(super) feed_dropped: Family<DropLabel, Counter>,
}

/// Why a reader of the feed was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DropLabel {
    reason: &'static str,
}

impl Counts {
    /// Counts a reader of the feed that was dropped.
    pub(super) fn drop_reader(&self, reason: &'static str) {
        self.feed_dropped.get_or_create(&DropLabel { reason }).inc();
    }
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes.tag("metrics", "For Prometheus").add(
        Operation::get("/metrics", Permission::Scrape, "get_metrics")
            .about("What the collector counts, and what the roster holds")
            .answer_as(200, "application/openmetrics-text", "The exposition"),
        scrape,
    )
}

async fn scrape(call: Call) -> Result<Response, Problem> {
    let mut exposition = Exposition::default();
    let state = &call.state;
    state.registry.metrics().register(&mut exposition);
    exposition.register("rollcall_http_answers", "HTTP requests answered", state.counts.answers.clone());
    exposition.register(
        "rollcall_http_unauthenticated",
        "HTTP requests without a credential that is accepted",
        state.counts.unauthenticated.clone(),
    );
    exposition.register("rollcall_http_connections", "HTTP connections accepted", state.counts.connections.clone());
    let dropped = state.counts.feed_dropped.clone();
    exposition.register("rollcall_feed_dropped", "Readers of the feed that were dropped, by reason", dropped);
    exposition.register("rollcall_http_panics", "HTTP requests that ended in a panic", state.counts.panics.clone());
    let repeated = state.counts.repeated.clone();
    exposition.register(
        "rollcall_http_repeated",
        "Requests that were answered by an earlier one of their key",
        repeated,
    );
    exposition.register(
        "rollcall_http_answers_forgotten",
        "Answers to requests with a key that made room for others before their time",
        state.counts.forgotten.clone(),
    );
    state.logins.register(&mut exposition);
    if let Some(certificates) = &state.certificates {
        certificates.register(&mut exposition);
    }
    state.oidc.register(&mut exposition);
    exposition.register_collector(Box::new(Services(Arc::clone(state))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &exposition)
        .map_err(|_| Problem::new(ProblemCode::Internal, "the metrics could not be printed"))?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// Reads the roster when it is scraped.
struct Services(Arc<State>);

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Services")
    }
}

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let kinds = &state.count(&Scope::everything()).kinds;
        let mut services = gauges(&mut encoder, "service_registry_services", "Registered services")?;
        for (kind, tally) in kinds {
            for status in Status::ALL {
                let labels = [("type", kind.as_str()), ("status", status.as_str())];
                gauge(&mut services, &labels, tally.status(status))?;
            }
        }
        let mut presences = gauges(&mut encoder, "service_registry_presence", "Services by observed presence")?;
        for (kind, tally) in kinds {
            for presence in Presence::ALL {
                let labels = [("type", kind.as_str()), ("presence", presence.as_str())];
                gauge(&mut presences, &labels, tally.presence(presence))?;
            }
        }
        let worked_on = kinds.values().map(|tally| tally.maintenance()).sum();
        single(&mut encoder, "rollcall_services_in_maintenance", "Services being worked on now", worked_on)?;
        let registry = &state.registry;
        let links = u64::try_from(registry.links().len()).unwrap_or(u64::MAX);
        single(&mut encoder, "rollcall_connections", "Sidecars connected now", links)?;
        let store = u64::from(registry.store_ok());
        single(&mut encoder, "rollcall_registry_store_up", "Whether the registry store takes changes", store)?;
        let liveness = u64::from((state.liveness)().ok);
        single(&mut encoder, "rollcall_liveness_store_up", "Whether the liveness store takes marks", liveness)?;
        self.feed(&mut encoder)?;
        if let Some(seal) = state.sealed.get() {
            // The head is short-lived by nature, and one series: to be noted where the collector cannot change it.
            let head = seal.hash.to_string();
            let mut info =
                gauges(&mut encoder, "rollcall_audit_head", "The newest seal of the audit trail, by its hash")?;
            gauge(&mut info, &[("head", head.as_str()), ("unit", "seal")], seal.no)?;
            single(&mut encoder, "rollcall_audit_sealed_seq", "The last seq that is sealed", seal.last.0)?;
        }
        let help = "Seconds since the keys in use of an identity provider were fetched";
        let mut ages = gauges(&mut encoder, "rollcall_oidc_keys_age_seconds", help)?;
        for (issuer, age) in state.oidc.ages() {
            ConstGauge::new(age.as_secs_f64()).encode(ages.encode_family(&[("issuer", issuer)])?)?;
        }
        if state.heartbeat_ages { self.ages(&mut encoder) } else { Ok(()) }
    }
}

impl Services {
    fn feed(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let depth = state.registry.feed().depth();
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let readers = wide(state.stream_places.saturating_sub(state.streams.available_permits()));
        single(encoder, "rollcall_feed_readers", "Streams and waiting polls open now", readers)?;
        single(encoder, "rollcall_feed_held_events", "Events that the feed holds", wide(depth.events))?;
        single(encoder, "rollcall_feed_held_bytes", "Bytes that the feed's events take, about", wide(depth.bytes))?;
        let age = depth.oldest.map_or(0, |at| state.registry.now().wall.since(at).as_secs());
        single(encoder, "rollcall_feed_oldest_age_seconds", "Age of the oldest event that the feed holds", age)?;
        let events = encoder.encode_descriptor("rollcall_feed_events", "Events fed", None, MetricType::Counter)?;
        ConstCounter::new(depth.total).encode(events)
    }

    fn ages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let registry = &self.0.registry;
        let now = registry.now();
        let mut ages: Vec<(Kind, String, f64)> = Vec::new();
        walk(registry, &Scope::everything(), None, |_, entry, sight| {
            let beat = sight.and_then(|sight| sight.last_beat).filter(|_| ages.len() < MAX_AGES);
            if let Some(beat) = beat {
                let key = &entry.row.key;
                ages.push((key.kind, key.id.to_string(), now.boot.since(beat).as_secs_f64()));
            }
        });
        let help = "Seconds since the last heartbeat, of at most 10000 services";
        let mut family = gauges(encoder, "service_registry_heartbeat_age_seconds", help)?;
        for (kind, id, age) in ages {
            gauge(&mut family, &[("type", kind.as_str()), ("id", id.as_str())], age)?;
        }
        Ok(())
    }
}

fn gauges<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn gauge<N: prometheus_client::encoding::EncodeGaugeValue>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); 2],
    value: N,
) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    ConstGauge::new(value).encode(family.encode_family(labels)?)
}

fn single(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(gauges(encoder, name, help)?)
}
