//! What a sidecar accepts as its collector: C6 and C7. Whoever is refused gets no application byte.

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rollcall_common::{
    identity::{
        Pin, pin_of,
        tls::{CollectorVerifier, Trust, provider},
    },
    time::Timestamp,
};
use rustls::{
    client::danger::ServerCertVerifier as _,
    pki_types::{ServerName, UnixTime},
};

use super::{
    handshake::{Outcome, World, enroll, meet},
    pki::{Authority, Holder, Leaf, NOW, Span, YEAR, domain, uri},
};

/// The sidecar refused, said why, and gave nothing away.
fn assert_refused(outcome: &Outcome, words: &[&str]) {
    assert!(outcome.client.is_some() && outcome.delivered.is_empty(), "{outcome:?}");
    assert!(outcome.server.is_some(), "the collector learns of it: {outcome:?}");
    let text = outcome.client_text();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing from {text:?}");
    }
}

#[test]
fn the_pinned_root_is_enough_to_trust_a_collector() {
    let world = World::new();
    let outcome = meet(enroll(world.pinned(), NOW), world.server());
    assert!(outcome.is_accepted(), "{outcome:?}");
}

#[test]
fn the_bundle_is_enough_without_a_root_in_the_chain() {
    let world = World::new();
    let lean = world.intermediate.issue(&Leaf::collector());
    let outcome = meet(enroll(Trust::Bundle(world.roots()), NOW), world.server_presenting(&lean));
    assert!(outcome.is_accepted(), "{outcome:?}");
}

/// A re-issued root keeps its key, hence its pin; a rotation brings a second root into the bundle.
#[test]
fn one_good_root_of_several_is_enough() {
    let world = World::new();
    let old = Authority::root(Span::PAST);
    let trust = Trust::Bundle([vec![old.cert], world.roots()].concat());
    let outcome = meet(enroll(trust, NOW), world.server());
    assert!(outcome.is_accepted(), "{outcome:?}");
}

#[test]
fn c6_a_wrong_pin_is_refused() {
    let world = World::new();
    let outcome = meet(enroll(Trust::Pin(Pin([7; 32])), NOW), world.server());
    assert_refused(&outcome, &["no root with the pinned key", &Pin([7; 32]).to_string()]);
}

#[test]
fn c6_a_deployment_with_another_root_is_refused() {
    let (ours, theirs) = (World::new(), World::new());
    assert_refused(&meet(enroll(ours.pinned(), NOW), theirs.server()), &["no root with the pinned key"]);
    let bundle = Trust::Bundle(ours.roots());
    assert_refused(&meet(enroll(bundle, NOW), theirs.server()), &["does not chain to a trusted root"]);
}

/// Neither as it comes, nor when an impostor repeats the leaf where the root should be.
#[test]
fn c6_the_pin_of_a_leaf_is_refused() {
    let world = World::new();
    let leaf = world.collector.leaf().clone();
    let trust = || Trust::Pin(pin_of(&leaf).expect("a pin"));
    assert_refused(&meet(enroll(trust(), NOW), world.server()), &["no root with the pinned key"]);
    let repeated = world.collector.clone().with(&leaf);
    let outcome = meet(enroll(trust(), NOW), world.server_presenting(&repeated));
    assert_refused(&outcome, &["does not chain to a trusted root"]);
}

/// The real root is public: showing it beside a chain of one's own proves nothing.
#[test]
fn c6_the_right_root_beside_a_foreign_chain_is_refused() {
    let world = World::new();
    for impostor in [
        Authority::root(Span::ROOT).issue(&Leaf::collector()),
        Authority::root(Span::ROOT).intermediate(Span::ROOT).issue(&Leaf::collector()),
        Holder::self_signed(&Leaf::collector()),
    ] {
        let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&impostor.with(&world.root.cert)));
        assert_refused(&outcome, &["does not chain to a trusted root"]);
    }
}

#[test]
fn c6_the_right_root_over_a_leaf_of_another_party_is_refused() {
    let world = World::new();
    let sidecar = "spiffe://fleet.test/agent/edge-17";
    let with_dns = [uri("spiffe://fleet.test/collector/main"), SanType::DnsName("c.test".try_into().expect("ASCII"))];
    for (leaf, words) in [
        (Leaf::collector().named(&[sidecar]), sidecar),
        (Leaf::collector().named(&["spiffe://other.test/collector/main"]), "spiffe://other.test/collector/main"),
        (Leaf::collector().named(&["https://fleet.test/collector/main"]), "not a Rollcall identity"),
        (Leaf::collector().named(&["spiffe://fleet.test/collector/../main"]), "not a Rollcall identity"),
        (
            Leaf::collector().named(&["spiffe://fleet.test/collector/main", "spiffe://fleet.test/collector/b"]),
            "exactly one",
        ),
        (Leaf::collector().named(&[]), "exactly one"),
        (Leaf { names: with_dns.to_vec(), ..Leaf::collector() }, "exactly one"),
    ] {
        let impostor = world.intermediate.issue(&leaf).with(&world.root.cert);
        let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&impostor));
        assert_refused(&outcome, &["not a collector of trust domain fleet.test", words]);
    }
}

/// A stolen sidecar key opens no door to other sidecars: its purpose forbids it, and so does its name.
#[test]
fn c6_a_sidecars_certificate_never_passes_for_a_collectors() {
    let world = World::new();
    let stolen = world.intermediate.issue(&Leaf::sidecar()).with(&world.root.cert);
    let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&stolen));
    assert_refused(&outcome, &["does not chain to a trusted root", "Eku"]);

    let any_purpose = Leaf { purposes: vec![], ..Leaf::sidecar() };
    let both = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    for leaf in [any_purpose, Leaf { purposes: both, ..Leaf::sidecar() }] {
        let impostor = world.intermediate.issue(&leaf).with(&world.root.cert);
        let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&impostor));
        assert_refused(&outcome, &["not a collector of trust domain fleet.test", "agent/edge-17"]);
    }

    let forged = world.intermediate.issue(&Leaf::sidecar()).sign_like_a_ca(&Leaf::collector()).with(&world.root.cert);
    let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&forged));
    assert_refused(&outcome, &["does not chain to a trusted root", "EndEntityUsedAsCa"]);
}

/// A world whose root or leaf has a given validity, and the leaf's holder.
fn dated(root: Span, leaf: Span) -> (World, Holder) {
    let mut world = World::new();
    world.root = Authority::root(root);
    world.intermediate = world.root.intermediate(Span::ROOT);
    let holder = world.intermediate.issue(&Leaf { span: leaf, ..Leaf::collector() }).with(&world.root.cert);
    (world, holder)
}

/// A trust anchor carries no dates of its own, so the verifier must look at them itself.
#[test]
fn c7_a_root_out_of_its_time_is_refused_with_both_times() {
    let now = NOW.to_string();
    for (span, words) in [
        (Span::PAST, ["expired", &*format!("ended at {}", Span::PAST.end()), &now]),
        (Span::FUTURE, ["CLOCK_SKEW", &*format!("begins at {}", Span::FUTURE.start()), &now]),
    ] {
        let (world, holder) = dated(span, Span::LEAF);
        for trust in [world.pinned(), Trust::Bundle(world.roots())] {
            assert_refused(&meet(enroll(trust, NOW), world.server_presenting(&holder)), &words);
        }
    }
}

#[test]
fn c7_a_leaf_out_of_its_time_is_refused_with_both_times() {
    let now = NOW.to_string();
    for (span, words) in [
        (Span::PAST, ["expired", &*format!("ended at {}", Span::PAST.end()), &now]),
        (Span::FUTURE, ["CLOCK_SKEW", &*format!("begins at {}", Span::FUTURE.start()), &now]),
    ] {
        let (world, holder) = dated(Span::ROOT, span);
        assert_refused(&meet(enroll(world.pinned(), NOW), world.server_presenting(&holder)), &words);
    }
}

#[test]
fn c7_an_intermediate_out_of_its_time_is_refused_with_both_times() {
    let world = World::new();
    let holder = world.root.intermediate(Span::PAST).issue(&Leaf::collector()).with(&world.root.cert);
    let outcome = meet(enroll(world.pinned(), NOW), world.server_presenting(&holder));
    assert_refused(&outcome, &["expired", &format!("ended at {}", Span::PAST.end()), &NOW.to_string()]);
}

/// The collector is well and the host's clock is a year off: the words name both clocks, so that an
/// operator sees which one is wrong.
#[test]
fn c7_a_host_clock_a_year_off_is_told_with_both_times() {
    let world = World::new();
    let early = Timestamp::from_secs(NOW.as_secs() - YEAR);
    let outcome = meet(enroll(world.pinned(), early), world.server());
    let begins = format!("begins at {}", Span::ROOT.start());
    assert_refused(&outcome, &["CLOCK_SKEW", &begins, &format!("clock says {early}")]);

    let late = Timestamp::from_secs(NOW.as_secs() + YEAR);
    let outcome = meet(enroll(world.pinned(), late), world.server());
    let ended = format!("ended at {}", Span::LEAF.end());
    assert_refused(&outcome, &["CLOCK_SKEW", &ended, &format!("clock says {late}")]);
}

/// The verifier checks a root's dates by verifying it as an end entity without anchors. That stands on
/// the order of webpki's checks, dates first, then the CA flag: an upgrade that reorders them must fail
/// here rather than let an expired root through.
#[test]
fn webpki_judges_a_roots_dates_before_its_being_a_ca() {
    let as_leaf = |span: Span| {
        let root = Authority::root(span);
        let cert = webpki::EndEntityCert::try_from(&root.cert).expect("a certificate");
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW.as_secs().unsigned_abs()));
        let algorithms = provider().signature_verification_algorithms.all;
        cert.verify_for_usage(algorithms, &[], &[], now, webpki::KeyUsage::server_auth(), None, None).err()
    };
    assert!(matches!(as_leaf(Span::PAST), Some(webpki::Error::CertExpired { .. })));
    assert!(matches!(as_leaf(Span::FUTURE), Some(webpki::Error::CertNotValidYet { .. })));
    assert_eq!(as_leaf(Span::ROOT), Some(webpki::Error::CaUsedAsEndEntity));
}

/// Whatever bytes come as a chain, the answer is a refusal, not a panic.
#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let world = World::new();
    let verifier = CollectorVerifier::new(world.pinned(), domain());
    let name = ServerName::try_from("collector.rollcall.invalid").expect("a name");
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW.as_secs().unsigned_abs()));
    let (leaf, root) = (world.collector.leaf(), &world.root.cert);
    for cut in (0..leaf.len()).step_by(7) {
        let torn = leaf.get(..cut).unwrap_or_default().to_vec().into();
        assert!(verifier.verify_server_cert(&torn, std::slice::from_ref(root), &name, &[], now).is_err(), "{cut}");
        let torn = root.get(..cut.min(root.len() - 1)).unwrap_or_default().to_vec().into();
        assert!(verifier.verify_server_cert(leaf, &[torn], &name, &[], now).is_err(), "{cut}");
    }
}
