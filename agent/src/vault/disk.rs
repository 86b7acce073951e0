//! One private directory, and whole files in it. Knows permissions and fsync, and no contents.
//!
//! Everything goes through the directory's descriptor, so that nothing can be swapped under us by
//! renaming the path.

use std::{
    fs::DirBuilder,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, openat, renameat, unlinkat},
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

use super::{VaultError, cure};

const LOCK: &str = "lock";
/// Larger than anything that is kept here.
const MAX_FILE: u64 = 256 * 1024;

/// Whose files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eyes {
    /// Only our own user's.
    OwnOnly,
    /// Root reads and forgets everybody's; it never runs a sidecar on them.
    RootToo,
}

/// The open directory.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    dir: OwnedFd,
    eyes: Eyes,
    lock: std::cell::OnceCell<OwnedFd>,
    #[cfg(test)]
    pub(super) faults: std::rc::Rc<Faults>,
}

/// Lets a test end the life of the process, so to speak, after a number of steps.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Steps that still succeed; every later one fails.
    pub(super) left: std::cell::Cell<Option<u32>>,
}

impl Disk {
    /// Opens the directory, makes it where it is missing.
    pub(super) fn create(path: &Path) -> Result<Self, VaultError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| VaultError::Directory { path: path.into(), source })?;
        Self::open(path, Eyes::OwnOnly)?
            .ok_or_else(|| VaultError::Directory { path: path.into(), source: io::ErrorKind::NotFound.into() })
    }

    /// Opens the directory; `None` where it is missing.
    pub(super) fn open(path: &Path, eyes: Eyes) -> Result<Option<Self>, VaultError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(VaultError::NotA { path: path.into(), wanted: "directory" });
            }
            Err(error) => return Err(VaultError::Directory { path: path.into(), source: error.into() }),
        };
        let stat = fstat(&dir).map_err(|error| VaultError::Directory { path: path.into(), source: error.into() })?;
        check(path, &stat, "700", eyes)?;
        Ok(Some(Self {
            path: path.into(),
            dir,
            eyes,
            lock: std::cell::OnceCell::new(),
            #[cfg(test)]
            faults: std::rc::Rc::default(),
        }))
    }

    /// The same directory with the same faults, for a test that needs it twice.
    #[cfg(test)]
    pub(super) fn again(&self) -> Self {
        let dir = self.dir.try_clone().expect("a descriptor");
        let (path, faults) = (self.path.clone(), std::rc::Rc::clone(&self.faults));
        Self { path, dir, eyes: self.eyes, lock: std::cell::OnceCell::new(), faults }
    }

    /// Holds the directory for this process until dropped.
    pub(super) fn lock(&self) -> Result<(), VaultError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.dir, LOCK, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file,
            // A disk that takes nothing any more is no reason to be silent about the host: what is there is enough
            // to beat with, and to hold each other off with.
            Err(error @ (Errno::ROFS | Errno::NOSPC | Errno::DQUOT)) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let kept = openat(&self.dir, LOCK, flags, Mode::empty());
                kept.or_else(|_| self.dir.try_clone().map_err(|_| Errno::MFILE))
                    .map_err(|_| self.unwritable(LOCK, error))?
            }
            Err(error) => return Err(self.unwritable(LOCK, error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(VaultError::Locked(self.path.clone())),
            Err(error) => return Err(self.unwritable(LOCK, error)),
        }
        // A second call finds the first lock, which holds as well.
        let _ = self.lock.set(file);
        Ok(())
    }

    /// Where a file is, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a whole file; `None` where it is missing. Refuses one that others could have read or written.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let path = self.path_of(name);
        let failed = |source: io::Error| VaultError::Read { path: path.clone(), source };
        // Without NONBLOCK, a named pipe in this place would stop us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(VaultError::NotA { path, wanted: "regular file" }),
            Err(error) => return Err(failed(error.into())),
        };
        let stat = fstat(&file).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(VaultError::NotA { path, wanted: "regular file" });
        }
        check(&path, &stat, "600", self.eyes)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0)));
        let read = std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(read).is_ok_and(|read| read > MAX_FILE) {
            return Err(VaultError::Damaged { path, why: format!("more than {MAX_FILE} bytes"), cure: cure(name) });
        }
        Ok(Some(bytes))
    }

    /// Replaces a whole file: afterwards it is the new one on the medium, and at no time anything else
    /// than the old or the new one.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        let temporary = temporary(name);
        let outcome = self.write_temporary(&temporary, bytes).and_then(|()| {
            self.step()?;
            renameat(&self.dir, &temporary, &self.dir, name)
        });
        match outcome {
            Ok(()) => self.sync(name),
            Err(error) => {
                // On a full disk it would only take room; the next write removes it anyway.
                let _ = self.step().and_then(|()| unlinkat(&self.dir, &temporary, AtFlags::empty()));
                Err(self.unwritable(name, error))
            }
        }
    }

    fn write_temporary(&self, temporary: &str, bytes: &[u8]) -> Result<(), Errno> {
        self.step()?;
        match unlinkat(&self.dir, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        self.step()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(&self.dir, temporary, flags, Mode::from_raw_mode(0o600))?);
        // Two halves, so that a test can stop between them.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        for part in [head, tail] {
            self.step()?;
            file.write_all(part).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        self.step()?;
        fsync(file.as_fd())
    }

    /// Renames a file over another.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), VaultError> {
        self.step()
            .and_then(|()| renameat(&self.dir, from, &self.dir, to))
            .map_err(|error| self.unwritable(to, error))?;
        self.sync(to)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), VaultError> {
        match self.step().and_then(|()| unlinkat(&self.dir, name, AtFlags::empty())) {
            Ok(()) => self.sync(name),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.unwritable(name, error)),
        }
    }

    /// Overwrites a file and removes it; tells whether it was there. A link is removed and not followed.
    pub(super) fn wipe(&self, name: &str) -> Result<bool, VaultError> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => {
                let mut file = std::fs::File::from(file);
                let size = file.metadata().map_or(0, |metadata| metadata.len().min(MAX_FILE));
                let zeros = vec![0; usize::try_from(size).unwrap_or(0)];
                // Where that fails the file is removed all the same: less is worse.
                let overwritten = file.write_all(&zeros).and_then(|()| file.sync_all());
                if let Err(error) = overwritten {
                    tracing::warn!(%error, "{} is removed without being overwritten", self.path_of(name).display());
                }
            }
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::LOOP | Errno::NXIO) => {}
            Err(error) => return Err(self.unwritable(name, error)),
        }
        self.remove(name)?;
        Ok(true)
    }

    /// Removes the file of the lock, which is held until dropped.
    pub(super) fn remove_lock(&self) -> Result<(), VaultError> {
        self.remove(LOCK)
    }

    /// Removes what a killed writer left.
    pub(super) fn sweep(&self, name: &str) -> Result<(), VaultError> {
        match unlinkat(&self.dir, temporary(name), AtFlags::empty()) {
            // Where nothing can be written, nothing is half written either.
            Ok(()) | Err(Errno::NOENT | Errno::ROFS) => Ok(()),
            Err(error) => Err(self.unwritable(name, error)),
        }
    }

    fn sync(&self, name: &str) -> Result<(), VaultError> {
        self.step().and_then(|()| fsync(&self.dir)).map_err(|error| self.unwritable(name, error))
    }

    fn unwritable(&self, name: &str, error: Errno) -> VaultError {
        VaultError::Write { path: self.path_of(name), source: error.into() }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests stop a sequence here")]
    fn step(&self) -> Result<(), Errno> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self) -> Result<(), Errno> {
        match self.faults.left.get() {
            None => Ok(()),
            Some(0) => Err(Errno::NOSPC),
            Some(left) => {
                self.faults.left.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

fn check(path: &Path, stat: &Stat, fix: &'static str, eyes: Eyes) -> Result<(), VaultError> {
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(VaultError::Exposed { path: path.into(), mode, fix });
    }
    let me = geteuid().as_raw();
    if stat.st_uid != me && !(me == 0 && eyes == Eyes::RootToo) {
        return Err(VaultError::Foreign { path: path.into(), owner: stat.st_uid, me });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut stat = rustix::fs::stat(dir.path()).unwrap();
        stat.st_mode = 0o40_700;
        assert!(check(dir.path(), &stat, "700", Eyes::OwnOnly).is_ok());
        stat.st_uid += 1;
        assert_eq!(check(dir.path(), &stat, "700", Eyes::RootToo).is_ok(), geteuid().is_root());
        let error = check(dir.path(), &stat, "700", Eyes::OwnOnly).unwrap_err();
        assert!(matches!(error, VaultError::Foreign { owner, me, .. } if owner == me + 1), "{error}");
    }
}
