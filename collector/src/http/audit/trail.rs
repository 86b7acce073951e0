//! The sealed trail: seals, their check, and an export that can be checked elsewhere.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use rollcall_common::id::Seq;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    audit::{
        Break,
        chain::{BATCH, SealHash, SealRow},
        offline::Line,
        sealer,
    },
    http::{
        access::Permission,
        call::Call,
        error::{Problem, ProblemCode},
        extract::Query,
        openapi::words,
        page::{self, Page},
        routes::{Operation, Param, Routes},
        view::Time,
    },
};

/// Batches that one answer checks: a tenth of a second or so.
const CHECKED: usize = 100;
/// Batches that one answer exports.
const EXPORTED: usize = 10;

const AFTER: Param = Param::of::<words::Number>("after", "Only behind the seal with this number");

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .add(
            Operation::get("/api/admin/audit/seals", Permission::Read, "list_audit_seals")
                .about("The seals of the audit trail, in order")
                .more("Each seal's hash covers its events and the seal before it. Note the newest one elsewhere.")
                .query(&[AFTER, Param::of::<words::Limit>("limit", "Seals of a page"), Param::of::<words::Cursor>("cursor", "Where the page begins")])
                .answer::<Page<SealView>>(200, "A page")
                .gives(&[ProblemCode::StoreUnavailable]),
            seals,
        )
        .add(
            Operation::get("/api/admin/audit/verify", Permission::Read, "verify_audit")
                .streams()
                .about("Check the audit trail against its seals")
                .more("Checks some hundred batches and answers how far it came: follow `next` with `after` until it is null. \
                       With `head` the chain must contain a hash that was noted earlier: once an answer has `head_met`, go on \
                       without it. The first batch that does not hold is named.")
                .query(&[AFTER, Param::of::<words::Hash>("head", "A hash that was noted earlier")])
                .answer::<VerdictView>(200, "What was found")
                .gives(&[ProblemCode::StoreUnavailable]),
            verify,
        )
        .add(
            Operation::get("/api/admin/audit/export", Permission::Read, "export_audit")
                .streams()
                .about("The trail with its seals, some batches at a time")
                .more("One JSON value a line: events, and behind each batch its seal. The header `x-next` names the seal to go \
                       on behind; without it the end was reached, and what is not sealed yet came last. While more than a batch \
                       waits for its seal, it names the last seal: ask again a second later.")
                .query(&[AFTER])
                .answer_as(200, "application/x-ndjson", "Events and seals, in order")
                .gives(&[ProblemCode::StoreUnavailable]),
            export,
        )
}

/// A seal.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SealView {
    /// Its number.
    no: u64,
    /// The registry's epoch.
    epoch: u64,
    /// The seq of its first event.
    first: u64,
    /// The seq of its last event.
    last: u64,
    /// How many events it has.
    count: u64,
    /// The hash of the seal before it.
    #[schema(value_type = words::Hash)]
    prev: String,
    /// Its hash.
    #[schema(value_type = words::Hash)]
    hash: String,
    /// When it was sealed.
    #[schema(value_type = words::Time)]
    sealed_at: Time,
    /// When its events were retired.
    #[schema(value_type = Option<words::Time>)]
    retired_at: Option<Time>,
}

impl SealView {
    fn of(row: &SealRow) -> Self {
        Self {
            no: row.no,
            epoch: row.epoch,
            first: row.first.0,
            last: row.last.0,
            count: row.count,
            prev: row.prev.to_string(),
            hash: row.hash.to_string(),
            sealed_at: Time(row.sealed_at),
            retired_at: row.retired_at.map(Time),
        }
    }
}

/// What a check found.
#[derive(Debug, Serialize, ToSchema)]
struct VerdictView {
    /// Whether everything that was looked at holds.
    holds: bool,
    /// Seals that hold.
    seals: u64,
    /// Events that they cover and that are there.
    events: u64,
    /// The hash of the last seal that holds.
    #[schema(value_type = words::Hash)]
    head: String,
    /// Whether the `head` that was asked for is among them: then the parts that follow are asked without it.
    head_met: bool,
    /// Where to go on; `null` at the end of the chain, or where it is broken.
    next: Option<u64>,
    /// Where it does not hold.
    broken: Option<BreakView>,
}

/// Where a chain does not hold.
#[derive(Debug, Serialize, ToSchema)]
struct BreakView {
    /// How: `changed`, `missing`, `extra`, `seal` or `head`.
    kind: &'static str,
    /// The batch.
    no: Option<u64>,
    /// Its first seq.
    first: Option<u64>,
    /// Its last seq.
    last: Option<u64>,
    /// In words.
    detail: String,
}

impl BreakView {
    fn of(found: &Break) -> Self {
        let (kind, no, range) = match found {
            Break::Changed { no, first, last } => ("changed", Some(*no), Some((first, last))),
            Break::Missing { no, first, last, .. } => ("missing", Some(*no), Some((first, last))),
            Break::Extra { no, first, last, .. } => ("extra", Some(*no), Some((first, last))),
            Break::Seal { no } => ("seal", Some(*no), None),
            Break::Head(_) => ("head", None, None),
        };
        Self {
            kind,
            no,
            first: range.map(|(first, _)| first.0),
            last: range.map(|(_, last)| last.0),
            detail: found.to_string(),
        }
    }
}

fn number(query: &Query, name: &'static str) -> Result<u64, Problem> {
    let Some(text) = query.get(name) else { return Ok(0) };
    text.parse().ok().filter(|number| *number < i64::MAX.unsigned_abs()).ok_or_else(|| {
        Problem::new(ProblemCode::InvalidQuery, format!("{name} is a whole number")).with("parameter", name)
    })
}

async fn seals(call: Call, query: Query) -> Result<axum::Json<Page<SealView>>, Problem> {
    let limit = query.get("limit").map_or(Ok(page::DEFAULT_LIMIT), page::limit)?;
    let after = match query.get("cursor") {
        Some(cursor) => page::seek::<u64>(cursor)?.min(i64::MAX.unsigned_abs()),
        None => number(&query, "after")?,
    };
    let position = call.state.registry.read(|roster| roster.position());
    let rows = call.state.store.seals(after, limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|last| page::cursor(&last.no.to_string()));
    Ok(axum::Json(Page::at(position, rows.iter().map(SealView::of).collect(), next)))
}

async fn verify(call: Call, query: Query) -> Result<axum::Json<VerdictView>, Problem> {
    let head = query.get("head").map(str::parse::<SealHash>).transpose();
    let head = head.map_err(|why| Problem::new(ProblemCode::InvalidQuery, why).with("parameter", "head"))?;
    let mut found = sealer::verify(&*call.state.store, number(&query, "after")?, CHECKED, head).await?;
    // What this collector sealed itself must be the chain's end.
    if let Some(held) = call.state.sealed.get().filter(|_| found.whole && found.broken.is_none())
        && found.no <= held.no
        && found.head != held.hash
        && call.state.store.last_seal().await?.map(|last| last.hash) != Some(held.hash)
    {
        found.broken = Some(Break::Head(held.hash));
    }
    Ok(axum::Json(VerdictView {
        holds: found.broken.is_none(),
        seals: found.seals,
        events: found.events,
        head: found.head.to_string(),
        head_met: found.met,
        next: (!found.whole && found.broken.is_none()).then_some(found.no),
        broken: found.broken.as_ref().map(BreakView::of),
    }))
}

async fn export(call: Call, query: Query) -> Result<Response, Problem> {
    let after = number(&query, "after")?;
    let store = &call.state.store;
    let mut at = match after {
        0 => Seq(0),
        no => match store.seals(no - 1, 1).await?.first().filter(|seal| seal.no == no) {
            Some(seal) => seal.last,
            None => {
                let detail = format!("there is no seal {no}: see /api/admin/audit/seals");
                return Err(Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "after"));
            }
        },
    };
    let seals = store.seals(after, EXPORTED).await?;
    let mut out = Vec::new();
    let mut line = |line: &Line| -> Result<(), Problem> {
        serde_json::to_writer(&mut out, line)
            .map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?;
        out.push(b'\n');
        Ok(())
    };
    let whole = seals.len() < EXPORTED;
    let newest = seals.last().map_or(after, |seal| seal.no);
    let mut next = Some(newest).filter(|_| !whole);
    for seal in seals {
        for event in store.trail(at, seal.last, BATCH + 1).await? {
            line(&Line::Event(event))?;
        }
        at = seal.last;
        line(&Line::Seal(seal))?;
    }
    if whole {
        let tail = store.trail(at, Seq(u64::MAX), BATCH).await?;
        // There may be more behind a full batch, and its seal is due: whoever asks again gets both.
        if tail.len() < BATCH {
            for event in tail {
                line(&Line::Event(event))?;
            }
        } else {
            next = Some(newest);
        }
    }
    let mut answer = Response::new(Body::from(out));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    if let Some(next) = next {
        answer.headers_mut().insert("x-next", HeaderValue::from(next));
    }
    Ok(answer)
}
