//! The operator's commands on services.

mod picture;

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use rollcall_common::{
    id::{Kind, NameError, ServiceId, ServiceKey},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Listed, Output},
    print::{Screen, Word, age, field, now, word},
    watch,
};
use crate::config::duration;

pub(super) const ROOT: &str = "/api/admin/services";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List services.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one service with its identity and its host.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Show pollers, the agents under them, and the checkers under those.
    Tree {
        /// Only what is below this service, as in poller/site-3.
        root: Option<ServiceKey>,
        /// At most so many services.
        #[arg(long, default_value_t = 1000, value_name = "N")]
        max: usize,
    },
    /// Show when a service was alive, lost, stopped or not observed.
    History {
        #[command(flatten)]
        which: Which,
        /// At most so many intervals.
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Show what later findings replaced, too.
        #[arg(long)]
        superseded: bool,
    },
    /// Register a service ahead of its first heartbeat.
    #[command(
        after_help = "Example:\n  rollcall-collector services register agent/edge-17 --parent site-3 --label site=3"
    )]
    Register(RegisterArgs),
    /// Refuse a service from now on and close its connection.
    Revoke(Change),
    /// Take a revocation back.
    Unrevoke(Change),
    /// Delete a service softly; it can be recovered for 7 days.
    Delete(Change),
    /// Take a soft deletion back.
    Recover(Change),
    /// Remove the record of an inactive, revoked or deleted service at once; the audit trail stays.
    Remove(Change),
}

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector services list --kind agent --parent site-3
  rollcall-collector services list --presence lost,late --label env=prod
  rollcall-collector services list --status pending --output raw
  rollcall-collector services list --watch";

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// poller, agent, checker or instance.
    #[arg(long)]
    kind: Option<Kind>,
    /// pending, active, inactive, revoked, deleted; several with commas.
    #[arg(long, value_name = "WORDS")]
    status: Option<String>,
    /// never_seen, alive, late, lost, stopped, unknown; several with commas.
    #[arg(long, value_name = "WORDS")]
    presence: Option<String>,
    /// healthy, degraded, unhealthy, unchecked; several with commas.
    #[arg(long, value_name = "WORDS")]
    health: Option<String>,
    /// edge_onboarding, k8s_spiffe, config, implicit, http; several with commas.
    #[arg(long, value_name = "WORDS")]
    source: Option<String>,
    /// Only children of the service with this id.
    #[arg(long, value_name = "ID")]
    parent: Option<ServiceId>,
    /// Only checkers of this kind.
    #[arg(long, value_name = "KIND")]
    checker_kind: Option<ServiceId>,
    /// Only with this label, as in site=3, or with any value, as in site.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Only with this text in id, parent, component, labels, metadata or host name.
    #[arg(long, short = 'q', value_name = "TEXT")]
    query: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max: u32,
    /// Go on looking: a picture on a terminal, changed lines elsewhere. Optionally how often.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = every)]
    watch: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// Kind and id, as in agent/edge-17.
    service: ServiceKey,
    /// Id of its parent: required for agents and checkers.
    #[arg(long, value_name = "ID")]
    parent: Option<ServiceId>,
    /// What a checker checks, as in snmp.
    #[arg(long, value_name = "KIND")]
    checker_kind: Option<ServiceId>,
    /// The onboarding package's component.
    #[arg(long, value_name = "ID")]
    component_id: Option<String>,
    /// A label, as in site=3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Free metadata, as in rack=b7; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Kind and id, as in agent/edge-17, or the id alone where one kind has it.
    service: Name,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    which: Which,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
}

/// A service as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Key(ServiceKey),
    Id(ServiceId),
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('/') { text.parse().map(Self::Key) } else { text.parse().map(Self::Id) }
    }
}

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(client, screen, args).await,
        Command::Show { which } => show(client, screen, &which).await,
        Command::Tree { root, max } => tree(client, screen, root, max).await,
        Command::History { which, limit, superseded } => history(client, screen, &which, limit, superseded).await,
        Command::Register(args) => register(client, screen, args).await,
        Command::Revoke(change) => act(client, screen, &change, "revoke").await,
        Command::Unrevoke(change) => act(client, screen, &change, "unrevoke").await,
        Command::Delete(change) => act(client, screen, &change, "delete").await,
        Command::Recover(change) => act(client, screen, &change, "recover").await,
        Command::Remove(change) => remove(client, screen, &change).await,
    }
}

async fn list(client: &Client, screen: &mut Screen, args: ListArgs) -> Result<(), Failure> {
    let max = usize::try_from(args.max).unwrap_or(usize::MAX);
    let watch = args.watch;
    let (path, query) = question(args);
    if let Some(every) = watch {
        return watch::run(client, screen, &path, &query, max, every).await;
    }
    let listed = client.list(&path, &query, max).await?;
    print_list(screen, &listed, now())?;
    Ok(())
}

fn question(args: ListArgs) -> (String, Vec<(String, String)>) {
    let path = args.kind.map_or(ROOT.to_owned(), |kind| format!("{ROOT}/{}", kind.plural()));
    let given = [
        ("status", args.status),
        ("presence", args.presence),
        ("health", args.health),
        ("source", args.source),
        ("parent", args.parent.map(String::from)),
        ("checker_kind", args.checker_kind.map(String::from)),
        ("q", args.query),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let labels = args.label.into_iter().map(|label| ("label".to_owned(), label));
    (path, given.chain(labels).collect())
}

/// Prints a list in the form that was asked for.
pub(super) fn print_list(screen: &mut Screen, listed: &Listed, now: Timestamp) -> Result<(), Failure> {
    match screen.output() {
        Output::Json => {
            let document = json!({
                "items": listed.items, "more": listed.more, "seq": listed.seq, "epoch": listed.epoch,
            });
            screen.json(&document)?;
        }
        Output::Raw => {
            for item in &listed.items {
                screen.line(&key_of(item))?;
            }
        }
        Output::Table => {
            let headings = ["KIND", "ID", "PARENT", "STATUS", "PRESENCE", "HEALTH", "LAST SEEN", "FROM"];
            let rows = listed.items.iter().map(|item| row(item, now)).collect();
            screen.table(&headings, rows)?;
            if listed.items.is_empty() {
                screen.line("nothing matches")?;
            } else if listed.more {
                screen.line(&format!("… and more: only the first {} are shown, see --max", listed.items.len()))?;
            }
        }
    }
    Ok(())
}

fn row(item: &Value, now: Timestamp) -> Vec<Word> {
    let kind = match field(item, "checker_kind") {
        checks if checks.is_empty() => word(item, "kind"),
        checks => Word::plain(format!("{} {checks}", field(item, "kind"))),
    };
    let from = field(item, "connected_from");
    vec![
        kind,
        word(item, "id"),
        word(item, "parent"),
        Word::state(field(item, "status")),
        presence(item),
        Word::state(item.get("health").map(|health| field(health, "health")).unwrap_or_default()),
        age(item, "last_seen", now),
        if from.is_empty() { Word::faint("-") } else { Word::plain(from) },
    ]
}

/// The presence, with the reason where there is no verdict.
pub(super) fn presence(item: &Value) -> Word {
    let presence = Word::state(field(item, "presence"));
    match field(item, "presence_reason") {
        why if why.is_empty() => presence,
        why => presence.because(&why),
    }
}

/// `kind/id` of an item.
pub(super) fn key_of(item: &Value) -> String {
    format!("{}/{}", field(item, "kind"), field(item, "id"))
}

async fn show(client: &Client, screen: &mut Screen, which: &Which) -> Result<(), Failure> {
    let item = client.get(&which.path(), &[]).await?;
    print_one(screen, &item)
}

fn print_one(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    match screen.output() {
        Output::Json => screen.json(item)?,
        Output::Raw => screen.line(&key_of(item))?,
        Output::Table => screen.facts(picture::facts(item, now()))?,
    }
    Ok(())
}

async fn tree(client: &Client, screen: &mut Screen, root: Option<ServiceKey>, max: usize) -> Result<(), Failure> {
    let mut query = vec![("limit".to_owned(), max.clamp(1, 10_000).to_string())];
    query.extend(root.map(|root| ("root".to_owned(), root.to_string())));
    let tree = client.get(&format!("{ROOT}/tree"), &query).await?;
    if screen.output() == Output::Json {
        screen.json(&tree)?;
        return Ok(());
    }
    let mut rows = Vec::new();
    picture::branch(&tree, "items", "", screen.output() == Output::Raw, &mut rows);
    if screen.output() == Output::Raw {
        for row in rows {
            screen.line(row.first().map(Word::text).unwrap_or_default())?;
        }
        return Ok(());
    }
    screen.table(&["SERVICE", "STATUS", "PRESENCE", "HEALTH"], rows)?;
    if tree.get("truncated").and_then(Value::as_bool) == Some(true) {
        screen.line("… and more: see --max, or name a root")?;
    }
    Ok(())
}

async fn history(
    client: &Client,
    screen: &mut Screen,
    which: &Which,
    limit: u16,
    superseded: bool,
) -> Result<(), Failure> {
    let key = which.key(client).await?;
    let query = [("limit".to_owned(), limit.to_string()), ("superseded".to_owned(), superseded.to_string())];
    let page = client.get(&format!("{}/history", path(&key)), &query).await?;
    if screen.output() == Output::Json {
        screen.json(&page)?;
        return Ok(());
    }
    let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = items.iter().map(|item| {
        let superseded = field(item, "superseded_at");
        vec![
            word(item, "from"),
            if field(item, "to").is_empty() { Word::plain("now") } else { word(item, "to") },
            Word::state(field(item, "presence")),
            word(item, "cause"),
            word(item, "decided_at"),
            if superseded.is_empty() { Word::plain("") } else { Word::faint(format!("replaced {superseded}")) },
        ]
    });
    screen.table(&["FROM", "TO", "PRESENCE", "CAUSE", "DECIDED", ""], rows.collect())?;
    Ok(())
}

async fn register(client: &Client, screen: &mut Screen, args: RegisterArgs) -> Result<(), Failure> {
    let map = |pairs: Vec<(String, String)>| pairs.into_iter().collect::<BTreeMap<_, _>>();
    let body = json!({
        "id": args.service.id,
        "parent": args.parent,
        "checker_kind": args.checker_kind,
        "component_id": args.component_id,
        "labels": map(args.label),
        "metadata": map(args.metadata),
    });
    let item = client.post(&format!("{ROOT}/{}", args.service.kind.plural()), body).await?;
    print_one(screen, &item)
}

async fn act(client: &Client, screen: &mut Screen, change: &Change, act: &str) -> Result<(), Failure> {
    let key = change.which.key(client).await?;
    let body = json!({ "act": act, "reason": change.reason });
    let item = client.post(&format!("{}/status", path(&key)), body).await?;
    match screen.output() {
        Output::Json | Output::Raw => print_one(screen, &item),
        Output::Table => Ok(screen.line(&format!("{key} is {} now", field(&item, "status")))?),
    }
}

async fn remove(client: &Client, screen: &mut Screen, change: &Change) -> Result<(), Failure> {
    let key = change.which.key(client).await?;
    let reason = Some(&change.reason).filter(|reason| !reason.is_empty());
    let query: Vec<_> = reason.map(|reason| ("reason".to_owned(), reason.clone())).into_iter().collect();
    client.delete(&path(&key), &query).await?;
    match screen.output() {
        Output::Json => screen.json(&json!({ "removed": key.to_string() }))?,
        Output::Raw => screen.line(&key.to_string())?,
        Output::Table => screen.line(&format!("{key} is removed; its audit trail stays"))?,
    }
    Ok(())
}

impl Which {
    fn path(&self) -> String {
        match &self.service {
            Name::Key(key) => path(key),
            Name::Id(id) => format!("{ROOT}/{id}"),
        }
    }

    /// The kind is looked up where the operator left it out.
    async fn key(&self, client: &Client) -> Result<ServiceKey, Failure> {
        match &self.service {
            Name::Key(key) => Ok(key.clone()),
            Name::Id(_) => {
                let item = client.get(&self.path(), &[]).await?;
                key_of(&item).parse().map_err(|error: NameError| Failure::usage(error.to_string()))
            }
        }
    }
}

fn path(key: &ServiceKey) -> String {
    format!("{ROOT}/{}/{}", key.kind.plural(), key.id)
}

/// `key=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write KEY=VALUE, as in site=3".into())
}

fn every(text: &str) -> Result<Duration, String> {
    let every = duration::parse(text).map_err(|error| error.to_string())?;
    if every < Duration::from_millis(200) { Err("at most five times a second".into()) } else { Ok(every) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_asks_what_its_flags_say() {
        let args = ListArgs {
            kind: Some(Kind::Agent),
            status: Some("active,inactive".into()),
            presence: None,
            health: None,
            source: None,
            parent: Some("site-3".parse().unwrap()),
            checker_kind: None,
            label: vec!["env=prod".into(), "rack".into()],
            query: Some("zürich & co".into()),
            max: 10,
            watch: None,
        };
        let (path, query) = question(args);
        assert_eq!(path, "/api/admin/services/agents");
        let shown: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["status=active,inactive", "parent=site-3", "q=zürich & co", "label=env=prod", "label=rack"]);
    }

    #[test]
    fn names_and_pairs_are_read() {
        assert_eq!("agents/x".parse::<Name>().unwrap(), Name::Key("agent/x".parse().unwrap()));
        assert_eq!("x".parse::<Name>().unwrap(), Name::Id("x".parse().unwrap()));
        assert!("robot/x".parse::<Name>().is_err() && "../x".parse::<Name>().is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("a").is_err());
    }
}
