//! The operator's commands on access: API keys, the bootstrap credential, and who the caller is.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use rollcall_common::{
    id::{Kind, ServiceId},
    token::TokenId,
};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Output},
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, now, word},
    services::pair,
};
use crate::config::duration;

const ROOT: &str = "/api/admin/keys";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key; its secret is shown once and never again.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List keys, without their secrets.
    #[command(alias = "ls", after_help = "Example:\n  rollcall-collector keys list --role enroller")]
    List {
        /// Only keys of this role.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show one key, without its secret.
    #[command(after_help = "Example:\n  rollcall-collector keys show nq2k6zjw4m5pd3xo")]
    Show {
        /// The key's id: the part after rollcall_api1_.
        #[arg(value_parser = id)]
        key: TokenId,
    },
    /// End a key at once.
    #[command(after_help = "Example:\n  rollcall-collector keys revoke nq2k6zjw4m5pd3xo")]
    Revoke {
        /// The key's id: the part after rollcall_api1_.
        #[arg(value_parser = id)]
        key: TokenId,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  rollcall-collector keys create --role metrics --note prometheus --ttl 365d --output raw > prometheus.key
  rollcall-collector keys create --role operator --scope 'site=3,env in (prod,staging)'
  rollcall-collector keys create --role enroller --kind agent --id-prefix edge- --uses 50 --longest 1h";

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// viewer, operator, admin, metrics or enroller.
    #[arg(long, value_parser = ["viewer", "operator", "admin", "metrics", "enroller"])]
    role: String,
    /// Reach only what has these labels, as in site=3,env in (prod,staging).
    #[arg(long, value_name = "TESTS", default_value = "", hide_default_value = true)]
    scope: String,
    /// How long it can be used, as in 90d; a year at most.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = life)]
    ttl: String,
    /// What it is for.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// For an enroller: a kind that its tokens may let in; may be given several times.
    #[arg(long, value_name = "KIND", help_heading = "An enroller's policy")]
    kind: Vec<Kind>,
    /// Most uses of one token.
    #[arg(long, value_name = "N", help_heading = "An enroller's policy")]
    uses: Option<u32>,
    /// Longest life of a token, as in 1h.
    #[arg(long, value_name = "DURATION", value_parser = life, help_heading = "An enroller's policy")]
    longest: Option<String>,
    /// What every id begins with.
    #[arg(long, value_name = "PREFIX", help_heading = "An enroller's policy")]
    id_prefix: Option<String>,
    /// A parent that tokens may name; may be given several times.
    #[arg(long, value_name = "ID", help_heading = "An enroller's policy")]
    parent: Vec<ServiceId>,
    /// A label that every token must carry; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, help_heading = "An enroller's policy")]
    label: Vec<(String, String)>,
}

/// Acts on the collector's own access.
#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// The credential that the first start made.
    #[command(after_help = "Example:\n  rollcall-collector admin bootstrap --close")]
    Bootstrap {
        /// End it for good. Refused where it is the last way in.
        #[arg(long, required = true)]
        close: bool,
    },
}

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(client, screen, *args).await,
        Command::List { role, flags } => {
            let query: Vec<_> = role.map(|role| ("role".to_owned(), role)).into_iter().collect();
            list::run(client, screen, ROOT, &query, &flags, &SHEET).await
        }
        Command::Show { key } => {
            let item = client.get(&format!("{ROOT}/{key}"), &[]).await?;
            Ok(screen.one(&item, |item| field(item, "id"), facts)?)
        }
        Command::Revoke { key } => {
            let item = client.post(&format!("{ROOT}/{key}/revoke"), json!({})).await?;
            match screen.output() {
                Output::Json | Output::Raw => screen.one(&item, |item| field(item, "id"), facts)?,
                Output::Table => screen.line(&format!("key {key} is revoked"))?,
            }
            Ok(())
        }
    }
}

pub(super) async fn admin(client: &Client, screen: &mut Screen, command: AdminCommand) -> Result<(), Failure> {
    let AdminCommand::Bootstrap { close: _ } = command;
    let item = client.post("/api/admin/bootstrap/close", json!({})).await?;
    match screen.output() {
        Output::Json | Output::Raw => screen.json(&item)?,
        Output::Table => screen.line(&format!("{} bootstrap credentials ended", field(&item, "closed")))?,
    }
    Ok(())
}

pub(super) async fn whoami(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let item = client.get("/api/admin/whoami", &[]).await?;
    let reach = |item: &Value| Some(field(item, "scope")).filter(|scope| !scope.is_empty());
    screen.one(
        &item,
        |item| field(item, "actor"),
        |item| {
            vec![
                ("actor", word(item, "actor")),
                ("roles", Word::plain(texts(item, "roles"))),
                ("may", Word::plain(texts(item, "permissions"))),
                ("reaches", Word::plain(reach(item).unwrap_or_else(|| "everything".into()))),
                ("expires", age(item, "expires_at", now())),
                ("collector", word(item, "collector")),
                ("trust domain", word(item, "trust_domain")),
            ]
        },
    )
}

async fn create(client: &Client, screen: &mut Screen, args: CreateArgs) -> Result<(), Failure> {
    let mut body = json!({ "role": args.role, "scope": args.scope, "ttl": args.ttl, "note": args.note });
    let given = !args.kind.is_empty()
        || args.uses.is_some()
        || args.longest.is_some()
        || args.id_prefix.is_some()
        || !args.parent.is_empty()
        || !args.label.is_empty();
    if given != (args.role == "enroller") {
        return Err(Failure::usage("an enroller's policy goes with --role enroller: give at least --kind"));
    }
    if given && let Some(object) = body.as_object_mut() {
        let policy = json!({
            "kinds": args.kind,
            "max_uses": args.uses,
            "longest": args.longest,
            "id_prefix": args.id_prefix.unwrap_or_default(),
            "parents": args.parent,
            "labels": args.label.into_iter().collect::<BTreeMap<_, _>>(),
        });
        object.insert("policy".into(), policy);
    }
    let item = client.create(ROOT, body).await?;
    match screen.output() {
        Output::Json => screen.json(&item)?,
        Output::Raw => screen.line(&field(&item, "key"))?,
        Output::Table => {
            screen.line(&field(&item, "key"))?;
            screen.line("")?;
            screen.facts(facts(&item))?;
            screen.line("")?;
            screen.line("This is the only time that the secret is shown.")?;
        }
    }
    Ok(())
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("state", |item, _| Word::state(field(item, "state"))),
        Column::new("role", |item, _| word(item, "role")),
        Column::new("scope", |item, _| word(item, "scope")),
        Column::new("expires", |item, now| age(item, "expires_at", now)),
        Column::new("used", |item, now| age(item, "last_used_at", now)),
        Column::new("note", |item, _| word(item, "note")),
        Column::hidden("created_by", |item, _| word(item, "created_by")),
    ],
    id: |item| field(item, "id"),
    told: &["state"],
    none: "there are none",
    max: 1_000,
};

fn facts(item: &Value) -> Vec<(&'static str, Word)> {
    vec![
        ("id", word(item, "id")),
        ("state", Word::state(field(item, "state"))),
        ("role", word(item, "role")),
        ("scope", word(item, "scope")),
        ("expires", age(item, "expires_at", now())),
        ("note", word(item, "note")),
    ]
}

fn texts(item: &Value, name: &str) -> String {
    let items = item.get(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// Accepts a whole key, too, and takes its public half: people copy what they have.
fn id(text: &str) -> Result<TokenId, String> {
    let text = text.trim();
    let rest = text.strip_prefix("rollcall_api1_").or_else(|| text.strip_prefix("rollcall_adm1_")).unwrap_or(text);
    let id = rest.split('_').next().unwrap_or_default();
    id.parse().map_err(|_| "give the key's id: 16 letters and digits, as `keys list` shows it".into())
}

fn life(text: &str) -> Result<String, String> {
    duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_from_whatever_was_copied() {
        let id_text = TokenId([7; 10]).to_string();
        for text in [id_text.clone(), format!("rollcall_api1_{id_text}_secretsecret"), format!(" {id_text}\n")] {
            assert_eq!(id(&text), Ok(TokenId([7; 10])));
        }
        assert!(!id("rollcall_api1_short_hush").unwrap_err().contains("hush"));
    }
}
