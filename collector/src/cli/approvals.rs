//! The operator's commands on enrollments that wait for a decision.

use clap::{Args, Subcommand};
use rollcall_common::id::ServiceKey;
use serde_json::{Value, json};

use super::{
    Failure,
    client::Client,
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, now, word},
};

const ROOT: &str = "/api/admin/approvals";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List hosts that ask to be let in, oldest first.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        /// pending, approved, rejected or expired.
        #[arg(long, value_name = "WORD")]
        state: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Let a host in: its next poll enrolls it.
    #[command(after_help = APPROVE_EXAMPLES)]
    Approve(Which),
    /// Refuse a host's key for good.
    #[command(after_help = "Example:\n  rollcall-collector approvals reject agent/edge-17 --reason 'not one of ours'")]
    Reject(Which),
}

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector approvals list --state pending
  rollcall-collector approvals list --columns id,service,fingerprint --output json";

const APPROVE_EXAMPLES: &str = "\
Examples:
  rollcall-collector approvals approve 01kaf6e3n5v4w8y2z0b1c3d5e7
  rollcall-collector approvals approve agent/edge-17 --fingerprint 3f9a --reason 'rack B 4'";

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The request's id, or the service that it would be, as in agent/edge-17.
    request: String,
    /// How the key's fingerprint begins, as `rollcall-agent status` shows it on the host: nothing else passes.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
}

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { state, flags } => {
            let query: Vec<_> = state.map(|state| ("state".to_owned(), state)).into_iter().collect();
            list::run(client, screen, ROOT, &query, &flags, &SHEET).await
        }
        Command::Approve(which) => decide(client, screen, which, "approve").await,
        Command::Reject(which) => decide(client, screen, which, "reject").await,
    }
}

pub(super) async fn decide(client: &Client, screen: &mut Screen, which: Which, act: &str) -> Result<(), Failure> {
    let asked = find(client, &which).await?;
    let item = client.post(&format!("{ROOT}/{}/{act}", field(&asked, "id")), json!({ "reason": which.reason })).await?;
    screen.one(&item, |item| field(item, "id"), facts)
}

/// The request that is meant: by its id, or the one that waits to be a service.
async fn find(client: &Client, which: &Which) -> Result<Value, Failure> {
    let found = match which.request.parse::<ServiceKey>() {
        Err(_) => vec![client.get(&format!("{ROOT}/{}", which.request), &[]).await?],
        Ok(key) => {
            let query = [("service".to_owned(), key.to_string())];
            let listed = client.list(ROOT, &query, 100).await?;
            listed.items.into_iter().filter(|item| field(item, "state") != "expired").collect()
        }
    };
    let begins = |item: &Value| {
        which.fingerprint.as_ref().is_none_or(|wanted| field(item, "fingerprint").starts_with(&wanted.to_lowercase()))
    };
    let mut fitting = found.into_iter().filter(begins);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::usage(format!(
            "no request for {} with that fingerprint waits: see `rollcall-collector approvals list`",
            which.request
        ))),
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "several keys ask to be {}: give the request's id, or --fingerprint",
            which.request
        ))),
    }
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("state", |item, _| Word::state(field(item, "state"))),
        Column::new("service", |item, _| word(item, "service")),
        Column::new("parent", |item, _| word(item, "parent")),
        Column::new("fingerprint", |item, _| {
            Word::plain(field(item, "fingerprint").chars().take(16).collect::<String>())
        }),
        Column::new("from", |item, _| word(item, "from")),
        Column::new("asked", |item, now| age(item, "first_asked", now)),
        Column::new("last", |item, now| age(item, "last_asked", now)),
        Column::hidden("token", |item, _| word(item, "token")),
        Column::hidden("by", |item, _| word(item, "decided_by")),
        Column::hidden("reason", |item, _| word(item, "reason")),
    ],
    id: |item| field(item, "id"),
    told: &["state"],
    none: "nobody asks",
    max: 1_000,
};

fn facts(item: &Value) -> Vec<(&'static str, Word)> {
    let mut facts = vec![
        ("id", word(item, "id")),
        ("state", Word::state(field(item, "state"))),
        ("service", word(item, "service")),
        ("parent", word(item, "parent")),
        ("fingerprint", word(item, "fingerprint")),
        ("from", word(item, "from")),
        ("token", word(item, "token")),
        ("first asked", age(item, "first_asked", now())),
    ];
    for (name, heading) in [("decided_by", "decided by"), ("reason", "reason")] {
        if !field(item, name).is_empty() {
            facts.push((heading, word(item, name)));
        }
    }
    facts
}
