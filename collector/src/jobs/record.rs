//! Requests that keep a job's record, and what holds jobs back.
//!
//! Each is planned from the record as it is then, so that a run that ends and an operator who pauses the job never
//! undo one another.

use rollcall_common::time::Timestamp;
use serde_json::json;

use super::{BLIND_SEEN, CLOCK_STEP, JobName};
use crate::{
    registry::{Refusal, Request, World, services::By},
    store::rows::{Change, HoldRow, JobRow, Outcome, RunRow, Write},
};

/// The record of a job, or an empty one.
fn row(world: World<'_>, name: JobName, schedule: &str) -> JobRow {
    let found = world.roster.upkeep().job(name.as_str()).map(|row| JobRow::clone(row));
    found.unwrap_or_else(|| JobRow {
        name: name.as_str().into(),
        schedule: schedule.into(),
        enabled: None,
        paused_until: None,
        next_at: None,
        last: None,
        last_success: None,
        runs: 0,
        failures: 0,
    })
}

fn put(row: JobRow) -> Write {
    Write::PutJob(Box::new(row))
}

fn object(name: JobName) -> String {
    format!("job:{name}")
}

/// Writes down when a job is due, so that a restart knows what it missed.
#[derive(Debug, Clone)]
pub(super) struct PlanJob {
    pub(super) name: JobName,
    pub(super) schedule: String,
    pub(super) next_at: Option<Timestamp>,
}

impl Request for PlanJob {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let old = row(world, self.name, &self.schedule);
        let new = JobRow { schedule: self.schedule.clone(), next_at: self.next_at, ..old };
        Ok((Change { writes: vec![put(new)], audit: Vec::new() }, ()))
    }
}

/// Writes down that a run began.
#[derive(Debug, Clone)]
pub(super) struct BeginRun {
    pub(super) name: JobName,
    pub(super) schedule: String,
    pub(super) next_at: Option<Timestamp>,
    pub(super) run: RunRow,
    /// Who asked for it, if somebody did.
    pub(super) by: Option<By>,
}

impl Request for BeginRun {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let old = row(world, self.name, &self.schedule);
        let new = JobRow {
            schedule: self.schedule.clone(),
            next_at: self.next_at,
            runs: old.runs.saturating_add(1),
            last: Some(self.run.clone()),
            ..old
        };
        let asked = self.by.as_ref().map(|by| {
            by.did(world.now.wall, "job.started", object(self.name), [("run", json!(self.run.id.to_string()))])
        });
        Ok((Change { writes: vec![put(new)], audit: asked.into_iter().collect() }, ()))
    }
}

/// Writes down how a run ended.
#[derive(Debug, Clone)]
pub(super) struct EndRun {
    pub(super) name: JobName,
    pub(super) schedule: String,
    pub(super) run: RunRow,
}

impl Request for EndRun {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let old = row(world, self.name, &self.schedule);
        let outcome = self.run.outcome;
        let failed = outcome.is_some_and(Outcome::is_failure);
        let well = outcome == Some(Outcome::Succeeded);
        // One that could not be written down in time does not hide the one that came after it.
        let newer = old.last.clone().filter(|last| last.started_at > self.run.started_at);
        let new = JobRow {
            last: newer.or_else(|| Some(self.run.clone())),
            last_success: if well { self.run.ended_at } else { old.last_success },
            failures: old.failures.saturating_add(failed.into()),
            ..old
        };
        // What happened to services has events of its own; a run that did nothing is no news.
        let news = |word: &str| !matches!(word, "kept" | "passed" | "over_cap");
        let touched = self.run.counts.iter().any(|(word, count)| *count > 0 && news(word));
        let audit = (touched || failed || self.run.held_by.is_some()).then(|| {
            let action = match outcome {
                Some(Outcome::Held) => "job.held",
                Some(Outcome::Succeeded) | None => "job.ended",
                Some(Outcome::Failed | Outcome::TimedOut | Outcome::Stopped | Outcome::Interrupted) => "job.failed",
            };
            By::system().did(
                world.now.wall,
                action,
                object(self.name),
                [
                    ("run", json!(self.run.id.to_string())),
                    ("outcome", json!(outcome)),
                    ("counts", json!(self.run.counts)),
                    ("error", json!(self.run.error)),
                    ("held_by", json!(self.run.held_by)),
                ],
            )
        });
        Ok((Change { writes: vec![put(new)], audit: audit.into_iter().collect() }, ()))
    }
}

/// What an operator sets.
#[derive(Debug, Clone)]
pub struct SetJob {
    pub(super) name: JobName,
    pub(super) schedule: String,
    pub(super) enabled: Option<Option<bool>>,
    pub(super) paused_until: Option<Option<Timestamp>>,
    pub(super) by: By,
}

impl Request for SetJob {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let old = row(world, self.name, &self.schedule);
        let mut new = old.clone();
        new.enabled = self.enabled.unwrap_or(new.enabled);
        new.paused_until = self.paused_until.unwrap_or(new.paused_until);
        if new == old {
            return Ok((Change::default(), ()));
        }
        let shown =
            |row: &JobRow| json!({ "enabled": row.enabled, "paused_until": row.paused_until.map(|at| at.to_string()) });
        let audit = self.by.did(
            world.now.wall,
            "job.changed",
            object(self.name),
            [("before", shown(&old)), ("after", shown(&new))],
        );
        Ok((Change { writes: vec![put(new)], audit: vec![audit] }, ()))
    }
}

/// Writes down that the wall clock stepped.
#[derive(Debug, Clone)]
pub(super) struct ClockStepped {
    pub(super) step_ms: i64,
}

impl Request for ClockStepped {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let now = world.now.wall;
        // Steps add up until somebody confirms: one forward and one back make no doubt smaller.
        let steps =
            world.roster.upkeep().hold(CLOCK_STEP).and_then(|row| row.detail.get("steps")?.as_u64()).unwrap_or(0);
        let detail = json!({ "step_ms": self.step_ms, "steps": steps.saturating_add(1) });
        let row = HoldRow { name: CLOCK_STEP.into(), since: now, detail: detail.clone() };
        let audit = By::system().did(now, "collector.clock_stepped", "collector".into(), [("step", detail)]);
        Ok((Change { writes: vec![Write::PutHold(Box::new(row))], audit: vec![audit] }, ()))
    }
}

/// An operator says that all is well.
#[derive(Debug, Clone)]
pub(super) struct Confirm {
    /// What held jobs back, in words.
    pub(super) held: Vec<String>,
    pub(super) by: By,
}

impl Request for Confirm {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        if self.held.is_empty() {
            return Err(Refusal::Invalid("nothing holds a job back: there is nothing to confirm".into()));
        }
        let now = world.now.wall;
        let seen = HoldRow { name: BLIND_SEEN.into(), since: now, detail: json!({ "by": self.by.actor }) };
        let audit = self.by.did(now, "job.confirmed", object(JobName::Purge), [("held", json!(self.held))]);
        let writes = vec![Write::DropHold(CLOCK_STEP.into()), Write::PutHold(Box::new(seen))];
        Ok((Change { writes, audit: vec![audit] }, ()))
    }
}
