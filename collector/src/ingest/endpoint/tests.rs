//! The endpoint on real sockets: what peers may do, which versions and protocols pass, what a restart does.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt as _;
use quinn::{ClientConfig, Connection, ConnectionError, TransportErrorCode, crypto::rustls::QuicClientConfig};
use rollcall_common::{
    id::Generation,
    identity::{
        Serial,
        tls::{DenySet, SidecarVerifier, Trust, beat_config, collector_config, enroll_config},
    },
    time::SystemClock,
    wire::{SERVER_NAME, message::Bytes},
};
use rustls::{
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{runtime::Runtime, time::timeout};

use super::*;
use crate::{
    ca::{
        Ca, CaSettings, CertPolicy,
        tests::{honest_csr, new_key},
    },
    statedir::StateDir,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Denies nobody and counts how often it was asked.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl DenySet for Counting {
    fn denies(&self, _: Serial) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        false
    }
}

struct World {
    _outer: tempfile::TempDir,
    state: StateDir,
    ca: Ca,
    asked: Arc<Counting>,
}

impl World {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let state = StateDir::open(&outer.path().join("state")).unwrap();
        let settings = CaSettings {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            policy: CertPolicy::default(),
        };
        let ca = Ca::open(&state, settings, Arc::new(SystemClock)).unwrap();
        Self { _outer: outer, state, ca, asked: Arc::default() }
    }

    fn bind(&self, listen: SocketAddr) -> Result<Bound, EndpointError> {
        self.bind_asked(listen, true)
    }

    fn bind_asked(&self, listen: SocketAddr, tcp_asked: bool) -> Result<Bound, EndpointError> {
        let asked = Arc::clone(&self.asked) as _;
        let verifier = SidecarVerifier::new(&self.ca.roots(), "fleet.example".parse().unwrap(), asked).unwrap();
        let tls = collector_config(Arc::new(verifier), self.ca.certificate_resolver(), Arc::new(SystemClock)).unwrap();
        bind(EndpointSettings { listen, tcp: true, tcp_asked }, tls, ResetKeys::open(&self.state).unwrap())
    }

    fn enroll_tls(&self) -> rustls::ClientConfig {
        enroll_config(Trust::Pin(self.ca.pin()), "fleet.example".parse().unwrap(), Arc::new(SystemClock)).unwrap()
    }

    fn beat_tls(&self) -> rustls::ClientConfig {
        let key = new_key();
        let csr = Ca::read_csr(&honest_csr(&key)).unwrap();
        let issued = self.ca.issue(&"poller/p1".parse().unwrap(), &csr, Generation(1)).unwrap();
        let chain = issued.chain.iter().map(|Bytes(der)| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let trust = Trust::Bundle(self.ca.roots());
        beat_config(trust, "fleet.example".parse().unwrap(), chain, key, Arc::new(SystemClock)).unwrap()
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn client_config(tls: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

fn client() -> Endpoint {
    Endpoint::client(any_port()).unwrap()
}

async fn connect(client: &Endpoint, config: ClientConfig, to: SocketAddr) -> Result<Connection, ConnectionError> {
    timeout(PATIENCE, client.connect_with(config, to, SERVER_NAME).unwrap()).await.expect("no answer")
}

/// Both ends of one connection.
async fn pair(bound: &Bound, client: &Endpoint, config: ClientConfig) -> (Connection, Connection) {
    let (near, far) = tokio::join!(connect(client, config, bound.address), async {
        let incoming = timeout(PATIENCE, bound.endpoint.accept()).await.expect("nobody came").unwrap();
        timeout(PATIENCE, incoming).await.expect("no handshake").unwrap()
    });
    (near.unwrap(), far)
}

/// Accepts whatever comes and keeps it, so that a refusal is never for want of an answer.
async fn accept_all(endpoint: Endpoint) {
    let mut kept = Vec::new();
    while let Some(incoming) = endpoint.accept().await {
        if let Ok(connection) = incoming.await {
            kept.push(connection);
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let world = World::new();
    let first = world.bind(any_port()).unwrap();
    let error = world.bind(first.address).unwrap_err();
    assert!(matches!(error, EndpointError::Taken { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("UDP {} is taken", first.address)), "{text}");
    assert!(text.contains(&format!("sport = :{}", first.address.port())), "{text}");
}

#[tokio::test]
async fn a_taken_tcp_port_is_named_and_a_free_choice_avoids_it() {
    let world = World::new();
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = holder.local_addr().unwrap();
    let error = world.bind(taken).unwrap_err();
    assert!(matches!(error, EndpointError::TcpTaken { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("TCP {taken} is taken")) && text.contains("tcp_fallback = false"), "{text}");
    let without = world.bind_asked(taken, false).unwrap();
    assert!(without.tcp.is_none() && without.address == taken, "nobody asked for TCP: QUIC goes on as before");
    let bound = world.bind(any_port()).unwrap();
    assert!(bound.tcp.is_some());
    assert_ne!(bound.address.port(), taken.port());
    let reached = std::net::TcpStream::connect(bound.address);
    assert!(reached.is_ok(), "TCP listens at the port of UDP: {reached:?}");
}

#[tokio::test]
async fn an_address_of_another_host_is_named() {
    let error = World::new().bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(matches!(error, EndpointError::NotOurs { .. }), "{error:?}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_peer_gets_one_stream_and_nothing_else() {
    let world = World::new();
    let bound = world.bind(any_port()).unwrap();
    let client = client();
    let (near, far) = pair(&bound, &client, client_config(world.beat_tls())).await;
    let (mut send, _receive) = near.open_bi().now_or_never().expect("one stream is allowed").unwrap();
    assert!(near.open_bi().now_or_never().is_none(), "a second one is not");
    assert!(near.open_uni().now_or_never().is_none());
    assert_eq!(near.max_datagram_size(), None);
    // What the collector does not read is held back at the sender.
    let mut sent = 0;
    while let Some(written) = send.write(&[0; 4_096]).now_or_never() {
        sent += written.unwrap();
    }
    assert_eq!(sent, STREAM_WINDOW as usize);
    drop(far);
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let world = World::new();
    let bound = world.bind(any_port()).unwrap();
    let server =
        tokio_util::task::AbortOnDropHandle::new(tokio::runtime::Handle::current().spawn(accept_all(bound.endpoint)));
    for alpn in [vec![], vec![b"h3".to_vec()], vec![b"rollcall-beat/999".to_vec()]] {
        let mut tls = world.enroll_tls();
        tls.alpn_protocols.clone_from(&alpn);
        let error = connect(&client(), client_config(tls), bound.address).await.unwrap_err();
        let ConnectionError::ConnectionClosed(close) = &error else { panic!("{alpn:?}: {error:?}") };
        assert_eq!(close.error_code, TransportErrorCode::crypto(120), "{alpn:?}");
    }
    drop(server);
}

#[tokio::test]
async fn drafts_and_other_versions_are_refused() {
    let world = World::new();
    let bound = world.bind(any_port()).unwrap();
    for draft in 0xff00_001d..=0xff00_0022 {
        let mut config = client_config(world.enroll_tls());
        config.version(draft);
        let error = connect(&client(), config, bound.address).await.unwrap_err();
        assert!(matches!(error, ConnectionError::VersionMismatch), "{draft:x}: {error:?}");
    }
    // QUIC version 2, which quinn's client cannot be talked into: a long header, two connection ids, padding.
    let socket = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    let mut packet = vec![0xd0];
    packet.extend(0x6b33_43cf_u32.to_be_bytes());
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 9, 9, 9]);
    packet.resize(1_200, 0);
    socket.send_to(&packet, bound.address).await.unwrap();
    let mut answer = [0; 1_500];
    let (len, _) = timeout(PATIENCE, socket.recv_from(&mut answer)).await.expect("no answer").unwrap();
    // Version negotiation: version 0, the ids turned round, then the versions.
    assert_eq!(answer[1..5], [0; 4]);
    assert_eq!(answer[5..19], [4, 9, 9, 9, 9, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let versions: Vec<u32> = answer[19..len].chunks(4).map(|v| u32::from_be_bytes(v.try_into().unwrap())).collect();
    let greased = |v: &u32| v & 0x0f0f_0f0f == 0x0a0a_0a0a;
    assert_eq!(versions.into_iter().filter(|v| !greased(v)).collect::<Vec<_>>(), [1]);
}

/// rustls would resume without asking the verifier (`identity.md` M2, M3), and accept early data.
#[tokio::test]
async fn nothing_is_resumed_and_nothing_comes_early() {
    let world = World::new();
    let bound = world.bind(any_port()).unwrap();
    let client = client();
    let mut dials = 0;
    for early in [false, true] {
        let mut tls = world.beat_tls();
        tls.resumption = Resumption::in_memory_sessions(16);
        tls.enable_early_data = early;
        let config = client_config(tls);
        for _ in 0..3 {
            let connecting = client.connect_with(config.clone(), bound.address, SERVER_NAME).unwrap();
            let connecting = connecting.into_0rtt().err().expect("a key for early data was left from before");
            let (near, far) = tokio::join!(connecting, async { bound.endpoint.accept().await.unwrap().await.unwrap() });
            let near = near.unwrap();
            // One byte from the collector: tickets, were there any, have arrived before it.
            let (mut send, _keep) = far.open_bi().await.unwrap();
            send.write_all(b"x").await.unwrap();
            let (_keep, mut receive) = timeout(PATIENCE, near.accept_bi()).await.expect("no stream").unwrap();
            receive.read_exact(&mut [0]).await.unwrap();
            dials += 1;
            assert_eq!(world.asked.0.load(Ordering::SeqCst), dials, "every handshake asks the verifier");
        }
    }
}

#[tokio::test]
async fn a_wildcard_of_ipv6_takes_ipv4_too() {
    let world = World::new();
    let has_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|table| !table.is_empty());
    let bound = match world.bind((Ipv6Addr::UNSPECIFIED, 0).into()) {
        Ok(bound) => bound,
        Err(error) => {
            assert!(!has_ipv6 && matches!(error, EndpointError::NoIpv6 { .. }), "{error:?}");
            return;
        }
    };
    let port = bound.address.port();
    let v4 = Bound { endpoint: bound.endpoint.clone(), address: (Ipv4Addr::LOCALHOST, port).into(), tcp: None };
    pair(&v4, &client(), client_config(world.enroll_tls())).await;
    if has_ipv6 {
        let v6 = Bound { endpoint: bound.endpoint, address: (Ipv6Addr::LOCALHOST, port).into(), tcp: None };
        let client = Endpoint::client((Ipv6Addr::LOCALHOST, 0).into()).unwrap();
        pair(&v6, &client, client_config(world.enroll_tls())).await;
    }
}

/// A runtime that is torn down sends no close: to the peers it is a kill.
#[test]
fn sidecars_of_a_killed_collector_hear_of_it_with_their_next_beat() {
    let world = World::new();
    let here = Runtime::new().unwrap();
    let killed = Runtime::new().unwrap();
    let before = {
        let _within = killed.enter();
        world.bind(any_port()).unwrap()
    };
    let address = before.address;
    let accepting = before.endpoint.clone();
    killed.handle().spawn(accept_all(accepting));
    let near = here.block_on(async {
        let client = client();
        connect(&client, client_config(world.beat_tls()), address).await.unwrap()
    });
    killed.shutdown_background();
    drop(before);
    here.block_on(async {
        // The port is free once the last task of the old runtime is gone.
        let after = timeout(PATIENCE, async {
            loop {
                match world.bind(address) {
                    Ok(bound) => break bound,
                    Err(EndpointError::Taken { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let after = after.await.expect("the port was never freed");
        let (mut send, _receive) = near.open_bi().await.unwrap();
        send.write_all(&[0; 64]).await.unwrap();
        let error = timeout(PATIENCE, near.closed()).await.expect("no reset came");
        assert_eq!(error, ConnectionError::Reset);
        drop(after);
    });
}

#[test]
fn the_settings_are_the_documented_ones() {
    assert_eq!(IDLE, Duration::from_secs(30 * 60));
    let shown = format!("{:?}", transport());
    for setting in [
        "max_concurrent_bidi_streams: 1,",
        "max_concurrent_uni_streams: 0,",
        "max_idle_timeout: Some(1800000)",
        "stream_receive_window: 32768,",
        "receive_window: 65536,",
        "send_window: 65536,",
        "mtu_discovery_config: None",
        "keep_alive_interval: None",
        "crypto_buffer_size: 16384,",
        "datagram_receive_buffer_size: None",
    ] {
        assert!(shown.contains(setting), "{setting} is not in {shown}");
    }
}

#[test]
fn the_kernels_own_half_of_a_buffer_does_not_count() {
    assert_eq!(granted(Ok(425_984)), 212_992);
    assert_eq!(granted(Err(io::Error::other("x"))), 0);
}
