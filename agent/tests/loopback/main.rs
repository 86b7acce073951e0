//! The sidecar against a small real collector on loopback: real sockets, real files, no sleeps.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of any test"
)]

mod fake;
mod hostile;
mod settings;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use fake::{Authority, Fake};
use rollcall_agent::{
    agent::{Agent, Fault},
    carriage::Ways,
    config::{Config, Layer, Source},
    enroll::{EnrollError, Next, Request, Target, enroll},
    key::Key,
    link::{Dialer, LinkError},
    local,
    signals::{Signal, Signals},
    status::{Doing, Report},
};
use rollcall_common::{
    code::Code,
    id::{InstanceId, Kind},
    service::Pairs,
    time::{Clock, SystemClock},
    wire::{
        Transport,
        message::{Addresses, Directive, Down, GoodbyeReason},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// An empty host: only flags count.
struct Bare;

impl Source for Bare {
    fn text(&self, _path: &Path) -> std::io::Result<Option<String>> {
        Ok(None)
    }
    fn files(&self, _dir: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
        Ok(Vec::new())
    }
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
    fn is_root(&self) -> bool {
        false
    }
}

/// A host with a state directory and room for a token.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self, change: impl FnOnce(&mut Layer)) -> Config {
        let mut layer = Layer {
            kind: Some(Kind::Poller),
            id: "p1".parse().ok(),
            state_dir: Some(self.0.path().join("state")),
            token_file: Some(self.0.path().join("token")),
            ..Layer::default()
        };
        change(&mut layer);
        Config::load(&Bare, None, layer).unwrap()
    }

    fn put_token(&self, authority: &Authority, fakes: &[&Fake]) {
        let addresses: Vec<_> = fakes.iter().map(|fake| fake.addr).collect();
        for fake in fakes {
            fake.manners().addresses.lock().unwrap().clone_from(&addresses);
        }
        std::fs::write(self.0.path().join("token"), &*authority.token(&addresses).reveal()).unwrap();
    }

    fn start(&self, config: Config) -> Running {
        Self::run(Agent::prepare(config, Arc::new(SystemClock)).unwrap(), self.0.path().join("state/agent.sock"))
    }

    fn run(agent: Agent, socket: PathBuf) -> Running {
        let (signals, received) = Signals::channel();
        Running { task: TaskTracker::new().spawn(agent.run(received)), signals, socket }
    }
}

struct Running {
    task: JoinHandle<Result<(), Fault>>,
    signals: mpsc::Sender<Signal>,
    socket: std::path::PathBuf,
}

impl Running {
    /// Waits until the status satisfies a condition.
    async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        let watching = async {
            loop {
                last = local::ask(&self.socket).await.ok();
                if let Some(report) = last.as_ref().filter(|report| condition(report)) {
                    return report.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), watching).await;
        found.unwrap_or_else(|_| panic!("never {what}: {last:?}"))
    }

    async fn stop(self) -> Duration {
        let clock = SystemClock;
        let before = clock.now().boot;
        self.signals.send(Signal::Stop).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.unwrap().unwrap().unwrap();
        clock.now().boot.since(before)
    }
}

fn request() -> Request {
    Request {
        kind: Kind::Poller,
        id: None,
        parent: None,
        checker_kind: None,
        labels: Pairs::default(),
        metadata: Pairs::default(),
        instance_id: InstanceId::random().unwrap(),
    }
}

/// C6: nothing leaves before the pinned root is proven.
#[tokio::test]
async fn a_wrong_pin_sends_no_application_byte() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = Fake::start(&authority, 1_000);
    let token = other.token(&[fake.addr]);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let address = fake.addr.into();
    let dialer = Dialer::new();
    let target = Target {
        dialer: &dialer,
        address: &address,
        variant: 0,
        ways: Ways::Only(Transport::Quic),
        head_start: Duration::ZERO,
        clock: &clock,
    };
    let error = enroll(target, &token, &request(), Arc::new(Key::generate().unwrap())).await.unwrap_err();
    assert!(matches!(error, EnrollError::Link(LinkError::Distrusted(_))), "{error:?}");
    assert!(error.to_string().contains("no root with the pinned key"), "{error}");
    assert!(matches!(error.next(), Next::Retry(_)));
    let seen = fake.seen();
    assert_eq!((seen.connections, seen.enrolls), (1, 0));
}

#[tokio::test]
async fn a_sidecar_waits_for_its_token_then_lives_then_says_goodbye() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    let host = Host::new();
    let running = host.start(host.config(|layer| layer.consume_token_file = Some(true)));
    let waiting =
        running.until("waiting", |report| report.state == Doing::WaitingForToken && report.reason.is_some()).await;
    assert!(waiting.reason.unwrap().contains("token"));
    host.put_token(&authority, &[&fake]);
    let live = running.until("live", |report| report.last_acked >= Some(3)).await;
    assert_eq!(live.service.as_deref(), Some("poller/p1"));
    assert_eq!(live.state, Doing::Live);
    assert_eq!(live.certificate.unwrap().generation, 1);
    assert!(!host.0.path().join("token").exists(), "the token was consumed");

    let took = running.stop().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let seen = fake.until("the goodbye", |seen| !seen.byes.is_empty()).await;
    assert_eq!(seen.byes[0].reason, GoodbyeReason::Stop);
    assert_eq!((seen.enrolls, seen.facts, seen.hellos.len()), (1, 1, 1));
    assert!(seen.beats.is_sorted_by(|a, b| a < b), "{:?}", seen.beats);
    assert!(!host.0.path().join("state/agent.sock").exists());

    // T13: the next start needs no token, and looks at none.
    std::fs::write(host.0.path().join("token"), "rollcall_enr1_nonsense").unwrap();
    let running = host.start(host.config(|_| {}));
    running.until("live again", |report| report.state == Doing::Live).await;
    let seen = fake.seen();
    assert_eq!((seen.enrolls, seen.hellos.len()), (1, 2));
    assert_ne!(seen.hellos[0].instance_id, seen.hellos[1].instance_id);
    running.stop().await;
}

/// T2: a lost answer is asked for again with the same key.
#[tokio::test]
async fn a_lost_answer_is_repeated_with_the_same_key() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 1_000);
    fake.manners().lose_answers.store(1, SeqCst);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    fake.until("one enrollment", |seen| seen.enrolls == 1).await;
    running.until("the failed try", |report| report.state == Doing::Enrolling && report.reason.is_some()).await;
    // As good as a kill: nothing of this process is left but its state directory.
    running.task.abort();
    assert!(running.task.await.unwrap_err().is_cancelled());
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.state == Doing::Live).await;
    let seen = fake.seen();
    assert_eq!(seen.enrolls, 2);
    let keys: std::collections::HashSet<_> = seen
        .csrs
        .iter()
        .map(|csr| {
            let request = rcgen::CertificateSigningRequestParams::from_der(&csr.clone().into()).unwrap();
            rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec()
        })
        .collect();
    assert_eq!(keys.len(), 1, "one key in both requests");
    running.stop().await;
}

#[tokio::test]
async fn a_refused_token_ends_the_process_with_the_fix() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 1_000);
    *fake.manners().refuse.lock().unwrap() = Some(Code::TokenExpired);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    let fault = tokio::time::timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap().unwrap_err();
    let words = fault.to_string();
    assert!(words.contains("EXPIRED: the token's time is over; make a new one"), "{words}");
    assert!(words.contains(&host.0.path().join("token").display().to_string()), "{words}");
    assert!(!words.contains("rollcall_enr1_"), "{words}");
}

/// A beat that is not acknowledged ends the connection, and the next address is dialed.
#[tokio::test]
async fn silence_leads_to_the_next_address() {
    let authority = Authority::new();
    let (first, second) = (Fake::start(&authority, 500), Fake::start(&authority, 500));
    let host = Host::new();
    host.put_token(&authority, &[&first, &second]);
    let running = host.start(host.config(|_| {}));
    first.until("beats", |seen| seen.beats.len() >= 2).await;
    assert_eq!(second.seen().connections, 0);
    first.manners().mute.store(true, SeqCst);
    let seen = second.until("beats", |seen| !seen.beats.is_empty()).await;
    let before = first.seen();
    assert!(seen.beats[0] > *before.beats.last().unwrap(), "beat numbers go on rising");
    assert!(seen.hellos[0].session > before.hellos[0].session);
    assert!(before.byes.is_empty(), "no goodbye to a silent collector");
    let live = running.until("live", |report| report.state == Doing::Live).await;
    assert_eq!(live.collector, Some(second.addr.to_string()));
    running.stop().await;
}

/// L1, L4: a revoked sidecar stays up, does not hammer, and comes back when asked to.
#[tokio::test]
async fn revocation_is_obeyed_and_can_be_taken_back() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.last_acked >= Some(1)).await;
    authority.revoke(true);
    fake.close(Code::Revoked);
    let barred = running.until("barred", |report| report.state == Doing::Offline).await;
    assert_eq!(barred.reason.as_deref(), Some("the collector closed: REVOKED"));
    assert!(barred.again_in_ms > Some(3_000_000), "an hour, give or take: {barred:?}");
    let connections = fake.seen().connections;

    running.signals.send(Signal::Reload).await.unwrap();
    let refused = running
        .until("refused", |report| {
            report.reason.as_deref() != barred.reason.as_deref() && report.state == Doing::Offline
        })
        .await;
    assert_eq!(refused.reason.as_deref(), Some("the collector refused our certificate: revoked"));
    assert!(refused.again_in_ms > Some(3_000_000));
    assert_eq!(fake.seen().connections, connections + 1);

    authority.revoke(false);
    running.signals.send(Signal::Reload).await.unwrap();
    running.until("live again", |report| report.state == Doing::Live).await;
    assert_eq!(fake.seen().enrolls, 1);
    running.stop().await;
}

/// Two-phase renewal: the new certificate is kept, proven on a second connection, and only then current.
#[tokio::test]
async fn a_renewed_certificate_is_proven_before_it_is_current() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.last_acked >= Some(1)).await;
    fake.say(&fake::renew_now());
    let renewed = running
        .until("renewed", |report| report.certificate.as_ref().is_some_and(|certificate| certificate.generation == 2))
        .await;
    assert_eq!(renewed.state, Doing::Live);
    let seen = fake.until("the old connection's end", |seen| seen.hellos.len() == 2 && seen.closes.len() == 2).await;
    assert!(seen.byes.is_empty() && seen.renews == 1);
    running.until("beats go on", |report| report.last_acked > renewed.last_acked).await;
    assert!(!host.0.path().join("state/next").exists() && !host.0.path().join("state/pending").exists());
    running.stop().await;
    let running = host.start(host.config(|_| {}));
    let again = running.until("live", |report| report.state == Doing::Live).await;
    assert_eq!(again.certificate.unwrap().generation, 2);
    running.stop().await;
}

/// L16, L17: a renewal that fails leaves everything as it was.
#[tokio::test]
async fn a_failed_renewal_leaves_the_session_alone() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    fake.manners().no_renewal.store(true, SeqCst);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.last_acked >= Some(1)).await;
    fake.say(&fake::renew_now());
    fake.until("the request", |seen| seen.renews == 1).await;
    let acked = running.until("live", |report| report.state == Doing::Live).await.last_acked;
    let after = running.until("beats go on", |report| report.last_acked > acked).await;
    assert_eq!(after.certificate.unwrap().generation, 1);
    assert_eq!(fake.seen().hellos.len(), 1);
    running.stop().await;
}

/// L12: an expired identity comes back with its bound key, and without a token.
#[tokio::test]
async fn an_expired_identity_rejoins() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    *authority.lifetime.lock().unwrap() = -86_400;
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    fake.until("the enrollment", |seen| seen.enrolls == 1).await;
    *authority.lifetime.lock().unwrap() = 7 * 86_400;
    let live = running.until("live", |report| report.state == Doing::Live).await;
    assert_eq!(live.certificate.unwrap().generation, 2);
    let seen = fake.seen();
    assert_eq!((seen.enrolls, seen.rejoins), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn addresses_of_the_collector_are_followed_and_remembered() {
    let authority = Authority::new();
    let (first, second) = (Fake::start(&authority, 200), Fake::start(&authority, 200));
    let host = Host::new();
    host.put_token(&authority, &[&first]);
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.last_acked >= Some(1)).await;
    let list = vec![second.addr.into()];
    first.say(&Down::Directive(Directive::Addresses(Addresses { revision: 2, list })));
    running.until("the new list", |report| report.addresses == [second.addr.to_string()]).await;
    first.say(&fake::bye(Code::Draining));
    second.until("beats", |seen| !seen.beats.is_empty()).await;
    running.stop().await;
    first.vanish();
    let running = host.start(host.config(|_| {}));
    second.until("the next process", |seen| seen.hellos.len() == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn one_state_directory_has_one_sidecar() {
    let host = Host::new();
    let running = host.start(host.config(|_| {}));
    let config = host.config(|layer| layer.socket = Some(host.0.path().join("other.sock")));
    let fault = Agent::prepare(config, Arc::new(SystemClock)).unwrap_err();
    assert!(fault.to_string().starts_with("another sidecar uses state directory"), "{fault}");
    let other = host.config(|layer| {
        layer.state_dir = Some(host.0.path().join("other"));
        layer.socket = Some(host.0.path().join("state/agent.sock"));
    });
    let fault = Agent::prepare(other, Arc::new(SystemClock)).unwrap_err();
    assert!(fault.to_string().starts_with("another sidecar answers at"), "{fault}");
    running.stop().await;
}

/// A newer collector may say what this version does not know: the session ends, the sidecar does not.
#[tokio::test]
async fn an_unknown_frame_ends_the_session_only() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let running = host.start(host.config(|_| {}));
    running.until("live", |report| report.last_acked >= Some(1)).await;
    // Directive (variant 5) number 99.
    fake.say_bytes(&[0, 0, 0, 2, 5, 99]);
    let told = |seen: &fake::Seen| seen.closes.iter().any(|close| close.contains("PROTOCOL"));
    fake.until("the close and the next session", |seen| seen.hellos.len() == 2 && told(seen)).await;
    running.until("live again", |report| report.state == Doing::Live).await;
    running.stop().await;
}

/// A name is resolved, and a family on which nobody answers costs a moment, not a timeout.
#[tokio::test]
async fn a_name_is_dialed_in_both_families() {
    let authority = Authority::new();
    let fake = Fake::start(&authority, 200);
    let host = Host::new();
    host.put_token(&authority, &[&fake]);
    let port = fake.addr.port();
    let running =
        host.start(host.config(|layer| layer.addresses = Some(vec![format!("localhost:{port}").parse().unwrap()])));
    let live = running.until("live", |report| report.state == Doing::Live).await;
    assert_eq!(live.collector, Some(format!("localhost:{port}")));
    assert_eq!(live.addresses, [format!("localhost:{port}")], "the override holds");
    running.stop().await;
}
