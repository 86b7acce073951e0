//! Logins: a one-time code for a session, and a session's end.
//!
//! It owns the codes that were made here, in memory and few; the one that the host's own tools made lies in a file
//! that the composition reads for it. A code is burnt by the commit that begins its session, so that of two who
//! bring it at once one gets in, and none after a restart. Unknown, used and expired ones are answered alike.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension,
    extract::State as Held,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as Exposition,
};
use rollcall_common::{
    id::NoRandomness,
    time::Timestamp,
    token::{Credential, CredentialKind},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    State,
    access::{Failures, Permission, Role, Via},
    error::{Problem, ProblemCode},
    extract::{Call, Json, RequestId},
    once,
    openapi::words,
    routes::{Operation, Routes},
    server::Peer,
    view::Time,
};
use crate::{
    logincode::{Kept, LoginCode},
    registry::{
        logins::{BY, LogIn, LogOut, NoteFailedLogin, NoteLoginCode},
        services::By,
    },
    store::rows::{Change, CredentialRow},
};

/// How long a session lasts.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Codes that were made by the API and are not used yet; the oldest is forgotten.
const MAX_CODES: usize = 16;

/// The file in which the host's own tools leave a code.
pub trait CodeFile: Send + Sync {
    /// What it holds, if there is one.
    fn read(&self) -> Option<Vec<u8>>;
    /// Empties it.
    fn clear(&self);
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Codes, and what became of them.
pub(super) struct Logins {
    file: Arc<dyn CodeFile>,
    codes: Mutex<VecDeque<Kept>>,
    /// How many failures the audit trail takes, from wherever they come.
    told: Mutex<Failures>,
    counts: Family<OutcomeLabel, Counter>,
}

/// Where a code was found.
enum Place {
    Memory,
    File,
}

impl Logins {
    pub(super) fn new(file: Arc<dyn CodeFile>) -> Self {
        Self { file, codes: Mutex::default(), told: Mutex::default(), counts: Family::default() }
    }

    pub(super) fn register(&self, exposition: &mut Exposition) {
        exposition.register("rollcall_http_logins", "Logins by outcome", self.counts.clone());
    }

    fn add(&self, kept: Kept, now: Timestamp) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|code| now < code.expires_at());
        while codes.len() >= MAX_CODES {
            codes.pop_front();
        }
        codes.push_back(kept);
    }

    /// Looks for a code in every place, whether it was found before or not.
    async fn find(&self, code: &LoginCode, now: Timestamp) -> Option<Place> {
        let file = Arc::clone(&self.file);
        let text = tokio::task::spawn_blocking(move || file.read()).await.ok().flatten();
        let in_file = text.and_then(|text| Kept::parse(&text)).is_some_and(|kept| kept.is(code, now));
        let codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let in_memory = codes.iter().fold(false, |found, kept| found | kept.is(code, now));
        drop(codes);
        if in_memory { Some(Place::Memory) } else { in_file.then_some(Place::File) }
    }

    /// It is burnt already: this only tidies up.
    async fn forget(&self, code: &LoginCode, now: Timestamp, place: &Place) {
        match place {
            Place::Memory => {
                self.codes.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| !kept.is(code, now));
            }
            Place::File => {
                let file = Arc::clone(&self.file);
                let _ = tokio::task::spawn_blocking(move || file.clear()).await;
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.counts.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// The code to exchange.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginBody {
    /// In any case, with or without its dashes.
    code: String,
}

/// A session; the only answer that ever holds its credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionView<'a> {
    /// For `Authorization: Bearer`.
    credential: &'a str,
    /// Its public half, as the audit trail names it.
    id: String,
    role: &'static str,
    #[schema(value_type = words::Time)]
    expires_at: Time,
}

/// A new code; the only answer that ever holds it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CodeView<'a> {
    code: &'a str,
    #[schema(value_type = words::Time)]
    expires_at: Time,
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .tag("login", "Sessions for people")
        .add(
            Operation::post("/api/admin/login", Permission::Open, "log_in")
                .about("Exchanges a one-time code for an administrator's session of 12 hours")
                .body::<LoginBody>()
                .answer::<SessionView<'_>>(201, "The session; its credential is told this once")
                .gives(&[ProblemCode::Unauthenticated, ProblemCode::Throttled]),
            log_in,
        )
        .add(
            Operation::post("/api/admin/logout", Permission::Administer, "log_out")
                .about("Ends the caller's own session")
                .empty(204, "It is refused from now on")
                .gives(&[ProblemCode::Refused]),
            log_out,
        )
        .add(
            Operation::post("/api/admin/login/codes", Permission::Administer, "create_login_code")
                .about("Makes a one-time code, good for 10 minutes")
                .once_told()
                .answer::<CodeView<'_>>(201, "The code; it is told this once"),
            create_code,
        )
}

async fn log_in(
    Held(state): Held<Arc<State>>,
    Extension(request): Extension<RequestId>,
    peer: Option<Extension<Peer>>,
    Json(body): Json<LoginBody>,
) -> Result<Response, Problem> {
    let from = peer.map(|peer| peer.0.ip());
    let now = state.registry.now().wall;
    let by = |actor: String| By { actor, request_id: Some(request.0.as_ref().into()) };
    let code = body.code.parse::<LoginCode>().ok();
    let found = match &code {
        Some(code) => state.logins.find(code, now).await.map(|place| (code, place)),
        None => None,
    };
    let Some((code, place)) = found else { return Err(failed(&state, from, by(BY.into())).await) };
    let credential = Credential::random_with(CredentialKind::ApiKey, code.session()).map_err(no_randomness)?;
    let expires_at = now.after(SESSION);
    let actor = format!("credential:{}", credential.id);
    let row = CredentialRow {
        expires_at: Some(expires_at),
        note: "a login".into(),
        created_by: BY.into(),
        ..CredentialRow::new(credential.id, credential.hash(), Role::Admin.as_str(), now)
    };
    if !state.registry.ask(LogIn { row, from, by: by(actor) }).await? {
        return Err(failed(&state, from, by(BY.into())).await);
    }
    state.logins.forget(code, now, &place).await;
    state.logins.count("succeeded");
    tracing::info!(session = %credential.id, from = from.map(tracing::field::display), "somebody logged in");
    let text = credential.reveal();
    let view = SessionView {
        credential: &text,
        id: credential.id.to_string(),
        role: Role::Admin.as_str(),
        expires_at: Time(expires_at),
    };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

/// One answer for every code that is not good, and a brake on those who try.
async fn failed(state: &State, from: Option<IpAddr>, by: By) -> Problem {
    state.logins.count("failed");
    let now = state.registry.now().boot;
    let wait = from.and_then(|ip| state.note_failure(ip, now));
    let everybody = IpAddr::from([0, 0, 0, 0]);
    let told = state.logins.told.lock().unwrap_or_else(PoisonError::into_inner).note(everybody, now).is_none();
    if told && let Err(error) = state.registry.ask(NoteFailedLogin { from, by }).await {
        tracing::debug!(%error, "a failed login was not written down");
    }
    match wait {
        Some(secs) => {
            Problem::new(ProblemCode::Throttled, "too many failed attempts from this address").retry_after(secs)
        }
        None => Problem::new(
            ProblemCode::Unauthenticated,
            "the code is not good: it is unknown, used or older than 10 minutes; make a new one on the collector's \
             host with `rollcall-collector login-code`",
        ),
    }
}

async fn log_out(call: Call) -> Result<StatusCode, Problem> {
    let ended = match call.caller.via {
        Via::Credential(id) => call.state.registry.ask(LogOut { id, by: call.by() }).await?,
        Via::Issuer | Via::Local => false,
    };
    if !ended {
        let detail = "only a session that began with a login code ends this way; a key is revoked by its id";
        return Err(Problem::new(ProblemCode::Refused, detail));
    }
    call.state.logins.count("ended");
    Ok(StatusCode::NO_CONTENT)
}

async fn create_code(call: Call) -> Result<Response, Problem> {
    call.caller.demand_everything()?;
    let registry = &call.state.registry;
    let code = LoginCode::random().map_err(no_randomness)?;
    let now = registry.now().wall;
    let kept = Kept::of(&code, now);
    let expires_at = Time(kept.expires_at());
    let shown = serde_json::json!({ "expires_at": expires_at });
    let tell = move |_: &Change| once::told_without_secret(StatusCode::CREATED, None, Some(&shown));
    call.once(NoteLoginCode { by: call.by() }, tell).await?;
    call.state.logins.add(kept, now);
    let text = code.reveal();
    Ok((StatusCode::CREATED, axum::Json(CodeView { code: &text, expires_at })).into_response())
}

fn no_randomness(error: NoRandomness) -> Problem {
    Problem::new(ProblemCode::Internal, error.to_string())
}

#[cfg(test)]
mod tests;
