//! The suite against files, and what is special to files: damaged, foreign, newer, protected, full.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use tempfile::TempDir;

use super::*;
use crate::store::suite::{Place, property, registry_suite};

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
    store.close().await;
}
