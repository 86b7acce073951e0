//! A list that goes on: a picture on a terminal, changed lines for a pipe.
//!
//! Ends quietly when it is interrupted or when its reader goes away.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Exit, Failure,
    client::{Client, Output},
    list::{self, Flags, Listed, Sheet},
    print::{Screen, now},
};

/// What is watched.
pub(super) struct Watched<'a> {
    pub(super) path: &'a str,
    pub(super) query: &'a [(String, String)],
    pub(super) flags: &'a Flags,
    pub(super) sheet: &'a Sheet,
    pub(super) every: Duration,
}

/// What is worth a line when it changes, by the item's id.
type Told = BTreeMap<String, Vec<String>>;

pub(super) async fn run(client: &Client, screen: &mut Screen, watched: &Watched<'_>) -> Result<(), Failure> {
    // One for the whole run: an interrupt in the middle of a request must not be lost.
    let interrupted = tokio::signal::ctrl_c();
    let watching = watch(client, screen, watched);
    tokio::select! {
        interrupted = interrupted => Ok(interrupted?),
        ended = watching => ended,
    }
}

async fn watch(client: &Client, screen: &mut Screen, watched: &Watched<'_>) -> Result<(), Failure> {
    let mut ticks = interval(watched.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        ticks.tick().await;
        screen.still_read()?;
        match client.list(watched.path, watched.query, watched.flags.max(watched.sheet)).await {
            Ok(listed) => show(screen, watched, &listed, &mut known)?,
            // A collector that restarts is what one watches for; a refusal will not change by itself.
            Err(failure) if failure.exit() == Exit::Unreachable && known.is_some() => {
                screen.remark(&format!("{} {failure}", now()))?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn show(screen: &mut Screen, watched: &Watched<'_>, listed: &Listed, known: &mut Option<Told>) -> Result<(), Failure> {
    let (sheet, now) = (watched.sheet, now());
    let told: Told = listed.items.iter().map(|item| ((sheet.id)(item), sheet.told(item, now))).collect();
    if screen.is_terminal() && screen.output() == Output::Table {
        screen.clear()?;
        list::print(screen, listed, watched.flags, sheet)?;
    } else {
        match (screen.output(), &known) {
            (Output::Json, _) => {
                for item in changed(sheet, listed, known.as_ref(), &told) {
                    screen.document_line(item)?;
                }
            }
            (Output::Table | Output::Raw, None) => {
                for (id, words) in &told {
                    screen.line(&line(&now.to_string(), id, words, None))?;
                }
            }
            (Output::Table | Output::Raw, Some(before)) => {
                for line in differences(&now.to_string(), before, &told) {
                    screen.line(&line)?;
                }
            }
        }
    }
    *known = Some(told);
    Ok(())
}

fn line(now: &str, id: &str, words: &[String], before: Option<&[String]>) -> String {
    let words: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(place, word)| match before.and_then(|before| before.get(place)) {
            Some(before) if before != word => format!("{before} -> {word}"),
            Some(_) | None => word.clone(),
        })
        .collect();
    format!("{now} {id} {}", words.join(", "))
}

/// The items that changed, in the list's order.
fn changed<'a>(
    sheet: &'a Sheet,
    listed: &'a Listed,
    before: Option<&'a Told>,
    after: &'a Told,
) -> impl Iterator<Item = &'a Value> {
    listed.items.iter().filter(move |item| {
        let id = (sheet.id)(item);
        before.and_then(|before| before.get(&id)) != after.get(&id)
    })
}

fn differences(now: &str, before: &Told, after: &Told) -> Vec<String> {
    let news = after.iter().filter(|(id, words)| before.get(*id) != Some(*words));
    let lines = news.map(|(id, words)| line(now, id, words, before.get(id).map(Vec::as_slice)));
    let gone = before.keys().filter(|id| !after.contains_key(*id)).map(|id| format!("{now} {id} is gone"));
    lines.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(presence: &str) -> Vec<String> {
        ["active", presence, "healthy"].map(str::to_owned).to_vec()
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = BTreeMap::from([("agent/a".to_owned(), told("alive")), ("agent/b".to_owned(), told("alive"))]);
        assert!(differences("t", &before, &before).is_empty());
        let after = BTreeMap::from([("agent/a".to_owned(), told("late")), ("agent/c".to_owned(), told("alive"))]);
        let lines = differences("t", &before, &after);
        assert_eq!(
            lines,
            ["t agent/a active, alive -> late, healthy", "t agent/c active, alive, healthy", "t agent/b is gone"]
        );
    }
}
