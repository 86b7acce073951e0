//! The UDP socket under the endpoint: it lets datagrams gather for a moment before they are read.
//!
//! Heartbeats of a fleet arrive one by one, and waking up for each costs more than all the rest of it. So
//! once something can be read, nothing is read for [`GATHER`]; then everything is, in one go. A socket that
//! is never empty is never waited for, so that the pause costs latency when there is little to do, and
//! nothing when there is much. The kernel's buffer holds what comes meanwhile.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Sleep, sleep},
};

/// How long datagrams gather: far below any pace, and long enough for several of a busy fleet.
pub(super) const GATHER: Duration = Duration::from_millis(3);

/// The socket.
#[derive(Debug)]
pub(super) struct Gathering {
    io: UdpSocket,
    state: UdpSocketState,
    reading: Mutex<Reading>,
}

/// How far the reader is.
#[derive(Debug)]
enum Reading {
    /// The socket was found empty.
    Empty,
    /// Something came; more may come until then.
    Gathering(Pin<Box<Sleep>>),
    /// It is read until it is empty.
    Draining,
}

impl Gathering {
    /// Takes a bound, non-blocking socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the runtime or the kernel does not take it.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state, reading: Mutex::new(Reading::Empty) })
    }
}

impl AsyncUdpSocket for Gathering {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Only the endpoint's driver reads.
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &mut *reading {
                Reading::Empty => {
                    ready!(self.io.poll_recv_ready(cx))?;
                    *reading = Reading::Gathering(Box::pin(sleep(GATHER)));
                }
                Reading::Gathering(until) => {
                    ready!(until.as_mut().poll(cx));
                    *reading = Reading::Draining;
                }
                Reading::Draining => {
                    let read = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
                    match read {
                        Ok(count) => return Poll::Ready(Ok(count)),
                        // Whatever else the kernel reports belongs to one datagram, and is over with it.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => *reading = Reading::Empty,
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room to send. Any number may wait for one socket, each with a future of its own.
struct Writable {
    socket: Arc<Gathering>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let outcome = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn receive(socket: &Gathering) -> (usize, usize) {
        let mut room = vec![vec![0; 2_048]; 8];
        let mut bufs: Vec<_> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut meta = [RecvMeta::default(); 8];
        let count = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
        (count, meta.iter().take(count).map(|meta| meta.len).sum())
    }

    fn pair() -> (Gathering, std::net::UdpSocket) {
        let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        bound.set_nonblocking(true).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(bound.local_addr().unwrap()).unwrap();
        (Gathering::new(bound).unwrap(), sender)
    }

    #[tokio::test]
    async fn datagrams_that_gathered_come_in_one_go() {
        let (socket, sender) = pair();
        for round in 0..3 {
            for _ in 0..5 {
                sender.send(b"beat").unwrap();
            }
            assert_eq!(receive(&socket).await, (5, 20), "round {round}");
        }
    }

    #[tokio::test]
    async fn room_to_send_is_found() {
        let (socket, _sender) = pair();
        let mut writable = Arc::new(socket).create_io_poller();
        for _ in 0..3 {
            poll_fn(|cx| writable.as_mut().poll_writable(cx)).await.unwrap();
        }
    }
}
