//! API keys over HTTP: make, list, revoke; the bootstrap credential's end; and who the caller is.
//!
//! The secret is made here, handed out once and never kept. Nobody makes a key that reaches further than
//! the maker does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{Kind, Seq, ServiceId},
    service::Pairs,
    time::Timestamp,
    token::{Credential, CredentialKind, TokenId},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    access::{Permission, Role},
    bootstrap,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Query},
    once,
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    view::Time,
};
use crate::{
    config::duration,
    registry::{
        Refusal, Registry,
        credentials::{CloseBootstrap, CreateKey, NoteUses, RevokeKey},
        roster::Roster,
    },
    scope::Scope,
    store::rows::{Change, CredentialRow, EnrollPolicy},
};

/// A key's life where its maker names none.
const DEFAULT_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Longest life of a token by a policy that names none.
const DEFAULT_LONGEST: Duration = Duration::from_secs(3600);
/// How often uses are written down.
const FLUSH: Duration = Duration::from_secs(30);

/// What a key is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKeyBody {
    /// `viewer`, `operator`, `admin`, `metrics` or `enroller`.
    role: String,
    /// Label tests that all must pass, as in `site=3,env in (prod,staging)`; nothing = everything.
    #[serde(default)]
    #[schema(value_type = words::Scope)]
    scope: Scope,
    /// For an enroller: what its tokens may be.
    policy: Option<KeyPolicyBody>,
    /// 90 days where it is not given, a year at most.
    #[schema(value_type = Option<words::Duration>)]
    ttl: Option<String>,
    #[serde(default)]
    #[schema(value_type = words::Text)]
    note: Text,
}

/// What the tokens of an enroller may be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPolicyBody {
    #[schema(value_type = Vec<words::Kind>)]
    kinds: Vec<Kind>,
    /// Most uses of one token; 1 where it is not given.
    max_uses: Option<u32>,
    /// Longest life of a token; an hour where it is not given.
    #[schema(value_type = Option<words::Duration>)]
    longest: Option<String>,
    /// What every id begins with.
    #[serde(default)]
    id_prefix: String,
    /// The parents that may be named; none = any.
    #[serde(default)]
    #[schema(value_type = Vec<words::Id>)]
    parents: Vec<ServiceId>,
    /// Labels that every token must carry.
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyView {
    id: String,
    /// `bootstrap` is the administrator's first credential.
    role: String,
    #[schema(value_type = words::Scope)]
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<KeyPolicyView>,
    note: String,
    created_by: String,
    #[schema(value_type = words::Time)]
    created_at: Time,
    #[schema(value_type = Option<words::Time>)]
    expires_at: Option<Time>,
    #[schema(value_type = Option<words::Time>)]
    revoked_at: Option<Time>,
    /// As of the last half minute.
    #[schema(value_type = Option<words::Time>)]
    last_used_at: Option<Time>,
    /// `live`, `expired` or `revoked`.
    state: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyPolicyView {
    #[schema(value_type = Vec<words::Kind>)]
    kinds: Vec<Kind>,
    max_uses: u32,
    longest_secs: u64,
    id_prefix: String,
    #[schema(value_type = Vec<words::Id>)]
    parents: Vec<ServiceId>,
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
}

/// A new key; the only answer that ever holds the secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewKeyView<'a> {
    key: &'a str,
    #[serde(flatten)]
    view: KeyView,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WhoamiView {
    /// As the audit trail names the caller.
    actor: String,
    roles: Vec<&'static str>,
    /// What the roles allow.
    permissions: Vec<&'static str>,
    /// What is reached; empty = everything.
    #[schema(value_type = words::Scope)]
    scope: String,
    #[schema(value_type = Option<words::Time>)]
    expires_at: Option<Time>,
    collector: String,
    trust_domain: String,
}

/// What was closed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClosedView {
    /// How many bootstrap credentials ended.
    closed: usize,
}

const LIST: &[Param] = &[
    Param::of::<words::Text>("role", "Only keys of this role"),
    Param::of::<words::Limit>("limit", "Keys of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    const ROOT: &str = "/api/admin/keys";
    routes
        .tag("access", "Who may do what")
        .add(
            Operation::get("/api/admin/whoami", Permission::Know, "whoami")
                .scoped()
                .about("Who the caller is here, and what it may do")
                .answer::<WhoamiView>(200, "The caller"),
            whoami,
        )
        .add(
            Operation::get(ROOT, Permission::Administer, "list_keys")
                .scoped()
                .about("API keys and other credentials, by id, without their secrets")
                .query(LIST)
                .answer::<Page<KeyView>>(200, "A page"),
            list,
        )
        .add(
            Operation::post(ROOT, Permission::Administer, "create_key")
                .scoped()
                .about("Makes an API key")
                .more("The answer is the only one that ever holds the secret. A key reaches no further than its maker.")
                .body::<NewKeyBody>()
                .once_told()
                .answer::<NewKeyView<'static>>(201, "The key"),
            create,
        )
        .add(
            Operation::get(&format!("{ROOT}/{{id}}"), Permission::Administer, "get_key")
                .scoped()
                .about("One key, without its secret")
                .more("Its last use moves no tag: ask without `If-None-Match` to see it.")
                .path::<words::TokenId>("id", "The key")
                .tagged()
                .answer::<KeyView>(200, "The key")
                .gives(&[ProblemCode::UnknownKey]),
            show,
        )
        .add(
            Operation::post(&format!("{ROOT}/{{id}}/revoke"), Permission::Administer, "revoke_key")
                .scoped()
                .about("Ends a key at once")
                .path::<words::TokenId>("id", "The key")
                .body::<super::tokens::Empty>()
                .matches()
                .answer::<KeyView>(200, "As it is now")
                .gives(&[ProblemCode::UnknownKey, ProblemCode::KeyRevoked]),
            revoke,
        )
        .add(
            Operation::post("/api/admin/bootstrap/close", Permission::Administer, "close_bootstrap")
                .about("Ends the bootstrap credential for good")
                .more("Refused where it is the last way in: without another administrator's key, an identity provider or the administrators' socket.")
                .body::<super::tokens::Empty>()
                .answer::<ClosedView>(200, "It is closed")
                .gives(&[ProblemCode::Refused]),
            close,
        )
}

async fn whoami(call: Call) -> axum::Json<WhoamiView> {
    let caller = &call.caller;
    let registry = &call.state.registry;
    axum::Json(WhoamiView {
        actor: caller.actor.clone(),
        roles: caller.roles.iter().map(Role::as_str).collect(),
        permissions: Permission::ALL.into_iter().filter(|one| caller.roles.may(*one)).map(Permission::as_str).collect(),
        scope: caller.scope.to_string(),
        expires_at: caller.ends.map(Time),
        collector: registry.whoami().collector.to_string(),
        trust_domain: registry.whoami().trust_domain.to_string(),
    })
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<KeyView>>, Problem> {
    let limit = query.get("limit").map(page::limit).transpose()?.unwrap_or(page::DEFAULT_LIMIT);
    let after = query.get("cursor").map(page::seek::<TokenId>).transpose()?;
    let role = query.get("role");
    let now = call.state.registry.now().wall;
    let (position, mut rows) = call.state.registry.read(|roster| {
        let wanted = roster
            .credentials()
            .filter(|row| row.scope.lies_within(call.scope()) && role.is_none_or(|role| row.role == role));
        let behind = wanted.filter(|row| after.is_none_or(|after| row.id > after));
        (roster.position(), behind.cloned().collect::<Vec<_>>())
    });
    rows.sort_by_key(|row| row.id);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| page::cursor(&row.id.to_string()));
    Ok(axum::Json(Page::at(position, rows.iter().map(|row| KeyView::of(row, now)).collect(), next)))
}

async fn create(call: Call, Json(body): Json<NewKeyBody>) -> Result<Response, Problem> {
    let now = call.state.registry.now().wall;
    let role = Role::ALL.into_iter().find(|role| role.as_str() == body.role).ok_or_else(|| {
        let allowed = Role::ALL.map(Role::as_str).to_vec();
        invalid(format!("role is one of {}", allowed.join(", "))).with("allowed", allowed)
    })?;
    // A role of metrics sees the whole: there is no part of it to be had.
    if role == Role::Metrics && !body.scope.is_everything() {
        return Err(invalid("metrics speak of the whole deployment: a key for them has no scope"));
    }
    if !body.scope.lies_within(call.scope()) {
        let detail = format!("the caller reaches only {}: a key of its making lies within", call.scope());
        return Err(invalid(detail).with("scope", call.scope().to_string()));
    }
    let life = body.ttl.as_deref().map(|text| lasting("ttl", text)).transpose()?.unwrap_or(DEFAULT_LIFE);
    let no_randomness =
        |error: rollcall_common::id::NoRandomness| Problem::new(ProblemCode::Internal, error.to_string());
    let credential = Credential::random(CredentialKind::ApiKey).map_err(no_randomness)?;
    let row = CredentialRow {
        scope: body.scope,
        policy: body.policy.map(KeyPolicyBody::policy).transpose()?.map(Box::new),
        note: body.note.to_string(),
        created_by: call.caller.actor.clone(),
        expires_at: Some(now.after(life)),
        ..CredentialRow::new(credential.id, credential.hash(), role.as_str(), now)
    };
    let shown = row.clone();
    let tell = move |_: &Change| once::told_without_secret(StatusCode::CREATED, None, Some(&KeyView::of(&shown, now)));
    call.once(CreateKey { row: row.clone(), by: call.by() }, tell).await?;
    let text = credential.reveal();
    let view = NewKeyView { key: &text, view: KeyView::of(&row, now) };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

async fn revoke(
    call: Call,
    id: Id<TokenId>,
    Json(super::tokens::Empty {}): Json<super::tokens::Empty>,
) -> Result<Tagged<KeyView>, Problem> {
    let id = id.0;
    find(&call, id)?;
    let version = move |roster: &Roster| roster.credential(id).map(|row| version(row));
    call.change(version, RevokeKey { id, by: call.by() }).await?;
    view(&call, id)
}

async fn show(call: Call, id: Id<TokenId>) -> Result<Tagged<KeyView>, Problem> {
    view(&call, id.0)
}

fn view(call: &Call, id: TokenId) -> Result<Tagged<KeyView>, Problem> {
    let row = find(call, id)?;
    Ok(call.tagged(version(&row), KeyView::of(&row, call.state.registry.now().wall)))
}

/// One key, if it is there and reaches no further than the caller.
fn find(call: &Call, id: TokenId) -> Result<Arc<CredentialRow>, Problem> {
    let row = call.state.registry.read(|roster| roster.credential(id).cloned());
    row.filter(|row| row.scope.lies_within(call.scope())).ok_or_else(|| Refusal::UnknownCredential(id).into())
}

/// What stands in the tag of a key. Credentials have no seq: they change once, when they end.
fn version(row: &CredentialRow) -> Seq {
    let made = row.created_at;
    let last = row.revoked_at.map_or(made, |at| at.max(Timestamp(made.0.saturating_add(1))));
    Seq(u64::try_from(last.0).unwrap_or(0))
}

async fn close(
    call: Call,
    Json(super::tokens::Empty {}): Json<super::tokens::Empty>,
) -> Result<axum::Json<ClosedView>, Problem> {
    let registry = &call.state.registry;
    let now = registry.now().wall;
    let another = registry.read(|roster| {
        let whole = |row: &&Arc<CredentialRow>| row.role == Role::Admin.as_str() && row.scope.is_everything();
        roster.credentials().filter(whole).any(|row| row.is_live(now))
    });
    if !another && call.state.oidc.is_empty() && !call.state.local_door {
        let detail =
            "it is the last way in: make an administrator's key first (rollcall-collector keys create --role admin)";
        return Err(Problem::new(ProblemCode::Refused, detail));
    }
    let closed = registry.ask(CloseBootstrap { why: bootstrap::ASKED, by: call.by() }).await?;
    Ok(axum::Json(ClosedView { closed }))
}

impl KeyPolicyBody {
    fn policy(self) -> Result<EnrollPolicy, Problem> {
        let longest = self.longest.as_deref().map(|text| lasting("policy.longest", text)).transpose()?;
        if !self.id_prefix.is_empty() && format!("{}0", self.id_prefix).parse::<ServiceId>().is_err() {
            return Err(invalid("policy.id_prefix can begin no id: use 1 to 63 of a-z 0-9 . _ -, without '..'"));
        }
        let mut kinds = self.kinds;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(EnrollPolicy {
            kinds,
            max_uses: self.max_uses.unwrap_or(1),
            longest_secs: longest.unwrap_or(DEFAULT_LONGEST).as_secs(),
            id_prefix: self.id_prefix,
            parents: self.parents,
            labels: self.labels,
        })
    }
}

impl KeyView {
    fn of(row: &CredentialRow, now: Timestamp) -> Self {
        let state = match (row.revoked_at, row.is_live(now)) {
            (Some(_), _) => "revoked",
            (None, true) => "live",
            (None, false) => "expired",
        };
        Self {
            id: row.id.to_string(),
            role: row.role.clone(),
            scope: row.scope.to_string(),
            policy: row.policy.as_deref().map(|policy| KeyPolicyView {
                kinds: policy.kinds.clone(),
                max_uses: policy.max_uses,
                longest_secs: policy.longest_secs,
                id_prefix: policy.id_prefix.clone(),
                parents: policy.parents.clone(),
                labels: policy.labels.clone(),
            }),
            note: row.note.clone(),
            created_by: row.created_by.clone(),
            created_at: Time(row.created_at),
            expires_at: row.expires_at.map(Time),
            revoked_at: row.revoked_at.map(Time),
            last_used_at: row.last_used_at.map(Time),
            state,
        }
    }
}

fn lasting(field: &str, text: &str) -> Result<Duration, Problem> {
    duration::parse(text).map_err(|error| invalid(format!("{field}: {error}")))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::Invalid, detail)
}

/// When credentials were used, until it is written down: one entry for each that is registered, so that there
/// are never more than credentials.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<TokenId, Timestamp>>);

impl Uses {
    /// Notes a use. No request waits for its being written.
    pub(super) fn note(&self, id: TokenId, at: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, at);
    }

    fn take(&self) -> Vec<(TokenId, Timestamp)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    /// Writes uses down now and then, and a last time when it is told to stop.
    pub(super) async fn keep(&self, registry: Registry, stop: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(FLUSH) => false,
                () = stop.cancelled() => true,
            };
            let uses = self.take();
            // What cannot be written is lost: the next use tells it again.
            if !uses.is_empty()
                && let Err(error) = registry.ask(NoteUses(uses)).await
            {
                tracing::debug!(%error, "the last uses of credentials were not written down");
            }
            if stopping {
                return;
            }
        }
    }
}
