//! The audit trail and the counts.

use clap::Args;
use rollcall_common::{health::Health, lease::Presence, lifecycle::Status};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Output},
    list::{self, Column, Flags, Sheet},
    print::{Screen, Word, field, word},
};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only of this object, as in agent/edge-17 or token:ID.
    #[arg(long)]
    object: Option<String>,
    /// Only this action, as in service.revoked; or all that begin so, as in service. with its dot.
    #[arg(long)]
    action: Option<String>,
    /// Only what this actor did, as in credential:ID.
    #[arg(long)]
    actor: Option<String>,
    /// Only what this request caused.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only at or after this moment, as in 2026-11-21T02:46:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this moment.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

pub(super) async fn audit(client: &Client, screen: &mut Screen, args: AuditArgs) -> Result<(), Failure> {
    let given = [
        ("object", args.object),
        ("action", args.action),
        ("actor", args.actor),
        ("request_id", args.request_id),
        ("since", args.since),
        ("until", args.until),
    ];
    let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    list::run(client, screen, "/api/admin/audit", &query, &args.flags, &SHEET).await
}

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("seq", |item, _| word(item, "seq")),
        Column::new("at", |item, _| word(item, "at")),
        Column::new("action", |item, _| word(item, "action")),
        Column::new("object", |item, _| word(item, "object")),
        Column::new("by", |item, _| word(item, "actor")),
        Column::new("details", |item, _| Word::faint(details(item))),
        Column::hidden("request", |item, _| word(item, "request_id")),
    ],
    id: |item| field(item, "seq"),
    told: &["action", "object", "by"],
    none: "nothing is recorded of that",
    max: 100,
};

/// The details that say something, in words.
fn details(item: &Value) -> String {
    let pairs = item.get("details").and_then(Value::as_object).into_iter().flatten();
    // What has parts of its own does not fit into a line: `--output json` shows it.
    let fits = |value: &Value| !value.is_object() && !value.is_array();
    let told = pairs.filter(|(_, value)| !value.is_null() && **value != json!("") && fits(value));
    told.map(|(name, _)| format!("{name}={}", field(item.get("details").unwrap_or(&Value::Null), name)))
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) async fn stats(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let stats = client.get("/api/admin/services/stats", &[]).await?;
    match screen.output() {
        Output::Json => screen.json(&stats)?,
        Output::Raw => screen.line(&stats.to_string())?,
        Output::Table => {
            let kinds = ["pollers", "agents", "checkers", "instances"];
            let count = |from: &Value, group: &str, name: &str| {
                let number = from.get(group).and_then(|group| group.get(name)).and_then(Value::as_u64).unwrap_or(0);
                if number == 0 { Word::faint("0") } else { Word::plain(number.to_string()) }
            };
            let none = Value::Null;
            let of = |kind: &str| stats.get("kinds").and_then(|kinds| kinds.get(kind)).unwrap_or(&none);
            let mut rows = Vec::new();
            let groups = Status::ALL.map(|word| ("status", word.as_str()));
            let groups = groups.into_iter().chain(Presence::ALL.map(|word| ("presence", word.as_str())));
            for (group, name) in groups.chain(Health::ALL.map(|word| ("health", word.as_str()))) {
                let mut row = vec![Word::faint(group), Word::state(name), count(&stats, group, name)];
                row.extend(kinds.iter().map(|kind| count(of(kind), group, name)));
                rows.push(row);
            }
            screen.table(&["", "", "ALL", "POLLERS", "AGENTS", "CHECKERS", "INSTANCES"], rows)?;
            screen.line("")?;
            screen.facts(vec![
                ("services", word(&stats, "total")),
                ("connected", word(&stats, "connections")),
                ("collector", word(&stats, "collector")),
                ("trust domain", word(&stats, "trust_domain")),
            ])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_leave_out_what_says_nothing() {
        let item = json!({"details": {"after": "revoked", "before": "active", "reason": "", "parent": null, "policy": {"a": 1}}});
        assert_eq!(details(&item), "after=revoked before=active");
    }
}
