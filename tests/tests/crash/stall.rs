//! The registry store stalls: heartbeats do not notice, and whatever needs it fails closed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rollcall_common::{code::Code, id::Kind};
use rollcall_tests::{
    fleet::{Fleet, enroll_many},
    lab::{self, Bench},
    peer::{Ask, Key, Phone, Puppet, SOON, enroll},
    until::{always, same, until},
    world::{
        Plan, Policy,
        api::{at, moment, word},
    },
};
use serde_json::json;

/// Longer than a lease, so that a heartbeat that waited would be a lost one.
const STALL: Duration = Duration::from_secs(10);
const LIVING: usize = 20;

/// L17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_do_not_wait_for_a_stalled_store() -> Result<()> {
    let plan = Plan { interval: Duration::from_secs(1), ttl: Duration::from_secs(8), ..Plan::default() };
    lab::run(&plan, Bench::default(), async |lab| {
        let token = lab.token(Policy::prefix(Kind::Poller, "p").uses(100)).await?;
        let fleet = Fleet::start(enroll_many(lab.quic(), &token, "p", LIVING).await?, lab.quic())?;
        let phone = Phone::new()?;
        let to = lab.quic();
        let renewing = enroll(&phone, to, &token, &Ask::poller("p-renewing")?).await?.identity()?;
        let dying = enroll(&phone, to, &token, &Ask::poller("p-dying")?).await?.identity()?;
        let mut renewing = Puppet::new(renewing)?.live(&phone, to).await?;
        renewing.beat().await?;
        let mut dying = Puppet::new(dying)?.live(&phone, to).await?;
        dying.beat().await?;
        for n in 0..LIVING {
            lab.api().wait_alive(&format!("poller/p{n}")).await?;
        }
        lab.api().wait_alive("poller/p-dying").await?;

        lab.store().stall();
        drop(dying);
        let acked = fleet.acked();
        let asking = async {
            let refused = renewing.renew(&Key::generate()?).await?.err().context("renewed without a store")?;
            same("a renewal", &refused.code, &Code::StoreUnavailable)?;
            ensure!(refused.retry_after_ms > 0, "a renewal is not told when to come back");
            let ask = Ask::poller("p-new")?;
            let refused = enroll(&phone, to, &token, &ask).await?.refusal()?;
            same("an enrollment", &refused.code, &Code::StoreUnavailable)?;
            ensure!(refused.retry_after_ms > 0, "an enrollment is not told when to come back");
            anyhow::Ok(ask)
        };
        let watching = always(STALL, "everybody lives", async || {
            same("late acknowledgements", &fleet.late(), &0)?;
            for poller in lab.api().list("pollers").await? {
                let (id, presence) = (word(&poller, "id")?, word(&poller, "presence")?);
                ensure!(
                    presence == "alive" || !id.starts_with("p0") && matches!(id, "p-dying" | "p-renewing" | "p-new"),
                    "{id} is {presence}"
                );
            }
            Ok(())
        });
        let (ask, watched) = tokio::join!(asking, watching);
        let (ask, ()) = (ask?, watched?);
        let beats = fleet.acked() - acked;
        ensure!(beats >= u64::try_from(LIVING)? * 8, "only {beats} beats were acknowledged in {STALL:?}");
        ensure!(lab.store().held() > 0, "the store did not stall");
        // A verdict is shown at once, and said to be on no record yet.
        let lost = lab.api().wait(SOON, "poller/p-dying", "presence", "lost").await?;
        ensure!(at(&lost, "/recorded") != json!(true), "it is said to be on record: {lost}");

        lab.store().resume();
        let row = lab.api().wait_row("poller/p-dying", "lost").await?;
        let last_beat = moment(&at(&row, "/evidence"), "last_beat")?;
        let detection = moment(&row, "decided_at")?.since(last_beat);
        ensure!(detection <= plan.ttl + Duration::from_secs(1), "detected after {detection:?}");
        // The unanswered enrollment is found again by its key, whether it was committed or not.
        until(SOON, "it enrolls after all", async || enroll(&phone, to, &token, &ask).await?.identity().map(drop))
            .await?;
        for n in 0..LIVING {
            lab.api().never_lost(&format!("poller/p{n}")).await?;
        }
        same("late acknowledgements", &fleet.late(), &0)
    })
    .await
}
