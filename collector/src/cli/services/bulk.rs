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
    /// A word of `services list`, as in status=inactive, label=site=3, subtree=poller/site-3; all must hold.
    #[arg(long = "selector", short = 'l', value_name = "WORD=VALUE", id = "selector", value_parser = super::pair)]
    words: Vec<(String, String)>,
}

impl Selector {
    /// As the query of a list.
    pub(in crate::cli) fn query(&self) -> Vec<(String, String)> {
        self.words.clone()
    }

    fn body(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &self.words {
            all.entry(name.clone()).or_default().push(value.clone());
        }
        all
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BulkArgs {
    /// revoke, unrevoke, delete, recover or remove.
    #[arg(value_parser = ["revoke", "unrevoke", "delete", "recover", "remove"])]
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
}

pub(super) async fn run(client: &Client, screen: &mut Screen, args: BulkArgs) -> Result<(), Failure> {
    let body = json!({
        "act": args.act, "selector": args.selector.body(), "reason": args.reason, "cascade": args.cascade,
    });
    let Some(count) = confirmed(client, screen, &body, args.expect).await?.filter(|count| *count > 0) else {
        return Ok(());
    };
    let done = perform(client, &body, count).await?;
    match screen.output() {
        Output::Table => screen.line(&format!("{done} services changed"))?,
        Output::Json | Output::Raw => screen.json(&json!({ "act": args.act, "count": count, "done": done }))?,
    }
    Ok(())
}

/// Looks at what would change, and has it confirmed: by the number that is expected, or at the terminal. Answers how
/// many services change; nothing where nobody wants that.
pub(in crate::cli) async fn confirmed(
    client: &Client,
    screen: &mut Screen,
    body: &Value,
    expect: Option<usize>,
) -> Result<Option<usize>, Failure> {
    let seen = client.post(&format!("{ROOT}/bulk"), body.clone()).await?;
    let count = seen.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    match expect {
        Some(expected) if expected != count => {
            let message = format!("{count} services would change, not {expected}: nothing was done");
            Err(Failure::new(Exit::Refused, message))
        }
        Some(_) => Ok(Some(count)),
        None => {
            preview(screen, &field(body, "act"), count, &seen)?;
            Ok((count > 0 && agreed(screen, count)?).then_some(count))
        }
    }
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
        let answer = client.post(&format!("{ROOT}/bulk"), body).await?;
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

/// Asks whoever sits at the terminal; nobody does, nothing is done.
fn agreed(screen: &mut Screen, count: usize) -> Result<bool, Failure> {
    if !screen.is_terminal() || !io::stdin().is_terminal() {
        screen.remark(&format!("nothing was changed: say --expect {count} to do it"))?;
        return Ok(false);
    }
    screen.line(&format!("Type {count} to change {count} services, anything else to leave them:"))?;
    let mut line = String::new();
    io::stdin().lock().take(64).read_line(&mut line)?;
    let yes = line.trim() == count.to_string();
    if !yes {
        screen.line("nothing was changed")?;
    }
    Ok(yes)
}
