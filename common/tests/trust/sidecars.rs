//! What a collector accepts as a sidecar: C9, C10 and L2, with the alert that the sidecar gets.

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::{
    handshake::{Outcome, World, enroll, meet},
    pki::{Authority, Holder, Leaf, NOW, Span, uri},
};

/// The collector refused: the sidecar was told by an alert and nothing of it was heard.
fn assert_refused(outcome: &Outcome, case: &str) {
    assert!(outcome.delivered.is_empty(), "{case}: {outcome:?}");
    assert!(matches!(outcome.server, Some(TlsError::InvalidCertificate(_))), "{case}: {outcome:?}");
    assert!(outcome.alert_to_client().is_some(), "{case}: {outcome:?}");
}

fn beat(world: &World, holder: &Holder) -> Outcome {
    meet(world.beat(holder), world.server())
}

#[test]
fn an_honest_sidecar_is_accepted() {
    let world = World::new();
    let outcome = beat(&world, &world.intermediate.issue(&Leaf::sidecar()));
    assert!(outcome.is_accepted(), "{outcome:?}");
    assert_eq!(world.denied.asked(), 1);
}

/// Enrollment has no certificate; the gate after the handshake keeps it from heartbeats.
#[test]
fn a_sidecar_without_a_certificate_passes_the_handshake() {
    let world = World::new();
    let outcome = meet(enroll(world.pinned(), NOW), world.server());
    assert!(outcome.is_accepted(), "{outcome:?}");
    assert_eq!(world.denied.asked(), 0);
}

#[test]
fn c9_an_unknown_protocol_is_refused() {
    let world = World::new();
    for alpn in ["h3", "rollcall-beat/999", "rollcall-enroll/2"] {
        let mut client = world.beat(&world.intermediate.issue(&Leaf::sidecar()));
        client.alpn_protocols = vec![alpn.into()];
        let outcome = meet(client, world.server());
        assert_eq!(outcome.alert_to_client(), Some(AlertDescription::NoApplicationProtocol), "{alpn}");
        assert!(outcome.delivered.is_empty());
    }
}

#[test]
fn c10_certificates_that_our_authority_did_not_issue_are_refused() {
    let world = World::new();
    let sidecar = world.intermediate.issue(&Leaf::sidecar());
    let foreign = Authority::root(Span::ROOT);
    for (case, holder) in [
        ("foreign root", foreign.issue(&Leaf::sidecar())),
        ("foreign intermediate", foreign.intermediate(Span::ROOT).issue(&Leaf::sidecar())),
        ("foreign, showing our root", foreign.issue(&Leaf::sidecar()).with(&world.root.cert)),
        ("self-signed", Holder::self_signed(&Leaf::sidecar())),
        ("signed by a sidecar", sidecar.sign_like_a_ca(&Leaf::sidecar().named(&["spiffe://fleet.test/agent/other"]))),
    ] {
        assert_refused(&beat(&world, &holder), case);
    }
    assert_eq!(world.denied.asked(), 0, "none of them was looked at further");
}

#[test]
fn c10_certificates_of_ours_that_name_no_sidecar_are_refused() {
    let world = World::new();
    let sidecar = "spiffe://fleet.test/agent/edge-17";
    let dns = |name: &str| SanType::DnsName(name.try_into().expect("ASCII"));
    for (case, leaf) in [
        ("two URIs", Leaf::sidecar().named(&[sidecar, "spiffe://fleet.test/agent/other"])),
        ("the same URI twice", Leaf::sidecar().named(&[sidecar, sidecar])),
        ("no name", Leaf::sidecar().named(&[])),
        ("a DNS name alone", Leaf { names: vec![dns("edge-17.test")], ..Leaf::sidecar() }),
        ("a DNS name beside", Leaf { names: vec![uri(sidecar), dns("edge-17.test")], ..Leaf::sidecar() }),
        ("another trust domain", Leaf::sidecar().named(&["spiffe://other.test/agent/edge-17"])),
        ("a prefix of our trust domain", Leaf::sidecar().named(&["spiffe://fleet.tes/agent/edge-17"])),
        ("a longer trust domain", Leaf::sidecar().named(&["spiffe://fleet.test.evil.test/agent/edge-17"])),
        ("path traversal", Leaf::sidecar().named(&["spiffe://fleet.test/agent/../poller/p1"])),
        ("encoded traversal", Leaf::sidecar().named(&["spiffe://fleet.test/agent/%2e%2e%2fpoller"])),
        ("one segment more", Leaf::sidecar().named(&["spiffe://fleet.test/agent/edge-17/x"])),
        ("an empty id", Leaf::sidecar().named(&["spiffe://fleet.test/agent/"])),
        ("upper case", Leaf::sidecar().named(&["spiffe://fleet.test/agent/Edge-17"])),
        ("an unknown kind", Leaf::sidecar().named(&["spiffe://fleet.test/robot/edge-17"])),
        ("another scheme", Leaf::sidecar().named(&["https://fleet.test/agent/edge-17"])),
        ("a serial of another form", Leaf { serial: vec![2; 16], ..Leaf::sidecar() }),
        ("a short serial", Leaf { serial: vec![1; 8], ..Leaf::sidecar() }),
    ] {
        assert_refused(&beat(&world, &world.intermediate.issue(&leaf)), case);
    }
    assert_eq!(world.denied.asked(), 0);
}

#[test]
fn c10_certificates_for_another_purpose_are_refused() {
    let world = World::new();
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for (case, leaf) in [
        ("a sidecar's name, a server's purpose", Leaf { purposes: server, ..Leaf::sidecar() }),
        ("a collector's certificate", Leaf::collector()),
        ("a collector's name, any purpose", Leaf { purposes: vec![], ..Leaf::collector() }),
        ("a collector's name, both purposes", Leaf { purposes: both, ..Leaf::collector() }),
    ] {
        assert_refused(&beat(&world, &world.intermediate.issue(&leaf)), case);
    }
}

#[test]
fn certificates_out_of_their_time_are_refused_by_the_collectors_clock() {
    let world = World::new();
    for span in [Span::PAST, Span::FUTURE] {
        let outcome = beat(&world, &world.intermediate.issue(&Leaf { span, ..Leaf::sidecar() }));
        assert_refused(&outcome, "dates");
        assert_eq!(outcome.alert_to_client(), Some(AlertDescription::CertificateExpired));
    }
}

/// Only the collector's clock judges, to the second; the sidecar's own stands still meanwhile.
#[test]
fn the_last_second_of_a_certificate_counts() {
    let world = World::new();
    let holder = world.intermediate.issue(&Leaf::sidecar());
    world.clock.set(Span::LEAF.end());
    let outcome = beat(&world, &holder);
    assert!(outcome.is_accepted(), "{outcome:?}");
    world.clock.set(Span::LEAF.end().after(std::time::Duration::from_secs(1)));
    assert_refused(&beat(&world, &holder), "one second later");
}

#[test]
fn l2_a_stolen_certificate_is_refused_after_its_revocation() {
    let world = World::new();
    let stolen = world.intermediate.issue(&Leaf::sidecar());
    assert!(beat(&world, &stolen).is_accepted());
    world.denied.deny(&Leaf::sidecar().serial);
    let outcome = beat(&world, &stolen);
    assert_refused(&outcome, "revoked");
    assert_eq!(outcome.server, Some(TlsError::InvalidCertificate(CertificateError::Revoked)));
    assert_eq!(outcome.alert_to_client(), Some(AlertDescription::CertificateRevoked));
    let mut other = Leaf::sidecar();
    other.serial = [[1, 0, 0, 0, 0, 0, 0, 6], [9; 8]].concat();
    assert!(beat(&world, &world.intermediate.issue(&other)).is_accepted(), "the next generation is not concerned");
}
