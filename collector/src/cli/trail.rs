//! The audit trail: look, check, export, and check an export where no collector is.

use std::{fs::File, io::BufReader, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use reqwest::Method;
use rollcall_common::service::is_printable;
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    client::Client,
    list::{self, Column, Flags, Sheet},
    print::{Output, Screen, Word, field, word},
    records::{self, AuditArgs},
};
use crate::audit::{chain::SealHash, offline};

/// How long until a seal that is due is looked for again, and how often.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 30;

/// Looks, or does one of these.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Trail {
    #[command(flatten)]
    args: AuditArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the audit trail, newest first; the same without a word.
    #[command(after_help = "Example:\n  rollcall-collector audit list --object agent/edge-17 --max 10")]
    List(AuditArgs),
    /// Show the seals of the trail, in order.
    #[command(after_help = "Example:\n  rollcall-collector audit seals --max 10 --output json")]
    Seals {
        #[command(flatten)]
        flags: Flags,
    },
    /// Check that nothing was changed, removed or slipped in.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// A hash that was noted earlier: the chain must contain it.
        #[arg(long, value_name = "HASH")]
        head: Option<SealHash>,
        /// Check this export instead of the collector's trail.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print the whole trail with its seals, one JSON value a line.
    #[command(after_help = "Example:\n  rollcall-collector audit export > audit.jsonl")]
    Export {
        /// Only what comes behind the seal with this number.
        #[arg(long, value_name = "NO", default_value_t = 0)]
        after: u64,
    },
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  rollcall-collector audit verify
  rollcall-collector audit verify --head 3f1c000000000000000000000000000000000000000000000000000000009a77
  rollcall-collector audit verify --file audit.jsonl

Exit codes: 0 it holds, 77 it does not.";

static SEALS: Sheet = Sheet {
    columns: &[
        Column::new("no", |item, _| word(item, "no")),
        Column::new("sealed at", |item, _| word(item, "sealed_at")),
        Column::new("first", |item, _| word(item, "first")),
        Column::new("last", |item, _| word(item, "last")),
        Column::new("events", |item, _| word(item, "count")),
        Column::new("hash", |item, _| word(item, "hash")),
        Column::new("retired", |item, _| word(item, "retired_at")),
    ],
    id: |item| field(item, "hash"),
    told: &["no", "hash"],
    none: "nothing is sealed yet",
    max: 100,
};

impl Trail {
    /// What can be done without a collector is done; the rest is handed back.
    pub(super) fn offline(self, screen: &mut Screen) -> Result<Option<Self>, Failure> {
        let Some(Command::Verify { head, file: Some(file) }) = &self.command else { return Ok(Some(self)) };
        let opened = File::open(file);
        let opened = opened.map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
        let found = offline::verify(BufReader::new(opened), *head);
        let found = found.map_err(|why| Failure::new(Exit::Refused, format!("{}: {why}", file.display())))?;
        let shown = json!({
            "holds": true, "seals": found.seals, "events": found.events, "unsealed": found.unsealed,
            "head": found.head.to_string(),
        });
        tell(screen, &shown)?;
        Ok(None)
    }
}

pub(super) async fn run(client: &Client, screen: &mut Screen, trail: Trail) -> Result<(), Failure> {
    match trail.command {
        None => records::audit(client, screen, trail.args).await,
        Some(Command::List(args)) => records::audit(client, screen, args).await,
        Some(Command::Seals { flags }) => {
            list::run(client, screen, "/api/admin/audit/seals", &[], &flags, &SEALS).await
        }
        Some(Command::Verify { head, .. }) => verify(client, screen, head).await,
        Some(Command::Export { after }) => export(client, screen, after).await,
    }
}

async fn verify(client: &Client, screen: &mut Screen, head: Option<SealHash>) -> Result<(), Failure> {
    let (mut after, mut seals, mut events) = (0, 0, 0);
    let mut wanted = head;
    loop {
        let mut query = vec![("after".to_owned(), after.to_string())];
        query.extend(wanted.map(|head| ("head".to_owned(), head.to_string())));
        let found = client.get("/api/admin/audit/verify", &query).await?;
        let number = |name: &str| found.get(name).and_then(Value::as_u64);
        seals += number("seals").unwrap_or(0);
        events += number("events").unwrap_or(0);
        if let Some(broken) = found.get("broken").filter(|broken| !broken.is_null()) {
            return Err(Failure::new(
                Exit::Refused,
                format!("the audit trail does not hold: {}", field(broken, "detail")),
            ));
        }
        match number("next") {
            Some(next) => {
                // The parts that follow cannot meet it again.
                wanted = wanted.filter(|_| found.get("head_met").and_then(Value::as_bool) != Some(true));
                after = next;
            }
            None => {
                let head = field(&found, "head");
                return tell(screen, &json!({ "holds": true, "seals": seals, "events": events, "head": head }));
            }
        }
    }
}

async fn export(client: &Client, screen: &mut Screen, mut after: u64) -> Result<(), Failure> {
    let mut patience = PATIENCE;
    loop {
        let query = [("after".to_owned(), after.to_string())];
        let mut answer = client.call(Method::GET, "/api/admin/audit/export").query(&query).stream().await?;
        let next: Option<u64> = answer.header("x-next").and_then(|next| next.parse().ok());
        let mut page = Page::new(screen.is_terminal());
        while let Some(chunk) = answer.chunk().await? {
            screen.bytes(&page.take(&chunk))?;
        }
        screen.bytes(&page.end())?;
        match next {
            None => return Ok(screen.text("")?),
            // More than a batch waits for its seal, which is a matter of a second.
            Some(next) if next == after => {
                patience = patience.checked_sub(1).ok_or_else(|| {
                    let message = "the collector does not seal its trail: what is not sealed yet is not exported";
                    Failure::new(Exit::Unreachable, message)
                })?;
                tokio::time::sleep(AGAIN).await;
            }
            Some(next) => (after, patience) = (next, PATIENCE),
        }
    }
}

/// What goes through as it is, byte for byte; on a terminal, line by line and without what could move the cursor.
struct Page {
    screens: bool,
    rest: Vec<u8>,
}

impl Page {
    fn new(screens: bool) -> Self {
        Self { screens, rest: Vec::new() }
    }

    fn take(&mut self, chunk: &[u8]) -> Vec<u8> {
        if !self.screens {
            return chunk.to_vec();
        }
        self.rest.extend_from_slice(chunk);
        // A character may lie across two chunks; a line's end never does.
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        screened(&lines)
    }

    fn end(self) -> Vec<u8> {
        screened(&self.rest)
    }
}

/// The same JSON, with everything that does not print written in its escapes.
fn screened(lines: &[u8]) -> Vec<u8> {
    let mut out = String::with_capacity(lines.len());
    for c in String::from_utf8_lossy(lines).chars() {
        if c == '\n' || is_printable(c.encode_utf8(&mut [0; 4])) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out.into_bytes()
}

fn tell(screen: &mut Screen, found: &Value) -> Result<(), Failure> {
    match screen.output() {
        Output::Json => screen.json(found)?,
        Output::Raw => screen.line(&field(found, "head"))?,
        Output::Table => screen.facts(vec![
            ("the trail", Word::plain("holds")),
            ("seals", word(found, "seals")),
            ("events", word(found, "events")),
            ("head", word(found, "head")),
        ])?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_byte_for_byte_and_harmless_on_a_terminal() {
        let text = "{\"a\":\"Zürich €\"}\n{\"b\":\"\u{202e}\u{9b}x\u{e0001}\"}\n";
        let through = |screens: bool, at: usize| {
            let mut page = Page::new(screens);
            let mut out = page.take(&text.as_bytes()[..at]);
            out.extend(page.take(&text.as_bytes()[at..]));
            out.extend(page.end());
            out
        };
        for at in 0..text.len() {
            assert_eq!(through(false, at), text.as_bytes(), "{at}");
            let shown = String::from_utf8(through(true, at)).unwrap();
            assert!(shown.starts_with("{\"a\":\"Zürich €\"}\n") && shown.ends_with("\n"), "{at}: {shown}");
            assert!(shown.contains("\\u202e\\u009bx"), "{shown}");
            let said =
                |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
            assert_eq!(said(&shown), said(text), "the same to a program");
        }
    }
}
