//! A collector that goes away and comes back: how long until everybody is back?
//!
//! Whoever runs the collector kills and restarts it; the storm watches its process and its API.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::{id::ServiceKey, time::BootTime};
use serde::Serialize;
use tokio::net::TcpStream;

use super::{
    api::Api,
    fleet::Fleet,
    gauge::{Machine, Pid},
    quantile::Summary,
    run::watch,
    witness::{self, FalseTransition},
};

/// How long everybody may take to be greeted at first, beyond the ramp.
const GREETED_WITHIN: Duration = Duration::from_secs(60);
/// What the budget allows beyond one interval.
const GRACE: Duration = Duration::from_secs(10);

/// What a storm is to do.
#[derive(Debug)]
pub struct Plan {
    /// Over which the first dials are spread.
    pub ramp: Duration,
    /// The collector's process at first.
    pub collector: Pid,
    /// Where the process id of its successor will stand, to account the storm's CPU time.
    pub pid_file: Option<PathBuf>,
    /// Where the API listens: the collector counts as back when it does.
    pub listening: SocketAddr,
    /// Whom to ask for what was recorded.
    pub api: Api,
    /// Made when everybody beats.
    pub ready_file: Option<PathBuf>,
    /// How long to wait for the outage, for its end, and for the last one to be back.
    pub patience: Duration,
}

/// Figures of a storm.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran; the load is that of its end.
    pub machine: Machine,
    /// Sidecars.
    pub sidecars: usize,
    /// How long nobody listened, in milliseconds.
    pub outage_ms: u64,
    /// From the collector's death to each one's first acknowledged beat.
    pub since_death: Option<Summary>,
    /// From the collector's return to each one's first acknowledged beat.
    pub since_return: Option<Summary>,
    /// The new collector's CPU time from its start until all were back, in µs by sidecar.
    pub collector_cpu_us: Option<u64>,
    /// Why connections, and tries at them, ended.
    pub ends: std::collections::BTreeMap<String, u64>,
    /// Verdicts that should not have fallen; `None` where the API did not answer.
    pub false_transitions: Option<Vec<FalseTransition>>,
    /// What should not have been; empty where all is well.
    pub failures: Vec<String>,
}

/// Runs it. The fleet has just been launched.
///
/// # Errors
/// When the collector does not go away or does not come back.
pub async fn run(fleet: Fleet, plan: &Plan) -> Result<Report> {
    let since = fleet.clock().now().wall;
    let sidecars = fleet.fates().len();
    let board = fleet.board();
    let greeted = watch(&fleet, plan.ramp + GREETED_WITHIN, || board.live() == sidecars).await;
    ensure!(greeted, "only {} of {sidecars} were greeted in time", board.live());
    let (interval, _) = board.tally().pace;
    watch(&fleet, interval, || false).await;
    if let Some(file) = &plan.ready_file {
        fs::write(file, b"").with_context(|| format!("cannot write {file:?}"))?;
    }
    tracing::info!("{sidecars} beat; now kill -9 the collector, process {}, and start it again", plan.collector.0);

    let gone = watch(&fleet, plan.patience, || !plan.collector.is_alive()).await;
    ensure!(gone, "the collector is still there");
    let death = fleet.clock().now().boot;
    board.mark_outage(death);
    let back = listen(&fleet, plan, death).await?;
    tracing::info!("the collector is back after {} ms", back.since(death).as_millis());

    let mut failures = vec![];
    if !watch(&fleet, plan.patience, || board.back() == sidecars).await {
        failures.push(format!("only {} of {sidecars} are back", board.back()));
    }
    let collector_cpu_us = successor_cpu(plan, sidecars);
    let since_return = board.returns(back).summary();
    let bound = u64::try_from((interval + GRACE).as_millis()).unwrap_or(u64::MAX);
    if since_return.is_some_and(|summary| summary.max_ms > bound) {
        failures.push(format!("the last one was back later than one interval + 10 s ({bound} ms)"));
    }
    let all: Vec<ServiceKey> = fleet.fates().iter().map(|(service, _)| service.clone()).collect();
    let false_transitions = match witness::false_transitions(&plan.api, &all, since).await {
        Ok(found) => Some(found),
        Err(error) => {
            failures.push(format!("the history was not read: {error:#}"));
            None
        }
    };
    let count = false_transitions.as_ref().map_or(0, Vec::len);
    if count > 0 {
        failures.push(format!("{count} false transitions"));
    }
    let report = Report {
        machine: Machine::now(),
        sidecars,
        outage_ms: u64::try_from(back.since(death).as_millis()).unwrap_or(u64::MAX),
        since_death: board.returns(death).summary(),
        since_return,
        collector_cpu_us,
        ends: board.tally().ends.clone(),
        false_transitions,
        failures,
    };
    fleet.leave().await?;
    Ok(report)
}

async fn listen(fleet: &Fleet, plan: &Plan, death: BootTime) -> Result<BootTime> {
    let deadline = death.after(plan.patience);
    while TcpStream::connect(plan.listening).await.is_err() {
        ensure!(fleet.clock().now().boot < deadline, "nobody listens on {} again", plan.listening);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(fleet.clock().now().boot)
}

fn successor_cpu(plan: &Plan, sidecars: usize) -> Option<u64> {
    let pid = fs::read_to_string(plan.pid_file.as_ref()?).ok()?.trim().parse().ok()?;
    let spent = Pid(pid).cpu().ok()?;
    u64::try_from(spent.as_micros()).ok()?.checked_div(u64::try_from(sidecars).ok()?)
}
