//! Writes to `tokens`, `token_uses` and `credentials`.

use rollcall_common::{
    id::{Seq, ServiceKey},
    identity::Pin,
    time::Timestamp,
    token::TokenId,
};
use sqlx::Row;

use super::{Batch, Halt, column, json};
use crate::store::rows::{Conflict, CredentialRow, TokenRow};

const INSERT: &str = "INSERT INTO tokens (id, secret_hash, kind, parent, id_rule, checker_kind, max_uses, not_before, \
     expires_at, cidr_allow, labels, rejoin_limit, uses, created_by, created_at, note, revoked_at, last_used_at, \
     last_used_from, seq, approval, ephemeral_after, parent_rule, implicit_children) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24) \
     ON CONFLICT (id) DO NOTHING";
const REVOKE: &str = "UPDATE tokens SET revoked_at = $1, seq = $2 WHERE id = $3 AND revoked_at IS NULL";
const EXISTS: &str = "SELECT 1 FROM tokens WHERE id = $1";
const LOOK: &str = "SELECT \
     CASE WHEN revoked_at IS NULL AND not_before <= $2 AND expires_at >= $2 THEN 1 ELSE 0 END, \
     CASE WHEN uses < max_uses THEN 1 ELSE 0 END, \
     (SELECT count(*) FROM token_uses WHERE token = $1 AND key_hash = $3) \
     FROM tokens WHERE id = $1";
const USE: &str = "UPDATE tokens SET uses = uses + 1, last_used_at = $1, last_used_from = $2, seq = $3 WHERE id = $4";
const USED: &str = "INSERT INTO token_uses (token, key_hash, kind, id) VALUES ($1, $2, $3, $4)";
const CREDENTIAL: &str = "INSERT INTO credentials (id, secret_hash, role, scope, policy, note, created_by, \
     created_at, expires_at, revoked_at, last_used_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING";
const TOUCH: &str = "UPDATE credentials SET last_used_at = $1 WHERE id = $2 AND coalesce(last_used_at, $1) <= $1";
const CLOSE: &str = "UPDATE credentials SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2";

impl Batch<'_> {
    pub(super) async fn insert_token(&mut self, row: &TokenRow) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let policy = &row.policy;
        let done = sqlx::query(INSERT)
            .bind(row.id.to_string())
            .bind(row.hash.0.as_slice())
            .bind(policy.kind.as_str())
            .bind(policy.parent.as_ref().map(|id| id.as_str()))
            .bind(json(&policy.id_rule)?)
            .bind(policy.checker_kind.as_ref().map(|kind| kind.as_str()))
            .bind(i64::from(policy.max_uses))
            .bind(policy.not_before.0)
            .bind(policy.expires_at.0)
            .bind(json(&policy.cidr_allow)?)
            .bind(json(&policy.labels)?)
            .bind(policy.rejoin_limit.map(i64::from))
            .bind(i64::from(row.uses))
            .bind(row.created_by.as_str())
            .bind(row.created_at.0)
            .bind(row.note.as_str())
            .bind(row.revoked_at.map(|at| at.0))
            .bind(row.last_used_at.map(|at| at.0))
            .bind(row.last_used_from.as_deref())
            .bind(column(seq))
            .bind(policy.approval.as_str())
            .bind(policy.ephemeral_after.map(i64::from))
            .bind(policy.parent_rule.as_ref().map(json).transpose()?)
            .bind(i64::from(policy.implicit_children))
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Exists.into()) } else { Ok(seq) }
    }

    pub(super) async fn revoke_token(&mut self, token: &TokenId, at: Timestamp) -> Result<Seq, Halt> {
        let seq = self.take_seq();
        let id = token.to_string();
        let done = sqlx::query(REVOKE).bind(at.0).bind(column(seq)).bind(&id).execute(&mut *self.conn).await?;
        if done.rows_affected() > 0 {
            return Ok(seq);
        }
        let there = sqlx::query(EXISTS).bind(&id).fetch_optional(&mut *self.conn).await?.is_some();
        Err(if there { Conflict::TokenEnded } else { Conflict::Missing }.into())
    }

    pub(super) async fn use_token(
        &mut self,
        token: &TokenId,
        key: &Pin,
        service: &ServiceKey,
        at: Timestamp,
        from: &str,
    ) -> Result<Option<Seq>, Halt> {
        let (id, key) = (token.to_string(), key.to_string());
        let looked = sqlx::query(LOOK).bind(&id).bind(at.0).bind(&key).fetch_optional(&mut *self.conn).await?;
        let Some(row) = looked else { return Err(Conflict::Missing.into()) };
        let (valid, left, used): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if used > 0 {
            return Ok(None);
        }
        if valid == 0 {
            return Err(Conflict::TokenEnded.into());
        }
        if left == 0 {
            return Err(Conflict::TokenSpent.into());
        }
        let seq = self.take_seq();
        sqlx::query(USE).bind(at.0).bind(from).bind(column(seq)).bind(&id).execute(&mut *self.conn).await?;
        let used = sqlx::query(USED).bind(&id).bind(&key).bind(service.kind.as_str()).bind(service.id.as_str());
        used.execute(&mut *self.conn).await?;
        Ok(Some(seq))
    }

    pub(super) async fn insert_credential(&mut self, row: &CredentialRow) -> Result<(), Halt> {
        let done = sqlx::query(CREDENTIAL)
            .bind(row.id.to_string())
            .bind(row.hash.0.as_slice())
            .bind(row.role.as_str())
            .bind(row.scope.to_string())
            .bind(row.policy.as_ref().map(json).transpose()?)
            .bind(row.note.as_str())
            .bind(row.created_by.as_str())
            .bind(row.created_at.0)
            .bind(row.expires_at.map(|at| at.0))
            .bind(row.revoked_at.map(|at| at.0))
            .bind(row.last_used_at.map(|at| at.0))
            .execute(&mut *self.conn)
            .await?;
        if done.rows_affected() == 0 { Err(Conflict::Exists.into()) } else { Ok(()) }
    }

    pub(super) async fn touch_credential(&mut self, id: &TokenId, at: Timestamp) -> Result<(), Halt> {
        sqlx::query(TOUCH).bind(at.0).bind(id.to_string()).execute(&mut *self.conn).await?;
        Ok(())
    }

    pub(super) async fn revoke_credential(&mut self, id: &TokenId, at: Timestamp) -> Result<(), Halt> {
        let done = sqlx::query(CLOSE).bind(at.0).bind(id.to_string()).execute(&mut *self.conn).await?;
        if done.rows_affected() == 0 { Err(Conflict::Missing.into()) } else { Ok(()) }
    }
}
