//! When a job runs: pure. A state and a reading of the wall clock in, a run or none out.
//!
//! What is planned is planned by wall time, since that is what a schedule speaks of. A clock that jumps forward
//! makes a job run once, however many times it passed over; one that is put back makes it run at the next time of
//! its schedule, never only when the clock has caught up. What came due while the collector was away runs once,
//! a grace after the start. The jitter is told by the moment and the collector's name: a restart changes nothing.

use std::time::Duration;

use rollcall_common::time::Timestamp;

use crate::{
    config::JobSettings,
    store::rows::{JobRow, RunCause},
};

/// What is planned for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agenda {
    plan: Option<Plan>,
    cause: RunCause,
    /// The wall clock at the last look.
    seen: Timestamp,
    seed: u64,
}

/// A run to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// The moment of the schedule.
    slot: Timestamp,
    /// That moment with its jitter.
    at: Timestamp,
}

/// What the world says about one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a> {
    /// Its settings.
    pub(super) settings: &'a JobSettings,
    /// Whether it runs by itself at all.
    pub(super) enabled: bool,
    /// Until when it is paused.
    pub(super) paused_until: Option<Timestamp>,
    /// Whether it runs at this moment.
    pub(super) running: bool,
}

impl Agenda {
    /// After a start.
    pub(super) fn begin(
        settings: &JobSettings,
        row: Option<&JobRow>,
        seed: u64,
        now: Timestamp,
        grace: Duration,
    ) -> Self {
        // Under another schedule it was never due then.
        let planned = row.filter(|row| row.schedule == settings.schedule.as_str()).and_then(|row| row.next_at);
        if planned.is_some_and(|planned| planned <= now) {
            let plan = Plan { slot: now, at: now.after(grace) };
            return Self { plan: Some(plan), cause: RunCause::Missed, seen: now, seed };
        }
        let plan = next(settings, seed, now);
        // Its moment came before the stop and its jitter ends after it. What lies further off than the next moment
        // of the schedule was planned by a clock that has been put back.
        let waiting = planned.filter(|planned| plan.is_some_and(|plan| *planned < plan.at));
        let plan = waiting.map_or(plan, |at| Some(Plan { slot: now, at }));
        Self { plan, cause: RunCause::Schedule, seen: now, seed }
    }

    /// What held it ends at a moment: it tries again then, where nothing is planned before.
    pub(super) fn again_at(&mut self, at: Timestamp) {
        if self.plan.is_some_and(|plan| at < plan.at) {
            self.plan = Some(Plan { slot: at, at });
            self.cause = RunCause::Missed;
        }
    }

    /// Looks at the clock; answers why the job is to run now, if it is.
    pub(super) fn look(&mut self, word: Word<'_>, now: Timestamp) -> Option<RunCause> {
        let back = now < self.seen;
        self.seen = now;
        if !word.enabled {
            self.plan = None;
            return None;
        }
        if self.plan.is_none() {
            self.replan(word, now);
        }
        if back {
            let fresh = next(word.settings, self.seed, now);
            if let (Some(plan), Some(fresh)) = (self.plan, fresh)
                && fresh.at < plan.at
            {
                self.replan(word, now);
            }
        }
        if word.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let plan = self.plan.filter(|plan| now >= plan.at)?;
        let cause = self.cause;
        self.replan(word, now.max(plan.slot));
        // One that takes longer than its period leaves a turn out.
        (!word.running).then_some(cause)
    }

    fn replan(&mut self, word: Word<'_>, after: Timestamp) {
        self.plan = next(word.settings, self.seed, after);
        self.cause = RunCause::Schedule;
    }

    /// When it is due.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.plan.map(|plan| plan.at)
    }
}

fn next(settings: &JobSettings, seed: u64, now: Timestamp) -> Option<Plan> {
    let slot = settings.schedule.after(now)?;
    Some(Plan { slot, at: slot.after(jitter(seed, slot, settings.jitter)) })
}

/// A share of the longest jitter, evenly spread over collectors, jobs and moments.
fn jitter(seed: u64, slot: Timestamp, longest: Duration) -> Duration {
    let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let chance = mix(seed ^ slot.0.unsigned_abs());
    Duration::from_millis(if longest == 0 { 0 } else { chance % longest.saturating_add(1) })
}

/// The seed of a job on a collector.
pub(super) fn seed(collector: &str, job: &str) -> u64 {
    // FNV-1a; any spread will do.
    collector
        .bytes()
        .chain([b'/'])
        .chain(job.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::suite::samples::job;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn settings(schedule: &str, jitter: u64) -> JobSettings {
        JobSettings {
            schedule: schedule.parse().unwrap(),
            enabled: true,
            jitter: Duration::from_secs(jitter),
            cap: 10,
            timeout: Duration::from_secs(60),
        }
    }

    fn word(settings: &JobSettings) -> Word<'_> {
        Word { settings, enabled: true, paused_until: None, running: false }
    }

    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn a_job_runs_once_at_each_of_its_times() {
        let hourly = settings("0 * * * *", 0);
        let start = at("2026-11-21T10:30:00Z");
        let mut agenda = Agenda::begin(&hourly, None, 1, start, GRACE);
        assert_eq!(agenda.next_at(), Some(at("2026-11-21T11:00:00Z")));
        let mut runs = Vec::new();
        for second in 0..3 * 3_600 {
            let now = start.after(Duration::from_secs(second));
            if agenda.look(word(&hourly), now).is_some() {
                runs.push(now);
            }
        }
        assert_eq!(runs, ["11", "12", "13"].map(|hour| at(&format!("2026-11-21T{hour}:00:00Z"))));
    }

    #[test]
    fn what_was_missed_runs_once_after_a_grace() {
        let nightly = settings("0 2 * * *", 0);
        let now = at("2026-11-21T10:30:00Z");
        let mut row = job("purge", 1);
        row.next_at = Some(at("2026-11-18T02:00:00Z"));
        let mut agenda = Agenda::begin(&nightly, Some(&row), 1, now, GRACE);
        assert_eq!(agenda.look(word(&nightly), now.after(GRACE / 2)), None);
        assert_eq!(agenda.look(word(&nightly), now.after(GRACE)), Some(RunCause::Missed));
        assert_eq!(agenda.look(word(&nightly), now.after(GRACE * 2)), None, "once, not three times");
        assert_eq!(agenda.next_at(), Some(at("2026-11-22T02:00:00Z")));
        row.schedule = "0 5 * * *".into();
        let agenda = Agenda::begin(&nightly, Some(&row), 1, now, GRACE);
        assert_eq!(agenda.next_at(), Some(at("2026-11-22T02:00:00Z")), "the schedule is another one now");
    }

    #[test]
    fn a_restart_within_the_jitter_loses_no_run() {
        let nightly = settings("0 2 * * *", 600);
        let mut row = job("purge", 1);
        row.next_at = Some(at("2026-11-21T02:08:00Z"));
        let agenda = Agenda::begin(&nightly, Some(&row), 1, at("2026-11-21T02:03:00Z"), GRACE);
        assert_eq!(agenda.next_at(), row.next_at);
        row.next_at = Some(at("2031-01-01T02:00:00Z"));
        let agenda = Agenda::begin(&nightly, Some(&row), 1, at("2026-11-21T02:03:00Z"), GRACE);
        assert!(agenda.next_at().unwrap() < at("2026-11-22T02:11:00Z"), "planned by a clock that was put back");
    }

    #[test]
    fn what_was_held_runs_when_nothing_holds_it_any_more() {
        let nightly = settings("0 2 * * *", 0);
        let begin = at("2026-11-21T02:00:00Z");
        let mut agenda = Agenda::begin(&nightly, None, 1, Timestamp(begin.0 - 1), GRACE);
        assert_eq!(agenda.look(word(&nightly), begin), Some(RunCause::Schedule));
        let free = begin.after(Duration::from_secs(3_600));
        agenda.again_at(free);
        assert_eq!(agenda.look(word(&nightly), Timestamp(free.0 - 1)), None);
        assert_eq!(agenda.look(word(&nightly), free), Some(RunCause::Missed));
        assert_eq!(agenda.next_at(), Some(at("2026-11-22T02:00:00Z")));
        agenda.again_at(at("2026-11-23T00:00:00Z"));
        assert_eq!(agenda.next_at(), Some(at("2026-11-22T02:00:00Z")), "sooner anyway");
    }

    #[test]
    fn a_clock_that_jumps_makes_no_run_twice_and_loses_none_for_long() {
        let hourly = settings("0 * * * *", 0);
        let start = at("2026-11-21T10:30:00Z");
        let mut agenda = Agenda::begin(&hourly, None, 1, start, GRACE);
        let far = at("2027-03-01T00:30:00Z");
        assert_eq!(agenda.look(word(&hourly), far), Some(RunCause::Schedule), "once for all that were passed over");
        assert_eq!(agenda.look(word(&hourly), far.after(GRACE)), None);
        assert_eq!(agenda.look(word(&hourly), start), None);
        assert_eq!(agenda.next_at(), Some(at("2026-11-21T11:00:00Z")), "put back: the next time, not the old one");
    }

    #[test]
    fn a_paused_one_waits_a_disabled_one_forgets_and_no_two_run_at_once() {
        let hourly = settings("0 * * * *", 0);
        let start = at("2026-11-21T10:30:00Z");
        let noon = at("2026-11-21T12:00:00Z");
        let mut agenda = Agenda::begin(&hourly, None, 1, start, GRACE);
        let paused = Word { paused_until: Some(noon), ..word(&hourly) };
        assert_eq!(agenda.look(paused, at("2026-11-21T11:10:00Z")), None);
        assert_eq!(agenda.look(paused, noon), Some(RunCause::Schedule), "what came due in the pause runs after it");
        let off = Word { enabled: false, ..word(&hourly) };
        assert_eq!((agenda.look(off, at("2026-11-21T13:10:00Z")), agenda.next_at()), (None, None));
        assert_eq!(agenda.look(word(&hourly), at("2026-11-21T13:20:00Z")), None);
        let busy = Word { running: true, ..word(&hourly) };
        assert_eq!(agenda.look(busy, at("2026-11-21T14:00:00Z")), None, "its turn is left out");
        assert_eq!(agenda.next_at(), Some(at("2026-11-21T15:00:00Z")));
    }

    proptest! {
        #[test]
        fn jitter_is_bounded_and_the_same_each_time(collector in "[a-z]{1,8}", slot: i64, longest in 0..4_000_u64) {
            let longest = Duration::from_millis(longest);
            let one = jitter(seed(&collector, "purge"), Timestamp(slot), longest);
            prop_assert!(one <= longest);
            prop_assert_eq!(one, jitter(seed(&collector, "purge"), Timestamp(slot), longest));
        }

        /// Whatever the clock does, a job runs at most once in each look, and only when its time has come.
        #[test]
        fn no_clock_makes_a_job_run_ahead_of_its_plan(steps in prop::collection::vec(-7_200..7_200_i64, 1..60)) {
            let hourly = settings("0 * * * *", 300);
            let mut now = at("2026-11-21T10:30:00Z");
            let mut agenda = Agenda::begin(&hourly, None, 7, now, GRACE);
            for step in steps {
                let planned = agenda.next_at();
                let before = now;
                now = Timestamp(now.0 + step * 1_000);
                let ran = agenda.look(word(&hourly), now).is_some();
                if now >= before {
                    prop_assert_eq!(ran, planned.is_some_and(|planned| now >= planned));
                } else {
                    prop_assert!(!ran || planned.is_some_and(|planned| now >= planned));
                }
                prop_assert!(agenda.next_at().is_some_and(|at| at > now || !ran));
                let soon = now.after(Duration::from_secs(3_600 + 300));
                prop_assert!(agenda.next_at().is_some_and(|at| at <= soon), "never further off than a period");
            }
        }
    }
}
