//! The credential in a request's head, and whether it is one of ours.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use rollcall_common::{
    time::Timestamp,
    token::{Credential, SecretHash},
};
use zeroize::Zeroizing;

use super::{Caller, Role, Via};
use crate::{
    http::error::{Problem, ProblemCode},
    registry::roster::Roster,
};

/// What a request showed.
#[derive(Debug)]
pub enum Shown {
    /// A credential of ours.
    Credential(Credential),
    /// Something that may be a token of an issuer's: credentials of ours never begin like one.
    Token(Zeroizing<String>),
}

/// The refusal of a request that shows nothing.
#[must_use]
pub fn missing() -> Problem {
    refused("send a credential as Authorization: Bearer …; the collector keeps one in its state directory")
}

/// Reads the credential of a request's head, if there is one.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`] where there is more than one, or one that is damaged.
pub fn bearer(headers: &HeaderMap) -> Result<Option<Shown>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(refused("more than one Authorization header was sent"));
    };
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    match text {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") && text.starts_with("ey") => {
            Ok(Some(Shown::Token(Zeroizing::new(text.to_owned()))))
        }
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => {
            let damaged = |_| refused("the credential is damaged, or of another kind: copy it again in full");
            text.parse().map(|credential| Some(Shown::Credential(credential))).map_err(damaged)
        }
        Some(_) | None => Err(refused("only Authorization: Bearer is accepted")),
    }
}

/// Checks a credential against what is registered. Unknown ids take the same way as known ones.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`], the same for unknown, wrong, expired and revoked ones.
pub fn check(roster: &Roster, credential: &Credential, now: Timestamp) -> Result<Caller, Problem> {
    let row = roster.credential(credential.id);
    let wanted = row.map_or(SecretHash([0; 32]), |row| row.hash);
    let proven = credential.hash() == wanted;
    let caller = row.filter(|_| proven).and_then(|row| {
        let role = Role::of_word(&row.role).filter(|_| row.is_live(now))?;
        Some(Caller {
            actor: format!("credential:{}", row.id),
            roles: role.into(),
            scope: row.scope.clone(),
            via: Via::Credential(row.id),
            policy: row.policy.clone().map(Arc::from),
            ends: row.expires_at,
        })
    });
    caller.ok_or_else(|| refused("the credential is unknown, expired or revoked"))
}

/// The refusal of what was shown.
pub fn refused(detail: &str) -> Problem {
    Problem::new(ProblemCode::Unauthenticated, detail)
}
