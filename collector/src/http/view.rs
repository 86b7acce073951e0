//! The shapes of the HTTP API. They are its contract: domain types may change behind them, these may not.
//!
//! Everything here is data on its way out; nothing is read from the network into these types.

use std::collections::BTreeMap;

use rollcall_common::{
    health::{Health, HealthReport, HostFacts, Progress},
    id::{Kind, ServiceKey, TrustDomain},
    identity::PeerId,
    lease::Presence,
    lifecycle::Status,
    service::{Pairs, Source},
    time::{Now, Timestamp},
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    openapi::words,
    scan::{Seen, presence_of},
};
use crate::{
    registry::{
        about::proposed,
        children::Told,
        leases::Phase,
        links::Link,
        maintenance::Cover,
        settings::{Standing, progress_of},
        tokens::TokenState,
    },
    store::rows::{AuditEvent, IdRule, IdentityRow, IntervalRow, TokenRow},
};

/// A moment, printed as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub Timestamp);

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        words::Time::schema()
    }
}

impl ToSchema for Time {}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A service, as lists show it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ServiceView {
    /// What it is.
    #[schema(value_type = words::Kind)]
    pub kind: Kind,
    /// Its id within the kind.
    pub id: String,
    /// The parent's id.
    pub parent: Option<String>,
    /// For checkers, the poller above the parent.
    pub poller: Option<String>,
    /// For checkers.
    pub checker_kind: Option<String>,
    /// The onboarding package's component.
    pub component_id: Option<String>,
    /// Its lifecycle status.
    #[schema(value_type = words::Status)]
    pub status: Status,
    /// Since when it has that status.
    pub status_since: Time,
    /// What is observed.
    #[schema(value_type = words::Presence)]
    pub presence: Presence,
    /// Why there is no verdict; only with `unknown`.
    pub presence_reason: Option<&'static str>,
    /// Whose word it is: `own` for a sidecar's beats, `parent` for a parent's reports; `null` before the first.
    #[schema(value_type = Option<words::Origin>)]
    pub presence_origin: Option<&'static str>,
    /// Whether the presence is in the durable history already; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<bool>,
    /// What is said of it.
    pub health: HealthView,
    /// Whether it gets on with its work: a fact beside its health.
    #[schema(value_type = words::Progress)]
    pub progress: Progress,
    /// Why, in words.
    pub progress_reason: String,
    /// When that was said.
    pub progress_as_of: Option<Time>,
    /// Where the settings stand that are wanted of its sidecar.
    #[schema(value_type = words::SettingsStanding)]
    pub settings: &'static str,
    /// How it was registered.
    #[schema(value_type = words::Source)]
    pub source: Source,
    /// When it was registered.
    pub first_registered: Time,
    /// Its first heartbeat.
    pub first_seen: Option<Time>,
    /// Its last heartbeat.
    pub last_seen: Option<Time>,
    /// Stands in the tree for what has no sidecar.
    pub placeholder: bool,
    /// Whether its sidecar may register children that are not known yet.
    pub implicit_children: bool,
    /// How long after its goodbye or loss it is removed, in seconds; `null` = never by itself.
    pub ephemeral_after_secs: Option<u32>,
    /// Revoked by the archive job; it is reinstated when it returns.
    pub archived: bool,
    /// The identity bound to it; where none is, the one that it was registered with.
    pub spiffe_identity: Option<String>,
    /// Who registered it.
    pub created_by: String,
    /// Labels.
    #[schema(value_type = words::Pairs)]
    pub labels: BTreeMap<String, String>,
    /// Free metadata.
    #[schema(value_type = words::Pairs)]
    pub metadata: BTreeMap<String, String>,
    /// The granted interval, in milliseconds, once there was a heartbeat.
    pub interval_ms: Option<u32>,
    /// The granted time to live, in milliseconds, once there was a heartbeat.
    pub ttl_ms: Option<u32>,
    /// Where its sidecar is connected from now.
    pub connected_from: Option<String>,
    /// What carries that connection: `quic`, or `tcp` where the way lets no UDP pass.
    #[schema(value_type = Option<words::Transport>)]
    pub transport: Option<&'static str>,
    /// That it is being worked on, and until when; `null` = it is not.
    pub maintenance: Option<MaintenanceView>,
    /// How many services have it as their parent.
    pub children: u32,
    /// For pollers: the agents below it.
    pub agent_count: Option<u32>,
    /// For pollers and agents: the checkers below it.
    pub checker_count: Option<u32>,
    /// The seq of its last change.
    pub seq: u64,
}

/// That a service is being worked on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MaintenanceView {
    /// The window; of several the one that ends last.
    pub id: String,
    /// Until when.
    pub until: Time,
    /// Why.
    pub reason: String,
}

/// What is said of a service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct HealthView {
    /// The word.
    #[schema(value_type = words::Health)]
    pub health: Health,
    /// Why, in words.
    pub reason: String,
    /// When it was said.
    pub as_of: Option<Time>,
}

/// A service with everything that is known of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ServiceDetail {
    /// As in lists.
    #[serde(flatten)]
    pub service: ServiceView,
    /// Its identity, if one is bound.
    pub identity: Option<IdentityView>,
    /// The machine that the identity is used on, once its sidecar has told: the same tag for the same machine.
    #[schema(value_type = Option<words::Machine>)]
    pub machine: Option<String>,
    /// Since when.
    pub machine_since: Option<Time>,
    /// The machine that it was used on before, under the same enrollment: its disk was moved or copied, or its id renewed.
    #[schema(value_type = Option<words::Machine>)]
    pub machine_before: Option<String>,
    /// Labels that its host proposes and that are not in force. No host labels itself: an operator does.
    #[schema(value_type = words::Pairs)]
    pub announced_labels: BTreeMap<String, String>,
    /// What its sidecar told of its host.
    pub host: Option<HostView>,
    /// What a parent last said of it. For a service with an identity it is shown here and counts for nothing.
    pub parent_report: Option<ParentReportView>,
}

/// What a parent's sidecar said of a service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ParentReportView {
    /// Who said it, as `kind/id`.
    #[schema(value_type = words::Key)]
    pub by: String,
    /// What it said, and when.
    pub health: HealthView,
    /// The interval that it promised, in milliseconds.
    pub interval_ms: u32,
}

impl ParentReportView {
    fn of(told: &Told, now: Now) -> Self {
        let said = (told.report.clone(), now.wall_of(told.at));
        Self { by: told.by.to_string(), health: HealthView::of(Some(&said)), interval_ms: told.interval_ms }
    }
}

/// A bound identity.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct IdentityView {
    /// The serial of the certificate in use.
    pub serial: String,
    /// Its generation.
    pub generation: u64,
    /// Its end.
    pub not_after: Time,
    /// Whether another certificate was issued and not yet presented.
    pub renewing: bool,
    /// The token that bound it.
    pub enrolled_via: String,
    /// When.
    pub enrolled_at: Time,
    /// Rejoins so far.
    pub rejoins: u32,
    /// Rejoins allowed; `null` = without limit.
    pub rejoin_limit: Option<u32>,
}

/// A host as its sidecar told it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct HostView {
    /// Its name.
    pub hostname: String,
    /// Distribution.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Seconds since boot, when it was told.
    pub uptime_secs: u64,
    /// Version of the sidecar.
    pub agent_version: String,
}

/// What every service of an answer is seen with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Light<'a> {
    /// The collector's clocks.
    pub now: Now,
    /// The deployment.
    pub trust_domain: &'a TrustDomain,
    /// Who is being worked on.
    pub cover: &'a Cover,
    /// Whether the presence rows are all in the store; `None` = some are on their way, unknown which.
    pub recorded: Option<bool>,
}

impl ServiceView {
    /// Shows a service.
    #[must_use]
    pub(super) fn of(seen: &Seen, link: Option<&Link>, light: Light<'_>) -> Self {
        let row = &seen.entry.row;
        let sight = seen.sight.as_ref();
        let beaten = sight.and_then(|sight| sight.last_seen(light.now));
        let granted = sight.filter(|sight| sight.pace.ttl_ms > 0).map(|sight| sight.pace);
        Self {
            kind: row.key.kind,
            id: row.key.id.to_string(),
            parent: row.parent.as_ref().map(ToString::to_string),
            poller: row.poller.as_ref().map(ToString::to_string),
            checker_kind: row.checker_kind.as_ref().map(ToString::to_string),
            component_id: row.component_id.clone(),
            status: row.status,
            status_since: Time(row.status_since),
            presence: presence_of(sight),
            presence_reason: sight.and_then(|sight| sight.unknown).map(|why| why.as_str()),
            presence_origin: sight
                .filter(|sight| !matches!(sight.phase, Phase::Vacant | Phase::NeverSeen))
                .map(|sight| sight.origin.as_str()),
            recorded: light.recorded,
            health: HealthView::of(row.health.as_ref()),
            progress: progress_of(row),
            progress_reason: row.progress.as_ref().map(|(report, _)| report.reason.to_string()).unwrap_or_default(),
            progress_as_of: row.progress.as_ref().map(|(_, at)| Time(*at)),
            settings: Standing::of(row).as_str(),
            source: row.source,
            first_registered: Time(row.first_registered),
            first_seen: row.first_seen.map(Time),
            last_seen: row.last_seen.max(beaten).map(Time),
            placeholder: row.placeholder,
            implicit_children: row.implicit_children,
            ephemeral_after_secs: row.ephemeral_after,
            archived: row.archived,
            spiffe_identity: match &seen.entry.identity {
                Some(_) => Some(spiffe(light.trust_domain, &row.key)),
                None => row.declared_spiffe.as_ref().map(ToString::to_string),
            },
            created_by: row.created_by.clone(),
            labels: map(&row.labels),
            metadata: map(&row.metadata),
            interval_ms: granted.map(|pace| pace.interval_ms),
            ttl_ms: granted.map(|pace| pace.ttl_ms),
            connected_from: link.map(|link| link.peer.to_string()),
            transport: link.map(|link| link.transport.as_str()),
            maintenance: light.cover.of(row).map(|covering| MaintenanceView {
                id: covering.id.to_string(),
                until: Time(covering.until),
                reason: covering.reason.to_string(),
            }),
            children: seen.below.children,
            agent_count: (row.key.kind == Kind::Poller).then_some(seen.below.children),
            checker_count: matches!(row.key.kind, Kind::Poller | Kind::Agent).then_some(seen.below.checkers),
            seq: row.seq.0,
        }
    }
}

impl ServiceDetail {
    /// Shows a service with everything.
    #[must_use]
    pub(super) fn of(seen: &Seen, link: Option<&Link>, told: Option<&Told>, light: Light<'_>) -> Self {
        let machine = seen.entry.identity.as_ref().and_then(|identity| identity.machine);
        let row = &seen.entry.row;
        let differing = row.announced.as_deref().into_iter().flat_map(|said| proposed(said, &row.labels));
        Self {
            machine: machine.map(|machine| machine.tag.to_string()),
            machine_since: machine.map(|machine| Time(machine.since)),
            machine_before: machine.and_then(|machine| machine.before).map(|tag| tag.to_string()),
            announced_labels: differing.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            service: ServiceView::of(seen, link, light),
            identity: seen.entry.identity.as_deref().map(IdentityView::of),
            host: seen.entry.row.facts.as_ref().map(HostView::of),
            parent_report: told.map(|told| ParentReportView::of(told, light.now)),
        }
    }
}

impl HealthView {
    fn of(said: Option<&(HealthReport, Timestamp)>) -> Self {
        match said {
            Some((report, at)) => {
                Self { health: report.health, reason: report.reason.to_string(), as_of: Some(Time(*at)) }
            }
            None => Self { health: Health::Unchecked, reason: String::new(), as_of: None },
        }
    }
}

impl IdentityView {
    fn of(row: &IdentityRow) -> Self {
        Self {
            serial: row.current.serial.to_string(),
            generation: row.current.serial.generation().0,
            not_after: Time(row.current.not_after),
            renewing: row.pending.is_some(),
            enrolled_via: row.enrolled_via.to_string(),
            enrolled_at: Time(row.enrolled_at),
            rejoins: row.rejoins,
            rejoin_limit: row.rejoin_limit,
        }
    }
}

impl HostView {
    fn of(facts: &HostFacts) -> Self {
        Self {
            hostname: facts.hostname.to_string(),
            os: facts.os.to_string(),
            kernel: facts.kernel.to_string(),
            arch: facts.arch.to_string(),
            cpus: facts.cpus,
            memory_mib: facts.memory_mib,
            uptime_secs: facts.uptime_secs,
            agent_version: facts.agent_version.to_string(),
        }
    }
}

fn spiffe(trust_domain: &TrustDomain, key: &ServiceKey) -> String {
    PeerId::service(trust_domain.clone(), key.clone()).to_string()
}

fn map(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// An onboarding token without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct TokenView {
    /// Its public half.
    pub id: String,
    /// Where it stands: `usable`, `not_yet_valid`, `expired`, `exhausted` or `revoked`.
    #[schema(value_type = words::TokenState)]
    pub state: &'static str,
    /// The kind it registers.
    #[schema(value_type = words::Kind)]
    pub kind: Kind,
    /// The parent it binds to; `null` leaves the choice to the sidecar.
    pub parent: Option<String>,
    /// How a label of the sidecar finds its parent.
    pub parent_rule: Option<ParentRuleView>,
    /// What id it gives.
    pub id_rule: IdRuleView,
    /// For checkers.
    pub checker_kind: Option<String>,
    /// How many keys may use it.
    pub max_uses: u32,
    /// How many did.
    pub uses: u32,
    /// Not before.
    pub not_before: Time,
    /// Not after.
    pub expires_at: Time,
    /// Source addresses allowed; empty = any.
    pub cidr_allow: Vec<String>,
    /// Labels that every service gets.
    #[schema(value_type = words::Pairs)]
    pub labels: BTreeMap<String, String>,
    /// Rejoins allowed to each identity; `null` = without limit.
    pub rejoin_limit: Option<u32>,
    /// Who decides on each enrollment: `auto` or `manual`.
    #[schema(value_type = words::Approval)]
    pub approval: &'static str,
    /// How long after its goodbye or loss a service is removed; `null` = never by itself.
    pub ephemeral_after_secs: Option<u32>,
    /// Whether the sidecars that it enrolls may register children that are not known yet.
    pub implicit_children: bool,
    /// A note of the maker's.
    pub note: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Time,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
    /// Its last use.
    pub last_used_at: Option<Time>,
    /// From where.
    pub last_used_from: Option<String>,
    /// The seq of its last change.
    pub seq: u64,
}

/// What id a token gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub(super) enum IdRuleView {
    /// Exactly this one.
    Fixed {
        /// The id.
        id: String,
    },
    /// Any with this prefix.
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// Any that follows this pattern.
    Pattern {
        /// The pattern, with `*` and `?`.
        pattern: String,
    },
    /// One that the collector makes up.
    Assigned,
}

/// How a label finds the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ParentRuleView {
    /// The label.
    pub label: String,
    /// The parent's id, with `{}` for the label's value.
    pub parent: String,
}

impl TokenView {
    /// Shows a token.
    #[must_use]
    pub(super) fn of(row: &TokenRow, now: Timestamp) -> Self {
        let policy = &row.policy;
        Self {
            id: row.id.to_string(),
            state: TokenState::of(row, now).as_str(),
            kind: policy.kind,
            parent: policy.parent.as_ref().map(ToString::to_string),
            parent_rule: policy
                .parent_rule
                .as_ref()
                .map(|rule| ParentRuleView { label: rule.label().into(), parent: rule.template().into() }),
            id_rule: match &policy.id_rule {
                IdRule::Fixed(id) => IdRuleView::Fixed { id: id.to_string() },
                IdRule::Prefix(prefix) => IdRuleView::Prefix { prefix: prefix.clone() },
                IdRule::Pattern(pattern) => IdRuleView::Pattern { pattern: pattern.to_string() },
                IdRule::Assigned => IdRuleView::Assigned,
            },
            checker_kind: policy.checker_kind.as_ref().map(ToString::to_string),
            max_uses: policy.max_uses,
            uses: row.uses,
            not_before: Time(policy.not_before),
            expires_at: Time(policy.expires_at),
            cidr_allow: policy.cidr_allow.iter().map(ToString::to_string).collect(),
            labels: map(&policy.labels),
            rejoin_limit: policy.rejoin_limit,
            approval: policy.approval.as_str(),
            ephemeral_after_secs: policy.ephemeral_after,
            implicit_children: policy.implicit_children,
            note: row.note.clone(),
            created_by: row.created_by.clone(),
            created_at: Time(row.created_at),
            revoked_at: row.revoked_at.map(Time),
            last_used_at: row.last_used_at.map(Time),
            last_used_from: row.last_used_from.clone(),
            seq: row.seq.0,
        }
    }
}

/// A token at its creation: the only answer that ever holds the secret.
#[derive(Serialize, ToSchema)]
pub(super) struct NewTokenView<'a> {
    /// The whole token.
    #[schema(value_type = words::Token)]
    pub token: &'a str,
    /// Where sidecars will dial.
    pub addresses: Vec<String>,
    /// As in lists.
    #[serde(flatten)]
    pub view: TokenView,
}

/// An audit event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct AuditView {
    /// Its place in the commit order.
    pub seq: u64,
    /// When.
    pub at: Time,
    /// What.
    pub action: String,
    /// Who.
    pub actor: String,
    /// Of what.
    pub object: String,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// Details, before and after.
    #[schema(value_type = words::Details)]
    pub details: BTreeMap<String, Value>,
}

impl AuditView {
    /// Shows an event.
    #[must_use]
    pub(super) fn of(event: AuditEvent) -> Self {
        let draft = event.draft;
        Self {
            seq: event.seq.0,
            at: Time(draft.at),
            action: draft.action,
            actor: draft.actor,
            object: draft.object,
            request_id: draft.request_id,
            details: draft.details,
        }
    }
}

/// A row of presence history.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct IntervalView {
    /// Begin.
    pub from: Time,
    /// End; `null` while it lasts.
    pub to: Option<Time>,
    /// What was observed.
    #[schema(value_type = words::Presence)]
    pub presence: Presence,
    /// Why, in one word.
    pub cause: String,
    /// What the verdict rests on.
    #[schema(value_type = words::Anything)]
    pub evidence: Value,
    /// When the verdict fell.
    pub decided_at: Time,
    /// When it was durable.
    pub recorded_at: Option<Time>,
    /// When a later finding replaced it.
    pub superseded_at: Option<Time>,
    /// The boot of the collector that saw it.
    pub boot_id: String,
}

impl IntervalView {
    /// Shows a row.
    #[must_use]
    pub(super) fn of(row: IntervalRow) -> Self {
        Self {
            from: Time(row.from),
            to: row.to.map(Time),
            presence: row.presence,
            cause: row.cause,
            evidence: row.evidence,
            decided_at: Time(row.decided_at),
            recorded_at: row.recorded_at.map(Time),
            superseded_at: row.superseded_at.map(Time),
            boot_id: row.boot_id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
