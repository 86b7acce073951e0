//! A P-256 key, its certificate requests and its proofs.

use std::{fmt, sync::Arc};

use anyhow::Result;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SignatureAlgorithm,
    SigningKey as _,
};
use rollcall_common::identity::Pin;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key; cheap to clone, never printed.
#[derive(Clone)]
pub struct Key(Arc<KeyPair>);

impl Key {
    /// A new P-256 key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self> {
        Self::generate_for(&PKCS_ECDSA_P256_SHA256)
    }

    /// A new key of any algorithm.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate_for(algorithm: &'static SignatureAlgorithm) -> Result<Self> {
        Ok(Self(Arc::new(KeyPair::generate_for(algorithm)?)))
    }

    /// A key that somebody else made.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self> {
        Ok(Self(Arc::new(KeyPair::try_from(der)?)))
    }

    /// An honest request: the key and nothing else, in DER.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn csr(&self) -> Result<Vec<u8>> {
        self.wish(CertificateParams::default())
    }

    /// A request with wishes, in DER.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn wish(&self, mut wishes: CertificateParams) -> Result<Vec<u8>> {
        if wishes.distinguished_name == CertificateParams::default().distinguished_name {
            wishes.distinguished_name = DistinguishedName::new();
        }
        Ok(wishes.serialize_request(&*self.0)?.der().to_vec())
    }

    /// Signs a message: ECDSA in ASN.1 for a P-256 key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.0.sign(message)?)
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of_spki(&self.0.subject_public_key_info())
    }

    /// The key pair itself, to sign certificates with.
    #[must_use]
    pub fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// The key as rustls wants it.
    #[must_use]
    pub fn for_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.pin())
    }
}
