//! What people and scripts get to see: tables, JSON, YAML, bare words; colour on a terminal only.
//!
//! A command asks [`Screen::output`] which of three shapes is wanted and gives that; whether a document is
//! printed as JSON or YAML is decided here. Everything goes through one locked handle, so that a reader that goes away (`… | head`) ends the command
//! quietly. Texts from outside lose what could move a terminal's cursor.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, TableStyle};
use rollcall_common::{
    health::Text,
    time::{Clock, SystemClock, Timestamp},
};
use serde_json::Value;

use super::{
    Failure,
    reach::{Format, Reach, When},
};
use crate::config::{Config, Liveness, RegistryAt, Source, duration};

/// What a command prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Output {
    /// Tables and sentences, for people.
    #[default]
    Table,
    /// What the API answered: [`Screen::json`] prints it in the form that was asked for, JSON or YAML.
    Json,
    /// Ids, one a line; for a new secret, the secret alone.
    Raw,
}

/// Where output goes.
pub(super) struct Screen {
    out: Box<dyn Write>,
    format: Format,
    terminal: bool,
    colour: bool,
    /// What a terminal and the environment say of colours.
    colour_wanted: bool,
}

impl Screen {
    /// The process's own output.
    pub(super) fn of_process(source: &dyn Source) -> Self {
        let terminal = io::stdout().is_terminal();
        let is = |name: &str, word: &str| source.variable(name).is_some_and(|value| value == word);
        let plain = source.variable("NO_COLOR").is_some_and(|value| !value.is_empty()) || is("TERM", "dumb");
        let colour = terminal && !plain;
        let out = Box::new(io::stdout().lock());
        Self { out, format: Format::Table, terminal, colour, colour_wanted: colour }
    }

    /// Output that is kept, as on no terminal.
    #[cfg(test)]
    pub(super) fn kept(out: Box<dyn Write>) -> Self {
        Self { out, format: Format::Table, terminal: false, colour: false, colour_wanted: false }
    }

    /// Output as the flags want it.
    pub(super) fn speaking(mut self, reach: &Reach) -> Self {
        self.format = reach.output.unwrap_or_default();
        self.colour = match reach.color.unwrap_or_default() {
            When::Auto => self.colour_wanted,
            When::Always => true,
            When::Never => false,
        };
        self
    }

    /// What is wanted.
    pub(super) fn output(&self) -> Output {
        match self.format {
            Format::Table => Output::Table,
            Format::Json | Format::Yaml => Output::Json,
            Format::Raw => Output::Raw,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// What is no answer, on standard error: it must not end up in what a script reads.
    pub(super) fn remark(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stderr().lock(), "{text}")
    }

    /// A text as it is, without a line's end.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Bytes as they are. What others wrote is not for a terminal: see [`Self::is_terminal`].
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// A document, as the API gave it, in JSON or YAML.
    pub(super) fn json(&mut self, document: &Value) -> io::Result<()> {
        if self.format == Format::Yaml {
            return self.yaml(document);
        }
        serde_json::to_writer_pretty(&mut self.out, document)?;
        writeln!(self.out)?;
        self.out.flush()
    }

    /// One of many documents: a line of JSON, or a YAML document of a stream.
    pub(super) fn document_line(&mut self, document: &Value) -> io::Result<()> {
        if self.format == Format::Yaml {
            writeln!(self.out, "---")?;
            return self.yaml(document);
        }
        writeln!(self.out, "{document}")?;
        self.out.flush()
    }

    fn yaml(&mut self, document: &Value) -> io::Result<()> {
        let text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
        writeln!(self.out, "{}", text.trim_end_matches('\n'))?;
        self.out.flush()
    }

    /// One thing: its document, its id, or facts about it.
    pub(super) fn one(
        &mut self,
        item: &Value,
        id: impl FnOnce(&Value) -> String,
        facts: impl FnOnce(&Value) -> Vec<(&'static str, Word)>,
    ) -> Result<(), Failure> {
        match self.output() {
            Output::Json => self.json(item)?,
            Output::Raw => self.line(&id(item))?,
            Output::Table => self.facts(facts(item))?,
        }
        Ok(())
    }

    /// A table under headings, if there are any; one row a line.
    pub(super) fn table(&mut self, headings: &[&str], rows: Vec<Vec<Word>>) -> io::Result<()> {
        let mut table = self.bare();
        if !headings.is_empty() {
            table.set_header(headings.iter().map(|heading| self.cell(&Word::faint(*heading))));
        }
        for row in rows {
            table.add_row(row.iter().map(|word| self.cell(word)));
        }
        self.print(table)
    }

    /// Facts, one a line.
    pub(super) fn facts(&mut self, facts: Vec<(&str, Word)>) -> io::Result<()> {
        let mut table = self.bare();
        for (name, word) in facts {
            table.add_row([self.cell(&Word::faint(name)), self.cell(&word)]);
        }
        self.print(table)
    }

    /// Ends as a failed write would where nobody reads any more. A writer that has nothing to say does not
    /// learn of it otherwise: `… --watch | grep -m1 lost` would wait for the next change.
    pub(super) fn still_read(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let [fd] = &fds;
        if fd.revents().contains(PollFlags::ERR) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Empties the terminal for the next picture.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        write!(self.out, "\u{1b}[H\u{1b}[2J")
    }

    /// What a configuration comes to; `certificate` says what the API's own is good for.
    pub(super) fn config(&mut self, config: &Config, certificate: Option<(Word, Vec<String>)>) -> io::Result<()> {
        let scheme = if config.http_tls.is_some() { "https" } else { "http" };
        let registry = match &config.registry {
            RegistryAt::Sqlite(path) => format!("SQLite in {}", path.display()),
        };
        let liveness = match &config.liveness {
            Liveness::Memory => "in memory".to_owned(),
            Liveness::Redis(url) => url.to_string(),
        };
        let advertise: Vec<String> = config.advertise.iter().map(ToString::to_string).collect();
        let pace = config.pace;
        let (certificate, doubts) = certificate.unwrap_or((Word::faint("none: HTTP on loopback"), Vec::new()));
        let mut facts = vec![
            ("name", Word::plain(config.name.to_string())),
            ("trust domain", Word::plain(config.trust_domain.to_string())),
            ("state", Word::plain(config.state_dir.display().to_string())),
            (
                "sidecars",
                Word::plain(format!("{} {}", if config.tcp_fallback { "UDP, TCP" } else { "UDP" }, config.quic_listen)),
            ),
            (
                "advertised",
                if advertise.is_empty() { Word::faint("nothing") } else { Word::plain(advertise.join(", ")) },
            ),
            ("API", Word::plain(format!("{scheme}://{}", config.http_listen))),
            ("API certificate", certificate),
            (
                "pace",
                Word::plain(format!(
                    "every {}, lost after {}",
                    duration::print(pace.interval()),
                    duration::print(pace.ttl())
                )),
            ),
            ("certificates", Word::plain(format!("live {}", duration::print(config.leaf_ttl)))),
            ("registry", Word::plain(registry)),
            ("liveness", Word::plain(liveness)),
        ];
        facts.extend(doubts.iter().map(|doubt| ("mind", Word::doubtful(doubt))));
        self.facts(facts)?;
        self.line("the configuration is good")
    }

    fn bare(&self) -> Table {
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        // A script reads lines: only a terminal's width may break them.
        let arrangement = if self.terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        if self.colour {
            // Whether there is a terminal was asked already.
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn cell(&self, word: &Word) -> Cell {
        let cell = Cell::new(&word.text);
        match word.tone.colour() {
            _ if !self.colour => cell,
            Some(colour) => cell.fg(colour),
            None if word.tone == Tone::Faint => cell.add_attribute(Attribute::Dim),
            None => cell,
        }
    }

    fn print(&mut self, mut table: Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        self.out.flush()
    }
}

/// A text with a meaning that colour can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    text: String,
    tone: Tone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Faint,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    fn colour(self) -> Option<Color> {
        match self {
            Self::Plain | Self::Faint => None,
            Self::Good => Some(Color::Green),
            Self::Doubtful => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
        }
    }
}

impl Word {
    /// A text without a tone.
    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self { text: Text::fit(text.as_ref()).to_string(), tone: Tone::Plain }
    }

    /// A text that merits a second look.
    pub(super) fn doubtful(text: impl AsRef<str>) -> Self {
        Self { tone: Tone::Doubtful, ..Self::plain(text) }
    }

    /// A text that must not be missed.
    pub(super) fn bad(text: impl AsRef<str>) -> Self {
        Self { tone: Tone::Bad, ..Self::plain(text) }
    }

    /// A text in the background.
    pub(super) fn faint(text: impl AsRef<str>) -> Self {
        Self { tone: Tone::Faint, ..Self::plain(text) }
    }

    /// A status, presence or health, with the tone of its meaning.
    pub(super) fn state(text: impl AsRef<str>) -> Self {
        let tone = match text.as_ref() {
            "alive" | "active" | "healthy" | "usable" | "activated" | "done" | "succeeded" | "applied" | "moving" => {
                Tone::Good
            }
            "late" | "unknown" | "pending" | "degraded" | "not_yet_valid" | "issued" | "delivered" | "running" => {
                Tone::Doubtful
            }
            "lost" | "revoked" | "unhealthy" | "failed" | "stalled" | "refused" => Tone::Bad,
            _ => Tone::Faint,
        };
        Self { tone, ..Self::plain(text) }
    }

    /// The same with an explanation behind it.
    pub(super) fn because(self, why: &str) -> Self {
        if why.is_empty() { self } else { Self { text: format!("{} ({})", self.text, Text::fit(why)), ..self } }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// A field of a document as a text; empty where it is absent or `null`.
pub(super) fn field(item: &Value, name: &str) -> String {
    match item.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A field as a word; a dash where there is nothing.
pub(super) fn word(item: &Value, name: &str) -> Word {
    match field(item, name) {
        text if text.is_empty() => Word::faint("-"),
        text => Word::plain(text),
    }
}

/// How long ago a moment was, or how far it is.
pub(super) fn age(item: &Value, name: &str, now: Timestamp) -> Word {
    let Ok(at) = field(item, name).parse::<jiff::Timestamp>() else { return Word::faint("-") };
    let at = Timestamp(at.as_millisecond());
    if at > now {
        return Word::plain(format!("in {}", duration::print(at.since(now))));
    }
    match now.since(at) {
        gone if gone.as_secs() == 0 => Word::plain("now"),
        gone => Word::plain(format!("{} ago", duration::print(gone))),
    }
}

/// The operator's own clock: only ages that people read come from it.
pub(super) fn now() -> Timestamp {
    SystemClock.now().wall
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_are_for_people() {
        let now = Timestamp::from_secs(1_800_000_000);
        let at = |millis: i64| json!({ "at": Timestamp(now.0 - millis).to_string() });
        for (item, expected) in [
            (at(0), "now"),
            (at(400), "now"),
            (at(12_000), "12s ago"),
            (at(90_061_000), "1d1h ago"),
            (at(-3_600_000), "in 1h"),
            (json!({"at": null}), "-"),
            (json!({}), "-"),
            (json!({"at": "rubbish"}), "-"),
        ] {
            assert_eq!(age(&item, "at", now).text(), expected);
        }
    }

    #[test]
    fn documents_are_json_or_yaml() {
        let document = json!({"items": [{"id": "a", "note": "yes", "n": 1, "none": null, "text": "a: b\n- c"}]});
        let text = serde_saphyr::to_string(&document).unwrap();
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, document, "{text}");
    }

    #[test]
    fn texts_from_outside_cannot_move_the_cursor() {
        assert_eq!(Word::plain("a\u{1b}[2Jb\nc\u{202e}d").text(), "a [2Jb c d");
    }

    #[test]
    fn states_have_their_tone() {
        assert_eq!(Word::state("alive").tone, Tone::Good);
        assert_eq!(Word::state("lost").tone, Tone::Bad);
        assert_eq!(Word::state("stopped").tone, Tone::Faint);
    }
}
