//! Rows of onboarding packages.

use std::{fmt, str::FromStr};

use rollcall_common::{
    address::Address,
    id::{NoRandomness, Seq, ServiceId, ServiceKey},
    service::{CheckerKind, Pairs},
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};

/// Which package; public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageId(pub TokenId);

/// A text that is no [`PackageId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no package has such an id: it is 16 characters of a-z and 2-7")]
pub struct PackageIdError;

impl PackageId {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        TokenId::random().map(Self)
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for PackageId {
    type Err = PackageIdError;
    fn from_str(text: &str) -> Result<Self, PackageIdError> {
        text.parse().map(Self).map_err(|_| PackageIdError)
    }
}

/// Where a package stands, as recorded; one whose time is over counts as expired before that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageStatus {
    /// Made, not fetched yet.
    Issued,
    /// Fetched.
    Delivered,
    /// Its service beat for the first time.
    Activated,
    /// Taken back.
    Revoked,
    /// Not used in time.
    Expired,
    /// Put away; the row goes later.
    Deleted,
}

impl PackageStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Issued, Self::Delivered, Self::Activated, Self::Revoked, Self::Expired, Self::Deleted];

    /// The word used everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Delivered => "delivered",
            Self::Activated => "activated",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for PackageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`PackageStatus`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use issued, delivered, activated, revoked, expired or deleted")]
pub struct PackageStatusError;

impl FromStr for PackageStatus {
    type Err = PackageStatusError;
    fn from_str(text: &str) -> Result<Self, PackageStatusError> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(PackageStatusError)
    }
}

/// What a package's configuration says beside who the service is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageSettings {
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Where the sidecar dials, instead of what its token and the collector say.
    pub addresses: Vec<Address>,
    /// How often a revoked sidecar tries again, as in `1h`.
    pub revoked_retry: Option<String>,
    /// `text` or `json`.
    pub log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
}

/// An onboarding package.
#[derive(Clone, PartialEq, Eq)]
pub struct PackageRow {
    /// Which.
    pub id: PackageId,
    /// Whom it brings in.
    pub service: ServiceKey,
    /// The parent's id.
    pub parent: Option<ServiceId>,
    /// The component that its service carries.
    pub component_id: String,
    /// The token inside.
    pub token: TokenId,
    /// What proves the download secret.
    pub secret_hash: SecretHash,
    /// The token's text, encrypted under the download secret; nothing once it is not to be fetched any more.
    pub sealed: Option<Vec<u8>>,
    /// The rest of the configuration inside.
    pub settings: PackageSettings,
    /// Where it stands.
    pub status: PackageStatus,
    /// Since when.
    pub status_since: Timestamp,
    /// How often it was issued: 1, and one more for each time that it was issued again.
    pub issues: u32,
    /// A note of the maker's.
    pub note: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// When it was first fetched.
    pub delivered_at: Option<Timestamp>,
    /// By whom.
    pub delivered_to: Option<String>,
    /// The first heartbeat of its service.
    pub activated_at: Option<Timestamp>,
    /// The seq of the last change of this row.
    pub seq: Seq,
}

impl fmt::Debug for PackageRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackageRow")
            .field("id", &self.id)
            .field("service", &self.service)
            .field("token", &self.token)
            .field("sealed", &self.sealed.as_ref().map(|_| "REDACTED"))
            .field("status", &self.status)
            .field("issues", &self.issues)
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_again() {
        for status in PackageStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("gone".parse::<PackageStatus>().is_err());
        let id = PackageId(TokenId([3; 10]));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("../x".parse::<PackageId>(), Err(PackageIdError));
    }
}
