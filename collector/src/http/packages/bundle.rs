//! The archive that a host gets: configuration, token, and what puts them in their places.
//!
//! The same package gives the same bytes: names are sorted, times and owners are fixed. What it says comes from
//! the package's row and the token's text, and from nothing else.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use rollcall_common::service::Pairs;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::store::rows::PackageRow;

const INSTALL: &str = include_str!("install.sh");

/// A file of the archive.
struct File {
    path: &'static str,
    mode: u32,
    bytes: Zeroizing<Vec<u8>>,
}

/// The name that the archive is offered under. Ids are safe in file names by their grammar.
pub(super) fn name(row: &PackageRow) -> String {
    format!("rollcall-{}-{}.tar.gz", row.service.kind, row.service.id)
}

/// Makes the archive.
pub(super) fn archive(row: &PackageRow, token: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    let mut tar = tar::Builder::new(gzip);
    for file in files(row, token) {
        let mut header = tar::Header::new_ustar();
        header.set_size(file.bytes.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(0);
        header.set_gid(0);
        // A time that every archiver can write; what counts is that it is the same one each time.
        header.set_mtime(u64::try_from(row.created_at.as_secs()).unwrap_or(0));
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, file.path, file.bytes.as_slice())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish().map(Zeroizing::new)
}

fn files(row: &PackageRow, token: &str) -> Vec<File> {
    let file = |path, mode, text: String| File { path, mode, bytes: Zeroizing::new(text.into_bytes()) };
    let mut files = vec![
        file("README", 0o644, readme(row)),
        file("etc/rollcall/agent.toml", 0o644, config(row)),
        file("etc/rollcall/agent/token", 0o600, format!("{token}\n")),
        file("install.sh", 0o755, INSTALL.to_owned()),
    ];
    let sums: String = files.iter().map(|file| format!("{}  {}\n", hex(&file.bytes), file.path)).collect();
    files.insert(1, file("SHA256SUMS", 0o644, sums));
    files
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

fn readme(row: &PackageRow) -> String {
    let name = name(row);
    let dir = name.trim_end_matches(".tar.gz");
    format!(
        "This package brings {service} into Rollcall. Install rollcall-agent on its host, copy {name} there, and run\n\
         \n    mkdir {dir} && tar -xzf {name} -C {dir}\n    sudo sh {dir}/install.sh\n\n\
         The token inside is a secret: it lets one host in as {service}, once, until {until}.\n\
         Remove this directory and the archive when `rollcall-agent status` says that the sidecar is in.\n\
         A package that was lost or used up is issued again with\n\
         \n    rollcall-collector packages reissue {id}\n",
        service = row.service,
        until = row.expires_at,
        id = row.id,
    )
}

/// The sidecar's configuration.
pub(crate) fn config(row: &PackageRow) -> String {
    let settings = &row.settings;
    let mut text = format!("# {}: made by onboarding package {}.\n", row.service, row.id);
    let mut set = |key: &str, value: &str| text.push_str(&format!("{key} = {}\n", quoted(value)));
    set("kind", row.service.kind.as_str());
    set("id", row.service.id.as_str());
    for (key, value) in [
        ("parent", row.parent.as_ref().map(|id| id.as_str())),
        ("checker_kind", settings.checker_kind.as_ref().map(|kind| kind.as_str())),
        ("revoked_retry", settings.revoked_retry.as_deref()),
    ] {
        if let Some(value) = value {
            set(key, value);
        }
    }
    if !settings.addresses.is_empty() {
        let addresses: Vec<String> = settings.addresses.iter().map(|address| quoted(&address.to_string())).collect();
        text.push_str(&format!("addresses = [{}]\n", addresses.join(", ")));
    }
    text.push_str(&table("labels", &settings.labels));
    text.push_str(&table("metadata", &settings.metadata));
    if settings.log_format.is_some() || settings.log_level.is_some() {
        text.push_str("\n[log]\n");
        for (key, value) in [("format", &settings.log_format), ("level", &settings.log_level)] {
            if let Some(value) = value {
                text.push_str(&format!("{key} = {}\n", quoted(value)));
            }
        }
    }
    text
}

fn table(name: &str, pairs: &Pairs) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let lines: String = pairs.iter().map(|(key, value)| format!("{} = {}\n", quoted(key), quoted(value))).collect();
    format!("\n[{name}]\n{lines}")
}

/// A TOML string. JSON's escapes are TOML's; what may be in a configuration has no control characters.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read};

    use super::*;
    use crate::store::suite::samples::package;

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (u32, String)> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let (path, mode) = (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (path, (mode, text))
        });
        entries.collect()
    }

    #[test]
    fn the_same_package_gives_the_same_bytes() {
        let row = package(2, "");
        assert_eq!(archive(&row, "t").unwrap().as_slice(), archive(&row, "t").unwrap().as_slice());
        let mut other = row.clone();
        other.settings.log_level = Some("warn".into());
        assert_ne!(archive(&row, "t").unwrap().as_slice(), archive(&other, "t").unwrap().as_slice());
    }

    #[test]
    fn it_holds_what_a_host_needs_and_its_sums() {
        let row = package(2, "");
        let files = unpacked(&archive(&row, "rollcall_enr1_x").unwrap());
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["README", "SHA256SUMS", "etc/rollcall/agent.toml", "etc/rollcall/agent/token", "install.sh"]
        );
        assert_eq!(files["etc/rollcall/agent/token"], (0o600, "rollcall_enr1_x\n".into()));
        assert_eq!(files["install.sh"].0, 0o755);
        for line in files["SHA256SUMS"].1.lines() {
            let (sum, path) = line.split_once("  ").unwrap();
            assert_eq!(hex(files[path].1.as_bytes()), sum, "{path}");
        }
        assert!(!files["README"].1.contains("rollcall_enr1_x") && files["README"].1.contains("install.sh"));
        assert!(name(&row).ends_with("rollcall-checker-a.tar.gz"));
    }

    #[test]
    fn the_configuration_is_toml_whatever_labels_hold() {
        let mut row = package(2, "");
        row.settings.metadata =
            BTreeMap::from([("note".to_owned(), "a \"b\" \\ = [c] #d é".to_owned())]).try_into().unwrap();
        let read: toml::Table = config(&row).parse().unwrap();
        assert_eq!(read["kind"].as_str(), Some("checker"));
        assert_eq!(read["parent"].as_str(), Some("a"));
        assert_eq!(read["metadata"]["note"].as_str(), Some("a \"b\" \\ = [c] #d é"));
        assert_eq!(read["addresses"][0].as_str(), Some("collector.example:7411"));
        assert_eq!(read["log"]["level"].as_str(), Some("debug"));
    }
}
