//! The collector's own leaf in real TLS handshakes, without sockets.

use rollcall_common::{
    identity::{
        PeerCert, PeerId, Serial,
        tls::{DenySet, SidecarVerifier, Trust, beat_config, collector_config, enroll_config},
    },
    wire::{SERVER_NAME, message::Bytes},
};
use rustls::{
    ClientConfig, ClientConnection, Error as TlsError, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::*;

#[derive(Debug)]
struct NobodyDenied;

impl DenySet for NobodyDenied {
    fn denies(&self, _: Serial) -> bool {
        false
    }
}

fn server(world: &World, ca: &Ca) -> Arc<ServerConfig> {
    let verifier = SidecarVerifier::new(&ca.roots(), "fleet.example".parse().unwrap(), Arc::new(NobodyDenied)).unwrap();
    Arc::new(collector_config(Arc::new(verifier), ca.certificate_resolver(), Arc::clone(&world.clock) as _).unwrap())
}

fn enrolling(world: &World, trust: Trust) -> ClientConfig {
    enroll_config(trust, "fleet.example".parse().unwrap(), Arc::clone(&world.clock) as _).unwrap()
}

fn beating(world: &World, ca: &Ca) -> ClientConfig {
    let (key, issued) = enroll(ca);
    let chain = issued.chain.iter().map(|Bytes(der)| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let trust = Trust::Bundle(ca.roots());
    beat_config(trust, "fleet.example".parse().unwrap(), chain, key, Arc::clone(&world.clock) as _).unwrap()
}

/// Passes bytes to and fro until neither side has more to say.
fn shake(server: &Arc<ServerConfig>, client: ClientConfig) -> Result<(ClientConnection, ServerConnection), TlsError> {
    let mut client = ClientConnection::new(Arc::new(client), SERVER_NAME.try_into().unwrap())?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[test]
fn enrollment_gets_the_root_and_heartbeats_do_not() {
    let world = World::new();
    let ca = world.open();
    let server = server(&world, &ca);
    let (client, _) = shake(&server, enrolling(&world, Trust::Pin(ca.pin()))).unwrap();
    let chain = client.peer_certificates().unwrap();
    assert_eq!(chain.len(), 3);
    assert_eq!(chain[2], ca.roots()[0]);
    let own = PeerCert::read(&chain[0]).unwrap();
    let name = PeerId::collector("fleet.example".parse().unwrap(), "main".parse().unwrap());
    assert_eq!(own.peer, name);
    assert!(ca.is_own_key(&own.key));

    let (client, accepted) = shake(&server, beating(&world, &ca)).unwrap();
    assert_eq!(client.peer_certificates().unwrap(), &chain[..2]);
    let sidecar = PeerCert::read(&accepted.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(sidecar.peer.to_string(), "spiffe://fleet.example/poller/p1");
}

#[test]
fn a_pin_of_anything_but_the_root_is_refused() {
    let world = World::new();
    let ca = world.open();
    let server = server(&world, &ca);
    let (client, _) = shake(&server, enrolling(&world, Trust::Pin(ca.pin()))).unwrap();
    let chain = client.peer_certificates().unwrap();
    let leaf = rollcall_common::identity::pin_of(&chain[0]).unwrap();
    shake(&server, enrolling(&world, Trust::Pin(leaf))).unwrap_err();
    let stranger = World::new();
    shake(&server, enrolling(&world, Trust::Pin(stranger.open().pin()))).unwrap_err();
}

#[test]
fn a_sidecars_certificate_does_not_serve() {
    let world = World::new();
    let ca = world.open();
    let (key, issued) = enroll(&ca);
    let chain = issued.chain.iter().map(|Bytes(der)| CertificateDer::from(der.clone())).chain(ca.roots()).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut impostor = ServerConfig::builder_with_provider(rollcall_common::identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    impostor.alpn_protocols = vec![rollcall_common::wire::ALPN_ENROLL.to_vec()];
    shake(&Arc::new(impostor), enrolling(&world, Trust::Pin(ca.pin()))).unwrap_err();
}

#[test]
fn an_unknown_protocol_hears_its_own_alert() {
    let world = World::new();
    let ca = world.open();
    let server = server(&world, &ca);
    for alpn in [b"h3".as_slice(), b"rollcall-beat/999"] {
        let mut client = enrolling(&world, Trust::Pin(ca.pin()));
        client.alpn_protocols = vec![alpn.to_vec()];
        assert_eq!(shake(&server, client).unwrap_err(), TlsError::NoApplicationProtocol);
    }
}

#[test]
fn the_own_leaf_is_renewed_before_it_ends_and_bears_skewed_sidecars() {
    let world = World::new();
    let ca = world.open();
    let server = server(&world, &ca);
    let leaf = |world: &World| {
        let (client, _) = shake(&server, enrolling(world, Trust::Pin(ca.pin()))).unwrap();
        client.peer_certificates().unwrap()[0].clone()
    };
    let first = leaf(&world);
    world.clock.advance(DAY * 14);
    assert!(!ca.refresh().unwrap().own_leaf);
    assert_eq!(leaf(&world), first);
    world.clock.advance(DAY);
    assert_eq!(ca.refresh().unwrap(), crate::ca::Refreshed { intermediate: false, own_leaf: true });
    let second = leaf(&world);
    assert_ne!(second, first);
    // A collector whose clock is set back by days does not wait for its leaf to begin.
    world.clock.step_wall(-10 * 86_400_000);
    assert!(ca.refresh().unwrap().own_leaf);
    // A sidecar's clock may be 23 hours behind, not 25; and a fortnight ahead.
    for (hours, well) in [(-23, true), (-25, false), (14 * 24, true), (31 * 24, false)] {
        let other = World::new();
        other.clock.step_wall(5 * 86_400_000 + hours * 3_600_000);
        assert_eq!(shake(&server, enrolling(&other, Trust::Pin(ca.pin()))).is_ok(), well, "{hours} h");
    }
}
