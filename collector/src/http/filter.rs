//! Which services a list shows: the query read into tests that an entry passes or not.
//!
//! Every word is checked when the query is read; a parameter or word that is not known is refused with the
//! ones that are, because a filter that is silently passed over shows too much.

use std::{fmt::Display, str::FromStr};

use rollcall_common::{
    health::{Health, Progress},
    id::{Kind, ServiceId, ServiceKey},
    lease::{Presence, Unknown},
    lifecycle::Status,
    machine::MachineTag,
    service::{CheckerKind, Source},
    time::{Now, Timestamp},
    token::{TokenError, TokenId},
};

use super::{
    error::{Problem, ProblemCode},
    openapi::words,
    page,
    routes::Param,
    scan::presence_of,
};
use crate::{
    registry::{
        leases::Sight,
        maintenance::Cover,
        roster::{Entry, parent_key, text::fields},
        settings::{Standing, progress_of},
    },
    store::rows::ServiceRow,
};

mod label;
mod order;
mod way;

pub(super) use self::label::{LabelError, LabelTest};
pub(super) use self::order::{Anchor, Mark, ORDER, Order};
pub(super) use self::way::{SHORT, Way};

/// Most label tests in one query.
const MAX_LABELS: usize = 16;
/// Longest text to look for, in bytes.
const MAX_TEXT: usize = 128;

/// The parameters of a list of services.
pub(super) const QUERY: &[Param] = &[
    Param::list::<words::Status>("status", "Only with one of these statuses"),
    Param::list::<words::Presence>("presence", "Only with one of these presences"),
    Param::list::<words::Health>("health", "Only with one of these healths"),
    Param::list::<words::Progress>("progress", "Only with one of these words on whether it gets on"),
    Param::list::<words::SettingsStanding>("settings", "Only where the settings of its sidecar stand so"),
    Param::of::<words::Machine>("machine", "Only those whose identity is used on this machine"),
    Param::list::<words::Source>("source", "Only registered in one of these ways"),
    Param::of::<words::Id>("checker_kind", "Only checkers of this kind"),
    Param::of::<words::Key>("subtree", "Only this service and what stands below it, as in `poller/site-3`"),
    Param::list::<words::Unknown>("presence_reason", "Only where there is no verdict, for one of these reasons"),
    Param::each::<words::LabelTest>(
        "label",
        "Only where it passes: `key=value` (or `key:value`), `key!=value`, `key` and `!key` for whether there is one, \
         `key in (a,b)` and `key notin (a,b)`; each `label` must pass",
    ),
    Param::of::<words::TokenId>("token", "Only those whose identity this onboarding token has bound"),
    Param::of::<words::Text>("version", "Only with a sidecar of this version"),
    Param::of::<words::Flag>("placeholder", "Only with, or without, a place in the tree that expects no sidecar"),
    Param::of::<words::Time>("registered_after", "Only registered at or after this moment"),
    Param::of::<words::Time>("registered_before", "Only registered before this moment"),
    Param::of::<words::Time>("seen_after", "Only with a last heartbeat at or after this moment"),
    Param::of::<words::Time>("seen_before", "Only with a last heartbeat before this moment, or none"),
    Param::of::<words::Time>("status_before", "Only where the status is older than this moment: what is stuck"),
    Param::of::<words::Search>("q", "Only where id, parent, component, labels, metadata or host name hold this text"),
    Param::of::<words::Flag>("maintenance", "Only those that are under maintenance now, or only the others"),
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
    /// In which order.
    pub order: Order,
    /// Only what comes behind this one, in the order of keys.
    pub after: Option<ServiceKey>,
    /// Only what comes behind this one, in any other order.
    pub behind: Option<Mark>,
    /// At most so many.
    pub limit: usize,
}

/// Tests that an entry passes or not; what is not asked passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    status: Vec<Status>,
    presence: Vec<Presence>,
    health: Vec<Health>,
    progress: Vec<Progress>,
    settings: Vec<Standing>,
    machine: Option<MachineTag>,
    source: Vec<Source>,
    parent: Option<ServiceId>,
    checker_kind: Option<CheckerKind>,
    subtree: Option<ServiceKey>,
    presence_reason: Vec<Unknown>,
    labels: Vec<LabelTest>,
    token: Option<TokenId>,
    version: Option<String>,
    placeholder: Option<bool>,
    registered_after: Option<Timestamp>,
    registered_before: Option<Timestamp>,
    seen_after: Option<Timestamp>,
    seen_before: Option<Timestamp>,
    status_before: Option<Timestamp>,
    /// In lower case.
    text: Option<String>,
    maintenance: Option<bool>,
}

impl Wanted {
    /// Reads a query.
    ///
    /// # Errors
    /// [`ProblemCode::InvalidQuery`] naming what is allowed, and [`ProblemCode::InvalidCursor`].
    pub(super) fn read(kind: Option<Kind>, query: &[(String, String)]) -> Result<Self, Problem> {
        let mut wanted = Self { kind, limit: page::DEFAULT_LIMIT, ..Self::default() };
        let mut cursor = None;
        for (name, value) in query {
            match name.as_str() {
                "cursor" => cursor = Some(value),
                _ => wanted.take(name, value)?,
            }
        }
        // What a cursor means depends on the order, which may stand behind it.
        if let Some(cursor) = cursor {
            (wanted.after, wanted.behind) = order::behind(cursor, wanted.order)?;
        }
        Ok(wanted)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let filter = &mut self.filter;
        match name {
            "status" => words(name, value, &Status::ALL, &mut filter.status),
            "presence" => words(name, value, &Presence::ALL, &mut filter.presence),
            "health" => words(name, value, &Health::ALL, &mut filter.health),
            "progress" => words(name, value, &Progress::ALL, &mut filter.progress),
            "settings" => words(name, value, &Standing::ALL, &mut filter.settings),
            "machine" => MachineTag::try_from(value.to_owned())
                .map(|tag| filter.machine = Some(tag))
                .map_err(|error| invalid(name, format!("{name}: {error}"))),
            "source" => words(name, value, &Source::ALL, &mut filter.source),
            "parent" => name_of(name, value).map(|id| filter.parent = Some(id)),
            "checker_kind" => name_of(name, value).map(|kind| filter.checker_kind = Some(kind)),
            "subtree" => key_of(name, value).map(|key| filter.subtree = Some(key)),
            "presence_reason" => words(name, value, &Unknown::ALL, &mut filter.presence_reason),
            "version" => {
                filter.version = Some(value.to_owned());
                Ok(())
            }
            "token" => value.parse().map_err(|error: TokenError| invalid(name, error.to_string())).map(|token| {
                filter.token = Some(token);
            }),
            "placeholder" => flag(name, value).map(|flag| filter.placeholder = Some(flag)),
            "maintenance" => flag(name, value).map(|flag| filter.maintenance = Some(flag)),
            "registered_after" => moment(name, value).map(|time| filter.registered_after = Some(time)),
            "registered_before" => moment(name, value).map(|time| filter.registered_before = Some(time)),
            "seen_after" => moment(name, value).map(|time| filter.seen_after = Some(time)),
            "seen_before" => moment(name, value).map(|time| filter.seen_before = Some(time)),
            "status_before" => moment(name, value).map(|time| filter.status_before = Some(time)),
            "label" if filter.labels.len() >= MAX_LABELS => {
                Err(invalid(name, format!("at most {MAX_LABELS} labels are tested at once")))
            }
            "label" => value.parse().map_err(|error: LabelError| invalid(name, error.to_string())).map(|test| {
                filter.labels.push(test);
            }),
            "q" if value.len() > MAX_TEXT => Err(invalid(name, format!("q has at most {MAX_TEXT} bytes"))),
            "q" => {
                filter.text = Some(value.to_lowercase()).filter(|text| !text.is_empty());
                Ok(())
            }
            "limit" => page::limit(value).map(|limit| self.limit = limit),
            "order" => order::read(value).map(|order| self.order = order),
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
    /// Whether an entry passes, in the eyes of somebody who looked at its lease.
    #[must_use]
    pub(super) fn passes(&self, entry: &Entry, sight: Option<&Sight>, now: Now) -> bool {
        let row = &entry.row;
        any(&self.status, row.status)
            && any(&self.presence, presence_of(sight))
            && (self.presence_reason.is_empty()
                || sight.and_then(|sight| sight.unknown).is_some_and(|why| self.presence_reason.contains(&why)))
            && any(&self.health, health_of(row))
            && any(&self.progress, progress_of(row))
            && any(&self.settings, Standing::of(row))
            && self.machine.is_none_or(|tag| {
                let machine = entry.identity.as_ref().and_then(|identity| identity.machine);
                machine.is_some_and(|machine| machine.tag == tag)
            })
            && any(&self.source, row.source)
            && self.parent.as_ref().is_none_or(|parent| row.parent.as_ref() == Some(parent))
            && self.checker_kind.as_ref().is_none_or(|kind| row.checker_kind.as_ref() == Some(kind))
            && self.subtree.as_ref().is_none_or(|root| stands_below(row, root))
            && self.labels.iter().all(|test| test.passes(&row.labels))
            && self.token.is_none_or(|token| entry.identity.as_ref().is_some_and(|held| held.enrolled_via == token))
            && self
                .version
                .as_ref()
                .is_none_or(|version| row.facts.as_ref().is_some_and(|facts| facts.agent_version.as_str() == version))
            && self.placeholder.is_none_or(|placeholder| row.placeholder == placeholder)
            && self.in_time(row, sight, now)
            && self.text.as_ref().is_none_or(|text| mentions(row, text))
    }

    /// Whether it passes what is asked of maintenance: beside [`Self::passes`], since it takes a compiled
    /// [`Cover`] to tell.
    #[must_use]
    pub(super) fn is_worked_on(&self, entry: &Entry, cover: &Cover) -> bool {
        self.maintenance.is_none_or(|wanted| cover.of(&entry.row).is_some() == wanted)
    }

    fn in_time(&self, row: &ServiceRow, sight: Option<&Sight>, now: Now) -> bool {
        let seen = || row.last_seen.max(sight.and_then(|sight| sight.last_seen(now)));
        self.registered_after.is_none_or(|from| row.first_registered >= from)
            && self.registered_before.is_none_or(|to| row.first_registered < to)
            && self.seen_after.is_none_or(|from| seen().is_some_and(|seen| seen >= from))
            && self.seen_before.is_none_or(|to| seen().is_none_or(|seen| seen < to))
            && self.status_before.is_none_or(|to| row.status_since < to)
    }
}

/// Whether a service is another one, or stands below it.
fn stands_below(row: &ServiceRow, root: &ServiceKey) -> bool {
    let poller = root.kind == Kind::Poller && row.poller.as_ref() == Some(&root.id);
    row.key == *root || poller || parent_key(row).is_some_and(|parent| parent == *root)
}

/// What was last said of a service's health.
pub(super) fn health_of(row: &ServiceRow) -> Health {
    row.health.as_ref().map_or(Health::Unchecked, |(report, _)| report.health)
}

fn any<T: PartialEq>(wanted: &[T], found: T) -> bool {
    wanted.is_empty() || wanted.contains(&found)
}

fn mentions(row: &ServiceRow, text: &str) -> bool {
    fields(row).any(|field| field.to_lowercase().contains(text))
}

pub(super) fn words<T: FromStr + Display + PartialEq>(
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

pub(super) fn name_of(name: &str, value: &str) -> Result<ServiceId, Problem> {
    value.parse().map_err(|error: rollcall_common::id::NameError| invalid(name, error.to_string()))
}

fn key_of(name: &str, value: &str) -> Result<ServiceKey, Problem> {
    value.parse().map_err(|error: rollcall_common::id::NameError| invalid(name, error.to_string()))
}

fn flag(name: &str, value: &str) -> Result<bool, Problem> {
    value.parse().map_err(|_| invalid(name, format!("{name} is true or false")))
}

pub(super) fn moment(name: &str, value: &str) -> Result<Timestamp, Problem> {
    let parsed = value.parse::<jiff::Timestamp>();
    parsed.map(|time| Timestamp(time.as_millisecond())).map_err(|_| {
        let shown: String = value.chars().take(40).collect();
        invalid(name, format!("{name}: {shown:?} is no time: write it as in 2026-11-21T02:46:00Z"))
    })
}

pub(super) fn invalid(parameter: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", parameter)
}

#[cfg(test)]
mod tests;
