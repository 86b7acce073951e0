//! One service as facts, and many as a tree.

use std::time::Duration;

use rollcall_common::time::Timestamp;
use serde_json::Value;

use super::{
    super::print::{Word, age, field, word},
    key_of, presence,
};
use crate::config::duration;

/// Everything about a service, one fact a line.
pub(super) fn facts(item: &Value, now: Timestamp) -> Vec<(&'static str, Word)> {
    let since = |name: &str, since: &str| match age(item, since, now) {
        age if age.text() == "-" => Word::state(field(item, name)),
        age => Word::state(field(item, name)).because(&format!("since {}", age.text())),
    };
    let health = item.get("health").cloned().unwrap_or_default();
    let said = Word::state(field(&health, "health"));
    let reason = field(&health, "reason");
    let pace = |name: &str| item.get(name).and_then(Value::as_u64).map(|ms| duration::print(Duration::from_millis(ms)));
    let mut facts = vec![
        ("service", Word::plain(key_of(item))),
        ("parent", word(item, "parent")),
        ("status", since("status", "status_since")),
        ("presence", presence(item)),
        ("health", if reason.is_empty() { said } else { said.because(&reason) }),
        (
            "progress",
            match field(item, "progress_reason") {
                why if why.is_empty() => Word::state(field(item, "progress")),
                why => Word::state(field(item, "progress")).because(&why),
            },
        ),
        ("settings", Word::state(field(item, "settings"))),
        ("last seen", age(item, "last_seen", now)),
        ("first seen", age(item, "first_seen", now)),
        ("registered", age(item, "first_registered", now).because(&field(item, "source"))),
        ("created by", word(item, "created_by")),
        ("connected from", word(item, "connected_from").because(&field(item, "transport"))),
        ("identity", word(item, "spiffe_identity")),
        ("children", word(item, "children")),
    ];
    if let (Some(interval), Some(ttl)) = (pace("interval_ms"), pace("ttl_ms")) {
        facts.push(("pace", Word::plain(format!("every {interval}, lost after {ttl}"))));
    }
    for (name, heading) in [("checker_kind", "checks"), ("component_id", "component")] {
        if !field(item, name).is_empty() {
            facts.push((heading, word(item, name)));
        }
    }
    for (name, heading) in [("labels", "label"), ("metadata", "metadata")] {
        let pairs = item.get(name).and_then(Value::as_object).into_iter().flatten();
        facts.extend(
            pairs.map(|(key, value)| (heading, Word::plain(format!("{key}={}", value.as_str().unwrap_or_default())))),
        );
    }
    let proposed = item.get("announced_labels").and_then(Value::as_object).into_iter().flatten();
    facts.extend(proposed.map(|(key, value)| {
        let pair = format!("{key}={}", value.as_str().unwrap_or_default());
        ("proposed label", Word::plain(pair).because("by its host, not in force"))
    }));
    if !field(item, "machine").is_empty() {
        let machine = word(item, "machine").because(&format!("since {}", age(item, "machine_since", now).text()));
        facts.push(("machine", machine));
        if !field(item, "machine_before").is_empty() {
            facts.push(("machine before", word(item, "machine_before")));
        }
    }
    if let Some(identity) = item.get("identity").filter(|identity| !identity.is_null()) {
        facts.push((
            "certificate",
            Word::plain(format!(
                "generation {}, ends {}",
                field(identity, "generation"),
                age(identity, "not_after", now).text()
            )),
        ));
        facts.push((
            "enrolled",
            age(identity, "enrolled_at", now).because(&format!("token {}", field(identity, "enrolled_via"))),
        ));
    }
    if let Some(host) = item.get("host").filter(|host| !host.is_null()) {
        let about = format!(
            "{}, {}, {} {}, {} CPUs, {} MiB",
            field(host, "hostname"),
            field(host, "os"),
            field(host, "kernel"),
            field(host, "arch"),
            field(host, "cpus"),
            field(host, "memory_mib"),
        );
        facts.push(("host", Word::plain(about)));
        facts.push(("sidecar", Word::plain(format!("version {}", field(host, "agent_version")))));
    }
    if !field(item, "version").is_empty() {
        facts.push(("version", word(item, "version")));
    }
    facts
}

/// The part of a tree below an item, one service a row; `bare` leaves the branches out.
pub(super) fn branch(item: &Value, below: &str, indent: &str, bare: bool, rows: &mut Vec<Vec<Word>>) {
    let children = item.get(below).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (n, child) in children.iter().enumerate() {
        let last = n + 1 == children.len();
        let root = below == "items";
        let (twig, deeper) = match (bare || root, last) {
            (true, _) => ("", ""),
            (false, true) => ("└─ ", "   "),
            (false, false) => ("├─ ", "│  "),
        };
        rows.push(vec![
            Word::plain(format!("{indent}{twig}{}", key_of(child))),
            Word::state(field(child, "status")),
            Word::state(field(child, "presence")),
            Word::state(field(child, "health")),
        ]);
        branch(child, "children", &format!("{indent}{deeper}"), bare, rows);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_drawn_with_its_branches() {
        let leaf = |kind: &str, id: &str| json!({"kind": kind, "id": id, "status": "active", "children": []});
        let tree = json!({"items": [
            {"kind": "poller", "id": "p", "children": [
                {"kind": "agent", "id": "a", "children": [leaf("checker", "c"), leaf("checker", "d")]},
                leaf("agent", "b"),
            ]},
        ]});
        let drawn = |bare| {
            let mut rows = Vec::new();
            branch(&tree, "items", "", bare, &mut rows);
            rows.iter().map(|row| row[0].text().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(false), ["poller/p", "├─ agent/a", "│  ├─ checker/c", "│  └─ checker/d", "└─ agent/b"]);
        assert_eq!(drawn(true), ["poller/p", "agent/a", "checker/c", "checker/d", "agent/b"]);
    }

    #[test]
    fn facts_leave_out_what_is_not_known() {
        let now = Timestamp::from_secs(1_800_000_000);
        let told = |item: &Value| {
            let facts = facts(item, now);
            facts.iter().map(|(name, word)| format!("{name}: {}", word.text())).collect::<Vec<_>>()
        };
        let item = json!({
            "kind": "agent", "id": "edge-17", "parent": "site-3", "status": "active", "presence": "unknown",
            "presence_reason": "collector_blind", "status_since": "2027-01-15T07:59:00Z",
            "health": {"health": "degraded", "reason": "disk"}, "interval_ms": 10000, "ttl_ms": 30000,
            "labels": {"site": "3"}, "identity": null, "host": null, "children": 2,
        });
        let told = told(&item);
        for line in [
            "service: agent/edge-17",
            "status: active (since 1m ago)",
            "presence: unknown (collector_blind)",
            "health: degraded (disk)",
            "last seen: -",
            "pace: every 10s, lost after 30s",
            "label: site=3",
            "children: 2",
        ] {
            assert!(told.iter().any(|told| told == line), "{line} is not in {told:#?}");
        }
        assert!(!told.iter().any(|line| line.starts_with("host") || line.starts_with("certificate")), "{told:#?}");
    }
}
