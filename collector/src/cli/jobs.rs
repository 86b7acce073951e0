//! The operator's commands on jobs, and the purge.

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::time::Timestamp;
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    client::Client,
    list::{self, Column, Flags, Listed, Sheet},
    print::{Output, Screen, Word, age, field, now, word},
    progress::Progress,
};
use crate::config::duration;

const ROOT: &str = "/api/admin/jobs";
const PURGE: &str = "/api/admin/services/purge";
/// Between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the jobs: when they run, what holds them back, how they went.
    #[command(
        alias = "ls",
        after_help = "Examples:\n  rollcall-collector jobs list\n  rollcall-collector jobs list --output json"
    )]
    List {
        #[command(flatten)]
        flags: Flags,
    },
    /// Show one job, with its last runs.
    #[command(after_help = "Example:\n  rollcall-collector jobs show purge")]
    Show {
        /// The job: mark_inactive, archive, purge, ephemeral or retention.
        job: String,
    },
    /// Run a job now.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The job.
        job: String,
        /// Only look: list what would happen.
        #[arg(long)]
        dry_run: bool,
        /// Wait for its end; it ends with 69 where the run does not end well.
        #[arg(long)]
        wait: bool,
    },
    /// Let a job run by itself.
    #[command(after_help = "Example:\n  rollcall-collector jobs enable archive")]
    Enable {
        /// The job.
        job: String,
    },
    /// Let a job run only when it is asked for.
    #[command(after_help = "Example:\n  rollcall-collector jobs disable purge")]
    Disable {
        /// The job.
        job: String,
    },
    /// Let a job rest for a time.
    #[command(after_help = "Example:\n  rollcall-collector jobs pause purge --for 12h")]
    Pause {
        /// The job.
        job: String,
        /// For how long.
        #[arg(long = "for", value_name = "DURATION", value_parser = span)]
        length: Duration,
    },
    /// End the rest of a job.
    #[command(after_help = "Example:\n  rollcall-collector jobs resume purge")]
    Resume {
        /// The job.
        job: String,
    },
    /// Confirm that the clock is right and that blindness is over: what holds jobs back holds no longer.
    #[command(after_help = "Example:\n  rollcall-collector jobs confirm")]
    Confirm,
}

const RUN_EXAMPLES: &str = "\
Examples:
  rollcall-collector jobs run purge --dry-run
  rollcall-collector jobs run mark_inactive --wait";

/// Whom to purge.
#[derive(Debug, Args)]
pub(super) struct PurgeArgs {
    /// Only list who would go, and who is kept back.
    #[arg(long)]
    dry_run: bool,
    /// Remove them, if it is exactly so many: the number that the dry run said.
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
    /// Days since the last change of status, instead of the configured retention.
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// Only services that stand there: pending, inactive, revoked, deleted; without it the last three.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<String>,
}

pub(super) const PURGE_EXAMPLES: &str = "\
Examples:
  rollcall-collector purge --dry-run
  rollcall-collector purge --expect 42
  rollcall-collector purge --status deleted --retention-days 0 --dry-run";

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    let path = |job: &str| format!("{ROOT}/{job}");
    match command {
        Command::List { flags } => {
            let mut document = client.get(ROOT, &[]).await?;
            let items = document.get_mut("items").map(Value::take);
            let items = items.and_then(|items| items.as_array().cloned()).unwrap_or_default();
            Ok(list::print(screen, &Listed::whole(items), &flags, &SHEET)?)
        }
        Command::Show { job } => show(screen, &client.get(&path(&job), &[]).await?),
        Command::Run { job, dry_run, wait } => start(client, screen, &job, dry_run, wait).await,
        Command::Enable { job } => set(client, screen, &job, json!({ "enabled": true })).await,
        Command::Disable { job } => set(client, screen, &job, json!({ "enabled": false })).await,
        Command::Pause { job, length } => {
            let until = now().after(length).to_string();
            set(client, screen, &job, json!({ "paused_until": until })).await
        }
        Command::Resume { job } => set(client, screen, &job, json!({ "paused_until": null })).await,
        Command::Confirm => show(screen, &client.post(&format!("{ROOT}/purge/confirm"), json!({})).await?),
    }
}

async fn set(client: &Client, screen: &mut Screen, job: &str, body: Value) -> Result<(), Failure> {
    let answer = client.call(Method::PUT, &format!("{ROOT}/{job}")).json(&body).send().await?;
    show(screen, &answer.document)
}

async fn start(client: &Client, screen: &mut Screen, job: &str, dry_run: bool, wait: bool) -> Result<(), Failure> {
    let mut item = client.post(&format!("{ROOT}/{job}/run"), json!({ "dry_run": dry_run })).await?;
    if wait {
        item = follow(client, job, item, "things looked after").await?;
    }
    match screen.output() {
        Output::Json | Output::Raw => screen.one(&item, |item| field(item, "id"), |item| run_facts(item, now()))?,
        Output::Table => {
            screen.facts(run_facts(&item, now()))?;
            leavings(screen, &item)?;
        }
    }
    ended_well(&item)
}

/// Looks at a run until it has ended.
async fn follow(client: &Client, job: &str, mut item: Value, what: &str) -> Result<Value, Failure> {
    let path = format!("{ROOT}/{job}/runs/{}", field(&item, "id"));
    let mut progress: Option<Progress> = None;
    let mut told = 0;
    while item.get("outcome").is_some_and(Value::is_null) {
        let number = |name: &str| item.pointer(&format!("/progress/{name}")).and_then(Value::as_u64).unwrap_or(0);
        let (total, done) = (number("total"), number("done"));
        if total > 0 {
            let shown = progress.get_or_insert_with(|| Progress::begin(what, Some(total)));
            shown.advance(done.saturating_sub(told));
            told = done;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        item = client.get(&path, &[]).await?;
    }
    if let Some(progress) = progress {
        progress.end();
    }
    Ok(item)
}

/// A run that ended badly is the collector's failure; one that is held back was refused.
fn ended_well(run: &Value) -> Result<(), Failure> {
    match field(run, "outcome").as_str() {
        "" | "succeeded" => Ok(()),
        "held" => Err(Failure::new(Exit::Refused, field(run, "held_by"))),
        outcome => {
            let why = field(run, "error");
            Err(Failure::new(Exit::Unreachable, format!("the run {outcome}: {why}").trim_end_matches(": ").to_owned()))
        }
    }
}

pub(super) async fn purge(client: &Client, screen: &mut Screen, args: PurgeArgs) -> Result<(), Failure> {
    if !args.dry_run && args.expect.is_none() {
        let hint = "say --dry-run to see who would go, and then --expect with the number of them to remove them";
        return Err(Failure::usage(hint));
    }
    let mut body = json!({ "dry_run": args.dry_run });
    if let Some(object) = body.as_object_mut() {
        let given = [
            ("expect", args.expect.map(|expect| json!(expect))),
            ("retention_days", args.retention_days.map(|days| json!(days))),
            ("statuses", Some(&args.status).filter(|all| !all.is_empty()).map(|all| json!(all))),
        ];
        object.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    let mut item = client.post(PURGE, body).await?;
    let run = item.get_mut("run").map(Value::take).unwrap_or_default();
    if !run.is_null() {
        let run = follow(client, "purge", run, "services removed").await?;
        let removed = run.pointer("/counts/removed").cloned().unwrap_or_else(|| json!(0));
        if let Some(object) = item.as_object_mut() {
            object.insert("removed".into(), removed);
            object.insert("run".into(), run);
        }
    }
    match screen.output() {
        Output::Json => screen.json(&item)?,
        Output::Raw => {
            for leaving in item.get("going").and_then(Value::as_array).into_iter().flatten() {
                screen.line(&format!("{}/{}", field(leaving, "kind"), field(leaving, "id")))?;
            }
        }
        Output::Table => {
            if args.dry_run {
                leavings(screen, &item)?;
                let (count, kept) = (field(&item, "count"), field(&item, "kept_count"));
                screen.line(&format!("{count} would go, {kept} are kept back; nothing was changed"))?;
                let held = item.get("held_by").filter(|held| !held.is_null());
                if let Some(held) = held {
                    screen.line(&format!("a real run would hold still: {}", field(held, "detail")))?;
                }
            } else {
                let (removed, count) = (field(&item, "removed"), field(&item, "count"));
                screen.line(&format!("{removed} of {count} services are removed; the audit trail has them"))?;
            }
            if field(&item, "over_cap") != "0" {
                screen.line(&format!("{} more are due: one run has a cap", field(&item, "over_cap")))?;
            }
        }
    }
    item.get("run").filter(|run| !run.is_null()).map_or(Ok(()), ended_well)
}

/// Who would go, and who is kept back.
fn leavings(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    let rows = |name: &str, mark: fn() -> Word| {
        let items = item.get(name).and_then(Value::as_array).into_iter().flatten();
        let row = move |item: &Value| {
            let service = format!("{}/{}", field(item, "kind"), field(item, "id"));
            vec![mark(), Word::plain(service), Word::state(field(item, "status")), age(item, "since", now()), why(item)]
        };
        items.map(row).collect::<Vec<_>>()
    };
    let mut all = rows("going", || Word::plain("goes"));
    all.extend(rows("kept", || Word::faint("stays")));
    if !all.is_empty() {
        screen.table(&["", "SERVICE", "STATUS", "SINCE", "WHY"], all)?;
        screen.line("")?;
    }
    Ok(())
}

/// The reason, in words; details of an audit event as they are.
fn why(item: &Value) -> Word {
    match item.get("why") {
        Some(Value::Object(details)) => {
            let parts: Vec<String> = details.keys().map(|key| format!("{key}={}", field(&item["why"], key))).collect();
            Word::plain(parts.join(" "))
        }
        _ => word(item, "why"),
    }
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("job", |item, _| word(item, "name")),
        Column::new("schedule", |item, _| word(item, "schedule")),
        Column::new("next", next),
        Column::new("last", |item, now| age(last(item), "started_at", now)),
        Column::new("outcome", |item, _| Word::state(field(last(item), "outcome"))),
        Column::new("did", |item, _| Word::plain(counts(last(item)))),
        Column::new("held", |item, _| held(item)),
        Column::hidden("about", |item, _| word(item, "about")),
        Column::hidden("runs", |item, _| word(item, "runs")),
        Column::hidden("failures", |item, _| word(item, "failures")),
        Column::hidden("last_success", |item, now| age(item, "last_success", now)),
    ],
    id: |item| field(item, "name"),
    told: &["outcome", "held"],
    none: "there are none",
    max: 100,
};

static NONE: Value = Value::Null;

fn last(item: &Value) -> &Value {
    item.get("last_run").unwrap_or(&NONE)
}

fn next(item: &Value, now: Timestamp) -> Word {
    if item.get("running") == Some(&json!(true)) {
        return Word::state("running");
    }
    if item.get("enabled") == Some(&json!(false)) {
        return Word::faint("off");
    }
    if !field(item, "paused_until").is_empty() {
        let rest = age(item, "paused_until", now);
        if rest.text().starts_with("in ") {
            return Word::doubtful(format!("rests, on again {}", rest.text()));
        }
    }
    age(item, "next_at", now)
}

fn held(item: &Value) -> Word {
    match item.get("held_by").filter(|held| !held.is_null()) {
        Some(held) => Word::doubtful(field(held, "cause")),
        None => Word::faint("-"),
    }
}

/// What a run did, in words.
fn counts(run: &Value) -> String {
    let counts = run.get("counts").and_then(Value::as_object).into_iter().flatten();
    counts.map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
}

fn show(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    screen.one(item, |item| field(item, "name"), |item| facts(item, now()))?;
    if screen.output() == Output::Table {
        let recent = item.get("recent").and_then(Value::as_array).cloned().unwrap_or_default();
        let row = |run: &Value| {
            let cause = if run.get("dry_run") == Some(&json!(true)) { "dry run".into() } else { field(run, "cause") };
            let error = if field(run, "error").is_empty() { word(run, "held_by") } else { word(run, "error") };
            vec![
                age(run, "started_at", now()),
                Word::plain(cause),
                Word::state(outcome(run)),
                Word::plain(counts(run)),
                error,
            ]
        };
        if !recent.is_empty() {
            screen.line("")?;
            screen.table(&["RUN", "CAUSE", "OUTCOME", "DID", "WHY"], recent.iter().map(row).collect())?;
        }
    }
    Ok(())
}

fn outcome(run: &Value) -> String {
    match field(run, "outcome") {
        text if text.is_empty() => "running".into(),
        text => text,
    }
}

fn facts(item: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let secs = |name: &str| {
        let secs = item.get(name).and_then(Value::as_u64).unwrap_or(0);
        Word::plain(duration::print(Duration::from_secs(secs)))
    };
    let mut facts = vec![
        ("job", word(item, "name")),
        ("about", word(item, "about")),
        ("schedule", word(item, "schedule")),
        ("next", next(item, now)),
        ("at most", Word::plain(format!("{} at once", field(item, "cap")))),
        ("within", secs("timeout_secs")),
        ("last success", age(item, "last_success", now)),
        ("runs", Word::plain(format!("{}, {} failed", field(item, "runs"), field(item, "failures")))),
    ];
    if let Some(held) = item.get("held_by").filter(|held| !held.is_null()) {
        facts.push(("held", Word::doubtful(field(held, "detail"))));
    }
    facts
}

fn run_facts(item: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let mut facts = vec![
        ("job", word(item, "job")),
        ("run", word(item, "id")),
        ("outcome", Word::state(outcome(item))),
        ("began", age(item, "started_at", now)),
        ("did", Word::plain(counts(item))),
    ];
    for (name, heading) in [("error", "error"), ("held_by", "held")] {
        if !field(item, name).is_empty() {
            facts.push((heading, word(item, name)));
        }
    }
    facts
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_in_a_line() {
        let item = json!({
            "name": "purge", "enabled": true, "running": false, "next_at": "2026-11-22T02:00:00Z",
            "last_run": {"outcome": "succeeded", "counts": {"kept": 2, "removed": 7}},
            "held_by": {"cause": "clock_step", "detail": "…"},
        });
        let now = Timestamp("2026-11-22T01:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond());
        assert_eq!(next(&item, now).text(), "in 1h");
        assert_eq!(counts(last(&item)), "kept 2, removed 7");
        assert_eq!(held(&item).text(), "clock_step");
        assert_eq!(next(&json!({"enabled": false}), now).text(), "off");
        let rests = json!({"enabled": true, "paused_until": "2026-11-22T03:00:00Z", "next_at": "2026-11-22T02:00:00Z"});
        assert_eq!(next(&rests, now).text(), "rests, on again in 2h");
    }

    #[test]
    fn how_a_run_ended_decides_the_exit() {
        assert!(ended_well(&json!({"outcome": null})).is_ok(), "it goes on, and nobody waits");
        assert!(ended_well(&json!({"outcome": "succeeded"})).is_ok());
        let held = ended_well(&json!({"outcome": "held", "held_by": "the wall clock stepped"})).unwrap_err();
        assert_eq!((held.exit(), held.to_string().as_str()), (Exit::Refused, "the wall clock stepped"));
        let failed = ended_well(&json!({"outcome": "failed", "error": "no disk"})).unwrap_err();
        assert_eq!((failed.exit(), failed.to_string().as_str()), (Exit::Unreachable, "the run failed: no disk"));
    }
}
