//! Who may look where, and what mends it where somebody may not: users, groups and modes in plain words.
//!
//! It judges by the modes on the way to a file, as the kernel does first. Access lists, security modules and the
//! unit's sandbox it cannot see; where modes do not explain a refusal, it says so.

use std::{
    fmt::Write as _,
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// What stands for users and groups that a user namespace does not show.
const OVERFLOW: u32 = 65_534;
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;

/// Whose a file is, which decides how it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The sidecar's: its configuration, a token, certificates to believe.
    Ours,
    /// The service's beside it: a pid file, a socket, something that moves.
    Theirs,
}

/// A user with its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eyes {
    /// The user.
    pub uid: u32,
    /// All groups, the first one before others.
    pub gids: Vec<u32>,
}

impl Eyes {
    /// This process's.
    #[must_use]
    pub fn own() -> Self {
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw));
        Self { uid: rustix::process::geteuid().as_raw(), gids }
    }

    /// Another user's, as the host's files tell.
    #[must_use]
    pub fn of(uid: u32, gid: u32) -> Self {
        let name = name_of("/etc/passwd", uid);
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        Self { uid, gids: std::iter::once(gid).chain(name.iter().flat_map(|name| member_of(&groups, name))).collect() }
    }

    /// The user's name, or its number.
    #[must_use]
    pub fn user(&self) -> String {
        name_of("/etc/passwd", self.uid).unwrap_or_else(|| self.uid.to_string())
    }

    /// The name of its group, or its number.
    #[must_use]
    pub fn group(&self) -> String {
        let gid = self.gids.first().copied().unwrap_or(self.uid);
        name_of("/etc/group", gid).unwrap_or_else(|| gid.to_string())
    }

    /// Whether modes let it: as owner, else as group, else as others, and never as the next one.
    fn may(&self, seen: Seen, bits: u32) -> bool {
        let shift = if self.uid == 0 {
            // Root reads and searches everything.
            return true;
        } else if seen.uid == self.uid {
            6
        } else if self.gids.contains(&seen.gid) {
            3
        } else {
            0
        };
        (seen.mode >> shift) & bits == bits
    }
}

/// What is seen of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// What keeps somebody from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The file itself, or a directory on the way to it.
    pub path: PathBuf,
    /// Whether it is such a directory.
    pub on_the_way: bool,
    seen: Seen,
    bits: u32,
}

/// The first thing on the way to a file that modes close to somebody; `None` where modes let it, or do not tell.
#[must_use]
pub fn barrier(path: &Path, eyes: &Eyes) -> Option<Barrier> {
    let dirs: Vec<&Path> = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
    for dir in dirs.into_iter().rev() {
        let metadata = std::fs::metadata(dir).ok()?;
        let found = closed(dir, true, &metadata, SEARCH, eyes);
        if found.is_some() {
            return found;
        }
    }
    let metadata = std::fs::metadata(path).ok()?;
    let bits = if metadata.is_dir() {
        READ | SEARCH
    } else if metadata.file_type().is_socket() {
        WRITE
    } else {
        READ
    };
    closed(path, false, &metadata, bits, eyes)
}

fn closed(path: &Path, on_the_way: bool, metadata: &std::fs::Metadata, bits: u32, eyes: &Eyes) -> Option<Barrier> {
    let seen = Seen { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o7777 };
    // An access list says more than the modes do.
    let listed = || rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_ok_and(|size| size > 0);
    (!eyes.may(seen, bits) && !listed()).then(|| Barrier { path: path.into(), on_the_way, seen, bits })
}

impl Barrier {
    /// What it is, in words.
    #[must_use]
    pub fn words(&self, eyes: &Eyes) -> String {
        let what = if self.on_the_way { "directory " } else { "" };
        format!("{what}{} (mode {:04o}) is closed to user {}", self.path.display(), self.seen.mode, eyes.user())
    }

    /// What mends it.
    #[must_use]
    pub fn fix(&self, eyes: &Eyes, whose: Whose) -> String {
        let path = self.path.display();
        let has_group = eyes.gids.contains(&self.seen.gid);
        // What the group is given, others that have it keep.
        let mode = (self.seen.mode & 0o777) | (self.bits << 3);
        match whose {
            Whose::Ours if self.on_the_way && !is_ours(&self.path) => {
                format!("setfacl -m u:{}:x {path}, or keep the file where the sidecar may look", eyes.user())
            }
            Whose::Ours if has_group => format!("chmod {mode:o} {path}"),
            Whose::Ours => format!("chgrp {} {path} && chmod {mode:o} {path}", eyes.group()),
            Whose::Theirs if !has_group && (self.seen.mode >> 3) & self.bits == self.bits => {
                let group = match name_of("/etc/group", self.seen.gid) {
                    Some(name) if self.seen.gid != OVERFLOW => name,
                    Some(_) | None => "ITS-GROUP".into(),
                };
                format!("SupplementaryGroups={group} and PrivateUsers=no (systemctl edit rollcall-agent)")
            }
            Whose::Theirs => {
                let mut letters = String::new();
                for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (SEARCH, 'x')] {
                    if self.bits & bit != 0 {
                        letters.push(letter);
                    }
                }
                format!("setfacl -m u:{}:{letters} {path}", eyes.user())
            }
        }
    }
}

/// What mends a refusal by the system, to be set behind its words; empty for other errors.
#[must_use]
pub fn hint(path: &Path, error: &io::Error, whose: Whose) -> String {
    // What is refused by somebody who listens there is no matter of modes.
    if error.kind() != io::ErrorKind::PermissionDenied || error.raw_os_error().is_none() {
        return String::new();
    }
    let eyes = Eyes::own();
    let mut words = String::new();
    match barrier(path, &eyes) {
        Some(barrier) => {
            if barrier.on_the_way {
                // Writing to a String cannot fail.
                let _ = write!(words, "; {}", barrier.words(&eyes));
            }
            let _ = write!(words, "; mend it: {}", barrier.fix(&eyes, whose));
        }
        None => words.push_str("; modes allow it: look at the unit's sandbox, access lists, AppArmor or SELinux"),
    }
    words
}

/// What helps a user who may not connect to a socket of ours; `None` where that is not what is wrong.
#[must_use]
pub fn door(socket: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied || error.raw_os_error().is_none() {
        return None;
    }
    let eyes = Eyes::own();
    let group = barrier(socket, &eyes).and_then(|found| name_of("/etc/group", found.seen.gid));
    Some(match group {
        Some(group) => format!("run this as root, or let the user in: usermod -aG {group} {}", eyes.user()),
        None => "run this as root, or as a user of the socket's group".into(),
    })
}

/// Directories that the packages make for the sidecar.
fn is_ours(dir: &Path) -> bool {
    dir.starts_with("/etc/rollcall")
}

/// The name that a line of such a file begins with, where its third field is that number.
fn name_of(file: &str, number: u32) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    named(&text, number)
}

fn named(text: &str, number: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

/// The numbers of the groups that name a user as their member.
fn member_of(groups: &str, user: &str) -> Vec<u32> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member.trim() == user).then_some(gid)
    };
    groups.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const STRANGER: u32 = 54_321;

    fn eyes(gids: &[u32]) -> Eyes {
        Eyes { uid: STRANGER, gids: gids.to_vec() }
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn modes_are_read_as_the_kernel_reads_them() {
        let seen = |mode| Seen { uid: 7, gid: 8, mode };
        let (owner, member, other) =
            (Eyes { uid: 7, gids: vec![8] }, Eyes { uid: 9, gids: vec![1, 8] }, Eyes { uid: 9, gids: vec![1] });
        for (mode, by_owner, by_member, by_other) in [
            (0o400, true, false, false),
            // Whoever owns it is not helped by what its group may.
            (0o040, false, true, false),
            (0o004, false, false, true),
            (0o640, true, true, false),
        ] {
            let may = |eyes: &Eyes| eyes.may(seen(mode), READ);
            assert_eq!((may(&owner), may(&member), may(&other)), (by_owner, by_member, by_other), "{mode:o}");
        }
        assert!(Eyes { uid: 0, gids: vec![0] }.may(seen(0), READ));
    }

    #[test]
    fn the_first_closed_thing_on_the_way_is_named_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o755);
        let (inner, file) = (dir.path().join("inner"), dir.path().join("inner/agent.toml"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let metadata = fs::metadata(&file).unwrap();
        chmod(&inner, 0o700);
        chmod(&file, 0o600);
        let found = barrier(&file, &eyes(&[STRANGER])).unwrap();
        assert!(found.on_the_way && found.path == inner, "{found:?}");
        assert!(found.words(&eyes(&[])).contains("(mode 0700) is closed to user 54321"), "{found:?}");
        assert!(found.fix(&eyes(&[]), Whose::Ours).starts_with("setfacl -m u:54321:x "), "somebody else's directory");
        chmod(&inner, 0o711);
        let found = barrier(&file, &eyes(&[STRANGER])).unwrap();
        assert!(!found.on_the_way && found.path == file, "{found:?}");
        let shown = file.display();
        assert_eq!(found.fix(&eyes(&[STRANGER]), Whose::Ours), format!("chgrp 54321 {shown} && chmod 640 {shown}"));
        assert_eq!(found.fix(&eyes(&[metadata.gid()]), Whose::Ours), format!("chmod 640 {shown}"));
        assert_eq!(found.fix(&eyes(&[STRANGER]), Whose::Theirs), format!("setfacl -m u:54321:r {shown}"));
        // A group that may already: nothing of the service's is changed.
        chmod(&file, 0o640);
        let found = barrier(&file, &eyes(&[STRANGER])).unwrap();
        assert!(found.fix(&eyes(&[STRANGER]), Whose::Theirs).starts_with("SupplementaryGroups="), "{found:?}");
        chmod(&file, 0o644);
        assert_eq!(barrier(&file, &eyes(&[STRANGER])), None);
        assert_eq!(barrier(&dir.path().join("nothing/there"), &eyes(&[STRANGER])), None);
    }

    #[test]
    fn names_and_memberships_are_read_from_the_hosts_files() {
        let groups = "root:x:0:\npostgres:x:26:rollcall-agent,other\nbroken\nwww:x:x:rollcall-agent\nadm:x:4:other\n";
        assert_eq!(member_of(groups, "rollcall-agent"), [26]);
        assert_eq!(named(groups, 26).as_deref(), Some("postgres"));
        assert_eq!(named(groups, 27), None);
        let refused = io::Error::from(rustix::io::Errno::ACCESS);
        assert_eq!(hint(Path::new("/etc/passwd"), &io::Error::from(io::ErrorKind::NotFound), Whose::Ours), "");
        assert!(hint(Path::new("/etc/passwd"), &refused, Whose::Ours).contains("modes allow it"));
    }
}
