//! Figures for people and for machines. Formats what it is given; measures nothing.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::Path};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    baseline,
    gauge::Machine,
    quantile::Summary,
    recruit::Enrolled,
    run::{self, Window},
    storm,
    witness::{Detection, FalseTransition},
};

/// Verdicts shown in a table; JSON has all.
const SHOWN: usize = 5;

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

/// What can be printed either way.
pub trait Figures: Serialize {
    /// Name, value and budget of each.
    fn rows(&self) -> Vec<[String; 3]>;
    /// What is said above them.
    fn title(&self) -> String;
    /// What should not have been.
    fn failures(&self) -> &[String];
}

/// Prints to standard output, and saves as JSON where a file is named.
///
/// # Errors
/// When either cannot be written.
pub fn print(figures: &impl Figures, output: Output, save: Option<&Path>) -> Result<()> {
    if let Some(file) = save {
        fs::write(file, serde_json::to_vec_pretty(figures)?).with_context(|| format!("cannot write {file:?}"))?;
    }
    let text = match output {
        Output::Json => serde_json::to_string_pretty(figures)?,
        Output::Table => table(figures)?,
    };
    io::Write::write_all(&mut io::stdout().lock(), format!("{text}\n").as_bytes())?;
    Ok(())
}

fn table(figures: &impl Figures) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["figure", "measured", "budget"]);
    for row in figures.rows() {
        table.add_row(row);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}\n\n{table}\n", figures.title());
    match figures.failures() {
        [] => text.push_str("\nwell"),
        failures => write!(text, "\nFAILED: {}", failures.join("; "))?,
    }
    Ok(text)
}

fn row(name: &str, value: impl ToString, budget: &str) -> [String; 3] {
    [name.to_owned(), value.to_string(), budget.to_owned()]
}

fn quantiles(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "none".to_owned(),
        |Summary { p50_ms, p90_ms, p99_ms, max_ms, .. }| format!("{p50_ms} / {p90_ms} / {p99_ms} / {max_ms} ms"),
    )
}

fn on(machine: &Machine) -> String {
    let Machine { cpus, model, kernel, load } = machine;
    format!("{cpus} x {model}, Linux {kernel}, load {load}")
}

fn verdicts(found: &[FalseTransition]) -> Vec<[String; 3]> {
    let shown = found.iter().take(SHOWN).map(|verdict| {
        let FalseTransition { service, presence, cause, decided_at } = verdict;
        row("  false", format!("{service} {presence} ({cause}) {decided_at}"), "")
    });
    [row("false transitions", found.len(), "0")].into_iter().chain(shown).collect()
}

fn reasons(ends: &BTreeMap<String, u64>) -> impl Iterator<Item = [String; 3]> {
    ends.iter().map(|(why, count)| row(&format!("  ended: {why}"), count, ""))
}

fn found(name: &str, detection: Option<&Detection>, budget: &str) -> Option<[String; 3]> {
    let detection = detection.filter(|detection| detection.expected > 0)?;
    let shown = format!("{} ({} of {})", quantiles(detection.after), detection.found(), detection.expected);
    Some(row(name, shown, budget))
}

impl Figures for run::Report {
    fn title(&self) -> String {
        let Window { length_ms, .. } = self.window;
        let machine = on(&self.machine);
        format!(
            "{} sidecars, interval {} s, TTL {} s, window {} s, on {machine}",
            self.sidecars,
            self.interval_ms / 1_000,
            self.ttl_ms / 1_000,
            length_ms / 1_000
        )
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let window = &self.window;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let rate = window.counts.acked as f64 * 1_000.0 / window.length_ms.max(1) as f64;
        let mut rows = vec![
            row("beats acknowledged in the window", window.counts.acked, ""),
            row("beats per second", format!("{rate:.0}"), ""),
            row("beats lost, late among them (whole run)", format!("{}, {}", self.counts.lost, self.counts.late), "0"),
            row("reconnects (whole run)", self.counts.reconnects, "0"),
            row("ack p50 / p90 / p99 / max", quantiles(window.ack), ""),
            row("greeted p50 / p90 / p99 / max", quantiles(self.reach), ""),
        ];
        if let Some(us) = window.collector_cpu_us {
            rows.push(row("collector CPU per beat", format!("{us:.1} us"), "HTTP/1.1 TLS keep-alive, same run"));
        }
        rows.push(row("swarm CPU per beat", format!("{:.1} us", window.own_cpu_us), ""));
        rows.push(row("wire per beat, IP and UDP headers in", format!("{:.0} B", window.wire_bytes), "240 B"));
        rows.push(row("datagrams per beat", format!("{:.2}", window.datagrams), "3"));
        if let Some(memory) = self.memory {
            #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
            let kb = |bytes: u64| bytes as f64 / 1_000.0;
            rows.push(row("collector memory per connection", format!("{:.1} kB", kb(memory.per_connection)), ""));
            if let Some(each) = memory.per_sidecar {
                rows.push(row("  registry entry included", format!("{:.1} kB", kb(each)), "28 kB"));
            }
            rows.push(row(
                "collector memory before, with all",
                format!("{:.1}, {:.1} MB", kb(memory.before) / 1_000.0, kb(memory.after) / 1_000.0),
                "",
            ));
        }
        if let Some(found) = &self.false_transitions {
            rows.extend(verdicts(found));
        }
        let ttl = format!("p99: TTL + 100 ms = {} ms", self.ttl_ms + 100);
        rows.extend(found("killed to lost p50 / p90 / p99 / max", self.lost.as_ref(), &ttl));
        rows.extend(found("goodbye to stopped p50 / p90 / p99 / max", self.stopped.as_ref(), "200 ms"));
        rows.extend(reasons(&self.ends));
        rows
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl Figures for storm::Report {
    fn title(&self) -> String {
        format!("kill -9 and restart under {} sidecars, on {}", self.sidecars, on(&self.machine))
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let mut rows = vec![
            row("outage", format!("{} ms", self.outage_ms), ""),
            row("back since its return p50 / p90 / p99 / max", quantiles(self.since_return), "interval + 10 s"),
            row("back since its death p50 / p90 / p99 / max", quantiles(self.since_death), ""),
            row("back", self.since_return.map_or(0, |summary| summary.count), &self.sidecars.to_string()),
        ];
        if let Some(us) = self.collector_cpu_us {
            rows.push(row("collector CPU per sidecar until all were back", format!("{us} us"), "550 us a handshake"));
        }
        if let Some(found) = &self.false_transitions {
            rows.extend(verdicts(found));
        }
        rows.extend(reasons(&self.ends));
        rows
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl Figures for baseline::Report {
    fn title(&self) -> String {
        let machine = on(&self.machine);
        format!("HTTP/1.1 TLS keep-alive, {} connections, on {machine}", self.connections)
    }

    fn rows(&self) -> Vec<[String; 3]> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let (rate, kb) =
            (self.answered as f64 * 1_000.0 / self.length_ms.max(1) as f64, self.per_connection as f64 / 1_000.0);
        vec![
            row("requests answered", self.answered, ""),
            row("requests per second", format!("{rate:.0}"), ""),
            row("answer p50 / p90 / p99 / max", quantiles(self.answer), ""),
            row("server CPU per request", format!("{:.1} us", self.server_cpu_us), ""),
            row("client CPU per request", format!("{:.1} us", self.own_cpu_us), ""),
            row("server memory per connection, kernel's not in", format!("{kb:.1} kB"), ""),
        ]
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl Figures for Enrolled {
    fn title(&self) -> String {
        format!("{} identities, {} of them enrolled now", self.total, self.enrolled)
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let mut rows = vec![
            row("took", format!("{} ms", self.took_ms), ""),
            row("each p50 / p90 / p99 / max", quantiles(self.each), ""),
            row("told to come back", self.retries, ""),
            row("swarm CPU each", format!("{} us", self.own_cpu_us), "both sides: 100 ms"),
        ];
        if let Some(us) = self.collector_cpu_us {
            rows.push(row("collector CPU each", format!("{us} us"), ""));
        }
        rows
    }

    fn failures(&self) -> &[String] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_below_the_figures() {
        let calm = storm::Report {
            machine: Machine { cpus: 2, model: "x".into(), kernel: "6".into(), load: "0.1".into() },
            sidecars: 3,
            outage_ms: 700,
            since_death: None,
            since_return: Some(Summary { count: 3, p50_ms: 1, p90_ms: 2, p99_ms: 3, max_ms: 4 }),
            collector_cpu_us: None,
            ends: BTreeMap::from([("reset by peer".to_owned(), 3)]),
            false_transitions: Some(vec![]),
            failures: vec![],
        };
        let text = table(&calm).unwrap();
        assert!(text.contains("1 / 2 / 3 / 4 ms") && text.contains("ended: reset by peer") && text.ends_with("well"));
        let failed = storm::Report { failures: vec!["one is missing".into()], ..calm };
        assert!(table(&failed).unwrap().ends_with("FAILED: one is missing"));
    }
}
