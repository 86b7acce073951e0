//! Who a proven token speaks of, and what that gives here.
//!
//! Types are strict: a claim of the wrong type is a claim that is not there, and never a guess. Time is an
//! argument.

use std::{fmt::Write as _, time::Duration};

use rollcall_common::time::Timestamp;
use serde_json::Value;

use super::{Issuer, jwt::Flaw};
use crate::{
    http::access::{Caller, Role, Roles, Via},
    scope::Scope,
};

/// How far the clocks of issuer and collector may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// Longest subject, in bytes: OpenID Connect allows no longer one.
const MAX_SUBJECT: usize = 255;
/// Most words that are looked at in a claim of roles or scopes.
const MAX_WORDS: usize = 1024;

/// What a token gives.
pub(super) fn judge(claims: &Value, issuer: &Issuer, now: Timestamp) -> Result<Caller, Flaw> {
    if claims.get("iss").and_then(Value::as_str) != Some(&issuer.issuer) {
        return Err(Flaw::Issuer);
    }
    if !is_for(claims.get("aud"), &issuer.audience) {
        return Err(Flaw::Audience);
    }
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(Flaw::Subject)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT {
        return Err(Flaw::Subject);
    }
    let ends = moment(claims.get("exp").ok_or(Flaw::Expired)?).ok_or(Flaw::Expired)?.after(LEEWAY);
    if now >= ends {
        return Err(Flaw::Expired);
    }
    for begin in ["nbf", "iat"] {
        let Some(value) = claims.get(begin) else { continue };
        if moment(value).ok_or(Flaw::NotYet)? > now.after(LEEWAY) {
            return Err(Flaw::NotYet);
        }
    }
    let scope = reach(claims, issuer);
    let roles = if scope.is_some() { roles(claims, issuer) } else { Roles::default() };
    Ok(Caller {
        actor: format!("oidc:{}:{}", issuer.name, plain(subject)),
        roles,
        scope: scope.unwrap_or_default(),
        via: Via::Issuer,
        policy: None,
        ends: Some(ends),
    })
}

/// Whether an audience names us: a text, or a list of texts and of nothing else.
fn is_for(audience: Option<&Value>, us: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == us,
        Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.iter().any(|one| one == us),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

/// Seconds since 1970, whole or not.
fn moment(value: &Value) -> Option<Timestamp> {
    let secs = value.as_f64().filter(|secs| secs.is_finite() && (0.0..1e11).contains(secs))?;
    // Within 1e14 milliseconds, which a float holds exactly.
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked above")]
    let millis = (secs * 1000.0) as i64;
    Some(Timestamp(millis))
}

/// The texts of a list; none where it is no list of texts.
fn words(value: Option<&Value>) -> Vec<&str> {
    let Some(Value::Array(all)) = value else { return Vec::new() };
    if all.len() > MAX_WORDS {
        return Vec::new();
    }
    all.iter().map(Value::as_str).collect::<Option<_>>().unwrap_or_default()
}

fn roles(claims: &Value, issuer: &Issuer) -> Roles {
    let words = words(issuer.roles_claim.look(claims));
    let known: Roles = words.into_iter().filter_map(|word| issuer.roles.get(word).copied()).collect();
    // An enroller's tokens are bound by a policy, which no claim brings.
    let without: Roles = Role::ALL.into_iter().filter(|role| *role != Role::Enroller).collect();
    known.and(issuer.roles_allowed).and(without)
}

/// What the caller reaches; `None` = nothing at all.
fn reach(claims: &Value, issuer: &Issuer) -> Option<Scope> {
    let Some(path) = &issuer.scope_claim else { return Some(issuer.scope.clone()) };
    let words = match path.look(claims) {
        Some(Value::String(one)) => vec![one.as_str()],
        other => words(other),
    };
    let mut reached: Option<Scope> = None;
    for scope in words.into_iter().filter_map(|word| issuer.scopes.get(word)) {
        reached = Some(match reached {
            None => scope.clone(),
            // A union that no scope can say is not guessed at.
            Some(held) => held.joined(scope)?,
        });
    }
    reached.map(|scope| scope.narrowed(&issuer.scope))
}

/// A subject as the audit trail and the log may hold it: what is not plain is written as %XX, so that two
/// subjects never look the same.
fn plain(subject: &str) -> String {
    let mut out = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b'|' | b':' | b'+' | b'/' | b'=')
        {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
