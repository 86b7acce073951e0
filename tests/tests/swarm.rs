//! The load generator against a real collector: it tells the truth about the well and about the dead.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::time::{Clock as _, SystemClock};
use rollcall_tests::{
    swarm::{
        api::Api,
        fleet::{Fleet, Manner},
        gauge::Pid,
        plan::Shape,
        recruit::{Enrolled, Mint, Recruiting},
        run::{self, Report},
        shelf::Shelf,
        storm,
    },
    until::{same, until},
    world::{self, Plan, World},
};

const SOON: Duration = Duration::from_secs(30);

fn manner(kill: f64, stop: f64) -> Manner {
    Manner { ramp: Duration::from_millis(200), collector: None, sockets: 2, kill, stop, seed: 3 }
}

fn api(world: &World) -> Result<Api> {
    Api::new(format!("http://{}", world.api().addr()), &world.state().join("admin.credential"))
}

async fn recruit(api: &Api, dir: &Path, shape: Shape, count: u32) -> Result<Enrolled> {
    let mint = Mint::Api(api);
    Recruiting { mint, shape, count, parallel: 8, collector: None, allow_remote: false }.run(dir).await
}

fn launch(dir: &Path, count: u32, manner: &Manner) -> Result<(Shelf, Fleet)> {
    let shelf = Shelf::open(dir)?;
    let members = shelf.first(count, SystemClock.now().wall)?;
    Ok((shelf, Fleet::launch(members, manner)?))
}

async fn play(world: &mut World, dir: &Path, count: u32, manner: &Manner) -> Result<Report> {
    let pid = world.collector().pid().context("no collector")?;
    let plan = run::Plan {
        duration: Duration::from_secs(2),
        ramp: manner.ramp,
        collector: Some(Pid(pid)),
        empty: None,
        api: Some(api(world)?),
        faults: manner.kill + manner.stop > 0.0,
        revive_after: Some(Duration::from_secs(5)),
    };
    let (_shelf, fleet) = launch(dir, count, manner)?;
    run::run(fleet, &plan, None).await
}

#[tokio::test]
async fn a_tree_is_enrolled_once_and_beats_without_loss() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let (dir, api) = (world.dir().join("swarm"), api(world)?);
        same("enrolled at first", &recruit(&api, &dir, Shape::Tree, 9).await?.enrolled, &9)?;
        let again = recruit(&api, &dir, Shape::Tree, 11).await?;
        same("enrolled and kept then", &(again.enrolled, again.total), &(2, 11))?;
        ensure!(recruit(&api, &dir, Shape::Flat, 11).await.is_err(), "another shape was taken");
        let usable = world.api().tokens().await?.iter().filter(|token| token["state"] == "usable").count();
        same("tokens left usable", &usable, &0)?;

        let report = play(world, &dir, 11, &manner(0.0, 0.0)).await?;
        same("failures", &report.failures, &vec![])?;
        ensure!(report.window.counts.acked >= 11 * 3, "{report:?}");
        ensure!(report.window.wire_bytes > 100.0 && report.window.collector_cpu_us.is_some_and(|us| us > 0.0));
        same("checkers", &world.api().list("checkers").await?.len(), &8)
    })
    .await
}

#[tokio::test]
async fn the_killed_are_found_lost_and_the_stopped_stopped() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let dir = world.dir().join("swarm");
        recruit(&api(world)?, &dir, Shape::Flat, 16).await?;
        let report = play(world, &dir, 16, &manner(0.3, 0.3)).await?;
        same("failures", &report.failures, &vec![])?;
        let (lost, stopped) = (report.lost.context("no losses")?, report.stopped.context("no stops")?);
        ensure!(lost.expected > 0 && stopped.expected > 0, "nobody met a fate: {lost:?}, {stopped:?}");
        same("missing", &(lost.missing(), stopped.missing()), &(0, 0))?;
        let after = lost.after.context("no time")?;
        ensure!(after.p50_ms >= 3_000, "lost before the TTL: {after:?}");
        ensure!(report.counts.reconnects == 0, "the revived are new processes: {:?}", report.counts);
        Ok(())
    })
    .await
}

/// A collector that is not scheduled for longer than a beat may wait makes sidecars leave it.
#[tokio::test]
async fn beats_that_nobody_answers_are_a_failure() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let dir = world.dir().join("swarm");
        recruit(&api(world)?, &dir, Shape::Flat, 4).await?;
        let (_shelf, fleet) = launch(&dir, 4, &manner(0.0, 0.0))?;
        until(SOON, "everybody is greeted", async || same("live", &fleet.board().live(), &4)).await?;
        world.collector().pause()?;
        let left = until(SOON, "everybody gave up", async || {
            let counts = fleet.board().tally().counts;
            same("sidecars with a late beat", &counts.late, &4).map(|()| counts)
        });
        let counts = left.await;
        world.collector().resume()?;
        let counts = counts?;
        ensure!(counts.lost >= 4, "late beats are lost beats: {counts:?}");
        until(SOON, "everybody is back", async || same("live", &fleet.board().live(), &4)).await?;
        ensure!(fleet.board().tally().counts.reconnects >= 4);
        fleet.leave().await
    })
    .await
}

#[tokio::test]
async fn everybody_is_back_after_a_crash() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let (dir, ready) = (world.dir().join("swarm"), world.dir().join("ready"));
        recruit(&api(world)?, &dir, Shape::Flat, 12).await?;
        let plan = storm::Plan {
            ramp: Duration::from_millis(200),
            collector: Pid(world.collector().pid().context("no collector")?),
            pid_file: None,
            listening: world.api().addr(),
            api: api(world)?,
            ready_file: Some(ready.clone()),
            patience: SOON,
        };
        let (_shelf, fleet) = launch(&dir, 12, &manner(0.0, 0.0))?;
        let crash = async {
            until(SOON, "everybody beats", async || Ok(std::fs::metadata(&ready).map(drop)?)).await?;
            world.crash_collector().await
        };
        let (report, crashed) = tokio::join!(storm::run(fleet, &plan), crash);
        crashed?;
        let report = report?;
        same("failures", &report.failures, &vec![])?;
        same("back", &report.since_return.map(|summary| summary.count), &Some(12))?;
        // The outage itself may be shorter than a look at it; that every connection ended is not.
        ensure!(!report.ends.is_empty(), "nobody noticed: {report:?}");
        Ok(())
    })
    .await
}
