//! The story that a new user sees: three sidecars enroll, live, fall silent, leave and return.
//!
//! Real processes on embedded stores. When something was noticed is read from the collector's own rows; what
//! the operating system was told, and when, from the host's clock.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{always, same, until},
    world::{
        self, Api, Plan, Policy, Sidecar, World,
        api::{at, moment, word},
    },
};
use serde_json::{Value, json};

/// Detection on one collector: the time to live and at most this.
const TICK_AND_COMMIT: Duration = Duration::from_secs(1);
/// A goodbye takes effect within this.
const GOODBYE: Duration = Duration::from_millis(200);

/// A poller, an agent under it, a checker under that; each with its own token, all alive.
async fn three(world: &mut World) -> Result<[Sidecar; 3]> {
    let policies = [
        Policy::fixed(Kind::Poller, "p"),
        Policy::fixed(Kind::Agent, "a").under("p"),
        Policy::fixed(Kind::Checker, "c").under("a"),
    ];
    let settings = [
        "kind = \"poller\"\nid = \"p\"",
        "kind = \"agent\"\nid = \"a\"\nparent = \"p\"",
        "kind = \"checker\"\nid = \"c\"\nparent = \"a\"\nchecker_kind = \"snmp\"",
    ];
    let mut sidecars = Vec::new();
    for ((name, policy), settings) in ["poller/p", "agent/a", "checker/c"].iter().zip(policies).zip(settings) {
        let token = world.token_text(policy).await?;
        let mut sidecar = world.sidecar(&name.replace('/', "-"), settings)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive(name).await?;
        fs::remove_file(sidecar.token_file())?;
        sidecars.push(sidecar);
    }
    sidecars.try_into().ok().context("three sidecars")
}

#[tokio::test]
async fn three_sidecars_live_fall_silent_leave_and_return() -> Result<()> {
    let plan = Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(3), ..Plan::default() };
    world::run(plan, async |world| {
        let [mut poller, mut agent, mut checker] = three(world).await?;
        let api = world.api().clone();
        enrolled(&api).await?;

        // Killed: late, then lost, within the promised time by the collector's own clock.
        agent.kill9().await?;
        api.wait(SOON, "agent/a", "presence", "late").await?;
        api.wait(SOON, "agent/a", "presence", "lost").await?;
        let lost = api.wait_row("agent/a", "lost").await?;
        let last_beat = moment(&at(&lost, "/evidence"), "last_beat")?;
        let detection = moment(&lost, "decided_at")?.since(last_beat);
        let bound = world.plan().ttl + TICK_AND_COMMIT;
        ensure!(detection >= world.plan().ttl, "lost after {detection:?}, before its time to live");
        ensure!(detection <= bound, "lost after {detection:?}, later than {bound:?}");
        let from = moment(&lost, "from")?;
        let missed = last_beat.after(world.plan().interval);
        ensure!(from.0.abs_diff(missed.0) <= 5, "dated to {from}, not to the first missed beat at {missed}");
        // The status is another fact: nobody is inactive after seconds.
        same("status", &api.field("agent/a", "status").await?, &"active".to_owned())?;

        // Stopped: said, and known at once.
        let (_, status) = checker.terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        let stopped = api.wait_row("checker/c", "stopped").await?;
        same("the cause", &word(&stopped, "cause")?, &"goodbye")?;
        same("the reason", &at(&stopped, "/evidence/reason"), &json!("stop"))?;
        let rest = world.plan().ttl + TICK_AND_COMMIT;
        always(rest, "stopped stays stopped", async || {
            same("presence", &api.field("checker/c", "presence").await?, &"stopped".to_owned())
        })
        .await?;

        // Back again, both, with no token anywhere.
        agent.start()?;
        checker.start()?;
        api.wait_alive("agent/a").await?;
        api.wait_alive("checker/c").await?;
        api.wait_history("agent/a", &["alive", "lost", "alive"]).await?;
        api.wait_history("checker/c", &["alive", "stopped", "alive"]).await?;
        api.wait_history("poller/p", &["alive"]).await?;
        same("enrollments", &api.metric("rollcall_enrollments_total", "").await?, &3.0)?;
        same("refusals", &api.metric("rollcall_refusals_total", "").await?, &0.0)?;
        for sidecar in [&mut poller, &mut agent, &mut checker] {
            sidecar.terminate().await?;
        }
        Ok(())
    })
    .await
}

/// From the signal to the verdict, by the host's one clock. A busy machine may hold a process up, so that the
/// best of a few counts; a design that waits for something would be late each time.
#[tokio::test]
async fn a_goodbye_takes_effect_at_once() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(&token)?;
        let mut taken = Vec::new();
        while taken.len() < 5 && taken.iter().all(|took| *took >= GOODBYE) {
            sidecar.start()?;
            world.api().wait_alive("poller/p").await?;
            let (asked, status) = sidecar.terminate().await?;
            ensure!(status.success(), "it ended with {status}");
            world.api().wait(SOON, "poller/p", "presence", "stopped").await?;
            let stopped = world.api().wait_row("poller/p", "stopped").await?;
            taken.push(moment(&stopped, "decided_at")?.since(asked));
        }
        ensure!(taken.iter().any(|took| *took < GOODBYE), "the goodbyes took {taken:?}");
        Ok(())
    })
    .await
}

/// What enrollment and the first heartbeat left behind.
async fn enrolled(api: &Api) -> Result<()> {
    let agent = api.service("agent/a").await?;
    same("parent", &at(&agent, "/parent"), &json!("p"))?;
    same("source", &at(&agent, "/source"), &json!("edge_onboarding"))?;
    same("identity", &at(&agent, "/spiffe_identity"), &json!("spiffe://fleet.test/agent/a"))?;
    let checker = api.service("checker/c").await?;
    same("the checker's parent", &at(&checker, "/parent"), &json!("a"))?;
    same("the checker's poller", &at(&checker, "/poller"), &json!("p"))?;
    same("the checker's kind", &at(&checker, "/checker_kind"), &json!("snmp"))?;
    until(SOON, "the host's facts arrive", async || {
        let host = at(&api.service("poller/p").await?, "/host");
        ensure!(host.get("hostname").and_then(Value::as_str).is_some_and(|name| !name.is_empty()), "no host: {host}");
        Ok(())
    })
    .await?;
    for service in ["poller/p", "agent/a", "checker/c"] {
        let events = api.audit(&format!("object={service}")).await?;
        let mut actions: Vec<_> = events.iter().map(|event| word(event, "action")).collect::<Result<_>>()?;
        actions.reverse();
        let wanted = ["service.registered", "identity.enrolled", "service.activated"];
        same("the trail", &actions, &wanted.to_vec())?;
        let seqs: Vec<_> = events.iter().filter_map(|event| event.get("seq").and_then(Value::as_u64)).collect();
        ensure!(seqs.is_sorted_by(|a, b| a > b) && seqs.len() == 3, "seqs are not in order: {seqs:?}");
    }
    Ok(())
}

/// A sidecar that finds no token waits, says so, and goes on by itself when there is one.
#[tokio::test]
async fn a_sidecar_waits_for_its_token() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.start()?;
        until(SOON, "it says what it waits for", async || sidecar.line_with("waiting for a token at").map(drop))
            .await?;
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        sidecar.give_token(&token)?;
        world.api().wait_alive("poller/p").await
    })
    .await
}

/// A token that will never work ends the process with 78 and one clear line.
#[tokio::test]
async fn a_refused_token_ends_the_sidecar_with_78() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("wrong", "kind = \"agent\"\nid = \"p\"\nparent = \"nobody\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        let status = sidecar.ended().await?;
        same("the exit code", &status.code(), &Some(78))?;
        sidecar.line_with("KIND_MISMATCH")?;
        // A damaged token never leaves the host.
        let mut sidecar = world.sidecar("damaged", "kind = \"poller\"\nid = \"p\"")?;
        sidecar.give_token(token.get(..token.len() - 3).context("a short token")?)?;
        sidecar.start()?;
        same("the exit code", &sidecar.ended().await?.code(), &Some(78))?;
        same("services", &world.api().list("pollers").await?.len(), &0)
    })
    .await
}

/// A sidecar whose parent is not there yet says so, and goes on by itself when it is.
#[tokio::test]
async fn a_sidecar_waits_for_its_parent() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::prefix(Kind::Agent, "a")).await?;
        let mut sidecar = world.sidecar("a", "kind = \"agent\"\nid = \"a\"\nparent = \"p\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        until(SOON, "it says what is wrong", async || sidecar.line_with("PARENT_UNKNOWN").map(drop)).await?;
        same("agents", &world.api().list("agents").await?.len(), &0)?;
        world.api().post("/api/admin/services/pollers", &json!({ "id": "p" })).await?.expect(201)?;
        world.api().wait_alive("agent/a").await
    })
    .await
}

/// A parent that is not there, is of the wrong kind or barred: refused over the API too, each with its code.
#[tokio::test]
async fn a_parent_must_fit() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api();
        let register = async |kinds: &str, id: &str, parent: Option<&str>| {
            let mut body = json!({ "id": id });
            if let (Some(parent), Some(fields)) = (parent, body.as_object_mut()) {
                fields.insert("parent".into(), json!(parent));
            }
            api.post(&format!("/api/admin/services/{kinds}"), &body).await
        };
        register("pollers", "p", None).await?.expect(201)?;
        register("agents", "a", Some("p")).await?.expect(201)?;
        for (kinds, id, parent, code) in [
            ("agents", "b", None, "parent_missing"),
            ("agents", "b", Some("nobody"), "parent_unknown"),
            ("checkers", "c", Some("p"), "parent_kind"),
            ("pollers", "q", Some("p"), "parent_unwanted"),
        ] {
            let problem = register(kinds, id, parent).await?.expect(422)?;
            same("the code", &word(&problem, "code")?, &code)?;
        }
        same("again", &word(&register("pollers", "p", None).await?.expect(409)?, "code")?, &"exists")?;
        api.act("poller/p", "revoke").await?;
        same("barred", &word(&register("agents", "b", Some("p")).await?.expect(422)?, "code")?, &"parent_revoked")?;
        // Nothing is open without a credential.
        for path in ["/api/admin/services", "/api/admin/tokens", "/api/admin/audit", "/metrics"] {
            same(path, &api.anonymous().get(path).await?.status, &401)?;
        }
        Ok(())
    })
    .await
}

/// SIGTERM drains: sidecars are told, stay, and are back when the collector is.
#[tokio::test]
async fn a_stopped_collector_says_goodbye_and_is_found_again() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let _sidecars = three(world).await?;
        let (_, status) = world.collector().terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        world.start_collector().await?;
        for service in ["poller/p", "agent/a", "checker/c"] {
            let limit = world.plan().interval + Duration::from_secs(10);
            world.api().wait(limit, service, "presence", "alive").await?;
            world.api().never_lost(service).await?;
        }
        Ok(())
    })
    .await
}
