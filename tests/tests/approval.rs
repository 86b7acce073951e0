//! Hosts that an operator lets in, and those that were turned away: real processes, a restart in between.

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_common::{code::Code, id::Kind};
use rollcall_tests::{
    peer::{Ask, Phone, SOON, enroll},
    until::{same, until},
    world::{self, Api, Plan, Policy},
};
use serde_json::{Value, json};

async fn one(api: &Api) -> Result<Value> {
    let page = api.get("/api/admin/approvals").await?.expect(200)?;
    let items = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(items.len() == 1, "{} requests: {page}", items.len());
    items.into_iter().next().context("none")
}

/// A sidecar waits with one key, through a restart of the collector, until an operator approves it.
#[tokio::test]
async fn a_host_waits_for_its_operator_and_then_lives() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token(Policy::fixed(Kind::Poller, "p").manual()).await?;
        let text = token.reveal().to_string();
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"\nlabels = { rack = \"b4\" }")?;
        sidecar.give_token(&text)?;
        sidecar.start()?;
        let asked = until(SOON, "a request waits", async || one(world.api()).await).await?;
        for (field, wanted) in [("state", "pending"), ("service", "poller/p")] {
            same(field, &asked[field], &json!(wanted))?;
        }
        same("the claim", &asked["labels"]["rack"], &json!("b4"))?;
        same("uses", &world.api().token(token.id).await?["uses"], &json!(0))?;
        let id = asked["id"].as_str().context("no id")?.to_owned();
        world.crash_collector().await?;
        let after = one(world.api()).await?;
        same("the key", &after["fingerprint"], &asked["fingerprint"])?;

        let path = format!("/api/admin/approvals/{id}/approve");
        let approved = world.api().post(&path, &json!({ "reason": "rack B 4" })).await?.expect(200)?;
        same("the state", &approved["state"], &json!("approved"))?;
        world.api().wait_audit("approval.approved", "poller/p").await?;
        world.api().wait_alive("poller/p").await?;
        same("uses", &world.api().token(token.id).await?["uses"], &json!(1))?;
        let left = world.api().get("/api/admin/approvals").await?.expect(200)?;
        same("requests", &left["items"], &json!([]))
    })
    .await
}

/// What was approved is what enrolls; a rejected key is refused for good, and another may ask.
#[tokio::test]
async fn a_rejected_key_stays_out_and_changed_claims_ask_anew() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::prefix(Kind::Poller, "p").uses(3).manual()).await?;
        let mut ask = Ask::poller("p1")?;
        let waits = enroll(&phone, world.quic(), &token, &ask).await?.refusal()?;
        same("the code", &waits.code, &Code::PendingApproval)?;
        ensure!(waits.retry_after_ms >= 5_000, "{waits:?}");
        let id = one(world.api()).await?["id"].as_str().context("no id")?.to_owned();
        let act = async |act: &str| world.api().post(&format!("/api/admin/approvals/{id}/{act}"), &json!({})).await;
        act("approve").await?.expect(200)?;
        // The same key under another name was never approved.
        ask.id = Some("p2".parse()?);
        let other = enroll(&phone, world.quic(), &token, &ask).await?.refusal()?;
        same("the code", &other.code, &Code::PendingApproval)?;
        act("reject").await?.expect(200)?;
        for name in ["p1", "p2"] {
            ask.id = Some(name.parse()?);
            let refused = enroll(&phone, world.quic(), &token, &ask).await?.refusal()?;
            same("the code", &refused.code, &Code::ApprovalRejected)?;
        }
        act("approve").await?.expect(200)?;
        ask.id = Some("p1".parse()?);
        enroll(&phone, world.quic(), &token, &ask).await?.identity()?;
        same("uses", &world.api().token(token.id).await?["uses"], &json!(1))
    })
    .await
}

/// Who is turned away is kept with the true reason and the fix, through a kill of the collector.
#[tokio::test]
async fn a_knock_tells_the_true_reason_and_survives_a_kill() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        world.enroll_poller(&phone, "p").await?;
        let token = world.token(Policy::prefix(Kind::Poller, "p").uses(3)).await?;
        for _ in 0..3 {
            enroll(&phone, world.quic(), &token, &Ask::poller("p")?).await?.refusal()?;
        }
        let mut ask = Ask::poller("p9")?;
        ask.secret = Some(rollcall_common::token::Secret::random()?);
        enroll(&phone, world.quic(), &token, &ask).await?.refusal()?;
        let knocks = async |api: &Api, query: &str| -> Result<Vec<Value>> {
            let page = api.get(&format!("/api/admin/knocks{query}")).await?.expect(200)?;
            Ok(page["items"].as_array().cloned().unwrap_or_default())
        };
        let all = knocks(world.api(), "").await?;
        same(
            "reasons",
            &all.iter().map(|row| row["reason"].clone()).collect::<Vec<_>>(),
            &vec![json!("WRONG_SECRET"), json!("ID_TAKEN")],
        )?;
        let taken = all.get(1).context("two")?.clone();
        for (field, wanted) in [("proven", json!(true)), ("times", json!(3)), ("claimed_id", json!("p"))] {
            same(field, &taken[field], &wanted)?;
        }
        ensure!(taken["fix"].as_str().is_some_and(|fix| fix.contains("reenroll")), "{taken}");
        let counted = world.api().metric("rollcall_knocks_total", "reason=\"ID_TAKEN\"").await?;
        same("counted", &counted, &3.0)?;
        // One flush later a kill loses nothing.
        tokio::time::timeout(SOON, flushed(world)).await??;
        world.crash_collector().await?;
        same("knocks", &knocks(world.api(), "?proven=true").await?, &vec![taken.clone()])?;
        let path = format!("/api/admin/knocks/{}", taken["id"].as_str().context("no id")?);
        same("the status", &world.api().call(Method::DELETE, &path, None).await?.status, &204)?;
        same("the status", &world.api().call(Method::DELETE, &path, None).await?.status, &404)?;
        same("knocks", &knocks(world.api(), "?proven=true").await?.len(), &0)
    })
    .await
}

/// Waits until the store's file holds a knock.
async fn flushed(world: &rollcall_tests::world::World) -> Result<()> {
    let state = world.state();
    until(SOON, "the knock is written down", async || {
        let mut found = false;
        for name in ["registry.db", "registry.db-wal"] {
            let bytes = std::fs::read(state.join(name)).unwrap_or_default();
            found |=
                bytes.windows(8).any(|window| window == b"ID_TAKEN") && bytes.windows(12).any(|w| w == b"127.0.0.0/24");
        }
        ensure!(found, "not yet");
        Ok(())
    })
    .await
}
