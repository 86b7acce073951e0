//! The suite against files, and what is special to files: damaged, foreign, newer, protected, full.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use super::*;
use crate::store::suite::{
    Place, property, registry_suite,
    samples::{NOON, registered},
};

mod old;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("registry.db")
    }
}

#[async_trait]
impl Place for Folder {
    async fn open(&self) -> std::sync::Arc<dyn RegistryStore> {
        std::sync::Arc::new(SqliteStore::open(&self.file()).await.unwrap())
    }

    async fn dump(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.0.path()).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }
}

#[tokio::test]
async fn keeps_every_promise() {
    registry_suite(Folder::new).await;
}

#[test]
fn agrees_with_the_model() {
    property::histories_agree_with_the_model(Folder::new);
}

#[tokio::test]
async fn a_new_file_is_private_from_the_start() {
    let folder = Folder::new();
    let store = SqliteStore::open(&folder.file()).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(folder.0.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log and the log's index");
    // On the disk before it is answered: 2 is FULL.
    let durable: (i64, i64) =
        sqlx::query_as("SELECT * FROM pragma_synchronous, pragma_foreign_keys").fetch_one(&store.writer).await.unwrap();
    assert_eq!(durable, (2, 1));
    store.close().await;
}

/// Opens a file that must be refused, and checks that no byte of it changed.
async fn refused(path: &Path) -> StoreError {
    let before = std::fs::read(path).unwrap();
    let error = SqliteStore::open(path).await.unwrap_err();
    assert_eq!(std::fs::read(path).unwrap(), before, "nothing is destroyed");
    assert!(error.to_string().contains(path.to_str().unwrap()), "the path is named: {error}");
    error
}

fn corrupt(error: &StoreError) -> &str {
    match error {
        StoreError::Corrupt { why, .. } => why,
        StoreError::Unavailable { .. } | StoreError::Newer { .. } | StoreError::Misconfigured { .. } => {
            panic!("{error:?}")
        }
    }
}

fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}

/// A closed store with one service in it.
async fn filled(folder: &Folder) -> PathBuf {
    let store = folder.open().await;
    assert!(store.commit(&[registered("agent/a")], NOON).await.unwrap().iter().all(Result::is_ok));
    store.close().await;
    folder.file()
}

/// Changes a closed database behind the store's back.
async fn tamper(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = Folder::new();
    for text in ["x", "this is a text file\n", &"no database at all\n".repeat(1_000)] {
        std::fs::write(folder.file(), text).unwrap();
        assert!(corrupt(&refused(&folder.file()).await).contains("not an SQLite database"));
    }
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let folder = Folder::new();
    let path = filled(&folder).await;
    let mut bytes = std::fs::read(&path).unwrap();
    // The first page is intact, all others are rubble.
    bytes[4_096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    corrupt(&refused(&path).await);
}

#[tokio::test]
async fn an_empty_file_is_a_beginning() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "").unwrap();
    filled(&folder).await;
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    let folder = Folder::new();
    tamper(&folder.file(), "CREATE TABLE bookmarks (url TEXT)").await;
    assert!(corrupt(&refused(&folder.file()).await).contains("not one of Rollcall's"));
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = Folder::new();
    let path = filled(&folder).await;
    tamper(&path, "INSERT INTO _sqlx_migrations SELECT 99, 'later', installed_on, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1").await;
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
}

#[tokio::test]
async fn a_row_that_breaks_its_rule_is_named() {
    let folder = Folder::new();
    for (sql, named) in [
        ("UPDATE services SET kind = 'robot'", "table services, row robot/a: column kind"),
        ("UPDATE services SET kind = 'agent', id = 'A/../b'", "table services, row agent/A/../b: column id"),
        ("UPDATE services SET id = 'a', status = 'asleep'", "table services, row agent/a: column status"),
        ("UPDATE services SET status = 'pending', labels = '{'", "table services, row agent/a: column labels"),
        ("UPDATE services SET labels = '{}', seq = -1", "table services, row agent/a: column seq"),
        ("UPDATE services SET seq = 1; INSERT INTO denied VALUES ('xyz', 1)", "table denied, row xyz: column serial"),
        (
            "DELETE FROM denied; INSERT INTO credentials (id, secret_hash, role, created_at) VALUES ('aaaaaaaaaaaaaaaa', x'00', 'admin', 1)",
            "table credentials, row aaaaaaaaaaaaaaaa: column secret_hash",
        ),
    ] {
        let path = if folder.file().exists() { folder.file() } else { filled(&folder).await };
        tamper(&path, sql).await;
        let store = folder.open().await;
        let error = store.load().await.unwrap_err();
        assert!(corrupt(&error).contains(named), "{sql}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "the path is named: {error}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = Folder::new();
    let path = folder.0.path().join("nowhere/registry.db");
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert!(is_unavailable(&error) && error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// Room ends in the middle of a batch: SQLite says FULL, nothing of the batch stays, later commits work.
#[tokio::test]
async fn a_full_disk_loses_the_batch_and_nothing_else() {
    let folder = Folder::new();
    let store = SqliteStore::open(&folder.file()).await.unwrap();
    let before = store.load().await.unwrap();
    let many: Vec<_> = (0..500).map(|n| registered(&format!("agent/a{n}"))).collect();
    for _ in 0..2 {
        // The connection that failed is replaced, and its limit with it: that is when room is back.
        sqlx::query("PRAGMA max_page_count = 30").execute(&store.writer).await.unwrap();
        let error = store.commit(&many, NOON).await.unwrap_err();
        assert!(is_unavailable(&error) && error.to_string().contains("full"), "{error}");
        assert_eq!(store.load().await.unwrap(), before);
    }
    let answers = store.commit(&many, NOON).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(store.load().await.unwrap().services.len(), 500);
    store.close().await;
}

#[tokio::test]
async fn a_future_dropped_half_way_leaves_a_store_that_works() {
    let folder = Folder::new();
    let store = SqliteStore::open(&folder.file()).await.unwrap();
    let many: Vec<_> = (0..200).map(|n| registered(&format!("agent/a{n}"))).collect();
    for polls in 0..60 {
        let mut commit = std::pin::pin!(store.commit(&many, NOON));
        for _ in 0..polls {
            if futures_util::poll!(&mut commit).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let answer = store.commit(&[registered("agent/last")], NOON).await.unwrap();
    let loaded = store.load().await.unwrap();
    let last = answer[0].as_ref().unwrap();
    assert_eq!(loaded.position, last.position);
    assert!(loaded.services.len() == 1 || loaded.services.len() == 201, "all of a batch or nothing");
    store.close().await;
}

/// Permissions bind everybody but root: as root this runs itself again as nobody.
#[test]
fn a_protected_place_is_unavailable() {
    if rustix::process::geteuid().is_root() {
        return as_nobody("store::sqlite::tests::a_protected_place_is_unavailable");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = Folder::new();
        let path = folder.file();
        let modes = |dir, file: Option<u32>| {
            let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            set(folder.0.path(), dir);
            if let Some(mode) = file {
                set(&path, mode);
            }
        };
        let unavailable = async || {
            let error = SqliteStore::open(&path).await.unwrap_err();
            assert!(is_unavailable(&error) && error.to_string().contains(path.to_str().unwrap()), "{error}");
        };
        modes(0o500, None);
        unavailable().await;
        modes(0o700, None);
        filled(&folder).await;
        for (dir, file) in [(0o700, 0o400), (0o700, 0o000), (0o500, 0o600), (0o500, 0o400)] {
            modes(dir, Some(file));
            unavailable().await;
        }
        modes(0o700, Some(0o600));
        assert_eq!(folder.open().await.load().await.unwrap().services.len(), 1, "nothing was destroyed");
    });
}

/// Runs one test of this program again, without root's rights.
fn as_nobody(test: &str) {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The build folder may be closed to others.
    let program = folder.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = std::process::Command::new(program);
    let output = command.args(["--exact", test]).current_dir("/").uid(65_534).gid(65_534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
