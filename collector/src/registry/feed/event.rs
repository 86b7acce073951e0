//! One event, and how it is printed.
//!
//! Its JSON is a contract like that of the API's views: fields are added, never changed. It is printed here
//! and not by each door, because a thousand readers are to share one print.

use std::collections::BTreeMap;

use rollcall_common::{
    health::Health,
    id::{Seq, ServiceId, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    service::Pairs,
    time::Timestamp,
};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A service was registered.
    Registered,
    /// What is registered of it changed: labels, metadata, parent, flags.
    Updated,
    /// Its lifecycle status changed.
    Status,
    /// Another presence is on record.
    Presence,
    /// Another health is on record.
    Health,
    /// Another progress is on record.
    Progress,
    /// Other settings are wanted of its sidecar, or in force there.
    Settings,
    /// An identity was bound, renewed or dropped.
    Identity,
    /// It was removed.
    Removed,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Registered,
        Self::Updated,
        Self::Status,
        Self::Presence,
        Self::Health,
        Self::Progress,
        Self::Settings,
        Self::Identity,
        Self::Removed,
    ];

    /// The word in the feed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "service.registered",
            Self::Updated => "service.updated",
            Self::Status => "service.status",
            Self::Presence => "service.presence",
            Self::Health => "service.health",
            Self::Progress => "service.progress",
            Self::Settings => "service.settings",
            Self::Identity => "service.identity",
            Self::Removed => "service.removed",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Whom an event is about, as far as filters and scopes ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Who.
    pub key: ServiceKey,
    /// The parent's id.
    pub parent: Option<ServiceId>,
    /// For checkers, the grandparent.
    pub poller: Option<ServiceId>,
    /// Its status after the event; the last one for a removal.
    pub status: Status,
    /// Its labels after the event; the last ones for a removal.
    pub labels: Pairs,
    /// Its labels before, where the event changed them.
    pub labels_before: Option<Pairs>,
}

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the commit order.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// To whom.
    pub subject: Subject,
    /// The presence on record.
    pub presence: Presence,
    /// The health on record.
    pub health: Health,
    /// Why, in one word or a sentence, where the record says so.
    pub reason: Option<String>,
    /// What it was before, by field.
    pub previous: BTreeMap<&'static str, Value>,
    /// More of what it is now, by field: what only this kind of event tells.
    pub now: BTreeMap<&'static str, Value>,
    /// Who did it, where somebody did.
    pub actor: Option<String>,
    /// The request that did it.
    pub request_id: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    seq: u64,
    epoch: u64,
    #[serde(serialize_with = "shown")]
    at: Timestamp,
    r#type: &'static str,
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poller: Option<&'a str>,
    status: &'static str,
    presence: &'static str,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    previous: &'a BTreeMap<&'static str, Value>,
    labels: &'a Pairs,
    #[serde(flatten)]
    now: &'a BTreeMap<&'static str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

fn shown<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl Event {
    /// Appends the event as one line of JSON.
    pub(super) fn print(&self, epoch: u64, into: &mut Vec<u8>) {
        let subject = &self.subject;
        let document = Document {
            seq: self.seq.0,
            epoch,
            at: self.at,
            r#type: self.kind.as_str(),
            kind: subject.key.kind.as_str(),
            id: subject.key.id.as_str(),
            parent: subject.parent.as_ref().map(ServiceId::as_str),
            poller: subject.poller.as_ref().map(ServiceId::as_str),
            status: subject.status.as_str(),
            presence: self.presence.as_str(),
            health: self.health.as_str(),
            reason: self.reason.as_deref(),
            previous: &self.previous,
            labels: &subject.labels,
            now: &self.now,
            actor: self.actor.as_deref(),
            request_id: self.request_id.as_deref(),
        };
        // Words, numbers and texts: printing them into memory cannot fail.
        let _ = serde_json::to_writer(into, &document);
    }
}
