//! Onboarding tokens: what they allow, and who used them.

use rollcall_common::{
    id::{Kind, Seq, ServiceId, ServiceKey},
    identity::Pin,
    service::{CheckerKind, Pairs},
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};

use crate::{
    cidr::Cidr,
    naming::{IdPattern, ParentRule},
};

/// What id a token may give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdRule {
    /// Exactly this id.
    Fixed(ServiceId),
    /// Any id with this prefix that the sidecar asks for.
    Prefix(String),
    /// The collector makes one up.
    Assigned,
    /// Any id that follows this pattern and that the sidecar asks for.
    Pattern(IdPattern),
}

/// Who decides on an enrollment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// The token alone.
    #[default]
    Auto,
    /// An operator, for each key that asks.
    Manual,
}

impl Approval {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Manual];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

impl std::str::FromStr for Approval {
    type Err = rollcall_common::service::UnknownWord;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|approval| approval.as_str() == text);
        found.ok_or_else(|| rollcall_common::service::UnknownWord { what: "approval", text: text.into() })
    }
}

/// What a token allows; fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPolicy {
    /// The kind it registers.
    pub kind: Kind,
    /// The parent it binds to; where neither this nor a rule names one, the sidecar's choice is checked.
    pub parent: Option<ServiceId>,
    /// How a label of the enrolling sidecar finds its parent.
    pub parent_rule: Option<ParentRule>,
    /// What id it gives.
    pub id_rule: IdRule,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// How many different keys may use it; at least 1.
    pub max_uses: u32,
    /// Not before.
    pub not_before: Timestamp,
    /// Not after.
    pub expires_at: Timestamp,
    /// Source addresses allowed; empty = any.
    pub cidr_allow: Vec<Cidr>,
    /// Labels that every service gets; they win over the sidecar's own.
    pub labels: Pairs,
    /// Rejoins allowed to each identity; `None` = without limit.
    pub rejoin_limit: Option<u32>,
    /// Who decides on each enrollment.
    pub approval: Approval,
    /// How long after its goodbye or loss a service is removed, in seconds; `None` = never by itself.
    pub ephemeral_after: Option<u32>,
    /// Whether the sidecars that it enrolls may register children that are not known yet.
    pub implicit_children: bool,
}

impl TokenPolicy {
    /// Rejoins allowed to an identity where nothing else is said.
    pub const REJOINS: u32 = 5;

    /// A policy for one service, with nothing special about it: callers change the fields that they mean.
    #[must_use]
    pub fn single(kind: Kind, id_rule: IdRule, not_before: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            kind,
            parent: None,
            parent_rule: None,
            id_rule,
            checker_kind: None,
            max_uses: 1,
            not_before,
            expires_at,
            cidr_allow: Vec::new(),
            labels: Pairs::default(),
            rejoin_limit: Some(Self::REJOINS),
            approval: Approval::Auto,
            ephemeral_after: None,
            implicit_children: false,
        }
    }
}

/// An onboarding token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Which.
    pub id: TokenId,
    /// What proves it.
    pub hash: SecretHash,
    /// What it allows.
    pub policy: TokenPolicy,
    /// Different keys that used it.
    pub uses: u32,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// A note of the maker's.
    pub note: String,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Its last use.
    pub last_used_at: Option<Timestamp>,
    /// From where.
    pub last_used_from: Option<String>,
    /// The seq of the last change of this row.
    pub seq: Seq,
}

impl TokenRow {
    /// When nothing can come of it any more: its end, or its revocation where that came first.
    #[must_use]
    pub fn ended_at(&self) -> Timestamp {
        self.revoked_at.map_or(self.policy.expires_at, |revoked| revoked.min(self.policy.expires_at))
    }
}

/// One key that used a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUse {
    /// The token.
    pub token: TokenId,
    /// The key.
    pub key: Pin,
    /// The service that it was given.
    pub service: ServiceKey,
}
