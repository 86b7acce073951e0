//! The operator's commands on maintenance windows, and a command that runs inside one.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    process::{Command as Program, ExitStatus},
    time::Duration,
};

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::{id::ServiceKey, time::Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure,
    client::Client,
    jobs::span,
    list::{self, Column, Flags, Sheet},
    print::{Output, Screen, Word, age, field, now, word},
};
use crate::config::duration;

const ROOT: &str = "/api/admin/maintenance";
/// What a shell answers where a program cannot be started.
const NOT_STARTED: u8 = 127;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Begin a window now.
    #[command(after_help = START_EXAMPLES)]
    Start {
        #[command(flatten)]
        whom: Whom,
        /// How long it lasts.
        #[arg(long = "for", value_name = "DURATION", value_parser = span)]
        length: Duration,
        /// Why: whoever is on duty will want to know.
        #[arg(long)]
        reason: String,
    },
    /// Plan a window for later, or one that comes again.
    #[command(after_help = SCHEDULE_EXAMPLES)]
    Schedule {
        #[command(flatten)]
        whom: Whom,
        /// When it begins; for one that comes again, from when on.
        #[arg(long, value_name = "TIME", required_unless_present = "cron")]
        at: Option<String>,
        /// When it comes again: minute hour day month weekday and a time zone, UTC where none is given.
        #[arg(long, value_name = "EXPRESSION")]
        cron: Option<String>,
        /// How long it lasts, each time.
        #[arg(long = "for", value_name = "DURATION", value_parser = span)]
        length: Duration,
        /// Until when it comes again.
        #[arg(long, value_name = "TIME", requires = "cron")]
        until: Option<String>,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// List windows, the newest first.
    #[command(
        alias = "ls",
        after_help = "Examples:\n  rollcall-collector maintenance list\n  rollcall-collector maintenance list --state active"
    )]
    List {
        /// scheduled, active or ended.
        #[arg(long, value_name = "WORD")]
        state: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show one window, and whom it covers.
    #[command(after_help = "Example:\n  rollcall-collector maintenance show 01kakt2v3w4x5y6z7a8b9c0d1e")]
    Show {
        /// The window's id.
        window: String,
    },
    /// Let a window go on for so long from now, whether that is longer or shorter than planned.
    #[command(after_help = "Example:\n  rollcall-collector maintenance extend 01kakt2v3w4x5y6z7a8b9c0d1e --for 1h")]
    Extend {
        /// The window's id.
        window: String,
        /// How long it is to go on from now.
        #[arg(long = "for", value_name = "DURATION", value_parser = span)]
        length: Duration,
    },
    /// End a window now.
    #[command(after_help = "Example:\n  rollcall-collector maintenance end 01kakt2v3w4x5y6z7a8b9c0d1e")]
    End {
        /// The window's id.
        window: String,
    },
    /// Run a command inside a window: it begins before the command, and ends with it.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
}

const START_EXAMPLES: &str = "\
Examples:
  rollcall-collector maintenance start --service agent/edge-17 --for 2h --reason 'new disks'
  rollcall-collector maintenance start --subtree poller/site-3 --for 30m --reason 'power work'
  rollcall-collector maintenance start --label site=3 --label rack --for 1h --reason 'rack move'";

const SCHEDULE_EXAMPLES: &str = "\
Examples:
  rollcall-collector maintenance schedule --label site=3 --at 2026-12-01T22:00:00Z --for 4h --reason 'new switch'
  rollcall-collector maintenance schedule --subtree poller/site-3 --cron '0 3 * * 0 Europe/Paris' --for 2h --reason backup";

const RUN_EXAMPLES: &str = "\
The window ends when the command does, also where that is interrupted; should this program be killed, the window ends
by itself after --for. The exit code is the command's.

Examples:
  rollcall-collector maintenance run --for 30m --service agent/edge-17 --reason upgrade -- ssh edge-17 apt-get -y upgrade
  rollcall-collector maintenance run --for 10m --subtree poller/site-3 --reason reboot -- ./reboot-site.sh";

/// Whom a window covers: every condition that is given must hold.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// This service, as in agent/edge-17; may be repeated.
    #[arg(long, value_name = "KIND/ID", required_unless_present_any = ["label", "subtree"])]
    service: Vec<ServiceKey>,
    /// Services with this label, as in site=3, or rack for any value; may be repeated.
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// This service and all below it.
    #[arg(long, value_name = "KIND/ID")]
    subtree: Option<ServiceKey>,
}

/// A command inside a window.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    whom: Whom,
    /// When the window ends by itself, should nobody be left to end it.
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    length: Duration,
    /// Why.
    #[arg(long)]
    reason: String,
    /// The command and its arguments, behind --.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Whom {
    fn selector(&self) -> Value {
        let labels: BTreeMap<&str, Option<&str>> = self
            .label
            .iter()
            .map(|label| match label.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (label.as_str(), None),
            })
            .collect();
        let names: Vec<String> = self.service.iter().map(ToString::to_string).collect();
        let mut selector = json!({ "services": names, "labels": labels });
        if let (Some(root), Some(object)) = (&self.subtree, selector.as_object_mut()) {
            object.insert("subtree".into(), json!(root.to_string()));
        }
        selector
    }
}

/// Answers with the exit code of a command that was run.
pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<Option<u8>, Failure> {
    let one = |id: &str| format!("{ROOT}/{id}");
    match command {
        Command::Start { whom, length, reason } => {
            let item = client.create(ROOT, body(&whom, length, &reason)).await?;
            show(screen, &item)?;
        }
        Command::Schedule { whom, at, cron, length, until, reason } => {
            let mut body = body(&whom, length, &reason);
            if let Some(object) = body.as_object_mut() {
                let given = [("starts_at", at), ("cron", cron), ("ends_at", until)];
                object.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
            }
            show(screen, &client.create(ROOT, body).await?)?;
        }
        Command::List { state, flags } => {
            let query: Vec<_> = state.map(|state| ("state".to_owned(), state)).into_iter().collect();
            list::run(client, screen, ROOT, &query, &flags, &SHEET).await?;
        }
        Command::Show { window } => show(screen, &client.get(&one(&window), &[]).await?)?,
        Command::Extend { window, length } => {
            let body = json!({ "for": told(length) });
            let answer = client.call(Method::PATCH, &one(&window)).json(&body).send().await?;
            show(screen, &answer.document)?;
        }
        Command::End { window } => {
            let answer = client.call(Method::DELETE, &one(&window)).send().await?;
            show(screen, &answer.document)?;
        }
        Command::Run(args) => return inside(client, args).await.map(Some),
    }
    Ok(None)
}

fn body(whom: &Whom, length: Duration, reason: &str) -> Value {
    json!({ "selector": whom.selector(), "for": told(length), "reason": reason })
}

/// A duration to the millisecond, as the API reads it.
fn told(length: Duration) -> String {
    format!("{}ms", length.as_millis())
}

/// Runs a command inside a window. Whatever becomes of it, the window is ended.
async fn inside(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    let Some((name, rest)) = args.command.split_first() else {
        return Err(Failure::usage("name a command behind --"));
    };
    // Heard from here on, so that nothing gets between the window and its end.
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let window = client.create(ROOT, body(&args.whom, args.length, &args.reason)).await?;
    let id = field(&window, "id");
    say(&format!("maintenance window {id} until {}, {} services", field(&window, "until"), field(&window, "covers")));
    let code = match Program::new(name).args(rest).spawn() {
        Ok(mut child) => {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let mut waiting = tokio::task::spawn_blocking(move || child.wait());
            loop {
                tokio::select! {
                    ended = &mut waiting => break match ended {
                        Ok(Ok(status)) => code_of(status),
                        Ok(Err(_)) | Err(_) => NOT_STARTED,
                    },
                    // On a terminal the command hears Ctrl-C itself.
                    _ = interrupted.recv() => if !std::io::stdin().is_terminal() { pass(pid, Signal::INT) },
                    _ = terminated.recv() => pass(pid, Signal::TERM),
                }
            }
        }
        Err(error) => {
            say(&format!("{} cannot be started: {error}", name.to_string_lossy()));
            NOT_STARTED
        }
    };
    if let Err(failure) = client.call(Method::DELETE, &format!("{ROOT}/{id}")).send().await {
        say(&format!("the window {id} was not ended, and ends by itself: {failure}"));
    }
    Ok(code)
}

fn pass(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // A command that has just ended hears nothing any more.
        let _ = kill_process(pid, signal);
    }
}

/// The code that a shell would answer.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Words beside the command's own output.
fn say(text: &str) {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "rollcall-collector: {text}");
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("state", |item, _| Word::state(field(item, "state"))),
        Column::new("until", until),
        Column::new("covers", |item, _| Word::plain(whom(item))),
        Column::new("reason", |item, _| word(item, "reason")),
        Column::new("by", |item, _| word(item, "author")),
        Column::hidden("starts", |item, now| age(item, "starts_at", now)),
        Column::hidden("ends", |item, now| age(item, "ends_at", now)),
        Column::hidden("cron", |item, _| word(item, "cron")),
    ],
    id: |item| field(item, "id"),
    told: &["state"],
    none: "there are none",
    max: 1_000,
};

fn until(item: &Value, now: Timestamp) -> Word {
    match field(item, "state").as_str() {
        "active" => age(item, "until", now),
        "scheduled" => Word::faint(format!("begins {}", age(item, "next_at", now).text())),
        _ => Word::faint("-"),
    }
}

/// Whom a window covers, in words.
fn whom(item: &Value) -> String {
    let selector = item.get("selector").cloned().unwrap_or_default();
    let mut parts = Vec::new();
    let services = selector.get("services").and_then(Value::as_array).into_iter().flatten();
    let services: Vec<&str> = services.filter_map(Value::as_str).collect();
    match services.as_slice() {
        [] => {}
        [first] => parts.push((*first).to_owned()),
        [first, rest @ ..] => parts.push(format!("{first} and {} more", rest.len())),
    }
    if !field(&selector, "subtree").is_empty() {
        parts.push(format!("below {}", field(&selector, "subtree")));
    }
    for (key, value) in selector.get("labels").and_then(Value::as_object).into_iter().flatten() {
        parts.push(value.as_str().map_or_else(|| key.clone(), |value| format!("{key}={value}")));
    }
    parts.join(", ")
}

fn show(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    screen.one(item, |item| field(item, "id"), |item| facts(item, now()))?;
    if screen.output() == Output::Table && field(item, "covers") == "0" {
        screen.line("")?;
        screen.line("no service matches it now: is the label or the subtree the right one?")?;
    }
    Ok(())
}

fn facts(item: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let mut facts = vec![
        ("id", word(item, "id")),
        ("state", Word::state(field(item, "state"))),
        ("covers", Word::plain(format!("{} ({} services)", whom(item), field(item, "covers")))),
        ("begins", age(item, "starts_at", now)),
        ("ends", age(item, "ends_at", now)),
        ("reason", word(item, "reason")),
        ("by", word(item, "author")),
    ];
    if !field(item, "cron").is_empty() {
        let secs = item.get("each_secs").and_then(Value::as_u64).unwrap_or(0);
        facts.push(("again", word(item, "cron")));
        facts.push(("each", Word::plain(duration::print(Duration::from_secs(secs)))));
        facts.push(("next", until(item, now)));
    }
    if !field(item, "ended_early_at").is_empty() {
        facts.push(("ended", age(item, "ended_early_at", now)));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_holds_what_was_said() {
        let whom = Whom {
            service: vec!["agent/a".parse().unwrap()],
            label: vec!["site=3".into(), "rack".into(), "note=a=b".into()],
            subtree: "poller/p".parse().ok(),
        };
        let expected = json!({
            "services": ["agent/a"],
            "labels": {"site": "3", "rack": null, "note": "a=b"},
            "subtree": "poller/p",
        });
        assert_eq!(whom.selector(), expected);
    }

    #[test]
    fn a_window_is_told_in_a_line() {
        let item = json!({"selector": {
            "services": ["agent/a", "agent/b", "agent/c"],
            "labels": {"site": "3", "rack": null},
            "subtree": "poller/p",
        }});
        assert_eq!(super::whom(&item), "agent/a and 2 more, below poller/p, rack, site=3");
    }

    #[test]
    fn a_command_answers_as_in_a_shell() {
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(code_of(ExitStatus::from_raw(15)), 143);
    }
}
