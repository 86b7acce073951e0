//! Who was turned away, why, and what to do about it.

use axum::http::StatusCode;
use rollcall_common::{
    id::{ServiceId, ServiceKey},
    time::Timestamp,
    token::TokenId,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Query},
    openapi::words,
    page::{self, Page},
    routes::{Operation, Param, Routes},
    view::Time,
};
use crate::{
    registry::knocks::{Dismissed, fix},
    store::rows::{KnockRow, Why},
};

/// Refusals of one party for one reason.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct KnockView {
    #[schema(value_type = words::TokenId)]
    id: String,
    /// Whether a token's secret, a bound key or a certificate was proven. What is not may be anybody's noise.
    proven: bool,
    /// `enroll`, `rejoin` or `hello`.
    door: &'static str,
    /// The true reason.
    reason: &'static str,
    /// What was answered.
    code: &'static str,
    /// What to do about it.
    fix: &'static str,
    #[schema(value_type = Option<words::TokenId>)]
    token: Option<String>,
    /// The kind that was claimed.
    #[schema(value_type = Option<words::Kind>)]
    kind: Option<&'static str>,
    /// The id that was claimed.
    #[schema(value_type = Option<words::Id>)]
    claimed_id: Option<String>,
    /// The parent that was claimed.
    #[schema(value_type = Option<words::Id>)]
    parent: Option<String>,
    /// The network they came from.
    network: String,
    /// The last address.
    from: String,
    first_at: Time,
    last_at: Time,
    /// How often.
    times: u64,
}

impl KnockView {
    fn of(row: &KnockRow) -> Self {
        Self {
            id: row.id.to_string(),
            proven: row.proven,
            door: row.door.as_str(),
            reason: row.why.as_str(),
            code: row.why.code().as_str(),
            fix: fix(row.why),
            token: row.token.map(|token| token.to_string()),
            kind: row.kind.map(|kind| kind.as_str()),
            claimed_id: row.service.as_ref().map(ToString::to_string),
            parent: row.parent.as_ref().map(ToString::to_string),
            network: row.network.clone(),
            from: row.from.clone(),
            first_at: Time(row.first_at),
            last_at: Time(row.last_at),
            times: row.times,
        }
    }
}

const LIST: &[Param] = &[
    Param::of::<words::Flag>("proven", "Only those that proved something, or only those that did not"),
    Param::of::<words::Text>("reason", "Only with this reason"),
    Param::of::<words::TokenId>("token", "Only with this token"),
    Param::of::<words::Id>("claimed_id", "Only with this claimed id"),
    Param::of::<words::Limit>("limit", "Knocks of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    const ROOT: &str = "/api/admin/knocks";
    routes
        .tag("knocks", "Who was turned away, and what to do about it")
        .add(
            Operation::get(ROOT, Permission::Read, "list_knocks")
                .about("Knocks, the latest first")
                .query(LIST)
                .answer::<Page<KnockView>>(200, "A page")
                .scoped(),
            list,
        )
        .add(
            Operation::delete(&format!("{ROOT}/{{id}}"), Permission::Operate, "dismiss_knock")
                .about("Forgets a knock; it comes back with the next refusal")
                .path::<words::TokenId>("id", "The knock")
                .empty(204, "It is forgotten")
                .gives(&[ProblemCode::UnknownKnock])
                .scoped(),
            dismiss,
        )
}

/// Where a page begins: behind this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Behind(Timestamp, TokenId);

impl std::str::FromStr for Behind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once('.').ok_or(())?;
        Ok(Self(Timestamp(at.parse().map_err(|_| ())?), id.parse().map_err(|_| ())?))
    }
}

/// Whether a knock is within reach: by its token, or by the service that it claims to be.
fn reaches(call: &Call, row: &KnockRow) -> bool {
    call.scope().is_everything()
        || row.token.is_some_and(|token| call.token(token).is_ok())
        || row.kind.zip(row.service.clone()).is_some_and(|(kind, id)| {
            row.proven && row.token.is_none() && call.find(&ServiceKey::new(kind, id)).is_ok()
        })
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<KnockView>>, Problem> {
    let invalid = |name: &str, why: String| Problem::new(ProblemCode::InvalidQuery, why).with("parameter", name);
    let (mut limit, mut behind) = (page::DEFAULT_LIMIT, None);
    let (mut proven, mut why, mut token, mut claimed) = (None, None, None, None);
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => behind = Some(page::seek::<Behind>(value)?),
            "limit" => limit = page::limit(value)?,
            "proven" => {
                proven = Some(value.parse::<bool>().map_err(|_| invalid("proven", "proven is true or false".into()))?)
            }
            "reason" => why = Some(value.parse::<Why>().map_err(|error| invalid("reason", error.to_string()))?),
            "token" => token = Some(value.parse::<TokenId>().map_err(|error| invalid("token", error.to_string()))?),
            "claimed_id" => {
                claimed = Some(value.parse::<ServiceId>().map_err(|error| invalid("claimed_id", error.to_string()))?);
            }
            _ => {}
        }
    }
    let registry = &call.state.registry;
    let position = registry.read(|roster| roster.position());
    // At most two thousand rows: cheaper to copy than to hold.
    let rows: Vec<KnockRow> = registry.knocks().latest().into_iter().cloned().collect();
    let wanted = rows.iter().filter(|row| {
        behind.is_none_or(|behind| Behind(row.last_at, row.id) < behind)
            && proven.is_none_or(|proven| row.proven == proven)
            && why.is_none_or(|why| row.why == why)
            && token.is_none_or(|token| row.token == Some(token))
            && claimed.as_ref().is_none_or(|id| row.service.as_ref() == Some(id))
            && reaches(&call, row)
    });
    let mut found: Vec<&KnockRow> = wanted.take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| page::cursor(&format!("{}.{}", last.last_at.0, last.id)));
    Ok(axum::Json(Page::at(position, found.into_iter().map(KnockView::of).collect(), next)))
}

async fn dismiss(call: Call, id: Id<TokenId>) -> Result<StatusCode, Problem> {
    let registry = &call.state.registry;
    let row = registry.knocks().get(id.0).cloned().filter(|row| reaches(&call, row));
    let Some(row) = row else {
        return Err(Problem::new(ProblemCode::UnknownKnock, format!("knock {} does not exist", id.0)));
    };
    registry.ask(Dismissed { knocks: vec![row], by: call.by() }).await?;
    registry.knocks().dismiss(id.0);
    Ok(StatusCode::NO_CONTENT)
}
