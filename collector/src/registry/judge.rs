//! Verdicts: who is lost, and was the collector able to observe at all? Pure.
//!
//! A tick that comes late means that nobody was looking: the gap is a blind interval, and the leases it
//! touched are credited, up to a bound. After a restart every service that was expected gets a full, fair,
//! spread chance. Judging by groups (the brake) and by parents comes on top of these.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rollcall_common::{
    id::ServiceKey,
    lease::{Pace, Presence},
    lifecycle::Status,
    time::{BootTime, Now, Timestamp},
};
use serde_json::json;

use super::{
    children::recorded_pace,
    history::Verdict,
    leases::{Leases, Origin, Phase, Sight},
    roster::{Roster, Slot},
    settings::{longest, pace_before, pace_of},
};
use crate::store::rows::{IntervalRow, Loaded, ServiceRow};

/// Nominal time between two ticks. Detection is at most this much later than the deadline.
pub const TICK: Duration = Duration::from_millis(100);
/// A gap between ticks beyond which the collector counts as blind.
pub const STALL: Duration = Duration::from_secs(1);
/// The window in which credit is bounded.
const CREDIT_WINDOW: Duration = Duration::from_secs(3_600);
/// Credit at most, in times to live, in one window.
const CREDIT_TTLS: u32 = 3;
/// What a sidecar needs to notice a restarted collector and come back, beyond one interval.
const RECONNECT: Duration = Duration::from_secs(10);

/// What a tick found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// All is well: expire what is due.
    Clear,
    /// Nobody looked for a while; every running lease is credited.
    Credit(Gap),
    /// Nobody looked, and the credit of this hour is spent: running leases get no verdict.
    Unobservable(Gap),
}

/// A time in which nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
    /// How long by the boot clock.
    pub length: Duration,
    /// Whether it begins another hour of credit.
    pub renews: bool,
}

/// Watches the ticks, by the pace for everybody; what each lease has been credited stands with it.
#[derive(Debug)]
pub struct Judge {
    last: BootTime,
    window: BootTime,
    spent: Duration,
}

impl Judge {
    /// Begins to watch.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self { last: now.boot, window: now.boot, spent: Duration::ZERO }
    }

    /// Takes a tick.
    pub fn tick(&mut self, now: Now, pace: Pace) -> Sense {
        let length = now.boot.since(self.last);
        self.last = now.boot;
        if length < STALL {
            return Sense::Clear;
        }
        let renews = now.boot.since(self.window) > CREDIT_WINDOW;
        if renews {
            self.window = now.boot;
            self.spent = Duration::ZERO;
        }
        let spent = self.spent + length;
        let gap = Gap { from: now.wall.before(length), to: now.wall, length, renews };
        if spent > credit_of(pace) {
            Sense::Unobservable(gap)
        } else {
            self.spent = spent;
            Sense::Credit(gap)
        }
    }
}

/// The credit of one hour for leases of a pace.
pub(super) fn credit_of(pace: Pace) -> Duration {
    pace.ttl() * CREDIT_TTLS
}

/// The chance that a service gets after a restart: time for one beat and a reconnect, or the whole TTL,
/// whichever is longer, spread over half an interval so that verdicts do not fall all at once.
#[must_use]
pub fn chance(pace: Pace, spread: u32) -> Duration {
    let fair = pace.ttl().max(pace.interval() + RECONNECT);
    let half = u64::from(pace.interval_ms / 2);
    fair + Duration::from_millis(half * u64::from(spread % 1_000) / 1_000)
}

/// Where a lease stands of which the history says nothing: it was never heard, or it has been silent since before
/// this registry knew it.
pub(super) fn unwritten(row: &ServiceRow) -> Phase {
    match (row.first_seen, row.status.is_barred()) {
        (None, _) => Phase::NeverSeen,
        (Some(_), true) => Phase::Stopped,
        (Some(_), false) => Phase::Lost,
    }
}

/// What was armed.
#[derive(Debug, Default)]
pub(super) struct Armed {
    /// How many are expected.
    pub(super) count: usize,
    /// Verdicts that a kill left unrecorded: a barred service is stopped, whatever its last row says.
    pub(super) overdue: Vec<Verdict>,
    /// Whose next beat is to be written down, since their last row does not say that they are alive.
    pub(super) unwritten: BTreeSet<Slot>,
}

/// Sets every lease as the durable rows have it. `lost` and `stopped` stay so; every other active service
/// was expected to beat, and gets its chance whether or not it reconnects. Presence and status are not written
/// together: whoever a kill left with one of them has its next beat wake, and is made whole then.
pub(super) fn arm(
    roster: &Roster,
    leases: &Leases,
    loaded: &Loaded,
    now: Now,
    (everybody, previous): (Pace, Option<Pace>),
) -> Armed {
    let open: BTreeMap<&ServiceKey, &IntervalRow> =
        loaded.open_intervals.iter().map(|row| (&row.service, row)).collect();
    let mut armed = Armed::default();
    for entry in roster.iter() {
        leases.reserve(entry.slot);
        let open = open.get(&entry.row.key).copied();
        let lasting = open.map(|row| row.presence);
        match (lasting, entry.row.status) {
            (Some(Presence::Lost), _) => leases.set_phase(entry.slot, Phase::Lost),
            (Some(Presence::Stopped), _) => leases.set_phase(entry.slot, Phase::Stopped),
            (None, Status::Revoked | Status::Deleted) => leases.set_phase(entry.slot, unwritten(&entry.row)),
            (Some(_), status @ (Status::Revoked | Status::Deleted)) => {
                leases.set_phase(entry.slot, Phase::Stopped);
                let age = now.wall.since(entry.row.status_since).as_millis();
                armed.overdue.push(Verdict {
                    service: entry.row.key.clone(),
                    presence: Presence::Stopped,
                    cause: status.as_str(),
                    evidence: json!({}),
                    from: BootTime(now.boot.0.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX))),
                });
            }
            (Some(Presence::Alive | Presence::Late | Presence::Unknown), _) | (_, Status::Active) => {
                // Until they have beaten, sidecars keep the pace that they were granted before this start.
                let pace = pace_of(&entry.row, everybody);
                let before = pace_before(&entry.row, everybody, previous);
                let pace = before.map_or(pace, |before| longest(pace, before));
                let spread = entry.slot.number().wrapping_mul(2_654_435_761);
                // Without an identity of its own it lives by its parent's reports, at their pace.
                let reported = open.filter(|_| entry.identity.is_none()).and_then(|row| recorded_pace(&row.evidence));
                match reported {
                    Some(pace) => leases.rearm_by_parent(entry.slot, pace, now.boot.after(chance(pace, spread))),
                    None => leases.rearm(entry.slot, pace, now.boot.after(chance(pace, spread))),
                }
                let written = matches!(lasting, Some(Presence::Alive | Presence::Late));
                if !written {
                    armed.unwritten.insert(entry.slot);
                }
                if !written || entry.row.status != Status::Active {
                    leases.rouse(entry.slot);
                }
                armed.count += 1;
            }
            (Some(Presence::NeverSeen) | None, Status::Pending | Status::Inactive) => {
                leases.set_phase(entry.slot, unwritten(&entry.row));
            }
        }
    }
    armed
}

/// The verdict of a loss, dated back to the first missed beat.
pub(super) fn loss(key: ServiceKey, last_seen: Option<Timestamp>, sight: Sight, now: Now) -> Verdict {
    let interval = sight.pace.interval();
    let from = sight.lease().first_missed().or_else(|| {
        // Not heard since a restart: the flushed last_seen is the best that is known.
        let missed = last_seen?.after(interval);
        Some(BootTime(now.boot.0.saturating_sub(u64::try_from(now.wall.since(missed).as_millis()).unwrap_or(0))))
    });
    let mut evidence = json!({
        "last_beat": sight.last_seen(now).or(last_seen).map(|at| at.to_string()),
        "heard_since_start": sight.last_beat.is_some(),
        "interval_ms": sight.pace.interval_ms,
        "ttl_ms": sight.pace.ttl_ms,
        "deadline": now.wall_of(sight.deadline).to_string(),
    });
    if let (Origin::Parent, Some(evidence)) = (sight.origin, evidence.as_object_mut()) {
        evidence.insert("origin".into(), json!(sight.origin.as_str()));
    }
    Verdict { service: key, presence: Presence::Lost, cause: "ttl", evidence, from: from.unwrap_or(now.boot) }
}

/// The same silence where whoever reports the service is silent too: no verdict.
pub(super) fn veiled(loss: Verdict) -> Verdict {
    Verdict { presence: Presence::Unknown, cause: "via_parent", ..loss }
}

#[cfg(test)]
mod tests {
    use rollcall_common::id::PaceNo;

    use super::*;

    const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };

    fn at(ms: u64) -> Now {
        Now { boot: BootTime(ms), wall: Timestamp(1_000_000 + i64::try_from(ms).unwrap()) }
    }

    #[test]
    fn a_late_tick_is_a_blind_interval_with_its_credit() {
        let mut judge = Judge::new(at(0));
        assert_eq!(judge.tick(at(100), PACE), Sense::Clear);
        assert_eq!(judge.tick(at(1_099), PACE), Sense::Clear);
        let Sense::Credit(gap) = judge.tick(at(6_099), PACE) else { panic!("no credit") };
        assert_eq!(
            (gap.length, gap.from, gap.to),
            (Duration::from_secs(5), Timestamp(1_001_099), Timestamp(1_006_099))
        );
    }

    #[test]
    fn credit_is_bounded_to_three_ttls_an_hour() {
        let mut judge = Judge::new(at(0));
        assert!(matches!(judge.tick(at(80_000), PACE), Sense::Credit(_)));
        assert!(matches!(judge.tick(at(91_000), PACE), Sense::Unobservable(_)));
        assert!(
            matches!(judge.tick(at(92_000 + 3_600_000), PACE), Sense::Unobservable(_)),
            "an hour's sleep exceeds it too"
        );
        assert!(matches!(judge.tick(at(92_000 + 3_605_000), PACE), Sense::Credit(_)), "a new hour has new credit");
    }

    #[test]
    fn the_chance_is_fair_and_spread() {
        assert_eq!(chance(PACE, 0), Duration::from_secs(30));
        assert!(chance(PACE, 999) > Duration::from_millis(34_900));
        let short = Pace { interval_ms: 1_000, ttl_ms: 3_000, ..PACE };
        assert_eq!(chance(short, 0), Duration::from_secs(11));
    }
}
