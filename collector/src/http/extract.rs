//! What handlers are handed: each extractor's failure is a problem document.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use rollcall_common::id::ServiceId;
use serde::de::DeserializeOwned;

use super::{
    State,
    access::{Caller, Permission},
    error::{Problem, ProblemCode},
};
use crate::registry::services::By;

/// Largest body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The name of a request: in its answer, in the log and in the audit trail.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// An authenticated request: what every handler behind a permission begins with.
pub(super) struct Call {
    pub(super) state: Arc<State>,
    pub(super) caller: Caller,
    request_id: RequestId,
}

impl Call {
    /// The caller, for the audit trail.
    pub(super) fn by(&self) -> By {
        self.caller.by(&self.request_id.0)
    }

    /// Refuses what the role does not allow, where the body decides what is asked.
    pub(super) fn demand(&self, permission: Permission) -> Result<(), Problem> {
        self.caller.demand(permission)
    }
}

impl FromRequestParts<Arc<State>> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let request_id = parts.extensions.get::<RequestId>().cloned();
        match (caller, request_id) {
            (Some(caller), Some(request_id)) => Ok(Self { state: Arc::clone(state), caller, request_id }),
            // An open route has no caller: its handler must not ask for one.
            (_, _) => Err(Problem::new(ProblemCode::Internal, "the route has no guard")),
        }
    }
}

/// The query's pairs, decoded, in order.
pub(super) struct Query(pub(super) Vec<(String, String)>);

impl FromRequestParts<Arc<State>> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        match axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Problem::new(ProblemCode::InvalidQuery, rejection.body_text())),
        }
    }
}

impl Query {
    /// Refuses every parameter, for routes that take none.
    pub(super) fn none(&self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(unknown_parameter(name, &[])),
        }
    }
}

/// The complaint about a parameter that a route does not know.
pub(super) fn unknown_parameter(name: &str, allowed: &[&'static str]) -> Problem {
    let name: String = name.chars().take(80).collect();
    let known = if allowed.is_empty() { "takes none".to_owned() } else { format!("takes {}", allowed.join(", ")) };
    Problem::new(ProblemCode::InvalidQuery, format!("unknown parameter {name:?}: this route {known}"))
        .with("parameter", name)
        .with("allowed", allowed.to_vec())
}

/// The `{id}` of a path.
pub(super) struct Id<T = ServiceId>(pub(super) T);

impl<T> FromRequestParts<Arc<State>> for Id<T>
where
    T: FromStr + Send,
    T::Err: std::fmt::Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let bad = |why: String| Problem::new(ProblemCode::InvalidId, why);
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(text)) => text.parse().map(Self).map_err(|error: T::Err| bad(error.to_string())),
            Err(rejection) => Err(bad(rejection.body_text())),
        }
    }
}

/// A JSON body of one type.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<State>) -> Result<Self, Problem> {
        // A page of another origin can post forms without asking, but not JSON.
        if !is_json(request.headers()) {
            return Err(Problem::new(ProblemCode::MediaType, "send the body with Content-Type: application/json"));
        }
        let too_large = || Problem::new(ProblemCode::TooLarge, format!("a body has at most {MAX_BODY} bytes"));
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > MAX_BODY as u64) {
            return Err(too_large());
        }
        let body = tokio::time::timeout(BODY_WITHIN, to_bytes(request.into_body(), MAX_BODY)).await;
        let bytes = match body {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => return Err(too_large()),
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
                return Err(Problem::new(ProblemCode::SlowBody, detail));
            }
        };
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let code = match error.classify() {
            serde_json::error::Category::Data => ProblemCode::Invalid,
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => ProblemCode::InvalidBody,
        };
        Problem::new(code, error.to_string())
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[expect(dead_code, reason = "only its parsing matters")]
        id: ServiceId,
    }

    #[test]
    fn bodies_fail_with_words_that_help() {
        let refused = |text: &str| {
            let problem = parse::<Wanted>(text.as_bytes()).unwrap_err();
            (problem.code(), problem.detail().to_owned())
        };
        let (code, detail) = refused(r#"{"id":"a","colour":1}"#);
        assert_eq!(code, ProblemCode::Invalid);
        assert!(detail.contains("unknown field `colour`, expected `id`"), "{detail}");
        let (code, detail) = refused(r#"{"id":"A B"}"#);
        assert_eq!(code, ProblemCode::Invalid);
        assert!(detail.contains("use 1 to 64 of a-z"), "{detail}");
        assert_eq!(refused("{").0, ProblemCode::InvalidBody);
        assert_eq!(refused("").0, ProblemCode::InvalidBody);
        // H17: a deep body ends in an error, not in a full stack.
        assert_eq!(refused(&"[".repeat(10_000)).0, ProblemCode::Invalid);
        assert_eq!(refused(&format!("{{\"id\":{}", "[".repeat(10_000))).0, ProblemCode::Invalid);
    }

    #[test]
    fn only_json_is_taken_for_json() {
        let of = |text: &'static str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(text))]))
        };
        assert!(of("application/json") && of("Application/JSON; charset=utf-8"));
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert!(!of(bad), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
