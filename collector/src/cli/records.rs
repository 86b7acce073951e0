//! The audit trail and the counts.

use clap::Args;
use rollcall_common::{health::Health, lease::Presence, lifecycle::Status};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Output},
    print::{Screen, Word, field, word},
};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only of this object, as in agent/edge-17 or token:ID.
    #[arg(long)]
    object: Option<String>,
    /// Only this action, as in service.revoked.
    #[arg(long)]
    action: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max: u32,
}

pub(super) async fn audit(client: &Client, screen: &mut Screen, args: AuditArgs) -> Result<(), Failure> {
    let given = [("object", args.object), ("action", args.action)];
    let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let max = usize::try_from(args.max).unwrap_or(usize::MAX);
    let listed = client.list("/api/admin/audit", &query, max).await?;
    match screen.output() {
        Output::Json => screen.json(&json!({ "items": listed.items, "more": listed.more }))?,
        Output::Raw => {
            for item in &listed.items {
                screen.line(&item.to_string())?;
            }
        }
        Output::Table => {
            let rows = listed.items.iter().map(|item| {
                vec![
                    word(item, "seq"),
                    word(item, "at"),
                    word(item, "action"),
                    word(item, "object"),
                    word(item, "actor"),
                    Word::faint(details(item)),
                ]
            });
            screen.table(&["SEQ", "AT", "ACTION", "OBJECT", "BY", "DETAILS"], rows.collect())?;
        }
    }
    Ok(())
}

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
