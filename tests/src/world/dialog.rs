//! A program at a terminal of its own, and somebody who reads and types there.
//!
//! `script` of util-linux makes the pseudo-terminal, so that Ctrl-C and Ctrl-D are what a terminal makes of them.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{peer::SOON, until::within};

/// Interrupt, as the key sends it.
pub const CTRL_C: &str = "\u{3}";
/// End of input, as the key sends it.
pub const CTRL_D: &str = "\u{4}";

/// A program that is talked to.
#[derive(Debug)]
pub struct Dialog {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    /// Everything on the screen so far.
    seen: String,
    /// How much of it was read.
    read: usize,
}

impl Dialog {
    /// Starts a program. Its words must be plain: a shell reads them.
    ///
    /// # Errors
    /// When `script` is not installed, or a word is not plain.
    pub fn start(program: &Path, args: &[&str], env: &[(&str, &Path)]) -> Result<Self> {
        let mut line = vec![program.to_str().context("UTF-8")?];
        line.extend(args);
        let plain = |word: &&str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._:@=,".contains(&b))
        };
        ensure!(line.iter().all(plain), "{line:?} is not plain");
        // Whoever runs the tests in the background has Ctrl-C ignored, and that is inherited.
        let mut child = Command::new("env")
            .args(["--default-signal=INT", "script"])
            .args(["--quiet", "--return", "--flush", "--echo", "never", "--command", &line.join(" "), "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SHELL", "/bin/sh")
            .env("TERM", "dumb")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("`script` does not start: install bsdutils or util-linux-script")?;
        let keys = child.stdin.take().context("no stdin")?;
        let screen = child.stdout.take().context("no stdout")?;
        Ok(Self { child, keys, screen, seen: String::new(), read: 0 })
    }

    /// Waits until a text comes on the screen behind what was read, and reads up to its end.
    ///
    /// # Errors
    /// When it does not come in time, or the program ends before; with what came instead.
    pub async fn sees(&mut self, text: &str) -> Result<&str> {
        let from = self.read;
        loop {
            if let Some(at) = self.seen.get(from..).and_then(|rest| rest.find(text)) {
                self.read = from + at + text.len();
                return Ok(self.seen.get(from..self.read).unwrap_or_default());
            }
            let more = within(SOON, "the program says more", read(&mut self.screen)).await;
            let more = more.and_then(|more| more).unwrap_or_default();
            let rest = self.seen.get(from..).unwrap_or_default();
            ensure!(!more.is_empty(), "no {text:?} in {rest:?}");
            self.seen.push_str(&more);
        }
    }

    /// Types something; a line ends with a newline.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn types(&mut self, text: &str) -> Result<()> {
        self.keys.write_all(text.as_bytes()).await?;
        Ok(self.keys.flush().await?)
    }

    /// Reads to the end; the exit code and all that was on the screen. A signal counts as a shell counts it.
    ///
    /// # Errors
    /// When the program does not end in time.
    pub async fn ends(mut self) -> Result<(i32, String)> {
        loop {
            let more = within(SOON, "the program ends", read(&mut self.screen)).await??;
            if more.is_empty() {
                break;
            }
            self.seen.push_str(&more);
        }
        let status = within(SOON, "the terminal closes", self.child.wait()).await??;
        Ok((status.code().unwrap_or(-1), self.seen))
    }
}

async fn read(screen: &mut ChildStdout) -> Result<String> {
    let mut piece = vec![0; 4096];
    let got = screen.read(&mut piece).await?;
    Ok(String::from_utf8_lossy(piece.get(..got).unwrap_or_default()).into_owned())
}
