//! Who may go: pure judgements about services that time has caught up with.
//!
//! Nothing here removes or changes anything; [`super::sweep`] does, and looks again before it does. What is judged
//! is the row, the lease and the children as they were at one moment, by the rules of `design.md` §2.

use std::{collections::HashMap, time::Duration};

use rollcall_common::{
    id::{Kind, Seq, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    time::{Now, Timestamp},
};

use super::{
    leases::{Phase, Sight},
    roster::{Entry, parent_key},
};

/// How long a service stays after its last change of status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Registered and never heard.
    pub pending: Duration,
    /// Silent.
    pub inactive: Duration,
    /// Barred.
    pub revoked: Duration,
    /// Deleted softly.
    pub deleted: Duration,
    /// The longest life of a certificate: no revoked service goes sooner.
    pub leaf_ttl: Duration,
}

impl Retention {
    /// How long a status is kept; `None` = for ever.
    #[must_use]
    pub fn of(&self, status: Status) -> Option<Duration> {
        match status {
            Status::Pending => Some(self.pending),
            Status::Active => None,
            Status::Inactive => Some(self.inactive),
            Status::Revoked => Some(self.revoked.max(self.leaf_ttl)),
            Status::Deleted => Some(self.deleted),
        }
    }

    /// The same number for every status.
    #[must_use]
    pub fn all(self, keep: Duration) -> Self {
        Self { pending: keep, inactive: keep, revoked: keep, deleted: keep, ..self }
    }
}

/// A service at the moment of a look.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// What is registered.
    pub entry: &'a Entry,
    /// Its lease.
    pub sight: Option<Sight>,
    /// How many services have it as their parent.
    pub children: u32,
    /// Whether it is under maintenance.
    pub covered: bool,
}

/// One that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Who.
    pub key: ServiceKey,
    /// Where it stands.
    pub status: Status,
    /// Since when.
    pub since: Timestamp,
    /// Why it goes.
    pub why: &'static str,
    /// The row as it was looked at.
    pub seq: Seq,
}

/// One whose time is over and that stays nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Who.
    pub key: ServiceKey,
    /// Where it stands.
    pub status: Status,
    /// Since when.
    pub since: Timestamp,
    /// Why it stays.
    pub why: &'static str,
}

/// What a purge would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departures {
    /// Those that go, in this order: leaves first, the oldest first.
    pub going: Vec<Leaving>,
    /// Those that are held back.
    pub kept: Vec<Kept>,
    /// How many more would go if the run had no cap.
    pub over_cap: usize,
}

const HAS_CHILDREN: &str = "it has children that stay";

/// Gathers whose time is over.
#[derive(Debug)]
pub struct Gathering<'r> {
    retention: Retention,
    statuses: &'r [Status],
    now: Timestamp,
    candidates: Vec<(Leaving, u32, Option<ServiceKey>)>,
    kept: Vec<Kept>,
}

impl<'r> Gathering<'r> {
    /// Begins.
    #[must_use]
    pub fn new(retention: Retention, statuses: &'r [Status], now: Timestamp) -> Self {
        Self { retention, statuses, now, candidates: Vec::new(), kept: Vec::new() }
    }

    /// Looks at one service; each is looked at once.
    pub fn look(&mut self, look: Look<'_>) {
        let row = &look.entry.row;
        let Some(keep) = self.retention.of(row.status).filter(|_| self.statuses.contains(&row.status)) else { return };
        if self.now.since(row.status_since) < keep {
            return;
        }
        let (key, status, since) = (row.key.clone(), row.status, row.status_since);
        match held(look, self.now) {
            Some(why) => self.kept.push(Kept { key, status, since, why }),
            None => {
                let leaving = Leaving { key, status, since, why: reason(status), seq: row.seq };
                self.candidates.push((leaving, look.children, parent_key(row)));
            }
        }
    }

    /// Decides: who has children goes only where all of them go.
    #[must_use]
    pub fn decide(mut self, cap: usize) -> Departures {
        // A parent is judged after all its children: the tree of kinds is three deep.
        self.candidates.sort_by(|(a, ..), (b, ..)| {
            (height(a.key.kind), a.since, &a.key).cmp(&(height(b.key.kind), b.since, &b.key))
        });
        let mut out = Departures { kept: self.kept, ..Departures::default() };
        let mut going_below: HashMap<ServiceKey, u32> = HashMap::new();
        for (leaving, children, parent) in self.candidates {
            if going_below.get(&leaving.key).copied().unwrap_or(0) < children {
                let Leaving { key, status, since, .. } = leaving;
                out.kept.push(Kept { key, status, since, why: HAS_CHILDREN });
                continue;
            }
            if let Some(parent) = parent {
                *going_below.entry(parent).or_default() += 1;
            }
            // The order has every child before its parent: whatever the cap cuts off leaves no orphan.
            if out.going.len() < cap {
                out.going.push(leaving);
            } else {
                out.over_cap += 1;
            }
        }
        out.kept.sort_by(|a, b| a.key.cmp(&b.key));
        out
    }
}

fn height(kind: Kind) -> u8 {
    match kind {
        Kind::Checker | Kind::Instance => 0,
        Kind::Agent => 1,
        Kind::Poller => 2,
    }
}

fn reason(status: Status) -> &'static str {
    match status {
        Status::Pending => "it was never heard",
        Status::Active => "it is active",
        Status::Inactive => "it has been silent",
        Status::Revoked => "it was revoked",
        Status::Deleted => "it was deleted",
    }
}

/// What holds a service back whose time is over, its children apart.
fn held(look: Look<'_>, now: Timestamp) -> Option<&'static str> {
    let row = &look.entry.row;
    let certificates = || {
        let identity = look.entry.identity.as_deref()?;
        [Some(&identity.current), identity.pending.as_ref()].into_iter().flatten().map(|cert| cert.not_after).max()
    };
    if row.placeholder && look.children > 0 {
        return Some("it is a placeholder with children");
    }
    if look.covered {
        return Some("it is under maintenance");
    }
    if look.sight.is_some_and(|sight| sight.phase == Phase::Live) {
        return Some("it may still be heard");
    }
    if row.status == Status::Revoked && certificates().is_some_and(|end| end > now) {
        return Some("its certificate has not ended");
    }
    None
}

/// When a service was last heard, where silence has been observed, and whether that is known by the clock that
/// never steps. `None` = it is heard, or nobody can say.
#[must_use]
pub fn silent_since(entry: &Entry, sight: Option<Sight>, now: Now) -> Option<(Timestamp, bool)> {
    let sight = sight?;
    match sight.phase {
        Phase::Lost | Phase::Stopped if sight.presence != Presence::Unknown => {}
        Phase::Vacant | Phase::NeverSeen | Phase::Live | Phase::Lost | Phase::Stopped | Phase::Unseen => return None,
    }
    match sight.last_seen(now) {
        Some(beat) => Some((beat, true)),
        None => Some((entry.row.last_seen.or(entry.row.first_seen).unwrap_or(entry.row.status_since), false)),
    }
}

/// When an ephemeral service began to be gone: with the first beat that did not come after its goodbye or loss, or
/// with its enrollment where it never beat.
#[must_use]
pub fn gone_since(entry: &Entry, sight: Option<Sight>, now: Now) -> Option<(Timestamp, bool)> {
    let sight = sight?;
    match sight.phase {
        Phase::Lost | Phase::Stopped => {
            let (last, by_boot) = silent_since(entry, Some(sight), now)?;
            Some((last.after(sight.pace.interval()), by_boot))
        }
        Phase::NeverSeen => {
            let identity = entry.identity.as_deref()?;
            let unheard = entry.row.first_seen.is_none();
            unheard.then(|| (identity.enrolled_at.max(entry.row.status_since), false))
        }
        Phase::Vacant | Phase::Live | Phase::Unseen => None,
    }
}

#[cfg(test)]
mod tests;
