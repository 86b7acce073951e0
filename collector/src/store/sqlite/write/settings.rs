//! Writes to what `services` holds of settings, progress and proposals.

use rollcall_common::{
    health::ProgressReport,
    id::{Seq, ServiceKey},
    service::Pairs,
    time::Timestamp,
};

use super::{Batch, Halt, column, json};
use crate::store::rows::{AnnouncedRow, Conflict, ReportedRow, SettingsRow};

const PROGRESS: &str =
    "UPDATE services SET progress = $1, progress_reason = $2, progress_at = $3 WHERE kind = $4 AND id = $5";
const REPORTED: &str = "UPDATE services SET settings_state = $1 WHERE kind = $2 AND id = $3";
// The compare of the compare-and-set is that of the other writes to the table.
const SETTINGS: &str =
    "UPDATE services SET settings = $1, seq = $2 WHERE kind = $3 AND id = $4 AND (seq = $5 OR seq > $6)";
const ANNOUNCE: &str = "UPDATE services SET announced = $1, metadata = $2, seq = $3 \
     WHERE kind = $4 AND id = $5 AND (seq = $6 OR seq > $7)";

impl Batch<'_> {
    pub(super) async fn progress(
        &mut self,
        service: &ServiceKey,
        (report, at): &(ProgressReport, Timestamp),
    ) -> Result<Seq, Halt> {
        let done = sqlx::query(PROGRESS)
            .bind(report.progress.as_str())
            .bind(report.reason.as_str())
            .bind(at.0)
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Missing.into()) } else { Ok(self.take_seq()) }
    }

    pub(super) async fn keep_reported(&mut self, service: &ServiceKey, row: Option<&ReportedRow>) -> Result<Seq, Halt> {
        let done = sqlx::query(REPORTED)
            .bind(row.map(json).transpose()?)
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Missing.into()) } else { Ok(self.take_seq()) }
    }

    pub(super) async fn put_settings(
        &mut self,
        service: &ServiceKey,
        expect: Seq,
        row: &SettingsRow,
    ) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let done = sqlx::query(SETTINGS)
            .bind(json(row)?)
            .bind(column(seq))
            .bind(service.kind.as_str())
            .bind(service.id.as_str())
            .bind(column(expect))
            .bind(column(self.base))
            .execute(&mut *self.conn)
            .await?;
        self.met(service, done.rows_affected()).await.map(|()| seq)
    }

    pub(super) async fn announce(
        &mut self,
        service: &ServiceKey,
        expect: Seq,
        row: &AnnouncedRow,
        metadata: &Pairs,
    ) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let done = sqlx::query(ANNOUNCE)
            .bind(json(row)?)
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
}
