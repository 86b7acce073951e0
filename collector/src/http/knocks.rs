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
    PROVEN,
    REASON,
    TOKEN,
    CLAIMED,
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
            Operation::delete(ROOT, Permission::Operate, "dismiss_knocks")
                .about("Forgets many knocks; they come back with the next refusals")
                .more("Those that pass every word of the query, as in the list; all of them takes `all=true`.")
                .query(DISMISS)
                .answer::<DismissedView>(200, "How many are forgotten")
                .scoped(),
            dismiss_many,
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

/// Knocks that are forgotten in one change.
const SLICE: usize = 256;

/// What is forgotten at once.
const DISMISS: &[Param] = &[
    Param::of::<words::Flag>("all", "All of them; without it at least one other word is needed"),
    Param::of::<words::Text>("from", "Only from this address, as it stands in a knock"),
    Param::of::<words::Text>("network", "Only from this network, as it stands in a knock"),
    PROVEN,
    REASON,
    TOKEN,
    CLAIMED,
];
const PROVEN: Param =
    Param::of::<words::Flag>("proven", "Only those that proved something, or only those that did not");
const REASON: Param = Param::of::<words::Text>("reason", "Only with this reason");
const TOKEN: Param = Param::of::<words::TokenId>("token", "Only with this token");
const CLAIMED: Param = Param::of::<words::Id>("claimed_id", "Only with this claimed id");

/// What was forgotten.
#[derive(Debug, Serialize, ToSchema)]
struct DismissedView {
    /// How many.
    dismissed: usize,
}

/// Which knocks are meant: every test that is given must pass.
#[derive(Debug, Default, PartialEq)]
struct Meant {
    from: Option<String>,
    network: Option<String>,
    proven: Option<bool>,
    why: Option<Why>,
    token: Option<TokenId>,
    claimed: Option<ServiceId>,
}

impl Meant {
    fn read(query: &Query) -> Result<Self, Problem> {
        let mut meant = Self::default();
        for (name, value) in &query.0 {
            match name.as_str() {
                "from" => meant.from = Some(value.clone()),
                "network" => meant.network = Some(value.clone()),
                "proven" => meant.proven = Some(flag("proven", value)?),
                "reason" => meant.why = Some(value.parse::<Why>().map_err(|error| invalid("reason", error))?),
                "token" => meant.token = Some(value.parse::<TokenId>().map_err(|error| invalid("token", error))?),
                "claimed_id" => {
                    meant.claimed = Some(value.parse::<ServiceId>().map_err(|error| invalid("claimed_id", error))?);
                }
                _ => {}
            }
        }
        Ok(meant)
    }

    fn passes(&self, row: &KnockRow) -> bool {
        self.from.as_ref().is_none_or(|from| row.from == *from)
            && self.network.as_ref().is_none_or(|network| row.network == *network)
            && self.proven.is_none_or(|proven| row.proven == proven)
            && self.why.is_none_or(|why| row.why == why)
            && self.token.is_none_or(|token| row.token == Some(token))
            && self.claimed.as_ref().is_none_or(|id| row.service.as_ref() == Some(id))
    }
}

fn invalid(name: &'static str, why: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::InvalidQuery, format!("{name}: {why}")).with("parameter", name)
}

fn flag(name: &'static str, value: &str) -> Result<bool, Problem> {
    value.parse().map_err(|_| invalid(name, "true or false"))
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
    let (mut limit, mut behind) = (page::DEFAULT_LIMIT, None);
    let meant = Meant::read(&query)?;
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => behind = Some(page::seek::<Behind>(value)?),
            "limit" => limit = page::limit(value)?,
            _ => {}
        }
    }
    let registry = &call.state.registry;
    let position = registry.read(|roster| roster.position());
    // At most two thousand rows: cheaper to copy than to hold.
    let rows: Vec<KnockRow> = registry.knocks().latest().into_iter().cloned().collect();
    let wanted = rows.iter().filter(|row| {
        behind.is_none_or(|behind| Behind(row.last_at, row.id) < behind) && meant.passes(row) && reaches(&call, row)
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

/// Forgets many, a slice in each change: what is done when the store fails stays done, and the same request goes on.
async fn dismiss_many(call: Call, query: Query) -> Result<axum::Json<DismissedView>, Problem> {
    let meant = Meant::read(&query)?;
    let all = query.get("all").map(|value| flag("all", value)).transpose()?.unwrap_or(false);
    if !all && meant == Meant::default() {
        return Err(invalid("all", "say which are meant, or all=true"));
    }
    let registry = &call.state.registry;
    let rows: Vec<KnockRow> = registry.knocks().latest().into_iter().cloned().collect();
    let rows: Vec<KnockRow> = rows.into_iter().filter(|row| meant.passes(row) && reaches(&call, row)).collect();
    let mut dismissed = 0;
    for slice in rows.chunks(SLICE) {
        registry.ask(Dismissed { knocks: slice.to_vec(), by: call.by() }).await?;
        let mut knocks = registry.knocks();
        dismissed += slice.iter().filter(|row| knocks.dismiss(row.id).is_some()).count();
    }
    Ok(axum::Json(DismissedView { dismissed }))
}
