//! The credential in a request's head, and whether it is one of ours.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use rollcall_common::{
    time::Timestamp,
    token::{Credential, SecretHash},
};

use super::{Caller, Role};
use crate::{
    http::error::{Problem, ProblemCode},
    registry::roster::Roster,
};

/// Reads the credential of a request's head.
///
/// # Errors
/// [`ProblemCode::Unauthenticated`] where there is none, more than one, or one that is damaged.
pub fn bearer(headers: &HeaderMap) -> Result<Credential, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(refused("more than one Authorization header was sent"));
    };
    let Some(value) = value else {
        return Err(refused(
            "send a credential as Authorization: Bearer …; the collector keeps one in its state directory",
        ));
    };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    match text {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => {
            text.parse().map_err(|_| refused("the credential is damaged, or of another kind: copy it again in full"))
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
        let ended = row.revoked_at.is_some() || row.expires_at.is_some_and(|end| now >= end);
        let role = Role::of_word(&row.role).filter(|_| !ended)?;
        Some(Caller {
            actor: format!("credential:{}", row.id),
            roles: role.into(),
            scope: row.scope.clone(),
            credential: Some(row.id),
            policy: row.policy.clone().map(Arc::from),
            ends: row.expires_at,
        })
    });
    caller.ok_or_else(|| refused("the credential is unknown, expired or revoked"))
}

fn refused(detail: &str) -> Problem {
    Problem::new(ProblemCode::Unauthenticated, detail)
}
