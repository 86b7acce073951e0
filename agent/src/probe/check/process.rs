//! Processes: by pid file, by name, by control group.
//!
//! A process is held by a pidfd before anything else is read of it, so that a number which was given to another
//! process meanwhile cannot deceive. /proc may hide what belongs to other users; a pidfd sees them all the same, and
//! tells of one that has ended and was not collected yet. A number in a file outlives its process: by what it was
//! found is told with the look, so that whoever saw the end knows a number that was given away.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rollcall_common::health::Health;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{Host, Look, Prey, file};
use crate::probe::plan::Process;

/// What the kernel keeps of a process's name.
const COMM: usize = 15;
/// Longest pid file: a number and a line break, with room.
const MAX_PID_FILE: usize = 64;

pub(super) async fn look(process: &Process, host: &Host, held: Option<&Prey>) -> Look {
    // Its end would have been noticed: no need to search again.
    if let (Process::Name(name), Some(prey @ Prey::Process(_, pid))) = (process, held) {
        return Look::well(format!("{name} runs as process {pid}")).with_prey(prey.clone());
    }
    let (process, proc, cgroups) = (process.clone(), host.proc.clone(), host.cgroups.clone());
    let what = match &process {
        Process::PidFile { file, .. } => file.display().to_string(),
        Process::Name(_) => "/proc".to_owned(),
        Process::Cgroup(group) => format!("cgroup {group}"),
    };
    let looked = host.files.lend(&what, move || match &process {
        Process::PidFile { file, name } => by_file(file, name.as_deref(), &proc),
        Process::Name(name) => by_name(name, &proc),
        Process::Cgroup(group) => by_group(group, &cgroups),
    });
    looked.await.unwrap_or_else(|blind| blind)
}

fn by_file(path: &Path, name: Option<&str>, proc: &Path) -> Look {
    let shown = path.display();
    let (text, stamp) = match file::head_and_stamp(path, MAX_PID_FILE) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Look::gone(format!("there is no pid file {shown}"));
        }
        Err(error) => {
            return Look::blind(format!("cannot read the pid file {shown}: {}", file::why(path, &error)));
        }
    };
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap_or_default().trim();
    let Some(pid) = first.parse().ok().filter(|pid| *pid > 0) else {
        let held: String = first.chars().take(16).collect();
        return Look::ill(format!("the pid file {shown} holds no process number but {held:?}"));
    };
    let look = hold(pid, name, proc).unwrap_or_else(|| Look::gone(format!("process {pid} of {shown} is gone")));
    let mut hasher = DefaultHasher::new();
    (stamp, pid).hash(&mut hasher);
    Look { found_by: Some(hasher.finish()), ..look }
}

/// Opens a process; `None` where there is none, or where it has ended and nobody has collected it yet.
pub(super) fn open(pid: i32) -> Result<Option<OwnedFd>, Errno> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(fd) => {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0);
            Ok((!ended).then_some(fd))
        }
        // A thread of another process may have that number.
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` where there is no such process.
fn hold(pid: i32, name: Option<&str>, proc: &Path) -> Option<Look> {
    let fd = match open(pid) {
        Ok(fd) => fd?,
        Err(error) => return Some(Look::blind(format!("cannot hold process {pid}: {error}"))),
    };
    let prey = Prey::Process(Arc::new(fd), pid);
    let seen = match Seen::of(pid, proc) {
        Ok(seen) => seen,
        // It went meanwhile, or is hidden; a hidden one is held all the same.
        Err(_) if is_hidden(proc) => {
            if let Some(name) = name {
                return Some(Look::blind(format!("whether process {pid} is {name} is hidden: {HIDDEN}")));
            }
            return Some(Look::well(format!("process {pid} runs")).with_prey(prey));
        }
        Err(_) => return None,
    };
    if seen.is_dead {
        return None;
    }
    if let Some(name) = name.filter(|name| !seen.is_called(name, pid, proc)) {
        return Some(Look::gone(format!("process {pid} is {}, not {name}", seen.comm)));
    }
    Some(Look::well(format!("{} runs as process {pid}", seen.comm)).with_prey(prey))
}

const HIDDEN: &str = "/proc shows this sidecar its own processes only (hidepid, ProtectProc=); probe the unit, or a \
    pid file without a name, or let it see the others";

/// Whether other users' processes are hidden from us.
fn is_hidden(proc: &Path) -> bool {
    fs::read(proc.join("1/stat")).is_err()
}

fn by_name(name: &str, proc: &Path) -> Look {
    let entries = match fs::read_dir(proc) {
        Ok(entries) => entries,
        Err(error) => return Look::blind(format!("cannot list {}: {error}", proc.display())),
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut oldest: Option<(u64, i32)> = None;
    for pid in pids.filter(|pid| *pid > 0 && *pid != own) {
        let Ok(seen) = Seen::of(pid, proc) else { continue };
        if !seen.is_dead && seen.is_called(name, pid, proc) {
            let found = (seen.began, pid);
            oldest = Some(oldest.map_or(found, |oldest| oldest.min(found)));
        }
    }
    match oldest {
        Some((_, pid)) => {
            hold(pid, Some(name), proc).unwrap_or_else(|| Look::gone(format!("no process {name} runs any more")))
        }
        None if is_hidden(proc) => Look::blind(format!("no process {name} can be seen: {HIDDEN}")),
        None => Look::gone(format!("no process {name} runs")),
    }
}

/// What `/proc/PID/stat` tells; reading it never waits for the process itself.
struct Seen {
    comm: String,
    is_dead: bool,
    began: u64,
}

impl Seen {
    fn of(pid: i32, proc: &Path) -> io::Result<Self> {
        let stat = fs::read(proc.join(pid.to_string()).join("stat"))?;
        let stat = String::from_utf8_lossy(&stat);
        Self::read(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn read(stat: &str) -> Option<Self> {
        // The name may hold spaces and parentheses itself.
        let (head, tail) = stat.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let mut fields = tail.split_ascii_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
        Some(Self { comm: comm.to_owned(), is_dead, began: fields.nth(18)?.parse().ok()? })
    }

    fn is_called(&self, name: &str, pid: i32, proc: &Path) -> bool {
        if name.len() < COMM {
            return self.comm == name;
        }
        let Some(cut) = name.get(..COMM) else { return false };
        if self.comm != cut && self.comm != name {
            return false;
        }
        let Ok(line) = file::head(&proc.join(pid.to_string()).join("cmdline"), 4_096) else {
            return name.len() == COMM;
        };
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        program == name.as_bytes() || name.len() == COMM
    }
}

pub(super) fn by_group(group: &str, roots: &[PathBuf]) -> Look {
    let found = roots.iter().map(|root| root.join(group)).find(|dir| dir.is_dir());
    let Some(dir) = found else {
        return if roots.iter().any(|root| root.is_dir()) {
            Look::gone(format!("there is no cgroup {group}: nothing runs in it"))
        } else {
            Look::blind("this host shows no cgroups")
        };
    };
    let events = dir.join("cgroup.events");
    if let Ok(text) = file::head(&events, 4_096) {
        return match is_populated(&text) {
            Some(true) => Look::well(format!("cgroup {group} is populated")).with_prey(Prey::Group(events)),
            Some(false) => Look::gone(format!("nothing runs in cgroup {group}")),
            None => Look::blind(format!("{} does not say whether it is populated", events.display())),
        };
    }
    // The older hierarchy tells no events: the first process stands for all.
    match file::head(&dir.join("cgroup.procs"), 4_096) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            let Some(pid) = text.lines().find_map(|line| line.trim().parse().ok()) else {
                return Look::gone(format!("nothing runs in cgroup {group}"));
            };
            let look = Look::well(format!("cgroup {group} is populated"));
            let held = open(pid).ok().flatten();
            Look { prey: held.map(|fd| Prey::Process(Arc::new(fd), pid)), ..look }
        }
        Err(error) => Look { health: Health::Unchecked, ..Look::blind(format!("cannot read cgroup {group}: {error}")) },
    }
}

/// What `cgroup.events` says.
pub(super) fn is_populated(events: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(events).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("populated "))?;
    Some(value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_anything() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 0";
        let seen = Seen::read(&format!("12 (a) (b c)) {rest}")).unwrap();
        assert_eq!((seen.comm.as_str(), seen.is_dead, seen.began), ("a) (b c)", false, 4711));
        assert!(Seen::read(&format!("12 (x) {}", rest.replace('S', "Z"))).unwrap().is_dead);
        for bad in ["", "12", "12 (x", "12 (x) S 1", ")("] {
            assert!(Seen::read(bad).is_none(), "{bad}");
        }
        assert_eq!(is_populated(b"populated 1\nfrozen 0\n"), Some(true));
        assert_eq!(is_populated(b"frozen 0\npopulated 0\n"), Some(false));
        assert_eq!(is_populated(b"\xff"), None);
    }
}
