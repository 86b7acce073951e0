//! Callers from identity providers: JSON Web Tokens of configured OpenID Connect issuers.
//!
//! The collector is a resource server: it verifies tokens and never asks anybody for a password. It owns the
//! verification and the issuers' keys; it decides nothing that the configuration does not say, and takes
//! nothing from a token before its signature holds, but the issuer that it claims, to find the keys.
//!
//! | module | owns |
//! |---|---|
//! | `jwt` | (pure) the text of a token: form, header, claims |
//! | `keys` | (pure) a key set, and whether a signature holds |
//! | `claims` | (pure) who a token speaks of, and what that gives: issuer, audience, times, roles, scope |
//! | `shelf` | (pure) how long keys are good, and when others are fetched |
//! | `fetch` | the way to an issuer: discovery and key set, bounded in every direction |
//! | `issuers` | one owned task for each issuer, and what waits for it |

mod claims;
mod fetch;
mod issuers;
mod jwt;
mod keys;
mod shelf;

use std::{collections::BTreeMap, path::PathBuf};

pub(super) use self::issuers::Verdict;
pub use self::{fetch::FetchError, issuers::Issuers};
use super::access::{Role, Roles};
use crate::scope::Scope;

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

/// One configured issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its short name: in the audit trail, in logs and in metrics.
    pub name: String,
    /// Its identifier, exactly as its tokens carry it; discovery lies below it.
    pub issuer: String,
    /// Whom its tokens must be meant for.
    pub audience: String,
    /// Where the roles are in the claims.
    pub roles_claim: ClaimPath,
    /// What each word there gives; every other word gives nothing.
    pub roles: BTreeMap<String, Role>,
    /// Which roles this issuer may give at most.
    pub roles_allowed: Roles,
    /// Where the words of the scope are in the claims; `None` = nobody is narrowed by a claim.
    pub scope_claim: Option<ClaimPath>,
    /// What each word there reaches; a caller without a known word reaches nothing.
    pub scopes: BTreeMap<String, Scope>,
    /// What every caller of this issuer reaches at most.
    pub scope: Scope,
    /// A file with the certificates that its TLS is checked against, instead of the host's.
    pub ca_file: Option<PathBuf>,
    /// Whether plain HTTP is allowed, and that to loopback addresses only: for development and tests.
    pub insecure_loopback: bool,
}

/// Where something is in nested claims: `roles`, `realm_access.roles`, or, where names hold dots, a JSON
/// pointer such as `/https:~1~1example.net~1roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let pointer = if text.starts_with('/') { text.to_owned() } else { format!("/{}", text.replace('.', "/")) };
        if text.is_empty() || text.len() > 256 || pointer.split('/').skip(1).any(str::is_empty) {
            return Err("must name a claim, as in roles or realm_access.roles");
        }
        Ok(Self(pointer))
    }

    /// What is there.
    fn look<'a>(&self, claims: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        claims.pointer(&self.0)
    }
}

/// Whether an issuer's address may be asked: HTTPS, or on request plain HTTP to this very host.
///
/// # Errors
/// [`FetchError::Address`] with the reason.
pub fn check_address(text: &str, insecure_loopback: bool) -> Result<(), FetchError> {
    fetch::allowed(text, insecure_loopback).map(drop)
}

/// The two halves of a token that reads as one.
#[cfg(any(test, feature = "test-util"))]
pub(super) struct JwtParts<'a> {
    /// What is signed.
    pub(super) signed: &'a str,
    /// With what.
    pub(super) signature: &'a str,
}

/// Reads a token as far as it goes without keys.
#[cfg(any(test, feature = "test-util"))]
pub(super) fn parts(text: &str) -> Option<JwtParts<'_>> {
    let token = jwt::read(text).ok()?;
    // Whatever it claims is judged without an answer that could panic.
    let issuer = Issuer {
        name: "x".into(),
        issuer: "https://idp.example".into(),
        audience: "rollcall".into(),
        roles_claim: ClaimPath("/realm_access/roles".into()),
        roles: BTreeMap::from([("ops".to_owned(), Role::Operator)]),
        roles_allowed: Role::ALL.into_iter().collect(),
        scope_claim: Some(ClaimPath("/sites".into())),
        scopes: BTreeMap::new(),
        scope: Scope::everything(),
        ca_file: None,
        insecure_loopback: false,
    };
    let judged = claims::judge(&token.claims, &issuer, rollcall_common::time::Timestamp(1_800_000_000_000));
    assert!(judged.is_err() || token.claims.get("sub").is_some(), "somebody without a name");
    Some(JwtParts { signed: token.signed, signature: token.signature })
}

#[cfg(test)]
mod tests;
