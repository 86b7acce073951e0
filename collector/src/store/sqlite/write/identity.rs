//! Writes to `identities`, `identity_keys` and `denied`.

use rollcall_common::{
    id::{Generation, Seq, ServiceKey},
    identity::{Pin, Serial},
    time::Timestamp,
};
use sqlx::Row;

use super::{Batch, Halt, json};
use crate::store::{
    rows::{Conflict, IdentityRow},
    sqlite::fields::parse_serial,
};

// Every precondition in one question: each costs a way to the connection's thread and back.
const LOOK: &str = "SELECT \
     (SELECT count(*) FROM services WHERE kind = $1 AND id = $2), \
     (SELECT serial FROM identities WHERE kind = $1 AND id = $2), \
     (SELECT pending_serial FROM identities WHERE kind = $1 AND id = $2), \
     (SELECT count(*) FROM identity_keys WHERE key_hash IN ($3, $4) AND NOT (kind = $1 AND id = $2))";
const PUT: &str = "INSERT INTO identities (kind, id, serial, key_hash, spki, not_after, pending_serial, \
     pending_key_hash, pending_spki, pending_not_after, enrolled_via, enrolled_at, rejoins, rejoins_since, rejoin_limit, \
     machine) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
     ON CONFLICT (kind, id) DO UPDATE SET serial = excluded.serial, key_hash = excluded.key_hash, \
     spki = excluded.spki, not_after = excluded.not_after, pending_serial = excluded.pending_serial, \
     pending_key_hash = excluded.pending_key_hash, pending_spki = excluded.pending_spki, \
     pending_not_after = excluded.pending_not_after, enrolled_via = excluded.enrolled_via, \
     enrolled_at = excluded.enrolled_at, rejoins = excluded.rejoins, rejoins_since = excluded.rejoins_since, \
     rejoin_limit = excluded.rejoin_limit, machine = excluded.machine";
const FORGET_KEYS: &str = "DELETE FROM identity_keys WHERE kind = $1 AND id = $2 AND key_hash NOT IN ($3, $4)";
const KEEP_KEY: &str =
    "INSERT INTO identity_keys (key_hash, kind, id) VALUES ($1, $2, $3) ON CONFLICT (key_hash) DO NOTHING";
const DROP: &str = "DELETE FROM identities WHERE kind = $1 AND id = $2";
// Two refusals of one serial: the longer one holds.
const DENY: &str = "INSERT INTO denied (serial, until_at) VALUES ($1, $2) ON CONFLICT (serial) DO UPDATE \
     SET until_at = excluded.until_at WHERE denied.until_at < excluded.until_at";
const ALLOW: &str = "DELETE FROM denied WHERE serial = $1";

impl Batch<'_> {
    pub(super) async fn put_identity(&mut self, row: &IdentityRow, expect: Option<Generation>) -> Result<Seq, Halt> {
        let (kind, id) = (row.service.kind.as_str(), row.service.id.as_str());
        let current = row.current.key.to_string();
        let pending = row.pending.as_ref().map(|cert| cert.key.to_string());
        let other = pending.as_deref().unwrap_or(&current);
        let look = sqlx::query(LOOK).bind(kind).bind(id).bind(&current).bind(other);
        let found = look.fetch_one(&mut *self.conn).await?;
        if found.try_get::<i64, _>(0)? == 0 {
            return Err(Conflict::Missing.into());
        }
        // `None` is less than any generation.
        let latest = generation(found.try_get(1)?)?.max(generation(found.try_get(2)?)?);
        if latest != expect {
            return Err(Conflict::Stale.into());
        }
        if found.try_get::<i64, _>(3)? > 0 {
            return Err(Conflict::KeyInUse.into());
        }
        sqlx::query(PUT)
            .bind(kind)
            .bind(id)
            .bind(row.current.serial.to_string())
            .bind(&current)
            .bind(row.current.spki.as_slice())
            .bind(row.current.not_after.0)
            .bind(row.pending.as_ref().map(|cert| cert.serial.to_string()))
            .bind(&pending)
            .bind(row.pending.as_ref().map(|cert| cert.spki.as_slice()))
            .bind(row.pending.as_ref().map(|cert| cert.not_after.0))
            .bind(row.enrolled_via.to_string())
            .bind(row.enrolled_at.0)
            .bind(i64::from(row.rejoins))
            .bind(row.rejoins_since.0)
            .bind(row.rejoin_limit.map(i64::from))
            .bind(row.machine.as_ref().map(json).transpose()?)
            .execute(&mut *self.conn)
            .await?;
        if latest.is_some() {
            let forget = sqlx::query(FORGET_KEYS).bind(kind).bind(id).bind(&current).bind(other);
            forget.execute(&mut *self.conn).await?;
        }
        self.keep_key(&row.current.key, &row.service).await?;
        if let Some(cert) = &row.pending {
            self.keep_key(&cert.key, &row.service).await?;
        }
        Ok(self.take_seq())
    }

    async fn keep_key(&mut self, key: &Pin, service: &ServiceKey) -> Result<(), sqlx::Error> {
        let query = sqlx::query(KEEP_KEY).bind(key.to_string());
        query.bind(service.kind.as_str()).bind(service.id.as_str()).execute(&mut *self.conn).await.map(|_| ())
    }

    pub(super) async fn drop_identity(&mut self, service: &ServiceKey) -> Result<Option<Seq>, Halt> {
        let query = sqlx::query(DROP).bind(service.kind.as_str()).bind(service.id.as_str());
        let done = query.execute(&mut *self.conn).await?;
        Ok((done.rows_affected() > 0).then(|| self.take_seq()))
    }

    pub(super) async fn deny(&mut self, serial: &Serial, until: Timestamp) -> Result<(), Halt> {
        sqlx::query(DENY).bind(serial.to_string()).bind(until.0).execute(&mut *self.conn).await?;
        Ok(())
    }

    pub(super) async fn allow(&mut self, serial: &Serial) -> Result<(), Halt> {
        sqlx::query(ALLOW).bind(serial.to_string()).execute(&mut *self.conn).await?;
        Ok(())
    }
}

fn generation(serial: Option<&str>) -> Result<Option<Generation>, sqlx::Error> {
    let serial = serial.map(parse_serial).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(serial.map(|serial| serial.generation()))
}
