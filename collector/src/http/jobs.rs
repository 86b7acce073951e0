//! Jobs over HTTP: look on, start, switch, pause, confirm; and the purge that an operator asks for.
//!
//! It shows what the jobs say of themselves and passes orders on. A run is not waited for longer than an answer may
//! take: whoever asks gets its id and looks again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rollcall_common::{
    id::{Kind, Seq},
    lifecycle::Status,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json, Words},
    maintenance::moment,
    openapi::words,
    position::Tagged,
    routes::{Operation, Routes},
    view::Time,
};
use crate::{
    jobs::{Ask, JobName, JobSight, NotStarted, PurgeAsk, Report, Run},
    registry::{
        retention::{Departures, Kept, Leaving},
        sweep::Target,
    },
    store::rows::{JobRow, Outcome, RowId, RunRow},
};

const ROOT: &str = "/api/admin/jobs";
/// How long an answer waits for a short run.
const WAIT: Duration = Duration::from_secs(5);
const TAG: &str = "The tag follows what operators set. Runs move no tag: ask without `If-None-Match` to see them.";
/// Lines of a list of what is kept back.
const MAX_KEPT: usize = 1_000;

/// Nothing, or an empty object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NothingBody {}

/// How a job is to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RunBody {
    /// Only look: what would happen is listed, and nothing is changed.
    #[serde(default)]
    dry_run: bool,
}

/// How a job is to be set; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetBody {
    /// Whether it runs by itself; `null` leaves it to the configuration.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    enabled: Option<Option<bool>>,
    /// Until when it does not run by itself; `null` ends the pause.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<words::Time>)]
    paused_until: Option<Option<String>>,
}

/// Tells a `null` from nothing.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// Whom to purge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PurgeBody {
    /// Days since the last change of status, in place of the configured retention; revoked services stay at least
    /// as long as their certificates could live.
    #[schema(minimum = 0, maximum = 36500)]
    retention_days: Option<u32>,
    /// Only services that stand there: `pending`, `inactive`, `revoked`, `deleted`; without it the last three.
    #[schema(value_type = Option<Vec<words::Status>>)]
    statuses: Option<Vec<Status>>,
    /// Only look; so it is unless `false` is said.
    #[serde(default = "yes")]
    #[schema(default = true)]
    dry_run: bool,
    /// Nothing happens where another number of services would go.
    expect: Option<usize>,
}

fn yes() -> bool {
    true
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
struct JobView {
    /// Its name.
    name: &'static str,
    /// What it does.
    about: &'static str,
    /// When it runs: minute hour day month weekday and a time zone.
    schedule: String,
    /// Whether it runs by itself.
    enabled: bool,
    /// Whether an operator switched it on or off; `null` = as configured.
    switched: Option<bool>,
    /// Until when it is paused.
    paused_until: Option<Time>,
    /// When it is due next.
    next_at: Option<Time>,
    /// How much later than its schedule it may begin, in seconds.
    jitter_secs: u64,
    /// How many things one run touches at most.
    cap: usize,
    /// How long a run may take, in seconds.
    timeout_secs: u64,
    /// What holds it back now.
    held_by: Option<HoldView>,
    /// Its last run that was not a dry one.
    last_run: Option<RunView>,
    /// When it last ended well.
    last_success: Option<Time>,
    /// Runs so far, dry ones left out.
    runs: u64,
    /// Runs so far that failed.
    failures: u64,
    /// Whether it runs at this moment.
    running: bool,
}

/// What holds a job back.
#[derive(Debug, Serialize, ToSchema)]
struct HoldView {
    /// In one word: `clock_step` or `blind`.
    cause: &'static str,
    /// In words.
    detail: String,
    /// What ends it: the path to post to.
    confirm: &'static str,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
struct RunView {
    /// Its id.
    id: String,
    /// Why it ran: `schedule`, `missed` or `manual`.
    cause: &'static str,
    /// Who asked for it.
    by: String,
    /// Whether it only looked.
    dry_run: bool,
    /// When it began.
    started_at: Time,
    /// When it ended.
    ended_at: Option<Time>,
    /// How it ended: `succeeded`, `failed`, `held`, `timed_out`, `stopped` or `interrupted`; `null` while it runs.
    outcome: Option<&'static str>,
    /// What it did, counted.
    #[schema(value_type = words::Counts)]
    counts: BTreeMap<String, u64>,
    /// Why it failed.
    error: Option<String>,
    /// What held it back.
    held_by: Option<String>,
    /// How far it is, of those in memory.
    progress: Option<ProgressView>,
}

/// How far a run is.
#[derive(Debug, Serialize, ToSchema)]
struct ProgressView {
    /// Things that it is about.
    total: usize,
    /// Things that are done.
    done: usize,
    /// The most that it changed at once.
    largest_slice: usize,
}

/// All jobs.
#[derive(Debug, Serialize, ToSchema)]
struct JobsView {
    /// Each of them.
    items: Vec<JobView>,
    /// The registry's seq.
    seq: u64,
}

/// A job with its last runs.
#[derive(Debug, Serialize, ToSchema)]
struct JobDetail {
    /// As in the list.
    #[serde(flatten)]
    job: JobView,
    /// Its last runs since this collector started, the newest first.
    recent: Vec<RunView>,
}

/// A run with what it lists.
#[derive(Debug, Serialize, ToSchema)]
struct RunDetail {
    /// The job.
    job: &'static str,
    /// The run.
    #[serde(flatten)]
    run: RunView,
    /// Whom a dry run would change or remove, or whom a purge went for.
    going: Vec<LeavingView>,
    /// Who is kept back although its time is over; at most 1,000 of them.
    kept: Vec<KeptView>,
}

/// A service that would go, or be changed.
#[derive(Debug, Serialize, ToSchema)]
struct LeavingView {
    /// What it is.
    #[schema(value_type = words::Kind)]
    kind: Kind,
    /// Its id.
    id: String,
    /// Where it stands.
    #[schema(value_type = Option<words::Status>)]
    status: Option<Status>,
    /// Since when.
    since: Option<Time>,
    /// Why.
    #[schema(value_type = words::Anything)]
    why: Value,
}

/// A service that is kept back.
#[derive(Debug, Serialize, ToSchema)]
struct KeptView {
    /// What it is.
    #[schema(value_type = words::Kind)]
    kind: Kind,
    /// Its id.
    id: String,
    /// Where it stands.
    #[schema(value_type = words::Status)]
    status: Status,
    /// Since when.
    since: Time,
    /// Why it stays.
    why: &'static str,
}

/// What a purge would do, or did.
#[derive(Debug, Serialize, ToSchema)]
struct PurgeView {
    /// Whether it only looked.
    dry_run: bool,
    /// How many services would go, or were meant to.
    count: usize,
    /// How many went.
    removed: u64,
    /// How many more would go if a run had no cap.
    over_cap: usize,
    /// Those that would go, leaves first.
    going: Vec<LeavingView>,
    /// How many are kept back although their time is over.
    kept_count: usize,
    /// The first of them.
    kept: Vec<KeptView>,
    /// The run that does it; none where it only looked.
    run: Option<RunView>,
    /// What would hold a run back now.
    held_by: Option<HoldView>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    use Permission as P;
    let one = format!("{ROOT}/{{name}}");
    let known =
        |operation: Operation| operation.path::<words::JobName>("name", "The job").gives(&[ProblemCode::UnknownJob]);
    routes
        .tag("jobs", "What happens by itself")
        .add(
            Operation::get(ROOT, P::Read, "list_jobs")
                .about("Every job: when it runs, what holds it back, how it went the last time")
                .answer::<JobsView>(200, "The jobs"),
            list,
        )
        .add(
            known(Operation::get(&one, P::Read, "get_job"))
                .about("One job, with its last runs")
                .more(TAG)
                .tagged()
                .answer::<JobDetail>(200, "The job"),
            show,
        )
        .add(
            known(Operation::put(&one, P::Administer, "set_job"))
                .about("Switches a job on or off, or pauses it")
                .body::<SetBody>()
                .more(TAG)
                .matches()
                .answer::<JobDetail>(200, "As it is now"),
            set,
        )
        .add(
            known(Operation::post(&format!("{one}/run"), P::Administer, "run_job"))
                .about("Runs a job now")
                .more("A run that is over within 5 s is answered with 200, a longer one with 202: look at it by its id.")
                .body::<RunBody>()
                .answer::<RunDetail>(200, "It has ended; `outcome` says how")
                .answer::<RunDetail>(202, "It goes on")
                .gives(&[ProblemCode::JobRuns, ProblemCode::JobHeld]),
            run,
        )
        .add(
            known(Operation::get(&format!("{one}/runs/{{id}}"), P::Read, "get_job_run"))
                .path::<words::RowId>("id", "The run")
                .about("One of the last runs of a job, with what it lists")
                .answer::<RunDetail>(200, "The run")
                .gives(&[ProblemCode::UnknownRun]),
            show_run,
        )
        .add(
            known(Operation::post(&format!("{one}/confirm"), P::Administer, "confirm_jobs"))
                .about("Confirms that the clock is right and that blindness is over: what holds jobs back holds no longer")
                .body::<NothingBody>()
                .answer::<JobDetail>(200, "As it is now"),
            confirm,
        )
        .add(
            Operation::post("/api/admin/services/purge", P::Administer, "purge_services")
                .about("Lists or removes services whose retention is over")
                .more(
                    "A dry run (so it is unless `dry_run` is `false`) lists exactly what would go and who is kept back. \
                     A real one is a run of the job `purge`: leaves first, in slices, up to the job's cap. Say how many \
                     you `expect`, and nothing happens where it would be another number.",
                )
                .body::<PurgeBody>()
                .answer::<PurgeView>(200, "What would go, or what went")
                .answer::<PurgeView>(202, "It goes on: look at the run")
                .gives(&[ProblemCode::JobRuns, ProblemCode::JobHeld, ProblemCode::Unexpected]),
            purge,
        )
}

async fn list(call: Call) -> axum::Json<JobsView> {
    let jobs = &call.state.jobs;
    let items = JobName::ALL.into_iter().map(|name| JobView::of(&jobs.sight(name))).collect();
    axum::Json(JobsView { items, seq: jobs.seq().0 })
}

async fn show(call: Call, name: Id<String>) -> Result<Tagged<JobDetail>, Problem> {
    Ok(detail(&call, named(&name.0)?))
}

async fn set(call: Call, name: Id<String>, Json(body): Json<SetBody>) -> Result<Tagged<JobDetail>, Problem> {
    let name = named(&name.0)?;
    if body.enabled.is_none() && body.paused_until.is_none() {
        return Err(Problem::new(ProblemCode::Invalid, "there is nothing to set: give enabled or paused_until"));
    }
    let read = |text: String| moment("paused_until", &text);
    let paused = body.paused_until.map(|until| until.map(read).transpose()).transpose()?;
    let request = call.state.jobs.setting(name, body.enabled, paused, call.by());
    call.change(move |roster| Some(version(roster.upkeep().job(name.as_str()).map(|row| &**row))), request).await?;
    Ok(detail(&call, name))
}

async fn run(call: Call, name: Id<String>, Json(body): Json<RunBody>) -> Result<Response, Problem> {
    let name = named(&name.0)?;
    let jobs = &call.state.jobs;
    held(&call, name, body.dry_run)?;
    let run = jobs.start(name, Ask { dry_run: body.dry_run, purge: None, by: call.by() }).await.map_err(told)?;
    let status = finished(&run).await;
    Ok((status, axum::Json(RunDetail::of(&run))).into_response())
}

async fn show_run(call: Call, Words((name, id)): Words<(String, String)>) -> Result<axum::Json<RunDetail>, Problem> {
    let name = named(&name)?;
    let id: RowId = id
        .parse()
        .map_err(|error: crate::store::rows::RowIdError| Problem::new(ProblemCode::InvalidId, error.to_string()))?;
    let detail = "no run of this id among the last ones since the collector started; its services have audit events";
    let run = call.state.jobs.run(name, id).ok_or_else(|| Problem::new(ProblemCode::UnknownRun, detail))?;
    Ok(axum::Json(RunDetail::of(&run)))
}

async fn confirm(
    call: Call,
    name: Id<String>,
    Json(NothingBody {}): Json<NothingBody>,
) -> Result<Tagged<JobDetail>, Problem> {
    let name = named(&name.0)?;
    call.state.jobs.confirm(call.by()).await?;
    Ok(detail(&call, name))
}

async fn purge(call: Call, Json(body): Json<PurgeBody>) -> Result<Response, Problem> {
    let ask = purge_ask(&call, &body)?;
    let jobs = &call.state.jobs;
    let departures = jobs.departures(&ask).await;
    let count = departures.going.len();
    if let Some(expect) = ask.expect.filter(|expect| *expect != count) {
        let detail = format!("{expect} services were expected to go, and {count} would: look again with dry_run");
        return Err(Problem::new(ProblemCode::Unexpected, detail).with("count", count));
    }
    let mut view = PurgeView::of(&departures, body.dry_run, hold_of(&call, JobName::Purge));
    if body.dry_run {
        return Ok(axum::Json(view).into_response());
    }
    held(&call, JobName::Purge, false)?;
    let ask = PurgeAsk { expect: Some(count), ..ask };
    let run =
        jobs.start(JobName::Purge, Ask { dry_run: false, purge: Some(ask), by: call.by() }).await.map_err(told)?;
    let status = finished(&run).await;
    let record = run.record();
    view.removed = record.counts.get("removed").copied().unwrap_or(0);
    view.run = Some(RunView::of(&record, Some(&run)));
    Ok((status, axum::Json(view)).into_response())
}

fn purge_ask(call: &Call, body: &PurgeBody) -> Result<PurgeAsk, Problem> {
    let mut ask = call.state.jobs.purge_ask();
    if let Some(days) = body.retention_days {
        if days > 36_500 {
            return Err(Problem::new(ProblemCode::Invalid, "retention_days is at most 36500"));
        }
        ask.retention = ask.retention.all(Duration::from_secs(u64::from(days) * 86_400));
    }
    ask.statuses = match &body.statuses {
        None => vec![Status::Inactive, Status::Revoked, Status::Deleted],
        Some(statuses) if statuses.contains(&Status::Active) => {
            return Err(Problem::new(
                ProblemCode::Invalid,
                "an active service is never purged: revoke or delete it first",
            ));
        }
        Some(statuses) => statuses.clone(),
    };
    ask.expect = body.expect;
    Ok(ask)
}

/// Waits for a run as long as an answer may.
async fn finished(run: &Run) -> StatusCode {
    match tokio::time::timeout(WAIT, run.ended()).await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::ACCEPTED,
    }
}

fn named(text: &str) -> Result<JobName, Problem> {
    text.parse().map_err(|error: crate::jobs::NoJob| {
        Problem::new(ProblemCode::UnknownJob, error.to_string())
            .with("allowed", JobName::ALL.map(JobName::as_str).to_vec())
    })
}

fn told(error: NotStarted) -> Problem {
    let code = match error {
        NotStarted::Running(_) => ProblemCode::JobRuns,
        NotStarted::Busy => ProblemCode::Busy,
        NotStarted::Stopping => ProblemCode::Draining,
        NotStarted::Randomness(_) => ProblemCode::Internal,
    };
    Problem::new(code, error.to_string())
}

fn held(call: &Call, name: JobName, dry_run: bool) -> Result<(), Problem> {
    match call.state.jobs.hold(name).filter(|_| !dry_run) {
        Some(hold) => Err(Problem::new(ProblemCode::JobHeld, hold.to_string()).with("cause", hold.as_str())),
        None => Ok(()),
    }
}

fn hold_of(call: &Call, name: JobName) -> Option<HoldView> {
    call.state.jobs.hold(name).map(HoldView::of)
}

fn detail(call: &Call, name: JobName) -> Tagged<JobDetail> {
    let sight = call.state.jobs.sight(name);
    let recent = sight.runs.iter().map(|run| RunView::of(&run.record(), Some(run))).collect();
    call.tagged(version(sight.row.as_deref()), JobDetail { job: JobView::of(&sight), recent })
}

/// What stands in the tag of a job. Its record has no seq, and changes with each run: the tag follows what operators
/// set, and two settings that are alike have the same one.
fn version(row: Option<&JobRow>) -> Seq {
    let switched = match row.and_then(|row| row.enabled) {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    };
    let paused = row.and_then(|row| row.paused_until).map_or(0, |until| u64::try_from(until.0).unwrap_or(0));
    Seq(paused.saturating_mul(3).saturating_add(switched))
}

impl HoldView {
    fn of(hold: crate::jobs::Hold) -> Self {
        Self { cause: hold.as_str(), detail: hold.to_string(), confirm: "/api/admin/jobs/purge/confirm" }
    }
}

impl JobView {
    fn of(sight: &JobSight) -> Self {
        let row = sight.row.as_deref();
        let running: Option<&Arc<Run>> = sight.runs.first().filter(|run| run.is_running());
        let last = row.and_then(|row| row.last.as_ref());
        // One that is in memory knows more than the record does.
        let known = last.and_then(|last| sight.runs.iter().find(|run| run.id() == last.id));
        Self {
            name: sight.name.as_str(),
            about: sight.name.about(),
            schedule: sight.settings.schedule.to_string(),
            enabled: sight.enabled,
            switched: row.and_then(|row| row.enabled),
            paused_until: row.and_then(|row| row.paused_until).map(Time),
            next_at: sight.next_at.map(Time),
            jitter_secs: sight.settings.jitter.as_secs(),
            cap: sight.settings.cap,
            timeout_secs: sight.settings.timeout.as_secs(),
            held_by: sight.hold.map(HoldView::of),
            last_run: match known {
                Some(run) => Some(RunView::of(&run.record(), Some(run))),
                None => last.map(|last| RunView::of(last, None)),
            },
            last_success: row.and_then(|row| row.last_success).map(Time),
            runs: row.map_or(0, |row| row.runs),
            failures: row.map_or(0, |row| row.failures),
            running: running.is_some(),
        }
    }
}

impl RunView {
    fn of(row: &RunRow, run: Option<&Run>) -> Self {
        Self {
            id: row.id.to_string(),
            cause: row.cause.as_str(),
            by: row.by.clone(),
            dry_run: row.dry_run,
            started_at: Time(row.started_at),
            ended_at: row.ended_at.map(Time),
            outcome: row.outcome.map(Outcome::as_str),
            counts: row.counts.clone(),
            error: row.error.clone(),
            held_by: row.held_by.clone(),
            progress: run.map(|run| ProgressView {
                total: run.total(),
                done: run.done(),
                largest_slice: run.largest_slice(),
            }),
        }
    }
}

impl RunDetail {
    fn of(run: &Run) -> Self {
        let Report { departures, targets } = run.report();
        let departures = departures.unwrap_or_default();
        let mut going: Vec<LeavingView> = departures.going.iter().map(LeavingView::of).collect();
        going.extend(targets.iter().map(LeavingView::of_target));
        let kept = departures.kept.iter().take(MAX_KEPT).map(KeptView::of).collect();
        Self { job: run.name().as_str(), run: RunView::of(&run.record(), Some(run)), going, kept }
    }
}

impl LeavingView {
    fn of(leaving: &Leaving) -> Self {
        Self {
            kind: leaving.key.kind,
            id: leaving.key.id.to_string(),
            status: Some(leaving.status),
            since: Some(Time(leaving.since)),
            why: leaving.why.into(),
        }
    }

    fn of_target(target: &Target) -> Self {
        let (kind, id) = (target.key.kind, target.key.id.to_string());
        Self { kind, id, status: None, since: None, why: target.why.clone() }
    }
}

impl KeptView {
    fn of(kept: &Kept) -> Self {
        Self {
            kind: kept.key.kind,
            id: kept.key.id.to_string(),
            status: kept.status,
            since: Time(kept.since),
            why: kept.why,
        }
    }
}

impl PurgeView {
    fn of(departures: &Departures, dry_run: bool, held_by: Option<HoldView>) -> Self {
        Self {
            dry_run,
            count: departures.going.len(),
            removed: 0,
            over_cap: departures.over_cap,
            going: departures.going.iter().map(LeavingView::of).collect(),
            kept_count: departures.kept.len(),
            kept: departures.kept.iter().take(MAX_KEPT).map(KeptView::of).collect(),
            run: None,
            held_by,
        }
    }
}
