//! Writes to the `services` table.

use rollcall_common::{
    health::{HealthReport, HostFacts},
    id::{Seq, ServiceKey},
    lifecycle::Status,
    service::Pairs,
    time::Timestamp,
};

use super::{Batch, Halt, column, json};
use crate::store::rows::{Conflict, Said, ServiceRow};

const INSERT: &str = "INSERT INTO services (kind, id, parent, poller, checker_kind, component_id, source, labels, \
     metadata, created_by, first_registered, first_seen, last_seen, status, status_since, health, health_reason, \
     health_at, facts, seq, placeholder, declared_spiffe, ephemeral_after, implicit_children, archived, \
     progress, progress_reason, progress_at, settings, settings_state, announced) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
     $23, $24, $25, $26, $27, $28, $29, $30, $31) \
     ON CONFLICT (kind, id) DO NOTHING";

// In each of the following, `seq = expected OR seq > base` is the compare of the compare-and-set: what
// lies above the base was written by this very change, after its own compare.
const SET_STATUS: &str = "UPDATE services SET status = $1, status_since = $2, first_seen = COALESCE(first_seen, $3), \
     last_seen = CASE WHEN $3 IS NULL OR last_seen >= $3 THEN last_seen ELSE $3 END, seq = $4, \
     archived = $9 WHERE kind = $5 AND id = $6 AND (seq = $7 OR seq > $8)";
const DESCRIBE: &str = "UPDATE services SET labels = $1, metadata = $2, seq = $3 \
     WHERE kind = $4 AND id = $5 AND (seq = $6 OR seq > $7)";
const EDIT: &str = "UPDATE services SET component_id = $1, labels = $2, metadata = $3, placeholder = $4, \
     declared_spiffe = $5, ephemeral_after = $6, implicit_children = $7, seq = $8 \
     WHERE kind = $9 AND id = $10 AND (seq = $11 OR seq > $12)";
const REMOVE: &str = "DELETE FROM services WHERE kind = $1 AND id = $2 AND (seq = $3 OR seq > $4)";

const NOTE: &str = "UPDATE services SET health = COALESCE($1, health), health_reason = COALESCE($2, health_reason), \
     health_at = COALESCE($3, health_at), facts = COALESCE($4, facts) WHERE kind = $5 AND id = $6";
const EXISTS: &str = "SELECT 1 FROM services WHERE kind = $1 AND id = $2";

impl Batch<'_> {
    pub(super) async fn insert_service(&mut self, row: &ServiceRow) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let (health, progress) = (row.health.as_ref(), row.progress.as_ref());
        let done = sqlx::query(INSERT)
            .bind(row.key.kind.as_str())
            .bind(row.key.id.as_str())
            .bind(row.parent.as_ref().map(|id| id.as_str()))
            .bind(row.poller.as_ref().map(|id| id.as_str()))
            .bind(row.checker_kind.as_ref().map(|kind| kind.as_str()))
            .bind(row.component_id.as_deref())
            .bind(row.source.as_str())
            .bind(json(&row.labels)?)
            .bind(json(&row.metadata)?)
            .bind(row.created_by.as_str())
            .bind(row.first_registered.0)
            .bind(row.first_seen.map(|at| at.0))
            .bind(row.last_seen.map(|at| at.0))
            .bind(row.status.as_str())
            .bind(row.status_since.0)
            .bind(health.map(|(report, _)| report.health.as_str()))
            .bind(health.map(|(report, _)| report.reason.as_str()))
            .bind(health.map(|(_, at)| at.0))
            .bind(row.facts.as_ref().map(json).transpose()?)
            .bind(column(seq))
            .bind(i64::from(row.placeholder))
            .bind(row.declared_spiffe.as_ref().map(|id| id.as_str()))
            .bind(row.ephemeral_after.map(i64::from))
            .bind(i64::from(row.implicit_children))
            .bind(i64::from(row.archived))
            .bind(progress.map(|(report, _)| report.progress.as_str()))
            .bind(progress.map(|(report, _)| report.reason.as_str()))
            .bind(progress.map(|(_, at)| at.0))
            .bind(row.settings.as_deref().map(json).transpose()?)
            .bind(row.reported.as_deref().map(json).transpose()?)
            .bind(row.announced.as_deref().map(json).transpose()?)
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Exists.into()) } else { Ok(seq) }
    }

    pub(super) async fn set_status(
        &mut self,
        service: &ServiceKey,
        expect: Seq,
        (to, archived): (Status, bool),
        at: Timestamp,
        seen: Option<Timestamp>,
    ) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let done = sqlx::query(SET_STATUS)
            .bind(to.as_str())
            .bind(at.0)
            .bind(seen.map(|at| at.0))
            .bind(column(seq))
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(column(expect))
            .bind(column(self.base))
            .bind(i64::from(archived))
            .execute(&mut *self.conn)
            .await?;
        self.met(service, done.rows_affected()).await.map(|()| seq)
    }

    pub(super) async fn describe(
        &mut self,
        service: &ServiceKey,
        expect: Seq,
        labels: &Pairs,
        metadata: &Pairs,
    ) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let done = sqlx::query(DESCRIBE)
            .bind(json(labels)?)
            .bind(json(metadata)?)
            .bind(column(seq))
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(column(expect))
            .bind(column(self.base))
            .execute(&mut *self.conn)
            .await?;
        self.met(service, done.rows_affected()).await.map(|()| seq)
    }

    pub(super) async fn edit(&mut self, service: &ServiceKey, expect: Seq, said: &Said) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let done = sqlx::query(EDIT)
            .bind(said.component_id.as_deref())
            .bind(json(&said.labels)?)
            .bind(json(&said.metadata)?)
            .bind(i64::from(said.placeholder))
            .bind(said.declared_spiffe.as_ref().map(|id| id.as_str()))
            .bind(said.ephemeral_after.map(i64::from))
            .bind(i64::from(said.implicit_children))
            .bind(column(seq))
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(column(expect))
            .bind(column(self.base))
            .execute(&mut *self.conn)
            .await?;
        self.met(service, done.rows_affected()).await.map(|()| seq)
    }

    pub(super) async fn note(
        &mut self,
        service: &ServiceKey,
        health: Option<&(HealthReport, Timestamp)>,
        facts: Option<&HostFacts>,
    ) -> Result<Option<Seq>, Halt> {
        let done = sqlx::query(NOTE)
            .bind(health.map(|(report, _)| report.health.as_str()))
            .bind(health.map(|(report, _)| report.reason.as_str()))
            .bind(health.map(|(_, at)| at.0))
            .bind(facts.map(json).transpose()?)
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 {
            return Err(Conflict::Missing.into());
        }
        Ok(health.map(|_| self.take_seq()))
    }

    /// The identity, its keys and the intervals go with the row, by their foreign keys.
    pub(super) async fn remove_service(&mut self, service: &ServiceKey, expect: Seq) -> Result<Seq, Halt> {
        let done = sqlx::query(REMOVE)
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(column(expect))
            .bind(column(self.base))
            .execute(&mut *self.conn)
            .await?;
        self.met(service, done.rows_affected()).await.map(|()| self.take_seq())
    }

    /// Whether a compare-and-set hit its row, and which conflict it is if not.
    pub(super) async fn met(&mut self, service: &ServiceKey, rows: u64) -> Result<(), Halt> {
        if rows > 0 {
            return Ok(());
        }
        let conflict = if self.exists(service).await? { Conflict::Stale } else { Conflict::Missing };
        Err(conflict.into())
    }

    pub(super) async fn exists(&mut self, service: &ServiceKey) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(EXISTS).bind(service.kind.as_str()).bind(service.id.as_str());
        Ok(query.fetch_optional(&mut *self.conn).await?.is_some())
    }
}
