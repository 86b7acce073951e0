//! QUIC, and the only home of quinn here: sockets, dials, frames, the exporter.
//!
//! A [`Dialer`] owns the UDP sockets and may be shared by any number of sessions; a [`Link`] is one
//! connection with its one stream. Nothing here decides when to dial or what to say. A dial that
//! succeeds proves that *we* trust the peer; whether the peer accepts us is known from its first frame
//! only, since a TLS 1.3 server looks at our certificate after our side is done.

mod resolve;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{
    ClientConfig, ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, ReadError,
    RecvStream, SendStream, TransportConfig, VarInt, WriteError, crypto::rustls::QuicClientConfig,
};
use rollcall_common::{
    address::Address,
    code::Code,
    wire::{
        EXPORTER_LABEL, EXPORTER_LEN, SERVER_NAME,
        codec::{Deframer, FrameError, encode},
        message::{Down, Up},
    },
};

use crate::session::End;

/// QUIC version 1, and no other: quinn would accept drafts by default.
const QUIC_V1: u32 = 1;
/// Three times the longest permitted interval. Dead peers are found by the acknowledgement deadline, so
/// that this only frees what nobody uses any more.
const IDLE_TIMEOUT_MS: u32 = 30 * 60 * 1000;
/// Bounds what a hostile collector can make us hold; one frame is at most 16 KiB.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024;

/// How long the first address family has for itself (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// Why a link could not be made or went away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The name does not resolve.
    #[error("{address} does not resolve: {why}")]
    Resolve {
        /// What was looked up.
        address: Address,
        /// The resolver's words.
        why: String,
    },
    /// No socket of the needed family.
    #[error("no UDP socket for {remote}: {why}")]
    Socket {
        /// Where it should have led.
        remote: SocketAddr,
        /// The system's words.
        why: String,
    },
    /// The TLS settings do not fit QUIC.
    #[error("TLS settings: {0}")]
    Tls(String),
    /// The collector closed with a code.
    #[error("the collector closed: {0}")]
    Closed(Code),
    /// The collector's TLS refused us.
    #[error("the collector's TLS refused us with alert {0}")]
    Alert(u8),
    /// We refused the collector.
    #[error("{0}")]
    Distrusted(String),
    /// A frame that is none.
    #[error("the collector sent {0}")]
    Frame(#[from] FrameError),
    /// The network or the peer is gone.
    #[error("{0}")]
    Lost(String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed(code) => Self::Told(code),
            LinkError::Alert(alert) => Self::Alert(alert),
            LinkError::Distrusted(words) => Self::Distrusted(words),
            LinkError::Frame(error) => Self::Nonsense(error.to_string()),
            LinkError::Resolve { .. } | LinkError::Socket { .. } | LinkError::Tls(_) | LinkError::Lost(_) => {
                Self::Lost(error.to_string())
            }
        }
    }
}

/// The UDP sockets of a process, one per address family, bound when first needed.
#[derive(Debug, Default)]
pub struct Dialer {
    v4: Mutex<Option<Endpoint>>,
    v6: Mutex<Option<Endpoint>>,
}

impl Dialer {
    /// Binds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Over an endpoint bound elsewhere, which serves its own address family: a load generator chooses its
    /// sockets, their buffers and what is counted on them.
    #[must_use]
    pub fn over(endpoint: Endpoint) -> Self {
        let is_v4 = endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
        let (v4, v6) = if is_v4 { (Some(endpoint), None) } else { (None, Some(endpoint)) };
        Self { v4: Mutex::new(v4), v6: Mutex::new(v6) }
    }

    /// Dials a collector and opens the stream. `variant` chooses among the IP addresses of a name, which
    /// is resolved anew each time. Where the name has addresses of both families, the second family gets
    /// its chance after [`HEAD_START`]: a family that does not work costs no more than that.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent on the stream then.
    pub async fn dial(&self, address: &Address, variant: u32, tls: rustls::ClientConfig) -> Result<Link, LinkError> {
        let resolve::Choice { first, second } = resolve::choose(address, variant).await?;
        let config = client_config(tls)?;
        let Some(second) = second else { return self.connect(first, config).await };
        let mut first = std::pin::pin!(self.connect(first, config.clone()));
        if let Ok(outcome) = tokio::time::timeout(HEAD_START, &mut first).await {
            return match outcome {
                Ok(link) => Ok(link),
                Err(_) => self.connect(second, config).await,
            };
        }
        let mut second = std::pin::pin!(self.connect(second, config));
        tokio::select! {
            outcome = &mut first => match outcome {
                Ok(link) => Ok(link),
                Err(_) => second.await,
            },
            outcome = &mut second => match outcome {
                Ok(link) => Ok(link),
                Err(_) => first.await,
            },
        }
    }

    async fn connect(&self, remote: SocketAddr, config: ClientConfig) -> Result<Link, LinkError> {
        let connecting = match self.endpoint(remote)?.connect_with(config.clone(), remote, SERVER_NAME) {
            // The socket broke: take a new one, once.
            Err(ConnectError::EndpointStopping) => {
                *self.slot(remote).lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.endpoint(remote)?.connect_with(config, remote, SERVER_NAME)
            }
            other => other,
        };
        let connection = connecting.map_err(|error| LinkError::Lost(format!("{remote}: {error}")))?;
        let connection = connection.await.map_err(|error| lost(remote, &error))?;
        let (send, recv) = connection.open_bi().await.map_err(|error| lost(remote, &error))?;
        Ok(Link { remote, connection, send, recv, frames: Deframer::default() })
    }

    /// Waits until every close is on its way, so that no collector waits for a timeout; bounded.
    pub async fn settle(&self, within: Duration) {
        for slot in [&self.v4, &self.v6] {
            let endpoint = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(endpoint) = endpoint {
                // A peer that does not answer our close is no reason to stay.
                let _ = tokio::time::timeout(within, endpoint.wait_idle()).await;
            }
        }
    }

    fn slot(&self, remote: SocketAddr) -> &Mutex<Option<Endpoint>> {
        if remote.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn endpoint(&self, remote: SocketAddr) -> Result<Endpoint, LinkError> {
        let mut slot = self.slot(remote).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let local: SocketAddr =
            if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let bind = || {
            let socket = std::net::UdpSocket::bind(local)?;
            let mut config = EndpointConfig::default();
            config.supported_versions(vec![QUIC_V1]);
            Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime))
        };
        let endpoint = bind().map_err(|error| LinkError::Socket { remote, why: error.to_string() })?;
        Ok(slot.insert(endpoint).clone())
    }
}

/// One connection and its one stream. Dropping it closes the connection without a code; prefer
/// [`Link::close`].
pub struct Link {
    remote: SocketAddr,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: Deframer,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.remote)
    }
}

impl Link {
    /// The IP address and port that answered.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Keying material that only the two ends of this very connection know.
    ///
    /// # Errors
    /// When TLS cannot export it.
    pub fn exporter(&self) -> Result<[u8; EXPORTER_LEN], LinkError> {
        let mut material = [0; EXPORTER_LEN];
        self.connection
            .export_keying_material(&mut material, EXPORTER_LABEL, b"")
            .map_err(|_| LinkError::Tls("no keying material can be exported".into()))?;
        Ok(material)
    }

    /// Sends one frame. Not cancel-safe: a frame cut short spoils the stream.
    ///
    /// # Errors
    /// When the frame is too large or the connection is gone.
    pub async fn send(&mut self, up: &Up) -> Result<(), LinkError> {
        let frame = zeroize::Zeroizing::new(encode(up)?);
        self.send.write_all(&frame).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => lost(self.remote, &error),
            error @ (WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                self.why_closed().unwrap_or_else(|| LinkError::Lost(format!("{}: {error}", self.remote)))
            }
        })
    }

    /// Waits for one frame. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is gone, the stream ended, or a frame does not decode.
    pub async fn recv(&mut self) -> Result<Down, LinkError> {
        loop {
            if let Some(down) = self.frames.next_message()? {
                return Ok(down);
            }
            match self.recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => self.frames.push(&chunk.bytes),
                Ok(None) => return Err(LinkError::Lost(format!("{} ended the stream", self.remote))),
                Err(ReadError::ConnectionLost(error)) => return Err(lost(self.remote, &error)),
                Err(
                    error @ (ReadError::Reset(_)
                    | ReadError::ClosedStream
                    | ReadError::IllegalOrderedRead
                    | ReadError::ZeroRttRejected),
                ) => {
                    let words = format!("{}: {error}", self.remote);
                    return Err(self.why_closed().unwrap_or(LinkError::Lost(words)));
                }
            }
        }
    }

    /// Ends our side of the stream and waits until the peer has all of it.
    ///
    /// # Errors
    /// When the connection is gone before that.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        // An error means that it was finished before, and then the wait is what is wanted.
        let _ = self.send.finish();
        match self.send.stopped().await {
            Ok(_) => Ok(()),
            Err(error) => Err(LinkError::Lost(format!("{}: {error}", self.remote))),
        }
    }

    /// Closes the connection with a code. What was sent but not yet delivered may be lost.
    pub fn close(&self, code: Code) {
        self.connection.close(VarInt::from_u32(code.number().into()), code.as_str().as_bytes());
    }

    fn why_closed(&self) -> Option<LinkError> {
        self.connection.close_reason().map(|error| lost(self.remote, &error))
    }
}

fn client_config(tls: rustls::ClientConfig) -> Result<ClientConfig, LinkError> {
    let tls = QuicClientConfig::try_from(tls).map_err(|error| LinkError::Tls(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .keep_alive_interval(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport)).version(QUIC_V1);
    Ok(config)
}

/// Translates quinn's reasons into ours.
fn lost(remote: SocketAddr, error: &ConnectionError) -> LinkError {
    /// QUIC carries TLS alerts as 0x0100 plus the alert.
    fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
        let code = u64::from(code);
        if code >> 8 == 1 { u8::try_from(code & 0xff).ok() } else { None }
    }
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let number = u16::try_from(close.error_code.into_inner()).unwrap_or(u16::MAX);
            LinkError::Closed(number.into())
        }
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => LinkError::Alert(alert),
            None => LinkError::Lost(format!("{remote}: {error}")),
        },
        ConnectionError::TransportError(ours) if alert(ours.code).is_some() => {
            // What rustls puts before the words of our verifier tells an operator nothing.
            let words = ours.reason.strip_prefix("other error: ").unwrap_or(&ours.reason);
            LinkError::Distrusted(format!("{remote}: {words}"))
        }
        ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => LinkError::Lost(format!("{remote}: {error}")),
    }
}
