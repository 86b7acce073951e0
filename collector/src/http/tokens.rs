//! Onboarding tokens over HTTP: make, list, show, revoke.
//!
//! The secret is made here, handed out once and never kept: the registry learns its hash only.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    address::Address,
    health::Text,
    id::{Kind, ServiceId},
    service::{CheckerKind, Pairs},
    time::Timestamp,
    token::{MAX_ADDRESSES, MAX_TEXT, Secret, Token, TokenId},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    State,
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query},
    filter, once,
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    view::{NewTokenView, ParentRuleView, TokenView},
};
use crate::{
    config::duration,
    naming::{IdPattern, ParentRule},
    registry::{
        Refusal,
        answers::Told,
        roster::Roster,
        tokens::{CreateToken, RevokeToken, TokenState},
    },
    store::rows::{Approval, Change, Cidr, IdRule, TokenPolicy},
};

const ROOT: &str = "/api/admin/tokens";
/// A token's life where its maker names none.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// Longest list of address ranges.
const MAX_RANGES: usize = 32;

/// What a token is to allow.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    #[schema(value_type = words::Kind)]
    kind: Kind,
    #[schema(value_type = Option<words::Id>)]
    parent: Option<ServiceId>,
    /// How a label of the sidecar finds its parent.
    #[schema(value_type = Option<ParentRuleView>)]
    parent_rule: Option<ParentRule>,
    /// A fixed id.
    #[schema(value_type = Option<words::Id>)]
    id: Option<ServiceId>,
    id_prefix: Option<String>,
    /// A pattern with `*` and `?`.
    #[schema(value_type = Option<words::IdPattern>)]
    id_pattern: Option<IdPattern>,
    #[serde(default)]
    assigned: bool,
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<CheckerKind>,
    max_uses: Option<u32>,
    #[schema(value_type = Option<words::Duration>)]
    ttl: Option<String>,
    #[schema(value_type = Option<words::Time>)]
    expires_at: Option<String>,
    #[schema(value_type = Option<words::Time>)]
    not_before: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<words::Range>)]
    cidr_allow: Vec<Cidr>,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
    rejoin_limit: Option<RejoinLimit>,
    #[serde(default)]
    #[schema(value_type = words::Approval)]
    approval: Approval,
    /// A duration: how long after its goodbye or loss a service stays.
    #[schema(value_type = Option<words::Duration>)]
    ephemeral_after: Option<String>,
    /// Whether the sidecars may register children that are not known yet.
    #[serde(default)]
    implicit_children: bool,
    #[serde(default)]
    #[schema(value_type = words::Text)]
    note: Text,
    /// For a sidecar on the collector's own host: the token carries a loopback address.
    #[serde(default)]
    local: bool,
    /// Instead of the advertised ones.
    #[serde(default)]
    #[schema(value_type = Vec<words::Address>)]
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(untagged)]
enum RejoinLimit {
    Times(u32),
    Word(Unlimited),
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Unlimited {
    Unlimited,
}

/// Nothing, or an empty object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

const LIST: &[Param] = &[
    Param::of::<words::TokenState>("state", "Only tokens that stand there"),
    Param::list::<words::Kind>("kind", "Only tokens for services of these kinds"),
    Param::of::<words::Limit>("limit", "Tokens of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    let known =
        |operation: Operation| operation.path::<words::TokenId>("id", "The token").gives(&[ProblemCode::UnknownToken]);
    routes
        .tag("tokens", "What lets a sidecar in for the first time")
        .add(
            Operation::get(ROOT, Permission::Read, "list_tokens")
                .scoped()
                .about("Onboarding tokens, by id, without their secrets")
                .query(LIST)
                .answer::<Page<TokenView>>(200, "A page"),
            list,
        )
        .add(
            Operation::post(ROOT, Permission::Mint, "create_token")
                .scoped()
                .about("Makes an onboarding token")
                .more("The answer is the only one that ever holds the secret.")
                .body::<CreateBody>()
                .once_told()
                .answer::<NewTokenView<'static>>(201, "The token")
                .gives(&[
                    ProblemCode::NoAddress,
                    ProblemCode::ParentUnwanted,
                    ProblemCode::ParentMissing,
                    ProblemCode::ParentUnknown,
                    ProblemCode::Exists,
                ]),
            create,
        )
        .add(
            known(Operation::get(&format!("{ROOT}/{{id}}"), Permission::Read, "get_token").scoped())
                .about("One onboarding token, without its secret")
                .tagged()
                .answer::<TokenView>(200, "The token"),
            show,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/revoke"), Permission::Operate, "revoke_token").scoped())
                .about("Ends an onboarding token; identities that it gave stay")
                .body::<Empty>()
                .matches()
                .answer::<TokenView>(200, "As it is now")
                .gives(&[ProblemCode::TokenRevoked]),
            revoke,
        )
}

async fn create(call: Call, Json(body): Json<CreateBody>) -> Result<Response, Problem> {
    let state = &call.state;
    let now = state.registry.now().wall;
    let policy = policy_of(&body, now)?;
    call.may_mint(&policy)?;
    let token = fresh(state, &policy, &body.addresses, body.local)?;
    let text = token.reveal();
    let (id, hash) = (token.id, token.secret.hash(token.id));
    let request = CreateToken { id, hash, policy, note: body.note.to_string(), by: call.by() };
    call.once(request, tell(&call, id)).await?;
    made(&call, &token, &text)
}

/// A token that nobody knows yet, for a policy.
pub(super) fn fresh(state: &State, policy: &TokenPolicy, asked: &[Address], local: bool) -> Result<Token, Problem> {
    let addresses = addresses_of(asked, local, &state.advertised.load(), state.quic)?;
    let no_randomness =
        |error: rollcall_common::id::NoRandomness| Problem::new(ProblemCode::Internal, error.to_string());
    let token = Token {
        id: TokenId::random().map_err(no_randomness)?,
        secret: Secret::random().map_err(no_randomness)?,
        pin: state.pin,
        expires: policy.expires_at,
        trust_domain: state.registry.whoami().trust_domain.clone(),
        addresses,
    };
    if token.reveal().len() > MAX_TEXT {
        let detail = format!("the token would have more than {MAX_TEXT} characters: give it fewer addresses");
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    Ok(token)
}

/// Where a token is found.
fn place(id: TokenId) -> String {
    format!("{ROOT}/{id}")
}

/// What is told to whoever repeats a request that made a token: all but its secret.
pub(super) fn tell(call: &Call, id: TokenId) -> impl Fn(&Change) -> Told + Send + use<> {
    let now = call.state.registry.now().wall;
    move |change| {
        let view = change.minted().map(|row| TokenView::of(row, now));
        once::told_without_secret(StatusCode::CREATED, Some(place(id)), view.as_ref())
    }
}

/// A token that was made, shown once.
pub(super) fn made(call: &Call, token: &Token, text: &str) -> Result<Response, Problem> {
    let registry = &call.state.registry;
    let row = registry.read(|roster| roster.token(token.id).cloned()).ok_or(Refusal::UnknownToken(token.id))?;
    let addresses = token.addresses.iter().map(ToString::to_string).collect();
    let view = NewTokenView { token: text, addresses, view: TokenView::of(&row, registry.now().wall) };
    let mut response = (StatusCode::CREATED, call.tagged(row.seq, view)).into_response();
    if let Ok(place) = HeaderValue::from_str(&place(token.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The life that a caller wants a token to have.
pub(super) fn life(ttl: Option<&str>) -> Result<Duration, Problem> {
    match ttl {
        Some(ttl) => duration::parse(ttl).map_err(|error| invalid(format!("ttl: {error}"))),
        None => Ok(DEFAULT_LIFE),
    }
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<TokenView>>, Problem> {
    let (mut after, mut limit, mut state, mut kinds) = (None, page::DEFAULT_LIMIT, None, Vec::new());
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => after = Some(page::seek::<TokenId>(value)?),
            "limit" => limit = page::limit(value)?,
            "state" => state = Some(state_of(value)?),
            "kind" => filter::words(name, value, &Kind::ALL, &mut kinds)?,
            _ => {}
        }
    }
    let now = call.state.registry.now().wall;
    let (position, rows) = call.state.registry.read(|roster| {
        let behind = roster.tokens().filter(|row| after.is_none_or(|after| row.id > after));
        let behind = behind.filter(|row| call.scope().admits(&row.policy.labels));
        let behind = behind.filter(|row| kinds.is_empty() || kinds.contains(&row.policy.kind));
        let wanted = behind.filter(|row| state.is_none_or(|state| TokenState::of(row, now) == state));
        (roster.position(), wanted.take(limit + 1).cloned().collect::<Vec<_>>())
    });
    let more = rows.len() > limit;
    let last = rows.iter().take(limit).next_back().filter(|_| more).map(|row| page::cursor(&row.id.to_string()));
    let items = rows.iter().take(limit).map(|row| TokenView::of(row, now)).collect();
    Ok(axum::Json(Page::at(position, items, last)))
}

async fn show(call: Call, id: Id<TokenId>) -> Result<Tagged<TokenView>, Problem> {
    view(&call, id.0)
}

async fn revoke(call: Call, id: Id<TokenId>, Json(Empty {}): Json<Empty>) -> Result<Tagged<TokenView>, Problem> {
    call.token(id.0)?;
    let (token, row) = (id.0, move |roster: &Roster| roster.token(id.0).map(|row| row.seq));
    call.change(row, RevokeToken { id: token, by: call.by() }).await?;
    view(&call, id.0)
}

fn view(call: &Call, id: TokenId) -> Result<Tagged<TokenView>, Problem> {
    let row = call.token(id)?;
    Ok(call.tagged(row.seq, TokenView::of(&row, call.state.registry.now().wall)))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::Invalid, detail)
}

fn state_of(text: &str) -> Result<TokenState, Problem> {
    let all = TokenState::ALL;
    all.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let allowed = all.map(TokenState::as_str).to_vec();
        Problem::new(ProblemCode::InvalidQuery, format!("state is one of {}", allowed.join(", ")))
            .with("parameter", "state")
            .with("allowed", allowed)
    })
}

fn policy_of(body: &CreateBody, now: Timestamp) -> Result<TokenPolicy, Problem> {
    let id_rule = match (&body.id, &body.id_prefix, &body.id_pattern, body.assigned) {
        (Some(id), None, None, false) => IdRule::Fixed(id.clone()),
        (None, Some(prefix), None, false) => IdRule::Prefix(checked_prefix(prefix)?),
        (None, None, Some(pattern), false) => IdRule::Pattern(pattern.clone()),
        (None, None, None, _) => IdRule::Assigned,
        (_, _, _, _) => return Err(invalid("give one of id, id_prefix, id_pattern and assigned")),
    };
    let ephemeral_after = body.ephemeral_after.as_deref().map(ephemeral).transpose()?;
    let not_before = body.not_before.as_deref().map(|text| moment("not_before", text)).transpose()?.unwrap_or(now);
    let expires_at = match (&body.ttl, &body.expires_at) {
        (Some(ttl), None) => not_before.after(duration::parse(ttl).map_err(|error| invalid(format!("ttl: {error}")))?),
        (None, Some(text)) => moment("expires_at", text)?,
        (None, None) => not_before.after(DEFAULT_LIFE),
        (Some(_), Some(_)) => return Err(invalid("give either ttl or expires_at")),
    };
    if body.cidr_allow.len() > MAX_RANGES {
        return Err(invalid(format!("cidr_allow holds at most {MAX_RANGES} ranges")));
    }
    Ok(TokenPolicy {
        parent: body.parent.clone(),
        parent_rule: body.parent_rule.clone(),
        checker_kind: body.checker_kind.clone(),
        max_uses: body.max_uses.unwrap_or(1),
        approval: body.approval,
        ephemeral_after,
        implicit_children: body.implicit_children,
        cidr_allow: body.cidr_allow.clone(),
        labels: body.labels.clone(),
        rejoin_limit: match body.rejoin_limit {
            None => Some(TokenPolicy::REJOINS),
            Some(RejoinLimit::Times(times)) => Some(times),
            Some(RejoinLimit::Word(Unlimited::Unlimited)) => None,
        },
        ..TokenPolicy::single(body.kind, id_rule, not_before, expires_at)
    })
}

/// A duration as the whole seconds that a row holds.
fn ephemeral(text: &str) -> Result<u32, Problem> {
    let bad = |why: String| invalid(format!("ephemeral_after: {why}"));
    let time = duration::parse(text).map_err(|error| bad(error.to_string()))?;
    u32::try_from(time.as_secs()).map_err(|_| bad("longer than anything stays".into()))
}

/// A prefix must be able to begin an id.
fn checked_prefix(prefix: &str) -> Result<String, Problem> {
    match format!("{prefix}0").parse::<ServiceId>() {
        Ok(_) if !prefix.is_empty() => Ok(prefix.into()),
        Ok(_) | Err(_) => {
            let shown: String = prefix.chars().take(80).collect();
            Err(invalid(format!("id_prefix {shown:?} can begin no id: use 1 to 63 of a-z 0-9 . _ -, without '..'")))
        }
    }
}

fn moment(field: &str, text: &str) -> Result<Timestamp, Problem> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(|time| Timestamp(time.as_millisecond())).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        invalid(format!("{field}: {shown:?} is no time: write it as in 2026-11-21T02:46:00Z"))
    })
}

/// What a token tells its sidecar to dial.
pub(super) fn addresses_of(
    asked: &[Address],
    local: bool,
    advertised: &[Address],
    quic: SocketAddr,
) -> Result<Vec<Address>, Problem> {
    let refused = |detail: &str| Err(Problem::new(ProblemCode::NoAddress, detail));
    let chosen = match (asked, local) {
        ([], true) => vec![Address::from(SocketAddr::new(nearest(quic.ip()), quic.port()))],
        ([], false) => advertised.to_vec(),
        (asked, _) => asked.to_vec(),
    };
    if chosen.is_empty() {
        return refused(
            "this collector advertises no address: set `advertise` in collector.toml to what sidecars can reach, \
             give addresses, or ask for a local token (--local) for a sidecar on this host",
        );
    }
    if let Some(address) = chosen.iter().find(|address| address.is_local()).filter(|_| !local) {
        return refused(&format!(
            "{address} leads a sidecar to its own host: advertise an address that other hosts reach, or ask for a \
             local token (--local) for a sidecar on this host"
        ));
    }
    if chosen.len() > MAX_ADDRESSES {
        return Err(invalid(format!("a token carries at most {MAX_ADDRESSES} addresses")));
    }
    Ok(chosen)
}

/// Where a program on this host reaches a listener.
fn nearest(ip: IpAddr) -> IpAddr {
    // The unspecified IPv6 address takes IPv4 too, and that works where IPv6 is switched off.
    if ip.to_canonical().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }
}

#[cfg(test)]
mod tests;
