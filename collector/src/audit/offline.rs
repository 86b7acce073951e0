//! An exported trail, checked where no collector is: one JSON value a line, events and behind each batch its
//! seal.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use super::chain::{AuditEvent, BATCH, Break, Checker, SealHash, SealRow};

/// Longest line, in bytes.
const MAX_LINE: u64 = 1024 * 1024;

/// A line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// An event.
    Event(AuditEvent),
    /// The seal of the events before it.
    Seal(SealRow),
}

/// What an export comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Seals that hold.
    pub seals: u64,
    /// Events that they cover.
    pub events: u64,
    /// Events behind the last seal.
    pub unsealed: u64,
    /// The last seal's hash.
    pub head: SealHash,
}

/// Why an export is not good.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The chain does not hold.
    #[error(transparent)]
    Broken(#[from] Break),
    /// A line is no line of an export.
    #[error("line {0}: {1}")]
    Line(u64, String),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Checks an export from its first line to its last.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(mut from: impl BufRead, wanted: Option<SealHash>) -> Result<Summary, Refused> {
    let mut checker: Option<Checker> = None;
    let mut events = Vec::new();
    let mut summary = Summary { seals: 0, events: 0, unsealed: 0, head: SealHash::default() };
    let mut number = 0_u64;
    loop {
        let mut line = String::new();
        if io::Read::take(&mut from, MAX_LINE).read_line(&mut line)? == 0 {
            break;
        }
        number += 1;
        let parsed = serde_json::from_str(line.trim_end()).map_err(|error| Refused::Line(number, error.to_string()))?;
        match parsed {
            Line::Event(event) => events.push(event),
            Line::Seal(seal) => {
                let checker = checker.get_or_insert_with(|| begin(&seal, wanted));
                checker.take(&seal, &events)?;
                summary.seals += 1;
                summary.events += events.len() as u64;
                summary.head = checker.head();
                events.clear();
            }
        }
        if events.len() > 2 * BATCH {
            return Err(Refused::Line(number, format!("more than {BATCH} events without a seal")));
        }
    }
    summary.unsealed = events.len() as u64;
    checker.unwrap_or_else(|| Checker::behind(None, wanted)).finish()?;
    Ok(summary)
}

/// An export may begin in the middle of a chain: then its first seal's word is taken for the one before it.
fn begin(first: &SealRow, wanted: Option<SealHash>) -> Checker {
    if first.no <= 1 {
        return Checker::behind(None, wanted);
    }
    let before = SealRow {
        no: first.no - 1,
        last: rollcall_common::id::Seq(first.first.0.saturating_sub(1)),
        hash: first.prev,
        ..first.clone()
    };
    Checker::behind(Some(&before), wanted)
}
