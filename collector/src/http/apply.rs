//! Desired state over HTTP: many registrations a request, as one JSON document or one item a line.
//!
//! An item that cannot be read or cannot be is refused alone; the others become one durable change. This is
//! the way in for manifests, for controllers that say the same thing again and again, and for the past that
//! another registry knew.

use axum::{
    extract::{FromRequest, Request},
    http::header,
};
use rollcall_common::{
    health::Text,
    id::{Kind, ServiceId, ServiceKey, SpiffeId},
    lifecycle::Status,
    service::{CheckerKind, Source},
    time::{Now, Timestamp},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Query, whole},
    openapi::words,
    routes::{Operation, Param, Routes},
    services::register::source_of,
};
use crate::registry::{
    Request as _, World,
    services::{
        apply::{Apply, Item, Outcome, Past},
        edit::{Difference, PairsPatch, Patch},
    },
};

/// Most items of a request.
pub(crate) const MAX_ITEMS: usize = 1_000;
/// Largest body: a request of full items.
const MAX_BYTES: usize = 4 << 20;

const NDJSON: &str = "application/x-ndjson";
const QUERY: &[Param] = &[
    Param::of::<words::Flag>("dry_run", "Only look"),
    Param::of::<words::Flag>("recover", "Also takes deletions back"),
    Param::of::<words::Flag>("backfill", "Items may carry what another registry knew; takes an administrator"),
];

/// What is desired.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyBody {
    /// Only look.
    #[serde(default)]
    dry_run: bool,
    /// Also takes deletions back.
    #[serde(default)]
    recover: bool,
    /// Items may carry what another registry knew; takes an administrator.
    #[serde(default)]
    backfill: bool,
    /// At most 1,000, in any order.
    #[schema(value_type = Vec<ApplyItem>)]
    items: Vec<Value>,
}

/// One service as it is to be. What is not named stays as it is; `null` takes a value out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyItem {
    #[schema(value_type = words::Kind)]
    kind: Kind,
    #[schema(value_type = words::Id)]
    id: ServiceId,
    /// Settled with the registration; needed then by agents and checkers.
    #[schema(value_type = Option<words::Id>)]
    parent: Option<ServiceId>,
    /// For checkers; settled with the registration.
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<CheckerKind>,
    /// `config` (the default), `http` or `k8s_spiffe`; set once.
    #[schema(value_type = Option<words::Source>)]
    source: Option<Source>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<words::Text>)]
    component_id: Option<Option<Text>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<words::PairsPatch>)]
    labels: Option<PairsPatch>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<words::PairsPatch>)]
    metadata: Option<PairsPatch>,
    placeholder: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<words::SpiffeId>)]
    spiffe_identity: Option<Option<SpiffeId>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    ephemeral_after_secs: Option<Option<u32>>,
    implicit_children: Option<bool>,
    /// With `backfill`: when another registry had it first.
    #[schema(value_type = Option<words::Time>)]
    first_registered: Option<String>,
    /// With `backfill`.
    #[schema(value_type = Option<words::Time>)]
    first_seen: Option<String>,
    /// With `backfill`.
    #[schema(value_type = Option<words::Time>)]
    last_seen: Option<String>,
    /// With `backfill`.
    #[schema(value_type = Option<words::Text>)]
    created_by: Option<Text>,
    /// With `backfill`: where it stood. What was active comes in as inactive: only a heartbeat makes active.
    #[schema(value_type = Option<words::Status>)]
    status: Option<Status>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApplyView {
    dry_run: bool,
    created: usize,
    updated: usize,
    unchanged: usize,
    refused: usize,
    /// In the order of the request.
    items: Vec<ApplyItemView>,
    seq: u64,
    epoch: u64,
}

/// What became of one item.
#[derive(Debug, Serialize, ToSchema)]
struct ApplyItemView {
    /// Which; `null` where the item could not be read that far.
    #[schema(value_type = Option<words::Key>)]
    service: Option<String>,
    /// `created`, `updated`, `unchanged` or `refused`.
    outcome: &'static str,
    /// What differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<DifferenceView>,
    /// The problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// One field that differs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DifferenceView {
    /// Which, as in `labels.site`.
    field: String,
    #[schema(value_type = words::Anything)]
    before: Value,
    #[schema(value_type = words::Anything)]
    after: Value,
}

impl From<Difference> for DifferenceView {
    fn from(one: Difference) -> Self {
        Self { field: one.field, before: one.before, after: one.after }
    }
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(
        Operation::post("/api/admin/services/apply", Permission::Operate, "apply_services")
            .scoped()
            .about("Registers and changes many services to what is desired")
            .more(
                "Repeating it changes nothing. Parents may stand in the same request, in any order. A refused item \
                 leaves the others. The status of what exists is not touched, except that `recover` takes deletions \
                 back. For a caller with a label scope each item beyond it is refused as if it were unknown. Send `application/json`, or `application/x-ndjson` with one item a line.",
            )
            .query(QUERY)
            .body_as::<ApplyBody>(&["application/json", NDJSON])
            .body_limit(MAX_BYTES)
            .answer::<ApplyView>(200, "What became of each item")
            .gives(&[ProblemCode::RegistryFull]),
        apply,
    )
}

struct Asked {
    dry_run: bool,
    recover: bool,
    backfill: bool,
    items: Vec<Result<Value, Problem>>,
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/json" => {
                let bytes = whole(request).await?;
                let body: ApplyBody = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
                let items = body.items.into_iter().map(Ok).collect();
                Ok(Self { dry_run: body.dry_run, recover: body.recover, backfill: body.backfill, items })
            }
            NDJSON => {
                let bytes = whole(request).await?;
                Ok(Self { dry_run: false, recover: false, backfill: false, items: lines(&bytes) })
            }
            _ => Err(Problem::new(ProblemCode::MediaType, format!("send application/json or {NDJSON}"))),
        }
    }
}

fn unreadable(error: &serde_json::Error) -> Problem {
    let code = if error.is_data() { ProblemCode::Invalid } else { ProblemCode::InvalidBody };
    Problem::new(code, error.to_string())
}

/// One item a line; empty lines are none.
fn lines(bytes: &[u8]) -> Vec<Result<Value, Problem>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    // One more than may be tells that there are too many.
    lines.take(MAX_ITEMS + 1).map(|line| serde_json::from_slice(line).map_err(|error| unreadable(&error))).collect()
}

/// How many items of a body can be registered, in either form; each that can is told by its own name.
#[cfg(any(test, feature = "test-util"))]
pub(super) fn readable(bytes: &[u8]) -> usize {
    let listed = serde_json::from_slice::<ApplyBody>(bytes).map(|body| body.items.into_iter().map(Ok).collect());
    let mut good = 0;
    for items in [lines(bytes), listed.unwrap_or_default()] {
        assert!(items.len() <= MAX_ITEMS + 1 || items.len() <= bytes.len(), "items out of nothing");
        for item in items {
            for backfill in [false, true] {
                if let (name, Ok(read)) = read_item(item.clone(), backfill) {
                    assert!(name.is_some_and(|name| name == read.key.to_string()), "an item under another name");
                    good += 1;
                }
            }
        }
    }
    good
}

async fn apply(call: Call, query: Query, asked: Asked) -> Result<axum::Json<ApplyView>, Problem> {
    let flag = |name: &str| match query.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => {
            let detail = format!("{name} is true or false");
            Err(Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", name))
        }
    };
    let dry_run = asked.dry_run | flag("dry_run")?;
    let backfill = asked.backfill | flag("backfill")?;
    let recover = asked.recover | flag("recover")?;
    if backfill {
        call.demand(Permission::Administer)?;
    }
    if asked.items.len() > MAX_ITEMS {
        let detail = format!("a request holds at most {MAX_ITEMS} items: send them in several");
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    let registry = &call.state.registry;
    let read: Vec<(Option<String>, Result<Item, Problem>)> =
        asked.items.into_iter().map(|item| read_item(item, backfill)).collect();
    let request = Apply {
        items: read.iter().filter_map(|(_, item)| item.as_ref().ok().cloned()).collect(),
        recover,
        scope: call.scope().clone(),
        trust_domain: registry.whoami().trust_domain.clone(),
        by: call.by(),
    };
    let outcomes = if dry_run {
        let now: Now = registry.now();
        registry.read(|roster| request.plan(World { roster, now })).map(|(_, outcomes)| outcomes)?
    } else {
        registry.ask(request).await?
    };
    let position = registry.read(|roster| roster.position());
    Ok(axum::Json(ApplyView::of(dry_run, read, outcomes, (position.seq.0, position.epoch))))
}

impl ApplyView {
    fn of(
        dry_run: bool,
        read: Vec<(Option<String>, Result<Item, Problem>)>,
        outcomes: Vec<Outcome>,
        (seq, epoch): (u64, u64),
    ) -> Self {
        let mut view =
            Self { dry_run, created: 0, updated: 0, unchanged: 0, refused: 0, items: Vec::new(), seq, epoch };
        let mut outcomes = outcomes.into_iter();
        for (service, item) in read {
            let outcome = item.map(|_| outcomes.next().unwrap_or(Outcome::Unchanged));
            let mut shown =
                ApplyItemView { service, outcome: "refused", differences: Vec::new(), code: None, detail: None };
            let refusal = match outcome {
                Ok(Outcome::Created) => {
                    (shown.outcome, view.created) = ("created", view.created + 1);
                    None
                }
                Ok(Outcome::Updated(differences)) => {
                    (shown.outcome, view.updated) = ("updated", view.updated + 1);
                    shown.differences = differences.into_iter().map(Into::into).collect();
                    None
                }
                Ok(Outcome::Unchanged) => {
                    (shown.outcome, view.unchanged) = ("unchanged", view.unchanged + 1);
                    None
                }
                Ok(Outcome::Refused(refusal)) => Some(Problem::from(refusal)),
                Err(problem) => Some(problem),
            };
            if let Some(problem) = refusal {
                view.refused += 1;
                shown.code = Some(problem.code().as_str());
                shown.detail = Some(problem.detail().to_owned());
            }
            view.items.push(shown);
        }
        view
    }
}

fn read_item(item: Result<Value, Problem>, backfill: bool) -> (Option<String>, Result<Item, Problem>) {
    let value = match item {
        Ok(value) => value,
        Err(problem) => return (None, Err(problem)),
    };
    let word = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    // Whatever else is wrong with it, it is told by its name where it has one.
    let name = word("kind").zip(word("id")).and_then(|(kind, id)| format!("{kind}/{id}").parse::<ServiceKey>().ok());
    let item = serde_json::from_value::<ApplyItem>(value).map_err(|error| unreadable(&error));
    (name.map(|key| key.to_string()), item.and_then(|item| item.read(backfill)))
}

impl ApplyItem {
    fn read(self, backfill: bool) -> Result<Item, Problem> {
        let past = Past {
            first_registered: moment("first_registered", self.first_registered.as_deref())?,
            first_seen: moment("first_seen", self.first_seen.as_deref())?,
            last_seen: moment("last_seen", self.last_seen.as_deref())?,
            created_by: self.created_by.map(String::from),
            status: self.status,
        };
        let past = Some(past).filter(|past| *past != Past::default());
        if past.is_some() && !backfill {
            let detail = "first_registered, first_seen, last_seen, created_by and status come with backfill only";
            return Err(Problem::new(ProblemCode::Invalid, detail));
        }
        let source = match (self.source, backfill) {
            // Another registry may have had it from anywhere.
            (Some(source), true) => source,
            (source, _) => source_of(source.unwrap_or(Source::Config))?,
        };
        Ok(Item {
            key: ServiceKey::new(self.kind, self.id),
            parent: self.parent,
            checker_kind: self.checker_kind,
            source,
            patch: Patch {
                component_id: self.component_id,
                labels: self.labels,
                metadata: self.metadata,
                placeholder: self.placeholder,
                spiffe_identity: self.spiffe_identity,
                ephemeral_after_secs: self.ephemeral_after_secs,
                implicit_children: self.implicit_children,
            },
            past,
        })
    }
}

fn moment(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(|time| Some(Timestamp(time.as_millisecond()))).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        let detail = format!("{field}: {shown:?} is no time: write it as in 2026-11-21T02:46:00Z");
        Problem::new(ProblemCode::Invalid, detail)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is sent: no panic, and never more items than may be.
        #[test]
        fn any_lines_are_read(text in "\\PC{0,200}", n in 0..3usize) {
            let text = format!("{text}\n").repeat(n);
            let read: Vec<_> = lines(text.as_bytes()).into_iter().map(|item| read_item(item, true)).collect();
            prop_assert!(read.len() <= MAX_ITEMS + 1);
        }
    }

    #[test]
    fn too_many_lines_are_not_even_read() {
        assert_eq!(lines("{}\n".repeat(50_000).as_bytes()).len(), MAX_ITEMS + 1);
        assert_eq!(lines(b"\n \r\n{}\n\n").len(), 1);
    }

    #[test]
    fn an_item_says_what_is_wrong_with_it() {
        let read = |text: &str, backfill| {
            let (name, item) = read_item(Ok(serde_json::from_str(text).unwrap()), backfill);
            (name, item.map_err(|problem| problem.detail().to_owned()))
        };
        let (name, item) = read(r#"{"kind":"agent","id":"a","parent":"p","labels":{"site":null}}"#, false);
        assert_eq!((name.as_deref(), item.unwrap().source), (Some("agent/a"), Source::Config));
        for (text, backfill, word) in [
            (r#"{"kind":"agent","id":"a","colour":1}"#, false, "unknown field"),
            (r#"{"kind":"agent","id":"a","status":"active"}"#, false, "backfill"),
            (r#"{"kind":"agent","id":"a","last_seen":"yesterday"}"#, true, "is no time"),
            (r#"{"kind":"agent","id":"a","source":"implicit"}"#, false, "source"),
            (r#"{"kind":"agent"}"#, false, "missing field"),
            ("7", false, "invalid type"),
        ] {
            let (_, item) = read(text, backfill);
            assert!(item.unwrap_err().contains(word), "{text}");
        }
        assert!(read(r#"{"kind":"agent","id":"a","source":"implicit","status":"active"}"#, true).1.is_ok());
    }
}
