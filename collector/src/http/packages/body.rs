//! What is asked of a package, and what that means for its row, its token and its configuration.

use std::time::Duration;

use rollcall_common::{
    address::Address,
    health::Text,
    id::{Kind, ServiceId, ServiceKey},
    service::{CheckerKind, Pairs, Source},
    time::Timestamp,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::{
    error::{Problem, ProblemCode},
    openapi::words,
};
use crate::{
    config::duration,
    registry::services::{By, Register},
    store::rows::{Cidr, IdRule, PackageRow, PackageSettings, Said, TokenPolicy},
};

/// A package's life where its maker names none.
const DEFAULT_LIFE: Duration = Duration::from_secs(86_400);
/// Longest list of address ranges, and of addresses to dial.
const MAX_RANGES: usize = 32;
const MAX_DIALLED: usize = 8;

/// What a package is to bring in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageBody {
    #[schema(value_type = words::Kind)]
    kind: Kind,
    #[schema(value_type = words::Id)]
    id: ServiceId,
    /// Required for agents and checkers.
    #[schema(value_type = Option<words::Id>)]
    parent: Option<ServiceId>,
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<CheckerKind>,
    /// The component that the service carries; the package's own id where none is named.
    #[schema(value_type = Option<words::Id>)]
    component_id: Option<ServiceId>,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    metadata: Pairs,
    /// Takes over a service that is registered already, pending and never seen.
    #[serde(default)]
    pub(super) adopt: bool,
    /// How long it can be used, as in `24h`.
    #[schema(value_type = Option<words::Duration>)]
    expires_in: Option<String>,
    /// Where it may be used from; empty = anywhere.
    #[serde(default)]
    #[schema(value_type = Vec<words::Range>)]
    cidr_allow: Vec<Cidr>,
    /// What its token dials, instead of what the collector advertises.
    #[serde(default)]
    #[schema(value_type = Vec<words::Address>)]
    addresses: Vec<Address>,
    /// For a sidecar on the collector's own host.
    #[serde(default)]
    local: bool,
    #[serde(default)]
    #[schema(value_type = words::Text)]
    pub(super) note: Text,
    /// What its configuration says beside that.
    #[serde(default)]
    config: PackageConfigBody,
}

/// Settings of the sidecar. Its pace is not among them: the collector sets that.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PackageConfigBody {
    /// Where it dials, instead of what its token and the collector say.
    #[serde(default)]
    #[schema(value_type = Vec<words::Address>)]
    addresses: Vec<Address>,
    /// How often it tries again when it is revoked.
    #[schema(value_type = Option<words::Duration>)]
    revoked_retry: Option<String>,
    /// `text` or `json`.
    log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    log_level: Option<String>,
}

/// What a package is to hold from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReissuePackageBody {
    /// How long it can be used, as in `24h`.
    #[schema(value_type = Option<words::Duration>)]
    expires_in: Option<String>,
    /// What its token dials, instead of what the collector advertises.
    #[serde(default)]
    #[schema(value_type = Vec<words::Address>)]
    addresses: Vec<Address>,
    /// For a sidecar on the collector's own host.
    #[serde(default)]
    local: bool,
}

/// What a token tells its sidecar to dial, as asked.
pub(super) struct Dial {
    pub(super) addresses: Vec<Address>,
    pub(super) local: bool,
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::Invalid, detail)
}

fn end(text: Option<&str>, now: Timestamp) -> Result<Timestamp, Problem> {
    let life = text.map_or(Ok(DEFAULT_LIFE), duration::parse);
    life.map(|life| now.after(life)).map_err(|error| invalid(format!("expires_in: {error}")))
}

impl PackageBody {
    pub(super) fn registration(&self, by: By) -> Result<(Register, PackageSettings), Problem> {
        let register = Register {
            checker_kind: self.checker_kind.clone(),
            said: Said {
                component_id: self.component_id.clone().map(String::from),
                labels: self.labels.clone(),
                metadata: self.metadata.clone(),
                ..Said::default()
            },
            ..Register::new(
                ServiceKey::new(self.kind, self.id.clone()),
                self.parent.clone(),
                Source::EdgeOnboarding,
                by,
            )
        };
        let config = &self.config;
        let word = |name: &str, given: &Option<String>, allowed: &[&str]| match given {
            Some(word) if !allowed.contains(&word.as_str()) => {
                Err(invalid(format!("config.{name} is one of {}", allowed.join(", "))))
            }
            given => Ok(given.clone()),
        };
        if let Some(text) = &config.revoked_retry {
            let retry = duration::parse(text).map_err(|error| invalid(format!("config.revoked_retry: {error}")))?;
            if !(1..=86_400).contains(&retry.as_secs()) {
                return Err(invalid("config.revoked_retry lies between 1s and 1d"));
            }
        }
        if config.addresses.len() > MAX_DIALLED {
            return Err(invalid(format!("config.addresses holds at most {MAX_DIALLED} addresses")));
        }
        let settings = PackageSettings {
            checker_kind: self.checker_kind.clone(),
            labels: self.labels.clone(),
            metadata: self.metadata.clone(),
            addresses: config.addresses.clone(),
            revoked_retry: config.revoked_retry.clone(),
            log_format: word("log_format", &config.log_format, &["text", "json"])?,
            log_level: word("log_level", &config.log_level, &["error", "warn", "info", "debug", "trace"])?,
        };
        Ok((register, settings))
    }

    pub(super) fn policy(&self, now: Timestamp) -> Result<TokenPolicy, Problem> {
        if self.cidr_allow.len() > MAX_RANGES {
            return Err(invalid(format!("cidr_allow holds at most {MAX_RANGES} ranges")));
        }
        let expires_at = end(self.expires_in.as_deref(), now)?;
        let parts = (self.kind, self.id.clone(), self.parent.clone());
        Ok(TokenPolicy { cidr_allow: self.cidr_allow.clone(), ..policy(parts, &self.labels, now, expires_at) })
    }

    pub(super) fn dial(&self) -> Dial {
        Dial { addresses: self.addresses.clone(), local: self.local }
    }
}

impl ReissuePackageBody {
    /// The policy of the package's next token: from wherever the one before it could be used.
    pub(super) fn policy(
        &self,
        row: &PackageRow,
        before: Option<&TokenPolicy>,
        now: Timestamp,
    ) -> Result<TokenPolicy, Problem> {
        let expires_at = end(self.expires_in.as_deref(), now)?;
        let parts = (row.service.kind, row.service.id.clone(), row.parent.clone());
        let cidr_allow = before.map(|before| before.cidr_allow.clone()).unwrap_or_default();
        Ok(TokenPolicy { cidr_allow, ..policy(parts, &row.settings.labels, now, expires_at) })
    }

    pub(super) fn dial(&self) -> Dial {
        Dial { addresses: self.addresses.clone(), local: self.local }
    }
}

/// One host, one id, once.
fn policy(
    (kind, id, parent): (Kind, ServiceId, Option<ServiceId>),
    labels: &Pairs,
    now: Timestamp,
    expires_at: Timestamp,
) -> TokenPolicy {
    let fixed = TokenPolicy::single(kind, IdRule::Fixed(id), now, expires_at);
    TokenPolicy { parent, labels: labels.clone(), ..fixed }
}
