//! Enrollments that an operator decides on: what waits, who may wait, and the decision.
//!
//! A request is bound to a token and a key. What was shown to the operator is what enrolls: a key that comes
//! back with other claims is a new request. Polls cost a write a minute at most.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use rollcall_common::{
    code::Code,
    id::{Seq, ServiceId, ServiceKey},
    identity::Pin,
    service::{CheckerKind, Pairs},
    time::Timestamp,
    token::TokenId,
};
use serde_json::{Value, json};

use super::{Refusal, Request, World, services::By, tokens::TokenState};
use crate::store::rows::{ApprovalRow, ApprovalState, Change, RowId, Write};

/// Requests of one token. Beyond it the oldest rejected one goes, or the newcomer is asked to come back.
pub const MAX_OF_TOKEN: usize = 1_000;
/// Requests altogether, with the same rule.
pub const MAX_ALTOGETHER: usize = 10_000;
/// How often a poll of an unchanged request is written down.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How often a key may change what it claims.
const CHANGE_EVERY: Duration = Duration::from_secs(10);
/// Shortest pause between two polls.
const POLL_FIRST: Duration = Duration::from_secs(5);
/// Longest pause between two polls.
const POLL_LAST: Duration = Duration::from_secs(300);

/// All requests in memory.
#[derive(Debug, Default)]
pub struct Approvals {
    rows: BTreeMap<RowId, Arc<ApprovalRow>>,
    by_key: HashMap<TokenId, HashMap<Pin, RowId>>,
}

impl Approvals {
    pub(super) fn from_rows(rows: &[ApprovalRow]) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.put(row, row.seq);
        }
        all
    }

    /// One request.
    #[must_use]
    pub fn get(&self, id: RowId) -> Option<&Arc<ApprovalRow>> {
        self.rows.get(&id)
    }

    /// The request of a key with a token.
    #[must_use]
    pub fn of(&self, token: TokenId, key: Pin) -> Option<&Arc<ApprovalRow>> {
        self.rows.get(self.by_key.get(&token)?.get(&key)?)
    }

    /// All requests, oldest first, behind one of them or from the first.
    pub fn after(&self, after: Option<RowId>) -> impl Iterator<Item = &Arc<ApprovalRow>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.rows.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, row)| row)
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

    fn of_token(&self, token: TokenId) -> usize {
        self.by_key.get(&token).map_or(0, HashMap::len)
    }

    /// Who makes room for a newcomer, where nobody has to (`None`), or nobody can (`Err`).
    fn room(&self, token: TokenId) -> Result<Option<RowId>, Refusal> {
        let of_token = self.of_token(token) >= MAX_OF_TOKEN;
        if !of_token && self.len() < MAX_ALTOGETHER {
            return Ok(None);
        }
        let rejected =
            |row: &&Arc<ApprovalRow>| row.state == ApprovalState::Rejected && (!of_token || row.token == token);
        self.rows.values().find(rejected).map(|row| Some(row.id)).ok_or(Refusal::Wire(Code::Busy))
    }

    pub(super) fn put(&mut self, row: &ApprovalRow, seq: Seq) {
        let old = self.by_key.entry(row.token).or_default().insert(row.key, row.id);
        if let Some(old) = old.filter(|old| *old != row.id) {
            self.rows.remove(&old);
        }
        self.rows.insert(row.id, Arc::new(ApprovalRow { seq, ..row.clone() }));
    }

    pub(super) fn drop_one(&mut self, id: RowId) {
        let Some(row) = self.rows.remove(&id) else { return };
        if let Some(keys) = self.by_key.get_mut(&row.token) {
            keys.remove(&row.key);
            if keys.is_empty() {
                self.by_key.remove(&row.token);
            }
        }
    }

    pub(super) fn drop_token(&mut self, token: TokenId) {
        for id in self.by_key.remove(&token).into_iter().flat_map(HashMap::into_values) {
            self.rows.remove(&id);
        }
    }
}

/// What a key asks for, after every check of its token has passed.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) token: TokenId,
    pub(super) key: Pin,
    pub(super) service: ServiceKey,
    pub(super) parent: Option<ServiceId>,
    pub(super) checker_kind: Option<CheckerKind>,
    pub(super) labels: Pairs,
    pub(super) metadata: Pairs,
    pub(super) from: String,
}

/// What becomes of a claim.
#[derive(Debug)]
pub(super) enum Gate {
    /// It was approved: it enrolls, and its request goes with that.
    Open(Write),
    /// It waits: what is written, and when to ask again.
    Wait(Change, Duration),
}

impl Claim {
    fn is_that_of(&self, row: &ApprovalRow) -> bool {
        self.service == row.service
            && self.parent == row.parent
            && self.checker_kind == row.checker_kind
            && self.labels == row.labels
            && self.metadata == row.metadata
    }

    /// Holds a claim against what an operator decided.
    pub(super) fn decide(self, world: World<'_>, by: &By) -> Result<Gate, Refusal> {
        let (approvals, now) = (world.roster.approvals(), world.now.wall);
        let Some(row) = approvals.of(self.token, self.key) else {
            let mut change = Change::default();
            change.writes.extend(approvals.room(self.token)?.map(Write::DropApproval));
            let row = self.row(now, now);
            change.audit.push(told(by, now, "approval.requested", &row));
            change.writes.push(Write::PutApproval(Box::new(row)));
            return Ok(Gate::Wait(change, POLL_FIRST));
        };
        let (same, quiet_for) = (self.is_that_of(row), now.since(row.last_asked));
        let pause = (now.since(row.first_asked) / 10).clamp(POLL_FIRST, POLL_LAST);
        match row.state {
            ApprovalState::Rejected => Err(Refusal::Wire(Code::ApprovalRejected)),
            ApprovalState::Approved if same => Ok(Gate::Open(Write::DropApproval(row.id))),
            ApprovalState::Pending if same && quiet_for >= TOUCH_EVERY => {
                let touched = ApprovalRow { last_asked: now, from: self.from, ..ApprovalRow::clone(row) };
                let writes = vec![Write::PutApproval(Box::new(touched))];
                Ok(Gate::Wait(Change { writes, audit: Vec::new() }, pause))
            }
            ApprovalState::Pending | ApprovalState::Approved if !same && quiet_for >= CHANGE_EVERY => {
                // What was approved, or shown, is not what asks now.
                let changed = ApprovalRow { id: row.id, ..self.row(row.first_asked, now) };
                let audit = vec![told(by, now, "approval.changed", &changed)];
                Ok(Gate::Wait(Change { writes: vec![Write::PutApproval(Box::new(changed))], audit }, pause))
            }
            ApprovalState::Pending | ApprovalState::Approved => Ok(Gate::Wait(Change::default(), pause)),
        }
    }

    fn row(self, first_asked: Timestamp, last_asked: Timestamp) -> ApprovalRow {
        ApprovalRow {
            id: id_of(self.token, self.key, first_asked),
            token: self.token,
            key: self.key,
            service: self.service,
            parent: self.parent,
            checker_kind: self.checker_kind,
            labels: self.labels,
            metadata: self.metadata,
            from: self.from,
            first_asked,
            last_asked,
            state: ApprovalState::Pending,
            decided_at: None,
            decided_by: None,
            reason: String::new(),
            seq: Seq::default(),
        }
    }
}

/// An id that follows from what it names, so that planning a request twice makes one request of it; ids sort
/// by the time of the first asking.
fn id_of(token: TokenId, key: Pin, at: Timestamp) -> RowId {
    use sha2::Digest as _;
    let digest: [u8; 32] = sha2::Sha256::new().chain_update(token.0).chain_update(key.0).finalize().into();
    let chance = digest.iter().take(10).fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let ms = u128::try_from(at.0).unwrap_or(0) & ((1 << 48) - 1);
    RowId::numbered((ms << 80) | chance)
}

fn told(by: &By, at: Timestamp, action: &str, row: &ApprovalRow) -> crate::store::rows::AuditDraft {
    let details = [
        ("approval", json!(row.id.to_string())),
        ("token", json!(row.token.to_string())),
        ("fingerprint", json!(row.key.to_string())),
        ("parent", json!(row.parent)),
        ("from", json!(row.from)),
    ];
    by.did(at, action, row.service.to_string(), details)
}

/// An operator's decision.
#[derive(Debug, Clone)]
pub struct Decide {
    /// Which request.
    pub id: RowId,
    /// Whether it may enroll.
    pub approve: bool,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who decides.
    pub by: By,
}

impl Request for Decide {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let row = world.roster.approvals().get(self.id).ok_or(Refusal::UnknownApproval(self.id))?;
        let (state, action) = if self.approve {
            (ApprovalState::Approved, "approval.approved")
        } else {
            (ApprovalState::Rejected, "approval.rejected")
        };
        if row.state == state {
            return Err(Refusal::Invalid(format!("the request is {state} already")));
        }
        let usable = world.roster.token(row.token).map(|token| TokenState::of(token, world.now.wall));
        if self.approve && usable != Some(TokenState::Usable) {
            let word = usable.map_or("gone", TokenState::as_str);
            return Err(Refusal::Invalid(format!("its token is {word}, so that it could not enroll any more")));
        }
        let decided = ApprovalRow {
            state,
            decided_at: Some(world.now.wall),
            decided_by: Some(self.by.actor.clone()),
            reason: self.reason.clone(),
            ..ApprovalRow::clone(row)
        };
        let mut audit = told(&self.by, world.now.wall, action, &decided);
        let more =
            [("before", json!(row.state.as_str())), ("after", json!(state.as_str())), ("reason", json!(self.reason))];
        audit.details.extend(more.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
        Ok((Change { writes: vec![Write::PutApproval(Box::new(decided))], audit: vec![audit] }, ()))
    }
}

#[cfg(test)]
mod tests;
