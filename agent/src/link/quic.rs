//! A link over QUIC, and the only home of quinn here: the UDP sockets, one connection with its one stream.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{
    ClientConfig, ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, ReadError,
    RecvStream, SendStream, TransportConfig, VarInt, WriteError, crypto::rustls::QuicClientConfig,
};
use rollcall_common::{
    code::Code,
    wire::{EXPORTER_LABEL, EXPORTER_LEN, SERVER_NAME, codec::Deframer},
};

use super::LinkError;

/// QUIC version 1, and no other: quinn would accept drafts by default.
const QUIC_V1: u32 = 1;
/// Three times the longest permitted interval. Dead peers are found by the acknowledgement deadline, so
/// that this only frees what nobody uses any more.
const IDLE_TIMEOUT_MS: u32 = 30 * 60 * 1000;
/// Bounds what a hostile collector can make us hold; one frame is at most 16 KiB.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024;

/// The UDP sockets of a process, one per address family, bound when first needed.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    v4: Mutex<Option<Endpoint>>,
    v6: Mutex<Option<Endpoint>>,
}

impl Sockets {
    /// Over one that was bound elsewhere.
    pub(super) fn over(endpoint: Endpoint) -> Self {
        let is_v4 = endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
        let (v4, v6) = if is_v4 { (Some(endpoint), None) } else { (None, Some(endpoint)) };
        Self { v4: Mutex::new(v4), v6: Mutex::new(v6) }
    }

    /// Shakes hands and opens the stream.
    pub(super) async fn connect(&self, remote: SocketAddr, config: ClientConfig) -> Result<Wire, LinkError> {
        let connecting = match self.endpoint(remote)?.connect_with(config.clone(), remote, SERVER_NAME) {
            // The socket broke: take a new one, once.
            Err(ConnectError::EndpointStopping) => {
                *self.slot(remote).lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.endpoint(remote)?.connect_with(config, remote, SERVER_NAME)
            }
            other => other,
        };
        let connection = connecting.map_err(|error| LinkError::Lost(format!("{remote}: {error}")))?;
        let connection = connection.await.map_err(|error| unmet(remote, &error))?;
        let (send, recv) = connection.open_bi().await.map_err(|error| lost(remote, &error))?;
        Ok(Wire { remote, connection, send, recv })
    }

    /// Waits until every close is on its way; bounded.
    pub(super) async fn settle(&self, within: Duration) {
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

/// One connection and its one stream.
#[derive(Debug)]
pub(super) struct Wire {
    remote: SocketAddr,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
}

impl Wire {
    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        let mut material = [0; EXPORTER_LEN];
        self.connection.export_keying_material(&mut material, EXPORTER_LABEL, b"").ok()?;
        Some(material)
    }

    pub(super) async fn write(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        self.send.write_all(frame).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => lost(self.remote, &error),
            error @ (WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                self.why_closed().unwrap_or_else(|| LinkError::Lost(format!("{}: {error}", self.remote)))
            }
        })
    }

    /// Waits for bytes and adds them. Cancel-safe.
    pub(super) async fn read(&mut self, frames: &mut Deframer) -> Result<(), LinkError> {
        match self.recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => {
                frames.push(&chunk.bytes);
                Ok(())
            }
            Ok(None) => Err(LinkError::Lost(format!("{} ended the stream", self.remote))),
            Err(ReadError::ConnectionLost(error)) => Err(lost(self.remote, &error)),
            Err(
                error @ (ReadError::Reset(_)
                | ReadError::ClosedStream
                | ReadError::IllegalOrderedRead
                | ReadError::ZeroRttRejected),
            ) => {
                let words = format!("{}: {error}", self.remote);
                Err(self.why_closed().unwrap_or(LinkError::Lost(words)))
            }
        }
    }

    pub(super) async fn finish(&mut self) -> Result<(), LinkError> {
        // An error means that it was finished before, and then the wait is what is wanted.
        let _ = self.send.finish();
        match self.send.stopped().await {
            Ok(_) => Ok(()),
            Err(error) => Err(LinkError::Lost(format!("{}: {error}", self.remote))),
        }
    }

    pub(super) fn close(&self, code: Code) {
        self.connection.close(VarInt::from_u32(code.number().into()), code.as_str().as_bytes());
    }

    fn why_closed(&self) -> Option<LinkError> {
        self.connection.close_reason().map(|error| lost(self.remote, &error))
    }
}

/// QUIC's settings around those of TLS.
pub(super) fn settings(tls: rustls::ClientConfig) -> Result<ClientConfig, LinkError> {
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

/// TLS alert 120: whoever answers has none of our protocols.
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why a handshake was not done. What answers over UDP and is no collector is as good as nobody: something on the way
/// may have taken the port.
fn unmet(remote: SocketAddr, error: &ConnectionError) -> LinkError {
    match error {
        ConnectionError::TimedOut | ConnectionError::VersionMismatch => {
            LinkError::Unanswered(format!("{remote} over QUIC: {error}"))
        }
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::TransportError(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => {
            let lost = lost(remote, error);
            if lost != LinkError::Alert(NO_APPLICATION_PROTOCOL) {
                return lost;
            }
            LinkError::Unanswered(format!("{remote}: what answers over UDP there is no collector"))
        }
    }
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
