//! Small files that somebody wrote for us: whole, never more than asked for, and never one that could make us wait.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads a regular file of at most so many bytes. What was read is wiped from memory when it is dropped.
///
/// # Errors
/// When it is not there, cannot be read, is something else (a pipe, a device, a directory), larger, or no UTF-8.
pub fn read(path: &Path, most: usize) -> io::Result<Zeroizing<String>> {
    // Without NONBLOCK, a pipe that nobody writes to would stop us here.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).map_err(io::Error::other)?;
    // A device may begin something when it is opened.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.min(4_096).saturating_add(1)));
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(io::Error::other("it is no text in UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_small_text_is_told_and_waited_for_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "kind").unwrap();
        assert_eq!(read(&path("good"), 4).unwrap().as_str(), "kind");
        std::fs::write(path("long"), "kinds").unwrap();
        std::fs::write(path("bytes"), b"\xff\xfe").unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for (file, words) in [
            (path("long"), "larger than 4 bytes"),
            (path("bytes"), "no text in UTF-8"),
            (path("pipe"), "no regular file"),
            ("/dev/zero".into(), "no regular file"),
            (dir.path().into(), "no regular file"),
        ] {
            let error = read(&file, 4).unwrap_err();
            assert!(error.to_string().contains(words), "{}: {error}", file.display());
        }
        assert_eq!(read(&path("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
