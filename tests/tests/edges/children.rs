//! Children that live by what programs say of them, and children of children.

use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy, api::at},
};
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_child_lives_by_what_is_said_of_it_and_so_does_its_own() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p").implicit_children()).await?;
        let settings = "kind = \"poller\"\nchildren_interval = \"1s\"\n\
             [[child]]\nkind = \"agent\"\nid = \"a\"\nassume_alive = false\n\
             [[child]]\nkind = \"checker\"\nid = \"c\"\nparent = \"a\"\nchecker_kind = \"dns\"\nassume_alive = false\n";
        let mut sidecar = world.sidecar("p", settings)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        let api = world.api().clone();
        api.wait_alive("poller/p").await?;
        let say = async |words: &[&str]| -> Result<()> {
            let (code, text) = agent(&sidecar, &[&["report"], words].concat()).await?;
            ensure!(code == 0, "{words:?}: {code}: {text}");
            Ok(())
        };
        let health = async |service: &str, wanted: &str, reason: &str| {
            until(SOON, &format!("{service} is {wanted}"), async || {
                let shown = api.service(service).await?;
                same("the health", &at(&shown, "/health/health"), &json!(wanted))?;
                let said = at(&shown, "/health/reason");
                ensure!(said.as_str().is_some_and(|said| said.contains(reason)), "{said}");
                Ok(())
            })
            .await
        };
        // Nobody spoke of them: nobody is registered.
        same("unheard of", &api.get("/api/admin/services/agents/a").await?.status, &404)?;
        say(&["healthy", "--child", "agent/a", "--ttl", "1h"]).await?;
        api.wait_alive("agent/a").await?;
        health("agent/a", "healthy", "").await?;
        say(&["unhealthy", "--child", "checker/c", "--source", "resolver", "--reason", "no answer", "--ttl", "1h"])
            .await?;
        api.wait_alive("checker/c").await?;
        health("checker/c", "unhealthy", "resolver: no answer").await?;
        let shown = api.service("checker/c").await?;
        for (pointer, wanted) in [("/parent", "a"), ("/poller", "p"), ("/checker_kind", "dns"), ("/source", "implicit")]
        {
            same(pointer, &at(&shown, pointer), &json!(wanted))?;
        }
        // Worse news of the child's child is not the child's.
        health("agent/a", "healthy", "").await?;
        let (code, text) = agent(&sidecar, &["report", "healthy", "--child", "checker/stranger"]).await?;
        ensure!(code == 77 && text.contains("declare it with [[child]]"), "{code}: {text}");

        // What it promised for a second it does not keep: it is no sign of life any more.
        say(&["progress", "--child", "checker/c", "--source", "rounds", "--count", "7", "--ttl", "1s"]).await?;
        say(&["withdraw", "--child", "checker/c", "--source", "resolver"]).await?;
        api.wait(SOON, "checker/c", "presence", "lost").await?;
        say(&["progress", "--child", "checker/c", "--source", "rounds", "--count", "8", "--ttl", "1h"]).await?;
        api.wait_alive("checker/c").await?;
        api.never_lost("agent/a").await?;
        api.never_lost("poller/p").await
    })
    .await
}
