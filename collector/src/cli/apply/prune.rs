//! `apply --prune`: what is selected and not named goes.
//!
//! The collector itself says beforehand whom it would delete and whom not; what is agreed on by number is that.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    super::{
        Exit, Failure,
        client::{Client, Output},
        print::{Screen, field},
        services::{bulk, key_of},
        which::ROOT,
    },
    ApplyArgs,
};

/// Services that one prune looks at.
const MOST: usize = 100_000;
/// Who can be superfluous where the selector says nothing of it: who is deleted is gone already.
const STATUSES: &str = "pending,active,inactive,revoked";

/// What a prune came to, or would.
#[derive(Debug, Default)]
pub(super) struct Pruned {
    /// How many are deleted; where it was only looked, how many would be.
    pub(super) done: usize,
    /// How many were to be.
    count: usize,
    /// Who.
    pub(super) services: Vec<String>,
    /// Who cannot be, and why.
    pub(super) refused: Vec<Value>,
}

impl Pruned {
    /// What is superfluous and stays makes the whole less than what was asked for.
    pub(super) fn verdict(&self, args: &ApplyArgs) -> Result<(), Failure> {
        if !args.dry_run {
            bulk::whole(self.done, self.count)?;
        }
        match self.refused.len() {
            0 => Ok(()),
            n => {
                let message = format!("{n} services that the manifest does not name could not be deleted");
                Err(Failure::new(Exit::Refused, message))
            }
        }
    }
}

/// Deletes what is selected and not named.
pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    args: &ApplyArgs,
    named: &HashSet<String>,
) -> Result<Pruned, Failure> {
    let query = args.selector.clone().or("status", STATUSES).query();
    let listed = client.list(ROOT, &query, MOST).await?;
    if listed.more {
        return Err(Failure::new(
            Exit::Refused,
            format!("more than {MOST} services are selected: narrow the selector"),
        ));
    }
    let gone: Vec<String> = listed.items.iter().map(key_of).filter(|key| !named.contains(key)).collect();
    if gone.is_empty() {
        return Ok(Pruned::default());
    }
    let body = json!({ "act": "delete", "services": gone, "reason": "not in the manifest" });
    let seen = client.post(&format!("{ROOT}/bulk"), body.clone()).await?;
    let count = bulk::count_of(&seen);
    let all = |name: &str| seen.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let services: Vec<String> = all("changes").iter().map(|one| field(one, "service")).collect();
    let pruned = Pruned { done: count, count, services, refused: all("refused") };
    if screen.output() == Output::Table {
        for key in &pruned.services {
            screen.line(&format!("- {key}"))?;
        }
        for one in &pruned.refused {
            screen.line(&format!("! {}: {} ({})", field(one, "service"), field(one, "detail"), field(one, "code")))?;
        }
    }
    if args.dry_run || count == 0 {
        return Ok(pruned);
    }
    if args.expect != Some(count) {
        let message =
            format!("{count} services would be deleted, and nothing was: say --expect {count} to delete them");
        return Err(Failure::new(Exit::Refused, message));
    }
    let done = bulk::perform(client, &body, count).await?;
    Ok(Pruned { done, ..pruned })
}
