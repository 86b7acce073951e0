//! The one numeric table that `Refused`, `Bye` and the QUIC close share.
//!
//! Numbers are a treaty: they never change meaning, new ones are appended. A peer may know numbers that
//! we do not, which is [`Code::Other`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a sidecar does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Dial again, jittered and backed off.
    Retry,
    /// Dial again after `revoked_retry` (1 h): an operator may change their mind.
    RetrySlowly,
    /// The certificate is past its time: rejoin with the bound key.
    Rejoin,
    /// The token will never work: end with exit code 78.
    GiveUp,
    /// Nothing is wrong: this connection was replaced by a newer one of our own.
    Stand,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $advice:ident;)*) => {
        /// Why a connection ended or a request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "u16", into = "u16")]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A number that this version does not know.
            Other(u16),
        }

        impl Code {
            /// Every known code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The upper-case word used in logs, the API and the documentation.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                    Self::Other(_) => "UNKNOWN_CODE",
                }
            }

            /// What a sidecar does about it.
            #[must_use]
            pub fn advice(self) -> Advice {
                match self {
                    $(Self::$name => Advice::$advice,)*
                    Self::Other(_) => Advice::Retry,
                }
            }
        }

        impl From<u16> for Code {
            fn from(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }
        }

        impl From<Code> for u16 {
            fn from(code: Code) -> Self {
                match code {
                    $(Code::$name => $number,)*
                    Code::Other(number) => number,
                }
            }
        }
    };
}

codes! {
    /// An ordinary end: the sidecar said goodbye.
    Goodbye = 0, "GOODBYE", Retry;
    /// The collector is stopping.
    Draining = 1, "DRAINING", Retry;
    /// A newer connection of the same identity took over.
    Superseded = 2, "SUPERSEDED", Stand;
    /// The service is revoked.
    Revoked = 3, "REVOKED", RetrySlowly;
    /// The certificate's time is over.
    CertExpired = 4, "CERT_EXPIRED", Rejoin;
    /// A frame that has no place here, or does not decode.
    Protocol = 5, "PROTOCOL", Retry;
    /// A frame over the size limit.
    FrameTooLarge = 6, "FRAME_TOO_LARGE", Retry;
    /// A body named another identity than the certificate.
    IdentityMismatch = 7, "IDENTITY_MISMATCH", RetrySlowly;
    /// Heartbeats need a client certificate.
    ClientCertRequired = 8, "CLIENT_CERT_REQUIRED", Retry;
    /// Nothing came within the time allowed.
    Deadline = 9, "DEADLINE", Retry;
    /// Far more beats than the pace allows.
    Throttled = 10, "THROTTLED", Retry;
    /// The admission lane is full; see `retry_after`.
    Busy = 11, "BUSY", Retry;
    /// The registry store cannot be written now.
    StoreUnavailable = 12, "STORE_UNAVAILABLE", Retry;
    /// No common protocol version.
    VersionUnsupported = 13, "VERSION_UNSUPPORTED", RetrySlowly;
    /// A fault of the collector's own.
    Internal = 14, "INTERNAL", Retry;
    /// The token, its secret or the caller's address does not pass; deliberately unspecific.
    Denied = 20, "DENIED", GiveUp;
    /// The token's time is over.
    TokenExpired = 21, "EXPIRED", GiveUp;
    /// The token has no uses left.
    TokenExhausted = 22, "EXHAUSTED", GiveUp;
    /// The token was revoked.
    TokenRevoked = 23, "TOKEN_REVOKED", GiveUp;
    /// The token's time has not come.
    TokenNotYetValid = 24, "NOT_YET_VALID", Retry;
    /// The token is for another kind.
    KindMismatch = 25, "KIND_MISMATCH", GiveUp;
    /// The parent is not registered, yet: hosts come up in any order.
    ParentUnknown = 26, "PARENT_UNKNOWN", Retry;
    /// The parent is of the wrong kind, or one is given where none belongs.
    ParentKind = 27, "PARENT_KIND", GiveUp;
    /// The parent is revoked or deleted.
    ParentBarred = 28, "PARENT_BARRED", GiveUp;
    /// The token binds another parent.
    ParentOther = 29, "PARENT_OTHER", GiveUp;
    /// An identity is bound to that id already.
    IdTaken = 30, "ID_TAKEN", GiveUp;
    /// The id does not follow the token's rule.
    IdRule = 31, "ID_RULE", GiveUp;
    /// The certificate request is malformed, of the wrong key type, or not proven.
    CsrInvalid = 32, "CSR_INVALID", GiveUp;
    /// The key belongs to another identity.
    KeyInUse = 33, "KEY_IN_USE", GiveUp;
    /// An operator must approve first; poll with the same key.
    PendingApproval = 34, "PENDING_APPROVAL", Retry;
    /// The clocks differ by more than the bootstrap allows.
    ClockSkew = 35, "CLOCK_SKEW", Retry;
    /// No such identity is bound.
    UnknownIdentity = 36, "UNKNOWN_IDENTITY", RetrySlowly;
    /// The certificate is not one of the identity's live ones.
    SerialRefused = 37, "SERIAL_REFUSED", RetrySlowly;
    /// The identity rejoined too often.
    RejoinLimit = 38, "REJOIN_LIMIT", RetrySlowly;
    /// The certificate expired too long ago.
    RejoinTooLate = 39, "REJOIN_TOO_LATE", RetrySlowly;
    /// The rejoin was not signed by the bound key.
    RejoinKey = 40, "REJOIN_KEY", RetrySlowly;
    /// A report for a child of another parent.
    ChildOfAnother = 41, "CHILD_OF_ANOTHER", Retry;
    /// The identity is locked or in quarantine.
    Quarantined = 42, "QUARANTINED", RetrySlowly;
    /// The service is deleted.
    Deleted = 43, "DELETED", RetrySlowly;
    /// The token finds the parent by a label, and the label is missing or makes no id.
    ParentLabel = 44, "PARENT_LABEL", GiveUp;
    /// An operator looked at the request and refused it.
    ApprovalRejected = 45, "APPROVAL_REJECTED", GiveUp;
    /// A report for a child that is not registered, by a sidecar that may not register any.
    ChildUnknown = 46, "CHILD_UNKNOWN", Retry;
    /// The parent has as many children registered by reports as it may have.
    ChildLimit = 47, "CHILD_LIMIT", Retry;
    /// The registry has no room for another service.
    RegistryFull = 48, "REGISTRY_FULL", RetrySlowly;
}

impl Code {
    /// The number as a QUIC application error code.
    #[must_use]
    pub fn number(self) -> u16 {
        self.into()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Other(number) = self { write!(f, "UNKNOWN_CODE({number})") } else { f.write_str(self.as_str()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_words_are_unique_and_round_trip() {
        let mut words = HashSet::new();
        for code in Code::ALL {
            assert_eq!(Code::from(code.number()), *code);
            assert!(words.insert(code.as_str()), "{code}");
        }
        assert_eq!(Code::from(9_999), Code::Other(9_999));
        assert_eq!(Code::Other(9_999).number(), 9_999);
    }

    #[test]
    fn the_released_numbers_stand() {
        let table: Vec<String> = Code::ALL.iter().map(|c| format!("{}={}", c.number(), c.as_str())).collect();
        assert_eq!(
            table.join(" "),
            "0=GOODBYE 1=DRAINING 2=SUPERSEDED 3=REVOKED 4=CERT_EXPIRED 5=PROTOCOL 6=FRAME_TOO_LARGE \
             7=IDENTITY_MISMATCH 8=CLIENT_CERT_REQUIRED 9=DEADLINE 10=THROTTLED 11=BUSY 12=STORE_UNAVAILABLE \
             13=VERSION_UNSUPPORTED 14=INTERNAL 20=DENIED 21=EXPIRED 22=EXHAUSTED 23=TOKEN_REVOKED \
             24=NOT_YET_VALID 25=KIND_MISMATCH 26=PARENT_UNKNOWN 27=PARENT_KIND 28=PARENT_BARRED \
             29=PARENT_OTHER 30=ID_TAKEN 31=ID_RULE 32=CSR_INVALID 33=KEY_IN_USE 34=PENDING_APPROVAL \
             35=CLOCK_SKEW 36=UNKNOWN_IDENTITY 37=SERIAL_REFUSED 38=REJOIN_LIMIT 39=REJOIN_TOO_LATE \
             40=REJOIN_KEY 41=CHILD_OF_ANOTHER 42=QUARANTINED 43=DELETED 44=PARENT_LABEL \
             45=APPROVAL_REJECTED 46=CHILD_UNKNOWN 47=CHILD_LIMIT 48=REGISTRY_FULL"
        );
    }
}
