//! Revocation, renewal and recovery under attack and under failure: L1, L2, L4 to L6, L9, L12, L13, L16.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use rollcall_common::{
    code::Code,
    id::Kind,
    time::{Clock as _, SystemClock, Timestamp},
};
use rollcall_tests::{
    lab::{self, Bench, Lab},
    net::{Relay, Weather},
    peer::{Answer, Ask, Close, Ending, Key, Phone, Puppet, SOON, enroll},
    redis::Redis,
    until::{always, same, until},
    world::{
        self, Api, Plan, Policy,
        api::{at, moment, word},
    },
};
use rustix::process::Signal;
use serde_json::json;

use super::scene::{Registered, refusals};

const DAY_MS: i64 = 86_400_000;
/// Time in which a hot loop would show, and a sidecar that waits an hour does nothing.
const CALM: Duration = Duration::from_secs(4);
const REVOKED_ALERT: Close = Close::Alert(44);
const EXPIRED_ALERT: Close = Close::Alert(45);

/// What a sidecar may meet while nothing is wrong with it.
async fn refused_at_all(api: &Api) -> Result<f64> {
    let refused = api.metric("rollcall_refusals_total", "").await?;
    Ok(refused + api.metric("rollcall_handshakes_failed_total", "").await?)
}

/// L1, with the hand-driven sidecar: what is told, when, and what is left.
#[tokio::test]
async fn a_revoked_sidecar_is_told_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let redis = Redis::start(dir.path()).await?;
    let plan = Plan::calm().with(&format!("liveness = \"{}\"", redis.url()));
    world::run(plan, async |world| {
        let phone = Phone::new()?;
        let (_, mut live) = world.live_poller(&phone, "p").await?;
        let (_, mut other) = world.live_poller(&phone, "other").await?;
        until(SOON, "Redis has both", async || same("keys", &redis.keys("rollcall:live:poller:*").await?, &2)).await?;
        world.api().act("poller/p", "revoke").await?;
        let ending = live.line.ending().await?;
        let heard = SystemClock.now().wall;
        same("the close", &ending.close, &Close::Code(Code::Revoked))?;
        same("the farewell", &ending.bye.map(|bye| bye.code), &Some(Code::Revoked))?;
        let event = world.api().wait_audit("service.revoked", "poller/p").await?;
        let took = heard.since(moment(&event, "at")?);
        ensure!(took < Duration::from_secs(1), "it took {took:?}");
        let shown = world.api().service("poller/p").await?;
        same("status", &word(&shown, "status")?, &"revoked")?;
        same("presence", &word(&shown, "presence")?, &"stopped")?;
        until(SOON, "its key is gone", async || same("keys", &redis.keys("rollcall:live:poller:*").await?, &1)).await?;
        same("the other one's key", &redis.keys("rollcall:live:poller:other").await?, &1)?;
        other.beat().await.map(drop)
    })
    .await
}

/// L1, L4, with the real sidecar: it stays up, does not hammer, and comes back without a token.
#[tokio::test]
async fn a_revoked_sidecar_waits_and_comes_back_without_a_token() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        fs::remove_file(sidecar.token_file())?;

        world.api().act("poller/p", "revoke").await?;
        until(SOON, "the sidecar has heard of it", async || sidecar.line_with("REVOKED").map(drop)).await?;
        let tries = refused_at_all(world.api()).await?;
        always(CALM, "it waits", async || {
            ensure!(sidecar.exited()?.is_none(), "it ended");
            let more = refused_at_all(world.api()).await? - tries;
            ensure!(more <= 1.0, "{more} tries");
            Ok(())
        })
        .await?;
        // An operator on the host can ask for a try.
        let tries = refused_at_all(world.api()).await?;
        sidecar.signal(Signal::HUP)?;
        until(SOON, "it tries", async || {
            ensure!(refused_at_all(world.api()).await? > tries, "not yet");
            Ok(())
        })
        .await?;
        same("status", &world.api().field("poller/p", "status").await?, &"revoked".to_owned())?;

        world.api().act("poller/p", "unrevoke").await?;
        sidecar.signal(Signal::HUP)?;
        world.api().wait_alive("poller/p").await?;
        ensure!(!sidecar.token_file().exists(), "a token appeared");
        same("enrollments", &world.api().metric("rollcall_enrollments_total", "").await?, &1.0)
    })
    .await
}

/// L2, L4: a revoked identity has no way around.
#[tokio::test]
async fn a_revoked_identity_has_no_other_way_in() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let token = world.token(Policy::fixed(Kind::Poller, "p")).await?;
        let ask = Ask::poller("p")?;
        let identity = enroll(&phone, world.quic(), &token, &ask).await?.identity()?;
        let mut puppet = Puppet::new(identity.clone())?;
        let mut live = puppet.live(&phone, world.quic()).await?;
        live.beat().await?;
        world.api().wait_alive("poller/p").await?;
        world.api().act("poller/p", "revoke").await?;
        same("the close", &live.ending().await?.close, &Close::Code(Code::Revoked))?;
        let before = Registered::now(world.api()).await?;

        // The stolen certificate, from elsewhere.
        let thief = Phone::on([127, 0, 0, 9].into())?;
        let mut copy = Puppet::new(identity.clone())?;
        same("a new handshake", &turned_away(copy.dial(&thief, world.quic()).await?)?.close, &REVOKED_ALERT)?;
        // The bound key for a fresh certificate, the token with the same key, the token with another.
        let rejoined = identity.rejoin(&phone, world.quic(), &identity.key, &Key::generate()?).await?;
        same("a rejoin", &rejoined.refusal()?.code, &Code::Revoked)?;
        let again = enroll(&phone, world.quic(), &token, &ask).await?.refusal()?.code;
        ensure!(matches!(again, Code::Revoked | Code::TokenExhausted), "the same key again: {again}");
        let fresh = enroll(&phone, world.quic(), &token, &Ask::poller("p")?).await?.refusal()?.code;
        same("another key", &fresh, &Code::TokenExhausted)?;
        before.unchanged(world.api()).await?;

        // The collector remembers over a crash.
        world.crash_collector().await?;
        same("after a crash", &turned_away(copy.dial(&thief, world.quic()).await?)?.close, &REVOKED_ALERT)?;
        before.unchanged(world.api()).await?;
        world.api().act("poller/p", "unrevoke").await?;
        puppet.live(&phone, world.quic()).await?.beat().await?;
        world.api().wait_alive("poller/p").await
    })
    .await
}

fn turned_away<T>(outcome: std::result::Result<T, Ending>) -> Result<Ending> {
    match outcome {
        Ok(_) => bail!("it was let in"),
        Err(ending) => Ok(ending),
    }
}

/// L5, C11: a live connection ends with its certificate, and no handshake outlives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_its_certificate() -> Result<()> {
    let (bench, clock) = Bench::with_clock();
    lab::run(&Plan::calm(), bench, async |lab| {
        let phone = Phone::new()?;
        let identity = lab.enroll_poller(&phone, "p", Policy::fixed(Kind::Poller, "p")).await?;
        let mut puppet = Puppet::new(identity.clone())?;
        let mut live = puppet.live(&phone, lab.quic()).await?;
        live.beat().await?;
        let left = identity.not_after.0 - clock.now().wall.0;
        let left = u64::try_from(left)?;
        clock.sleep(Duration::from_millis(left - 4_000));
        live.beat().await.context("some seconds before the end")?;
        clock.sleep(Duration::from_secs(6));
        let ending = live.ending().await?;
        same("the close", &ending.close, &Close::Code(Code::CertExpired))?;
        let turned = turned_away(puppet.dial(&phone, lab.quic()).await?)?;
        same("a new handshake", &turned.close, &EXPIRED_ALERT)
    })
    .await
}

/// L5: while renewal is impossible on our side, live connections outlast their certificates, and that is
/// held against nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_ours_ends_no_connection() -> Result<()> {
    let (bench, clock) = Bench::with_clock();
    lab::run(&Plan::calm(), bench, async |lab| {
        let phone = Phone::new()?;
        let policy = Policy::fixed(Kind::Poller, "p").rejoins(0);
        let identity = lab.enroll_poller(&phone, "p", policy).await?;
        let mut live = Puppet::new(identity.clone())?.live(&phone, lab.quic()).await?;
        live.beat().await?;
        lab.api().wait_alive("poller/p").await?;
        lab.store().fail_all(true);
        let refused = live.renew(&Key::generate()?).await?;
        let refused = refused.err().context("a certificate was given without a store")?;
        same("the refusal", &refused.code, &Code::StoreUnavailable)?;
        ensure!(refused.retry_after_ms > 0, "no time to come back is told");
        let left = u64::try_from(identity.not_after.0 - clock.now().wall.0)?;
        clock.sleep(Duration::from_millis(left + 60_000));
        always(Duration::from_secs(1), "it stays open", async || {
            ensure!(live.line.connection().close_reason().is_none(), "{:?}", live.line.connection().close_reason());
            Ok(())
        })
        .await?;
        live.beat().await.context("past the end of the certificate")?;
        lab.store().fail_all(false);
        until(SOON, "the store is back", async || lab.api().get("/readyz").await?.expect(200).map(drop)).await?;
        lab.api().wait_audit("store.blind", "store:registry").await?;
        // Whoever could not renew in time comes in by its bound key, and it counts for nothing.
        let next = Key::generate()?;
        let fresh = identity.rejoin(&phone, lab.quic(), &identity.key, &next).await?.identity()?;
        Puppet::new(fresh)?.live(&phone, lab.quic()).await?.beat().await?;
        same("rejoins", &at(&lab.api().service("poller/p").await?, "/identity/rejoins"), &json!(0))
    })
    .await
}

/// L6: renewals whose replies are lost leave the identity usable, and only the last one counts.
#[tokio::test]
async fn lost_renewals_brick_nobody() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (mut puppet, mut live) = world.live_poller(&phone, "p").await?;
        let old = puppet.identity.clone();
        let mut given = Vec::new();
        for n in 0..5 {
            let key = Key::generate()?;
            let Ok(renewed) = live.renew(&key).await? else { bail!("renewal {n} was refused") };
            given.push(old.renewed(&renewed, &key));
            live.beat().await?;
        }
        drop(live);
        // Nothing arrived: the old certificate works.
        puppet.live(&phone, world.quic()).await?.beat().await?;
        let (last, lost) = given.split_last().context("no renewal")?;
        for identity in lost {
            let ending = turned_away(Puppet::new(identity.clone())?.dial(&phone, world.quic()).await?)?;
            same("a renewal that was renewed again", &ending.close, &Close::Code(Code::SerialRefused))?;
        }
        // The last one arrived after all: its first use ends the old one, on the wire too.
        let mut old_live = puppet.live(&phone, world.quic()).await?;
        old_live.beat().await?;
        puppet.identity = last.clone();
        let mut live = puppet.live(&phone, world.quic()).await?;
        live.beat().await?;
        same("the old connection", &old_live.ending().await?.close, &Close::Code(Code::Superseded))?;
        until(SOON, "the new certificate is the current one", async || {
            let shown = world.api().service("poller/p").await?;
            same("renewing", &at(&shown, "/identity/renewing"), &json!(false))?;
            same("generation", &at(&shown, "/identity/generation"), &json!(last.generation.0))
        })
        .await?;
        let ending = turned_away(Puppet::new(old)?.dial(&phone, world.quic()).await?)?;
        same("the old certificate", &ending.close, &Close::Code(Code::SerialRefused))?;
        live.beat().await?;
        world.api().never_lost("poller/p").await
    })
    .await
}

/// Certificates that live for seconds, so that a sidecar renews all the time.
fn hasty() -> Bench {
    Bench { leaf_ttl: Some(Duration::from_secs(8)), ..Bench::default() }
}

async fn generation(lab: &Lab, service: &str) -> Result<u64> {
    at(&lab.api().service(service).await?, "/identity/generation").as_u64().context("no generation")
}

/// L6, with the real sidecar: killed at random moments while it renews, it always has a usable identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_killed_while_it_renews_keeps_its_identity() -> Result<()> {
    lab::run(&Plan::calm(), hasty(), async |lab| {
        let token = lab.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = lab.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        lab.api().wait_alive("poller/p").await?;
        fs::remove_file(sidecar.token_file())?;
        let first = generation(lab, "poller/p").await?;
        for round in 0..6_u32 {
            let before = lab.api().metric("rollcall_renewals_total", "").await?;
            until(SOON, "it renews", async || {
                ensure!(lab.api().metric("rollcall_renewals_total", "").await? > before, "not yet");
                Ok(())
            })
            .await?;
            // Somewhere between the answer and its use: a little later in each round.
            let wait = Duration::from_millis(u64::from(round) * 4);
            let _ = always(wait, "a moment", async || Ok(())).await;
            sidecar.kill9().await?;
            let sessions = lab.api().metric("rollcall_sessions_total", "").await?;
            sidecar.start()?;
            until(SOON, "it is greeted again", async || {
                ensure!(sidecar.exited()?.is_none(), "it ended");
                ensure!(lab.api().metric("rollcall_sessions_total", "").await? > sessions, "not yet");
                Ok(())
            })
            .await
            .with_context(|| format!("round {round}"))?;
        }
        ensure!(generation(lab, "poller/p").await? > first, "it never renewed");
        same("enrollments", &lab.api().metric("rollcall_enrollments_total", "").await?, &1.0)?;
        same("rejoins", &at(&lab.api().service("poller/p").await?, "/identity/rejoins"), &json!(0))?;
        lab.api().never_lost("poller/p").await
    })
    .await
}

/// L16, with the real sidecar: a disk that takes nothing costs no identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_cannot_write_keeps_its_identity() -> Result<()> {
    lab::run(&Plan::calm(), hasty(), async |lab| {
        let token = lab.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = lab.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        lab.api().wait_alive("poller/p").await?;
        // Nothing can be renamed onto a directory, whoever asks.
        let obstacle = sidecar.state().join("next");
        until(SOON, "there is no renewal under way", async || Ok(fs::create_dir(&obstacle)?)).await?;
        fs::write(obstacle.join("full"), "")?;
        until(SOON, "it says so", async || sidecar.line_with("cannot write").map(drop)).await?;
        let stuck = generation(lab, "poller/p").await?;
        lab.api().wait_alive("poller/p").await?;
        fs::remove_dir_all(&obstacle)?;
        until(Duration::from_secs(60), "it renews again", async || {
            ensure!(sidecar.exited()?.is_none(), "it ended");
            ensure!(generation(lab, "poller/p").await? > stuck, "not yet");
            Ok(())
        })
        .await?;
        lab.api().never_lost("poller/p").await
    })
    .await
}

/// L9: what honest sidecars go through is no attack: nothing is refused, nobody is suspected.
#[tokio::test]
async fn restarts_and_moves_are_never_refused() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (puppet, live) = world.live_poller(&phone, "p").await?;
        drop(live);
        let refused = refused_at_all(world.api()).await?;
        for n in 0..20 {
            // A new process each time: another instance, its dials counted from the start.
            let mut live = Puppet::new(puppet.identity.clone())?.live(&phone, world.quic()).await?;
            live.beat().await.with_context(|| format!("restart {n}"))?;
        }
        let relay = Relay::start(world.quic()).await?;
        let mut live = Puppet::new(puppet.identity.clone())?.live(&phone, relay.addr()).await?;
        for n in 0..3 {
            live.beat().await?;
            // The NAT in between forgets its mapping.
            relay.rebind();
            live.beat().await.with_context(|| format!("rebinding {n}"))?;
            // The host itself changes its address.
            phone.rebind()?;
            live.beat().await.with_context(|| format!("migration {n}"))?;
        }
        // The radio comes and goes.
        for _ in 0..3 {
            relay.set(Weather::partition());
            always(Duration::from_millis(300), "nothing passes", async || Ok(())).await?;
            relay.set(Weather { loss: 20, delay: Duration::from_millis(20), ..Weather::default() });
            live.beat().await.context("after a partition")?;
        }
        same("refusals", &refused_at_all(world.api()).await?, &refused)?;
        let events = world.api().audit("object=poller/p").await?;
        let actions: Vec<_> = events.iter().map(|event| word(event, "action")).collect::<Result<_>>()?;
        ensure!(!actions.iter().any(|action| action.contains("clone") || action.contains("quarantine")), "{actions:?}");
        world.api().never_lost("poller/p").await
    })
    .await
}

/// L12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_identity_rejoins_within_its_bounds() -> Result<()> {
    let (bench, clock) = Bench::with_clock();
    lab::run(&Plan::calm(), bench, async |lab| {
        let phone = Phone::new()?;
        let policy = |id| Policy::fixed(Kind::Poller, id).rejoins(1);
        let weekend = lab.enroll_poller(&phone, "weekend", policy("weekend")).await?;
        let month = lab.enroll_poller(&phone, "month", policy("month")).await?;
        let (a, b) = (Key::generate()?, Key::generate()?);
        let to = lab.quic();

        clock.step_wall(weekend.not_after.0 - clock.now().wall.0 + 3 * DAY_MS);
        // Whoever cannot show the bound key is nobody, whatever else it knows.
        let stranger = weekend.rejoin(&phone, to, &a, &a).await?;
        same("by a new key only", &stranger.refusal()?.code, &Code::RejoinKey)?;
        let fresh = weekend.rejoin(&phone, to, &weekend.key, &a).await?.identity()?;
        same("it is the same one", &fresh.service, &weekend.service)?;
        Puppet::new(fresh.clone())?.live(&phone, to).await?.beat().await?;
        lab.api().wait_alive("poller/weekend").await?;
        lab.api().wait_audit("identity.rejoined", "poller/weekend").await?;
        until(SOON, "the fresh certificate is current", async || {
            let shown = lab.api().service("poller/weekend").await?;
            same("generation", &at(&shown, "/identity/generation"), &json!(fresh.generation.0))
        })
        .await?;
        let over = fresh.rejoin(&phone, to, &fresh.key, &b).await?;
        same("over its limit", &over.refusal()?.code, &Code::RejoinLimit)?;

        clock.step_wall(28 * DAY_MS);
        let late = month.rejoin(&phone, to, &month.key, &b).await?;
        same("31 days late", &late.refusal()?.code, &Code::RejoinTooLate)?;
        ensure!(refusals(lab.api(), Code::RejoinTooLate).await? >= 1.0, "it was not counted");
        Ok(())
    })
    .await
}

/// L12: a month in which the collector itself could not observe is held against nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_ours_does_not_count_against_a_rejoin() -> Result<()> {
    let (bench, clock) = Bench::with_clock();
    lab::run(&Plan::calm(), bench, async |lab| {
        let phone = Phone::new()?;
        let identity = lab.enroll_poller(&phone, "p", Policy::fixed(Kind::Poller, "p").rejoins(0)).await?;
        // The host slept, suspension included: a gap between two ticks.
        clock.sleep(Duration::from_secs(60 * 86_400));
        lab.api().wait_audit("collector.blind", "collector:main").await?;
        let next = Key::generate()?;
        match identity.rejoin(&phone, lab.quic(), &identity.key, &next).await? {
            Answer::Identity(fresh) => Puppet::new(*fresh)?.live(&phone, lab.quic()).await?.beat().await.map(drop),
            Answer::Refused(refused) => bail!("refused with {}", refused.code),
            Answer::Ended(ending) => bail!("ended with {ending:?}"),
        }
    })
    .await
}

/// L13: a sidecar's clock is a gauge and judges nothing.
#[tokio::test]
async fn a_sidecars_clock_judges_nothing() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let phone = Phone::new()?;
        let (mut puppet, live) = world.live_poller(&phone, "p").await?;
        drop(live);
        let skewed = world.api().metric("rollcall_clocks_skewed_total", "").await?;
        for hours in [1, -1, 0, -24 * 365 * 30] {
            let mut hello = puppet.next_hello();
            hello.clock = Timestamp(hello.clock.0.saturating_add(hours * 3_600_000));
            let before = SystemClock.now().wall;
            let Ok(mut live) = puppet.dial_saying(&phone, world.quic(), hello).await? else {
                bail!("{hours} h: it was not greeted")
            };
            live.beat().await?;
            let shown = world.api().service("poller/p").await?;
            let seen = moment(&shown, "last_seen")?;
            let now = SystemClock.now().wall;
            ensure!(before.0 - 5 <= seen.0 && seen <= now, "{hours} h: last seen at {seen}, not {before} to {now}");
            same("presence", &word(&shown, "presence")?, &"alive")?;
        }
        same("clocks found off", &world.api().metric("rollcall_clocks_skewed_total", "").await?, &(skewed + 3.0))?;
        world.api().never_lost("poller/p").await
    })
    .await
}
