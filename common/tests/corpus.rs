//! Replays what the fuzzer kept: each input of `fuzz/corpus/` goes to the decoder that it was found for,
//! on the stable toolchain, in every run of the tests. What must hold is written down once, in the file
//! that the fuzz targets use.
#![expect(clippy::expect_used, clippy::panic, reason = "a test's own preparation fails loudly")]

#[expect(unreachable_pub, reason = "the fuzz crate includes this file as a public module")]
#[path = "../../fuzz/src/feeds/common.rs"]
mod feeds;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The kept inputs of one target, in name order.
fn corpus_of(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_is_digested() {
    for (target, feed) in feeds::ALL {
        let files = corpus_of(target);
        assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
        for file in files {
            let bytes = fs::read(&file).expect("a readable input");
            let outcome = std::panic::catch_unwind(|| feed(&bytes));
            assert!(outcome.is_ok(), "{} breaks the target {target}", file.display());
        }
    }
}

/// Each fuzz target of this crate is in the list, and each in the list is a fuzz target.
#[test]
fn every_target_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut targets = vec![];
    for entry in fs::read_dir(folder).expect("fuzz targets") {
        let path = entry.expect("a readable folder").path();
        if fs::read_to_string(&path).expect("a readable target").contains("feeds::common::") {
            targets.push(path.file_stem().expect("a name").to_string_lossy().into_owned());
        }
    }
    targets.sort_unstable();
    let mut fed: Vec<_> = feeds::ALL.iter().map(|(name, _)| *name).collect();
    fed.sort_unstable();
    assert_eq!(fed, targets, "feeds and targets differ");
}

/// The replay means something only while honest inputs get past the first check of each decoder.
#[test]
fn honest_seeds_are_accepted() {
    use rollcall_common::{
        address::Address,
        identity::PeerCert,
        token::Token,
        wire::{
            codec::decode,
            message::{Down, Up},
        },
    };
    let seed = |target: &str, name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target).join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert!(decode::<Up>(&seed("up", "seed-enroll-body")).is_ok());
    assert!(decode::<Down>(&seed("down", "seed-enrolled-body")).is_ok());
    assert!(text(seed("token", "seed-token")).parse::<Token>().is_ok());
    assert!(PeerCert::read(&seed("certificate", "seed-sidecar").into()).is_ok());
    assert!(text(seed("address", "seed-1")).parse::<Address>().is_ok());
}
