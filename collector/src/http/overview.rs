//! The whole at a glance: counts, and the tree of pollers, agents and checkers.

mod counting;

use std::{collections::BTreeMap, sync::Arc};

use rollcall_common::{
    health::{Health, Progress},
    id::{Kind, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    service::Source,
};
use serde::Serialize;
use utoipa::ToSchema;

pub(super) use self::counting::{Count, Counting};
use super::{
    State,
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Query},
    filter::health_of,
    openapi::words,
    routes::{Operation, Param, Routes},
    scan::{Seen, presence_of, walk},
    view::Time,
};
use crate::{
    registry::settings::{Standing, progress_of},
    scope::Scope,
    store::rows::ServiceRow,
};

/// Nodes of a tree where the caller names no number.
const DEFAULT_NODES: usize = 1_000;
/// Most nodes of a tree.
const MAX_NODES: usize = 10_000;

/// Counts by one word.
type Counts = BTreeMap<&'static str, u64>;

/// The counts of one kind, or of all.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Tally {
    total: u64,
    /// How many are being worked on.
    maintenance: u64,
    #[schema(value_type = words::Counts)]
    status: Counts,
    #[schema(value_type = words::Counts)]
    presence: Counts,
    #[schema(value_type = words::Counts)]
    health: Counts,
    #[schema(value_type = words::Counts)]
    progress: Counts,
    /// By where the settings of their sidecars stand.
    #[schema(value_type = words::Counts)]
    settings: Counts,
    #[schema(value_type = words::Counts)]
    source: Counts,
}

impl Default for Tally {
    /// Every word is there from the beginning, so that a reader need not tell absence from zero.
    fn default() -> Self {
        let zero = |words: &[&'static str]| words.iter().map(|word| (*word, 0)).collect();
        Self {
            total: 0,
            maintenance: 0,
            status: zero(&Status::ALL.map(Status::as_str)),
            presence: zero(&Presence::ALL.map(Presence::as_str)),
            health: zero(&Health::ALL.map(Health::as_str)),
            progress: zero(&Progress::ALL.map(Progress::as_str)),
            settings: zero(&Standing::ALL.map(Standing::as_str)),
            source: zero(&Source::ALL.map(Source::as_str)),
        }
    }
}

impl Tally {
    fn count(&mut self, row: &ServiceRow, presence: Presence) {
        self.total += 1;
        for (counts, word) in [
            (&mut self.status, row.status.as_str()),
            (&mut self.presence, presence.as_str()),
            (&mut self.health, health_of(row).as_str()),
            (&mut self.progress, progress_of(row).as_str()),
            (&mut self.settings, Standing::of(row).as_str()),
            (&mut self.source, row.source.as_str()),
        ] {
            *counts.entry(word).or_default() += 1;
        }
    }
}

#[cfg(test)]
impl Tally {
    /// The count of a status.
    pub(super) fn status(&self, status: Status) -> u64 {
        self.status.get(status.as_str()).copied().unwrap_or(0)
    }

    /// The count of a presence.
    pub(super) fn presence(&self, presence: Presence) -> u64 {
        self.presence.get(presence.as_str()).copied().unwrap_or(0)
    }
}

/// Everything that is counted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    #[serde(flatten)]
    all: Tally,
    #[schema(value_type = BTreeMap<String, Tally>)]
    kinds: BTreeMap<&'static str, Tally>,
    /// By version of the sidecar; beyond 200 versions the rest is one number.
    versions: BTreeMap<String, u64>,
    /// By the values of the labels that the configuration names, `site` by default; beyond 200 the rest is one number.
    labels: BTreeMap<String, BTreeMap<String, u64>>,
    connections: usize,
    interval_ms: u32,
    ttl_ms: u32,
    collector: String,
    trust_domain: String,
    /// The newest seal of the audit trail, to be noted where the collector cannot change it; nothing before the first.
    audit_head: Option<AuditHead>,
    seq: u64,
    epoch: u64,
}

/// The newest link of the audit trail's chain.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditHead {
    /// Its number.
    no: u64,
    /// Its hash.
    #[schema(value_type = words::Hash)]
    hash: String,
    /// The seq of the last event that it seals.
    last: u64,
    /// When it was sealed.
    #[schema(value_type = words::Time)]
    sealed_at: Time,
}

/// A node of the tree.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    #[schema(value_type = words::Kind)]
    kind: Kind,
    id: String,
    checker_kind: Option<String>,
    #[schema(value_type = words::Status)]
    status: Status,
    #[schema(value_type = words::Presence)]
    presence: Presence,
    #[schema(value_type = words::Health)]
    health: Health,
    #[schema(value_type = Vec<Node>, no_recursion)]
    children: Vec<Self>,
}

/// The tree, or the part below one service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tree {
    items: Vec<Node>,
    /// Whether nodes were left out because there are more than was asked for.
    truncated: bool,
    seq: u64,
    epoch: u64,
}

const TREE: &[Param] = &[
    Param::of::<words::Key>("root", "Only what is below this service"),
    Param::of::<words::Number>("limit", "Most nodes, 1 to 10,000; 1,000 where it is not given"),
];

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .tag("overview", "The whole at a glance")
        .add(
            Operation::get("/api/admin/services/stats", Permission::Read, "get_stats")
                .scoped()
                .about("Counts by kind, status, presence, health, progress, settings and source")
                .answer::<Stats>(200, "The counts"),
            stats,
        )
        .add(
            Operation::get("/api/admin/services/tree", Permission::Read, "get_tree")
                .scoped()
                .about("Pollers, their agents, their checkers")
                .query(TREE)
                .answer::<Tree>(200, "The tree, or the part below one service")
                .gives(&[ProblemCode::UnknownService]),
            tree,
        )
}

async fn stats(call: Call) -> Result<axum::Json<Stats>, Problem> {
    let registry = &call.state.registry;
    let count = call.state.count(call.scope());
    let Count { kinds, versions, labels, position, .. } = Count::clone(&count);
    let mut all = Tally::default();
    for tally in kinds.values() {
        all.total += tally.total;
        all.maintenance += tally.maintenance;
        for (into, from) in [
            (&mut all.status, &tally.status),
            (&mut all.presence, &tally.presence),
            (&mut all.health, &tally.health),
            (&mut all.progress, &tally.progress),
            (&mut all.settings, &tally.settings),
            (&mut all.source, &tally.source),
        ] {
            from.iter().for_each(|(word, count)| *into.entry(word).or_default() += count);
        }
    }
    let pace = registry.pace().0;
    Ok(axum::Json(Stats {
        all,
        kinds: kinds.into_iter().map(|(kind, tally)| (kind.plural(), tally)).collect(),
        versions,
        labels,
        connections: call.connections(),
        interval_ms: pace.interval_ms,
        ttl_ms: pace.ttl_ms,
        collector: registry.whoami().collector.to_string(),
        trust_domain: registry.whoami().trust_domain.to_string(),
        audit_head: call.state.sealed.get().map(|seal| AuditHead {
            no: seal.no,
            hash: seal.hash.to_string(),
            last: seal.last.0,
            sealed_at: Time(seal.sealed_at),
        }),
        seq: position.seq.0,
        epoch: position.epoch,
    }))
}

async fn tree(call: Call, query: Query) -> Result<axum::Json<Tree>, Problem> {
    let (mut root, mut limit) = (None, DEFAULT_NODES);
    for (name, value) in &query.0 {
        match name.as_str() {
            "root" => {
                let key: ServiceKey = value.parse().map_err(|error: rollcall_common::id::NameError| {
                    Problem::new(ProblemCode::InvalidQuery, error.to_string()).with("parameter", "root")
                })?;
                call.find(&key)?;
                root = Some(key);
            }
            "limit" => {
                let number = value.parse().ok().filter(|limit| (1..=MAX_NODES).contains(limit));
                limit = number.ok_or_else(|| {
                    let detail = format!("limit is a number between 1 and {MAX_NODES}");
                    Problem::new(ProblemCode::InvalidQuery, detail).with("parameter", "limit")
                })?;
            }
            _ => {}
        }
    }
    let position = call.state.registry.read(|roster| roster.position());
    let mut seen = Vec::new();
    let scope = call.scope();
    walk(&call.state.registry, scope, None, |roster, entry, sight| {
        seen.push(Seen::look(roster, scope, entry, sight));
    });
    let (items, truncated) = grow(seen, root.as_ref(), limit);
    Ok(axum::Json(Tree { items, truncated, seq: position.seq.0, epoch: position.epoch }))
}

/// Hangs services under their parents, breadth first, until there are enough nodes. Without a root the
/// pollers begin it.
fn grow(seen: Vec<Seen>, root: Option<&ServiceKey>, limit: usize) -> (Vec<Node>, bool) {
    let mut below: BTreeMap<ServiceKey, Vec<Seen>> = BTreeMap::new();
    let mut roots = Vec::new();
    for seen in seen {
        let row = &seen.entry.row;
        match (root, crate::registry::roster::parent_key(row)) {
            (Some(root), _) if row.key == *root => roots.push(seen),
            (None, None) if row.key.kind == Kind::Poller => roots.push(seen),
            (_, Some(parent)) => below.entry(parent).or_default().push(seen),
            (Some(_) | None, None) => {}
        }
    }
    let mut left = limit;
    let mut truncated = false;
    let nodes = hang(roots, &mut below, &mut left, &mut truncated);
    (nodes, truncated)
}

fn hang(
    level: Vec<Seen>,
    below: &mut BTreeMap<ServiceKey, Vec<Seen>>,
    left: &mut usize,
    truncated: &mut bool,
) -> Vec<Node> {
    let fit = level.len().min(*left);
    *truncated |= fit < level.len();
    *left -= fit;
    let mut nodes = Vec::with_capacity(fit);
    for seen in level.into_iter().take(fit) {
        let row = &seen.entry.row;
        // Three kinds deep at most: the tree of kinds bounds the recursion.
        let children = below.remove(&row.key).unwrap_or_default();
        nodes.push(Node {
            kind: row.key.kind,
            id: row.key.id.to_string(),
            checker_kind: row.checker_kind.as_ref().map(ToString::to_string),
            status: row.status,
            presence: presence_of(seen.sight.as_ref()),
            health: health_of(row),
            children: hang(children, below, left, truncated),
        });
    }
    nodes
}

impl State {
    /// Counts of a scope, as fresh as they must be.
    pub(super) fn count(&self, scope: &Scope) -> Arc<Count> {
        self.counting.of(&self.registry, scope, &self.counted_labels)
    }
}

#[cfg(test)]
mod tests;
