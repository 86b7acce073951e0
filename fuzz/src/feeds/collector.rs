//! What the collector reads of strangers beyond the words of `common`: certificate requests, and ranges of
//! addresses. `collector/tests/corpus.rs` includes this very file to replay what the fuzzer kept.
//!
//! Refusing is always allowed, a panic never. Accepting comes with a duty: what was accepted stays within
//! its bounds, and is the same when it is read again.

use std::net::IpAddr;

use rollcall_collector::{
    ca::{Ca, MAX_CSR, verify_proof},
    cidr::Cidr,
};
use rollcall_common::{identity::Pin, wire::EXPORTER_LEN};

/// What a target does with its bytes.
pub type Feed = fn(&[u8]);

/// Every feed by the name of its target.
pub const ALL: &[(&str, Feed)] = &[("csr", csr), ("cidr", cidr)];

/// A certificate request, as it comes with an enrollment, a rejoin and a renewal, and the proof beside it.
pub fn csr(data: &[u8]) {
    let exporter = [0; EXPORTER_LEN];
    assert!(!verify_proof(data, &exporter, data, data), "bytes prove that they hold themselves");
    let Ok(request) = Ca::read_csr(data) else { return };
    assert!(data.len() <= MAX_CSR, "{} bytes were accepted", data.len());
    let spki = request.spki();
    assert!(data.windows(spki.len()).any(|part| part == spki), "the key is not of the request");
    assert!(spki.len() == 91 && request.key() == Pin::of_spki(spki), "a request for no P-256 key was accepted");
    assert!(Ca::read_csr(data) == Ok(request.clone()), "a request reads as another one");
    assert!(Ca::read_csr(&[data, &[0]].concat()).is_err(), "bytes behind a request were passed over");
    assert!(!verify_proof(spki, &exporter, data, data), "a request is the proof of its own freshness");
}

/// Where a token may be used from.
pub fn cidr(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(range) = text.parse::<Cidr>() else { return };
    let printed = range.to_string();
    assert!(printed.parse() == Ok(range), "{printed} reads as another range");
    let base = printed.split_once('/').and_then(|(base, _)| base.parse::<IpAddr>().ok());
    let inside = base.is_some_and(|base| range.contains(base));
    assert!(inside, "{printed} does not hold its own address");
}
