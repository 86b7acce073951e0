//! Figures of the SQLite registry on this machine: grouped changes, single changes, flush, load.
//!
//! `cargo run --release --example store-bench --features test-util [-- FOLDER]`; the folder should be on the
//! disk that is to be measured.

#![expect(clippy::print_stdout, reason = "a program that prints figures")]
#![expect(clippy::indexing_slicing, reason = "quantiles of a list that was just filled")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rollcall_collector::store::{
    RegistryStore,
    rows::{Change, Write},
    sqlite::SqliteStore,
    suite::samples::{NOON, event, identity, interval, key, put, service, token, token_id},
};
use rollcall_common::{id::Seq, identity::Pin, lease::Presence, lifecycle::Status, time::Timestamp};

const FLEET: usize = 100_000;
const GROUP: usize = 1_000;

/// A moment on the wall, and what this process has computed until then.
struct Start {
    wall: Instant,
    cpu: Duration,
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn start() -> Start {
    Start { wall: Instant::now(), cpu: cpu() }
}

fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

impl Start {
    fn told(&self, what: &str, rows: usize) {
        let (took, spent) = (self.wall.elapsed(), cpu().saturating_sub(self.cpu));
        let each = spent / u32::try_from(rows).unwrap_or(u32::MAX);
        println!("{what:<58} {:>9.0}/s {each:>12.1?} CPU each", rows as f64 / took.as_secs_f64());
    }
}

fn name(n: usize) -> String {
    format!("agent/edge-{n:06}")
}

async fn grouped(store: &SqliteStore, what: &str, changes: Vec<Change>, group: usize) -> anyhow::Result<Vec<Seq>> {
    let start = start();
    let mut seqs = Vec::with_capacity(changes.len());
    for batch in changes.chunks(group) {
        for applied in store.commit(batch, NOON).await? {
            seqs.push(applied?.rows.into_iter().flatten().next_back().context("no seq")?);
        }
    }
    start.told(&format!("{what}, {group} in a commit"), changes.len());
    Ok(seqs)
}

fn registered(n: usize) -> Change {
    Change {
        writes: vec![Write::InsertService(Box::new(service(&name(n))))],
        audit: vec![event("service.registered", &name(n))],
    }
}

fn enrolled(n: usize) -> Change {
    let id = u64::try_from(n).unwrap_or(0);
    let mut pin = [0; 32];
    pin[..8].copy_from_slice(&id.to_be_bytes());
    let mut bound = identity(&name(n), 1, 1);
    bound.current.key = Pin(pin);
    bound.current.serial.0[8..].copy_from_slice(&id.to_be_bytes());
    let from = "192.0.2.7:40000".into();
    Change {
        writes: vec![
            Write::UseToken { token: token_id(1), key: Pin(pin), service: key(&name(n)), at: NOON, from },
            Write::InsertService(Box::new(service(&name(n)))),
            put(bound, None),
        ],
        audit: vec![event("service.registered", &name(n))],
    }
}

fn moved(n: usize, expect: Seq, to: Status, presence: Presence, after: i64) -> Change {
    let at = Timestamp(NOON.0 + after);
    Change {
        writes: vec![
            Write::SetStatus { service: key(&name(n)), expect, to, at, seen: Some(at), archived: false },
            Write::BeginInterval(Box::new(interval(&name(n), presence, after))),
        ],
        audit: vec![event("service.activated", &name(n))],
    }
}

/// Spreads numbers over the fleet, so that neighbours in time are strangers on disk.
fn scattered(n: usize) -> usize {
    n.wrapping_mul(7_919) % FLEET
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("rollcall-store-bench-{}.db", std::process::id()));
    let store = SqliteStore::open(&path).await?;
    let done = measure(&store).await;
    store.close().await;
    println!("{:<58} {:>9} MiB", "file", std::fs::metadata(&path)?.len() >> 20);
    std::fs::remove_file(&path)?;
    done
}

async fn measure(store: &SqliteStore) -> anyhow::Result<()> {
    let one = Change { writes: vec![Write::InsertToken(Box::new(token(1, u32::MAX)))], audit: Vec::new() };
    ensure!(store.commit(&[one], NOON).await?.iter().all(Result::is_ok));

    let rest = FLEET - 20_000;
    let mut seqs = grouped(store, "register a service, with audit", (0..rest).map(registered).collect(), GROUP).await?;
    let enroll = |from: usize| (from..from + 10_000).map(enrolled).collect();
    seqs.extend(vec![Seq(0); 20_000]);
    grouped(store, "enroll (token, service, identity, audit)", enroll(rest), GROUP).await?;
    grouped(store, "enroll (token, service, identity, audit)", enroll(rest + 10_000), 100).await?;
    for row in store.load().await?.services {
        let n: usize = row.key.id.as_str().trim_start_matches("edge-").parse()?;
        seqs[n] = row.seq;
    }

    let mut after = 0;
    for group in [10_000, GROUP, 100] {
        let who: Vec<_> = (0..10_000).map(scattered).collect();
        after += 10_000;
        let changes = who.iter().map(|n| moved(*n, seqs[*n], Status::Active, Presence::Alive, after)).collect();
        let new = grouped(store, "transition (status, interval, audit)", changes, group).await?;
        for (n, seq) in who.into_iter().zip(new) {
            seqs[n] = seq;
        }
    }

    let mut took = Vec::new();
    for n in (0..300).map(scattered) {
        let change = moved(n, seqs[n], Status::Inactive, Presence::Lost, 90_000);
        let start = start();
        ensure!(store.commit(&[change], NOON).await?.iter().all(Result::is_ok));
        took.push(start.wall.elapsed());
    }
    took.sort();
    println!("{:<58} p50 {:?}, p99 {:?}", "one durable transition", took[150], took[297]);

    for round in 1..3 {
        let seen: Vec<_> =
            (0..FLEET).map(|n| (key(&name(scattered(n))), Timestamp(NOON.0 + 100_000 * round))).collect();
        let start = start();
        store.flush_last_seen(&seen).await?;
        start.told("flush last_seen of the whole fleet", FLEET);
    }
    let start = start();
    let loaded = store.load().await?;
    start.told("load (services, 20,000 identities, 10,000 intervals)", loaded.services.len());
    Ok(())
}
