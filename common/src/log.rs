//! What a process says of itself: one event is one line, for people, for the journal or as a flat JSON object.
//!
//! It owns the form of a line, and that no secret and nothing that could forge a second line is in it, whichever
//! crate speaks. It refuses to know where lines go and what time it is: both are handed in. An event that the
//! filter does not want is never formatted.

mod line;
mod mask;

use std::fmt;

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use self::line::{Fields, Line, Value, Within};
pub use self::mask::masked;
use crate::time::Timestamp;

/// Most fields of one event or span; later ones are left out.
const MAX_FIELDS: usize = 64;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people, with the time in front.
    Text {
        /// Whether a terminal will show the level in its colour.
        colour: bool,
    },
    /// For the journal, which knows the time and wants a priority.
    Journal,
    /// One flat object: `timestamp`, `level`, `target`, `span`, `message`, then the fields of the event and of its
    /// spans.
    Json,
}

/// Whether standard error, by its device and inode, is the stream to the journal that systemd names in
/// `JOURNAL_STREAM`.
#[must_use]
pub fn is_journal(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// The layer that prints.
pub struct Lines<N, W> {
    form: Form,
    now: N,
    write: W,
}

impl<N, W> Lines<N, W>
where
    N: Fn() -> Timestamp,
    W: Fn(&[u8]),
{
    /// Prints each event in this form, with the time that `now` tells, as one call of `write`.
    pub fn new(form: Form, now: N, write: W) -> Self {
        Self { form, now, write }
    }
}

impl<N, W> fmt::Debug for Lines<N, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("form", &self.form).finish_non_exhaustive()
    }
}

/// What a span was given, kept with it.
struct Kept(Fields);

impl<S, N, W> Layer<S> for Lines<N, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: Fn() -> Timestamp + 'static,
    W: Fn(&[u8]) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut gathered = Gathered::default();
        attributes.record(&mut gathered);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Kept(gathered.whole()));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut gathered = Gathered::default();
        values.record(&mut gathered);
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Kept(kept)) = extensions.get_mut() else { return };
        for (name, value) in gathered.whole() {
            if let Some((_, old)) = kept.iter_mut().find(|(known, _)| *known == name) {
                *old = value;
            } else if kept.len() < MAX_FIELDS {
                kept.push((name, value));
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut gathered = Gathered::default();
        event.record(&mut gathered);
        let scope = context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root);
        let spans = scope.map(|span| {
            let fields = span.extensions().get::<Kept>().map(|Kept(fields)| fields.clone()).unwrap_or_default();
            Within { name: span.name(), fields }
        });
        let line = Line {
            at: (self.now)(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            spans: spans.collect(),
            message: std::mem::take(&mut gathered.message),
            fields: gathered.fields,
        };
        (self.write)(line.print(self.form).as_bytes());
    }
}

/// Values on their way into a line.
#[derive(Default)]
struct Gathered {
    message: String,
    fields: Fields,
}

impl Gathered {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Bare(text)) => self.message = text,
            (name, value) if self.fields.len() < MAX_FIELDS => self.fields.push((name, value)),
            (_, _) => {}
        }
    }

    /// A span's fields: its message, if it has one, is one of them.
    fn whole(mut self) -> Fields {
        if !self.message.is_empty() {
            self.fields.push(("message", Value::Text(self.message)));
        }
        self.fields
    }
}

impl Visit for Gathered {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        self.add(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::Text(value.to_string()));
    }
}

#[cfg(test)]
mod tests;
