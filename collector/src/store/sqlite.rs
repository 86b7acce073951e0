//! [`RegistryStore`] in one SQLite file: the default, no server needed.
//!
//! One connection writes, a few read; a commit is on the disk (WAL, `synchronous = FULL`) before it is
//! answered. Statements are portable SQL: text ids, milliseconds, JSON as text, `$1`, `ON CONFLICT`.
//! Owns its file and nothing beside it: never makes a new one in place of a damaged one, and refuses a
//! file of another program or of a newer version before it writes a byte.
//!
//! A writer that met an error is closed and replaced: SQLite may have ended its transaction on its own,
//! and what such a connection believes of itself is not worth finding out.

mod fault;
mod fields;
mod prune;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod trail;
mod write;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use rollcall_common::{id::ServiceKey, time::Timestamp, token::TokenId};
use sqlx::{
    ConnectOptions, Sqlite, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::io::AsyncReadExt;

use self::fault::{Fault, told};
use super::{
    RegistryStore, StoreError,
    rows::{
        Applied, AuditEvent, AuditQuery, BlindRow, Change, Conflict, IntervalRow, KnockRow, Loaded, ObserverMark,
        Outlived, Prune,
    },
};

/// How every SQLite file begins.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// How long a call waits for its connection, and a connection for a lock of another process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections for reading: an audit page does not wait for a history page.
const READERS: u32 = 2;
/// What the write-ahead log shrinks back to after a burst.
const WAL_LIMIT: &str = "67108864";
/// Memory for the writer's pages, in negative KiB, taken as needed: a batch of 1,000 changes scattered over a
/// large fleet touches a tenth of it, and what does not fit is written twice.
const CACHE: &str = "-32768";
/// Most services in one statement of a flush: a commit waits for no more than that.
const FLUSH_ROWS: usize = 1_000;

const MARK: &str = "INSERT INTO observer_marks (collector, boot_id, boot_at, wall_at) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (collector) DO UPDATE SET boot_id = excluded.boot_id, boot_at = excluded.boot_at, \
     wall_at = excluded.wall_at";
const BLIND: &str = "INSERT INTO blind_intervals (scope, from_at, to_at, cause) VALUES ($1, $2, $3, $4)";
const PING: &str = "UPDATE meta SET seq = seq WHERE only_row = 1";
// One pass over the rows as JSON costs a fraction of as many statements. CROSS keeps the order of the join.
const LAST_SEEN: &str = "INSERT INTO sightings (kind, id, seen_at) \
     SELECT services.kind, services.id, max(value->>2) FROM json_each($1) CROSS JOIN services \
     WHERE services.kind = value->>0 AND services.id = value->>1 GROUP BY 1, 2 \
     ON CONFLICT (kind, id) DO UPDATE SET seen_at = excluded.seen_at WHERE sightings.seen_at < excluded.seen_at";

/// The registry in an SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, or makes it with mode 0600, and brings it to the newest schema.
    ///
    /// # Errors
    /// [`StoreError::Newer`] and [`StoreError::Corrupt`] for a file that must not be written to, which is
    /// then left as it is; [`StoreError::Unavailable`] where the file cannot be made, read or written.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::try_open(path).await.map_err(|fault| told(path, fault))
    }

    async fn try_open(path: &Path) -> Result<Self, Fault> {
        prepare_file(path).await?;
        let plain = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE).disable_statement_logging();
        schema::inspect(&plain).await?;
        let pool = || SqlitePoolOptions::new().acquire_timeout(PATIENCE).idle_timeout(None).max_lifetime(None);
        let writing = plain
            .clone()
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", CACHE)
            .pragma("journal_size_limit", WAL_LIMIT);
        let writer = pool().max_connections(1).test_before_acquire(false).connect_with(writing).await?;
        schema::migrate(&mut *writer.acquire().await?).await?;
        let readers = pool().max_connections(READERS).connect_lazy_with(plain.read_only(true));
        let store = Self { path: path.into(), writer, readers };
        // SQLite opens a write-protected file without a word and fails at the first write.
        store.execute(sqlx::query(PING)).await?;
        Ok(store)
    }

    fn told(&self, fault: impl Into<Fault>) -> StoreError {
        told(&self.path, fault.into())
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.readers.acquire().await.map_err(|error| self.told(error))
    }

    /// Runs one statement durably.
    async fn execute(&self, query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>) -> Result<(), Fault> {
        let mut conn = self.writer.acquire().await?;
        let done = query.execute(&mut *conn).await;
        settle(conn, done.map_err(Fault::from)).await.map(|_| ())
    }
}

/// Hands the writer back, or closes it after an error.
async fn settle<T>(conn: PoolConnection<Sqlite>, done: Result<T, Fault>) -> Result<T, Fault> {
    if done.is_err() {
        // Whatever it says while it closes, the first error is the one to tell.
        drop(conn.close().await);
    }
    done
}

/// Makes the file with its mode before SQLite would make it with another; the log beside it gets the same.
/// A file that is there already must look like a database: SQLite takes a short text for an empty one.
async fn prepare_file(path: &Path) -> Result<(), Fault> {
    let made = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
    match made {
        Ok(file) => {
            file.sync_all().await?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            tokio::fs::File::open(folder).await?.sync_all().await?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // Opened for writing, since SQLite would put up with less and leave a log that nobody may write.
            let file = tokio::fs::OpenOptions::new().read(true).write(true).open(path).await?;
            let mut head = Vec::new();
            file.take(MAGIC.len() as u64).read_to_end(&mut head).await?;
            if !head.is_empty() && head != MAGIC {
                return Err(Fault::NoDatabase);
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[async_trait]
impl RegistryStore for SqliteStore {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let mut conn = self.reader().await?;
        read::load(&mut conn).await.map_err(|fault| self.told(fault))
    }

    async fn commit(&self, batch: &[Change], at: Timestamp) -> Result<Vec<Result<Applied, Conflict>>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let done = write::commit(&mut conn, batch, at).await;
        settle(conn, done).await.map_err(|fault| self.told(fault))
    }

    async fn flush_last_seen(&self, seen: &[(ServiceKey, Timestamp)]) -> Result<(), StoreError> {
        let mut rows: Vec<_> = seen.iter().map(|(key, at)| (key.kind.as_str(), key.id.as_str(), at.0)).collect();
        // Neighbours in a statement are then neighbours in the file: a page is written once, not once a row.
        rows.sort_unstable();
        for some in rows.chunks(FLUSH_ROWS) {
            let rows = serde_json::to_string(some).map_err(|error| self.told(sqlx::Error::Encode(error.into())))?;
            self.execute(sqlx::query(LAST_SEEN).bind(rows)).await.map_err(|fault| self.told(fault))?;
        }
        Ok(())
    }

    async fn keep_knocks(&self, put: &[KnockRow], gone: &[TokenId]) -> Result<(), StoreError> {
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let done = write::keep_knocks(&mut conn, put, gone).await;
        settle(conn, done).await.map_err(|fault| self.told(fault))
    }

    async fn mark_observing(&self, mark: &ObserverMark) -> Result<(), StoreError> {
        let query = sqlx::query(MARK)
            .bind(mark.collector.as_str())
            .bind(mark.boot_id.to_string())
            .bind(i64::try_from(mark.boot.0).unwrap_or(i64::MAX))
            .bind(mark.wall.0);
        self.execute(query).await.map_err(|fault| self.told(fault))
    }

    async fn record_blind(&self, blind: &BlindRow) -> Result<(), StoreError> {
        let scope =
            serde_json::to_string(&blind.scope).map_err(|error| self.told(sqlx::Error::Encode(error.into())))?;
        let query = sqlx::query(BLIND).bind(scope).bind(blind.from.0).bind(blind.to.0).bind(blind.cause.as_str());
        self.execute(query).await.map_err(|fault| self.told(fault))
    }

    async fn blind_since(&self, since: Timestamp, limit: usize) -> Result<Vec<BlindRow>, StoreError> {
        let mut conn = self.reader().await?;
        read::blind_since(&mut conn, since, limit).await.map_err(|fault| self.told(fault))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, StoreError> {
        let mut conn = self.reader().await?;
        read::audit(&mut conn, query).await.map_err(|fault| self.told(fault))
    }

    async fn history(
        &self,
        service: &ServiceKey,
        limit: usize,
        superseded: bool,
    ) -> Result<Vec<IntervalRow>, StoreError> {
        let mut conn = self.reader().await?;
        read::history(&mut conn, service, limit, superseded).await.map_err(|fault| self.told(fault))
    }

    async fn prune(&self, what: &Prune, limit: usize) -> Result<u64, StoreError> {
        let mut conn = self.writer.acquire().await.map_err(|error| self.told(error))?;
        let done = prune::prune(&mut conn, what, limit).await;
        settle(conn, done).await.map_err(|fault| self.told(fault))
    }

    async fn outlived(&self, what: &Outlived) -> Result<u64, StoreError> {
        let mut conn = self.reader().await?;
        prune::outlived(&mut conn, what).await.map_err(|fault| self.told(fault))
    }

    async fn crowded(
        &self,
        keep: u32,
        after: Option<&ServiceKey>,
        limit: usize,
    ) -> Result<Vec<ServiceKey>, StoreError> {
        let mut conn = self.reader().await?;
        prune::crowded(&mut conn, keep, after, limit).await.map_err(|fault| self.told(fault))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.execute(sqlx::query(PING)).await.map_err(|fault| self.told(fault))
    }

    async fn close(&self) {
        self.readers.close().await;
        // The last one to close brings the write-ahead log home.
        self.writer.close().await;
    }
}
