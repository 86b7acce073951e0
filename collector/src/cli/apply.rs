//! `apply`: what is written down becomes what is registered.
//!
//! A manifest is YAML (one document or many), JSON or one JSON object a line. It is read as a whole, put in the
//! order of the tree, and sent in slices; a slice is one durable change, and sending it again changes nothing.

use std::{
    collections::HashSet,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use rollcall_common::id::{Kind, ServiceKey};
use serde_json::{Map, Value, json};

use super::{
    Exit, Failure,
    client::{Client, Output},
    print::{Screen, field},
    progress::Progress,
    services::{
        bulk::{self, Selector},
        key_of,
    },
    which::ROOT,
};
use crate::config::Source;

/// Items of one request; the collector takes no more.
const SLICE: usize = 1_000;
/// Bytes of one request; the collector takes a little more.
const SLICE_BYTES: usize = 3 << 20;
/// Largest manifest.
const MAX_MANIFEST: u64 = 512 << 20;

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
    let text = manifest(source, &args.file)?;
    let mut items = read(&text)?;
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
    let pruned = if args.prune { prune(client, screen, &args, &items).await? } else { 0 };
    sums.tell(screen, &args, pruned, shown)?;
    match sums.refused {
        0 => Ok(()),
        n => Err(Failure::new(Exit::Refused, format!("{n} of {} items were refused", items.len()))),
    }
}

fn manifest(source: &dyn Source, file: &Path) -> Result<String, Failure> {
    let unreadable = |error: io::Error| Failure::new(Exit::Config, format!("cannot read {}: {error}", file.display()));
    if file != Path::new("-") {
        return source.file(file).map_err(unreadable);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_MANIFEST {
        return Err(Failure::usage(format!("a manifest has at most {} MiB", MAX_MANIFEST >> 20)));
    }
    Ok(text)
}

/// Reads a manifest of whatever form into items.
pub(super) fn read(text: &str) -> Result<Vec<Value>, Failure> {
    let bad = |why: String| Failure::usage(format!("the manifest cannot be read: {why}"));
    let begins = text.trim_start();
    let documents = if begins.starts_with('{') || begins.starts_with('[') {
        // One document, several, or one a line: JSON tells where each ends.
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.collect::<Result<Vec<_>, _>>().or_else(|json| {
            // A flow mapping of YAML begins like JSON.
            serde_saphyr::from_multiple::<Value>(text).map_err(|_| bad(json.to_string()))
        })?
    } else {
        serde_saphyr::from_multiple::<Value>(text).map_err(|error| bad(error.to_string()))?
    };
    let mut items = Vec::new();
    for document in documents {
        gather(document, &mut items).map_err(bad)?;
    }
    Ok(items)
}

fn gather(document: Value, items: &mut Vec<Value>) -> Result<(), String> {
    match document {
        Value::Null => Ok(()),
        Value::Array(all) => all.into_iter().try_for_each(|one| gather(one, items)),
        Value::Object(mut object) => match (object.remove("items"), object.is_empty()) {
            (Some(Value::Array(all)), true) => all.into_iter().try_for_each(|one| gather(one, items)),
            (Some(_), _) => Err("items must be a list and stand alone in its document".into()),
            (None, _) => item(object).map(|item| items.push(item)),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let shown: String = document.to_string().chars().take(40).collect();
            Err(format!("{shown} is no service: write kind and id"))
        }
    }
}

/// An item may name its service in one word, `service: agent/edge-17`.
fn item(mut object: Map<String, Value>) -> Result<Value, String> {
    if let Some(service) = object.remove("service") {
        let key: ServiceKey = service
            .as_str()
            .ok_or("service is a text, as in agent/edge-17")?
            .parse()
            .map_err(|error: rollcall_common::id::NameError| error.to_string())?;
        object.insert("kind".into(), json!(key.kind));
        object.insert("id".into(), json!(key.id));
    }
    // Ids that look like numbers are ids.
    for name in ["id", "parent"] {
        if let Some(Value::Number(number)) = object.get(name) {
            let text = number.to_string();
            object.insert(name.into(), Value::String(text));
        }
    }
    Ok(Value::Object(object))
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
}

impl Sums {
    fn add(&mut self, answer: &Value) {
        let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.created += count("created");
        self.updated += count("updated");
        self.unchanged += count("unchanged");
        self.refused += count("refused");
    }

    fn tell(&self, screen: &mut Screen, args: &ApplyArgs, pruned: usize, items: Vec<Value>) -> Result<(), Failure> {
        let Self { created, updated, unchanged, refused } = self;
        if screen.output() == Output::Table {
            let would = if args.dry_run { "would be " } else { "" };
            let gone = if args.prune { format!(", {pruned} {would}deleted") } else { String::new() };
            let line = format!(
                "{created} {would}created, {updated} {would}changed, {unchanged} as they are, {refused} refused{gone}"
            );
            return Ok(screen.line(&line)?);
        }
        let document = json!({
            "dry_run": args.dry_run, "created": created, "updated": updated, "unchanged": unchanged,
            "refused": refused, "deleted": pruned, "items": items,
        });
        Ok(screen.json(&document)?)
    }
}

/// Deletes what is selected and not named.
async fn prune(client: &Client, screen: &mut Screen, args: &ApplyArgs, items: &[Value]) -> Result<usize, Failure> {
    let named: HashSet<String> = items.iter().map(key_of).collect();
    let mut query = args.selector.query();
    query.push(("status".into(), "pending,active,inactive,revoked".into()));
    let listed = client.list(ROOT, &query, 100_000).await?;
    let gone: Vec<String> = listed.items.iter().map(key_of).filter(|key| !named.contains(key)).collect();
    if screen.output() == Output::Table {
        for key in &gone {
            screen.line(&format!("- {key}"))?;
        }
    }
    if args.dry_run || gone.is_empty() {
        return Ok(gone.len());
    }
    if args.expect != Some(gone.len()) {
        let message = format!(
            "{} services would be deleted, and nothing was: say --expect {} to delete them",
            gone.len(),
            gone.len()
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    let body = json!({ "act": "delete", "services": gone, "reason": "not in the manifest" });
    bulk::perform(client, &body, gone.len()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_every_form_say_the_same() {
        let yaml = "kind: poller\nid: p\nlabels:\n  site: zurich\n---\nservice: agent/a\nparent: p\n";
        let listed = "items:\n  - {kind: poller, id: p, labels: {site: zurich}}\n  - {service: agent/a, parent: p}\n";
        let json = r#"[{"kind":"poller","id":"p","labels":{"site":"zurich"}},{"kind":"agent","id":"a","parent":"p"}]"#;
        let lines = "{\"kind\":\"poller\",\"id\":\"p\",\"labels\":{\"site\":\"zurich\"}}\n{\"kind\":\"agent\",\"id\":\"a\",\"parent\":\"p\"}\n";
        let wanted: Vec<Value> = serde_json::from_str(json).unwrap();
        for text in [yaml, listed, json, lines] {
            assert_eq!(read(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(read("service: agent/a\nparent: 17\n").unwrap()[0]["parent"], "17");
        assert!(read("").unwrap().is_empty());
        for bad in ["just words", "service: robot/x\n", "{\"kind\":", "items: 3\n", "kind: [\n"] {
            assert_eq!(read(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
    }

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
