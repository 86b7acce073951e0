//! Replays what the fuzzer kept: each input of `fuzz/corpus/` goes to the decoder that it was found for,
//! on the stable toolchain, in every run of the tests. What must hold is written down once, in the file
//! that the fuzz targets use.
#![expect(clippy::expect_used, clippy::panic, reason = "a test's own preparation fails loudly")]

#[expect(unreachable_pub, reason = "the fuzz crate includes this file as a public module")]
#[path = "../../fuzz/src/feeds/collector.rs"]
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
    replay::feeds_are_targets("collector", feeds::ALL);
}

/// The replay means something only while honest inputs are taken, and the others fall where they should.
#[test]
fn honest_seeds_are_accepted() {
    use rollcall_collector::{
        ca::{Ca, CsrError},
        cidr::Cidr,
    };
    let csr = |name: &str| Ca::read_csr(&seed("csr", name)).map(drop);
    assert_eq!(csr("seed-honest"), Ok(()));
    assert_eq!(csr("seed-greedy"), Ok(()), "what a request asks for is not looked at");
    assert_eq!(csr("seed-forged"), Err(CsrError::Signature));
    assert_eq!(csr("seed-p384"), Err(CsrError::KeyType));
    assert_eq!(csr("seed-ed25519"), Err(CsrError::KeyType));
    use rollcall_collector::{cli::items_of_manifest, http::feeds, logincode::LoginCode};
    let text = |target: &str, name: &str| String::from_utf8(seed(target, name)).expect("UTF-8");
    assert!(feeds::query(&text("selection", "seed-0")) && feeds::query(&text("selection", "seed-2")));
    assert!(!feeds::query(&text("selection", "seed-3")), "beyond the largest page");
    assert_eq!(feeds::items(&seed("manifest", "seed-0")), 4, "two items, either way");
    assert_eq!(items_of_manifest(&text("manifest", "seed-4")), Some(2));
    assert!(text("login", "seed-1").parse::<LoginCode>().is_ok());
    assert!(feeds::token(&text("jwt", "seed-0")) && !feeds::token(&text("jwt", "seed-2")));
    let cidr = |name: &str| String::from_utf8(seed("cidr", name)).expect("UTF-8").parse::<Cidr>();
    assert!(cidr("seed-0").is_ok());
    assert!(cidr("seed-6").is_err());
}
