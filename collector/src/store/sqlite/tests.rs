use super::*;

#[tokio::test]
async fn a_new_file_is_ready_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let first = store.load().await.unwrap();
    assert!(first.position.epoch > 0);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    store.close().await;
    let again = SqliteStore::open(&path).await.unwrap().load().await.unwrap();
    assert_eq!(again.position, first.position);
}
