//! Who may do what: roles, permissions, credentials, and the brake on guessing.
//!
//! It owns the matrix and the check of a bearer credential. It does not know the routes: each declares a
//! [`Permission`] when it is registered (`http/routes.rs`), and nothing is served without one. A credential
//! comes in the `Authorization` header and nowhere else: never in a query, never in a cookie.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use rollcall_common::{
    time::{BootTime, Timestamp},
    token::{Credential, SecretHash, TokenId},
};

use super::error::{Problem, ProblemCode};
use crate::registry::{roster::Roster, services::By};

/// What a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads everything.
    Viewer,
    /// Reads, registers, mints and revokes tokens, takes services out of and back into use.
    Operator,
    /// Everything.
    Admin,
    /// Reads `/metrics` and nothing else.
    Metrics,
    /// Mints tokens and nothing else.
    Enroller,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Admin, Self::Metrics, Self::Enroller];

    /// The role's word in a credential's row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Enroller => "enroller",
        }
    }

    /// The role that a credential's row names; an unknown word gives none.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        if word == super::bootstrap::WORD {
            return Some(Self::Admin);
        }
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// The matrix.
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        use Permission as P;
        match (self, permission) {
            (_, P::Open) | (Self::Admin, _) => true,
            (Self::Operator, P::Read | P::Scrape | P::Mint | P::Operate) => true,
            (Self::Viewer, P::Read | P::Scrape) => true,
            (Self::Metrics, P::Scrape) | (Self::Enroller, P::Mint) => true,
            (Self::Operator, P::Administer)
            | (Self::Viewer, P::Mint | P::Operate | P::Administer)
            | (Self::Metrics, P::Read | P::Mint | P::Operate | P::Administer)
            | (Self::Enroller, P::Read | P::Scrape | P::Operate | P::Administer) => false,
        }
    }
}

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing: only for what tells a machine that the process lives.
    Open,
    /// To read the metrics.
    Scrape,
    /// To read what is registered and what happened.
    Read,
    /// To make onboarding tokens.
    Mint,
    /// To register services, revoke tokens, take services out of and back into use.
    Operate,
    /// To revoke, delete and remove services.
    Administer,
}

impl Permission {
    /// The word in the API's contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Scrape => "scrape",
            Self::Read => "read",
            Self::Mint => "mint",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}

/// Whoever passed the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The credential.
    pub credential: TokenId,
    /// Its role.
    pub role: Role,
}

impl Caller {
    /// Refuses what the role does not allow.
    ///
    /// # Errors
    /// [`ProblemCode::Forbidden`], naming the role.
    pub fn demand(&self, permission: Permission) -> Result<(), Problem> {
        if self.role.may(permission) {
            return Ok(());
        }
        let detail = format!("a credential with the role {} does not allow this", self.role.as_str());
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// The caller as the audit trail names it.
    #[must_use]
    pub fn by(&self, request_id: &str) -> By {
        By { actor: format!("credential:{}", self.credential), request_id: Some(request_id.into()) }
    }
}

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
        Some(Caller { credential: row.id, role })
    });
    caller.ok_or_else(|| refused("the credential is unknown, expired or revoked"))
}

fn refused(detail: &str) -> Problem {
    Problem::new(ProblemCode::Unauthenticated, detail)
}

/// Failures at once that one address may make before it is told to wait.
const BURST: u32 = 20;
/// Time that gives one failure back.
const REFILL: Duration = Duration::from_secs(1);
/// Addresses that are remembered; beyond them all others share one allowance.
const MAX_ADDRESSES: usize = 4096;

/// Counts failed attempts by address. A good credential always passes: whoever floods one address with bad
/// ones must not lock its other users out.
#[derive(Debug, Default)]
pub struct Failures {
    /// For each address, when its allowance is whole again.
    whole_at: HashMap<IpAddr, BootTime>,
    /// When the table may be swept again, so that a flood of addresses does not sweep it each time.
    sweep_at: BootTime,
}

impl Failures {
    /// Notes a failure; answers how many seconds to wait where there were too many.
    pub fn note(&mut self, from: IpAddr, now: BootTime) -> Option<u32> {
        let mut from = network(from);
        if self.whole_at.len() >= MAX_ADDRESSES && !self.whole_at.contains_key(&from) {
            if now >= self.sweep_at {
                self.whole_at.retain(|_, whole| *whole > now);
                self.sweep_at = now.after(REFILL);
            }
            if self.whole_at.len() >= MAX_ADDRESSES {
                from = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let whole = self.whole_at.entry(from).or_insert(now);
        let debt = whole.since(now);
        if debt > REFILL * (BURST - 1) {
            let over = debt.saturating_sub(REFILL * (BURST - 1));
            return Some(u32::try_from(over.as_secs()).unwrap_or(u32::MAX).saturating_add(1));
        }
        *whole = (*whole).max(now).after(REFILL);
        None
    }
}

/// One host owns a whole /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

/// Whether a `Host` header may be served by a loopback listener. Addresses and `localhost` cannot be forged
/// by a web page whose name an attacker points here (DNS rebinding); any other name must be configured.
#[must_use]
pub fn host_allowed(host: &str, names: &[String]) -> bool {
    let name = if let Some(bracketed) = host.strip_prefix('[') {
        let Some((inside, port)) = bracketed.split_once(']') else { return false };
        return inside.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port));
    } else {
        match host.split_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            Some(_) => return false,
            None => host,
        }
    };
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok() || names.contains(&name)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests;
