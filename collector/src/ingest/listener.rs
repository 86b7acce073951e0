//! TCP at the port of QUIC, for sidecars whose network lets no UDP pass: the socket, and what it takes until somebody
//! who came has said what TLS begins with.
//!
//! A TCP connection costs a descriptor from its first packet on, and whoever opens one need not say anything. Silent
//! ones therefore have places of their own, where the oldest yields to the newest: an honest one says its first words
//! within a round trip, so that a silent crowd fights with itself, and never with those who come over QUIC. Only
//! then does a connection meet admission like every other. Until it is greeted it is a stranger: a share of all places
//! is closed to strangers, and most of the others to those of one network, however much they say.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_rustls::{LazyConfigAcceptor, server::StartHandshake};
use tokio_util::sync::CancellationToken;

use super::HANDSHAKE_WITHIN;
use crate::{admission::network, crowd::Crowd};

/// Connections that have not said what TLS begins with, and no more than half of all; the oldest yields.
const SILENT: usize = 1_024;
/// The same of one address, and no more than a sixteenth of all; its own oldest yields.
const SILENT_OF_ONE: usize = 128;
/// Of how many places one may be taken by the strangers of one address.
const STRANGERS_OF_ONE: usize = 8;
/// However few places there are, one address has so many.
const AT_LEAST: usize = 8;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;
/// What the kernel may hold of one connection each way, in bytes; as for QUIC, a peer that does not read costs no more.
const SOCKET_BUFFER: usize = 64 * 1024;
/// How long nothing may arrive before the kernel asks whether the peer is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_TRIES: u32 = 3;
/// How long what was sent may stay unacknowledged.
const UNACKED_FOR: Duration = Duration::from_secs(60);
/// How long nobody is accepted after the system could not: descriptors come free elsewhere.
const PAUSE: Duration = Duration::from_millis(250);
/// What is read before the peer has said what TLS begins with, in bytes; a sidecar says a few hundred.
const HELLO_BYTES: usize = 4 * 1024;
/// What is read before the handshake is done, beyond that; QUIC's bound for the same.
const HANDSHAKE_BYTES: usize = 16 * 1024;

/// The socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    pause: Option<Pin<Box<Sleep>>>,
    /// The last try failed: the same again is not told again.
    is_failing: bool,
}

/// Opens the socket; it listens when this returns.
///
/// # Errors
/// As binding does.
pub(super) fn open(listen: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of the process before us may still be closing.
    socket.set_reuse_address(true)?;
    // What is accepted inherits these.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_TRIES))?;
    socket.set_tcp_user_timeout(Some(UNACKED_FOR))?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(Listener { socket: TcpListener::from_std(socket.into())?, pause: None, is_failing: false })
}

impl Listener {
    /// Who comes next; safe to cancel. Where the system gives no more descriptors, it is asked again after a pause.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(pause) = &mut self.pause {
                pause.as_mut().await;
                self.pause = None;
            }
            match self.socket.accept().await {
                Ok(accepted) => {
                    self.is_failing = false;
                    return accepted;
                }
                Err(error) if is_of_one(&error) => {
                    tracing::debug!(%error, "a TCP connection ended before it was accepted")
                }
                Err(error) => {
                    if !self.is_failing {
                        tracing::warn!(%error, "no TCP connection can be accepted; sidecars come over QUIC as before");
                    }
                    self.is_failing = true;
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

/// The peer ended it, or its host did.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::TimedOut
    )
}

/// Errors of the connection that would have been accepted; the next one is another.
fn is_of_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// The places of TCP connections: all there may be, and among them those that have said nothing yet.
#[derive(Debug)]
pub(super) struct Doorway {
    open: Arc<Semaphore>,
    taken: Gauge,
    strangers: Arc<Mutex<Strangers>>,
    silent: Arc<Mutex<Crowd>>,
}

/// Connections that are not greeted yet, by network.
#[derive(Debug)]
struct Strangers {
    most: usize,
    of_one: usize,
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl Strangers {
    /// A quarter of the places is for those who were greeted.
    fn new(most: usize) -> Self {
        let of_one = (most / STRANGERS_OF_ONE).max(AT_LEAST);
        Self { most: most.saturating_sub(most / 4), of_one, all: 0, by_network: HashMap::new() }
    }

    fn begin(&mut self, from: IpAddr) -> Result<(), Full> {
        let of_one = self.by_network.get(&from).copied().unwrap_or_default();
        if of_one >= self.of_one {
            return Err(Full::OfOne);
        }
        if self.all >= self.most {
            return Err(Full::All);
        }
        self.all += 1;
        self.by_network.insert(from, of_one + 1);
        Ok(())
    }

    fn end(&mut self, from: IpAddr) {
        self.all = self.all.saturating_sub(1);
        if let Entry::Occupied(mut of_one) = self.by_network.entry(from) {
            *of_one.get_mut() = of_one.get().saturating_sub(1);
            if *of_one.get() == 0 {
                of_one.remove();
            }
        }
    }
}

/// Which places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    OfOne,
    All,
}

/// A stranger's place; given back when dropped.
#[derive(Debug)]
struct Stranger {
    strangers: Arc<Mutex<Strangers>>,
    from: IpAddr,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.strangers).end(self.from);
    }
}

impl Doorway {
    /// At most so many connections at once, counted there.
    pub(super) fn new(most: usize, taken: Gauge) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        let silent = Crowd::new(SILENT.min(most / 2).max(1), SILENT_OF_ONE.min(most / 16).max(AT_LEAST));
        Self {
            open: Arc::new(Semaphore::new(most)),
            taken,
            strangers: Arc::new(Mutex::new(Strangers::new(most))),
            silent: Arc::new(Mutex::new(silent)),
        }
    }

    /// Takes a place for a connection, if there is one.
    pub(super) fn enter(&self, stream: TcpStream, from: SocketAddr) -> Option<Caller> {
        let network = network(from.ip());
        let place = Arc::clone(&self.open).try_acquire_owned().map_err(|_| Full::All);
        let place = match place.and_then(|place| lock(&self.strangers).begin(network).map(|()| place)) {
            Ok(place) => Place::new(place, self.taken.clone()),
            Err(full) => {
                if full == Full::All {
                    // Whoever comes next finds the place of the one that has said nothing for longest.
                    lock(&self.silent).thin();
                }
                return None;
            }
        };
        let stranger = Some(Stranger { strangers: Arc::clone(&self.strangers), from: network });
        // Frames are small and waited for.
        let _ = stream.set_nodelay(true);
        let (no, yields) = lock(&self.silent).begin(network);
        let silent = Silent { crowd: Arc::clone(&self.silent), no };
        Some(Caller { io: Measured { stream, left: HELLO_BYTES, stranger, _place: place }, from, yields, silent })
    }
}

/// A TCP connection that has not said anything yet.
#[derive(Debug)]
pub(super) struct Caller {
    io: Measured,
    from: SocketAddr,
    yields: CancellationToken,
    silent: Silent,
}

/// A place among the silent; given back when dropped.
#[derive(Debug)]
struct Silent {
    crowd: Arc<Mutex<Crowd>>,
    no: u64,
}

impl Drop for Silent {
    fn drop(&mut self) {
        lock(&self.crowd).end(self.no);
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a connection before its handshake.
#[derive(Debug)]
pub(super) enum Heard {
    /// It began to speak TLS.
    Hello(Box<Hello>),
    /// It said something else.
    Nonsense,
    /// It left without a word.
    Left,
    /// It said nothing for too long.
    Late,
    /// It said nothing, and others came.
    CrowdedOut,
}

impl Caller {
    /// Waits until it has said what TLS begins with.
    pub(super) async fn hear(self) -> Heard {
        let Self { io, from, yields, silent: _silent } = self;
        let mut hearing = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
        let heard = tokio::select! {
            biased;
            () = yields.cancelled() => return Heard::CrowdedOut,
            heard = tokio::time::timeout(HANDSHAKE_WITHIN, &mut hearing) => heard,
        };
        match heard {
            Ok(Ok(start)) => Heard::Hello(Box::new(Hello { start, from })),
            Ok(Err(error)) if is_gone(&error) => Heard::Left,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "a TCP connection does not speak TLS");
                Heard::Nonsense
            }
            Err(_) => Heard::Late,
        }
    }
}

/// A TCP connection that has said what TLS begins with; its handshake has not begun.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) start: StartHandshake<Measured>,
    pub(super) from: SocketAddr,
}

/// A connection's place among all; given back when dropped.
#[derive(Debug)]
struct Place {
    taken: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, taken: Gauge) -> Self {
        taken.inc();
        Self { taken, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.dec();
    }
}

/// A TCP stream that is read up to a measure, and its place among all.
#[derive(Debug)]
pub(super) struct Measured {
    stream: TcpStream,
    left: usize,
    /// Until it is greeted.
    stranger: Option<Stranger>,
    _place: Place,
}

impl Measured {
    /// The handshake begins.
    pub(super) fn begin(&mut self) {
        self.left = self.left.saturating_add(HANDSHAKE_BYTES);
    }

    /// The handshake is done: frames have bounds of their own.
    pub(super) fn done(&mut self) {
        self.left = usize::MAX;
    }

    /// It is known who is there.
    pub(super) fn greeted(&mut self) {
        self.stranger = None;
    }
}

impl AsyncRead for Measured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake without an end")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.left < usize::MAX {
            self.left = self.left.saturating_sub(buffer.filled().len().saturating_sub(before));
        }
        read
    }
}

impl AsyncWrite for Measured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    /// A connection as the doorway sees it; who it is from is said, as all of these come from here.
    async fn knock(doorway: &Doorway, listener: &TcpListener, from: u8) -> (Option<Caller>, TcpStream) {
        let near = TcpSocket::new_v4().unwrap().connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (doorway.enter(far, ([192, 0, 2, from], 4_711).into()), near)
    }

    #[tokio::test]
    async fn one_address_takes_its_share_of_strangers_and_greeted_ones_do_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let doorway = Doorway::new(64, Gauge::default());
        let mut kept = Vec::new();
        for _ in 0..8 {
            let (caller, near) = knock(&doorway, &listener, 1).await;
            kept.push((caller.expect("a share"), near));
        }
        let (ninth, _near) = knock(&doorway, &listener, 1).await;
        assert!(ninth.is_none(), "the share of one address is taken");
        let (other, _near) = knock(&doorway, &listener, 2).await;
        assert!(other.is_some(), "and another one has its own");
        for (caller, _) in &mut kept {
            caller.io.greeted();
        }
        let (again, _near) = knock(&doorway, &listener, 1).await;
        assert!(again.is_some(), "whoever is greeted is no stranger");
        assert_eq!(doorway.taken.get(), 10);
        drop((kept, other, again));
        assert_eq!(doorway.taken.get(), 0);
        assert!(lock(&doorway.strangers).by_network.is_empty());
    }

    #[tokio::test]
    async fn a_silent_crowd_of_many_addresses_yields_when_all_places_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let doorway = Doorway::new(32, Gauge::default());
        let mut kept = Vec::new();
        for from in 0..24 {
            kept.push(knock(&doorway, &listener, from).await);
        }
        let yielding = |kept: &[(Option<Caller>, TcpStream)]| {
            kept.iter().filter(|(caller, _)| caller.as_ref().is_some_and(|caller| caller.yields.is_cancelled())).count()
        };
        assert_eq!(yielding(&kept), 8, "half of the places are for those who speak");
        let (honest, _near) = knock(&doorway, &listener, 99).await;
        assert!(honest.is_none(), "a quarter is for those who were greeted");
        assert_eq!(yielding(&kept), 9, "the next one finds a place");
        kept.retain(|(caller, _)| caller.as_ref().is_some_and(|caller| !caller.yields.is_cancelled()));
        let (honest, _near) = knock(&doorway, &listener, 99).await;
        assert!(honest.is_some());
    }
}
