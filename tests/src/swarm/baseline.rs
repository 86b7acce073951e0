//! What a user would build instead: an HTTP/1.1 endpoint with TLS and keep-alive that updates a map.
//!
//! The server is axum in a process of its own, on as many threads as the collector has; the client keeps
//! its connections open and sends one small JSON body on each per interval, like a sidecar its beats. The
//! difference to the collector is all that the baseline does not do: client certificates, leases, pacing,
//! a registry.

mod client;
mod server;

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rollcall_common::time::{Clock as _, SystemClock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use self::client::Load;
pub use self::server::serve;
use super::{
    gauge::{Machine, Pid},
    quantile::Summary,
};

/// The name in the certificate.
const NAME: &str = "baseline.invalid";
/// Its files within a scratch directory.
const CERT: &str = "cert.der";
const KEY: &str = "key.der";
/// How long the first requests of all connections may take beyond the ramp.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// File descriptors beyond one a connection.
const SPARE_FILES: u64 = 100;

/// What is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Connections.
    pub connections: u32,
    /// Between two requests on one connection.
    pub interval: Duration,
    /// Length of the window.
    pub duration: Duration,
    /// Over which the connections are opened.
    pub ramp: Duration,
}

/// Figures of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran; the load is that of its end.
    pub machine: Machine,
    /// Connections.
    pub connections: u32,
    /// Between two requests on one connection, in milliseconds.
    pub interval_ms: u64,
    /// Length of the window, in milliseconds.
    pub length_ms: u64,
    /// Requests answered in it.
    pub answered: u64,
    /// From a request to its answer.
    pub answer: Option<Summary>,
    /// The server's CPU time, in µs per request.
    pub server_cpu_us: f64,
    /// Own CPU time, in µs per request.
    pub own_cpu_us: f64,
    /// The server's anonymous memory by connection, in bytes; the kernel's is not in it.
    pub per_connection: u64,
    /// What should not have been.
    pub failures: Vec<String>,
}

/// Runs it: starts this program again as the server.
///
/// # Errors
/// When the server does not start, and when not every connection is served.
pub async fn run(plan: Plan) -> Result<Report> {
    let files = u64::from(plan.connections) + SPARE_FILES;
    raise_files(files)?;
    let dir = tempfile::tempdir()?;
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(dir.path().join(CERT), cert.der())?;
    std::fs::write(dir.path().join(KEY), signing_key.serialize_der())?;

    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .arg("baseline-serve")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the server does not start")?;
    let said = child.stdout.take().context("the server has no output")?;
    let line = BufReader::new(said).lines().next_line().await?.context("the server ended")?;
    let server = Pid(child.id().context("the server ended")?);

    let clock = SystemClock;
    let before = server.anonymous()?;
    let load = Arc::new(Load::new(line.trim().parse()?, cert.der().clone(), plan)?);
    let tasks = load.start();
    let begun = clock.now().boot;
    while load.serving() < u64::from(plan.connections) {
        ensure!(
            clock.now().boot.since(begun) < plan.ramp + READY_WITHIN,
            "only {} of {} connections are served",
            load.serving(),
            plan.connections
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(plan.interval).await;

    let (from, own, theirs) = (clock.now().boot, Pid::own().cpu()?, server.cpu()?);
    let first = load.reset();
    tokio::time::sleep(plan.duration).await;
    let (own, theirs) = (Pid::own().cpu()?.saturating_sub(own), server.cpu()?.saturating_sub(theirs));
    let answered = load.answered() - first;
    let length = clock.now().boot.since(from);
    let per_connection = server.anonymous()?.saturating_sub(before) / u64::from(plan.connections);
    drop(tasks);

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / answered.max(1) as f64;
    let failed = load.failed();
    Ok(Report {
        machine: Machine::now(),
        connections: plan.connections,
        interval_ms: u64::try_from(plan.interval.as_millis())?,
        length_ms: u64::try_from(length.as_millis())?,
        answered,
        answer: load.summary(),
        server_cpu_us: each(theirs),
        own_cpu_us: each(own),
        per_connection,
        failures: if failed == 0 { vec![] } else { vec![format!("{failed} connections failed")] },
    })
}

/// A socket a connection takes more files than a shell usually allows.
fn raise_files(wanted: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        ensure!(
            maximum.is_none_or(|maximum| maximum >= wanted),
            "{wanted} open files are needed, and the hard limit is lower: ulimit -Hn"
        );
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(())
}

/// Where the server finds its certificate and key.
fn files(dir: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let read = |name: &str| std::fs::read(dir.join(name)).with_context(|| format!("cannot read {name} in {dir:?}"));
    Ok((read(CERT)?, read(KEY)?))
}
