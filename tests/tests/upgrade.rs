//! A registry of another version: an older one is brought forward with all that it holds, a newer one is left alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::SOON,
    until::{same, until},
    world::{
        self, Plan, World,
        api::{at, word},
    },
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

/// The registry as the first schema left it.
const FIRST: &str = include_str!("../../collector/tests/old/registry-1.sql");
/// Its epoch, and the seq of its last change.
const STOOD: (u64, u64) = (9_117_702_823_170_066_151, 27);

async fn play(file: &Path, sql: &str) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await?;
    Ok(conn.close().await?)
}

fn database(world: &World) -> PathBuf {
    world.state().join("registry.db")
}

/// A collector of today on the file of the first: everything is found, told in today's words, and goes on.
#[tokio::test]
async fn an_old_registry_is_brought_forward_with_all_it_holds() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        world.collector().terminate().await?;
        let old = database(world);
        fs::remove_file(&old)?;
        play(&old, FIRST).await?;
        // Its credential is lost with its host: a restart without the file makes the next one.
        fs::remove_file(world.state().join("admin.credential"))?;
        // In its days nothing was sealed, and no seal noted.
        let noted = world.state().join("audit-head.json");
        if noted.exists() {
            fs::remove_file(noted)?;
        }
        world.start_collector().await?;
        let api = world.api().clone();
        let agent = api.service("agent/edge-17").await?;
        same("its label", &agent["labels"]["town"], &json!("Zürich"))?;
        same("its parent", &agent["parent"], &json!("site-3"))?;
        same("its first word", &word(&agent, "first_registered")?, &"2026-11-21T17:41:42.700Z")?;
        same("who was barred", &api.field("instance/db-1", "status").await?, &"revoked".to_owned())?;
        same("tokens", &api.tokens().await?.len(), &3)?;
        same(
            "the first event",
            &api.audit("object=poller/site-3").await?.last().map(|event| event["seq"].clone()),
            &Some(json!(3)),
        )?;
        ensure!(!api.history("agent/edge-17").await?.is_empty(), "its history is gone");
        let stats = api.get("/api/admin/services/stats").await?.expect(200)?;
        same("the epoch", &stats["epoch"], &json!(STOOD.0))?;
        api.post("/api/admin/services/pollers", &json!({ "id": "site-4" })).await?.expect(201)?;
        let registered = api.wait_audit("service.registered", "poller/site-4").await?;
        ensure!(registered["seq"].as_u64() > Some(STOOD.1), "{registered}");
        // The chain of seals begins with what was there before there were seals.
        let head = until(SOON * 2, "the trail is sealed", async || {
            let stats = api.get("/api/admin/services/stats").await?.expect(200)?;
            let head = at(&stats, "/audit_head");
            ensure!(head["last"].as_u64() >= registered["seq"].as_u64(), "{head}");
            Ok(head)
        })
        .await?;
        let seals = api.get("/api/admin/audit/seals").await?.expect(200)?;
        same("where it begins", &at(&seals, "/items/0/first"), &json!(1))?;
        ensure!(word(&head, "hash")?.len() == 64, "{head}");
        let verdict = api.get("/api/admin/audit/verify").await?.expect(200)?;
        ensure!(verdict["broken"].is_null(), "{verdict}");
        Ok(())
    })
    .await
}

/// Every file with its bytes, but for the lock, which names the process that holds it.
fn everything(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(everything(&path)?);
        } else if path.is_file() && path.file_name().is_none_or(|name| name != "lock") {
            all.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(all)
}

/// Refused with both versions named, for good (78), and not a byte of the state is another.
#[tokio::test]
async fn a_newer_registry_is_refused_and_left_as_it_is() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        world.api().post("/api/admin/services/pollers", &json!({ "id": "p" })).await?.expect(201)?;
        world.collector().terminate().await?;
        let later = "INSERT INTO _sqlx_migrations SELECT 99, 'later', installed_on, success, checksum, execution_time \
                     FROM _sqlx_migrations WHERE version = 1";
        play(&database(world), later).await?;
        let before = everything(&world.state())?;
        world.collector().start()?;
        same("the exit code", &world.collector().ended().await?.code(), &Some(78))?;
        let line = world.collector().line_with("newer version")?;
        ensure!(line.contains("schema 99") && line.contains("knows ") && line.contains("upgrade"), "{line}");
        let after = everything(&world.state())?;
        let other: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(*bytes)).collect();
        ensure!(other.is_empty(), "{:?} is another", other.iter().map(|(path, _)| path).collect::<Vec<_>>());
        same("files", &after.len(), &before.len())?;
        // Whoever takes the newer part back has the registry as it was.
        play(&database(world), "DELETE FROM _sqlx_migrations WHERE version = 99").await?;
        world.start_collector().await?;
        same("what was registered", &world.api().service("poller/p").await?["id"], &Value::from("p"))
            .context("after it")
    })
    .await
}
