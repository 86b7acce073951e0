//! The audit trail in order, and its seals.

use async_trait::async_trait;
use rollcall_common::{id::Seq, time::Timestamp};
use sqlx::{Connection, SqliteConnection};

use super::{
    SqliteStore,
    fault::Fault,
    fields::{self, Fields, Unreadable},
    read::{self, event},
    settle,
    write::BEGIN,
};
use crate::store::{
    Position, StoreError, TrailStore,
    rows::{AuditEvent, SealRow},
};

const EPOCH: &str = "UPDATE meta SET epoch = $1 WHERE only_row = 1";
const TRAIL: &str = "SELECT seq, at, action, actor, object, request_id, details FROM audit_events \
     WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3";
const SEALS: &str = "SELECT no, epoch, first_seq, last_seq, count, prev_hash, hash, sealed_at, until_at, retired_at \
     FROM audit_seals WHERE no > $1 ORDER BY no LIMIT $2";
const LAST: &str = "SELECT no, epoch, first_seq, last_seq, count, prev_hash, hash, sealed_at, until_at, retired_at \
     FROM audit_seals ORDER BY no DESC LIMIT 1";
const DUE: &str = "SELECT no, epoch, first_seq, last_seq, count, prev_hash, hash, sealed_at, until_at, retired_at \
     FROM audit_seals WHERE retired_at IS NULL ORDER BY no LIMIT 1";
// A batch that is dated after now was dated by a clock that was wrong: the next one that is not tells its age.
const DATED: &str = "SELECT until_at FROM audit_seals WHERE no > $1 AND until_at <= $2 ORDER BY no LIMIT 1";
// The seal before it must be there with the hash that this one names; the first has none.
const SEAL: &str = "INSERT INTO audit_seals (no, epoch, first_seq, last_seq, count, prev_hash, hash, sealed_at, until_at) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 \
     WHERE (SELECT count(*) FROM audit_seals WHERE no >= $1) = 0 \
       AND ($1 = 1 OR (SELECT count(*) FROM audit_seals WHERE no = $1 - 1 AND hash = $6) = 1)";
const RETIRE: &str = "DELETE FROM audit_events WHERE seq >= $1 AND seq <= $2";
const RETIRED: &str = "UPDATE audit_seals SET retired_at = $1 WHERE no = $2";

fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seal(f: &mut Fields<'_>) -> Result<SealRow, Unreadable> {
    Ok(SealRow {
        no: f.number()?,
        epoch: f.number()?,
        first: f.seq()?,
        last: f.seq()?,
        count: f.number()?,
        prev: f.word()?,
        hash: f.word()?,
        sealed_at: f.time()?,
        until: f.time()?,
        retired_at: f.time_opt()?,
    })
}

#[async_trait]
impl TrailStore for SqliteStore {
    async fn position(&self) -> Result<Position, StoreError> {
        let mut conn = self.reader().await?;
        read::position(&mut conn).await.map_err(|fault| self.told(fault))
    }

    async fn begin_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let done = sqlx::query(EPOCH).bind(column(epoch)).execute(&mut *conn).await.map_err(Fault::from);
        settle(conn, done).await.map(drop).map_err(|fault| self.told(fault))
    }

    async fn trail(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<AuditEvent>, StoreError> {
        let mut conn = self.reader().await?;
        let limit = i64::try_from(limit.min(2_000)).unwrap_or(0);
        // Nobody has a seq below 1, except what was slipped in there: from the very beginning it is met too.
        let after = if after == Seq(0) { i64::MIN } else { column(after.0) };
        let query = sqlx::query(TRAIL).bind(after).bind(column(upto.0)).bind(limit);
        let rows = query.fetch_all(&mut *conn).await.map_err(|error| self.told(error))?;
        let events = rows.iter().map(|row| fields::read("audit_events", 1, row, event)).collect::<Result<_, Fault>>();
        events.map_err(|fault| self.told(fault))
    }

    async fn seals(&self, after: u64, limit: usize) -> Result<Vec<SealRow>, StoreError> {
        let mut conn = self.reader().await?;
        let query = sqlx::query(SEALS).bind(column(after)).bind(i64::try_from(limit.min(1_000)).unwrap_or(0));
        let rows = query.fetch_all(&mut *conn).await.map_err(|error| self.told(error))?;
        let seals = rows.iter().map(|row| fields::read("audit_seals", 1, row, seal)).collect::<Result<_, Fault>>();
        seals.map_err(|fault| self.told(fault))
    }

    async fn last_seal(&self) -> Result<Option<SealRow>, StoreError> {
        let mut conn = self.reader().await?;
        let row = sqlx::query(LAST).fetch_optional(&mut *conn).await.map_err(|error| self.told(error))?;
        row.map(|row| fields::read("audit_seals", 1, &row, seal)).transpose().map_err(|fault: Fault| self.told(fault))
    }

    async fn seal(&self, row: &SealRow) -> Result<bool, StoreError> {
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let query = sqlx::query(SEAL)
            .bind(column(row.no))
            .bind(column(row.epoch))
            .bind(column(row.first.0))
            .bind(column(row.last.0))
            .bind(column(row.count))
            .bind(row.prev.to_string())
            .bind(row.hash.to_string())
            .bind(row.sealed_at.0)
            .bind(row.until.0);
        let done = query.execute(&mut *conn).await.map_err(Fault::from);
        settle(conn, done).await.map(|done| done.rows_affected() > 0).map_err(|fault| self.told(fault))
    }

    async fn retire_audit(&self, before: Timestamp, floor: Seq, at: Timestamp) -> Result<Option<u64>, StoreError> {
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let done = retire(&mut conn, before, floor, at).await;
        settle(conn, done).await.map_err(|fault| self.told(fault))
    }
}

async fn retire(
    conn: &mut SqliteConnection,
    before: Timestamp,
    floor: Seq,
    at: Timestamp,
) -> Result<Option<u64>, Fault> {
    let mut tx = conn.begin_with(BEGIN).await?;
    let Some(row) = sqlx::query(DUE).fetch_optional(&mut *tx).await? else { return Ok(None) };
    let due: SealRow = fields::read("audit_seals", 1, &row, seal)?;
    let mut until = due.until;
    if until > at {
        let dated = sqlx::query_scalar(DATED).bind(column(due.no)).bind(at.0).fetch_optional(&mut *tx).await?;
        until = dated.map_or(until, Timestamp);
    }
    if until >= before || due.last > floor {
        return Ok(None);
    }
    let gone = sqlx::query(RETIRE).bind(column(due.first.0)).bind(column(due.last.0)).execute(&mut *tx).await?;
    sqlx::query(RETIRED).bind(at.0).bind(column(due.no)).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(gone.rows_affected()))
}
