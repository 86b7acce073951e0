//! TCP at the port of QUIC, for sidecars whose network lets no UDP pass: the socket, and what it takes until somebody
//! who came has said what TLS begins with.
//!
//! A TCP connection costs a descriptor from its first packet on, and whoever opens one need not say anything. Silent
//! ones therefore have places of their own, where the oldest yields to the newest: an honest one says its first words
//! within a round trip, so that a silent crowd fights with itself, and never with those who come over QUIC. Only
//! then does a connection meet admission like every other.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

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

/// Connections that have not said what TLS begins with; the oldest yields.
const SILENT: usize = 1_024;
/// The same of one address; its own oldest yields.
const SILENT_OF_ONE: usize = 128;
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
    silent: Arc<Mutex<Crowd>>,
}

impl Doorway {
    /// At most so many connections at once.
    pub(super) fn new(most: usize) -> Self {
        let open = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { open, silent: Arc::new(Mutex::new(Crowd::new(SILENT, SILENT_OF_ONE))) }
    }

    /// Takes a place for a connection, if there is one.
    pub(super) fn enter(&self, stream: TcpStream, from: SocketAddr) -> Option<Caller> {
        let place = Arc::clone(&self.open).try_acquire_owned().ok()?;
        // Frames are small and waited for.
        let _ = stream.set_nodelay(true);
        let (no, yields) = lock(&self.silent).begin(network(from.ip()));
        let silent = Silent { crowd: Arc::clone(&self.silent), no };
        Some(Caller { io: Measured { stream, left: HELLO_BYTES, _place: place }, from, yields, silent })
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

fn lock(crowd: &Mutex<Crowd>) -> std::sync::MutexGuard<'_, Crowd> {
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a connection before its handshake.
#[derive(Debug)]
pub(super) enum Heard {
    /// It began to speak TLS.
    Hello(Box<Hello>),
    /// It said something else, or left.
    Nonsense,
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

/// A TCP stream that is read up to a measure, and its place among all.
#[derive(Debug)]
pub(super) struct Measured {
    stream: TcpStream,
    left: usize,
    _place: OwnedSemaphorePermit,
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
