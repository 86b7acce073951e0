//! `apply`: what is written down becomes what is registered.
//!
//! A manifest is YAML (one document or many), JSON or one JSON object a line. It is read as a whole, put in the
//! order of the tree, and sent in slices; a slice is one durable change, and sending it again changes nothing.

pub(super) mod manifest;
mod prune;

use std::{collections::HashSet, path::PathBuf};

use clap::Args;
use rollcall_common::id::Kind;
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    client::{Client, Output},
    print::{Screen, field},
    progress::Progress,
    services::bulk::Selector,
    which::ROOT,
};
use crate::config::Source;

/// Items of one request; the collector takes no more.
const SLICE: usize = 1_000;
/// Bytes of one request; the collector takes a little more.
const SLICE_BYTES: usize = 3 << 20;
pub(super) const EXAMPLES: &str = "\
A manifest, in YAML:
  kind: poller
  id: site-3
  labels: {site: zurich}
  ---
  kind: agent
  id: edge-17
  parent: site-3

Examples:
  rollcall-collector apply -f fleet.yaml --dry-run
  rollcall-collector apply -f fleet.yaml
  inventory | rollcall-collector apply -f -
  rollcall-collector apply -f site-3.yaml --prune --selector subtree=poller/site-3 --expect 2";

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The manifest: YAML, JSON or one JSON object a line; - reads standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Take deletions back where the manifest names what is deleted.
    #[arg(long)]
    recover: bool,
    /// Items carry what another registry knew: first_seen, last_seen, created_by, status.
    #[arg(long)]
    backfill: bool,
    /// Print the summary only.
    #[arg(long, short = 's')]
    summary: bool,
    /// Delete what the selector finds and the manifest does not name.
    #[arg(long, requires = "selector")]
    prune: bool,
    #[command(flatten)]
    selector: Selector,
    /// How many services --prune is to delete.
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

/// Applies a manifest.
pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    source: &dyn Source,
    args: ApplyArgs,
) -> Result<(), Failure> {
    let text = manifest::text(source, &args.file)?;
    let mut items = manifest::read(&text)?;
    if args.prune && items.is_empty() {
        let message = "the manifest names nothing, and so nothing was deleted: to delete all that a selector finds, \
                       use `services bulk delete`";
        return Err(Failure::new(Exit::Refused, message));
    }
    items.sort_by_key(|item| Kind::ALL.into_iter().position(|kind| kind.as_str() == field(item, "kind")));
    let query: Vec<(String, String)> =
        [("dry_run", args.dry_run), ("recover", args.recover), ("backfill", args.backfill)]
            .into_iter()
            .map(|(name, on)| (name.to_owned(), on.to_string()))
            .collect();
    let mut sums = Sums::default();
    let mut shown = Vec::new();
    let mut progress = Progress::begin("services", u64::try_from(items.len()).ok());
    for slice in slices(&items) {
        let call = client.call(reqwest::Method::POST, &format!("{ROOT}/apply")).query(&query);
        let body = slice.iter().map(Value::to_string).collect::<Vec<_>>().join("\n").into_bytes();
        // Desired state may be said again: a slice that was busy is repeated.
        let answer = call.body("application/x-ndjson", body).once().send().await?.document;
        sums.add(&answer);
        // By the collector's own words: who is named is nobody's guess.
        let named = answer.get("items").and_then(Value::as_array).into_iter().flatten();
        sums.named.extend(named.map(|item| field(item, "service")).filter(|name| !name.is_empty()));
        progress.advance(u64::try_from(slice.len()).unwrap_or(0));
        let done = answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if screen.output() == Output::Table {
            let lines = done.iter().flat_map(told);
            for line in lines.filter(|line| !args.summary || line.starts_with('!')) {
                screen.line(&line)?;
            }
        } else {
            shown.extend(done.iter().filter(|item| field(item, "outcome") != "unchanged").cloned());
        }
    }
    progress.end();
    // A manifest that was not wholly understood does not tell who is superfluous.
    let pruned = match args.prune && sums.refused == 0 {
        true => prune::run(client, screen, &args, &sums.named).await?,
        false => prune::Pruned::default(),
    };
    sums.tell(screen, &args, &pruned, shown)?;
    if sums.refused > 0 {
        let spared = if args.prune { ", and so nothing was deleted" } else { "" };
        let message = format!("{} of {} items were refused{spared}", sums.refused, items.len());
        return Err(Failure::new(Exit::Refused, message));
    }
    pruned.verdict(&args)
}

/// Slices that a request can carry.
fn slices(items: &[Value]) -> Vec<&[Value]> {
    let mut slices = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (n, item) in items.iter().enumerate() {
        let length = item.to_string().len() + 1;
        if n > from && (n - from == SLICE || bytes + length > SLICE_BYTES) {
            slices.extend(items.get(from..n));
            (from, bytes) = (n, 0);
        }
        bytes += length;
    }
    slices.extend(items.get(from..).filter(|rest| !rest.is_empty()));
    slices
}

/// What became of an item, as lines of a difference.
fn told(item: &Value) -> Vec<String> {
    let service = match field(item, "service") {
        name if name.is_empty() => "(unreadable)".to_owned(),
        name => name,
    };
    match field(item, "outcome").as_str() {
        "created" => vec![format!("+ {service}")],
        "updated" => {
            let differences = item.get("differences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let shown = |one: &Value, side: &str| match one.get(side) {
                None | Some(Value::Null) => "(none)".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            let line = |one: &Value| {
                format!("~ {service} {}: {} -> {}", field(one, "field"), shown(one, "before"), shown(one, "after"))
            };
            differences.iter().map(line).collect()
        }
        "refused" => vec![format!("! {service}: {} ({})", field(item, "detail"), field(item, "code"))],
        _ => Vec::new(),
    }
}

#[derive(Debug, Default)]
struct Sums {
    created: u64,
    updated: u64,
    unchanged: u64,
    refused: u64,
    named: HashSet<String>,
}

impl Sums {
    fn add(&mut self, answer: &Value) {
        let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.created += count("created");
        self.updated += count("updated");
        self.unchanged += count("unchanged");
        self.refused += count("refused");
    }

    fn tell(
        &self,
        screen: &mut Screen,
        args: &ApplyArgs,
        pruned: &prune::Pruned,
        items: Vec<Value>,
    ) -> Result<(), Failure> {
        let Self { created, updated, unchanged, refused, .. } = self;
        if screen.output() == Output::Table {
            let would = if args.dry_run { "would be " } else { "" };
            let gone = if args.prune { format!(", {} {would}deleted", pruned.done) } else { String::new() };
            let line = format!(
                "{created} {would}created, {updated} {would}changed, {unchanged} as they are, {refused} refused{gone}"
            );
            return Ok(screen.line(&line)?);
        }
        let document = json!({
            "dry_run": args.dry_run, "created": created, "updated": updated, "unchanged": unchanged,
            "refused": refused, "deleted": pruned.done, "items": items, "pruned": pruned.services,
            "not_pruned": pruned.refused,
        });
        Ok(screen.json(&document)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_what_a_request_can_carry() {
        let items: Vec<Value> = (0..2_500).map(|n| json!({"kind": "poller", "id": format!("p{n}")})).collect();
        let lengths: Vec<usize> = slices(&items).iter().map(|slice| slice.len()).collect();
        assert_eq!(lengths, [1_000, 1_000, 500]);
        let large: Vec<Value> = (0..5).map(|_| json!({"metadata": "x".repeat(1 << 20)})).collect();
        assert!(slices(&large).len() > 1);
        assert_eq!(slices(&large).iter().map(|slice| slice.len()).sum::<usize>(), 5);
        assert!(slices(&[]).is_empty());
    }

    #[test]
    fn differences_read_like_differences() {
        let updated = json!({"service": "agent/a", "outcome": "updated", "differences": [
            {"field": "labels.site", "before": "a", "after": "b"},
            {"field": "placeholder", "before": false, "after": true},
            {"field": "labels.rack", "before": null, "after": "7"},
        ]});
        assert_eq!(
            told(&updated),
            [
                "~ agent/a labels.site: a -> b",
                "~ agent/a placeholder: false -> true",
                "~ agent/a labels.rack: (none) -> 7",
            ]
        );
        assert_eq!(told(&json!({"service": "agent/a", "outcome": "created"})), ["+ agent/a"]);
        assert!(told(&json!({"service": "agent/a", "outcome": "unchanged"})).is_empty());
        let refused = json!({"outcome": "refused", "code": "invalid", "detail": "no"});
        assert_eq!(told(&refused), ["! (unreadable): no (invalid)"]);
    }
}
