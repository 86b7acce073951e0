//! The operator's commands on services.

pub(super) mod bulk;
mod change;
mod more;
mod picture;
mod settings;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    token::TokenId,
};
use serde_json::{Value, json};

pub(super) use super::which::{ROOT, key_of};
use super::{
    Failure,
    client::{Client, Output},
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, now, word},
    which::{Named, Which, path},
};
use crate::config::duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List services.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List(Box<ListArgs>),
    /// Show one service with its identity and its host.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Show pollers, the agents under them, and the checkers under those.
    #[command(
        after_help = "Examples:\n  rollcall-collector services tree\n  rollcall-collector services tree poller/site-3"
    )]
    Tree {
        /// Only what is below this service, as in poller/site-3.
        root: Option<ServiceKey>,
        /// At most so many services.
        #[arg(long, default_value_t = 1000, value_name = "N")]
        max: usize,
    },
    /// Show when a service was alive, lost, stopped or not observed.
    #[command(after_help = "Example:\n  rollcall-collector services history agent/edge-17 --limit 10")]
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
    /// Change labels, metadata and the like of a service.
    #[command(
        after_help = "Example:\n  rollcall-collector services edit agent/edge-17 --label site=3 --unset-label rack"
    )]
    Edit(Box<change::EditArgs>),
    /// Show, set and take back the settings of a sidecar: its pace, and how its probes run.
    #[command(after_help = settings::HELP)]
    Settings(settings::SettingsArgs),
    /// Ask whether a service is known: registered and neither revoked nor deleted.
    #[command(after_help = "Example:\n  rollcall-collector services known poller/site-3 --output raw")]
    Known {
        #[command(flatten)]
        service: Named,
    },
    /// Let a revoked service enroll afresh, with a token of its own.
    #[command(
        after_help = "Example:\n  rollcall-collector services reenroll agent/edge-17 --revoke --reason 'disk replaced'"
    )]
    Reenroll(change::ReenrollArgs),
    /// Let a host in that waits to be this service: the same as `approvals approve`.
    #[command(after_help = "Example:\n  rollcall-collector services approve agent/edge-17 --fingerprint 3f9a")]
    Approve(super::approvals::Which),
    /// Do one act to many services; shows what it would do and asks first.
    #[command(after_help = BULK_EXAMPLES)]
    Bulk(bulk::BulkArgs),
    /// Set an active service inactive without waiting for its time; its next heartbeat makes it active again.
    #[command(after_help = "Example:\n  rollcall-collector services deactivate agent/edge-17 --reason 'host is off'")]
    Deactivate(Change),
    /// Refuse a service from now on and close its connection.
    #[command(after_help = "Example:\n  rollcall-collector services revoke agent/edge-17 --reason 'host stolen'")]
    Revoke(Barring),
    /// Take a revocation back.
    #[command(after_help = "Example:\n  rollcall-collector services unrevoke agent/edge-17")]
    Unrevoke(Change),
    /// Delete a service softly; it can be recovered for 7 days.
    #[command(after_help = "Example:\n  rollcall-collector services delete agent/edge-17 --reason 'host retired'")]
    Delete(Barring),
    /// Take a soft deletion back.
    #[command(after_help = "Example:\n  rollcall-collector services recover agent/edge-17")]
    Recover(Change),
    /// Remove the record of an inactive, revoked or deleted service at once; the audit trail stays.
    #[command(after_help = "Example:\n  rollcall-collector services remove agent/edge-17")]
    Remove(Change),
}

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector services list --kind agent --parent site-3
  rollcall-collector services list --presence lost,late --label env=prod
  rollcall-collector services list --status pending --output raw
  rollcall-collector services list --order=-last_seen --max 20
  rollcall-collector services list --subtree poller/site-3 --seen-before 7d
  rollcall-collector services list --maintenance false --presence-reason brake
  rollcall-collector services list --columns id,presence,labels.site --no-headers
  rollcall-collector services list --fields id,status,labels.site --output json
  rollcall-collector services list --progress stalled --columns id,progress
  rollcall-collector services list --settings refused,unsupported
  rollcall-collector services list --machine f94cd30f4da540fcba130e6f8775480d
  rollcall-collector services list --watch";

const BULK_EXAMPLES: &str = "\
Examples:
  rollcall-collector services bulk delete --selector status=inactive --selector subtree=poller/site-3
  rollcall-collector services bulk revoke --selector label=site=3 --cascade --reason 'site closed' --expect 12
  rollcall-collector services bulk recover --selector status=deleted --dry-run --output json";

const SHOW_EXAMPLES: &str = "\
Examples:
  rollcall-collector services show agent/edge-17
  rollcall-collector services show edge-17 --output yaml";

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
    /// Only those that this onboarding token let in.
    #[arg(long, value_name = "ID")]
    token: Option<TokenId>,
    /// Only with this text in id, parent, component, labels, metadata or host name.
    #[arg(long, short = 'q', value_name = "TEXT")]
    query: Option<String>,
    /// key, first_registered, status_since or last_seen; with a minus in front the other way round.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    order: Option<String>,
    #[command(flatten)]
    more: more::MoreArgs,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    service: Named,
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
    /// http, config or k8s_spiffe.
    #[arg(long, value_name = "WORD")]
    source: Option<String>,
    /// The SPIFFE id that it is registered with.
    #[arg(long, value_name = "SPIFFE ID")]
    spiffe_identity: Option<String>,
    /// It stands in the tree for what has no sidecar.
    #[arg(long)]
    placeholder: bool,
    /// Its sidecar may register children that are not known yet.
    #[arg(long)]
    implicit_children: bool,
    /// Remove it so long after its goodbye or loss, and never alert of it, as in 1h.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    ephemeral_after: Option<u64>,
}

fn seconds(text: &str) -> Result<u64, String> {
    duration::parse(text).map(|time| time.as_secs()).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
pub(super) struct Barring {
    #[command(flatten)]
    change: Change,
    /// Take along everything below it.
    #[arg(long)]
    cascade: bool,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    which: Which,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    bound: Bound,
}

/// A change of what was looked at, and of nothing newer.
#[derive(Debug, Args)]
pub(super) struct Bound {
    /// Only if it is still of this version, as `services show` tells it.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    if_match: Option<String>,
}

impl Bound {
    fn tag(&self) -> Option<&str> {
        self.if_match.as_deref()
    }
}

/// A version with or without the quotes that HTTP puts around it.
fn version(text: &str) -> Result<String, String> {
    let bare = text.trim().trim_matches('"');
    let good = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if good { Ok(format!("\"{bare}\"")) } else { Err("write the version as `services show` does, as in 1-42".into()) }
}

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(client, screen, *args).await,
        Command::Approve(which) => super::approvals::decide(client, screen, which, "approve").await,
        Command::Show { which } => show(client, screen, &which).await,
        Command::Tree { root, max } => tree(client, screen, root, max).await,
        Command::History { which, limit, superseded } => history(client, screen, &which, limit, superseded).await,
        Command::Register(args) => register(client, screen, args).await,
        Command::Edit(args) => change::edit(client, screen, *args).await,
        Command::Settings(args) => settings::run(client, screen, args).await,
        Command::Known { service } => change::known(client, screen, &service).await,
        Command::Reenroll(args) => change::reenroll(client, screen, args).await,
        Command::Bulk(args) => bulk::run(client, screen, args).await,
        Command::Deactivate(change) => act(client, screen, &change, "deactivate", false).await,
        Command::Revoke(bars) => act(client, screen, &bars.change, "revoke", bars.cascade).await,
        Command::Unrevoke(change) => act(client, screen, &change, "unrevoke", false).await,
        Command::Delete(bars) => act(client, screen, &bars.change, "delete", bars.cascade).await,
        Command::Recover(change) => act(client, screen, &change, "recover", false).await,
        Command::Remove(change) => remove(client, screen, &change).await,
    }
}

async fn list(client: &Client, screen: &mut Screen, args: ListArgs) -> Result<(), Failure> {
    let flags = args.flags.clone();
    if args.more.fields.is_some() && screen.output() != Output::Json {
        return Err(Failure::usage("--fields goes with --output json or yaml; of a table, choose --columns"));
    }
    let (path, query) = question(args);
    list::run(client, screen, &path, &query, &flags, &SHEET).await
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
        ("token", args.token.map(|token| token.to_string())),
        ("q", args.query),
        ("order", args.order),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let labels = args.label.into_iter().map(|label| ("label".to_owned(), label));
    (path, given.chain(labels).chain(args.more.query(now())).collect())
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("kind", |item, _| match field(item, "checker_kind") {
            checks if checks.is_empty() => word(item, "kind"),
            checks => Word::plain(format!("{} {checks}", field(item, "kind"))),
        }),
        Column::new("id", |item, _| word(item, "id")),
        Column::new("parent", |item, _| word(item, "parent")),
        Column::new("status", |item, _| Word::state(field(item, "status"))),
        Column::new("presence", |item, _| presence(item)),
        Column::new("health", |item, _| {
            Word::state(item.get("health").map(|health| field(health, "health")).unwrap_or_default())
        }),
        Column::new("last_seen", |item, now| age(item, "last_seen", now)),
        Column::new("from", |item, _| word(item, "connected_from")),
        Column::hidden("transport", |item, _| word(item, "transport")),
        Column::hidden("progress", |item, _| match field(item, "progress_reason") {
            why if why.is_empty() => Word::state(field(item, "progress")),
            why => Word::state(field(item, "progress")).because(&why),
        }),
        Column::hidden("settings", |item, _| Word::state(field(item, "settings"))),
        Column::hidden("source", |item, _| word(item, "source")),
        Column::hidden("first_registered", |item, now| age(item, "first_registered", now)),
        Column::hidden("first_seen", |item, now| age(item, "first_seen", now)),
        Column::hidden("created_by", |item, _| word(item, "created_by")),
        Column::hidden("identity", |item, _| word(item, "spiffe_identity")),
    ],
    id: key_of,
    told: &["status", "presence", "health", "progress", "settings"],
    none: "nothing matches",
    max: 10_000,
};

/// The presence, with the reason where there is no verdict.
pub(super) fn presence(item: &Value) -> Word {
    let presence = Word::state(field(item, "presence"));
    match field(item, "presence_reason") {
        why if why.is_empty() => presence,
        why => presence.because(&why),
    }
}

async fn show(client: &Client, screen: &mut Screen, which: &Which) -> Result<(), Failure> {
    let answer = client.call(Method::GET, &which.path()).send().await?;
    let mut item = answer.document;
    // Beside what the collector says of it: the version that a change can be bound to.
    if let (Some(item), Some(tag)) = (item.as_object_mut(), answer.etag) {
        item.insert("version".into(), tag.trim_matches('"').into());
    }
    print_one(screen, &item)
}

fn print_one(screen: &mut Screen, item: &Value) -> Result<(), Failure> {
    screen.one(item, key_of, |item| picture::facts(item, now()))
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
    let key = args.service.key;
    let body = json!({
        "id": key.id,
        "parent": args.parent,
        "checker_kind": args.checker_kind,
        "component_id": args.component_id,
        "labels": map(args.label),
        "metadata": map(args.metadata),
        "source": args.source,
        "spiffe_identity": args.spiffe_identity,
        "placeholder": args.placeholder,
        "implicit_children": args.implicit_children,
        "ephemeral_after_secs": args.ephemeral_after,
    });
    let item = client.create(&format!("{ROOT}/{}", key.kind.plural()), body).await?;
    print_one(screen, &item)
}

async fn act(client: &Client, screen: &mut Screen, change: &Change, act: &str, cascade: bool) -> Result<(), Failure> {
    let key = change.which.key(client).await?;
    let body = json!({ "act": act, "reason": change.reason, "cascade": cascade });
    let call = client.call(Method::POST, &format!("{}/status", path(&key))).json(&body);
    let item = call.if_match(change.bound.tag()).send().await?.document;
    match screen.output() {
        Output::Json | Output::Raw => print_one(screen, &item),
        Output::Table => {
            let below = item.get("changed").and_then(Value::as_u64).unwrap_or(1).saturating_sub(1);
            let more = if below > 0 { format!(", and so are {below} below it") } else { String::new() };
            Ok(screen.line(&format!("{key} is {} now{more}", field(&item, "status")))?)
        }
    }
}

async fn remove(client: &Client, screen: &mut Screen, change: &Change) -> Result<(), Failure> {
    let key = change.which.key(client).await?;
    let reason = Some(&change.reason).filter(|reason| !reason.is_empty());
    let query: Vec<_> = reason.map(|reason| ("reason".to_owned(), reason.clone())).into_iter().collect();
    let call = client.call(Method::DELETE, &path(&key)).query(&query);
    call.if_match(change.bound.tag()).send().await?;
    match screen.output() {
        Output::Json => screen.json(&json!({ "removed": key.to_string() }))?,
        Output::Raw => screen.line(&key.to_string())?,
        Output::Table => screen.line(&format!("{key} is removed; its audit trail stays"))?,
    }
    Ok(())
}

/// `key=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write KEY=VALUE, as in site=3".into())
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
            token: None,
            query: Some("zürich & co".into()),
            order: Some("-last_seen".into()),
            more: more::MoreArgs::default(),
            flags: Flags { max: Some(10), columns: Vec::new(), no_headers: false, watch: None },
        };
        let (path, query) = question(args);
        assert_eq!(path, "/api/admin/services/agents");
        let shown: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown,
            [
                "status=active,inactive",
                "parent=site-3",
                "q=zürich & co",
                "order=-last_seen",
                "label=env=prod",
                "label=rack"
            ]
        );
    }

    #[test]
    fn versions_are_read_with_and_without_quotes() {
        assert_eq!(version("1-42"), Ok("\"1-42\"".into()));
        assert_eq!(version("\"1-42\""), version("1-42"));
        assert!(version("*").is_err() && version("").is_err() && version("a").is_err());
    }

    #[test]
    fn pairs_are_read() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("a").is_err());
    }
}
