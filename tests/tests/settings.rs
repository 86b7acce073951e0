//! Settings from the operator's request to the probe that runs, with both programs: what a host allows is applied, kept
//! and shown, what it does not allow is refused with its words, and its own files win.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{same, until},
    world::{self, Api, Plan, Policy, Sidecar, World, api::at, process::find},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SETTINGS: &str = "/api/admin/services/pollers/p/settings";
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn probe(name: &str, more: &str) -> String {
    format!("[[probe]]\nname = \"{name}\"\ntype = \"tcp\"\naddress = \"{NOWHERE}\"\ninterval = \"1h\"\n{more}\n")
}

fn files(head: &str, allowed: &[&str]) -> String {
    let (port, deep, secret) = (probe("port", ""), probe("deep", "standby = true"), probe("secret", ""));
    let deep = if allowed.contains(&"deep") { deep } else { String::new() };
    format!("{head}\n[remote]\nprobes = {allowed:?}\n{port}{deep}{secret}")
}

const HEAD: &str = "kind = \"poller\"\nid = \"p\"\n";

async fn poller(world: &mut World, settings: &str) -> Result<Sidecar> {
    let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
    let mut sidecar = world.sidecar("p", settings)?;
    sidecar.give_token(&token)?;
    sidecar.start()?;
    world.api().wait_alive("poller/p").await?;
    Ok(sidecar)
}

/// Writes other files and has them read.
fn reload(world: &World, sidecar: &Sidecar, settings: &str) -> Result<()> {
    let config = world.dir().join("p/agent.toml");
    let own = fs::read_to_string(&config)?;
    let own: Vec<&str> = own.lines().take(2).collect();
    fs::write(&config, format!("{}\n{settings}\n", own.join("\n")))?;
    sidecar.signal(Signal::HUP).map(drop)
}

async fn stands(api: &Api, state: &str, why: &str) -> Result<Value> {
    until(SOON * 2, &format!("the settings are {state}: {why}"), async || {
        let shown = api.get(SETTINGS).await?.expect(200)?;
        same("the state", &at(&shown, "/state"), &json!(state))?;
        let said = at(&shown, "/why");
        ensure!(said.as_str().unwrap_or_default().contains(why), "because of {said}");
        Ok(shown)
    })
    .await
}

fn in_force(shown: &Value, probe: &str) -> Result<Value> {
    let probes = at(shown, "/in_force/probes");
    let found = probes.as_array().context("no probes")?.iter().find(|one| at(one, "/probe") == json!(probe)).cloned();
    found.with_context(|| format!("no {probe} in {shown}"))
}

/// What the sidecar says of itself.
async fn status(world: &World) -> Result<Value> {
    let (config, socket) = (world.dir().join("p/agent.toml"), world.dir().join("p/state/agent.sock"));
    let mut command = tokio::process::Command::new(find("rollcall-agent")?);
    // With a file that does not pass, the file cannot say where the socket is.
    command.args(["status", "--output", "json", "--config"]).arg(config).arg("--socket").arg(socket);
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn probe_of(world: &World, name: &str) -> Result<Value> {
    let shown = at(&status(world).await?, "/settings/probes");
    let found = shown.as_array().context("no probes")?.iter().find(|one| at(one, "/name") == json!(name)).cloned();
    found.with_context(|| format!("no {name} in {shown}"))
}

#[tokio::test]
async fn what_an_operator_sets_is_applied_kept_and_shown() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut sidecar = poller(world, &files(HEAD, &["port", "deep"])).await?;
        let api = world.api().clone();
        until(SOON, "its probes are known", async || {
            let shown = api.get(SETTINGS).await?.expect(200)?;
            same("deep", &at(&in_force(&shown, "deep")?, "/runs"), &json!(false))
        })
        .await?;
        let wanted = json!({"probes": [
            {"probe": "port", "interval": "1m", "timeout": "1s", "fall": 1},
            {"probe": "deep", "run": true},
        ]});
        api.call(Method::PUT, SETTINGS, Some(&wanted)).await?.expect(200)?;
        let shown = stands(&api, "applied", "").await?;
        let port = in_force(&shown, "port")?;
        for (field, wanted) in [("/interval_ms", json!(60_000)), ("/timeout_ms", json!(1_000)), ("/fall", json!(1))] {
            same(field, &at(&port, field), &wanted)?;
        }
        same("deep", &at(&in_force(&shown, "deep")?, "/runs"), &json!(true))?;
        let revision = at(&shown, "/revision");

        // On the host too, and after a kill without a word.
        for _ in 0..2 {
            until(SOON, "the host shows it", async || {
                same("the revision", &at(&status(world).await?, "/settings/revision"), &revision)?;
                let port = probe_of(world, "port").await?;
                same("who", &at(&port, "/set_by"), &json!("collector"))?;
                same("the interval", &at(&port, "/interval_ms"), &json!(60_000))
            })
            .await?;
            sidecar.kill9().await?;
            sidecar.start()?;
        }
        stands(&api, "applied", "").await?;

        // Too fast for this host: nothing of it, and those in force stay.
        let wanted = json!({"probes": [{"probe": "port", "interval": "2s"}, {"probe": "deep", "run": false}]});
        api.call(Method::PUT, SETTINGS, Some(&wanted)).await?.expect(200)?;
        let shown = stands(&api, "refused", "below the host's floor of 5s (remote.min_interval)").await?;
        same("in force", &at(&shown, "/in_force/revision"), &revision)?;
        same("deep", &at(&in_force(&shown, "deep")?, "/runs"), &json!(true))?;
        // Back to the files.
        api.call(Method::DELETE, SETTINGS, None).await?.expect(200)?;
        let shown = stands(&api, "none", "").await?;
        same("the interval", &at(&in_force(&shown, "port")?, "/interval_ms"), &json!(3_600_000))?;
        same("deep", &at(&in_force(&shown, "deep")?, "/runs"), &json!(false))
    })
    .await
}

#[tokio::test]
async fn the_host_s_own_files_win() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let sidecar = poller(world, &files(HEAD, &["port", "deep"])).await?;
        let api = world.api().clone();
        let wanted = json!({"probes": [{"probe": "port", "interval": "1m"}, {"probe": "deep", "run": true}]});
        api.call(Method::PUT, SETTINGS, Some(&wanted)).await?.expect(200)?;
        stands(&api, "applied", "").await?;

        reload(world, &sidecar, &files(HEAD, &["port"]))?;
        let shown = stands(&api, "refused", "deep: the host's files have no such probe").await?;
        same("what still fits stays", &at(&in_force(&shown, "port")?, "/interval_ms"), &json!(60_000))?;
        reload(world, &sidecar, &files(HEAD, &["port", "deep"]))?;
        stands(&api, "applied", "").await?;
        // A file that does not pass takes nothing away.
        reload(world, &sidecar, &format!("{HEAD}nonsense = 1"))?;
        until(SOON, "it says so", async || {
            let warnings = at(&status(world).await?, "/warnings").to_string();
            ensure!(warnings.contains("agent.toml:5: nonsense"), "{warnings}");
            Ok(())
        })
        .await?;
        same("still", &at(&probe_of(world, "port").await?, "/interval_ms"), &json!(60_000))?;

        // Another look by the host's own word, and other names; mended, nothing is left of the warning.
        let other = files(&format!("{HEAD}labels = {{ tier = \"2\" }}\nversion = \"7\""), &["port", "deep"]);
        reload(world, &sidecar, &other.replace("\"1h\"", "\"30m\""))?;
        until(SOON, "the names are known", async || {
            let shown = api.service("poller/p").await?;
            same("the label", &at(&shown, "/announced_labels/tier"), &json!("2"))?;
            same("the version", &at(&shown, "/metadata/version"), &json!("7"))
        })
        .await?;
        until(SOON, "the new interval", async || {
            same("secret", &at(&probe_of(world, "secret").await?, "/interval_ms"), &json!(1_800_000))?;
            same("warnings", &at(&status(world).await?, "/warnings"), &json!([]))
        })
        .await?;
        stands(&api, "applied", "").await?;
        world.api().never_lost("poller/p").await
    })
    .await
}

/// Three facts: it lives, it is well, and it does not get on. Then nobody looks any more.
#[tokio::test]
async fn what_does_not_get_on_is_not_called_ill() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let stuck = "[[probe]]\nname = \"work\"\ntype = \"progress\"\nfile = \"/nonexistent\"\nwithin = \"1s\"\n\
                     interval = \"1s\"\nfall = 1\n";
        let well = "[[probe]]\ntype = \"exec\"\ncommand = [\"/bin/true\"]\n";
        let sidecar = poller(world, &format!("{HEAD}{stuck}{well}")).await?;
        let api = world.api().clone();
        let facts = async |progress: &str, health: &str| {
            until(SOON * 2, &format!("{progress}, {health}"), async || {
                let shown = api.service("poller/p").await?;
                same("progress", &at(&shown, "/progress"), &json!(progress))?;
                same("health", &at(&shown, "/health/health"), &json!(health))
            })
            .await
        };
        facts("stalled", "healthy").await?;
        reload(world, &sidecar, HEAD)?;
        facts("unwatched", "unchecked").await
    })
    .await
}
