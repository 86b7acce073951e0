//! `/metrics`: what the collector counts, and what the roster holds at the moment of the scrape.
//!
//! Gauges of services are computed when somebody asks, so that no series outlives its service. Labels are
//! words of ours and never texts from outside; only the ages of single heartbeats carry ids, and those are
//! off unless configured, and capped.
//!
//! | module | owns |
//! |---|---|
//! | `form` | which exposition format is answered |
//! | `survey` | the walk over everybody |
//! | `process` | memory, CPU time, file descriptors |

mod form;
mod process;
mod survey;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry as Exposition,
};
use rollcall_common::{health::Progress, lease::Presence, lifecycle::Status, wire::Transport};

use self::{form::Form, process::Process, survey::Survey};
use super::{
    State,
    access::Permission,
    error::{Problem, ProblemCode},
    extract::Call,
    openapi::words,
    routes::{Operation, Param, Routes},
};
use crate::registry::{roster::Roster, settings::Standing};

/// An answered request. Only what is declared has a name: a path or a method that nobody declared has none.
#[derive(Debug, Clone)]
pub(super) struct AnswerLabel {
    pub(super) operation: Option<Arc<Operation>>,
    pub(super) status: u16,
}

impl AnswerLabel {
    fn key(&self) -> (Option<&str>, u16) {
        (self.operation.as_ref().map(|operation| operation.id.as_str()), self.status)
    }
}

impl PartialEq for AnswerLabel {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for AnswerLabel {}

impl std::hash::Hash for AnswerLabel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl EncodeLabelSet for AnswerLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (route, method) = named(self.operation.as_deref());
        [("route", route), ("method", method)].encode(encoder)?;
        [("status", self.status)].encode(encoder)
    }
}

/// An operation that answers.
#[derive(Debug, Clone)]
pub(super) struct OperationLabel(Arc<Operation>);

impl PartialEq for OperationLabel {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for OperationLabel {}

impl std::hash::Hash for OperationLabel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl EncodeLabelSet for OperationLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (route, method) = named(Some(&self.0));
        [("route", route), ("method", method)].encode(encoder)
    }
}

fn named(operation: Option<&Operation>) -> (&str, &str) {
    operation.map_or(("none", "none"), |operation| (operation.path.as_str(), operation.method.as_str()))
}

/// Somebody who said who it is, or should have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AuthLabel {
    way: &'static str,
    outcome: &'static str,
}

/// Why a request did not pass: a problem's stable word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProblemLabel {
    code: &'static str,
}

/// Why a reader of the feed was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DropLabel {
    reason: &'static str,
}

/// What the HTTP server counts about itself.
#[derive(Debug)]
pub(super) struct Counts {
    answers: Family<AnswerLabel, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    authentications: Family<AuthLabel, Counter>,
    problems: Family<ProblemLabel, Counter>,
    pub(super) connections: Counter,
    pub(super) connections_yielded: Counter,
    pub(super) panics: Counter,
    pub(super) repeated: Counter,
    pub(super) forgotten: Counter,
    feed_dropped: Family<DropLabel, Counter>,
}

/// 1 ms to 10 s, by what operators are promised.
fn answer_seconds() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 10.0])
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Self {
            answers: Family::default(),
            seconds: Family::new_with_constructor(answer_seconds),
            authentications: Family::default(),
            problems: Family::default(),
            connections: Counter::default(),
            connections_yielded: Counter::default(),
            panics: Counter::default(),
            repeated: Counter::default(),
            forgotten: Counter::default(),
            feed_dropped: Family::default(),
        };
        // What is known beforehand begins at nothing: a rate does not see the first event of a series.
        for (way, outcome) in [
            ("credential", "accepted"),
            ("credential", "refused"),
            ("credential", "throttled"),
            ("credential", "forbidden"),
            ("none", "refused"),
        ] {
            drop(counts.authentications.get_or_create(&AuthLabel { way, outcome }));
        }
        for reason in ["lagged", "stalled", "credential"] {
            drop(counts.feed_dropped.get_or_create(&DropLabel { reason }));
        }
        counts
    }
}

impl Counts {
    /// Counts a request that did not pass.
    pub(super) fn problem(&self, code: ProblemCode) {
        self.problems.get_or_create(&ProblemLabel { code: code.as_str() }).inc();
    }

    /// How many did not pass for this reason.
    #[cfg(test)]
    pub(super) fn problems_of(&self, code: ProblemCode) -> u64 {
        self.problems.get_or_create(&ProblemLabel { code: code.as_str() }).get()
    }

    /// Counts a reader of the feed that was dropped.
    pub(super) fn drop_reader(&self, reason: &'static str) {
        self.feed_dropped.get_or_create(&DropLabel { reason }).inc();
    }

    /// Counts an answer, and what it took where that was the collector's doing.
    pub(super) fn answered(&self, operation: Option<Arc<Operation>>, status: u16, took: Duration) {
        if let Some(operation) = operation.clone().filter(|operation| !operation.streams) {
            self.seconds.get_or_create(&OperationLabel(operation)).observe(took.as_secs_f64());
        }
        self.answers.get_or_create(&AnswerLabel { operation, status }).inc();
    }

    /// Counts what became of somebody who came in one of our ways.
    pub(super) fn authenticated(&self, way: &'static str, outcome: &'static str) {
        self.authentications.get_or_create(&AuthLabel { way, outcome }).inc();
    }

    fn register(&self, exposition: &mut Exposition) {
        let answers = "HTTP requests answered; what is no declared operation has the route none";
        exposition.register("rollcall_http_answers", answers, self.answers.clone());
        let seconds = "Seconds from a request's head to its answer's, streams left out";
        exposition.register("rollcall_http_answer_seconds", seconds, self.seconds.clone());
        let authentications = "Requests that needed somebody's permission, by the way they proved who sent them";
        exposition.register("rollcall_http_authentications", authentications, self.authentications.clone());
        let problems = "HTTP requests that were refused or failed, by the problem's code";
        exposition.register("rollcall_http_problems", problems, self.problems.clone());
        exposition.register("rollcall_http_connections", "HTTP connections accepted", self.connections.clone());
        exposition.register(
            "rollcall_http_connections_yielded",
            "HTTP connections that kept the collector waiting and were closed for a newcomer",
            self.connections_yielded.clone(),
        );
        exposition.register("rollcall_http_panics", "HTTP requests that ended in a panic", self.panics.clone());
        let repeated = "Requests that were answered by an earlier one of their key";
        exposition.register("rollcall_http_repeated", repeated, self.repeated.clone());
        let forgotten = "Answers to requests with a key that made room for others before their time";
        exposition.register("rollcall_http_answers_forgotten", forgotten, self.forgotten.clone());
        let dropped = "Readers of the feed that were dropped, by reason";
        exposition.register("rollcall_feed_dropped", dropped, self.feed_dropped.clone());
    }
}

/// What `/metrics` holds beyond what it always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extra {
    /// Ages of single services, at most so many.
    pub service_ages: Option<usize>,
    /// The gauge `service_registry_total`, a second name of `service_registry_services`.
    pub total_alias: bool,
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes.tag("metrics", "For Prometheus").add(
        Operation::get("/metrics", Permission::Scrape, "get_metrics")
            .about("What the collector counts, and what the roster holds")
            .more("OpenMetrics 1.0 where `Accept` asks for it, else the text format 0.0.4.")
            .header(Param::of::<words::Text>("accept", "Media types with weights"))
            .answer_as(200, "text/plain", "The exposition")
            .answer_as(200, "application/openmetrics-text", "The exposition"),
        scrape,
    )
}

async fn scrape(call: Call, headers: HeaderMap) -> Result<Response, Problem> {
    let form = Form::wanted(&headers);
    let state = &call.state;
    let survey = Survey::take(&state.registry, state.extra.service_ages).await;
    let mut exposition = Exposition::default();
    state.registry.metrics().register(&mut exposition);
    state.counts.register(&mut exposition);
    state.logins.register(&mut exposition);
    if let Some(certificates) = &state.certificates {
        certificates.register(&mut exposition);
    }
    state.oidc.register(&mut exposition);
    exposition.register_collector(Box::new(Sight { state: Arc::clone(state), survey }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &exposition)
        .map_err(|_| Problem::new(ProblemCode::Internal, "the metrics could not be printed"))?;
    if form == Form::Plain {
        text = form::plain(&text);
    }
    Ok(([(header::CONTENT_TYPE, form.media_type()), (header::VARY, "Accept")], text).into_response())
}

/// What is read when it is scraped.
struct Sight {
    state: Arc<State>,
    survey: Survey,
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sight")
    }
}

impl Collector for Sight {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.services(&mut encoder)?;
        self.collector(&mut encoder)?;
        self.feed(&mut encoder)?;
        self.trail(&mut encoder)?;
        self.issuers(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Sight {
    fn services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.by_status(encoder, "service_registry_services", "Registered services, by type and status.")?;
        if self.state.extra.total_alias {
            let help = "Registered services: another name of service_registry_services, for older dashboards.";
            self.by_status(encoder, "service_registry_total", help)?;
        }
        let kinds = &self.survey.kinds;
        let mut presences =
            gauges(encoder, "service_registry_presence", "Services by observed presence, as computed when scraped.")?;
        for (kind, kin) in kinds {
            for presence in Presence::ALL {
                let labels = [("type", kind.as_str()), ("presence", presence.as_str())];
                gauge(&mut presences, &labels, kin.presence(presence))?;
            }
        }
        self.by_word(encoder)?;
        let help = "Seconds since the last heartbeat of each service that is expected to beat: a photograph, to be \
                    read as it stands and not as a rate.";
        let name = "service_registry_heartbeat_age_seconds";
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (kind, kin) in kinds {
            let (labels, buckets) = ([("type", kind.as_str())], kin.ages.buckets());
            let mut one = ages.encode_family(&labels)?;
            one.encode_histogram::<[(&str, &str); 1]>(kin.ages.sum, kin.ages.count, &buckets, None)?;
        }
        if self.state.extra.service_ages.is_some() {
            let help = "Seconds since the last heartbeat of a service that is expected to beat.";
            let mut each = gauges(encoder, "service_registry_service_heartbeat_age_seconds", help)?;
            for (kind, id, age) in &self.survey.each {
                gauge(&mut each, &[("type", kind.as_str()), ("id", id.as_str())], *age)?;
            }
            let help = "Services without an age of their own, because metrics.service_ages_most have one.";
            single(encoder, "service_registry_service_heartbeat_ages_cut", help, self.survey.cut)?;
        }
        let help = "Services that are being worked on now.";
        single(encoder, "rollcall_services_in_maintenance", help, self.survey.worked_on)
    }

    /// What else is counted of services, each of one word.
    fn by_word(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counted = self.state.registry.read(|roster: &Roster| roster.index().counted().clone());
        let mut progress = gauges(encoder, "service_registry_progress", "Services by whether they get on.")?;
        for kind in self.survey.kinds.keys() {
            for word in Progress::ALL {
                let count = counted.get(kind).and_then(|known| known.progress.get(&word)).copied().unwrap_or_default();
                gauge(&mut progress, &[("type", kind.as_str()), ("progress", word.as_str())], count)?;
            }
        }
        let mut settings =
            gauges(encoder, "rollcall_settings", "Sidecars by where the settings wanted of them stand.")?;
        for word in Standing::ALL {
            let count = counted.values().filter_map(|known| known.settings.get(&word)).sum::<u64>();
            ConstGauge::new(count).encode(settings.encode_family(&[("state", word.as_str())])?)?;
        }
        Ok(())
    }

    fn by_status(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        let counted = self.state.registry.read(|roster: &Roster| roster.index().counted().clone());
        let mut services = gauges(encoder, name, help)?;
        for kind in self.survey.kinds.keys() {
            let known = counted.get(kind);
            for status in Status::ALL {
                let count = known.and_then(|known| known.status.get(&status)).copied().unwrap_or_default();
                gauge(&mut services, &[("type", kind.as_str()), ("status", status.as_str())], count)?;
            }
        }
        Ok(())
    }

    fn collector(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let registry = &self.state.registry;
        let mut build = gauges(encoder, "rollcall_build_info", "The collector, by version and name.")?;
        let name = registry.whoami().collector.as_str();
        gauge(&mut build, &[("version", env!("CARGO_PKG_VERSION")), ("collector", name)], 1_u64)?;
        let mut connections = gauges(encoder, "rollcall_connections", "Sidecars connected now, by what carries them.")?;
        for transport in Transport::ALL {
            let count = wide(registry.links().carried_by(transport));
            ConstGauge::new(count).encode(connections.encode_family(&[("transport", transport.as_str())])?)?;
        }
        let store = u64::from(registry.store_ok());
        single(encoder, "rollcall_registry_store_up", "Whether the registry store takes changes.", store)?;
        let liveness = u64::from((self.state.liveness)().ok);
        single(encoder, "rollcall_liveness_store_up", "Whether the liveness store takes marks.", liveness)
    }

    fn feed(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (state, feed) = (&self.state, self.state.registry.feed());
        let (depth, wall) = (feed.depth(), state.registry.now().wall);
        let readers = wide(state.stream_places.saturating_sub(state.streams.available_permits()));
        single(encoder, "rollcall_feed_readers", "Streams and waiting polls open now.", readers)?;
        let waits = state.readers.last().and_then(|at| feed.waits_since(at));
        let lag = waits.map_or(0.0, |at| wall.since(at).as_secs_f64());
        let help = "Age of the oldest event that some reader of the stream has not been handed yet.";
        ConstGauge::new(lag).encode(gauges(encoder, "rollcall_feed_lag_seconds", help)?)?;
        single(encoder, "rollcall_feed_held_events", "Events that the feed holds.", wide(depth.events))?;
        single(encoder, "rollcall_feed_held_bytes", "Bytes that the feed's events take, about.", wide(depth.bytes))?;
        let age = depth.oldest.map_or(0.0, |at| wall.since(at).as_secs_f64());
        let help = "Age of the oldest event that the feed holds.";
        ConstGauge::new(age).encode(gauges(encoder, "rollcall_feed_oldest_age_seconds", help)?)?;
        counter(encoder, "rollcall_feed_events", "Events fed.", depth.total)
    }

    fn trail(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(seal) = self.state.sealed.get() else { return Ok(()) };
        // Its hash would be a series of its own with each seal: who notes heads asks for the seals.
        single(encoder, "rollcall_audit_seal", "The number of the newest seal of the audit trail.", seal.no)?;
        single(encoder, "rollcall_audit_sealed_seq", "The last seq that is sealed.", seal.last.0)
    }

    fn issuers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut ages = self.state.oidc.ages().peekable();
        if ages.peek().is_none() {
            return Ok(());
        }
        let help = "Seconds since the keys in use of an identity provider were fetched.";
        let mut family = gauges(encoder, "rollcall_oidc_keys_age_seconds", help)?;
        for (issuer, age) in ages {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&[("issuer", issuer)])?)?;
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(process) = Process::look(self.state.registry.now()) else { return Ok(()) };
        let cpu = "User and system CPU time of the process.";
        counter(encoder, "process_cpu_seconds", cpu, process.cpu_seconds)?;
        let started = "Start time of the process since the Unix epoch.";
        ConstGauge::new(process.started).encode(gauges(encoder, "process_start_time_seconds", started)?)?;
        single(encoder, "process_resident_memory_bytes", "Memory of the process in RAM.", process.resident_bytes)?;
        single(encoder, "process_open_fds", "Open file descriptors.", process.open_files)?;
        single(encoder, "process_max_fds", "Most open file descriptors.", process.most_files)
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
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

fn counter<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> fmt::Result
where
    ConstCounter<N>: EncodeMetric,
{
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}
