//! A realistic fleet as registrations: what `rollcall-collector apply` and the measurements of the registry eat.
//!
//! It owns names and proportions. The same numbers always make the same tree, so that two runs compare.

use std::io::{self, Write};

use serde_json::json;

/// One in so many services is a poller.
const SERVICES_PER_POLLER: u32 = 200;
/// Agents of a poller.
const AGENTS_PER_POLLER: u32 = 20;
const SITES: u32 = 50;
const CHECKERS: [&str; 6] = ["snmp", "icmp", "sysmon", "rperf", "dusk", "http"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "lab"];
const TEAMS: [&str; 8] = ["core", "edge", "transport", "voice", "cloud", "dc", "field", "radio"];
const VERSIONS: [&str; 4] = ["1.4.2", "1.5.0", "1.5.1", "2.0.0"];

/// Writes `count` services, parents first, one JSON object a line: of 100,000 there are 500 pollers, 10,000
/// agents and 89,500 checkers, in 50 sites.
///
/// # Errors
/// When the output cannot be written.
pub fn write(count: u32, out: &mut impl Write) -> io::Result<()> {
    let pollers = (count / SERVICES_PER_POLLER).max(1).min(count);
    let agents = (pollers * AGENTS_PER_POLLER).min(count - pollers);
    for n in 0..pollers {
        line(out, &json!({ "kind": "poller", "id": poller(n), "labels": labels(n, n), "metadata": metadata(n) }))?;
    }
    for n in 0..agents {
        let of = n % pollers;
        let item = json!({
            "kind": "agent", "id": agent(n), "parent": poller(of), "labels": labels(of, n), "metadata": metadata(n),
        });
        line(out, &item)?;
    }
    for n in 0..count - pollers - agents {
        let of = n % agents.max(1);
        let kind = pick(&CHECKERS, n);
        let item = json!({
            "kind": "checker", "id": format!("{kind}-{n:06}"), "parent": agent(of), "checker_kind": kind,
            "labels": labels(of % pollers, n), "metadata": metadata(n),
        });
        line(out, &item)?;
    }
    Ok(())
}

fn line(out: &mut impl Write, item: &serde_json::Value) -> io::Result<()> {
    writeln!(out, "{item}")
}

/// The nth of a few words, over and over.
fn pick<'a>(words: &[&'a str], n: u32) -> &'a str {
    words.iter().cycle().nth(n as usize % words.len().max(1)).copied().unwrap_or_default()
}

fn poller(n: u32) -> String {
    format!("poller-{n:04}")
}

fn agent(n: u32) -> String {
    format!("agent-{n:05}")
}

fn labels(poller: u32, n: u32) -> serde_json::Value {
    json!({
        "site": format!("site-{:02}", poller % SITES),
        "environment": pick(&ENVIRONMENTS, n),
        "team": pick(&TEAMS, n),
        "rack": format!("r{:03}", n % 200),
        "tier": (n % 4).to_string(),
    })
}

fn metadata(n: u32) -> serde_json::Value {
    json!({
        "address": format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
        "version": pick(&VERSIONS, n),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_tree_has_its_proportions_and_no_orphan() {
        for (count, wanted) in [(1, [1, 0, 0]), (10, [1, 9, 0]), (1_000, [5, 100, 895]), (20_000, [100, 2_000, 17_900])]
        {
            let mut text = Vec::new();
            write(count, &mut text).unwrap();
            let mut found = [0; 3];
            let mut there = BTreeSet::new();
            for line in String::from_utf8(text).unwrap().lines() {
                let item: serde_json::Value = serde_json::from_str(line).unwrap();
                let (kind, parent) = (item["kind"].as_str().unwrap(), item["parent"].as_str());
                let (n, above) = match kind {
                    "poller" => (0, None),
                    "agent" => (1, Some("poller")),
                    _ => (2, Some("agent")),
                };
                found[n] += 1;
                assert_eq!(parent.is_some(), above.is_some(), "{line}");
                if let (Some(above), Some(parent)) = (above, parent) {
                    assert!(there.contains(&(above.to_owned(), parent.to_owned())), "{line}");
                }
                assert!(there.insert((kind.to_owned(), item["id"].as_str().unwrap().to_owned())), "{line}");
            }
            assert_eq!(found, wanted, "{count}");
        }
    }
}
