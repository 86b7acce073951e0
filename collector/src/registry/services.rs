//! Requests about services: register here, and in rooms of their own: edit, the acts of the lifecycle, apply.

pub mod acts;
pub mod apply;
pub mod edit;

use std::collections::BTreeMap;

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
    service::{CheckerKind, Source},
    time::Timestamp,
};
use serde_json::{Value, json};

pub use self::acts::Move;
use super::{
    ParentProblem, Refusal, Request, World,
    roster::{Entry, Roster},
};
use crate::store::rows::{AuditDraft, Change, Said, ServiceRow, Write};

/// Who asks, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// `credential:<id>`, `sidecar:agent/x`, `system`, …
    pub actor: String,
    /// The request, if there is one.
    pub request_id: Option<String>,
}

impl By {
    /// The collector itself.
    #[must_use]
    pub fn system() -> Self {
        Self { actor: "system".into(), request_id: None }
    }

    /// A sidecar, proven by its certificate.
    #[must_use]
    pub fn sidecar(key: &ServiceKey) -> Self {
        Self { actor: format!("sidecar:{key}"), request_id: None }
    }

    /// An audit event by this actor.
    #[must_use]
    pub fn did(
        &self,
        at: Timestamp,
        action: &str,
        object: String,
        details: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> AuditDraft {
        AuditDraft {
            at,
            action: action.into(),
            actor: self.actor.clone(),
            object,
            request_id: self.request_id.clone(),
            details: details.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>(),
        }
    }
}

/// Registers a service ahead of its first heartbeat.
#[derive(Debug, Clone)]
pub struct Register {
    /// Who.
    pub key: ServiceKey,
    /// Its parent's id; required for agents and checkers.
    pub parent: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// How.
    pub source: Source,
    /// What is said of it. A SPIFFE id in it has been checked by [`edit::check_declared`].
    pub said: Said,
    /// Who asks.
    pub by: By,
}

impl Register {
    /// A registration of which nothing is said yet.
    #[must_use]
    pub fn new(key: ServiceKey, parent: Option<ServiceId>, source: Source, by: By) -> Self {
        Self { key, parent, checker_kind: None, source, said: Said::default(), by }
    }
}

impl Request for Register {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        if world.roster.get(&self.key).is_some() {
            return Err(Refusal::Exists(self.key.clone()));
        }
        check_checker_kind(&self.key, self.checker_kind.as_ref())?;
        let poller = check_parent(world.roster, self.key.kind, self.parent.as_ref())?;
        let row = ServiceRow {
            checker_kind: self.checker_kind.clone(),
            ..ServiceRow::fresh(
                self.key.clone(),
                (self.parent.clone(), poller),
                self.source,
                self.by.actor.clone(),
                self.said.clone(),
                world.now.wall,
            )
        };
        let audit = registered(&row, &self.by, world.now.wall);
        Ok((Change { writes: vec![Write::InsertService(Box::new(row))], audit: vec![audit] }, ()))
    }
}

/// What is told of a registration: all that was said.
fn registered(row: &ServiceRow, by: &By, at: Timestamp) -> AuditDraft {
    let said = edit::differences(&Said::default(), &row.said());
    let after: serde_json::Map<String, Value> = said.into_iter().map(|one| (one.field, one.after)).collect();
    let mut details = vec![("source", json!(row.source)), ("parent", json!(row.parent))];
    if row.checker_kind.is_some() {
        details.push(("checker_kind", json!(row.checker_kind)));
    }
    if !after.is_empty() {
        details.push(("after", Value::Object(after)));
    }
    by.did(at, "service.registered", row.key.to_string(), details)
}

fn check_checker_kind(key: &ServiceKey, checker_kind: Option<&CheckerKind>) -> Result<(), Refusal> {
    if checker_kind.is_some() && key.kind != Kind::Checker {
        return Err(Refusal::Invalid(format!("checker_kind is for checkers; this is {key}")));
    }
    Ok(())
}

/// Checks that a parent exists, is of the right kind and not barred; answers the poller that a service of
/// this kind belongs to, itself left out.
///
/// # Errors
/// What is wrong with the parent.
pub fn check_parent(
    roster: &Roster,
    kind: Kind,
    parent: Option<&ServiceId>,
) -> Result<Option<ServiceId>, ParentProblem> {
    let (wanted, id) = match (kind.parent(), parent) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(ParentProblem::Unwanted(kind)),
        (Some(wanted), None) => return Err(ParentProblem::Missing(kind, wanted)),
        (Some(wanted), Some(id)) => (wanted, id),
    };
    let key = ServiceKey::new(wanted, id.clone());
    let Some(found) = roster.get(&key) else {
        let elsewhere = Kind::ALL.into_iter().map(|kind| ServiceKey::new(kind, id.clone()));
        return Err(match elsewhere.into_iter().find(|other| roster.get(other).is_some()) {
            Some(found) => ParentProblem::WrongKind { found, wanted },
            None => ParentProblem::Unknown(key),
        });
    };
    if found.row.status.is_barred() {
        return Err(ParentProblem::Barred(key, found.row.status));
    }
    Ok(match wanted {
        Kind::Poller => Some(id.clone()),
        Kind::Agent => found.row.parent.clone(),
        Kind::Checker | Kind::Instance => None,
    })
}

/// The certificates of a barred service are refused until they end; those of a reinstated one are not.
pub(super) fn identity_writes(entry: &Entry, to: Status) -> Vec<Write> {
    let Some(identity) = &entry.identity else { return Vec::new() };
    let certs = std::iter::once(&identity.current).chain(&identity.pending);
    certs
        .map(|cert| {
            if to.is_barred() {
                Write::Deny { serial: cert.serial, until: cert.not_after }
            } else {
                Write::Allow(cert.serial)
            }
        })
        .collect()
}

/// The word for an act in the audit trail.
#[must_use]
pub fn action(act: Act) -> &'static str {
    match act {
        Act::Heartbeat => "service.activated",
        Act::Silence | Act::Deactivate => "service.deactivated",
        Act::Revoke => "service.revoked",
        Act::Unrevoke => "service.unrevoked",
        Act::Reenroll => "service.reenrolled",
        Act::Delete => "service.deleted",
        Act::Recover => "service.recovered",
        Act::Archive => "service.archived",
        Act::Remove => "service.removed",
        Act::Purge => "service.purged",
    }
}

/// What the lifecycle table needs to know of a service.
#[must_use]
pub fn standing(entry: &Entry, now: Timestamp) -> Standing {
    Standing {
        status: entry.row.status,
        since: now.since(entry.row.status_since),
        ever_seen: entry.row.first_seen.is_some(),
        bound: entry.identity.is_some(),
        archived: entry.row.archived,
    }
}

/// A heartbeat's effect on the status, where it has one: `pending` or `inactive` becomes `active`. What has no
/// identity lives by reports, and it was its reporter that did it.
#[must_use]
pub fn activation(entry: &Entry, reporter: Option<&ServiceKey>, seen: Timestamp) -> Option<Change> {
    let arrow = decide(standing(entry, seen), Act::Heartbeat).ok()?;
    let Arrow::To(to) = arrow else { return None };
    let by = reporter.filter(|_| entry.identity.is_none()).unwrap_or(&entry.row.key);
    Some(Change {
        writes: vec![Write::SetStatus {
            service: entry.row.key.clone(),
            expect: entry.row.seq,
            to,
            at: seen,
            seen: Some(seen),
            archived: false,
        }],
        audit: vec![By::sidecar(by).did(
            seen,
            action(Act::Heartbeat),
            entry.row.key.to_string(),
            [("before", json!(entry.row.status)), ("after", json!(to))],
        )],
    })
}

#[cfg(test)]
mod tests;
