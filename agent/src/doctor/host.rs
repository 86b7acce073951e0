//! What is to be seen on this host: files, modes, the kernel's buffers, the service manager.

use std::{
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rollcall_common::time::Timestamp;

use super::{Finding, Grade, vault_words};
use crate::{
    config::Config,
    token::{Damaged, Look, Origin, is_exposed},
    vault::{Stored, VaultError},
};

/// How long the service manager may take.
const WITHIN: Duration = Duration::from_secs(5);

/// The socket's file. One that is not there is no finding: another one may be.
pub(super) fn socket(path: &Path) -> Option<Finding> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(
                Finding::new("socket", Grade::Note, format!("cannot look at {}: {error}", path.display()))
                    .fix("run this as root, or as the sidecar's user"),
            );
        }
    };
    if !metadata.file_type().is_socket() {
        return Some(
            Finding::new("socket", Grade::Fail, format!("{} is in the way and is no socket", path.display()))
                .fix("remove it, or set another `socket`"),
        );
    }
    let mode = metadata.mode() & 0o777;
    let words = format!("{} (mode {mode:04o}, user {}, group {})", path.display(), metadata.uid(), metadata.gid());
    Some(if mode & 0o002 == 0 {
        Finding::new("socket", Grade::Ok, words)
    } else {
        Finding::new("socket", Grade::Warn, format!("{words}: every user of this host may report"))
            .fix(format!("chmod 660 {}", path.display()))
    })
}

/// The state directory and what is in it.
pub(super) fn state(config: &Config, inspected: Result<&Option<Stored>, &VaultError>) -> Vec<Finding> {
    let dir = config.state_dir.display();
    let mut found = Vec::new();
    match inspected {
        Err(error) => {
            let denied = matches!(
                error,
                VaultError::Directory { source, .. } | VaultError::Read { source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied
            );
            found.push(match (denied, error) {
                (true, _) | (_, VaultError::Foreign { .. }) => {
                    Finding::new("state", Grade::Note, format!("not seen: {error}"))
                        .fix("run this as root, or as the sidecar's user")
                }
                _ => vault_words(error),
            });
        }
        Ok(None) => {
            found.push(Finding::new("state", Grade::Note, format!("{dir} is not there yet: the sidecar makes it")))
        }
        Ok(Some(stored)) => {
            let who = match (&stored.current, &stored.next) {
                (Some(current), None) => format!("the identity of {}", current.service()),
                (Some(current), Some(_)) => format!("the identity of {} and its next one", current.service()),
                (None, _) => "no identity yet".into(),
            };
            found.push(Finding::new("state", Grade::Ok, format!("{dir}: {who}")));
            if let Some(current) = &stored.current {
                found.extend(
                    crate::agent::disagreements(config, current)
                        .into_iter()
                        .map(|words| Finding::new("settings", Grade::Warn, words)),
                );
            }
        }
    }
    found.extend(room(&config.state_dir));
    found
}

/// Whether something can be written there.
fn room(dir: &Path) -> Option<Finding> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Some(
            Finding::new("disk", Grade::Fail, format!("{} is on a file system that is read-only", dir.display()))
                .fix("mount it for writing, or set another `state_dir`: certificates are renewed every few days"),
        );
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < 1 << 20 || (stat.f_files > 0 && stat.f_favail == 0) {
        return Some(
            Finding::new("disk", Grade::Fail, format!("{} is full", dir.display()))
                .fix("make room: a renewed certificate cannot be kept"),
        );
    }
    None
}

/// The token and its places.
pub(super) fn token(config: &Config, look: &Result<Look, Damaged>, enrolled: bool, now: Timestamp) -> Vec<Finding> {
    let file = config.token.file.display();
    // An identity needs no token any more: what is wrong with one is worth a note then.
    let grade = if enrolled { Grade::Note } else { Grade::Fail };
    let new = "make a new one with `rollcall-collector token create`";
    let look = match look {
        Ok(look) => look,
        Err(damaged) => return vec![Finding::new("token", grade, damaged.to_string()).fix(new)],
    };
    let mut found: Vec<Finding> = look
        .obstacles
        .iter()
        .map(|obstacle| {
            Finding::new("token", Grade::Note, obstacle.as_str())
                .fix("systemd hands it over (LoadCredential=), or run this as root")
        })
        .collect();
    let Some(here) = &look.found else {
        found.push(if enrolled {
            Finding::new("token", Grade::Ok, "none, and none is needed any more")
        } else {
            Finding::new("token", if look.obstacles.is_empty() { Grade::Fail } else { Grade::Note }, "none is found")
                .fix(format!("put one into {file} (mode 0600): rollcall-collector token create"))
        });
        return found;
    };
    let words = format!("{} in {}, until {}", here.token.id, here.origin, here.token.expires);
    found.push(if here.token.expires <= now {
        Finding::new("token", grade, format!("{words}: its time is over")).fix(new)
    } else {
        Finding::new("token", Grade::Ok, words)
    });
    if config.kind.is_none() && !enrolled {
        found.push(
            Finding::new("settings", Grade::Fail, "`kind` is not set, and enrollment needs it")
                .fix("write kind = \"poller\", \"agent\", \"checker\" or \"instance\" into the configuration"),
        );
    }
    if let Origin::File(path) = &here.origin
        && is_exposed(path)
    {
        found.push(
            Finding::new("token", Grade::Warn, format!("{} can be read by everybody", path.display()))
                .fix(format!("chmod 600 {}", path.display())),
        );
    }
    found
}

/// One connection needs little; what is here is told for whoever compares it with a collector's.
pub(super) fn buffers() -> Option<Finding> {
    let path = "/proc/sys/net/core/rmem_max";
    let bytes: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(if bytes < 64 * 1024 {
        Finding::new("buffers", Grade::Warn, format!("net.core.rmem_max is {bytes}: packets may be lost"))
            .fix("sysctl -w net.core.rmem_max=212992")
    } else {
        Finding::new("buffers", Grade::Ok, format!("net.core.rmem_max is {bytes}, plenty for one connection"))
    })
}

/// What the service manager says of the packaged service.
pub(super) async fn unit(unit: &str) -> Option<Finding> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Some(Finding::new("systemd", Grade::Note, "this host was not started by systemd"));
    }
    // A service manager that hangs holds a thread of ours, not us.
    let name = unit.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let properties = "--property=LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState,StatusText";
        Command::new("systemctl").args(["show", &name, properties]).stdin(Stdio::null()).output()
    });
    let output = tokio::time::timeout(WITHIN, asked).await;
    let Ok(Ok(Ok(output))) = output else {
        return Some(Finding::new("systemd", Grade::Note, "the service manager could not be asked"));
    };
    Some(judge_unit(unit, &String::from_utf8_lossy(&output.stdout)))
}

pub(super) fn judge_unit(unit: &str, shown: &str) -> Finding {
    let value = |name: &str| {
        shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    if value("LoadState") != "loaded" {
        return Finding::new("systemd", Grade::Note, format!("{unit} is not installed"));
    }
    let (active, sub, result) = (value("ActiveState"), value("SubState"), value("Result"));
    let text = Some(value("StatusText")).filter(|text| !text.is_empty()).map(|text| format!(": {text}"));
    let words = format!("{unit} is {active} ({sub}){}", text.unwrap_or_default());
    let restarts: u64 = value("NRestarts").parse().unwrap_or(0);
    match active.as_str() {
        "active" if restarts > 0 => Finding::new("systemd", Grade::Warn, format!("{words}, {restarts} restarts"))
            .fix(format!("journalctl -u {unit} -b")),
        "active" if value("UnitFileState") == "disabled" => {
            Finding::new("systemd", Grade::Warn, format!("{words}, and is not started at boot"))
                .fix(format!("systemctl enable {unit}"))
        }
        "active" => Finding::new("systemd", Grade::Ok, words),
        "failed" => Finding::new("systemd", Grade::Fail, format!("{words}, {result}"))
            .fix(format!("journalctl -u {unit} -b; an exit with 78 needs a hand, and then systemctl restart {unit}")),
        _ => Finding::new("systemd", Grade::Warn, words).fix(format!("systemctl enable --now {unit}")),
    }
}
