//! The sidecar and the collector at their edges, with real processes, disks and users: whatever they meet is told once
//! and clearly, with what mends it, and disturbs nothing else.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::SOON,
    until::{until, within},
    world::{Sidecar, api::word, process::find},
};
use serde_json::Value;

mod children;
mod collector;
mod disk;
mod doctor;
mod joining;
mod local;
mod rights;
mod targets;

/// Runs a program to its end: its exit code and all that it said.
async fn ran(program: &Path, args: &[&str], env: &[(&str, String)]) -> Result<(i32, String)> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).envs(env.iter().map(|(name, value)| (*name, value))).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = within(SOON * 2, "the command ends", command.output()).await??;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().with_context(|| format!("a signal: {text}"))?, text))
}

/// Runs the sidecar's program with the configuration of one.
async fn agent(of: &Sidecar, args: &[&str]) -> Result<(i32, String)> {
    let config = of.state().with_file_name("agent.toml").display().to_string();
    let args: Vec<&str> = args.iter().copied().chain(["--config", &config]).collect();
    ran(&find("rollcall-agent")?, &args, &[]).await
}

/// What a running sidecar says that is said of the service, by the name of the source.
async fn source(of: &Sidecar, name: &str) -> Result<Value> {
    let (code, text) = agent(of, &["status", "--output", "json"]).await?;
    ensure!(code == 0, "{code}: {text}");
    let shown: Value = serde_json::from_str(text.trim())?;
    let sources = shown.get("sources").and_then(Value::as_array).context("no sources")?;
    let found = sources.iter().find(|source| source.get("name").is_some_and(|found| found == name));
    found.cloned().with_context(|| format!("nobody is called {name}"))
}

async fn wait_source(of: &Sidecar, name: &str, health: &str, words: &str) -> Result<Value> {
    until(SOON * 2, &format!("{name} says {health}: {words}"), async || {
        let said = source(of, name).await?;
        ensure!(word(&said, "health")? == health && word(&said, "reason")?.contains(words), "{said}");
        Ok(said)
    })
    .await
}

/// The first finding of a check, as JSON.
fn finding(shown: &str, check: &str) -> Result<Value> {
    let line = shown.lines().find(|line| line.starts_with('{')).with_context(|| format!("no findings in {shown}"))?;
    let shown: Value = serde_json::from_str(line)?;
    let findings = shown.get("findings").and_then(Value::as_array).context("no findings")?;
    let worst = |finding: &&Value| finding.get("check").is_some_and(|name| name == check);
    findings.iter().find(worst).cloned().with_context(|| format!("no {check} in {shown}"))
}

/// Some edges are reached by root alone; whoever is not is told what was not played.
#[expect(clippy::print_stderr, reason = "a test that plays less says so")]
fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("not played: {what} needs root");
    }
    is_root
}

/// Runs what a message says would mend it.
async fn mend(fix: &str) -> Result<()> {
    let (code, text) = ran(Path::new("/bin/sh"), &["-c", fix], &[]).await?;
    ensure!(code == 0, "{fix}: {code}: {text}");
    Ok(())
}

/// Makes a directory passable, as those of a packaged host are.
fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?)
}
