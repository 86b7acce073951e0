//! Two rustls connections that talk through a pair of buffers, and what became of each.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use rollcall_common::{
    identity::{
        Serial,
        tls::{DenySet, SidecarVerifier, Trust, beat_config, collector_config, enroll_config, provider},
    },
    time::{BootTime, Clock, Now, Timestamp},
    wire::SERVER_NAME,
};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error as TlsError, HandshakeKind, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::pki::{Authority, Holder, Leaf, NOW, Span, domain};

/// What a client writes as soon as it is allowed to: an enrollment's secret, so to speak.
const SECRET: &[u8] = b"the token's secret";

/// A wall clock that is set by hand.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn at(time: Timestamp) -> Arc<Self> {
        Arc::new(Self(time.0.into()))
    }

    pub(crate) fn set(&self, time: Timestamp) {
        self.0.store(time.0, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Now {
        Now { boot: BootTime(0), wall: Timestamp(self.0.load(Ordering::SeqCst)) }
    }
}

/// Serials that are refused, and how often anybody asked: each verified client certificate asks once.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    serials: Mutex<HashSet<Vec<u8>>>,
    pub(crate) asked: AtomicUsize,
}

impl Denied {
    pub(crate) fn deny(&self, serial: &[u8]) {
        self.serials.lock().expect("a lock").insert(serial.to_vec());
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl DenySet for Denied {
    fn denies(&self, serial: Serial) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.serials.lock().expect("a lock").contains(serial.0.as_slice())
    }
}

/// Presents one chain, whatever is asked for.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A deployment: one root, one intermediate, a collector that presents the root as it does on enrollment.
pub(crate) struct World {
    pub(crate) root: Authority,
    pub(crate) intermediate: Authority,
    pub(crate) collector: Holder,
    pub(crate) denied: Arc<Denied>,
    /// The clock of the collector's host.
    pub(crate) clock: Arc<HandClock>,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = Authority::root(Span::ROOT);
        let intermediate = root.intermediate(Span::ROOT);
        let collector = intermediate.issue(&Leaf::collector()).with(&root.cert);
        Self { root, intermediate, collector, denied: Arc::default(), clock: HandClock::at(NOW) }
    }

    /// The collector's settings, presenting its own chain.
    pub(crate) fn server(&self) -> ServerConfig {
        self.server_presenting(&self.collector)
    }

    /// The collector's settings, presenting what an impostor would.
    pub(crate) fn server_presenting(&self, holder: &Holder) -> ServerConfig {
        let key = provider().key_provider.load_private_key(holder.key.clone_key()).expect("a key");
        let presents = Presents(Arc::new(CertifiedKey::new(holder.chain.clone(), key)));
        let denied: Arc<dyn DenySet> = Arc::clone(&self.denied) as _;
        let verifier = SidecarVerifier::new(&self.roots(), domain(), denied).expect("a verifier");
        collector_config(Arc::new(verifier), Arc::new(presents), Arc::clone(&self.clock) as _).expect("settings")
    }

    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.cert.clone()]
    }

    pub(crate) fn pinned(&self) -> Trust {
        Trust::Pin(self.root.pin())
    }

    /// A heartbeat's settings for whoever holds a certificate.
    pub(crate) fn beat(&self, holder: &Holder) -> ClientConfig {
        let trust = Trust::Bundle(self.roots());
        beat_config(trust, domain(), holder.chain.clone(), holder.key.clone_key(), HandClock::at(NOW))
            .expect("settings")
    }
}

/// An enrollment's settings on a host with this clock.
pub(crate) fn enroll(trust: Trust, host_clock: Timestamp) -> ClientConfig {
    enroll_config(trust, domain(), HandClock::at(host_clock)).expect("settings")
}

/// How a connection went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The client's error, if it found one.
    pub(crate) client: Option<TlsError>,
    /// The server's error, if it found one.
    pub(crate) server: Option<TlsError>,
    /// Whether the server skipped the proof of who the client is.
    pub(crate) kind: Option<HandshakeKind>,
    /// Application bytes that reached the server.
    pub(crate) delivered: Vec<u8>,
}

impl Outcome {
    /// The handshake stands and the client's bytes arrived.
    pub(crate) fn is_accepted(&self) -> bool {
        self.client.is_none() && self.server.is_none() && self.delivered == SECRET
    }

    /// The client's words for an operator.
    pub(crate) fn client_text(&self) -> String {
        self.client.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// The alert that the client was sent.
    pub(crate) fn alert_to_client(&self) -> Option<AlertDescription> {
        if let Some(TlsError::AlertReceived(alert)) = self.client { Some(alert) } else { None }
    }
}

/// Lets a client and a server speak until neither has anything left to say.
pub(crate) fn meet(client: impl Into<Arc<ClientConfig>>, server: impl Into<Arc<ServerConfig>>) -> Outcome {
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let mut client = ClientConnection::new(client.into(), name).expect("a client");
    let mut server = ServerConnection::new(server.into()).expect("a server");
    // Held back by rustls until the server is trusted, as the token's secret is.
    client.writer().write_all(SECRET).expect("buffered");
    let mut outcome = Outcome { client: None, server: None, kind: None, delivered: vec![] };
    loop {
        let mut wire = vec![];
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory takes all");
        }
        let mut moved = !wire.is_empty();
        let mut rest = wire.as_slice();
        while !rest.is_empty() && outcome.server.is_none() {
            server.read_tls(&mut rest).expect("memory gives all");
            outcome.server = server.process_new_packets().err();
        }
        // An end of the stream reads as "would block" here: there is just nothing more for now.
        let mut heard = [0; 256];
        while let Ok(n @ 1..) = server.reader().read(&mut heard) {
            outcome.delivered.extend(heard.iter().take(n));
        }
        let mut wire = vec![];
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory takes all");
        }
        moved |= !wire.is_empty();
        let mut rest = wire.as_slice();
        while !rest.is_empty() && outcome.client.is_none() {
            client.read_tls(&mut rest).expect("memory gives all");
            outcome.client = client.process_new_packets().err();
        }
        if !moved {
            outcome.kind = server.handshake_kind();
            return outcome;
        }
    }
}
