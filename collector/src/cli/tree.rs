//! The operator's commands on the configuration tree: look at it, and keep a copy of it in a directory.
//!
//! An export writes each document whole or not at all, leaves alone what did not change, and removes what an
//! earlier export of the same part of the same tree wrote and the tree has no more (see [`index`]). It touches
//! nothing but documents of the tree: a path that is not made of ids goes nowhere.

mod index;

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// Write the tree, or the part of one poller, into a directory, and remove there what an earlier export wrote
    /// and the tree has no more.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        /// Only this poller and what stands below it.
        #[arg(long, value_name = "ID")]
        poller: Option<ServiceId>,
        /// The directory that gets `config/…`.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Leave there what the tree has no more; the next export without this removes it.
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
    let me = client.get("/api/admin/whoami", &[]).await?;
    let part = index::Part {
        trust_domain: field(&me, "trust_domain"),
        scope: field(&me, "scope"),
        poller: poller.as_ref().map(ToString::to_string),
    };
    let query: Vec<_> = poller.map(|id| ("poller".to_owned(), id.to_string())).into_iter().collect();
    let mut stream = client.call(Method::GET, "/api/admin/config.tar.gz").query(&query).stream().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    let files = unpack(&bytes)?;
    let dir = std::path::absolute(dir)?;
    let mut index = index::Index::load(&dir)?;
    let names: BTreeSet<String> = files.keys().cloned().collect();
    index.free_for(&part, &names).map_err(|whose| {
        let message = format!("{} holds documents of {whose}: choose another directory", dir.display());
        Failure::new(Exit::Config, message)
    })?;
    // What is about to be written is remembered first: a broken export leaves nothing that nobody owns.
    let stale = index.take_over(part, names, keep);
    index.keep(&dir)?;
    let mut progress = Progress::begin("documents", Some(files.len() as u64));
    let mut written = 0_u64;
    for (path, text) in &files {
        written += u64::from(write(&dir, path, text)?);
        progress.advance(1);
    }
    progress.end();
    let removed = if keep { 0 } else { remove_stale(&dir, &stale)? };
    index.forget(&stale);
    index.keep(&dir)?;
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

/// Where a document lies, if nothing on the way leads elsewhere.
fn place(dir: &Path, path: &str) -> Result<PathBuf, Failure> {
    let mut at = dir.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if at.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            let message = format!("{} is no directory: nothing is done through it", at.display());
            return Err(Failure::new(Exit::Config, message));
        }
    }
    Ok(dir.join(path))
}

/// Writes a document, if it is not there as it is. A directory that leads elsewhere is not followed.
fn write(dir: &Path, path: &str, text: &[u8]) -> Result<bool, Failure> {
    let full = place(dir, path)?;
    if std::fs::read(&full).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    keep::public(&full, text)?;
    Ok(true)
}

/// Removes documents, and the directories above them that were left empty.
fn remove_stale(dir: &Path, stale: &BTreeSet<String>) -> Result<u64, Failure> {
    let mut removed = 0;
    for path in stale.iter().filter(|path| is_of_the_tree(path)) {
        let full = place(dir, path)?;
        match std::fs::remove_file(&full) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot remove {}: {error}", full.display());
                return Err(Failure::new(Exit::Failed, message));
            }
        }
        // Upwards; one that holds something stays, and so does what is above it.
        let above = full.ancestors().skip(1).take_while(|above| *above != dir);
        for above in above {
            if std::fs::remove_dir(above).is_err() {
                break;
            }
        }
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
        for path in ["config/pollers/p.json", "config/pollers/p/agents/a.json"] {
            assert!(write(dir.path(), path, b"{}\n").unwrap());
            assert!(!write(dir.path(), path, b"{}\n").unwrap(), "once is enough");
        }
        std::fs::write(dir.path().join("config/pollers/NOTES.txt"), "mine").unwrap();
        let stale = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let gone = ["config/pollers/p/agents/a.json", "config/pollers/never.json", "config/pollers/NOTES.txt"];
        assert_eq!(remove_stale(dir.path(), &stale(&gone)).unwrap(), 1);
        assert!(!dir.path().join("config/pollers/p").exists(), "empty directories go");
        assert!(dir.path().join("config/pollers/NOTES.txt").exists());
        assert!(dir.path().join("config/pollers/p.json").exists());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("config/pollers")).unwrap();
        let failure = write(dir.path(), "config/pollers/p.json", b"{}").unwrap_err();
        assert_eq!(failure.exit(), Exit::Config);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        std::fs::write(elsewhere.path().join("p.json"), "mine").unwrap();
        assert!(remove_stale(dir.path(), &BTreeSet::from(["config/pollers/p.json".to_owned()])).is_err());
        assert!(elsewhere.path().join("p.json").exists());
    }
}
