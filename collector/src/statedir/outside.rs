//! Secrets that lie outside the state directory, as an operator or the service manager put them there.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

use super::{DIR_MODE, FILE_MODE, MAX_FILE, StateDirError, check_private};

/// Who answers for a secret file's privacy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// The operator: it must be this user's own, with mode 0600 or less.
    Operator,
    /// The service manager, in its directory of credentials: those belong to root and are let through to this
    /// user by an access list, which shows in the group's bits.
    ServiceManager,
}

/// Reads a secret file by its path, under the rules that the state directory has for its own. The bytes are
/// wiped when dropped.
///
/// # Errors
/// When it is absent, a link, no regular file, another user's, open to others, or larger than [`MAX_FILE`].
pub fn read_private(path: &Path, keeper: Keeper) -> Result<Zeroizing<Vec<u8>>, StateDirError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(StateDirError::Symlink { path: path.into() }),
        Err(errno) => return Err(StateDirError::io("read", path.into())(errno)),
    };
    let stat = fs::fstat(&file).map_err(StateDirError::io("read", path.into()))?;
    match keeper {
        Keeper::Operator => check_private(&stat, FileType::RegularFile, path)?,
        Keeper::ServiceManager => check_entrusted(&stat, path)?,
    }
    // Sized in advance: a growing buffer would leave copies of a key in freed memory.
    let room = usize::try_from(stat.st_size).unwrap_or(0).min(MAX_FILE as usize);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
    File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| StateDirError::Io {
        doing: "read",
        path: path.into(),
        source,
    })?;
    if bytes.len() as u64 > MAX_FILE { Err(StateDirError::TooLarge { path: path.into() }) } else { Ok(bytes) }
}

/// Leaves a private file in the state directory of a collector that may be running: it holds the directory's lock,
/// and this is not its process. The directory is made where it is missing; the file belongs to whom the directory
/// belongs to, so that root can leave one for the service's user.
///
/// # Errors
/// When the directory is a link or open to others, when it is another user's and this is not root, and when the
/// operating system refuses.
pub fn leave(dir: &Path, name: &'static str, bytes: &[u8]) -> Result<(), StateDirError> {
    let path = dir.join(name);
    match fs::mkdir(dir, Mode::from_raw_mode(DIR_MODE)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(StateDirError::io("create", dir.into())(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match fs::open(dir, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(StateDirError::WrongType { path: dir.into(), wanted: "directory" });
        }
        Err(errno) => return Err(StateDirError::io("open", dir.into())(errno)),
    };
    let stat = fs::fstat(&handle).map_err(StateDirError::io("open", dir.into()))?;
    let me = geteuid();
    if !me.is_root() || stat.st_uid == me.as_raw() {
        check_private(&stat, FileType::Directory, dir)?;
    }
    let temp = format!("{name}.{}.tmp", std::process::id());
    let write = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&handle, &temp, flags, Mode::from_raw_mode(FILE_MODE))?;
        if stat.st_uid != me.as_raw() {
            fs::fchown(&file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        }
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::renameat(&handle, &temp, &handle, name)?;
        Ok(fs::fsync(&handle)?)
    };
    write().map_err(|source| {
        // The first error is the one to tell.
        let _ = fs::unlinkat(&handle, &temp, AtFlags::empty());
        StateDirError::Io { doing: "write", path, source }
    })
}

fn check_entrusted(stat: &Stat, path: &Path) -> Result<(), StateDirError> {
    let (me, mode) = (geteuid().as_raw(), stat.st_mode & 0o7777);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(StateDirError::WrongType { path: path.into(), wanted: "regular file" });
    }
    if stat.st_uid != me && stat.st_uid != 0 {
        return Err(StateDirError::Owner { path: path.into(), owner: stat.st_uid, me });
    }
    if mode & 0o027 != 0 {
        return Err(StateDirError::Mode { path: path.into(), mode, wanted: 0o400 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_can_be_left_for_a_collector_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        leave(&state, "login.code", b"one").unwrap();
        let held = super::super::StateDir::open(&state).unwrap();
        leave(&state, "login.code", b"two").unwrap();
        assert_eq!(held.read("login.code").unwrap().unwrap().as_slice(), b"two");
        let link = dir.path().join("link");
        symlink(&state, &link).unwrap();
        assert!(matches!(leave(&link, "login.code", b"x"), Err(StateDirError::WrongType { .. })));
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(leave(&state, "login.code", b"x"), Err(StateDirError::Mode { .. })));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.key");
        std::fs::write(&path, "hush").unwrap();
        let chmod = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620] {
            chmod(mode);
            let error = read_private(&path, Keeper::Operator).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        chmod(0o440);
        assert!(read_private(&path, Keeper::Operator).is_err());
        assert_eq!(read_private(&path, Keeper::ServiceManager).unwrap().as_slice(), b"hush");
        chmod(0o444);
        assert!(read_private(&path, Keeper::ServiceManager).is_err());
        chmod(0o600);
        assert_eq!(read_private(&path, Keeper::Operator).unwrap().as_slice(), b"hush");
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read_private(&link, Keeper::Operator), Err(StateDirError::Symlink { .. })));
        let error = read_private(&dir.path().join("none"), Keeper::Operator).unwrap_err();
        assert!(matches!(error, StateDirError::Io { doing: "read", .. }), "{error}");
        assert!(matches!(read_private(dir.path(), Keeper::Operator), Err(StateDirError::WrongType { .. })));
    }
}
