//! Redis comes and goes under a running collector: noticed, repaired, and nobody's death.

use std::time::Duration;

use anyhow::{Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    fleet::{Fleet, enroll_many},
    peer::SOON,
    redis::Redis,
    until::{same, until},
    world::{
        self, Api, Plan, Policy,
        api::{at, word},
    },
};
use serde_json::json;

const LIVING: usize = 20;
const KEYS: &str = "rollcall:live:poller:*";

async fn published(redis: &Redis) -> Result<()> {
    until(SOON, "all are published", async || same("keys", &redis.keys(KEYS).await?, &LIVING)).await
}

/// Waits until the collector has noticed something more than before.
async fn noticed(api: &Api, metric: &str, before: f64) -> Result<()> {
    api.wait_metric(metric, "", before + 1.0).await.map(drop)
}

async fn all_alive(api: &Api) -> Result<()> {
    for poller in api.list("pollers").await? {
        same(word(&poller, "id")?, &word(&poller, "presence")?, &"alive")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_flushed_or_paused_redis_is_nobodys_death() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut redis = Redis::start(dir.path()).await?;
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(6), ..Plan::default() };
    world::run(plan.with(&format!("liveness = \"{}\"", redis.url())), async |world| {
        let token = world.token(Policy::prefix(Kind::Poller, "p").uses(100)).await?;
        let fleet = Fleet::start(enroll_many(world.quic(), &token, "p", LIVING).await?, world.quic())?;
        published(&redis).await?;
        let api = world.api();
        let (failed, lost) = ("rollcall_liveness_publish_failed_total", "rollcall_liveness_lost_total");

        // Flushed: the epoch is gone with it.
        let before = api.metric(lost, "").await?;
        redis.ask("FLUSHALL").await?;
        noticed(api, lost, before).await?;
        published(&redis).await?;
        all_alive(api).await?;

        // Killed, and later there again, empty.
        let before = api.metric(failed, "").await?;
        redis.process().kill9().await?;
        noticed(api, failed, before).await?;
        until(SOON, "it is shown", async || {
            let ready = api.get("/readyz").await?.expect(200)?;
            same("the liveness store is well", &at(&ready, "/liveness/ok"), &json!(false))
        })
        .await?;
        // Longer than a lease without a Redis.
        let beats = fleet.acked();
        until(SOON, "everybody beats on", async || {
            all_alive(api).await?;
            let more = fleet.acked() - beats;
            ensure!(more > 14 * u64::try_from(LIVING)?, "{more} beats");
            Ok(())
        })
        .await?;
        let before = api.metric(lost, "").await?;
        redis.start_again().await?;
        noticed(api, lost, before).await?;
        published(&redis).await?;

        // Paused: it answers nobody, and then goes on with what has run out meanwhile.
        let before = api.metric(failed, "").await?;
        redis.process().pause()?;
        noticed(api, failed, before).await?;
        all_alive(api).await?;
        redis.process().resume()?;
        published(&redis).await?;
        until(SOON, "it is well again", async || {
            let ready = api.get("/readyz").await?.expect(200)?;
            same("the liveness store is well", &at(&ready, "/liveness/ok"), &json!(true))
        })
        .await?;

        same("late acknowledgements", &fleet.late(), &0)?;
        same("losses", &api.metric("rollcall_presence_verdicts_total", "presence=\"lost\"").await?, &0.0)?;
        for n in 0..LIVING {
            api.never_lost(&format!("poller/p{n}")).await?;
        }
        Ok(())
    })
    .await
}
