//! Abuse of child reports: W4, and floods of them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rollcall_common::{
    code::Code,
    health::{Health, HealthReport, Text},
    id::{Kind, ServiceId},
    wire::{
        children::{ChildAbout, ChildReport, Children, ChildrenAck, MAX_CHILDREN},
        message::{Down, Up, capability},
    },
};
use rollcall_tests::{
    peer::{Ask, Close, Identity, Line, Phone, Puppet, SOON, enroll},
    until::{same, until},
    world::{self, Plan, Policy, World},
};
use serde_json::json;

use super::scene::Registered;

/// A greeted session whose greeting said that it would speak of children.
async fn parent(world: &World, phone: &Phone, identity: &Identity) -> Result<Line> {
    let mut puppet = Puppet::new(identity.clone())?;
    let mut hello = puppet.next_hello();
    hello.capabilities = capability::CHILDREN;
    match puppet.dial_saying(phone, world.quic(), hello).await? {
        Ok(live) => {
            same("the abilities", &live.greeting.capabilities, &capability::CHILDREN)?;
            Ok(live.line)
        }
        Err(ending) => bail!("not greeted: {ending:?}"),
    }
}

fn report(child: &str, parent: Option<&str>) -> Result<ChildReport> {
    Ok(ChildReport {
        child: child.parse()?,
        parent: parent.map(ServiceId::new).transpose()?,
        report: HealthReport { health: Health::Degraded, reason: Text::new("slow")? },
        about: Some(Box::new(ChildAbout { checker_kind: Some("snmp".parse()?), ..ChildAbout::default() })),
    })
}

async fn tell(line: &mut Line, batch_no: u64, children: Vec<ChildReport>) -> Result<ChildrenAck> {
    line.say(&Up::Children(Box::new(Children { batch_no, interval_ms: 60_000, children }))).await?;
    loop {
        match line.hear().await?.context("no answer")? {
            Down::Children(ack) => {
                same("the batch", &ack.batch_no, &batch_no)?;
                return Ok(*ack);
            }
            Down::Directive(_) | Down::Settings(_) => {}
            down @ (Down::Enrolled(_)
            | Down::Refused(_)
            | Down::HelloAck(_)
            | Down::Ack(_)
            | Down::Renewed(_)
            | Down::Bye(_)) => bail!("a batch was answered with {down:?}"),
        }
    }
}

fn codes(ack: &ChildrenAck) -> Vec<(u16, Code)> {
    ack.refused.iter().map(|refused| (refused.index, refused.code)).collect()
}

/// W4: a report for a child of another is refused, whatever it names; the victim hears nothing of it.
#[tokio::test]
async fn nobody_speaks_for_the_children_of_another() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        world.enroll_poller(&phone, "victim").await?;
        let token = world.token(Policy::fixed(Kind::Agent, "mine").under("victim")).await?;
        enroll(&phone, world.quic(), &token, &Ask::new(Kind::Agent, "mine", None)?).await?.identity()?;
        let body = json!({ "id": "bare", "parent": "mine" });
        world.api().post("/api/admin/services/checkers", &body).await?.expect(201)?;
        let thief = world.enroll_poller(&phone, "thief").await?;
        let mut line = parent(world, &phone, &thief).await?;
        let before = Registered::now(world.api()).await?;
        let all = vec![
            report("agent/mine", None)?,
            report("agent/mine", Some("victim"))?,
            report("checker/bare", Some("mine"))?,
            report("checker/new", Some("mine"))?,
            report("poller/victim", None)?,
            report("agent/unknown", None)?,
        ];
        let ack = tell(&mut line, 1, all).await?;
        let another = Code::ChildOfAnother;
        let wanted =
            [(0, another), (1, another), (2, another), (3, another), (4, Code::ParentKind), (5, Code::ChildUnknown)];
        same("the refusals", &codes(&ack), &wanted.to_vec())?;
        before.unchanged(world.api()).await?;
        for service in ["agent/mine", "checker/bare"] {
            same(service, &world.api().field(service, "presence").await?, &"never_seen".to_owned())?;
        }
        world.api().wait_audit("child.of_another", "poller/thief").await?;
        let labels = format!("code=\"{}\"", another.as_str());
        let counted = world.api().metric("rollcall_child_reports_refused_total", &labels).await?;
        same("counted", &counted, &4.0)
    })
    .await
}

/// The whole life of children without a sidecar: registered by policy, alive, shown beside an identity.
#[tokio::test]
async fn children_without_a_sidecar_live_by_their_parents_reports() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::fixed(Kind::Poller, "p").implicit_children()).await?;
        let poller = enroll(&phone, world.quic(), &token, &Ask::poller("p")?).await?.identity()?;
        let mut line = parent(world, &phone, &poller).await?;
        same("refusals", &codes(&tell(&mut line, 1, vec![report("agent/a", None)?]).await?), &vec![])?;
        let agent = world.api().wait(SOON, "agent/a", "presence", "alive").await?;
        for (field, wanted) in [("source", "implicit"), ("presence_origin", "parent"), ("parent", "p")] {
            same(field, &agent[field], &json!(wanted))?;
        }
        world.api().wait(SOON, "agent/a", "status", "active").await?;
        // A grandchild, with its parent named.
        let both = vec![report("agent/a", None)?, report("checker/c", Some("a"))?];
        same("refusals", &codes(&tell(&mut line, 2, both).await?), &vec![])?;
        let checker = world.api().wait(SOON, "checker/c", "presence", "alive").await?;
        for (field, wanted) in [("poller", "p"), ("parent", "a"), ("checker_kind", "snmp")] {
            same(field, &checker[field], &json!(wanted))?;
        }
        until(SOON, "its health is shown", async || {
            let health = world.api().service("checker/c").await?["health"]["health"].clone();
            same("health", &health, &json!("degraded"))
        })
        .await?;

        // It gets a sidecar of its own: from then on only its own beats count.
        let token = world.token(Policy::fixed(Kind::Agent, "a").under("p")).await?;
        let bound = enroll(&phone, world.quic(), &token, &Ask::new(Kind::Agent, "a", None)?).await?.identity()?;
        let mut live = Puppet::new(bound)?.live(&phone, world.quic()).await?;
        live.beat().await?;
        world.api().wait(SOON, "agent/a", "presence_origin", "own").await?;
        live.goodbye().await?;
        world.api().wait(SOON, "agent/a", "presence", "stopped").await?;
        tell(&mut line, 3, vec![report("agent/a", None)?]).await?;
        let shown = world.api().service("agent/a").await?;
        same("presence", &shown["presence"], &json!("stopped"))?;
        same("who says", &shown["parent_report"]["by"], &json!("poller/p"))?;
        same("what", &shown["parent_report"]["health"]["reason"], &json!("slow"))?;
        Ok(())
    })
    .await
}

/// A flood of batches costs its session, and neither the store nor anybody else.
#[tokio::test]
async fn a_flood_of_reports_is_bounded() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::fixed(Kind::Poller, "p").implicit_children()).await?;
        let flooder = enroll(&phone, world.quic(), &token, &Ask::poller("p")?).await?.identity()?;
        let (_, mut honest) = world.live_poller(&phone, "honest").await?;
        let mut line = parent(world, &phone, &flooder).await?;
        let batch = |no: usize| -> Result<Children> {
            let children = (0..MAX_CHILDREN).map(|n| report(&format!("agent/a-{no}-{n}"), None));
            Ok(Children { batch_no: no as u64, interval_ms: 0, children: children.collect::<Result<_>>()? })
        };
        // Up to the limit they are registered, and not one beyond it. What a batch names while the one before is being
        // registered waits until it is named again, as a sidecar does with its next batch.
        let mut no = 0;
        for (round, expected) in [256, 512, 768, 1_000].into_iter().enumerate() {
            let mut looks = 0;
            until(SOON, "they are there", async || {
                if looks % 20 == 0 {
                    no += 1;
                    tell(&mut line, no as u64, batch(round)?.children).await?;
                }
                looks += 1;
                let shown = world.api().service("poller/p").await?["children"].clone();
                same("children", &shown, &json!(expected))
            })
            .await?;
        }
        no += 8;
        until(Duration::from_secs(30), "the limit is told", async || {
            no += 1;
            let ack = tell(&mut line, no as u64, batch(no)?.children).await?;
            ensure!(codes(&ack).iter().any(|(_, code)| *code == Code::ChildLimit), "{no} batches");
            Ok(())
        })
        .await?;
        same("children", &world.api().service("poller/p").await?["children"], &json!(1_000))?;
        // As fast as it can: heard, answered without effect, sent away.
        let mut throttled = 0;
        let code = loop {
            no += 1;
            if line.say(&Up::Children(Box::new(batch(no % 8)?))).await.is_err() {
                break line.ending().await?.close;
            }
            match line.hear().await? {
                Some(Down::Children(ack)) => throttled += u32::from(ack.retry_after_ms > 0),
                Some(Down::Bye(bye)) => break Close::Code(bye.code),
                Some(Down::Directive(_) | Down::Settings(_)) => {}
                Some(
                    down @ (Down::Enrolled(_) | Down::Refused(_) | Down::HelloAck(_) | Down::Ack(_) | Down::Renewed(_)),
                ) => bail!("answered with {down:?}"),
                None => break line.ending().await?.close,
            }
        };
        same("the close", &code, &Close::Code(Code::Throttled))?;
        // On a slow machine a batch passes now and then, and the count begins anew.
        ensure!(throttled >= 32, "closed after {throttled}");
        // A batch over the size is no batch.
        let mut line = parent(world, &phone, &flooder).await?;
        let many =
            (0..=MAX_CHILDREN).map(|n| Ok(ChildReport { about: None, ..report(&format!("agent/b-{n}"), None)? }));
        let many = Children { batch_no: 1, interval_ms: 0, children: many.collect::<Result<_>>()? };
        line.say(&Up::Children(Box::new(many))).await?;
        same("the close", &line.ending().await?.close, &Close::Code(Code::Protocol))?;
        // Nor is one from a sidecar that never announced any.
        honest.beat().await?;
        let one = Children { batch_no: 1, interval_ms: 0, children: vec![report("agent/c", None)?] };
        honest.line.say(&Up::Children(Box::new(one))).await?;
        same("the close", &honest.ending().await?.close, &Close::Code(Code::Protocol))
    })
    .await
}
