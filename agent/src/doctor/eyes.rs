//! Whether the sidecar's user may read what it must: asked as root, who may read everything and would see nothing
//! wrong.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Finding, Grade};
use crate::{
    config::Config,
    leave::{Barrier, Eyes, Whose, barrier},
    probe::plan::{Check, Probe, Process, Trust},
};

/// The user that the packages make.
const USER: &str = "rollcall-agent";
/// Findings of one sort; more of them would say the same.
const MOST: usize = 8;

/// Whose eyes the sidecar has: who owns its state directory, or else the packages' user; root's own are none.
fn of_the_sidecar(config: &Config) -> Option<Eyes> {
    let own = Eyes::own();
    if own.uid != 0 {
        return Some(own);
    }
    let owner = std::fs::metadata(&config.state_dir).ok().map(|found| (found.uid(), found.gid()));
    let packaged = || {
        let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = text.lines().find(|line| line.split(':').next() == Some(USER))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let (uid, gid) = owner.or_else(packaged).filter(|(uid, _)| *uid != 0)?;
    Some(Eyes::of(uid, gid))
}

/// What it may not read.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let Some(eyes) = of_the_sidecar(config) else { return Vec::new() };
    let (ours, theirs) = targets(config);
    let mut found = judge(&ours, Whose::Ours, &eyes);
    found.extend(judge(&theirs, Whose::Theirs, &eyes));
    if found.is_empty() {
        let words = format!("user {} may read its {} files and what its probes look at", eyes.user(), ours.len());
        found.push(Finding::new("permissions", Grade::Ok, words));
    }
    found
}

fn judge(paths: &[PathBuf], whose: Whose, eyes: &Eyes) -> Vec<Finding> {
    let mut seen: Vec<Barrier> = paths.iter().filter_map(|path| barrier(path, eyes)).collect();
    // One directory closes the way to many.
    seen.dedup();
    let finding = |barrier: &Barrier| {
        let grade = if whose == Whose::Ours { Grade::Fail } else { Grade::Warn };
        Finding::new("permissions", grade, barrier.words(eyes)).fix(barrier.fix(eyes, whose))
    };
    seen.iter().take(MOST).map(finding).collect()
}

/// What the sidecar reads: its own, and the services'.
fn targets(config: &Config) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut ours = config.files.clone();
    let mut theirs = Vec::new();
    let of_children = config.children.iter().flat_map(|child| &child.probes);
    for probe in config.probes.iter().chain(of_children) {
        let Probe { check, .. } = probe;
        match check {
            Check::Process(Process::PidFile { file, .. }) => theirs.push(file.clone()),
            Check::Progress(progress) => theirs.push(progress.file.clone()),
            Check::Exec(command) => theirs.extend(command.first().map(|program| Path::new(program).to_owned())),
            Check::Http(http) => ours.extend(certificates(&http.trust)),
            Check::Grpc(grpc) => ours.extend(certificates(&grpc.trust)),
            Check::Process(Process::Name(_) | Process::Cgroup(_)) | Check::Systemd(_) | Check::Tcp(_) => {}
        }
    }
    (ours, theirs)
}

fn certificates(trust: &Trust) -> Option<PathBuf> {
    match trust {
        Trust::File(path) => Some(path.clone()),
        Trust::Host | Trust::Anybody => None,
    }
}
