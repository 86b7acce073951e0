//! The sidecar's figures in Prometheus' text form.

use std::fmt::Write as _;

use rollcall_common::{health::Health, time::Now, wire::Transport};

use super::answers::Tally;
use crate::{
    health::severity,
    status::{Doing, Report},
};

const PREFIX: &str = "rollcall_agent_";

/// All families, in a steady order.
pub(super) fn text(report: &Report, tally: &Tally, now: Now) -> String {
    let mut page = Page::default();
    page.family("build_info", "gauge", "The program that runs; always 1");
    page.row(&[("version", &report.version)], 1.0);
    page.family("state", "gauge", "1 for what the sidecar does now, 0 for the rest");
    for doing in Doing::ALL {
        page.row(&[("state", doing.as_str())], flag(doing == report.state));
    }
    page.family("start_time_seconds", "gauge", "When the sidecar started, since the epoch");
    page.row(&[], seconds(report.started_ms));
    page.family("beats_sent_total", "counter", "Heartbeats sent since the sidecar started");
    page.row(&[], count(report.beats_sent));
    page.family("sessions_total", "counter", "Dials since the sidecar started");
    page.row(&[], count(report.session));
    page.family("warnings", "gauge", "Things that an operator should look at");
    page.row(&[], count(u64::try_from(report.warnings.len()).unwrap_or(u64::MAX)));
    page.family("transport", "gauge", "1 for what carries the session now, 0 for the rest");
    for transport in Transport::ALL {
        page.row(&[("transport", transport.as_str())], flag(report.transport == Some(transport)));
    }
    if let Some(ago) = report.last_ack_ms_ago {
        let ago = i64::try_from(ago).unwrap_or(i64::MAX);
        page.family("last_ack_timestamp_seconds", "gauge", "When a heartbeat was acknowledged last, since the epoch");
        page.row(&[], seconds(now.wall.0.saturating_sub(ago)));
    }
    if let Some(pace) = report.pace {
        page.family("interval_seconds", "gauge", "Time between heartbeats, as granted");
        page.row(&[], f64::from(pace.interval_ms) / 1e3);
        page.family("ttl_seconds", "gauge", "Time that one heartbeat is good for, as granted");
        page.row(&[], f64::from(pace.ttl_ms) / 1e3);
    }
    if let Some(certificate) = &report.certificate {
        page.family("certificate_generation", "gauge", "Counts the certificates of the identity");
        page.row(&[], count(certificate.generation));
        page.family("certificate_not_after_timestamp_seconds", "gauge", "When the certificate ends, since the epoch");
        page.row(&[], seconds(certificate.not_after_ms));
    }
    if let Some(skew) = report.clock_skew_ms {
        page.family("clock_skew_seconds", "gauge", "The collector's clock less this host's");
        page.row(&[], seconds(skew));
    }
    health(&mut page, report);
    settings(&mut page, report);
    page.family("local_requests_total", "counter", "Requests to the local service");
    for (path, served, refused) in tally.rows() {
        page.row(&[("path", path), ("outcome", "served")], count(served));
        page.row(&[("path", path), ("outcome", "refused")], count(refused));
    }
    let (crowded, broken) = tally.lost();
    page.family("local_callers_lost_total", "counter", "Callers of the local service that got no answer");
    page.row(&[("reason", "crowded")], count(crowded));
    page.row(&[("reason", "broken")], count(broken));
    page.text
}

fn health(page: &mut Page, report: &Report) {
    page.family("health", "gauge", "1 for how the service is, by fact, 0 for the rest");
    for (fact, told) in [("service", &report.health), ("progress", &report.progress)] {
        for health in Health::ALL {
            page.row(&[("fact", fact), ("health", health.as_str())], flag(told.health == health));
        }
    }
    page.family("source_severity", "gauge", "What a source says: 0 healthy, 1 unchecked, 2 degraded, 3 unhealthy");
    for source in &report.sources {
        let labels = [
            ("subject", source.subject.as_str()),
            ("fact", source.fact.as_str()),
            ("sort", source.sort.as_str()),
            ("source", source.name.as_str()),
        ];
        page.row(&labels, f64::from(severity(if source.stale { Health::Unhealthy } else { source.health })));
    }
}

fn settings(page: &mut Page, report: &Report) {
    let settings = &report.settings;
    page.family("settings_revision", "gauge", "The collector's settings in force; 0: the host's files alone");
    page.row(&[], count(settings.revision));
    page.family(
        "settings_refused",
        "gauge",
        "1 where the last settings of the collector were not taken, or not in full",
    );
    page.row(&[], flag(settings.refused.is_some()));
    page.family("probe_interval_seconds", "gauge", "Time between two looks of a probe that runs");
    for probe in settings.probes.iter().filter(|probe| probe.runs) {
        let labels = [
            ("subject", probe.subject.as_str()),
            ("probe", probe.name.as_str()),
            ("sort", probe.sort.as_str()),
            ("set_by", probe.set_by.as_str()),
        ];
        page.row(&labels, f64::from(u32::try_from(probe.interval_ms).unwrap_or(u32::MAX)) / 1e3);
    }
}

#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, sort: &str, help: &str) {
        self.name = name;
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {sort}");
    }

    fn row(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut inside = String::new();
        for (n, (key, value)) in labels.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(inside, "{comma}{key}=\"{value}\"");
        }
        let (open, close) = if inside.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.text, "{PREFIX}{}{open}{inside}{close} {value}", self.name);
    }
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing else, and counts stay far below 2^53")]
fn count(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium stay far below 2^53")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1e3
}
