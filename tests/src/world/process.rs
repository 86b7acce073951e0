//! One child process: found beside the tests, logging to a file, moved by signals, killed when dropped.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rollcall_common::time::{Clock as _, SystemClock, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{peer::SOON, until::within};

/// A program that can be started, again and again.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A program of this workspace, logging to `<name>.log` in `dir`. It is not started yet.
    ///
    /// # Errors
    /// When it was not built.
    pub fn new(program: &str, name: &str, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        Ok(Self { program: find(program)?, args: Vec::new(), env: Vec::new(), log, child: None })
    }

    /// A program of this host, found on its path. It is not started yet.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn installed(program: &str, name: &str, dir: &Path) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        // Servers are where an ordinary user does not look.
        let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        let found = dirs.map(|dir| dir.join(program)).find(|path| path.is_file());
        let program = found.with_context(|| format!("{program} is not installed"))?;
        Ok(Self { program, args: Vec::new(), env: Vec::new(), log: dir.join(format!("{name}.log")), child: None })
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = String>) {
        self.args.extend(args);
    }

    /// Sets a variable of its environment, which is otherwise nearly empty.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.exited()?.is_none() && self.child.is_some() {
            bail!("{} runs already", self.program.display());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or was never started.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("it was never started")?;
        let status = within(SOON, "the process ends", child.wait()).await??;
        self.child = None;
        Ok(status)
    }

    /// Kills it, as the kernel would, and tells when.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill9(&mut self) -> Result<Timestamp> {
        let at = SystemClock.now().wall;
        if self.child.is_some() && self.exited()?.is_none() {
            self.signal(Signal::KILL)?;
            self.ended().await?;
        }
        self.child = None;
        Ok(at)
    }

    /// Asks it to stop, waits for it, and tells when it was asked and how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn terminate(&mut self) -> Result<(Timestamp, ExitStatus)> {
        let at = self.signal(Signal::TERM)?;
        Ok((at, self.ended().await?))
    }

    /// Suspends it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<Timestamp> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<Timestamp> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal and tells when.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<Timestamp> {
        let pid = self.child.as_ref().and_then(Child::id).context("the process does not run")?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
        let at = SystemClock.now().wall;
        kill_process(pid, signal)?;
        Ok(at)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Everything it said so far, over all its lives.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// The first line that holds a text.
    ///
    /// # Errors
    /// When there is none.
    pub fn line_with(&self, text: &str) -> Result<String> {
        let said = self.said()?;
        let line = said.lines().find(|line| line.contains(text));
        Ok(line.with_context(|| format!("no line with {text:?} among {}", said.lines().count()))?.to_owned())
    }
}

/// A binary of this workspace: beside the directory of the running test.
///
/// # Errors
/// When it is not there, with what builds it.
pub fn find(program: &str) -> Result<PathBuf> {
    let me = env::current_exe()?;
    let profile = me.parent().and_then(Path::parent).context("the test runs from nowhere")?;
    let path = profile.join(program);
    if path.is_file() {
        return Ok(path);
    }
    bail!("{} is missing: run `cargo build --workspace` first (`make test` does)", path.display());
}
