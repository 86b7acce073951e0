//! The configuration read again by a sidecar that runs: what changed changes, the rest is not disturbed.

use rustix::process::Signal;

use super::*;

fn exec(name: &str, code: u8) -> String {
    format!(
        "[[probe]]\nname = \"{name}\"\ntype = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"exit {code}\"]\nrise = 1\n"
    )
}

#[tokio::test]
async fn a_changed_configuration_is_taken_by_whoever_runs() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let child = |id: &str| format!("[[child]]\nkind = \"agent\"\nid = \"{id}\"\nassume_alive = true\n");
        let top = "kind = \"poller\"\nid = \"p\"\nchildren_interval = \"60s\"\n";
        let mut service = Service::new(world.dir(), "main")?;
        service.start()?;
        let stays = process_probe(&service);
        let before = format!("{}rise = 1\n{}{}{}", stays, exec("goes", 1), child("a"), child("b"));
        let mut sidecar = poller(world, &format!("children_interval = \"60s\"\n{before}")).await?;
        sidecar.start()?;
        let api = world.api().clone();
        api.wait_alive("agent/b").await?;
        wait_health(&api, "poller/p", "degraded", "goes").await?;
        let pid = sidecar.pid();

        let config = world.dir().join("p/agent.toml");
        let own = fs::read_to_string(&config)?;
        let own = own.split("kind = ").next().context("no head")?.to_owned();
        let after = format!("{own}{top}{stays}rise = 1\n{}{}{}", exec("comes", 2), child("a"), child("c"));
        fs::write(&config, &after)?;
        sidecar.signal(Signal::HUP)?;
        wait_health(&api, "poller/p", "unhealthy", "comes").await?;
        api.wait_alive("agent/c").await?;
        let stopped = api.wait_row("agent/b", "stopped").await?;
        same("the reason", &at(&stopped, "/evidence/reason"), &json!("uninstall"))?;

        // What is wrong changes nothing, and is said.
        fs::write(&config, format!("{after}nonsense = 1\n"))?;
        sidecar.signal(Signal::HUP)?;
        until(SOON, "it says so", async || sidecar.line_with("the configuration stays as it was").map(drop)).await?;
        // What takes a restart is named.
        fs::write(&config, format!("bind_machine = false\n{own}{top}{stays}rise = 1\n{}{}", child("a"), child("c")))?;
        sidecar.signal(Signal::HUP)?;
        until(SOON, "it says so", async || sidecar.line_with("stay as they were: bind_machine").map(drop)).await?;
        wait_health(&api, "poller/p", "healthy", "").await?;
        same("the process", &sidecar.pid(), &pid)?;
        for who in ["poller/p", "agent/a"] {
            api.never_lost(who).await?;
        }
        // The probe that stayed is at work as before.
        service.process.kill9().await?;
        wait_health(&api, "poller/p", "unhealthy", "main: process ").await.map(drop)
    })
    .await
}
