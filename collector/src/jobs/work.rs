//! What each job does: look at everybody a stride at a time, judge, and act in slices.

use std::{sync::Arc, time::Duration};

use rollcall_common::{
    id::{Seq, ServiceKey},
    lifecycle::Status,
    time::{Now, Timestamp},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Ask, JobName, Jobs, PurgeAsk,
    run::{Ending, Run},
    runner::why,
    slices::Slices,
};
use crate::{
    registry::{
        Refusal, Registry, Request, World,
        answers::{ForgetAnswers, KEPT_FOR},
        leases::Sight,
        maintenance::{Cover, ForgetWindows},
        retention::{Departures, Gathering, Kept, Look, gone_since, silent_since},
        roster::{Entry, Roster},
        sweep::{Deed, ForgetDenied, Sweep, Target},
        tokens::PurgeTokens,
    },
    store::rows::{Outlived, Prune},
};

/// Entries that are looked at before the roster is let go.
const STRIDE: usize = 1_024;
/// Services in one change.
const SERVICES: (usize, usize) = (32, 256);
/// Rows of history in one transaction.
const ROWS: (usize, usize) = (100, 1_000);
/// How often a busy registry is asked again.
const PATIENCE: u32 = 100;
/// Between two such tries.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What runs count; labels of the metric.
pub(super) const ITEM_WORDS: &[&str] = &[
    "marked",
    "archived",
    "removed",
    "kept",
    "passed",
    "over_cap",
    "history",
    "blind",
    "denied",
    "windows",
    "answers",
    "tokens",
    "approvals",
    "audit",
];

/// The right to run jobs. With one collector it is always held; where several share a store, the elected one's
/// epoch lives here: it is taken when a run begins, and looked at before every slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term(());

impl Term {
    /// The term in force.
    pub(super) fn current() -> Self {
        Self(())
    }

    /// Whether it still is.
    fn holds(self) -> bool {
        true
    }
}

/// A run and what it needs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) jobs: Jobs,
    pub(super) run: Arc<Run>,
    pub(super) ask: Ask,
    pub(super) stop: CancellationToken,
    pub(super) term: Term,
}

/// Does the work.
pub(super) async fn work(context: &Context) -> Ending {
    let done = match context.run.name() {
        JobName::MarkInactive => mark_inactive(context).await,
        JobName::Archive => archive(context).await,
        JobName::Purge => purge(context).await,
        JobName::Ephemeral => ephemeral(context).await,
        JobName::Retention => retention(context).await,
    };
    match done {
        Ok(()) => Ending::Well,
        Err(ending) => ending,
    }
}

async fn mark_inactive(context: &Context) -> Result<(), Ending> {
    let registry = &context.jobs.0.registry;
    let after = context.jobs.settings().upkeep.inactive_after;
    let stepped = context.jobs.doubts().clock_step.is_some();
    let now = registry.now();
    let (mut targets, mut kept) = (Vec::new(), Vec::new());
    walk(registry, |look, _| {
        let row = &look.entry.row;
        if row.status != Status::Active {
            return;
        }
        let Some((since, by_boot)) = silent_since(look.entry, look.sight, now) else { return };
        if now.wall.since(since) < after {
            return;
        }
        let kept_for = if look.covered {
            Some("it is under maintenance")
        } else if stepped && !by_boot {
            Some("the wall clock stepped, and nothing else tells how long it has been silent")
        } else {
            None
        };
        match kept_for {
            Some(why) => kept.push(Kept { key: row.key.clone(), status: row.status, since, why }),
            None => targets.push((since, target(look.entry, json!({ "last_seen": since.to_string() })))),
        }
    })
    .await;
    // Only observed time counts; the ledger is asked when the roster has been let go.
    targets
        .retain(|(since, _)| now.wall.since(*since).saturating_sub(registry.blind_within(*since, now.wall)) >= after);
    act(context, Deed::Silence, "marked", oldest_first(targets), kept).await
}

async fn archive(context: &Context) -> Result<(), Ending> {
    let registry = &context.jobs.0.registry;
    let after = context.jobs.settings().upkeep.archive_after;
    let now = registry.now();
    let (mut targets, mut kept) = (Vec::new(), Vec::new());
    walk(registry, |look, roster| {
        let row = &look.entry.row;
        if row.status != Status::Inactive || now.wall.since(row.status_since) < after {
            return;
        }
        // Nobody stands unbarred below what is barred: its children go first, and it with a later run.
        let mut children = roster.children(&row.key).map(|child| child.row.status);
        let kept_for = if look.covered {
            Some("it is under maintenance")
        } else if row.placeholder {
            Some("it is a placeholder")
        } else if children.any(|status| !status.is_barred()) {
            Some("it has children that are not barred")
        } else {
            None
        };
        match kept_for {
            Some(why) => kept.push(Kept { key: row.key.clone(), status: row.status, since: row.status_since, why }),
            None => {
                let why = json!({ "inactive_since": row.status_since.to_string() });
                targets.push((row.status_since, target(look.entry, why)));
            }
        }
    })
    .await;
    act(context, Deed::Archive, "archived", oldest_first(targets), kept).await
}

async fn ephemeral(context: &Context) -> Result<(), Ending> {
    let registry = &context.jobs.0.registry;
    let now = registry.now();
    let (mut targets, mut kept) = (Vec::new(), Vec::new());
    walk(registry, |look, _| {
        let row = &look.entry.row;
        let Some(after) = row.ephemeral_after.map(|secs| Duration::from_secs(secs.into())) else { return };
        if row.status.is_barred() {
            // Barred by an operator: it goes with its retention.
            return;
        }
        let Some((since, _)) = gone_since(look.entry, look.sight, now) else { return };
        if now.wall.since(since) < after {
            return;
        }
        let kept_for = match (look.covered, look.children) {
            (true, _) => Some("it is under maintenance"),
            (false, 1..) => Some("it has children that stay"),
            (false, 0) => None,
        };
        match kept_for {
            Some(why) => kept.push(Kept { key: row.key.clone(), status: row.status, since, why }),
            None => targets.push((since, (after, target(look.entry, json!({ "gone_since": since.to_string() }))))),
        }
    })
    .await;
    let observed = |since| now.wall.since(since).saturating_sub(registry.blind_within(since, now.wall));
    let targets = targets.into_iter().filter(|(since, (after, _))| observed(*since) >= *after);
    let targets = targets.map(|(since, (_, target))| (since, target)).collect();
    act(context, Deed::Ephemeral, "removed", oldest_first(targets), kept).await
}

async fn purge(context: &Context) -> Result<(), Ending> {
    let ask = context.ask.purge.clone().unwrap_or_else(|| context.jobs.purge_ask());
    let departures = departures(&context.jobs.0.registry, &ask).await;
    let (count, run) = (departures.going.len(), &context.run);
    if let Some(expect) = ask.expect.filter(|expect| *expect != count) {
        return Err(Ending::Failed(format!("{expect} services were expected to go, and {count} would")));
    }
    run.did("kept", departures.kept.len());
    run.did("over_cap", departures.over_cap);
    let targets = departures.going.iter().map(|leaving| Target {
        key: leaving.key.clone(),
        seq: leaving.seq,
        why: json!({ "since": leaving.since.to_string(), "why": leaving.why }),
    });
    let targets: Vec<Target> = targets.collect();
    run.lists_departures(departures);
    if context.ask.dry_run {
        run.expect(count);
        return Ok(());
    }
    sweep(context, Deed::Purge, "removed", &targets).await
}

/// What a purge would do.
pub(super) async fn departures(registry: &Registry, ask: &PurgeAsk) -> Departures {
    let mut gathering = Gathering::new(ask.retention, &ask.statuses, registry.now().wall);
    walk(registry, |look, _| gathering.look(look)).await;
    gathering.decide(ask.cap)
}

async fn retention(context: &Context) -> Result<(), Ending> {
    if context.ask.dry_run {
        return outlived(context).await;
    }
    let keep = &context.jobs.settings().upkeep.keep;
    let now = context.jobs.0.registry.now().wall;
    let mut left = context.jobs.settings().upkeep.retention.cap;
    prune(context, "history", &Prune::HistoryBefore(now.before(keep.history)), &mut left).await?;
    crowded(context, keep.history_rows, &mut left).await?;
    prune(context, "blind", &Prune::BlindBefore(now.before(keep.blind)), &mut left).await?;
    let most = SERVICES.1;
    slice_by_slice(context, "denied", &mut left, || ForgetDenied { now, most }).await?;
    let before = now.before(keep.maintenance);
    slice_by_slice(context, "windows", &mut left, || ForgetWindows { before, most }).await?;
    tokens(context, keep.tokens, &mut left).await?;
    let before = now.before(KEPT_FOR);
    slice_by_slice(context, "answers", &mut left, || ForgetAnswers { before, most }).await?;
    // What waits for a way out is kept for as long again: one that never comes back must not fill the disk.
    let sent = context.jobs.settings().sent.get();
    retire_audit(context, now.before(keep.audit), sent, &mut left).await?;
    retire_audit(context, now.before(keep.audit * 2), Seq(u64::MAX), &mut left).await
}

/// Tokens that ended long ago, and requests for approval whose token has ended.
async fn tokens(context: &Context, keep: Duration, left: &mut usize) -> Result<(), Ending> {
    while *left > 0 {
        context.may_go_on()?;
        let most = SERVICES.1.min(*left);
        let by = context.ask.by.clone();
        let (tokens, approvals) = context.ask(|| PurgeTokens { keep, most, by: by.clone() }).await?;
        context.run.did("tokens", tokens);
        context.run.did("approvals", approvals);
        context.run.advance(tokens + approvals);
        *left = left.saturating_sub(tokens + approvals);
        if tokens < most && approvals < most {
            break;
        }
    }
    Ok(())
}

/// Counts what a run would take out, by sort; nothing is taken.
async fn outlived(context: &Context) -> Result<(), Ending> {
    let Jobs(shared) = &context.jobs;
    let settings = context.jobs.settings();
    let keep = &settings.upkeep.keep;
    let now = shared.registry.now();
    let ago = |time| now.wall.before(time);
    let audit = Outlived::Audit { before: ago(keep.audit), sent: settings.sent.get(), anyway: ago(keep.audit * 2) };
    let in_store = [
        ("history", Outlived::History { before: ago(keep.history), keep: keep.history_rows }),
        ("blind", Outlived::Blind(ago(keep.blind))),
        ("audit", audit),
    ];
    let mut all = Vec::new();
    for (word, what) in in_store {
        context.may_go_on()?;
        let count = shared.store.outlived(&what).await;
        let count = count.map_err(|error| Ending::Failed(why(&Refusal::Store(error))))?;
        all.push((word, usize::try_from(count).unwrap_or(usize::MAX)));
    }
    let most = usize::MAX;
    let in_memory = shared.registry.read(|roster| {
        let world = World { roster, now };
        let (tokens, approvals) =
            PurgeTokens { keep: keep.tokens, most, by: context.ask.by.clone() }.plan(world).map(|(_, gone)| gone)?;
        Ok([
            ("denied", ForgetDenied { now: now.wall, most }.plan(world)?.1),
            ("windows", ForgetWindows { before: ago(keep.maintenance), most }.plan(world)?.1),
            ("answers", ForgetAnswers { before: ago(KEPT_FOR), most }.plan(world)?.1),
            ("tokens", tokens),
            ("approvals", approvals),
        ])
    });
    all.extend(in_memory.map_err(|refusal: Refusal| Ending::Failed(why(&refusal)))?);
    let mut total = 0_usize;
    for (word, count) in all {
        context.run.did(word, count);
        total = total.saturating_add(count);
    }
    context.run.expect(total);
    context.run.did("over_cap", total.saturating_sub(settings.upkeep.retention.cap));
    Ok(())
}

/// Whole batches of the audit trail, the oldest first.
async fn retire_audit(context: &Context, before: Timestamp, sent: Seq, left: &mut usize) -> Result<(), Ending> {
    let registry = &context.jobs.0.registry;
    while *left > 0 {
        context.may_go_on()?;
        let now = registry.now();
        let gone = context.jobs.0.store.retire_audit(before, sent, now.wall).await;
        let Some(gone) = gone.map_err(|error| Ending::Failed(why(&Refusal::Store(error))))? else { return Ok(()) };
        let gone = usize::try_from(gone).unwrap_or(usize::MAX);
        context.run.did("audit", gone);
        context.run.advance(gone);
        // A batch counts even where it was empty, so that this ends.
        *left = left.saturating_sub(gone.max(1));
        context.pause(registry.now().boot.since(now.boot)).await?;
    }
    Ok(())
}

/// Cuts histories that are longer than they should be.
async fn crowded(context: &Context, keep: u32, left: &mut usize) -> Result<(), Ending> {
    let mut after: Option<ServiceKey> = None;
    loop {
        let found = context.jobs.0.store.crowded(keep, after.as_ref(), ROWS.1).await;
        let found = found.map_err(|error| Ending::Failed(why(&Refusal::Store(error))))?;
        after = found.last().cloned();
        for service in found {
            prune(context, "history", &Prune::HistoryOf { service, keep }, left).await?;
        }
        if after.is_none() || *left == 0 {
            return Ok(());
        }
    }
}

async fn prune(context: &Context, word: &'static str, what: &Prune, left: &mut usize) -> Result<(), Ending> {
    let clock = context.jobs.0.registry.clock();
    let mut slices = Slices::new(ROWS.0, ROWS.1);
    while *left > 0 {
        context.may_go_on()?;
        let asked = slices.size().min(*left);
        let began = clock.now().boot;
        let gone = context.jobs.0.store.prune(what, asked).await;
        let gone = gone.map_err(|error| Ending::Failed(why(&Refusal::Store(error))))?;
        let gone = usize::try_from(gone).unwrap_or(usize::MAX);
        context.run.did(word, gone);
        context.run.advance(gone);
        *left = left.saturating_sub(gone);
        if gone < asked {
            return Ok(());
        }
        context.pause(slices.took(clock.now().boot.since(began))).await?;
    }
    Ok(())
}

/// Asks for the same again and again until nothing is left to do.
async fn slice_by_slice<R: Request<Answer = usize>>(
    context: &Context,
    word: &'static str,
    left: &mut usize,
    request: impl Fn() -> R,
) -> Result<(), Ending> {
    while *left > 0 {
        context.may_go_on()?;
        let gone = context.ask(&request).await?;
        context.run.did(word, gone);
        context.run.advance(gone);
        *left = left.saturating_sub(gone);
        if gone == 0 {
            break;
        }
    }
    Ok(())
}

/// Lists or does.
async fn act(
    context: &Context,
    deed: Deed,
    word: &'static str,
    mut targets: Vec<Target>,
    kept: Vec<Kept>,
) -> Result<(), Ending> {
    let cap = context.jobs.settings().of(context.run.name()).cap;
    context.run.did("kept", kept.len());
    context.run.did("over_cap", targets.len().saturating_sub(cap));
    targets.truncate(cap);
    if context.ask.dry_run {
        context.run.expect(targets.len());
        context.run.lists_targets(targets);
        context.run.lists_kept(kept);
        return Ok(());
    }
    sweep(context, deed, word, &targets).await
}

async fn sweep(context: &Context, deed: Deed, word: &'static str, targets: &[Target]) -> Result<(), Ending> {
    let registry = &context.jobs.0.registry;
    let clock = registry.clock();
    let mut slices = Slices::new(SERVICES.0, SERVICES.1);
    let mut rest = targets;
    context.run.expect(rest.len());
    while !rest.is_empty() {
        context.may_go_on()?;
        let (slice, later) = rest.split_at(slices.size().min(rest.len()));
        let began = clock.now().boot;
        let swept = context
            .ask(|| Sweep {
                deed,
                targets: slice.to_vec(),
                cause: context.run.name().as_str(),
                by: context.ask.by.clone(),
                registry: registry.clone(),
            })
            .await?;
        context.run.did(word, swept.done);
        context.run.did("passed", swept.passed);
        context.run.advance(slice.len());
        rest = later;
        if !rest.is_empty() {
            context.pause(slices.took(clock.now().boot.since(began))).await?;
        }
    }
    Ok(())
}

impl Context {
    fn may_go_on(&self) -> Result<(), Ending> {
        if self.stop.is_cancelled() || !self.term.holds() {
            return Err(Ending::Stopped);
        }
        match self.jobs.hold(self.run.name()).filter(|_| !self.ask.dry_run) {
            Some(hold) => Err(Ending::Held(hold.to_string())),
            None => Ok(()),
        }
    }

    async fn pause(&self, time: Duration) -> Result<(), Ending> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Ending::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Asks the registry, again where it is busy: others go first.
    async fn ask<R: Request>(&self, request: impl Fn() -> R) -> Result<R::Answer, Ending> {
        let mut tries = 0;
        loop {
            match self.jobs.0.registry.ask(request()).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Busy) if tries < PATIENCE => {
                    tries += 1;
                    self.pause(BUSY_PAUSE).await?;
                }
                Err(Refusal::Stopping) => return Err(Ending::Stopped),
                Err(refusal) => return Err(Ending::Failed(why(&refusal))),
            }
        }
    }
}

/// Looks at every service once, letting the roster and the thread go after each stride.
async fn walk(registry: &Registry, mut visit: impl FnMut(Look<'_>, &Roster)) {
    let now = registry.now();
    let cover = registry.cover();
    let mut after: Option<ServiceKey> = None;
    loop {
        let next = registry.read(|roster| stride(registry, roster, &cover, after.as_ref(), now, &mut visit));
        let Some(key) = next else { return };
        after = Some(key);
        tokio::task::yield_now().await;
    }
}

fn stride(
    registry: &Registry,
    roster: &Roster,
    cover: &Cover,
    after: Option<&ServiceKey>,
    now: Now,
    visit: &mut impl FnMut(Look<'_>, &Roster),
) -> Option<ServiceKey> {
    let mut last = None;
    for (n, entry) in roster.seek(None, after).enumerate() {
        if n == STRIDE {
            return last;
        }
        let sight: Option<Sight> = registry.leases().sight(entry.slot, now.boot);
        let children = roster.below(&entry.row.key).children;
        visit(Look { entry, sight, children, covered: cover.of(&entry.row).is_some() }, roster);
        last = Some(entry.row.key.clone());
    }
    None
}

fn target(entry: &Entry, why: serde_json::Value) -> Target {
    Target { key: entry.row.key.clone(), seq: entry.row.seq, why }
}

fn oldest_first(mut targets: Vec<(rollcall_common::time::Timestamp, Target)>) -> Vec<Target> {
    targets.sort_by(|(a, one), (b, other)| (a, &one.key).cmp(&(b, &other.key)));
    targets.into_iter().map(|(_, target)| target).collect()
}
