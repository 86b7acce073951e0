//! What handlers are handed: each extractor's failure is a problem document.

use std::{collections::HashSet, str::FromStr, sync::Arc, time::Duration};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, Uri, header, request::Parts},
};
use rollcall_common::id::ServiceId;
use serde::de::DeserializeOwned;

pub(super) use super::call::Call;
use super::{
    State,
    error::{Problem, ProblemCode},
    routes::{Form, Operation, Param},
};

/// Largest body where an operation names no other, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The name of a request: in its answer, in the log and in the audit trail.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// The query's pairs, decoded, in order. The guard has read them: each name is one that the operation declares,
/// and none that takes one value comes twice.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(pub(super) Vec<(String, String)>);

impl FromRequestParts<Arc<State>> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Problem> {
        let read = parts.extensions.remove::<Self>();
        read.ok_or_else(|| Problem::new(ProblemCode::Internal, "the route has no guard"))
    }
}

impl Query {
    /// Reads what comes behind the question mark.
    ///
    /// # Errors
    /// [`ProblemCode::InvalidQuery`] for what the operation does not declare.
    pub(super) fn read(text: &str, operation: &Operation) -> Result<Self, Problem> {
        let invalid = |detail: String| Problem::new(ProblemCode::InvalidQuery, detail);
        let pairs = if text.is_empty() {
            Vec::new()
        } else {
            let uri = Uri::builder().path_and_query(format!("/?{text}")).build();
            let pairs = uri.map_err(|error| invalid(error.to_string())).and_then(|uri| {
                axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri)
                    .map_err(|rejection| invalid(rejection.body_text()))
            });
            pairs?.0
        };
        let mut once = HashSet::new();
        for (name, _) in &pairs {
            let Some(param) = operation.query_param(name) else {
                return Err(unknown_parameter(name, &operation.query));
            };
            if param.form != Form::Each && !once.insert(param.name) {
                return Err(invalid(twice(param)).with("parameter", param.name));
            }
        }
        let missing = |param: &&Param| param.required && pairs.iter().all(|(name, _)| name != param.name);
        if let Some(param) = operation.query.iter().find(missing) {
            return Err(invalid(format!("{} is required", param.name)).with("parameter", param.name));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter that comes once.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// The complaint about a parameter that comes more than once. Of a list it could mean either or both: what is
/// said once is what was meant.
pub(super) fn twice(param: &Param) -> String {
    let takes = match param.form {
        Form::List => "its values with commas between them",
        Form::One | Form::Each => "one value",
    };
    format!("{} comes more than once and takes {takes}", param.name)
}

/// The complaint about a parameter that a route does not know.
pub(super) fn unknown_parameter(name: &str, allowed: &[Param]) -> Problem {
    let name: String = name.chars().take(80).collect();
    let allowed: Vec<&str> = allowed.iter().map(|param| param.name).collect();
    let known = if allowed.is_empty() { "takes none".to_owned() } else { format!("takes {}", allowed.join(", ")) };
    Problem::new(ProblemCode::InvalidQuery, format!("unknown parameter {name:?}: this route {known}"))
        .with("parameter", name)
        .with("allowed", allowed)
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

/// The words of a path that are no id by themselves.
pub(super) struct Words<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<State>> for Words<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(words)) => Ok(Self(words)),
            Err(rejection) => Err(Problem::new(ProblemCode::InvalidId, rejection.body_text())),
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
        let bytes = whole(request).await?;
        parse(&bytes).map(Self)
    }
}

/// The whole body, within the operation's bound and in time.
///
/// # Errors
/// [`ProblemCode::TooLarge`] and [`ProblemCode::SlowBody`].
pub(super) async fn whole(request: Request) -> Result<Bytes, Problem> {
    let most = request.extensions().get::<Arc<Operation>>().map_or(MAX_BODY, |operation| operation.body_limit);
    let too_large = || Problem::new(ProblemCode::TooLarge, format!("a body has at most {most} bytes here"));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, to_bytes(request.into_body(), most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
            Err(Problem::new(ProblemCode::SlowBody, detail))
        }
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
    fn only_what_takes_several_values_comes_twice() {
        use crate::http::{access::Permission, openapi::words};
        const QUERY: &[Param] = &[
            Param::of::<words::Id>("parent", "One"),
            Param::list::<words::Status>("status", "Several, with commas"),
            Param::each::<words::LabelTest>("label", "As often as wanted"),
        ];
        let operation = Operation::get("/x", Permission::Read, "x").query(QUERY);
        let read = |text: &str| Query::read(text, &operation).map_err(|problem| problem.detail().to_owned());
        assert_eq!(read("status=active,inactive&label=a&label=b&parent=p").unwrap().0.len(), 4);
        assert!(read("parent=p&parent=q").unwrap_err().contains("takes one value"));
        // The two could be meant to narrow or to widen: what was declared has one place for both.
        assert!(read("status=inactive&status=active").unwrap_err().contains("commas between them"));
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
