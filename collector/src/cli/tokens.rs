//! The operator's commands on onboarding tokens.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use rollcall_common::{
    address::Address,
    id::{Kind, ServiceId},
    time::Timestamp,
    token::TokenId,
};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Output},
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, now, word},
    services::{bulk, pair},
};
use crate::{
    cidr::Cidr,
    config::duration,
    naming::{IdPattern, ParentRule},
};

const ROOT: &str = "/api/admin/tokens";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token; its secret is shown once and never again.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List tokens, without their secrets.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        /// usable, not_yet_valid, expired, exhausted or revoked.
        #[arg(long, value_name = "WORD")]
        state: Option<String>,
        /// poller, agent, checker or instance; several with commas.
        #[arg(long, value_name = "KINDS")]
        kind: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show one token, without its secret.
    #[command(after_help = "Example:\n  rollcall-collector tokens show nq2k6zjw4m5pd3xo")]
    Show {
        /// The token's id: the part after rollcall_enr1_.
        #[arg(value_parser = id)]
        token: TokenId,
    },
    /// Make a token useless; services that it registered stay, unless --cascade is said.
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(RevokeArgs),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  rollcall-collector tokens create --kind poller --id site-3
  rollcall-collector tokens create --kind agent --parent site-3 --id-prefix edge- --uses 200 --ttl 7d
  rollcall-collector tokens create --kind agent --id-pattern 'edge-*' --max-uses 500 --ephemeral-after 1h \
      --parent-from-label site=poller-{}
  rollcall-collector tokens create --kind agent --parent site-3 --approval manual --ttl 7d
  rollcall-collector tokens create --kind poller --id site-3 --implicit-children
  rollcall-collector tokens create --kind poller --local --output raw
  umask 077; rollcall-collector tokens create --kind agent --parent site-3 --output raw > edge-17.token

A redirection into a file that is there keeps that file's mode: where it was readable, remove it first.";

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector tokens list --state usable --kind agent
  rollcall-collector tokens list --columns id,kind,created_by,last_used";

const REVOKE_EXAMPLES: &str = "\
Examples:
  rollcall-collector tokens revoke nq2k6zjw4m5pd3xo
  rollcall-collector tokens revoke nq2k6zjw4m5pd3xo --cascade
  rollcall-collector tokens revoke nq2k6zjw4m5pd3xo --cascade --expect 12 --reason 'the token leaked'";

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The token's id: the part after rollcall_enr1_.
    #[arg(value_parser = id)]
    token: TokenId,
    /// Revoke the services, too, whose identity it has bound: shows them and asks first.
    #[arg(long)]
    cascade: bool,
    /// With --cascade: do it without asking, if it is exactly so many services.
    #[arg(long, value_name = "N", requires = "cascade")]
    expect: Option<usize>,
    /// With --cascade: why, for the audit trail.
    #[arg(long, default_value = "", requires = "cascade")]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it registers: poller, agent, checker or instance.
    #[arg(long)]
    kind: Kind,
    /// Id of the parent: of the poller for an agent, of the agent for a checker.
    #[arg(long, value_name = "ID")]
    parent: Option<ServiceId>,
    /// Find the parent by a label of the sidecar, as in site=poller-{}: its value takes the place of {}.
    #[arg(long, value_name = "LABEL=ID", conflicts_with = "parent")]
    parent_from_label: Option<ParentRule>,
    /// Give exactly this id.
    #[arg(long, value_name = "ID", conflicts_with_all = ["id_prefix", "id_pattern", "assigned"])]
    id: Option<ServiceId>,
    /// Let the sidecar choose an id with this prefix.
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["id_pattern", "assigned"])]
    id_prefix: Option<String>,
    /// Let the sidecar choose an id that follows this pattern: * stands for any run of characters, ? for one.
    #[arg(long, value_name = "PATTERN", conflicts_with = "assigned")]
    id_pattern: Option<IdPattern>,
    /// Let the collector make an id up; so it does where nothing is said.
    #[arg(long)]
    assigned: bool,
    /// What a checker checks, as in snmp.
    #[arg(long, value_name = "KIND")]
    checker_kind: Option<ServiceId>,
    /// How many hosts may use it.
    #[arg(long, visible_alias = "max-uses", value_name = "N", default_value_t = 1)]
    uses: u32,
    /// auto: the token alone decides; manual: an operator decides on each host (see `approvals`).
    #[arg(long, value_name = "WORD", default_value = "auto", value_parser = ["auto", "manual"])]
    approval: String,
    /// Remove what it registers so long after its goodbye or loss, and never alert of it: for hosts that
    /// come and go, as in 1h.
    #[arg(long, value_name = "DURATION", value_parser = life)]
    ephemeral_after: Option<String>,
    /// Let the sidecars register children that are not known yet, by reporting them.
    #[arg(long)]
    implicit_children: bool,
    /// How long it can be used, as in 1h or 7d; at most 30d.
    #[arg(long, value_name = "DURATION", default_value = "1h", conflicts_with = "expires_at", value_parser = life)]
    ttl: String,
    /// Until when it can be used, as in 2026-11-21T02:46:00Z.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// From when it can be used.
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Where it may be used from, as in 192.0.2.0/24; may be repeated.
    #[arg(long, value_name = "RANGE")]
    cidr: Vec<Cidr>,
    /// A label for every service that it registers, as in site=3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// How often an expired identity may rejoin: a number or "unlimited".
    #[arg(long, value_name = "N", value_parser = rejoins)]
    rejoin_limit: Option<Value>,
    /// A note, for whoever reads the list.
    #[arg(long, default_value = "")]
    note: String,
    /// For a sidecar on the collector's own host: the token carries a loopback address.
    #[arg(long)]
    local: bool,
    /// Where the sidecar dials, instead of what the collector advertises; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<Address>,
}

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(client, screen, *args).await,
        Command::List { state, kind, flags } => list(client, screen, [("state", state), ("kind", kind)], &flags).await,
        Command::Show { token } => show(screen, &client.get(&format!("{ROOT}/{token}"), &[]).await?),
        Command::Revoke(args) if args.cascade => revoke_with_services(client, screen, args).await,
        Command::Revoke(args) => {
            let token = args.token;
            let item = client.post(&format!("{ROOT}/{token}/revoke"), json!({})).await?;
            match screen.output() {
                Output::Json | Output::Raw => show(screen, &item),
                Output::Table => Ok(screen.line(&format!("token {token} is revoked; what it registered stays"))?),
            }
        }
    }
}

/// First the preview, then the token, so that nobody else comes in by it, then exactly the services that were shown.
async fn revoke_with_services(client: &Client, screen: &mut Screen, args: RevokeArgs) -> Result<(), Failure> {
    let RevokeArgs { token, expect, reason, .. } = args;
    let body = json!({ "act": "revoke", "selector": { "token": token }, "reason": reason });
    let count = bulk::confirmed(client, screen, &body, expect).await?;
    let path = format!("{ROOT}/{token}");
    // The same command, said again, goes on with the services.
    let item = match field(&client.get(&path, &[]).await?, "state").as_str() {
        "revoked" => client.get(&path, &[]).await?,
        _ => client.post(&format!("{path}/revoke"), json!({})).await?,
    };
    let done = bulk::perform(client, &body, count).await?;
    match screen.output() {
        Output::Json | Output::Raw => screen.json(&json!({ "token": item, "count": count, "done": done }))?,
        Output::Table => screen.line(&format!("token {token} is revoked, and so are {done} services"))?,
    }
    bulk::whole(done, count)
}

async fn create(client: &Client, screen: &mut Screen, args: CreateArgs) -> Result<(), Failure> {
    let item = client.create(ROOT, body(args)).await?;
    match screen.output() {
        Output::Json => screen.json(&item)?,
        Output::Raw => screen.line(&field(&item, "token"))?,
        Output::Table => {
            // In full and on a line of its own, whatever the terminal's width.
            screen.line(&field(&item, "token"))?;
            screen.line("")?;
            let mut facts = facts(&item, now());
            let addresses = item.get("addresses").and_then(Value::as_array).into_iter().flatten();
            let addresses: Vec<&str> = addresses.filter_map(Value::as_str).collect();
            facts.push(("dials", Word::plain(addresses.join(", "))));
            screen.facts(facts)?;
            screen.line("")?;
            screen.line("This is the only time that the secret is shown. On the host, put it into")?;
            screen.line("/etc/rollcall/agent/token (mode 0600) and start rollcall-agent.")?;
        }
    }
    Ok(())
}

fn body(args: CreateArgs) -> Value {
    let mut body = json!({
        "kind": args.kind,
        "max_uses": args.uses,
        "cidr_allow": args.cidr,
        "labels": args.label.into_iter().collect::<BTreeMap<_, _>>(),
        "note": args.note,
        "local": args.local,
        "assigned": args.assigned,
        "approval": args.approval,
        "implicit_children": args.implicit_children,
        "addresses": args.address,
    });
    let ttl = args.expires_at.is_none().then_some(args.ttl);
    let given = [
        ("parent", args.parent.map(|id| json!(id))),
        ("id", args.id.map(|id| json!(id))),
        ("id_prefix", args.id_prefix.map(|prefix| json!(prefix))),
        ("id_pattern", args.id_pattern.map(|pattern| json!(pattern))),
        ("parent_rule", args.parent_from_label.map(|rule| json!(rule))),
        ("ephemeral_after", args.ephemeral_after.map(|time| json!(time))),
        ("checker_kind", args.checker_kind.map(|kind| json!(kind))),
        ("ttl", ttl.map(|ttl| json!(ttl))),
        ("expires_at", args.expires_at.map(|time| json!(time))),
        ("not_before", args.not_before.map(|time| json!(time))),
        ("rejoin_limit", args.rejoin_limit),
    ];
    if let Some(object) = body.as_object_mut() {
        object.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    body
}

async fn list(
    client: &Client,
    screen: &mut Screen,
    given: [(&str, Option<String>); 2],
    flags: &Flags,
) -> Result<(), Failure> {
    let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    list::run(client, screen, ROOT, &query, flags, &SHEET).await
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("state", |item, _| Word::state(field(item, "state"))),
        Column::new("kind", |item, _| word(item, "kind")),
        Column::new("parent", |item, _| word(item, "parent")),
        Column::new("gives", |item, _| Word::plain(rule(item))),
        Column::new("uses", |item, _| Word::plain(format!("{}/{}", field(item, "uses"), field(item, "max_uses")))),
        Column::new("expires", |item, now| age(item, "expires_at", now)),
        Column::new("note", |item, _| word(item, "note")),
        Column::hidden("created_by", |item, _| word(item, "created_by")),
        Column::hidden("last_used", |item, now| age(item, "last_used_at", now)),
    ],
    id: |item| field(item, "id"),
    told: &["state", "uses"],
    none: "there are none",
    max: 1_000,
};

fn show(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    screen.one(item, |item| field(item, "id"), |item| facts(item, now()))
}

fn facts(item: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let list = |name: &str| {
        let items = item.get(name).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut facts = vec![
        ("id", word(item, "id")),
        ("state", Word::state(field(item, "state"))),
        ("registers", Word::plain(format!("{}, {}", field(item, "kind"), rule(item)))),
        ("parent", word(item, "parent")),
        ("uses", Word::plain(format!("{} of {}", field(item, "uses"), field(item, "max_uses")))),
        ("expires", age(item, "expires_at", now)),
        ("created by", word(item, "created_by")),
        ("last used", age(item, "last_used_at", now)),
    ];
    for (name, heading) in [("checker_kind", "checks"), ("last_used_from", "used from"), ("note", "note")] {
        if !field(item, name).is_empty() {
            facts.push((heading, word(item, name)));
        }
    }
    if let Some(rule) = item.get("parent_rule").filter(|rule| rule.is_object()) {
        let words = format!("{}, by the label {}", field(rule, "parent"), field(rule, "label"));
        facts.push(("finds parent", Word::plain(words)));
    }
    if field(item, "approval") == "manual" {
        facts.push(("approval", Word::plain("an operator decides on each host")));
    }
    if let Some(secs) = item.get("ephemeral_after_secs").and_then(Value::as_u64) {
        facts.push(("removed", Word::plain(format!("{secs} s after goodbye or loss"))));
    }
    if item.get("implicit_children") == Some(&Value::Bool(true)) {
        facts.push(("children", Word::plain("its sidecars may register unknown ones")));
    }
    if !list("cidr_allow").is_empty() {
        facts.push(("only from", Word::plain(list("cidr_allow"))));
    }
    facts
}

/// What id a token gives, in words.
fn rule(item: &Value) -> String {
    let rule = item.get("id_rule").cloned().unwrap_or_default();
    match field(&rule, "rule").as_str() {
        "fixed" => field(&rule, "id"),
        "prefix" => format!("{}*", field(&rule, "prefix")),
        "pattern" => field(&rule, "pattern"),
        _ => "assigned".into(),
    }
}

/// Accepts a whole token, too, and takes its public half: people copy what they have.
fn id(text: &str) -> Result<TokenId, String> {
    let rest = text.trim().strip_prefix("rollcall_enr1_").unwrap_or(text.trim());
    let id = rest.split('_').next().unwrap_or_default();
    id.parse().map_err(|_| "give the token's id: 16 letters and digits, as `token list` shows it".into())
}

fn life(text: &str) -> Result<String, String> {
    duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn rejoins(text: &str) -> Result<Value, String> {
    match text.parse::<u32>() {
        Ok(times) => Ok(json!(times)),
        Err(_) if text == "unlimited" => Ok(json!("unlimited")),
        Err(_) => Err("write a number or \"unlimited\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_from_whatever_was_copied() {
        let id_text = TokenId([7; 10]).to_string();
        for text in [id_text.clone(), format!("rollcall_enr1_{id_text}_secretsecret"), format!(" {id_text}\n")] {
            assert_eq!(id(&text), Ok(TokenId([7; 10])));
        }
        let message = id("rollcall_enr1_short_hush").unwrap_err();
        assert!(!message.contains("hush"), "{message}");
    }

    #[test]
    fn rejoin_limits_are_numbers_or_one_word() {
        assert_eq!(rejoins("3"), Ok(json!(3)));
        assert_eq!(rejoins("unlimited"), Ok(json!("unlimited")));
        assert!(rejoins("-1").is_err() && rejoins("many").is_err());
    }
}
