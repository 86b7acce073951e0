//! What an operator's act does: to one service, to a subtree, to a slice of a selection.
//!
//! The lifecycle table says which arrows there are. Here is what else must hold: nothing that is not deleted
//! stands below what is, and nothing is removed before its children. An [`Outlook`] sees a service as the
//! acts before it in the same plan leave it, so that a preview and the change that follows agree.

use std::collections::HashMap;

use rollcall_common::{
    id::{Seq, ServiceKey},
    identity::Serial,
    lifecycle::{Act, Arrow, Status, decide},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{By, action, edit::expected, identity_writes, standing};
use crate::{
    registry::{
        ParentProblem, Refusal, Request, World,
        roster::{Entry, Roster, parent_key},
        tokens::CreateToken,
    },
    store::rows::{AuditDraft, Change, Write},
};

/// Services that one change of a cascade takes along; the next change takes the next ones.
pub const CASCADE: usize = 256;

/// Services as they stand after the acts that were judged so far.
#[derive(Debug, Default)]
pub struct Outlook(HashMap<ServiceKey, Arrow>);

impl Outlook {
    /// Judges an act and remembers where it leads.
    ///
    /// # Errors
    /// The refusal; then the outlook is as before.
    pub fn judge(&mut self, roster: &Roster, key: &ServiceKey, act: Act, now: Timestamp) -> Result<Arrow, Refusal> {
        let entry = roster.get(key).ok_or_else(|| Refusal::UnknownService(key.clone()))?;
        let arrow = decide(standing(entry, now), act)?;
        match arrow {
            Arrow::To(Status::Deleted) => {
                self.none_left(roster, key, |status| status.is_some_and(|status| status != Status::Deleted))?;
            }
            Arrow::Removed => self.none_left(roster, key, |status| status.is_some())?,
            Arrow::To(Status::Pending | Status::Inactive) if entry.row.status == Status::Deleted => {
                let parent =
                    parent_key(&entry.row).filter(|parent| self.status(roster, parent) == Some(Status::Deleted));
                if let Some(parent) = parent {
                    return Err(ParentProblem::Barred(parent, Status::Deleted).into());
                }
            }
            Arrow::To(_) | Arrow::Stay => {}
        }
        self.0.insert(key.clone(), arrow);
        Ok(arrow)
    }

    fn none_left(
        &self,
        roster: &Roster,
        key: &ServiceKey,
        counts: impl Fn(Option<Status>) -> bool,
    ) -> Result<(), Refusal> {
        let left = roster.children(key).filter(|child| counts(self.after(child))).count();
        if left == 0 {
            return Ok(());
        }
        Err(Refusal::HasChildren { service: key.clone(), children: u32::try_from(left).unwrap_or(u32::MAX) })
    }

    /// The status that a service is left with, found by its name.
    #[must_use]
    pub fn status(&self, roster: &Roster, key: &ServiceKey) -> Option<Status> {
        roster.get(key).and_then(|entry| self.after(entry))
    }

    /// The status that a service is left with; `None` = it is gone.
    fn after(&self, entry: &Entry) -> Option<Status> {
        match self.0.get(&entry.row.key) {
            Some(Arrow::To(status)) => Some(*status),
            Some(Arrow::Removed) => None,
            Some(Arrow::Stay) | None => Some(entry.row.status),
        }
    }
}

/// The writes of an act that was judged, and what is told of it.
#[must_use]
pub fn performed(
    entry: &Entry,
    act: Act,
    arrow: Arrow,
    at: Timestamp,
    reason: &str,
    by: &By,
) -> (Vec<Write>, Option<AuditDraft>) {
    let service = entry.row.key.clone();
    let mut writes = Vec::new();
    let after = match arrow {
        Arrow::Stay => return (writes, None),
        Arrow::To(to) => {
            let archived = act == Act::Archive;
            let expect = entry.row.seq;
            writes.push(Write::SetStatus { service: service.clone(), expect, to, at, seen: None, archived });
            match (act, to) {
                // It comes back by itself where it shows its bound key: see `reinstatement`.
                (Act::Archive, _) => {}
                (Act::Reenroll, _) => {
                    writes.extend(identity_writes(entry, Status::Revoked));
                    writes.push(Write::DropIdentity(service.clone()));
                }
                (_, to) => writes.extend(identity_writes(entry, to)),
            }
            json!(to)
        }
        Arrow::Removed => {
            writes.extend(identity_writes(entry, Status::Revoked));
            writes.push(Write::RemoveService { service: service.clone(), expect: entry.row.seq });
            Value::Null
        }
    };
    let details = [("before", json!(entry.row.status)), ("after", after), ("reason", json!(reason))];
    (writes, Some(by.did(at, action(act), service.to_string(), details)))
}

/// An archived service that shows its bound key is let in again: nobody had barred it.
#[must_use]
pub fn reinstatement(entry: &Entry, at: Timestamp) -> Option<(Vec<Write>, AuditDraft)> {
    let row = &entry.row;
    if !row.archived || row.status != Status::Revoked || entry.identity.is_none() {
        return None;
    }
    let to = Status::Inactive;
    let mut writes =
        vec![Write::SetStatus { service: row.key.clone(), expect: row.seq, to, at, seen: None, archived: false }];
    writes.extend(identity_writes(entry, to));
    let details = [("before", json!(row.status)), ("after", json!(to))];
    Some((writes, By::sidecar(&row.key).did(at, "service.reinstated", row.key.to_string(), details)))
}

/// An archived service came back with a certificate of its bound identity.
#[derive(Debug, Clone)]
pub struct Reinstate {
    /// Who.
    pub key: ServiceKey,
    /// What it showed.
    pub serial: Serial,
}

impl Request for Reinstate {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let entry = world.roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        let holds = entry.identity.as_ref().is_some_and(|identity| {
            std::iter::once(&identity.current).chain(&identity.pending).any(|cert| cert.serial == self.serial)
        });
        // Whoever is barred by now is refused where it stands next.
        let Some((writes, audit)) = reinstatement(entry, world.now.wall).filter(|_| holds) else {
            return Ok((Change::default(), ()));
        };
        Ok((Change { writes, audit: vec![audit] }, ()))
    }
}

/// An operator's act on a service, alone or with everything below it.
#[derive(Debug, Clone)]
pub struct Move {
    /// Who.
    pub key: ServiceKey,
    /// What.
    pub act: Act,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Whether its subtree goes with it; of a barring act only.
    pub cascade: bool,
    /// The row's seq as the caller saw it; another one refuses the act.
    pub expect: Option<Seq>,
    /// Who asks.
    pub by: By,
}

/// What an act has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Services that it changed.
    pub services: usize,
    /// A subtree is larger than one change: the lower part is done, and the same request does the next one.
    pub more: bool,
}

impl Move {
    /// An act on one service.
    #[must_use]
    pub fn new(key: ServiceKey, act: Act, reason: impl Into<String>, by: By) -> Self {
        Self { key, act, reason: reason.into(), cascade: false, expect: None, by }
    }

    /// Everything below the service that the act still changes, leaves first, and the service itself.
    fn members(&self, roster: &Roster, now: Timestamp) -> Result<(Vec<ServiceKey>, bool), Refusal> {
        let mut found = Vec::new();
        let root = roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        let changes =
            |entry: &Entry| matches!(decide(standing(entry, now), self.act), Ok(Arrow::To(_) | Arrow::Removed));
        for child in roster.children(&self.key) {
            for entry in roster.children(&child.row.key).chain([child]) {
                if !changes(entry) {
                    continue;
                }
                if found.len() >= CASCADE {
                    return Ok((found, true));
                }
                found.push(entry.row.key.clone());
            }
        }
        match decide(standing(root, now), self.act) {
            Ok(_) if found.len() >= CASCADE => return Ok((found, true)),
            Ok(_) => found.push(self.key.clone()),
            // It is there already, and what is below it follows.
            Err(_) if !found.is_empty() => {}
            Err(no_arrow) => return Err(no_arrow.into()),
        }
        Ok((found, false))
    }
}

impl Request for Move {
    type Answer = Moved;

    fn plan(&self, world: World<'_>) -> Result<(Change, Moved), Refusal> {
        let (roster, now) = (world.roster, world.now.wall);
        let root = roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        expected(&root.row, self.expect)?;
        if self.act == Act::Reenroll {
            return Err(Refusal::Invalid("a re-enrollment comes with its token: ask for that".into()));
        }
        let (members, more) = match (self.cascade, self.act) {
            (false, _) => (vec![self.key.clone()], false),
            (true, Act::Revoke | Act::Delete) => self.members(roster, now)?,
            (true, _) => return Err(Refusal::Invalid("cascade goes with revoke and delete".into())),
        };
        let mut change = Change::default();
        let mut outlook = Outlook::default();
        for key in &members {
            let arrow = outlook.judge(roster, key, self.act, now)?;
            let Some(entry) = roster.get(key) else { continue };
            let (writes, audit) = performed(entry, self.act, arrow, now, &self.reason, &self.by);
            change.writes.extend(writes);
            change.audit.extend(audit);
        }
        Ok((change, Moved { services: members.len(), more }))
    }
}

/// An act on some services of a selection, in one change: what is refused is left, the others go.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Who, in the order of the plan.
    pub keys: Vec<ServiceKey>,
    /// What.
    pub act: Act,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who asks.
    pub by: By,
}

impl Request for Slice {
    /// Who was refused, and why; all others are done.
    type Answer = Vec<(ServiceKey, Refusal)>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Self::Answer), Refusal> {
        let mut change = Change::default();
        let mut refused = Vec::new();
        let mut outlook = Outlook::default();
        for key in &self.keys {
            match outlook.judge(world.roster, key, self.act, world.now.wall) {
                Ok(arrow) => {
                    let Some(entry) = world.roster.get(key) else { continue };
                    let (writes, audit) = performed(entry, self.act, arrow, world.now.wall, &self.reason, &self.by);
                    change.writes.extend(writes);
                    change.audit.extend(audit);
                }
                Err(refusal) => refused.push((key.clone(), refusal)),
            }
        }
        Ok((change, refused))
    }
}

/// Lets a revoked service enroll afresh: its identity is unbound, its certificates are refused for good, and
/// a token for exactly this service is made in the same change.
#[derive(Debug, Clone)]
pub struct Reenroll {
    /// Who.
    pub key: ServiceKey,
    /// The token that lets it in.
    pub token: CreateToken,
    /// Why, in the operator's words.
    pub reason: String,
    /// The row's seq as the caller saw it.
    pub expect: Option<Seq>,
}

impl Request for Reenroll {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let entry = world.roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        expected(&entry.row, self.expect)?;
        let now = world.now.wall;
        let arrow = decide(standing(entry, now), Act::Reenroll)?;
        let (mut change, ()) = self.token.plan(world)?;
        let (writes, audit) = performed(entry, Act::Reenroll, arrow, now, &self.reason, &self.token.by);
        change.writes.extend(writes);
        change.audit.extend(audit);
        Ok((change, ()))
    }
}
