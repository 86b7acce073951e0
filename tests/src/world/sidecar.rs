//! One `rollcall-agent` with its files.

use std::{
    fs,
    ops::{Deref, DerefMut},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Process;

/// A sidecar process: `<name>/agent.toml`, `<name>/token`, `<name>/state`, and `<name>.log` beside.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    dir: PathBuf,
}

impl Sidecar {
    pub(crate) fn new(world: &Path, name: &str, settings: &str) -> Result<Self> {
        let dir = world.join(name);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let mut process = Process::new("rollcall-agent", name, world)?;
        let config = dir.join("agent.toml");
        fs::write(
            &config,
            format!(
                "state_dir = \"{}\"\ntoken_file = \"{}\"\n{settings}\n",
                dir.join("state").display(),
                dir.join("token").display(),
            ),
        )?;
        process.args(["run".into(), "--config".into(), config.display().to_string()]);
        process.env("ROLLCALL_LOG_LEVEL", "trace");
        Ok(Self { process, dir })
    }

    /// Puts a token where the sidecar looks for it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_token(&self, token: &str) -> Result<()> {
        use std::io::Write as _;
        let half = self.dir.join("token.tmp");
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        file.write_all(token.as_bytes())?;
        fs::rename(half, self.token_file())?;
        Ok(())
    }

    /// Where the token lies.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
}

impl Deref for Sidecar {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Sidecar {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
