//! Every service of the deployment in memory, in dense slots.
//!
//! A change reaches the roster only after the store has committed it, and by the very same
//! [`Write`]s: memory and store cannot disagree about what a change means. Reading is free of locks
//! beyond the one that the [`super::Registry`] holds; nothing here waits.

mod index;
mod packages;
pub mod text;
mod tree;
mod upkeep;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rollcall_common::{
    health::{HealthReport, HostFacts, ProgressReport},
    id::{Kind, Seq, ServiceId, ServiceKey},
    identity::{Pin, Serial},
    time::Timestamp,
    token::TokenId,
};

use self::tree::Tree;
pub use self::upkeep::Upkeep;
pub use self::{
    index::{Counted, Facet, Index},
    packages::Packages,
    tree::Below,
};
use super::feed;
use super::{answers::Answers, approvals::Approvals};
use crate::store::{
    Position,
    rows::{Applied, Change, CredentialRow, IdentityRow, Loaded, ServiceRow, TokenRow, Write},
};

/// Services that one collector holds, those that were removed a moment ago included.
pub const MAX_SERVICES: usize = super::leases::MAX_LEASES;

/// Place of a service in the lease table and the roster. A place is given to other services, one after the other, and
/// its term tells them apart: sessions, notices and links may still hold the slot of one that was removed, and find
/// nobody there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    number: u32,
    term: u32,
}

impl Slot {
    /// A place in one of its terms.
    #[must_use]
    pub(crate) const fn new(number: u32, term: u32) -> Self {
        Self { number, term }
    }

    /// The place's number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    pub(super) fn term(self) -> u32 {
        self.term
    }

    /// The place once its service is gone.
    pub(super) fn next_term(self) -> Self {
        Self { term: self.term.wrapping_add(1), ..self }
    }

    pub(crate) fn index(self) -> usize {
        usize::try_from(self.number).unwrap_or(usize::MAX)
    }
}

/// A place, and who has it in its present term.
#[derive(Debug, Default)]
struct Place {
    term: u32,
    entry: Option<Entry>,
}

/// One service in memory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the lease table.
    pub slot: Slot,
    /// What is registered.
    pub row: Arc<ServiceRow>,
    /// The identity bound to it.
    pub identity: Option<Arc<IdentityRow>>,
}

/// What a sidecar said that is shown before it is recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) health: Option<(HealthReport, Timestamp)>,
    pub(super) facts: Option<HostFacts>,
    pub(super) progress: Option<(ProgressReport, Timestamp)>,
}

/// A service's row before and after a write.
pub(super) type Rows<'a> = (Option<&'a Arc<ServiceRow>>, Option<&'a Arc<ServiceRow>>);

/// All services, tokens and credentials.
#[derive(Debug)]
pub struct Roster {
    places: Vec<Place>,
    /// Places that may be given away again.
    free: Vec<u32>,
    /// How many places there may be.
    most: usize,
    by_key: BTreeMap<ServiceKey, Slot>,
    tree: Tree,
    index: Index,
    keys: HashMap<Pin, ServiceKey>,
    denied: HashMap<Serial, Timestamp>,
    tokens: BTreeMap<TokenId, Arc<TokenRow>>,
    uses: HashMap<TokenId, HashMap<Pin, ServiceKey>>,
    approvals: Approvals,
    answers: Answers,
    credentials: HashMap<TokenId, Arc<CredentialRow>>,
    upkeep: Upkeep,
    packages: Packages,
    position: Position,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            most: MAX_SERVICES,
            by_key: BTreeMap::new(),
            tree: Tree::default(),
            index: Index::default(),
            keys: HashMap::new(),
            denied: HashMap::new(),
            tokens: BTreeMap::new(),
            uses: HashMap::new(),
            approvals: Approvals::default(),
            answers: Answers::default(),
            credentials: HashMap::new(),
            upkeep: Upkeep::default(),
            packages: Packages::default(),
            position: Position::default(),
        }
    }
}

impl Roster {
    /// Fills a roster from a store.
    #[must_use]
    pub fn from_loaded(loaded: &Loaded) -> Self {
        let upkeep = Upkeep::from_loaded(loaded);
        let packages = Packages::from_loaded(loaded);
        let approvals = Approvals::from_rows(&loaded.approvals);
        let answers = Answers::from_rows(&loaded.answers);
        let mut roster = Self { upkeep, packages, approvals, answers, position: loaded.position, ..Self::default() };
        for row in &loaded.services {
            roster.insert(row.clone());
        }
        for identity in &loaded.identities {
            roster.bind(identity);
        }
        roster.denied.extend(loaded.denied.iter().copied());
        for token in &loaded.tokens {
            roster.tokens.insert(token.id, Arc::new(token.clone()));
        }
        for used in &loaded.token_uses {
            roster.uses.entry(used.token).or_default().insert(used.key, used.service.clone());
        }
        for credential in &loaded.credentials {
            roster.credentials.insert(credential.id, Arc::new(credential.clone()));
        }
        roster
    }

    /// One service.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&Entry> {
        self.at(*self.by_key.get(key)?)
    }

    /// The service in a slot.
    #[must_use]
    pub fn at(&self, slot: Slot) -> Option<&Entry> {
        self.places.get(slot.index()).filter(|place| place.term == slot.term)?.entry.as_ref()
    }

    fn at_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.places.get_mut(slot.index()).filter(|place| place.term == slot.term)?.entry.as_mut()
    }

    /// How many services more can be registered. A removed one's place counts once it was released.
    #[must_use]
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.places.len()).saturating_add(self.free.len())
    }

    /// Gives the place of a removed service to whoever comes: nobody touches its lease any more.
    pub(super) fn release(&mut self, slot: Slot) {
        if self.places.get(slot.index()).is_some_and(|place| place.entry.is_none()) {
            self.free.push(slot.number);
        }
    }

    /// Has room for so many services only.
    #[cfg(test)]
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// Services in key order, of one kind or of all, after a key: the seek of a page. It costs the same
    /// wherever it begins.
    pub fn seek(&self, kind: Option<Kind>, after: Option<&ServiceKey>) -> impl Iterator<Item = &Entry> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        // No id sorts before this one.
        let first = kind.and_then(|kind| Some(ServiceKey::new(kind, ServiceId::new("0").ok()?)));
        let from = match (after, first) {
            (Some(after), Some(first)) if *after < first => Included(first),
            (Some(after), _) => Excluded(after.clone()),
            (None, Some(first)) => Included(first),
            (None, None) => Unbounded,
        };
        self.by_key
            .range((from, Unbounded))
            .take_while(move |(key, _)| kind.is_none_or(|kind| key.kind == kind))
            .filter_map(|(_, slot)| self.at(*slot))
    }

    /// Who has what, and how many there are of each.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Services that have one of several things that exclude each other, in key order, of one kind or of all,
    /// after a key: the seek of a page, at the same cost wherever it begins.
    pub fn seek_having<'a>(
        &'a self,
        facets: &'a [Facet],
        kind: Option<Kind>,
        after: Option<&ServiceKey>,
    ) -> impl Iterator<Item = &'a Entry> + 'a {
        let from = start(kind, after);
        self.index
            .seek(facets, from.as_ref())
            .take_while(move |(key, _)| kind.is_none_or(|kind| key.kind == kind))
            .filter_map(|(_, slot)| self.at(slot))
    }

    /// Every service, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_key.values().filter_map(|slot| self.at(*slot))
    }

    /// How many services there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many services stand below one. Costs the same whatever their number.
    #[must_use]
    pub fn below(&self, key: &ServiceKey) -> Below {
        self.tree.below(key)
    }

    /// How many of those that stand below one were registered by reports. Costs the same whatever their number.
    #[must_use]
    pub fn implicit_below(&self, key: &ServiceKey) -> u32 {
        self.tree.implicit(key)
    }

    /// The children of a service in key order.
    pub fn children(&self, key: &ServiceKey) -> impl Iterator<Item = &Entry> {
        self.children_after(key, None)
    }

    /// The same, behind one of them: the seek of a page. It costs the same wherever it begins.
    pub fn children_after(&self, key: &ServiceKey, after: Option<&ServiceId>) -> impl Iterator<Item = &Entry> {
        self.tree.children(key, after).filter_map(|slot| self.at(slot))
    }

    /// The service that a key belongs to.
    #[must_use]
    pub fn holder_of(&self, key: &Pin) -> Option<&ServiceKey> {
        self.keys.get(key)
    }

    /// Whether a serial is refused.
    #[must_use]
    pub fn denies(&self, serial: Serial) -> bool {
        self.denied.contains_key(&serial)
    }

    /// All refused serials with the ends of their certificates.
    pub fn denied(&self) -> impl Iterator<Item = (Serial, Timestamp)> {
        self.denied.iter().map(|(serial, until)| (*serial, *until))
    }

    /// One token.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<&Arc<TokenRow>> {
        self.tokens.get(&id)
    }

    /// All tokens, in id order.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<TokenRow>> {
        self.tokens.values()
    }

    /// The service that a key was given by a token.
    #[must_use]
    pub fn use_of(&self, token: TokenId, key: Pin) -> Option<&ServiceKey> {
        self.uses.get(&token)?.get(&key)
    }

    /// The services that a token has registered, in no order; one that enrolled with several keys comes several times.
    pub fn users_of(&self, token: TokenId) -> impl Iterator<Item = &ServiceKey> {
        self.uses.get(&token).into_iter().flat_map(HashMap::values)
    }

    /// One credential.
    #[must_use]
    pub fn credential(&self, id: TokenId) -> Option<&Arc<CredentialRow>> {
        self.credentials.get(&id)
    }

    /// All credentials, in no order.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<CredentialRow>> {
        self.credentials.values()
    }

    /// Enrollments that an operator decides on.
    #[must_use]
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Answers to requests that named themselves.
    #[must_use]
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Jobs, holds and maintenance windows.
    #[must_use]
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// Onboarding packages.
    #[must_use]
    pub fn packages(&self) -> &Packages {
        &self.packages
    }

    /// Where the store stood after the last change seen here.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Repeats in memory what the store committed, telling of each write that took a seq the service's row
    /// before and after it. The position stays until the whole batch is repeated: see [`Roster::reach`].
    pub(super) fn repeat(&mut self, change: &Change, applied: &Applied, mut told: impl FnMut(&Write, Seq, Rows<'_>)) {
        // An answer takes over the seq of what was written before it.
        let mut last = Seq::default();
        for (write, seq) in change.writes.iter().zip(&applied.rows) {
            last = seq.unwrap_or(last);
            let fed = seq.zip(feed::subject(write));
            let before = fed.and_then(|(_, (key, _))| self.get(key)).map(|entry| Arc::clone(&entry.row));
            self.apply_write(write, last);
            if let Some((seq, (key, _))) = fed {
                told(write, seq, (before.as_ref(), self.get(key).map(|entry| &entry.row)));
            }
        }
    }

    /// Repeats a change that is a whole batch.
    #[cfg(test)]
    pub(super) fn apply(&mut self, change: &Change, applied: &Applied) {
        self.repeat(change, applied, |_, _, _| {});
        self.reach(applied.position);
    }

    /// Everything up to a position is in memory. A page that is read meanwhile still carries the earlier one,
    /// so that whoever follows the feed from it misses no part of the batch.
    pub(super) fn reach(&mut self, position: Position) {
        self.position = position;
    }

    /// What a sidecar said, shown before it is recorded.
    pub(super) fn note(&mut self, slot: Slot, said: &Shown) {
        let Shown { health, facts, progress } = said.clone();
        self.edit(slot, |row| {
            row.health = health.or(row.health.take());
            row.facts = facts.or(row.facts.take());
            row.progress = progress.or(row.progress.take());
        });
    }

    fn apply_write(&mut self, write: &Write, seq: Seq) {
        match write {
            Write::InsertService(row) => {
                self.insert(ServiceRow { seq, ..ServiceRow::clone(row) });
            }
            Write::SetStatus { service, to, at, seen, archived, .. } => self.edit_key(service, |row| {
                row.status = *to;
                row.status_since = *at;
                row.archived = *archived;
                row.first_seen = row.first_seen.or(*seen);
                row.last_seen = row.last_seen.max(*seen);
                row.seq = seq;
            }),
            Write::Describe { service, labels, metadata, .. } => self.edit_key(service, |row| {
                row.labels = labels.clone();
                row.metadata = metadata.clone();
                row.seq = seq;
            }),
            Write::Edit { service, said, .. } => self.edit_key(service, |row| {
                row.say(said);
                row.seq = seq;
            }),
            Write::Note { service, health, facts } => self.edit_key(service, |row| {
                if health.is_some() {
                    row.health.clone_from(health);
                }
                if facts.is_some() {
                    row.facts.clone_from(facts);
                }
            }),
            Write::Progress { service, said } => self.edit_key(service, |row| row.progress = Some(said.clone())),
            Write::PutSettings { service, row: wanted, .. } => self.edit_key(service, |row| {
                row.settings = Some(Arc::clone(wanted));
                row.seq = seq;
            }),
            Write::KeepReported { service, row: reported } => {
                self.edit_key(service, |row| row.reported.clone_from(reported));
            }
            Write::Announce { service, row: announced, metadata, .. } => self.edit_key(service, |row| {
                row.announced = Some(Arc::clone(announced));
                row.metadata = metadata.clone();
                row.seq = seq;
            }),
            Write::RemoveService { service, .. } => self.remove(service),
            Write::PutIdentity { row, .. } => {
                self.unbind(&row.service);
                self.bind(row);
            }
            Write::DropIdentity(service) => self.unbind(service),
            Write::Deny { serial, until } => {
                self.denied.insert(*serial, *until);
            }
            Write::Allow(serial) => {
                self.denied.remove(serial);
            }
            Write::InsertToken(token) => {
                self.tokens.insert(token.id, Arc::new(TokenRow { seq, ..TokenRow::clone(token) }));
            }
            Write::RevokeToken { token, at } => self.edit_token(*token, |row| {
                row.revoked_at = Some(*at);
                row.seq = seq;
            }),
            Write::UseToken { token, key, service, at, from } => {
                let fresh = self.uses.entry(*token).or_default().insert(*key, service.clone()).is_none();
                self.edit_token(*token, |row| {
                    if fresh {
                        row.uses = row.uses.saturating_add(1);
                        row.seq = seq;
                    }
                    row.last_used_at = Some(*at);
                    row.last_used_from = Some(from.clone());
                });
            }
            Write::InsertCredential(credential) => {
                self.credentials.insert(credential.id, Arc::new(credential.clone()));
            }
            Write::TouchCredential { id, at } => {
                if let Some(credential) = self.credentials.get_mut(id) {
                    let credential = Arc::make_mut(credential);
                    credential.last_used_at = credential.last_used_at.max(Some(*at));
                }
            }
            Write::RevokeCredential { id, at } => {
                if let Some(credential) = self.credentials.get_mut(id) {
                    Arc::make_mut(credential).revoked_at.get_or_insert(*at);
                }
            }
            Write::BeginInterval(_) => {}
            Write::PutJob(row) => self.upkeep.put_job(row),
            Write::PutHold(row) => self.upkeep.put_hold(row),
            Write::DropHold(name) => self.upkeep.drop_hold(name),
            Write::PutWindow { row, .. } => self.upkeep.put_window(row, seq),
            Write::DropWindow(id) => self.upkeep.drop_window(*id),
            Write::PutPackage { row, .. } => self.packages.put(row, seq),
            Write::DropPackage(id) => self.packages.drop(*id),
            Write::RemoveToken(token) => {
                self.tokens.remove(token);
                self.uses.remove(token);
                self.approvals.drop_token(*token);
            }
            Write::PutApproval(row) => self.approvals.put(row, seq),
            Write::DropApproval(id) => self.approvals.drop_one(*id),
            Write::KeepAnswer(row) => self.answers.keep(row, seq),
            Write::ForgetAnswer(of) => self.answers.forget(of),
        }
    }

    fn insert(&mut self, row: ServiceRow) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(place) = self.places.get_mut(Slot::new(number, 0).index()) else { return };
        let slot = Slot::new(number, place.term);
        self.tree.insert(&row, slot);
        self.index.insert(&row, slot);
        self.by_key.insert(row.key.clone(), slot);
        place.entry = Some(Entry { slot, row: Arc::new(row), identity: None });
    }

    fn remove(&mut self, key: &ServiceKey) {
        self.unbind(key);
        let Some(slot) = self.by_key.remove(key) else { return };
        let Some(place) = self.places.get_mut(slot.index()) else { return };
        place.term = slot.next_term().term;
        if let Some(entry) = place.entry.take() {
            self.tree.remove(&entry.row);
            self.index.remove(&entry.row, slot);
        }
    }

    fn bind(&mut self, identity: &IdentityRow) {
        self.keys.insert(identity.current.key, identity.service.clone());
        if let Some(pending) = &identity.pending {
            self.keys.insert(pending.key, identity.service.clone());
        }
        let slot = self.by_key.get(&identity.service).copied();
        if let Some(entry) = slot.and_then(|slot| self.at_mut(slot)) {
            entry.identity = Some(Arc::new(identity.clone()));
        }
    }

    fn unbind(&mut self, key: &ServiceKey) {
        let slot = self.by_key.get(key).copied();
        let entry = slot.and_then(|slot| self.at_mut(slot));
        if let Some(identity) = entry.and_then(|entry| entry.identity.take()) {
            self.keys.remove(&identity.current.key);
            if let Some(pending) = &identity.pending {
                self.keys.remove(&pending.key);
            }
        }
    }

    fn edit_key(&mut self, key: &ServiceKey, change: impl FnOnce(&mut ServiceRow)) {
        if let Some(slot) = self.by_key.get(key).copied() {
            self.edit(slot, change);
        }
    }

    fn edit(&mut self, slot: Slot, change: impl FnOnce(&mut ServiceRow)) {
        let place = self.places.get_mut(slot.index()).filter(|place| place.term == slot.term);
        if let Some(entry) = place.and_then(|place| place.entry.as_mut()) {
            let before = Arc::clone(&entry.row);
            change(Arc::make_mut(&mut entry.row));
            self.index.change(&before, &entry.row, slot);
        }
    }

    fn edit_token(&mut self, id: TokenId, change: impl FnOnce(&mut TokenRow)) {
        if let Some(token) = self.tokens.get_mut(&id) {
            change(Arc::make_mut(token));
        }
    }
}

/// Behind which key the services of a kind begin; no key of the kind before lies between.
fn start(kind: Option<Kind>, after: Option<&ServiceKey>) -> Option<ServiceKey> {
    let before = kind.and_then(|kind| {
        let previous = Kind::ALL.into_iter().rev().find(|other| *other < kind)?;
        // The last id there can be.
        Some(ServiceKey::new(previous, ServiceId::new(&"z".repeat(64)).ok()?))
    });
    before.max(after.cloned())
}

/// The parent of a service, as a key.
#[must_use]
pub fn parent_key(row: &ServiceRow) -> Option<ServiceKey> {
    Some(ServiceKey::new(row.key.kind.parent()?, row.parent.clone()?))
}

#[cfg(test)]
mod tests;
