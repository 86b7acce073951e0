//! Which events a reader wants, and which it may see.
//!
//! A service that leaves a caller's scope by a change of labels is told of once more, without what it
//! became: the reader would otherwise keep it for ever.

use std::borrow::Cow;

use bytes::Bytes;
use rollcall_common::{
    id::{Kind, Seq, ServiceId, ServiceKey},
    lifecycle::Status,
};

use super::super::{
    error::{Problem, ProblemCode},
    filter::{LabelError, LabelTest, invalid, name_of, words as read_words},
};
use crate::{
    registry::feed::{Batch, EventKind, Kept, Subject},
    scope::Scope,
};

/// Most label tests of one reader.
const MAX_LABELS: usize = 16;

/// A reader's wish, within what it may see.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    scope: Scope,
    types: Vec<EventKind>,
    kinds: Vec<Kind>,
    statuses: Vec<Status>,
    id: Option<ServiceId>,
    parent: Option<ServiceId>,
    subtree: Option<ServiceKey>,
    labels: Vec<LabelTest>,
}

/// How an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Whole,
    /// It left the reader's scope.
    Left,
    Hidden,
}

impl Filter {
    pub(super) fn read(query: &[(String, String)], scope: &Scope) -> Result<Self, Problem> {
        let mut filter = Self {
            scope: scope.clone(),
            types: Vec::new(),
            kinds: Vec::new(),
            statuses: Vec::new(),
            id: None,
            parent: None,
            subtree: None,
            labels: Vec::new(),
        };
        for (name, value) in query {
            match name.as_str() {
                "type" => {
                    for word in value.split(',') {
                        let all = EventKind::ALL.map(EventKind::as_str);
                        let known = EventKind::of_word(word).ok_or_else(|| {
                            let detail = format!("an unknown type of event: use {}", all.join(", "));
                            Problem::new(ProblemCode::InvalidQuery, detail)
                                .with("parameter", "type")
                                .with("allowed", all.to_vec())
                        })?;
                        filter.types.push(known);
                    }
                }
                "kind" => read_words(name, value, &Kind::ALL, &mut filter.kinds)?,
                "status" => read_words(name, value, &Status::ALL, &mut filter.statuses)?,
                "id" => filter.id = Some(name_of(name, value)?),
                "parent" => filter.parent = Some(name_of(name, value)?),
                "subtree" => {
                    let key = value.parse::<ServiceKey>().map_err(|error| invalid(name, error.to_string()))?;
                    filter.subtree = Some(key);
                }
                "label" if filter.labels.len() >= MAX_LABELS => {
                    return Err(invalid(name, format!("at most {MAX_LABELS} labels are tested at once")));
                }
                "label" => {
                    let test = value.parse().map_err(|error: LabelError| invalid(name, error.to_string()))?;
                    filter.labels.push(test);
                }
                // The guard has refused what is not declared; the rest is the handler's.
                _ => {}
            }
        }
        Ok(filter)
    }

    /// Whether every event passes whole.
    fn is_open(&self) -> bool {
        self.scope.is_everything()
            && self.types.is_empty()
            && self.kinds.is_empty()
            && self.statuses.is_empty()
            && self.id.is_none()
            && self.parent.is_none()
            && self.subtree.is_none()
            && self.labels.is_empty()
    }

    fn sight(&self, kept: &Kept) -> Sight {
        let subject = &kept.subject;
        let left = !self.scope.admits(&subject.labels);
        if left && !subject.labels_before.as_ref().is_some_and(|before| self.scope.admits(before)) {
            return Sight::Hidden;
        }
        let wanted = any(&self.types, kept.kind)
            && any(&self.kinds, subject.key.kind)
            && any(&self.statuses, subject.status)
            && self.id.as_ref().is_none_or(|id| subject.key.id == *id)
            && self.parent.as_ref().is_none_or(|parent| subject.parent.as_ref() == Some(parent))
            && self.subtree.as_ref().is_none_or(|top| is_within(subject, top))
            && self.labels.iter().all(|test| carries(subject, test));
        match (wanted, left) {
            (false, _) => Sight::Hidden,
            (true, false) => Sight::Whole,
            (true, true) => Sight::Left,
        }
    }

    /// What a reader at a position is sent of a batch. All that a reader without a wish gets is shared.
    pub(super) fn frames(&self, batch: &Batch, after: Seq) -> Bytes {
        if self.is_open() {
            return batch.frames_after(after);
        }
        let mut out = Vec::new();
        for kept in batch.events().iter().filter(|kept| kept.seq > after) {
            match self.sight(kept) {
                Sight::Hidden => {}
                Sight::Whole => out.extend_from_slice(batch.frame(kept)),
                Sight::Left => {
                    let frame = batch.frame(kept);
                    let id = frame.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    out.extend_from_slice(id);
                    out.extend_from_slice(b"\nevent: service.left\ndata: ");
                    out.extend_from_slice(left(kept).as_bytes());
                    out.extend_from_slice(b"\n\n");
                }
            }
        }
        out.into()
    }

    /// One event as a poll shows it.
    pub(super) fn json<'b>(&self, batch: &'b Batch, kept: &Kept) -> Option<Cow<'b, [u8]>> {
        match self.sight(kept) {
            Sight::Hidden => None,
            Sight::Whole => Some(batch.json(kept).into()),
            Sight::Left => Some(left(kept).into_bytes().into()),
        }
    }
}

/// That a service is out of the reader's reach from now on. Kind and id were known to it.
fn left(kept: &Kept) -> String {
    let key = &kept.subject.key;
    let (seq, at) = (kept.seq, kept.at);
    format!(r#"{{"seq":{seq},"at":"{at}","type":"service.left","kind":"{}","id":"{}"}}"#, key.kind, key.id)
}

fn any<T: PartialEq>(wanted: &[T], found: T) -> bool {
    wanted.is_empty() || wanted.contains(&found)
}

fn is_within(subject: &Subject, top: &ServiceKey) -> bool {
    subject.key == *top
        || subject.key.kind.parent() == Some(top.kind) && subject.parent.as_ref() == Some(&top.id)
        || top.kind == Kind::Poller && subject.poller.as_ref() == Some(&top.id)
}

/// A test passes on the labels before or after.
fn carries(subject: &Subject, test: &LabelTest) -> bool {
    let mut carriers = std::iter::once(&subject.labels).chain(&subject.labels_before);
    carriers.any(|labels| test.passes(labels))
}
