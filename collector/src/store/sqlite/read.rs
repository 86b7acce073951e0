//! Everything that is read: the whole registry at start, and the pages of history that stay on disk.

use std::sync::Arc;

use futures_util::TryStreamExt;
use rollcall_common::{
    health::{HealthReport, ProgressReport},
    id::ServiceKey,
    time::Timestamp,
};
use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{
    fault::Fault,
    fields::{Fields, Unreadable, read},
};
use crate::store::{
    Position,
    rows::{
        AnswerKey, AnswerRow, ApprovalRow, AuditDraft, AuditEvent, AuditQuery, BlindRow, CertRow, CredentialRow,
        HoldRow, IdentityRow, IntervalRow, JobRow, KnockRow, Loaded, ObserverMark, PackageId, PackageRow, ServiceRow,
        TokenPolicy, TokenRow, TokenUse, WindowRow,
    },
};

/// Most rows that one page holds, whatever was asked for.
const PAGE: usize = 1_000;

const POSITION: &str = "SELECT epoch, seq FROM meta WHERE only_row = 1";

/// Where the store stands.
pub(super) async fn position(conn: &mut SqliteConnection) -> Result<Position, Fault> {
    let row = sqlx::query(POSITION).fetch_one(conn).await?;
    read("meta", 1, &row, |f| Ok(Position { epoch: f.number()?, seq: f.seq()? }))
}

/// Reads every table once, all of them as of one moment.
pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Loaded, Fault> {
    let mut snapshot = conn.begin().await?;
    let conn = &mut *snapshot;
    let loaded = Loaded {
        position: position(conn).await?,
        services: all(conn, "services", 2, SERVICES, service).await?,
        identities: all(conn, "identities", 2, IDENTITIES, identity).await?,
        denied: all(conn, "denied", 1, "SELECT serial, until_at FROM denied", |f| Ok((f.serial()?, f.time()?))).await?,
        tokens: all(conn, "tokens", 1, TOKENS, token).await?,
        token_uses: all(conn, "token_uses", 2, TOKEN_USES, token_use).await?,
        credentials: all(conn, "credentials", 1, CREDENTIALS, credential).await?,
        open_intervals: all(conn, "presence_intervals", 3, OPEN_INTERVALS, interval).await?,
        marks: all(conn, "observer_marks", 1, MARKS, mark).await?,
        jobs: all(conn, "jobs", 1, JOBS, job).await?,
        holds: all(conn, "holds", 1, HOLDS, hold).await?,
        windows: all(conn, "maintenance", 1, WINDOWS, window).await?,
        packages: all(conn, "packages", 1, PACKAGES, package).await?,
        approvals: all(conn, "approvals", 1, APPROVALS, approval).await?,
        knocks: all(conn, "knocks", 1, KNOCKS, knock).await?,
        answers: all(conn, "answers", 2, ANSWERS, answer).await?,
    };
    snapshot.rollback().await?;
    Ok(loaded)
}

/// Audit events, newest first.
pub(super) async fn audit(conn: &mut SqliteConnection, wanted: &AuditQuery) -> Result<Vec<AuditEvent>, Fault> {
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT seq, at, action, actor, object, request_id, details FROM audit_events WHERE seq < ",
    );
    sql.push_bind(wanted.before.map_or(i64::MAX, |seq| i64::try_from(seq.0).unwrap_or(i64::MAX)));
    if let Some(object) = &wanted.object {
        sql.push(" AND object = ").push_bind(object);
    }
    if let Some(action) = &wanted.action {
        if action.ends_with('.') {
            // All that begin so lie between it and what follows the dot.
            let behind = format!("{}/", action.trim_end_matches('.'));
            sql.push(" AND action >= ").push_bind(action).push(" AND action < ").push_bind(behind);
        } else {
            sql.push(" AND action = ").push_bind(action);
        }
    }
    if let Some(actor) = &wanted.actor {
        sql.push(" AND actor = ").push_bind(actor);
    }
    if let Some(id) = &wanted.request_id {
        sql.push(" AND request_id = ").push_bind(id);
    }
    if let Some(since) = wanted.since {
        sql.push(" AND at >= ").push_bind(since.0);
    }
    if let Some(until) = wanted.until {
        sql.push(" AND at < ").push_bind(until.0);
    }
    sql.push(" ORDER BY seq DESC LIMIT ").push_bind(page(wanted.limit));
    let rows = sql.build().fetch_all(conn).await?;
    rows.iter().map(|row| read("audit_events", 1, row, event)).collect()
}

/// The presence history of a service, newest first.
pub(super) async fn history(
    conn: &mut SqliteConnection,
    service: &ServiceKey,
    limit: usize,
    superseded: bool,
) -> Result<Vec<IntervalRow>, Fault> {
    let sql = if superseded { HISTORY_WITH_SUPERSEDED } else { HISTORY };
    let query = sqlx::query(sql).bind(service.kind.as_str()).bind(service.id.as_str()).bind(page(limit));
    let rows = query.fetch_all(conn).await?;
    rows.iter().map(|row| read("presence_intervals", 3, row, interval)).collect()
}

/// Blind intervals that end after a moment, oldest first.
pub(super) async fn blind_since(
    conn: &mut SqliteConnection,
    since: Timestamp,
    limit: usize,
) -> Result<Vec<BlindRow>, Fault> {
    let rows = sqlx::query(BLIND).bind(since.0).bind(page(limit)).fetch_all(conn).await?;
    rows.iter().map(|row| read("blind_intervals", 1, row, blind)).collect()
}

fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE)).unwrap_or(i64::MAX)
}

/// One pass over a table; rows are decoded as they arrive, never held in two forms at once.
async fn all<T>(
    conn: &mut SqliteConnection,
    table: &'static str,
    keys: usize,
    sql: &'static str,
    decode: fn(&mut Fields<'_>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Fault> {
    let mut out = Vec::new();
    let mut rows = sqlx::query(sql).fetch(conn);
    while let Some(row) = rows.try_next().await? {
        let row: SqliteRow = row;
        out.push(read(table, keys, &row, decode)?);
    }
    Ok(out)
}

// What a change of status saw is in services, what beats brought since in sightings: the later one counts.
const SERVICES: &str = "SELECT kind, id, parent, poller, checker_kind, component_id, source, labels, metadata, \
     placeholder, declared_spiffe, ephemeral_after, implicit_children, created_by, first_registered, first_seen, \
     CASE WHEN last_seen IS NULL OR seen_at > last_seen THEN seen_at ELSE last_seen END AS last_seen, \
     status, status_since, archived, health, health_reason, health_at, facts, progress, progress_reason, progress_at, settings, \
     settings_state, announced, seq \
     FROM services LEFT JOIN sightings USING (kind, id)";

fn service(f: &mut Fields<'_>) -> Result<ServiceRow, Unreadable> {
    Ok(ServiceRow {
        key: f.service()?,
        parent: f.word_opt()?,
        poller: f.word_opt()?,
        checker_kind: f.word_opt()?,
        component_id: f.text_opt()?,
        source: f.word()?,
        labels: f.json()?,
        metadata: f.json()?,
        placeholder: f.flag()?,
        declared_spiffe: f.word_opt()?,
        ephemeral_after: f.number_opt()?,
        implicit_children: f.flag()?,
        created_by: f.text()?,
        first_registered: f.time()?,
        first_seen: f.time_opt()?,
        last_seen: f.time_opt()?,
        status: f.word()?,
        status_since: f.time()?,
        archived: f.flag()?,
        health: health(f)?,
        facts: f.json_opt()?,
        progress: progress(f)?,
        settings: f.json_opt()?.map(Arc::new),
        reported: f.json_opt()?.map(Arc::new),
        announced: f.json_opt()?.map(Arc::new),
        seq: f.seq()?,
    })
}

fn progress(f: &mut Fields<'_>) -> Result<Option<(ProgressReport, Timestamp)>, Unreadable> {
    let (progress, reason, at) = (f.word_opt()?, f.short_opt()?, f.time_opt()?);
    // They are written together.
    Ok(progress.zip(reason).zip(at).map(|((progress, reason), at)| (ProgressReport { progress, reason }, at)))
}

fn health(f: &mut Fields<'_>) -> Result<Option<(HealthReport, Timestamp)>, Unreadable> {
    let (health, reason, at) = (f.word_opt()?, f.short_opt()?, f.time_opt()?);
    // The table's CHECK allows all three or none.
    Ok(health.zip(reason).zip(at).map(|((health, reason), at)| (HealthReport { health, reason }, at)))
}

const IDENTITIES: &str = "SELECT kind, id, serial, key_hash, spki, not_after, pending_serial, pending_key_hash, \
     pending_spki, pending_not_after, enrolled_via, enrolled_at, rejoins, rejoins_since, rejoin_limit, machine \
     FROM identities";

fn identity(f: &mut Fields<'_>) -> Result<IdentityRow, Unreadable> {
    Ok(IdentityRow {
        service: f.service()?,
        current: CertRow { serial: f.serial()?, key: f.word()?, spki: f.bytes()?, not_after: f.time()? },
        pending: pending(f)?,
        enrolled_via: f.word()?,
        enrolled_at: f.time()?,
        rejoins: f.number()?,
        rejoins_since: f.time()?,
        rejoin_limit: f.number_opt()?,
        machine: f.json_opt()?,
    })
}

fn pending(f: &mut Fields<'_>) -> Result<Option<CertRow>, Unreadable> {
    let (serial, key, spki, not_after) = (f.serial_opt()?, f.word_opt()?, f.bytes_opt()?, f.time_opt()?);
    // The table's CHECK allows all four or none.
    let cert = serial.zip(key).zip(spki).zip(not_after);
    Ok(cert.map(|(((serial, key), spki), not_after)| CertRow { serial, key, spki, not_after }))
}

const TOKENS: &str = "SELECT id, secret_hash, kind, parent, id_rule, checker_kind, max_uses, not_before, expires_at, \
     cidr_allow, labels, rejoin_limit, approval, ephemeral_after, parent_rule, implicit_children, uses, created_by, \
     created_at, note, revoked_at, last_used_at, last_used_from, seq FROM tokens";

fn token(f: &mut Fields<'_>) -> Result<TokenRow, Unreadable> {
    Ok(TokenRow {
        id: f.word()?,
        hash: f.secret_hash()?,
        policy: TokenPolicy {
            kind: f.word()?,
            parent: f.word_opt()?,
            id_rule: f.json()?,
            checker_kind: f.word_opt()?,
            max_uses: f.number()?,
            not_before: f.time()?,
            expires_at: f.time()?,
            cidr_allow: f.json()?,
            labels: f.json()?,
            rejoin_limit: f.number_opt()?,
            approval: f.word()?,
            ephemeral_after: f.number_opt()?,
            parent_rule: f.json_opt()?,
            implicit_children: f.flag()?,
        },
        uses: f.number()?,
        created_by: f.text()?,
        created_at: f.time()?,
        note: f.text()?,
        revoked_at: f.time_opt()?,
        last_used_at: f.time_opt()?,
        last_used_from: f.text_opt()?,
        seq: f.seq()?,
    })
}

const TOKEN_USES: &str = "SELECT token, key_hash, kind, id FROM token_uses";

fn token_use(f: &mut Fields<'_>) -> Result<TokenUse, Unreadable> {
    Ok(TokenUse { token: f.word()?, key: f.word()?, service: f.service()? })
}

const CREDENTIALS: &str = "SELECT id, secret_hash, role, scope, policy, note, created_by, created_at, expires_at, \
     revoked_at, last_used_at FROM credentials";

fn credential(f: &mut Fields<'_>) -> Result<CredentialRow, Unreadable> {
    Ok(CredentialRow {
        id: f.word()?,
        hash: f.secret_hash()?,
        role: f.text()?,
        scope: f.word()?,
        policy: f.json_opt()?,
        note: f.text()?,
        created_by: f.text()?,
        created_at: f.time()?,
        expires_at: f.time_opt()?,
        revoked_at: f.time_opt()?,
        last_used_at: f.time_opt()?,
    })
}

macro_rules! intervals {
    ($rest:literal) => {
        concat!(
            "SELECT kind, id, from_at, to_at, presence, cause, evidence, decided_at, recorded_at, superseded_at, \
             boot_id, from_boot FROM presence_intervals WHERE ",
            $rest
        )
    };
}

const OPEN_INTERVALS: &str = intervals!("to_at IS NULL AND superseded_at IS NULL");
const HISTORY_WITH_SUPERSEDED: &str = intervals!("kind = $1 AND id = $2 ORDER BY from_at DESC, row_no DESC LIMIT $3");
const HISTORY: &str =
    intervals!("kind = $1 AND id = $2 AND superseded_at IS NULL ORDER BY from_at DESC, row_no DESC LIMIT $3");

fn interval(f: &mut Fields<'_>) -> Result<IntervalRow, Unreadable> {
    Ok(IntervalRow {
        service: f.service()?,
        from: f.time()?,
        to: f.time_opt()?,
        presence: f.word()?,
        cause: f.text()?,
        evidence: f.json()?,
        decided_at: f.time()?,
        recorded_at: f.time_opt()?,
        superseded_at: f.time_opt()?,
        boot_id: f.word()?,
        from_boot: f.boot()?,
    })
}

const MARKS: &str = "SELECT collector, boot_id, boot_at, wall_at FROM observer_marks";

fn mark(f: &mut Fields<'_>) -> Result<ObserverMark, Unreadable> {
    Ok(ObserverMark { collector: f.word()?, boot_id: f.word()?, boot: f.boot()?, wall: f.time()? })
}

const JOBS: &str =
    "SELECT name, schedule, enabled, paused_until, next_at, last_run, last_success, runs, failures FROM jobs";

fn job(f: &mut Fields<'_>) -> Result<JobRow, Unreadable> {
    Ok(JobRow {
        name: f.text()?,
        schedule: f.text()?,
        enabled: f.number_opt::<i64>()?.map(|on| on != 0),
        paused_until: f.time_opt()?,
        next_at: f.time_opt()?,
        last: f.json_opt()?,
        last_success: f.time_opt()?,
        runs: f.number()?,
        failures: f.number()?,
    })
}

const APPROVALS: &str = "SELECT id, token, key_hash, kind, service, parent, checker_kind, labels, metadata, \
     from_address, first_asked, last_asked, state, decided_at, decided_by, reason, seq FROM approvals";

fn approval(f: &mut Fields<'_>) -> Result<ApprovalRow, Unreadable> {
    Ok(ApprovalRow {
        id: f.word()?,
        token: f.word()?,
        key: f.word()?,
        service: f.service()?,
        parent: f.word_opt()?,
        checker_kind: f.word_opt()?,
        labels: f.json()?,
        metadata: f.json()?,
        from: f.text()?,
        first_asked: f.time()?,
        last_asked: f.time()?,
        state: f.word()?,
        decided_at: f.time_opt()?,
        decided_by: f.text_opt()?,
        reason: f.text()?,
        seq: f.seq()?,
    })
}

const KNOCKS: &str = "SELECT id, proven, door, why, token, kind, service, parent, network, from_address, first_at, \
     last_at, times FROM knocks";

fn knock(f: &mut Fields<'_>) -> Result<KnockRow, Unreadable> {
    Ok(KnockRow {
        id: f.word()?,
        proven: f.flag()?,
        door: f.word()?,
        why: f.word()?,
        token: f.word_opt()?,
        kind: f.word_opt()?,
        service: f.word_opt()?,
        parent: f.word_opt()?,
        network: f.text()?,
        from: f.text()?,
        first_at: f.time()?,
        last_at: f.time()?,
        times: f.number()?,
    })
}

const HOLDS: &str = "SELECT name, since, detail FROM holds";

fn hold(f: &mut Fields<'_>) -> Result<HoldRow, Unreadable> {
    Ok(HoldRow { name: f.text()?, since: f.time()?, detail: f.json()? })
}

const WINDOWS: &str = "SELECT id, selector, starts_at, ends_at, recurrence, reason, author, created_at, ended_early, seq \
     FROM maintenance";

fn window(f: &mut Fields<'_>) -> Result<WindowRow, Unreadable> {
    Ok(WindowRow {
        id: f.word()?,
        selector: f.json()?,
        starts_at: f.time()?,
        ends_at: f.time()?,
        recurrence: f.json_opt()?,
        reason: f.text()?,
        author: f.text()?,
        created_at: f.time()?,
        ended_early: f.time_opt()?,
        seq: f.seq()?,
    })
}

const ANSWERS: &str = "SELECT caller, request_key, fingerprint, status, location, body, secret, at, seq FROM answers";

fn answer(f: &mut Fields<'_>) -> Result<AnswerRow, Unreadable> {
    Ok(AnswerRow {
        of: AnswerKey { caller: f.text()?, key: f.text()? },
        fingerprint: f.fingerprint()?,
        status: f.number()?,
        location: f.text_opt()?,
        body: f.text()?,
        secret: f.flag()?,
        at: f.time()?,
        seq: f.seq()?,
    })
}

const PACKAGES: &str = "SELECT id, kind, service, parent, component_id, token, secret_hash, sealed, settings, status, \
     status_since, issues, note, created_by, created_at, expires_at, delivered_at, delivered_to, activated_at, seq \
     FROM packages";

fn package(f: &mut Fields<'_>) -> Result<PackageRow, Unreadable> {
    Ok(PackageRow {
        id: f.word::<PackageId>()?,
        service: f.service()?,
        parent: f.word_opt()?,
        component_id: f.text()?,
        token: f.word()?,
        secret_hash: f.secret_hash()?,
        sealed: f.bytes_opt()?,
        settings: f.json()?,
        status: f.word()?,
        status_since: f.time()?,
        issues: f.number()?,
        note: f.text()?,
        created_by: f.text()?,
        created_at: f.time()?,
        expires_at: f.time()?,
        delivered_at: f.time_opt()?,
        delivered_to: f.text_opt()?,
        activated_at: f.time_opt()?,
        seq: f.seq()?,
    })
}

const BLIND: &str = "SELECT scope, from_at, to_at, cause FROM (SELECT scope, from_at, to_at, cause, row_no \
     FROM blind_intervals WHERE to_at > $1 ORDER BY from_at DESC, row_no DESC LIMIT $2) AS latest \
     ORDER BY from_at, row_no";

fn blind(f: &mut Fields<'_>) -> Result<BlindRow, Unreadable> {
    Ok(BlindRow { scope: f.json()?, from: f.time()?, to: f.time()?, cause: f.text()? })
}

pub(super) fn event(f: &mut Fields<'_>) -> Result<AuditEvent, Unreadable> {
    Ok(AuditEvent {
        seq: f.seq()?,
        draft: AuditDraft {
            at: f.time()?,
            action: f.text()?,
            actor: f.text()?,
            object: f.text()?,
            request_id: f.text_opt()?,
            details: f.json()?,
        },
    })
}
