//! Enrollments that an operator decides on: list, show, approve, reject.

use rollcall_common::{health::Text, time::Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query},
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    view::Time,
};
use crate::{
    registry::{Refusal, approvals::Decide, roster::Roster},
    store::rows::{ApprovalRow, ApprovalState, RowId},
};

/// One enrollment that an operator decides on.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ApprovalView {
    #[schema(value_type = words::RowId)]
    id: String,
    /// `expired` where the token has ended meanwhile.
    #[schema(value_type = words::ApprovalState)]
    state: &'static str,
    #[schema(value_type = words::TokenId)]
    token: String,
    /// Who it would be.
    #[schema(value_type = words::Key)]
    service: String,
    #[schema(value_type = Option<words::Id>)]
    parent: Option<String>,
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<String>,
    /// SHA-256 of its key; `rollcall-agent status` shows the same on the host.
    fingerprint: String,
    /// Where it asked from last.
    from: String,
    /// The labels it would have, as its host claims them where the token does not set them.
    #[schema(value_type = words::Pairs)]
    labels: BTreeMap<String, String>,
    /// What its host says of itself.
    #[schema(value_type = words::Pairs)]
    metadata: BTreeMap<String, String>,
    first_asked: Time,
    last_asked: Time,
    /// The token's end, after which it cannot enroll.
    expires_at: Option<Time>,
    decided_at: Option<Time>,
    decided_by: Option<String>,
    reason: String,
    #[schema(value_type = words::Seq)]
    seq: u64,
}

impl ApprovalView {
    fn of(row: &ApprovalRow, ends: Option<Timestamp>, now: Timestamp) -> Self {
        let expired = ends.is_none_or(|end| now >= end);
        Self {
            id: row.id.to_string(),
            state: if expired { "expired" } else { row.state.as_str() },
            token: row.token.to_string(),
            service: row.service.to_string(),
            parent: row.parent.as_ref().map(ToString::to_string),
            checker_kind: row.checker_kind.as_ref().map(ToString::to_string),
            fingerprint: row.key.to_string(),
            from: row.from.clone(),
            labels: row.labels.clone().into(),
            metadata: row.metadata.clone().into(),
            first_asked: Time(row.first_asked),
            last_asked: Time(row.last_asked),
            expires_at: ends.map(Time),
            decided_at: row.decided_at.map(Time),
            decided_by: row.decided_by.clone(),
            reason: row.reason.clone(),
            seq: row.seq.0,
        }
    }
}

/// Why it was decided so.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DecideBody {
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
}

const LIST: &[Param] = &[
    Param::of::<words::ApprovalState>("state", "Only requests that stand there"),
    Param::of::<words::TokenId>("token", "Only requests with this token"),
    Param::of::<words::Key>("service", "Only requests to be this service"),
    Param::of::<words::Limit>("limit", "Requests of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    const ROOT: &str = "/api/admin/approvals";
    let known = |operation: Operation| {
        operation.path::<words::RowId>("id", "The request").gives(&[ProblemCode::UnknownApproval]).scoped()
    };
    routes
        .tag("approvals", "Enrollments that an operator decides on")
        .add(
            Operation::get(ROOT, Permission::Read, "list_approvals")
                .about("Requests, oldest first")
                .query(LIST)
                .answer::<Page<ApprovalView>>(200, "A page")
                .scoped(),
            list,
        )
        .add(
            known(Operation::get(&format!("{ROOT}/{{id}}"), Permission::Read, "get_approval"))
                .about("One request")
                .tagged()
                .answer::<ApprovalView>(200, "The request"),
            show,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/approve"), Permission::Operate, "approve_enrollment"))
                .about("Lets a host in: its next poll enrolls")
                .body::<DecideBody>()
                .matches()
                .answer::<ApprovalView>(200, "As it is now"),
            approve,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/reject"), Permission::Operate, "reject_enrollment"))
                .about("Refuses a host's key for good")
                .body::<DecideBody>()
                .matches()
                .answer::<ApprovalView>(200, "As it is now"),
            reject,
        )
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<ApprovalView>>, Problem> {
    let (mut after, mut limit, mut state, mut token, mut service) = (None, page::DEFAULT_LIMIT, None, None, None);
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => after = Some(page::seek::<RowId>(value)?),
            "limit" => limit = page::limit(value)?,
            "state" => state = Some(state_of(value)?),
            "token" => token = Some(value.clone()),
            "service" => service = Some(value.clone()),
            _ => {}
        }
    }
    let now = call.state.registry.now().wall;
    let (position, mut items) = call.state.registry.read(|roster| {
        let seen = roster.approvals().after(after).filter_map(|row| {
            let held = roster.token(row.token).filter(|held| call.scope().admits(&held.policy.labels));
            if held.is_none() && !call.scope().is_everything() {
                return None;
            }
            let view = ApprovalView::of(row, held.map(|held| held.ended_at()), now);
            let wanted = state.is_none_or(|state| view.state == state)
                && token.as_ref().is_none_or(|token| view.token == *token)
                && service.as_ref().is_none_or(|service| view.service == *service);
            wanted.then_some(view)
        });
        (roster.position(), seen.take(limit + 1).collect::<Vec<_>>())
    });
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| page::cursor(&last.id));
    Ok(axum::Json(Page::at(position, items, next)))
}

async fn show(call: Call, id: Id<RowId>) -> Result<Tagged<ApprovalView>, Problem> {
    view(&call, id.0)
}

async fn approve(call: Call, id: Id<RowId>, Json(body): Json<DecideBody>) -> Result<Tagged<ApprovalView>, Problem> {
    decide(&call, id.0, true, body).await
}

async fn reject(call: Call, id: Id<RowId>, Json(body): Json<DecideBody>) -> Result<Tagged<ApprovalView>, Problem> {
    decide(&call, id.0, false, body).await
}

async fn decide(call: &Call, id: RowId, approve: bool, body: DecideBody) -> Result<Tagged<ApprovalView>, Problem> {
    // Whoever may not see it may not decide on it.
    let _seen = view(call, id)?;
    let seq = move |roster: &Roster| roster.approvals().get(id).map(|row| row.seq);
    call.change(seq, Decide { id, approve, reason: body.reason.to_string(), by: call.by() }).await?;
    view(call, id)
}

/// One request, if it is there and its token within reach.
fn view(call: &Call, id: RowId) -> Result<Tagged<ApprovalView>, Problem> {
    let registry = &call.state.registry;
    let now = registry.now().wall;
    let found = registry.read(|roster| {
        let row = roster.approvals().get(id)?;
        let held = roster.token(row.token).filter(|held| call.scope().admits(&held.policy.labels));
        if held.is_none() && !call.scope().is_everything() {
            return None;
        }
        Some((row.seq, ApprovalView::of(row, held.map(|held| held.ended_at()), now)))
    });
    found.map(|(seq, view)| call.tagged(seq, view)).ok_or_else(|| Refusal::UnknownApproval(id).into())
}

/// Every word of a request's state.
pub(super) fn states() -> impl Iterator<Item = &'static str> {
    ApprovalState::ALL.into_iter().map(ApprovalState::as_str).chain(["expired"])
}

fn state_of(text: &str) -> Result<&'static str, Problem> {
    states().find(|state| *state == text).ok_or_else(|| {
        let allowed: Vec<_> = states().collect();
        Problem::new(ProblemCode::InvalidQuery, format!("state is one of {}", allowed.join(", ")))
            .with("parameter", "state")
            .with("allowed", allowed)
    })
}
