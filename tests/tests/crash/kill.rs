//! The collector is killed at random moments while it works: what it acknowledged is there afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rollcall_common::{
    id::{Kind, random},
    token::Token,
};
use rollcall_tests::{
    fleet::{Fleet, enroll_many},
    peer::{Ask, Phone, SOON, enroll},
    until::{always, same, until},
    world::{
        self, Api, Plan, Policy, World,
        api::{Reply, at, word},
    },
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::number;

/// Sidecars that live through all of it.
const LIVING: usize = 20;
/// A kill comes this late at most, in milliseconds.
const AT_MOST_MS: u64 = 700;

/// What the collector acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Pollers registered over the API, with the status that was acknowledged last.
    registered: BTreeMap<String, &'static str>,
    /// Pollers that enrolled.
    enrolled: BTreeSet<String>,
    /// An enrollment whose answer never came.
    unanswered: Option<(String, Ask)>,
    /// A registration whose answer never came.
    unheard: Option<String>,
}

/// T15, and every acknowledged change.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() -> Result<()> {
    let rounds = number("ROLLCALL_KILL_ROUNDS", 20)?;
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(10), ..Plan::default() };
    world::run(plan, async |world| {
        let uses = u32::try_from(LIVING + 1_000 * rounds)?;
        let token = world.token(Policy::prefix(Kind::Poller, "e").uses(uses)).await?;
        let living = enroll_many(world.quic(), &token, "e-living-", LIVING).await?;
        let fleet = Fleet::start(living, world.quic())?;
        let mut all = Acknowledged::default();
        for round in 0..rounds {
            let chance: [u8; 8] = random()?;
            let wait = Duration::from_millis(u64::from_le_bytes(chance) % AT_MOST_MS);
            let outcome = one_round(world, &token, round, wait, &mut all).await;
            outcome.with_context(|| format!("round {round}, killed after {wait:?}"))?;
        }
        fleet.all_acked_since(now(), world.plan().interval + Duration::from_secs(10)).await?;
        for n in 0..LIVING {
            world.api().never_lost(&format!("poller/e-living-{n}")).await?;
        }
        let done = all.registered.len() + all.enrolled.len();
        ensure!(done >= rounds, "only {done} changes were acknowledged in {rounds} rounds: nothing was proven");
        Ok(())
    })
    .await
}

fn now() -> rollcall_common::time::Timestamp {
    use rollcall_common::time::Clock as _;
    rollcall_common::time::SystemClock.now().wall
}

async fn one_round(
    world: &mut World,
    token: &Token,
    round: usize,
    wait: Duration,
    all: &mut Acknowledged,
) -> Result<()> {
    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    for worker in 0..2 {
        workers.spawn(enroll_on(world.quic(), token.clone(), format!("e{round}-{worker}"), stop.clone()));
        workers.spawn(register_on(world.api().clone(), format!("r{round}-{worker}"), stop.clone()));
    }
    always(wait, "they work", async || Ok(())).await?;
    world.collector().kill9().await?;
    stop.cancel();
    let (mut unanswered, mut unheard) = (Vec::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let done = worker??;
        all.registered.extend(done.registered);
        all.enrolled.extend(done.enrolled);
        unanswered.extend(done.unanswered);
        unheard.extend(done.unheard);
    }
    world.start_collector().await?;
    check(world.api(), all).await?;
    // Whose answer was lost asks again with the same key, and is somebody, once.
    let phone = Phone::new()?;
    for (id, ask) in unanswered {
        let identity = enroll(&phone, world.quic(), token, &ask).await?.identity().with_context(|| id.clone())?;
        same("the identity", &identity.service.id.to_string(), &id)?;
        all.enrolled.insert(id);
    }
    // Whoever never heard of a registration repeats it under its key: it is made now, or was made then, but once.
    for id in unheard {
        let made = register(world.api(), &id).await?.expect(201).with_context(|| id.clone())?;
        same("who was made", &word(&made, "id")?, &id.as_str())?;
        all.registered.insert(id, "pending");
    }
    check(world.api(), all).await
}

/// Enrolls one poller after the other, until stopped.
async fn enroll_on(to: SocketAddr, token: Token, prefix: String, stop: CancellationToken) -> Result<Acknowledged> {
    let phone = Phone::new()?;
    let mut done = Acknowledged::default();
    for n in 0.. {
        let id = format!("{prefix}-{n}");
        let ask = Ask::poller(&id)?;
        let answer = tokio::select! {
            () = stop.cancelled() => None,
            answer = enroll(&phone, to, &token, &ask) => answer.ok(),
        };
        match answer.map(rollcall_tests::peer::Answer::identity) {
            Some(Ok(_)) => done.enrolled.insert(id),
            Some(Err(_)) | None => {
                done.unanswered = Some((id, ask));
                break;
            }
        };
    }
    Ok(done)
}

/// Registers a poller under a key that is its own.
async fn register(api: &Api, id: &str) -> Result<Reply> {
    api.post_once("/api/admin/services/pollers", &json!({ "id": id }), &format!("register {id}").replace(' ', "-"))
        .await
}

/// Registers pollers and revokes every second one, until stopped.
async fn register_on(api: Api, prefix: String, stop: CancellationToken) -> Result<Acknowledged> {
    let mut done = Acknowledged::default();
    for n in 0.. {
        let id = format!("{prefix}-{n}");
        let made = tokio::select! {
            () = stop.cancelled() => None,
            made = register(&api, &id) => made.ok(),
        };
        let Some(made) = made else {
            done.unheard = Some(id);
            break;
        };
        made.expect(201)?;
        done.registered.insert(id.clone(), "pending");
        if n % 2 == 0 {
            let name = format!("poller/{id}");
            tokio::select! {
                () = stop.cancelled() => {}
                moved = api.act(&name, "revoke") => if moved.is_ok() {
                    done.registered.insert(id, "revoked");
                    continue;
                },
            }
            // Not acknowledged: it may have happened, or not.
            done.registered.insert(id, "");
            break;
        }
    }
    Ok(done)
}

/// Everything acknowledged is there, and nothing is there by halves.
async fn check(api: &Api, all: &Acknowledged) -> Result<()> {
    let mut pollers = BTreeMap::new();
    for poller in api.list("pollers").await? {
        pollers.insert(word(&poller, "id")?.to_owned(), poller);
    }
    for (id, status) in &all.registered {
        let poller = pollers.get(id).with_context(|| format!("{id} was acknowledged and is gone"))?;
        if !status.is_empty() {
            same(&format!("the status of {id}"), &word(poller, "status")?, status)?;
        }
    }
    for id in &all.enrolled {
        let poller = pollers.get(id).with_context(|| format!("{id} enrolled and is gone"))?;
        ensure!(at(poller, "/spiffe_identity").is_string(), "{id} enrolled and has no identity");
    }
    let trail = Trail::of(&api.audit("").await?)?;
    for (id, poller) in &pollers {
        let object = format!("poller/{id}");
        same(&format!("registrations of {id} on record"), &trail.count("service.registered", &object), &1)?;
        let bound = at(poller, "/spiffe_identity").is_string();
        same(&format!("{id} is bound on record"), &(trail.count("identity.enrolled", &object) > 0), &bound)?;
        let revoked = word(poller, "status")? == "revoked";
        same(&format!("{id} is revoked on record"), &(trail.count("service.revoked", &object) > 0), &revoked)?;
    }
    let told = trail.objects("service.registered");
    let known: BTreeSet<String> = pollers.keys().map(|id| format!("poller/{id}")).collect();
    same("who is on record", &told, &known)
}

/// The audit trail, counted.
struct Trail(BTreeMap<(String, String), usize>);

impl Trail {
    fn of(events: &[Value]) -> Result<Self> {
        let mut counts = BTreeMap::new();
        let mut above = u64::MAX;
        for event in events {
            let seq = event.get("seq").and_then(Value::as_u64).context("an event without a seq")?;
            ensure!(seq < above, "seq {seq} stands below {above}");
            above = seq;
            let key = (word(event, "action")?.to_owned(), word(event, "object")?.to_owned());
            *counts.entry(key).or_default() += 1;
        }
        Ok(Self(counts))
    }

    fn count(&self, action: &str, object: &str) -> usize {
        self.0.get(&(action.to_owned(), object.to_owned())).copied().unwrap_or(0)
    }

    fn objects(&self, action: &str) -> BTreeSet<String> {
        self.0.keys().filter(|(told, _)| told == action).map(|(_, object)| object.clone()).collect()
    }
}

/// A collector that is killed while it starts for the first time starts all the same the next time, and keeps
/// the key that somebody may have pinned.
#[tokio::test]
async fn a_first_start_can_be_killed_at_any_moment() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let root = world.state().join("ca/root.crt");
        let pinned = std::fs::read(&root)?;
        for n in 0..8_u64 {
            world.collector().kill9().await?;
            world.collector().start()?;
            always(Duration::from_millis(n * 12), "it starts", async || Ok(())).await?;
        }
        world.collector().kill9().await?;
        world.start_collector().await?;
        same("the root", &(std::fs::read(&root)? == pinned), &true)?;
        let fresh = world.dir().join("fresh");
        for n in 0..10_u64 {
            let mut other = world.another_collector(&fresh)?;
            always(Duration::from_millis(n * 15), "it starts for the first time", async || Ok(())).await?;
            other.kill9().await?;
        }
        let mut other = world.another_collector(&fresh)?;
        until(SOON, "it listens", async || match other.exited()? {
            Some(status) => bail!("it ended with {status}"),
            None if fresh.join("endpoints.json").exists() => Ok(()),
            None => Err(anyhow!("not yet")),
        })
        .await
    })
    .await
}
