//! What sidecars say of the services beside them, with real processes that are killed: probes, crashes, children.
//!
//! When something was noticed is read from the collector's own statements; when it happened, from the host's clock.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{always, same, until},
    world::{
        self, Api, Plan, Policy, Process, Sidecar, World,
        api::{at, moment, word},
    },
};
use serde_json::{Value, json};

mod children;
mod reload;

/// A crash of the watched process is known to the collector within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Something to watch: a process that does nothing, with its pid file.
struct Service {
    process: Process,
    pid_file: PathBuf,
}

impl Service {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let mut process = Process::installed("sleep", &format!("{name}-service"), dir)?;
        process.args(["100000".to_owned()]);
        Ok(Self { process, pid_file: dir.join(format!("{name}.pid")) })
    }

    fn start(&mut self) -> Result<()> {
        self.process.start()?;
        let pid = self.process.pid().context("no pid")?;
        // Whoever reads it meanwhile reads the old one or the new one.
        let half = self.pid_file.with_extension("tmp");
        fs::write(&half, format!("{pid}\n"))?;
        Ok(fs::rename(half, &self.pid_file)?)
    }
}

/// A poller's sidecar with these settings.
async fn poller(world: &mut World, settings: &str) -> Result<Sidecar> {
    let token = world.token_text(Policy::fixed(Kind::Poller, "p").implicit_children()).await?;
    let sidecar = world.sidecar("p", &format!("kind = \"poller\"\nid = \"p\"\n{settings}"))?;
    sidecar.give_token(&token)?;
    Ok(sidecar)
}

async fn wait_health(api: &Api, service: &str, health: &str, reason: &str) -> Result<Value> {
    until(SOON * 2, &format!("{service} is {health}: {reason}"), async || {
        let shown = at(&api.service(service).await?, "/health");
        same("the health", &word(&shown, "health")?, &health)?;
        let said = word(&shown, "reason")?;
        ensure!(said.contains(reason), "because of {said:?}");
        Ok(shown)
    })
    .await
}

fn process_probe(service: &Service) -> String {
    format!(
        "[[probe]]\nname = \"main\"\ntype = \"process\"\npid_file = \"{}\"\ninterval = \"60s\"\nfall = 9\n",
        service.pid_file.display()
    )
}

/// Killed between two looks that are a minute apart, with nine looks to insist: known within a second. A busy machine
/// may hold a process up, so that the best of a few counts; a design that waits for a look would be late each time.
#[tokio::test]
async fn a_crash_of_the_watched_process_is_known_at_once() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let mut service = Service::new(world.dir(), "main")?;
        service.start()?;
        let settings = format!("{}rise = 1\n", process_probe(&service));
        let mut sidecar = poller(world, &settings).await?;
        let mut taken = Vec::new();
        while taken.len() < 5 && taken.iter().all(|took| *took >= AT_ONCE) {
            // The sidecar looks when it begins: a restarted one has seen what runs now.
            sidecar.start()?;
            world.api().wait_alive("poller/p").await?;
            wait_health(world.api(), "poller/p", "healthy", "").await?;
            let killed = service.process.kill9().await?;
            let shown = wait_health(world.api(), "poller/p", "unhealthy", "main: process ").await?;
            ensure!(word(&shown, "reason")?.ends_with("is gone"), "{shown}");
            taken.push(moment(&shown, "as_of")?.since(killed));
            // The sidecar lives: that is another fact.
            same("presence", &world.api().field("poller/p", "presence").await?, &"alive".to_owned())?;
            sidecar.terminate().await?;
            service.start()?;
        }
        ensure!(taken.iter().any(|took| *took < AT_ONCE), "it took {taken:?}");
        Ok(())
    })
    .await
}

/// A restarted service is found again, watched again, and its next crash is known too.
#[tokio::test]
async fn a_restarted_service_is_watched_again() -> Result<()> {
    world::run(Plan::default(), async |world| {
        let mut service = Service::new(world.dir(), "main")?;
        service.start()?;
        let probe = process_probe(&service).replace("\"60s\"", "\"1s\"");
        let mut sidecar = poller(world, &format!("{probe}rise = 1\n")).await?;
        sidecar.start()?;
        for _ in 0..2 {
            wait_health(world.api(), "poller/p", "healthy", "").await?;
            service.process.kill9().await?;
            wait_health(world.api(), "poller/p", "unhealthy", "main: process ").await?;
            service.start()?;
        }
        wait_health(world.api(), "poller/p", "healthy", "").await?;
        sidecar.terminate().await?;
        Ok(())
    })
    .await
}

/// Targets that hang, flood and answer nonsense: each is told of, and not one beat is late for them.
#[tokio::test]
async fn hanging_targets_delay_no_beat() -> Result<()> {
    world::run(
        Plan { interval: Duration::from_millis(500), ttl: Duration::from_secs(6), ..Plan::default() },
        async |world| {
            // It takes connections into its backlog and never answers.
            let hang = std::net::TcpListener::bind("127.0.0.1:0")?;
            let addr = hang.local_addr()?;
            let mut settings = String::new();
            for n in 0..12 {
                settings += &format!(
                    "[[probe]]\nname = \"hang-{n}\"\ntype = \"http\"\nurl = \"http://{addr}/\"\ninterval = \"1s\"\n\
                 timeout = \"1s\"\nfall = 1\n"
                );
            }
            settings += "[[probe]]\nname = \"flood\"\ntype = \"exec\"\ninterval = \"1s\"\n\
                     command = [\"/bin/sh\", \"-c\", \"while :; do echo flood; done\"]\n\
                     [[probe]]\nname = \"stuck\"\ntype = \"exec\"\ninterval = \"1s\"\ntimeout = \"1s\"\n\
                     command = [\"/bin/sleep\", \"1000\"]\n";
            let mut sidecar = poller(world, &settings).await?;
            sidecar.start()?;
            world.api().wait_alive("poller/p").await?;
            wait_health(world.api(), "poller/p", "unhealthy", "no answer within 1s").await?;
            let acked = async || Ok::<_, anyhow::Error>(world.api().metric("rollcall_heartbeats_total", "").await?);
            let before = acked().await?;
            until(SOON * 2, "beats go on", async || {
                let beats = acked().await? - before;
                ensure!(beats >= 12.0, "{beats} beats");
                Ok(())
            })
            .await?;
            world.api().never_lost("poller/p").await?;
            same("presence rows", &world.api().history("poller/p").await?.len(), &1)?;
            Ok(())
        },
    )
    .await
}

/// What is wrong with the configuration is said before anything runs, with file, table and key.
#[tokio::test]
async fn a_wrong_probe_is_refused_with_its_place() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut sidecar = world.sidecar("p", "kind = \"poller\"\n[[probe]]\ntype = \"tcp\"\naddress = \"nowhere\"")?;
        sidecar.start()?;
        same("the exit code", &sidecar.ended().await?.code(), &Some(78))?;
        let line = sidecar.line_with("[[probe]]")?;
        ensure!(line.contains("agent.toml:6: [[probe]]: address: \"nowhere\" is no address"), "{line}");
        Ok(())
    })
    .await
}
