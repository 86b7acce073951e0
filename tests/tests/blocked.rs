//! Where UDP is blocked: the real sidecar over TLS on TCP, and its way back to QUIC.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    net::{Relay, Weather},
    peer::SOON,
    until::{same, until, within},
    world::{self, Plan, Policy, Sidecar, World, api::at, process::find},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A handshake that nobody answers is given up after 15 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// A lease that a handshake in vain fits into twice.
fn plan() -> Plan {
    Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(20), ..Plan::default() }
}

async fn agent(of: &Sidecar, args: &[&str]) -> Result<(i32, String)> {
    let config = of.state().with_file_name("agent.toml");
    let mut command = tokio::process::Command::new(find("rollcall-agent")?);
    command.args(args).arg("--config").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = within(SOON * 2, "the command ends", command.output()).await??;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().context("a signal")?, text))
}

async fn status(of: &Sidecar) -> Result<Value> {
    let (code, text) = agent(of, &["status", "--output", "json"]).await?;
    ensure!(code == 0, "{code}: {text}");
    Ok(serde_json::from_str(text.trim())?)
}

async fn carried_by(world: &World, transport: &str) -> Result<()> {
    until(PATIENCE, &format!("{transport} carries it"), async || {
        same("the transport", &at(&world.api().service("poller/p").await?, "/transport"), &json!(transport))
    })
    .await
}

/// A sidecar that dials the relay alone; started.
async fn behind(world: &mut World, relay: &Relay, settings: &str) -> Result<Sidecar> {
    let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
    let settings = format!("kind = \"poller\"\nid = \"p\"\naddresses = [\"{}\"]\n{settings}", relay.addr());
    let mut sidecar = world.sidecar("p", &settings)?;
    sidecar.give_token(&token)?;
    sidecar.start()?;
    Ok(sidecar)
}

#[tokio::test]
async fn a_sidecar_without_udp_enrolls_and_beats_over_tcp_and_returns_to_quic() -> Result<()> {
    world::run(plan(), async |world| {
        let relay = Relay::start_with_tcp(world.quic()).await?;
        relay.set(Weather::no_udp());
        let mut sidecar = behind(world, &relay, "").await?;
        world.api().wait(PATIENCE, "poller/p", "presence", "alive").await?;
        carried_by(world, "tcp").await?;
        sidecar.line_with("over TLS on TCP from now on, as QUIC is not answered")?;
        let told = status(&sidecar).await?;
        same("its own word", &told["transport"], &json!("tcp"))?;
        ensure!(told["fallback"]["why"].as_str().is_some_and(|why| why.contains("over QUIC")), "{told}");
        let port = format!("UDP {}", relay.addr().port());
        let warned = told["warnings"].as_array().context("no warnings")?;
        ensure!(warned.iter().any(|words| words.as_str().is_some_and(|words| words.contains(&port))), "{told}");
        let (code, text) = agent(&sidecar, &["doctor"]).await?;
        ensure!(code == 0, "{code}: {text}");
        ensure!(text.contains("UDP alone is blocked") && text.contains("heartbeats go while UDP is blocked"), "{text}");

        relay.set(Weather::default());
        sidecar.signal(Signal::HUP)?;
        carried_by(world, "quic").await?;
        sidecar.line_with("over QUIC again")?;
        let told = status(&sidecar).await?;
        same("its own word", &(&told["transport"], &told["fallback"]), &(&json!("quic"), &Value::Null))?;
        // Nobody noticed.
        world.api().wait_history("poller/p", &["alive"]).await?;
        let said = sidecar.said()?;
        same("said once", &said.matches("over TLS on TCP from now on").count(), &1)?;

        // Cut under a live session, UDP costs no lease; the collector tells no loss.
        relay.set(Weather::no_udp());
        carried_by(world, "tcp").await?;
        world.api().wait_history("poller/p", &["alive"]).await?;
        let (_, ended) = sidecar.terminate().await?;
        ensure!(ended.success(), "it ended with {ended}");
        let stopped = world.api().wait_row("poller/p", "stopped").await?;
        same("the cause", &stopped["cause"], &json!("goodbye"))
    })
    .await
}

#[tokio::test]
async fn over_tcp_a_killed_collector_and_a_revocation_are_met_as_over_quic() -> Result<()> {
    world::run(plan(), async |world| {
        let relay = Relay::start_with_tcp(world.quic()).await?;
        relay.set(Weather::no_udp());
        let mut sidecar = behind(world, &relay, "transport = \"tcp\"").await?;
        // Asked for, TCP is no fallback, and waits for nothing.
        world.api().wait_alive("poller/p").await?;
        let told = status(&sidecar).await?;
        same("no warning", &told["warnings"], &json!([]))?;
        for _ in 0..2 {
            world.crash_collector().await?;
            carried_by(world, "tcp").await?;
        }
        world.api().wait_alive("poller/p").await?;
        world.api().act("poller/p", "revoke").await?;
        until(SOON, "the sidecar has heard of it", async || {
            sidecar.line_with("the collector closed: REVOKED").map(drop)
        })
        .await?;
        sidecar.signal(Signal::HUP)?;
        let refused = "the collector refused our certificate: revoked";
        until(SOON, "the alert is understood", async || sidecar.line_with(refused).map(drop)).await?;
        world.api().act("poller/p", "unrevoke").await?;
        sidecar.signal(Signal::HUP)?;
        world.api().wait_alive("poller/p").await?;
        carried_by(world, "tcp").await?;
        sidecar.terminate().await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_collector_without_tcp_is_reached_over_quic_alone_and_doctor_says_so() -> Result<()> {
    world::run(plan().with("tcp_fallback = false"), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        carried_by(world, "quic").await?;
        let (code, text) = agent(&sidecar, &["doctor"]).await?;
        ensure!(code == 0, "{code}: {text}");
        ensure!(text.contains("no way round through TCP"), "{text}");
        sidecar.terminate().await.map(drop)
    })
    .await
}
