//! A restarted collector: everybody is back in time, nobody is shown lost, and a death meanwhile is found.

use std::time::Duration;

use anyhow::{Result, ensure};
use rollcall_common::{
    id::Kind,
    time::{Clock as _, SystemClock},
};
use rollcall_tests::{
    fleet::{Fleet, enroll_many},
    peer::{Phone, SOON},
    until::{always, same},
    world::{
        self, Api, Plan, Policy,
        api::{moment, word},
    },
};

use super::number;

/// What a restart may take beyond one interval.
const RECONNECT: Duration = Duration::from_secs(10);

async fn losses(api: &Api) -> Result<f64> {
    api.metric("rollcall_presence_verdicts_total", "presence=\"lost\"").await
}

#[tokio::test]
async fn everybody_is_back_after_a_kill_and_nobody_was_lost() -> Result<()> {
    let size = number("ROLLCALL_RESTART_SIDECARS", 200)?;
    let plan = Plan { interval: Duration::from_secs(2), ttl: Duration::from_secs(6), ..Plan::default() };
    // A whole fleet enrolls in no time here, which a deployment does not.
    world::run(plan.with("[limits]\nenroll_per_second = 100000\nenroll_burst = 100000"), async |world| {
        let token = world.token(Policy::prefix(Kind::Poller, "p").uses(u32::try_from(size)?)).await?;
        let fleet = Fleet::start(enroll_many(world.quic(), &token, "p", size).await?, world.quic())?;
        fleet.all_acked_since(SystemClock.now().wall, Duration::from_secs(60)).await?;
        same("losses before", &losses(world.api()).await?, &0.0)?;
        for round in 0..2 {
            world.crash_collector().await?;
            let up = SystemClock.now().wall;
            fleet.all_acked_since(up, world.plan().interval + RECONNECT).await?;
            for poller in world.api().list("pollers").await? {
                ensure!(word(&poller, "presence")? != "lost", "round {round}: lost: {poller}");
            }
        }
        // What a restart arms runs out later: until then nobody may turn out lost either.
        let chance = world.plan().interval + RECONNECT;
        always(chance, "nobody is lost", async || same("losses", &losses(world.api()).await?, &0.0)).await?;
        let alive = world.api().list("pollers").await?;
        same(
            "alive",
            &alive.iter().filter(|poller| word(poller, "presence").is_ok_and(|p| p == "alive")).count(),
            &size,
        )
    })
    .await
}

#[tokio::test]
async fn a_death_during_an_outage_is_found() -> Result<()> {
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(2), ..Plan::default() };
    world::run(plan, async |world| {
        let phone = Phone::new()?;
        let (survivor, live) = world.live_poller(&phone, "survivor").await?;
        let (_, dead) = world.live_poller(&phone, "dead").await?;
        let (_, gone) = world.live_poller(&phone, "gone").await?;
        gone.goodbye().await?;
        world.api().wait(SOON, "poller/gone", "presence", "stopped").await?;
        world.collector().kill9().await?;
        drop((live, dead));
        world.start_collector().await?;
        let api = world.api();
        // No verdict yet on whom nobody has heard since; what was said before stands.
        same("presence", &api.field("poller/dead", "presence").await?, &"unknown".to_owned())?;
        same("reason", &api.field("poller/dead", "presence_reason").await?, &"collector_blind".to_owned())?;
        same("presence", &api.field("poller/gone", "presence").await?, &"stopped".to_owned())?;
        let survivor = Fleet::start(vec![survivor.identity], world.quic())?;
        api.wait(RECONNECT + SOON, "poller/dead", "presence", "lost").await?;
        ensure!(survivor.acked() > 0, "the survivor is dead too");
        let lost = &api.wait_row("poller/dead", "lost").await?;
        ensure!(moment(lost, "from")? < moment(lost, "decided_at")?.before(RECONNECT), "not dated back: {lost}");
        api.never_lost("poller/survivor").await?;
        same("the other", &api.field("poller/gone", "presence").await?, &"stopped".to_owned())
    })
    .await
}
