//! The ordinary tests' half of the fuzzer: hands each kept input to the decoder that it was found for, on the
//! stable toolchain. `tests/corpus.rs` of each crate with a feed includes this file; it is no part of the fuzz
//! crate, and knows no decoder.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a target does with its bytes.
type Feed = fn(&[u8]);

/// The fuzz crate, beside the crate that includes this file.
fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// One seed of a target.
pub fn seed(target: &str, name: &str) -> Vec<u8> {
    let path = fuzz().join("corpus").join(target).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Feeds every kept input, in name order; a target without any is a defect.
pub fn every_kept_input(feeds: &[(&str, Feed)]) {
    for (target, feed) in feeds {
        let folder = fuzz().join("corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
        assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
        files.sort();
        for file in files {
            let bytes = fs::read(&file).expect("a readable input");
            let outcome = std::panic::catch_unwind(|| feed(&bytes));
            assert!(outcome.is_ok(), "{} breaks the target {target}", file.display());
        }
    }
}

/// Each fuzz target of this room is in the list, and each in the list is a fuzz target.
pub fn feeds_are_targets(room: &str, feeds: &[(&str, Feed)]) {
    let mut targets = vec![];
    for entry in fs::read_dir(fuzz().join("fuzz_targets")).expect("fuzz targets") {
        let path = entry.expect("a readable folder").path();
        if fs::read_to_string(&path).expect("a readable target").contains(&format!("feeds::{room}::")) {
            targets.push(path.file_stem().expect("a name").to_string_lossy().into_owned());
        }
    }
    targets.sort_unstable();
    let mut fed: Vec<_> = feeds.iter().map(|(name, _)| *name).collect();
    fed.sort_unstable();
    assert_eq!(fed, targets, "feeds and targets differ");
}
