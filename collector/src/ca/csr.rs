//! What a certificate request proves: that its sender holds one P-256 key. Nothing else of it is read.
//!
//! A request may ask for a CA certificate, for the collector's name or for any purpose; none of that is
//! copied, because only the public key leaves this module.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rollcall_common::{
    identity::Pin,
    wire::{EXPORTER_LEN, proof_message},
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

/// Largest request that is looked at, in bytes; an honest one takes about 200.
pub const MAX_CSR: usize = 2 * 1024;

/// How every P-256 `SubjectPublicKeyInfo` begins; the uncompressed point follows. DER leaves no other spelling.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed P-256 point, in bytes.
const POINT_LEN: usize = 65;

/// Why a request does not pass. The sender hears one code for all of them, `CSR_INVALID`; the reason is for
/// the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Over [`MAX_CSR`].
    #[error("the certificate request is larger than {MAX_CSR} bytes")]
    TooLarge,
    /// Not a PKCS#10 request.
    #[error("the certificate request does not parse")]
    Malformed,
    /// Something follows the request.
    #[error("bytes follow the certificate request")]
    TrailingBytes,
    /// Not an uncompressed P-256 key.
    #[error("the certificate request is not for an ECDSA P-256 key")]
    KeyType,
    /// It was not signed by its own key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

/// A public key whose holder signed a request for it. A value of this type is the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenCsr {
    spki: Vec<u8>,
    key: Pin,
}

impl ProvenCsr {
    /// Reads a request in DER.
    ///
    /// # Errors
    /// [`CsrError`], in the order of the checks: the cheap ones first.
    pub(super) fn read(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR {
            return Err(CsrError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::TrailingBytes);
        }
        let spki = request.certification_request_info.subject_pki.raw;
        point_of(spki).ok_or(CsrError::KeyType)?;
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self { spki: spki.to_vec(), key: Pin::of_spki(spki) })
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki`].
    #[must_use]
    pub fn key(&self) -> Pin {
        self.key
    }
}

impl PublicKeyData for ProvenCsr {
    fn der_bytes(&self) -> &[u8] {
        point_of(&self.spki).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Whether `proof` is the signature by the key in `spki` over this connection's exporter and this request:
/// fresh possession, bound to the channel. For enrollment `spki` is the request's own key, for rejoin the
/// key that is bound already.
#[must_use]
pub fn verify_proof(spki: &[u8], exporter: &[u8; EXPORTER_LEN], csr: &[u8], proof: &[u8]) -> bool {
    point_of(spki).is_some_and(|point| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&proof_message(exporter, csr), proof).is_ok()
    })
}

/// The uncompressed point of a P-256 key.
fn point_of(spki: &[u8]) -> Option<&[u8]> {
    let point = spki.strip_prefix(&SPKI_PREFIX)?;
    (point.len() == POINT_LEN && point.first() == Some(&4)).then_some(point)
}
