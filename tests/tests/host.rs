//! The sidecar as its host meets it: what is reported to it, what it explains, and what becomes of a copied disk.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::SOON,
    until::{same, until, within},
    world::{self, Plan, Policy, Sidecar, World, api::at, process::find},
};
use serde_json::Value;

/// Runs the program with a sidecar's configuration.
async fn agent(of: &Sidecar, args: &[&str]) -> Result<(i32, String)> {
    let config = of.state().with_file_name("agent.toml");
    let machine = of.state().with_file_name("machine-id");
    let mut command = tokio::process::Command::new(find("rollcall-agent")?);
    command.args(args).arg("--config").arg(config).env("ROLLCALL_MACHINE_ID_FILE", machine);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = within(SOON * 2, "the command ends", command.output()).await??;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().context("a signal")?, text))
}

fn machine(sidecar: &mut Sidecar, digit: char) -> Result<()> {
    let file = sidecar.state().with_file_name("machine-id");
    fs::write(&file, digit.to_string().repeat(32))?;
    sidecar.env("ROLLCALL_MACHINE_ID_FILE", &file.display().to_string());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for file in ["identity", "addresses"] {
        // Copies keep the mode.
        fs::copy(from.join(file), to.join(file))?;
    }
    Ok(())
}

async fn until_health(world: &World, wanted: &str) -> Result<()> {
    until(SOON, wanted, async || {
        let shown = world.api().service("poller/p1").await?;
        same("the health", &at(&shown, "/health/health"), &Value::from(wanted))
    })
    .await
}

async fn until_progress(world: &World, wanted: &str) -> Result<()> {
    until(SOON, wanted, async || {
        let shown = world.api().service("poller/p1").await?;
        same("the progress", &at(&shown, "/progress"), &Value::from(wanted))
    })
    .await
}

fn grade(shown: &str, check: &str) -> Result<String> {
    let shown: Value = serde_json::from_str(shown.lines().next().unwrap_or_default())?;
    let findings = shown.get("findings").and_then(Value::as_array).context("no findings")?;
    let found = findings.iter().find(|finding| finding.get("check").is_some_and(|name| name == check));
    let grade = found.and_then(|found| found.get("grade")).and_then(Value::as_str);
    Ok(grade.with_context(|| format!("no {check} in {shown}"))?.to_owned())
}

#[tokio::test]
async fn what_a_program_reports_is_the_service_s_health() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p1")).await?;
        let mut sidecar = world.sidecar("p1", "kind = \"poller\"")?;
        machine(&mut sidecar, '1')?;
        sidecar.give_token(&token)?;

        // Provisioned first, then started: the same identity.
        let (code, text) = agent(&sidecar, &["enroll", "--within", "30s"]).await?;
        ensure!(code == 0 && text.contains("enrolled as poller/p1"), "{code}: {text}");
        let (code, text) = agent(&sidecar, &["enroll"]).await?;
        ensure!(code == 0 && text.contains("is enrolled already"), "{code}: {text}");
        let (code, text) = agent(&sidecar, &["status"]).await?;
        ensure!(code == 69 && text.contains("not running") && text.contains("poller/p1"), "{code}: {text}");
        sidecar.start()?;
        world.api().wait_alive("poller/p1").await?;

        let (code, text) =
            agent(&sidecar, &["report", "unhealthy", "--source", "backup", "--reason", "no space left"]).await?;
        ensure!(code == 0, "{code}: {text}");
        until_health(world, "unhealthy").await?;
        let (code, text) = agent(&sidecar, &["report", "healthy", "--source", "backup", "--ttl", "1d"]).await?;
        ensure!(code == 0, "{code}: {text}");
        until_health(world, "healthy").await?;
        // Who promises to get on and does not is found without another word, and is not called ill.
        let (code, text) = agent(&sidecar, &["report", "progress", "--source", "queue", "--ttl", "1s"]).await?;
        ensure!(code == 0, "{code}: {text}");
        until_progress(world, "stalled").await?;
        until_health(world, "healthy").await?;
        let (code, text) = agent(&sidecar, &["report", "withdraw", "--source", "queue"]).await?;
        ensure!(code == 0, "{code}: {text}");
        until_progress(world, "unwatched").await?;
        until_health(world, "healthy").await?;
        let (code, text) = agent(&sidecar, &["report", "healthy", "--child", "checker/nobody"]).await?;
        ensure!(code == 77 && text.contains("[[child]]"), "{code}: {text}");

        // Looking changes nothing: the session that beats goes on.
        let session = async || -> Result<Value> {
            let (code, text) = agent(&sidecar, &["status", "--output", "json"]).await?;
            ensure!(code == 0, "{code}: {text}");
            serde_json::from_str::<Value>(text.trim())?.get("session").cloned().context("no session")
        };
        let before = session().await?;
        let (code, text) = agent(&sidecar, &["doctor", "--output", "json"]).await?;
        ensure!(code == 0, "{code}: {text}");
        for (check, wanted) in [("sidecar", "ok"), ("state", "ok"), ("machine", "ok"), ("quic", "ok"), ("clock", "ok")]
        {
            ensure!(grade(&text, check)? == wanted, "{check}: {text}");
        }
        ensure!(session().await? == before, "a doctor must not become a second sidecar");
        world.api().never_lost("poller/p1").await?;

        let (code, text) = agent(&sidecar, &["reset", "--yes"]).await?;
        ensure!(code == 78 && text.contains("stop it first"), "{code}: {text}");
        sidecar.terminate().await?;
        let (code, text) = agent(&sidecar, &["reset"]).await?;
        ensure!(code == 64 && text.contains("--yes"), "nobody confirmed: {code}: {text}");
        let (code, text) = agent(&sidecar, &["reset", "--yes", "--token"]).await?;
        ensure!(code == 0 && text.contains("identity"), "{code}: {text}");
        ensure!(!sidecar.token_file().exists() && fs::read_dir(sidecar.state())?.next().is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_copied_disk_is_not_a_second_sidecar() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "original")).await?;
        let mut original = world.sidecar("original", "kind = \"poller\"")?;
        machine(&mut original, '1')?;
        original.give_token(&token)?;
        original.start()?;
        world.api().wait_alive("poller/original").await?;

        let mut clone = world.sidecar("clone", "kind = \"poller\"")?;
        machine(&mut clone, '2')?;
        copy(&original.state(), &clone.state())?;
        clone.start()?;
        let status = clone.ended().await?;
        ensure!(status.code() == Some(78), "{status}");
        clone.line_with("was made for another machine")?;
        let (code, text) = agent(&clone, &["check"]).await?;
        ensure!(code == 78 && text.contains("rollcall-agent reset"), "{code}: {text}");
        let (_, text) = agent(&clone, &["doctor", "--output", "json"]).await?;
        ensure!(grade(&text, "machine")? == "fail", "{text}");

        // The token of the image did its work; it makes no second one either.
        clone.give_token(&token)?;
        clone.start()?;
        let status = clone.ended().await?;
        ensure!(status.code() == Some(78), "{status}");

        // With one of its own it goes on by itself.
        let own = world.token_text(Policy::fixed(Kind::Poller, "clone")).await?;
        clone.give_token(&own)?;
        clone.start()?;
        world.api().wait_alive("poller/clone").await?;
        world.api().never_lost("poller/original").await?;

        // The same machine under a new id, and an operator who says so once.
        clone.terminate().await?;
        world.api().wait(SOON, "poller/clone", "presence", "stopped").await?;
        machine(&mut clone, '3')?;
        clone.env("ROLLCALL_BIND_MACHINE", "false");
        fs::remove_file(clone.token_file())?;
        clone.start()?;
        world.api().wait(SOON, "poller/clone", "presence", "alive").await?;
        clone.terminate().await?;
        world.api().wait(SOON, "poller/clone", "presence", "stopped").await?;
        clone.env("ROLLCALL_BIND_MACHINE", "true");
        clone.start()?;
        world.api().wait(SOON, "poller/clone", "presence", "alive").await?;
        Ok(())
    })
    .await
}

/// Before anything is installed: where nobody listens, and where nothing is known.
#[tokio::test]
async fn a_doctor_explains_without_token_and_network() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut sidecar = world.sidecar("p1", "kind = \"poller\"")?;
        machine(&mut sidecar, '1')?;
        let (code, text) = agent(&sidecar, &["doctor"]).await?;
        ensure!(code == 78 && text.contains("it is not known where a collector is"), "{code}: {text}");
        ensure!(text.contains("-> put one into"), "{text}");
        let quic = world.quic().to_string();
        let (_, text) = agent(&sidecar, &["doctor", "--output", "json", "--address", &quic]).await?;
        ensure!(grade(&text, "quic")? == "note", "somebody answers, and nobody knows whom to trust: {text}");

        let token = world.token_text(Policy::fixed(Kind::Poller, "p1")).await?;
        sidecar.give_token(&token)?;
        let (code, text) = agent(&sidecar, &["doctor", "--output", "json"]).await?;
        ensure!(code == 0 && grade(&text, "quic")? == "ok" && grade(&text, "token")? == "ok", "{code}: {text}");
        world.collector().kill9().await?;
        let (code, text) = agent(&sidecar, &["doctor"]).await?;
        ensure!(code == 69 && text.contains("refuses UDP"), "{code}: {text}");
        Ok(())
    })
    .await
}

/// Each of these has one clear message, and none of them loops.
#[tokio::test]
async fn a_state_directory_that_does_not_fit_is_named() -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p1")).await?;
        let mut sidecar = world.sidecar("p1", "kind = \"poller\"")?;
        machine(&mut sidecar, '1')?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p1").await?;
        let (code, text) = agent(&sidecar, &["enroll"]).await?;
        ensure!(code == 78 && text.contains("another sidecar uses"), "two with one directory: {code}: {text}");
        sidecar.terminate().await?;

        let state = sidecar.state();
        let ends = async |sidecar: &mut Sidecar, words: &str| -> Result<()> {
            sidecar.start()?;
            let status = sidecar.ended().await?;
            ensure!(status.code() == Some(78), "{words}: {status}");
            sidecar.line_with(words).map(drop)
        };
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
        ends(&mut sidecar, "is open to others (mode 0755)").await?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        let identity = fs::read_to_string(state.join("identity"))?;
        fs::write(state.join("identity"), identity.replacen("\"format\":1", "\"format\":9", 1))?;
        ends(&mut sidecar, "upgrade rollcall-agent").await?;
        fs::write(state.join("identity"), identity.get(..identity.len() / 2).unwrap_or_default())?;
        ends(&mut sidecar, "is damaged").await?;
        fs::rename(&state, state.with_file_name("aside"))?;
        fs::DirBuilder::new().mode(0o700).create(&state)?;
        fs::remove_dir(&state)?;
        fs::write(&state, "")?;
        ends(&mut sidecar, "state").await?;
        Ok(())
    })
    .await
}
