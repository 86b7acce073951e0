//! Who a peer is, proven by a certificate: SPIFFE ids, key pins, serials.
//!
//! Reads certificates through webpki only. Verification of chains lives in [`tls`]; issuing lives in the
//! collector. Identity always comes from a certificate, never from a message.

pub mod tls;

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{CollectorName, Generation, Kind, NameError, NoRandomness, ServiceKey, TrustDomain, random};

/// SHA-256 of a root's public key (DER `SubjectPublicKeyInfo`): survives a re-issued root certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a key.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;
    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

/// A text that is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is 64 hexadecimal digits")]
pub struct PinError;

/// Certificate serial: `0x01 | generation (7 bytes) | random (8 bytes)`, so that the CA signs the
/// generation without a private extension.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Serial(pub [u8; 16]);

impl Serial {
    /// Largest generation that fits.
    pub const MAX_GENERATION: u64 = (1 << 56) - 1;

    /// A fresh serial for a generation, which is capped at [`Self::MAX_GENERATION`].
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random(generation: Generation) -> Result<Self, NoRandomness> {
        let tagged = (1u64 << 56) | generation.0.min(Self::MAX_GENERATION);
        let chance: [u8; 8] = random()?;
        Ok(Self((u128::from(tagged) << 64 | u128::from(u64::from_be_bytes(chance))).to_be_bytes()))
    }

    /// The generation inside.
    #[must_use]
    pub fn generation(&self) -> Generation {
        let high = u64::try_from(u128::from_be_bytes(self.0) >> 64).unwrap_or(0);
        Generation(high & Self::MAX_GENERATION)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whom a SPIFFE id names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// A service: `spiffe://<trust domain>/<kind>/<id>`.
    Service(ServiceKey),
    /// A collector: `spiffe://<trust domain>/collector/<name>`.
    Collector(CollectorName),
}

/// A SPIFFE id of this deployment's form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerId {
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// The party within it.
    pub party: Party,
}

/// Why a text is no SPIFFE id of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdError {
    /// Not `spiffe://<trust domain>/<kind>/<id>`.
    #[error("not of the form spiffe://<trust domain>/<kind>/<id>")]
    Form,
    /// A part breaks its rule.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl PeerId {
    /// The id of a service.
    #[must_use]
    pub fn service(trust_domain: TrustDomain, key: ServiceKey) -> Self {
        Self { trust_domain, party: Party::Service(key) }
    }

    /// The id of a collector.
    #[must_use]
    pub fn collector(trust_domain: TrustDomain, name: CollectorName) -> Self {
        Self { trust_domain, party: Party::Collector(name) }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.party {
            Party::Service(key) => write!(f, "spiffe://{}/{key}", self.trust_domain),
            Party::Collector(name) => write!(f, "spiffe://{}/collector/{name}", self.trust_domain),
        }
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;
    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let rest = text.strip_prefix("spiffe://").ok_or(PeerIdError::Form)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(PeerIdError::Form)?;
        let (kind, id) = path.split_once('/').ok_or(PeerIdError::Form)?;
        let trust_domain = trust_domain.parse()?;
        let party = if kind == "collector" {
            Party::Collector(id.parse()?)
        } else {
            let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or(PeerIdError::Form)?;
            Party::Service(ServiceKey::new(kind, id.parse()?))
        };
        Ok(Self { trust_domain, party })
    }
}

/// What a verified certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCert {
    /// Whom it names.
    pub peer: PeerId,
    /// Its serial.
    pub serial: Serial,
    /// SHA-256 of its public key.
    pub key: Pin,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertError {
    /// It does not parse.
    #[error("the certificate does not parse")]
    Malformed,
    /// Not exactly one URI name, or another name beside it.
    #[error("the certificate must carry exactly one URI name and no DNS name")]
    Names,
    /// The URI is not one of ours.
    #[error("the certificate's URI name is not a Rollcall identity: {0}")]
    Id(#[from] PeerIdError),
    /// The serial is not of our form.
    #[error("the certificate's serial is not of Rollcall's form")]
    Serial,
}

impl PeerCert {
    /// Reads a certificate whose chain has been verified already.
    ///
    /// # Errors
    /// When it is not of the form that Rollcall's CA issues.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, PeerCertError> {
        let cert = webpki::EndEntityCert::try_from(der).map_err(|_| PeerCertError::Malformed)?;
        let mut uris = cert.valid_uri_names();
        let (Some(uri), None, None) = (uris.next(), uris.next(), cert.valid_dns_names().next()) else {
            return Err(PeerCertError::Names);
        };
        let peer = uri.parse()?;
        let serial: [u8; 16] = cert.serial().try_into().map_err(|_| PeerCertError::Serial)?;
        if serial.first() != Some(&1) {
            return Err(PeerCertError::Serial);
        }
        let key = Pin::of_spki(cert.subject_public_key_info().as_ref());
        Ok(Self { peer, serial: Serial(serial), key })
    }
}

/// The pin of the key inside a certificate; `None` where it does not parse.
#[must_use]
pub fn pin_of(der: &CertificateDer<'_>) -> Option<Pin> {
    let cert = webpki::EndEntityCert::try_from(der).ok()?;
    Some(Pin::of_spki(cert.subject_public_key_info().as_ref()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_tricks() {
        for good in ["spiffe://fleet.example/poller/p1", "spiffe://a/collector/main", "spiffe://a/checker/x.y"] {
            assert_eq!(good.parse::<PeerId>().map(|id| id.to_string()), Ok(good.into()));
        }
        for bad in [
            "spiffe://a/poller/../x",
            "spiffe://a/poller/x/y",
            "spiffe://a/pollers/x",
            "spiffe://A/poller/x",
            "https://a/poller/x",
            "spiffe://a/poller/",
            "spiffe:///poller/x",
            "spiffe://a/robot/x",
            "spiffe://a/poller/x?y",
            "spiffe://a/poller/%2e%2e",
        ] {
            assert!(bad.parse::<PeerId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn serials_carry_their_generation(generation in 0..Serial::MAX_GENERATION) {
            let serial = Serial::random(Generation(generation)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(serial.generation(), Generation(generation));
            prop_assert_eq!(serial.0[0], 1);
        }

        #[test]
        fn hostile_certificates_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let der = CertificateDer::from(bytes);
            let _ = PeerCert::read(&der);
            let _ = pin_of(&der);
        }
    }
}
