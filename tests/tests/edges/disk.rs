//! Disks that are full, or take nothing any more: told with what mends it, and no reason to be silent.

use std::{path::PathBuf, process::Command};

use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy},
};

use super::*;

/// A small disk in the place of a directory; gone when dropped.
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn new(dir: &Path, kib: u32) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        mount(&["-t", "tmpfs", "-o", &format!("size={kib}k,mode=700"), "tmpfs"], dir)?;
        Ok(Self(dir.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills it to the last byte.
    pub(super) fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.ballast())?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn read_only(&self, yes: bool) -> Result<()> {
        mount(&["-o", if yes { "remount,ro" } else { "remount,rw" }], &self.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(words: &[&str], at: &Path) -> Result<()> {
    let output = Command::new("mount").args(words).arg(at).output()?;
    ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn a_full_or_read_only_disk_is_named_and_keeps_nobody_silent() -> Result<()> {
    if !is_root("a small disk") {
        return Ok(());
    }
    world::run(Plan::calm(), async |world| {
        let socket = world.dir().join("p.sock");
        let mut sidecar =
            world.sidecar("p", &format!("kind = \"poller\"\nsocket = {:?}", socket.display().to_string()))?;
        let disk = Disk::new(&sidecar.state(), 96)?;
        disk.fill()?;
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        // It may have room again: whoever restarts it is right to.
        same("the exit code", &sidecar.ended().await?.code(), &Some(1))?;
        let line = sidecar.line_with("No space left on device")?;
        ensure!(line.contains("make room, it is tried again by itself"), "{line}");
        let (code, text) = agent(&sidecar, &["doctor", "--output", "json"]).await?;
        let disk_says = finding(&text, "disk")?;
        ensure!(code == 78 && word(&disk_says, "grade")? == "fail" && word(&disk_says, "fix")?.contains("make room"));
        disk.empty()?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        sidecar.terminate().await?;

        // Whoever has an identity beats on, full or not.
        disk.fill()?;
        sidecar.start()?;
        world.api().wait(SOON, "poller/p", "presence", "alive").await?;
        sidecar.terminate().await?;
        world.api().wait(SOON, "poller/p", "presence", "stopped").await?;
        disk.empty()?;
        disk.read_only(true)?;
        sidecar.start()?;
        world.api().wait(SOON, "poller/p", "presence", "alive").await?;
        let (code, text) = agent(&sidecar, &["doctor", "--output", "json"]).await?;
        let disk_says = finding(&text, "disk")?;
        ensure!(code == 78 && word(&disk_says, "words")?.contains("read-only"), "{code}: {text}");
        // Two with one directory hold each other off all the same.
        let (code, text) = agent(&sidecar, &["enroll"]).await?;
        ensure!(code == 78 && text.contains("another sidecar uses"), "{code}: {text}");
        sidecar.terminate().await?;
        let (code, text) = agent(&sidecar, &["reset", "--yes"]).await?;
        ensure!(code != 0 && text.contains("mount it for writing"), "{code}: {text}");
        disk.read_only(false)?;
        let (code, text) = agent(&sidecar, &["reset", "--yes"]).await?;
        ensure!(code == 0, "{code}: {text}");
        // Nothing to beat with, and nowhere to keep it.
        disk.read_only(true)?;
        sidecar.start()?;
        same("the exit code", &sidecar.ended().await?.code(), &Some(78))?;
        let line = sidecar.line_with("Read-only file system")?;
        ensure!(line.contains("mount it for writing, or set another `state_dir`"), "{line}");
        Ok(())
    })
    .await
}
