//! Every field of what is issued, read back by another parser, and chains as both ends verify them.

use rcgen::PublicKeyData as _;
use rollcall_common::{
    identity::{
        Party, PeerCert, PeerId, Serial, pin_of,
        tls::{DenySet, SidecarVerifier},
    },
    wire::message::Bytes,
};
use rustls::{
    CertificateError, Error as TlsError,
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier as _,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use super::*;

#[derive(Debug, Default)]
struct Denied(Vec<Serial>);

impl DenySet for Denied {
    fn denies(&self, serial: Serial) -> bool {
        self.0.contains(&serial)
    }
}

fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, cert) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    cert
}

/// Dates in seconds since the epoch.
fn dates(cert: &X509Certificate<'_>) -> (i64, i64) {
    (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp())
}

fn uris(cert: &X509Certificate<'_>) -> (bool, Vec<String>) {
    let names = cert.subject_alternative_name().unwrap().unwrap();
    let uris = names.value.general_names.iter().map(|name| {
        let GeneralName::URI(uri) = name else { panic!("{name:?}") };
        (*uri).to_owned()
    });
    (names.critical, uris.collect())
}

fn verify(ca: &Ca, denied: Denied, issued: &Issued, at: Timestamp) -> Result<(), TlsError> {
    let verifier = SidecarVerifier::new(&ca.roots(), "fleet.example".parse().unwrap(), Arc::new(denied)).unwrap();
    let chain: Vec<CertificateDer<'_>> = issued.chain.iter().map(|Bytes(der)| der.as_slice().into()).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs().try_into().unwrap()));
    verifier.verify_client_cert(&chain[0], &chain[1..], now).map(|_| ())
}

#[test]
fn every_field_of_a_leaf() {
    let world = World::new();
    let ca = world.open();
    let key = new_key();
    let csr = Ca::read_csr(&honest_csr(&key)).unwrap();
    let issued = ca.issue(&"checker/disk.1".parse().unwrap(), &csr, Generation(42)).unwrap();
    assert_eq!(issued.chain.len(), 2);
    let leaf = parse(&issued.chain[0].0);
    let intermediate = parse(&issued.chain[1].0);

    assert_eq!(leaf.subject().iter().count(), 0, "the subject is empty");
    assert_eq!(leaf.issuer().as_raw(), intermediate.subject().as_raw());
    assert_eq!(uris(&leaf), (true, vec!["spiffe://fleet.example/checker/disk.1".into()]));
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.value.path_len_constraint.is_none());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any && purposes.other.is_empty());
    assert!(!(purposes.code_signing || purposes.email_protection || purposes.time_stamping || purposes.ocsp_signing));
    assert_eq!(leaf.extensions().len(), 6, "names, constraints, two usages, two key identifiers: {leaf:?}");

    assert_eq!(leaf.raw_serial(), issued.serial.0);
    assert_eq!(issued.serial.generation(), Generation(42));
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    assert_eq!((issued.spki.as_slice(), issued.key), (csr.spki(), csr.key()));

    let now = START.as_secs();
    assert_eq!(dates(&leaf), (now - 300, now + 7 * 86_400));
    assert_eq!((issued.not_before.as_secs(), issued.not_after.as_secs()), dates(&leaf));
    assert_eq!(issued.renew_at.as_secs(), now + 7 * 86_400 / 2);

    let read = PeerCert::read(&issued.chain[0].0.as_slice().into()).unwrap();
    assert_eq!(
        read.peer,
        PeerId {
            trust_domain: "fleet.example".parse().unwrap(),
            party: Party::Service("checker/disk.1".parse().unwrap())
        }
    );
    assert_eq!((read.serial, read.key), (issued.serial, issued.key));
}

#[test]
fn every_field_of_root_and_intermediate() {
    let world = World::new();
    let ca = world.open();
    let (_, issued) = enroll(&ca);
    let bundle = ca.bundle();
    let root = parse(&bundle.roots[0].0);
    let intermediate = parse(&issued.chain[1].0);
    let now = START.as_secs();
    assert_eq!((bundle.roots.len(), bundle.revision), (1, 1));
    assert_eq!(pin_of(&ca.roots()[0]), Some(ca.pin()));
    assert_eq!(dates(&root), (now - 86_400, now + 3_652 * 86_400));
    assert_eq!(dates(&intermediate), (now - 86_400, now + 365 * 86_400));
    root.verify_signature(None).unwrap();
    intermediate.verify_signature(Some(root.public_key())).unwrap();
    for (cert, below) in [(&root, 1), (&intermediate, 0)] {
        let constraints = cert.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(below));
        assert_eq!(cert.key_usage().unwrap().unwrap().value.flags, 1 << 5, "keyCertSign and nothing else");
        assert_eq!(uris(cert).1, ["spiffe://fleet.example"]);
        let constrained = |e: &ParsedExtension<'_>| matches!(e, ParsedExtension::NameConstraints(_));
        assert!(!cert.extensions().iter().any(|e| constrained(e.parsed_extension())));
    }
    assert_ne!(root.public_key().raw, intermediate.public_key().raw);
}

#[test]
fn collectors_verify_the_chain_within_its_dates_only() {
    let world = World::new();
    let ca = world.open();
    let (_, issued) = enroll(&ca);
    verify(&ca, Denied::default(), &issued, START).unwrap();
    verify(&ca, Denied::default(), &issued, issued.not_before).unwrap();
    verify(&ca, Denied::default(), &issued, issued.not_after).unwrap();
    let second = Duration::from_secs(1);
    let early = verify(&ca, Denied::default(), &issued, issued.not_before.before(second)).unwrap_err();
    assert!(matches!(early, TlsError::InvalidCertificate(CertificateError::NotValidYetContext { .. })), "{early}");
    let late = verify(&ca, Denied::default(), &issued, issued.not_after.after(second)).unwrap_err();
    assert!(matches!(late, TlsError::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{late}");
    let revoked = verify(&ca, Denied(vec![issued.serial]), &issued, START).unwrap_err();
    assert_eq!(revoked, TlsError::InvalidCertificate(CertificateError::Revoked));
    let other = World::new();
    let stranger = verify(&other.open(), Denied::default(), &issued, START).unwrap_err();
    assert_eq!(stranger, TlsError::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[test]
fn the_intermediate_is_renewed_at_half_its_life_and_old_leaves_stay_good() {
    let world = World::new();
    let ca = world.open();
    let (_, before) = enroll(&ca);
    world.clock.advance(DAY * 182);
    assert!(!ca.refresh().unwrap().intermediate, "a day too early");
    let (_, last) = enroll(&ca);
    assert_eq!(last.chain[1], before.chain[1]);
    world.clock.advance(DAY);
    assert!(ca.refresh().unwrap().intermediate);
    assert!(!ca.refresh().unwrap().intermediate, "once is enough");
    let (_, after) = enroll(&ca);
    assert_ne!(after.chain[1], before.chain[1]);
    let now = START.after(DAY * 183);
    verify(&ca, Denied::default(), &after, now).unwrap();
    verify(&ca, Denied::default(), &last, now).unwrap();
    // The renewal is on disk: another start goes on with it.
    let pin = ca.pin();
    drop(ca);
    let ca = world.open();
    assert_eq!(ca.pin(), pin);
    assert_eq!(enroll(&ca).1.chain[1], after.chain[1]);
    drop(ca);
    // A start past half of it renews too.
    world.clock.advance(DAY * 183);
    assert_ne!(enroll(&world.open()).1.chain[1], after.chain[1]);
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let world = World::new();
    world.open();
    // 3,652 days of the root less 100: intermediates are cut short, and a leaf by its intermediate.
    world.clock.advance(DAY * 3_552);
    let ca = world.open();
    let end = START.after(DAY * 3_652);
    let (_, issued) = enroll(&ca);
    assert_eq!(parse(&issued.chain[1].0).validity().not_after.timestamp(), end.as_secs());
    drop(ca);
    world.clock.advance(DAY * 98);
    let ca = world.open();
    let (_, issued) = enroll(&ca);
    assert_eq!(issued.not_after, end);
    assert_eq!(issued.renew_at, end.before(DAY));
    assert!(!ca.refresh().unwrap().intermediate, "a new one would gain nothing");
}

#[test]
fn the_policy_has_its_bounds() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    for good in [minutes(10), DAY * 7, DAY * 30] {
        assert_eq!(CertPolicy::new(good).unwrap().leaf_ttl(), good);
    }
    for bad in [Duration::ZERO, minutes(10) - Duration::from_secs(1), DAY * 31] {
        assert!(CertPolicy::new(bad).is_err(), "{bad:?}");
    }
    assert!(CertPolicy::short_lived(Duration::from_secs(1)).is_err());
    let world = World::new();
    let policy = CertPolicy::short_lived(Duration::from_secs(2)).unwrap();
    let ca = world.try_open(CaSettings { policy, ..World::settings() }).unwrap();
    let (_, issued) = enroll(&ca);
    assert_eq!(issued.not_after, START.after(Duration::from_secs(2)));
    assert_eq!(issued.renew_at, START.after(Duration::from_secs(1)));
}

#[test]
fn debug_shows_no_key() {
    let world = World::new();
    let ca = world.open();
    let shown = format!("{ca:?}");
    assert!(shown.contains(&ca.pin().to_string()), "{shown}");
    for file in ["root.key", "intermediate.pem"] {
        let key = KeyPair::from_pem(&std::fs::read_to_string(world.file(file)).unwrap()).unwrap();
        assert!(!shown.contains(&data_encoding::BASE64.encode(key.serialized_der())));
    }
}
