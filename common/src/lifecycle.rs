//! The status table: every allowed arrow, and nothing else.
//!
//! Status is durable and says what operators and time decided. It knows nothing of presence (what is
//! observed) or health (what is said). [`decide`] is the whole table; everything else is an error that
//! names the arrow.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::service::UnknownWord;

/// Where a service stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Registered, never heard.
    Pending,
    /// Heard from within `inactive_after` of observed time.
    Active,
    /// Silent for longer than that.
    Inactive,
    /// Refused by an operator.
    Revoked,
    /// Softly deleted, recoverable for a while.
    Deleted,
}

impl Status {
    /// Every status, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Inactive, Self::Revoked, Self::Deleted];

    /// The word used in the API, in rows and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Revoked => "revoked",
            Self::Deleted => "deleted",
        }
    }

    /// Whether a sidecar of such a service is refused.
    #[must_use]
    pub fn is_barred(self) -> bool {
        match self {
            Self::Revoked | Self::Deleted => true,
            Self::Pending | Self::Active | Self::Inactive => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownWord { what: "status", text: text.into() })
    }
}

/// How long after a revocation it can be taken back.
pub const UNREVOKE_WITHIN: Duration = Duration::from_secs(30 * 86_400);
/// How long after a soft deletion it can be taken back.
pub const RECOVER_WITHIN: Duration = Duration::from_secs(7 * 86_400);

/// What is asked of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A heartbeat of its own arrived.
    Heartbeat,
    /// `inactive_after` of observed time passed without one.
    Silence,
    /// An operator does not wait for that; the next heartbeat makes it active again.
    Deactivate,
    /// An operator bars it.
    Revoke,
    /// An operator takes a revocation back.
    Unrevoke,
    /// An operator lets a revoked one enroll afresh.
    Reenroll,
    /// An operator deletes it softly.
    Delete,
    /// An operator takes a soft deletion back.
    Recover,
    /// The archive job retires a very old inactive one.
    Archive,
    /// An operator removes the record at once.
    Remove,
    /// The purge job removes the record after its retention.
    Purge,
}

impl Act {
    /// Every act, for tests that walk the table.
    pub const ALL: [Self; 11] = [
        Self::Heartbeat,
        Self::Silence,
        Self::Deactivate,
        Self::Revoke,
        Self::Unrevoke,
        Self::Reenroll,
        Self::Delete,
        Self::Recover,
        Self::Archive,
        Self::Remove,
        Self::Purge,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Silence => "silence",
            Self::Deactivate => "deactivate",
            Self::Revoke => "revoke",
            Self::Unrevoke => "unrevoke",
            Self::Reenroll => "reenroll",
            Self::Delete => "delete",
            Self::Recover => "recover",
            Self::Archive => "archive",
            Self::Remove => "remove",
            Self::Purge => "purge",
        }
    }
}

/// What the table must know of a service beside the act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its status now.
    pub status: Status,
    /// How long it has had that status.
    pub since: Duration,
    /// Whether a heartbeat was ever heard.
    pub ever_seen: bool,
    /// Whether an identity is still bound to it.
    pub bound: bool,
    /// Whether it was time that revoked it, so that it may come back by itself.
    pub archived: bool,
}

/// Where an allowed act leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrow {
    /// Nothing to write.
    Stay,
    /// To this status.
    To(Status),
    /// The record goes; the audit trail stays.
    Removed,
}

/// An act that the table does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no arrow '{}' from {from}: {why}", .act.word())]
pub struct NoArrow {
    /// The status it was asked of.
    pub from: Status,
    /// What was asked.
    pub act: Act,
    /// The reason, and what would work.
    pub why: &'static str,
}

/// The lifecycle table.
///
/// # Errors
/// [`NoArrow`] for every pair that the table does not hold.
pub fn decide(standing: Standing, act: Act) -> Result<Arrow, NoArrow> {
    use Act as A;
    use Arrow::{Removed, Stay, To};
    use Status as S;

    let from = standing.status;
    let no = |why| Err(NoArrow { from, act, why });
    match (from, act) {
        (S::Pending | S::Inactive, A::Heartbeat) => Ok(To(S::Active)),
        (S::Active, A::Heartbeat) | (S::Inactive, A::Silence) => Ok(Stay),
        (S::Active, A::Silence | A::Deactivate) => Ok(To(S::Inactive)),
        (S::Pending, A::Silence | A::Deactivate) => no("it was never heard, so it cannot have gone silent"),
        (S::Inactive, A::Deactivate) => no("it is inactive already"),
        (S::Revoked, A::Deactivate) => no("it is barred; unrevoke it to make it inactive"),

        (S::Pending | S::Active | S::Inactive, A::Revoke) => Ok(To(S::Revoked)),
        (S::Inactive, A::Archive) => Ok(To(S::Revoked)),
        // What time revoked comes back with its key; an operator's word ends that.
        (S::Revoked, A::Revoke) if standing.archived => Ok(To(S::Revoked)),
        (S::Revoked, A::Revoke) => no("it is revoked already"),
        (S::Revoked, A::Unrevoke) if !standing.bound => no("no identity is bound any more; re-enroll it"),
        (S::Revoked, A::Unrevoke) if standing.since > UNREVOKE_WITHIN => {
            no("more than 30 days have passed; re-enroll it")
        }
        (S::Revoked, A::Unrevoke) => Ok(To(S::Inactive)),
        (S::Revoked, A::Reenroll) => Ok(To(S::Pending)),
        (S::Revoked, A::Heartbeat) => no("its heartbeats are refused until it is unrevoked"),

        (S::Pending | S::Active | S::Inactive | S::Revoked, A::Delete) => Ok(To(S::Deleted)),
        (S::Deleted, A::Delete) => no("it is deleted already"),
        (S::Deleted, A::Recover) if standing.since > RECOVER_WITHIN => {
            no("more than 7 days have passed; register it anew")
        }
        (S::Deleted, A::Recover) if standing.ever_seen => Ok(To(S::Inactive)),
        (S::Deleted, A::Recover) => Ok(To(S::Pending)),
        (S::Deleted, A::Heartbeat | A::Deactivate | A::Revoke | A::Unrevoke | A::Reenroll) => {
            no("it is deleted; recover it first")
        }

        (S::Inactive | S::Revoked | S::Deleted, A::Remove | A::Purge) => Ok(Removed),
        (S::Pending, A::Purge) => Ok(Removed),
        (S::Pending, A::Remove) => no("a pending service goes by purge only; revoke or delete it first"),
        (S::Active, A::Remove | A::Purge) => no("an active service is never removed; revoke or delete it first"),

        (S::Pending | S::Active | S::Inactive, A::Unrevoke) => no("it is not revoked"),
        (S::Pending | S::Active | S::Inactive, A::Reenroll) => no("only a revoked service re-enrolls"),
        (S::Pending | S::Active | S::Inactive | S::Revoked, A::Recover) => no("it is not deleted"),
        (S::Pending | S::Active | S::Revoked | S::Deleted, A::Archive) => no("only an inactive service is archived"),
        (S::Revoked | S::Deleted, A::Silence) => no("its silence is expected"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standing(status: Status) -> Standing {
        Standing { status, since: Duration::ZERO, ever_seen: true, bound: true, archived: false }
    }

    #[test]
    fn the_table_of_the_design_and_nothing_else() {
        use Status::{Active, Deleted, Inactive, Pending, Revoked};
        let allowed = |from: Status, to: Status| match from {
            Pending => matches!(to, Active | Revoked | Deleted),
            Active => matches!(to, Inactive | Revoked | Deleted),
            Inactive => matches!(to, Active | Revoked | Deleted),
            Revoked => matches!(to, Inactive | Pending | Deleted),
            Deleted => matches!(to, Inactive | Pending),
        };
        for status in Status::ALL {
            for act in Act::ALL {
                for ever_seen in [false, true] {
                    for bound in [false, true] {
                        let arrow = decide(Standing { ever_seen, bound, ..standing(status) }, act);
                        match arrow {
                            Ok(Arrow::To(to)) => assert!(allowed(status, to), "{status} {act:?} {to}"),
                            Ok(Arrow::Removed) => assert_ne!(status, Active),
                            Ok(Arrow::Stay) => {}
                            Err(refusal) => {
                                assert!(refusal.to_string().contains(status.as_str()));
                                assert!(refusal.to_string().contains(act.word()));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hard_delete_refuses_pending_and_active() {
        assert!(decide(standing(Status::Pending), Act::Remove).is_err());
        assert!(decide(standing(Status::Active), Act::Remove).is_err());
        assert_eq!(decide(standing(Status::Pending), Act::Purge), Ok(Arrow::Removed));
        assert!(decide(standing(Status::Active), Act::Purge).is_err());
    }

    #[test]
    fn an_operator_deactivates_what_is_active_and_nothing_else() {
        for status in Status::ALL {
            let found = decide(standing(status), Act::Deactivate);
            let wanted = (status == Status::Active).then_some(Arrow::To(Status::Inactive));
            assert_eq!(found.ok(), wanted, "{status}");
        }
        assert_eq!(decide(standing(Status::Inactive), Act::Heartbeat), Ok(Arrow::To(Status::Active)));
    }

    #[test]
    fn only_what_time_revoked_is_revoked_again() {
        assert!(decide(standing(Status::Revoked), Act::Revoke).is_err());
        let archived = Standing { archived: true, ..standing(Status::Revoked) };
        assert_eq!(decide(archived, Act::Revoke), Ok(Arrow::To(Status::Revoked)));
    }

    #[test]
    fn what_can_be_taken_back_has_a_term() {
        let late = |status, since| Standing { since, ..standing(status) };
        assert!(decide(late(Status::Revoked, UNREVOKE_WITHIN), Act::Unrevoke).is_ok());
        assert!(decide(late(Status::Revoked, UNREVOKE_WITHIN + Duration::from_secs(1)), Act::Unrevoke).is_err());
        assert!(decide(late(Status::Deleted, RECOVER_WITHIN + Duration::from_secs(1)), Act::Recover).is_err());
        let unbound = Standing { bound: false, ..standing(Status::Revoked) };
        assert!(decide(unbound, Act::Unrevoke).is_err());
        let unseen = Standing { ever_seen: false, ..standing(Status::Deleted) };
        assert_eq!(decide(unseen, Act::Recover), Ok(Arrow::To(Status::Pending)));
    }

    proptest! {
        /// Whatever is asked in whatever order, a barred service never becomes active without an
        /// operator's act in between, and `active` is reached by a heartbeat alone.
        #[test]
        fn only_a_heartbeat_activates(acts in proptest::collection::vec(0..Act::ALL.len(), 0..60)) {
            let mut at = standing(Status::Pending);
            at.ever_seen = false;
            for act in acts.into_iter().filter_map(|n| Act::ALL.get(n).copied()) {
                match decide(at, act) {
                    Ok(Arrow::To(to)) => {
                        if to == Status::Active {
                            prop_assert_eq!(act, Act::Heartbeat);
                            prop_assert!(!at.status.is_barred());
                            at.ever_seen = true;
                        }
                        at.status = to;
                    }
                    Ok(Arrow::Removed) => break,
                    Ok(Arrow::Stay) | Err(_) => {}
                }
            }
        }
    }
}
