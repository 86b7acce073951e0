//! Nothing is resumed: C11 and C12. rustls resumes without asking the client verifier again, so that a
//! resumed session would outlive a revocation (M2) or an expiry (M3).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, NamedGroup, ServerConfig,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    pki_types::ServerName,
    server::ServerSessionMemoryCache,
};

use super::{
    handshake::{World, meet},
    pki::{Leaf, Span},
};

/// A client's memory of sessions that counts the tickets it was given.
#[derive(Debug)]
struct Tickets {
    given: AtomicUsize,
    memory: ClientSessionMemoryCache,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.memory.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.memory.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.memory.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.memory.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.memory.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::SeqCst);
        self.memory.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.memory.take_tls13_ticket(server)
    }
}

/// A sidecar that would resume if only it could, early data included.
fn eager(world: &World) -> (Arc<ClientConfig>, Arc<Tickets>) {
    let tickets = Arc::new(Tickets { given: AtomicUsize::new(0), memory: ClientSessionMemoryCache::new(8) });
    let mut config = world.beat(&world.intermediate.issue(&Leaf::sidecar()));
    config.resumption = Resumption::store(Arc::clone(&tickets) as _);
    config.enable_early_data = true;
    (Arc::new(config), tickets)
}

/// The trap, sprung on purpose: with rustls' own defaults the second connection is resumed, and nobody
/// asks about its certificate although it has been revoked. The tests below mean something only while
/// this one holds.
#[test]
fn with_ordinary_settings_a_revoked_sidecar_would_resume() {
    let world = World::new();
    let mut loose = world.server();
    loose.send_tls13_tickets = 2;
    loose.session_storage = ServerSessionMemoryCache::new(8);
    let loose: Arc<ServerConfig> = loose.into();
    let (client, tickets) = eager(&world);
    assert!(meet(Arc::clone(&client), Arc::clone(&loose)).is_accepted());
    assert!(tickets.given.load(Ordering::SeqCst) > 0);
    world.denied.deny(&Leaf::sidecar().serial);
    let second = meet(client, loose);
    assert!(second.is_accepted() && second.kind == Some(HandshakeKind::Resumed), "{second:?}");
    assert_eq!(world.denied.asked(), 1);
}

#[test]
fn c11_each_connection_proves_itself_anew() {
    let world = World::new();
    let server: Arc<ServerConfig> = world.server().into();
    let (client, tickets) = eager(&world);
    for round in 1..=3 {
        let outcome = meet(Arc::clone(&client), Arc::clone(&server));
        assert!(outcome.is_accepted(), "{outcome:?}");
        assert_eq!(outcome.kind, Some(HandshakeKind::Full));
        assert_eq!(world.denied.asked(), round);
    }
    assert_eq!(tickets.given.load(Ordering::SeqCst), 0);
}

#[test]
fn c11_a_revoked_sidecar_does_not_come_back() {
    let world = World::new();
    let server: Arc<ServerConfig> = world.server().into();
    let (client, _) = eager(&world);
    assert!(meet(Arc::clone(&client), Arc::clone(&server)).is_accepted());
    world.denied.deny(&Leaf::sidecar().serial);
    let again = meet(client, server);
    assert_eq!(again.alert_to_client(), Some(AlertDescription::CertificateRevoked));
    assert!(again.delivered.is_empty());
}

#[test]
fn c11_an_expired_sidecar_does_not_come_back() {
    let world = World::new();
    let server: Arc<ServerConfig> = world.server().into();
    let (client, _) = eager(&world);
    assert!(meet(Arc::clone(&client), Arc::clone(&server)).is_accepted());
    world.clock.set(Span::LEAF.end().after(std::time::Duration::from_secs(1)));
    let again = meet(client, server);
    assert_eq!(again.alert_to_client(), Some(AlertDescription::CertificateExpired));
    assert!(again.delivered.is_empty());
}

/// C12: no early data on either side.
#[test]
fn c12_early_data_is_off_on_both_sides() {
    let world = World::new();
    assert_eq!(world.server().max_early_data_size, 0);
    assert_eq!(world.server().send_tls13_tickets, 0);
    assert!(!world.beat(&world.intermediate.issue(&Leaf::sidecar())).enable_early_data);
}
