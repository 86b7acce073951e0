//! Maintenance: who is being worked on, and the requests that say so.
//!
//! A window covers services by name, by label, by subtree, or by all of these together; it always ends. It never
//! changes presence or status: it is an attribute that is shown, that pauses the marking of silent services, and
//! that alerts will ask about ([`Cover::of`] is the whole question). Windows are compiled into a [`Cover`] once
//! for each change and each begin or end of one, so that asking for a service costs a few lookups whatever the
//! number of windows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rollcall_common::{
    id::{Kind, Seq, ServiceKey},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Refusal, Request, World,
    roster::{Upkeep, parent_key},
    services::By,
};
use crate::{
    schedule::Schedule,
    store::rows::{Change, Recurrence, RowId, Selector, ServiceRow, WindowRow, Write},
};

/// Windows that are not over, at most.
pub const MAX_WINDOWS: usize = 1_000;
/// Services that one window names, at most.
pub const MAX_SERVICES: usize = 1_000;
/// Labels that one window asks for, at most.
pub const MAX_LABELS: usize = 16;
/// Shortest occurrence of a recurring window.
const SHORTEST: Duration = Duration::from_secs(60);

/// How long windows may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// One window, or one occurrence of a recurring one.
    pub longest: Duration,
    /// From the first occurrence to the end of a recurring one, and from now to the begin of any.
    pub horizon: Duration,
}

/// Where a window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowState {
    /// It will come, or come again.
    Scheduled,
    /// It is in force until this moment.
    Active(Timestamp),
    /// It is over.
    Ended,
}

impl WindowState {
    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Active(_) => "active",
            Self::Ended => "ended",
        }
    }
}

/// Whether a window will never be in force again.
fn is_over(row: &WindowRow, now: Timestamp) -> bool {
    row.ended_early.is_some() || now >= row.ends_at
}

/// Where a window stands now, and when that may change. Of a recurring one it takes up to a tenth of a millisecond
/// to tell: not to be asked for many of them while the roster is being read.
#[must_use]
pub fn standing(row: &WindowRow, now: Timestamp) -> (WindowState, Option<Timestamp>) {
    if is_over(row, now) {
        return (WindowState::Ended, None);
    }
    if now < row.starts_at {
        return (WindowState::Scheduled, Some(row.starts_at));
    }
    let Some(recurrence) = &row.recurrence else { return (WindowState::Active(row.ends_at), Some(row.ends_at)) };
    // What cannot be read covers nobody; it was readable when it was made.
    let Ok(schedule) = recurrence.cron.parse::<Schedule>() else { return (WindowState::Scheduled, Some(row.ends_at)) };
    // An occurrence that began before the window did is none.
    let length = Duration::from_millis(recurrence.duration_ms).min(now.since(Timestamp(row.starts_at.0 - 1)));
    let (begun, next) = schedule.occurrence(length, now);
    let (end, _) = schedule.occurrence(Duration::from_millis(recurrence.duration_ms), now);
    match end.filter(|_| begun.is_some()) {
        Some(end) => {
            let end = end.min(row.ends_at);
            (WindowState::Active(end), Some(next.map_or(end, |next| next.min(end))))
        }
        None => (WindowState::Scheduled, Some(next.map_or(row.ends_at, |next| next.min(row.ends_at)))),
    }
}

/// A window that covers a service now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covering {
    /// Which.
    pub id: RowId,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: Arc<str>,
}

/// The windows that are in force, compiled.
#[derive(Debug, Default)]
pub struct Cover {
    revision: u64,
    from: Timestamp,
    /// When another window begins or one of these ends.
    until: Option<Timestamp>,
    active: Vec<(Arc<WindowRow>, Covering)>,
    /// Windows that name services, by each of them.
    named: HashMap<ServiceKey, Vec<usize>>,
    /// Windows of a subtree, by its root.
    roots: HashMap<ServiceKey, Vec<usize>>,
    /// Windows of labels alone, by the first of them.
    labelled: HashMap<String, Labelled>,
}

#[derive(Debug, Default)]
struct Labelled {
    any: Vec<usize>,
    exact: HashMap<String, Vec<usize>>,
}

impl Cover {
    /// Whether no window is in force.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.active.is_empty()
    }

    /// Compiles the windows that are in force at a moment.
    #[must_use]
    pub fn at(upkeep: &Upkeep, now: Timestamp) -> Self {
        Self::of_windows(upkeep.revision(), upkeep.windows(), now)
    }

    /// Compiles those of some windows that are in force at a moment.
    pub(super) fn of_windows<'a>(
        revision: u64,
        windows: impl IntoIterator<Item = &'a Arc<WindowRow>>,
        now: Timestamp,
    ) -> Self {
        let mut cover = Self { revision, from: now, ..Self::default() };
        for row in windows {
            let (state, change) = standing(row, now);
            cover.until = [cover.until, change].into_iter().flatten().min();
            if let WindowState::Active(until) = state {
                cover.add(row, until);
            }
        }
        cover
    }

    fn add(&mut self, row: &Arc<WindowRow>, until: Timestamp) {
        let n = self.active.len();
        let covering = Covering { id: row.id, until, reason: row.reason.as_str().into() };
        self.active.push((Arc::clone(row), covering));
        let selector = &row.selector;
        // One index a window: the one that is asked the least.
        if !selector.services.is_empty() {
            for key in &selector.services {
                self.named.entry(key.0.clone()).or_default().push(n);
            }
        } else if let Some(root) = &selector.subtree {
            self.roots.entry(root.0.clone()).or_default().push(n);
        } else if let Some((key, value)) = selector.labels.iter().next() {
            let labelled = self.labelled.entry(key.clone()).or_default();
            match value {
                Some(value) => labelled.exact.entry(value.clone()).or_default().push(n),
                None => labelled.any.push(n),
            }
        }
    }

    /// Whether it still says the truth.
    #[must_use]
    pub fn stands(&self, revision: u64, now: Timestamp) -> bool {
        // The clock may have been put back.
        self.revision == revision && now >= self.from && self.until.is_none_or(|until| now < until)
    }

    /// Whether no window is in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The window that covers a service; of several the one that ends last. No alert goes out about a service
    /// that is covered.
    #[must_use]
    pub fn of(&self, row: &ServiceRow) -> Option<&Covering> {
        if self.active.is_empty() {
            return None;
        }
        let mut found: Option<&Covering> = None;
        let mut take = |candidates: Option<&Vec<usize>>| {
            for (window, covering) in candidates.into_iter().flatten().filter_map(|n| self.active.get(*n)) {
                let longer = |other: &Covering| (covering.until, other.id) > (other.until, covering.id);
                if matches(&window.selector, row) && found.is_none_or(longer) {
                    found = Some(covering);
                }
            }
        };
        take(self.named.get(&row.key));
        if !self.roots.is_empty() {
            for root in above(row).into_iter().flatten() {
                take(self.roots.get(&root));
            }
        }
        if !self.labelled.is_empty() {
            for (key, value) in row.labels.iter() {
                if let Some(labelled) = self.labelled.get(key) {
                    take(Some(&labelled.any));
                    take(labelled.exact.get(value));
                }
            }
        }
        found
    }
}

/// Whether a selector covers a service: every condition that it names holds.
#[must_use]
pub fn matches(selector: &Selector, row: &ServiceRow) -> bool {
    let named = selector.services.is_empty() || selector.services.iter().any(|key| key.0 == row.key);
    let below = selector.subtree.as_ref().is_none_or(|root| above(row).into_iter().flatten().any(|key| key == root.0));
    let labelled = selector
        .labels
        .iter()
        .all(|(key, value)| row.labels.get(key).is_some_and(|has| value.as_deref().is_none_or(|value| value == has)));
    let any = !selector.services.is_empty() || selector.subtree.is_some() || !selector.labels.is_empty();
    any && named && below && labelled && selector.within.admits(&row.labels)
}

/// A service and all above it.
fn above(row: &ServiceRow) -> [Option<ServiceKey>; 3] {
    let poller = row.poller.clone().map(|id| ServiceKey::new(Kind::Poller, id));
    [Some(row.key.clone()), parent_key(row), poller]
}

/// Opens a window.
#[derive(Debug, Clone)]
pub struct OpenWindow {
    /// Its id, made by the asker.
    pub id: RowId,
    /// Whom it covers.
    pub selector: Selector,
    /// When it begins; a moment that has passed means now.
    pub starts_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
    /// When it comes again.
    pub recurrence: Option<Recurrence>,
    /// Why.
    pub reason: String,
    /// What is allowed.
    pub limits: WindowLimits,
    /// Who asks.
    pub by: By,
}

impl Request for OpenWindow {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let now = world.now.wall;
        let open = world.roster.upkeep().windows().filter(|row| !is_over(row, now));
        if open.count() >= MAX_WINDOWS {
            return Err(invalid(format!("there are {MAX_WINDOWS} windows that are not over: end some first")));
        }
        let selector = &self.selector;
        if selector.services.is_empty() && selector.labels.is_empty() && selector.subtree.is_none() {
            return Err(invalid("name services, labels or a subtree: a window of everything is a mistake"));
        }
        if selector.services.len() > MAX_SERVICES || selector.labels.len() > MAX_LABELS {
            return Err(invalid(format!(
                "a window names at most {MAX_SERVICES} services and {MAX_LABELS} labels; a label or a subtree says more"
            )));
        }
        let named = selector.services.iter().chain(&selector.subtree);
        let reached =
            |key: &ServiceKey| world.roster.get(key).is_some_and(|entry| selector.within.admits(&entry.row.labels));
        if let Some(unknown) = named.map(|key| &key.0).find(|key| !reached(key)) {
            return Err(Refusal::UnknownService(unknown.clone()));
        }
        if self.reason.trim().is_empty() {
            return Err(invalid("say why: whoever is on duty will want to know"));
        }
        let row = WindowRow {
            id: self.id,
            selector: self.selector.clone(),
            starts_at: self.starts_at.max(now),
            ends_at: self.ends_at,
            recurrence: self.recurrence.clone(),
            reason: self.reason.clone(),
            author: self.by.actor.clone(),
            created_at: now,
            ended_early: None,
            seq: Seq::default(),
        };
        check_times(&row, now, self.limits)?;
        let audit = self.by.did(now, "maintenance.opened", object(self.id), [("after", shown(&row))]);
        Ok((Change { writes: vec![Write::PutWindow { row: Box::new(row), expect: None }], audit: vec![audit] }, ()))
    }
}

/// Makes a window end at another time, or says better why it is there.
#[derive(Debug, Clone)]
pub struct ChangeWindow {
    /// Which.
    pub id: RowId,
    /// When it ends.
    pub ends_at: Option<Timestamp>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Refused where the window is not at this seq any more.
    pub expect: Option<Seq>,
    /// What is allowed.
    pub limits: WindowLimits,
    /// Who asks.
    pub by: By,
}

impl Request for ChangeWindow {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let now = world.now.wall;
        let old = unfinished(world, self.id)?;
        if self.expect.is_some_and(|expect| expect != old.seq) {
            return Err(invalid(format!("the window was changed in between: its seq is {} now", old.seq)));
        }
        let mut row = WindowRow::clone(old);
        row.ends_at = self.ends_at.unwrap_or(row.ends_at);
        row.reason = self.reason.clone().unwrap_or(row.reason);
        if row == *old.as_ref() {
            return Ok((Change::default(), ()));
        }
        if row.ends_at <= now {
            return Err(invalid("it would have ended already: end it instead"));
        }
        check_times(&row, now, self.limits)?;
        let audit =
            self.by.did(now, "maintenance.changed", object(self.id), [("before", shown(old)), ("after", shown(&row))]);
        let write = Write::PutWindow { expect: Some(old.seq), row: Box::new(row) };
        Ok((Change { writes: vec![write], audit: vec![audit] }, ()))
    }
}

/// Ends a window now, and all that would have come of it.
#[derive(Debug, Clone)]
pub struct EndWindow {
    /// Which.
    pub id: RowId,
    /// Who asks.
    pub by: By,
}

impl Request for EndWindow {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let old = unfinished(world, self.id)?;
        let now = world.now.wall;
        let row = WindowRow { ended_early: Some(now), ..WindowRow::clone(old) };
        let audit = self.by.did(now, "maintenance.ended", object(self.id), [("before", shown(old))]);
        let write = Write::PutWindow { expect: Some(old.seq), row: Box::new(row) };
        Ok((Change { writes: vec![write], audit: vec![audit] }, ()))
    }
}

/// Forgets windows that were over long ago; the audit trail has them.
#[derive(Debug, Clone)]
pub struct ForgetWindows {
    /// Those that ended before this moment.
    pub before: Timestamp,
    /// At most so many.
    pub most: usize,
}

impl Request for ForgetWindows {
    type Answer = usize;

    fn plan(&self, world: World<'_>) -> Result<(Change, usize), Refusal> {
        let over = |row: &&Arc<WindowRow>| row.ended_early.unwrap_or(row.ends_at).min(row.ends_at) < self.before;
        let ids = world.roster.upkeep().windows().filter(over).take(self.most).map(|row| row.id);
        let writes: Vec<_> = ids.map(Write::DropWindow).collect();
        let count = writes.len();
        Ok((Change { writes, audit: Vec::new() }, count))
    }
}

fn unfinished<'a>(world: World<'a>, id: RowId) -> Result<&'a Arc<WindowRow>, Refusal> {
    let row = world.roster.upkeep().window(id).ok_or(Refusal::UnknownWindow(id))?;
    if standing(row, world.now.wall).0 == WindowState::Ended {
        return Err(Refusal::WindowEnded(id));
    }
    Ok(row)
}

fn check_times(row: &WindowRow, now: Timestamp, limits: WindowLimits) -> Result<(), Refusal> {
    let told = crate::config::duration::print;
    if row.ends_at <= row.starts_at {
        return Err(invalid("it would end before it begins"));
    }
    if row.starts_at.since(now) > limits.horizon {
        return Err(invalid(format!("it would begin in more than {}", told(limits.horizon))));
    }
    let length = row.ends_at.since(row.starts_at);
    let Some(recurrence) = &row.recurrence else {
        let longest = limits.longest;
        return if length <= longest {
            Ok(())
        } else {
            Err(invalid(format!("a window lasts {} at most; extend it when its end comes near", told(longest))))
        };
    };
    let schedule: Schedule = recurrence.cron.parse().map_err(|error| invalid(format!("cron: {error}")))?;
    let each = Duration::from_millis(recurrence.duration_ms);
    if each < SHORTEST || each > limits.longest {
        return Err(invalid(format!("each one lasts between {} and {}", told(SHORTEST), told(limits.longest))));
    }
    if length > limits.horizon {
        return Err(invalid(format!("it ends within {} of its begin", told(limits.horizon))));
    }
    let first = schedule.after(Timestamp(row.starts_at.0.saturating_sub(1)));
    if first.is_none_or(|first| first >= row.ends_at) {
        return Err(invalid("it would end before it comes for the first time"));
    }
    Ok(())
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Invalid(why.into())
}

fn object(id: RowId) -> String {
    format!("maintenance:{id}")
}

/// A window for the audit trail.
fn shown(row: &WindowRow) -> Value {
    json!({
        "selector": row.selector,
        "starts_at": row.starts_at.to_string(),
        "ends_at": row.ends_at.to_string(),
        "recurrence": row.recurrence,
        "reason": row.reason,
    })
}

#[cfg(test)]
mod tests;
