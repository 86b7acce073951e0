//! Which services a list shows: the query read into tests that an entry passes or not.
//!
//! Every word is checked when the query is read; a parameter or word that is not known is refused with the
//! ones that are, because a filter that is silently passed over shows too much.

use std::{fmt::Display, str::FromStr};

use rollcall_common::{
    health::Health,
    id::{Kind, ServiceId, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    service::{CheckerKind, Source},
};

use super::{
    error::{Problem, ProblemCode},
    openapi::words,
    page,
    routes::Param,
};
use crate::{registry::roster::Entry, store::rows::ServiceRow};

/// Most label tests in one query.
const MAX_LABELS: usize = 16;
/// Longest text to look for, in bytes.
const MAX_TEXT: usize = 128;

/// The parameters of a list of services.
pub(super) const QUERY: &[Param] = &[
    Param::list::<words::Status>("status", "Only with one of these statuses"),
    Param::list::<words::Presence>("presence", "Only with one of these presences"),
    Param::list::<words::Health>("health", "Only with one of these healths"),
    Param::list::<words::Source>("source", "Only registered in one of these ways"),
    Param::of::<words::Id>("checker_kind", "Only checkers of this kind"),
    Param::each::<words::Text>("label", "Only with this label: `key:value`, `key=value`, or `key` for any value"),
    Param::of::<words::Search>("q", "Only where id, parent, component, labels, metadata or host name hold this text"),
    Param::of::<words::Limit>("limit", "Services of a page"),
    Param::of::<words::Cursor>("cursor", "Where the page begins"),
];
/// Beside them, where the path names no kind.
pub(super) const KIND: Param = Param::of::<words::Kind>("kind", "Only this kind");
/// Beside them, where the path names no parent.
pub(super) const PARENT: Param = Param::of::<words::Id>("parent", "Only with this parent");

/// What a list shows, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Only this kind; `None` = every kind, in the order of the tree.
    pub kind: Option<Kind>,
    /// Only what passes.
    pub filter: Filter,
    /// Only what comes behind this one.
    pub after: Option<ServiceKey>,
    /// At most so many.
    pub limit: usize,
}

/// Tests that an entry passes or not; what is not asked passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    status: Vec<Status>,
    presence: Vec<Presence>,
    health: Vec<Health>,
    source: Vec<Source>,
    parent: Option<ServiceId>,
    checker_kind: Option<CheckerKind>,
    labels: Vec<(String, Option<String>)>,
    /// In lower case.
    text: Option<String>,
}

impl Wanted {
    /// Reads a query.
    ///
    /// # Errors
    /// [`ProblemCode::InvalidQuery`] naming what is allowed, and [`ProblemCode::InvalidCursor`].
    pub(super) fn read(kind: Option<Kind>, query: &[(String, String)]) -> Result<Self, Problem> {
        let mut wanted = Self { kind, limit: page::DEFAULT_LIMIT, ..Self::default() };
        for (name, value) in query {
            wanted.take(name, value)?;
        }
        Ok(wanted)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let filter = &mut self.filter;
        match name {
            "status" => words(name, value, &Status::ALL, &mut filter.status),
            "presence" => words(name, value, &Presence::ALL, &mut filter.presence),
            "health" => words(name, value, &Health::ALL, &mut filter.health),
            "source" => words(name, value, &Source::ALL, &mut filter.source),
            "parent" => name_of(name, value).map(|id| filter.parent = Some(id)),
            "checker_kind" => name_of(name, value).map(|kind| filter.checker_kind = Some(kind)),
            "label" if filter.labels.len() >= MAX_LABELS => {
                Err(invalid(name, format!("at most {MAX_LABELS} labels are tested at once")))
            }
            "label" => label(value).map(|test| filter.labels.push(test)),
            "q" if value.len() > MAX_TEXT => Err(invalid(name, format!("q has at most {MAX_TEXT} bytes"))),
            "q" => {
                filter.text = Some(value.to_lowercase()).filter(|text| !text.is_empty());
                Ok(())
            }
            "limit" => page::limit(value).map(|limit| self.limit = limit),
            "cursor" => page::seek(value).map(|after| self.after = Some(after)),
            "kind" => {
                self.kind = Some(value.parse().map_err(|error: rollcall_common::id::NameError| {
                    invalid(name, error.to_string()).with("allowed", Kind::ALL.map(Kind::as_str).to_vec())
                })?);
                Ok(())
            }
            // The guard has refused every other name.
            _ => Ok(()),
        }
    }
}

impl Filter {
    /// Whether an entry passes.
    #[must_use]
    pub(super) fn passes(&self, entry: &Entry, presence: Presence) -> bool {
        let row = &entry.row;
        any(&self.status, row.status)
            && any(&self.presence, presence)
            && any(&self.health, health_of(row))
            && any(&self.source, row.source)
            && self.parent.as_ref().is_none_or(|parent| row.parent.as_ref() == Some(parent))
            && self.checker_kind.as_ref().is_none_or(|kind| row.checker_kind.as_ref() == Some(kind))
            && self.labels.iter().all(|(key, value)| {
                row.labels.get(key).is_some_and(|has| value.as_ref().is_none_or(|value| has == value))
            })
            && self.text.as_ref().is_none_or(|text| mentions(row, text))
    }
}

/// What was last said of a service's health.
pub(super) fn health_of(row: &ServiceRow) -> Health {
    row.health.as_ref().map_or(Health::Unchecked, |(report, _)| report.health)
}

fn any<T: PartialEq>(wanted: &[T], found: T) -> bool {
    wanted.is_empty() || wanted.contains(&found)
}

fn mentions(row: &ServiceRow, text: &str) -> bool {
    let holds = |field: &str| field.to_lowercase().contains(text);
    row.key.id.as_str().contains(text)
        || row.parent.as_ref().is_some_and(|parent| parent.as_str().contains(text))
        || row.component_id.as_deref().is_some_and(holds)
        || row.labels.iter().chain(row.metadata.iter()).any(|(_, value)| holds(value))
        || row.facts.as_ref().is_some_and(|facts| holds(facts.hostname.as_str()))
}

fn words<T: FromStr + Display + PartialEq>(
    name: &str,
    value: &str,
    all: &[T],
    into: &mut Vec<T>,
) -> Result<(), Problem> {
    for word in value.split(',') {
        let known = word.parse().map_err(|_| {
            let allowed: Vec<String> = all.iter().map(T::to_string).collect();
            let word: String = word.chars().take(80).collect();
            invalid(name, format!("{name} {word:?} is unknown: use {}", allowed.join(", "))).with("allowed", allowed)
        })?;
        into.push(known);
    }
    Ok(())
}

fn name_of(name: &str, value: &str) -> Result<ServiceId, Problem> {
    value.parse().map_err(|error: rollcall_common::id::NameError| invalid(name, error.to_string()))
}

/// `key:value`, `key=value`, or `key` alone for any value.
fn label(text: &str) -> Result<(String, Option<String>), Problem> {
    let (key, value) = match text.split_once([':', '=']) {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() {
        return Err(invalid("label", "write label=key:value, or label=key for any value"));
    }
    Ok((key.to_owned(), value))
}

fn invalid(parameter: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", parameter)
}

#[cfg(test)]
mod tests;
