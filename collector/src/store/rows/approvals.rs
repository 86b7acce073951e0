//! Enrollments that wait for an operator, and refusals that one can do something about.

use std::{fmt, str::FromStr};

use rollcall_common::{
    code::Code,
    id::{Kind, Seq, ServiceId, ServiceKey},
    identity::Pin,
    service::{CheckerKind, Pairs, UnknownWord},
    time::Timestamp,
    token::TokenId,
};

use super::RowId;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApprovalState {
    /// Nobody decided yet.
    Pending,
    /// The next poll of its key enrolls.
    Approved,
    /// Its key is refused for good.
    Rejected,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Approved, Self::Rejected];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for ApprovalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ApprovalState {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownWord { what: "approval state", text: text.into() })
    }
}

/// One key that asked with a token whose enrollments an operator decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRow {
    /// Which.
    pub id: RowId,
    /// The token it asked with.
    pub token: TokenId,
    /// SHA-256 of its key: the fingerprint that its host shows.
    pub key: Pin,
    /// Who it would be.
    pub service: ServiceKey,
    /// The parent it would have.
    pub parent: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// The labels it would have; the token's own are among them.
    pub labels: Pairs,
    /// What its host says of itself.
    pub metadata: Pairs,
    /// Where it asked from last.
    pub from: String,
    /// When it asked first.
    pub first_asked: Timestamp,
    /// When it asked last, by the minute.
    pub last_asked: Timestamp,
    /// Where it stands.
    pub state: ApprovalState,
    /// When that was decided.
    pub decided_at: Option<Timestamp>,
    /// By whom.
    pub decided_by: Option<String>,
    /// Why; may be empty.
    pub reason: String,
    /// The seq of the last change of this row.
    pub seq: Seq,
}

/// Where somebody was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// With a token.
    Enroll,
    /// With a bound key and an expired certificate.
    Rejoin,
    /// With a certificate.
    Hello,
}

impl Door {
    /// Every door.
    pub const ALL: [Self; 3] = [Self::Enroll, Self::Rejoin, Self::Hello];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enroll => "enroll",
            Self::Rejoin => "rejoin",
            Self::Hello => "hello",
        }
    }
}

impl FromStr for Door {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|door| door.as_str() == text);
        found.ok_or_else(|| UnknownWord { what: "door", text: text.into() })
    }
}

/// Why somebody was turned away: a code of the wire's table, or what its `DENIED` does not tell strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// There is no such token.
    UnknownToken,
    /// The token's secret was wrong.
    WrongSecret,
    /// The token may not be used from that address.
    Address,
    /// The request was not signed for that connection.
    Proof,
    /// As it was answered.
    Code(Code),
}

impl Why {
    /// The word used in the API, in rows and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownToken => "UNKNOWN_TOKEN",
            Self::WrongSecret => "WRONG_SECRET",
            Self::Address => "ADDRESS_NOT_ALLOWED",
            Self::Proof => "PROOF_INVALID",
            Self::Code(code) => code.as_str(),
        }
    }

    /// What whoever knocked was answered.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::UnknownToken | Self::WrongSecret | Self::Address | Self::Proof => Code::Denied,
            Self::Code(code) => code,
        }
    }
}

impl FromStr for Why {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let own = [Self::UnknownToken, Self::WrongSecret, Self::Address, Self::Proof];
        let codes = Code::ALL.iter().copied().map(Self::Code);
        let found = own.into_iter().chain(codes).find(|why| why.as_str() == text);
        found.ok_or_else(|| UnknownWord { what: "reason", text: text.into() })
    }
}

/// Refusals of one party for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnockRow {
    /// Which: made of what they have in common.
    pub id: TokenId,
    /// Whether whoever knocked had proven a token's secret, a bound key or a certificate.
    pub proven: bool,
    /// Where.
    pub door: Door,
    /// The true reason.
    pub why: Why,
    /// The token, where there is such a one.
    pub token: Option<TokenId>,
    /// The kind that was claimed.
    pub kind: Option<Kind>,
    /// The id that was claimed.
    pub service: Option<ServiceId>,
    /// The parent that was claimed.
    pub parent: Option<ServiceId>,
    /// The network they came from.
    pub network: String,
    /// The last address.
    pub from: String,
    /// The first time.
    pub first_at: Timestamp,
    /// The last time.
    pub last_at: Timestamp,
    /// How often.
    pub times: u64,
}
