//! How a sidecar asks for its first identity, how it leaves, and what becomes of a copy.

use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy},
};
use serde_json::json;

use super::*;

/// So many tries, so far apart, and then the process ends, or goes on: as it was told.
#[tokio::test]
async fn a_first_identity_is_asked_for_as_patiently_as_told() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let settings = "kind = \"agent\"\n[enrollment]\ntries = 3\nretry_delay = \"100ms\"\n";
        let mut hasty = world.sidecar("hasty", &format!("{settings}fail_on_error = true"))?;
        // Its parent is not registered: it may be, any moment.
        let token = world.token_text(Policy::fixed(Kind::Agent, "hasty").under("ghost")).await?;
        hasty.give_token(&token)?;
        hasty.start()?;
        same("the exit code", &hasty.ended().await?.code(), &Some(69))?;
        let tries = hasty.said()?.lines().filter(|line| line.contains("no identity yet: ")).count();
        ensure!(tries <= 3, "{tries} pauses");
        let line = hasty.line_with("no identity after 3 tries")?;
        ensure!(line.contains("the parent is not registered"), "{line}");

        let mut steady = world.sidecar("steady", &format!("{settings}fail_on_error = false"))?;
        let token = world.token_text(Policy::fixed(Kind::Agent, "steady").under("ghost")).await?;
        steady.give_token(&token)?;
        steady.start()?;
        until(SOON, "it goes on", async || steady.line_with("going on with longer pauses")).await?;
        world.api().post("/api/admin/services/pollers", &json!({ "id": "ghost" })).await?.expect(201)?;
        // Its pauses grow to a minute; a signal spares the wait.
        until(SOON * 2, "it is let in", async || {
            steady.signal(rustix::process::Signal::HUP)?;
            let shown = world.api().field("agent/steady", "presence").await?;
            same("presence", &shown, &"alive".to_owned())
        })
        .await
    })
    .await
}

/// Told not to say goodbye, it falls silent, and its lease runs out.
#[tokio::test]
async fn whoever_does_not_deregister_is_lost_and_not_stopped() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nderegister_on_stop = false")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        let (_, status) = sidecar.terminate().await?;
        same("the exit code", &status.code(), &Some(0))?;
        world.api().wait(SOON, "poller/p", "presence", "lost").await?;
        world.api().wait_history("poller/p", &["alive", "lost"]).await?;
        sidecar.start()?;
        world.api().wait(SOON, "poller/p", "presence", "alive").await.map(drop)
    })
    .await
}

/// A golden image with an identity in it: its copy stops with the recipe, the recipe mends it, the original feels
/// nothing.
#[tokio::test]
async fn a_copied_image_is_mended_by_its_recipe() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let machine = |of: &mut Sidecar, digit: &str| -> Result<()> {
            let file = of.state().with_file_name("machine-id");
            fs::write(&file, digit.repeat(32))?;
            of.env("ROLLCALL_MACHINE_ID_FILE", &file.display().to_string());
            Ok(())
        };
        let token = world.token_text(Policy::fixed(Kind::Poller, "original")).await?;
        let mut original = world.sidecar("original", "kind = \"poller\"")?;
        machine(&mut original, "1")?;
        original.give_token(&token)?;
        original.start()?;
        world.api().wait_alive("poller/original").await?;

        let mut copy = world.sidecar("copy", "kind = \"poller\"")?;
        machine(&mut copy, "2")?;
        let (from, to) = (original.state(), copy.state());
        let words = ["-a", &from.display().to_string(), &to.display().to_string()];
        ensure!(ran(Path::new("/bin/cp"), &words, &[]).await?.0 == 0, "the copy");
        fs::remove_file(to.join("agent.sock"))?;
        copy.start()?;
        same("the exit code", &copy.ended().await?.code(), &Some(78))?;
        let line = copy.line_with("was made for another machine")?;
        ensure!(line.contains("`rollcall-agent reset`"), "{line}");
        same("said", &copy.said()?.matches("was made for another machine").count(), &1)?;

        let (code, text) = agent(&copy, &["reset", "--yes", "--token"]).await?;
        ensure!(code == 0 && text.contains("forgotten"), "{code}: {text}");
        let own = world.token_text(Policy::fixed(Kind::Poller, "copy")).await?;
        copy.give_token(&own)?;
        copy.start()?;
        world.api().wait_alive("poller/copy").await?;
        world.api().never_lost("poller/original").await?;
        same("the original", &world.api().history("poller/original").await?.len(), &1)?;
        Ok(())
    })
    .await
}
