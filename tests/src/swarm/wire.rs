//! UDP sockets that many sessions share: they count what passes, and can fall silent like a killed process.
//!
//! A process that is killed sends nothing more, not even QUIC's close, which dropping a connection would
//! send. So the doomed share sockets of their own, which are silenced first.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, Runtime as _, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use rollcall_agent::link::Dialer;
use rustix::net::sockopt;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Wanted size of the buffers each way, in bytes: thousands of sessions answer at once.
const BUFFER: usize = 4 * 1024 * 1024;
/// IP and UDP headers of a datagram over IPv4, in bytes.
const HEADERS: u64 = 28;

/// What passed, in datagrams and in bytes of UDP payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Datagrams to the collector.
    pub up_datagrams: u64,
    /// Bytes to the collector.
    pub up_bytes: u64,
    /// Datagrams from the collector.
    pub down_datagrams: u64,
    /// Bytes from the collector.
    pub down_bytes: u64,
}

impl Traffic {
    /// What passed since an earlier look.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            up_datagrams: self.up_datagrams.saturating_sub(earlier.up_datagrams),
            up_bytes: self.up_bytes.saturating_sub(earlier.up_bytes),
            down_datagrams: self.down_datagrams.saturating_sub(earlier.down_datagrams),
            down_bytes: self.down_bytes.saturating_sub(earlier.down_bytes),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            up_datagrams: self.up_datagrams + other.up_datagrams,
            up_bytes: self.up_bytes + other.up_bytes,
            down_datagrams: self.down_datagrams + other.down_datagrams,
            down_bytes: self.down_bytes + other.down_bytes,
        }
    }

    /// Datagrams both ways.
    #[must_use]
    pub fn datagrams(self) -> u64 {
        self.up_datagrams + self.down_datagrams
    }

    /// Bytes both ways, IPv4 and UDP headers included.
    #[must_use]
    pub fn wire_bytes(self) -> u64 {
        self.up_bytes + self.down_bytes + HEADERS * self.datagrams()
    }
}

/// Counts of one set of sockets.
#[derive(Debug, Default)]
struct Meter {
    up_datagrams: AtomicU64,
    up_bytes: AtomicU64,
    down_datagrams: AtomicU64,
    down_bytes: AtomicU64,
    silent: AtomicBool,
}

/// A set of sockets, each with its dialer.
#[derive(Debug)]
pub struct Wire {
    dialers: Vec<Arc<Dialer>>,
    meter: Arc<Meter>,
}

impl Wire {
    /// Binds `sockets` sockets towards a collector. On loopback each has an address of its own, as each
    /// host of a real fleet has; `first` keeps those of several sets apart.
    ///
    /// # Errors
    /// When one cannot be bound.
    pub fn bind(collector: SocketAddr, first: u8, sockets: u8) -> io::Result<Self> {
        let meter = Arc::new(Meter::default());
        let dialer = |n: u8| {
            let socket = open(local(collector.ip(), first.saturating_add(n)))?;
            let inner = TokioRuntime.wrap_udp_socket(socket)?;
            let metered = Arc::new(Metered { inner, meter: Arc::clone(&meter) });
            let mut config = EndpointConfig::default();
            config.supported_versions(vec![1]);
            let endpoint = Endpoint::new_with_abstract_socket(config, None, metered, Arc::new(TokioRuntime))?;
            Ok(Arc::new(Dialer::with_endpoint(endpoint)))
        };
        let dialers = (0..sockets.max(1)).map(dialer).collect::<io::Result<_>>()?;
        Ok(Self { dialers, meter })
    }

    /// The dialer of the nth session.
    #[must_use]
    pub fn dialer(&self, n: usize) -> Arc<Dialer> {
        let at = n % self.dialers.len();
        self.dialers.get(at).map_or_else(|| Arc::new(Dialer::new()), Arc::clone)
    }

    /// What passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let Meter { up_datagrams, up_bytes, down_datagrams, down_bytes, silent: _ } = &*self.meter;
        Traffic {
            up_datagrams: up_datagrams.load(Relaxed),
            up_bytes: up_bytes.load(Relaxed),
            down_datagrams: down_datagrams.load(Relaxed),
            down_bytes: down_bytes.load(Relaxed),
        }
    }

    /// Waits until every close is on its way; bounded.
    pub async fn settle(&self, within: Duration) {
        for dialer in &self.dialers {
            dialer.settle(within).await;
        }
    }

    /// Nothing passes any more, in either direction.
    pub fn silence(&self) {
        self.meter.silent.store(true, Relaxed);
    }
}

/// Where a socket is bound: 127.0.0.2 and following towards a collector on 127.0.0.0/8.
fn local(collector: IpAddr, n: u8) -> IpAddr {
    match collector {
        IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::new(127, 0, 0, n.saturating_add(2)).into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    let at = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    // The plain call is capped by the kernel's limit, the insisting one takes CAP_NET_ADMIN; without both,
    // figures of a storm are worse than they need to be, and nothing else.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

struct Metered {
    inner: Arc<dyn AsyncUdpSocket>,
    meter: Arc<Meter>,
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Metered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.meter.silent.load(Relaxed) {
            return Ok(());
        }
        self.inner.try_send(transmit)?;
        let bytes = transmit.contents.len();
        self.meter.up_datagrams.fetch_add(datagrams(bytes, transmit.segment_size.unwrap_or(bytes)), Relaxed);
        self.meter.up_bytes.fetch_add(wide(bytes), Relaxed);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let filled = std::task::ready!(self.inner.poll_recv(cx, bufs, meta))?;
            if self.meter.silent.load(Relaxed) {
                continue;
            }
            for one in meta.iter().take(filled) {
                self.meter.down_datagrams.fetch_add(datagrams(one.len, one.stride), Relaxed);
                self.meter.down_bytes.fetch_add(wide(one.len), Relaxed);
            }
            return Poll::Ready(Ok(filled));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Datagrams in one buffer of the kernel's segmentation offload.
fn datagrams(bytes: usize, segment: usize) -> u64 {
    wide(bytes.div_ceil(segment.max(1)))
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_once_a_datagram() {
        let traffic = Traffic { up_datagrams: 2, up_bytes: 110, down_datagrams: 1, down_bytes: 46 };
        assert_eq!(traffic.wire_bytes(), 240);
        assert_eq!(traffic.since(traffic), Traffic::default());
        assert_eq!((datagrams(1_200, 1_200), datagrams(2_500, 1_200), datagrams(0, 0)), (1, 3, 0));
    }
}
