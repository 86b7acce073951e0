//! A host of its own: a directory, a CA, a collector that was set up there, and an operator's shell.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use rollcall_tests::{
    peer::SOON,
    until::{until, within},
    world::{Process, process::find},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// What it printed, where it ended so.
    pub(crate) fn expect(self, code: i32) -> Result<String> {
        ensure!(self.code == code, "it ended with {}, not {code}: {}{}", self.code, self.out, self.err);
        Ok(if code == 0 { self.out } else { self.err })
    }
}

/// A CA of ours.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a test's CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self, name: &str) -> Result<(String, String)> {
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((params.signed_by(&key, &self.0)?.pem(), key.serialize_pem()))
    }
}

/// The host.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) ca: Ca,
    pub(crate) collector: Process,
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rollcall-doors-").tempdir()?;
        let ca = Ca::new()?;
        fs::write(dir.path().join("ca.pem"), ca.pem())?;
        let mut collector = Process::new("rollcall-collector", "collector", dir.path())?;
        collector.args(["serve".into(), "--config".into(), text(&dir.path().join("collector.toml"))?]);
        collector.env("ROLLCALL_QUIC_LISTEN", "127.0.0.1:0");
        collector.env("ROLLCALL_LOG_LEVEL", "trace");
        let place = Self { dir, ca, collector };
        place.put_pair(&place.ca.issue("localhost")?)?;
        Ok(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> Result<String> {
        text(&self.path(name))
    }

    /// Puts a certificate and its key in place, as a whole each.
    pub(crate) fn put_pair(&self, (cert, key): &(String, String)) -> Result<()> {
        for (name, content) in [("web.pem", cert), ("web.key", key)] {
            let next = self.path("next");
            fs::write(&next, content)?;
            fs::set_permissions(&next, fs::Permissions::from_mode(0o600))?;
            fs::rename(next, self.path(name))?;
        }
        Ok(())
    }

    /// Sets the collector up; what setup said.
    pub(crate) async fn set_up(&self) -> Result<String> {
        let (config, state) = (self.text("collector.toml")?, self.text("state")?);
        let (cert, key) = (self.text("web.pem")?, self.text("web.key")?);
        let line = [
            "setup",
            "--yes",
            "--config",
            &config,
            "--state-dir",
            &state,
            "--name",
            "main",
            "--trust-domain",
            "fleet.test",
            "--advertise",
            "127.0.0.1",
            "--http-listen",
            "127.0.0.1:0",
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
        ];
        self.cli(&line, "").await?.expect(0)
    }

    /// Starts the collector and waits until it listens, encrypted.
    pub(crate) async fn start(&mut self) -> Result<SocketAddr> {
        self.start_speaking("https").await
    }

    /// Starts the collector and waits until it listens and says so.
    pub(crate) async fn start_speaking(&mut self, scheme: &str) -> Result<SocketAddr> {
        let endpoints = self.path("state/endpoints.json");
        if endpoints.exists() {
            fs::remove_file(&endpoints)?;
        }
        self.collector.start()?;
        let collector = &mut self.collector;
        let told = until(SOON, "the collector listens", async || {
            if let Some(status) = collector.exited()? {
                bail!("it ended with {status}: {}", collector.said()?);
            }
            Ok(serde_json::from_slice::<Value>(&fs::read(&endpoints)?)?)
        })
        .await?;
        ensure!(told.get("scheme").and_then(Value::as_str) == Some(scheme), "{told}");
        Ok(told.get("http").and_then(Value::as_str).context("no http")?.parse()?)
    }

    /// Runs a command of the operator's, as in a shell of its own.
    pub(crate) async fn cli(&self, args: &[&str], stdin: &str) -> Result<Ended> {
        let mut child = Command::new(find("rollcall-collector")?)
            .args(args)
            .env_clear()
            .env("XDG_CONFIG_HOME", self.path("home"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take().context("no stdin")?;
        // A command that reads nothing may have ended already.
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
        let ended = within(SOON, "the command ends", child.wait_with_output()).await??;
        let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { code: ended.status.code().unwrap_or(-1), out: words(ended.stdout), err: words(ended.stderr) })
    }

    /// The permission bits of a file.
    pub(crate) fn mode(&self, name: &str) -> Result<u32> {
        Ok(fs::metadata(self.path(name))?.mode() & 0o777)
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("not UTF-8")?.to_owned())
}

/// The login code in a text: five groups of five.
pub(crate) fn code_in(text: &str) -> Result<String> {
    let is_code = |word: &&str| word.len() == 29 && word.split('-').all(|group| group.len() == 5);
    Ok(text.split_whitespace().find(is_code).with_context(|| format!("no code in {text}"))?.to_owned())
}
