//! The sidecar's local interface as its pages say it is used: every example as it stands, and figures that Prometheus'
//! own tool takes.

use std::{env, path::PathBuf};

use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy},
};
use tokio::io::AsyncWriteExt as _;

use super::*;

const SOCKET: &str = "/run/rollcall-agent/agent.sock";

/// The commands with curl in a text, each in one line.
fn examples(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.find("curl --unix-socket").and_then(|at| line.get(at..)));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_example_works_as_it_stands() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", "kind = \"poller\"")?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        let program = find("rollcall-agent")?;
        let mut all = Vec::new();
        for page in ["status", "report"] {
            let (_, help) = ran(&program, &[page, "--help"], &[]).await?;
            all.extend(examples(&help));
        }
        all.extend(examples(include_str!("../../../README.md")));
        ensure!(all.len() >= 6, "{all:?}");
        let socket = sidecar.state().join("agent.sock").display().to_string();
        for example in &all {
            let command = example.replace(SOCKET, &socket).replace("curl ", "curl --fail-with-body -sS ");
            let (code, text) = ran(Path::new("/bin/sh"), &["-c", &command], &[]).await?;
            ensure!(code == 0, "{example}: {code}: {text}");
        }
        wait_source(&sidecar, "backup", "healthy", "").await?;
        wait_source(&sidecar, "progress", "healthy", "").await?;

        // A reason that would break a line of figures.
        let odd = ["report", "degraded", "--source", "odd", "--reason", "a \"quote\" \\ and more"];
        same("the exit code", &agent(&sidecar, &odd).await?.0, &0)?;
        let figures = format!("curl -sS --unix-socket {socket} http://localhost/metrics");
        let (_, text) = ran(Path::new("/bin/sh"), &["-c", &figures], &[]).await?;
        checked(&text).await?;
        sidecar.terminate().await.map(drop)
    })
    .await
}

/// The program of Prometheus: on the path, or where `tests/setup.sh` puts it.
fn promtool() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let target = env::current_exe()?.ancestors().nth(3).map(|target| target.join("tools"));
    let mut places = env::split_paths(&path).chain(target).map(|dir| dir.join("promtool"));
    places.find(|place| place.is_file()).context("promtool is missing: run tests/setup.sh, or install prometheus")
}

async fn checked(figures: &str) -> Result<()> {
    let mut tool = tokio::process::Command::new(promtool()?);
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.kill_on_drop(true).spawn()?;
    let mut stdin = tool.stdin.take().context("no stdin")?;
    stdin.write_all(figures.as_bytes()).await?;
    drop(stdin);
    let said = within(SOON, "promtool", tool.wait_with_output()).await??;
    let words = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.success() && words.trim().is_empty(), "promtool: {}\n{words}", said.status);
    Ok(())
}
