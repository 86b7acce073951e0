//! A collector of the smallest kind, on real QUIC: it issues, greets and acknowledges, notes what it
//! sees, and misbehaves on demand. No registry, no lease, no judgement.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use quinn::{Connection, Endpoint, VarInt, crypto::rustls::QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rollcall_common::{
    code::Code,
    health::{HealthReport, ProgressReport},
    id::{BeatNo, Generation, PaceNo, ServiceKey},
    identity::{
        Pin, Serial,
        tls::{DenySet, SidecarVerifier, collector_config, provider},
    },
    time::{Clock, SystemClock, Timestamp},
    token::{Secret, Token, TokenId},
    wire::{
        ALPN_ENROLL, EXPORTER_LABEL,
        codec::{Deframer, encode},
        message::{
            About, Ack, Addresses, Bye, Bytes, Directive, Down, Enrolled, Goodbye, Granted, Hello, HelloAck, Refused,
            Renewed, Up,
        },
        settings::SettingsState,
    },
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub(crate) const DOMAIN: &str = "fleet.test";

/// The authority of one deployment; several collectors may share it.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    root_key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
    generation: AtomicU64,
    /// How long client certificates live, in seconds; negative ones are expired.
    pub(crate) lifetime: Mutex<i64>,
    denied: Arc<Denied>,
    tokens: Mutex<HashSet<TokenId>>,
}

#[derive(Debug, Default)]
struct Denied(AtomicBool);

impl DenySet for Denied {
    fn denies(&self, _serial: Serial) -> bool {
        self.0.load(SeqCst)
    }
}

impl Authority {
    pub(crate) fn new() -> Arc<Self> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let root = params(&key, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        });
        let certificate = root.self_signed(&key).unwrap();
        let spare = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key.serialize_der()),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        );
        Arc::new(Self {
            root: certificate.der().clone(),
            root_key: spare.unwrap(),
            issuer: Issuer::new(root, key),
            generation: AtomicU64::new(0),
            lifetime: Mutex::new(7 * 86_400),
            denied: Arc::default(),
            tokens: Mutex::default(),
        })
    }

    /// Whether every client certificate is refused with alert 44.
    pub(crate) fn revoke(&self, revoked: bool) {
        self.denied.0.store(revoked, SeqCst);
    }

    /// A token that this authority accepts.
    pub(crate) fn token(&self, addresses: &[SocketAddr]) -> Token {
        let token = Token {
            id: TokenId::random().unwrap(),
            secret: Secret::random().unwrap(),
            pin: Pin::of_spki(&self.root_key.subject_public_key_info()),
            expires: Timestamp::from_secs(4_000_000_000),
            trust_domain: DOMAIN.parse().unwrap(),
            addresses: addresses.iter().map(|addr| (*addr).into()).collect(),
        };
        self.tokens.lock().unwrap().insert(token.id);
        token
    }

    fn issue(&self, csr: &Bytes, service: &ServiceKey) -> Renewed {
        let generation = Generation(self.generation.fetch_add(1, SeqCst) + 1);
        let request = CertificateSigningRequestParams::from_der(&csr.0.clone().into()).unwrap();
        let now = OffsetDateTime::now_utc();
        let not_after = now + Duration::seconds(*self.lifetime.lock().unwrap());
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.not_before = now - Duration::days(30);
        leaf.not_after = not_after;
        leaf.serial_number = Some(SerialNumber::from_slice(&Serial::random(generation).unwrap().0));
        leaf.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}/{service}"))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf.signed_by(&request.public_key, &self.issuer).unwrap();
        let not_after = Timestamp::from_secs(not_after.unix_timestamp());
        Renewed {
            chain: vec![Bytes(leaf.der().to_vec())],
            bundle: vec![Bytes(self.root.to_vec())],
            bundle_revision: 1,
            generation,
            not_after,
            renew_at: not_after.before(std::time::Duration::from_secs(3 * 86_400)),
        }
    }

    fn collector(&self) -> CertifiedKey {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = params(&key, |params| {
            params.serial_number = Some(SerialNumber::from_slice(&Serial::random(Generation(1)).unwrap().0));
            params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}/collector/fake"))];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider().key_provider.load_private_key(der).unwrap();
        CertifiedKey::new(vec![leaf.der().clone(), self.root.clone()], key)
    }
}

fn params(_key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
    change(&mut params);
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// What the collector saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    pub(crate) enrolls: usize,
    pub(crate) rejoins: usize,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) beats: Vec<BeatNo>,
    pub(crate) facts: usize,
    pub(crate) renews: usize,
    pub(crate) byes: Vec<Goodbye>,
    pub(crate) closes: Vec<String>,
    pub(crate) csrs: HashSet<Vec<u8>>,
    pub(crate) states: Vec<SettingsState>,
    pub(crate) abouts: Vec<About>,
    pub(crate) healths: Vec<HealthReport>,
    pub(crate) progress: Vec<ProgressReport>,
}

/// How it behaves.
#[derive(Debug, Default)]
pub(crate) struct Manners {
    /// Beats are not acknowledged.
    pub(crate) mute: AtomicBool,
    /// Enrollments are refused with this code.
    pub(crate) refuse: Mutex<Option<Code>>,
    /// Enrollments are done, but the answer is lost; so often.
    pub(crate) lose_answers: AtomicUsize,
    /// The service that is enrolled.
    pub(crate) addresses: Mutex<Vec<SocketAddr>>,
    /// Renewals are not answered.
    pub(crate) no_renewal: AtomicBool,
    /// What it can do.
    pub(crate) capabilities: AtomicU64,
}

struct Shared {
    authority: Arc<Authority>,
    manners: Manners,
    seen: watch::Sender<Seen>,
    live: Mutex<Vec<(Connection, tokio::sync::mpsc::UnboundedSender<Vec<u8>>)>>,
    interval_ms: u32,
}

/// A running collector.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    endpoint: Endpoint,
    _accepting: AbortOnDropHandle<()>,
}

impl Fake {
    pub(crate) fn start(authority: &Arc<Authority>, interval_ms: u32) -> Self {
        let verifier = SidecarVerifier::new(
            std::slice::from_ref(&authority.root),
            DOMAIN.parse().unwrap(),
            Arc::clone(&authority.denied) as Arc<dyn DenySet>,
        );
        let certificate = Arc::new(Fixed(Arc::new(authority.collector())));
        let tls = collector_config(Arc::new(verifier.unwrap()), certificate, Arc::new(SystemClock)).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(None);
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let shared = Arc::new(Shared {
            authority: Arc::clone(authority),
            manners: Manners::default(),
            seen: watch::Sender::default(),
            live: Mutex::default(),
            interval_ms,
        });
        let accepting = {
            let (endpoint, shared) = (endpoint.clone(), Arc::clone(&shared));
            async move {
                while let Some(incoming) = endpoint.accept().await {
                    shared.note(|seen| seen.connections += 1);
                    let shared = Arc::clone(&shared);
                    TaskTracker::new().spawn(async move {
                        if let Ok(connection) = incoming.await {
                            shared.serve(&connection).await;
                            let closed = connection.closed().await;
                            shared.note(|seen| seen.closes.push(closed.to_string()));
                        }
                    });
                }
            }
        };
        let accepting = AbortOnDropHandle::new(TaskTracker::new().spawn(accepting));
        Self { addr: endpoint.local_addr().unwrap(), shared, endpoint, _accepting: accepting }
    }

    pub(crate) fn manners(&self) -> &Manners {
        &self.shared.manners
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until what was seen satisfies a condition; panics with the last sight after a while.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.shared.seen.subscribe();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), seen.wait_for(condition)).await;
        match waited {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => panic!("never saw {what}: {:?}", self.seen()),
        }
    }

    /// Sends a frame on every live session.
    pub(crate) fn say(&self, down: &Down) {
        self.say_bytes(&encode(down).unwrap());
    }

    /// Sends bytes on every live session.
    pub(crate) fn say_bytes(&self, frame: &[u8]) {
        for (_, sender) in self.shared.live.lock().unwrap().iter() {
            let _ = sender.send(frame.to_vec());
        }
    }

    /// Closes every live session.
    pub(crate) fn close(&self, code: Code) {
        for (connection, _) in self.shared.live.lock().unwrap().drain(..) {
            connection.close(VarInt::from_u32(code.number().into()), b"");
        }
    }

    /// Vanishes without a word.
    pub(crate) fn vanish(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    async fn serve(&self, connection: &Connection) {
        let Ok((mut send, mut recv)) = connection.accept_bi().await else { return };
        let data = connection.handshake_data().unwrap().downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
        let enrolling = data.protocol.as_deref() == Some(ALPN_ENROLL);
        let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
        let mut frames = Deframer::default();
        loop {
            let frames_down = tokio::select! {
                chunk = recv.read_chunk(usize::MAX, true) => {
                    let Ok(Some(chunk)) = chunk else { return };
                    frames.push(&chunk.bytes);
                    let mut answers = Vec::new();
                    while let Some(up) = frames.next_message::<Up>().unwrap() {
                        if let Up::Hello(_) = &up {
                            self.live.lock().unwrap().push((connection.clone(), sender.clone()));
                        }
                        assert_eq!(enrolling, matches!(up, Up::Enroll(_) | Up::Rejoin(_)), "{up:?}");
                        answers.extend(self.answer(connection, up).map(|down| encode(&down).unwrap()));
                    }
                    answers
                }
                Some(frame) = orders.recv() => vec![frame],
            };
            for frame in frames_down {
                if send.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, connection: &Connection, up: Up) -> Option<Down> {
        let server_time = SystemClock.now().wall;
        let refused = |code| Down::Refused(Refused { code, retry_after_ms: 0, server_time });
        match up {
            Up::Enroll(enroll) => {
                self.note(|seen| {
                    seen.enrolls += 1;
                    seen.csrs.insert(enroll.csr.0.clone());
                });
                prove(connection, &enroll.csr, &enroll.csr, &enroll.proof);
                if let Some(code) = *self.manners.refuse.lock().unwrap() {
                    return Some(refused(code));
                }
                if !self.authority.tokens.lock().unwrap().contains(&enroll.token) {
                    return Some(refused(Code::Denied));
                }
                let service = ServiceKey::new(enroll.kind, enroll.id.unwrap_or_else(|| "given".parse().unwrap()));
                let enrolled = self.enrolled(&enroll.csr, service);
                let lost = self.manners.lose_answers.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                if lost {
                    connection.close(VarInt::from_u32(Code::Internal.number().into()), b"");
                    return None;
                }
                Some(enrolled)
            }
            Up::Rejoin(rejoin) => {
                self.note(|seen| seen.rejoins += 1);
                Some(self.enrolled(&rejoin.csr, rejoin.service))
            }
            Up::Hello(hello) => {
                self.note(|seen| seen.hellos.push(hello));
                Some(Down::HelloAck(HelloAck {
                    version: 1,
                    capabilities: self.manners.capabilities.load(SeqCst),
                    pace: self.pace(),
                    addresses_revision: 1,
                    server_time,
                    renew_at: server_time.after(std::time::Duration::from_secs(86_400)),
                }))
            }
            Up::Beat(beat) => {
                self.note(|seen| seen.beats.push(beat.beat_no));
                let mute = self.manners.mute.load(SeqCst);
                (!mute).then(|| Down::Ack(Ack { beat_no: beat.beat_no, pace: self.pace(), retry_after_ms: 0 }))
            }
            Up::Renew(renew) => {
                self.note(|seen| seen.renews += 1);
                if self.manners.no_renewal.load(SeqCst) {
                    return Some(refused(Code::StoreUnavailable));
                }
                let service = self.seen.borrow().hellos.last().unwrap().service.clone();
                Some(Down::Renewed(Box::new(self.authority.issue(&renew.csr, &service))))
            }
            Up::Facts(_) => {
                self.note(|seen| seen.facts += 1);
                None
            }
            Up::Bye(bye) => {
                self.note(|seen| seen.byes.push(bye));
                None
            }
            Up::Settings(state) => {
                self.note(|seen| seen.states.push(*state));
                None
            }
            Up::About(about) => {
                self.note(|seen| seen.abouts.push(*about));
                None
            }
            Up::Health(report) => {
                self.note(|seen| seen.healths.push(report));
                None
            }
            Up::Progress(report) => {
                self.note(|seen| seen.progress.push(report));
                None
            }
            Up::Children(_) | Up::ChildrenGone(_) => None,
        }
    }

    fn enrolled(&self, csr: &Bytes, service: ServiceKey) -> Down {
        let list = self.manners.addresses.lock().unwrap().iter().map(|addr| (*addr).into()).collect();
        Down::Enrolled(Box::new(Enrolled {
            identity: self.authority.issue(csr, &service),
            service,
            addresses: Addresses { revision: 1, list },
            pace: self.pace(),
            server_time: SystemClock.now().wall,
        }))
    }

    fn pace(&self) -> Granted {
        Granted { pace_no: PaceNo(1), interval_ms: self.interval_ms, ttl_ms: self.interval_ms * 3 }
    }
}

/// Checks the proof of possession as a collector does.
fn prove(connection: &Connection, csr: &Bytes, signed: &Bytes, proof: &Bytes) {
    use rustls::crypto::aws_lc_rs::default_provider;
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
    let message = rollcall_common::wire::proof_message(&exporter, &signed.0);
    let request = CertificateSigningRequestParams::from_der(&csr.0.clone().into()).unwrap();
    let algorithm = default_provider()
        .signature_verification_algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP256_SHA256)
        .unwrap()
        .1[0];
    algorithm.verify_signature(request.public_key.der_bytes(), &message, &proof.0).unwrap();
}

pub(crate) fn bye(code: Code) -> Down {
    Down::Bye(Bye { code, retry_after_ms: 0 })
}

pub(crate) fn renew_now() -> Down {
    Down::Directive(Directive::RenewNow)
}
