//! The table of a package's life: every arrow that is allowed, and nothing else.

use crate::store::rows::{PackageRow, PackageStatus};
use rollcall_common::time::Timestamp;

/// What happens to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackageAct {
    /// It is fetched for the first time.
    Deliver,
    /// Its service beats for the first time.
    Activate,
    /// An operator takes it back.
    Revoke,
    /// Its time is over.
    Expire,
    /// It gets a new token, and is to be fetched once more.
    Reissue,
    /// An operator puts it away.
    Delete,
}

impl PackageAct {
    /// Every act.
    pub const ALL: [Self; 6] = [Self::Deliver, Self::Activate, Self::Revoke, Self::Expire, Self::Reissue, Self::Delete];

    /// The word for people and the audit trail, behind `package.`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deliver => "delivered",
            Self::Activate => "activated",
            Self::Revoke => "revoked",
            Self::Expire => "expired",
            Self::Reissue => "reissued",
            Self::Delete => "deleted",
        }
    }
}

/// An arrow that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a package that is {from} cannot be {}: {}", .act.as_str(), fix(*.from, *.act))]
pub struct NoPackageArrow {
    /// Where it stands.
    pub from: PackageStatus,
    /// What was tried.
    pub act: PackageAct,
}

fn fix(from: PackageStatus, act: PackageAct) -> &'static str {
    use {PackageAct as A, PackageStatus as S};
    match (from, act) {
        (S::Issued | S::Delivered, A::Delete) => "revoke it first",
        (S::Activated, A::Revoke | A::Reissue) => "its service is in; revoke that one, or re-enroll it",
        (S::Revoked | S::Deleted, A::Reissue) => "make a new one",
        (S::Delivered | S::Expired, A::Deliver) => "issue it again",
        (_, _) => "it is too late, or too early, for that",
    }
}

/// Where an act leads.
///
/// # Errors
/// [`NoPackageArrow`] where the table has none.
pub fn decide(from: PackageStatus, act: PackageAct) -> Result<PackageStatus, NoPackageArrow> {
    use {PackageAct as A, PackageStatus as S};
    match (from, act) {
        (S::Issued, A::Deliver) => Ok(S::Delivered),
        (S::Delivered, A::Activate) => Ok(S::Activated),
        (S::Issued | S::Delivered | S::Expired, A::Revoke) => Ok(S::Revoked),
        (S::Issued | S::Delivered, A::Expire) => Ok(S::Expired),
        (S::Issued | S::Delivered | S::Expired, A::Reissue) => Ok(S::Issued),
        (S::Activated | S::Revoked | S::Expired, A::Delete) => Ok(S::Deleted),
        (S::Issued, A::Activate | A::Delete)
        | (S::Delivered, A::Deliver | A::Delete)
        | (S::Activated, A::Deliver | A::Activate | A::Revoke | A::Expire | A::Reissue)
        | (S::Revoked, A::Deliver | A::Activate | A::Revoke | A::Expire | A::Reissue)
        | (S::Expired, A::Deliver | A::Activate | A::Expire)
        | (S::Deleted, _) => Err(NoPackageArrow { from, act }),
    }
}

/// Where a package stands now: one whose time is over is expired, whether that is recorded yet or not.
#[must_use]
pub fn standing(row: &PackageRow, now: Timestamp) -> PackageStatus {
    let open = matches!(row.status, PackageStatus::Issued | PackageStatus::Delivered);
    if open && now >= row.expires_at { PackageStatus::Expired } else { row.status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arrow_is_as_written() {
        use {PackageAct as A, PackageStatus as S};
        let arrows = [
            (S::Issued, A::Deliver, S::Delivered),
            (S::Issued, A::Revoke, S::Revoked),
            (S::Issued, A::Expire, S::Expired),
            (S::Issued, A::Reissue, S::Issued),
            (S::Delivered, A::Activate, S::Activated),
            (S::Delivered, A::Revoke, S::Revoked),
            (S::Delivered, A::Expire, S::Expired),
            (S::Delivered, A::Reissue, S::Issued),
            (S::Activated, A::Delete, S::Deleted),
            (S::Revoked, A::Delete, S::Deleted),
            (S::Expired, A::Revoke, S::Revoked),
            (S::Expired, A::Reissue, S::Issued),
            (S::Expired, A::Delete, S::Deleted),
        ];
        for from in S::ALL {
            for act in A::ALL {
                let expected = arrows.iter().find(|(f, a, _)| (*f, *a) == (from, act)).map(|(_, _, to)| *to);
                assert_eq!(decide(from, act).ok(), expected, "{from} {act:?}");
            }
        }
    }

    #[test]
    fn a_refused_arrow_names_the_fix() {
        let words = |from, act| decide(from, act).unwrap_err().to_string();
        let text = words(PackageStatus::Issued, PackageAct::Delete);
        assert_eq!(text, "a package that is issued cannot be deleted: revoke it first");
        assert!(words(PackageStatus::Activated, PackageAct::Reissue).contains("re-enroll"));
    }

    #[test]
    fn time_ends_what_was_not_used() {
        let mut row = crate::store::suite::samples::package(2, "");
        row.status = PackageStatus::Delivered;
        assert_eq!(standing(&row, Timestamp(row.expires_at.0 - 1)), PackageStatus::Delivered);
        assert_eq!(standing(&row, row.expires_at), PackageStatus::Expired);
        row.status = PackageStatus::Activated;
        assert_eq!(standing(&row, row.expires_at), PackageStatus::Activated, "what is in stays in");
    }
}
