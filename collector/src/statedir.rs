//! The collector's state directory: private to one user, held by one process, written so that a kill or a
//! power cut leaves either the old file or the new one.
//!
//! It owns modes, owners, links, the lock and atomic replacement. It knows nothing of what the files mean.
//! File names are compiled in, so that no text from outside ever becomes a path.

pub mod outside;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawMode, Stat},
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

/// Mode of every directory made here.
const DIR_MODE: RawMode = 0o700;
/// Mode of every file written here.
const FILE_MODE: RawMode = 0o600;
/// Bits that let the group or the world in.
const OTHERS: RawMode = 0o077;
/// Name of the file whose lock marks the directory as taken.
const LOCK: &str = "lock";
/// Largest file that [`StateDir::read`] takes, in bytes: keys, certificates and small records live here.
pub const MAX_FILE: u64 = 64 * 1024;

/// Why the state directory or a file in it cannot be used. Each message names the path and, where there is
/// one, the fix; nothing is changed on disk when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// A symbolic link where the thing itself must be.
    #[error("{} is a symbolic link; state is never followed elsewhere: put the real file or directory there", path.display())]
    Symlink {
        /// Where.
        path: PathBuf,
    },
    /// Something else than what belongs there.
    #[error("{} is not a {wanted}", path.display())]
    WrongType {
        /// Where.
        path: PathBuf,
        /// `directory` or `regular file`.
        wanted: &'static str,
    },
    /// Others may look in.
    #[error("{} is open to other users (mode {mode:04o}): chmod {wanted:o} {}", path.display(), path.display())]
    Mode {
        /// Where.
        path: PathBuf,
        /// What it has.
        mode: RawMode,
        /// What it should have.
        wanted: RawMode,
    },
    /// It is another user's.
    #[error(
        "{} belongs to uid {owner}, but this process runs as uid {me}: run as its owner, or chown {me} {}",
        path.display(), path.display()
    )]
    Owner {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// Another process holds the directory.
    #[error("{} is in use by another collector{holder}: stop it, or give this one its own state directory", path.display())]
    Busy {
        /// Which directory.
        path: PathBuf,
        /// Who holds it, as far as it said.
        holder: Holder,
    },
    /// Larger than anything written here.
    #[error("{} is larger than {MAX_FILE} bytes, which nothing here ever is: restore it from a backup", path.display())]
    TooLarge {
        /// Where.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateDirError {
    /// Whether a restart may help without anybody's doing: the disk may have room again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::Interrupted];
                full.contains(&source.kind())
            }
            Self::Symlink { .. }
            | Self::WrongType { .. }
            | Self::Mode { .. }
            | Self::Owner { .. }
            | Self::Busy { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    fn io(doing: &'static str, path: PathBuf) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { doing, path, source: errno.into() }
    }
}

/// The process that holds a lock, if it wrote its id down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// A private directory. The lock is held until the last clone and the last [`StateDir::subdir`] are gone.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    handle: Arc<OwnedFd>,
    _lock: Arc<OwnedFd>,
}

impl StateDir {
    /// Opens the directory, makes it (mode 0700) where it is missing, and locks it for this process.
    ///
    /// # Errors
    /// When its parent is missing, when it is a link, another user's, or open to others, and when another
    /// process holds it.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        // A trailing slash would make the kernel follow a link in the last place.
        let path: PathBuf = std::path::absolute(path)
            .map_err(|source| StateDirError::Io { doing: "find", path: path.to_owned(), source })?
            .components()
            .collect();
        let handle = open_dir(CWD, &path, path.clone())?;
        let lock = take_lock(&handle, &path)?;
        Ok(Self { path, handle: Arc::new(handle), _lock: Arc::new(lock) })
    }

    /// A directory within, made (mode 0700) where it is missing.
    ///
    /// # Errors
    /// When it is a link, another user's, or open to others.
    pub fn subdir(&self, name: &'static str) -> Result<Self, StateDirError> {
        let path = self.path.join(name);
        let handle = open_dir(&self.handle, Path::new(name), path.clone())?;
        Ok(Self { path, handle: Arc::new(handle), _lock: Arc::clone(&self._lock) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of this directory is, for messages and for those who open files themselves.
    #[must_use]
    pub fn path_of(&self, name: &'static str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` where there is none. The bytes are wiped when dropped.
    ///
    /// # Errors
    /// When it is a link, no regular file, another user's, open to others, or larger than [`MAX_FILE`].
    pub fn read(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StateDirError> {
        let path = self.path_of(name);
        // NONBLOCK: a FIFO in this place must not hang the start.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(StateDirError::Symlink { path }),
            Err(errno) => return Err(StateDirError::io("read", path)(errno)),
        };
        let stat = fs::fstat(&file).map_err(StateDirError::io("read", path.clone()))?;
        check_private(&stat, FileType::RegularFile, &path)?;
        // Sized in advance: a growing buffer would leave copies of a key in freed memory.
        let room = usize::try_from(stat.st_size).unwrap_or(0).min(MAX_FILE as usize);
        let mut bytes = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
        File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| StateDirError::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(StateDirError::TooLarge { path });
        }
        Ok(Some(bytes))
    }

    /// Replaces a file (mode 0600) as a whole; it is on disk when this returns.
    ///
    /// # Errors
    /// When the operating system refuses; the old file then stands.
    pub fn write(&self, name: &'static str, bytes: &[u8]) -> Result<(), StateDirError> {
        let temp = format!("{name}.tmp");
        let temp_path = self.path.join(&temp);
        // The lock is ours, so that a temporary file here is what a killed predecessor left.
        match fs::unlinkat(&self.handle, &temp, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(StateDirError::io("remove the leftover", temp_path)(errno)),
        }
        let written = self.write_temp(&temp, &temp_path, bytes).and_then(|()| {
            fs::renameat(&self.handle, &temp, &self.handle, name)
                .map_err(StateDirError::io("replace", self.path_of(name)))
        });
        if written.is_err() {
            // The first error is the one to tell; a leftover is removed by the next write.
            let _ = fs::unlinkat(&self.handle, &temp, AtFlags::empty());
        }
        written?;
        self.sync()
    }

    fn write_temp(&self, temp: &str, path: &Path, bytes: &[u8]) -> Result<(), StateDirError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.handle, temp, flags, Mode::from_raw_mode(FILE_MODE))
            .map_err(StateDirError::io("create", path.to_owned()))?;
        let mut file = File::from(file);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| StateDirError::Io {
            doing: "write",
            path: path.to_owned(),
            source,
        })
    }

    fn sync(&self) -> Result<(), StateDirError> {
        fs::fsync(&self.handle).map_err(StateDirError::io("flush", self.path.clone()))
    }
}

/// Opens a directory relative to another, making it first where it is missing.
fn open_dir(at: impl AsFd, name: &Path, path: PathBuf) -> Result<OwnedFd, StateDirError> {
    match fs::mkdirat(&at, name, Mode::from_raw_mode(DIR_MODE)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(StateDirError::io("create", path)(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match fs::openat(&at, name, flags, Mode::empty()) {
        Ok(handle) => handle,
        // The kernel answers NOTDIR for a link too.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(match fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    StateDirError::Symlink { path }
                }
                Ok(_) | Err(_) => StateDirError::WrongType { path, wanted: "directory" },
            });
        }
        Err(errno) => return Err(StateDirError::io("open", path)(errno)),
    };
    let stat = fs::fstat(&handle).map_err(StateDirError::io("open", path.clone()))?;
    check_private(&stat, FileType::Directory, &path)?;
    Ok(handle)
}

fn check_private(stat: &Stat, wanted: FileType, path: &Path) -> Result<(), StateDirError> {
    let path = path.to_owned();
    let (word, wanted_mode) =
        if wanted == FileType::Directory { ("directory", DIR_MODE) } else { ("regular file", FILE_MODE) };
    if FileType::from_raw_mode(stat.st_mode) != wanted {
        return Err(StateDirError::WrongType { path, wanted: word });
    }
    let me = geteuid().as_raw();
    if stat.st_uid != me {
        return Err(StateDirError::Owner { path, owner: stat.st_uid, me });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & OTHERS != 0 {
        return Err(StateDirError::Mode { path, mode, wanted: wanted_mode });
    }
    Ok(())
}

/// Locks the directory. The kernel lets go when the process ends, however it ends.
fn take_lock(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, StateDirError> {
    let lock_path = path.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match fs::openat(dir, LOCK, flags, Mode::from_raw_mode(FILE_MODE)) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(StateDirError::Symlink { path: lock_path }),
        Err(errno) => return Err(StateDirError::io("open", lock_path)(errno)),
    };
    let stat = fs::fstat(&file).map_err(StateDirError::io("open", lock_path.clone()))?;
    check_private(&stat, FileType::RegularFile, &lock_path)?;
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let told = File::from(file).take(16).read_to_string(&mut text);
            let holder = Holder(told.ok().and_then(|_| text.trim().parse().ok()));
            return Err(StateDirError::Busy { path: path.to_owned(), holder });
        }
        Err(errno) => return Err(StateDirError::io("lock", lock_path)(errno)),
    }
    // The id is a courtesy to the one who comes second; without it the lock is as good.
    let id = format!("{}\n", std::process::id());
    let _ = fs::ftruncate(&file, 0).and_then(|()| rustix::io::pwrite(&file, id.as_bytes(), 0));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use rustix::fs::{Gid, Uid};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A fresh place for a state directory, which is not made yet.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("state");
        (outer, path)
    }

    #[test]
    fn makes_what_is_missing_private() {
        let (_outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        let ca = dir.subdir("ca").unwrap();
        ca.write("root.key", b"secret").unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(ca.path()), 0o700);
        assert_eq!(mode(&ca.path_of("root.key")), 0o600);
        assert_eq!(mode(&dir.path_of(LOCK)), 0o600);
        assert_eq!(ca.read("root.key").unwrap().unwrap().as_slice(), b"secret");
        assert!(ca.read("absent").unwrap().is_none());
    }

    #[test]
    fn refuses_a_directory_open_to_others() {
        for bits in [0o777, 0o750, 0o701] {
            let (_outer, path) = place();
            std::fs::create_dir(&path).unwrap();
            chmod(&path, bits);
            let error = StateDir::open(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 700 {}", path.display())), "{error}");
            assert!(error.contains(&format!("{bits:04o}")), "{error}");
            assert_eq!(mode(&path), bits, "a refusal repairs nothing");
        }
    }

    #[test]
    fn refuses_links_and_other_things_in_its_place() {
        let (outer, path) = place();
        let real = outer.path().join("real");
        std::fs::create_dir(&real).unwrap();
        chmod(&real, 0o700);
        symlink(&real, &path).unwrap();
        for spelled in [path.clone(), PathBuf::from(format!("{}/", path.display()))] {
            assert!(matches!(StateDir::open(&spelled), Err(StateDirError::Symlink { .. })), "{spelled:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateDirError::WrongType { wanted: "directory", .. })));
    }

    #[test]
    fn a_missing_parent_is_an_error_that_names_the_path() {
        let (outer, _) = place();
        let path = outer.path().join("no/such/state");
        let error = StateDir::open(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot create {}", path.display()));
    }

    #[test]
    fn refuses_secrets_that_others_may_read() {
        let (_outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        dir.write("key", b"secret").unwrap();
        chmod(&dir.path_of("key"), 0o644);
        let error = dir.read("key").unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", dir.path_of("key").display())), "{error}");
    }

    #[test]
    fn refuses_secrets_behind_links_fifos_and_directories() {
        let (outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        let elsewhere = outer.path().join("elsewhere");
        std::fs::write(&elsewhere, "x").unwrap();
        symlink(&elsewhere, dir.path_of("link")).unwrap();
        assert!(matches!(dir.read("link"), Err(StateDirError::Symlink { .. })));
        fs::mkfifoat(CWD, dir.path_of("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(matches!(dir.read("fifo"), Err(StateDirError::WrongType { .. })));
        dir.subdir("sub").unwrap();
        assert!(matches!(dir.read("sub"), Err(StateDirError::WrongType { wanted: "regular file", .. })));
        std::fs::write(dir.path_of("huge"), vec![0; 70_000]).unwrap();
        chmod(&dir.path_of("huge"), 0o600);
        assert!(matches!(dir.read("huge"), Err(StateDirError::TooLarge { .. })));
    }

    /// Only root can give files away, so that elsewhere the check of the owner is exercised the other way
    /// round: a directory of root is not ours.
    #[test]
    fn refuses_what_belongs_to_another_user() {
        let (_outer, path) = place();
        if geteuid().is_root() {
            let dir = StateDir::open(&path).unwrap();
            dir.write("key", b"secret").unwrap();
            fs::chownat(CWD, dir.path_of("key"), Some(Uid::from_raw(65_534)), None::<Gid>, AtFlags::empty()).unwrap();
            let error = dir.read("key").unwrap_err().to_string();
            assert!(error.contains("belongs to uid 65534") && error.contains("chown 0 "), "{error}");
            drop(dir);
            fs::chownat(CWD, &path, Some(Uid::from_raw(65_534)), None::<Gid>, AtFlags::empty()).unwrap();
            assert!(matches!(StateDir::open(&path), Err(StateDirError::Owner { owner: 65_534, me: 0, .. })));
        } else {
            assert!(matches!(StateDir::open(Path::new("/usr")), Err(StateDirError::Owner { owner: 0, .. })));
        }
    }

    #[test]
    fn a_write_replaces_as_a_whole_and_clears_what_a_kill_left() {
        let (outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        dir.write("key", b"old").unwrap();
        std::fs::write(dir.path_of("key.tmp"), "half").unwrap();
        dir.write("key", b"new").unwrap();
        assert_eq!(dir.read("key").unwrap().unwrap().as_slice(), b"new");
        assert!(!dir.path_of("key.tmp").exists());
        // A link in the place of the temporary file is removed, never written through.
        let victim = outer.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        symlink(&victim, dir.path_of("key.tmp")).unwrap();
        dir.write("key", b"newer").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(dir.read("key").unwrap().unwrap().as_slice(), b"newer");
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
        let (_outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        dir.subdir("key").unwrap();
        assert!(matches!(dir.write("key", b"x"), Err(StateDirError::Io { doing: "replace", .. })));
        assert!(!dir.path_of("key.tmp").exists());
        assert!(dir.path_of("key").is_dir());
    }

    #[test]
    fn one_process_at_a_time() {
        let (_outer, path) = place();
        let dir = StateDir::open(&path).unwrap();
        let sub = dir.subdir("ca").unwrap();
        let error = StateDir::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StateDirError::Busy { .. }), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        drop(dir);
        assert!(StateDir::open(&path).is_err(), "the subdirectory still holds the lock");
        drop(sub);
        StateDir::open(&path).unwrap();
    }
}
