//! The seals of the audit trail.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use rollcall_common::{id::Seq, time::Timestamp};
use serde::{Deserialize, Serialize};

/// A hash of the chain; the one before the first seal is all zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealHash(pub [u8; 32]);

impl fmt::Display for SealHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SealHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealHash({self})")
    }
}

impl FromStr for SealHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a hash is 64 of 0-9 and a-f")
    }
}

impl TryFrom<String> for SealHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl From<SealHash> for String {
    fn from(hash: SealHash) -> Self {
        hash.to_string()
    }
}

/// A sealed batch of audit events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealRow {
    /// Its number: 1, 2, …, without gaps.
    pub no: u64,
    /// The registry's epoch when it was sealed.
    pub epoch: u64,
    /// The seq of its first event.
    pub first: Seq,
    /// The seq of its last event. No event lies between two batches.
    pub last: Seq,
    /// How many events it has.
    pub count: u64,
    /// The hash of the seal before it.
    pub prev: SealHash,
    /// Its hash.
    pub hash: SealHash,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// When the last of its events happened: what retention goes by.
    pub until: Timestamp,
    /// When its events were retired.
    pub retired_at: Option<Timestamp>,
}
