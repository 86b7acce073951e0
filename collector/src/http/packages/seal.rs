//! A token's text under a download secret: AES-256-GCM with a key by HKDF-SHA-256.
//!
//! The key is derived when it is needed and kept nowhere. The package's id is bound to the text, so that a blob
//! put beside another package opens nothing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
};
use rollcall_common::token::PackageSecret;
use zeroize::Zeroizing;

const INFO: &[&[u8]] = &[b"rollcall package v1"];

/// The cipher did not work, or the blob is not of this secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the package's contents cannot be opened")]
pub(super) struct Damaged;

impl From<Unspecified> for Damaged {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

fn key(secret: &PackageSecret) -> Result<RandomizedNonceKey, Damaged> {
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &secret.package.0).extract(secret.expose()).expand(INFO, HKDF_SHA256)?.fill(&mut *key)?;
    Ok(RandomizedNonceKey::new(&AES_256_GCM, &*key)?)
}

/// Seals a text.
pub(super) fn seal(secret: &PackageSecret, text: &str) -> Result<Vec<u8>, Damaged> {
    let mut sealed = Zeroizing::new(text.as_bytes().to_vec());
    let nonce = key(secret)?.seal_in_place_append_tag(Aad::from(secret.package.0), &mut *sealed)?;
    let mut blob = nonce.as_ref().to_vec();
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// Opens what [`seal`] made.
pub(super) fn open(secret: &PackageSecret, blob: &[u8]) -> Result<Zeroizing<String>, Damaged> {
    let (nonce, sealed) = blob.split_at_checked(NONCE_LEN).ok_or(Damaged)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce)?;
    let text = key(secret)?.open_in_place(nonce, Aad::from(secret.package.0), &mut sealed)?;
    std::str::from_utf8(text).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| Damaged)
}

#[cfg(test)]
mod tests {
    use rollcall_common::token::TokenId;

    use super::*;

    #[test]
    fn only_its_own_secret_opens_it() {
        let secret = PackageSecret::random(TokenId([1; 10])).unwrap();
        let blob = seal(&secret, "rollcall_enr1_token").unwrap();
        assert_eq!(open(&secret, &blob).unwrap().as_str(), "rollcall_enr1_token");
        assert!(!blob.windows(8).any(|window| window == b"rollcall"));
        assert_ne!(seal(&secret, "rollcall_enr1_token").unwrap(), blob, "no nonce is used twice");
        let other = PackageSecret::random(TokenId([1; 10])).unwrap();
        assert_eq!(open(&other, &blob), Err(Damaged));
        for n in 0..blob.len() {
            let mut bent = blob.clone();
            bent[n] ^= 1;
            assert_eq!(open(&secret, &bent), Err(Damaged), "byte {n}");
            assert_eq!(open(&secret, &blob[..n]), Err(Damaged), "{n} bytes");
        }
    }
}
