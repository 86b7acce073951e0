//! What follows from a change that is durable: memory repeats it, and whoever it concerns is told.

use std::{collections::BTreeSet, sync::PoisonError};

use rollcall_common::{code::Code, id::ServiceKey, lifecycle::Status, time::Now};
use serde_json::json;

use super::{Actor, MAX_RETIRED};
use crate::{
    metrics::TransitionLabel,
    registry::{
        feed::{Event, Telling},
        identities::barred,
        judge,
        leases::Phase,
        links::Order,
        roster::Slot,
        settings::Dispatch,
    },
    store::rows::{Applied, Change, Write},
};

impl Actor {
    /// Repeats a committed change in memory, announces what follows from it, and gathers what is fed of it.
    pub(super) fn apply(&mut self, change: &Change, applied: &Applied, events: &mut Vec<Event>) {
        let before: Vec<_> = change.writes.iter().map(|write| self.before(write)).collect();
        let now = self.clock.now();
        let (audit, deriver, shared) = (change.audit.first(), &mut self.deriver, &self.shared);
        let mut resettled = BTreeSet::new();
        let mut roster = shared.roster.write().unwrap_or_else(PoisonError::into_inner);
        roster.repeat(change, applied, |write, seq, (before, after)| {
            events.extend(deriver.take(Telling { write, seq, before, after, audit, at: now.wall }));
            if let (Some(before), Some(after)) = (before, after)
                && (before.labels != after.labels || before.settings != after.settings)
            {
                resettled.insert(after.key.clone());
            }
        });
        // A note was shown when it was heard; one that was heard since is newer than what is durable now.
        for write in &change.writes {
            if let Write::Note { service, .. } | Write::Progress { service, .. } = write
                && let Some(slot) = roster.get(service).map(|entry| entry.slot)
                && let Some(newer) = self.notes.get(&slot)
            {
                roster.note(slot, &newer.shown);
            }
        }
        let pace = *shared.pace.read().unwrap_or_else(PoisonError::into_inner);
        for entry in resettled.iter().filter_map(|key| roster.get(key)) {
            shared.links.order(entry.slot, Order::Settings(Box::new(Dispatch::of(&entry.row, pace))));
        }
        drop(roster);
        for (write, before) in change.writes.iter().zip(before) {
            self.announce(write, before, now);
        }
        if change.writes.iter().any(|write| matches!(write, Write::InsertService(_))) {
            self.count_room();
        }
    }

    fn before(&self, write: &Write) -> Option<(Slot, Status)> {
        let key = match write {
            Write::SetStatus { service, .. } | Write::RemoveService { service, .. } => service,
            Write::InsertService(_)
            | Write::Describe { .. }
            | Write::Edit { .. }
            | Write::Note { .. }
            | Write::Progress { .. }
            | Write::PutSettings { .. }
            | Write::KeepReported { .. }
            | Write::Announce { .. }
            | Write::PutIdentity { .. }
            | Write::DropIdentity(_)
            | Write::Deny { .. }
            | Write::Allow(_)
            | Write::InsertToken(_)
            | Write::RevokeToken { .. }
            | Write::UseToken { .. }
            | Write::InsertCredential(_)
            | Write::TouchCredential { .. }
            | Write::RevokeCredential { .. }
            | Write::BeginInterval(_)
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
            | Write::ForgetAnswer(_) => return None,
        };
        let roster = self.shared.roster.read().unwrap_or_else(PoisonError::into_inner);
        roster.get(key).map(|entry| (entry.slot, entry.row.status))
    }

    fn announce(&mut self, write: &Write, before: Option<(Slot, Status)>, now: Now) {
        match (write, before) {
            (Write::InsertService(row), _) => {
                if let Some(slot) = self.find(&row.key) {
                    self.shared.leases.reserve(slot);
                    self.shared.leases.set_phase(slot, judge::unwritten(row));
                }
            }
            (Write::SetStatus { service, to, at, .. }, Some((slot, from))) => {
                let label = TransitionLabel { r#type: service.kind.as_str(), from: from.as_str(), to: to.as_str() };
                self.metrics.transitions.get_or_create(&label).inc();
                tracing::info!(%service, %from, %to, "status");
                if let Some(code) = barred(*to) {
                    self.close(slot, code);
                    self.stop_lease(slot, now, to.as_str(), json!({}));
                }
                if *to == Status::Inactive {
                    // Its lease may run on: then its next beat has to be told of, and one that came while this was
                    // being written down was told of to nobody.
                    self.shared.leases.rouse(slot);
                    let sight = self.shared.leases.sight(slot, now.boot).filter(|sight| sight.phase == Phase::Live);
                    if let Some(heard) = sight.and_then(|sight| sight.last_seen(now)).filter(|heard| heard >= at) {
                        self.awaken(slot, heard);
                    }
                }
            }
            (Write::RemoveService { service, .. }, Some((slot, _))) => {
                self.close(slot, Code::UnknownIdentity);
                self.shared.leases.vacate(slot);
                self.resting.push_back((slot, now.boot));
                self.waking.remove(&slot);
                self.unwritten.remove(&slot);
                self.notes.remove(&slot);
                self.abouts.remove(&slot);
                self.shared.children.lock().unwrap_or_else(PoisonError::into_inner).forget(slot);
                self.retire(service.clone());
            }
            (Write::PutIdentity { row, .. }, _) => {
                let Some(slot) = self.find(&row.service) else { return };
                let held =
                    |serial| row.current.serial == serial || row.pending.as_ref().is_some_and(|p| p.serial == serial);
                if self.shared.links.get(slot).is_some_and(|link| !held(link.serial)) {
                    self.close(slot, Code::Superseded);
                }
            }
            (
                Write::SetStatus { .. }
                | Write::RemoveService { .. }
                | Write::Describe { .. }
                | Write::Edit { .. }
                | Write::Note { .. }
                | Write::Progress { .. }
                | Write::PutSettings { .. }
                | Write::KeepReported { .. }
                | Write::Announce { .. }
                | Write::DropIdentity(_)
                | Write::Deny { .. }
                | Write::Allow(_)
                | Write::InsertToken(_)
                | Write::RevokeToken { .. }
                | Write::UseToken { .. }
                | Write::InsertCredential(_)
                | Write::TouchCredential { .. }
                | Write::RevokeCredential { .. }
                | Write::BeginInterval(_)
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
                | Write::ForgetAnswer(_),
                _,
            ) => {}
        }
    }

    pub(super) fn close(&self, slot: Slot, code: Code) {
        self.shared.links.order(slot, Order::Close(code));
    }

    pub(super) fn retire(&self, key: ServiceKey) {
        let mut retired = self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner);
        if retired.len() < MAX_RETIRED {
            retired.push(key);
        }
    }
}
