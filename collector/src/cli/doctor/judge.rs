//! What to think of what was seen. Every function is pure: observations in, findings out, each with its fix.

use std::time::Duration;

use rollcall_common::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::config;

/// Less room than this, and the next write may fail.
const ROOM_FAULT: u64 = 128 << 20;
/// Less than this, and somebody should look.
const ROOM_DOUBT: u64 = 1 << 30;
/// A commit waits for the disk: slower than this is felt, and much slower holds registrations up.
const SYNC_DOUBT: Duration = Duration::from_millis(50);
const SYNC_FAULT: Duration = Duration::from_millis(1_000);
/// Somebody has to act before a certificate ends.
const WEB_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
const ROOT_ENDS_SOON: Duration = Duration::from_secs(180 * 86_400);
/// Files beside the API's connections: the stores, the sockets, the logs.
const OWN_FILES: u64 = 256;
/// Open connections of the API where the configuration says nothing.
const HTTP_CONNECTIONS: u64 = 512;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Well,
    Doubt,
    Fault,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Doubt => "doubt",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn well(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Well, what: what.into(), fix: None }
    }

    fn doubt(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Doubt, what: what.into(), fix: Some(fix.into()) }
    }

    pub(super) fn fault(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fault, what: what.into(), fix: Some(fix.into()) }
    }
}

/// The API's answer to `/readyz`; a collector that is not running is no fault of the host.
pub(super) fn api(readiness: &Result<Value, String>, running: bool) -> Vec<Finding> {
    match readiness {
        Ok(_) => vec![Finding::well("api", "the collector answers, and takes changes")],
        Err(why) if running => vec![Finding::fault(
            "api",
            format!("a collector runs, and its API does not answer as it should: {why}"),
            "see `journalctl -u rollcall-collector`; with a certificate of your own authority add --ca-file",
        )],
        Err(_) => vec![Finding::doubt("api", "no collector runs here", "systemctl enable --now rollcall-collector")],
    }
}

/// A UDP address and what became of a packet to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Udp {
    /// Somebody who speaks QUIC answers.
    Answers(String),
    /// Nobody does, on this host itself.
    SilentHere(String),
    /// Nobody does, at an address that sidecars are told to dial.
    SilentThere(String),
    /// The name is not known here.
    Unresolved { address: String, why: String },
    /// No collector runs, and the port is free.
    Free(String),
    /// No collector runs, and the port cannot be had.
    Refused { address: String, why: String },
    /// Sidecars are told no address.
    Unadvertised,
}

pub(super) fn udp(seen: &[Udp]) -> Vec<Finding> {
    let finding = |one: &Udp| match one {
        Udp::Answers(address) => Finding::well("udp", format!("QUIC answers at {address}")),
        Udp::SilentHere(address) => Finding::fault(
            "udp",
            format!("a collector runs, and nothing answers at {address}"),
            "look for a local packet filter (`nft list ruleset`) and at the collector's log",
        ),
        Udp::SilentThere(address) => Finding::doubt(
            "udp",
            format!("{address}, which sidecars are told to dial, does not answer from here"),
            "open UDP there; an address of a NAT may answer from outside alone: try `rollcall-agent` on another host",
        ),
        Udp::Unresolved { address, why } => Finding::fault(
            "udp",
            format!("{address}, which sidecars are told to dial, is not found: {why}"),
            "correct `advertise`, or the name in DNS",
        ),
        Udp::Free(address) => Finding::well("udp", format!("UDP {address} is free")),
        Udp::Refused { address, why } => Finding::fault(
            "udp",
            format!("UDP {address} cannot be had: {why}"),
            "stop who has it (`ss -ulpn`), or set another `quic_listen`",
        ),
        Udp::Unadvertised => Finding::doubt(
            "udp",
            "sidecars are told no address: tokens work with --local alone",
            "set `advertise` to the name or address that sidecars reach this host by",
        ),
    };
    seen.iter().map(finding).collect()
}

/// The kernel's bounds of socket buffers, and what was lost for want of room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Buffers {
    pub(super) receive_max: Option<u64>,
    pub(super) send_max: Option<u64>,
    /// Datagrams of the whole host that found a full buffer, since it booted.
    pub(super) lost: u64,
}

pub(super) fn buffers(seen: &Buffers) -> Vec<Finding> {
    let wanted = config::SOCKET_BUFFER as u64;
    let small: Vec<String> = [("net.core.rmem_max", seen.receive_max), ("net.core.wmem_max", seen.send_max)]
        .into_iter()
        .filter_map(|(key, have)| have.filter(|have| *have < wanted).map(|have| format!("{key} is {have}")))
        .collect();
    let mut findings = Vec::new();
    if small.is_empty() {
        findings.push(Finding::well("udp buffers", format!("{} MiB each way are allowed", wanted >> 20)));
    } else {
        findings.push(Finding::fault(
            "udp buffers",
            format!(
                "{}, less than {wanted}: a fleet that reconnects at once loses packets for minutes",
                small.join(", ")
            ),
            "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304, and keep it in /etc/sysctl.d; restart the \
             collector",
        ));
    }
    if seen.lost > 0 {
        findings.push(Finding::doubt(
            "udp buffers",
            format!("{} datagrams found a full buffer since this host booted", seen.lost),
            "if the number grows (`nstat -az UdpRcvbufErrors`), this host is too slow, or its buffers are too small",
        ));
    }
    findings
}

/// The certificate of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct WebCertificate {
    pub(in super::super) names: Vec<String>,
    pub(in super::super) doubts: Vec<String>,
    pub(in super::super) not_before: Timestamp,
    pub(in super::super) not_after: Timestamp,
}

pub(super) fn certificates(web: &super::Certificate, root_ends: Option<Timestamp>, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let soon = |end: Timestamp, within: Duration| now.after(within) >= end;
    match web {
        Ok(None) => findings.push(Finding::well("certificate", "the API has none: it stays on this host")),
        Err(why) => {
            findings.push(Finding::fault("certificate", why.clone(), "correct `http_tls_cert` and `http_tls_key`"))
        }
        Ok(Some(web)) => {
            let what = format!("the API's, for {}, ends {}", web.names.join(", "), web.not_after);
            findings.push(if now >= web.not_after || now < web.not_before {
                Finding::fault("certificate", format!("{what}: it is not valid now"), "put a new one in its place")
            } else if soon(web.not_after, WEB_ENDS_SOON) {
                Finding::doubt("certificate", what, "renew it: a new pair is taken without a restart")
            } else {
                Finding::well("certificate", what)
            });
            let doubts = web.doubts.iter();
            findings.extend(doubts.map(|doubt| Finding::doubt("certificate", doubt.clone(), "have it issued anew")));
        }
    }
    if let Some(end) = root_ends {
        let what = format!("the root that tokens pin ends {end}");
        findings.push(if soon(end, ROOT_ENDS_SOON) {
            Finding::doubt("authority", what, "plan a new deployment of sidecars: they must enroll with a new root")
        } else {
            Finding::well("authority", what)
        });
    }
    findings
}

/// The state directory and the disk below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Missing(String),
    /// It cannot be looked into.
    Closed(String),
    Seen {
        path: String,
        mode: u32,
        free: u64,
        /// One durable write in the middle of several; none where this user may not write there.
        sync: Option<Duration>,
        write_error: Option<String>,
    },
}

pub(super) fn state(seen: &State) -> Vec<Finding> {
    let (path, mode, free, sync, write_error) = match seen {
        State::Missing(path) => {
            return vec![Finding::doubt("state", format!("{path} is not there yet"), "it is made at the first start")];
        }
        State::Closed(path) => {
            return vec![Finding::doubt("state", format!("{path} is closed to this user"), "look again as root")];
        }
        State::Seen { path, mode, free, sync, write_error } => (path, mode, free, sync, write_error),
    };
    let mut findings = Vec::new();
    if mode & 0o077 != 0 {
        findings.push(Finding::fault(
            "state",
            format!("{path} is open to others ({mode:04o})"),
            format!("chmod 700 {path}"),
        ));
    }
    let room = format!("{} MiB are free in {path}", free >> 20);
    let fix = "make room: when it is full, nothing is registered and nothing is written down";
    findings.push(match free {
        ..ROOM_FAULT => Finding::fault("disk", room, fix),
        ROOM_FAULT..ROOM_DOUBT => Finding::doubt("disk", room, fix),
        ROOM_DOUBT.. => Finding::well("disk", room),
    });
    if let Some(error) = write_error {
        findings.push(Finding::fault("registry", format!("{path} takes no file: {error}"), "see that it is writable"));
    }
    if let Some(sync) = sync {
        let what = format!("a durable write takes {} ms", sync.as_millis());
        let fix = "a faster disk, or fewer others on it: each commit of the registry waits for this";
        findings.push(match *sync {
            slow if slow >= SYNC_FAULT => Finding::fault("registry", what, fix),
            slow if slow >= SYNC_DOUBT => Finding::doubt("registry", what, fix),
            _ => Finding::well("registry", what),
        });
    }
    findings
}

/// The server that liveness is published on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LivenessSeen {
    InMemory,
    Answers { at: String, within: Duration },
    Silent { at: String, why: String },
}

pub(super) fn liveness(seen: &LivenessSeen) -> Vec<Finding> {
    vec![match seen {
        LivenessSeen::InMemory => Finding::well("liveness", "kept in memory"),
        LivenessSeen::Answers { at, within } => {
            Finding::well("liveness", format!("{at} answers within {} ms", within.as_millis()))
        }
        LivenessSeen::Silent { at, why } => Finding::doubt(
            "liveness",
            format!("{at} does not answer: {why}"),
            "it is a copy for other readers, and costs no lease; start it, or correct `liveness`",
        ),
    }]
}

/// Whether the host's clock follows others; unknown where nobody here says so.
pub(super) fn clock(synchronized: Option<bool>) -> Vec<Finding> {
    vec![match synchronized {
        Some(true) => Finding::well("clock", "it is synchronized"),
        Some(false) => Finding::fault(
            "clock",
            "it follows no other clock: certificates and the trail's times depend on it",
            "enable systemd-timesyncd or chrony",
        ),
        None => Finding::doubt("clock", "nobody here says whether it is synchronized", "see `timedatectl`"),
    }]
}

/// How many files the running collector may open.
pub(super) fn files(limit: Option<u64>, connections: Option<u32>) -> Vec<Finding> {
    let Some(limit) = limit else { return Vec::new() };
    let needed = connections.map_or(HTTP_CONNECTIONS, u64::from) * 2 + OWN_FILES;
    let what = format!("the collector may open {limit} files");
    vec![if limit < needed {
        let fix = format!("LimitNOFILE={needed} or more: `systemctl edit rollcall-collector`");
        Finding::fault("file limit", format!("{what}, and may need {needed}"), fix)
    } else {
        Finding::well("file limit", what)
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        assert!(
            findings.iter().all(|finding| (finding.verdict == Verdict::Well) == finding.fix.is_none()),
            "{findings:?}"
        );
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn buffers_of_a_stock_kernel_are_a_fault() {
        let stock = Buffers { receive_max: Some(212_992), send_max: Some(212_992), lost: 0 };
        assert_eq!(verdicts(&buffers(&stock)), [Verdict::Fault]);
        assert!(buffers(&stock)[0].what.contains("net.core.wmem_max is 212992"));
        let wide = Buffers { receive_max: Some(4 << 20), send_max: Some(8 << 20), lost: 0 };
        assert_eq!(verdicts(&buffers(&wide)), [Verdict::Well]);
        assert_eq!(verdicts(&buffers(&Buffers { lost: 7, ..wide })), [Verdict::Well, Verdict::Doubt]);
        // A container that hides the setting has nothing that could be corrected there.
        assert_eq!(verdicts(&buffers(&Buffers::default())), [Verdict::Well]);
    }

    #[test]
    fn a_certificate_is_told_of_before_it_ends() {
        let day = Duration::from_secs(86_400);
        let now = Timestamp::from_secs(1_800_000_000);
        let web = |left: u32| {
            Ok(Some(WebCertificate {
                names: vec!["rollcall.example".into()],
                doubts: vec![],
                not_before: Timestamp::from_secs(1_700_000_000),
                not_after: now.after(day * left),
            }))
        };
        assert_eq!(verdicts(&certificates(&web(60), None, now)), [Verdict::Well]);
        assert_eq!(verdicts(&certificates(&web(13), None, now)), [Verdict::Doubt]);
        assert_eq!(verdicts(&certificates(&web(0), None, now)), [Verdict::Fault]);
        assert_eq!(verdicts(&certificates(&Err("no such file".into()), None, now)), [Verdict::Fault]);
        let root = |left: u32| certificates(&Ok(None), Some(now.after(day * left)), now);
        assert_eq!(verdicts(&root(4_000)), [Verdict::Well, Verdict::Well]);
        assert_eq!(verdicts(&root(100)), [Verdict::Well, Verdict::Doubt]);
    }

    #[test]
    fn a_full_or_slow_disk_is_a_fault() {
        let seen = |free, ms| State::Seen {
            path: "/var/lib/x".into(),
            mode: 0o700,
            free,
            sync: Some(Duration::from_millis(ms)),
            write_error: None,
        };
        assert_eq!(verdicts(&state(&seen(10 << 30, 4))), [Verdict::Well, Verdict::Well]);
        assert_eq!(verdicts(&state(&seen(500 << 20, 80))), [Verdict::Doubt, Verdict::Doubt]);
        assert_eq!(verdicts(&state(&seen(5 << 20, 2_000))), [Verdict::Fault, Verdict::Fault]);
        let open = State::Seen {
            path: "/var/lib/x".into(),
            mode: 0o755,
            free: 10 << 30,
            sync: None,
            write_error: Some("Read-only file system".into()),
        };
        assert_eq!(verdicts(&state(&open)), [Verdict::Fault, Verdict::Well, Verdict::Fault]);
    }

    #[test]
    fn silence_is_judged_by_where_it_is() {
        let silent = Err("refused".to_owned());
        assert_eq!(verdicts(&api(&silent, true)), [Verdict::Fault]);
        assert_eq!(verdicts(&api(&silent, false)), [Verdict::Doubt]);
        let address = || "192.0.2.7:7411".to_owned();
        assert_eq!(verdicts(&udp(&[Udp::SilentHere(address())])), [Verdict::Fault]);
        assert_eq!(verdicts(&udp(&[Udp::SilentThere(address()), Udp::Unadvertised])), [Verdict::Doubt; 2]);
        assert_eq!(verdicts(&clock(Some(false))), [Verdict::Fault]);
        assert_eq!(verdicts(&files(Some(1_024), None)), [Verdict::Fault]);
        assert_eq!(verdicts(&files(Some(65_536), None)), [Verdict::Well]);
        assert!(files(None, None).is_empty());
    }
}
