//! Writes to `packages`.

use rollcall_common::id::Seq;
use sqlx::Row;

use super::{Batch, Halt, column, json};
use crate::store::rows::{Conflict, PackageId, PackageRow};

const LOOK: &str = "SELECT seq FROM packages WHERE id = $1";
const PUT: &str = "INSERT INTO packages (id, kind, service, parent, component_id, token, secret_hash, sealed, settings, \
     status, status_since, issues, note, created_by, created_at, expires_at, delivered_at, delivered_to, activated_at, \
     seq) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) \
     ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, service = excluded.service, parent = excluded.parent, \
     component_id = excluded.component_id, token = excluded.token, secret_hash = excluded.secret_hash, \
     sealed = excluded.sealed, settings = excluded.settings, status = excluded.status, \
     status_since = excluded.status_since, issues = excluded.issues, note = excluded.note, \
     created_by = excluded.created_by, created_at = excluded.created_at, expires_at = excluded.expires_at, \
     delivered_at = excluded.delivered_at, delivered_to = excluded.delivered_to, \
     activated_at = excluded.activated_at, seq = excluded.seq";
const DROP: &str = "DELETE FROM packages WHERE id = $1";

impl Batch<'_> {
    pub(super) async fn put_package(&mut self, row: &PackageRow, expect: Option<Seq>) -> Result<Seq, Halt> {
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
        sqlx::query(PUT)
            .bind(&id)
            .bind(row.service.kind.as_str())
            .bind(row.service.id.as_str())
            .bind(row.parent.as_ref().map(|id| id.as_str()))
            .bind(row.component_id.as_str())
            .bind(row.token.to_string())
            .bind(row.secret_hash.0.as_slice())
            .bind(row.sealed.as_deref())
            .bind(json(&row.settings)?)
            .bind(row.status.as_str())
            .bind(row.status_since.0)
            .bind(i64::from(row.issues))
            .bind(row.note.as_str())
            .bind(row.created_by.as_str())
            .bind(row.created_at.0)
            .bind(row.expires_at.0)
            .bind(row.delivered_at.map(|at| at.0))
            .bind(row.delivered_to.as_deref())
            .bind(row.activated_at.map(|at| at.0))
            .bind(column(seq))
            .execute(&mut *self.conn)
            .await?;
        Ok(seq)
    }

    pub(super) async fn drop_package(&mut self, id: PackageId) -> Result<(), Halt> {
        sqlx::query(DROP).bind(id.to_string()).execute(&mut *self.conn).await?;
        Ok(())
    }
}
