//! The QUIC endpoint: one UDP socket and quinn's settings, nothing of what is said on it; and TCP at the same port.
//!
//! The settings bound what a hostile peer may hold (`ARCHITECTURE.md`, limits) and keep an idle connection
//! small: one bidirectional stream, no datagrams, no path-MTU discovery, no segmentation offload, no tokens,
//! no tickets. The keys of stateless resets and connection ids outlive the process, so that sidecars of a
//! killed collector hear of it with their next heartbeat.

mod reset_keys;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, ValidationTokenConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use quinn_proto::HashedConnectionIdGenerator;
use rollcall_common::lease::Pace;
use rustix::{io::Errno, net::sockopt};
use socket2::{Domain, Protocol, Socket, Type};

pub use reset_keys::{ResetKeys, ResetKeysError};

use super::listener::{self, Listener};
pub use crate::config::SOCKET_BUFFER;

const UDP: &str = "UDP";
const TCP: &str = "TCP";
/// Ports that are tried where any is welcome.
const PORT_TRIES: u32 = 32;
/// QUIC version 1; quinn would accept five drafts too.
const QUIC_V1: u32 = 1;
/// What one stream may have in flight from the peer, in bytes: two of the largest frames.
const STREAM_WINDOW: u32 = 32 * 1024;
/// What one connection may have in flight from the peer, in bytes.
const RECEIVE_WINDOW: u32 = 64 * 1024;
/// What one connection may have unacknowledged towards the peer, in bytes.
const SEND_WINDOW: u64 = 64 * 1024;
/// TLS data that arrives out of order, in bytes per connection.
const CRYPTO_BUFFER: usize = 16 * 1024;
/// Connection attempts that wait to be looked at; one more is refused by quinn.
const MAX_INCOMING: usize = 8_192;
/// What one waiting attempt may buffer, in bytes.
const INCOMING_BUFFER: u64 = 64 * 1024;
/// What all waiting attempts may buffer together, in bytes.
const INCOMING_BUFFERS: u64 = 16 * 1024 * 1024;
/// Shortest time between two stateless resets: 10,000 a second tell a whole fleet within its interval, and
/// still bound what a flood of garbage draws.
const RESET_INTERVAL: Duration = Duration::from_micros(100);
/// How long a silent connection is kept: quinn fixes this at the handshake, so that it must fit the longest
/// pace there is. Dead peers are found by their leases long before.
const IDLE: Duration = Duration::from_millis(3 * Pace::MAX_INTERVAL_MS as u64);

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointSettings {
    /// The address; an IPv6 one takes IPv4 too where it is `[::]`. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether TCP listens at the same port.
    pub tcp: bool,
    /// Whether somebody asked for that: then there is no start without it.
    pub tcp_asked: bool,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Bound {
    /// Yields connection attempts.
    pub endpoint: Endpoint,
    /// Where it listens really.
    pub address: SocketAddr,
    /// TCP at the same place, where it was asked for.
    pub tcp: Option<Listener>,
}

/// Why the endpoint cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Somebody else has the port.
    #[error(
        "UDP {listen} is taken by another process: stop it (`ss -ulpn 'sport = :{}'` names it), or listen elsewhere",
        listen.port()
    )]
    Taken {
        /// Which address.
        listen: SocketAddr,
    },
    /// Somebody else has the TCP port of that number.
    #[error(
        "TCP {listen} is taken by another process: stop it (`ss -tlpn 'sport = :{}'` names it), listen elsewhere, or \
         do without TCP (tcp_fallback = false)",
        listen.port()
    )]
    TcpTaken {
        /// Which address.
        listen: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("no interface of this host has the address {}: listen on one that has", listen.ip())]
    NotOurs {
        /// Which address.
        listen: SocketAddr,
    },
    /// The kernel speaks no IPv6.
    #[error("cannot listen on {listen}: this host has no IPv6; listen on 0.0.0.0:{}", listen.port())]
    NoIpv6 {
        /// Which address.
        listen: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {protocol} {listen}")]
    Socket {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which address.
        listen: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The TLS settings have no cipher suite for QUIC's first packets.
    #[error("the TLS settings do not fit QUIC")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

impl EndpointError {
    fn of(protocol: &'static str, listen: SocketAddr, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::ADDRINUSE) if protocol == TCP => Self::TcpTaken { listen },
            Some(Errno::ADDRINUSE) => Self::Taken { listen },
            Some(Errno::AFNOSUPPORT) if listen.is_ipv6() => Self::NoIpv6 { listen },
            Some(Errno::ADDRNOTAVAIL) if listen.is_ipv6() && listen.ip().is_unspecified() => Self::NoIpv6 { listen },
            Some(Errno::ADDRNOTAVAIL) => Self::NotOurs { listen },
            Some(_) | None => Self::Socket { protocol, listen, source },
        }
    }
}

/// Binds the sockets; they listen when this returns. Must be called within a tokio runtime, which then drives them.
///
/// # Errors
/// When the address cannot be had, and when the TLS settings do not fit QUIC.
pub fn bind(settings: EndpointSettings, tls: rustls::ServerConfig, keys: ResetKeys) -> Result<Bound, EndpointError> {
    let listen = settings.listen;
    let server = server_config(tls)?;
    let (socket, tcp) = open_both(settings)?;
    let failed = |source| EndpointError::Socket { protocol: UDP, listen, source };
    let endpoint =
        Endpoint::new(endpoint_config(keys), Some(server), socket, Arc::new(TokioRuntime)).map_err(failed)?;
    let address = endpoint.local_addr().map_err(failed)?;
    Ok(Bound { endpoint, address, tcp })
}

/// A free port of UDP may be taken in TCP, and then another one is tried; a port that was asked for is not replaced.
fn open_both(settings: EndpointSettings) -> Result<(UdpSocket, Option<Listener>), EndpointError> {
    let listen = settings.listen;
    let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let socket = open_socket(listen).map_err(|source| EndpointError::of(UDP, listen, source))?;
        if !settings.tcp {
            return Ok((socket, None));
        }
        let at = socket.local_addr().map_err(|source| EndpointError::of(UDP, listen, source))?;
        tries -= 1;
        match listener::open(at) {
            Ok(listener) => return Ok((socket, Some(listener))),
            Err(_) if tries > 0 => {}
            Err(source) if !settings.tcp_asked && Errno::from_io_error(&source) == Some(Errno::ADDRINUSE) => {
                tracing::warn!(
                    "TCP {at} is taken by another process: sidecars come over QUIC alone; free it for those whose network \
                     blocks UDP, or say tcp_fallback = false"
                );
                return Ok((socket, None));
            }
            Err(source) => return Err(EndpointError::of(TCP, at, source)),
        }
    }
}

fn open_socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    widen(&socket);
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Asks for large buffers, then insists (which takes `CAP_NET_ADMIN`), then says what the kernel left us.
fn widen(socket: &Socket) {
    // Each step may be refused; what counts is what the kernel reports in the end.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    if granted(socket.recv_buffer_size()) < SOCKET_BUFFER {
        let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER);
    }
    if granted(socket.send_buffer_size()) < SOCKET_BUFFER {
        let _ = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER);
    }
    for (buffer, limit, bytes) in [
        ("receive", "net.core.rmem_max", granted(socket.recv_buffer_size())),
        ("send", "net.core.wmem_max", granted(socket.send_buffer_size())),
    ] {
        if bytes < SOCKET_BUFFER {
            tracing::warn!(
                buffer,
                bytes,
                wanted_bytes = SOCKET_BUFFER,
                "the kernel caps the UDP {buffer} buffer, so that a reconnecting fleet loses packets: sysctl -w {limit}={SOCKET_BUFFER}",
            );
        }
    }
}

/// Linux reports twice what it granted: the other half is its own bookkeeping.
fn granted(reported: io::Result<usize>) -> usize {
    reported.map_or(0, |bytes| bytes / 2)
}

fn endpoint_config(keys: ResetKeys) -> EndpointConfig {
    let connection_ids = keys.connection_ids();
    let mut config = EndpointConfig::new(keys.into_hmac());
    config
        .supported_versions(vec![QUIC_V1])
        .min_reset_interval(RESET_INTERVAL)
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));
    config
}

/// The key of Retry tokens is fresh at each start: they live for seconds.
fn server_config(tls: rustls::ServerConfig) -> Result<ServerConfig, EndpointError> {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport()))
        .validation_token_config(tokens)
        .migration(true)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .mtu_discovery_config(None)
        // With it, each connection keeps a buffer of ten datagrams from its handshake on: 12 kB for nothing, as
        // an acknowledgement is one datagram.
        .enable_segmentation_offload(false)
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(None);
    config
}
