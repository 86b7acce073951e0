//! Children without a sidecar of their own: one sidecar speaks for twelve of them.

use super::*;

const CHECKERS: usize = 12;

fn checkers(services: &[Service]) -> String {
    let one = |(n, service): (usize, &Service)| {
        format!(
            "[[child]]\nkind = \"checker\"\nid = \"c-{n}\"\nchecker_kind = \"icmp\"\ndisplay_name = \"Checker {n}\"\n\
             labels = {{ site = \"zrh\" }}\n[[child.probe]]\ntype = \"process\"\npid_file = \"{}\"\ninterval = \"60s\"\n",
            service.pid_file.display()
        )
    };
    services.iter().enumerate().map(one).collect()
}

/// One of twelve is killed: it is unhealthy at once and lost when its reports run out. The others never were.
#[tokio::test]
async fn one_of_twelve_checkers_dies_alone() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let mut services = Vec::new();
        for n in 0..CHECKERS {
            let mut service = Service::new(world.dir(), &format!("c-{n}"))?;
            service.start()?;
            services.push(service);
        }
        world.api().post("/api/admin/services/pollers", &json!({ "id": "p" })).await?.expect(201)?;
        let token = world.token_text(Policy::fixed(Kind::Agent, "a").under("p").implicit_children()).await?;
        let settings = format!(
            "kind = \"agent\"\nid = \"a\"\nparent = \"p\"\nchildren_interval = \"2s\"\n{}",
            checkers(&services)
        );
        let mut sidecar = world.sidecar("a", &settings)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        let api = world.api().clone();
        for n in 0..CHECKERS {
            api.wait_alive(&format!("checker/c-{n}")).await?;
            wait_health(&api, &format!("checker/c-{n}"), "healthy", "").await?;
        }
        let shown = api.service("checker/c-3").await?;
        for (pointer, wanted) in [
            ("/parent", "a"),
            ("/poller", "p"),
            ("/checker_kind", "icmp"),
            ("/source", "implicit"),
            ("/labels/site", "zrh"),
            ("/metadata/display_name", "Checker 3"),
        ] {
            same(pointer, &at(&shown, pointer), &json!(wanted))?;
        }
        let victim = services.get_mut(3).context("no victim")?;
        victim.process.kill9().await?;
        wait_health(&api, "checker/c-3", "unhealthy", "process: process ").await?;
        api.wait(SOON * 2, "checker/c-3", "presence", "lost").await?;
        let others: Vec<_> = (0..CHECKERS).filter(|n| *n != 3).collect();
        for n in &others {
            let name = format!("checker/c-{n}");
            same("presence", &api.field(&name, "presence").await?, &"alive".to_owned())?;
            same("health", &at(&api.service(&name).await?, "/health/health"), &json!("healthy"))?;
            api.never_lost(&name).await?;
        }
        same("the agent", &api.field("agent/a", "presence").await?, &"alive".to_owned())?;
        // It stays lost while nobody sees it live, and is back when somebody does.
        always(Duration::from_secs(3), "lost stays lost", async || {
            same("presence", &api.field("checker/c-3", "presence").await?, &"lost".to_owned())
        })
        .await?;
        let victim = services.get_mut(3).context("no victim")?;
        victim.start()?;
        sidecar.terminate().await?;
        sidecar.start()?;
        api.wait_alive("checker/c-3").await?;
        wait_health(&api, "checker/c-3", "healthy", "").await?;
        Ok(())
    })
    .await
}

/// Who is taken out of the configuration has not died: it is said goodbye for, and the others do not notice.
#[tokio::test]
async fn a_child_that_left_the_configuration_is_said_goodbye_for() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let child = |id: &str| format!("[[child]]\nkind = \"agent\"\nid = \"{id}\"\nassume_alive = true\n");
        let both = format!("children_interval = \"60s\"\n{}{}", child("a"), child("b"));
        let mut sidecar = poller(world, &both).await?;
        sidecar.start()?;
        let api = world.api().clone();
        for name in ["agent/a", "agent/b"] {
            api.wait_alive(name).await?;
            wait_health(&api, name, "unchecked", "").await?;
        }
        sidecar.terminate().await?;
        let config = world.dir().join("p/agent.toml");
        let text = fs::read_to_string(&config)?.replace(&child("b"), "");
        fs::write(&config, text)?;
        sidecar.start()?;
        let stopped = api.wait_row("agent/b", "stopped").await?;
        same("the cause", &word(&stopped, "cause")?, &"goodbye")?;
        same("the reason", &at(&stopped, "/evidence/reason"), &json!("uninstall"))?;
        until(SOON, "it is done", async || sidecar.line_with("said goodbye for children").map(drop)).await?;
        api.wait_alive("agent/a").await?;
        api.never_lost("agent/a").await?;
        // Said once: a next start has nobody to part with, and who comes back is there again.
        sidecar.terminate().await?;
        let text = fs::read_to_string(&config)?;
        fs::write(&config, text + &child("b"))?;
        sidecar.start()?;
        api.wait_alive("agent/b").await?;
        api.wait_history("agent/b", &["alive", "stopped", "alive"]).await
    })
    .await
}
