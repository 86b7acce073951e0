//! The operator's commands on those who were turned away.

use clap::Subcommand;
use reqwest::Method;
use rollcall_common::{id::ServiceId, token::TokenId};
use serde_json::Value;

use super::{
    Failure,
    client::{Client, Output},
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, age, field, word},
};

const ROOT: &str = "/api/admin/knocks";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List who was turned away, why, and what to do about it; the latest first.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        /// Only those that proved a token, a key or a certificate: the others may be noise.
        #[arg(long)]
        proven: bool,
        /// Only with this reason, as in ID_TAKEN.
        #[arg(long, value_name = "WORD")]
        reason: Option<String>,
        /// Only with this token.
        #[arg(long, value_name = "ID")]
        token: Option<TokenId>,
        /// Only with this claimed id.
        #[arg(long, value_name = "ID")]
        id: Option<ServiceId>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Forget a knock, or many; they come back with the next refusals.
    #[command(after_help = DISMISS_EXAMPLES)]
    Dismiss {
        /// The knock's id.
        #[arg(required_unless_present_any = ["all", "from", "network", "reason"])]
        knock: Option<TokenId>,
        /// All of them.
        #[arg(long, conflicts_with_all = ["knock", "from", "network", "reason"])]
        all: bool,
        /// All from this address.
        #[arg(long, value_name = "ADDRESS", conflicts_with = "knock")]
        from: Option<String>,
        /// All from this network, as in 192.0.2.0/24.
        #[arg(long, value_name = "NETWORK", conflicts_with = "knock")]
        network: Option<String>,
        /// All with this reason.
        #[arg(long, value_name = "WORD", conflicts_with = "knock")]
        reason: Option<String>,
    },
}

const DISMISS_EXAMPLES: &str = "\
Examples:
  rollcall-collector knocks dismiss nq2k6zjw4m5pd3xo
  rollcall-collector knocks dismiss --network 192.0.2.0/24
  rollcall-collector knocks dismiss --all";

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector knocks list --proven
  rollcall-collector knocks list --reason PARENT_UNKNOWN --output json";

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { proven, reason, token, id, flags } => {
            let given = [
                ("proven", proven.then(|| "true".to_owned())),
                ("reason", reason.map(|word| word.to_uppercase())),
                ("token", token.map(|token| token.to_string())),
                ("claimed_id", id.map(|id| id.to_string())),
            ];
            let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            list::run(client, screen, ROOT, &query, &flags, &SHEET).await
        }
        Command::Dismiss { knock: None, all, from, network, reason } => {
            let given = [
                ("all", all.then(|| "true".to_owned())),
                ("from", from),
                ("network", network),
                ("reason", reason.map(|word| word.to_uppercase())),
            ];
            let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            let answer = client.call(Method::DELETE, ROOT).query(&query).send().await?.document;
            match screen.output() {
                Output::Json | Output::Raw => Ok(screen.json(&answer)?),
                Output::Table => Ok(screen.line(&format!("{} knocks are forgotten", field(&answer, "dismissed")))?),
            }
        }
        Command::Dismiss { knock: Some(knock), .. } => {
            client.delete(&format!("{ROOT}/{knock}"), &[]).await?;
            Ok(screen.line(&format!("knock {knock} is forgotten"))?)
        }
    }
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("id", |item, _| word(item, "id")),
        Column::new("last", |item, now| age(item, "last_at", now)),
        Column::new("times", |item, _| word(item, "times")),
        Column::new("from", |item, _| word(item, "from")),
        Column::new("claims", |item, _| Word::plain(claims(item))),
        Column::new("reason", |item, _| word(item, "reason")),
        Column::new("fix", |item, _| Word::plain(field(item, "fix"))),
        Column::hidden("token", |item, _| word(item, "token")),
        Column::hidden("proven", |item, _| word(item, "proven")),
        Column::hidden("door", |item, _| word(item, "door")),
        Column::hidden("first", |item, now| age(item, "first_at", now)),
    ],
    id: |item| field(item, "id"),
    told: &["times", "reason"],
    none: "nobody was turned away",
    max: 100,
};

fn claims(item: &Value) -> String {
    let (kind, id) = (field(item, "kind"), field(item, "claimed_id"));
    if id.is_empty() { kind } else { format!("{kind}/{id}") }
}
