//! Settings of sidecars: what is wanted, what is in force, and waiting until they are the same.

use std::{str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::{
    id::{ServiceId, ServiceKey},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Exit, Failure,
        client::{Client, Output},
        print::{Screen, Word, age, field, now},
        progress::Progress,
        which::{ROOT, Which, key_of, path},
    },
    bulk::{self, Selector},
};
use crate::config::duration;

/// Most services that one command changes.
const MAX: usize = 10_000;
/// Services that a preview names.
const SHOWN: usize = 20;
/// How often is looked whether settings have arrived.
const LOOK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct SettingsArgs {
    /// Kind and id, as in agent/edge-17 or agent edge-17, or the id alone.
    #[arg(value_name = "SERVICE", num_args = 1..=2)]
    service: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Change what is wanted of a sidecar; what is not named stays.
    #[command(after_help = SET_HELP)]
    Set(Box<SetArgs>),
    /// Take everything back that was wanted: the host's own files alone count again.
    #[command(after_help = "\
Examples:
  rollcall-collector services settings reset agent/edge-17 --wait
  rollcall-collector services settings reset --selector settings=refused --dry-run")]
    Reset(AimArgs),
}

pub(super) const HELP: &str = "\
Examples:
  rollcall-collector services settings agent/edge-17
  rollcall-collector services settings set agent/edge-17 --interval 30s --wait
  rollcall-collector services settings reset agent/edge-17

A sidecar takes only what its host allows: which probes may be changed from here is said in the host's own files, and
nothing set here can name a command, a path or a target. `services list --settings refused,unsupported` finds those
that did not take what is wanted.";

const SET_HELP: &str = "\
A probe is named as the host's files name it, a child's as child/KIND/ID:NAME, and what is to change
behind it: run=on|off, interval=, timeout=, rise=, fall=; `default` leaves all of it to the host's files again.

Examples:
  rollcall-collector services settings set agent/edge-17 --interval 30s
  rollcall-collector services settings set agent/edge-17 --probe port:run=off --probe db:interval=1m,fall=5 --wait
  rollcall-collector services settings set agent/edge-17 --probe child/checker/disk:file:run=off
  rollcall-collector services settings set agent/edge-17 --interval default --probe port:default
  rollcall-collector services settings set --selector label=site=3 --interval 1m --dry-run
  rollcall-collector services settings set --selector label=site=3 --interval 1m --expect 212

With --wait the exit code tells: 0 in force, 77 refused or not understood by the sidecar, 69 not heard of in time.";

/// Whose settings, and how careful.
#[derive(Debug, Args)]
struct AimArgs {
    /// Kind and id, as in agent/edge-17 or agent edge-17, or the id alone.
    #[arg(value_name = "SERVICE", num_args = 1..=2, required_unless_present = "selector", conflicts_with = "selector")]
    service: Vec<String>,
    #[command(flatten)]
    selector: Selector,
    /// Only tell whom it would change.
    #[arg(long, conflicts_with = "expect")]
    dry_run: bool,
    /// Do it without asking, if it concerns exactly so many services.
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
    /// Wait until each sidecar has said what became of it.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = span, requires = "wait")]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct SetArgs {
    #[command(flatten)]
    aim: AimArgs,
    /// Time between two heartbeats, as in 30s; or default.
    #[arg(long, value_name = "DURATION", value_parser = wanted)]
    interval: Option<Wanted>,
    /// How long one heartbeat is good for; default: it follows from the interval.
    #[arg(long, value_name = "DURATION", value_parser = wanted)]
    ttl: Option<Wanted>,
    /// How a probe is to run, as in port:run=off or db:interval=1m,fall=5; may be repeated.
    #[arg(long, value_name = "[CHILD:]PROBE:CHANGES")]
    probe: Vec<Tuned>,
    /// Begin with nothing instead of what is wanted already.
    #[arg(long)]
    replace: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// A time, or what everybody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted(Option<Duration>);

fn wanted(text: &str) -> Result<Wanted, String> {
    if text == "default" { Ok(Wanted(None)) } else { span(text).map(|time| Wanted(Some(time))) }
}

/// What is to change of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tuned {
    child: Option<ServiceKey>,
    probe: ServiceId,
    /// Members of the body; none = as the host's files have it.
    changes: Vec<(&'static str, Value)>,
}

impl FromStr for Tuned {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, changes) =
            text.rsplit_once(':').ok_or("write the probe's name, a colon and what is to change, as in port:run=off")?;
        // As the host's files write it; the word in front may be left out.
        let (child, probe) = match name.strip_prefix("child/").unwrap_or(name).split_once(':') {
            Some((child, probe)) => (Some(child.parse().map_err(|error| format!("{error}"))?), probe),
            None => (None, name),
        };
        let probe = probe.parse().map_err(|error| format!("{error}"))?;
        if changes == "default" {
            return Ok(Self { child, probe, changes: Vec::new() });
        }
        let change = |word: &str| -> Result<(&'static str, Value), String> {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("{word:?} changes nothing: write run=off"))?;
            let count = || value.parse::<u32>().map(Value::from).map_err(|_| format!("{name} is a number"));
            let time = || span(value).map(|time| json!(millis(time)));
            match (name, value) {
                ("run", "on" | "true") => Ok(("run", true.into())),
                ("run", "off" | "false") => Ok(("run", false.into())),
                ("run", _) => Err("run is on or off".into()),
                ("interval", _) => Ok(("interval", time()?)),
                ("timeout", _) => Ok(("timeout", time()?)),
                ("rise", _) => Ok(("rise", count()?)),
                ("fall", _) => Ok(("fall", count()?)),
                (name, _) => Err(format!("{name:?} is unknown: use run, interval, timeout, rise, fall or default")),
            }
        };
        Ok(Self { child, probe, changes: changes.split(',').map(change).collect::<Result<_, _>>()? })
    }
}

fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

pub(super) async fn run(client: &Client, screen: &mut Screen, args: SettingsArgs) -> Result<(), Failure> {
    match args.command {
        Some(Command::Set(set)) => {
            if set.interval.is_none() && set.ttl.is_none() && set.probe.is_empty() && !set.replace {
                return Err(Failure::usage("say what is wanted, as in --interval 30s or --probe port:run=off"));
            }
            aim(client, screen, &set.aim, |view| Some(body(&set, view))).await
        }
        Some(Command::Reset(reset)) => aim(client, screen, &reset, |_| None).await,
        None if args.service.is_empty() => {
            Err(Failure::usage("say whose settings, as in services settings agent/edge-17"))
        }
        None => {
            let key = Which::of(&args.service)?.key(client).await?;
            let view = client.get(&format!("{}/settings", path(&key)), &[]).await?;
            print(screen, &view)
        }
    }
}

/// Does it to one or to many. Answers are shown; whoever cannot be changed is told, and the others are.
async fn aim(
    client: &Client,
    screen: &mut Screen,
    args: &AimArgs,
    wish: impl Fn(&Value) -> Option<Value>,
) -> Result<(), Failure> {
    if !args.service.is_empty() {
        if args.dry_run || args.expect.is_some() {
            return Err(Failure::usage("--dry-run and --expect go with --selector"));
        }
        let key = Which::of(&args.service)?.key(client).await?;
        let mut view = change(client, &key, &wish).await?;
        if args.wait {
            view = settled(client, vec![key], args.timeout).await?.pop().map_or(view, |(_, view)| view);
        }
        print(screen, &view)?;
        return if args.wait { verdict(&[view]) } else { Ok(()) };
    }
    let listed = client.list(ROOT, &args.selector.query(), MAX).await?;
    if listed.more {
        return Err(Failure::usage(format!("more than {MAX} services are meant: choose fewer at a time")));
    }
    let count = listed.items.len();
    let keys: Vec<ServiceKey> = listed.items.iter().filter_map(|item| key_of(item).parse().ok()).collect();
    if args.dry_run || args.expect.is_none() {
        preview(screen, &keys)?;
    }
    match args.expect {
        _ if args.dry_run || count == 0 => return Ok(()),
        Some(expected) if expected != count => {
            let message = format!("{count} services are meant, not {expected}: nothing was done");
            return Err(Failure::new(Exit::Refused, message));
        }
        Some(_) => {}
        None => bulk::agreed(screen, count)?,
    }
    let mut progress = Progress::begin("services", u64::try_from(count).ok());
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for key in &keys {
        match change(client, key, &wish).await {
            Ok(view) => done.push((key.clone(), view)),
            // What one of them does not take says nothing of the next.
            Err(failure) if failure.exit == Exit::Refused => refused.push(format!("{key}: {failure}")),
            Err(failure) => {
                progress.end();
                let message = format!("{} of {count} services changed, then: {failure}", done.len());
                return Err(Failure { message, ..failure });
            }
        }
        progress.advance(1);
    }
    progress.end();
    if args.wait {
        done = settled(client, done.into_iter().map(|(key, _)| key).collect(), args.timeout).await?;
    }
    let views: Vec<Value> = done.into_iter().map(|(_, view)| view).collect();
    match screen.output() {
        Output::Table => {
            let rows = views.iter().map(row).collect();
            screen.table(&["SERVICE", "STATE", "REVISION", "WHY"], rows)?;
            for line in &refused {
                screen.line(&format!("! {line}"))?;
            }
            screen.line(&format!("{} services changed, {} refused", views.len(), refused.len()))?;
        }
        Output::Json | Output::Raw => {
            screen.json(&json!({ "count": count, "settings": views, "refused": refused }))?;
        }
    }
    if !refused.is_empty() {
        return Err(Failure::new(Exit::Refused, format!("{} of {count} services were not changed", refused.len())));
    }
    if args.wait { verdict(&views) } else { Ok(()) }
}

fn preview(screen: &mut Screen, keys: &[ServiceKey]) -> Result<(), Failure> {
    if screen.output() != Output::Table {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        return Ok(screen.json(&json!({ "count": keys.len(), "services": keys }))?);
    }
    for key in keys.iter().take(SHOWN) {
        screen.line(&key.to_string())?;
    }
    if keys.len() > SHOWN {
        screen.line(&format!("… and {} more", keys.len() - SHOWN))?;
    }
    Ok(screen.line(&format!("{} services would be changed", keys.len()))?)
}

/// Changes one, from where it was looked at; `None` takes everything back.
async fn change(client: &Client, key: &ServiceKey, wish: impl Fn(&Value) -> Option<Value>) -> Result<Value, Failure> {
    let place = format!("{}/settings", path(key));
    let seen = client.call(Method::GET, &place).send().await?;
    let call = match wish(&seen.document) {
        Some(body) => client.call(Method::PUT, &place).json(&body),
        None => client.call(Method::DELETE, &place),
    };
    Ok(call.if_match(seen.etag.as_deref()).send().await?.document)
}

/// What is wanted already, with the changes laid over it.
fn body(args: &SetArgs, view: &Value) -> Value {
    let held = view.get("wanted").filter(|held| held.is_object() && !args.replace);
    let of = |name: &str| held.and_then(|held| held.get(name)).and_then(Value::as_u64).map(Duration::from_millis);
    let time = |given: Option<Wanted>, held: Option<Duration>| given.map_or(held, |wanted| wanted.0).map(millis);
    let mut probes: Vec<Value> = Vec::new();
    for one in held.and_then(|held| held.get("probes")).and_then(Value::as_array).into_iter().flatten() {
        let mut probe = json!({ "probe": one.get("probe"), "child": one.get("child") });
        for (name, from) in [("run", "run"), ("rise", "rise"), ("fall", "fall")] {
            put(&mut probe, name, one.get(from).cloned().unwrap_or_default());
        }
        for (name, from) in [("interval", "interval_ms"), ("timeout", "timeout_ms")] {
            let held = one.get(from).and_then(Value::as_u64).map(|ms| format!("{ms}ms"));
            put(&mut probe, name, json!(held));
        }
        probes.push(probe);
    }
    for tuned in &args.probe {
        let child = tuned.child.as_ref().map_or(Value::Null, |child| child.to_string().into());
        let named = |one: &Value| one.get("probe") == Some(&json!(tuned.probe)) && one.get("child") == Some(&child);
        let held = probes.iter().position(named).map(|at| probes.remove(at));
        if tuned.changes.is_empty() {
            continue;
        }
        let mut probe = held.unwrap_or_else(|| json!({ "probe": tuned.probe, "child": child }));
        for (name, value) in &tuned.changes {
            put(&mut probe, name, value.clone());
        }
        probes.push(probe);
    }
    json!({ "interval": time(args.interval, of("interval_ms")), "ttl": time(args.ttl, of("ttl_ms")), "probes": probes })
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

/// Waits until each sidecar has answered, or the time is over; answers with what each says then.
async fn settled(
    client: &Client,
    keys: Vec<ServiceKey>,
    timeout: Duration,
) -> Result<Vec<(ServiceKey, Value)>, Failure> {
    let mut progress = Progress::begin("sidecars", u64::try_from(keys.len()).ok());
    let (mut done, mut waiting) = (Vec::new(), keys);
    let mut over = std::pin::pin!(tokio::time::sleep(timeout));
    let mut last = false;
    loop {
        let mut left = Vec::new();
        for key in waiting {
            let view = client.get(&format!("{}/settings", path(&key)), &[]).await?;
            if last || field(&view, "state") != "pending" {
                progress.advance(1);
                done.push((key, view));
            } else {
                left.push(key);
            }
        }
        if left.is_empty() {
            progress.end();
            return Ok(done);
        }
        waiting = left;
        tokio::select! {
            () = &mut over, if !last => last = true,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The exit code of having waited.
fn verdict(views: &[Value]) -> Result<(), Failure> {
    let count = |states: &[&str]| views.iter().filter(|view| states.contains(&field(view, "state").as_str())).count();
    let (refused, pending) = (count(&["refused", "unsupported"]), count(&["pending"]));
    let why = views.iter().map(|view| field(view, "why")).find(|why| !why.is_empty()).unwrap_or_default();
    match (refused, pending) {
        (0, 0) => Ok(()),
        (0, pending) => {
            let message = format!(
                "{pending} of {} sidecars have not answered yet; they are told when they are back",
                views.len()
            );
            Err(Failure::new(Exit::Unreachable, message))
        }
        (refused, _) => {
            let message = format!("{refused} of {} sidecars did not take it: {why}", views.len());
            Err(Failure::new(Exit::Refused, message))
        }
    }
}

fn row(view: &Value) -> Vec<Word> {
    vec![
        Word::plain(field(view, "service")),
        Word::state(field(view, "state")),
        Word::plain(field(view, "revision")),
        Word::plain(field(view, "why")),
    ]
}

fn print(screen: &mut Screen, view: &Value) -> Result<(), Failure> {
    if screen.output() != Output::Table {
        return Ok(screen.json(view)?);
    }
    screen.facts(facts(view, now()))?;
    let probes = view.pointer("/in_force/probes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if probes.is_empty() {
        return Ok(());
    }
    let rows = probes.iter().map(|one| {
        let time = |name: &str| Word::plain(shown(one, name));
        let on = |name: &str| one.get(name).and_then(Value::as_bool).unwrap_or(false);
        vec![
            Word::plain(name_of(one)),
            Word::plain(field(one, "type")),
            Word::plain(if on("runs") { "runs" } else { "off" }),
            time("interval_ms"),
            time("timeout_ms"),
            Word::plain(format!("{}/{}", field(one, "rise"), field(one, "fall"))),
            if on("allowed") { Word::plain("yes") } else { Word::faint("no") },
        ]
    });
    screen.line("")?;
    screen.table(&["PROBE", "TYPE", "RUNS", "EVERY", "WITHIN", "RISE/FALL", "MAY BE SET"], rows.collect())?;
    Ok(())
}

fn name_of(one: &Value) -> String {
    match field(one, "child") {
        child if child.is_empty() => field(one, "probe"),
        child => format!("child/{child}:{}", field(one, "probe")),
    }
}

fn shown(one: &Value, name: &str) -> String {
    let ms = one.get(name).and_then(Value::as_u64);
    ms.map(|ms| duration::print(Duration::from_millis(ms))).unwrap_or_default()
}

/// What is wanted and what became of it, one fact a line.
fn facts(view: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let state = Word::state(field(view, "state"));
    let since = age(view, "since", now);
    let why = field(view, "why");
    let pace = view.get("pace").cloned().unwrap_or_default();
    let mut facts = vec![
        ("service", Word::plain(field(view, "service"))),
        ("state", if since.text() == "-" { state } else { state.because(&format!("since {}", since.text())) }),
        ("revision", Word::plain(field(view, "revision"))),
    ];
    if !why.is_empty() {
        facts.push(("why", Word::plain(why)));
    }
    facts.push((
        "pace",
        Word::plain(format!("every {}, lost after {}", shown(&pace, "interval_ms"), shown(&pace, "ttl_ms"))),
    ));
    if let Some(wanted) = view.get("wanted").filter(|wanted| wanted.is_object()) {
        for (name, heading) in [("interval_ms", "wanted interval"), ("ttl_ms", "wanted ttl")] {
            let time = shown(wanted, name);
            if !time.is_empty() {
                facts.push((heading, Word::plain(time)));
            }
        }
        for one in wanted.get("probes").and_then(Value::as_array).into_iter().flatten() {
            let mut changes = Vec::new();
            match one.get("run").and_then(Value::as_bool) {
                Some(true) => changes.push("run=on".to_owned()),
                Some(false) => changes.push("run=off".to_owned()),
                None => {}
            }
            for (name, word) in [("interval_ms", "interval"), ("timeout_ms", "timeout")] {
                let time = shown(one, name);
                if !time.is_empty() {
                    changes.push(format!("{word}={time}"));
                }
            }
            for word in ["rise", "fall"] {
                let count = field(one, word);
                if !count.is_empty() {
                    changes.push(format!("{word}={count}"));
                }
            }
            facts.push(("wanted probe", Word::plain(format!("{}:{}", name_of(one), changes.join(",")))));
        }
        facts.push(("set", age(wanted, "set_at", now).because(&field(wanted, "set_by"))));
    }
    match view.get("in_force").filter(|said| said.is_object()) {
        Some(said) => {
            let which = match field(said, "revision").as_str() {
                "0" => "the host's files alone".to_owned(),
                revision => format!("revision {revision}"),
            };
            facts.push((
                "in force",
                Word::plain(which).because(&format!("said {}", age(said, "reported_at", now).text())),
            ));
        }
        None => facts.push(("in force", Word::plain("its sidecar has not said"))),
    }
    facts
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SettingsArgs,
    }

    fn set(words: &str) -> SetArgs {
        let line = Line::try_parse_from(["x"].into_iter().chain(words.split(' '))).unwrap();
        let Some(Command::Set(set)) = line.args.command else { panic!("{words}") };
        *set
    }

    #[test]
    fn a_probe_is_written_in_one_word() {
        let read = |text: &str| text.parse::<Tuned>();
        let tuned = read("db:interval=1m,fall=5").unwrap();
        assert_eq!(tuned.changes, [("interval", json!("60000ms")), ("fall", json!(5))]);
        let child = read("child/checker/disk:file:run=off").unwrap();
        assert_eq!(read("checker/disk:file:run=off").unwrap().child, child.child);
        assert_eq!((child.child.unwrap().to_string(), child.probe.as_str()), ("checker/disk".into(), "file"));
        assert!(read("port:default").unwrap().changes.is_empty());
        for bad in [
            "port",
            "port:",
            "port:run=maybe",
            "port:fall=x",
            "port:path=/etc",
            ":run=off",
            "p q:run=on",
            "robot/x:p:run=on",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let view = json!({ "wanted": { "interval_ms": 60000, "ttl_ms": null, "probes": [
            { "probe": "port", "child": null, "run": false, "interval_ms": 5000, "timeout_ms": null, "rise": null, "fall": 2 },
            { "probe": "db", "child": null, "run": true, "interval_ms": null, "timeout_ms": null, "rise": null, "fall": null },
        ] } });
        let made = body(&set("set agent/a --probe port:run=on --ttl 200s"), &view);
        assert_eq!((&made["interval"], &made["ttl"]), (&json!("60000ms"), &json!("200000ms")));
        let port = made["probes"].as_array().unwrap().iter().find(|one| one["probe"] == "port").unwrap();
        assert_eq!((&port["run"], &port["interval"], &port["fall"]), (&json!(true), &json!("5000ms"), &json!(2)));
        let made = body(&set("set agent/a --interval default --probe port:default"), &view);
        assert_eq!((&made["interval"], made["probes"].as_array().unwrap().len()), (&Value::Null, 1));
        let made = body(&set("set agent/a --replace --probe port:fall=3"), &view);
        assert_eq!(
            made,
            json!({ "interval": null, "ttl": null, "probes": [{ "probe": "port", "child": null, "fall": 3 }] })
        );
    }

    #[test]
    fn one_is_meant_or_many_and_never_nobody() {
        let parse = |words: &str| Line::try_parse_from(["x"].into_iter().chain(words.split(' ')));
        assert!(parse("agent/a").is_ok() && parse("agent a").is_ok());
        assert!(parse("set --interval 1m").is_err(), "nobody is named");
        assert!(parse("set --interval 1m --selector label=site=3").is_ok());
        assert!(parse("set agent/a --interval 1m --selector label=site=3").is_err());
        assert!(parse("reset agent/a --wait --timeout 5s").is_ok());
    }

    #[test]
    fn having_waited_the_exit_code_tells() {
        let exit = |states: &[&str]| {
            let views: Vec<Value> = states.iter().map(|state| json!({ "state": state, "why": "no" })).collect();
            verdict(&views).map_err(|failure| failure.exit)
        };
        assert_eq!(exit(&["applied", "none"]), Ok(()));
        assert_eq!(exit(&["applied", "pending"]), Err(Exit::Unreachable));
        assert_eq!(exit(&["unsupported", "pending"]), Err(Exit::Refused));
        assert_eq!(exit(&["refused"]), Err(Exit::Refused));
    }

    #[test]
    fn facts_tell_what_is_wanted_and_what_became_of_it() {
        let view = json!({
            "service": "agent/a", "state": "refused", "since": "2027-01-15T07:59:00Z", "why": "\"port\" is not allowed",
            "revision": 4, "pace": { "interval_ms": 60000, "ttl_ms": 180000 },
            "wanted": { "interval_ms": 60000, "ttl_ms": null, "set_by": "credential:x", "set_at": "2027-01-15T07:58:00Z",
                "probes": [{ "probe": "port", "child": "checker/d", "run": false, "interval_ms": 5000, "timeout_ms": null,
                    "rise": null, "fall": 2 }] },
            "in_force": { "revision": 0, "reported_at": "2027-01-15T07:59:00Z", "probes": [], "more": 0, "refused": null },
        });
        let told: Vec<String> = facts(&view, Timestamp::from_secs(1_800_000_000))
            .iter()
            .map(|(name, word)| format!("{name}: {}", word.text()))
            .collect();
        for line in [
            "state: refused (since 1m ago)",
            "why: \"port\" is not allowed",
            "pace: every 1m, lost after 3m",
            "wanted interval: 1m",
            "wanted probe: child/checker/d:port:run=off,interval=5s,fall=2",
            "set: 2m ago (credential:x)",
            "in force: the host's files alone (said 1m ago)",
        ] {
            assert!(told.iter().any(|told| told == line), "{line} is not in {told:#?}");
        }
    }
}
