//! A list that goes on: a picture on a terminal, changed lines for a pipe.
//!
//! Ends quietly when it is interrupted or when its reader goes away.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Exit, Failure,
    client::{Client, Listed, Output},
    print::{Screen, field, now},
    services::{key_of, presence, print_list},
};

pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    path: &str,
    query: &[(String, String)],
    max: usize,
    every: Duration,
) -> Result<(), Failure> {
    // One for the whole run: an interrupt in the middle of a request must not be lost.
    let interrupted = tokio::signal::ctrl_c();
    let watching = watch(client, screen, path, query, max, every);
    tokio::select! {
        interrupted = interrupted => Ok(interrupted?),
        ended = watching => ended,
    }
}

async fn watch(
    client: &Client,
    screen: &mut Screen,
    path: &str,
    query: &[(String, String)],
    max: usize,
    every: Duration,
) -> Result<(), Failure> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        ticks.tick().await;
        screen.still_read()?;
        match client.list(path, query, max).await {
            Ok(listed) => show(screen, &listed, &mut known)?,
            // A collector that restarts is what one watches for; a refusal will not change by itself.
            Err(failure) if failure.exit() == Exit::Unreachable && known.is_some() => {
                screen.line(&format!("{} {failure}", now()))?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn show(screen: &mut Screen, listed: &Listed, known: &mut Option<BTreeMap<String, Told>>) -> Result<(), Failure> {
    let told: BTreeMap<String, Told> = listed.items.iter().map(|item| (key_of(item), Told::of(item))).collect();
    if screen.is_terminal() && screen.output() == Output::Table {
        screen.clear()?;
        print_list(screen, listed, now())?;
    } else {
        let lines = match (screen.output(), &known) {
            (Output::Json, _) => changed(known.as_ref(), &told).map(|key| documents(listed, key)).collect(),
            (Output::Table | Output::Raw, None) => told.iter().map(|(key, told)| told.line(key, None)).collect(),
            (Output::Table | Output::Raw, Some(before)) => differences(before, &told),
        };
        for line in lines {
            screen.line(&line)?;
        }
    }
    *known = Some(told);
    Ok(())
}

/// What is worth a line when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    status: String,
    presence: String,
    health: String,
}

impl Told {
    fn of(item: &Value) -> Self {
        Self {
            status: field(item, "status"),
            presence: presence(item).text().to_owned(),
            health: item.get("health").map(|health| field(health, "health")).unwrap_or_default(),
        }
    }

    fn line(&self, key: &str, before: Option<&Self>) -> String {
        let from = |before: Option<&String>, now: &String| match before {
            Some(before) if before != now => format!("{before} -> {now}"),
            Some(_) | None => now.clone(),
        };
        format!(
            "{} {key} {}, {}, {}",
            now(),
            from(before.map(|b| &b.status), &self.status),
            from(before.map(|b| &b.presence), &self.presence),
            from(before.map(|b| &b.health), &self.health)
        )
    }
}

fn changed<'a>(
    before: Option<&'a BTreeMap<String, Told>>,
    after: &'a BTreeMap<String, Told>,
) -> impl Iterator<Item = &'a str> {
    after
        .iter()
        .filter(move |(key, told)| before.and_then(|before| before.get(*key)) != Some(*told))
        .map(|(key, _)| key.as_str())
}

fn differences(before: &BTreeMap<String, Told>, after: &BTreeMap<String, Told>) -> Vec<String> {
    let lines = changed(Some(before), after).filter_map(|key| Some(after.get(key)?.line(key, before.get(key))));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("{} {key} is gone", now()));
    lines.chain(gone).collect()
}

fn documents(listed: &Listed, key: &str) -> String {
    listed.items.iter().find(|item| key_of(item) == key).map(Value::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(presence: &str) -> Told {
        Told { status: "active".into(), presence: presence.into(), health: "healthy".into() }
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = BTreeMap::from([("agent/a".to_owned(), told("alive")), ("agent/b".to_owned(), told("alive"))]);
        assert!(differences(&before, &before).is_empty());
        let after = BTreeMap::from([("agent/a".to_owned(), told("late")), ("agent/c".to_owned(), told("alive"))]);
        let lines = differences(&before, &after);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("agent/a active, alive -> late, healthy"), "{lines:?}");
        assert!(lines[1].ends_with("agent/c active, alive, healthy"), "{lines:?}");
        assert!(lines[2].ends_with("agent/b is gone"), "{lines:?}");
    }
}
