//! `Idempotency-Key`: a request that names itself is done once, and a repetition is given the answer that it had.
//!
//! It owns the header, the fingerprint of a request, who is under way, and how a kept answer leaves. What is kept,
//! and that it is kept in the change itself, is the registry's ([`crate::registry::answers`]).
//!
//! * A name is 1 to 255 visible ASCII characters, bare or as a quoted string (RFC 9651). It is the caller's own: two
//!   callers may use the same one.
//! * The same name with another request (method, path, query, body, or a caller whose scope changed) is 422.
//! * The same name while the first request is under way is 409 with `Retry-After`.
//! * After success the answer of then is given again, with `Idempotency-Replayed: true`. A refusal is not kept.
//! * What is told once only (tokens, keys, download secrets, login codes) is kept nowhere, so that a repetition cannot
//!   tell it: it is 409 `secret_already_shown`, with what was made under `created`. It could be derived from a secret of
//!   the collector's, and then whoever reads its disk would have every token; sealed under the name, which need not
//!   be hard to guess, it would be no better.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::id::Seq;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    State,
    access::Caller,
    error::{Problem, ProblemCode},
    extract::whole,
    openapi::words,
    position,
    routes::{Operation, Param},
};
use crate::{
    registry::{
        Refusal,
        answers::{Named, Told},
    },
    scope::Scope,
    store::rows::{AnswerKey, AnswerRow, Fingerprint},
};

/// Tells that an answer was given before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest name of a request.
const MAX_KEY: usize = 255;

/// The header of what is done once.
pub(super) const KEY_PARAM: Param = Param::of::<words::IdempotencyKey>(
    "Idempotency-Key",
    "Names this request: repeated within 24 h it is not done again, and answered as before with \
     `Idempotency-Replayed: true`",
);

/// Requests that named themselves and are under way: never more than there are requests.
#[derive(Debug, Default)]
pub(super) struct Underway(Mutex<HashSet<AnswerKey>>);

/// A place among them, given up when it goes.
pub(super) struct Place {
    state: Arc<State>,
    of: AnswerKey,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.underway.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
    }
}

/// What a request with or without a name comes to.
pub(super) enum Begun {
    /// It is to be done.
    New(Request, Option<Place>),
    /// It was done before.
    Known(Response),
}

/// What the handler finds of the name.
#[derive(Debug, Clone)]
pub(super) struct Name(pub(super) Named);

/// Looks at the name of a request, if it has one and its operation heeds it.
///
/// # Errors
/// [`ProblemCode::InvalidHead`], [`ProblemCode::KeyReused`], [`ProblemCode::KeyUnderway`],
/// [`ProblemCode::SecretAlreadyShown`], and what a body can be refused with.
pub(super) async fn begin(
    state: &Arc<State>,
    operation: &Operation,
    caller: Option<&Caller>,
    request: Request,
) -> Result<Begun, Problem> {
    let Some(caller) = caller.filter(|_| operation.once) else { return Ok(Begun::New(request, None)) };
    let Some(key) = read(request.headers())? else { return Ok(Begun::New(request, None)) };
    let of = AnswerKey { caller: caller.actor.clone(), key };
    if !state.underway.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone()) {
        return Err(underway());
    }
    let place = Place { state: Arc::clone(state), of: of.clone() };
    let (parts, body) = request.into_parts();
    let bytes = whole(Request::from_parts(parts.clone(), body)).await?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let fingerprint = fingerprint(parts.method.as_str(), target, &caller.scope, &bytes);
    let now = state.registry.now().wall;
    if let Some(row) = state.registry.read(|roster| roster.answers().get(&of, now).cloned()) {
        if row.fingerprint != fingerprint {
            return Err(Refusal::NameReused.into());
        }
        state.counts.repeated.inc();
        return Ok(Begun::Known(again(state, &row)));
    }
    let mut request = Request::from_parts(parts, Body::from(bytes));
    request.extensions_mut().insert(Name(Named { of, fingerprint }));
    Ok(Begun::New(request, Some(place)))
}

/// The refusal of a name whose request is under way.
pub(super) fn underway() -> Problem {
    let detail = "the request of this key is under way: its answer can be had in a moment";
    Problem::new(ProblemCode::KeyUnderway, detail).retry_after(1)
}

/// Reads the name.
fn read(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let bad = || {
        let detail = format!("send one Idempotency-Key of 1 to {MAX_KEY} visible ASCII characters, bare or in quotes");
        Problem::new(ProblemCode::InvalidHead, detail)
    };
    let mut values = headers.get_all(&KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad());
    }
    let text = value.to_str().map_err(|_| bad())?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest).ok_or_else(bad)?,
        None => text.to_owned(),
    };
    let visible = key.bytes().all(|b| b.is_ascii_graphic());
    if (1..=MAX_KEY).contains(&key.len()) && visible { Ok(Some(key)) } else { Err(bad()) }
}

/// What stands between quotes, the first of which is gone already.
fn unquoted(rest: &str) -> Option<String> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => key.push(c),
        }
    }
}

/// What tells one request from another. Each part stands behind its length, so that none reads as two.
fn fingerprint(method: &str, target: &str, scope: &Scope, body: &[u8]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), target.as_bytes(), scope.to_string().as_bytes(), body] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    Fingerprint(hash.finalize().into())
}

/// What is kept of an answer, the seq apart, which the commit gives.
pub(super) fn told<T: Serialize>(status: StatusCode, location: Option<String>, view: Option<&T>) -> Told {
    let body = view.and_then(|view| serde_json::to_string(view).ok()).unwrap_or_else(|| "null".into());
    Told { status: status.as_u16(), location, body, secret: false }
}

/// The same for an answer that tells a secret: the view is without it.
pub(super) fn told_without_secret<T: Serialize>(
    status: StatusCode,
    location: Option<String>,
    view: Option<&T>,
) -> Told {
    Told { secret: true, ..told(status, location, view) }
}

/// Gives an answer again.
fn again(state: &State, row: &AnswerRow) -> Response {
    let mut body: Value = serde_json::from_str(&row.body).unwrap_or_default();
    let has_seq = body.get("seq").is_some();
    if let Some(seq) = body.get_mut("seq") {
        *seq = row.seq.0.into();
    }
    let mut response = if row.secret {
        let detail = "an earlier request with this key made it, and its secret was told once and is kept nowhere: \
             take back what was made, or issue it again, with a new key";
        Problem::new(ProblemCode::SecretAlreadyShown, detail).with("created", body).into_response()
    } else {
        let status = StatusCode::from_u16(row.status).unwrap_or(StatusCode::OK);
        let mut response = (status, axum::Json(body)).into_response();
        if has_seq && row.seq != Seq::default() {
            let epoch = state.registry.read(|roster| roster.position().epoch);
            position::tag(&mut response, epoch, row.seq);
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(place) = row.location.as_deref().and_then(|place| HeaderValue::from_str(place).ok()) {
        headers.insert(header::LOCATION, place);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[&str]) -> Option<Option<String>> {
        let headers = all.iter().map(|value| (KEY, HeaderValue::from_str(value).unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        read(&map).ok()
    }

    #[test]
    fn names_are_read_strictly_bare_or_quoted() {
        let named = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(of(&[]), Some(None));
        assert_eq!(of(&["8e03978e-40d5"]), named("8e03978e-40d5"));
        assert_eq!(of(&["\"8e03978e-40d5\""]), named("8e03978e-40d5"));
        assert_eq!(of(&[r#""a\"b\\c""#]), named(r#"a"b\c"#));
        let longest = "k".repeat(MAX_KEY);
        assert_eq!(of(&[&longest]), named(&longest));
        let longer = "k".repeat(MAX_KEY + 1);
        for bad in ["", "\"\"", "\"a", "\"a\"b", "a b", "\"a b\"", r#""a\n""#, &longer] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&["a", "a"]), None);
    }

    #[test]
    fn a_fingerprint_tells_every_part() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        let one = fingerprint("POST", "/a", &scope(""), b"{}");
        assert_eq!(one, fingerprint("POST", "/a", &scope(""), b"{}"));
        for other in [
            fingerprint("PUT", "/a", &scope(""), b"{}"),
            fingerprint("POST", "/a?b", &scope(""), b"{}"),
            fingerprint("POST", "/a", &scope("site=3"), b"{}"),
            fingerprint("POST", "/a", &scope(""), b"{ }"),
            fingerprint("POST/", "a", &scope(""), b"{}"),
        ] {
            assert_ne!(one, other);
        }
    }
}
