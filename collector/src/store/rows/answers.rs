//! Answers that are kept for requests which named themselves.

use rollcall_common::{id::Seq, time::Timestamp};

use super::{Change, PackageRow, ServiceRow, TokenRow, WindowRow, Write};

/// What a request called itself, and whose name it is: two callers may use the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerKey {
    /// The caller as the audit trail names it.
    pub caller: String,
    /// The name that the caller gave.
    pub key: String,
}

/// SHA-256 over what was asked: what tells a repetition from another request of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// The answer to a request that was done. It never holds what is told once only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRow {
    /// Whose, and which.
    pub of: AnswerKey,
    /// Of what it is the answer.
    pub fingerprint: Fingerprint,
    /// Its HTTP status.
    pub status: u16,
    /// Where that which was made is found.
    pub location: Option<String>,
    /// Its body, as JSON.
    pub body: String,
    /// Whether it told a secret that is not in the body.
    pub secret: bool,
    /// When it was done.
    pub at: Timestamp,
    /// The seq of what was made: the last one that its change had taken before it; 0 where it took none.
    pub seq: Seq,
}

impl Change {
    /// The service that it registers, as it will stand; the last one of several.
    #[must_use]
    pub fn registered(&self) -> Option<&ServiceRow> {
        self.last(|write| if let Write::InsertService(row) = write { Some(row.as_ref()) } else { None })
    }

    /// The token that it makes.
    #[must_use]
    pub fn minted(&self) -> Option<&TokenRow> {
        self.last(|write| if let Write::InsertToken(row) = write { Some(row.as_ref()) } else { None })
    }

    /// The package that it issues.
    #[must_use]
    pub fn issued(&self) -> Option<&PackageRow> {
        self.last(|write| if let Write::PutPackage { row, .. } = write { Some(row.as_ref()) } else { None })
    }

    /// The window that it opens.
    #[must_use]
    pub fn opened(&self) -> Option<&WindowRow> {
        self.last(|write| if let Write::PutWindow { row, .. } = write { Some(row.as_ref()) } else { None })
    }

    fn last<'a, T: 'a>(&'a self, pick: impl Fn(&'a Write) -> Option<T>) -> Option<T> {
        self.writes.iter().rev().find_map(pick)
    }
}
