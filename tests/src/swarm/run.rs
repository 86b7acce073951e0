//! The measured run: everybody beats for a while, then the faults, then the witness is heard.
//!
//! Figures are of the window between the ramp and the faults, so that neither handshakes nor goodbyes are
//! in them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use rollcall_common::{
    id::ServiceKey,
    lease::Presence,
    time::{BootTime, Timestamp},
};
use serde::Serialize;

use super::{
    api::Api,
    fleet::{Fate, Fleet},
    gauge::{Machine, Pid},
    quantile::Summary,
    tally::Counts,
    wire::Traffic,
    witness::{self, Detection, FalseTransition},
};

/// How long everybody may take to be greeted, beyond the ramp.
const GREETED_WITHIN: Duration = Duration::from_secs(60);
/// How much later than its TTL a loss may be shown before it counts as missed.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// What a run is to do.
#[derive(Debug)]
pub struct Plan {
    /// Length of the window.
    pub duration: Duration,
    /// Over which the first dials are spread.
    pub ramp: Duration,
    /// The collector's process.
    pub collector: Option<Pid>,
    /// Its anonymous memory with an empty registry, in bytes, where somebody measured it.
    pub empty: Option<u64>,
    /// Whom to ask for what was recorded.
    pub api: Option<Api>,
    /// Whether anybody is killed or stopped.
    pub faults: bool,
    /// When they start again, counted from the faults.
    pub revive_after: Option<Duration>,
}

/// Figures of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran; the load is that of its end.
    pub machine: Machine,
    /// Sidecars.
    pub sidecars: usize,
    /// The pace that the collector granted, in milliseconds.
    pub interval_ms: u32,
    /// The time to live that it granted, in milliseconds.
    pub ttl_ms: u32,
    /// The steady part.
    pub window: Window,
    /// Counts of the whole run.
    pub counts: Counts,
    /// From the moment at which a dial was due to the greeting, over the whole run.
    pub reach: Option<Summary>,
    /// Why connections, and tries at them, ended before the goodbyes.
    pub ends: BTreeMap<String, u64>,
    /// The collector's anonymous memory.
    pub memory: Option<Memory>,
    /// Verdicts about those that beat all the time; `None` where the API was not asked.
    pub false_transitions: Option<Vec<FalseTransition>>,
    /// The killed.
    pub lost: Option<Detection>,
    /// The stopped.
    pub stopped: Option<Detection>,
    /// What should not have been; empty where all is well.
    pub failures: Vec<String>,
}

/// Figures of the steady part.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    /// Its length, in milliseconds.
    pub length_ms: u64,
    /// What was counted in it.
    pub counts: Counts,
    /// From a beat to its acknowledgement.
    pub ack: Option<Summary>,
    /// Own CPU time, in µs per beat.
    pub own_cpu_us: f64,
    /// The collector's CPU time, in µs per beat.
    pub collector_cpu_us: Option<f64>,
    /// What passed.
    pub traffic: Traffic,
    /// Datagrams both ways, per beat.
    pub datagrams: f64,
    /// Bytes both ways with IPv4 and UDP headers, per beat.
    pub wire_bytes: f64,
}

/// The collector's anonymous memory, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Before the first dial.
    pub before: u64,
    /// With everybody connected.
    pub after: u64,
    /// The difference by sidecar.
    pub per_connection: u64,
    /// By sidecar, beyond an empty registry.
    pub per_sidecar: Option<u64>,
}

struct Look {
    at: BootTime,
    counts: Counts,
    own: Duration,
    collector: Option<Duration>,
    traffic: Traffic,
}

/// Runs it. The fleet has just been launched; `before` is the collector's memory before that.
///
/// # Errors
/// When a process cannot be measured or the API does not answer. What the sidecars lived through is no
/// error: it is in [`Report::failures`].
pub async fn run(fleet: Fleet, plan: &Plan, before: Option<u64>) -> Result<Report> {
    let since = fleet.clock().now().wall;
    let sidecars = fleet.fates().len();
    let mut failures = vec![];

    let all_live = || fleet.board().live() == sidecars;
    if !watch(&fleet, plan.ramp + GREETED_WITHIN, all_live).await {
        failures.push(format!("only {} of {sidecars} were greeted in time", fleet.board().live()));
    }
    let (interval, ttl) = fleet.board().tally().pace;
    // Until everybody has beaten at their own pace.
    watch(&fleet, interval, || false).await;

    fleet.board().tally().ack = super::quantile::Quantiles::default();
    let first = look(&fleet, plan)?;
    watch(&fleet, plan.duration, || false).await;
    let second = look(&fleet, plan)?;
    let window = window(&fleet, &first, &second);
    let memory =
        before.zip(plan.collector).map(|(before, pid)| memory(before, pid, plan.empty, sidecars)).transpose()?;

    let (mut lost, mut stopped) = (None, None);
    if plan.faults {
        match faults(&fleet, plan, ttl, &mut failures).await {
            Ok(found) => (lost, stopped) = found,
            Err(error) => failures.push(format!("the faults were not followed: {error:#}")),
        }
    }
    let false_transitions = false_transitions(&fleet, plan, since, &mut failures).await;
    let (counts, reach, ends) = {
        let tally = fleet.board().tally();
        (tally.counts, tally.reach.summary(), tally.ends.clone())
    };
    if counts.lost > 0 {
        failures.push(format!("{} beats lost, {} of them late", counts.lost, counts.late));
    }
    if counts.throttled > 0 {
        failures.push(format!("{} beats throttled", counts.throttled));
    }
    fleet.leave().await?;
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Ok(Report {
        machine: Machine::now(),
        sidecars,
        interval_ms: millis(interval),
        ttl_ms: millis(ttl),
        window,
        counts,
        reach,
        ends,
        memory,
        false_transitions,
        lost,
        stopped,
        failures,
    })
}

/// Figures that were taken are not given up because the witness does not answer.
async fn false_transitions(
    fleet: &Fleet,
    plan: &Plan,
    since: Timestamp,
    failures: &mut Vec<String>,
) -> Option<Vec<FalseTransition>> {
    let api = plan.api.as_ref()?;
    let steady: Vec<ServiceKey> = fleet.of_fate(Fate::Steady).into_iter().collect();
    tracing::info!("asking for the history of {} services", steady.len());
    match witness::false_transitions(api, &steady, since).await {
        Ok(found) => {
            if !found.is_empty() {
                failures.push(format!("{} false transitions", found.len()));
            }
            Some(found)
        }
        Err(error) => {
            failures.push(format!("the history was not read: {error:#}"));
            None
        }
    }
}

async fn faults(
    fleet: &Fleet,
    plan: &Plan,
    ttl: Duration,
    failures: &mut Vec<String>,
) -> Result<(Option<Detection>, Option<Detection>)> {
    let clock = fleet.clock();
    let (killed, stopped) = (fleet.of_fate(Fate::Killed), fleet.of_fate(Fate::Stopped));
    let struck = clock.now();
    fleet.strike();
    tracing::info!("{} killed, {} stopped", killed.len(), stopped.len());
    let Some(api) = &plan.api else { return Ok((None, None)) };

    let deadline = struck.boot.after(ttl + SHOWN_WITHIN);
    while clock.now().boot < deadline {
        if killed.is_subset(&api.in_presence(&[Presence::Lost]).await?) {
            break;
        }
        tokio::time::sleep(LOOK * 5).await;
    }
    let killed: Vec<ServiceKey> = killed.into_iter().collect();
    let lost = witness::losses(api, &killed, struck.wall).await?;
    let named = fleet.fates().iter().enumerate().filter(|(_, (_, fate))| *fate == Fate::Stopped);
    let said = named.filter_map(|(n, (service, _))| Some((service.clone(), fleet.board().left(n)?))).collect();
    let stops = witness::stops(api, &said).await?;
    for (found, word) in [(&lost, "lost"), (&stops, "stopped")] {
        if found.missing() > 0 {
            failures.push(format!("{} of {} were never shown as {word}", found.missing(), found.expected));
        }
    }
    if let Some(after) = plan.revive_after {
        let wait = struck.boot.after(after).since(clock.now().boot);
        watch(fleet, wait, || false).await;
        fleet.revive();
        let all = fleet.fates().len();
        if !watch(fleet, plan.ramp + GREETED_WITHIN, || fleet.board().live() == all).await {
            failures.push(format!("only {} of {all} were back after the revival", fleet.board().live()));
        }
    }
    Ok((Some(lost), Some(stops)))
}

/// Waits until something is so, telling how things stand; answers whether it came to be in time.
pub(super) async fn watch(fleet: &Fleet, within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let clock = fleet.clock();
    let begun = clock.now().boot;
    let mut told = begun;
    loop {
        if done() {
            return true;
        }
        let now = clock.now().boot;
        if now >= begun.after(within) {
            return false;
        }
        if now.since(told) >= PROGRESS {
            told = now;
            let live = fleet.board().live();
            let tally = fleet.board().tally();
            let Counts { acked, lost, reconnects, .. } = tally.counts;
            tracing::info!("{live} live, {acked} beats acknowledged, {lost} lost, {reconnects} reconnects");
        }
        tokio::time::sleep(LOOK.min(begun.after(within).since(now))).await;
    }
}

fn look(fleet: &Fleet, plan: &Plan) -> Result<Look> {
    Ok(Look {
        at: fleet.clock().now().boot,
        counts: fleet.board().tally().counts,
        own: Pid::own().cpu()?,
        collector: plan.collector.map(Pid::cpu).transpose()?,
        traffic: fleet.traffic(),
    })
}

fn window(fleet: &Fleet, first: &Look, second: &Look) -> Window {
    let counts = second.counts.since(&first.counts);
    let traffic = second.traffic.since(first.traffic);
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let each = |sum: u64| sum as f64 / counts.acked.max(1) as f64;
    let micros = |spent: Duration| each(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX)) / 1_000.0;
    Window {
        length_ms: u64::try_from(second.at.since(first.at).as_millis()).unwrap_or(u64::MAX),
        counts,
        ack: fleet.board().tally().ack.summary(),
        own_cpu_us: micros(second.own.saturating_sub(first.own)),
        collector_cpu_us: first.collector.zip(second.collector).map(|(a, b)| micros(b.saturating_sub(a))),
        traffic,
        datagrams: each(traffic.datagrams()),
        wire_bytes: each(traffic.wire_bytes()),
    }
}

fn memory(before: u64, pid: Pid, empty: Option<u64>, sidecars: usize) -> Result<Memory> {
    let after = pid.anonymous()?;
    let all = u64::try_from(sidecars.max(1))?;
    let each = |base: u64| after.saturating_sub(base) / all;
    Ok(Memory { before, after, per_connection: each(before), per_sidecar: empty.map(each) })
}
