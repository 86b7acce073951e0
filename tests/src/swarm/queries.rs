//! Operators and programs that ask: each kind of query by many callers at once, and how long it took.
//!
//! It asks for what `rollcall-swarm tree` registers, and knows nothing of how the collector finds it. A caller
//! thinks between two questions, now longer and now shorter: callers that began together would otherwise go on asking
//! together, and measure their own queue, as a closed loop without a pause does. Judges nothing but that every
//! answer was one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::time::{Clock as _, SystemClock};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    api::Api,
    gauge::{Machine, Pid},
    report::Figures,
};

/// Answers that are kept of each kind of query; more are counted only.
const KEPT: usize = 200_000;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Callers at once.
    pub clients: u32,
    /// What a caller thinks between an answer and the next question, on average: half of it to one and a half times.
    pub think: Duration,
    /// How long each kind of query is asked.
    pub each: Duration,
    /// The collector, to account its CPU time.
    pub collector: Option<Pid>,
}

/// What one kind of query took.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Which.
    pub query: &'static str,
    /// What was promised, p99.
    pub budget: &'static str,
    /// Answers.
    pub answers: u64,
    /// Microseconds: p50, p99 and the longest, until the whole body was there.
    pub p50_us: u32,
    /// As above.
    pub p99_us: u32,
    /// As above.
    pub max_us: u32,
    /// Microseconds of the collector's CPU time for an answer.
    pub cpu_us: Option<u64>,
    /// The same of the callers, who live on the same host.
    pub own_cpu_us: u64,
    /// Bytes of an answer, on average.
    pub bytes: u64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Services that are registered.
    pub services: u64,
    /// Callers at once.
    pub clients: u32,
    /// Each kind of query.
    pub taken: Vec<Taken>,
    /// What should not have been.
    pub failures: Vec<String>,
}

/// Name, budget, and the path of the nth question.
type Kind = (&'static str, &'static str, fn(u64) -> String);

const KINDS: [Kind; 9] = [
    ("known", "1 ms", |n| format!("services/agents/agent-{:05}/known", n * 7 % 10_000)),
    ("detail", "20 ms", |n| format!("services/agents/agent-{:05}", n * 13 % 10_000)),
    ("stats", "20 ms", |_| "services/stats".into()),
    ("first page of a site's checkers", "20 ms", |n| {
        format!("services/checkers?status=pending&label=site:site-{:02}", n % 50)
    }),
    ("first page of a rack in a team", "20 ms", |n| format!("services?label=rack:r{:03}&label=team:edge", n * 3 % 200)),
    ("agents of a poller", "20 ms", |n| format!("services/pollers/poller-{:04}/agents", n * 11 % 500)),
    ("free text that few hold", "20 ms", |n| format!("services?q=10.0.{}.{}", n % 39, n % 250)),
    ("presence that nobody has", "20 ms", |_| "services?presence=lost".into()),
    ("first page of all", "20 ms", |_| "services".into()),
];

/// Asks each kind of query in turn.
///
/// # Errors
/// When the API does not answer at all.
pub async fn run(api: &Api, plan: &Plan) -> Result<Report> {
    let stats = api.get("services/stats").await?;
    let services = stats.pointer("/total/total").or_else(|| stats.get("total")).and_then(Value::as_u64).unwrap_or(0);
    let (mut taken, mut failures) = (Vec::new(), Vec::new());
    for kind in KINDS {
        let (one, failed) = measure(api, plan, kind.0, kind.1, &Arc::new(kind.2)).await?;
        failures.extend(failed);
        taken.push(one);
    }
    let deep = deep_page(api).await?;
    let path: Arc<dyn Fn(u64) -> String + Send + Sync> = Arc::new(move |_| deep.clone());
    let (one, failed) = measure(api, plan, "a page behind nine tenths of all", "as the first", &path).await?;
    failures.extend(failed);
    taken.push(one);
    Ok(Report { machine: Machine::now(), services, clients: plan.clients, taken, failures })
}

/// A page that is reached by following the cursors of nine tenths of all.
async fn deep_page(api: &Api) -> Result<String> {
    let mut cursors = Vec::new();
    let mut path = "services?limit=1000".to_owned();
    while let Some(next) = api.get(&path).await?.get("next").and_then(Value::as_str) {
        path = format!("services?limit=1000&cursor={next}");
        cursors.push(next.to_owned());
    }
    let cursor = cursors.get(cursors.len() * 9 / 10);
    Ok(cursor.map_or_else(|| "services".into(), |cursor| format!("services?cursor={cursor}")))
}

async fn measure<F>(
    api: &Api,
    plan: &Plan,
    query: &'static str,
    budget: &'static str,
    path: &Arc<F>,
) -> Result<(Taken, Option<String>)>
where
    F: Fn(u64) -> String + Send + Sync + ?Sized + 'static,
{
    let numbers = Arc::new(AtomicU64::new(0));
    let (before, own) = (plan.collector.map(Pid::cpu).transpose()?, Pid::own().cpu()?);
    let mut callers = JoinSet::new();
    for _ in 0..plan.clients {
        let (api, path, numbers, think, each) =
            (api.clone(), Arc::clone(path), Arc::clone(&numbers), plan.think, plan.each);
        callers.spawn(async move {
            let end = SystemClock.now().boot.after(each);
            let (mut times, mut bytes, mut wrong) = (Vec::new(), 0_u64, None);
            tokio::time::sleep(think.mul_f64(fastrand::f64())).await;
            while SystemClock.now().boot < end {
                let asked = begin();
                match api.size(&path(numbers.fetch_add(1, Relaxed))).await {
                    Ok(size) => bytes += size,
                    Err(error) => wrong = Some(format!("{error:#}")),
                }
                times.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                if !think.is_zero() {
                    tokio::time::sleep(think / 2 + think.mul_f64(fastrand::f64())).await;
                }
            }
            (times, bytes, wrong)
        });
    }
    let (mut times, mut bytes, mut wrong) = (Vec::new(), 0, None);
    while let Some(done) = callers.join_next().await {
        let (some, size, failed) = done.context("a caller ended early")?;
        times.extend(some.into_iter().take(KEPT / 16));
        bytes += size;
        wrong = wrong.or(failed);
    }
    let (cpu, own) = (plan.collector.map(Pid::cpu).transpose()?, Pid::own().cpu()?.saturating_sub(own));
    ensure!(!times.is_empty(), "{query}: nobody asked");
    times.sort_unstable();
    let answers = numbers.load(Relaxed).max(1);
    let at = |share: usize| times.get((times.len() - 1) * share / 100).copied().unwrap_or_default();
    let taken = Taken {
        query,
        budget,
        answers,
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
        cpu_us: cpu.zip(before).map(|(cpu, before)| micros(cpu.saturating_sub(before)) / answers),
        own_cpu_us: micros(own) / answers,
        bytes: bytes / answers,
    };
    Ok((taken, wrong.map(|why| format!("{query}: {why}"))))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The collector's clock counts milliseconds; here tenths of one matter.
#[expect(clippy::disallowed_methods, reason = "a stopwatch for answers that take less than the clock's unit")]
fn begin() -> std::time::Instant {
    std::time::Instant::now()
}

impl Figures for Report {
    fn rows(&self) -> Vec<[String; 3]> {
        let ms = |us: u32| format!("{:.1}", f64::from(us) / 1_000.0);
        let shown = |taken: &Taken| {
            let cpu = taken.cpu_us.map_or_else(|| "–".into(), |us| us.to_string());
            let Taken { p50_us, p99_us, max_us, own_cpu_us, bytes, answers, .. } = taken;
            format!(
                "{} / {} / {} ms, {cpu} us CPU ({own_cpu_us} of the callers), {bytes} B, {answers} answers",
                ms(*p50_us),
                ms(*p99_us),
                ms(*max_us)
            )
        };
        self.taken.iter().map(|taken| [taken.query.to_owned(), shown(taken), taken.budget.to_owned()]).collect()
    }

    fn title(&self) -> String {
        format!(
            "{} services, {} callers; p50 / p99 / max until the whole answer was there; load {}",
            self.services, self.clients, self.machine.load
        )
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}
