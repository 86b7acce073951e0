//! H10 and H16: the ways in that a host has, their end, and files that others could have touched.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_tests::{
    until::same,
    world::{self, Api, Plan, World},
};
use serde_json::json;

use super::scene::key;

/// Who nobody is on every distribution.
const NOBODY: u32 = 65_534;

/// H10: a closed bootstrap credential is nobody's, and the end is on record.
#[tokio::test]
async fn a_closed_bootstrap_credential_is_nobodys() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let made = key(world.api(), "admin", "").await?;
        world.keep_secret("admin key", &made);
        let (first, admin) = (world.api().clone(), Api::new(world.api().addr(), &made));
        first.get("/api/admin/whoami").await?.expect(200)?;
        let closed = admin.post("/api/admin/bootstrap/close", &json!({})).await?.expect(200)?;
        same("what ended", &closed["closed"], &json!(1))?;
        same("the old credential", &first.get("/api/admin/whoami").await?.status, &401)?;
        let forged = json!({ "id": "p" });
        same("a registration", &first.post("/api/admin/services/pollers", &forged).await?.status, &401)?;
        same("the service", &admin.get("/api/admin/services/pollers/p").await?.status, &404)?;
        let events = admin.audit("action=credential.revoked").await?;
        let by = admin.get("/api/admin/whoami").await?.expect(200)?;
        ensure!(events.iter().any(|event| event["actor"] == by["actor"]), "{events:?}");
        let again = admin.post("/api/admin/bootstrap/close", &json!({})).await?;
        ensure!(again.status == 409 || again.json["closed"] == json!(0), "{} {}", again.status, again.text);
        Ok(())
    })
    .await
}

async fn refuses_to_start(world: &mut World, named: &Path) -> Result<()> {
    let said = world.collector().said()?.len();
    world.collector().start()?;
    let status = world.collector().ended().await?;
    ensure!(!status.success(), "it ended with {status}");
    let log = world.collector().said()?;
    let log = log.get(said..).unwrap_or_default();
    ensure!(log.contains(&named.display().to_string()), "{} is not named: {log}", named.display());
    Ok(())
}

/// Gives a file to a user; who is not root asks root to.
fn owner(path: &Path, uid: u32) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return std::os::unix::fs::chown(path, Some(uid), None).with_context(|| path.display().to_string());
    }
    let done = std::process::Command::new("sudo").args(["-n", "chown", &uid.to_string()]).arg(path).status()?;
    ensure!(done.success(), "giving a file away takes root or sudo without a password");
    Ok(())
}

fn keys_in(state: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(state)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.iter().map(fs::DirEntry::path);
    Ok(paths.filter(|path| path.to_string_lossy().contains("key") && path.is_file()).collect())
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}

/// H16: what others could read or put there is not used, and named; mended, it is.
#[tokio::test]
async fn files_that_are_open_to_others_are_named() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        world.collector().kill9().await?;
        let state = world.state();
        let keys = keys_in(&state)?;
        ensure!(!keys.is_empty(), "no key in {}", state.display());
        for path in keys {
            mode(&path, 0o644)?;
            refuses_to_start(world, &path).await?;
            mode(&path, 0o600)?;
            let aside = world.dir().join("aside");
            fs::rename(&path, &aside)?;
            std::os::unix::fs::symlink(&aside, &path)?;
            refuses_to_start(world, &path).await?;
            fs::remove_file(&path)?;
            fs::rename(&aside, &path)?;
        }
        mode(&state, 0o777)?;
        refuses_to_start(world, &state).await?;
        mode(&state, 0o700)?;
        // Another's file is another's word, whatever its mode; so is another's directory.
        let key = keys_in(&state)?.into_iter().next().context("a key")?;
        for path in [key, state.clone()] {
            owner(&path, NOBODY)?;
            refuses_to_start(world, &path).await?;
            owner(&path, rustix::process::geteuid().as_raw())?;
        }
        world.start_collector().await?;
        world.api().call(Method::GET, "/api/admin/whoami", None).await?.expect(200).map(drop)
    })
    .await
}
