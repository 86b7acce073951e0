//! Identities for tests, from an authority made on the spot.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rollcall_common::{
    id::Generation,
    identity::Serial,
    time::Timestamp,
    wire::message::{Bytes, Renewed},
};

use super::Identity;
use crate::key::Key;

/// What an authority grants to the holder of a key.
pub(crate) fn granted(key: &Key, service: &str, generation: u64) -> Renewed {
    let authority = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let bundle = vec![Bytes(root.self_signed(&authority).unwrap().der().to_vec())];
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.serial_number = Some(SerialNumber::from_slice(&Serial::random(Generation(generation)).unwrap().0));
    leaf.subject_alt_names = vec![SanType::URI(format!("spiffe://fleet.test/{service}").try_into().unwrap())];
    let public = SubjectPublicKeyInfo::from_der(&key.public()).unwrap();
    let leaf = leaf.signed_by(&public, &Issuer::new(root, authority)).unwrap();
    Renewed {
        chain: vec![Bytes(leaf.der().to_vec())],
        bundle,
        bundle_revision: 1,
        generation: Generation(generation),
        not_after: Timestamp::from_secs(4_000_000_000),
        renew_at: Timestamp::from_secs(3_000_000_000),
    }
}

/// An identity of that service and generation.
pub(crate) fn identity(key: Key, service: &str, generation: u64) -> Identity {
    let granted = granted(&key, service, generation);
    Identity::new(Arc::new(key), granted).unwrap()
}
