//! Requests that name themselves are done once: whoever repeats one is given the answer that it had.
//!
//! The answer is kept in the very change that it is about, so that a crash leaves both or neither. It owns
//! what is kept, for how long and how much of it, and the request that wraps another one ([`Once`]); it knows
//! nothing of headers and documents. Refusals are not kept: a request that was refused may pass the next time.
//!
//! An answer is kept for [`KEPT_FOR`]. Of one caller at most [`MAX_OF_CALLER`] are kept, the caller's own oldest one
//! goes first; altogether at most [`MAX_ANSWERS`] and [`MAX_BYTES`], the oldest of all goes first. One that goes
//! before its time is counted: its request, repeated, would be done again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use rollcall_common::{id::Seq, time::Timestamp};

use super::{Refusal, Request, World};
use crate::store::rows::{AnswerKey, AnswerRow, Change, Conflict, Fingerprint, Write};

/// How long an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Most answers of one caller.
pub const MAX_OF_CALLER: usize = 1_000;
/// Most answers altogether.
pub const MAX_ANSWERS: usize = 10_000;
/// Most bytes of their bodies altogether.
pub const MAX_BYTES: usize = 16 << 20;

/// The answers that are kept.
#[derive(Debug, Default)]
pub struct Answers {
    rows: BTreeMap<AnswerKey, Arc<AnswerRow>>,
    by_age: BTreeSet<(Timestamp, AnswerKey)>,
    callers: HashMap<String, BTreeSet<(Timestamp, String)>>,
    bytes: usize,
}

impl Answers {
    pub(super) fn from_rows(rows: &[AnswerRow]) -> Self {
        let mut answers = Self::default();
        for row in rows {
            answers.keep(row, row.seq);
        }
        answers
    }

    /// The answer to a request, if it is kept and not too old.
    #[must_use]
    pub fn get(&self, of: &AnswerKey, now: Timestamp) -> Option<&Arc<AnswerRow>> {
        self.rows.get(of).filter(|row| is_good(row, now))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn keep(&mut self, row: &AnswerRow, seq: Seq) {
        self.forget(&row.of);
        self.bytes = self.bytes.saturating_add(row.body.len());
        self.by_age.insert((row.at, row.of.clone()));
        self.callers.entry(row.of.caller.clone()).or_default().insert((row.at, row.of.key.clone()));
        self.rows.insert(row.of.clone(), Arc::new(AnswerRow { seq, ..row.clone() }));
    }

    pub(super) fn forget(&mut self, of: &AnswerKey) {
        let Some(row) = self.rows.remove(of) else { return };
        self.bytes = self.bytes.saturating_sub(row.body.len());
        self.by_age.remove(&(row.at, of.clone()));
        if let Some(own) = self.callers.get_mut(&of.caller) {
            own.remove(&(row.at, of.key.clone()));
            if own.is_empty() {
                self.callers.remove(&of.caller);
            }
        }
    }

    /// Who makes room for an answer: first of its caller, then of all, the oldest.
    fn room_for(&self, row: &AnswerRow) -> Vec<AnswerKey> {
        let own = self.callers.get(&row.of.caller);
        let too_many = (own.map_or(0, BTreeSet::len) + 1).saturating_sub(MAX_OF_CALLER);
        let oldest = own.into_iter().flatten().take(too_many);
        let caller = &row.of.caller;
        let mut going: Vec<_> = oldest.map(|(_, key)| AnswerKey { caller: caller.clone(), key: key.clone() }).collect();
        let (mut count, mut bytes) = (self.rows.len() + 1 - going.len(), self.bytes.saturating_add(row.body.len()));
        for (_, of) in &self.by_age {
            if count <= MAX_ANSWERS && bytes <= MAX_BYTES {
                break;
            }
            if !going.contains(of) {
                count -= 1;
                going.push(of.clone());
            }
            bytes = bytes.saturating_sub(self.rows.get(of).map_or(0, |row| row.body.len()));
        }
        going
    }
}

fn is_good(row: &AnswerRow, now: Timestamp) -> bool {
    now.since(row.at) < KEPT_FOR
}

/// What a request called itself, and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Whose name it is, and which.
    pub of: AnswerKey,
    /// What is asked.
    pub fingerprint: Fingerprint,
}

/// An answer in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its HTTP status.
    pub status: u16,
    /// Where that which was made is found.
    pub location: Option<String>,
    /// Its body, as JSON, without what is told once only.
    pub body: String,
    /// Whether it tells a secret beside that.
    pub secret: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Outcome<A> {
    /// It was done now; so many answers went before their time to keep this one.
    Done(A, usize),
    /// It was done before.
    Known(Arc<AnswerRow>),
}

/// A request that is done once, if it named itself.
pub struct Once<R, F> {
    /// What is asked for.
    pub request: R,
    /// Its name, if it has one.
    pub named: Option<Named>,
    /// What is told of the planned change.
    pub tell: F,
}

impl<R: fmt::Debug, F> fmt::Debug for Once<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("request", &self.request).field("named", &self.named).finish_non_exhaustive()
    }
}

impl<R: Request, F: Fn(&Change) -> Told + Send + 'static> Request for Once<R, F> {
    type Answer = Outcome<R::Answer>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Self::Answer), Refusal> {
        let answers = world.roster.answers();
        let now = world.now.wall;
        if let Some(named) = &self.named
            && let Some(row) = answers.get(&named.of, now)
        {
            if row.fingerprint != named.fingerprint {
                return Err(Refusal::NameReused);
            }
            return Ok((Change::default(), Outcome::Known(Arc::clone(row))));
        }
        let (mut change, answer) = self.request.plan(world)?;
        let Some(named) = &self.named else { return Ok((change, Outcome::Done(answer, 0))) };
        let Told { status, location, body, secret } = (self.tell)(&change);
        let Named { of, fingerprint } = named.clone();
        let row = AnswerRow { of, fingerprint, status, location, body, secret, at: now, seq: Seq::default() };
        let going = answers.room_for(&row);
        let early = going.iter().filter(|of| answers.get(of, now).is_some()).count();
        // Behind the row that it is about, whose seq it takes over.
        let at = change.writes.iter().rposition(makes).map_or(change.writes.len(), |at| at + 1);
        let outlived = answers.rows.contains_key(&row.of).then(|| row.of.clone());
        let forget = going.into_iter().chain(outlived).map(Write::ForgetAnswer);
        let writes: Vec<Write> = forget.chain([Write::KeepAnswer(Box::new(row))]).collect();
        change.writes.splice(at..at, writes);
        Ok((change, Outcome::Done(answer, early)))
    }

    fn conflict(&self, conflict: Conflict) -> Option<Refusal> {
        self.request.conflict(conflict)
    }
}

/// Whether a write makes what an answer is about.
fn makes(write: &Write) -> bool {
    matches!(
        write,
        Write::InsertService(_) | Write::InsertToken(_) | Write::PutPackage { .. } | Write::PutWindow { .. }
    )
}

/// Forgets answers whose time is over.
#[derive(Debug, Clone)]
pub struct ForgetAnswers {
    /// Those that were given before this moment.
    pub before: Timestamp,
    /// At most so many.
    pub most: usize,
}

impl Request for ForgetAnswers {
    type Answer = usize;

    fn plan(&self, world: World<'_>) -> Result<(Change, usize), Refusal> {
        let old = world.roster.answers().by_age.iter().take_while(|(at, _)| *at < self.before).take(self.most);
        let writes: Vec<_> = old.map(|(_, of)| Write::ForgetAnswer(of.clone())).collect();
        let count = writes.len();
        Ok((Change { writes, audit: Vec::new() }, count))
    }
}

#[cfg(test)]
mod tests;
