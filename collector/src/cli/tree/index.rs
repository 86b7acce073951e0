//! What exports wrote into a directory: who may remove what there.
//!
//! A directory can hold the parts of several pollers, written at different times by different commands. Each
//! export owns what it wrote, by deployment, scope and poller; the whole tree owns what its parts wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::super::{Exit, Failure, context::keep};

/// Where it is kept.
const FILE: &str = ".rollcall-export.json";

/// Which part of which tree an export is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Part {
    /// The deployment.
    pub(super) trust_domain: String,
    /// What the caller reached.
    pub(super) scope: String,
    /// The poller; `None` = the whole tree.
    pub(super) poller: Option<String>,
}

impl Part {
    /// Whether it takes over what the other one wrote.
    fn owns(&self, other: &Self) -> bool {
        let same = self.trust_domain == other.trust_domain && self.scope == other.scope;
        same && (self.poller.is_none() || self.poller == other.poller)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the deployment {}", self.trust_domain)
    }
}

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    exports: Vec<Export>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Export {
    part: Part,
    documents: BTreeSet<String>,
}

/// Who wrote what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index(BTreeMap<Part, BTreeSet<String>>);

impl Index {
    /// Reads it; a directory without one owes nothing to anybody.
    pub(super) fn load(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let bad = |why: String| Failure::new(Exit::Config, format!("{}: {why}", path.display()));
        match std::fs::read(&path) {
            Ok(bytes) => {
                let file: File = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
                Ok(Self(file.exports.into_iter().map(|export| (export.part, export.documents)).collect()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// Writes it.
    pub(super) fn keep(&self, dir: &Path) -> Result<(), Failure> {
        let exports =
            self.0.iter().map(|(part, documents)| Export { part: part.clone(), documents: documents.clone() });
        let mut text = serde_json::to_vec(&File { exports: exports.collect() })
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        text.push(b'\n');
        keep::public(&dir.join(FILE), &text)
    }

    /// Whether nothing of that is another deployment's.
    ///
    /// # Errors
    /// Whose it is.
    pub(super) fn free_for(&self, part: &Part, documents: &BTreeSet<String>) -> Result<(), Part> {
        let mut others = self.0.iter().filter(|(other, _)| other.trust_domain != part.trust_domain);
        match others.find(|(_, theirs)| !theirs.is_disjoint(documents)) {
            Some((whose, _)) => Err(whose.clone()),
            None => Ok(()),
        }
    }

    /// Notes what an export writes, beside what it wrote before, and answers what of that is stale: in the tree no
    /// more, and nobody else's.
    pub(super) fn take_over(&mut self, part: Part, documents: BTreeSet<String>, keep: bool) -> BTreeSet<String> {
        let mut mine = BTreeSet::new();
        let owned: Vec<Part> = self.0.keys().filter(|other| part.owns(other)).cloned().collect();
        for other in owned {
            mine.extend(self.0.remove(&other).unwrap_or_default());
        }
        let mut stale: BTreeSet<String> = mine.difference(&documents).cloned().collect();
        // The whole tree's claim is no obstacle to a part of it, which knows better.
        let obstacles = self.0.iter().filter(|(other, _)| !other.owns(&part));
        for theirs in obstacles.map(|(_, theirs)| theirs) {
            stale.retain(|path| !theirs.contains(path));
        }
        mine.retain(|path| stale.contains(path));
        mine.extend(documents);
        self.0.insert(part, mine);
        if keep { BTreeSet::new() } else { stale }
    }

    /// Forgets what was removed.
    pub(super) fn forget(&mut self, gone: &BTreeSet<String>) {
        for theirs in self.0.values_mut() {
            theirs.retain(|path| !gone.contains(path));
        }
        self.0.retain(|_, theirs| !theirs.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(trust_domain: &str, poller: Option<&str>) -> Part {
        Part { trust_domain: trust_domain.into(), scope: String::new(), poller: poller.map(str::to_owned) }
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    impl Index {
        fn export(&mut self, part: Part, all: &[&str]) -> BTreeSet<String> {
            let stale = self.take_over(part, names(all), false);
            self.forget(&stale);
            stale
        }
    }

    #[test]
    fn nobody_removes_what_another_one_wrote() {
        let mut index = Index::default();
        assert!(index.export(part("a", Some("p")), &["p", "p/x", "p/y"]).is_empty());
        assert!(index.export(part("a", Some("q")), &["q", "q/x"]).is_empty(), "the other poller's stay");
        assert!(index.export(part("b", None), &["z"]).is_empty(), "and the other deployment's");
        assert_eq!(index.export(part("a", Some("p")), &["p", "p/y"]), names(&["p/x"]));
        assert!(index.export(part("a", Some("p")), &["p", "p/y"]).is_empty(), "once");
        // The whole tree knows of its parts.
        assert_eq!(index.export(part("a", None), &["p", "q"]), names(&["p/y", "q/x"]));
        assert_eq!(index.free_for(&part("b", None), &names(&["q"])), Err(part("a", None)));
        assert_eq!(index.free_for(&part("a", Some("q")), &names(&["q"])), Ok(()));
        // A part knows better than the whole what became of its own.
        assert!(index.export(part("a", Some("q")), &["q", "q/n"]).is_empty());
        assert_eq!(index.export(part("a", Some("q")), &["q"]), names(&["q/n"]));
        assert_eq!(index.export(part("b", None), &[]), names(&["z"]));
    }

    #[test]
    fn another_scope_is_another_export() {
        let mut index = Index::default();
        index.export(part("a", None), &["p", "q"]);
        let narrow = Part { scope: "site=3".into(), ..part("a", None) };
        assert!(index.export(narrow.clone(), &["p"]).is_empty(), "what it cannot see is not gone");
        assert!(index.export(narrow, &[]).is_empty(), "somebody who sees more wrote it too");
    }

    #[test]
    fn what_is_kept_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::default();
        index.export(part("a", None), &["p", "q"]);
        assert!(index.take_over(part("a", None), names(&["p"]), true).is_empty());
        index.keep(dir.path()).unwrap();
        let mut index = Index::load(dir.path()).unwrap();
        assert_eq!(index.take_over(part("a", None), names(&["p"]), false), names(&["q"]));
        std::fs::write(dir.path().join(FILE), "rubbish").unwrap();
        assert_eq!(Index::load(dir.path()).unwrap_err().exit(), Exit::Config);
        assert_eq!(Index::load(&dir.path().join("nowhere")).unwrap(), Index::default());
    }
}
