//! One batch, one transaction: each change stands or falls alone, and seq order is commit order.
//!
//! The seq is read from the one row of `meta` after the write lock is taken and put back before the
//! commit, so that two batches never interleave. A change that meets a conflict gives back the seqs it
//! took: there are no gaps. Every single [`Write`] looks before it writes, so that one which conflicts
//! has changed nothing; only a change of several writes that may conflict needs a savepoint.

mod answer;
mod approval;
mod identity;
mod interval;
mod package;
mod service;
mod settings;
mod token;
mod upkeep;

use rollcall_common::{id::Seq, time::Timestamp};
use serde::Serialize;
use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection};

pub(super) use self::approval::keep_knocks;
use super::{fault::Fault, read};
use crate::store::{
    Position,
    rows::{Applied, AuditDraft, Change, Conflict, Write},
};

/// SQLite would otherwise take the write lock at the first write and could then refuse it.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// Most audit events in one statement. Smaller rests go in powers of two, so that a handful of prepared
/// statements serves every number.
const AUDIT_ROWS: usize = 64;

/// Why a write was not made.
enum Halt {
    /// The change falls, the batch goes on.
    Conflict(Conflict),
    /// The batch falls.
    Sql(sqlx::Error),
}

impl From<Conflict> for Halt {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// The seqs that a change took.
struct Taken {
    rows: Vec<Option<Seq>>,
    audit: Vec<Seq>,
}

/// A batch under way.
struct Batch<'b> {
    conn: &'b mut SqliteConnection,
    at: Timestamp,
    /// The last seq taken.
    seq: Seq,
    /// The last seq taken before the present change.
    base: Seq,
    /// Events wait for the end of the batch: nothing in it reads them, and together they cost a fraction.
    audit: Vec<(Seq, &'b AuditDraft)>,
}

/// Commits a batch. On any fault nothing of it happened, and the connection is of no more use.
pub(super) async fn commit(
    conn: &mut SqliteConnection,
    changes: &[Change],
    at: Timestamp,
) -> Result<Vec<Result<Applied, Conflict>>, Fault> {
    let mut tx = conn.begin_with(BEGIN).await?;
    let Position { epoch, seq } = read::position(&mut tx).await?;
    let mut batch = Batch { conn: &mut tx, at, seq, base: seq, audit: Vec::new() };
    let mut answers = Vec::with_capacity(changes.len());
    for change in changes {
        answers.push(batch.change(change).await?);
    }
    let seq = batch.finish().await?;
    tx.commit().await?;
    let position = Position { epoch, seq };
    let applied = |taken: Taken| Applied { rows: taken.rows, audit: taken.audit, position };
    Ok(answers.into_iter().map(|answer| answer.map(applied)).collect())
}

impl<'b> Batch<'b> {
    async fn change(&mut self, change: &'b Change) -> Result<Result<Taken, Conflict>, sqlx::Error> {
        self.base = self.seq;
        let guarded = may_conflict_halfway(&change.writes);
        if guarded {
            self.plain("SAVEPOINT change").await?;
        }
        match self.writes(&change.writes).await {
            Ok(rows) => {
                if guarded {
                    self.plain("RELEASE change").await?;
                }
                let mut audit = Vec::with_capacity(change.audit.len());
                for draft in &change.audit {
                    let seq = self.take_seq();
                    self.audit.push((seq, draft));
                    audit.push(seq);
                }
                Ok(Ok(Taken { rows, audit }))
            }
            Err(Halt::Conflict(conflict)) => {
                if guarded {
                    self.plain("ROLLBACK TO change").await?;
                    self.plain("RELEASE change").await?;
                }
                self.seq = self.base;
                Ok(Err(conflict))
            }
            Err(Halt::Sql(error)) => Err(error),
        }
    }

    async fn writes(&mut self, writes: &[Write]) -> Result<Vec<Option<Seq>>, Halt> {
        let mut rows = Vec::with_capacity(writes.len());
        for write in writes {
            rows.push(self.write(write).await?);
        }
        Ok(rows)
    }

    async fn write(&mut self, write: &Write) -> Result<Option<Seq>, Halt> {
        match write {
            Write::InsertService(row) => self.insert_service(row).await.map(Some),
            Write::SetStatus { service, expect, to, at, seen, archived } => {
                self.set_status(service, *expect, (*to, *archived), *at, *seen).await.map(Some)
            }
            Write::Describe { service, expect, labels, metadata } => {
                self.describe(service, *expect, labels, metadata).await.map(Some)
            }
            Write::Edit { service, expect, said } => self.edit(service, *expect, said).await.map(Some),
            Write::Note { service, health, facts } => self.note(service, health.as_ref(), facts.as_ref()).await,
            Write::Progress { service, said } => self.progress(service, said).await.map(Some),
            Write::PutSettings { service, expect, row } => self.put_settings(service, *expect, row).await.map(Some),
            Write::KeepReported { service, row } => self.keep_reported(service, row.as_deref()).await.map(Some),
            Write::Announce { service, expect, row, metadata } => {
                self.announce(service, *expect, row, metadata).await.map(Some)
            }
            Write::RemoveService { service, expect } => self.remove_service(service, *expect).await.map(Some),
            Write::PutIdentity { row, expect } => self.put_identity(row, *expect).await.map(Some),
            Write::DropIdentity(service) => self.drop_identity(service).await,
            Write::Deny { serial, until } => self.deny(serial, *until).await.map(|()| None),
            Write::Allow(serial) => self.allow(serial).await.map(|()| None),
            Write::InsertToken(row) => self.insert_token(row).await.map(Some),
            Write::RevokeToken { token, at } => self.revoke_token(token, *at).await.map(Some),
            Write::UseToken { token, key, service, at, from } => self.use_token(token, key, service, *at, from).await,
            Write::InsertCredential(row) => self.insert_credential(row).await.map(|()| None),
            Write::TouchCredential { id, at } => self.touch_credential(id, *at).await.map(|()| None),
            Write::RevokeCredential { id, at } => self.revoke_credential(id, *at).await.map(|()| None),
            Write::BeginInterval(row) => self.begin_interval(row).await.map(Some),
            Write::PutJob(row) => self.put_job(row).await.map(|()| None),
            Write::PutHold(row) => self.put_hold(row).await.map(|()| None),
            Write::DropHold(name) => self.drop_hold(name).await.map(|()| None),
            Write::PutWindow { row, expect } => self.put_window(row, *expect).await.map(Some),
            Write::DropWindow(id) => self.drop_window(*id).await.map(|()| None),
            Write::PutPackage { row, expect } => self.put_package(row, *expect).await.map(Some),
            Write::DropPackage(id) => self.drop_package(*id).await.map(|()| None),
            Write::RemoveToken(token) => self.remove_token(token).await.map(|()| None),
            Write::PutApproval(row) => self.put_approval(row).await.map(Some),
            Write::DropApproval(id) => self.drop_approval(*id).await.map(|()| None),
            Write::KeepAnswer(row) => self.keep_answer(row).await.map(|()| None),
            Write::ForgetAnswer(of) => self.forget_answer(of).await.map(|()| None),
        }
    }

    fn take_seq(&mut self) -> Seq {
        self.seq = self.seq.next();
        self.seq
    }

    async fn plain(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut *self.conn).await.map(|_| ())
    }

    /// Writes the audit events and the position; answers with the last seq.
    async fn finish(self) -> Result<Seq, sqlx::Error> {
        let mut rest = self.audit.as_slice();
        while !rest.is_empty() {
            let some = if rest.len() >= AUDIT_ROWS { AUDIT_ROWS } else { 1 << rest.len().ilog2() };
            let (now, later) = rest.split_at(some);
            insert_audit(&mut *self.conn, now).await?;
            rest = later;
        }
        let sql = "UPDATE meta SET seq = $1 WHERE only_row = 1";
        sqlx::query(sql).bind(column(self.seq)).execute(&mut *self.conn).await?;
        Ok(self.seq)
    }
}

async fn insert_audit(conn: &mut SqliteConnection, events: &[(Seq, &AuditDraft)]) -> Result<(), sqlx::Error> {
    let mut rows = Vec::with_capacity(events.len());
    for (seq, draft) in events {
        rows.push((*seq, *draft, json(&draft.details)?));
    }
    let mut sql =
        QueryBuilder::<Sqlite>::new("INSERT INTO audit_events (seq, at, action, actor, object, request_id, details) ");
    sql.push_values(rows, |mut row, (seq, draft, details)| {
        row.push_bind(column(seq))
            .push_bind(draft.at.0)
            .push_bind(&draft.action)
            .push_bind(&draft.actor)
            .push_bind(&draft.object)
            .push_bind(&draft.request_id)
            .push_bind(details);
    });
    sql.build().execute(conn).await.map(|_| ())
}

/// Whether a write may conflict that has others before it, which would then have to be undone. The first
/// one may: it has written nothing. So may not those that ask only for a service which an earlier write of
/// the same change found or made: the commonest change of all, a status with its interval, needs no
/// savepoint.
fn may_conflict_halfway(writes: &[Write]) -> bool {
    let mut there = None;
    let mut may_conflict = false;
    for (n, write) in writes.iter().enumerate() {
        let fails = match write {
            Write::InsertService(row) => {
                there = Some(&row.key);
                true
            }
            Write::SetStatus { service, .. }
            | Write::Describe { service, .. }
            | Write::Edit { service, .. }
            | Write::PutSettings { service, .. }
            | Write::Announce { service, .. } => {
                there = Some(service);
                true
            }
            Write::Note { service, .. } | Write::Progress { service, .. } | Write::KeepReported { service, .. } => {
                let known = there == Some(service);
                there = Some(service);
                !known
            }
            Write::BeginInterval(row) => there != Some(&row.service),
            Write::RemoveService { .. }
            | Write::PutIdentity { .. }
            | Write::InsertToken(_)
            | Write::RevokeToken { .. }
            | Write::RemoveToken(_)
            | Write::PutApproval(_)
            | Write::UseToken { .. }
            | Write::InsertCredential(_)
            | Write::RevokeCredential { .. }
            | Write::PutWindow { .. }
            | Write::PutPackage { .. }
            | Write::KeepAnswer(_) => true,
            Write::DropIdentity(_)
            | Write::Deny { .. }
            | Write::Allow(_)
            | Write::TouchCredential { .. }
            | Write::PutJob(_)
            | Write::PutHold(_)
            | Write::DropHold(_)
            | Write::DropWindow(_)
            | Write::DropPackage(_)
            | Write::DropApproval(_)
            | Write::ForgetAnswer(_) => false,
        };
        may_conflict |= n > 0 && fails;
    }
    may_conflict
}

/// A seq as a column holds it.
fn column(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// A value as JSON text.
fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
