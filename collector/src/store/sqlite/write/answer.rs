//! Writes to `answers`.

use rollcall_common::id::Seq;

use super::{Batch, Halt, column};
use crate::store::rows::{AnswerKey, AnswerRow, Conflict};

const LOOK: &str = "SELECT 1 FROM answers WHERE caller = $1 AND request_key = $2";
const KEEP: &str = "INSERT INTO answers (caller, request_key, fingerprint, status, location, body, secret, at, seq) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
const FORGET: &str = "DELETE FROM answers WHERE caller = $1 AND request_key = $2";

impl Batch<'_> {
    pub(super) async fn keep_answer(&mut self, row: &AnswerRow) -> Result<(), Halt> {
        let AnswerKey { caller, key } = &row.of;
        let found = sqlx::query(LOOK).bind(caller.as_str()).bind(key.as_str()).fetch_optional(&mut *self.conn).await?;
        if found.is_some() {
            return Err(Conflict::Exists.into());
        }
        let seq = if self.seq > self.base { self.seq } else { Seq::default() };
        sqlx::query(KEEP)
            .bind(caller.as_str())
            .bind(key.as_str())
            .bind(row.fingerprint.0.as_slice())
            .bind(i64::from(row.status))
            .bind(row.location.as_deref())
            .bind(row.body.as_str())
            .bind(i64::from(row.secret))
            .bind(row.at.0)
            .bind(column(seq))
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    pub(super) async fn forget_answer(&mut self, of: &AnswerKey) -> Result<(), Halt> {
        sqlx::query(FORGET).bind(of.caller.as_str()).bind(of.key.as_str()).execute(&mut *self.conn).await?;
        Ok(())
    }
}
