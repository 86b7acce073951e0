//! Onboarding packages over HTTP: make, list, fetch once, issue again, take back, put away.
//!
//! Token and download secret are made here. The registry gets hashes, and the token's text under a key that
//! only the download secret gives ([`seal`]): nobody who reads the store enrolls with what is found there.
//! Whoever fetches a package sends its secret in a header: with an account under `/api/admin`, an installer
//! without one under `/api/packages`, where failures have a brake of their own.

mod body;
mod bundle;
mod seal;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Extension, State as Held},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{Kind, NoRandomness, Seq},
    time::Timestamp,
    token::{MAX_TEXT, PackageSecret, Secret, Token, TokenId},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use self::body::{PackageBody, ReissuePackageBody};
use super::{
    State,
    access::Permission,
    call::Call,
    error::{Problem, ProblemCode},
    extract::{Id, Json, Query, RequestId},
    once,
    openapi::words,
    page::{self, Page},
    position::Tagged,
    routes::{Operation, Param, Routes},
    server::Peer,
    view::Time,
};
use crate::{
    registry::{
        answers::Told,
        packages::{
            Contents, CreatePackage, DeletePackage, FETCH_AGAIN, FetchPackage, PackageProblem, ReissuePackage,
            RevokePackage, standing,
        },
        roster::Roster,
        services::By,
    },
    store::rows::{Change, PackageId, PackageRow, PackageStatus, TokenPolicy},
};

const ROOT: &str = "/api/admin/packages";
/// Where a download secret travels: never in a URL.
const SECRET_HEADER: &str = "rollcall-download-secret";

const LIST: &[Param] = &[
    Param::list::<words::PackageStatus>("status", "Only packages that stand there"),
    Param::of::<words::Kind>("kind", "Only for services of this kind"),
    Param::of::<words::Limit>("limit", "Packages of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    const P: Permission = Permission::Operate;
    let known = |operation: Operation| {
        operation.path::<words::TokenId>("id", "The package").gives(&[ProblemCode::UnknownPackage]).scoped()
    };
    let secret = || Param::of::<words::PackageSecret>("Rollcall-Download-Secret", "The package's download secret");
    let changed = [ProblemCode::PackageState];
    routes
        .tag("packages", "Pre-registration, token and configuration of one host, handed out once")
        .add(
            Operation::get(ROOT, Permission::Read, "list_packages")
                .about("Onboarding packages, by id")
                .query(LIST)
                .answer::<Page<PackageView>>(200, "A page")
                .scoped(),
            list,
        )
        .add(
            Operation::post(ROOT, P, "create_package")
                .about("Registers a service and makes the package that brings it in")
                .more(
                    "Row, token and package are made in one change. The answer is the only one that ever holds the \
                     download secret; what the package holds cannot be read without it.",
                )
                .body::<PackageBody>()
                .once_told()
                .answer::<NewPackageView>(201, "The package")
                .gives(&[
                    ProblemCode::Exists,
                    ProblemCode::PackageExists,
                    ProblemCode::PackageState,
                    ProblemCode::NoAddress,
                    ProblemCode::Refused,
                    ProblemCode::RegistryFull,
                    ProblemCode::ParentMissing,
                    ProblemCode::ParentUnwanted,
                    ProblemCode::ParentUnknown,
                    ProblemCode::ParentKind,
                    ProblemCode::ParentRevoked,
                    ProblemCode::ParentDeleted,
                ])
                .scoped(),
            create,
        )
        .add(
            known(Operation::get(&format!("{ROOT}/{{id}}"), Permission::Read, "get_package"))
                .about("One onboarding package")
                .answer::<PackageView>(200, "The package")
                .tagged(),
            show,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/download"), P, "download_package"))
                .about("Fetches a package, once")
                .more(
                    "Whoever fetched it may do so again for ten minutes, for a lost download; to anybody else, and \
                     later, it is gone.",
                )
                .header(secret().required())
                .answer_as(200, "application/gzip", "The archive")
                .gives(&[ProblemCode::PackageGone]),
            download,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/reissue"), P, "reissue_package"))
                .about("Gives a package a new token and a new download secret; the old ones end")
                .body::<ReissuePackageBody>()
                .matches()
                .once_told()
                .answer::<NewPackageView>(200, "The package")
                .gives(&changed)
                .gives(&[ProblemCode::NoAddress, ProblemCode::UnknownService]),
            reissue,
        )
        .add(
            known(Operation::post(&format!("{ROOT}/{{id}}/revoke"), P, "revoke_package"))
                .about("Takes a package back; its token ends with it")
                .more("`service` revokes the service, too, and demands what that demands.")
                .body::<RevokePackageBody>()
                .matches()
                .answer::<PackageView>(200, "As it is now")
                .gives(&changed)
                .gives(&[ProblemCode::NoArrow]),
            revoke,
        )
        .add(
            known(Operation::delete(&format!("{ROOT}/{{id}}"), P, "delete_package"))
                .about("Puts a package away that is used, revoked or expired; its row goes seven days later")
                .query(&[Param::of::<words::Text>("reason", "Why, for the audit trail")])
                .matches()
                .answer::<PackageView>(200, "As it is now")
                .gives(&changed),
            delete,
        )
        .add(
            Operation::post("/api/packages/download", Permission::Open, "fetch_package")
                .about("Fetches a package without an account, once")
                .more("For installers: the download secret says which package, and is all that is needed.")
                .header(secret().required())
                .answer_as(200, "application/gzip", "The archive")
                .gives(&[ProblemCode::UnknownPackage, ProblemCode::PackageGone, ProblemCode::Throttled]),
            fetch,
        )
}

/// An onboarding package, without what it holds.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct PackageView {
    /// Which.
    id: String,
    /// Where it stands: `issued`, `delivered`, `activated`, `revoked`, `expired` or `deleted`.
    #[schema(value_type = words::PackageStatus)]
    status: &'static str,
    /// Since when.
    status_since: Time,
    /// Whom it brings in, as kind and id.
    service: String,
    /// The kind of that service.
    #[schema(value_type = words::Kind)]
    kind: Kind,
    /// Its parent.
    parent: Option<String>,
    /// The component that the service carries.
    component_id: String,
    /// The public half of the token inside.
    token: String,
    /// How often it was issued.
    issues: u32,
    /// The labels of its service.
    #[schema(value_type = words::Pairs)]
    labels: std::collections::BTreeMap<String, String>,
    /// A note of the maker's.
    note: String,
    /// Who made it.
    created_by: String,
    /// When.
    created_at: Time,
    /// Until when it can be used.
    expires_at: Time,
    /// When it was first fetched.
    delivered_at: Option<Time>,
    /// By whom.
    delivered_to: Option<String>,
    /// Until when whoever fetched it may fetch it again.
    refetch_until: Option<Time>,
    /// The first heartbeat of its service.
    activated_at: Option<Time>,
    /// The seq of its last change.
    seq: u64,
}

impl PackageView {
    fn of(row: &PackageRow, now: Timestamp) -> Self {
        let status = standing(row, now);
        let again = row.delivered_at.filter(|_| status == PackageStatus::Delivered && row.sealed.is_some());
        Self {
            id: row.id.to_string(),
            status: status.as_str(),
            status_since: if status == row.status { Time(row.status_since) } else { Time(row.expires_at) },
            service: row.service.to_string(),
            kind: row.service.kind,
            parent: row.parent.clone().map(String::from),
            component_id: row.component_id.clone(),
            token: row.token.to_string(),
            issues: row.issues,
            labels: row.settings.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            note: row.note.clone(),
            created_by: row.created_by.clone(),
            created_at: Time(row.created_at),
            expires_at: Time(row.expires_at),
            delivered_at: row.delivered_at.map(Time),
            delivered_to: row.delivered_to.clone(),
            refetch_until: again.map(|at| at.after(FETCH_AGAIN)).filter(|until| now < *until).map(Time),
            activated_at: row.activated_at.map(Time),
            seq: row.seq.0,
        }
    }
}

/// A package that was just issued: the only answer with its download secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewPackageView {
    /// What fetches it; shown once.
    #[schema(value_type = words::PackageSecret)]
    download_secret: Shown,
    /// What its token tells the sidecar to dial.
    addresses: Vec<String>,
    #[serde(flatten)]
    view: PackageView,
}

/// A secret on its way to its bearer.
struct Shown(Zeroizing<String>);

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("REDACTED")
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevokePackageBody {
    /// Revokes the service, too.
    #[serde(default)]
    service: bool,
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
}

/// What is put into a package: made here, and nowhere else in the clear.
struct Fresh {
    secret: PackageSecret,
    addresses: Vec<String>,
    contents: Contents,
}

fn fresh(call: &Call, id: PackageId, policy: TokenPolicy, dial: &body::Dial) -> Result<Fresh, Problem> {
    let state = &call.state;
    let failed = |error: NoRandomness| Problem::new(ProblemCode::Internal, error.to_string());
    let addresses = super::tokens::addresses_of(&dial.addresses, dial.local, &state.advertised.load(), state.quic)?;
    let token = Token {
        id: TokenId::random().map_err(failed)?,
        secret: Secret::random().map_err(failed)?,
        pin: state.pin,
        expires: policy.expires_at,
        trust_domain: state.registry.whoami().trust_domain.clone(),
        addresses,
    };
    let text = token.reveal();
    if text.len() > MAX_TEXT {
        let detail = format!("the token would have more than {MAX_TEXT} characters: give it fewer addresses");
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    let secret = PackageSecret::random(id.0).map_err(failed)?;
    let sealed = seal::seal(&secret, &text).map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?;
    let contents = Contents {
        token: token.id,
        token_hash: token.secret.hash(token.id),
        secret_hash: secret.hash(),
        sealed,
        expires_at: policy.expires_at,
        policy,
    };
    let addresses = token.addresses.iter().map(ToString::to_string).collect();
    Ok(Fresh { secret, addresses, contents })
}

async fn create(call: Call, Json(body): Json<PackageBody>) -> Result<Response, Problem> {
    let now = call.state.registry.now().wall;
    let id = PackageId::random().map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?;
    let (register, settings) = body.registration(call.by())?;
    let policy = body.policy(now)?;
    call.may_mint(&policy)?;
    call.holds(&register.said.labels)?;
    if let Some((kind, parent)) = register.key.kind.parent().zip(register.parent.as_ref()) {
        call.finds_parent(&rollcall_common::id::ServiceKey::new(kind, parent.clone()))?;
    }
    let fresh = fresh(&call, id, policy, &body.dial())?;
    let request = CreatePackage {
        id,
        register,
        adopt: body.adopt,
        contents: fresh.contents.clone(),
        settings,
        note: body.note.to_string(),
    };
    call.once(request, tell(&call, StatusCode::CREATED, Some(format!("{ROOT}/{id}")))).await?;
    let mut response = (StatusCode::CREATED, issued(&call, id, fresh)?).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("{ROOT}/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn reissue(
    call: Call,
    id: Id<PackageId>,
    Json(body): Json<ReissuePackageBody>,
) -> Result<Tagged<NewPackageView>, Problem> {
    let row = find(&call, id.0)?;
    let before = call.state.registry.read(|roster| roster.token(row.token).cloned());
    let policy = body.policy(&row, before.as_deref().map(|token| &token.policy), call.state.registry.now().wall)?;
    let fresh = fresh(&call, id.0, policy, &body.dial())?;
    let request = ReissuePackage { id: id.0, contents: fresh.contents.clone(), by: call.by() };
    let tell = tell(&call, StatusCode::OK, None);
    call.once(call.expecting(seq_of(id.0), request), tell).await?;
    issued(&call, id.0, fresh)
}

/// What is told to whoever repeats a request that issued a package: all but its download secret.
fn tell(call: &Call, status: StatusCode, place: Option<String>) -> impl Fn(&Change) -> Told + Send + use<> {
    let now = call.state.registry.now().wall;
    move |change| {
        let view = change.issued().map(|row| PackageView::of(row, now));
        once::told_without_secret(status, place.clone(), view.as_ref())
    }
}

fn issued(call: &Call, id: PackageId, fresh: Fresh) -> Result<Tagged<NewPackageView>, Problem> {
    let row = find(call, id)?;
    let view = PackageView::of(&row, call.state.registry.now().wall);
    let view = NewPackageView { download_secret: Shown(fresh.secret.reveal()), addresses: fresh.addresses, view };
    Ok(call.tagged(row.seq, view))
}

/// Finds the seq of a package.
fn seq_of(id: PackageId) -> impl Fn(&Roster) -> Option<Seq> + Send + use<> {
    move |roster| roster.packages().get(id).map(|row| row.seq)
}

async fn list(call: Call, query: Query) -> Result<axum::Json<Page<PackageView>>, Problem> {
    let (mut after, mut limit, mut kind, mut status) = (None, page::DEFAULT_LIMIT, None, Vec::new());
    for (name, value) in &query.0 {
        match name.as_str() {
            "cursor" => after = Some(page::seek::<PackageId>(value)?),
            "limit" => limit = page::limit(value)?,
            "kind" => kind = Some(parsed::<Kind>("kind", value)?),
            "status" => {
                for word in value.split(',') {
                    status.push(parsed::<PackageStatus>("status", word)?);
                }
            }
            _ => {}
        }
    }
    let now = call.state.registry.now().wall;
    let (position, rows) = call.state.registry.read(|roster| {
        let behind = roster.packages().seek(after).filter(|row| call.scope().admits(&row.settings.labels));
        let wanted = behind
            .filter(|row| kind.is_none_or(|kind| row.service.kind == kind))
            .filter(|row| status.is_empty() || status.contains(&standing(row, now)));
        (roster.position(), wanted.take(limit + 1).cloned().collect::<Vec<_>>())
    });
    let more = rows.len() > limit;
    let last = rows.iter().take(limit).next_back().filter(|_| more).map(|row| page::cursor(&row.id.to_string()));
    let items = rows.iter().take(limit).map(|row| PackageView::of(row, now)).collect();
    Ok(axum::Json(Page::at(position, items, last)))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(name: &'static str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| {
        Problem::new(ProblemCode::InvalidQuery, format!("{name}: {error}")).with("parameter", name)
    })
}

async fn show(call: Call, id: Id<PackageId>) -> Result<Tagged<PackageView>, Problem> {
    view(&call, id.0)
}

async fn revoke(
    call: Call,
    id: Id<PackageId>,
    Json(body): Json<RevokePackageBody>,
) -> Result<Tagged<PackageView>, Problem> {
    find(&call, id.0)?;
    if body.service {
        call.demand(Permission::Administer)?;
    }
    let request = RevokePackage { id: id.0, service: body.service, reason: body.reason.to_string(), by: call.by() };
    call.change(seq_of(id.0), request).await?;
    view(&call, id.0)
}

async fn delete(call: Call, id: Id<PackageId>, query: Query) -> Result<Tagged<PackageView>, Problem> {
    let reason = Text::new(query.get("reason").unwrap_or_default())
        .map_err(|error| Problem::new(ProblemCode::InvalidQuery, error.to_string()).with("parameter", "reason"))?;
    find(&call, id.0)?;
    call.change(seq_of(id.0), DeletePackage { id: id.0, reason: reason.to_string(), by: call.by() }).await?;
    view(&call, id.0)
}

async fn download(call: Call, id: Id<PackageId>, headers: HeaderMap) -> Result<Response, Problem> {
    find(&call, id.0)?;
    // Another package's secret is as wrong as none.
    let secret = secret(&headers).filter(|secret| PackageId(secret.package) == id.0).ok_or_else(unknown)?;
    hand_out(&call.state, &secret, call.caller.actor.clone(), call.by()).await
}

/// Without an account: whoever has the secret is who it was meant for.
async fn fetch(
    Held(state): Held<Arc<State>>,
    Extension(peer): Extension<Peer>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let from = peer.ip();
    let actor = format!("address:{}", from.to_canonical());
    let by = By { actor: actor.clone(), request_id: Some(request_id.0.to_string()) };
    let outcome = match secret(&headers) {
        Some(secret) => hand_out(&state, &secret, actor, by).await,
        None => Err(unknown()),
    };
    outcome.map_err(|problem| braked(&state, from, problem))
}

/// Counts what did not prove itself, and asks an address that guesses to wait.
fn braked(state: &State, from: IpAddr, problem: Problem) -> Problem {
    if problem.code() != ProblemCode::UnknownPackage {
        return problem;
    }
    match state.note_guess(from, state.registry.now().boot) {
        Some(secs) => {
            let detail = "too many download secrets from this address that fetch nothing";
            Problem::new(ProblemCode::Throttled, detail).retry_after(secs)
        }
        None => problem,
    }
}

async fn hand_out(state: &State, secret: &PackageSecret, to: String, by: By) -> Result<Response, Problem> {
    let request = FetchPackage { id: PackageId(secret.package), secret_hash: secret.hash(), to, by };
    let row = state.registry.ask(request).await?;
    let broken = |what: String| {
        tracing::error!(package = %row.id, what, "a package cannot be handed out");
        Problem::new(ProblemCode::Internal, "the package cannot be opened: issue it again")
    };
    let token = seal::open(secret, row.sealed.as_deref().unwrap_or_default());
    let token = token.map_err(|error| broken(error.to_string()))?;
    let archive = bundle::archive(&row, &token).map_err(|error| broken(error.to_string()))?;
    let mut response = archive.to_vec().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", bundle::name(&row))) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

fn secret(headers: &HeaderMap) -> Option<PackageSecret> {
    let mut values = headers.get_all(SECRET_HEADER).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()?.parse().ok()
}

fn unknown() -> Problem {
    crate::registry::Refusal::Package(PackageProblem::Unknown).into()
}

fn view(call: &Call, id: PackageId) -> Result<Tagged<PackageView>, Problem> {
    let row = find(call, id)?;
    Ok(call.tagged(row.seq, PackageView::of(&row, call.state.registry.now().wall)))
}

/// One package, if it is there and within reach.
fn find(call: &Call, id: PackageId) -> Result<Arc<PackageRow>, Problem> {
    call.state
        .registry
        .read(|roster| {
            let row = roster.packages().get(id).cloned()?;
            // Its service may have got other labels since.
            let service = roster.get(&row.service).is_none_or(|entry| call.scope().admits(&entry.row.labels));
            (service && call.scope().admits(&row.settings.labels)).then_some(row)
        })
        .ok_or_else(unknown)
}
