//! The chain: what is hashed, and how a break is found. Pure.
//!
//! `hash = SHA-256("rollcall-audit1" ‖ prev ‖ epoch ‖ first ‖ last ‖ count ‖ event…)`; numbers are 64 bits,
//! big-endian, `prev` is 32 bytes. An event is its length (u64) and then: seq (u64), at (i64, milliseconds),
//! action, actor, object, request id, details. A text is its length in bytes (u64) and its UTF-8; the request
//! id has a byte before it, 0 where there is none. Details are JSON without white space, members in byte order
//! of their names, as `serde_json` prints a sorted map.

use rollcall_common::{id::Seq, time::Timestamp};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use crate::store::rows::{AuditDraft, AuditEvent, SealHash, SealRow};

const DOMAIN: &[u8] = b"rollcall-audit1";
/// Most events of a batch.
pub const BATCH: usize = 1_000;

/// An event as it is hashed.
#[must_use]
pub fn canonical(event: &AuditEvent) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let draft = &event.draft;
    out.extend_from_slice(&event.seq.0.to_be_bytes());
    out.extend_from_slice(&draft.at.0.to_be_bytes());
    for part in [&draft.action, &draft.actor, &draft.object] {
        text(&mut out, part);
    }
    match &draft.request_id {
        Some(id) => {
            out.push(1);
            text(&mut out, id);
        }
        None => out.push(0),
    }
    let mut details = String::from("{");
    for (n, (name, value)) in draft.details.iter().enumerate() {
        if n > 0 {
            details.push(',');
        }
        details.push_str(&Value::from(name.as_str()).to_string());
        details.push(':');
        json(&mut details, value);
    }
    details.push('}');
    text(&mut out, &details);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Sorted by itself: whether a map of `serde_json` is sorted depends on how it was built.
fn json(out: &mut String, value: &Value) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_bytes());
            out.push('{');
            for (n, (name, value)) in members.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                json(out, value);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                json(out, item);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

/// The hash of a batch.
#[must_use]
pub fn hash(prev: SealHash, epoch: u64, events: &[AuditEvent]) -> SealHash {
    let seq = |event: Option<&AuditEvent>| event.map_or(0, |event| event.seq.0);
    let mut hasher = Sha256::new();
    hasher.update(DOMAIN);
    hasher.update(prev.0);
    for number in [epoch, seq(events.first()), seq(events.last()), events.len() as u64] {
        hasher.update(number.to_be_bytes());
    }
    for event in events {
        let bytes = canonical(event);
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(&bytes);
    }
    SealHash(hasher.finalize().into())
}

/// Seals events behind the last seal; `None` where there are none.
#[must_use]
pub fn seal(last: Option<&SealRow>, epoch: u64, events: &[AuditEvent], now: Timestamp) -> Option<SealRow> {
    let (first, newest) = (events.first()?.seq, events.last()?.seq);
    let prev = last.map_or_else(SealHash::default, |last| last.hash);
    Some(SealRow {
        no: last.map_or(1, |last| last.no.saturating_add(1)),
        epoch,
        first,
        last: newest,
        count: events.len() as u64,
        prev,
        hash: hash(prev, epoch, events),
        sealed_at: now,
        until: events.iter().map(|event| event.draft.at).max().unwrap_or(now),
        retired_at: None,
    })
}

/// Where a chain does not hold, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// An event of the batch is not what was sealed.
    #[error("batch {no} (seq {first} to {last}): an event was changed")]
    Changed {
        /// The batch.
        no: u64,
        /// Its first seq.
        first: Seq,
        /// Its last seq.
        last: Seq,
    },
    /// Events are not there.
    #[error("batch {no} (seq {first} to {last}): {found} of {sealed} events are there")]
    Missing {
        /// The batch.
        no: u64,
        /// Its first seq.
        first: Seq,
        /// Its last seq.
        last: Seq,
        /// How many are there.
        found: u64,
        /// How many were sealed.
        sealed: u64,
    },
    /// There are events that were not sealed.
    #[error("batch {no} (seq {first} to {last}): seq {extra} was not there when it was sealed")]
    Extra {
        /// The batch.
        no: u64,
        /// Its first seq.
        first: Seq,
        /// Its last seq.
        last: Seq,
        /// One that was not sealed.
        extra: Seq,
    },
    /// A seal is missing, or does not follow the one before it.
    #[error("seal {no} does not follow the one before it: a seal was changed, removed or slipped in")]
    Seal {
        /// The number where the chain breaks.
        no: u64,
    },
    /// The chain holds, and is not the one whose head was noted.
    #[error("the chain does not contain the head {0}: its end was cut off, or it was written anew")]
    Head(SealHash),
}

/// Follows a chain.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    no: u64,
    last: Seq,
    hash: SealHash,
    wanted: Option<SealHash>,
}

impl Checker {
    /// Begins at the first seal, or behind one that is trusted. `wanted` is a head that must be met.
    #[must_use]
    pub fn behind(seal: Option<&SealRow>, wanted: Option<SealHash>) -> Self {
        let wanted = wanted.filter(|wanted| seal.is_none_or(|seal| seal.hash != *wanted));
        match seal {
            Some(seal) => Self { no: seal.no, last: seal.last, hash: seal.hash, wanted },
            None => Self { wanted, ..Self::default() },
        }
    }

    /// The seq behind which the next batch's events are looked for.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }

    /// The number of the last seal that holds.
    #[must_use]
    pub fn no(&self) -> u64 {
        self.no
    }

    /// The hash of the last seal that holds.
    #[must_use]
    pub fn head(&self) -> SealHash {
        self.hash
    }

    /// Takes the next seal with all events behind the last one up to its end.
    ///
    /// # Errors
    /// The break.
    pub fn take(&mut self, seal: &SealRow, events: &[AuditEvent]) -> Result<(), Break> {
        let SealRow { no, first, last, count, .. } = *seal;
        if no != self.no + 1 || seal.prev != self.hash || first <= self.last || last < first {
            return Err(Break::Seal { no: self.no + 1 });
        }
        let found = events.len() as u64;
        let stranger = |event: &&AuditEvent| event.seq < first || event.seq > last;
        let extra = |event: &AuditEvent| Break::Extra { no, first, last, extra: event.seq };
        if let Some(event) = events.iter().find(stranger) {
            return Err(extra(event));
        }
        if seal.retired_at.is_some() {
            if let Some(event) = events.first() {
                return Err(extra(event));
            }
        } else if found < count {
            return Err(Break::Missing { no, first, last, found, sealed: count });
        } else if found > count {
            // Without the one that was slipped in, the hash is right.
            let culprit = (0..events.len()).find(|at| {
                let mut rest = events.to_vec();
                rest.remove(*at);
                hash(self.hash, seal.epoch, &rest) == seal.hash
            });
            return Err(culprit.and_then(|at| events.get(at)).or(events.last()).map_or(Break::Seal { no }, extra));
        } else if hash(self.hash, seal.epoch, events) != seal.hash {
            return Err(Break::Changed { no, first, last });
        }
        *self = Self { no, last, hash: seal.hash, wanted: self.wanted.filter(|wanted| *wanted != seal.hash) };
        Ok(())
    }

    /// Whether the head that must be met was.
    #[must_use]
    pub fn met(&self) -> bool {
        self.wanted.is_none()
    }

    /// Ends at the chain's end.
    ///
    /// # Errors
    /// [`Break::Head`] where the head that was asked for was not met.
    pub fn finish(&self) -> Result<(), Break> {
        self.wanted.map_or(Ok(()), |wanted| Err(Break::Head(wanted)))
    }
}
