//! Writes to `approvals` and `knocks`, and the removal of tokens with all that hangs on them.

use rollcall_common::{id::Seq, token::TokenId};

use super::{BEGIN, Batch, Halt, column, json};
use sqlx::{Connection as _, SqliteConnection};

use super::super::fault::Fault;
use crate::store::rows::{ApprovalRow, Conflict, KnockRow, RowId};

const TOKEN: &str = "SELECT 1 FROM tokens WHERE id = $1";
const PUT: &str = "INSERT INTO approvals (id, token, key_hash, kind, service, parent, checker_kind, labels, metadata, \
     from_address, first_asked, last_asked, state, decided_at, decided_by, reason, seq) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
     ON CONFLICT (token, key_hash) DO UPDATE SET id = excluded.id, kind = excluded.kind, service = excluded.service, \
     parent = excluded.parent, checker_kind = excluded.checker_kind, labels = excluded.labels, \
     metadata = excluded.metadata, from_address = excluded.from_address, first_asked = excluded.first_asked, \
     last_asked = excluded.last_asked, state = excluded.state, decided_at = excluded.decided_at, \
     decided_by = excluded.decided_by, reason = excluded.reason, seq = excluded.seq";
const DROP: &str = "DELETE FROM approvals WHERE id = $1";
const REMOVE_TOKEN: &str = "DELETE FROM tokens WHERE id = $1";

const KNOCK: &str = "INSERT INTO knocks (id, proven, door, why, token, kind, service, parent, network, from_address, \
     first_at, last_at, times) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
     ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, from_address = excluded.from_address, \
     first_at = excluded.first_at, last_at = excluded.last_at, times = excluded.times";
const FORGET: &str = "DELETE FROM knocks WHERE id = $1";

/// Keeps knocks as they are now, and forgets others.
pub(in super::super) async fn keep_knocks(
    conn: &mut SqliteConnection,
    put: &[KnockRow],
    gone: &[TokenId],
) -> Result<(), Fault> {
    let mut tx = conn.begin_with(BEGIN).await?;
    for row in put {
        sqlx::query(KNOCK)
            .bind(row.id.to_string())
            .bind(i64::from(row.proven))
            .bind(row.door.as_str())
            .bind(row.why.as_str())
            .bind(row.token.map(|token| token.to_string()))
            .bind(row.kind.map(|kind| kind.as_str()))
            .bind(row.service.as_ref().map(|id| id.as_str()))
            .bind(row.parent.as_ref().map(|id| id.as_str()))
            .bind(row.network.as_str())
            .bind(row.from.as_str())
            .bind(row.first_at.0)
            .bind(row.last_at.0)
            .bind(i64::try_from(row.times).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await?;
    }
    for id in gone {
        sqlx::query(FORGET).bind(id.to_string()).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

impl Batch<'_> {
    pub(super) async fn put_approval(&mut self, row: &ApprovalRow) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let token = row.token.to_string();
        if sqlx::query(TOKEN).bind(&token).fetch_optional(&mut *self.conn).await?.is_none() {
            return Err(Conflict::Missing.into());
        }
        sqlx::query(PUT)
            .bind(row.id.to_string())
            .bind(token)
            .bind(row.key.to_string())
            .bind(row.service.kind.as_str())
            .bind(row.service.id.as_str())
            .bind(row.parent.as_ref().map(|id| id.as_str()))
            .bind(row.checker_kind.as_ref().map(|kind| kind.as_str()))
            .bind(json(&row.labels)?)
            .bind(json(&row.metadata)?)
            .bind(row.from.as_str())
            .bind(row.first_asked.0)
            .bind(row.last_asked.0)
            .bind(row.state.as_str())
            .bind(row.decided_at.map(|at| at.0))
            .bind(row.decided_by.as_deref())
            .bind(row.reason.as_str())
            .bind(column(seq))
            .execute(&mut *self.conn)
            .await?;
        Ok(seq)
    }

    pub(super) async fn drop_approval(&mut self, id: RowId) -> Result<(), Halt> {
        sqlx::query(DROP).bind(id.to_string()).execute(&mut *self.conn).await?;
        Ok(())
    }

    pub(super) async fn remove_token(&mut self, token: &TokenId) -> Result<(), Halt> {
        let done = sqlx::query(REMOVE_TOKEN).bind(token.to_string()).execute(&mut *self.conn).await?;
        if done.rows_affected() == 0 { Err(Conflict::Missing.into()) } else { Ok(()) }
    }
}
