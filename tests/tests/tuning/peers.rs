//! What the collector does, told from peers on strings: frames come when they should, and a pace of one's own holds.

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use rollcall_common::{
    health::Text,
    wire::{
        message::{Down, Up, capability},
        settings::{ProbeState, Settings, SettingsRefused, SettingsState},
    },
};
use rollcall_tests::{
    peer::{Live, Phone, Puppet, SOON},
    until::{same, until},
    world::{
        self, Api, Plan,
        api::{at, word},
    },
};
use serde_json::{Value, json};
use std::time::Duration;

const PLACE: &str = "/api/admin/services/pollers/p/settings";

async fn put(api: &Api, body: Value) -> Result<Value> {
    api.call(Method::PUT, PLACE, Some(&body)).await?.expect(200)
}

async fn wait_state(api: &Api, state: &str) -> Result<Value> {
    until(SOON, &format!("settings are {state}"), async || {
        let view = api.get(PLACE).await?.expect(200)?;
        same("the state", &word(&view, "state")?, &state)?;
        Ok(view)
    })
    .await
}

async fn greet(puppet: &mut Puppet, phone: &Phone, to: std::net::SocketAddr, capabilities: u64) -> Result<Live> {
    let mut hello = puppet.next_hello();
    hello.capabilities = capabilities;
    match puppet.dial_saying(phone, to, hello).await? {
        Ok(live) => Ok(live),
        Err(ending) => bail!("it was not greeted: {ending:?}"),
    }
}

/// The next settings on a line; acknowledgements and directives are passed over.
async fn settings(live: &mut Live) -> Result<Settings> {
    loop {
        match live.line.hear().await?.context("the line is over")? {
            Down::Settings(settings) => return Ok(*settings),
            Down::Ack(_) | Down::Directive(_) | Down::Children(_) => {}
            other @ (Down::Enrolled(_) | Down::Refused(_) | Down::HelloAck(_) | Down::Renewed(_) | Down::Bye(_)) => {
                bail!("instead of settings came {other:?}")
            }
        }
    }
}

fn state(revision: u64, refused: Option<u64>) -> Result<Up> {
    let probe = ProbeState {
        child: None,
        probe: "port".parse()?,
        sort: Text::fit("tcp"),
        allowed: true,
        runs: true,
        interval_ms: 10_000,
        timeout_ms: 3_000,
        rise: 2,
        fall: 3,
    };
    let refused = refused.map(|revision| SettingsRefused { revision, why: Text::fit("port looks too seldom") });
    Ok(Up::Settings(Box::new(SettingsState { revision, refused, probes: vec![probe], more: 0 })))
}

#[tokio::test]
async fn settings_reach_whoever_is_there_at_once_and_everybody_else_with_the_greeting() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        let to = world.quic();
        let mut live = greet(&mut puppet, &phone, to, capability::SETTINGS).await?;
        same("abilities", &live.greeting.capabilities, &capability::SETTINGS)?;
        let first = settings(&mut live).await?;
        ensure!(first.revision == 0 && first.probes.is_empty(), "{first:?}");
        live.beat().await?;
        live.line.say(&state(0, None)?).await?;
        let api = world.api().clone();

        put(&api, json!({"interval": "200ms", "probes": [{"probe": "port", "run": false}]})).await?;
        let told = settings(&mut live).await?;
        same("the revision", &told.revision, &1)?;
        same("what runs", &told.probes.first().and_then(|one| one.run), &Some(false))?;
        live.line.say(&state(1, None)?).await?;
        let view = wait_state(&api, "applied").await?;
        same("where it runs", &at(&view, "/in_force/probes/0/probe"), &json!("port"))?;
        same("its pace", &live.beat().await?.pace.interval_ms, &200)?;

        // Labels take the same road, under the same revision.
        let labels = json!({"labels": {"site": "north"}});
        api.call(Method::PATCH, "/api/admin/services/pollers/p", Some(&labels)).await?.expect(200)?;
        let told = settings(&mut live).await?;
        same("the revision", &told.revision, &1)?;
        same("the label", &told.labels.get("site"), &Some("north"))?;

        // A probe that it does not have is refused to whoever asks; nothing reaches the sidecar.
        let other = json!({"probes": [{"probe": "disk", "run": false}]});
        let problem = api.call(Method::PUT, PLACE, Some(&other)).await?.expect(422)?;
        same("the code", &word(&problem, "code")?, &"unknown_probe")?;
        live.goodbye().await?;

        // Two changes while it is away: it hears of the last.
        put(&api, json!({"probes": [{"probe": "port", "fall": 7}]})).await?;
        put(&api, json!({"probes": [{"probe": "port", "interval": "1h"}]})).await?;
        wait_state(&api, "pending").await?;
        let mut live = greet(&mut puppet, &phone, to, capability::SETTINGS).await?;
        let told = settings(&mut live).await?;
        same("the revision", &told.revision, &3)?;
        same("the interval", &told.probes.first().and_then(|one| one.interval_ms), &Some(3_600_000))?;
        live.line.say(&state(1, Some(3))?).await?;
        let view = wait_state(&api, "refused").await?;
        same("why", &word(&view, "why")?, &"port looks too seldom")?;
        same("in force", &at(&view, "/in_force/revision"), &json!(1))?;
        api.wait(SOON, "poller/p", "settings", "refused").await?;
        same("counted", &api.metric("rollcall_settings", "state=\"refused\"").await?, &1.0)?;

        // Taken back: another revision, without anything in it.
        api.call(Method::DELETE, PLACE, None).await?.expect(200)?;
        let told = settings(&mut live).await?;
        ensure!(told.revision == 4 && told.probes.is_empty(), "{told:?}");
        live.line.say(&state(4, None)?).await?;
        wait_state(&api, "none").await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_sidecar_that_knows_no_settings_is_shown_so_and_keeps_the_interval() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (mut puppet, mut live) = world.live_poller(&phone, "p").await?;
        let api = world.api().clone();
        put(&api, json!({"interval": "700ms"})).await?;
        let view = wait_state(&api, "unsupported").await?;
        ensure!(word(&view, "why")?.contains("update it"), "{view}");
        same("its pace", &live.beat().await?.pace.interval_ms, &700)?;
        // Another greeting says it again, and nothing of settings comes down.
        drop(live);
        let mut live = puppet.live(&phone, world.quic()).await?;
        same("its pace", &live.greeting.pace.interval_ms, &700)?;
        same("its pace", &live.beat().await?.pace.interval_ms, &700)?;
        wait_state(&api, "unsupported").await?;
        // An update of it takes them at its greeting.
        drop(live);
        let mut live = greet(&mut puppet, &phone, world.quic(), capability::SETTINGS).await?;
        same("the revision", &settings(&mut live).await?.revision, &1)?;
        live.line.say(&state(1, None)?).await?;
        wait_state(&api, "applied").await.map(drop)
    })
    .await
}

/// Everybody's chance after a restart is over long before this one's next beat is due.
#[tokio::test]
async fn a_slow_service_is_not_lost_by_a_restart() -> Result<()> {
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(3), ..Plan::default() };
    world::run(plan, async |world| {
        let phone = Phone::new()?;
        let (mut puppet, mut live) = world.live_poller(&phone, "p").await?;
        let (_, usual) = world.live_poller(&phone, "usual").await?;
        // In everybody's proportion that is good for a minute.
        put(world.api(), json!({"interval": "10s"})).await?;
        same("the pace", &live.beat().await?.pace.ttl_ms, &60_000)?;
        live.beat().await?;
        same("shown", &at(&world.api().service("poller/p").await?, "/interval_ms"), &json!(10_000))?;
        world.collector().kill9().await?;
        drop((live, usual));
        world.start_collector().await?;
        let api = world.api().clone();
        api.wait(SOON * 2, "poller/usual", "presence", "lost").await?;
        same("the slow one", &api.field("poller/p", "presence").await?, &"unknown".to_owned())?;
        let mut live = puppet.live(&phone, world.quic()).await?;
        same("granted again", &live.greeting.pace.interval_ms, &10_000)?;
        live.beat().await?;
        api.wait_alive("poller/p").await?;
        api.never_lost("poller/p").await
    })
    .await
}
