//! Many readers of the change feed while many changes happen: does each of them see every one?
//!
//! Readers and writers share this process and the collector's host. A reader counts the registrations that
//! this run makes and sums their seqs; at the end all of them must have the number that was answered, in
//! rising order, and the same sum.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rollcall_common::time::{Clock as _, SystemClock, Timestamp};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{gauge::Pid, guard, quantile::Quantiles};

/// Registrations on their way at once.
const WRITERS: u32 = 128;
/// How long a reader may need for the last event.
const LAST_WITHIN: Duration = Duration::from_secs(30);

/// Flags.
#[derive(Debug, Args)]
pub struct Feed {
    /// How many readers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clients: u32,
    /// How many changes a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    changes_per_second: u32,
    /// For how long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// The collector's API, as in http://127.0.0.1:7410
    #[arg(long, env = "ROLLCALL_API")]
    api: String,
    /// The file with the API's bearer credential
    #[arg(long, env = "ROLLCALL_CREDENTIAL_FILE")]
    credential_file: PathBuf,
    /// The collector's process, to account its CPU time
    #[arg(long)]
    collector_pid: Option<u32>,
}

/// What one reader saw of this run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    events: u64,
    seqs: u64,
    last: u64,
    disorder: u64,
}

#[derive(Debug)]
struct Shared {
    /// What the ids of this run begin with.
    prefix: String,
    ready: AtomicU64,
    wanted: AtomicU64,
    over: AtomicBool,
    lag: Mutex<Quantiles>,
}

impl Feed {
    /// Does it; whether nobody missed an event.
    ///
    /// # Errors
    /// When the collector cannot be reached.
    pub async fn perform(self) -> Result<bool> {
        raise_files(u64::from(self.clients) + 1_024)?;
        let base = guard::api(&self.api, false)?;
        let credential = std::fs::read_to_string(&self.credential_file)?.trim().to_owned();
        let host = base.strip_prefix("http://").context("readers speak plain HTTP to loopback")?.to_owned();
        let shared = Arc::new(Shared {
            prefix: format!("feed-{}-", SystemClock.now().wall.0),
            ready: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
            lag: Mutex::default(),
        });
        let mut readers = JoinSet::new();
        for n in 0..self.clients {
            let (host, credential, shared) = (host.clone(), credential.clone(), Arc::clone(&shared));
            readers.spawn(async move { read(&host, &credential, &shared, n % 50 == 0).await });
            if n % 64 == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        timeout(LAST_WITHIN, async {
            while shared.ready.load(Relaxed) < u64::from(self.clients) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .context("not every reader was greeted: is limits.http_streams large enough?")?;
        let (pid, own) = (self.collector_pid.map(Pid), Pid::own());
        let before = (pid.map(Pid::cpu).transpose()?, own.cpu()?);
        let start = SystemClock.now().boot;
        let made = self.write(&base, &credential, &shared.prefix).await?;
        let took = SystemClock.now().boot.since(start);
        shared.wanted.store(made, Relaxed);
        let joined = timeout(LAST_WITHIN, async {
            let mut all = Vec::new();
            while let Some(seen) = readers.join_next().await {
                all.push(seen.map_err(anyhow::Error::from).and_then(|seen| seen));
            }
            all
        });
        let all = joined.await;
        shared.over.store(true, Relaxed);
        let all = all.context("some readers did not get every event in time: they missed some")?;
        let cpu = (pid.map(Pid::cpu).transpose()?, own.cpu()?);
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        let mut sums = BTreeMap::new();
        for seen in &all {
            match seen {
                Ok(seen) if seen.events == made && seen.disorder == 0 => {
                    *kinds.entry("saw all".into()).or_default() += 1;
                    *sums.entry(seen.seqs).or_insert(0_u32) += 1;
                }
                Ok(seen) => *kinds.entry(format!("saw {} of {made}", seen.events)).or_default() += 1,
                Err(error) => *kinds.entry(error.to_string()).or_default() += 1,
            }
        }
        let lag = shared.lag.lock().unwrap_or_else(PoisonError::into_inner).summary();
        let figures = json!({
            "clients": self.clients,
            "changes": made,
            "seconds": took.as_secs_f64(),
            "changes_per_second": u128::from(made) * 1_000 / took.as_millis().max(1),
            "deliveries": made * u64::from(self.clients),
            "readers": kinds,
            "sums": sums.len(),
            "lag_ms": lag.map(|lag| format!("{lag:?}")),
            "collector_cpu_seconds": cpu.0.zip(before.0).map(|(now, then)| (now - then).as_secs_f64()),
            "own_cpu_seconds": (cpu.1 - before.1).as_secs_f64(),
        });
        let text = format!("{}\n", serde_json::to_string_pretty(&figures)?);
        std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())?;
        Ok(kinds.get("saw all") == Some(&self.clients) && sums.len() == 1)
    }

    /// Registers at the pace; answers how many were made.
    async fn write(&self, base: &str, credential: &str, prefix: &str) -> Result<u64> {
        let client = reqwest::Client::builder().timeout(LAST_WITHIN).build()?;
        let made = Arc::new(AtomicU64::new(0));
        let next = Arc::new(AtomicU64::new(0));
        let total = u64::from(self.changes_per_second) * u64::from(self.seconds);
        let allowed = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (client, made, next, allowed) =
                (client.clone(), Arc::clone(&made), Arc::clone(&next), Arc::clone(&allowed));
            let (url, credential) = (format!("{base}/api/admin/services/instances"), credential.to_owned());
            let prefix = prefix.to_owned();
            writers.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= total {
                        return anyhow::Ok(());
                    }
                    while n >= allowed.load(Relaxed) {
                        sleep(Duration::from_millis(2)).await;
                    }
                    let body = json!({ "id": format!("{prefix}{n}") });
                    let answer = client.post(&url).bearer_auth(&credential).json(&body).send().await?;
                    ensure!(answer.status().as_u16() == 201, "a registration was answered {}", answer.status());
                    made.fetch_add(1, Relaxed);
                }
            });
        }
        let mut ticks = interval(Duration::from_millis(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let step = (u64::from(self.changes_per_second) / 100).max(1);
        while allowed.load(Relaxed) < total {
            ticks.tick().await;
            allowed.fetch_add(step, Relaxed);
        }
        while let Some(done) = writers.join_next().await {
            done??;
        }
        Ok(made.load(Relaxed))
    }
}

async fn read(host: &str, credential: &str, shared: &Shared, timed: bool) -> Result<Seen> {
    let mut stream = TcpStream::connect(host).await?;
    let head = format!("GET /api/admin/feed HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {credential}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (mut seen, mut text, mut greeted) = (Seen::default(), String::new(), false);
    let mut buffer = vec![0; 64 * 1024];
    let ours = format!("\"id\":\"{}", shared.prefix);
    while seen.events < shared.wanted.load(Relaxed) {
        let Ok(count) = timeout(Duration::from_millis(500), stream.read(&mut buffer)).await else {
            if shared.over.load(Relaxed) {
                break;
            }
            continue;
        };
        let count = count?;
        ensure!(count > 0, "a stream ended early");
        text.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
        let Some(end) = text.rfind("\n\n") else { continue };
        let whole: String = text.drain(..end + 2).collect();
        if !greeted && whole.contains("event: hello") {
            greeted = true;
            shared.ready.fetch_add(1, Relaxed);
        }
        ensure!(!whole.contains("event: dropped"), "a reader was dropped");
        let mut newest = None;
        for frame in whole.split("\n\n") {
            if !frame.contains(&ours) || !frame.contains("event: service.registered") {
                continue;
            }
            let seq =
                frame.find("id: ").and_then(|at| frame.get(at + 4..)?.split(['-', '\n']).nth(1)?.parse::<u64>().ok());
            let seq = seq.context("an event without an id")?;
            seen.disorder += u64::from(seq <= seen.last);
            seen.last = seq;
            seen.seqs = seen.seqs.wrapping_add(seq);
            seen.events += 1;
            newest = Some(frame);
        }
        let at = newest.filter(|_| timed).and_then(|frame| frame.split("\"at\":\"").nth(1)?.split('"').next());
        if let Some(at) = at.and_then(|at| at.parse::<jiff::Timestamp>().ok()) {
            let lag = SystemClock.now().wall.since(Timestamp(at.as_millisecond()));
            shared.lag.lock().unwrap_or_else(PoisonError::into_inner).add(lag);
        }
    }
    Ok(seen)
}

fn raise_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if limit.current.is_some_and(|current| current < most) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })?;
    }
    ensure!(most >= wanted, "{wanted} files are needed, and only {most} are allowed: raise the limit (ulimit -n)");
    Ok(())
}
