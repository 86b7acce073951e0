//! Rows as a test needs them: whole, plausible, told apart by one argument.

use std::{collections::BTreeMap, sync::Arc};

use rollcall_common::{
    health::{Health, HealthReport, HostFacts, Progress, ProgressReport, Text},
    id::{BootId, Generation, Kind, Seq, ServiceId, ServiceKey},
    identity::{Pin, Serial},
    lease::Presence,
    lifecycle::Status,
    machine::MachineTag,
    service::{Pairs, Source},
    time::{BootTime, Timestamp},
    token::{SecretHash, TokenId},
    wire::settings::{ProbeState, SettingsRefused, Tuning},
};

use crate::store::rows::{
    AnnouncedRow, AnswerKey, AnswerRow, Approval, ApprovalRow, ApprovalState, AuditDraft, CertRow, Change,
    CredentialRow, EnrollPolicy, Fingerprint, HoldRow, IdRule, IdentityRow, IntervalRow, JobRow, MachineRow, Outcome,
    PackageId, PackageRow, PackageSettings, PackageStatus, Recurrence, ReportedRow, RowId, RunCause, RunRow, Selector,
    ServiceKeyText, ServiceRow, SettingsRow, TokenPolicy, TokenRow, WindowRow, Write,
};

/// The moment at which samples happen.
pub const NOON: Timestamp = Timestamp(1_795_262_400_000);

/// A service's name, written `kind/id`.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn key(text: &str) -> ServiceKey {
    text.parse().unwrap_or_else(|error| unreachable!("{error}"))
}

/// One label.
#[must_use]
pub fn pairs(name: &str, value: &str) -> Pairs {
    let pairs = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    Pairs::try_from(pairs).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A pending service, with every field filled that may be.
#[must_use]
pub fn service(text: &str) -> ServiceRow {
    let key = key(text);
    let id = |text: &str| ServiceId::new(text).unwrap_or_else(|error| unreachable!("{error}"));
    ServiceRow {
        parent: key.kind.parent().map(|_| id("above")),
        poller: (key.kind == Kind::Checker).then(|| id("top")),
        checker_kind: (key.kind == Kind::Checker).then(|| id("snmp")),
        component_id: Some("component".into()),
        source: Source::EdgeOnboarding,
        labels: pairs("site", "Zürich 3"),
        metadata: pairs("rack", "7"),
        placeholder: true,
        declared_spiffe: "spiffe://k8s.example/ns/edge/sa/Disk_1".parse().ok(),
        ephemeral_after: Some(900),
        implicit_children: true,
        created_by: "credential:sample".into(),
        first_registered: NOON,
        first_seen: None,
        last_seen: None,
        status: Status::Pending,
        status_since: NOON,
        archived: true,
        health: Some((health(Health::Degraded, "a disk is full"), NOON)),
        facts: Some(facts("edge")),
        progress: Some((progress(Progress::Moving, "42 rows"), NOON)),
        settings: Some(settings(3)),
        reported: Some(reported(2)),
        announced: Some(announced("8")),
        seq: Seq(0),
        key,
    }
}

/// A statement about health.
#[must_use]
pub fn health(health: Health, reason: &str) -> HealthReport {
    HealthReport { health, reason: Text::fit(reason) }
}

/// A host.
#[must_use]
pub fn facts(hostname: &str) -> HostFacts {
    HostFacts { hostname: Text::fit(hostname), cpus: 2, memory_mib: 2_048, uptime_secs: 60, ..HostFacts::default() }
}

/// A statement about progress.
#[must_use]
pub fn progress(progress: Progress, reason: &str) -> ProgressReport {
    ProgressReport { progress, reason: Text::fit(reason) }
}

/// Settings that are wanted, with every field filled that may be.
#[must_use]
pub fn settings(revision: u64) -> Arc<SettingsRow> {
    let tuning = Tuning {
        child: Some(key("checker/disk")),
        probe: key("checker/port").id,
        run: Some(false),
        interval_ms: Some(60_000),
        timeout_ms: Some(5_000),
        rise: Some(1),
        fall: Some(4),
    };
    Arc::new(SettingsRow {
        revision,
        interval_ms: Some(60_000),
        ttl_ms: Some(180_000),
        probes: vec![tuning],
        set_by: "credential:sample".into(),
        set_at: NOON,
        paced_before: Some((10_000, 30_000)),
    })
}

/// What a sidecar said of settings, with every field filled that may be.
#[must_use]
pub fn reported(revision: u64) -> Arc<ReportedRow> {
    let probe = ProbeState {
        child: None,
        probe: key("checker/port").id,
        sort: Text::fit("tcp"),
        allowed: true,
        runs: true,
        interval_ms: 10_000,
        timeout_ms: 3_000,
        rise: 2,
        fall: 3,
    };
    Arc::new(ReportedRow {
        supported: true,
        revision,
        refused: Some(SettingsRefused { revision: revision + 1, why: Text::fit("\"port\" is not allowed") }),
        probes: vec![probe],
        more: 7,
        at: NOON,
        since: NOON,
        told: revision,
        told_applied: true,
        told_refused: false,
        paced: revision,
        unsaid: false,
    })
}

/// What a host proposes.
#[must_use]
pub fn announced(rack: &str) -> Arc<AnnouncedRow> {
    Arc::new(AnnouncedRow { labels: pairs("site", "Genève"), metadata: pairs("rack", rack) })
}

/// A machine.
#[must_use]
pub fn machine(n: u8) -> MachineRow {
    let tag = |n: u8| MachineTag::try_from(format!("{n:032x}")).unwrap_or_else(|error| unreachable!("{error}"));
    MachineRow { tag: tag(n), since: NOON, before: Some(tag(n.wrapping_add(1))) }
}

/// A key.
#[must_use]
pub fn pin(n: u8) -> Pin {
    Pin([n; 32])
}

/// A certificate of a generation for a key.
#[must_use]
pub fn cert(generation: u64, key: u8) -> CertRow {
    let serial = (1_u128 << 120) | (u128::from(generation) << 64) | u128::from(key);
    CertRow {
        serial: Serial(serial.to_be_bytes()),
        key: pin(key),
        spki: vec![key; 91],
        not_after: Timestamp(NOON.0 + 1_000 * i64::try_from(generation).unwrap_or(0)),
    }
}

/// An identity with a current certificate.
#[must_use]
pub fn identity(service: &str, generation: u64, key_no: u8) -> IdentityRow {
    IdentityRow {
        service: key(service),
        current: cert(generation, key_no),
        pending: None,
        enrolled_via: token_id(1),
        enrolled_at: NOON,
        rejoins: 1,
        rejoins_since: NOON,
        rejoin_limit: Some(3),
        machine: (generation > 1).then(|| machine(key_no)),
    }
}

/// The write that binds an identity.
#[must_use]
pub fn put(row: IdentityRow, expect: Option<u64>) -> Write {
    Write::PutIdentity { row: Box::new(row), expect: expect.map(Generation) }
}

/// The id of a token or credential.
#[must_use]
pub fn token_id(n: u8) -> TokenId {
    TokenId([n; 10])
}

/// A token that is good for an hour from [`NOON`] on.
#[must_use]
pub fn token(n: u8, max_uses: u32) -> TokenRow {
    TokenRow {
        id: token_id(n),
        hash: SecretHash([n; 32]),
        policy: TokenPolicy {
            kind: Kind::Agent,
            parent: Some(key("poller/above").id),
            id_rule: "edge-*".parse().map_or(IdRule::Assigned, IdRule::Pattern),
            checker_kind: None,
            max_uses,
            not_before: NOON,
            expires_at: Timestamp(NOON.0 + 3_600_000),
            cidr_allow: ["192.0.2.0/24", "2001:db8::/32"].into_iter().flat_map(str::parse).collect(),
            labels: pairs("site", "north"),
            rejoin_limit: Some(5),
            parent_rule: "site=poller-{}".parse().ok(),
            approval: Approval::Manual,
            ephemeral_after: Some(3_600),
            implicit_children: true,
        },
        uses: 0,
        created_by: "credential:sample".into(),
        created_at: NOON,
        note: "for the north site".into(),
        revoked_at: None,
        last_used_at: None,
        last_used_from: None,
        seq: Seq(0),
    }
}

/// The write that uses a token.
#[must_use]
pub fn use_token(token: u8, key_no: u8, at: Timestamp) -> Write {
    Write::UseToken {
        token: token_id(token),
        key: pin(key_no),
        service: key(&format!("agent/edge-{key_no}")),
        at,
        from: "192.0.2.7:40000".into(),
    }
}

/// A credential.
#[must_use]
pub fn credential(n: u8) -> CredentialRow {
    CredentialRow {
        id: token_id(n),
        hash: SecretHash([n; 32]),
        role: "enroller".into(),
        scope: "env in (prod,staging),site=Zürich 3".parse().unwrap_or_else(|error| unreachable!("{error}")),
        policy: Some(Box::new(EnrollPolicy {
            kinds: vec![Kind::Agent, Kind::Checker],
            max_uses: 40,
            longest_secs: 3_600,
            id_prefix: "edge-".into(),
            parents: vec![key("poller/above").id],
            labels: pairs("site", "Zürich 3"),
        })),
        note: "for the image builder".into(),
        created_by: "oidc:corp:alice".into(),
        created_at: NOON,
        expires_at: Some(Timestamp(NOON.0 + 1)),
        revoked_at: None,
        last_used_at: None,
    }
}

/// An interval that begins so many milliseconds after [`NOON`].
#[must_use]
pub fn interval(service: &str, presence: Presence, after: i64) -> IntervalRow {
    IntervalRow {
        service: key(service),
        from: Timestamp(NOON.0 + after),
        to: None,
        presence,
        cause: "ttl".into(),
        evidence: serde_json::json!({"ttl_ms": 30_000, "missed": ["a", null]}),
        decided_at: Timestamp(NOON.0 + after + 500),
        recorded_at: None,
        superseded_at: None,
        boot_id: BootId([7; 16]),
        from_boot: BootTime(9_000_000),
    }
}

/// A job that ran so often.
#[must_use]
pub fn job(name: &str, runs: u64) -> JobRow {
    JobRow {
        name: name.into(),
        schedule: "0 2 * * *".into(),
        enabled: Some(runs.is_multiple_of(2)),
        paused_until: Some(Timestamp(NOON.0 + 9)),
        next_at: Some(Timestamp(NOON.0 + 10)),
        last: Some(RunRow {
            id: RowId::numbered(runs.into()),
            cause: RunCause::Missed,
            by: "system".into(),
            dry_run: false,
            started_at: NOON,
            ended_at: Some(Timestamp(NOON.0 + 5)),
            outcome: Some(Outcome::Failed),
            counts: BTreeMap::from([("removed".into(), runs)]),
            error: Some("the disk \"is\" full".into()),
            held_by: None,
        }),
        last_success: Some(NOON),
        runs,
        failures: 1,
    }
}

/// A hold.
#[must_use]
pub fn hold(name: &str, n: i64) -> HoldRow {
    HoldRow { name: name.into(), since: Timestamp(NOON.0 + n), detail: serde_json::json!({"step_ms": n}) }
}

/// A maintenance window, with every field filled that may be.
#[must_use]
pub fn window(n: u8, reason: &str) -> WindowRow {
    WindowRow {
        id: RowId::numbered(n.into()),
        selector: Selector {
            services: vec![ServiceKeyText(key("agent/a"))],
            labels: BTreeMap::from([("site".into(), Some("north".into())), ("rack".into(), None)]),
            subtree: Some(ServiceKeyText(key("poller/p"))),
            within: "site in (north,south)".parse().unwrap_or_default(),
        },
        starts_at: NOON,
        ends_at: Timestamp(NOON.0 + 3_600_000),
        recurrence: Some(Recurrence { cron: "0 3 * * 0 Europe/Paris".into(), duration_ms: 60_000 }),
        reason: reason.into(),
        author: "credential:sample".into(),
        created_at: NOON,
        ended_early: n.is_multiple_of(2).then_some(NOON),
        seq: Seq(0),
    }
}

/// A kept answer, with every field filled that may be.
#[must_use]
pub fn answer(n: u8, body: &str) -> AnswerRow {
    AnswerRow {
        of: AnswerKey { caller: format!("credential:{}", n % 2), key: format!("key \"{n}\"") },
        fingerprint: Fingerprint([n; 32]),
        status: 201,
        location: n.is_multiple_of(2).then(|| "/api/admin/services/agents/a".into()),
        body: body.into(),
        secret: n == 1,
        at: Timestamp(NOON.0 + i64::from(n)),
        seq: Seq(0),
    }
}

/// An onboarding package, with every field filled that may be.
#[must_use]
pub fn package(n: u8, note: &str) -> PackageRow {
    PackageRow {
        id: PackageId(token_id(n)),
        service: key("checker/a"),
        parent: Some(key("agent/a").id),
        component_id: "component".into(),
        token: token_id(n),
        secret_hash: SecretHash([n; 32]),
        sealed: n.is_multiple_of(2).then(|| vec![n; 40]),
        settings: PackageSettings {
            checker_kind: "snmp".parse().ok(),
            labels: pairs("site", "north"),
            metadata: pairs("rack", "b7"),
            addresses: "collector.example:7411".parse().into_iter().collect(),
            revoked_retry: Some("1h".into()),
            log_format: Some("json".into()),
            log_level: Some("debug".into()),
        },
        status: PackageStatus::Delivered,
        status_since: NOON,
        issues: 2,
        note: note.into(),
        created_by: "credential:sample".into(),
        created_at: NOON,
        expires_at: Timestamp(NOON.0 + 3_600_000),
        delivered_at: Some(NOON),
        delivered_to: Some("address:192.0.2.1".into()),
        activated_at: n.is_multiple_of(3).then_some(NOON),
        seq: Seq(0),
    }
}

/// An audit event.
#[must_use]
pub fn event(action: &str, object: &str) -> AuditDraft {
    AuditDraft {
        at: NOON,
        action: action.into(),
        actor: "system".into(),
        object: object.into(),
        request_id: Some("r-1".into()),
        details: BTreeMap::from([("from".into(), serde_json::json!("pending")), ("n".into(), serde_json::json!(1))]),
    }
}

/// A change without audit events.
#[must_use]
pub fn change(writes: impl IntoIterator<Item = Write>) -> Change {
    Change { writes: writes.into_iter().collect(), audit: Vec::new() }
}

/// The change that adds a service and says so.
#[must_use]
pub fn registered(service_name: &str) -> Change {
    Change {
        writes: vec![Write::InsertService(Box::new(service(service_name)))],
        audit: vec![event("service.registered", service_name)],
    }
}

/// A request of a key with a token.
#[must_use]
pub fn approval(token: u8, key_no: u8) -> ApprovalRow {
    ApprovalRow {
        id: RowId::numbered(u128::from(token) * 256 + u128::from(key_no)),
        token: token_id(token),
        key: pin(key_no),
        service: key(&format!("agent/edge-{key_no}")),
        parent: "poller-zrh".parse().ok(),
        checker_kind: None,
        labels: pairs("site", "zrh"),
        metadata: pairs("rack", "7"),
        from: "192.0.2.7".into(),
        first_asked: NOON,
        last_asked: NOON,
        state: ApprovalState::Approved,
        decided_at: Some(NOON),
        decided_by: Some("credential:sample".into()),
        reason: "known host".into(),
        seq: Seq(0),
    }
}
