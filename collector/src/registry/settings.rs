//! Settings of sidecars: what operators want, what becomes of it, and the pace that follows. Pure.
//!
//! A sidecar has the last word on its host: what it does not take stays out of force, and the row says why. Here is
//! what can be known before: a probe that it does not have or does not let us tune is refused to whoever asks.
//! How long a beat is good for is nobody's word but ours; an interval of its own holds for any sidecar.

use std::{fmt, str::FromStr, sync::Arc};

use rollcall_common::{
    health::{Progress, ProgressReport, Text},
    id::{PaceNo, ServiceId, ServiceKey},
    lease::{Pace, PaceError},
    lifecycle::Status,
    service::UnknownWord,
    time::Timestamp,
    wire::settings::{MAX_TUNED, ProbeState, Settings, SettingsState, Tuning},
};
use serde_json::{Value, json};

use super::{
    Refusal, Registry, Request, World,
    roster::{Roster, Slot},
    services::By,
};
use crate::{
    scope::Scope,
    store::rows::{AuditDraft, Change, ReportedRow, ServiceRow, SettingsRow, Write},
};

/// Paces of single services are numbered apart from the one for everybody.
const OWN_PACE: u32 = 1 << 31;
/// Between two looks of a probe, in milliseconds: what a host's files may say, too.
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;
/// How long a look may take, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 50..=60_000;
/// Looks in a row.
const STEADY: std::ops::RangeInclusive<u32> = 1..=100;

/// Where the settings of a sidecar stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Standing {
    /// Nothing is wanted, and nothing is in force.
    #[default]
    None,
    /// The sidecar has not said yet what became of them.
    Pending,
    /// They are in force.
    Applied,
    /// The sidecar did not take them.
    Refused,
    /// The sidecar does not know settings.
    Unsupported,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::None, Self::Pending, Self::Applied, Self::Refused, Self::Unsupported];

    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported",
        }
    }

    /// Where those of a service stand.
    #[must_use]
    pub fn of(row: &ServiceRow) -> Self {
        let Some(wanted) = row.settings.as_deref() else { return Self::None };
        match said(row) {
            Some(reported) if !reported.supported && wanted.is_plain() => Self::None,
            Some(reported) if !reported.supported => Self::Unsupported,
            Some(reported) if reported.refused.as_ref().is_some_and(|refused| refused.revision == wanted.revision) => {
                Self::Refused
            }
            Some(reported) if reported.revision != wanted.revision => Self::Pending,
            Some(_) if wanted.is_plain() => Self::None,
            Some(_) => Self::Applied,
            // No sidecar has said that anything is in force.
            None if wanted.is_plain() => Self::None,
            None => Self::Pending,
        }
    }

    /// Since when they stand so.
    #[must_use]
    pub fn since(row: &ServiceRow) -> Option<Timestamp> {
        let wanted = row.settings.as_deref()?.set_at;
        let reported = said(row).map(|reported| reported.since);
        match Self::of(row) {
            Self::None => None,
            Self::Pending => Some(wanted),
            Self::Applied | Self::Refused | Self::Unsupported => reported.max(Some(wanted)),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Standing {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|standing| standing.as_str() == text);
        found.ok_or_else(|| UnknownWord { what: "settings", text: text.into() })
    }
}

/// What a sidecar has said of its settings, where it has.
fn said(row: &ServiceRow) -> Option<&ReportedRow> {
    row.reported.as_deref().filter(|reported| !reported.unsaid)
}

/// Why they stand so, in words, where there is something to say.
#[must_use]
pub fn why(row: &ServiceRow) -> Option<Text> {
    match Standing::of(row) {
        Standing::Refused => row.reported.as_ref()?.refused.as_ref().map(|refused| refused.why.clone()),
        Standing::Unsupported => {
            Some(Text::fit("its sidecar does not know settings: update it; an interval of its own holds all the same"))
        }
        Standing::None | Standing::Pending | Standing::Applied => None,
    }
}

/// What was last said of a service's progress.
#[must_use]
pub fn progress_of(row: &ServiceRow) -> Progress {
    row.progress.as_ref().map_or(Progress::Unwatched, |(report, _)| report.progress)
}

/// That nobody watches.
#[must_use]
pub fn unwatched() -> ProgressReport {
    ProgressReport { progress: Progress::Unwatched, reason: Text::default() }
}

/// The pace to grant to a service, by the one for everybody. A time to live that is not set follows from the interval
/// in the same proportion.
#[must_use]
pub fn pace_of(row: &ServiceRow, everybody: Pace) -> Pace {
    row.settings.as_deref().map_or(everybody, |wanted| pace_by(wanted.interval_ms, wanted.ttl_ms, everybody))
}

fn pace_by(interval_ms: Option<u32>, ttl_ms: Option<u32>, everybody: Pace) -> Pace {
    if interval_ms.is_none() && ttl_ms.is_none() {
        return everybody;
    }
    let interval_ms = interval_ms.unwrap_or(everybody.interval_ms);
    let scaled = u64::from(interval_ms) * u64::from(everybody.ttl_ms) / u64::from(everybody.interval_ms.max(1));
    let ttl_ms = ttl_ms.unwrap_or_else(|| u32::try_from(scaled).unwrap_or(u32::MAX));
    // What everybody keeps may have changed since this was set.
    let ttl_ms = ttl_ms.max(interval_ms.saturating_mul(3)).min(Pace::MAX_TTL_MS);
    // The number follows from what it stands for, so that it means the same after a restart and at any collector.
    let mut hash = 0x811c_9dc5_u32;
    for byte in interval_ms.to_be_bytes().into_iter().chain(ttl_ms.to_be_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    Pace { no: PaceNo(OWN_PACE | (hash >> 1)), interval_ms, ttl_ms }
}

/// The longer of two paces, in each respect.
#[must_use]
pub fn longest(one: Pace, other: Pace) -> Pace {
    Pace { no: one.no, interval_ms: one.interval_ms.max(other.interval_ms), ttl_ms: one.ttl_ms.max(other.ttl_ms) }
}

/// What the sidecar of a service may keep still instead of [`pace_of`]: what it was granted before, until a beat has
/// echoed the newer pace. That it has the settings in force says nothing of that: the pace travels in acknowledgements.
#[must_use]
pub fn pace_before(row: &ServiceRow, everybody: Pace, previous: Option<Pace>) -> Option<Pace> {
    let Some(wanted) = row.settings.as_deref() else { return previous };
    let scaled = previous.map(|old| pace_by(wanted.interval_ms, wanted.ttl_ms, old));
    let before = wanted.paced_before.filter(|_| awaited(row).is_some());
    let before = before.map(|(interval_ms, ttl_ms)| Pace { interval_ms, ttl_ms, ..everybody });
    match (scaled, before) {
        (Some(one), Some(other)) => Some(longest(one, other)),
        (one, other) => one.or(other),
    }
}

/// The revision whose pace no beat has echoed yet, where another one may be kept.
fn awaited(row: &ServiceRow) -> Option<u64> {
    let wanted = row.settings.as_deref().filter(|wanted| wanted.paced_before.is_some())?;
    let echoed = row.reported.as_deref().map_or(0, |held| held.paced);
    (echoed != wanted.revision).then_some(wanted.revision)
}

/// What is kept of a beat that echoed the pace of a revision, beside what is kept of the sidecar's own words by the
/// same change; `None` = nobody waits for it.
#[must_use]
pub fn paced(row: &ServiceRow, beside: Option<&ReportedRow>, revision: u64) -> Option<ReportedRow> {
    awaited(row).filter(|awaited| *awaited == revision)?;
    let held = beside.or(row.reported.as_deref()).cloned();
    let held = held.unwrap_or_else(|| ReportedRow { unsaid: true, ..ReportedRow::default() });
    Some(ReportedRow { paced: revision, ..held })
}

/// What a session of a sidecar is to keep and to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The pace to grant, and what it may keep still.
    pub pace: (Pace, Option<Pace>),
    /// What to tell it, where it knows settings.
    pub settings: Settings,
    /// Whether something is wanted, or on record, that a sidecar without settings contradicts.
    pub wants: bool,
    /// The revision whose pace is to be echoed before the one before it is forgotten.
    pub awaited: Option<u64>,
}

impl Dispatch {
    pub(super) fn of(row: &ServiceRow, (everybody, previous): (Pace, Option<Pace>)) -> Self {
        let (revision, probes) =
            row.settings.as_deref().map_or((0, Vec::new()), |wanted| (wanted.revision, wanted.probes.clone()));
        Self {
            pace: (pace_of(row, everybody), pace_before(row, everybody, previous)),
            settings: Settings { revision, labels: row.labels.clone(), probes },
            wants: row.settings.as_deref().is_some_and(|wanted| !wanted.is_plain())
                || row.reported.as_deref().is_some_and(|reported| reported.supported),
            awaited: awaited(row),
        }
    }
}

impl Registry {
    /// What a session of a service begins with.
    #[must_use]
    pub fn dispatch(&self, slot: Slot) -> Option<Dispatch> {
        let pace = self.pace();
        self.read(|roster| roster.at(slot).map(|entry| Dispatch::of(&entry.row, pace)))
    }
}

/// What a sidecar is heard to say of settings.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Which are in force.
    State(Box<SettingsState>),
    /// It greeted without knowing any.
    Unsupported,
}

/// What is kept of what a sidecar says of its settings, and told of it; `None` = nothing is new. The audit trail hears
/// of each revision's outcomes once, however often a sidecar changes its mind.
#[must_use]
pub fn reported(row: &ServiceRow, heard: &Heard, at: Timestamp) -> Option<(ReportedRow, Vec<AuditDraft>)> {
    let paced = row.reported.as_deref().map_or(0, |held| held.paced);
    let held = said(row);
    let mut next = match heard {
        Heard::State(state) => {
            let SettingsState { revision, refused, probes, more } = SettingsState::clone(state);
            ReportedRow { supported: true, revision, refused, probes, more, ..ReportedRow::default() }
        }
        Heard::Unsupported => ReportedRow::default(),
    };
    let stands = |one: &ReportedRow| (one.supported, one.revision, one.refused.clone());
    let same = held.is_some_and(|held| stands(held) == stands(&next));
    if let Some(held) = held.filter(|_| same)
        && (&held.probes, held.more) == (&next.probes, next.more)
    {
        return None;
    }
    next.paced = paced;
    next.at = at;
    next.since = held.filter(|_| same).map_or(at, |held| held.since);
    let mut audit = Vec::new();
    let wanted = row.settings.as_deref().map_or(0, |wanted| wanted.revision);
    if let Some(held) = held.filter(|held| held.told == wanted) {
        (next.told_applied, next.told_refused) = (held.told_applied, held.told_refused);
    }
    next.told = wanted;
    let by = By::sidecar(&row.key);
    if wanted != 0 && next.supported {
        let refused = next.refused.as_ref().filter(|refused| refused.revision == wanted);
        match refused {
            Some(refused) if !next.told_refused => {
                let details = [("revision", json!(wanted)), ("why", json!(refused.why.as_str()))];
                audit.push(by.did(at, "settings.refused", row.key.to_string(), details));
                next.told_refused = true;
            }
            None if next.revision == wanted && !next.told_applied => {
                audit.push(by.did(at, "settings.applied", row.key.to_string(), [("revision", json!(wanted))]));
                next.told_applied = true;
            }
            Some(_) | None => {}
        }
    }
    Some((next, audit))
}

/// Why settings cannot be wanted of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsProblem {
    /// Nobody would take them.
    #[error("{0} has no sidecar of its own: {1}")]
    NoSidecar(ServiceKey, &'static str),
    /// A value breaks its rule.
    #[error("{field}: {why}")]
    Field {
        /// Which, as in `probes[2].interval`.
        field: String,
        /// What it must be.
        why: String,
    },
    /// Its sidecar has no such probe.
    #[error(
        "{service} has no probe {probe}: it has {}; take it out of `probes`, or define it on the host",
        if .known.is_empty() { "none".into() } else { .known.join(", ") }
    )]
    UnknownProbe {
        /// Whose sidecar.
        service: ServiceKey,
        /// Which.
        probe: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// Its host keeps the probe to itself.
    #[error(
        "the host of {service} does not let its probe {probe} be changed from here: to allow it, add \"{probe}\" to \
             `remote.probes` in its own files"
    )]
    NotAllowed {
        /// Whose sidecar.
        service: ServiceKey,
        /// Which.
        probe: String,
    },
}

/// A probe's name as a host's own files write it in `remote.probes`.
#[must_use]
pub fn probe_name(child: Option<&ServiceKey>, probe: &ServiceId) -> String {
    child.map_or_else(|| probe.to_string(), |child| format!("child/{child}:{probe}"))
}

/// What operators want; what is left out is as the host's files have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Milliseconds between two heartbeats.
    pub interval_ms: Option<u32>,
    /// Milliseconds that one heartbeat is good for.
    pub ttl_ms: Option<u32>,
    /// How single probes are to run.
    pub probes: Vec<Tuning>,
}

/// Whose probes a caller reaches: the sidecar's own, and those of children within his scope.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    roster: &'a Roster,
    scope: &'a Scope,
}

impl<'a> Reach<'a> {
    /// What a scope reaches of a roster.
    #[must_use]
    pub fn new(roster: &'a Roster, scope: &'a Scope) -> Self {
        Self { roster, scope }
    }

    /// Whether a probe is within it. A child that is not registered is within reach of those only who reach everything.
    #[must_use]
    pub fn of(self, child: Option<&ServiceKey>) -> bool {
        let within = |child| self.roster.get(child).is_some_and(|entry| self.scope.admits(&entry.row.labels));
        self.scope.is_everything() || child.is_none_or(within)
    }
}

impl Wish {
    fn check(&self, row: &ServiceRow, everybody: Pace, reach: Reach<'_>) -> Result<(), SettingsProblem> {
        let field = |field: &str, why: String| Err(SettingsProblem::Field { field: field.into(), why });
        if self.interval_ms.is_some() || self.ttl_ms.is_some() {
            let interval_ms = self.interval_ms.unwrap_or(everybody.interval_ms);
            let ttl_ms = self.ttl_ms.unwrap_or(pace_by(self.interval_ms, None, everybody).ttl_ms);
            match Pace::new(everybody.no, interval_ms, ttl_ms) {
                Ok(_) => {}
                Err(error @ PaceError::Interval(_)) => return field("interval", error.to_string()),
                Err(error @ PaceError::Ttl { .. }) => return field("ttl", error.to_string()),
            }
        }
        if self.probes.len() > MAX_TUNED {
            return field("probes", format!("at most {MAX_TUNED} probes are tuned at once, not {}", self.probes.len()));
        }
        for (n, tuning) in self.probes.iter().enumerate() {
            tunes(tuning, n)?;
            let named = |other: &Tuning| (&other.child, &other.probe) == (&tuning.child, &tuning.probe);
            if self.probes.iter().take(n).any(named) {
                let name = probe_name(tuning.child.as_ref(), &tuning.probe);
                return field(&format!("probes[{n}].probe"), format!("{name} is named twice"));
            }
            if tuning.child.as_ref() == Some(&row.key) {
                let why = "leave it out for a probe of the service itself".into();
                return field(&format!("probes[{n}].child"), why);
            }
        }
        self.fits(row, reach)
    }

    /// Whether the host has the probes that are named, and lets them be tuned, as far as it has told.
    fn fits(&self, row: &ServiceRow, reach: Reach<'_>) -> Result<(), SettingsProblem> {
        let reported = said(row).filter(|reported| reported.supported);
        let unknown = |probe: String| {
            let shown = reported.into_iter().flat_map(|reported| &reported.probes);
            let shown = shown.filter(|one| reach.of(one.child.as_ref()));
            let known = shown.map(|one| probe_name(one.child.as_ref(), &one.probe)).collect();
            Err(SettingsProblem::UnknownProbe { service: row.key.clone(), probe, known })
        };
        if let Some(beyond) = self.probes.iter().find(|tuning| !reach.of(tuning.child.as_ref())) {
            return unknown(probe_name(beyond.child.as_ref(), &beyond.probe));
        }
        let Some(reported) = reported else { return Ok(()) };
        for tuning in &self.probes {
            let name = || probe_name(tuning.child.as_ref(), &tuning.probe);
            let named = |state: &&ProbeState| (&state.child, &state.probe) == (&tuning.child, &tuning.probe);
            match reported.probes.iter().find(named) {
                Some(state) if state.allowed => {}
                Some(_) => {
                    return Err(SettingsProblem::NotAllowed { service: row.key.clone(), probe: name() });
                }
                // It may be among those that were left out.
                None if reported.more > 0 => {}
                None => return unknown(name()),
            }
        }
        Ok(())
    }
}

/// The bounds of one tuning.
fn tunes(tuning: &Tuning, n: usize) -> Result<(), SettingsProblem> {
    let field = |name: &str, why: String| Err(SettingsProblem::Field { field: format!("probes[{n}].{name}"), why });
    let Tuning { child: _, probe: _, run, interval_ms, timeout_ms, rise, fall } = tuning;
    if run.is_none() && [*interval_ms, *timeout_ms, *rise, *fall].iter().all(Option::is_none) {
        return field("probe", "say what is to change: run, interval, timeout, rise or fall".into());
    }
    for (name, value, range, unit) in [
        ("interval", interval_ms, INTERVAL_MS, " ms"),
        ("timeout", timeout_ms, TIMEOUT_MS, " ms"),
        ("rise", rise, STEADY, ""),
        ("fall", fall, STEADY, ""),
    ] {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            return field(name, format!("it lies between {} and {}{unit}, not {value}", range.start(), range.end()));
        }
    }
    if let (Some(interval), Some(timeout)) = (interval_ms, timeout_ms)
        && timeout > interval
    {
        return field("timeout", format!("a look of {timeout} ms does not fit into an interval of {interval} ms"));
    }
    Ok(())
}

/// Changes what is wanted of a service's sidecar, as a whole.
#[derive(Debug, Clone)]
pub struct ChangeSettings {
    /// Who.
    pub key: ServiceKey,
    /// What is wanted from now on; the default takes everything back.
    pub wish: Wish,
    /// The pace for everybody.
    pub everybody: Pace,
    /// What the caller reaches: what is beyond it answers as if it were not there, and stays as it is.
    pub scope: Scope,
    /// Who asks.
    pub by: By,
}

impl Request for ChangeSettings {
    /// The revision, and whether it is a new one.
    type Answer = (u64, bool);

    fn plan(&self, world: World<'_>) -> Result<(Change, (u64, bool)), Refusal> {
        let reach = Reach::new(world.roster, &self.scope);
        let entry = world.roster.get(&self.key).filter(|entry| self.scope.admits(&entry.row.labels));
        let entry = entry.ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        let row = &entry.row;
        if row.status == Status::Deleted {
            return Err(Refusal::Deleted(self.key.clone()));
        }
        let held = row.settings.as_deref().cloned().unwrap_or_default();
        let mut probes = self.wish.probes.clone();
        // Whoever does not see them takes nothing of them back.
        probes.extend(held.probes.iter().filter(|one| !reach.of(one.child.as_ref())).cloned());
        let same = (held.interval_ms, held.ttl_ms) == (self.wish.interval_ms, self.wish.ttl_ms)
            && held.probes.len() == probes.len()
            && held.probes.iter().all(|one| probes.contains(one));
        if same {
            return Ok((Change::default(), (held.revision, false)));
        }
        if row.placeholder {
            return Err(SettingsProblem::NoSidecar(self.key.clone(), "it is a placeholder").into());
        }
        let takes_back = self.wish == Wish::default();
        if entry.identity.is_none() && row.first_seen.is_some() && !takes_back {
            let why = "what is said of it comes from its parent's, whose settings tune its probes";
            return Err(SettingsProblem::NoSidecar(self.key.clone(), why).into());
        }
        self.wish.check(row, self.everybody, reach)?;
        if probes.len() > MAX_TUNED {
            let why = format!("at most {MAX_TUNED} probes are tuned at once, those beyond the caller's scope included");
            return Err(SettingsProblem::Field { field: "probes".into(), why }.into());
        }
        let paced = pace_of(row, self.everybody);
        let before = match pace_before(row, self.everybody, None) {
            Some(older) => longest(paced, older),
            None => paced,
        };
        let revision = held.revision.saturating_add(1);
        let next = SettingsRow {
            revision,
            interval_ms: self.wish.interval_ms,
            ttl_ms: self.wish.ttl_ms,
            probes,
            set_by: self.by.actor.clone(),
            set_at: world.now.wall,
            paced_before: Some((before.interval_ms, before.ttl_ms)),
        };
        let details = [("revision", json!(revision)), ("before", told(&held)), ("after", told(&next))];
        let audit = self.by.did(world.now.wall, "service.settings_changed", self.key.to_string(), details);
        let write = Write::PutSettings { service: self.key.clone(), expect: row.seq, row: Arc::new(next) };
        Ok((Change { writes: vec![write], audit: vec![audit] }, (revision, true)))
    }
}

/// Settings as the audit trail has them.
fn told(row: &SettingsRow) -> Value {
    let probes: serde_json::Map<String, Value> = row
        .probes
        .iter()
        .map(|one| {
            let all = [
                ("run", json!(one.run)),
                ("interval_ms", json!(one.interval_ms)),
                ("timeout_ms", json!(one.timeout_ms)),
                ("rise", json!(one.rise)),
                ("fall", json!(one.fall)),
            ];
            let set = all.into_iter().filter(|(_, value)| !value.is_null());
            let set: serde_json::Map<String, Value> = set.map(|(name, value)| (name.to_owned(), value)).collect();
            (probe_name(one.child.as_ref(), &one.probe), Value::Object(set))
        })
        .collect();
    json!({ "interval_ms": row.interval_ms, "ttl_ms": row.ttl_ms, "probes": probes })
}

#[cfg(test)]
mod tests;
