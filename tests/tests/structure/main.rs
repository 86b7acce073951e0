//! The house's plan, held by a machine: who may depend on whom, where each foreign crate lives, and the
//! habits that neither rustc nor clippy can see. Each rule is a function of one file and answers with
//! sentences; modules that do not exist yet break nothing. Every rule is shown to bite.
#![expect(clippy::expect_used, reason = "a test's own preparation fails loudly")]

mod manifests;
mod rules;
mod source;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use source::Source;

/// The four crates, in the order of who may know whom.
const MEMBERS: [&str; 4] = ["common", "agent", "collector", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this crate").to_path_buf()
}

/// Every Rust file of the members, read once.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut found = vec![];
    for member in MEMBERS {
        for folder in ["src", "tests", "benches", "examples"] {
            collect(&root().join(member).join(folder), &mut found);
        }
        assert!(found.iter().any(|path| path.starts_with(root().join(member))), "{member} has no source");
    }
    found.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable source");
        let name = path.strip_prefix(root()).expect("a path below the root").to_string_lossy().into_owned();
        Source::new(name, &text)
    };
    let sources: Vec<_> = found.into_iter().map(read).collect();
    let for_tests: Vec<_> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    sources.into_iter().map(|source| source.declared_by(&for_tests)).collect()
});

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} rule(s) of the house are broken:\n  {}", broken.len(), broken.join("\n  "));
}

fn assert_kept(rule: fn(&Source) -> Vec<String>) {
    assert_none(&SOURCES.iter().flat_map(rule).collect::<Vec<_>>());
}

#[test]
fn manifests_depend_in_one_direction_and_on_one_version_table() {
    let broken: Vec<_> = MEMBERS
        .into_iter()
        .flat_map(|member| {
            let path = root().join(member).join("Cargo.toml");
            manifests::broken_rules(member, &std::fs::read_to_string(path).expect("a manifest"))
        })
        .collect();
    assert_none(&broken);
}

#[test]
fn sidecar_and_collector_never_meet() {
    assert_kept(rules::borders);
}

#[test]
fn each_foreign_crate_has_one_home() {
    assert_kept(rules::homes);
}

#[test]
fn common_touches_no_socket_no_task_and_no_file() {
    assert_kept(rules::purity);
}

#[test]
fn the_collectors_parts_look_one_way() {
    assert_kept(rules::layers);
}

#[test]
fn no_test_sleeps_and_hopes() {
    assert_kept(rules::sleeps);
}

#[test]
fn exceptions_are_expected_and_give_a_reason() {
    assert_kept(rules::exceptions);
}

#[test]
fn each_file_is_one_room_with_a_sign_on_its_door() {
    assert_kept(rules::rooms);
}
