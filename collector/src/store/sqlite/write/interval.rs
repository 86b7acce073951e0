//! Writes to `presence_intervals`.

use rollcall_common::id::Seq;

use super::{Batch, Halt, json};
use crate::store::rows::{Conflict, IntervalRow};

// A verdict may be dated back behind the begin of the open row; that row then lasts no time at all.
const CLOSE: &str = "UPDATE presence_intervals SET to_at = CASE WHEN from_at > $1 THEN from_at ELSE $1 END \
     WHERE kind = $2 AND id = $3 AND to_at IS NULL AND superseded_at IS NULL";
const BEGIN: &str = "INSERT INTO presence_intervals (kind, id, from_at, to_at, presence, cause, evidence, decided_at, \
     recorded_at, superseded_at, boot_id, from_boot) \
     SELECT kind, id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM services WHERE kind = $1 AND id = $2";

impl Batch<'_> {
    pub(super) async fn begin_interval(&mut self, row: &IntervalRow) -> Result<Seq, Halt> {
        let (kind, id) = (row.service.kind.as_str(), row.service.id.as_str());
        // Changes nothing for a service that is not there: no interval outlives its service.
        sqlx::query(CLOSE).bind(row.from.0).bind(kind).bind(id).execute(&mut *self.conn).await?;
        let done = sqlx::query(BEGIN)
            .bind(kind)
            .bind(id)
            .bind(row.from.0)
            .bind(row.to.map(|at| at.0))
            .bind(row.presence.as_str())
            .bind(row.cause.as_str())
            .bind(json(&row.evidence)?)
            .bind(row.decided_at.0)
            .bind(self.at.0)
            .bind(row.superseded_at.map(|at| at.0))
            .bind(row.boot_id.to_string())
            .bind(i64::try_from(row.from_boot.0).unwrap_or(i64::MAX))
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Missing.into()) } else { Ok(self.take_seq()) }
    }
}
