//! What a database file must be before it is written to: ours, and not newer than this program.

use sqlx::{
    AssertSqlSafe, Connection, SqlStr, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::SqliteConnectOptions,
};

use super::fault::Fault;

/// SQLite's `application_id` of our files: `Roll`, in ASCII.
const APPLICATION_ID: i64 = 0x526f_6c6c;

/// Every migration, oldest first. A released one never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "registry", include_str!("../../../migrations/sqlite/0001_registry.sql")),
    (2, "registration", include_str!("../../../migrations/sqlite/0002_registration.sql")),
    (3, "upkeep", include_str!("../../../migrations/sqlite/0003_upkeep.sql")),
    (4, "audit", include_str!("../../../migrations/sqlite/0004_audit.sql")),
    (5, "credentials", include_str!("../../../migrations/sqlite/0005_credentials.sql")),
    (6, "packages", include_str!("../../../migrations/sqlite/0006_packages.sql")),
    (7, "idempotency", include_str!("../../../migrations/sqlite/0007_idempotency.sql")),
    (8, "tokens", include_str!("../../../migrations/sqlite/0008_tokens.sql")),
    (9, "settings", include_str!("../../../migrations/sqlite/0009_settings.sql")),
];

/// Looks at a file without changing it: a connection that sets nothing, three reads.
pub(super) async fn inspect(options: &SqliteConnectOptions) -> Result<(), Fault> {
    let mut conn = SqliteConnection::connect_with(options).await?;
    let found = version(&mut conn).await;
    conn.close().await?;
    let known = MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0);
    match found? {
        Some(found) if found > known => Err(Fault::Newer { found, known }),
        Some(_) | None => Ok(()),
    }
}

/// The newest migration applied; `None` where the file is still empty.
async fn version(conn: &mut SqliteConnection) -> Result<Option<i64>, Fault> {
    let things: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *conn).await?;
    if things == 0 {
        return Ok(None);
    }
    let owner: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    if owner != APPLICATION_ID {
        return Err(Fault::Foreign);
    }
    Ok(sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *conn).await?)
}

/// Brings an inspected database to the newest schema; each migration is one transaction.
pub(super) async fn migrate(conn: &mut SqliteConnection) -> Result<(), Fault> {
    // Before the first table, so that a crash in between leaves a file that is still known as ours.
    sqlx::query(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"))).execute(&mut *conn).await?;
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.collect()).run_direct(None, conn, false).await?;
    Ok(())
}
