//! What a caller is told when a request does not pass: problem documents (RFC 9457) with stable codes.
//!
//! It owns the code table and the mapping of the registry's refusals into it. It does not decide anything.
//! A [`Problem`] travels in the response's extensions until the outermost layer prints it, because only
//! that layer knows the request id.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::lifecycle::Status;
use serde::Serialize;
use serde_json::Value;

use crate::{
    registry::{ParentProblem, Refusal, packages::PackageProblem, settings::SettingsProblem},
    store::StoreError,
};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// Seconds after which a caller may try again where the cause passes by itself.
const RETRY_SECS: u32 = 1;

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $word:literal, $title:literal;)*) => {
        /// Why a request did not pass. Words are a treaty: they keep their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProblemCode {
            $($(#[$doc])* $name,)*
        }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// A short title, the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problems! {
    /// A query parameter is unknown or its value not among the allowed ones.
    InvalidQuery = BAD_REQUEST, "invalid_query", "The query is not valid";
    /// A cursor that this collector did not make.
    InvalidCursor = BAD_REQUEST, "invalid_cursor", "The cursor is not valid";
    /// A path segment that can be no id.
    InvalidId = BAD_REQUEST, "invalid_id", "The id is not valid";
    /// A body that is no JSON.
    InvalidBody = BAD_REQUEST, "invalid_body", "The body is not valid JSON";
    /// A head that no well-behaved client sends.
    InvalidHead = BAD_REQUEST, "invalid_head", "The request head is not valid";
    /// A request in plain HTTP to a port that speaks HTTPS.
    HttpsRequired = BAD_REQUEST, "https_required", "HTTPS is required";
    /// No credential, or one that is not accepted.
    Unauthenticated = UNAUTHORIZED, "unauthenticated", "A credential is required";
    /// The credential's role does not allow it.
    Forbidden = FORBIDDEN, "forbidden", "The credential does not allow this";
    /// No such route.
    NotFound = NOT_FOUND, "not_found", "There is nothing here";
    /// No such service.
    UnknownService = NOT_FOUND, "unknown_service", "The service is not registered";
    /// No such token.
    UnknownToken = NOT_FOUND, "unknown_token", "The token does not exist";
    /// No such approval request.
    UnknownApproval = NOT_FOUND, "unknown_approval", "The approval request does not exist";
    /// No such knock.
    UnknownKnock = NOT_FOUND, "unknown_knock", "The knock does not exist";
    /// No such maintenance window.
    UnknownWindow = NOT_FOUND, "unknown_window", "The maintenance window does not exist";
    /// No such job.
    UnknownJob = NOT_FOUND, "unknown_job", "The job does not exist";
    /// No such onboarding package, or not its download secret.
    UnknownPackage = NOT_FOUND, "unknown_package", "The package does not exist";
    /// No such run of a job.
    UnknownRun = NOT_FOUND, "unknown_run", "The run is not known";
    /// No such credential.
    UnknownKey = NOT_FOUND, "unknown_key", "The key does not exist";
    /// The route has other methods.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed here";
    /// The body did not arrive in time.
    SlowBody = REQUEST_TIMEOUT, "slow_body", "The body did not arrive in time";
    /// A service of that kind and id exists.
    Exists = CONFLICT, "exists", "The service exists already";
    /// An id that several kinds have.
    Ambiguous = CONFLICT, "ambiguous", "Several services have this id";
    /// The lifecycle table has no such arrow.
    NoArrow = CONFLICT, "no_arrow", "The status cannot change that way";
    /// A package does not stand where that is possible.
    PackageState = CONFLICT, "package_state", "The package does not stand where that is possible";
    /// Another package brings in that service.
    PackageExists = CONFLICT, "package_exists", "Another package brings in that service";
    /// A package that was handed out, or never will be.
    PackageGone = GONE, "package_gone", "The package cannot be fetched any more";
    /// The token is revoked already.
    TokenRevoked = CONFLICT, "token_revoked", "The token is revoked already";
    /// The maintenance window is over.
    WindowEnded = CONFLICT, "window_ended", "The maintenance window is over";
    /// The job runs already.
    JobRuns = CONFLICT, "job_runs", "The job runs already";
    /// Something holds the job back.
    JobHeld = CONFLICT, "job_held", "The job is held back";
    /// Other services are concerned than the caller expected.
    Unexpected = CONFLICT, "unexpected_count", "The count is another than expected";
    /// The request of that key is under way.
    KeyUnderway = CONFLICT, "idempotency_key_in_progress", "The request of this key is under way";
    /// The request was done before, and told a secret that is told once.
    SecretAlreadyShown = CONFLICT, "secret_already_shown", "The secret was told once already";
    /// Something stands below the service that would be left without a parent.
    HasChildren = CONFLICT, "has_children", "The service has children";
    /// The service is deleted.
    Deleted = CONFLICT, "deleted", "The service is deleted";
    /// Nobody would take settings for the service.
    NoSidecar = CONFLICT, "no_sidecar", "The service has no sidecar of its own";
    /// A host does not let its probe be changed from here.
    ProbeNotAllowed = CONFLICT, "probe_not_allowed", "The host does not let this probe be changed";
    /// It was settled when the service was registered.
    Settled = CONFLICT, "settled", "This cannot change after the registration";
    /// What is to change is another than the caller saw.
    Changed = PRECONDITION_FAILED, "changed", "It has changed meanwhile";
    /// The key is revoked already.
    KeyRevoked = CONFLICT, "key_revoked", "The key is revoked already";
    /// The registry refused for another reason.
    Refused = CONFLICT, "refused", "The registry refused";
    /// The changes after a position are no longer held.
    Gone = GONE, "gone", "The position is no longer held";
    /// A position of another epoch: of another registry, or of this one before it was restored.
    OtherEpoch = CONFLICT, "other_epoch", "The position is of another epoch";
    /// The body is too large.
    TooLarge = PAYLOAD_TOO_LARGE, "too_large", "The body is too large";
    /// The body is not said to be JSON.
    MediaType = UNSUPPORTED_MEDIA_TYPE, "media_type", "The body must be JSON";
    /// The `Host` header names another place.
    WrongHost = MISDIRECTED_REQUEST, "wrong_host", "This host name is not served here";
    /// The body is JSON, but not what is wanted.
    Invalid = UNPROCESSABLE_ENTITY, "invalid", "The request is not valid";
    /// The sidecar has no such probe.
    UnknownProbe = UNPROCESSABLE_ENTITY, "unknown_probe", "The sidecar has no such probe";
    /// The key is that of another request.
    KeyReused = UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Another request had this key";
    /// A parent is required.
    ParentMissing = UNPROCESSABLE_ENTITY, "parent_missing", "A parent is required";
    /// This kind takes no parent.
    ParentUnwanted = UNPROCESSABLE_ENTITY, "parent_unwanted", "This kind takes no parent";
    /// The parent is not registered.
    ParentUnknown = UNPROCESSABLE_ENTITY, "parent_unknown", "The parent is not registered";
    /// The parent is of the wrong kind.
    ParentKind = UNPROCESSABLE_ENTITY, "parent_kind", "The parent is of the wrong kind";
    /// The parent is revoked.
    ParentRevoked = UNPROCESSABLE_ENTITY, "parent_revoked", "The parent is revoked";
    /// The parent is deleted.
    ParentDeleted = UNPROCESSABLE_ENTITY, "parent_deleted", "The parent is deleted";
    /// The SPIFFE id does not fit the service.
    SpiffeIdentity = UNPROCESSABLE_ENTITY, "spiffe_identity", "The SPIFFE id does not fit the service";
    /// No address to put into a token.
    NoAddress = UNPROCESSABLE_ENTITY, "no_address", "The collector advertises no usable address";
    /// Too many failures from one address.
    Throttled = TOO_MANY_REQUESTS, "throttled", "Too many failed attempts";
    /// A fault of the collector's own.
    Internal = INTERNAL_SERVER_ERROR, "internal", "The collector made a mistake";
    /// There is no room for more services.
    RegistryFull = INSUFFICIENT_STORAGE, "registry_full", "The registry is full";
    /// Too many requests wait.
    Busy = SERVICE_UNAVAILABLE, "busy", "The registry is busy";
    /// The collector has not seen yet what the caller knows.
    Behind = SERVICE_UNAVAILABLE, "behind", "The collector has not come so far yet";
    /// The registry store does not work now.
    StoreUnavailable = SERVICE_UNAVAILABLE, "store_unavailable", "The registry store is unavailable";
    /// The identity provider cannot be asked, and its keys are too old.
    IssuerUnavailable = SERVICE_UNAVAILABLE, "issuer_unavailable", "The identity provider is unavailable";
    /// The collector is stopping.
    Draining = SERVICE_UNAVAILABLE, "draining", "The collector is stopping";
    /// The answer took too long.
    TimedOut = GATEWAY_TIMEOUT, "timed_out", "The answer took too long";
}

/// Why a request did not pass, for its caller.
#[derive(Debug, Clone)]
pub struct Problem {
    code: ProblemCode,
    detail: String,
    retry_after: Option<u32>,
    more: BTreeMap<&'static str, Value>,
}

/// The document as it is sent.
#[derive(Debug, Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(flatten)]
    more: &'a BTreeMap<&'static str, Value>,
}

impl Problem {
    /// A problem with what is particular to this occurrence, in words that name the fix.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let passes = match code.status() {
            StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_SECS),
            _ => None,
        };
        Self { code, detail: detail.into(), retry_after: passes, more: BTreeMap::new() }
    }

    /// Adds a member that programs can read.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.more.insert(name, value.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, secs: u32) -> Self {
        self.retry_after = Some(secs);
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// What is particular to this occurrence.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The response that carries the document; `request_id` lets an operator find it in the log.
    #[must_use]
    pub fn respond(&self, request_id: &str) -> Response {
        let document = Document {
            r#type: format!("urn:rollcall:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            more: &self.more,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.code.status(), Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(secs) = self.retry_after {
            headers.insert(header::RETRY_AFTER, secs.into());
        }
        if self.code == ProblemCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"rollcall\""));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists(_) => ProblemCode::Exists,
            Refusal::UnknownService(_) => ProblemCode::UnknownService,
            Refusal::UnknownToken(_) => ProblemCode::UnknownToken,
            Refusal::UnknownCredential(_) => ProblemCode::UnknownKey,
            Refusal::CredentialRevoked(_) => ProblemCode::KeyRevoked,
            Refusal::TokenRevoked(_) => ProblemCode::TokenRevoked,
            Refusal::UnknownApproval(_) => ProblemCode::UnknownApproval,
            Refusal::UnknownWindow(_) => ProblemCode::UnknownWindow,
            Refusal::WindowEnded(_) => ProblemCode::WindowEnded,
            Refusal::Arrow(_) => ProblemCode::NoArrow,
            Refusal::Parent(problem) => parent_code(problem),
            Refusal::Moved { .. } => ProblemCode::Changed,
            Refusal::Package(problem) => package_code(problem),
            Refusal::Settings(problem) => settings_code(problem),
            Refusal::Invalid(_) => ProblemCode::Invalid,
            Refusal::NameReused => ProblemCode::KeyReused,
            Refusal::Changed { .. } => ProblemCode::Changed,
            Refusal::HasChildren { .. } => ProblemCode::HasChildren,
            Refusal::Deleted(_) => ProblemCode::Deleted,
            Refusal::Settled { .. } => ProblemCode::Settled,
            Refusal::Spiffe(_) => ProblemCode::SpiffeIdentity,
            Refusal::Wire(_) => ProblemCode::Refused,
            Refusal::Full(_) => ProblemCode::RegistryFull,
            Refusal::Busy => ProblemCode::Busy,
            Refusal::Store(error) => return error.clone().into(),
            Refusal::Stopping => ProblemCode::Draining,
        };
        let problem = Self::new(code, refusal.to_string());
        match refusal {
            Refusal::Wire(code) => problem.with("wire_code", code.as_str()),
            Refusal::Arrow(arrow) => problem.with("from", arrow.from.as_str()),
            Refusal::Changed { expected, found, .. } => problem.with("expected", expected.0).with("found", found.0),
            Refusal::HasChildren { children, .. } => problem.with("children", children),
            Refusal::Settled { field, .. } => problem.with("field", field),
            Refusal::Settings(SettingsProblem::Field { field, .. }) => problem.with("field", field),
            Refusal::Settings(SettingsProblem::UnknownProbe { probe, known, .. }) => {
                problem.with("probe", probe).with("known", known)
            }
            Refusal::Settings(SettingsProblem::NotAllowed { probe, .. }) => problem.with("probe", probe),
            Refusal::Moved { epoch, seq } => problem.with("epoch", epoch).with("seq", seq.0),
            Refusal::Exists(_)
            | Refusal::UnknownService(_)
            | Refusal::UnknownToken(_)
            | Refusal::UnknownCredential(_)
            | Refusal::CredentialRevoked(_)
            | Refusal::TokenRevoked(_)
            | Refusal::UnknownApproval(_)
            | Refusal::UnknownWindow(_)
            | Refusal::WindowEnded(_)
            | Refusal::Parent(_)
            | Refusal::Package(_)
            | Refusal::Settings(SettingsProblem::NoSidecar(..))
            | Refusal::Invalid(_)
            | Refusal::NameReused
            | Refusal::Deleted(_)
            | Refusal::Spiffe(_)
            | Refusal::Full(_)
            | Refusal::Busy
            | Refusal::Store(_)
            | Refusal::Stopping => problem,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        // Paths and addresses of stores are for the log, not for every viewer.
        let detail = match &error {
            StoreError::Unavailable { .. } => "the registry store does not answer; nothing was changed",
            StoreError::Corrupt { .. } | StoreError::Newer { .. } | StoreError::Misconfigured { .. } => {
                "the registry store cannot be read; the collector's log says why"
            }
        };
        tracing::warn!(%error, "the registry store failed a request");
        let retry = if error.is_transient() { RETRY_SECS } else { 60 };
        Self::new(ProblemCode::StoreUnavailable, detail).retry_after(retry)
    }
}

fn package_code(problem: &PackageProblem) -> ProblemCode {
    match problem {
        PackageProblem::Unknown => ProblemCode::UnknownPackage,
        PackageProblem::Arrow(_) | PackageProblem::Bound(_) => ProblemCode::PackageState,
        PackageProblem::Gone(..) => ProblemCode::PackageGone,
        PackageProblem::Another(..) => ProblemCode::PackageExists,
        PackageProblem::Full => ProblemCode::Refused,
    }
}

fn settings_code(problem: &SettingsProblem) -> ProblemCode {
    match problem {
        SettingsProblem::NoSidecar(..) => ProblemCode::NoSidecar,
        SettingsProblem::Field { .. } => ProblemCode::Invalid,
        SettingsProblem::UnknownProbe { .. } => ProblemCode::UnknownProbe,
        SettingsProblem::NotAllowed { .. } => ProblemCode::ProbeNotAllowed,
    }
}

fn parent_code(problem: &ParentProblem) -> ProblemCode {
    match problem {
        ParentProblem::Missing(..) => ProblemCode::ParentMissing,
        ParentProblem::Unwanted(_) => ProblemCode::ParentUnwanted,
        ParentProblem::Unknown(_) => ProblemCode::ParentUnknown,
        ParentProblem::WrongKind { .. } => ProblemCode::ParentKind,
        ParentProblem::Barred(_, Status::Deleted) => ProblemCode::ParentDeleted,
        ParentProblem::Barred(..) => ProblemCode::ParentRevoked,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use rollcall_common::{
        code::Code,
        id::{Kind, Seq, ServiceKey},
        lifecycle::{Act, Standing, decide},
        token::TokenId,
    };

    use super::*;
    use crate::store::rows::RowId;

    fn key() -> ServiceKey {
        "agent/edge-17".parse().unwrap()
    }

    #[test]
    fn words_are_unique_and_statuses_are_errors() {
        let words: HashSet<_> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ProblemCode::ALL.len());
        for code in ProblemCode::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
        }
    }

    #[test]
    fn every_refusal_has_its_status() {
        let arrow = decide(
            Standing { status: Status::Active, since: Duration::ZERO, ever_seen: true, bound: true, archived: false },
            Act::Unrevoke,
        );
        let store = StoreError::Unavailable { store: "sqlite /secret/path".into(), why: "disk full".into() };
        for (refusal, status, word) in [
            (Refusal::Exists(key()), 409, "exists"),
            (Refusal::UnknownService(key()), 404, "unknown_service"),
            (Refusal::UnknownToken(TokenId([0; 10])), 404, "unknown_token"),
            (Refusal::TokenRevoked(TokenId([0; 10])), 409, "token_revoked"),
            (Refusal::UnknownApproval(RowId::numbered(1)), 404, "unknown_approval"),
            (Refusal::UnknownWindow(RowId::numbered(1)), 404, "unknown_window"),
            (Refusal::WindowEnded(RowId::numbered(1)), 409, "window_ended"),
            (arrow.unwrap_err().into(), 409, "no_arrow"),
            (ParentProblem::Missing(Kind::Agent, Kind::Poller).into(), 422, "parent_missing"),
            (ParentProblem::Unwanted(Kind::Poller).into(), 422, "parent_unwanted"),
            (ParentProblem::Unknown(key()).into(), 422, "parent_unknown"),
            (ParentProblem::WrongKind { found: key(), wanted: Kind::Poller }.into(), 422, "parent_kind"),
            (ParentProblem::Barred(key(), Status::Revoked).into(), 422, "parent_revoked"),
            (ParentProblem::Barred(key(), Status::Deleted).into(), 422, "parent_deleted"),
            (Refusal::Changed { service: key(), expected: Seq(1), found: Seq(2) }, 412, "changed"),
            (Refusal::HasChildren { service: key(), children: 2 }, 409, "has_children"),
            (Refusal::Deleted(key()), 409, "deleted"),
            (Refusal::Settled { service: key(), field: "parent" }, 409, "settled"),
            (Refusal::Spiffe("why".into()), 422, "spiffe_identity"),
            (SettingsProblem::NoSidecar(key(), "why").into(), 409, "no_sidecar"),
            (SettingsProblem::Field { field: "ttl".into(), why: "why".into() }.into(), 422, "invalid"),
            (
                SettingsProblem::UnknownProbe { service: key(), probe: "p".into(), known: vec![] }.into(),
                422,
                "unknown_probe",
            ),
            (SettingsProblem::NotAllowed { service: key(), probe: "p".into() }.into(), 409, "probe_not_allowed"),
            (Refusal::Moved { epoch: 2, seq: Seq(41) }, 412, "changed"),
            (Refusal::Invalid("why".into()), 422, "invalid"),
            (Refusal::NameReused, 422, "idempotency_key_reused"),
            (Refusal::Wire(Code::KeyInUse), 409, "refused"),
            (Refusal::Full(0), 507, "registry_full"),
            (Refusal::Busy, 503, "busy"),
            (store.into(), 503, "store_unavailable"),
            (Refusal::Stopping, 503, "draining"),
        ] {
            let problem = Problem::from(refusal);
            assert_eq!((problem.code().status().as_u16(), problem.code().as_str()), (status, word));
            assert!(!problem.detail().contains("/secret"), "{}", problem.detail());
            let response = problem.respond("r-1");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{word}");
        }
    }

    #[tokio::test]
    async fn the_document_has_the_released_form() {
        let problem = Problem::new(ProblemCode::Ambiguous, "say which").with("candidates", vec!["agent/x", "poller/x"]);
        let response = problem.respond("r-7");
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:rollcall:problem:ambiguous",
                "title": "Several services have this id",
                "status": 409,
                "detail": "say which",
                "code": "ambiguous",
                "request_id": "r-7",
                "candidates": ["agent/x", "poller/x"],
            })
        );
    }
}
