//! One event as one line.

use std::fmt::Write as _;

use tracing::Level;

use super::{
    Form,
    mask::{escaped, json, masked, quoted},
};
use crate::time::Timestamp;

/// Names that the line itself uses in JSON.
const OWN: [&str; 5] = ["timestamp", "level", "target", "span", "message"];

/// A value as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Words.
    Text(String),
    /// A number or a truth, as JSON prints it.
    Bare(String),
}

/// Values by name, in the order in which they were recorded.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// A span that an event happened in.
#[derive(Debug, Clone)]
pub(super) struct Within {
    pub(super) name: &'static str,
    pub(super) fields: Fields,
}

/// An event, gathered.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) at: Timestamp,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) message: String,
    pub(super) fields: Fields,
    /// Outermost first.
    pub(super) spans: Vec<Within>,
}

impl Line<'_> {
    /// The line with its end.
    pub(super) fn print(&self, form: Form) -> String {
        let mut out = String::with_capacity(256);
        match form {
            Form::Json => self.json(&mut out),
            Form::Text { colour } => {
                let _ = write!(out, "{} ", self.at);
                self.text(&mut out, colour);
            }
            Form::Journal => {
                let _ = write!(out, "<{}>", self.priority());
                self.text(&mut out, false);
            }
        }
        out.push('\n');
        out
    }

    /// As syslog counts.
    fn priority(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        }
    }

    fn text(&self, out: &mut String, colour: bool) {
        let shade = match self.level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        // Writing to a String cannot fail, here and below.
        let _ = if colour {
            write!(out, "\u{1b}[{shade}m{:>5}\u{1b}[0m ", self.level)
        } else {
            write!(out, "{:>5} ", self.level)
        };
        for span in &self.spans {
            out.push_str(span.name);
            let mut mark = '{';
            for (name, value) in &span.fields {
                out.push(mark);
                pair(out, name, value);
                mark = ' ';
            }
            out.push_str(if span.fields.is_empty() { ":" } else { "}:" });
        }
        if !self.spans.is_empty() {
            out.push(' ');
        }
        out.push_str(self.target);
        out.push(':');
        if !self.message.is_empty() {
            out.push(' ');
            escaped(out, &masked(&self.message));
        }
        for (name, value) in &self.fields {
            out.push(' ');
            pair(out, name, value);
        }
    }

    fn json(&self, out: &mut String) {
        let _ = write!(out, "{{\"timestamp\":\"{}\",\"level\":\"{}\",\"target\":", self.at, self.level);
        json(out, self.target);
        if let Some(span) = self.spans.last() {
            out.push_str(",\"span\":");
            json(out, span.name);
        }
        out.push_str(",\"message\":");
        json(out, &masked(&self.message));
        // The event's own word counts before its spans', an inner span's before an outer one's.
        let all = self.spans.iter().rev().flat_map(|span| &span.fields);
        let mut told: Vec<&str> = Vec::new();
        for (name, value) in self.fields.iter().chain(all) {
            if told.contains(name) {
                continue;
            }
            told.push(name);
            out.push(',');
            if OWN.contains(name) {
                json(out, &format!("field_{name}"));
            } else {
                json(out, name);
            }
            out.push(':');
            match value {
                Value::Text(text) => json(out, &masked(text)),
                Value::Bare(bare) => out.push_str(bare),
            }
        }
        out.push('}');
    }
}

fn pair(out: &mut String, name: &str, value: &Value) {
    out.push_str(name);
    out.push('=');
    match value {
        Value::Text(text) => quoted(out, &masked(text)),
        Value::Bare(bare) => out.push_str(bare),
    }
}
