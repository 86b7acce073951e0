//! How the probes run and who said so, as it is shown.

use std::{collections::BTreeMap, time::Duration};

use rollcall_common::wire::settings::{Settings, SettingsRefused};
use serde::{Deserialize, Serialize};

use super::seconds;
use crate::remote::{Effective, Row};

/// Which settings of the collector are in force, and how the probes run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsView {
    /// The collector's settings in force; 0: the host's files alone.
    pub revision: u64,
    /// The last ones that were not taken, or not in full.
    pub refused: Option<RefusedView>,
    /// The service's labels at the collector, as it told them with its settings.
    pub labels: BTreeMap<String, String>,
    /// Every probe.
    pub probes: Vec<ProbeView>,
}

/// Settings that were not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// Which.
    pub revision: u64,
    /// Why.
    pub why: String,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeView {
    /// `own`, or the child.
    pub subject: String,
    /// Its name.
    pub name: String,
    /// Its type.
    pub sort: String,
    /// Whether it runs.
    pub runs: bool,
    /// Whether the collector may tune it.
    pub tunable: bool,
    /// Who set what is in force: `host` or `collector`.
    pub set_by: String,
    /// Milliseconds between two looks.
    pub interval_ms: u64,
    /// Milliseconds that a look may take.
    pub timeout_ms: u64,
    /// Good looks in a row that make it healthy.
    pub rise: u32,
    /// Bad looks in a row that make it unhealthy.
    pub fall: u32,
}

impl SettingsView {
    /// What is in force.
    #[must_use]
    pub fn of(settings: Option<&Settings>, refused: Option<&SettingsRefused>, effective: &Effective) -> Self {
        let labels = settings.iter().flat_map(|settings| settings.labels.iter());
        Self {
            revision: settings.map_or(0, |settings| settings.revision),
            refused: refused.map(|refused| RefusedView { revision: refused.revision, why: refused.why.to_string() }),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            probes: effective.rows.iter().map(ProbeView::of).collect(),
        }
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&'static str, Option<String>)) {
        row("settings", (self.revision > 0).then(|| format!("revision {} of the collector", self.revision)));
        if let Some(RefusedView { revision, why }) = &self.refused {
            row("refused", Some(format!("revision {revision}: {why}")));
        }
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        row("labels", (!labels.is_empty()).then(|| labels.join(", ")));
        for probe in &self.probes {
            row("probe", Some(probe.words()));
        }
    }
}

impl ProbeView {
    fn of(row: &Row) -> Self {
        let ms = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Self {
            subject: row.child.as_ref().map_or_else(|| "own".to_owned(), ToString::to_string),
            name: row.probe.name.to_string(),
            sort: row.probe.check.word().into(),
            runs: row.runs,
            tunable: row.allowed,
            set_by: if row.tuned { "collector" } else { "host" }.into(),
            interval_ms: ms(row.probe.interval),
            timeout_ms: ms(row.probe.timeout),
            rise: row.probe.rules.rise,
            fall: row.probe.rules.fall,
        }
    }

    fn words(&self) -> String {
        let of = if self.subject == "own" { String::new() } else { format!(" of {}", self.subject) };
        let every = if self.runs {
            format!("every {} within {}", seconds(self.interval_ms), seconds(self.timeout_ms))
        } else {
            "rests".into()
        };
        let by = match (self.set_by.as_str(), self.tunable) {
            ("collector", _) => ", set by the collector",
            (_, true) => ", tunable",
            (_, false) => "",
        };
        format!("{}{of} ({}): {every}{by}", self.name, self.sort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_set_what_is_shown() {
        let probe = ProbeView {
            subject: "checker/c".into(),
            name: "page".into(),
            sort: "http".into(),
            runs: true,
            tunable: true,
            set_by: "collector".into(),
            interval_ms: 5_000,
            timeout_ms: 500,
            rise: 1,
            fall: 2,
        };
        let rests = ProbeView { runs: false, set_by: "host".into(), subject: "own".into(), ..probe.clone() };
        let refused = Some(RefusedView { revision: 8, why: "x: no".into() });
        let labels = BTreeMap::from([("site".to_owned(), "zrh".to_owned())]);
        let view = SettingsView { revision: 7, refused, labels, probes: vec![probe, rests] };
        let mut shown = Vec::new();
        view.rows(&mut |name, value| shown.extend(value.map(|value| (name, value))));
        let shown: Vec<_> = shown.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("settings", "revision 7 of the collector"),
                ("refused", "revision 8: x: no"),
                ("labels", "site=zrh"),
                ("probe", "page of checker/c (http): every 5 s within 0.5 s, set by the collector"),
                ("probe", "page (http): rests, tunable"),
            ]
        );
    }
}
