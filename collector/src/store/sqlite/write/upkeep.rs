//! Writes to `jobs`, `holds` and `maintenance`.

use rollcall_common::id::Seq;
use sqlx::Row;

use super::{Batch, Halt, column, json};
use crate::store::rows::{Conflict, HoldRow, JobRow, RowId, WindowRow};

const JOB: &str = "INSERT INTO jobs (name, schedule, enabled, paused_until, next_at, last_run, last_success, runs, \
     failures) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (name) DO UPDATE SET schedule = excluded.schedule, enabled = excluded.enabled, \
     paused_until = excluded.paused_until, next_at = excluded.next_at, last_run = excluded.last_run, \
     last_success = excluded.last_success, runs = excluded.runs, failures = excluded.failures";
const HOLD: &str = "INSERT INTO holds (name, since, detail) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET since = excluded.since, detail = excluded.detail";
const DROP_HOLD: &str = "DELETE FROM holds WHERE name = $1";
const LOOK: &str = "SELECT seq FROM maintenance WHERE id = $1";
const WINDOW: &str = "INSERT INTO maintenance (id, selector, starts_at, ends_at, recurrence, reason, author, \
     created_at, ended_early, seq) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT (id) DO UPDATE SET selector = excluded.selector, starts_at = excluded.starts_at, \
     ends_at = excluded.ends_at, recurrence = excluded.recurrence, reason = excluded.reason, \
     author = excluded.author, created_at = excluded.created_at, ended_early = excluded.ended_early, \
     seq = excluded.seq";
const DROP_WINDOW: &str = "DELETE FROM maintenance WHERE id = $1";

impl Batch<'_> {
    pub(super) async fn put_job(&mut self, row: &JobRow) -> Result<(), Halt> {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        sqlx::query(JOB)
            .bind(row.name.as_str())
            .bind(row.schedule.as_str())
            .bind(row.enabled.map(i64::from))
            .bind(row.paused_until.map(|at| at.0))
            .bind(row.next_at.map(|at| at.0))
            .bind(row.last.as_ref().map(json).transpose()?)
            .bind(row.last_success.map(|at| at.0))
            .bind(count(row.runs))
            .bind(count(row.failures))
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    pub(super) async fn put_hold(&mut self, row: &HoldRow) -> Result<(), Halt> {
        let query = sqlx::query(HOLD).bind(row.name.as_str()).bind(row.since.0).bind(json(&row.detail)?);
        query.execute(&mut *self.conn).await?;
        Ok(())
    }

    pub(super) async fn drop_hold(&mut self, name: &str) -> Result<(), Halt> {
        sqlx::query(DROP_HOLD).bind(name).execute(&mut *self.conn).await?;
        Ok(())
    }

    pub(super) async fn put_window(&mut self, row: &WindowRow, expect: Option<Seq>) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let id = row.id.to_string();
        let found = sqlx::query(LOOK).bind(&id).fetch_optional(&mut *self.conn).await?;
        let found = found.map(|row| row.try_get::<i64, _>(0)).transpose()?;
        match (found, expect) {
            (None, None) => {}
            (Some(found), Some(expect)) if found == column(expect) || found > column(self.base) => {}
            (Some(_), Some(_)) => return Err(Conflict::Stale.into()),
            (Some(_), None) => return Err(Conflict::Exists.into()),
            (None, Some(_)) => return Err(Conflict::Missing.into()),
        }
        sqlx::query(WINDOW)
            .bind(&id)
            .bind(json(&row.selector)?)
            .bind(row.starts_at.0)
            .bind(row.ends_at.0)
            .bind(row.recurrence.as_ref().map(json).transpose()?)
            .bind(row.reason.as_str())
            .bind(row.author.as_str())
            .bind(row.created_at.0)
            .bind(row.ended_early.map(|at| at.0))
            .bind(column(seq))
            .execute(&mut *self.conn)
            .await?;
        Ok(seq)
    }

    pub(super) async fn drop_window(&mut self, id: RowId) -> Result<(), Halt> {
        sqlx::query(DROP_WINDOW).bind(id.to_string()).execute(&mut *self.conn).await?;
        Ok(())
    }
}
