//! Packages: made, fetched, unpacked on a host, issued again; and the command that is pasted.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::SOON,
    until::until,
    world::{self, Plan},
};
use serde_json::Value;

use super::operator::{Operator, text};

/// An installer without an account.
async fn fetched(api: &str, secret: &str) -> Result<(u16, String)> {
    let request = reqwest::Client::new().post(format!("{api}/api/packages/download"));
    let answer = request.header("rollcall-download-secret", secret).send().await?;
    let status = answer.status().as_u16();
    let code =
        serde_json::from_slice::<Value>(&answer.bytes().await?).ok().and_then(|document| text(&document, "code").ok());
    Ok((status, code.unwrap_or_default()))
}

fn unpacked(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into).status()?;
    ensure!(done.success(), "tar ended with {done}");
    Ok(())
}

#[tokio::test]
async fn a_package_brings_a_host_in() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let operator = Operator::of(world)?;
        operator.says("services register poller site-3")?;
        let made = operator.document("packages create agent edge-17 --parent site-3 --label site=3 --local")?;
        let (id, secret) = (text(&made, "id")?, text(&made, "download_secret")?);
        world.keep_secret("download secret", &secret);
        let twice = operator.fails("packages create agent/edge-17 --parent site-3 --local", 77)?;
        ensure!(twice.contains("package_exists") && twice.contains("packages reissue"), "{twice}");

        // A restart loses nothing that was not fetched.
        world.crash_collector().await?;
        let operator = Operator::of(world)?;
        let kept = world.dir().join("edge-17.secret");
        fs::write(&kept, &secret)?;
        let download = |file: &str| format!("packages download {id} --secret-file {} --file {file}", kept.display());
        let (first, second) = (world.dir().join("1.tar.gz"), world.dir().join("2.tar.gz"));
        operator.says(&download(&first.display().to_string()))?;
        // A lost download: the same bearer gets the same bytes.
        operator.says(&download(&second.display().to_string()))?;
        ensure!(fs::read(&first)? == fs::read(&second)?, "two downloads differ");
        ensure!(fetched(&operator.api, &secret).await? == (410, "package_gone".into()), "another bearer got it");
        let foreign = secret.replace(&id, "aaaaaaaaaaaaaaaa");
        for wrong in [foreign.as_str(), "rollcall_pkg1_x", ""] {
            ensure!(fetched(&operator.api, wrong).await? == (404, "unknown_package".into()), "{wrong}");
        }

        // The files go where they belong, and the sidecar needs nothing else.
        let (unpacked_to, root) = (world.dir().join("unpacked"), world.dir().join("root"));
        unpacked(&first, &unpacked_to)?;
        for _ in 0..2 {
            let done = Command::new("sh").arg(unpacked_to.join("install.sh")).env("ROOT", &root).output()?;
            ensure!(done.status.success(), "install.sh: {}", String::from_utf8_lossy(&done.stderr));
        }
        let token = fs::read_to_string(root.join("etc/rollcall/agent/token"))?;
        world.keep_secret("token", token.trim());
        let mut sidecar = world.sidecar("edge-17", &fs::read_to_string(root.join("etc/rollcall/agent.toml"))?)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("agent/edge-17").await?;
        until(SOON, "the package is activated", async || {
            let status = text(&operator.document(&format!("packages show {id}"))?, "status")?;
            ensure!(status == "activated", "it is {status}");
            Ok(())
        })
        .await?;
        let refused = operator.fails(&format!("packages reissue {id} --local"), 77)?;
        ensure!(refused.contains("package_state"), "{refused}");
        world.api().wait_audit("package.activated", &format!("package:{id}")).await?;

        // Nobody who reads the store enrolls with what is found there.
        let blob = token.trim().rsplit('_').next().context("a blob")?.as_bytes().to_vec();
        let hush = secret.rsplit('_').next().context("a blob")?.as_bytes().to_vec();
        for entry in fs::read_dir(world.state())? {
            let path = entry?.path();
            if path.is_file() {
                let bytes = fs::read(&path)?;
                for part in blob.chunks_exact(24).chain(hush.chunks_exact(24)) {
                    ensure!(!bytes.windows(24).any(|window| window == part), "{} holds a secret", path.display());
                }
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_ended_is_issued_again() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let operator = Operator::of(world)?;
        let made = operator.document("packages create poller/p --local --expires-in 1s")?;
        let (id, secret) = (text(&made, "id")?, text(&made, "download_secret")?);
        until(SOON, "the package is expired", async || {
            let status = text(&operator.document(&format!("packages show {id}"))?, "status")?;
            ensure!(status == "expired", "it is {status}");
            Ok(())
        })
        .await?;
        ensure!(fetched(&operator.api, &secret).await? == (410, "package_gone".into()), "an expired one was fetched");
        let again = operator.document(&format!("packages reissue {id} --local"))?;
        ensure!(fetched(&operator.api, &secret).await? == (404, "unknown_package".into()), "the old secret opens it");
        ensure!(fetched(&operator.api, &text(&again, "download_secret")?).await?.0 == 200, "the new one does not");
        operator.fails(&format!("packages delete {id}"), 77)?;
        operator.says(&format!("packages revoke {id} --reason over"))?;
        operator.says(&format!("packages delete {id}"))?;
        let deleted = operator.says("packages list --status deleted --columns id,status --no-headers")?;
        ensure!(deleted.split_whitespace().eq([id.as_str(), "deleted"]), "{deleted}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn onboard_registers_what_is_missing_and_the_tree_shows_it() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let operator = Operator::of(world)?;
        let missing = operator.fails("onboard agent edge-1 --parent site-9 --local", 77)?;
        ensure!(missing.contains("--create-parents"), "{missing}");
        operator.fails("onboard agent edge-1", 64)?;
        let line = "onboard agent edge-1 --parent site-9 --create-parents --yes --local --output raw";
        let script = operator.says(line)?;
        ensure!(script.starts_with(" sudo sh -s <<'ROLLCALL'\n") && script.contains("\nrollcall_enr1_"), "no script");
        let dir = world.dir().join("tree");
        operator.says(&format!("config export --poller site-9 --dir {}", dir.display()))?;
        let document: Value = serde_json::from_slice(&fs::read(dir.join("config/pollers/site-9/agents/edge-1.json"))?)?;
        ensure!(text(&document, "status")? == "pending", "{document}");
        let listed = operator.says("config list --prefix config/pollers/ --output raw")?;
        ensure!(listed.lines().count() == 2, "{listed}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_to_do() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut operator = Operator::of(world)?;
        operator.says("stats")?;
        operator.fails("services show", 64)?;
        operator.fails("services show agent/nobody", 77)?;
        operator.fails("--credential-file /nowhere stats", 78)?;
        operator.fails("serve --ttl 1s --interval 1s", 78)?;
        let credential = rollcall_common::token::Credential::random(rollcall_common::token::CredentialKind::ApiKey)?;
        let stranger = world.dir().join("stranger");
        fs::write(&stranger, credential.reveal().as_bytes())?;
        let refused = operator.fails(&format!("--credential-file {} stats", stranger.display()), 77)?;
        ensure!(refused.contains("named by --credential-file"), "{refused}");
        operator.api = "http://127.0.0.1:1".into();
        let gone = operator.fails("stats", 69)?;
        ensure!(gone.contains("named by ROLLCALL_API") && gone.contains("is it running?"), "{gone}");
        Ok(())
    })
    .await
}
