//! What goes wrong below the trait, and what of it the registry is told.
//!
//! Knows SQLite's result codes; nobody above this directory does.

use std::path::Path;

use sqlx::migrate::MigrateError;

use crate::store::StoreError;

/// Anything that ends a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// SQLite or the pool said no.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A migration did not go through.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The file could not be made.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A row breaks the rules of its words.
    #[error("table {table}, row {key}: {why}")]
    Row {
        /// Its table.
        table: &'static str,
        /// Its key, as far as it can be read.
        key: String,
        /// The column and its fault.
        why: String,
    },
    /// A file of something else.
    #[error("the file is not an SQLite database: point the setting at another path")]
    NoDatabase,
    /// A sound database of somebody else's.
    #[error("it is an SQLite database, but not one of Rollcall's: point the setting at another path")]
    Foreign,
    /// Its schema is newer than this program's.
    #[error("schema {found} is newer than {known}")]
    Newer {
        /// The schema found.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
}

/// SQLite's primary result codes that mean "what is there is wrong", where asking again will not help:
/// ERROR (a table or column is missing), CORRUPT, CONSTRAINT and MISMATCH (rows that no code of ours
/// writes), FORMAT and NOTADB.
const LASTING: [u32; 6] = [1, 11, 19, 20, 24, 26];

/// Puts a fault into the registry's words, with the path that an operator looks for.
pub(super) fn told(path: &Path, fault: Fault) -> StoreError {
    let store = format!("SQLite {}", path.display());
    match fault {
        Fault::Newer { found, known } => StoreError::Newer { store, found, known },
        Fault::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => sql(store, &error),
        Fault::Sql(error) => sql(store, &error),
        Fault::File(error) => StoreError::Unavailable { store, why: error.to_string() },
        lasting @ (Fault::Migrate(_) | Fault::Row { .. } | Fault::NoDatabase | Fault::Foreign) => {
            StoreError::Corrupt { store, why: lasting.to_string() }
        }
    }
}

fn sql(store: String, error: &sqlx::Error) -> StoreError {
    let why = error.to_string();
    if is_lasting(error) { StoreError::Corrupt { store, why } } else { StoreError::Unavailable { store, why } }
}

fn is_lasting(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Database(error) = error {
        // The low byte is the primary code, the rest says more.
        let code = error.code().and_then(|code| code.parse::<u32>().ok());
        return code.is_some_and(|code| LASTING.contains(&(code & 0xff)));
    }
    // Anything else that lasts came from reading or writing a value; the rest is pool, thread and file.
    matches!(
        error,
        sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
    )
}
