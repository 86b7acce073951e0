//! Every decoder of outside bytes in `common`: what a fuzz target does with its bytes, and what must hold
//! of whatever a decoder lets through. `common/tests/corpus.rs` includes this very file to replay what the
//! fuzzer kept.
//!
//! Refusing is always allowed, a panic never. Accepting comes with a duty: what was accepted stays within
//! its bounds, and prints or encodes to something that reads the same again.

use data_encoding::BASE32_NOPAD;
use rollcall_common::{
    address::Address,
    id::ServiceKey,
    identity::{PeerCert, PeerId, pin_of},
    log::masked,
    service::{MAX_KEY, MAX_PAIRS, MAX_VALUE, Pairs, is_printable},
    token::{Credential, MAX_ADDRESSES, Token},
    wire::{
        MAX_FRAME,
        codec::{Deframer, FrameError, decode, encode},
        message::{Down, Up},
    },
};
use rustls::pki_types::CertificateDer;
use serde::{Serialize, de::DeserializeOwned};

/// What a target does with its bytes.
pub type Feed = fn(&[u8]);

/// Every feed by the name of its target.
pub const ALL: &[(&str, Feed)] = &[
    ("up", up),
    ("down", down),
    ("token", token),
    ("credential", credential),
    ("certificate", certificate),
    ("address", address),
    ("pairs", pairs),
    ("mask", mask),
];

/// What a collector reads from a stream.
pub fn up(data: &[u8]) {
    body::<Up>(data);
    stream::<Up>(data);
}

/// What a sidecar reads from a stream.
pub fn down(data: &[u8]) {
    body::<Down>(data);
    stream::<Down>(data);
}

/// What decodes encodes to something that decodes to the same.
fn body<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(message) = decode::<T>(data) else { return };
    // A short spelling of an address grows by its port, so that a full frame may not fit again.
    let Ok(bytes) = encode(&message) else { return };
    assert!(bytes.len() <= MAX_FRAME + 4, "a frame over the limit was encoded");
    let again: Result<T, FrameError> = decode(bytes.get(4..).unwrap_or_default());
    assert!(again.is_ok_and(|again| encode(&again) == Ok(bytes)), "an accepted message reads as another one");
}

/// However a stream is cut, it holds the same messages and ends in the same way.
fn stream<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let whole = read::<T>([data].into_iter());
    let cut = usize::from(data.first().copied().unwrap_or(0) % 9) + 1;
    assert!(whole == read::<T>(data.chunks(cut)), "a stream in pieces of {cut} reads otherwise than whole");
}

#[derive(PartialEq)]
struct Read {
    messages: Vec<Result<Vec<u8>, FrameError>>,
    error: Option<FrameError>,
    is_partial: bool,
}

fn read<'a, T: Serialize + DeserializeOwned>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut frames = Deframer::default();
    let mut messages = vec![];
    for piece in pieces {
        frames.push(piece);
        loop {
            match frames.next_message::<T>() {
                Ok(Some(message)) => messages.push(encode(&message)),
                Ok(None) => break,
                // Beyond an error nothing of the stream is looked at, and what remains does not matter.
                Err(error) => return Read { messages, error: Some(error), is_partial: false },
            }
        }
    }
    Read { messages, error: None, is_partial: frames.is_partial() }
}

/// An onboarding token as typed, and the inside of one whose checksum holds.
pub fn token(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        token_text(text);
    }
    token_text(&sealed("rollcall_enr1_", data));
}

fn token_text(text: &str) {
    let Ok(token) = text.parse::<Token>() else { return };
    assert!((1..=MAX_ADDRESSES).contains(&token.addresses.len()), "{} addresses", token.addresses.len());
    let printed = token.reveal();
    let again = printed.parse::<Token>();
    assert!(again.is_ok_and(|again| again.reveal() == printed), "a printed token reads as another one");
}

/// An API credential as typed, and the inside of one whose checksum holds.
pub fn credential(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        credential_text(text);
    }
    for prefix in ["rollcall_adm1_", "rollcall_api1_"] {
        credential_text(&sealed(prefix, data));
    }
}

fn credential_text(text: &str) {
    let Ok(credential) = text.parse::<Credential>() else { return };
    let again = credential.reveal().parse::<Credential>();
    assert!(again.is_ok_and(|again| again.hash() == credential.hash()), "a printed credential reads as another one");
}

/// The form that both share, around bytes that need not make sense: a checksum keeps a fuzzer out otherwise.
fn sealed(prefix: &str, inside: &[u8]) -> String {
    let head = format!("{prefix}aaaaaaaaaaaaaaaa_");
    let mut crc = crc32fast::Hasher::new();
    crc.update(head.as_bytes());
    crc.update(inside);
    let blob = [inside, &crc.finalize().to_be_bytes()].concat();
    head + &BASE32_NOPAD.encode(&blob).to_ascii_lowercase()
}

/// A peer's certificate, and the name inside one.
pub fn certificate(data: &[u8]) {
    let der = CertificateDer::from(data);
    if let Ok(cert) = PeerCert::read(&der) {
        assert!(pin_of(&der) == Some(cert.key), "two readings of one key differ");
        assert!(cert.peer.to_string().parse() == Ok(cert.peer), "a certificate's name reads as another one");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(peer) = text.parse::<PeerId>() {
        assert!(peer.to_string() == text, "a SPIFFE id has a second spelling");
    }
    if let Ok(key) = text.parse::<ServiceKey>() {
        assert!(key.to_string().parse() == Ok(key), "a service's name reads as another one");
    }
}

/// Where a collector is said to be.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(address) = text.parse::<Address>() else { return };
    let printed = address.to_string();
    assert!(address.port() != 0 && !address.host().is_empty(), "{printed} leads nowhere");
    assert!(printed.len() <= 259 && is_printable(&printed), "{printed:?} would not fit a token or a log");
    assert!(printed.parse() == Ok(address), "{printed} reads as another address");
}

/// Labels and metadata.
pub fn pairs(data: &[u8]) {
    let Ok(pairs) = decode::<Pairs>(data) else { return };
    assert!(pairs.iter().count() <= MAX_PAIRS, "too many pairs");
    for (key, value) in pairs.iter() {
        assert!((1..=MAX_KEY).contains(&key.len()) && value.len() <= MAX_VALUE && is_printable(value), "{key:?}");
    }
    body::<Pairs>(data);
}

/// A text on its way into the log: no credential in it comes out, wherever it stands and whatever is around it.
pub fn mask(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let once = masked(text);
    assert!(masked(&once) == once, "what was masked holds a secret: {once:?}");
    let (half, rest) = ("bcdefghijklmnopqrstuvwxyz234567b", "cdefghijklmnopqrstuvwx");
    let at = text.floor_char_boundary(text.len() / 2);
    let (before, behind) = text.split_at(at);
    // Where a word runs on, what follows is a part of it.
    let planted = format!("{before} rollcall_api1_aaaaaaaaaaaaaaaa_{half}{rest} {behind}");
    let out = masked(&planted);
    assert!(!out.contains(half), "a credential was let out: {out:?}");
}
