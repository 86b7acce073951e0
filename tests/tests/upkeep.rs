//! What happens by itself, with real processes: the silent become inactive, are purged after their retention and
//! with their number confirmed; ephemeral ones go; and a command runs inside a maintenance window.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{same, until},
    world::{
        self, Api, Plan, Policy, Process, Sidecar, World,
        api::{at, word},
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A day in seconds: what takes months in a deployment takes a moment here. No job runs by itself.
const COMPRESSED: &str = "inactive_after = \"3s\"\n[jobs.mark_inactive]\nenabled = false\n[jobs.purge]\nenabled = false\n\
     [jobs.ephemeral]\nenabled = false\n[jobs.retention]\nenabled = false\n[retention]\ninactive = \"1s\"\n";

async fn enrolled(world: &mut World, id: &str, policy: Policy) -> Result<Sidecar> {
    let token = world.token_text(policy).await?;
    let sidecar_id = format!("kind = \"poller\"\nid = \"{id}\"");
    let mut sidecar = world.sidecar(id, &sidecar_id)?;
    sidecar.give_token(&token)?;
    sidecar.start()?;
    world.api().wait_alive(&format!("poller/{id}")).await?;
    Ok(sidecar)
}

/// Runs a job to its end.
async fn ran(api: &Api, job: &str) -> Result<Value> {
    let run = api.post(&format!("/api/admin/jobs/{job}/run"), &json!({})).await?.expect(200)?;
    same("outcome", &word(&run, "outcome")?, &"succeeded")?;
    Ok(run)
}

#[tokio::test]
async fn the_silent_grow_inactive_and_are_purged_while_the_living_stay() -> Result<()> {
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(3), ..Plan::default() };
    world::run(plan.with(COMPRESSED), async |world| {
        let _living = enrolled(world, "living", Policy::fixed(Kind::Poller, "living")).await?;
        let mut leaving = enrolled(world, "leaving", Policy::fixed(Kind::Poller, "leaving")).await?;
        let api = world.api().clone();
        leaving.terminate().await?;
        api.wait(SOON, "poller/leaving", "presence", "stopped").await?;
        until(SOON, "the silent one is inactive", async || {
            ran(&api, "mark_inactive").await?;
            same("status", &api.field("poller/leaving", "status").await?, &"inactive".to_owned())
        })
        .await?;
        same("the living", &api.field("poller/living", "status").await?, &"active".to_owned())?;

        // A look first; then exactly that many, and no other number.
        let purge = async |body: Value| api.post("/api/admin/services/purge", &body).await;
        let seen = until(SOON, "its retention is over", async || {
            let seen = purge(json!({})).await?.expect(200)?;
            ensure!(at(&seen, "/count") == json!(1), "{seen}");
            Ok(seen)
        })
        .await?;
        same("who would go", &at(&seen, "/going/0/id"), &json!("leaving"))?;
        api.service("poller/leaving").await.context("a look removes nobody")?;
        purge(json!({"dry_run": false, "expect": 2})).await?.expect(409)?;
        let gone = purge(json!({"dry_run": false, "expect": 1})).await?.expect(200)?;
        same("removed", &at(&gone, "/removed"), &json!(1))?;
        same("its answer", &api.get("/api/admin/services/pollers/leaving").await?.status, &404)?;
        let purged = api.wait_audit("service.purged", "poller/leaving").await?;
        same("the cause", &at(&purged, "/details/cause"), &json!("purge"))?;
        api.wait_alive("poller/living").await?;
        api.never_lost("poller/living").await?;

        // The record outlives a kill of the collector.
        let before = api.get("/api/admin/jobs/purge").await?.expect(200)?;
        world.crash_collector().await?;
        let api = world.api().clone();
        let after = api.get("/api/admin/jobs/purge").await?.expect(200)?;
        for field in ["/last_run/id", "/last_run/outcome", "/last_run/counts/removed", "/runs", "/last_success"] {
            same(field, &at(&after, field), &at(&before, field))?;
        }
        let ok = api.metric("rollcall_job_runs_total", "").await?;
        ensure!(ok < 1.0, "a restarted collector has run nothing: {ok}");
        api.wait_alive("poller/living").await
    })
    .await
}

/// A command-line tool of the operator's, with the world's collector and credential.
fn operator(world: &World, name: &str, words: &[&str]) -> Result<Process> {
    let mut process = Process::new("rollcall-collector", name, world.dir())?;
    process.args(words.iter().map(|word| (*word).to_owned()));
    process.env("ROLLCALL_API", &format!("http://{}", world.api().addr()));
    let credential = world.state().join("admin.credential");
    process.env("ROLLCALL_CREDENTIAL_FILE", &credential.display().to_string());
    Ok(process)
}

#[tokio::test]
async fn a_command_runs_inside_a_window_that_ends_with_it() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let _sidecar = enrolled(world, "p", Policy::fixed(Kind::Poller, "p")).await?;
        let api = world.api().clone();
        let inside = ["maintenance", "run", "--for", "30m", "--subtree", "poller/p", "--reason", "upgrade", "--"];
        let with = |command: &[&'static str]| inside.iter().copied().chain(command.iter().copied()).collect::<Vec<_>>();

        // Its exit code is the command's, and what it did was done under maintenance.
        let mut run = operator(world, "short", &with(&["sh", "-c", "exit 3"]))?;
        run.start()?;
        same("the exit code", &run.ended().await?.code(), &Some(3))?;
        let ended = api.get("/api/admin/maintenance?state=ended").await?.expect(200)?;
        same("the window's reason", &at(&ended, "/items/0/reason"), &json!("upgrade"))?;
        ensure!(at(&ended, "/items/0/ended_early_at").is_string(), "{ended}");
        same("nobody is worked on", &at(&api.service("poller/p").await?, "/maintenance"), &Value::Null)?;

        // Interrupted: the command hears it, and the window ends nevertheless.
        let mut run = operator(world, "long", &with(&["sleep", "600"]))?;
        run.start()?;
        until(SOON, "the service is under maintenance", async || {
            let shown = api.service("poller/p").await?;
            ensure!(at(&shown, "/maintenance/reason") == json!("upgrade"), "{shown}");
            Ok(())
        })
        .await?;
        same("presence is another fact", &api.field("poller/p", "presence").await?, &"alive".to_owned())?;
        run.signal(Signal::TERM)?;
        same("the exit code", &run.ended().await?.code(), &Some(143))?;
        let open = api.get("/api/admin/maintenance?state=active").await?.expect(200)?;
        same("open windows", &at(&open, "/items"), &json!([]))?;

        // Killed: nobody ends it, and it ends at its time; here an operator does.
        let mut run = operator(world, "killed", &with(&["sleep", "1"]))?;
        run.start()?;
        let id = until(SOON, "it is open", async || {
            let open = api.get("/api/admin/maintenance?state=active").await?.expect(200)?;
            at(&open, "/items/0/id").as_str().map(str::to_owned).context("none is open")
        })
        .await?;
        run.kill9().await?;
        let path = format!("/api/admin/maintenance/{id}");
        let longer =
            api.call(Method::PATCH, &path, Some(&json!({"for": "1h", "reason": "it goes on"}))).await?.expect(200)?;
        same("its reason", &at(&longer, "/reason"), &json!("it goes on"))?;
        api.call(Method::DELETE, &path, None).await?.expect(200)?;
        api.call(Method::DELETE, &path, None).await?.expect(409)?;
        let object = format!("maintenance:{id}");
        for action in ["maintenance.opened", "maintenance.changed", "maintenance.ended"] {
            api.wait_audit(action, &object).await?;
        }
        Ok(())
    })
    .await
}
