//! Everybody's presence and silence, as a scrape sees them.
//!
//! One walk over the dense slots, a stride under the lock at a time, with a pause for others between strides. Most
//! of it is read off the lease table; a row is looked at only where the table cannot tell: for services whose lease
//! does not run, or that have not beaten since this collector began to observe.

use std::collections::BTreeMap;

use rollcall_common::{
    id::{Kind, ServiceId},
    lease::Presence,
    lifecycle::Status,
    time::Now,
};

use crate::{
    http::scan::{STRIDE, presence_of},
    registry::{
        Registry,
        leases::{Phase, Sight},
        roster::{Entry, Roster, Slot},
    },
};

/// Upper bounds of the ages that are counted together, in seconds: a beat, a few beats, minutes, a day, a week.
pub(super) const BOUNDS: [f64; 16] = [
    1.0,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    120.0,
    300.0,
    900.0,
    3_600.0,
    21_600.0,
    86_400.0,
    604_800.0,
    f64::INFINITY,
];

/// Ages of heartbeats, counted by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Ages {
    pub(super) sum: f64,
    pub(super) count: u64,
    counts: [u64; BOUNDS.len()],
}

impl Ages {
    fn add(&mut self, age: f64) {
        self.sum += age;
        self.count += 1;
        let bucket = BOUNDS.partition_point(|bound| *bound < age);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Each bound with the number of ages between it and the one before.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().zip(self.counts).collect()
    }
}

/// What was seen of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kin {
    presence: BTreeMap<Presence, u64>,
    pub(super) ages: Ages,
}

impl Kin {
    pub(super) fn presence(&self, presence: Presence) -> u64 {
        self.presence.get(&presence).copied().unwrap_or_default()
    }
}

/// All that was seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Survey {
    pub(super) kinds: BTreeMap<Kind, Kin>,
    /// Services that are being worked on.
    pub(super) worked_on: u64,
    /// Single ages, of the services in the lowest slots: whoever has a series keeps it.
    pub(super) each: Vec<(Kind, ServiceId, f64)>,
    /// Services whose ages are left out of these.
    pub(super) cut: u64,
}

impl Survey {
    /// Looks at everybody. `most` = how many ages of single services are wanted; `None` = none, and none is cut.
    pub(super) async fn take(registry: &Registry, most: Option<usize>) -> Self {
        let kinds = Kind::ALL.into_iter().map(|kind| (kind, Kin::default())).collect();
        let mut survey = Self { kinds, worked_on: 0, each: Vec::new(), cut: 0 };
        let (now, cover) = (registry.now(), registry.cover());
        let mut from = 0;
        loop {
            let went_on = registry.read(|roster| {
                let Some(slots) = roster.index().slots_from(from, STRIDE) else { return false };
                for (slot, kind) in slots {
                    let sight = registry.leases().sight(slot, now.boot);
                    survey.see(roster, (slot, kind), sight.as_ref(), most, now);
                    if !cover.is_clear() {
                        let worked_on = roster.at(slot).is_some_and(|entry| cover.of(&entry.row).is_some());
                        survey.worked_on += u64::from(worked_on);
                    }
                }
                true
            });
            if !went_on {
                return survey;
            }
            from += STRIDE;
            tokio::task::yield_now().await;
        }
    }

    fn see(
        &mut self,
        roster: &Roster,
        (slot, kind): (Slot, Kind),
        sight: Option<&Sight>,
        most: Option<usize>,
        now: Now,
    ) {
        let kin = self.kinds.entry(kind).or_default();
        *kin.presence.entry(presence_of(sight)).or_default() += 1;
        let Some(age) = sight.and_then(|sight| age(sight, || roster.at(slot), now)) else { return };
        kin.ages.add(age);
        if let (Some(most), Some(entry)) = (most, roster.at(slot)) {
            if self.each.len() < most {
                self.each.push((kind, entry.row.key.id.clone(), age));
            } else {
                self.cut += 1;
            }
        }
    }
}

/// Seconds since the last heartbeat of a service that is expected to beat: one that said goodbye is not, nor is one
/// that was never heard or is barred.
fn age<'a>(sight: &Sight, entry: impl Fn() -> Option<&'a Entry>, now: Now) -> Option<f64> {
    let expected = |entry: &Entry| match entry.row.status {
        Status::Active | Status::Inactive => true,
        Status::Pending | Status::Revoked | Status::Deleted => false,
    };
    match sight.phase {
        Phase::Vacant | Phase::NeverSeen | Phase::Stopped => return None,
        Phase::Live => {}
        Phase::Lost | Phase::Unseen => {
            entry().filter(|entry| expected(entry))?;
        }
    }
    if let Some(beat) = sight.last_beat {
        return Some(now.boot.since(beat).as_secs_f64());
    }
    // It has not beaten since this collector began to observe.
    entry().and_then(|entry| entry.row.last_seen).map(|seen| now.wall.since(seen).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_common::{id::ServiceKey, time::BootTime};

    use super::*;
    use crate::http::fixture::{NOW, World, row, sight as sight_of};

    async fn taken(registry: &Registry, most: Option<usize>) -> Survey {
        Survey::take(registry, most).await
    }

    #[tokio::test]
    async fn strides_see_everybody_once() {
        let count = STRIDE * 2 + 7;
        let rows: Vec<_> = (0..count).map(|n| row(&format!("instance/i{n:05}"))).collect();
        let world = World::new(&rows);
        let registry = world.registry().beaten("instance/i00000").beaten(&format!("instance/i{:05}", count - 1));
        let survey = taken(&registry, None).await;
        let kin = &survey.kinds[&Kind::Instance];
        assert_eq!(kin.presence(Presence::Alive), 2);
        assert_eq!(kin.presence(Presence::NeverSeen), count as u64 - 2);
        assert_eq!((kin.ages.count, survey.cut, survey.each.len()), (2, 0, 0));
        assert_eq!(survey.kinds[&Kind::Poller], Kin::default());
    }

    #[tokio::test]
    async fn single_ages_are_capped_and_the_cut_is_told() {
        let rows: Vec<_> = (0..5).map(|n| row(&format!("instance/i{n}"))).collect();
        let world = World::new(&rows);
        let registry = (0..4).fold(world.registry(), |registry, n| registry.beaten(&format!("instance/i{n}")));
        world.clock.advance(Duration::from_secs(7));
        let survey = taken(&registry, Some(3)).await;
        let each: Vec<_> = survey.each.iter().map(|(kind, id, age)| format!("{kind}/{id} {age}")).collect();
        assert_eq!(each, ["instance/i0 7", "instance/i1 7", "instance/i2 7"]);
        assert_eq!(survey.cut, 1);
        let ages = &survey.kinds[&Kind::Instance].ages;
        assert_eq!((ages.count, ages.sum), (4, 28.0));
        assert_eq!(ages.buckets().iter().find(|(_, count)| *count > 0), Some(&(10.0, 4)));
    }

    #[test]
    fn whoever_is_not_expected_has_no_age() {
        let (now, key) = (Now { boot: BootTime(100_000), wall: NOW }, "agent/a");
        let sight = |phase, beaten: bool| Sight {
            phase,
            last_beat: beaten.then_some(BootTime(90_000)),
            ..sight_of(Presence::Alive, None, now.boot)
        };
        let seen_at = |status, secs: Option<u64>| {
            let mut row = row(key);
            row.status = status;
            row.last_seen = secs.map(|secs| now.wall.before(Duration::from_secs(secs)));
            let world = World::new(&[row]);
            world.registry()
        };
        let age_of = |registry: &Registry, sight: Sight| {
            let key: ServiceKey = key.parse().unwrap();
            registry.read(|roster| age(&sight, || roster.get(&key), now))
        };
        let active = seen_at(Status::Active, Some(3_600));
        assert_eq!(age_of(&active, sight(Phase::Live, true)), Some(10.0));
        assert_eq!(age_of(&active, sight(Phase::Live, false)), Some(3_600.0), "since before the restart");
        assert_eq!(age_of(&active, sight(Phase::Lost, false)), Some(3_600.0), "lost before the restart");
        assert_eq!(age_of(&active, sight(Phase::Unseen, true)), Some(10.0));
        for phase in [Phase::NeverSeen, Phase::Stopped, Phase::Vacant] {
            assert_eq!(age_of(&active, sight(phase, true)), None, "{phase:?}");
        }
        assert_eq!(age_of(&seen_at(Status::Revoked, Some(60)), sight(Phase::Lost, true)), None);
        assert_eq!(age_of(&seen_at(Status::Inactive, Some(60)), sight(Phase::Lost, true)), Some(10.0));
        assert_eq!(age_of(&seen_at(Status::Active, None), sight(Phase::Live, false)), None);
    }
}
