//! Certificate requests, honest and hostile (C1 to C4), and proofs of possession (C5).

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use data_encoding::BASE64;
use proptest::prelude::*;
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData as _, SanType};
use rollcall_common::{identity::Pin, wire::proof_message};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::*;
use crate::ca::{CsrError, MAX_CSR, verify_proof};

/// Requests that OpenSSL made; each is well formed and correctly signed by its key.
const FOREIGN: [(&str, &str); 5] = [
    (
        "RSA-1024",
        "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDFBxJ/A5pJl/V12dxRdbNNgQVw+Ohdw4JCaNEqCUw0gjhhgcZ03JRF\
         YUkyPG5Pqs00ymzPk/rb8pThYFEPfbUn8fWQsF6l6Cof7dj+B6IDS0gxwifBMbJMb2VC+OH3Eg4pTc4snJcAkmuSrBBzLmAhRY7pupj0T/Vh\
         WIXXxoKX0wIDAQABoAAwDQYJKoZIhvcNAQELBQADgYEAiM9mmZStMjbaOoy5kXyFXDQStxsBg3tdCkI/pItOVVRnimn5dgEWqgZC2Rd2K7Xs\
         j4hASi/YslWi/cT/SY8XLYIYOAqFdOvDNIyxPfMq/+gA1N/jM+m4/KJM2VvBaLsQiFr7Qo5QCRj6HJRJYtASVVUYRJHhkyd4JDJjKicGwjw=",
    ),
    (
        "secp256k1",
        "MIG3MF8CAQAwADBWMBAGByqGSM49AgEGBSuBBAAKA0IABElcrYeNe9jsyhpWiDXbac+y5nqbLjzyhSfc0z2Y6aRGN5z0AaKhj7ksr+jI6pcM\
         zs/slLkzEYm54oYZNyAh/XWgADAKBggqhkjOPQQDAgNIADBFAiADZTceMhb/DxavytU3VKCN+HBklFeejF40HWv8lX0o2AIhAPcCnBJd22+I\
         Uiab8yuQ6uvS+9Wa8Q9j/GBhZTzaVImK",
    ),
    (
        "P-384 signed with SHA-256, as a P-256 key would",
        "MIH3MH8CAQAwADB2MBAGByqGSM49AgEGBSuBBAAiA2IABL17TGQuLk+X+1u0462/M9+gfotYkgb2EwFfZviWKNUTY3uEm0b21Y6ZhCBNsAMn\
         WNgHo087QMggScvWvNBZUgpU31wPlWZM0WKdqPoxeFOLMBAFnFVmt41YOiXUcwLLfKAAMAoGCCqGSM49BAMCA2gAMGUCMCtPlfO/Eo9WFPpU\
         +mQQYISKECuac6C9jxUe//QxC4dfIn9zpsGawVHT1uE4Uy14eAIxAOsJ1MQJeHTLFrqxYw1Ya/gfy4uqSTJiInfyAD9imRbBN2qDgltgrQrx\
         bFyGkhNS/g==",
    ),
    (
        "P-256 with a compressed point",
        "MIGaMEICAQAwADA5MBMGByqGSM49AgEGCCqGSM49AwEHAyIAAr5hCXMqfGhcJoCyDNFm+HonpoFJ9Ozwep1e1d13k9TfoAAwCgYIKoZIzj0E\
         AwIDSAAwRQIgYLF89kYjy+831UAC+XBzQEbBQT2Tetmp00a2FLoQycgCIQCkdCJT3zgBL9GsmvWg+lj61jjeJUKglVJYLKm6sm7+Hw==",
    ),
    (
        "P-256 with spelled-out parameters",
        "MIIBsDCCAVYCAQAwADCCAUswggEDBgcqhkjOPQIBMIH3AgEBMCwGByqGSM49AQECIQD/////AAAAAQAAAAAAAAAAAAAAAP//////////////\
         /zBbBCD/////AAAAAQAAAAAAAAAAAAAAAP///////////////AQgWsY12Ko6k+ez671VdpiGvGUdBrDMU7D2O848PifSYEsDFQDEnTYIhucE\
         k2pmeOETnSa3gZ9+kARBBGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfUC\
         IQD/////AAAAAP//////////vOb6racXnoTzucrC/GMlUQIBAQNCAAQJVzBzR+Zgt+r3Kf3wEn4r4uQWvtWjhYFR26iacfmOXawRwHaZopvZ\
         qve0eRVSs8GkTNjjk8zyRDDLQC4abp9YoAAwCgYIKoZIzj0EAwIDSAAwRQIhAP4/q1VhiKIT2yZgfMuwzFTrojcJDCJptppgOKQ+z3/2AiBM\
         k2MAfDE6xzwpEZMpHoqrDaAKLIRI2a18nJ4FLEAUXg==",
    ),
];

#[test]
fn an_honest_request_yields_its_key() {
    let key = new_key();
    let proven = Ca::read_csr(&honest_csr(&key)).unwrap();
    assert_eq!(proven.spki(), key.subject_public_key_info());
    assert_eq!(proven.key(), Pin::of_spki(&key.subject_public_key_info()));
    // What rcgen will put into the certificate is the very key that was proven.
    assert_eq!(proven.subject_public_key_info(), proven.spki());
}

#[test]
fn only_p256_keys_pass() {
    for (what, text) in FOREIGN {
        let der = BASE64.decode(text.as_bytes()).unwrap();
        assert_eq!(Ca::read_csr(&der), Err(CsrError::KeyType), "{what}");
    }
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ED25519] {
        let der = honest_csr(&KeyPair::generate_for(algorithm).unwrap());
        assert_eq!(Ca::read_csr(&der), Err(CsrError::KeyType), "{algorithm:?}");
    }
    let der = honest_csr(&KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap());
    assert_eq!(Ca::read_csr(&der), Err(CsrError::KeyType));
}

#[test]
fn size_remainder_and_signature_are_checked() {
    let der = honest_csr(&new_key());
    for size in [MAX_CSR + 1, 1 << 20] {
        assert_eq!(Ca::read_csr(&vec![0x30; size]), Err(CsrError::TooLarge));
    }
    assert_eq!(Ca::read_csr(&[]), Err(CsrError::Malformed));
    assert_eq!(Ca::read_csr(&der[..der.len() - 1]), Err(CsrError::Malformed));
    assert_eq!(Ca::read_csr(&[der.as_slice(), &[0]].concat()), Err(CsrError::TrailingBytes));
    let mut tampered = der.clone();
    *tampered.last_mut().unwrap() ^= 1;
    assert_eq!(Ca::read_csr(&tampered), Err(CsrError::Signature));
    // Another's key under one's own signature.
    let victim = new_key().subject_public_key_info();
    let mine = Ca::read_csr(&der).unwrap();
    let at = der.windows(mine.spki().len()).position(|window| window == mine.spki()).unwrap();
    let mut stolen = der.clone();
    stolen[at..at + victim.len()].copy_from_slice(&victim);
    assert_eq!(Ca::read_csr(&stolen), Err(CsrError::Signature));
}

#[test]
fn wishes_in_a_request_are_not_heard() {
    let world = World::new();
    let ca = world.open();
    let key = new_key();
    let mut wishes = CertificateParams::default();
    wishes.distinguished_name.push(DnType::CommonName, "spiffe://fleet.example/collector/main");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    wishes.subject_alt_names = vec![
        SanType::URI("spiffe://fleet.example/collector/main".try_into().unwrap()),
        SanType::DnsName("collector.rollcall.invalid".try_into().unwrap()),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
    ];
    let der = wishes.serialize_request(&key).unwrap().der().to_vec();
    let issued = ca.issue(&poller(), &Ca::read_csr(&der).unwrap(), Generation(1)).unwrap();
    let (_, wished) = X509Certificate::from_der(&issued.chain[0].0).unwrap();
    let plain = ca.issue(&poller(), &Ca::read_csr(&honest_csr(&key)).unwrap(), Generation(1)).unwrap();
    let (_, plain) = X509Certificate::from_der(&plain.chain[0].0).unwrap();
    // Extension by extension, byte by byte, it is what the same key gets that wished for nothing.
    let extensions = |cert: &X509Certificate<'_>| -> Vec<(String, bool, Vec<u8>)> {
        cert.extensions().iter().map(|e| (e.oid.to_string(), e.critical, e.value.to_vec())).collect()
    };
    assert_eq!(extensions(&wished), extensions(&plain));
    assert_eq!(wished.subject().as_raw(), plain.subject().as_raw());
    assert!(!wished.is_ca());
}

#[test]
fn the_cas_own_keys_are_never_certified() {
    let world = World::new();
    let ca = world.open();
    for (name, file) in [("root", "root.key"), ("intermediate", "intermediate.pem")] {
        let pem = std::fs::read_to_string(world.file(file)).unwrap();
        let key = KeyPair::from_pem(&pem).unwrap();
        let csr = Ca::read_csr(&honest_csr(&key)).unwrap();
        assert!(ca.is_own_key(&csr.key()), "{name}");
        assert!(matches!(ca.issue(&poller(), &csr, Generation(1)), Err(CaError::OwnKey)), "{name}");
    }
    assert!(!ca.is_own_key(&Ca::read_csr(&honest_csr(&new_key())).unwrap().key()));
}

#[test]
fn a_proof_holds_for_one_key_one_channel_and_one_request() {
    let key = new_key();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
    let spki = key.subject_public_key_info();
    let (here, elsewhere) = ([7; 32], [8; 32]);
    let csr = honest_csr(&key);
    let proof = signer.sign(&SystemRandom::new(), &proof_message(&here, &csr)).unwrap();
    let proof = proof.as_ref();
    assert!(verify_proof(&spki, &here, &csr, proof));
    assert!(!verify_proof(&spki, &elsewhere, &csr, proof), "relayed to another connection");
    assert!(!verify_proof(&spki, &here, &honest_csr(&new_key()), proof), "another request");
    assert!(!verify_proof(&new_key().subject_public_key_info(), &here, &csr, proof), "another key");
    assert!(!verify_proof(&spki, &here, &csr, &proof[1..]));
    assert!(!verify_proof(&spki, &here, &csr, &[]));
    assert!(!verify_proof(&spki[1..], &here, &csr, proof));
    assert!(!verify_proof(&[], &here, &csr, proof));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Ca::read_csr(&bytes).is_err());
        prop_assert!(!verify_proof(&bytes, &[0; 32], &bytes, &bytes));
    }

    /// The signature covers names, key and attributes; around it the parser is lenient, which gives nobody
    /// another key.
    #[test]
    fn a_flipped_bit_never_yields_another_key(bit in 0usize..8, at in any::<prop::sample::Index>()) {
        let key = new_key();
        let mut der = honest_csr(&key);
        // The outer header takes three bytes, the header of the signed part two.
        let signed = 3..5 + usize::from(der[4]);
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        let read = Ca::read_csr(&der);
        if signed.contains(&at) {
            prop_assert!(read.is_err(), "byte {at}, bit {bit}");
        } else if let Ok(proven) = read {
            prop_assert_eq!(proven.spki(), key.subject_public_key_info(), "byte {}, bit {}", at, bit);
        }
    }
}
