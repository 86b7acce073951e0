//! `onboard`: from a name to one command that is pasted on a host.
//!
//! It registers what is missing, makes the package and fetches it, and prints it as a script that a root shell
//! reads from its standard input: the token is in nobody's arguments. With `--package` it leaves the archive,
//! with `--ssh` it runs the script itself, with `--wait` it tells how far the sidecar has come.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use clap::Args;
use flate2::read::GzDecoder;
use rollcall_common::id::{Kind, ServiceId, ServiceKey};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::{
    Exit, Failure,
    client::{Client, Output},
    packages,
    print::{Screen, field},
    services::{pair, presence},
    which::{Named, ROOT, path},
};
use crate::config::duration;

const EVERY: Duration = Duration::from_secs(1);
const MAX_FILE: u64 = 1 << 20;

pub(super) const EXAMPLES: &str = "\
Examples:
  rollcall-collector onboard poller site-3
  rollcall-collector onboard agent edge-17 --parent site-3 --label site=3 --wait
  rollcall-collector onboard agent edge-18 --parent site-9 --create-parents --yes --package edge-18.tar.gz
  rollcall-collector onboard checker snmp-1 --parent edge-17 --checker-kind snmp --ssh admin@edge-17";

#[derive(Debug, Args)]
pub(super) struct OnboardArgs {
    #[command(flatten)]
    service: Named,
    /// Id of its parent: required for agents and checkers.
    #[arg(long, value_name = "ID")]
    parent: Option<ServiceId>,
    /// Register a poller that is not there yet as a placeholder.
    #[arg(long)]
    create_parents: bool,
    /// What a checker checks, as in snmp.
    #[arg(long, value_name = "KIND")]
    checker_kind: Option<ServiceId>,
    /// A label, as in site=3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// How long the token can be used, as in 1h or 7d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = life)]
    expires_in: String,
    /// For a sidecar on the collector's own host.
    #[arg(long)]
    local: bool,
    /// Leave the package in this file instead of printing a command.
    #[arg(long, value_name = "FILE", conflicts_with = "ssh")]
    package: Option<PathBuf>,
    /// Run it there with `ssh HOST sudo sh -s` instead of printing it.
    #[arg(long, value_name = "HOST")]
    ssh: Option<String>,
    /// Tell how far the sidecar has come, until it is alive; optionally for how long.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "10m", value_parser = patience)]
    wait: Option<Duration>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

fn life(text: &str) -> Result<String, String> {
    duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn patience(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

pub(super) async fn run(client: &Client, screen: &mut Screen, args: OnboardArgs) -> Result<(), Failure> {
    let key = args.service.key.clone();
    parent(client, screen, &args).await?;
    let item = package(client, &args).await?;
    let (id, secret) = (field(&item, "id"), Zeroizing::new(field(&item, "download_secret")));
    if let Some(file) = &args.package {
        let (file, _) = packages::fetch(client, &id, &secret, Some(file)).await?;
        match screen.output() {
            Output::Json => screen.json(&json!({ "service": key.to_string(), "package": id, "file": file }))?,
            Output::Raw => screen.line(&file.display().to_string())?,
            Output::Table => screen.line(&format!(
                "{} is written; copy it to the host of {key} and follow the README inside",
                file.display()
            ))?,
        }
    } else {
        let archive = packages::bytes(client, &id, &secret).await?.1;
        let script = script(&key, &unpack(&archive)?)?;
        match &args.ssh {
            Some(host) => remote(host, &script)?,
            None => show(screen, &key, &id, &script)?,
        }
    }
    match args.wait {
        Some(patience) => wait(client, screen, &key, &field(&item, "token"), patience).await,
        None => Ok(()),
    }
}

/// Makes sure that the parent is there, or says what to do.
async fn parent(client: &Client, screen: &mut Screen, args: &OnboardArgs) -> Result<(), Failure> {
    let key = &args.service.key;
    let (kind, id) = match (key.kind.parent(), &args.parent) {
        (Some(kind), Some(id)) => (kind, id),
        (Some(kind), None) => return Err(Failure::usage(format!("say which {kind} {key} belongs to: --parent ID"))),
        (None, Some(_)) => return Err(Failure::usage(format!("{key} takes no --parent"))),
        (None, None) => return Ok(()),
    };
    let above = ServiceKey::new(kind, id.clone());
    match client.get(&path(&above), &[]).await {
        Ok(_) => return Ok(()),
        Err(failure) if failure.code() == Some("unknown_service") => {}
        Err(failure) => return Err(failure),
    }
    if kind != Kind::Poller {
        let message =
            format!("{above} is not registered: bring it in first, with `onboard {kind} {id} --parent POLLER`");
        return Err(Failure::new(Exit::Refused, message));
    }
    let agreed = args.create_parents && args.yes
        || ask(&format!("{above} is not registered. Register it as a placeholder?"), args.create_parents || args.yes)?;
    if !agreed {
        let message = format!("{above} is not registered: add --create-parents, or bring it in first");
        return Err(Failure::new(Exit::Refused, message));
    }
    let place = format!("{ROOT}/pollers");
    client.create(&place, json!({ "id": id, "placeholder": true })).await?;
    screen.remark(&format!("{above} is registered as a placeholder"))?;
    Ok(())
}

/// A question where somebody is there to answer it; else what was said on the command line.
fn ask(question: &str, said: bool) -> Result<bool, Failure> {
    if said || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(said);
    }
    write!(io::stderr().lock(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().take(16).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn package(client: &Client, args: &OnboardArgs) -> Result<Value, Failure> {
    let body = json!({
        "kind": args.service.key.kind,
        "id": args.service.key.id,
        "parent": args.parent,
        "checker_kind": args.checker_kind,
        "labels": args.label.iter().cloned().collect::<BTreeMap<_, _>>(),
        "expires_in": args.expires_in,
        "local": args.local,
        // What is registered and never lived is what this is for.
        "adopt": true,
        "note": "onboard",
    });
    client.create("/api/admin/packages", body).await
}

/// The files of a package that the host needs.
fn unpack(archive: &[u8]) -> Result<BTreeMap<String, Zeroizing<String>>, Failure> {
    let damaged = |error: io::Error| Failure::new(Exit::Unreachable, format!("the package is damaged: {error}"));
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.display().to_string();
        let mut text = Zeroizing::new(String::new());
        entry.take(MAX_FILE).read_to_string(&mut text).map_err(damaged)?;
        files.insert(path, text);
    }
    Ok(files)
}

/// What a root shell on the host is to read.
fn script(key: &ServiceKey, files: &BTreeMap<String, Zeroizing<String>>) -> Result<Zeroizing<String>, Failure> {
    let missing = || Failure::new(Exit::Unreachable, "the package lacks its configuration or its token");
    let config = files.get("etc/rollcall/agent.toml").ok_or_else(missing)?;
    let token = files.get("etc/rollcall/agent/token").ok_or_else(missing)?;
    // As install.sh of the package does it. A file that is there keeps its mode when a shell writes into it: what
    // is secret is made anew.
    Ok(Zeroizing::new(format!(
        "set -eu\numask 077\n\
         if [ -e /var/lib/rollcall-agent/identity ]; then\n\
         \techo 'This host has an identity already: see /var/lib/rollcall-agent.' >&2\n\texit 1\nfi\n\
         install -d -m 0755 /etc/rollcall /etc/rollcall/agent\n\
         cat > /etc/rollcall/agent.toml.new <<'ROLLCALL_CONFIG'\n{config}ROLLCALL_CONFIG\n\
         chmod 0644 /etc/rollcall/agent.toml.new\n\
         if [ -e /etc/rollcall/agent.toml ] && ! cmp -s /etc/rollcall/agent.toml.new /etc/rollcall/agent.toml; then\n\
         \tcp -p /etc/rollcall/agent.toml /etc/rollcall/agent.toml.before-package\nfi\n\
         mv -f /etc/rollcall/agent.toml.new /etc/rollcall/agent.toml\n\
         rm -f /etc/rollcall/agent/token\n\
         cat > /etc/rollcall/agent/token <<'ROLLCALL_TOKEN'\n{token}ROLLCALL_TOKEN\n\
         systemctl enable rollcall-agent.service\nsystemctl restart rollcall-agent.service\n\
         echo 'The sidecar of {key} is starting; see: rollcall-agent status'\n",
        config = config.as_str(),
        token = token.as_str(),
    )))
}

fn show(screen: &mut Screen, key: &ServiceKey, id: &str, script: &str) -> Result<(), Failure> {
    // The blank in front keeps it out of a shell's history where HISTCONTROL says so, as it does on most hosts.
    let command = Zeroizing::new(format!(" sudo sh -s <<'ROLLCALL'\n{script}ROLLCALL"));
    match screen.output() {
        Output::Json => {
            screen.json(&json!({ "service": key.to_string(), "package": id, "command": command.as_str() }))?;
        }
        Output::Raw => screen.line(&command)?,
        Output::Table => {
            screen.remark(&format!("Paste this on the host of {key}. It holds a secret; package {id} follows it."))?;
            screen.line(&command)?;
        }
    }
    Ok(())
}

/// Runs the script on a host; it travels on standard input.
fn remote(host: &str, script: &str) -> Result<(), Failure> {
    if host.starts_with('-') {
        return Err(Failure::usage("--ssh takes a host, as in admin@edge-17"));
    }
    let failed = |why: String| Failure::new(Exit::Unreachable, format!("ssh {host}: {why}"));
    let mut child = std::process::Command::new("ssh")
        .args([host, "sudo", "sh", "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended before it read everything says itself why.
        let written = stdin.write_all(script.as_bytes());
        if let Some(error) = written.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
            return Err(failed(error.to_string()));
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("the script ended with {status}"))) }
}

/// Tells how far the sidecar has come, and at once when it is turned away.
async fn wait(
    client: &Client,
    screen: &mut Screen,
    key: &ServiceKey,
    token: &str,
    patience: Duration,
) -> Result<(), Failure> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut refusals) = (String::new(), Vec::new());
    // What was refused before is another story.
    let begun: BTreeMap<String, String> = knocks(client, key, token).await.into_iter().collect();
    let watching = async {
        loop {
            ticks.tick().await;
            let item = client.get(&path(key), &[]).await?;
            let now = format!("{key} is {}, {}", field(&item, "status"), presence(&item).text());
            if now != told {
                screen.remark(&now)?;
                told = now;
            }
            if field(&item, "status") == "active" && field(&item, "presence") == "alive" {
                return Ok(());
            }
            for (id, said) in knocks(client, key, token).await {
                if begun.get(&id) != Some(&said) && !refusals.contains(&said) {
                    screen.remark(&said)?;
                    refusals.push(said);
                }
            }
        }
    };
    match tokio::time::timeout(patience, watching).await {
        Ok(ended) => ended,
        Err(_) => {
            let mut message = format!("{key} has not come alive within {}", duration::print(patience));
            if refusals.is_empty() {
                message.push_str(
                    "\nnobody knocked with its token: on the host see `rollcall-agent status` and `journalctl -u \
                     rollcall-agent`, and whether UDP port 7411 of the collector can be reached",
                );
            } else {
                message.push_str("\nit was turned away, as told above; see also `rollcall-collector knocks list`");
            }
            Err(Failure::new(Exit::Unreachable, message))
        }
    }
}

/// The refusals that concern a service or its token, each with its id and in words: the latest first, three at most.
async fn knocks(client: &Client, key: &ServiceKey, token: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, value) in [("token", token), ("claimed_id", key.id.as_str())] {
        let query = [(name.to_owned(), value.to_owned()), ("limit".to_owned(), "100".to_owned())];
        // Whoever may not see them waits without.
        let page = client.get("/api/admin/knocks", &query).await.unwrap_or_default();
        let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for knock in items.iter().filter(|knock| concerns(knock, key, token)).take(3).map(refusal) {
            if !found.contains(&knock) {
                found.push(knock);
            }
        }
    }
    found.truncate(3);
    found
}

/// A knock in one line, with the fix.
fn refusal(item: &Value) -> (String, String) {
    let unproven = item.get("proven").and_then(Value::as_bool) == Some(false);
    let (from, reason, fix) = (field(item, "from"), field(item, "reason"), field(item, "fix"));
    let doubt = if unproven { ", who proved nothing," } else { "" };
    (field(item, "id"), format!("turned away: {from}{doubt} {reason}: {fix}"))
}

/// Whether a knock was made with this token, or in this very name.
fn concerns(knock: &Value, key: &ServiceKey, token: &str) -> bool {
    let named = field(knock, "claimed_id") == key.id.as_str();
    let kind = field(knock, "kind");
    field(knock, "token") == token || named && (kind.is_empty() || kind == key.kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<String, Zeroizing<String>> {
        let file = |path: &str, text: &str| (path.to_owned(), Zeroizing::new(text.to_owned()));
        BTreeMap::from([
            file("etc/rollcall/agent.toml", "kind = \"agent\"\n[metadata]\n\"note\" = \"$(reboot) `x` 'y'\"\n"),
            file("etc/rollcall/agent/token", "rollcall_enr1_x\n"),
        ])
    }

    #[test]
    fn a_script_says_what_it_was_given_and_a_shell_reads_it() {
        let key = "agent/edge-17".parse().unwrap();
        let text = script(&key, &files()).unwrap();
        assert!(text.contains("\nrollcall_enr1_x\nROLLCALL_TOKEN\n"), "{}", text.as_str());
        assert!(text.contains("\"$(reboot) `x` 'y'\"\n"), "as it is, in a quoted document");
        let mut shell = std::process::Command::new("sh").args(["-n", "-s"]).stdin(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        assert!(script(&key, &BTreeMap::new()).is_err());
    }

    /// The script is run where its paths lead into a directory of the test's.
    #[test]
    fn a_script_keeps_what_was_there_and_its_secret_to_itself() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("etc/agent")).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("bin/systemctl"), "#!/bin/sh\nexit 0\n").unwrap();
        let mode = |name: &str, mode| {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("bin/systemctl", 0o755);
        std::fs::write(at("etc/agent.toml"), "mine").unwrap();
        std::fs::write(at("etc/agent/token"), "a token of last year").unwrap();
        mode("etc/agent/token", 0o644);
        let text = script(&"agent/edge-17".parse().unwrap(), &files()).unwrap();
        let text = text.replace("/etc/rollcall", at("etc").to_str().unwrap());
        let text = text.replace("/var/lib/rollcall-agent", at("state").to_str().unwrap());
        let run = || {
            let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
            let shell = std::process::Command::new("sh").arg("-s").env("PATH", path).stdin(Stdio::piped()).spawn();
            let mut shell = shell.unwrap();
            shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
        };
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        let modes = |name: &str| std::fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        // A second run keeps what the first one kept.
        for _ in 0..2 {
            run();
            assert_eq!(read("etc/agent/token"), "rollcall_enr1_x\n");
            assert_eq!(modes("etc/agent/token"), 0o600);
            assert_eq!((read("etc/agent.toml.before-package").as_str(), modes("etc/agent.toml")), ("mine", 0o644));
            assert!(read("etc/agent.toml").contains("$(reboot)"));
            assert!(!at("etc/agent.toml.new").exists());
        }
    }

    #[test]
    fn a_knock_is_somebodys_by_name_or_token() {
        let key: ServiceKey = "agent/a".parse().unwrap();
        for (knock, wanted) in [
            (json!({"claimed_id": "a", "kind": "agent"}), true),
            (json!({"claimed_id": "a", "kind": null}), true),
            (json!({"claimed_id": "a", "kind": "checker"}), false),
            (json!({"claimed_id": "ab", "kind": "agent", "reason": "a"}), false),
            (json!({"claimed_id": null, "token": "t"}), true),
            (json!({"claimed_id": null, "token": null}), false),
        ] {
            assert_eq!(concerns(&knock, &key, "t"), wanted, "{knock}");
        }
    }

    #[test]
    fn a_refusal_names_whence_why_and_the_fix() {
        let knock = json!({
            "id": "k", "proven": true, "from": "192.0.2.7", "reason": "ID_TAKEN", "code": "ID_TAKEN", "times": 3,
            "fix": "re-enroll it", "claimed_id": "edge-17", "kind": "agent", "last_at": "2026-11-21T17:00:00.000Z",
        });
        let said = refusal(&knock);
        assert_eq!(said, ("k".into(), "turned away: 192.0.2.7 ID_TAKEN: re-enroll it".into()));
        let noise = json!({ "proven": false, "from": "192.0.2.7", "reason": "WRONG_SECRET", "fix": "look" });
        assert_eq!(refusal(&noise).1, "turned away: 192.0.2.7, who proved nothing, WRONG_SECRET: look");
    }

    #[test]
    fn a_host_is_no_option_of_ssh() {
        assert_eq!(remote("-oProxyCommand=x", "").unwrap_err().exit(), Exit::Usage);
    }
}
