//! An issuer's key set: which keys of it are of use, and whether a signature holds.
//!
//! The algorithm is the key's. Where a key names none, its family allows what this collector allows for it;
//! what a token's header says can only agree, never choose. Keys for encryption, symmetric keys and weak ones
//! are passed over, so that one odd key does not spoil a set.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::jwt::{Flaw, Unproven};

/// Most keys of a set.
const MAX_KEYS: usize = 64;
/// Longest name of a key, in bytes.
const MAX_KID: usize = 256;
/// Shortest RSA modulus, in bits.
const MIN_RSA_BITS: usize = 2048;
/// Longest one: more only costs the verifier.
const MAX_RSA_BITS: usize = 8192;

struct Key {
    kid: Option<String>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// The keys of an issuer that are of use.
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Reads a key set.
    ///
    /// # Errors
    /// What is wrong with it: no set, too large, or nothing of use in it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let document: Value = serde_json::from_slice(bytes).map_err(|_| "it is no JSON")?;
        let all = document.get("keys").and_then(Value::as_array).ok_or("it has no list of keys")?;
        if all.len() > MAX_KEYS {
            return Err("it has too many keys");
        }
        let keys: Vec<Key> = all.iter().filter_map(usable).collect();
        if keys.is_empty() {
            Err("none of its keys is of use: RS256, PS256, ES256 and EdDSA are")
        } else {
            Ok(Self(keys))
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a token names one of these keys. One that names none fits a set of one key.
    pub(super) fn knows(&self, token: &Unproven<'_>) -> bool {
        self.candidates(token).next().is_some()
    }

    /// Proves a token.
    pub(super) fn prove(&self, token: &Unproven<'_>) -> Result<(), Flaw> {
        let mut flaw = Flaw::Key;
        for key in self.candidates(token) {
            let Some(algorithm) = key.algorithms.iter().find(|algorithm| word(**algorithm) == token.alg) else {
                flaw = Flaw::Algorithm;
                continue;
            };
            match jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.key, *algorithm) {
                Ok(true) => return Ok(()),
                Ok(false) | Err(_) => flaw = Flaw::Signature,
            }
        }
        Err(flaw)
    }

    fn candidates<'a>(&'a self, token: &'a Unproven<'_>) -> impl Iterator<Item = &'a Key> {
        let only = self.0.len() == 1;
        self.0.iter().filter(move |key| match &token.kid {
            Some(kid) => key.kid.as_ref() == Some(kid),
            None => only,
        })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what the crate learns later is not allowed here either")]
fn usable(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature)
        || common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify))
        || common.key_id.as_ref().is_some_and(|kid| kid.len() > MAX_KID)
    {
        return None;
    }
    let family: &'static [Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits(&rsa.n)?) => {
            &[Algorithm::RS256, Algorithm::PS256]
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        // Others, weak ones, and symmetric ones, which no published set may hold.
        _ => return None,
    };
    let named: Option<&'static [Algorithm]> = match common.key_algorithm {
        None => Some(family),
        Some(KeyAlgorithm::RS256) => Some(&[Algorithm::RS256]),
        Some(KeyAlgorithm::PS256) => Some(&[Algorithm::PS256]),
        Some(KeyAlgorithm::ES256) => Some(&[Algorithm::ES256]),
        Some(KeyAlgorithm::EdDSA) => Some(&[Algorithm::EdDSA]),
        Some(_) => None,
    };
    let algorithms = named.filter(|named| named.iter().all(|algorithm| family.contains(algorithm)))?;
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { kid: common.key_id.clone(), algorithms, key })
}

/// The length of a modulus, leading zeros left out.
fn bits(modulus: &str) -> Option<usize> {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(modulus.as_bytes()).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let zeros = usize::try_from(bytes.get(first)?.leading_zeros()).ok()?;
    Some((bytes.len() - first) * 8 - zeros)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not allowed has no word")]
fn word(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::PS256 => "PS256",
        Algorithm::ES256 => "ES256",
        Algorithm::EdDSA => "EdDSA",
        _ => "",
    }
}
