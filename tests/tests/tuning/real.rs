//! Settings with the real sidecar: tuned from afar, refused by its host, kept over restarts of either.

use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{same, until, within},
    world::{
        self, Api, Plan, Policy, Sidecar, World,
        api::{at, word},
        process::find,
    },
};
use serde_json::{Value, json};

const PLACE: &str = "/api/admin/services/pollers/p/settings";
/// One probe that may be tuned and finds fault, one that the host keeps to itself and does not.
const PROBES: &str = "\
kind = \"poller\"
[remote]
probes = [\"bad\"]
[[probe]]
name = \"bad\"
type = \"exec\"
command = [\"/bin/sh\", \"-c\", \"echo broken; exit 2\"]
rise = 1
fall = 1
[[probe]]
name = \"good\"
type = \"exec\"
command = [\"/bin/sh\", \"-c\", \"exit 0\"]
rise = 1
";

async fn ended(mut command: tokio::process::Command) -> Result<(i32, String, String)> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = within(SOON * 2, "the command ends", command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.code().context("a signal")?, text(&stdout), text(&stderr)))
}

/// The operator's command.
async fn operator(world: &World, args: &[&str]) -> Result<(i32, String, String)> {
    let mut command = tokio::process::Command::new(find("rollcall-collector")?);
    command.args(["services", "settings"]).args(args);
    command.args(["--api", &format!("http://{}", world.api().addr()), "--credential-file"]);
    command.arg(world.state().join("admin.credential"));
    ended(command).await
}

/// What the sidecar says of its settings on its own host.
async fn on_the_host(sidecar: &Sidecar) -> Result<Value> {
    let mut command = tokio::process::Command::new(find("rollcall-agent")?);
    command.args(["status", "--output", "json", "--config"]).arg(sidecar.state().with_file_name("agent.toml"));
    let (_, stdout, stderr) = ended(command).await?;
    let shown: Value = serde_json::from_str(&stdout).with_context(|| format!("{stdout}{stderr}"))?;
    shown.pointer("/settings").cloned().with_context(|| format!("no settings in {shown}"))
}

fn runs(settings: &Value, list: &str, name: &str) -> Result<(bool, Value)> {
    let probes = settings.pointer(list).and_then(Value::as_array).context("no probes")?;
    let named = |one: &&Value| one.get("name").or(one.get("probe")).is_some_and(|found| found == name);
    let found = probes.iter().find(named).with_context(|| format!("no {name} in {settings}"))?;
    Ok((found.get("runs").and_then(Value::as_bool).context("no runs")?, found.clone()))
}

/// The sidecar runs by a revision, and the probe that may be tuned runs or rests.
async fn wait_host(sidecar: &Sidecar, revision: u64, bad: bool) -> Result<Value> {
    until(SOON * 2, &format!("the host has revision {revision}"), async || {
        let shown = on_the_host(sidecar).await?;
        same("the revision", &at(&shown, "/revision"), &json!(revision))?;
        same("whether it runs", &runs(&shown, "/probes", "bad")?.0, &bad)?;
        Ok(shown)
    })
    .await
}

async fn wait_state(api: &Api, state: &str, revision: u64) -> Result<Value> {
    until(SOON * 2, &format!("settings {revision} are {state}"), async || {
        let view = api.get(PLACE).await?.expect(200)?;
        same("the revision", &at(&view, "/revision"), &json!(revision))?;
        same("the state", &word(&view, "state")?, &state)?;
        Ok(view)
    })
    .await
}

async fn wait_health(api: &Api, wanted: &str) -> Result<()> {
    until(SOON * 2, wanted, async || {
        same("the health", &at(&api.service("poller/p").await?, "/health/health"), &json!(wanted))
    })
    .await
}

#[tokio::test]
async fn a_sidecar_takes_what_its_host_allows_and_keeps_it() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", PROBES)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        let api = world.api().clone();
        wait_health(&api, "unhealthy").await?;

        // Switched off, and slowed down, by an operator who waits for it.
        let set = ["set", "poller/p", "--interval", "300ms", "--probe", "bad:run=off", "--wait"];
        let (code, stdout, stderr) = operator(world, &set).await?;
        ensure!(code == 0 && stdout.contains("applied"), "{code}: {stdout}{stderr}");
        wait_health(&api, "healthy").await?;
        let view = wait_state(&api, "applied", 1).await?;
        same("it runs there", &runs(&view, "/in_force/probes", "bad")?.0, &false)?;
        until(SOON, "the interval is kept", async || {
            same("the interval", &at(&api.service("poller/p").await?, "/interval_ms"), &json!(300))
        })
        .await?;
        let shown = wait_host(&sidecar, 1, false).await?;
        same("who set it", &at(&runs(&shown, "/probes", "bad")?.1, "/set_by"), &json!("collector"))?;

        // The host keeps one probe to itself, which is known here; how often the other looks is known to it alone.
        let (code, _, stderr) = operator(world, &["set", "poller/p", "--probe", "good:run=off"]).await?;
        ensure!(code == 77 && stderr.contains("good"), "{code}: {stderr}");
        let quick = ["set", "poller/p", "--probe", "bad:interval=5s", "--wait"];
        let (code, stdout, stderr) = operator(world, &quick).await?;
        ensure!(code == 77 && stderr.contains("min_exec_interval"), "{code}: {stdout}{stderr}");
        let view = wait_state(&api, "refused", 2).await?;
        same("in force", &at(&view, "/in_force/revision"), &json!(1))?;
        wait_host(&sidecar, 1, false).await?;
        api.wait_audit("settings.refused", "poller/p").await?;

        // On again.
        let body = json!({"interval": "300ms", "probes": [{"probe": "bad", "run": true, "fall": 1}]});
        api.call(Method::PUT, PLACE, Some(&body)).await?.expect(200)?;
        wait_state(&api, "applied", 3).await?;
        wait_health(&api, "unhealthy").await?;
        let body = json!({"interval": "300ms", "probes": [{"probe": "bad", "run": false}]});
        api.call(Method::PUT, PLACE, Some(&body)).await?.expect(200)?;
        wait_state(&api, "applied", 4).await?;

        // A collector that was killed finds what it wanted, and what became of it.
        world.crash_collector().await?;
        let api = world.api().clone();
        wait_state(&api, "applied", 4).await?;
        api.wait_alive("poller/p").await?;

        // A sidecar that starts where there is no collector has what it took.
        world.collector().kill9().await?;
        sidecar.kill9().await?;
        sidecar.start()?;
        wait_host(&sidecar, 4, false).await?;
        world.start_collector().await?;
        let api = world.api().clone();
        api.wait_alive("poller/p").await?;
        wait_state(&api, "applied", 4).await?;

        // Taken back: the host's files alone.
        let (code, stdout, stderr) = operator(world, &["reset", "poller/p", "--wait"]).await?;
        ensure!(code == 0, "{code}: {stdout}{stderr}");
        wait_state(&api, "none", 5).await?;
        wait_health(&api, "unhealthy").await?;
        wait_host(&sidecar, 5, true).await.map(drop)
    })
    .await
}
