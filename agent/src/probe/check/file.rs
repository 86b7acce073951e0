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
use crate::probe::plan::{Moves, Progress};

/// How much of a file counts as its content: a counter or a token.
const CONTENT: usize = 4_096;

/// The beginning of a file.
pub(super) fn head(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut text = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut text)?;
    Ok(text)
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no regular file")) }
}

pub(super) async fn look(progress: &Progress, host: &Host) -> Look {
    let Progress { file, moves, .. } = progress.clone();
    let marked = host.by_hand(move || (mark(&file, moves), file));
    match marked.await {
        Ok((Ok(mark), _)) => Look { mark: Some(mark), alive: None, ..Look::well("moves") },
        Ok((Err(error), file)) if error.kind() == io::ErrorKind::NotFound => {
            // Not there is not moving; whether that is too long already is not ours to judge.
            Look { mark: None, alive: None, ..Look::well(format!("there is no file {}", file.display())) }
        }
        Ok((Err(error), file)) => Look::blind(format!("cannot look at {}: {error}", file.display())),
        Err(blind) => Look { health: Health::Unchecked, ..blind },
    }
}

/// What must move, as it is now: equal marks are no movement.
fn mark(path: &Path, moves: Moves) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    match moves {
        Moves::Mtime => {
            let metadata = std::fs::metadata(path)?;
            (metadata.mtime(), metadata.mtime_nsec(), metadata.ino()).hash(&mut hasher);
        }
        Moves::Size => std::fs::metadata(path)?.len().hash(&mut hasher),
        Moves::Content => head(path, CONTENT)?.hash(&mut hasher),
    }
    Ok(hasher.finish())
}
