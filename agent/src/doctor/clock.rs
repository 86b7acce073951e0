//! The host's clock: compared with a collector's where a running sidecar was told of that, and otherwise as far as it
//! can be judged from here. A handshake tells no time: a stranger cannot ask a collector for its own.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use rollcall_common::time::Timestamp;

use super::{Finding, Grade};
use crate::{
    identity::Term,
    status::{Report, skew_warning},
};

/// Before this, no sidecar of this version existed: 2026-01-01.
const NO_EARLIER: Timestamp = Timestamp(1_767_225_600_000);
/// How long timedatectl may take.
const WITHIN: Duration = Duration::from_secs(3);

/// What the host says of its clock: whether something keeps it, where anybody says so.
pub(super) async fn kept() -> Option<bool> {
    if std::path::Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    // What chrony and others do is in the kernel's flag, which this shows.
    let asked = tokio::task::spawn_blocking(|| {
        let words = ["show", "--property=NTPSynchronized", "--value"];
        Command::new("timedatectl").args(words).stdin(Stdio::null()).stderr(Stdio::null()).output()
    });
    let output = tokio::time::timeout(WITHIN, asked).await.ok()?.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// How the clocks differ, or what speaks against this one.
pub(super) fn judge(running: Option<&Report>, term: Option<&Term>, kept: Option<bool>, now: Timestamp) -> Finding {
    const FIX: &str = "timedatectl set-ntp true, or whatever keeps this host's clock";
    if let Some(skew) = running.and_then(|report| report.clock_skew_ms) {
        return match skew_warning(skew) {
            None => Finding::new("clock", Grade::Ok, format!("{skew} ms from the collector's")),
            Some(words) => Finding::new("clock", Grade::Warn, words).fix(FIX),
        };
    }
    if let Some(words) = impossible(term, now) {
        return Finding::new("clock", Grade::Fail, words).fix(FIX);
    }
    let alone = "it is compared with a collector's once a sidecar is live";
    match kept {
        Some(true) => Finding::new("clock", Grade::Ok, format!("{now}, kept by this host's time service; {alone}")),
        Some(false) => {
            let words = format!("{now}, and nothing keeps it: the time service is off or reaches nobody; {alone}");
            Finding::new("clock", Grade::Warn, words).fix(FIX)
        }
        None => Finding::new("clock", Grade::Note, format!("{now}; whether that is so, nobody here says; {alone}")),
    }
}

/// What cannot be, whoever is asked.
fn impossible(term: Option<&Term>, now: Timestamp) -> Option<String> {
    if now < NO_EARLIER {
        return Some(format!("{now}: this program is younger than that"));
    }
    let term = term?;
    // It is renewed at half of its time.
    let half = term.not_after.since(term.renew_at);
    let began = Timestamp(term.renew_at.0.saturating_sub(i64::try_from(half.as_millis()).unwrap_or(i64::MAX)));
    let day = Duration::from_secs(86_400);
    (now.after(day) < began).then(|| format!("{now}, and the certificate in use was given about {began}"))
}

#[cfg(test)]
mod tests {
    use rollcall_common::id::Generation;

    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_is_known() {
        let day = 86_400;
        let at = |days: i64| Timestamp::from_secs(1_800_000_000 + days * day);
        let term = Term { generation: Generation(1), not_after: at(7), renew_at: at(4) };
        let grade = |term: Option<&Term>, kept, now| judge(None, term, kept, now).grade;
        assert_eq!(grade(Some(&term), Some(true), at(2)), Grade::Ok);
        assert_eq!(grade(Some(&term), None, at(2)), Grade::Note);
        assert_eq!(grade(Some(&term), Some(false), at(2)), Grade::Warn);
        assert_eq!(grade(Some(&term), Some(true), at(-3)), Grade::Fail, "before it was given");
        assert_eq!(grade(Some(&term), Some(true), at(20)), Grade::Ok, "a certificate may have ended");
        assert_eq!(grade(None, Some(true), Timestamp::from_secs(1_000)), Grade::Fail, "1970");
    }
}
