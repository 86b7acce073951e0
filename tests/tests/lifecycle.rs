//! The life of a registration from its first word to its last, with real processes.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use rollcall_common::{
    code::Code,
    id::Kind,
    time::{Clock as _, SystemClock},
};
use rollcall_tests::{
    peer::{Answer, Ask, Close, Ending, Phone, Puppet, SOON, enroll},
    until::{same, until},
    world::{
        self, Plan, Policy, World,
        api::{moment, word},
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What a revoked certificate meets in the handshake.
const REFUSED: Close = Close::Alert(44);

async fn post(world: &World, path: &str, body: Value, status: u16) -> Result<Value> {
    world.api().post(&format!("/api/admin/services{path}"), &body).await?.expect(status)
}

async fn known(world: &World, path: &str) -> Result<bool> {
    let answer = world.api().get(&format!("/api/admin/services/{path}/known")).await?.expect(200)?;
    answer.get("known").and_then(Value::as_bool).context("no answer")
}

fn turned_away<T>(dialed: Result<T, Ending>) -> Result<Close> {
    match dialed {
        Ok(_) => bail!("it was let in"),
        Err(ending) => Ok(ending.close),
    }
}

/// Registered by an operator, adopted, barred with everything below it, let in afresh, deleted, recovered,
/// removed, and made anew: each step as its connections and certificates see it (L15).
#[tokio::test]
async fn a_registration_from_its_first_word_to_its_last() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let label = json!({"id": "p", "source": "config", "labels": {"site": "3"}});
        post(world, "/pollers", label, 201).await?;
        ensure!(known(world, "pollers/p").await?, "what is registered is known");

        // A real sidecar adopts the row, which keeps what the operator said of it.
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        let shown = world.api().service("poller/p").await?;
        same("the source", &word(&shown, "source")?, &"config")?;
        same("its label", &shown["labels"]["site"], &json!("3"))?;

        // Three more below it, by hand, all connected.
        let mut agents = Vec::new();
        for id in ["a", "b"] {
            let token = world.token(Policy::fixed(Kind::Agent, id).under("p")).await?;
            let ask = Ask::new(Kind::Agent, id, Some("p"))?;
            let mut puppet = Puppet::new(enroll(&phone, world.quic(), &token, &ask).await?.identity()?)?;
            let mut live = puppet.live(&phone, world.quic()).await?;
            live.beat().await?;
            world.api().wait_alive(&format!("agent/{id}")).await?;
            agents.push((puppet, live));
        }

        // Set inactive by hand, with a lease that runs on: its next beat says otherwise.
        let idle = json!({"status": "inactive", "reason": "moved"});
        let shown = post(world, "/agents/a/status", idle.clone(), 200).await?;
        same("it is as was said", &word(&shown, "status")?, &"inactive")?;
        let event = world.api().wait_audit("service.deactivated", "agent/a").await?;
        same("the reason", &event.pointer("/details/reason"), &Some(&json!("moved")))?;
        post(world, "/agents/a/status", idle, 409).await?;
        same("nothing was heard since", &world.api().field("agent/a", "status").await?, &"inactive".to_owned())?;
        if let Some((_, live)) = agents.first_mut() {
            live.beat().await?;
        }
        world.api().wait(SOON, "agent/a", "status", "active").await?;

        // Barred from the root down: every connection ends within a second.
        let alone = post(world, "/pollers/p/status", json!({"act": "delete"}), 409).await?;
        same("the children stand in the way", &word(&alone, "code")?, &"has_children")?;
        let barred =
            post(world, "/pollers/p/status", json!({"act": "revoke", "cascade": true, "reason": "stolen"}), 200)
                .await?;
        same("all three", &barred["changed"], &json!(3))?;
        let mut puppets = Vec::new();
        for (puppet, live) in agents {
            let ending = live.ending().await?;
            let heard = SystemClock.now().wall;
            same("the close", &ending.close, &Close::Code(Code::Revoked))?;
            let event = world.api().wait_audit("service.revoked", &puppet.identity.service.to_string()).await?;
            let took = heard.since(moment(&event, "at")?);
            ensure!(took < Duration::from_secs(1), "it took {took:?}");
            puppets.push(puppet);
        }
        world.api().wait_row("poller/p", "stopped").await?;
        ensure!(!known(world, "agents/a").await?, "what is revoked is known no longer");

        // A fresh start for one of them; its old certificate and key stay out for good.
        post(world, "/pollers/p/status", json!({"act": "unrevoke"}), 200).await?;
        let fresh = post(world, "/agents/a/reenroll", json!({"reason": "new disk", "local": true}), 201).await?;
        let text = word(&fresh, "token")?;
        world.keep_secret("a re-enrollment token", text);
        same("it waits", &world.api().field("agent/a", "status").await?, &"pending".to_owned())?;
        let mut old = puppets.swap_remove(0);
        same("the old certificate", &turned_away(old.dial(&phone, world.quic()).await?)?, &REFUSED)?;
        let token = text.parse()?;
        let ask = Ask::new(Kind::Agent, "a", Some("p"))?;
        let mut puppet = Puppet::new(enroll(&phone, world.quic(), &token, &ask).await?.identity()?)?;
        let mut live = puppet.live(&phone, world.quic()).await?;
        live.beat().await?;
        world.api().wait_alive("agent/a").await?;

        // Deleted with everything below, recovered from above, removed from below.
        post(world, "/pollers/p/status", json!({"act": "delete", "cascade": true}), 200).await?;
        same("the close", &live.ending().await?.close, &Close::Code(Code::Deleted))?;
        let orphan = post(world, "/agents/a/status", json!({"act": "recover"}), 422).await?;
        same("not below a deleted parent", &word(&orphan, "code")?, &"parent_deleted")?;
        for one in ["pollers/p", "agents/a"] {
            post(world, &format!("/{one}/status"), json!({"act": "recover"}), 200).await?;
        }
        puppet.live(&phone, world.quic()).await?.beat().await?;
        world.api().wait_alive("agent/a").await?;
        post(world, "/agents/a/status", json!({"act": "delete"}), 200).await?;
        let remove = world.api().call(reqwest::Method::DELETE, "/api/admin/services/agents/a", None).await?;
        same("removed", &remove.status, &204)?;
        same("its record", &world.api().get("/api/admin/services/agents/a").await?.status, &404)?;

        // L15: the id made anew is another service; nobody comes back with what the old one had.
        post(world, "/agents", json!({"id": "a", "parent": "p"}), 201).await?;
        let token = world.token(Policy::fixed(Kind::Agent, "a").under("p")).await?;
        let ask = Ask::new(Kind::Agent, "a", Some("p"))?;
        let answer = enroll(&phone, world.quic(), &token, &ask).await?;
        ensure!(matches!(answer, Answer::Identity(_)), "the new one is let in: {answer:?}");
        same("the removed one", &turned_away(puppet.dial(&phone, world.quic()).await?)?, &REFUSED)?;
        same("the one before", &turned_away(old.dial(&phone, world.quic()).await?)?, &REFUSED)?;
        sidecar.terminate().await.map(drop)
    })
    .await
}

/// The list of the configuration is taken on SIGHUP, and one that is wrong changes nothing.
#[tokio::test]
async fn known_pollers_are_read_again() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let config = world.dir().join("collector.toml");
        let text = fs::read_to_string(&config)?;
        let tell = |world: &mut World, more: &str| -> Result<()> {
            // Replaced as a whole: it may be read at any moment.
            let next = config.with_extension("next");
            fs::write(&next, format!("{more}\n{text}"))?;
            fs::rename(next, &config)?;
            world.collector().signal(Signal::HUP).map(drop)
        };
        post(world, "/pollers", json!({"id": "p"}), 201).await?;
        post(world, "/pollers/p/status", json!({"act": "revoke", "reason": "stolen"}), 200).await?;
        ensure!(!known(world, "pollers/old-1").await?, "nobody named it yet");
        tell(world, "known_pollers = [\"old-1\", \"p\"]")?;
        until(SOON, "the list is taken", async || {
            ensure!(known(world, "pollers/old-1").await?, "it is not known");
            Ok(())
        })
        .await?;
        ensure!(!known(world, "pollers/p").await?, "a list overruled a revocation");
        tell(world, "known_pollers = [\"NOT A NAME\"]")?;
        until(SOON, "the wrong list is complained about", async || world.collector().line_with("is wrong")).await?;
        ensure!(known(world, "pollers/old-1").await?, "a wrong file took something away");
        tell(world, "known_pollers = [\"old-2\"]\nleaf_ttl = \"5d\"")?;
        until(SOON, "the next list is taken", async || {
            ensure!(known(world, "pollers/old-2").await? && !known(world, "pollers/old-1").await?, "not yet");
            Ok(())
        })
        .await?;
        until(SOON, "what waits is told", async || world.collector().line_with("take a restart")).await?;
        Ok(())
    })
    .await
}
