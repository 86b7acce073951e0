//! The registry as its trait's documentation reads, and no cleverer: maps, and a copy for each change.

use std::collections::BTreeMap;

use rollcall_common::{
    id::{Seq, ServiceKey},
    identity::Serial,
    time::Timestamp,
    token::TokenId,
};

use crate::store::{
    Position,
    rows::{
        AnswerKey, AnswerRow, ApprovalRow, AuditEvent, Change, Conflict, CredentialRow, HoldRow, IdentityRow,
        IntervalRow, JobRow, Loaded, PackageId, PackageRow, RowId, ServiceRow, TokenRow, TokenUse, WindowRow, Write,
    },
};

/// What each write and each event of a change took.
pub(super) type Taken = (Vec<Option<Seq>>, Vec<Seq>);

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) seq: Seq,
    pub(super) services: BTreeMap<ServiceKey, ServiceRow>,
    pub(super) identities: BTreeMap<ServiceKey, IdentityRow>,
    denied: BTreeMap<Serial, Timestamp>,
    tokens: BTreeMap<TokenId, TokenRow>,
    uses: BTreeMap<(TokenId, [u8; 32]), TokenUse>,
    credentials: BTreeMap<TokenId, CredentialRow>,
    jobs: BTreeMap<String, JobRow>,
    holds: BTreeMap<String, HoldRow>,
    pub(super) windows: BTreeMap<RowId, WindowRow>,
    pub(super) answers: BTreeMap<AnswerKey, AnswerRow>,
    pub(super) packages: BTreeMap<PackageId, PackageRow>,
    approvals: BTreeMap<RowId, ApprovalRow>,
    /// In the order of their begin in the store.
    pub(super) intervals: Vec<IntervalRow>,
    pub(super) audit: Vec<AuditEvent>,
}

impl Model {
    pub(super) fn change(&mut self, change: &Change, at: Timestamp) -> Result<Taken, Conflict> {
        let mut next = self.clone();
        let rows = change.writes.iter().map(|write| next.write(write, at, self.seq)).collect::<Result<_, _>>()?;
        let mut events = Vec::new();
        for draft in &change.audit {
            let seq = next.take();
            next.audit.push(AuditEvent { seq, draft: draft.clone() });
            events.push(seq);
        }
        *self = next;
        Ok((rows, events))
    }

    fn take(&mut self) -> Seq {
        self.seq = self.seq.next();
        self.seq
    }

    fn expected(&mut self, key: &ServiceKey, expect: Seq, base: Seq) -> Result<&mut ServiceRow, Conflict> {
        let row = self.services.get_mut(key).ok_or(Conflict::Missing)?;
        if row.seq == expect || row.seq > base { Ok(row) } else { Err(Conflict::Stale) }
    }

    fn write(&mut self, write: &Write, at: Timestamp, base: Seq) -> Result<Option<Seq>, Conflict> {
        match write.clone() {
            Write::InsertService(row) => {
                let seq = self.take();
                if self.services.contains_key(&row.key) {
                    return Err(Conflict::Exists);
                }
                self.services.insert(row.key.clone(), ServiceRow { seq, ..*row });
                Ok(Some(seq))
            }
            Write::SetStatus { service, expect, to, at, seen, archived } => {
                let seq = self.take();
                let row = self.expected(&service, expect, base)?;
                (row.status, row.status_since, row.archived, row.seq) = (to, at, archived, seq);
                row.first_seen = row.first_seen.or(seen);
                row.last_seen = row.last_seen.max(seen);
                Ok(Some(seq))
            }
            Write::Describe { service, expect, labels, metadata } => {
                let seq = self.take();
                let row = self.expected(&service, expect, base)?;
                (row.labels, row.metadata, row.seq) = (labels, metadata, seq);
                Ok(Some(seq))
            }
            Write::Edit { service, expect, said } => {
                let seq = self.take();
                let row = self.expected(&service, expect, base)?;
                row.say(&said);
                row.seq = seq;
                Ok(Some(seq))
            }
            Write::Note { service, health, facts } => {
                let row = self.services.get_mut(&service).ok_or(Conflict::Missing)?;
                let said = health.is_some();
                row.health = health.or(row.health.take());
                row.facts = facts.or(row.facts.take());
                Ok(said.then(|| self.take()))
            }
            Write::Progress { service, said } => {
                self.services.get_mut(&service).ok_or(Conflict::Missing)?.progress = Some(said);
                Ok(Some(self.take()))
            }
            Write::PutSettings { service, expect, row } => {
                let seq = self.take();
                let held = self.expected(&service, expect, base)?;
                (held.settings, held.seq) = (Some(row), seq);
                Ok(Some(seq))
            }
            Write::KeepReported { service, row } => {
                self.services.get_mut(&service).ok_or(Conflict::Missing)?.reported = row;
                Ok(Some(self.take()))
            }
            Write::Announce { service, expect, row, metadata } => {
                let seq = self.take();
                let held = self.expected(&service, expect, base)?;
                (held.announced, held.metadata, held.seq) = (Some(row), metadata, seq);
                Ok(Some(seq))
            }
            Write::RemoveService { service, expect } => {
                self.expected(&service, expect, base)?;
                self.services.remove(&service);
                self.identities.remove(&service);
                self.intervals.retain(|row| row.service != service);
                Ok(Some(self.take()))
            }
            Write::PutIdentity { row, expect } => {
                if !self.services.contains_key(&row.service) {
                    return Err(Conflict::Missing);
                }
                if self.identities.get(&row.service).map(IdentityRow::latest) != expect {
                    return Err(Conflict::Stale);
                }
                let keys = |row: &IdentityRow| [Some(row.current.key), row.pending.as_ref().map(|cert| cert.key)];
                let others = self.identities.values().filter(|other| other.service != row.service);
                let mut taken = others.flat_map(keys).flatten();
                if taken.any(|key| keys(&row).contains(&Some(key))) {
                    return Err(Conflict::KeyInUse);
                }
                self.identities.insert(row.service.clone(), *row);
                Ok(Some(self.take()))
            }
            Write::DropIdentity(service) => {
                let bound = self.identities.remove(&service).is_some();
                Ok(bound.then(|| self.take()))
            }
            Write::Deny { serial, until } => {
                let end = self.denied.entry(serial).or_insert(until);
                *end = until.max(*end);
                Ok(None)
            }
            Write::Allow(serial) => {
                self.denied.remove(&serial);
                Ok(None)
            }
            Write::InsertToken(row) => {
                let seq = self.take();
                if self.tokens.contains_key(&row.id) {
                    return Err(Conflict::Exists);
                }
                self.tokens.insert(row.id, TokenRow { seq, ..*row });
                Ok(Some(seq))
            }
            Write::RevokeToken { token, at } => {
                let seq = self.take();
                let row = self.tokens.get_mut(&token).ok_or(Conflict::Missing)?;
                if row.revoked_at.is_some() {
                    return Err(Conflict::TokenEnded);
                }
                (row.revoked_at, row.seq) = (Some(at), seq);
                Ok(Some(seq))
            }
            Write::UseToken { token, key, service, at, from } => {
                let row = self.tokens.get(&token).ok_or(Conflict::Missing)?;
                if self.uses.contains_key(&(token, key.0)) {
                    return Ok(None);
                }
                let policy = &row.policy;
                if row.revoked_at.is_some() || at < policy.not_before || at > policy.expires_at {
                    return Err(Conflict::TokenEnded);
                }
                if row.uses >= policy.max_uses {
                    return Err(Conflict::TokenSpent);
                }
                let seq = self.take();
                if let Some(row) = self.tokens.get_mut(&token) {
                    (row.uses, row.seq) = (row.uses + 1, seq);
                    (row.last_used_at, row.last_used_from) = (Some(at), Some(from));
                }
                self.uses.insert((token, key.0), TokenUse { token, key, service });
                Ok(Some(seq))
            }
            Write::InsertCredential(row) => {
                if self.credentials.contains_key(&row.id) {
                    return Err(Conflict::Exists);
                }
                self.credentials.insert(row.id, row);
                Ok(None)
            }
            Write::TouchCredential { id, at } => {
                if let Some(row) = self.credentials.get_mut(&id) {
                    row.last_used_at = row.last_used_at.max(Some(at));
                }
                Ok(None)
            }
            Write::RevokeCredential { id, at } => {
                let row = self.credentials.get_mut(&id).ok_or(Conflict::Missing)?;
                row.revoked_at = row.revoked_at.or(Some(at));
                Ok(None)
            }
            Write::BeginInterval(row) => {
                if !self.services.contains_key(&row.service) {
                    return Err(Conflict::Missing);
                }
                for open in self.intervals.iter_mut().filter(|open| open.service == row.service && open.to.is_none()) {
                    open.to = Some(row.from.max(open.from));
                }
                self.intervals.push(IntervalRow { recorded_at: Some(at), ..*row });
                Ok(Some(self.take()))
            }
            Write::PutJob(row) => {
                self.jobs.insert(row.name.clone(), *row);
                Ok(None)
            }
            Write::PutHold(row) => {
                self.holds.insert(row.name.clone(), *row);
                Ok(None)
            }
            Write::DropHold(name) => {
                self.holds.remove(&name);
                Ok(None)
            }
            Write::PutWindow { row, expect } => {
                let seq = self.take();
                match (self.windows.get(&row.id).map(|old| old.seq), expect) {
                    (None, None) => {}
                    (Some(old), Some(expect)) if old == expect || old > base => {}
                    (Some(_), Some(_)) => return Err(Conflict::Stale),
                    (Some(_), None) => return Err(Conflict::Exists),
                    (None, Some(_)) => return Err(Conflict::Missing),
                }
                self.windows.insert(row.id, WindowRow { seq, ..*row });
                Ok(Some(seq))
            }
            Write::RemoveToken(token) => {
                self.tokens.remove(&token).ok_or(Conflict::Missing)?;
                self.uses.retain(|(of, _), _| *of != token);
                self.approvals.retain(|_, row| row.token != token);
                Ok(None)
            }
            Write::PutApproval(row) => {
                let seq = self.take();
                if !self.tokens.contains_key(&row.token) {
                    return Err(Conflict::Missing);
                }
                self.approvals.retain(|_, old| (old.token, old.key) != (row.token, row.key));
                self.approvals.insert(row.id, ApprovalRow { seq, ..*row });
                Ok(Some(seq))
            }
            Write::DropApproval(id) => {
                self.approvals.remove(&id);
                Ok(None)
            }
            Write::KeepAnswer(row) => {
                if self.answers.contains_key(&row.of) {
                    return Err(Conflict::Exists);
                }
                let seq = if self.seq > base { self.seq } else { Seq::default() };
                self.answers.insert(row.of.clone(), AnswerRow { seq, ..*row });
                Ok(None)
            }
            Write::ForgetAnswer(of) => {
                self.answers.remove(&of);
                Ok(None)
            }
            Write::DropWindow(id) => {
                self.windows.remove(&id);
                Ok(None)
            }
            Write::PutPackage { row, expect } => {
                let seq = self.take();
                match (self.packages.get(&row.id).map(|old| old.seq), expect) {
                    (None, None) => {}
                    (Some(old), Some(expect)) if old == expect || old > base => {}
                    (Some(_), Some(_)) => return Err(Conflict::Stale),
                    (Some(_), None) => return Err(Conflict::Exists),
                    (None, Some(_)) => return Err(Conflict::Missing),
                }
                self.packages.insert(row.id, PackageRow { seq, ..*row });
                Ok(Some(seq))
            }
            Write::DropPackage(id) => {
                self.packages.remove(&id);
                Ok(None)
            }
        }
    }

    pub(super) fn flush(&mut self, seen: &[(ServiceKey, Timestamp)]) {
        for (key, at) in seen {
            if let Some(row) = self.services.get_mut(key) {
                row.last_seen = row.last_seen.max(Some(*at));
            }
        }
    }

    /// What a load must show, in the order of the keys.
    pub(super) fn loaded(&self, epoch: u64) -> Loaded {
        let open = self.intervals.iter().filter(|row| row.to.is_none());
        let mut loaded = Loaded {
            position: Position { epoch, seq: self.seq },
            services: self.services.values().cloned().collect(),
            identities: self.identities.values().cloned().collect(),
            denied: self.denied.iter().map(|(serial, until)| (*serial, *until)).collect(),
            tokens: self.tokens.values().cloned().collect(),
            token_uses: self.uses.values().cloned().collect(),
            credentials: self.credentials.values().cloned().collect(),
            open_intervals: open.cloned().collect(),
            marks: Vec::new(),
            jobs: self.jobs.values().cloned().collect(),
            holds: self.holds.values().cloned().collect(),
            windows: self.windows.values().cloned().collect(),
            packages: self.packages.values().cloned().collect(),
            approvals: self.approvals.values().cloned().collect(),
            knocks: Vec::new(),
            answers: self.answers.values().cloned().collect(),
        };
        sort(&mut loaded);
        loaded
    }
}

/// Brings what was loaded into the order of the keys.
pub(super) fn sort(loaded: &mut Loaded) {
    loaded.services.sort_by(|a, b| a.key.cmp(&b.key));
    loaded.identities.sort_by(|a, b| a.service.cmp(&b.service));
    loaded.denied.sort();
    loaded.tokens.sort_by_key(|row| row.id);
    loaded.token_uses.sort_by_key(|row| (row.token, row.key.0));
    loaded.credentials.sort_by_key(|row| row.id);
    loaded.open_intervals.sort_by(|a, b| a.service.cmp(&b.service));
    loaded.jobs.sort_by(|a, b| a.name.cmp(&b.name));
    loaded.holds.sort_by(|a, b| a.name.cmp(&b.name));
    loaded.windows.sort_by_key(|row| row.id);
    loaded.packages.sort_by_key(|row| row.id);
    loaded.approvals.sort_by_key(|row| row.id);
    loaded.answers.sort_by(|a, b| a.of.cmp(&b.of));
}
