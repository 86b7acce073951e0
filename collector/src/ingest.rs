//! Where sidecars arrive: QUIC in, or TLS on TCP where no UDP passes; notices and requests out.
//!
//! One task accepts, one task a connection serves. Identity comes from the certificate, arrival time from
//! the collector's clock, never from a message. The gate stands right after the handshake, before any
//! stream is accepted: `rollcall-beat/1` needs a live certificate, `rollcall-enroll/1` looks at none.
//!
//! | module | owns |
//! |---|---|
//! | [`endpoint`] | the UDP socket and the transport's settings |
//! | [`listener`] | the TCP socket, and who has said nothing on it yet |
//! | `newcomer` | who came, before the handshake |
//! | [`session`] | the pure half of a heartbeat session |
//! | `carrier` | one connection, whatever carries it |
//! | `beats` | a heartbeat connection |
//! | `children` | what it says of services without a sidecar |
//! | `enroll` | an enrollment or rejoin connection |
//! | `notes` | what it says of its service and host, at a bounded rate |
//! | `orders` | what it is told to do, at any time |
//! | `stream` | frames on a connection, with their deadlines |

mod beats;
mod carrier;
mod children;
pub mod endpoint;
mod enroll;
pub mod listener;
mod newcomer;
mod notes;
mod orders;
pub mod session;
mod stream;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rollcall_common::{
    code::Code,
    identity::{Party, PeerCert},
    time::BootTime,
    wire::{ALPN_BEAT, ALPN_ENROLL, message::Addresses},
};
use rustls::ServerConfig;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Arrival, Lanes, Waiting},
    ca::Ca,
    metrics::{self, CodeLabel, ReasonLabel},
    registry::{
        Registry,
        identities::barred,
        knocks::{Knock, is_kept},
        links::Order,
        roster::{Entry, Slot},
    },
    store::rows::{Door, Why},
};

use self::{
    listener::{Caller, Doorway, Heard, Listener},
    newcomer::{Failed, Newcomer},
    stream::{Ended, Stream},
};

/// A handshake that takes longer is given up.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// The first frame, and each half-received one, must be whole within this time.
const FRAME_WITHIN: Duration = Duration::from_secs(5);
/// How long a change may take before a sidecar is told to come back.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// How often it is said that TCP has no place left.
const TELL_FULL_EVERY: Duration = Duration::from_secs(60);
/// How long open sessions get to hear that the collector stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// What every connection needs.
#[derive(Debug)]
pub struct Context {
    /// The registry.
    pub registry: Registry,
    /// Who signs.
    pub ca: Arc<Ca>,
    /// Where sidecars should dial; an empty list tells them to keep what they have.
    pub addresses: Arc<ArcSwap<Addresses>>,
    /// Admission of enrollments, rejoins, hellos and handshakes.
    pub lanes: Mutex<Lanes>,
    /// Owner of every connection's tasks.
    pub tasks: TaskTracker,
    /// The collector stops: every session is to hear of it, also one that is greeted only now.
    pub draining: CancellationToken,
    /// It waits for no connection any more.
    pub over: CancellationToken,
}

impl Context {
    /// Asks the lanes for a decision.
    fn lanes<T>(&self, decide: impl FnOnce(&mut Lanes) -> T) -> T {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let decided = decide(&mut lanes);
        let metrics = self.registry.metrics();
        metrics::set(&metrics.handshakes, lanes.in_progress());
        metrics::set(&metrics.unheard, lanes.unheard());
        decided
    }

    /// Serves a connection in a task of its own, until the collector waits no more.
    fn serve(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move { over.run_until_cancelled(serving).await });
    }

    /// What comes of it, unless the collector stops before.
    async fn unless_draining<T>(&self, doing: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
        self.draining.run_until_cancelled(doing).await.unwrap_or(Err(Ended::Broke(Code::Draining)))
    }

    /// Counts what became of somebody who asked to come in.
    fn asked<T, E>(&self, lane: &'static str, outcome: Result<T, E>) -> Result<T, E> {
        self.registry.metrics().admit(lane, if outcome.is_ok() { "admitted" } else { "refused" });
        outcome
    }

    /// Keeps a refusal that an operator can do something about.
    fn knocked(&self, knock: Knock) {
        let metrics = self.registry.metrics();
        metrics.knocks.get_or_create(&ReasonLabel { reason: knock.why.as_str() }).inc();
        let gone = self.registry.knocks().note(knock, self.registry.now().wall);
        metrics.knocks_evicted.inc_by(u64::try_from(gone).unwrap_or(u64::MAX));
    }

    fn count_refusal(&self, code: Code) {
        self.registry.metrics().refused.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }
}

/// What TCP needs.
#[derive(Debug)]
pub struct OverTcp {
    /// Where it listens.
    pub listener: Listener,
    /// The TLS that QUIC has too.
    pub tls: Arc<ServerConfig>,
    /// Open connections at most: each costs a descriptor.
    pub most: usize,
}

/// The listeners.
#[derive(Debug)]
pub struct Ingest {
    endpoint: quinn::Endpoint,
    tcp: Option<Tcp>,
    /// When it was last said that TCP has no place left.
    told_full: Option<BootTime>,
    context: Arc<Context>,
}

#[derive(Debug)]
struct Tcp {
    listener: Listener,
    tls: Arc<ServerConfig>,
    doorway: Doorway,
}

/// What a task tells the acceptor.
#[derive(Debug)]
enum Told {
    /// A handshake is over: its place may be given to one that waits.
    Freed(IpAddr),
    /// A TCP connection has begun to speak.
    Spoke(Box<listener::Hello>),
}

type Teller = mpsc::UnboundedSender<Told>;

impl Ingest {
    /// Takes a bound endpoint, and the TCP socket beside it if there is one.
    #[must_use]
    pub fn new(endpoint: quinn::Endpoint, tcp: Option<OverTcp>, context: Arc<Context>) -> Self {
        let taken = &context.registry.metrics().tcp_connections;
        let tcp = tcp.map(|OverTcp { listener, tls, most }| Tcp {
            listener,
            tls,
            doorway: Doorway::new(most, taken.clone()),
        });
        Self { endpoint, tcp, told_full: None, context }
    }

    /// Serves until stopped, then tells every sidecar and waits for them within [`DRAIN_WITHIN`].
    pub async fn run(mut self, stop: CancellationToken) {
        let mut waiting = Waiting::<Newcomer>::default();
        // Holds no more than there are places for handshakes and TCP connections.
        let (teller, mut told) = mpsc::unbounded_channel::<Told>();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.arrive(Newcomer::Quic(Box::new(incoming)), &mut waiting, &teller),
                    None => break,
                },
                (stream, from) = accept(self.tcp.as_mut()) => self.enter(stream, from, &teller, &stop),
                Some(told) = told.recv() => match told {
                    Told::Spoke(hello) => self.arrive(Newcomer::Tcp(hello), &mut waiting, &teller),
                    Told::Freed(ip) => self.free(ip, &mut waiting, &teller),
                }
            }
        }
        self.drain().await;
    }

    /// A TCP connection: its first words are waited for before it meets admission.
    fn enter(&mut self, stream: TcpStream, from: SocketAddr, teller: &Teller, stop: &CancellationToken) {
        let metrics = self.context.registry.metrics();
        let Some(tcp) = &self.tcp else { return };
        let caller = tcp.doorway.enter(stream, from);
        let Some(caller) = caller else {
            let now = self.context.registry.now().boot;
            if self.told_full.is_none_or(|at| now.since(at) >= TELL_FULL_EVERY) {
                self.told_full = Some(now);
                tracing::warn!(
                    open = metrics.tcp_connections.get(),
                    %from,
                    "a TCP connection found no place; they are counted in rollcall_admissions_total (lane tcp, refused)"
                );
            }
            metrics.admit("tcp", "refused");
            return self.context.count_refusal(Code::Busy);
        };
        let (context, teller, stop) = (Arc::clone(&self.context), teller.clone(), stop.clone());
        self.context.tasks.spawn(async move {
            let heard = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                heard = Caller::hear(caller) => heard,
            };
            let outcome = match heard {
                Heard::Hello(hello) => {
                    // The acceptor is there, or stopping.
                    let _ = teller.send(Told::Spoke(hello));
                    "admitted"
                }
                Heard::Nonsense => "nonsense",
                Heard::Left => "left",
                Heard::Late => "late",
                Heard::CrowdedOut => "crowded_out",
            };
            context.registry.metrics().admit("tcp", outcome);
        });
    }

    fn free(&self, ip: IpAddr, waiting: &mut Waiting<Newcomer>, teller: &Teller) {
        let now = self.context.registry.now().boot;
        self.context.lanes(|lanes| lanes.handshake_done(ip));
        let mut stale = Vec::new();
        let metrics = self.context.registry.metrics();
        while let Some(newcomer) = self.context.lanes(|lanes| waiting.next(lanes, now, &mut stale)) {
            metrics.admit("handshake", "admitted");
            self.shake(newcomer, teller);
        }
        metrics::set(&metrics.handshakes_waiting, waiting.len());
        for newcomer in stale {
            metrics.admit("handshake", "refused");
            self.context.count_refusal(Code::Busy);
            newcomer.ignore();
        }
    }

    fn arrive(&self, newcomer: Newcomer, waiting: &mut Waiting<Newcomer>, teller: &Teller) {
        let (ip, validated) = (newcomer.from().ip(), newcomer.is_validated());
        let now = self.context.registry.now().boot;
        let metrics = self.context.registry.metrics();
        match self.context.lanes(|lanes| lanes.arrive(ip, validated, waiting)) {
            Arrival::Proceed => {
                metrics.admit("handshake", "admitted");
                self.shake(newcomer, teller);
            }
            Arrival::Wait => {
                metrics.admit("handshake", "waited");
                waiting.push(ip, newcomer, now);
                metrics::set(&metrics.handshakes_waiting, waiting.len());
            }
            Arrival::Retry => {
                metrics.admit("handshake", "retried");
                newcomer.retry();
            }
            Arrival::Refuse => {
                metrics.admit("handshake", "refused");
                self.context.count_refusal(Code::Busy);
                newcomer.refuse();
            }
        }
    }

    fn shake(&self, newcomer: Newcomer, teller: &Teller) {
        let (context, ip) = (Arc::clone(&self.context), newcomer.from().ip());
        let place = Place { ip, teller: teller.clone() };
        let tls = self.tcp.as_ref().map(|tcp| Arc::clone(&tcp.tls));
        self.context.serve(async move {
            let shaken = newcomer.shake_hands(tls).await;
            drop(place);
            match shaken {
                Ok(stream) => welcome(&context, stream, ip).await,
                Err(failed) => {
                    context.registry.metrics().handshakes_failed.inc();
                    if let Failed::Parting(parting) = failed {
                        parting.part().await;
                    }
                }
            }
        });
    }

    async fn drain(self) {
        drop(self.tcp);
        self.context.draining.cancel();
        self.endpoint.set_server_config(None);
        self.context.registry.links().order_all(&Order::Close(Code::Draining));
        let tasks = &self.context.tasks;
        tasks.close();
        if tokio::time::timeout(DRAIN_WITHIN, tasks.wait()).await.is_err() {
            tracing::warn!(open = tasks.len(), "some connections did not end in time");
        }
        // QUIC's end with the endpoint; nothing else would end those of TCP.
        self.context.over.cancel();
        self.endpoint.close(u32::from(Code::Draining.number()).into(), b"draining");
        // Bounded by the transport: three probe timeouts.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// Who comes next over TCP; never, where nobody may.
async fn accept(tcp: Option<&mut Tcp>) -> (TcpStream, SocketAddr) {
    match tcp {
        Some(tcp) => tcp.listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The handshake is done: the gate, and then a task of its own for the session, as the handshake's is larger, and over.
async fn welcome(context: &Arc<Context>, stream: Stream, ip: IpAddr) {
    let Some(unheard) = Unheard::take(context, ip) else {
        context.count_refusal(Code::Busy);
        return stream.bye(Code::Busy, Duration::ZERO).await;
    };
    match gate(context, &stream) {
        Ok(Admitted::Enroll) => {
            context.serve(enroll::serve(Arc::clone(context), stream, unheard));
        }
        Ok(Admitted::Beat(sidecar)) => {
            context.serve(beats::serve(Arc::clone(context), stream, sidecar, unheard));
        }
        Err(code) => {
            context.count_refusal(code);
            stream.bye(code, Duration::ZERO).await;
        }
    }
}

/// A handshake's place; given back when it is dropped, however the handshake ended.
struct Place {
    ip: IpAddr,
    teller: Teller,
}

impl Drop for Place {
    fn drop(&mut self) {
        // The acceptor outlives every handshake it started, or is stopping.
        let _ = self.teller.send(Told::Freed(self.ip));
    }
}

/// The place of a connection whose first frame has not come; bounds what silent peers cost.
#[derive(Debug)]
struct Unheard {
    context: Arc<Context>,
    ip: IpAddr,
}

impl Unheard {
    fn take(context: &Arc<Context>, ip: IpAddr) -> Option<Self> {
        let place = context.lanes(|lanes| lanes.greet(ip)).then(|| Self { context: Arc::clone(context), ip });
        context.asked("greeting", place.ok_or(())).ok()
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        self.context.lanes(|lanes| lanes.greeted(self.ip));
    }
}

/// A sidecar that passed the gate.
#[derive(Debug)]
struct Sidecar {
    cert: PeerCert,
    service: rollcall_common::id::ServiceKey,
    slot: Slot,
    not_after: rollcall_common::time::Timestamp,
    /// It came with a certificate that nobody had used yet.
    fresh: bool,
    from: SocketAddr,
}

enum Admitted {
    Enroll,
    Beat(Sidecar),
}

/// The one gate: after the handshake, before any stream.
fn gate(context: &Context, stream: &Stream) -> Result<Admitted, Code> {
    let alpn = stream.protocol();
    if alpn == ALPN_ENROLL {
        return Ok(Admitted::Enroll);
    }
    if alpn != ALPN_BEAT {
        return Err(Code::Protocol);
    }
    let leaf = stream.leaf().ok_or(Code::ClientCertRequired)?;
    let cert = PeerCert::read(&leaf).map_err(|_| Code::ClientCertRequired)?;
    let Party::Service(service) = cert.peer.party.clone() else { return Err(Code::IdentityMismatch) };
    let (slot, not_after, fresh) = admits(context, &service, &cert).inspect_err(|code| {
        // The CA vouches for whoever shows this certificate.
        if is_kept(*code) {
            context.knocked(Knock {
                proven: true,
                door: Door::Hello,
                why: Why::Code(*code),
                token: None,
                kind: Some(service.kind),
                service: Some(service.id.clone()),
                parent: None,
                from: stream.remote().ip(),
            });
        }
    })?;
    Ok(Admitted::Beat(Sidecar { cert, service, slot, not_after, fresh, from: stream.remote() }))
}

/// Whether a certificate may beat now: asked at the gate, and again once the registry can reach the session.
fn admits(
    context: &Context,
    service: &rollcall_common::id::ServiceKey,
    cert: &PeerCert,
) -> Result<(Slot, rollcall_common::time::Timestamp, bool), Code> {
    let found = context.registry.read(|roster| roster.get(service).map(|entry| holds(entry, cert)));
    found.ok_or(Code::UnknownIdentity)?
}

/// An archived service is let in: its greeting reinstates it before it counts as greeted.
fn holds(entry: &Entry, cert: &PeerCert) -> Result<(Slot, rollcall_common::time::Timestamp, bool), Code> {
    if let Some(code) = barred(entry.row.status).filter(|_| !entry.row.archived) {
        return Err(code);
    }
    let identity = entry.identity.as_ref().ok_or(Code::UnknownIdentity)?;
    if identity.current.serial == cert.serial {
        return Ok((entry.slot, identity.current.not_after, false));
    }
    match &identity.pending {
        Some(pending) if pending.serial == cert.serial => Ok((entry.slot, pending.not_after, true)),
        Some(_) | None => Err(Code::SerialRefused),
    }
}
