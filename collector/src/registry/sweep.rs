//! Requests by which time itself acts on services: a slice of them in one change.
//!
//! Whoever asks has looked at each service before and names the row that it saw. One that changed since, that is
//! heard again or that has a child which stays is passed over and counted; the others go together, durably, each
//! with its audit event. The lifecycle table has the last word.

use std::{collections::HashSet, time::Duration};

use rollcall_common::{
    id::{Seq, ServiceKey},
    lifecycle::{Act, Arrow, Standing, Status, decide},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Refusal, Registry, Request, World,
    leases::Phase,
    maintenance::Cover,
    roster::Entry,
    services::{By, action, identity_writes, standing},
};
use crate::store::rows::{Change, Write};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Active ones that have been silent become inactive.
    Silence,
    /// Inactive ones of old are revoked.
    Archive,
    /// Records are removed after their retention.
    Purge,
    /// Records of what was never meant to stay are removed.
    Ephemeral,
}

/// A service as it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Who.
    pub key: ServiceKey,
    /// Its row.
    pub seq: Seq,
    /// Why, for the audit trail.
    pub why: Value,
}

/// What became of a slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Services that were changed or removed.
    pub done: usize,
    /// Services that were passed over, because something changed since the look.
    pub passed: usize,
}

/// A slice of services, and what is to be done to them.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// What.
    pub deed: Deed,
    /// To whom, children before their parents.
    pub targets: Vec<Target>,
    /// Why all of them: the job.
    pub cause: &'static str,
    /// Who asks.
    pub by: By,
    /// Whose leases tell who is heard again.
    pub registry: Registry,
}

impl Request for Sweep {
    type Answer = Swept;

    fn plan(&self, world: World<'_>) -> Result<(Change, Swept), Refusal> {
        let (mut change, mut swept) = (Change::default(), Swept::default());
        let mut gone: HashSet<&ServiceKey> = HashSet::new();
        // A window may have begun since the look.
        let cover = Cover::at(world.roster.upkeep(), world.now.wall);
        for target in &self.targets {
            let entry = world.roster.get(&target.key).filter(|entry| entry.row.seq == target.seq);
            let heard = |entry: &&Entry| {
                let sight = self.registry.leases().sight(entry.slot, world.now.boot);
                sight.is_some_and(|sight| sight.phase == Phase::Live)
            };
            let mut below = world.roster.children(&target.key).filter(|child| !gone.contains(&child.row.key));
            let mut stays = |entry: &&Entry| match self.deed {
                Deed::Purge | Deed::Ephemeral => below.next().is_some(),
                Deed::Archive => entry.row.placeholder || below.any(|child| !child.row.status.is_barred()),
                Deed::Silence => false,
            };
            let mut bound = |entry: &&Entry| stays(entry) || heard(entry) || cover.of(&entry.row).is_some();
            let Some(entry) = entry.filter(|entry| !bound(entry)) else {
                swept.passed += 1;
                continue;
            };
            let Some(after) = self.deed.leads(standing(entry, world.now.wall)) else {
                swept.passed += 1;
                continue;
            };
            self.write(entry, target, after, world, &mut change);
            if self.deed != Deed::Silence {
                gone.insert(&target.key);
            }
            swept.done += 1;
        }
        Ok((change, swept))
    }
}

impl Sweep {
    fn write(&self, entry: &Entry, target: &Target, after: Option<Status>, world: World<'_>, change: &mut Change) {
        let (service, expect) = (target.key.clone(), target.seq);
        match after {
            Some(to) => {
                let archived = self.deed == Deed::Archive;
                change.writes.push(Write::SetStatus { service, expect, to, at: world.now.wall, seen: None, archived });
                // An archived service may come back with its bound key.
                if to.is_barred() && !archived {
                    change.writes.extend(identity_writes(entry, to));
                }
            }
            None => {
                change.writes.extend(identity_writes(entry, Status::Revoked));
                change.writes.push(Write::RemoveService { service, expect });
            }
        }
        change.audit.push(self.by.did(
            world.now.wall,
            action(self.deed.act()),
            target.key.to_string(),
            [
                ("before", json!(entry.row.status)),
                ("after", json!(after)),
                ("cause", json!(self.cause)),
                ("why", target.why.clone()),
            ],
        ));
    }
}

/// Forgets refused serials whose certificates have ended by themselves.
#[derive(Debug, Clone, Copy)]
pub struct ForgetDenied {
    /// The moment that their ends are compared with.
    pub now: Timestamp,
    /// At most so many.
    pub most: usize,
}

/// How long after its certificate's end a serial stays refused: clocks differ.
const DENIED_AFTER: Duration = Duration::from_secs(86_400);

impl Request for ForgetDenied {
    type Answer = usize;

    fn plan(&self, world: World<'_>) -> Result<(Change, usize), Refusal> {
        let before = self.now.before(DENIED_AFTER);
        let ended = world.roster.denied().filter(|(_, until)| *until < before).take(self.most);
        let writes: Vec<_> = ended.map(|(serial, _)| Write::Allow(serial)).collect();
        let count = writes.len();
        Ok((Change { writes, audit: Vec::new() }, count))
    }
}

impl Deed {
    fn act(self) -> Act {
        match self {
            Self::Silence => Act::Silence,
            Self::Archive => Act::Archive,
            Self::Purge => Act::Purge,
            Self::Ephemeral => Act::Remove,
        }
    }

    /// Where the lifecycle table leads: to a status, or out. `None` = it does not allow it.
    fn leads(self, from: Standing) -> Option<Option<Status>> {
        let arrow = match self {
            Self::Silence | Self::Archive | Self::Purge => decide(from, self.act()),
            // What is gone for good goes silent and is then removed: two arrows of the table in one change.
            Self::Ephemeral if from.status == Status::Active => decide(from, Act::Silence).and_then(|arrow| {
                let Arrow::To(status) = arrow else { return Ok(arrow) };
                decide(Standing { status, ..from }, Act::Purge)
            }),
            Self::Ephemeral => decide(from, Act::Purge),
        };
        match arrow {
            Ok(Arrow::To(to)) => Some(Some(to)),
            Ok(Arrow::Removed) => Some(None),
            Ok(Arrow::Stay) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollcall_common::{
        id::PaceNo,
        lease::Pace,
        time::{BootTime, ManualClock, Now},
    };

    use super::*;
    use crate::scope::Scope;
    use crate::{
        registry::roster::Roster,
        store::{
            rows::{Loaded, ServiceRow, WindowRow},
            suite::samples::{key, service, window},
        },
    };

    const NOW: Now = Now { boot: BootTime(5), wall: Timestamp(1_795_229_160_000) };

    /// Who is changed where all of some services are to be.
    fn swept(deed: Deed, rows: &[ServiceRow], windows: Vec<WindowRow>) -> Vec<String> {
        let roster = Roster::from_loaded(&Loaded { services: rows.to_vec(), windows, ..Loaded::default() });
        let pace = Pace { no: PaceNo(1), interval_ms: 1_000, ttl_ms: 3_000 };
        let registry = Registry::still(roster, Arc::new(ManualClock::new(NOW.wall)), pace);
        let target = |row: &ServiceRow| Target { key: row.key.clone(), seq: row.seq, why: Value::Null };
        let targets = rows.iter().map(target).collect();
        let sweep = Sweep { deed, targets, cause: "job", by: By::system(), registry: registry.clone() };
        let (change, swept) = registry.read(|roster| sweep.plan(World { roster, now: NOW })).unwrap();
        assert_eq!((swept.done, swept.passed), (change.audit.len(), rows.len() - change.audit.len()));
        change.audit.into_iter().map(|event| event.object).collect()
    }

    fn row(name: &str, parent: Option<&str>, status: Status) -> ServiceRow {
        let parent = parent.map(|id| id.parse().unwrap());
        ServiceRow { parent, poller: None, status, placeholder: false, archived: false, ..service(name) }
    }

    #[test]
    fn nobody_is_archived_above_one_that_is_not_barred_and_no_placeholder() {
        use Status::{Inactive, Pending, Revoked};
        let under = |name, status| row(name, Some("p"), status);
        let archived = |rows: &[ServiceRow]| swept(Deed::Archive, rows, Vec::new());
        let poller = row("poller/p", None, Inactive);
        assert_eq!(archived(&[under("agent/a", Revoked), poller.clone()]), ["poller/p"]);
        assert_eq!(archived(&[under("agent/a", Pending), poller.clone()]), Vec::<String>::new());
        let both = [under("agent/a", Inactive), poller.clone()];
        assert_eq!(archived(&both), ["agent/a", "poller/p"], "a child that goes in the same change is in nobody's way");
        assert_eq!(archived(&[ServiceRow { placeholder: true, ..poller }]), Vec::<String>::new());
    }

    #[test]
    fn a_window_that_began_since_the_look_is_seen() {
        let rows = [row("poller/p", None, Status::Inactive), row("poller/q", None, Status::Inactive)];
        let mut open = window(1, "work");
        open.selector.services = vec![crate::store::rows::ServiceKeyText(key("poller/p"))];
        open.selector.labels.clear();
        open.selector.subtree = None;
        open.starts_at = NOW.wall.before(Duration::from_secs(1));
        open.ends_at = NOW.wall.after(Duration::from_secs(60));
        (open.recurrence, open.ended_early, open.selector.within) = (None, None, Scope::everything());
        for deed in [Deed::Archive, Deed::Purge, Deed::Ephemeral] {
            assert_eq!(swept(deed, &rows, vec![open.clone()]), ["poller/q"], "{deed:?}");
        }
        let active = rows.map(|row| ServiceRow { status: Status::Active, ..row });
        assert_eq!(swept(Deed::Silence, &active, vec![open]), ["poller/q"]);
    }

    #[test]
    fn the_lifecycle_table_has_the_last_word() {
        use Status::{Active, Deleted, Inactive, Pending, Revoked};
        let from =
            |status| Standing { status, since: Duration::from_secs(1), ever_seen: true, bound: true, archived: false };
        let all = |deed: Deed| Status::ALL.map(|status| (status, deed.leads(from(status))));
        let allowed =
            |deed: Deed| all(deed).into_iter().filter_map(|(status, to)| Some((status, to?))).collect::<Vec<_>>();
        assert_eq!(allowed(Deed::Silence), [(Active, Some(Inactive))]);
        assert_eq!(allowed(Deed::Archive), [(Inactive, Some(Revoked))]);
        let removable = [(Pending, None), (Inactive, None), (Revoked, None), (Deleted, None)];
        let mut purged = allowed(Deed::Purge);
        purged.sort();
        assert_eq!(purged, removable);
        let mut ephemeral = allowed(Deed::Ephemeral);
        ephemeral.sort();
        assert_eq!(ephemeral, [(Pending, None), (Active, None), (Inactive, None), (Revoked, None), (Deleted, None)]);
    }
}
