//! Maintenance windows over HTTP: open, list, look at, change, end.
//!
//! What a window may be is the registry's affair; this file reads moments and spans, and shows where each window
//! stands now.
//!
//! A caller with a label scope opens windows that cover nothing beyond it, whatever their selector names and whatever
//! labels services will have: the scope becomes part of the selector. It sees, changes and ends those windows of
//! which that can be said, and the others are not there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{NoRandomness, Seq},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query},
    once,
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    scan::walk,
    view::Time,
};
use crate::{
    config::duration,
    registry::{
        Refusal,
        maintenance::{ChangeWindow, EndWindow, OpenWindow, WindowLimits, WindowState, matches, standing},
        roster::Roster,
    },
    scope::Scope,
    store::rows::{Change, Recurrence, RowId, Selector, ServiceKeyText, WindowRow},
};

const ROOT: &str = "/api/admin/maintenance";
/// Names of services that the view of one window lists.
const MAX_SHOWN: usize = 1_000;

/// A window to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OpenBody {
    /// Whom it covers: every condition that is given must hold.
    selector: SelectorBody,
    /// When it begins, or from when on it comes again; now where it is not given.
    #[schema(value_type = Option<words::Time>)]
    starts_at: Option<String>,
    /// When it ends, or until when it comes again; or give `for`.
    #[schema(value_type = Option<words::Time>)]
    ends_at: Option<String>,
    /// How long it lasts; with `cron`, how long each one lasts.
    #[serde(rename = "for")]
    #[schema(value_type = Option<words::Duration>)]
    length: Option<String>,
    /// When each one begins: minute hour day month weekday and a time zone, UTC where none is given.
    cron: Option<String>,
    /// Why.
    #[schema(value_type = words::Text)]
    reason: Text,
}

/// Whom a window covers.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SelectorBody {
    /// One of these services.
    #[serde(default)]
    #[schema(value_type = Vec<words::Key>)]
    services: Vec<ServiceKeyText>,
    /// All of these labels; `null` = with any value.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    labels: BTreeMap<String, Option<String>>,
    /// This service and all below it.
    #[schema(value_type = Option<words::Key>)]
    subtree: Option<ServiceKeyText>,
}

/// What is to be changed of a window.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    /// When it is to end.
    #[schema(value_type = Option<words::Time>)]
    ends_at: Option<String>,
    /// How long it is to go on from now.
    #[serde(rename = "for")]
    #[schema(value_type = Option<words::Duration>)]
    length: Option<String>,
    /// Why it is there.
    #[schema(value_type = Option<words::Text>)]
    reason: Option<Text>,
    /// Nothing is changed where the window is at another seq by now.
    expect_seq: Option<u64>,
}

/// A window.
#[derive(Debug, Serialize, ToSchema)]
struct WindowView {
    /// Its id.
    id: String,
    /// Where it stands: `scheduled`, `active` or `ended`.
    state: &'static str,
    /// Until when it is in force, where it is.
    until: Option<Time>,
    /// When it begins the next time, where it will.
    next_at: Option<Time>,
    /// Whom it covers.
    selector: SelectorView,
    /// When it begins; for a recurring one, from when on.
    starts_at: Time,
    /// When it ends; for a recurring one, until when.
    ends_at: Time,
    /// When each one begins, for a recurring one.
    cron: Option<String>,
    /// How long each one lasts, for a recurring one, in seconds.
    each_secs: Option<u64>,
    /// Why.
    reason: String,
    /// Who opened it.
    author: String,
    /// When.
    created_at: Time,
    /// When it was ended before its time.
    ended_early_at: Option<Time>,
    /// The seq of its last change.
    seq: u64,
}

/// Whom a window covers.
#[derive(Debug, Serialize, ToSchema)]
struct SelectorView {
    services: Vec<String>,
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    labels: BTreeMap<String, Option<String>>,
    subtree: Option<String>,
    /// Of these only what carries these labels: what its maker reached. Empty = everything.
    #[schema(value_type = words::Scope)]
    within: String,
}

/// A window with those that it covers.
#[derive(Debug, Serialize, ToSchema)]
struct WindowDetail {
    /// As in lists.
    #[serde(flatten)]
    window: WindowView,
    /// How many services its selector matches now, in force or not.
    covers: usize,
    /// The first of them.
    services: Vec<String>,
}

const LIST: &[Param] = &[
    Param::of::<words::WindowState>("state", "Only windows that stand there"),
    Param::of::<words::Limit>("limit", "Windows of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    use Permission as P;
    let one = format!("{ROOT}/{{id}}");
    let known = |operation: Operation| {
        operation.path::<words::RowId>("id", "The window").gives(&[ProblemCode::UnknownWindow]).scoped()
    };
    routes
        .tag("maintenance", "When services are worked on: shown beside them, and nobody is alarmed")
        .add(
            Operation::get(ROOT, P::Read, "list_maintenance")
                .scoped()
                .about("Maintenance windows, the newest first")
                .query(LIST)
                .answer::<Page<WindowView>>(200, "A page"),
            list,
        )
        .add(
            Operation::post(ROOT, P::Operate, "open_maintenance")
                .scoped()
                .about("Opens a maintenance window, now, later or again and again")
                .more(
                    "It always ends. It changes neither presence nor status: services that it covers show it, are not \
                     made inactive while it lasts, and nobody is alarmed about them. Opened by a caller with a label \
                     scope it covers what lies within that scope only, for ever: `within` says so.",
                )
                .body::<OpenBody>()
                .once()
                .answer::<WindowDetail>(201, "It is on record; `Location` says where it is found")
                .gives(&[ProblemCode::UnknownService]),
            open,
        )
        .add(
            known(Operation::get(&one, P::Read, "get_maintenance"))
                .about("One maintenance window, and whom it covers")
                .tagged()
                .answer::<WindowDetail>(200, "The window"),
            show,
        )
        .add(
            known(Operation::patch(&one, P::Operate, "change_maintenance"))
                .about("Makes a window end later or sooner, or says better why it is there")
                .body::<ChangeBody>()
                .matches()
                .answer::<WindowDetail>(200, "As it is now")
                .gives(&[ProblemCode::WindowEnded]),
            change,
        )
        .add(
            known(Operation::delete(&one, P::Operate, "end_maintenance"))
                .about("Ends a window now, and all that would have come of it")
                .matches()
                .answer::<WindowDetail>(200, "As it is now")
                .gives(&[ProblemCode::WindowEnded]),
            end,
        )
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<WindowView>>, Problem> {
    let (mut before, mut limit, mut state) = (None, page::DEFAULT_LIMIT, None);
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => before = Some(page::seek::<RowId>(value)?),
            "limit" => limit = page::limit(value)?,
            "state" => state = Some(state_of(value)?),
            _ => {}
        }
    }
    let now = call.state.registry.now().wall;
    let (position, rows) = call.state.registry.read(|roster| {
        let older = roster.upkeep().windows().rev().filter(|row| before.is_none_or(|before| row.id < before));
        let reached = older.filter(|row| row.selector.reach().lies_within(call.scope()));
        let wanted = reached.filter(|row| state.is_none_or(|state| standing(row, now).0.as_str() == state));
        (roster.position(), wanted.take(limit + 1).cloned().collect::<Vec<_>>())
    });
    let more = rows.len() > limit;
    let last = rows.iter().take(limit).next_back().filter(|_| more).map(|row| page::cursor(&row.id.to_string()));
    let items = rows.iter().take(limit).map(|row| WindowView::of(row, now)).collect();
    Ok(axum::Json(Page::at(position, items, last)))
}

async fn open(call: Call, Json(body): Json<OpenBody>) -> Result<Response, Problem> {
    let now = call.state.registry.now().wall;
    let limits = limits(&call);
    let starts_at = body.starts_at.as_deref().map(|text| moment("starts_at", text)).transpose()?.unwrap_or(now);
    let length = body.length.as_deref().map(|text| span("for", text)).transpose()?;
    let end = body.ends_at.as_deref().map(|text| moment("ends_at", text)).transpose()?;
    let (ends_at, recurrence) = match (&body.cron, length, end) {
        (None, Some(length), None) => (starts_at.max(now).after(length), None),
        (None, None, Some(end)) => (end, None),
        (None, None, None) => return Err(invalid("say when it ends: give for, as in \"2h\", or ends_at")),
        (None, Some(_), Some(_)) => return Err(invalid("give either for or ends_at")),
        (Some(_), None, _) => return Err(invalid("say how long each one lasts: give for, as in \"2h\"")),
        (Some(cron), Some(length), end) => {
            let duration_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let recurrence = Recurrence { cron: cron.clone(), duration_ms };
            (end.unwrap_or_else(|| starts_at.max(now).after(limits.horizon)), Some(recurrence))
        }
    };
    let id = RowId::new(now).map_err(|error: NoRandomness| Problem::new(ProblemCode::Internal, error.to_string()))?;
    let SelectorBody { services, labels, subtree } = body.selector;
    let selector = Selector { services, labels, subtree, within: call.scope().clone() };
    let request = OpenWindow {
        id,
        selector,
        starts_at,
        ends_at,
        recurrence,
        reason: body.reason.to_string(),
        limits,
        by: call.by(),
    };
    let covered = if call.is_named() { covered(&call, &request.selector) } else { Covered::default() };
    let tell = move |change: &Change| {
        let detail = change.opened().map(|row| WindowDetail::of(row, now, covered.clone()));
        once::told(StatusCode::CREATED, Some(format!("{ROOT}/{id}")), detail.as_ref())
    };
    call.once(request, tell).await?;
    let mut response = (StatusCode::CREATED, detail(&call, id)?).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("{ROOT}/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn show(call: Call, id: Id<RowId>) -> Result<Tagged<WindowDetail>, Problem> {
    detail(&call, id.0)
}

async fn change(call: Call, id: Id<RowId>, Json(body): Json<ChangeBody>) -> Result<Tagged<WindowDetail>, Problem> {
    let now = call.state.registry.now().wall;
    let ends_at = match (&body.ends_at, &body.length) {
        (Some(text), None) => Some(moment("ends_at", text)?),
        (None, Some(text)) => Some(now.after(span("for", text)?)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(invalid("give either for or ends_at")),
    };
    if ends_at.is_none() && body.reason.is_none() {
        return Err(invalid("there is nothing to change: give ends_at, for or reason"));
    }
    let request = ChangeWindow {
        id: id.0,
        ends_at,
        reason: body.reason.map(String::from),
        expect: body.expect_seq.map(Seq),
        limits: limits(&call),
        by: call.by(),
    };
    find(&call, id.0)?;
    call.change(seq_of(id.0), request).await?;
    detail(&call, id.0)
}

async fn end(call: Call, id: Id<RowId>) -> Result<Tagged<WindowDetail>, Problem> {
    find(&call, id.0)?;
    call.change(seq_of(id.0), EndWindow { id: id.0, by: call.by() }).await?;
    detail(&call, id.0)
}

fn detail(call: &Call, id: RowId) -> Result<Tagged<WindowDetail>, Problem> {
    let row = find(call, id)?;
    let detail = WindowDetail::of(&row, call.state.registry.now().wall, covered(call, &row.selector));
    Ok(call.tagged(row.seq, detail))
}

/// One window, if it is there and can cover nothing beyond the caller's reach.
fn find(call: &Call, id: RowId) -> Result<Arc<WindowRow>, Problem> {
    let row = call.state.registry.read(|roster| roster.upkeep().window(id).cloned());
    row.filter(|row| row.selector.reach().lies_within(call.scope())).ok_or_else(|| Refusal::UnknownWindow(id).into())
}

/// Finds the seq of a window.
fn seq_of(id: RowId) -> impl Fn(&Roster) -> Option<Seq> + Send + use<> {
    move |roster| roster.upkeep().window(id).map(|row| row.seq)
}

/// How many services a selector matches, and the first of them.
#[derive(Debug, Clone, Default)]
struct Covered {
    count: usize,
    first: Vec<String>,
}

fn covered(call: &Call, selector: &Selector) -> Covered {
    let mut covered = Covered::default();
    walk(&call.state.registry, &Scope::everything(), None, |_, entry, _| {
        if matches(selector, &entry.row) {
            covered.count += 1;
            if covered.first.len() < MAX_SHOWN {
                covered.first.push(entry.row.key.to_string());
            }
        }
    });
    covered
}

impl WindowDetail {
    fn of(row: &WindowRow, now: Timestamp, covered: Covered) -> Self {
        Self { window: WindowView::of(row, now), covers: covered.count, services: covered.first }
    }
}

impl WindowView {
    fn of(row: &WindowRow, now: Timestamp) -> Self {
        let (state, change) = standing(row, now);
        let (until, next_at) = match state {
            WindowState::Active(until) => (Some(until), None),
            WindowState::Scheduled => (None, change.filter(|at| *at < row.ends_at)),
            WindowState::Ended => (None, None),
        };
        Self {
            id: row.id.to_string(),
            state: state.as_str(),
            until: until.map(Time),
            next_at: next_at.map(Time),
            selector: SelectorView {
                services: row.selector.services.iter().map(|key| key.0.to_string()).collect(),
                labels: row.selector.labels.clone(),
                subtree: row.selector.subtree.as_ref().map(|key| key.0.to_string()),
                within: row.selector.within.to_string(),
            },
            starts_at: Time(row.starts_at),
            ends_at: Time(row.ends_at),
            cron: row.recurrence.as_ref().map(|recurrence| recurrence.cron.clone()),
            each_secs: row.recurrence.as_ref().map(|recurrence| recurrence.duration_ms / 1_000),
            reason: row.reason.clone(),
            author: row.author.clone(),
            created_at: Time(row.created_at),
            ended_early_at: row.ended_early.map(Time),
            seq: row.seq.0,
        }
    }
}

fn limits(call: &Call) -> WindowLimits {
    let upkeep = &call.state.jobs.settings().upkeep;
    WindowLimits { longest: upkeep.longest_window, horizon: upkeep.window_horizon }
}

fn state_of(text: &str) -> Result<&'static str, Problem> {
    const ALL: [&str; 3] = ["scheduled", "active", "ended"];
    ALL.into_iter().find(|state| *state == text).ok_or_else(|| {
        Problem::new(ProblemCode::InvalidQuery, format!("state is one of {}", ALL.join(", ")))
            .with("parameter", "state")
            .with("allowed", ALL.to_vec())
    })
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::Invalid, detail)
}

/// A moment as callers write it.
pub(super) fn moment(field: &str, text: &str) -> Result<Timestamp, Problem> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(|time| Timestamp(time.as_millisecond())).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        invalid(format!("{field}: {shown:?} is no time: write it as in 2026-11-21T02:46:00Z"))
    })
}

/// A span of time as callers write it.
fn span(field: &str, text: &str) -> Result<Duration, Problem> {
    duration::parse(text).map_err(|error| invalid(format!("{field}: {error}")))
}
