//! Requests about services: register, and every act of the lifecycle.

use std::collections::BTreeMap;

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
    service::{CheckerKind, Pairs, Source},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    ParentProblem, Refusal, Request, World,
    roster::{Entry, Roster},
};
use crate::store::rows::{AuditDraft, Change, ServiceRow, Write};

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
    /// The onboarding package's component, if any.
    pub component_id: Option<String>,
    /// How.
    pub source: Source,
    /// Labels.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Who asks.
    pub by: By,
}

impl Request for Register {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        if world.roster.get(&self.key).is_some() {
            return Err(Refusal::Exists(self.key.clone()));
        }
        if self.checker_kind.is_some() && self.key.kind != Kind::Checker {
            return Err(Refusal::Invalid(format!("checker_kind is for checkers; this is {}", self.key)));
        }
        let row = new_row(world, self)?;
        let audit = self.by.did(
            world.now.wall,
            "service.registered",
            self.key.to_string(),
            [("source", json!(self.source)), ("parent", json!(self.parent))],
        );
        Ok((Change { writes: vec![Write::InsertService(Box::new(row))], audit: vec![audit] }, ()))
    }
}

fn new_row(world: World<'_>, asked: &Register) -> Result<ServiceRow, Refusal> {
    let poller = check_parent(world.roster, asked.key.kind, asked.parent.as_ref())?;
    Ok(ServiceRow {
        key: asked.key.clone(),
        parent: asked.parent.clone(),
        poller,
        checker_kind: asked.checker_kind.clone(),
        component_id: asked.component_id.clone(),
        source: asked.source,
        labels: asked.labels.clone(),
        metadata: asked.metadata.clone(),
        placeholder: false,
        declared_spiffe: None,
        ephemeral_after: None,
        implicit_children: false,
        created_by: asked.by.actor.clone(),
        first_registered: world.now.wall,
        first_seen: None,
        last_seen: None,
        status: Status::Pending,
        status_since: world.now.wall,
        archived: false,
        health: None,
        facts: None,
        seq: rollcall_common::id::Seq::default(),
    })
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

/// An operator's act on a service's status.
#[derive(Debug, Clone)]
pub struct Move {
    /// Who.
    pub key: ServiceKey,
    /// What: revoke, unrevoke, delete, recover or remove.
    pub act: Act,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who asks.
    pub by: By,
}

impl Request for Move {
    type Answer = Arrow;

    fn plan(&self, world: World<'_>) -> Result<(Change, Arrow), Refusal> {
        let entry = world.roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        let arrow = decide(standing(entry, world.now.wall), self.act)?;
        if self.act == Act::Delete && world.roster.below(&self.key).children > 0 {
            let why = format!("{} still has children: delete them first, or revoke it and leave them", self.key);
            return Err(Refusal::Invalid(why));
        }
        let mut change = Change::default();
        match arrow {
            Arrow::Stay => return Ok((change, arrow)),
            Arrow::To(to) => {
                change.writes.push(Write::SetStatus {
                    service: self.key.clone(),
                    expect: entry.row.seq,
                    to,
                    at: world.now.wall,
                    seen: None,
                    archived: self.act == Act::Archive,
                });
                change.writes.extend(identity_writes(entry, to));
            }
            Arrow::Removed => {
                if world.roster.below(&self.key).children > 0 {
                    return Err(Refusal::Invalid(format!("{} still has children; remove them first", self.key)));
                }
                change.writes.extend(identity_writes(entry, Status::Revoked));
                change.writes.push(Write::RemoveService { service: self.key.clone(), expect: entry.row.seq });
            }
        }
        change.audit.push(self.by.did(
            world.now.wall,
            action(self.act),
            self.key.to_string(),
            [
                ("before", json!(entry.row.status)),
                (
                    "after",
                    match arrow {
                        Arrow::To(to) => json!(to),
                        Arrow::Removed | Arrow::Stay => Value::Null,
                    },
                ),
                ("reason", json!(self.reason)),
            ],
        ));
        Ok((change, arrow))
    }
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

pub(super) fn action(act: Act) -> &'static str {
    match act {
        Act::Heartbeat => "service.activated",
        Act::Silence => "service.deactivated",
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
    }
}

/// A heartbeat's effect on the status, where it has one: `pending` or `inactive` becomes `active`.
#[must_use]
pub fn activation(entry: &Entry, seen: Timestamp) -> Option<Change> {
    let arrow = decide(standing(entry, seen), Act::Heartbeat).ok()?;
    let Arrow::To(to) = arrow else { return None };
    Some(Change {
        writes: vec![Write::SetStatus {
            service: entry.row.key.clone(),
            expect: entry.row.seq,
            to,
            at: seen,
            seen: Some(seen),
            archived: false,
        }],
        audit: vec![By::sidecar(&entry.row.key).did(
            seen,
            action(Act::Heartbeat),
            entry.row.key.to_string(),
            [("before", json!(entry.row.status)), ("after", json!(to))],
        )],
    })
}
