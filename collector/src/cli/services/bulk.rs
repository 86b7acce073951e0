//! One act on many services: the preview first, then exactly what it showed.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Read},
};

use clap::Args;
use serde_json::{Value, json};

use super::super::{
    Exit, Failure,
    client::{Client, Output},
    print::{Screen, Word, field},
    progress::Progress,
    which::ROOT,
};

/// Services that a preview names on a terminal.
const SHOWN: usize = 20;

/// Which services are meant, in the words of a list.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Selector {
    /// A word of `services list`, as in status=inactive,revoked, label=site=3, subtree=poller/site-3; all must hold.
    #[arg(long = "selector", short = 'l', value_name = "WORD=VALUE", id = "selector", value_parser = super::pair)]
    words: Vec<(String, String)>,
}

impl Selector {
    /// The same where one more word holds, unless it says something of that itself.
    pub(in crate::cli) fn or(mut self, name: &str, value: &str) -> Self {
        if self.words.iter().all(|(named, _)| named != name) {
            self.words.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// As the query of a list.
    pub(in crate::cli) fn query(&self) -> Vec<(String, String)> {
        self.words.clone()
    }

    pub(in crate::cli) fn body(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &self.words {
            all.entry(name.clone()).or_default().push(value.clone());
        }
        all
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BulkArgs {
    /// deactivate, revoke, unrevoke, delete, recover or remove.
    #[arg(value_parser = ["deactivate", "revoke", "unrevoke", "delete", "recover", "remove"])]
    act: String,
    #[command(flatten)]
    selector: Selector,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
    /// Take along what stands below; with revoke and delete.
    #[arg(long)]
    cascade: bool,
    /// Do it without asking, if it changes exactly so many services.
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
    /// Only look.
    #[arg(long, conflicts_with = "expect")]
    dry_run: bool,
}

pub(super) async fn run(client: &Client, screen: &mut Screen, args: BulkArgs) -> Result<(), Failure> {
    let body = json!({
        "act": args.act, "selector": args.selector.body(), "reason": args.reason, "cascade": args.cascade,
    });
    if args.dry_run {
        let seen = client.post(&format!("{ROOT}/bulk"), body).await?;
        return preview(screen, &args.act, count_of(&seen), &seen);
    }
    let count = confirmed(client, screen, &body, args.expect).await?;
    if count == 0 {
        return Ok(());
    }
    let done = perform(client, &body, count).await?;
    match screen.output() {
        Output::Table => screen.line(&format!("{done} services changed"))?,
        Output::Json | Output::Raw => screen.json(&json!({ "act": args.act, "count": count, "done": done }))?,
    }
    whole(done, count)
}

/// How many services an act would change, as its preview says.
pub(in crate::cli) fn count_of(seen: &Value) -> usize {
    seen.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Whoever asked for a number of changes is told where there were fewer.
pub(in crate::cli) fn whole(done: usize, count: usize) -> Result<(), Failure> {
    if done >= count {
        return Ok(());
    }
    let message =
        format!("only {done} of {count} services changed: the others were changed by somebody else meanwhile");
    Err(Failure::new(Exit::Refused, message))
}

/// Looks at what would change, and has it confirmed: by the number that is expected, or at the terminal. Answers how
/// many services change.
pub(in crate::cli) async fn confirmed(
    client: &Client,
    screen: &mut Screen,
    body: &Value,
    expect: Option<usize>,
) -> Result<usize, Failure> {
    let seen = client.post(&format!("{ROOT}/bulk"), body.clone()).await?;
    let count = count_of(&seen);
    match expect {
        Some(expected) if expected != count => {
            let message = format!("{count} services would change, not {expected}: nothing was done");
            return Err(Failure::new(Exit::Refused, message));
        }
        Some(_) => {}
        None => {
            preview(screen, &field(body, "act"), count, &seen)?;
            if count > 0 {
                agreed(screen, count)?;
            }
        }
    }
    Ok(count)
}

/// Does what was looked at, as often as it takes; answers how many services have changed.
pub(in crate::cli) async fn perform(client: &Client, body: &Value, count: usize) -> Result<usize, Failure> {
    let mut progress = Progress::begin("services", u64::try_from(count).ok());
    let mut done = 0;
    while done < count {
        let mut body = body.clone();
        if let Some(body) = body.as_object_mut() {
            body.insert("dry_run".into(), json!(false));
            body.insert("expect".into(), json!(count - done));
        }
        let answer = match client.post(&format!("{ROOT}/bulk"), body).await {
            Ok(answer) => answer,
            // What is done stays done, and is told.
            Err(failure) if done > 0 => {
                progress.end();
                let message = format!("{done} of {count} services changed, then: {failure}");
                return Err(Failure { message, ..failure });
            }
            Err(failure) => return Err(failure),
        };
        let now = answer.get("done").and_then(Value::as_u64).unwrap_or(0);
        progress.advance(now);
        done += usize::try_from(now).unwrap_or(0);
        if now == 0 || answer.get("complete").and_then(Value::as_bool) == Some(true) {
            break;
        }
    }
    progress.end();
    Ok(done)
}

fn preview(screen: &mut Screen, act: &str, count: usize, seen: &Value) -> Result<(), Failure> {
    if screen.output() != Output::Table {
        return Ok(screen.json(seen)?);
    }
    let all = |name: &str| seen.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = all("changes").iter().take(SHOWN).map(|one| {
        let after = match field(one, "after") {
            gone if gone.is_empty() => Word::plain("removed"),
            after => Word::state(after),
        };
        vec![Word::plain(field(one, "service")), Word::state(field(one, "before")), after]
    });
    screen.table(&["SERVICE", "IS", "BECOMES"], rows.collect())?;
    if count > SHOWN {
        screen.line(&format!("… and {} more: see them all with --output json", count - SHOWN))?;
    }
    for one in all("refused").iter().take(SHOWN) {
        screen.line(&format!("! {}: {}", field(one, "service"), field(one, "detail")))?;
    }
    let refused = seen.get("refused_count").and_then(Value::as_u64).unwrap_or(0);
    Ok(screen.line(&format!("{act}: {count} services would change, {refused} would be refused"))?)
}

/// Asks whoever sits at the terminal; where nobody does, the number must have been said.
pub(super) fn agreed(screen: &mut Screen, count: usize) -> Result<(), Failure> {
    if !io::stderr().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("nothing was changed: say --expect {count} to do it")));
    }
    screen.remark(&format!("Type {count} to change {count} services, anything else to leave them:"))?;
    let mut line = String::new();
    io::stdin().lock().take(64).read_line(&mut line)?;
    if line.trim() == count.to_string() { Ok(()) } else { Err(Failure::new(Exit::Refused, "nothing was changed")) }
}
