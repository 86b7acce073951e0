//! One act on many services: a preview that names each of them, then the act on exactly so many.
//!
//! What is selected is what a list with the same words shows. A preview and the act judge by the same
//! [`Outlook`], and the act is refused where it would change another number than was expected. It goes in
//! slices, each one durable change, so that neither a heartbeat nor a query waits for more than one of them;
//! one that runs out of time says so, and the same request takes up the rest.

use std::collections::{BTreeMap, BTreeSet};

use rollcall_common::{
    health::Text,
    id::{Kind, ServiceKey},
    lifecycle::{Act, Arrow, Status},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Json, twice},
    filter::{self, Wanted},
    openapi::words,
    routes::{Form, Operation, Param, Routes},
    services::acts::ACTS,
};
use crate::registry::{
    Refusal,
    services::acts::{CASCADE, Outlook, Slice},
};

/// Most services that one act may concern.
const MAX_SELECTED: usize = 100_000;
/// Most services that an answer names on each side.
const MAX_NAMED: usize = 10_000;
/// Largest body: it may name services one by one.
const MAX_BYTES: usize = 4 << 20;
/// Services that are looked at before the lock is let go.
const STRIDE: usize = 512;
/// How long the slices of one request may take: the answer must leave in time.
const WORK_MS: u64 = 7_000;

/// One word; of `label`, also several that must all hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Words {
    One(String),
    Several(Vec<String>),
}

/// An act on everything that is selected.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkBody {
    /// `deactivate`, `revoke`, `unrevoke`, `delete`, `recover` or `remove`.
    act: String,
    /// Which services: the words of a list's query, as in `{"parent":"site-3","status":"inactive"}`; at least one.
    #[serde(default)]
    selector: BTreeMap<String, Words>,
    /// Beside it, or in its place: these.
    #[serde(default)]
    #[schema(value_type = Vec<words::Key>)]
    services: Vec<String>,
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(value_type = words::Text)]
    reason: Text,
    /// Whether what stands below the selected ones goes with them; of `revoke` and `delete` only.
    #[serde(default)]
    cascade: bool,
    /// Only look; unless this is `false`, nothing is changed.
    #[serde(default = "yes")]
    dry_run: bool,
    /// How many services are to change: the preview's `count`.
    expect: Option<usize>,
}

fn yes() -> bool {
    true
}

/// What would change, or has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkView {
    act: &'static str,
    dry_run: bool,
    /// How many change.
    count: usize,
    /// How many have changed.
    done: usize,
    /// Whether all of it is done; otherwise the same request, expecting the rest, goes on.
    complete: bool,
    /// Who changes, and how; the first 10,000.
    changes: Vec<BulkChange>,
    /// How many are refused.
    refused_count: usize,
    /// Who is refused, and why; the first 10,000.
    refused: Vec<BulkRefused>,
    /// Whether there are more than are named here.
    truncated: bool,
    seq: u64,
    epoch: u64,
}

/// A service that changes.
#[derive(Debug, Serialize, ToSchema)]
struct BulkChange {
    #[schema(value_type = words::Key)]
    service: String,
    #[schema(value_type = words::Status)]
    before: Status,
    /// `null`: its record goes.
    #[schema(value_type = Option<words::Status>)]
    after: Option<Status>,
}

/// A service that does not.
#[derive(Debug, Serialize, ToSchema)]
struct BulkRefused {
    #[schema(value_type = words::Key)]
    service: String,
    /// The problem's code.
    code: &'static str,
    detail: String,
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(
        Operation::post("/api/admin/services/bulk", Permission::Operate, "change_services")
            .scoped()
            .about("Does one act to many services, or shows what it would do")
            .more(
                "`dry_run` is `true` unless it is said otherwise: the answer then names every service that would \
                 change or be refused, and their `count`, which the act itself demands as `expect`. Revoking, \
                 deleting and removing take an administrator. The act goes in slices of 256 services, each one \
                 durable; it concerns 100,000 at most.",
            )
            .body::<BulkBody>()
            .body_limit(MAX_BYTES)
            .answer::<BulkView>(200, "What changes, or has changed")
            .gives(&[ProblemCode::Unexpected, ProblemCode::UnknownService, ProblemCode::InvalidQuery]),
        bulk,
    )
}

async fn bulk(call: Call, Json(body): Json<BulkBody>) -> Result<axum::Json<BulkView>, Problem> {
    let (act, word, permission) = act_of(&body.act)?;
    call.demand(permission)?;
    let mut chosen = select(&call, &body)?;
    if body.cascade {
        expand(&call, act, &mut chosen)?;
    }
    let mut keys: Vec<ServiceKey> = chosen.into_iter().collect();
    // Whoever goes, goes before its parent; whoever comes back, comes after it.
    let depth = |key: &ServiceKey| if key.kind == Kind::Instance { 0 } else { key.kind as usize };
    let back = matches!(act, Act::Unrevoke | Act::Recover);
    keys.sort_by_key(|key| if back { depth(key) } else { 3 - depth(key) });
    let mut foreseen = foresee(&call, act, &keys);
    let count = foreseen.keys.len();
    let mut view = BulkView {
        act: word,
        dry_run: body.dry_run,
        count,
        done: 0,
        complete: body.dry_run,
        changes: foreseen.changes,
        refused_count: foreseen.refused_count,
        truncated: count > MAX_NAMED || foreseen.refused_count > MAX_NAMED,
        refused: std::mem::take(&mut foreseen.refused),
        seq: 0,
        epoch: 0,
    };
    if !body.dry_run {
        if body.expect != Some(count) {
            let detail = match body.expect {
                Some(expected) => format!("{count} services would change, not {expected}: look at them again"),
                None => format!("say \"expect\": {count} to change these {count} services"),
            };
            return Err(Problem::new(ProblemCode::Unexpected, detail).with("count", count));
        }
        perform(&call, act, &body.reason, &foreseen.keys, &mut view).await?;
    }
    let position = call.state.registry.read(|roster| roster.position());
    (view.seq, view.epoch) = (position.seq.0, position.epoch);
    Ok(axum::Json(view))
}

fn act_of(word: &str) -> Result<(Act, &'static str, Permission), Problem> {
    let remove = (Act::Remove, "remove", Permission::Administer);
    ACTS.into_iter().chain([remove]).find(|(_, known, _)| *known == word).ok_or_else(|| {
        let allowed: Vec<&str> = ACTS.into_iter().map(|(_, word, _)| word).chain(["remove"]).collect();
        let word: String = word.chars().take(40).collect();
        Problem::new(ProblemCode::Invalid, format!("act {word:?} is unknown: use {}", allowed.join(", ")))
            .with("allowed", allowed)
    })
}

fn too_many() -> Problem {
    let detail = format!("more than {MAX_SELECTED} services are selected: narrow the selector");
    Problem::new(ProblemCode::Invalid, detail)
}

fn select(call: &Call, body: &BulkBody) -> Result<BTreeSet<ServiceKey>, Problem> {
    let mut chosen = BTreeSet::new();
    if body.services.len() > MAX_SELECTED {
        return Err(too_many());
    }
    for name in &body.services {
        let key: ServiceKey = name.parse().map_err(|error: rollcall_common::id::NameError| {
            Problem::new(ProblemCode::Invalid, format!("{error}: write kind/id, as in agent/edge-17"))
        })?;
        call.find(&key)?;
        chosen.insert(key);
    }
    if body.selector.is_empty() {
        if body.services.is_empty() {
            let detail = "say which services: a selector with at least one word, or a list of services";
            return Err(Problem::new(ProblemCode::Invalid, detail));
        }
        return Ok(chosen);
    }
    let known: Vec<&Param> = filter::QUERY
        .iter()
        .chain([&filter::KIND, &filter::PARENT])
        .filter(|param| !matches!(param.name, "limit" | "cursor"))
        .collect();
    let mut pairs = Vec::new();
    for (name, words) in &body.selector {
        let Some(param) = known.iter().find(|param| param.name == name) else {
            let shown: String = name.chars().take(40).collect();
            let known: Vec<&str> = known.iter().map(|param| param.name).collect();
            let detail = format!("the selector has no word {shown:?}: use {}", known.join(", "));
            return Err(Problem::new(ProblemCode::Invalid, detail).with("allowed", known));
        };
        match words {
            Words::One(word) => pairs.push((name.clone(), word.clone())),
            Words::Several(several) if several.len() > 1 && param.form != Form::Each => {
                return Err(Problem::new(ProblemCode::Invalid, format!("in the selector, {}", twice(param))));
            }
            Words::Several(several) => pairs.extend(several.iter().map(|word| (name.clone(), word.clone()))),
        }
    }
    let wanted = Wanted { limit: MAX_SELECTED + 1, ..Wanted::read(None, &pairs)? };
    chosen.extend(call.select(wanted));
    if chosen.len() > MAX_SELECTED { Err(too_many()) } else { Ok(chosen) }
}

/// Takes along what stands below, and refuses where some of that is beyond the caller's reach.
fn expand(call: &Call, act: Act, chosen: &mut BTreeSet<ServiceKey>) -> Result<(), Problem> {
    if !matches!(act, Act::Revoke | Act::Delete) {
        return Err(Problem::new(ProblemCode::Invalid, "cascade goes with revoke and delete"));
    }
    let mut roots: Vec<ServiceKey> = chosen.iter().cloned().collect();
    while let Some(root) = roots.pop() {
        let below = call.below(&root)?;
        roots.extend(below.iter().filter(|key| key.kind == Kind::Agent).cloned());
        chosen.extend(below);
        if chosen.len() > MAX_SELECTED {
            return Err(too_many());
        }
    }
    Ok(())
}

#[derive(Default)]
struct Foreseen {
    keys: Vec<ServiceKey>,
    changes: Vec<BulkChange>,
    refused: Vec<BulkRefused>,
    refused_count: usize,
}

/// What an act would do, a stride at a time.
fn foresee(call: &Call, act: Act, keys: &[ServiceKey]) -> Foreseen {
    let registry = &call.state.registry;
    let now = registry.now().wall;
    let (mut outlook, mut foreseen) = (Outlook::default(), Foreseen::default());
    for stride in keys.chunks(STRIDE) {
        registry.read(|roster| {
            for key in stride {
                match outlook.judge(roster, key, act, now) {
                    Ok(arrow) => {
                        let before = roster.get(key).map(|entry| entry.row.status);
                        if let Some(before) = before.filter(|_| foreseen.changes.len() < MAX_NAMED) {
                            let after = match arrow {
                                Arrow::To(to) => Some(to),
                                Arrow::Stay => Some(before),
                                Arrow::Removed => None,
                            };
                            foreseen.changes.push(BulkChange { service: key.to_string(), before, after });
                        }
                        foreseen.keys.push(key.clone());
                    }
                    Err(refusal) => foreseen.refuse(key, refusal),
                }
            }
        });
    }
    foreseen
}

impl Foreseen {
    fn refuse(&mut self, key: &ServiceKey, refusal: Refusal) {
        self.refused_count += 1;
        if self.refused.len() < MAX_NAMED {
            self.refused.push(refused(key, refusal));
        }
    }
}

fn refused(key: &ServiceKey, refusal: Refusal) -> BulkRefused {
    let problem = Problem::from(refusal);
    BulkRefused { service: key.to_string(), code: problem.code().as_str(), detail: problem.detail().to_owned() }
}

async fn perform(
    call: &Call,
    act: Act,
    reason: &Text,
    keys: &[ServiceKey],
    view: &mut BulkView,
) -> Result<(), Problem> {
    let registry = &call.state.registry;
    let begun = registry.now().boot;
    for keys in keys.chunks(CASCADE) {
        if registry.now().boot.since(begun).as_millis() > u128::from(WORK_MS) {
            return Ok(());
        }
        let slice = Slice { keys: keys.to_vec(), act, reason: reason.to_string(), by: call.by() };
        match registry.ask(slice).await {
            Ok(left) => {
                view.done += keys.len().saturating_sub(left.len());
                view.refused_count += left.len();
                let room = MAX_NAMED.saturating_sub(view.refused.len());
                view.refused.extend(left.into_iter().take(room).map(|(key, refusal)| refused(&key, refusal)));
            }
            // What is done stays done, and is told.
            Err(Refusal::Busy) if view.done > 0 => return Ok(()),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    view.complete = true;
    Ok(())
}
