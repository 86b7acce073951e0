//! Desired state: many registrations in one request, as often as one likes.
//!
//! What is not there is registered, what differs is changed, what agrees is left alone, and what cannot be
//! is refused without holding up the rest. What an item does not name stays as it is. The status of a
//! service that exists is not desired state: it changes only where a deletion is to be taken back.

use std::collections::HashMap;

use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey, TrustDomain},
    lifecycle::{Act, Status},
    service::{CheckerKind, Source},
    time::Timestamp,
};
use serde_json::json;

use super::{
    By,
    acts::{Outlook, performed},
    check_checker_kind, check_parent,
    edit::{Difference, Patch, check_declared, differences, edited},
    registered,
};
use crate::{
    registry::{ParentProblem, Refusal, Request, World, roster::Entry},
    store::rows::{Change, Said, Scope, ServiceRow, Write},
};

/// One desired registration.
#[derive(Debug, Clone)]
pub struct Item {
    /// Who.
    pub key: ServiceKey,
    /// Its parent's id. One that exists keeps the parent it has.
    pub parent: Option<ServiceId>,
    /// For checkers; kept as well.
    pub checker_kind: Option<CheckerKind>,
    /// How it counts as registered where it is not there yet.
    pub source: Source,
    /// What is said of it.
    pub patch: Patch,
    /// What another registry knew of it.
    pub past: Option<Past>,
}

/// The past of a service in another registry. It fills a row that is not there yet, and only that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// When it was registered there.
    pub first_registered: Option<Timestamp>,
    /// Its first sign of life.
    pub first_seen: Option<Timestamp>,
    /// Its last one.
    pub last_seen: Option<Timestamp>,
    /// Who registered it.
    pub created_by: Option<String>,
    /// Where it stood. Only a heartbeat makes a service active: one that was comes in as inactive.
    pub status: Option<Status>,
}

/// Registers and changes what is desired.
#[derive(Debug, Clone)]
pub struct Apply {
    /// What is desired, in any order.
    pub items: Vec<Item>,
    /// Whether deletions are taken back.
    pub recover: bool,
    /// What the asker reaches. An item beyond it is refused as if nothing were known of what it names; none leads
    /// beyond it.
    pub scope: Scope,
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// Who asks.
    pub by: By,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It is another now.
    Updated(Vec<Difference>),
    /// It is as desired.
    Unchanged,
    /// It cannot be.
    Refused(Refusal),
}

impl Request for Apply {
    /// In the order of the items.
    type Answer = Vec<Outcome>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Self::Answer), Refusal> {
        let mut order: Vec<(usize, &Item)> = self.items.iter().enumerate().collect();
        // Parents before their children, whatever the order they came in.
        order.sort_by_key(|(_, item)| item.key.kind);
        let mut plan =
            Plan { asked: self, world, change: Change::default(), outlook: Outlook::default(), new: HashMap::new() };
        let mut outcomes = vec![Outcome::Unchanged; self.items.len()];
        let mut named = std::collections::HashSet::with_capacity(order.len());
        for (n, item) in order {
            let outcome = if named.insert(&item.key) {
                plan.one(item)
            } else {
                Err(Refusal::Invalid(format!("{} is in this request twice", item.key)))
            };
            if let Some(slot) = outcomes.get_mut(n) {
                *slot = outcome.unwrap_or_else(Outcome::Refused);
            }
        }
        Ok((plan.change, outcomes))
    }
}

struct Plan<'a> {
    asked: &'a Apply,
    world: World<'a>,
    change: Change,
    outlook: Outlook,
    /// Status and parent of those that this very change registers.
    new: HashMap<ServiceKey, (Status, Option<ServiceId>)>,
}

impl Plan<'_> {
    fn one(&mut self, item: &Item) -> Result<Outcome, Refusal> {
        match self.world.roster.get(&item.key) {
            Some(entry) if self.asked.scope.admits(&entry.row.labels) => self.existing(item, entry),
            Some(_) => Err(Refusal::UnknownService(item.key.clone())),
            None => self.register(item),
        }
    }

    /// Refuses what would not be within reach once it is written.
    fn holds(&self, said: &Said) -> Result<(), Refusal> {
        let scope = &self.asked.scope;
        if scope.admits(&said.labels) {
            return Ok(());
        }
        Err(Refusal::Invalid(format!("the caller reaches only {scope}: what it makes must carry these labels")))
    }

    fn register(&mut self, item: &Item) -> Result<Outcome, Refusal> {
        let now = self.world.now.wall;
        check_checker_kind(&item.key, item.checker_kind.as_ref())?;
        let said = item.patch.over(&Said::default())?;
        self.holds(&said)?;
        check_declared(&self.asked.trust_domain, &item.key, item.source, said.declared_spiffe.as_ref())?;
        let past = item.past.clone().unwrap_or_default();
        let status = past.checked_status(now)?;
        let poller = self.poller(item, status)?;
        let by = &self.asked.by;
        let mut row = ServiceRow::fresh(
            item.key.clone(),
            (item.parent.clone(), poller),
            item.source,
            past.created_by.unwrap_or_else(|| by.actor.clone()),
            said,
            now,
        );
        row.checker_kind.clone_from(&item.checker_kind);
        row.status = status;
        row.first_seen = past.first_seen.or(past.last_seen);
        row.last_seen = past.last_seen.or(past.first_seen);
        row.first_registered = past.first_registered.or(row.first_seen).unwrap_or(now);
        let mut audit = registered(&row, by, now);
        if item.past.is_some() {
            audit.details.insert("backfill".into(), json!(true));
        }
        self.new.insert(row.key.clone(), (status, row.parent.clone()));
        self.change.audit.push(audit);
        self.change.writes.push(Write::InsertService(Box::new(row)));
        Ok(Outcome::Created)
    }

    /// The poller that a service of this parent belongs to. What comes from another registry may stand below
    /// a parent that is barred as it is itself.
    fn poller(&self, item: &Item, own: Status) -> Result<Option<ServiceId>, ParentProblem> {
        let above = item.key.kind.parent().zip(item.parent.clone()).map(|(kind, id)| ServiceKey::new(kind, id));
        let fits = |parent: Status| match parent {
            Status::Deleted => own == Status::Deleted,
            Status::Revoked => own.is_barred(),
            Status::Pending | Status::Active | Status::Inactive => true,
        };
        let roster = self.world.roster;
        let beyond =
            |key: &&ServiceKey| roster.get(key).is_some_and(|entry| !self.asked.scope.admits(&entry.row.labels));
        if let Some(key) = above.as_ref().filter(beyond) {
            return Err(ParentProblem::Unknown(key.clone()));
        }
        let found = above.as_ref().and_then(|key| {
            let old = || Some((self.outlook.status(roster, key)?, roster.get(key)?.row.parent.clone()));
            self.new.get(key).cloned().or_else(old)
        });
        match (found, above) {
            (Some((status, grandparent)), Some(key)) => {
                if !fits(status) {
                    return Err(ParentProblem::Barred(key, status));
                }
                Ok(if key.kind == Kind::Poller { Some(key.id) } else { grandparent })
            }
            // The words for what is wrong are found there.
            (_, _) => check_parent(roster, item.key.kind, item.parent.as_ref()),
        }
    }

    fn existing(&mut self, item: &Item, entry: &Entry) -> Result<Outcome, Refusal> {
        let (row, now) = (&entry.row, self.world.now.wall);
        let settled = |field| Err(Refusal::Settled { service: row.key.clone(), field });
        if item.parent.is_some() && item.parent != row.parent {
            return settled("parent");
        }
        if item.checker_kind.is_some() && item.checker_kind != row.checker_kind {
            return settled("checker_kind");
        }
        let before = row.said();
        let after = item.patch.over(&before)?;
        self.holds(&after)?;
        if after.declared_spiffe != before.declared_spiffe {
            check_declared(&self.asked.trust_domain, &row.key, row.source, after.declared_spiffe.as_ref())?;
        }
        let mut found = Vec::new();
        if row.status == Status::Deleted {
            if !self.asked.recover {
                return Err(Refusal::Deleted(row.key.clone()));
            }
            let arrow = self.outlook.judge(self.world.roster, &row.key, Act::Recover, now)?;
            let (writes, audit) = performed(entry, Act::Recover, arrow, now, "apply", &self.asked.by);
            let status = self.outlook.status(self.world.roster, &row.key);
            found.push(Difference { field: "status".into(), before: json!(row.status), after: json!(status) });
            self.change.writes.extend(writes);
            self.change.audit.extend(audit);
        }
        let said = differences(&before, &after);
        if !said.is_empty() {
            let (audit, write) = edited(row, after, &said, &self.asked.by, now);
            self.change.audit.push(audit);
            self.change.writes.push(write);
            found.extend(said);
        }
        Ok(if found.is_empty() { Outcome::Unchanged } else { Outcome::Updated(found) })
    }
}

impl Past {
    /// The status that a service with this past begins with here.
    fn checked_status(&self, now: Timestamp) -> Result<Status, Refusal> {
        let moments = [
            ("first_registered", self.first_registered),
            ("first_seen", self.first_seen),
            ("last_seen", self.last_seen),
        ];
        if let Some((name, _)) = moments.into_iter().find(|(_, at)| at.is_some_and(|at| at > now)) {
            return Err(Refusal::Invalid(format!("{name} lies in the future")));
        }
        if self.first_seen.zip(self.last_seen).is_some_and(|(first, last)| last < first) {
            return Err(Refusal::Invalid("last_seen lies before first_seen".into()));
        }
        let seen = self.first_seen.or(self.last_seen).is_some();
        Ok(match self.status {
            Some(barred @ (Status::Revoked | Status::Deleted)) => barred,
            Some(Status::Pending | Status::Active | Status::Inactive) | None if seen => Status::Inactive,
            Some(Status::Pending | Status::Active | Status::Inactive) | None => Status::Pending,
        })
    }
}

#[cfg(test)]
mod tests;
