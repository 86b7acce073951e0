//! What a program is built from: the licences that must travel with it, and a bill of materials (CycloneDX).
//!
//! Which crates those are is cargo's answer for that one program on this platform, with the features that its
//! build has; their texts are those in the sources that cargo has fetched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use toml::Table;

use super::Edition;

/// Longest licence that is taken, in bytes: a larger file is something else.
const MAX_TEXT: u64 = 256 * 1024;

/// A foreign crate.
#[derive(Debug, Clone, Deserialize)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub license: Option<String>,
    /// Where it is developed.
    pub repository: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
    /// SHA-256 of what the registry gave, as the lock file has it.
    #[serde(skip)]
    pub checksum: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// Every crate of the workspace's lock file.
#[derive(Debug)]
pub struct Known(BTreeMap<(String, String), Crate>);

impl Known {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo does not answer, or the lock file does not read.
    pub fn ask(root: &Path) -> Result<Self> {
        let text = cargo(root, &["metadata", "--format-version", "1", "--locked"])?;
        let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
        let lock: Table = toml::from_str(&fs::read_to_string(root.join("Cargo.lock"))?).context("Cargo.lock")?;
        let locked = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
        let text = |entry: &toml::Value, key: &str| entry.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let sums: BTreeMap<_, _> = locked
            .iter()
            .filter_map(|entry| Some(((text(entry, "name")?, text(entry, "version")?), text(entry, "checksum")?)))
            .collect();
        let known = metadata.packages.into_iter().map(|mut one| {
            let key = (one.name.clone(), one.version.clone());
            one.checksum = sums.get(&key).cloned();
            (key, one)
        });
        Ok(Self(known.collect()))
    }

    /// The foreign crates that a program's build takes, in order.
    ///
    /// # Errors
    /// When cargo does not answer, or names a crate that its lock file lacks.
    pub fn used_by(&self, root: &Path, program: &str) -> Result<Vec<&Crate>> {
        let args =
            ["tree", "--locked", "--package", program, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
        let mut used = BTreeMap::new();
        for line in cargo(root, &args)?.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
            let key = (name.to_owned(), version.trim_start_matches('v').to_owned());
            let one = self.0.get(&key).with_context(|| format!("{line} is not in the lock file"))?;
            // Our own crates carry the package's own licence.
            if one.source.is_some() {
                used.insert(key, one);
            }
        }
        if used.is_empty() {
            bail!("cargo names no crate that {program} is built from");
        }
        Ok(used.into_values().collect())
    }
}

fn cargo(root: &Path, args: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(args).current_dir(root).output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("cargo's answer is no text")
}

/// The texts of a crate's licences and notices, in the order of their files' names: those beside its manifest, and all
/// of a folder `LICENSES`.
fn texts(one: &Crate) -> Result<Vec<String>> {
    let dir = one.manifest_path.parent().context("a manifest without a directory")?;
    let beside = fs::read_dir(dir).with_context(|| format!("the sources of {} are not there", one.name))?;
    let folder = dir.join("LICENSES");
    let within = if folder.is_dir() { Some(fs::read_dir(&folder)?) } else { None };
    let mut found = BTreeMap::new();
    for entry in beside.chain(within.into_iter().flatten()) {
        let entry = entry?;
        let is_named_so = entry.path().parent() == Some(folder.as_path());
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let telling = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT"];
        let is_code = [".RS", ".TOML"].iter().any(|end| name.ends_with(end));
        if !is_named_so && !telling.iter().any(|start| name.starts_with(start)) || is_code {
            continue;
        }
        let about = entry.metadata()?;
        if about.is_file() && about.len() <= MAX_TEXT {
            let text = String::from_utf8_lossy(&fs::read(entry.path())?).replace("\r\n", "\n");
            found.insert(name, text.trim().to_owned());
        }
    }
    Ok(found.into_values().filter(|text| !text.is_empty()).collect())
}

/// The licences of all crates in a program: a list, then each text once, with those that it is of.
///
/// A crate of a workspace that left its texts in another one of it has those.
///
/// # Errors
/// When a crate has no licence or no text of it, or its sources are not there.
pub fn licences(program: &str, used: &[&Crate]) -> Result<String> {
    let mut list = format!("{program} is built from these crates:\n\n");
    let mut of_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for one in used {
        let Some(licence) = &one.license else { bail!("{} {} names no licence", one.name, one.version) };
        let from = one.repository.as_deref().unwrap_or_default();
        let _ = writeln!(list, "{:<32} {:<14} {licence}  {from}", one.name, one.version);
        let mut own = texts(one)?;
        if own.is_empty() {
            let kin = used.iter().filter(|other| one.repository.is_some() && other.repository == one.repository);
            own = kin
                .map(|kin| texts(kin))
                .find(|texts| !matches!(texts, Ok(texts) if texts.is_empty()))
                .unwrap_or(Ok(own))?;
        }
        if own.is_empty() {
            bail!("the sources of {} {} have no text of its licence, {licence}", one.name, one.version);
        }
        for text in own {
            let whose = of_text.entry(text.clone()).or_default();
            if whose.is_empty() {
                order.push(text);
            }
            whose.insert(format!("{} {}", one.name, one.version));
        }
    }
    for text in order {
        let whose: Vec<&str> = of_text.get(&text).into_iter().flatten().map(String::as_str).collect();
        let _ = write!(list, "\n{}\n{}\n\n{text}\n", "=".repeat(78), whose.join(", "));
    }
    Ok(list)
}

/// The bill of materials: CycloneDX 1.5. It carries no serial number and no time of its own, so that the same
/// sources give the same bytes.
#[must_use]
pub fn bill(program: &str, edition: &Edition, used: &[&Crate]) -> Value {
    let purl = |name: &str, version: &str| format!("pkg:cargo/{name}@{version}");
    let components: Vec<Value> = used
        .iter()
        .map(|one| {
            let reference = purl(&one.name, &one.version);
            let mut component = json!({
                "type": "library", "bom-ref": reference, "name": one.name, "version": one.version, "purl": reference,
                "scope": "required",
            });
            if let Some(map) = component.as_object_mut() {
                if let Some(licence) = &one.license {
                    // Old manifests write MIT/Apache-2.0 where SPDX has "or".
                    map.insert("licenses".into(), json!([{ "expression": licence.replace('/', " OR ") }]));
                }
                if let Some(sum) = &one.checksum {
                    map.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": sum }]));
                }
                if let Some(url) = &one.repository {
                    map.insert("externalReferences".into(), json!([{ "type": "vcs", "url": url }]));
                }
            }
            component
        })
        .collect();
    let own = purl(program, &edition.version);
    let all: Vec<String> = used.iter().map(|one| purl(&one.name, &one.version)).collect();
    json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": format!("{}T00:00:00Z", edition.date),
            "component": {
                "type": "application", "bom-ref": own, "name": program, "version": edition.version,
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components,
        "dependencies": [{ "ref": own, "dependsOn": all }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_has_a_text_of_its_licence() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let known = Known::ask(&root).unwrap();
        let line = "=".repeat(78);
        for program in ["rollcall-agent", "rollcall-collector"] {
            let used = known.used_by(&root, program).unwrap();
            let list = licences(program, &used).unwrap();
            for one in used {
                let name = format!("{} {}", one.name, one.version);
                // Once in a heading above a text, which crates of one workspace may share.
                let mut heads = list.split(&line).skip(1).filter_map(|part| part.trim_start().lines().next());
                let named = heads.any(|head| head.split(", ").any(|whose| whose == name));
                assert!(named, "{name} has no text in {program}'s licences");
            }
        }
    }
}
