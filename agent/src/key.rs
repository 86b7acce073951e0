//! The sidecar's own key: made here, never sent, wiped when dropped.
//!
//! The one home of rcgen in this crate. It knows P-256 and certificate requests; it does not know what
//! a key is used for or where it is kept.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rollcall_common::{
    identity::Pin,
    wire::{EXPORTER_LEN, proof_message},
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// A P-256 key pair. `Debug` shows the pin of the public half and nothing else.
pub struct Key(Zeroizing<KeyPair>);

/// Why a key could not be made, read or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("P-256 key: {0}")]
pub struct KeyError(String);

impl From<rcgen::Error> for KeyError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

impl Key {
    /// A fresh key.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)))
    }

    /// Reads what [`Self::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// When the bytes are no P-256 key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from(der);
        Ok(Self(Zeroizing::new(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)?)))
    }

    /// The private key in PKCS#8, in a buffer that wipes itself.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// The private key as rustls wants it; rustls wipes its copy.
    #[must_use]
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// The public key: DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The pin of the public key.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of_spki(&self.public())
    }

    /// A certificate request in DER: this public key, an empty subject, nothing asked for. Who the
    /// sidecar becomes is the collector's decision.
    ///
    /// # Errors
    /// When signing fails.
    pub fn request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&*self.0)?.der().to_vec())
    }

    /// Proves possession of this key on the connection with that exporter, for that request.
    ///
    /// # Errors
    /// When signing fails.
    pub fn prove(&self, exporter: &[u8; EXPORTER_LEN], csr: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.0.sign(&proof_message(exporter, csr))?)
    }
}

/// Keeps this process from leaving a core file, which would hold its keys.
pub fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.pin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_bytes() {
        let key = Key::generate().unwrap();
        let again = Key::from_pkcs8(&key.to_pkcs8()).unwrap();
        assert_eq!(key.pin(), again.pin());
        assert!(Key::from_pkcs8(b"nonsense").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = Key::generate().unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("Key({})", key.pin()));
    }
}
