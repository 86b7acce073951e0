//! From a committed write to an event: a pure function of the write and of the row before and after it.
//!
//! Presence and health are fed as they are on record: memory shows them a moment earlier, but only what is
//! recorded has a place in the commit order. Whoever replays events over a snapshot ends with the roster.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rollcall_common::{
    health::{Health, Progress},
    id::{Seq, ServiceKey},
    lease::Presence,
    time::Timestamp,
};
use serde_json::{Value, json};

use super::event::{Event, EventKind, Subject};
use crate::{
    registry::settings::{Standing, progress_of, why},
    store::rows::{AuditDraft, Loaded, ServiceRow, Write},
};

/// What is on record of a service beside its row.
#[derive(Debug, Clone, Copy)]
struct Recorded {
    presence: Presence,
    health: Health,
    progress: Progress,
}

/// Turns writes into events; remembers of each service only what the event before told.
#[derive(Debug, Default)]
pub struct Deriver {
    recorded: HashMap<ServiceKey, Recorded>,
}

/// A committed write with what it took and what it changed.
#[derive(Debug, Clone, Copy)]
pub struct Telling<'a> {
    /// The write.
    pub write: &'a Write,
    /// The seq that it took.
    pub seq: Seq,
    /// The service before.
    pub before: Option<&'a Arc<ServiceRow>>,
    /// The service after.
    pub after: Option<&'a Arc<ServiceRow>>,
    /// The first audit event of the same change: it names who did it.
    pub audit: Option<&'a AuditDraft>,
    /// The time where the write itself names none.
    pub at: Timestamp,
}

/// The service that a write is about, and what it tells of it; `None` for what no reader of the feed sees.
#[must_use]
pub fn subject(write: &Write) -> Option<(&ServiceKey, EventKind)> {
    match write {
        Write::InsertService(row) => Some((&row.key, EventKind::Registered)),
        Write::SetStatus { service, .. } => Some((service, EventKind::Status)),
        Write::Describe { service, .. } | Write::Edit { service, .. } | Write::Announce { service, .. } => {
            Some((service, EventKind::Updated))
        }
        Write::Progress { service, .. } => Some((service, EventKind::Progress)),
        Write::PutSettings { service, .. } | Write::KeepReported { service, .. } => {
            Some((service, EventKind::Settings))
        }
        Write::Note { service, health: Some(_), .. } => Some((service, EventKind::Health)),
        Write::RemoveService { service, .. } => Some((service, EventKind::Removed)),
        Write::PutIdentity { row, .. } => Some((&row.service, EventKind::Identity)),
        Write::DropIdentity(service) => Some((service, EventKind::Identity)),
        Write::BeginInterval(row) => Some((&row.service, EventKind::Presence)),
        Write::Note { health: None, .. }
        | Write::Deny { .. }
        | Write::Allow(_)
        | Write::InsertToken(_)
        | Write::RevokeToken { .. }
        | Write::UseToken { .. }
        | Write::InsertCredential(_)
        | Write::RevokeCredential { .. }
        | Write::TouchCredential { .. }
        | Write::PutJob(_)
        | Write::PutHold(_)
        | Write::DropHold(_)
        | Write::PutWindow { .. }
        | Write::DropWindow(_)
        | Write::PutPackage { .. }
        | Write::DropPackage(_)
        | Write::RemoveToken(_)
        | Write::PutApproval(_)
        | Write::DropApproval(_)
        | Write::KeepAnswer(_)
        | Write::ForgetAnswer(_) => None,
    }
}

impl Deriver {
    /// Begins with what a store holds.
    #[must_use]
    pub fn from_loaded(loaded: &Loaded) -> Self {
        let mut deriver = Self::default();
        for row in &loaded.services {
            deriver.register(row);
        }
        for row in &loaded.open_intervals {
            if let Some(recorded) = deriver.recorded.get_mut(&row.service) {
                recorded.presence = row.presence;
            }
        }
        deriver
    }

    fn register(&mut self, row: &ServiceRow) -> Recorded {
        let recorded = Recorded { presence: Presence::NeverSeen, health: health_of(row), progress: progress_of(row) };
        self.recorded.insert(row.key.clone(), recorded);
        recorded
    }

    /// The event of a write, if it is one that is fed.
    pub fn take(&mut self, told: Telling<'_>) -> Option<Event> {
        let (key, kind) = subject(told.write)?;
        let row = told.after.or(told.before)?;
        if kind == EventKind::Registered {
            self.register(row);
        }
        let held = self.recorded.get(key).copied();
        let held = held.unwrap_or(Recorded {
            presence: Presence::NeverSeen,
            health: health_of(row),
            progress: progress_of(row),
        });
        let mut recorded = held;
        let (mut previous, mut now) = (BTreeMap::new(), BTreeMap::new());
        let (mut reason, mut at) = (None, told.audit.map_or(told.at, |audit| audit.at));
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "`subject` has met every write; the rest has no more to tell"
        )]
        match told.write {
            Write::BeginInterval(interval) => {
                recorded.presence = interval.presence;
                previous.insert("presence", json!(held.presence.as_str()));
                reason = Some(interval.cause.clone());
                at = interval.decided_at;
                now.insert("from", json!(interval.from.to_string()));
            }
            Write::Note { health: Some((report, said_at)), .. } => {
                recorded.health = report.health;
                previous.insert("health", json!(held.health.as_str()));
                reason = Some(report.reason.to_string()).filter(|reason| !reason.is_empty());
                at = *said_at;
            }
            Write::Progress { said: (report, said_at), .. } => {
                recorded.progress = report.progress;
                previous.insert("progress", json!(held.progress.as_str()));
                now.insert("progress", json!(report.progress.as_str()));
                reason = Some(report.reason.to_string()).filter(|reason| !reason.is_empty());
                at = *said_at;
            }
            Write::PutSettings { .. } | Write::KeepReported { .. } => {
                let (before, after) = (told.before.map(|row| settings_of(row)).unwrap_or_default(), settings_of(row));
                previous.extend(before.iter().filter(|(name, old)| after.get(*name) != Some(*old)).map(pair));
                now = after;
                reason = why(row).map(|why| why.to_string());
            }
            Write::SetStatus { to, .. } => {
                if let Some(before) = told.before.filter(|before| before.status != *to) {
                    previous.insert("status", json!(before.status.as_str()));
                }
                reason = told.audit.and_then(|audit| said(audit, "reason"));
            }
            Write::PutIdentity { row, .. } => {
                now.insert("generation", json!(row.latest().0));
            }
            Write::DropIdentity(_) => {
                now.insert("generation", Value::Null);
            }
            _ => {}
        }
        match kind {
            EventKind::Registered => now = fields(row),
            EventKind::Updated => {
                let (before, after) = (told.before.map(|row| fields(row)).unwrap_or_default(), fields(row));
                previous.extend(before.iter().filter(|(name, old)| after.get(*name) != Some(*old)).map(pair));
                now.extend(after.iter().filter(|(name, new)| before.get(*name) != Some(*new)).map(pair));
                let labels = told.before.filter(|before| before.labels != row.labels);
                previous.extend(labels.map(|before| ("labels", json!(before.labels))));
            }
            EventKind::Status
            | EventKind::Presence
            | EventKind::Health
            | EventKind::Progress
            | EventKind::Settings
            | EventKind::Identity
            | EventKind::Removed => {}
        }
        if kind == EventKind::Removed {
            self.recorded.remove(key);
        } else {
            self.recorded.insert(key.clone(), recorded);
        }
        let before = told.before.filter(|before| before.labels != row.labels);
        Some(Event {
            seq: told.seq,
            at,
            kind,
            subject: Subject {
                key: key.clone(),
                parent: row.parent.clone(),
                poller: row.poller.clone(),
                status: row.status,
                labels: row.labels.clone(),
                labels_before: before.map(|before| before.labels.clone()),
            },
            presence: recorded.presence,
            health: recorded.health,
            reason,
            previous,
            now,
            actor: told.audit.map(|audit| audit.actor.clone()),
            request_id: told.audit.and_then(|audit| audit.request_id.clone()),
        })
    }
}

fn health_of(row: &ServiceRow) -> Health {
    row.health.as_ref().map_or(Health::Unchecked, |(report, _)| report.health)
}

/// Where the settings of its sidecar stand.
fn settings_of(row: &ServiceRow) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("settings", json!(Standing::of(row).as_str())),
        ("revision", json!(row.settings.as_ref().map_or(0, |wanted| wanted.revision))),
        (
            "in_force",
            json!(row.reported.as_ref().filter(|reported| !reported.unsaid).map(|reported| reported.revision)),
        ),
    ])
}

fn said(audit: &AuditDraft, field: &str) -> Option<String> {
    audit.details.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn pair((name, value): (&&'static str, &Value)) -> (&'static str, Value) {
    (*name, value.clone())
}

/// What a registration says beyond what every event carries.
fn fields(row: &ServiceRow) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("checker_kind", json!(row.checker_kind.as_ref().map(|kind| kind.as_str()))),
        ("component_id", json!(row.component_id)),
        ("source", json!(row.source.as_str())),
        ("metadata", json!(row.metadata)),
        ("placeholder", json!(row.placeholder)),
        ("implicit_children", json!(row.implicit_children)),
        ("ephemeral_after", json!(row.ephemeral_after)),
        ("declared_spiffe", json!(row.declared_spiffe.as_ref().map(ToString::to_string))),
    ])
}
