//! Replays what the fuzzer kept: each input of `fuzz/corpus/` goes to the decoder that it was found for,
//! on the stable toolchain, in every run of the tests. What must hold is written down once, in the file
//! that the fuzz targets use.
#![expect(clippy::expect_used, clippy::panic, reason = "a test's own preparation fails loudly")]

#[expect(unreachable_pub, reason = "the fuzz crate includes this file as a public module")]
#[path = "../../fuzz/src/feeds/common.rs"]
mod feeds;
#[expect(unreachable_pub, reason = "it is written for more than one test")]
#[path = "../../fuzz/src/replay.rs"]
mod replay;

use replay::seed;

#[test]
fn every_kept_input_is_digested() {
    replay::every_kept_input(feeds::ALL);
}

#[test]
fn every_target_is_replayed() {
    replay::feeds_are_targets("common", feeds::ALL);
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
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert!(decode::<Up>(&seed("up", "seed-enroll-body")).is_ok());
    assert!(decode::<Down>(&seed("down", "seed-enrolled-body")).is_ok());
    assert!(text(seed("token", "seed-token")).parse::<Token>().is_ok());
    assert!(PeerCert::read(&seed("certificate", "seed-sidecar").into()).is_ok());
    assert!(text(seed("address", "seed-1")).parse::<Address>().is_ok());
}
