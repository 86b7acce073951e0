//! The configuration that setup proposes: its text, how it differs from what is there, and writing it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::Answers;
use crate::config::DEFAULT_STATE_DIR;

const SEAL: &str = "# setup: ";
/// Longest file that is compared.
const MAX_LINES: usize = 2_000;

/// The file's text.
pub(super) fn text(answers: &Answers) -> String {
    let mut body = String::new();
    let mut put = |comment: &str, key: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = write!(body, "\n# {comment}\n{key} = {value}\n");
    };
    if let Some(name) = &answers.name {
        put("This collector's name within the deployment.", "name", quoted(name));
    }
    put(
        "The deployment: the first part of every identity. It cannot be changed once sidecars have enrolled.",
        "trust_domain",
        quoted(&answers.trust_domain),
    );
    if answers.state_dir.as_deref().is_some_and(|dir| dir != Path::new(DEFAULT_STATE_DIR)) {
        let dir = answers.state_dir.as_deref().unwrap_or(Path::new("")).display().to_string();
        put("Where keys, certificates and the registry are kept.", "state_dir", quoted(&dir));
    }
    put("What tokens tell sidecars to dial (UDP), best first.", "advertise", list(&answers.advertise));
    put("Where the API listens (TCP).", "http_listen", quoted(&answers.http_listen));
    if let Some((cert, key)) = &answers.tls {
        put(
            "The certificate of the API, the server's own first; a new pair is taken when the files change.",
            "http_tls_cert",
            quoted(cert),
        );
        put("Its private key, readable by the collector's user alone.", "http_tls_key", quoted(key));
    }
    if !answers.hosts.is_empty() {
        put("Names of the reverse proxy in front of the API.", "http_hosts", list(&answers.hosts));
    }
    format!(
        "# The collector, as `rollcall-collector setup` wrote it. Every other setting has its default: see\n\
         # rollcall-collector(8). Settings of your own are better kept in collector.d/*.toml, which is laid over this\n\
         # file: setup replaces a file that nobody edited, and no other.\n{SEAL}{}\n{body}",
        seal(&body)
    )
}

fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's, except for DEL, which no setting may hold.
    serde_json::to_string(text).unwrap_or_default()
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn seal(body: &str) -> String {
    data_encoding::HEXLOWER.encode(Sha256::digest(body.as_bytes()).get(..8).unwrap_or_default())
}

/// Whether somebody's own work is in the file: a setting that setup did not write as it stands there.
pub(super) fn is_edited(text: &str) -> bool {
    let settings = |text: &str| text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let Some((_, sealed)) = text.split_once(SEAL) else { return settings(text) };
    match sealed.split_once('\n') {
        Some((mark, body)) => mark.trim() != seal(body),
        None => true,
    }
}

/// Line by line: what goes with a minus, what comes with a plus, and nothing of what stays.
pub(super) fn difference(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.lines().take(MAX_LINES).collect(), new.lines().take(MAX_LINES).collect());
    let told = |line: &&&str| !line.trim().is_empty();
    let gone = old.iter().filter(|line| !new.contains(line)).filter(told).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !old.contains(line)).filter(told).map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

/// Puts the file in the place of the old one, whole or not at all; mode and owner stay those of the old one.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(dir)?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    let old = match std::fs::symlink_metadata(path) {
        Ok(old) if !old.is_file() => {
            return Err(io::Error::other("it is no regular file: put one there, or choose another with --config"));
        }
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        if let Some(old) = &old {
            // Only root may give a file away; whoever may write here may read it in any case.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(text.as_bytes())?;
        let mode = old.as_ref().map_or(0o644, |old| old.mode() & 0o777);
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one to tell of.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        Answers {
            name: Some("main".into()),
            trust_domain: "fleet.example".into(),
            advertise: vec!["192.0.2.7:7411".into()],
            http_listen: "0.0.0.0:7410".into(),
            tls: Some(("/etc/web \"x\".pem".into(), "/etc/web.key".into())),
            hosts: Vec::new(),
            state_dir: None,
        }
    }

    #[test]
    fn what_is_written_is_known_again_and_an_edit_is_seen() {
        let text = text(&answers());
        assert!(!is_edited(&text));
        assert!(is_edited(&text.replace("fleet.example", "other.example")));
        assert!(is_edited(&format!("{text}ttl = \"1m\"\n")));
        assert!(is_edited("name = \"x\"\n"));
        assert!(is_edited(SEAL));
        assert!(!is_edited("# all comments\n\n#name = \"main\"\n"), "the packaged file says nothing");
        assert!(text.contains("http_tls_cert = \"/etc/web \\\"x\\\".pem\"\n"), "{text}");
    }

    #[test]
    fn only_what_differs_is_shown() {
        let old = text(&answers());
        let new = text(&Answers { trust_domain: "other.example".into(), ..answers() });
        let lines = difference(&old, &new);
        assert!(lines.contains(&"- trust_domain = \"fleet.example\"".to_owned()), "{lines:?}");
        assert!(lines.contains(&"+ trust_domain = \"other.example\"".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("advertise")), "{lines:?}");
        assert!(difference(&old, &old).is_empty());
    }

    #[test]
    fn mode_and_content_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/collector.toml");
        write(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write(dir.path(), "x").is_err());
    }
}
