//! The lease table: one slot a service, atomics only, so that a heartbeat touches its slot and nothing else.
//!
//! Writers: [`Leases::touch`] by the task that holds the sidecar's connection; everything else by the
//! registry alone. The two meet in `phase` and `deadline`: a touch stores the deadline and then reads the
//! phase, an expiry stores the phase and then reads the deadline, both sequentially consistent, so that at
//! least one of them sees the other and no beat is lost between them.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rollcall_common::{
    id::{BeatNo, PaceNo, SessionNo},
    lease::{Lease, Pace, Presence, Unknown},
    time::{BootTime, Now, Timestamp},
};

use super::{
    judge::{chance, credit_of},
    roster::Slot,
};

/// Slots in one chunk.
const CHUNK: usize = 4096;
/// Chunks at most: together 4,194,304 services.
const CHUNKS: usize = 1024;
/// Leases that there is room for.
pub(super) const MAX_LEASES: usize = CHUNK * CHUNKS;

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No service here.
    Vacant,
    /// Registered, never heard.
    NeverSeen,
    /// Running: its deadline counts.
    Live,
    /// Its deadline passed.
    Lost,
    /// It said goodbye, or was made to stop.
    Stopped,
    /// Its deadline passed, and whoever reports it is silent too: no verdict. Its deadline is that of a verdict
    /// once the reporter is back.
    Unseen,
}

/// Whose word a lease lives by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The sidecar's own beats.
    Own,
    /// A parent's reports.
    Parent,
}

impl Origin {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Parent];

    /// The word used in the API and in evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Parent => "parent",
        }
    }

    fn from_byte(byte: u8) -> Self {
        if byte == 0 { Self::Own } else { Self::Parent }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Own => 0,
            Self::Parent => 1,
        }
    }
}

impl Phase {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::NeverSeen,
            2 => Self::Live,
            3 => Self::Lost,
            4 => Self::Stopped,
            5 => Self::Unseen,
            _ => Self::Vacant,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Vacant => 0,
            Self::NeverSeen => 1,
            Self::Live => 2,
            Self::Lost => 3,
            Self::Stopped => 4,
            Self::Unseen => 5,
        }
    }
}

const PUBLISH: u8 = 1;
const FLUSH: u8 = 2;
/// The next touch is to wake, although the lease runs.
const ROUSE: u8 = 4;

#[derive(Debug, Default)]
struct Cell {
    deadline: AtomicU64,
    /// 0 = none since this collector began to observe.
    last_beat: AtomicU64,
    session: AtomicU64,
    beat_no: AtomicU64,
    interval_ms: AtomicU32,
    ttl_ms: AtomicU32,
    /// Milliseconds credited in this hour.
    credited_ms: AtomicU32,
    phase: AtomicU8,
    dirty: AtomicU8,
    origin: AtomicU8,
    /// Whose lease it is, of those that have had its place.
    term: AtomicU32,
    /// The deadline of [`Phase::Unseen`].
    veiled_until: AtomicU64,
}

impl Cell {
    fn wipe(&self) {
        self.phase.store(Phase::Vacant.byte(), SeqCst);
        for field in [&self.deadline, &self.last_beat, &self.session, &self.beat_no, &self.veiled_until] {
            field.store(0, SeqCst);
        }
        for field in [&self.interval_ms, &self.ttl_ms, &self.credited_ms] {
            field.store(0, SeqCst);
        }
        self.dirty.store(0, SeqCst);
        self.origin.store(0, SeqCst);
    }
}

/// What a touch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// The lease was running and runs on.
    Kept,
    /// The lease was not running, or its service is not active: the registry must hear of this beat.
    Woke,
}

/// What a reader sees of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Where it stands.
    pub phase: Phase,
    /// What to show.
    pub presence: Presence,
    /// Why there is no verdict, if there is none.
    pub unknown: Option<Unknown>,
    /// The last accepted beat since this collector began to observe.
    pub last_beat: Option<BootTime>,
    /// The granted pace.
    pub pace: Pace,
    /// When it is lost; meaningful while live.
    pub deadline: BootTime,
    /// The beat's number.
    pub beat_no: BeatNo,
    /// The dial it came over.
    pub session: SessionNo,
    /// Whose word it lives by.
    pub origin: Origin,
}

impl Sight {
    /// The lease behind it.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease { last_beat: self.last_beat, pace: self.pace, deadline: self.deadline }
    }

    /// The last beat as wall time.
    #[must_use]
    pub fn last_seen(&self, now: Now) -> Option<Timestamp> {
        self.last_beat.map(|beat| now.wall_of(beat))
    }
}

/// All leases.
#[derive(Debug)]
pub struct Leases {
    chunks: Box<[OnceLock<Box<[Cell]>>]>,
    /// Whether any lease may be veiled: hardly ever, and then nobody need look for them.
    any_veiled: AtomicBool,
}

impl Default for Leases {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(), any_veiled: AtomicBool::new(false) }
    }
}

impl Leases {
    fn cell(&self, slot: Slot) -> Option<&Cell> {
        let cell = self.place(slot)?;
        (cell.term.load(SeqCst) == slot.term()).then_some(cell)
    }

    /// The cell of a slot, whosever it is.
    fn place(&self, slot: Slot) -> Option<&Cell> {
        let index = slot.index();
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// Makes room for a slot and gives it to whoever comes. Answers whether there is room at all.
    pub fn reserve(&self, slot: Slot) -> bool {
        let Some(chunk) = self.chunks.get(slot.index() / CHUNK) else { return false };
        chunk.get_or_init(|| (0..CHUNK).map(|_| Cell::default()).collect());
        if let Some(cell) = self.place(slot) {
            // Whatever was still on its way when the last one left.
            cell.wipe();
            cell.term.store(slot.term(), SeqCst);
        }
        true
    }

    /// Accepts a beat: the whole work of a heartbeat on the collector.
    pub fn touch(&self, slot: Slot, session: SessionNo, beat_no: BeatNo, pace: Pace, now: BootTime) -> Touch {
        self.touch_from(Origin::Own, slot, session, beat_no, pace, now)
    }

    /// Accepts a parent's report in the place of a beat.
    pub fn touch_by_parent(
        &self,
        slot: Slot,
        session: SessionNo,
        batch_no: BeatNo,
        pace: Pace,
        now: BootTime,
    ) -> Touch {
        self.touch_from(Origin::Parent, slot, session, batch_no, pace, now)
    }

    fn touch_from(
        &self,
        origin: Origin,
        slot: Slot,
        session: SessionNo,
        beat_no: BeatNo,
        pace: Pace,
        now: BootTime,
    ) -> Touch {
        let Some(cell) = self.cell(slot) else { return Touch::Woke };
        cell.origin.store(origin.byte(), SeqCst);
        cell.session.store(session.0, SeqCst);
        cell.beat_no.store(beat_no.0, SeqCst);
        cell.interval_ms.store(pace.interval_ms, SeqCst);
        cell.ttl_ms.store(pace.ttl_ms, SeqCst);
        cell.last_beat.store(now.0.max(1), SeqCst);
        cell.deadline.store(now.after(pace.ttl()).0, SeqCst);
        let before = cell.dirty.fetch_or(PUBLISH | FLUSH, SeqCst);
        let runs = cell.phase.load(SeqCst) == Phase::Live.byte();
        if runs && before & ROUSE == 0 { Touch::Kept } else { Touch::Woke }
    }

    /// What a reader sees now.
    #[must_use]
    pub fn sight(&self, slot: Slot, now: BootTime) -> Option<Sight> {
        let cell = self.cell(slot)?;
        let phase = Phase::from_byte(cell.phase.load(SeqCst));
        let pace = Pace { no: PaceNo(0), interval_ms: cell.interval_ms.load(SeqCst), ttl_ms: cell.ttl_ms.load(SeqCst) };
        let last_beat = Some(cell.last_beat.load(SeqCst)).filter(|beat| *beat != 0).map(BootTime);
        let deadline = BootTime(cell.deadline.load(SeqCst));
        let (presence, unknown) = match phase {
            Phase::Vacant | Phase::NeverSeen => (Presence::NeverSeen, None),
            Phase::Live => Lease { last_beat, pace, deadline }.presence(now),
            Phase::Lost => (Presence::Lost, None),
            Phase::Stopped => (Presence::Stopped, None),
            Phase::Unseen => (Presence::Unknown, Some(Unknown::ViaParent)),
        };
        Some(Sight {
            phase,
            presence,
            unknown,
            last_beat,
            pace,
            deadline,
            beat_no: BeatNo(cell.beat_no.load(SeqCst)),
            session: SessionNo(cell.session.load(SeqCst)),
            origin: Origin::from_byte(cell.origin.load(SeqCst)),
        })
    }

    /// Slots with one of several presences; `None` = there are more than `most`. Looks at every lease: half a
    /// millisecond for 100,000.
    #[must_use]
    pub fn with_presence(&self, wanted: &[Presence], now: BootTime, most: usize) -> Option<Vec<Slot>> {
        let mut found = Vec::new();
        for (slot, cell) in self.cells() {
            if cell.phase.load(SeqCst) == Phase::Vacant.byte() {
                continue;
            }
            if self.sight(slot, now).is_some_and(|sight| wanted.contains(&sight.presence)) {
                if found.len() == most {
                    return None;
                }
                found.push(slot);
            }
        }
        Some(found)
    }

    /// Sets where a lease stands, without touching its deadline.
    pub(super) fn set_phase(&self, slot: Slot, phase: Phase) {
        if let Some(cell) = self.cell(slot) {
            cell.phase.store(phase.byte(), SeqCst);
        }
    }

    /// Arms a lease without a beat: after a restart, with a chance until the deadline.
    pub(super) fn rearm(&self, slot: Slot, pace: Pace, deadline: BootTime) {
        if let Some(cell) = self.cell(slot) {
            cell.last_beat.store(0, SeqCst);
            cell.interval_ms.store(pace.interval_ms, SeqCst);
            cell.ttl_ms.store(pace.ttl_ms, SeqCst);
            cell.deadline.store(deadline.0, SeqCst);
            cell.phase.store(Phase::Live.byte(), SeqCst);
        }
    }

    /// Arms a lease that a parent's reports feed, as [`Self::rearm`] does.
    pub(super) fn rearm_by_parent(&self, slot: Slot, pace: Pace, deadline: BootTime) {
        if let Some(cell) = self.cell(slot) {
            cell.origin.store(Origin::Parent.byte(), SeqCst);
        }
        self.rearm(slot, pace, deadline);
    }

    /// Has the touches of a running lease wake until the registry has heard of one.
    pub(super) fn rouse(&self, slot: Slot) {
        if let Some(cell) = self.cell(slot) {
            cell.dirty.fetch_or(ROUSE, SeqCst);
        }
    }

    /// The registry has heard.
    pub(super) fn calm(&self, slot: Slot) {
        if let Some(cell) = self.cell(slot) {
            cell.dirty.fetch_and(!ROUSE, SeqCst);
        }
    }

    /// Takes the verdict of an expiry back for a while: whoever reports this one is silent too. A report that came in
    /// between has the last word.
    pub(super) fn veil(&self, slot: Slot, until: BootTime) {
        if let Some(cell) = self.cell(slot) {
            let lost = (Phase::Lost.byte(), Phase::Unseen.byte());
            // Whoever wakes it meanwhile sets the phase, and finds the deadline it has set itself.
            if cell.phase.compare_exchange(lost.0, lost.1, SeqCst, SeqCst).is_ok() {
                cell.veiled_until.store(until.0, SeqCst);
                self.any_veiled.store(true, SeqCst);
            }
        }
    }

    /// Whether any lease may be veiled.
    pub(super) fn any_veiled(&self) -> bool {
        self.any_veiled.load(SeqCst)
    }

    /// Gives a veiled one its chance, now that its reporter is back.
    pub(super) fn unveil(&self, slot: Slot, by: BootTime) {
        if let Some(cell) = self.cell(slot) {
            cell.veiled_until.store(by.0, SeqCst);
        }
    }

    /// Veiled leases whose chance is over, each moved to [`Phase::Lost`].
    pub(super) fn expire_veiled(&self, now: BootTime) -> Vec<Slot> {
        if !self.any_veiled.load(SeqCst) {
            return Vec::new();
        }
        let (unseen, lost) = (Phase::Unseen.byte(), Phase::Lost.byte());
        let (mut over, mut any) = (Vec::new(), false);
        for (slot, cell) in self.cells().filter(|(_, cell)| cell.phase.load(SeqCst) == unseen) {
            if cell.veiled_until.load(SeqCst) > now.0 {
                any = true;
            } else if cell.phase.compare_exchange(unseen, lost, SeqCst, SeqCst).is_ok() {
                over.push(slot);
            }
        }
        self.any_veiled.store(any, SeqCst);
        over
    }

    /// Empties a slot. From here on nobody finds a lease by it; a touch that had found it just before may still
    /// write, so that its place is not given away at once.
    pub(super) fn vacate(&self, slot: Slot) {
        if let Some(cell) = self.cell(slot) {
            cell.term.store(slot.next_term().term(), SeqCst);
            cell.wipe();
        }
    }

    /// Moves the deadline of every live lease by a time that could not be observed. Whose credit of this hour does not
    /// reach for it is armed as after a restart: what was known of it is out of date. Each has the credit, and the
    /// chance, of its own pace, and `renews` begins another hour for all.
    pub(super) fn credit(&self, now: BootTime, blind: Duration, renews: bool) {
        let millis = u64::try_from(blind.as_millis()).unwrap_or(u64::MAX);
        if renews {
            self.cells().for_each(|(_, cell)| cell.credited_ms.store(0, SeqCst));
        }
        for (slot, cell) in self.live() {
            let pace =
                Pace { no: PaceNo(0), interval_ms: cell.interval_ms.load(SeqCst), ttl_ms: cell.ttl_ms.load(SeqCst) };
            let credited = u64::from(cell.credited_ms.load(SeqCst)).saturating_add(millis);
            if Duration::from_millis(credited) <= credit_of(pace) {
                cell.credited_ms.store(u32::try_from(credited).unwrap_or(u32::MAX), SeqCst);
                cell.deadline.fetch_add(millis, SeqCst);
            } else {
                self.rearm(slot, pace, now.after(chance(pace, slot.number())));
            }
        }
    }

    /// Live leases whose deadline has passed, each moved to [`Phase::Lost`]. A beat that arrives in between
    /// keeps its lease: either this sees the new deadline, or the touch sees the phase.
    pub(super) fn expire(&self, now: BootTime) -> Vec<Slot> {
        let mut lost = Vec::new();
        for (slot, cell) in self.live() {
            if cell.deadline.load(SeqCst) > now.0 {
                continue;
            }
            cell.phase.store(Phase::Lost.byte(), SeqCst);
            if cell.deadline.load(SeqCst) > now.0 {
                cell.phase.store(Phase::Live.byte(), SeqCst);
            } else {
                lost.push(slot);
            }
        }
        lost
    }

    /// Slots that beat since the last such call, for publication.
    pub fn take_unpublished(&self) -> Vec<Slot> {
        self.take_dirty(PUBLISH)
    }

    /// Slots that beat since the last such call, for the flush of `last_seen`.
    pub fn take_unflushed(&self) -> Vec<Slot> {
        self.take_dirty(FLUSH)
    }

    /// Marks slots for another flush, because one failed.
    pub fn put_back_unflushed(&self, slots: impl IntoIterator<Item = Slot>) {
        for slot in slots {
            if let Some(cell) = self.cell(slot) {
                cell.dirty.fetch_or(FLUSH, SeqCst);
            }
        }
    }

    /// Marks every live slot for publication, because the store lost what it had.
    pub fn republish_all(&self) {
        for (_, cell) in self.live() {
            cell.dirty.fetch_or(PUBLISH, SeqCst);
        }
    }

    fn take_dirty(&self, bit: u8) -> Vec<Slot> {
        let dirty = |(slot, cell): (Slot, &Cell)| {
            (cell.dirty.load(SeqCst) & bit != 0 && cell.dirty.fetch_and(!bit, SeqCst) & bit != 0).then_some(slot)
        };
        self.cells().filter_map(dirty).collect()
    }

    fn live(&self) -> impl Iterator<Item = (Slot, &Cell)> {
        self.cells().filter(|(_, cell)| cell.phase.load(SeqCst) == Phase::Live.byte())
    }

    fn cells(&self) -> impl Iterator<Item = (Slot, &Cell)> {
        let chunks = self.chunks.iter().enumerate().filter_map(|(n, chunk)| Some((n, chunk.get()?)));
        chunks.flat_map(|(n, cells)| {
            cells.iter().enumerate().map(move |(i, cell)| {
                let number = u32::try_from(n * CHUNK + i).unwrap_or(u32::MAX);
                (Slot::new(number, cell.term.load(SeqCst)), cell)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 1_000, ttl_ms: 3_000 };
    const SLOT: Slot = Slot::new(0, 0);

    fn leases() -> Leases {
        let leases = Leases::default();
        leases.reserve(SLOT);
        leases
    }

    #[test]
    fn a_beat_wakes_once_and_then_keeps() {
        let leases = leases();
        assert_eq!(leases.touch(SLOT, SessionNo(1), BeatNo(1), PACE, BootTime(10)), Touch::Woke);
        leases.set_phase(SLOT, Phase::Live);
        assert_eq!(leases.touch(SLOT, SessionNo(1), BeatNo(2), PACE, BootTime(20)), Touch::Kept);
        assert!(leases.expire(BootTime(3_019)).is_empty());
        assert_eq!(leases.expire(BootTime(3_020)), [SLOT]);
        assert!(leases.expire(BootTime(9_000)).is_empty(), "a verdict falls once");
        assert_eq!(leases.touch(SLOT, SessionNo(1), BeatNo(3), PACE, BootTime(9_001)), Touch::Woke);
    }

    #[test]
    fn a_late_touch_of_who_had_the_place_before_does_nothing() {
        let (leases, next) = (leases(), SLOT.next_term());
        leases.touch(SLOT, SessionNo(1), BeatNo(1), PACE, BootTime(10));
        leases.set_phase(SLOT, Phase::Live);
        leases.vacate(SLOT);
        let late = || leases.touch(SLOT, SessionNo(1), BeatNo(9), PACE, BootTime(99));
        assert_eq!((late(), leases.sight(SLOT, BootTime(99))), (Touch::Woke, None));
        leases.reserve(next);
        leases.set_phase(next, Phase::NeverSeen);
        late();
        leases.set_phase(SLOT, Phase::Live);
        let sight = leases.sight(next, BootTime(99)).unwrap();
        assert_eq!((sight.phase, sight.last_beat, sight.beat_no), (Phase::NeverSeen, None, BeatNo(0)));
        assert!(leases.take_unflushed().is_empty() && leases.expire(BootTime(1_000_000)).is_empty());
        assert_eq!(leases.touch(next, SessionNo(2), BeatNo(1), PACE, BootTime(100)), Touch::Woke);
        assert_eq!(leases.take_unflushed(), [next]);
    }

    #[test]
    fn a_roused_lease_runs_and_wakes_until_it_was_heard() {
        let leases = leases();
        leases.rearm(SLOT, PACE, BootTime(5_000));
        leases.rouse(SLOT);
        let touch = |no| leases.touch(SLOT, SessionNo(1), BeatNo(no), PACE, BootTime(10));
        assert_eq!((touch(1), leases.take_unflushed()), (Touch::Woke, vec![SLOT]));
        assert_eq!(touch(2), Touch::Woke, "the first notice may be lost");
        leases.calm(SLOT);
        assert_eq!((touch(3), leases.expire(BootTime(3_010))), (Touch::Kept, vec![SLOT]));
    }

    #[test]
    fn credit_moves_deadlines_and_shows_unknown() {
        let leases = leases();
        leases.touch(SLOT, SessionNo(1), BeatNo(1), PACE, BootTime(10));
        leases.set_phase(SLOT, Phase::Live);
        leases.credit(BootTime(5_010), Duration::from_secs(5), false);
        assert!(leases.expire(BootTime(8_009)).is_empty());
        let sight = leases.sight(SLOT, BootTime(4_000));
        assert_eq!(sight.map(|s| s.presence), Some(Presence::Unknown));
        assert_eq!(leases.expire(BootTime(8_010)), [SLOT]);
    }

    #[test]
    fn dirt_is_taken_once_and_can_be_put_back() {
        let leases = leases();
        leases.touch(SLOT, SessionNo(1), BeatNo(1), PACE, BootTime(10));
        assert_eq!(leases.take_unflushed(), [SLOT]);
        assert!(leases.take_unflushed().is_empty());
        assert_eq!(leases.take_unpublished(), [SLOT]);
        leases.put_back_unflushed([SLOT]);
        assert_eq!(leases.take_unflushed(), [SLOT]);
    }

    /// The race that the module header speaks of: whatever the interleaving, a beat that is in time is
    /// either kept by the expiry or answered with `Woke`.
    #[test]
    fn no_beat_falls_between_touch_and_expiry() {
        for round in 0..500 {
            let leases = Arc::new(leases());
            leases.rearm(SLOT, PACE, BootTime(100));
            let toucher = {
                let leases = Arc::clone(&leases);
                thread::spawn(move || leases.touch(SLOT, SessionNo(1), BeatNo(1), PACE, BootTime(100)))
            };
            let expired = leases.expire(BootTime(100));
            let touched = toucher.join().unwrap();
            let live = leases.sight(SLOT, BootTime(101)).is_some_and(|s| s.phase == Phase::Live);
            assert!(live || touched == Touch::Woke, "round {round}: {expired:?} {touched:?}");
        }
    }
}
