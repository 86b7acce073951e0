//! What a collector may change on this host, and what follows from that: pure.
//!
//! The host's files define every probe and say with [`Remote`] which of them may be tuned, and how far. [`judge`] takes
//! settings whole or not at all, and says why in words that name the probe and what in the host's files would allow
//! it. [`effective`] lays settings that were taken over what the host's files say now: what does not fit any more is
//! dropped, since the host's files always win. Nothing here can make a command, a path or a target: a tuning has no
//! place for one.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use rollcall_common::{
    health::Text,
    id::{ServiceId, ServiceKey},
    wire::settings::{MAX_SHOWN, MAX_TUNED, ProbeState, Settings, SettingsRefused, SettingsState, Tuning},
};

use crate::{
    config::limits,
    probe::plan::{Check, Child, Probe, ProbeName},
};

/// What the host's files allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Which probes may be tuned.
    pub probes: Vec<Allowed>,
    /// No probe is made to look more often than this; one that the host's files let look more often may keep that.
    pub min_interval: Duration,
    /// The same of probes that run a program.
    pub min_exec_interval: Duration,
    /// No look is given more time than this, or than the host's files give it where that is more.
    pub max_timeout: Option<Duration>,
}

impl Default for Remote {
    /// Nothing may be tuned.
    fn default() -> Self {
        Self {
            probes: Vec::new(),
            min_interval: Duration::from_secs(5),
            min_exec_interval: Duration::from_secs(30),
            max_timeout: None,
        }
    }
}

impl Remote {
    /// Whether a probe may be tuned.
    #[must_use]
    pub fn allows(&self, child: Option<&ServiceKey>, probe: &ProbeName) -> bool {
        self.probes.iter().any(|allowed| allowed.covers(child, probe))
    }

    /// How long a look may be made to take: looks that hang hold up those of probes that nobody may tune.
    fn patience(&self, probe: &Probe) -> Duration {
        self.max_timeout.map_or(probe.timeout, |most| most.max(probe.timeout))
    }

    /// How often a probe may be made to look, and the setting that says so.
    fn floor(&self, probe: &Probe) -> (Duration, &'static str) {
        match &probe.check {
            Check::Exec(_) => (self.min_exec_interval.min(probe.interval), "remote.min_exec_interval"),
            Check::Systemd(_)
            | Check::Process(_)
            | Check::Tcp(_)
            | Check::Http(_)
            | Check::Grpc(_)
            | Check::Progress(_) => (self.min_interval.min(probe.interval), "remote.min_interval"),
        }
    }
}

/// One entry of the list of probes that may be tuned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Every probe, children's included: `*`.
    All,
    /// A probe of the service beside us: its name.
    Own(ProbeName),
    /// A probe of a child, or each of them: `child/KIND/ID:NAME`, `child/KIND/ID:*`.
    Child(ServiceKey, Option<ProbeName>),
}

impl Allowed {
    /// Whether it names that probe.
    #[must_use]
    pub fn covers(&self, child: Option<&ServiceKey>, probe: &ProbeName) -> bool {
        match self {
            Self::All => true,
            Self::Own(name) => child.is_none() && name == probe,
            Self::Child(key, name) => child == Some(key) && name.as_ref().is_none_or(|name| name == probe),
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} names no probe: write its name, child/KIND/ID:NAME, child/KIND/ID:* or *");
        if text == "*" {
            return Ok(Self::All);
        }
        let Some(of_child) = text.strip_prefix("child/") else {
            return text.parse::<ServiceId>().map(Self::Own).map_err(|_| wrong());
        };
        let (child, name) = of_child.rsplit_once(':').ok_or_else(wrong)?;
        let name = if name == "*" { None } else { Some(name.parse().map_err(|_| wrong())?) };
        Ok(Self::Child(child.parse().map_err(|_| wrong())?, name))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Own(name) => name.fmt(f),
            Self::Child(key, Some(name)) => write!(f, "child/{key}:{name}"),
            Self::Child(key, None) => write!(f, "child/{key}:*"),
        }
    }
}

/// What the host's files say.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// The probes of the service beside us.
    pub probes: &'a [Probe],
    /// Its children with theirs.
    pub children: &'a [Child],
    /// What of it may be tuned.
    pub remote: &'a Remote,
}

impl<'a> Host<'a> {
    fn find(&self, tuning: &Tuning) -> Option<&'a Probe> {
        let probes = match &tuning.child {
            None => self.probes,
            Some(key) => &self.children.iter().find(|child| child.key == *key)?.probes,
        };
        probes.iter().find(|probe| probe.name == tuning.probe)
    }

    /// What is allowed though there is no such probe.
    #[must_use]
    pub fn idle(&self) -> Vec<&'a Allowed> {
        let any = |allowed: &Allowed| self.all().any(|(child, probe)| allowed.covers(child, &probe.name));
        self.remote.probes.iter().filter(|allowed| **allowed != Allowed::All && !any(allowed)).collect()
    }

    /// What is on standby though nobody may ask for it.
    #[must_use]
    pub fn unreachable(&self) -> Vec<String> {
        let idle = self.all().filter(|(child, probe)| probe.standby && !self.remote.allows(*child, &probe.name));
        idle.map(|(child, probe)| name(child, &probe.name)).collect()
    }

    fn all(&self) -> impl Iterator<Item = (Option<&'a ServiceKey>, &'a Probe)> {
        let of_children =
            self.children.iter().flat_map(|child| child.probes.iter().map(move |probe| (Some(&child.key), probe)));
        self.probes.iter().map(|probe| (None, probe)).chain(of_children)
    }
}

/// How a probe is named in `remote.probes`.
fn name(child: Option<&ServiceKey>, probe: &ProbeName) -> String {
    match child {
        None => probe.to_string(),
        Some(key) => format!("child/{key}:{probe}"),
    }
}

/// Whether settings may be applied as a whole.
///
/// # Errors
/// Why not, in words.
pub fn judge(host: Host<'_>, settings: &Settings) -> Result<(), String> {
    if settings.probes.len() > MAX_TUNED {
        return Err(format!("{} probes are tuned; at most {MAX_TUNED}", settings.probes.len()));
    }
    if settings.revision == 0 && !settings.probes.is_empty() {
        return Err("revision 0 stands for the host's files alone, and tunes nothing".into());
    }
    let (mut seen, mut fit) = (BTreeSet::new(), Vec::new());
    for tuning in &settings.probes {
        if !seen.insert((&tuning.child, &tuning.probe)) {
            return Err(format!("{} is tuned twice", name(tuning.child.as_ref(), &tuning.probe)));
        }
        fit.push((tuning, tuned(host, tuning)?));
    }
    match blinded(host, &fit).first() {
        Some((_, why)) => Err(why.clone()),
        None => Ok(()),
    }
}

/// A probe as it is tuned, and whether it runs.
type Tuned = (Probe, bool);

/// Children at which the host looks and nobody would any more, and why that is not done. Who is not seen is taken for
/// dead: with its last probe, a child would be lost.
fn blinded<'a>(host: Host<'a>, fit: &[(&Tuning, Tuned)]) -> Vec<(&'a ServiceKey, String)> {
    let of = |key: &ServiceKey, probe: &Probe| {
        let found = fit.iter().find(|(tuning, _)| tuning.child.as_ref() == Some(key) && tuning.probe == probe.name);
        found.map(|(_, (_, runs))| *runs)
    };
    let mut all = Vec::new();
    for child in host.children {
        let looks = child.probes.iter().any(|probe| !probe.standby);
        if looks && !child.probes.iter().any(|probe| of(&child.key, probe).unwrap_or(!probe.standby)) {
            let key = &child.key;
            let why = format!("child/{key}: the last probe that runs stays on, or it would be taken for lost");
            all.push((key, why));
        }
    }
    all
}

fn tuned(host: Host<'_>, tuning: &Tuning) -> Result<Tuned, String> {
    let shown = name(tuning.child.as_ref(), &tuning.probe);
    let Some(probe) = host.find(tuning) else {
        return Err(format!("{shown}: the host's files have no such probe"));
    };
    if !host.remote.allows(tuning.child.as_ref(), &tuning.probe) {
        return Err(format!(
            "{shown}: may not be tuned; the host would allow it with \"{shown}\" in remote.probes of its agent.toml"
        ));
    }
    let mut probe = probe.clone();
    if let Some(ms) = tuning.interval_ms {
        let (interval, (floor, setting)) = (millis(ms), host.remote.floor(&probe));
        let most = *limits::INTERVALS.end();
        if interval < floor {
            return Err(format!("{shown}: interval {interval:?} is below the host's floor of {floor:?} ({setting})"));
        }
        if interval > most {
            return Err(format!("{shown}: interval {interval:?} is over {most:?}"));
        }
        probe.interval = interval;
    }
    if let Some(ms) = tuning.timeout_ms {
        let (timeout, range) = (millis(ms), limits::TIMEOUTS);
        if !range.contains(&timeout) {
            let (least, most) = (range.start(), range.end());
            return Err(format!("{shown}: timeout {timeout:?} is not between {least:?} and {most:?}"));
        }
        let most = host.remote.patience(&probe);
        if timeout > most {
            return Err(format!("{shown}: timeout {timeout:?} is over the host's {most:?} (remote.max_timeout)"));
        }
        probe.timeout = timeout;
    }
    if probe.timeout > probe.interval {
        let (timeout, interval) = (probe.timeout, probe.interval);
        return Err(format!("{shown}: a look of {timeout:?} does not fit into an interval of {interval:?}"));
    }
    for (given, rule, word) in
        [(tuning.rise, &mut probe.rules.rise, "rise"), (tuning.fall, &mut probe.rules.fall, "fall")]
    {
        let Some(given) = given else { continue };
        if !limits::STEADY.contains(&given) {
            let (least, most) = (limits::STEADY.start(), limits::STEADY.end());
            return Err(format!("{shown}: {word} {given} is not between {least} and {most}"));
        }
        *rule = given;
    }
    let runs = tuning.run.unwrap_or(!probe.standby);
    Ok((probe, runs))
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// The probes of the service beside us that run.
    pub probes: Vec<Probe>,
    /// The children, with those of their probes that run.
    pub children: Vec<Child>,
    /// All probes, as they are.
    pub rows: Vec<Row>,
    /// What of the settings does not fit the host's files any more, and why.
    pub dropped: Vec<String>,
}

/// One probe as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose, where it is a child's.
    pub child: Option<ServiceKey>,
    /// With its interval and the rest in force.
    pub probe: Probe,
    /// Whether the host lets the collector tune it.
    pub allowed: bool,
    /// Whether it runs.
    pub runs: bool,
    /// Whether the collector had a say in it.
    pub tuned: bool,
}

/// The host's files with settings laid over them that were taken once.
#[must_use]
pub fn effective(host: Host<'_>, settings: Option<&Settings>) -> Effective {
    let mut all = Effective::default();
    let mut tunings = Vec::new();
    for tuning in settings.map_or(&[][..], |settings| &settings.probes) {
        match tuned(host, tuning) {
            Ok(fits) => tunings.push((tuning, fits)),
            Err(why) => all.dropped.push(why),
        }
    }
    for (child, why) in blinded(host, &tunings) {
        tunings.retain(|(tuning, (_, runs))| *runs || tuning.child.as_ref() != Some(child));
        all.dropped.push(why);
    }
    let mut row = |child: Option<&ServiceKey>, probe: &Probe| {
        let fits = tunings.iter().find(|(tuning, _)| tuning.child.as_ref() == child && tuning.probe == probe.name);
        let row = Row {
            child: child.cloned(),
            probe: fits.map_or_else(|| probe.clone(), |(_, (tuned, _))| tuned.clone()),
            allowed: host.remote.allows(child, &probe.name),
            runs: fits.map_or(!probe.standby, |(_, (_, runs))| *runs),
            tuned: fits.is_some(),
        };
        let running = row.runs.then(|| row.probe.clone());
        all.rows.push(row);
        running
    };
    let probes = host.probes.iter().filter_map(|probe| row(None, probe)).collect();
    let children = host
        .children
        .iter()
        .map(|child| {
            let probes = child.probes.iter().filter_map(|probe| row(Some(&child.key), probe)).collect();
            // Whoever is looked at is not assumed to live once nobody looks.
            let assume_alive = child.assume_alive && child.probes.iter().all(|probe| probe.standby);
            Child { probes, assume_alive, ..child.clone() }
        })
        .collect();
    Effective { probes, children, ..all }
}

/// What is told of it: those that may be tuned come first.
#[must_use]
pub fn state(revision: u64, refused: Option<SettingsRefused>, rows: &[Row]) -> SettingsState {
    let (mut first, rest): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.allowed);
    first.extend(rest);
    let ms = |period: Duration| u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    let probe = |row: &&Row| ProbeState {
        child: row.child.clone(),
        probe: row.probe.name.clone(),
        sort: Text::fit(row.probe.check.word()),
        allowed: row.allowed,
        runs: row.runs,
        interval_ms: ms(row.probe.interval),
        timeout_ms: ms(row.probe.timeout),
        rise: row.probe.rules.rise,
        fall: row.probe.rules.fall,
    };
    let more = u32::try_from(first.len().saturating_sub(MAX_SHOWN)).unwrap_or(u32::MAX);
    SettingsState { revision, refused, probes: first.iter().take(MAX_SHOWN).map(probe).collect(), more }
}
