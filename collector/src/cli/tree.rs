//! The operator's commands on the configuration tree: look at it, and keep a copy of it in a directory.
//!
//! An export writes each document whole or not at all, leaves alone what did not change, and removes what the
//! tree has no more. It touches nothing but documents of the tree: a path that is not made of ids goes nowhere.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use flate2::read::GzDecoder;
use reqwest::Method;
use rollcall_common::id::ServiceId;
use serde_json::json;

use super::{
    Exit, Failure,
    client::{Client, Output},
    context::keep,
    list::{self, Column, Flags, Sheet},
    print::{Screen, field, word},
    progress::Progress,
};

const ROOT: &str = "/api/admin/config";
/// Largest document of the tree: far above what a service may carry.
const MAX_DOCUMENT: u64 = 256 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the paths of the tree.
    #[command(alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        /// Only paths that begin so.
        #[arg(long, value_name = "PATH")]
        prefix: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show one document.
    #[command(after_help = "Example:\n  rollcall-collector config show config/pollers/site-3/agents/edge-17.json")]
    Show {
        /// Its path, as `config list` shows it.
        path: String,
    },
    /// Write the tree, or the part of one poller, into a directory, and remove there what it has no more.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        /// Only this poller and what stands below it.
        #[arg(long, value_name = "ID")]
        poller: Option<ServiceId>,
        /// The directory that gets `config/…`.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Leave there what the tree has no more.
        #[arg(long)]
        keep: bool,
    },
}

const LIST_EXAMPLES: &str = "\
Examples:
  rollcall-collector config list --prefix config/pollers/site-3/
  rollcall-collector config list --output raw";

const EXPORT_EXAMPLES: &str = "\
Examples:
  rollcall-collector config export --dir /srv/rollcall
  rollcall-collector --context prod config export --poller site-3 --dir /etc/serviceradar";

static SHEET: Sheet = Sheet {
    columns: &[
        Column::new("path", |item, _| word(item, "path")),
        Column::new("service", |item, _| word(item, "service")),
        Column::new("seq", |item, _| word(item, "seq")),
    ],
    id: |item| field(item, "path"),
    told: &["seq"],
    none: "the tree is empty",
    max: 10_000,
};

pub(super) async fn run(client: &Client, screen: &mut Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { prefix, flags } => {
            let query: Vec<_> = prefix.map(|prefix| ("prefix".to_owned(), prefix)).into_iter().collect();
            list::run(client, screen, ROOT, &query, &flags, &SHEET).await
        }
        Command::Show { path } => {
            if !is_of_the_tree(&path) {
                return Err(Failure::usage(format!("{path:?} is no path of the tree: see `config list`")));
            }
            let document = client.get(&format!("/api/admin/{path}"), &[]).await?;
            Ok(screen.json(&document)?)
        }
        Command::Export { poller, dir, keep } => export(client, screen, poller, &dir, keep).await,
    }
}

async fn export(
    client: &Client,
    screen: &mut Screen,
    poller: Option<ServiceId>,
    dir: &Path,
    keep: bool,
) -> Result<(), Failure> {
    let query: Vec<_> = poller.map(|id| ("poller".to_owned(), id.to_string())).into_iter().collect();
    let mut stream = client.call(Method::GET, "/api/admin/config.tar.gz").query(&query).stream().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    let files = unpack(&bytes)?;
    let dir = std::path::absolute(dir)?;
    let mut progress = Progress::begin("documents", Some(files.len() as u64));
    let mut written = 0_u64;
    for (path, text) in &files {
        written += u64::from(write(&dir, path, text)?);
        progress.advance(1);
    }
    progress.end();
    let removed = if keep { 0 } else { remove_stale(&dir, &files)? };
    match screen.output() {
        Output::Json => screen.json(&json!({
            "dir": dir, "documents": files.len(), "written": written, "removed": removed,
        }))?,
        Output::Raw => {
            for path in files.keys() {
                screen.line(path)?;
            }
        }
        Output::Table => {
            let total = files.len();
            screen.line(&format!("{total} documents in {}: {written} written, {removed} removed", dir.display()))?;
        }
    }
    Ok(())
}

/// The documents of an archive, all of it or nothing.
fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let damaged = |why: String| Failure::new(Exit::Unreachable, format!("the export is damaged: {why}; try again"));
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let mut files = BTreeMap::new();
    for entry in archive.entries().map_err(|error| damaged(error.to_string()))? {
        let entry = entry.map_err(|error| damaged(error.to_string()))?;
        let path = entry.path().map_err(|error| damaged(error.to_string()))?.display().to_string();
        if !is_of_the_tree(&path) || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(damaged(format!("{path:?} is no document of the tree")));
        }
        let mut text = Vec::new();
        entry.take(MAX_DOCUMENT).read_to_end(&mut text).map_err(|error| damaged(error.to_string()))?;
        files.insert(path, text);
    }
    Ok(files)
}

/// Whether a path is made of the tree's words and of ids, and of nothing else.
fn is_of_the_tree(path: &str) -> bool {
    let id = |text: &str| text.parse::<ServiceId>().is_ok();
    let file = |text: &str| text.strip_suffix(".json").is_some_and(id);
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["config", "pollers" | "instances", name] => file(name),
        ["config", "pollers", parent, "agents", name] | ["config", "agents", parent, "checkers", name] => {
            id(parent) && file(name)
        }
        _ => false,
    }
}

/// Writes a document, if it is not there as it is. A directory that leads elsewhere is not followed.
fn write(dir: &Path, path: &str, text: &[u8]) -> Result<bool, Failure> {
    let full = dir.join(path);
    let mut at = dir.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if at.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            let message = format!("{} is no directory: nothing is written through it", at.display());
            return Err(Failure::new(Exit::Config, message));
        }
    }
    if std::fs::read(&full).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    keep::public(&full, text)?;
    Ok(true)
}

/// Removes the documents that the tree has no more, and the directories that were left empty.
fn remove_stale(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<u64, Failure> {
    let mut removed = 0;
    let mut waiting = vec![dir.join("config")];
    let mut seen = Vec::new();
    while let Some(at) = waiting.pop() {
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(dir).ok().and_then(Path::to_str).unwrap_or_default();
            if kind.is_file() && is_of_the_tree(name) && !files.contains_key(name) {
                std::fs::remove_file(&path)?;
                removed += 1;
            }
        }
        seen.push(at);
    }
    // Deepest first; one that holds something stays.
    for at in seen.iter().rev() {
        let _ = std::fs::remove_dir(at);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_ids_are_taken() {
        for good in [
            "config/pollers/p.json",
            "config/instances/i.json",
            "config/pollers/p/agents/a.json",
            "config/agents/a/checkers/c.1.json",
        ] {
            assert!(is_of_the_tree(good), "{good}");
        }
        for bad in [
            "",
            "config",
            "config/pollers/../../etc/passwd.json",
            "/config/pollers/p.json",
            "config/pollers/P.json",
            "config/pollers/p",
            "config/pollers/../agents/a.json",
            "config/pollers//p.json",
            "config/agents/a.json",
            "config/pollers/p/agents/a.json/x",
        ] {
            assert!(!is_of_the_tree(bad), "{bad}");
        }
    }

    #[test]
    fn a_copy_follows_the_tree_and_touches_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = |names: &[&str]| -> BTreeMap<String, Vec<u8>> {
            names.iter().map(|name| ((*name).to_owned(), b"{}\n".to_vec())).collect()
        };
        let first = files(&["config/pollers/p.json", "config/pollers/p/agents/a.json"]);
        for (path, text) in &first {
            assert!(write(dir.path(), path, text).unwrap());
            assert!(!write(dir.path(), path, text).unwrap(), "once is enough");
        }
        std::fs::write(dir.path().join("config/pollers/NOTES.txt"), "mine").unwrap();
        let second = files(&["config/pollers/p.json"]);
        assert_eq!(remove_stale(dir.path(), &second).unwrap(), 1);
        assert!(!dir.path().join("config/pollers/p").exists(), "empty directories go");
        assert!(dir.path().join("config/pollers/NOTES.txt").exists());
        assert!(dir.path().join("config/pollers/p.json").exists());
        assert_eq!(remove_stale(&dir.path().join("nowhere"), &second).unwrap(), 0);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("config/pollers")).unwrap();
        let failure = write(dir.path(), "config/pollers/p.json", b"{}").unwrap_err();
        assert_eq!(failure.exit(), Exit::Config);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
