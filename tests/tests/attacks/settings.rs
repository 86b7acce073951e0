//! A sidecar that tells of settings, of its host and of progress without end, or without having been asked.

use anyhow::{Result, bail, ensure};
use reqwest::Method;
use rollcall_common::{
    code::Code,
    health::{Progress, ProgressReport, Text},
    machine::MachineTag,
    service::Pairs,
    wire::{
        message::{About, Up, capability},
        settings::{SettingsRefused, SettingsState},
    },
};
use rollcall_tests::{
    peer::{Phone, Puppet, SOON},
    until::{same, until},
    world::{
        self, Plan,
        api::{at, word},
    },
};
use serde_json::json;
use std::collections::BTreeMap;

const ALL: u64 = capability::SETTINGS | capability::ABOUT | capability::PROGRESS;

fn frames(n: u64) -> Result<[Up; 3]> {
    let refused = n.is_multiple_of(2).then(|| SettingsRefused { revision: 1, why: Text::fit(&n.to_string()) });
    let metadata: Pairs = BTreeMap::from([("rack".to_owned(), n.to_string())]).try_into()?;
    let labels: Pairs = BTreeMap::from([("site".to_owned(), n.to_string())]).try_into()?;
    Ok([
        Up::Settings(Box::new(SettingsState { revision: n % 3, refused, probes: vec![], more: 0 })),
        Up::About(Box::new(About { machine: Some(MachineTag::try_from(format!("{n:032x}"))?), labels, metadata })),
        Up::Progress(ProgressReport {
            progress: if n.is_multiple_of(2) { Progress::Moving } else { Progress::Stalled },
            reason: Text::fit(&n.to_string()),
        }),
    ])
}

/// Six thousand words cost a handful of commits and audit events, and the last word is heard all the same.
#[tokio::test]
async fn a_flood_of_states_and_names_costs_little_and_moves_nothing() -> Result<()> {
    const FLOOD: u64 = 2_000;
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        let mut hello = puppet.next_hello();
        hello.capabilities = ALL;
        let Ok(mut live) = puppet.dial_saying(&phone, world.quic(), hello).await? else { bail!("not greeted") };
        live.beat().await?;
        let api = world.api().clone();
        let wanted = json!({"interval": "200ms"});
        api.call(Method::PUT, "/api/admin/services/pollers/p/settings", Some(&wanted)).await?.expect(200)?;
        for n in 0..FLOOD {
            for frame in frames(n)? {
                live.line.say(&frame).await?;
            }
        }
        live.beat().await?;
        let last = (FLOOD - 1).to_string();
        until(SOON, "the last word is heard", async || {
            live.beat().await?;
            same("progress", &api.field("poller/p", "progress_reason").await?, &last)
        })
        .await?;
        let audit = api.get("/api/admin/audit?actor=sidecar:poller/p&limit=1000").await?.expect(200)?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for event in at(&audit, "/items").as_array().into_iter().flatten() {
            *counts.entry(word(event, "action")?.to_owned()).or_default() += 1;
        }
        for (action, most) in [
            ("settings.applied", 1),
            ("settings.refused", 1),
            ("service.announced", 4),
            ("identity.machine_changed", 4),
        ] {
            let count = counts.get(action).copied().unwrap_or(0);
            ensure!(count <= most, "{action} was told {count} times: {counts:?}");
        }
        // It has named itself two thousand times, and bears none of these labels.
        let shown = api.service("poller/p").await?;
        same("labels", &at(&shown, "/labels"), &json!({}))?;
        ensure!(at(&shown, "/announced_labels").get("site").is_some(), "{shown}");
        same("alive", &word(&shown, "presence")?, &"alive")
    })
    .await
}

/// Whoever has not said that it can is not heard.
#[tokio::test]
async fn what_was_not_greeted_ends_the_session() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let mut puppet = Puppet::new(world.enroll_poller(&phone, "p").await?)?;
        for frame in frames(1)? {
            let mut live = puppet.live(&phone, world.quic()).await?;
            live.line.say(&frame).await?;
            let ending = live.ending().await?;
            same("the code", &ending.bye.map(|bye| bye.code), &Some(Code::Protocol))?;
        }
        Ok(())
    })
    .await
}
