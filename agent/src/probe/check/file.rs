//! Files: the beginning of one, and what of it must move. Never more than asked for, and never one that could make
//! us wait: a pipe or a device is no file here.

use std::{
    fs::{File, Metadata},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rollcall_common::health::Health;
use rustix::fs::OFlags;

use super::{Host, Look};
use crate::{
    leave::{self, Whose},
    probe::plan::{Moves, Progress},
};

/// How much of a file counts as its content: a counter or a token.
const CONTENT: usize = 4_096;

/// The beginning of a file.
pub(super) fn head(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    head_and_stamp(path, most).map(|(text, _)| text)
}

/// The same, and what becomes another with each file that is written in its place.
pub(super) fn head_and_stamp(path: &Path, most: usize) -> io::Result<(Vec<u8>, u64)> {
    let (file, metadata) = open(path)?;
    let mut text = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut text)?;
    Ok((text, stamp(&metadata)))
}

fn stamp(metadata: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    (metadata.mtime(), metadata.mtime_nsec(), metadata.ino()).hash(&mut hasher);
    hasher.finish()
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    // A device may begin something when it is opened.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no regular file")) }
}

/// What is wrong with a file of the service's, and what mends it.
pub(super) fn why(path: &Path, error: &io::Error) -> String {
    format!("{error}{}", leave::hint(path, error, Whose::Theirs))
}

pub(super) async fn look(progress: &Progress, host: &Host) -> Look {
    let Progress { file, moves, .. } = progress.clone();
    let (what, path) = (file.display().to_string(), file.clone());
    let marked = host.files.lend(&what, move || mark(&path, moves));
    match marked.await {
        Ok(Ok(mark)) => Look { mark: Some(mark), alive: None, ..Look::well("moves") },
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            // Not there is not moving; whether that is too long already is not ours to judge.
            Look { mark: None, alive: None, ..Look::well(format!("there is no file {}", file.display())) }
        }
        Ok(Err(error)) => Look::blind(format!("cannot look at {}: {}", file.display(), why(&file, &error))),
        Err(blind) => Look { health: Health::Unchecked, ..blind },
    }
}

/// What must move, as it is now: equal marks are no movement.
fn mark(path: &Path, moves: Moves) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    match moves {
        Moves::Mtime => {
            let metadata = std::fs::metadata(path)?;
            // A directory that files come and go in moves too; pipes and devices are written to by anybody.
            if !metadata.is_file() && !metadata.is_dir() {
                return Err(io::Error::other("it is neither a regular file nor a directory"));
            }
            return Ok(stamp(&metadata));
        }
        Moves::Size => {
            let metadata = std::fs::metadata(path)?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            metadata.len().hash(&mut hasher);
        }
        Moves::Content => head(path, CONTENT)?.hash(&mut hasher),
    }
    Ok(hasher.finish())
}
