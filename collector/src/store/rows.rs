//! What the registry store holds, in domain words.

mod answers;
mod approvals;
mod audit;
mod packages;
mod seal;
mod settings;
mod tokens;
mod upkeep;

use std::sync::Arc;

use rollcall_common::{
    health::{HealthReport, HostFacts, ProgressReport},
    id::{BootId, CollectorName, Generation, Kind, Seq, ServiceId, ServiceKey, SpiffeId},
    identity::{Pin, Serial},
    lease::Presence,
    lifecycle::Status,
    service::{CheckerKind, Pairs, Source},
    time::{BootTime, Timestamp},
    token::{SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};

pub use self::answers::{AnswerKey, AnswerRow, Fingerprint};
pub use self::approvals::{ApprovalRow, ApprovalState, Door, KnockRow, Why};
pub use self::audit::{AuditDraft, AuditEvent, AuditQuery};
pub use self::packages::{PackageId, PackageIdError, PackageRow, PackageSettings, PackageStatus, PackageStatusError};
pub use self::seal::{SealHash, SealRow};
pub use self::settings::{AnnouncedRow, MachineRow, ReportedRow, SettingsRow};
pub use self::tokens::{Approval, IdRule, TokenPolicy, TokenRow, TokenUse};
pub use self::upkeep::{
    HoldRow, JobRow, Outcome, Outlived, Prune, Recurrence, RowId, RowIdError, RunCause, RunRow, Selector,
    ServiceKeyText, WindowRow,
};
use super::Position;
pub use crate::{cidr::Cidr, scope::Scope};

/// One registered service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// Who.
    pub key: ServiceKey,
    /// The parent's id; its kind follows from this one's.
    pub parent: Option<ServiceId>,
    /// For checkers, the grandparent.
    pub poller: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// The onboarding package's component, if any.
    pub component_id: Option<String>,
    /// How it was registered.
    pub source: Source,
    /// Labels.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Stands in the tree for what has no sidecar: none is expected of it.
    pub placeholder: bool,
    /// The SPIFFE id that it was registered with; a bound identity has its own.
    pub declared_spiffe: Option<SpiffeId>,
    /// How long after its goodbye or loss it is removed, in seconds; `None` = never by itself.
    pub ephemeral_after: Option<u32>,
    /// Whether its sidecar may register children that are not known yet.
    pub implicit_children: bool,
    /// Who registered it.
    pub created_by: String,
    /// When it was registered.
    pub first_registered: Timestamp,
    /// Its first heartbeat, set once.
    pub first_seen: Option<Timestamp>,
    /// Its last heartbeat, as of the last flush.
    pub last_seen: Option<Timestamp>,
    /// Where it stands.
    pub status: Status,
    /// Since when.
    pub status_since: Timestamp,
    /// Revoked by the archive job, not by an operator: it is reinstated when it returns.
    pub archived: bool,
    /// What was last said of it, and when.
    pub health: Option<(HealthReport, Timestamp)>,
    /// What its sidecar last told of its host.
    pub facts: Option<HostFacts>,
    /// What was last said of its progress, and when.
    pub progress: Option<(ProgressReport, Timestamp)>,
    /// What operators want of its sidecar; `None` = never anything.
    pub settings: Option<Arc<SettingsRow>>,
    /// What its sidecar last said of the settings in force.
    pub reported: Option<Arc<ReportedRow>>,
    /// What its host proposed last.
    pub announced: Option<Arc<AnnouncedRow>>,
    /// The seq of the last change of this row: what a compare-and-set compares.
    pub seq: Seq,
}

/// What operators say of a service, at its registration and at any time later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The onboarding package's component, if any.
    pub component_id: Option<String>,
    /// Labels.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Stands in the tree for what has no sidecar.
    pub placeholder: bool,
    /// The SPIFFE id that it was registered with.
    pub declared_spiffe: Option<SpiffeId>,
    /// How long after its goodbye or loss it is removed, in seconds.
    pub ephemeral_after: Option<u32>,
    /// Whether its sidecar may register children that are not known yet.
    pub implicit_children: bool,
}

impl ServiceRow {
    /// A row as it is registered: pending, never heard.
    #[must_use]
    pub fn fresh(
        key: ServiceKey,
        (parent, poller): (Option<ServiceId>, Option<ServiceId>),
        source: Source,
        created_by: String,
        said: Said,
        at: Timestamp,
    ) -> Self {
        Self {
            key,
            parent,
            poller,
            checker_kind: None,
            component_id: said.component_id,
            source,
            labels: said.labels,
            metadata: said.metadata,
            placeholder: said.placeholder,
            declared_spiffe: said.declared_spiffe,
            ephemeral_after: said.ephemeral_after,
            implicit_children: said.implicit_children,
            created_by,
            first_registered: at,
            first_seen: None,
            last_seen: None,
            status: Status::Pending,
            status_since: at,
            archived: false,
            health: None,
            facts: None,
            progress: None,
            settings: None,
            reported: None,
            announced: None,
            seq: Seq::default(),
        }
    }

    /// What operators say of it.
    #[must_use]
    pub fn said(&self) -> Said {
        Said {
            component_id: self.component_id.clone(),
            labels: self.labels.clone(),
            metadata: self.metadata.clone(),
            placeholder: self.placeholder,
            declared_spiffe: self.declared_spiffe.clone(),
            ephemeral_after: self.ephemeral_after,
            implicit_children: self.implicit_children,
        }
    }

    /// Has operators say something else.
    pub fn say(&mut self, said: &Said) {
        let Said { component_id, labels, metadata, placeholder, declared_spiffe, ephemeral_after, implicit_children } =
            said.clone();
        self.component_id = component_id;
        self.labels = labels;
        self.metadata = metadata;
        self.placeholder = placeholder;
        self.declared_spiffe = declared_spiffe;
        self.ephemeral_after = ephemeral_after;
        self.implicit_children = implicit_children;
    }
}

/// One certificate of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRow {
    /// Its serial, with the generation inside.
    pub serial: Serial,
    /// SHA-256 of its key.
    pub key: Pin,
    /// The key itself (DER `SubjectPublicKeyInfo`), to verify a rejoin.
    pub spki: Vec<u8>,
    /// Its end.
    pub not_after: Timestamp,
}

/// The identity bound to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRow {
    /// Whose.
    pub service: ServiceKey,
    /// The certificate in use.
    pub current: CertRow,
    /// Issued, not yet used: becomes current when it is first presented.
    pub pending: Option<CertRow>,
    /// The token that bound it.
    pub enrolled_via: TokenId,
    /// When.
    pub enrolled_at: Timestamp,
    /// Rejoins counted since `rejoins_since`.
    pub rejoins: u32,
    /// Begin of that count.
    pub rejoins_since: Timestamp,
    /// How many are allowed; `None` = without limit.
    pub rejoin_limit: Option<u32>,
    /// The machine that it is used on, once its sidecar has told.
    pub machine: Option<MachineRow>,
}

impl IdentityRow {
    /// The highest generation issued so far.
    #[must_use]
    pub fn latest(&self) -> Generation {
        let current = self.current.serial.generation();
        self.pending.as_ref().map_or(current, |p| p.serial.generation().max(current))
    }
}

/// A bearer credential for the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    /// Which.
    pub id: TokenId,
    /// What proves it.
    pub hash: SecretHash,
    /// The role it gives: a word of `http/access`.
    pub role: String,
    /// Which part of the deployment it reaches.
    pub scope: Scope,
    /// What the tokens of an enroller may be.
    pub policy: Option<Box<EnrollPolicy>>,
    /// A note of the maker's.
    pub note: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was closed.
    pub revoked_at: Option<Timestamp>,
    /// Its last use, as of the last flush.
    pub last_used_at: Option<Timestamp>,
}

impl CredentialRow {
    /// A credential that reaches everything and has no end.
    #[must_use]
    pub fn new(id: TokenId, hash: SecretHash, role: &str, created_at: Timestamp) -> Self {
        Self {
            id,
            hash,
            role: role.into(),
            scope: Scope::everything(),
            policy: None,
            note: String::new(),
            created_by: "system".into(),
            created_at,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }

    /// Whether it can be used at a moment.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// What the tokens of an enroller may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollPolicy {
    /// The kinds it may let in.
    pub kinds: Vec<Kind>,
    /// Most uses of one token.
    pub max_uses: u32,
    /// Longest life of a token, in seconds.
    pub longest_secs: u64,
    /// What every id begins with; empty = no rule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id_prefix: String,
    /// The parents that may be named; empty = any, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ServiceId>,
    /// Labels that every token must carry.
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub labels: Pairs,
}

/// One row of presence history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalRow {
    /// Who.
    pub service: ServiceKey,
    /// Begin, dated back to the first missed beat for a loss.
    pub from: Timestamp,
    /// End; `None` while it lasts.
    pub to: Option<Timestamp>,
    /// What was observed; never `late`, which is computed when somebody looks.
    pub presence: Presence,
    /// Why, in one word: `first_beat`, `beat`, `ttl`, `goodbye`, `restart`, `stall`, `revoked`, …
    pub cause: String,
    /// What the verdict rests on.
    pub evidence: serde_json::Value,
    /// The collector's clock when the verdict fell.
    pub decided_at: Timestamp,
    /// The store's commit; filled in by the store.
    pub recorded_at: Option<Timestamp>,
    /// When a later finding replaced this row.
    pub superseded_at: Option<Timestamp>,
    /// The collector's boot.
    pub boot_id: BootId,
    /// `from` on that boot's clock.
    pub from_boot: BootTime,
}

/// That a collector was observing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverMark {
    /// Which collector.
    pub collector: CollectorName,
    /// Its host's boot.
    pub boot_id: BootId,
    /// The moment on that boot's clock.
    pub boot: BootTime,
    /// The moment on the wall clock.
    pub wall: Timestamp,
}

/// What could not be observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlindScope {
    /// One collector.
    Collector(CollectorName),
    /// One store, by its name.
    Store(String),
    /// Everything.
    Everything,
}

/// A time that could not be observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlindRow {
    /// What.
    pub scope: BlindScope,
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
    /// Why, in one word: `restart`, `stall`, `store_outage`, `flush`, `clock_step`.
    pub cause: String,
}

/// Everything that a collector holds in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Where the store stands.
    pub position: Position,
    /// All services.
    pub services: Vec<ServiceRow>,
    /// All identities.
    pub identities: Vec<IdentityRow>,
    /// Serials that are refused although they verify: of revoked, deleted or replaced identities, until
    /// their certificates end.
    pub denied: Vec<(Serial, Timestamp)>,
    /// All tokens.
    pub tokens: Vec<TokenRow>,
    /// Which keys used them.
    pub token_uses: Vec<TokenUse>,
    /// All credentials.
    pub credentials: Vec<CredentialRow>,
    /// The interval that lasts, for each service that has one.
    pub open_intervals: Vec<IntervalRow>,
    /// The last observing mark of each collector.
    pub marks: Vec<ObserverMark>,
    /// All jobs that have a record.
    pub jobs: Vec<JobRow>,
    /// What holds jobs back.
    pub holds: Vec<HoldRow>,
    /// All maintenance windows.
    pub windows: Vec<WindowRow>,
    /// All onboarding packages.
    pub packages: Vec<PackageRow>,
    /// Enrollments that an operator decides on.
    pub approvals: Vec<ApprovalRow>,
    /// Who was turned away.
    pub knocks: Vec<KnockRow>,
    /// Answers to requests that named themselves.
    pub answers: Vec<AnswerRow>,
}

/// One compare-and-set with its audit events: all of it happens, or none.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What is written, in order.
    pub writes: Vec<Write>,
    /// What is told of it; may be empty for what operators did not ask to be told.
    pub audit: Vec<AuditDraft>,
}

impl Change {
    /// Makes two changes one.
    pub fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.audit.extend(other.audit);
    }
}

/// One write. A failed precondition is a [`Conflict`]. A change may write a row more than once: its own
/// earlier writes do not make its later expectations stale.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds a service; conflicts with [`Conflict::Exists`]. The row's `seq` is ignored: the store gives one.
    InsertService(Box<ServiceRow>),
    /// Moves a service to a status. Takes a seq.
    SetStatus {
        /// Who.
        service: ServiceKey,
        /// Precondition: the row's seq, else [`Conflict::Stale`] or [`Conflict::Missing`].
        expect: Seq,
        /// Where to.
        to: Status,
        /// When.
        at: Timestamp,
        /// Sets `first_seen` where it is not set yet, and moves `last_seen` forward.
        seen: Option<Timestamp>,
        /// Whether it is archived from now on.
        archived: bool,
    },
    /// Replaces the free fields that an enrollment may bring to an adopted row. Takes a seq.
    Describe {
        /// Who.
        service: ServiceKey,
        /// Precondition, as above.
        expect: Seq,
        /// New labels.
        labels: Pairs,
        /// New metadata.
        metadata: Pairs,
    },
    /// Replaces what operators say of a service, and nothing else. Takes a seq.
    Edit {
        /// Who.
        service: ServiceKey,
        /// Precondition, as above.
        expect: Seq,
        /// All of it.
        said: Box<Said>,
    },
    /// Keeps what was last said of a service. Health takes a seq, facts alone take none; the row's own seq, which
    /// edits compare, stays. Has no precondition but that it exists ([`Conflict::Missing`]).
    Note {
        /// Who.
        service: ServiceKey,
        /// Health with its time, if it changed.
        health: Option<(HealthReport, Timestamp)>,
        /// Facts, if they changed.
        facts: Option<HostFacts>,
    },
    /// Keeps what was last said of a service's progress. Takes a seq, which the row does not keep;
    /// [`Conflict::Missing`] where there is no such service.
    Progress {
        /// Who.
        service: ServiceKey,
        /// What was said, and when.
        said: (ProgressReport, Timestamp),
    },
    /// Replaces the settings that operators want of a service's sidecar. Takes a seq.
    PutSettings {
        /// Who.
        service: ServiceKey,
        /// Precondition, as above.
        expect: Seq,
        /// All of them.
        row: Arc<SettingsRow>,
    },
    /// Keeps what a sidecar said of the settings in force, or forgets it. Takes a seq, which the row does not keep;
    /// [`Conflict::Missing`] where there is no such service.
    KeepReported {
        /// Who.
        service: ServiceKey,
        /// What it said.
        row: Option<Arc<ReportedRow>>,
    },
    /// Keeps what a host proposes, and the metadata that are in force with it. Takes a seq.
    Announce {
        /// Who.
        service: ServiceKey,
        /// Precondition, as above.
        expect: Seq,
        /// What it proposes.
        row: Arc<AnnouncedRow>,
        /// The metadata from now on.
        metadata: Pairs,
    },
    /// Removes a service, its identity and its intervals. The audit trail stays. Takes a seq.
    RemoveService {
        /// Who.
        service: ServiceKey,
        /// Precondition, as above.
        expect: Seq,
    },
    /// Binds or replaces the identity of a service; conflicts with [`Conflict::KeyInUse`] where one of its
    /// keys belongs to another identity, and with [`Conflict::Stale`] where the bound generation
    /// (the latest, current or pending) is not the expected one (`None` = none bound). A service that is not
    /// there is [`Conflict::Missing`]. Keys that the row no longer names are free again. Takes a seq, which
    /// the service's row does not keep.
    PutIdentity {
        /// The whole row.
        row: Box<IdentityRow>,
        /// Precondition: the latest generation bound so far.
        expect: Option<Generation>,
    },
    /// Unbinds the identity of a service, if there is one: then it takes a seq.
    DropIdentity(ServiceKey),
    /// Refuses a serial until its certificate ends; of two refusals the longer one holds.
    Deny {
        /// Which.
        serial: Serial,
        /// The certificate's end: after it the row can go.
        until: Timestamp,
    },
    /// Takes a refusal back.
    Allow(Serial),
    /// Adds a token; conflicts with [`Conflict::Exists`]. Takes a seq, in place of the row's own.
    InsertToken(Box<TokenRow>),
    /// Revokes a token; [`Conflict::Missing`] or [`Conflict::TokenEnded`] where it is revoked already. Takes a seq.
    RevokeToken {
        /// Which.
        token: TokenId,
        /// When.
        at: Timestamp,
    },
    /// Uses a token with a key. For a key that used it before this writes nothing, takes no seq and passes.
    /// Otherwise it conflicts with [`Conflict::TokenEnded`] where the token is revoked, expired or not yet
    /// valid at `at` (both ends of its time included), and with [`Conflict::TokenSpent`] where no uses are
    /// left; [`Conflict::Missing`] where there is no such token. Takes a seq.
    UseToken {
        /// Which.
        token: TokenId,
        /// The key.
        key: Pin,
        /// The service it is used for.
        service: ServiceKey,
        /// When, on the collector's clock.
        at: Timestamp,
        /// From where.
        from: String,
    },
    /// Removes a token, who used it and who asked with it; [`Conflict::Missing`] where there is none. Takes no seq.
    RemoveToken(TokenId),
    /// Adds or replaces the request of a key with a token; [`Conflict::Missing`] where there is no such token.
    /// Takes a seq.
    PutApproval(Box<ApprovalRow>),
    /// Removes a request, if there is one. Takes no seq.
    DropApproval(RowId),
    /// Adds a credential; conflicts with [`Conflict::Exists`].
    InsertCredential(CredentialRow),
    /// Moves a credential's last use forward, never back; takes no seq. Unknown ones are passed over.
    TouchCredential {
        /// Which.
        id: TokenId,
        /// When.
        at: Timestamp,
    },
    /// Closes a credential; [`Conflict::Missing`] where there is none. One that is closed already keeps its
    /// moment, and the write passes. Takes no seq.
    RevokeCredential {
        /// Which.
        id: TokenId,
        /// When.
        at: Timestamp,
    },
    /// Closes the lasting interval of a service, if there is one, and begins another; conflicts with
    /// [`Conflict::Missing`]. An interval is never closed before its begin. Takes a seq, which the service's row
    /// does not keep.
    BeginInterval(Box<IntervalRow>),
    /// Keeps the record of a job, in place of an earlier one. Takes no seq.
    PutJob(Box<JobRow>),
    /// Keeps a hold, in place of an earlier one of its name. Takes no seq.
    PutHold(Box<HoldRow>),
    /// Takes a hold away, if there is one. Takes no seq.
    DropHold(String),
    /// Adds a maintenance window, or replaces the one of its id: [`Conflict::Stale`] where that one's seq is not
    /// the expected one, [`Conflict::Missing`] where one is expected and none is there, [`Conflict::Exists`] where
    /// none is expected. Takes a seq, in place of the row's own.
    PutWindow {
        /// The whole row.
        row: Box<WindowRow>,
        /// Precondition: the seq of the row that is replaced; `None` = there is none.
        expect: Option<Seq>,
    },
    /// Removes a maintenance window, if it is there. Takes no seq.
    DropWindow(RowId),
    /// Adds an onboarding package, or replaces the one of its id, as [`Write::PutWindow`] does with windows. Takes a
    /// seq, in place of the row's own.
    PutPackage {
        /// The whole row.
        row: Box<PackageRow>,
        /// Precondition: the seq of the row that is replaced; `None` = there is none.
        expect: Option<Seq>,
    },
    /// Removes an onboarding package, if it is there. Takes no seq.
    DropPackage(PackageId),
    /// Keeps the answer to a request; conflicts with [`Conflict::Exists`]. Takes no seq: the row gets the last one
    /// that its change took before it, in place of its own, and 0 where it took none.
    KeepAnswer(Box<AnswerRow>),
    /// Forgets an answer, if it is there. Takes no seq.
    ForgetAnswer(AnswerKey),
}

/// A change that met another state than it expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The service exists already.
    #[error("it exists already")]
    Exists,
    /// The row is not there.
    #[error("it does not exist")]
    Missing,
    /// The row changed in between: plan again.
    #[error("it changed in between")]
    Stale,
    /// A key belongs to another identity.
    #[error("the key belongs to another identity")]
    KeyInUse,
    /// The token has no uses left.
    #[error("the token has no uses left")]
    TokenSpent,
    /// The token is revoked, expired or not yet valid.
    #[error("the token is not valid now")]
    TokenEnded,
}

/// What a change was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For each write, in order, the seq its row took, if it takes one.
    pub rows: Vec<Option<Seq>>,
    /// The seqs of the audit events, in order.
    pub audit: Vec<Seq>,
    /// Where the store stands after the whole batch.
    pub position: Position,
}
