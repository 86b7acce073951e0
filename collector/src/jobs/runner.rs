//! The task: looks at the clocks once a second, begins runs, and is there when they end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use rollcall_common::time::{BootTime, Timestamp};
use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Ask, JobName, Jobs, NotStarted, Order, Post, RECENT,
    doubt::{ClockWatch, Hold},
    due::{Agenda, Word, seed},
    record::{BeginRun, ClockStepped, EndRun, PlanJob},
    run::{Ending, Run},
    work::{self, Term},
};
use crate::{
    config::duration,
    metrics::{JobItemLabel, JobLabel, JobRunLabel},
    registry::{Refusal, services::By},
    store::rows::{JobRow, Outcome, RowId, RunCause, RunRow},
};

/// How often the clocks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after it failed to be written down something is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How long what a run has to say at its end may take, where the store does not answer.
const SAY_WITHIN: Duration = Duration::from_secs(10);

/// The task before it runs.
#[derive(Debug)]
pub struct Runner {
    jobs: Jobs,
    orders: mpsc::Receiver<Order>,
    agendas: BTreeMap<JobName, Agenda>,
    watch: ClockWatch,
    /// A step of the wall clock that is not written down yet.
    step: Option<i64>,
    /// Ends of runs that are not written down yet.
    unsaid: BTreeMap<JobName, RunRow>,
    write_at: BootTime,
    runs: JoinSet<(JobName, Option<RunRow>)>,
    /// Whose task is which, so that one that panics ends its own run alone.
    tasks: HashMap<Id, Arc<Run>>,
}

impl Runner {
    pub(super) fn new(jobs: Jobs, orders: mpsc::Receiver<Order>) -> Self {
        let now = jobs.0.registry.now();
        Self {
            jobs,
            orders,
            agendas: BTreeMap::new(),
            watch: ClockWatch::new(now),
            step: None,
            unsaid: BTreeMap::new(),
            write_at: BootTime(0),
            runs: JoinSet::new(),
            tasks: HashMap::new(),
        }
    }

    /// Runs until stopped; runs under way end with their slice.
    pub async fn run(mut self, stop: CancellationToken) {
        self.begin().await;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.runs.join_next_with_id() => self.settle(done),
                Some(order) = self.orders.recv() => {
                    let Order { name, ask, reply } = order;
                    // Whoever asked and went away has started it nevertheless.
                    let _ = reply.send(self.launch(name, RunCause::Manual, ask, &stop));
                }
                _ = looks.tick() => self.look(&stop).await,
            }
        }
        self.orders.close();
        while let Some(done) = self.runs.join_next_with_id().await {
            self.settle(done);
        }
        self.write_down().await;
    }

    /// What a stop or a kill left behind.
    async fn begin(&mut self) {
        let registry = &self.jobs.0.registry;
        let now = registry.now();
        if let Some(mark) = registry.mark_before() {
            self.step = ClockWatch::across(mark, registry.whoami().boot_id, now);
        }
        let collector = registry.whoami().collector.to_string();
        let grace = self.jobs.settings().upkeep.grace;
        for name in JobName::ALL {
            let row = self.jobs.row(name);
            if let Some(run) = row.as_ref().and_then(|row| row.last.as_ref()).filter(|run| run.outcome.is_none()) {
                let error = Some("the collector ended while it ran".into());
                let cut = RunRow { outcome: Some(Outcome::Interrupted), error, ..run.clone() };
                self.unsaid.insert(name, cut);
            }
            let settings = self.jobs.settings().of(name);
            let agenda = Agenda::begin(settings, row.as_deref(), seed(&collector, name.as_str()), now.wall, grace);
            self.agendas.insert(name, agenda);
        }
        self.write_down().await;
        self.plan().await;
    }

    async fn look(&mut self, stop: &CancellationToken) {
        let now = self.jobs.0.registry.now();
        if let Some(step) = self.watch.look(now) {
            tracing::warn!(step_ms = step, "the wall clock stepped");
            self.step = Some(step);
        }
        if (self.step.is_some() || !self.unsaid.is_empty()) && now.boot >= self.write_at {
            self.write_down().await;
        }
        // Nothing begins by itself before a step is on record: it might be one that holds it.
        if self.step.is_some() {
            return;
        }
        for name in JobName::ALL {
            if let Some(cause) = self.due(name, now.wall) {
                let ask = Ask { dry_run: false, purge: None, by: By::system() };
                if let Err(error) = self.launch(name, cause, ask, stop) {
                    tracing::warn!(job = %name, %error, "a job did not begin");
                }
            }
        }
        self.plan().await;
    }

    fn due(&mut self, name: JobName, now: Timestamp) -> Option<RunCause> {
        let row = self.jobs.row(name);
        let word = Word {
            settings: self.jobs.settings().of(name),
            enabled: self.jobs.is_enabled(name, row.as_deref()),
            paused_until: row.as_ref().and_then(|row| row.paused_until),
            running: self.is_running(name),
        };
        self.agendas.get_mut(&name)?.look(word, now)
    }

    /// Shows when jobs are due, and writes it down where a restart would not find it out by itself.
    async fn plan(&mut self) {
        for (name, agenda) in &self.agendas {
            let next_at = agenda.next_at();
            if let Some(post) = self.jobs.board().get_mut(name) {
                post.next_at = next_at;
            }
            let schedule = self.jobs.settings().of(*name).schedule.as_str();
            let row = self.jobs.row(*name);
            let known = |row: &JobRow| row.schedule == schedule && row.next_at == next_at;
            if row.as_deref().is_some_and(known) || row.is_none() && next_at.is_none() {
                continue;
            }
            let request = PlanJob { name: *name, schedule: schedule.into(), next_at };
            if self.jobs.0.registry.ask(request).await.is_err() {
                // The next look tries again; a store that is away is told of elsewhere.
                return;
            }
        }
    }

    fn is_running(&self, name: JobName) -> bool {
        let running = |post: &Post| post.runs.first().is_some_and(|run| run.is_running());
        self.jobs.board().get(&name).is_some_and(running)
    }

    fn launch(
        &mut self,
        name: JobName,
        cause: RunCause,
        ask: Ask,
        stop: &CancellationToken,
    ) -> Result<Arc<Run>, NotStarted> {
        if self.is_running(name) {
            return Err(NotStarted::Running(name));
        }
        // The one spot where a runner that was deposed is refused: see `work::Term`.
        let term = Term::current();
        let now = self.jobs.0.registry.now().wall;
        let id = RowId::new(now).map_err(|error| NotStarted::Randomness(error.to_string()))?;
        let row = RunRow {
            id,
            cause,
            by: ask.by.actor.clone(),
            dry_run: ask.dry_run,
            started_at: now,
            ended_at: None,
            outcome: None,
            counts: BTreeMap::new(),
            error: None,
            held_by: None,
        };
        let run = Arc::new(Run::new(name, row));
        if let Some(post) = self.jobs.board().get_mut(&name) {
            post.runs.insert(0, Arc::clone(&run));
            post.runs.truncate(RECENT);
        }
        let next_at = self.agendas.get(&name).and_then(Agenda::next_at);
        let context = work::Context { jobs: self.jobs.clone(), run: Arc::clone(&run), ask, stop: stop.clone(), term };
        self.begin_task(&run, perform(context, next_at));
        Ok(run)
    }

    fn begin_task(&mut self, run: &Arc<Run>, work: impl Future<Output = (JobName, Option<RunRow>)> + Send + 'static) {
        let task = self.runs.spawn(work);
        self.tasks.insert(task.id(), Arc::clone(run));
    }

    fn settle(&mut self, done: Result<(Id, (JobName, Option<RunRow>)), JoinError>) {
        match done {
            Ok((task, (name, unsaid))) => {
                self.tasks.remove(&task);
                if let Some(row) = unsaid {
                    self.unsaid.insert(name, row);
                }
                self.try_again(name);
            }
            Err(error) => {
                let Some(run) = self.tasks.remove(&error.id()) else { return };
                tracing::error!(job = %run.name(), %error, "a job panicked");
                let now = self.jobs.0.registry.now().wall;
                let row = run.ends(Ending::Failed("it panicked; the log has more".into()), now);
                if !row.dry_run {
                    self.unsaid.insert(run.name(), row);
                }
                // Whoever waits for it waits no longer.
                run.is_over();
            }
        }
    }

    /// A turn that blindness took away is made up for when it has passed; a clock waits for its operator.
    fn try_again(&mut self, name: JobName) {
        let last = self.jobs.board().get(&name).and_then(|post| post.runs.first().map(|run| run.record()));
        let held = last.is_some_and(|run| run.outcome == Some(Outcome::Held) && run.cause != RunCause::Manual);
        if held
            && let Some(Hold::Blind { until, .. }) = self.jobs.hold(name)
            && let Some(agenda) = self.agendas.get_mut(&name)
        {
            agenda.again_at(until);
        }
    }

    /// Writes down what could not be written when it happened.
    async fn write_down(&mut self) {
        let registry = self.jobs.0.registry.clone();
        let mut well = true;
        if let Some(step_ms) = self.step {
            match registry.ask(ClockStepped { step_ms }).await {
                Ok(()) => self.step = None,
                Err(_) => well = false,
            }
        }
        for (name, run) in std::mem::take(&mut self.unsaid) {
            let schedule = self.jobs.settings().of(name).schedule.as_str().to_owned();
            if !well || registry.ask(EndRun { name, schedule, run: run.clone() }).await.is_err() {
                well = false;
                self.unsaid.insert(name, run);
            }
        }
        if !well {
            self.write_at = registry.now().boot.after(WRITE_AGAIN);
        }
    }
}

/// One run from its begin to its end. Answers what could not be written down.
async fn perform(context: work::Context, next_at: Option<Timestamp>) -> (JobName, Option<RunRow>) {
    let (jobs, run) = (context.jobs.clone(), Arc::clone(&context.run));
    let (name, registry) = (run.name(), jobs.0.registry.clone());
    let settings = jobs.settings().of(name);
    let schedule = settings.schedule.as_str().to_owned();
    let dry = context.ask.dry_run;
    let started = run.record();
    let began = registry.now().boot;
    let begun = if dry {
        Ok(())
    } else {
        let by = (started.cause == RunCause::Manual).then(|| context.ask.by.clone());
        let request = BeginRun { name, schedule: schedule.clone(), next_at, run: started, by };
        registry.ask(request).await.map_err(|refusal| Ending::Failed(why(&refusal)))
    };
    let ending = match begun {
        // What cannot be recorded does not run.
        Err(ending) => ending,
        Ok(()) => match jobs.hold(name).filter(|_| !dry) {
            Some(hold) => Ending::Held(hold.to_string()),
            None => match tokio::time::timeout(settings.timeout, work::work(&context)).await {
                Ok(ending) => ending,
                Err(_) => Ending::TimedOut(format!("it took longer than {}", duration::print(settings.timeout))),
            },
        },
    };
    let now = registry.now();
    let row = run.ends(ending, now.wall);
    let took = now.boot.since(began);
    tell(&jobs, name, &row, took);
    let unsaid = if dry {
        None
    } else {
        let said = registry.ask(EndRun { name, schedule, run: row.clone() });
        match tokio::time::timeout(SAY_WITHIN, said).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some(row),
        }
    };
    run.is_over();
    (name, unsaid)
}

/// A refusal for the record: paths and addresses of stores are for the log.
pub(super) fn why(refusal: &Refusal) -> String {
    if let Refusal::Store(error) = refusal {
        tracing::warn!(%error, "a job's change was not made");
        return "the registry store takes no changes; the next run goes on".into();
    }
    refusal.to_string()
}

fn tell(jobs: &Jobs, name: JobName, row: &RunRow, took: Duration) {
    let outcome = row.outcome.unwrap_or(Outcome::Failed);
    let (job, took_ms) = (name.as_str(), took.as_millis());
    match outcome {
        Outcome::Failed | Outcome::TimedOut | Outcome::Interrupted => {
            tracing::warn!(job, took_ms, error = ?row.error, counts = ?row.counts, "a job failed");
        }
        Outcome::Held => tracing::warn!(job, held_by = ?row.held_by, "a job holds still"),
        Outcome::Succeeded | Outcome::Stopped => tracing::info!(job, took_ms, counts = ?row.counts, "a job ended"),
    }
    if row.dry_run {
        return;
    }
    let metrics = jobs.0.registry.metrics();
    metrics.job_runs.get_or_create(&JobRunLabel { job, outcome: outcome.as_str() }).inc();
    metrics.job_seconds.get_or_create(&JobLabel { job }).observe(took.as_secs_f64());
    for (word, count) in &row.counts {
        let Some(outcome) = work::ITEM_WORDS.iter().find(|known| *known == word) else { continue };
        metrics.job_items.get_or_create(&JobItemLabel { job, outcome }).inc_by(*count);
    }
    if outcome == Outcome::Succeeded {
        let at = row.ended_at.unwrap_or(row.started_at);
        metrics.job_success.get_or_create(&JobLabel { job }).set(at.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{id::PaceNo, lease::Pace, time::ManualClock};

    use super::*;
    use crate::{
        http::fixture::job_settings,
        registry::{Registry, roster::Roster},
        store::{flaky::Flaky, sqlite::SqliteStore},
    };

    #[tokio::test]
    async fn a_panic_ends_one_run_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(SqliteStore::open(&dir.path().join("registry.db")).await.unwrap());
        let pace = Pace { no: PaceNo(1), interval_ms: 1_000, ttl_ms: 3_000 };
        let clock = Arc::new(ManualClock::new(Timestamp(1_795_229_160_000)));
        let registry = Registry::still(Roster::default(), clock, pace);
        let settings = job_settings();
        let (_jobs, mut runner) = Jobs::new(registry, Arc::new(Flaky::new(inner)), settings);
        let run = |name: JobName| {
            let row = RunRow {
                id: RowId::numbered(1),
                cause: RunCause::Manual,
                by: "system".into(),
                dry_run: false,
                started_at: Timestamp(0),
                ended_at: None,
                outcome: None,
                counts: BTreeMap::new(),
                error: None,
                held_by: None,
            };
            Arc::new(Run::new(name, row))
        };
        let (broken, other) = (run(JobName::Archive), run(JobName::Purge));
        for run in [&broken, &other] {
            runner.jobs.board().get_mut(&run.name()).unwrap().runs.insert(0, Arc::clone(run));
        }
        runner.begin_task(&other, std::future::pending());
        runner.begin_task(&broken, async { panic!("on cue") });
        let done = runner.runs.join_next_with_id().await.unwrap();
        runner.settle(done);
        assert_eq!((broken.is_running(), broken.record().outcome), (false, Some(Outcome::Failed)));
        assert_eq!((other.is_running(), other.record().outcome), (true, None));
        assert_eq!(runner.unsaid.keys().collect::<Vec<_>>(), [&JobName::Archive]);
    }
}
