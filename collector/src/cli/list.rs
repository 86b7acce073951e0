//! Lists: described once by a [`Sheet`], printed in every form, followed with `--watch`.
//!
//! A resource says what its columns are and what names an item; [`run`] does the rest: pages, `--columns`,
//! `--no-headers`, `--max`, `--watch`, JSON, YAML and bare ids.

use std::time::Duration;

use clap::Args;
use rollcall_common::time::Timestamp;
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Client, Output},
    print::{Screen, Word, now, word},
    watch,
};
use crate::config::duration;

/// Shortest time between two looks.
const FASTEST: Duration = Duration::from_millis(200);

/// Flags that every list takes.
#[derive(Debug, Clone, Args)]
pub(super) struct Flags {
    /// At most so many; where no number is named, as many as one reads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) max: Option<u32>,
    /// Only these columns, in this order, with commas between them; a field of the document works too, as in
    /// labels.site.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', num_args = 1)]
    pub(super) columns: Vec<String>,
    /// Leave the headings out.
    #[arg(long)]
    pub(super) no_headers: bool,
    /// Go on looking: a picture on a terminal, changed lines elsewhere. Optionally how often.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = every)]
    pub(super) watch: Option<Duration>,
}

impl Flags {
    /// The number of items to ask for.
    pub(super) fn max(&self, sheet: &Sheet) -> usize {
        self.max.map_or(sheet.max, |max| usize::try_from(max).unwrap_or(usize::MAX))
    }
}

fn every(text: &str) -> Result<Duration, String> {
    let every = duration::parse(text).map_err(|error| error.to_string())?;
    if every < FASTEST { Err("at most five times a second".into()) } else { Ok(every) }
}

/// A list that was followed through its pages.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    pub(super) items: Vec<Value>,
    /// Whether there are more than were asked for.
    pub(super) more: bool,
    /// The cursor behind the last item, where there are more.
    pub(super) next: Option<String>,
    pub(super) seq: Value,
    pub(super) epoch: Value,
}

impl Listed {
    /// A list that is complete as it is.
    pub(super) fn whole(items: Vec<Value>) -> Self {
        Self { items, ..Self::default() }
    }

    /// The API's own document, with all pages in one.
    pub(super) fn document(&self) -> Value {
        json!({ "items": self.items, "next": self.next, "seq": self.seq, "epoch": self.epoch })
    }
}

/// One column of a list.
pub(super) struct Column {
    /// Its name for `--columns`; in capitals, its heading.
    name: &'static str,
    cell: fn(&Value, Timestamp) -> Word,
    hidden: bool,
}

impl Column {
    /// A column that is shown where none are chosen.
    pub(super) const fn new(name: &'static str, cell: fn(&Value, Timestamp) -> Word) -> Self {
        Self { name, cell, hidden: false }
    }

    /// A column that is shown where it is chosen.
    pub(super) const fn hidden(name: &'static str, cell: fn(&Value, Timestamp) -> Word) -> Self {
        Self { name, cell, hidden: true }
    }

    fn heading(&self) -> String {
        self.name.to_uppercase().replace('_', " ")
    }
}

/// What a resource's list looks like.
pub(super) struct Sheet {
    /// Its columns.
    pub(super) columns: &'static [Column],
    /// What names an item: printed by `--output raw`.
    pub(super) id: fn(&Value) -> String,
    /// Columns whose change is worth a line while watching.
    pub(super) told: &'static [&'static str],
    /// What to say where there is nothing.
    pub(super) none: &'static str,
    /// Items to ask for where nobody names a number.
    pub(super) max: usize,
}

impl Sheet {
    /// The texts that a change is found by.
    pub(super) fn told(&self, item: &Value, now: Timestamp) -> Vec<String> {
        let columns = self.told.iter().filter_map(|name| self.columns.iter().find(|column| column.name == *name));
        columns.map(|column| (column.cell)(item, now).text().to_owned()).collect()
    }

    /// The columns that are wanted.
    fn chosen<'a>(&'a self, wanted: &'a [String], items: &[Value]) -> Result<Vec<Chosen<'a>>, Failure> {
        if wanted.is_empty() {
            return Ok(self.columns.iter().filter(|column| !column.hidden).map(Chosen::Known).collect());
        }
        let choose = |name: &'a String| {
            if let Some(column) = self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
                return Ok(Chosen::Known(column));
            }
            // A field of the document, as long as somebody has it: a mistyped name must not look empty.
            if items.is_empty() || name.contains('.') || items.iter().any(|item| item.get(name).is_some()) {
                return Ok(Chosen::Field(name));
            }
            let known: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
            Err(Failure::usage(format!(
                "--columns: there is no column {name:?}; known are {}, and every field of the document, as in \
                 labels.site",
                known.join(", ")
            )))
        };
        wanted.iter().filter(|name| !name.is_empty()).map(choose).collect()
    }
}

enum Chosen<'a> {
    Known(&'a Column),
    Field(&'a str),
}

impl Chosen<'_> {
    fn heading(&self) -> String {
        match self {
            Self::Known(column) => column.heading(),
            Self::Field(name) => name.to_uppercase(),
        }
    }

    fn cell(&self, item: &Value, now: Timestamp) -> Word {
        match self {
            Self::Known(column) => (column.cell)(item, now),
            Self::Field(name) => match name.split_once('.') {
                // A label's own name may have dots.
                Some((outer, inner)) if item.get(*name).is_none() => match item.get(outer) {
                    Some(nested) => word(nested, inner),
                    None => Word::faint("-"),
                },
                _ => word(item, name),
            },
        }
    }
}

/// Fetches a list and prints it, once or for ever.
pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    path: &str,
    query: &[(String, String)],
    flags: &Flags,
    sheet: &'static Sheet,
) -> Result<(), Failure> {
    if let Some(every) = flags.watch {
        return watch::run(client, screen, &watch::Watched { path, query, flags, sheet, every }).await;
    }
    let listed = client.list(path, query, flags.max(sheet)).await?;
    print(screen, &listed, flags, sheet)
}

/// Prints a list in the form that was asked for.
pub(super) fn print(screen: &mut Screen, listed: &Listed, flags: &Flags, sheet: &Sheet) -> Result<(), Failure> {
    match screen.output() {
        Output::Json => screen.json(&listed.document())?,
        Output::Raw => {
            for item in &listed.items {
                screen.line(&(sheet.id)(item))?;
            }
        }
        Output::Table => {
            let now = now();
            let columns = sheet.chosen(&flags.columns, &listed.items)?;
            let headings: Vec<String> = columns.iter().map(Chosen::heading).collect();
            let headings: Vec<&str> =
                if flags.no_headers { vec![] } else { headings.iter().map(String::as_str).collect() };
            let rows = listed.items.iter().map(|item| columns.iter().map(|column| column.cell(item, now)).collect());
            screen.table(&headings, rows.collect())?;
            // A script that wants no headings wants no remarks.
            if flags.no_headers {
                return Ok(());
            }
            if listed.items.is_empty() {
                screen.line(sheet.none)?;
            } else if listed.more {
                screen.line(&format!("… and more: only the first {} are shown, see --max", listed.items.len()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::print::field;

    static SHEET: Sheet = Sheet {
        columns: &[
            Column::new("id", |item, _| word(item, "id")),
            Column::hidden("last_seen", |item, _| word(item, "last_seen")),
        ],
        id: |item| field(item, "id"),
        told: &["id"],
        none: "nothing",
        max: 10,
    };

    fn cells(wanted: &[&str], item: Value) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let items = [item];
        let chosen = SHEET.chosen(&wanted, &items).map_err(|failure| failure.to_string())?;
        let [item] = &items;
        Ok(chosen.iter().map(|c| format!("{}={}", c.heading(), c.cell(item, Timestamp(0)).text())).collect())
    }

    #[test]
    fn columns_are_the_named_ones_or_fields_of_the_document() {
        let item = json!({"id": "a", "last_seen": "x", "labels": {"site": "3", "a.b": "c"}, "extra": 7});
        assert_eq!(cells(&[], item.clone()).unwrap(), ["ID=a"]);
        assert_eq!(cells(&["LAST_SEEN", "id"], item.clone()).unwrap(), ["LAST SEEN=x", "ID=a"]);
        assert_eq!(
            cells(&["labels.site", "labels.a.b", "labels.none", "extra"], item.clone()).unwrap(),
            ["LABELS.SITE=3", "LABELS.A.B=c", "LABELS.NONE=-", "EXTRA=7"]
        );
        let error = cells(&["stattus"], item).unwrap_err();
        assert!(error.contains("no column \"stattus\"") && error.contains("id, last_seen"), "{error}");
    }
}
