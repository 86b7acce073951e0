//! What the processes of a scratch directory said.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::Secrets;

/// Lines of each log that an error carries.
const TAIL: usize = 40;

/// The tail of every log, for an error.
pub(crate) fn tails(dir: &Path) -> String {
    let mut told = String::from("so ended the logs:");
    for path in logs(dir) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        // Our own looking around is no news.
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("answered status=2")).collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(told, "\n--- {} ({} lines)\n{}", path.display(), lines.len(), tail.join("\n"));
    }
    told
}

/// Looks for what no log may hold: a secret, a panic.
pub(crate) fn check(dir: &Path, secrets: &Secrets) -> Result<()> {
    for path in logs(dir) {
        let log = fs::read(&path)?;
        check_text(&log, secrets).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// As [`check`], of one log.
pub(crate) fn check_text(log: &[u8], secrets: &Secrets) -> Result<()> {
    secrets.check(log)?;
    match String::from_utf8_lossy(log).lines().find(|line| line.contains("panicked at")) {
        Some(line) => bail!("{line}"),
        None => Ok(()),
    }
}

/// Every log in a directory, in name order.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    logs
}
