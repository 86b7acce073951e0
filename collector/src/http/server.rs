//! The listener: connections under a cap and a timer, and a stop that drains.
//!
//! It owns sockets and tasks and knows nothing of routes, nor how a handshake goes. When the cap is reached, one
//! that keeps us waiting yields to a newcomer; where all are being served, new connections wait in the kernel's
//! backlog. A connection that sends no whole head within [`HEAD_WITHIN`] is closed, idle ones included.

mod hall;
mod seat;
mod whole;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(super) use self::seat::Paced;
pub(super) use self::seat::{Seat, Seated};
use self::{
    hall::{Guest, Hall},
    whole::{Arriving, Leaving},
};
use super::{
    Settings, State, local,
    tls::{Certificates, Place},
};
use crate::admission::network;

/// How long a request's head may take, the wait for it included.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers in a head.
const MAX_HEADERS: usize = 64;
/// Pause after a failed accept: mostly there are no file descriptors left, and trying at once helps nobody.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a stream's farewell may take at a stop.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);
/// Most bytes that the kernel holds for a peer that reads slowly, as asked for.
const SEND_BUFFER: usize = 256 * 1024;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    connections: usize,
    write_within: Duration,
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { connections: settings.connections, write_within: settings.write_within }
    }
}

/// Why the listener did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (http_listen): {source}{}", hint(source))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    let hints = [
        (io::ErrorKind::AddrInUse, "; another process has it: stop that one, or choose another http_listen"),
        (io::ErrorKind::PermissionDenied, "; ports below 1024 need a privilege"),
        (io::ErrorKind::AddrNotAvailable, "; no interface has that address"),
    ];
    hints.into_iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, hint)| hint)
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// Over the network.
    Net(SocketAddr),
    /// Over the administrators' socket, from a user that the kernel names.
    Local(u32),
}

impl Peer {
    /// The address that is counted; whoever comes over the socket is on this host.
    pub(super) fn ip(self) -> IpAddr {
        match self {
            Self::Net(address) => address.ip(),
            Self::Local(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

/// A running server. Dropping it ends everything at once; [`Server::stop`] lets requests finish.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    certificates: Option<Arc<Certificates>>,
    local_door: bool,
}

impl Server {
    pub(super) async fn bind(
        address: SocketAddr,
        door: Option<UnixListener>,
        router: Router,
        state: Arc<State>,
        bounds: Bounds,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (certificates, local_door) = (state.certificates.clone(), door.is_some());
        if let Some(certificates) = &certificates {
            let registry = state.registry.clone();
            tasks.spawn(Arc::clone(certificates).watch(move || registry.now().wall, stop.clone()));
        }
        if let Some(door) = door {
            tasks.spawn(local::serve(door, router.clone(), stop.clone(), bounds.write_within));
        }
        let (uses, registry) = (Arc::clone(&state), state.registry.clone());
        let stopping = stop.clone();
        tasks.spawn(async move { uses.uses.keep(registry, stopping).await });
        tasks.spawn(Arc::clone(&state.oidc).run(stop.clone()));
        let room = Arc::new(Semaphore::new(bounds.connections));
        let accepting = Accepting { listener, router, state, stop: stop.clone(), room, bounds };
        tasks.spawn(accepting.run());
        Ok(Self { address: bound, stop, tasks, certificates, local_door })
    }

    /// The real address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks HTTPS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.certificates.is_some()
    }

    /// Whether the administrators' socket listens.
    #[must_use]
    pub fn has_local_door(&self) -> bool {
        self.local_door
    }

    /// Has the certificate read again; answers whether there is one.
    pub fn reload(&self) -> bool {
        self.certificates.as_ref().inspect(|certificates| certificates.reload()).is_some()
    }

    /// Takes no more connections, lets the requests in flight finish, and cuts off at the deadline.
    pub async fn stop(mut self, deadline: Duration) {
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::info!("HTTP requests were still running at the deadline and were cut off");
        }
        self.tasks.shutdown().await;
    }
}

struct Accepting {
    listener: TcpListener,
    router: Router,
    state: Arc<State>,
    stop: CancellationToken,
    room: Arc<Semaphore>,
    bounds: Bounds,
}

impl Accepting {
    /// Runs until it is told to stop and its last connection has ended. Dropping it aborts them.
    async fn run(self) {
        let mut connections = JoinSet::new();
        let (hall, idle) = (Arc::new(Hall::default()), Arc::new(Notify::new()));
        let (mut newcomer, mut made) = (None, false);
        loop {
            if newcomer.is_some() && !made && self.room.available_permits() == 0 {
                made = hall.make_room();
                self.state.counts.connections_yielded.inc_by(u64::from(made));
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = self.listener.accept(), if newcomer.is_none() => match accepted {
                    Ok((stream, peer)) => {
                        self.state.counts.connections.inc();
                        prepare(&stream);
                        newcomer = Some((stream, peer));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an HTTP connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                permit = Arc::clone(&self.room).acquire_owned(), if newcomer.is_some() => {
                    let Some((stream, peer)) = newcomer.take() else { continue };
                    made = false;
                    let seat = Arc::new(Seat::taken(Arc::clone(&self.room), permit.ok()).tells(&idle));
                    let guest = hall.enter(network(peer.ip()), Arc::clone(&seat));
                    let seat = (seat, guest, self.bounds.write_within);
                    let place = self.state.certificates.as_ref().map(|certificates| certificates.enter(peer.ip()));
                    let ways = (self.router.clone(), self.stop.clone());
                    connections.spawn(open((stream, place), peer, seat, Arc::clone(&self.state), ways));
                }
                // One that was served keeps us waiting now.
                () = idle.notified(), if newcomer.is_some() && !made => {}
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

fn prepare(stream: &TcpStream) {
    // Answers are whole: waiting for more to send only adds delay.
    let _ = stream.set_nodelay(true);
    // Where this does not work the kernel holds more for a slow peer, and nothing else is different.
    let _ = socket2::SockRef::from(stream).set_send_buffer_size(SEND_BUFFER);
}

async fn open(
    (stream, place): (TcpStream, Option<Place>),
    peer: SocketAddr,
    (seat, _guest, within): (Arc<Seat>, Guest, Duration),
    state: Arc<State>,
    (router, stop): (Router, CancellationToken),
) {
    let caller = (Peer::Net(peer), Arc::clone(&seat));
    match state.certificates.as_ref().zip(place) {
        None => serve(Paced::new(stream, within, seat), caller, router, stop).await,
        Some((certificates, place)) => {
            let shaken = tokio::select! {
                shaken = certificates.shake(stream, place, &stop) => shaken,
                _ = seat.asked_to_yield() => None,
            };
            if let Some(stream) = shaken {
                serve(Paced::new(stream, within, seat), caller, router, stop).await;
            }
        }
    }
}

/// Serves one connection until it ends or the server stops.
pub(super) async fn serve<S>(stream: Paced<S>, (peer, seat): (Peer, Arc<Seat>), router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let held = Arc::clone(&seat);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&held));
        let (router, seat) = (router.clone(), Arc::clone(&held));
        async move {
            let request = request.map(|body| Body::new(Arriving::new(body, Arc::clone(&seat))));
            let answer = router.oneshot(request).await;
            answer.map(|answer| answer.map(|body| Leaving::new(body, seat)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        at_once = seat.asked_to_yield() => {
            if at_once {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            if seat.is_stream() {
                // It has its farewell in hand; one that does not take it has no claim to more.
                match tokio::time::timeout(FAREWELL_WITHIN, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            } else {
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?peer, %error, "an HTTP connection ended early");
    }
}
