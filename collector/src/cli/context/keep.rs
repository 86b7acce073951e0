//! Files that a command leaves: written whole or not at all, readable by their owner only where they may hold a
//! secret.

use std::{
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::super::{Exit, Failure};

/// Longest credential that is read from standard input.
const MAX_LINE: u64 = 4096;

/// Puts a file in the place of whatever was there.
pub(crate) fn file(path: &Path, text: &str) -> Result<(), Failure> {
    bytes(path, text.as_bytes())
}

/// The same with bytes.
pub(crate) fn bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    written(path, bytes, (0o700, 0o600))
}

/// The same for what everybody may read.
pub(crate) fn public(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    written(path, bytes, (0o755, 0o644))
}

/// Whether a private file can be written there: found out by writing another one beside it.
pub(crate) fn can_write_beside(path: &Path) -> Result<(), Failure> {
    let trial = path.with_extension("trial");
    written(&trial, b"", (0o700, 0o600))?;
    Ok(std::fs::remove_file(&trial)?)
}

fn written(path: &Path, bytes: &[u8], modes: (u32, u32)) -> Result<(), Failure> {
    write(path, bytes, modes)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display())))
}

fn write(path: &Path, bytes: &[u8], (dirs, mode): (u32, u32)) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::DirBuilder::new().recursive(true).mode(dirs).create(dir)?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to tell of.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// What standard input holds.
pub(crate) fn line_of_stdin() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(MAX_LINE).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Config, format!("cannot read the credential: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/cli.toml");
        file(&path, "one").unwrap();
        file(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }
}
