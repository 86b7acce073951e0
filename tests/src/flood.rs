//! Handshakes that are begun and never finished, from any address of this host.
//!
//! First flights are real ones, made by `quinn_proto` without a socket of its own, so that a collector spends
//! on them what it spends on a newcomer. [`Flood::bent`] spoils the transport parameters inside.

use std::{
    any::Any,
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionId, Endpoint, EndpointConfig, Side, TransportError,
    crypto::{
        ClientConfig as CryptoConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        rustls::QuicClientConfig,
    },
    transport_parameters::TransportParameters,
};
use rollcall_common::{
    identity::{
        Pin,
        tls::{Trust, enroll_config},
    },
    time::SystemClock,
    wire::SERVER_NAME,
};

use crate::world::TRUST_DOMAIN;

/// TLS extension number of QUIC transport parameters, and one that follows its length.
const PARAMETERS: [u8; 2] = [0x00, 0x39];

/// Somebody who begins handshakes.
pub struct Flood {
    endpoint: Endpoint,
    tls: Arc<QuicClientConfig>,
    target: SocketAddr,
    sent: usize,
}

impl fmt::Debug for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flood({} bytes to {})", self.sent, self.target)
    }
}

impl Flood {
    /// Towards a collector.
    ///
    /// # Errors
    /// When rustls refuses its settings.
    pub fn new(target: SocketAddr) -> Result<Self> {
        // Nothing is ever verified: no answer is read.
        let tls = enroll_config(Trust::Pin(Pin([0; 32])), TRUST_DOMAIN.parse()?, Arc::new(SystemClock))?;
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        Ok(Self { endpoint, tls: Arc::new(QuicClientConfig::try_from(tls)?), target, sent: 0 })
    }

    /// A socket on an address, for [`Self::half_open`] and [`Self::bent`].
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn socket(ip: IpAddr) -> Result<UdpSocket> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Begins one handshake from this socket and leaves it at that.
    ///
    /// # Errors
    /// When nothing can be sent.
    pub fn half_open(&mut self, from: &UdpSocket) -> Result<()> {
        let config = ClientConfig::new(Arc::clone(&self.tls) as _);
        self.begin(from, config)
    }

    /// As [`Self::half_open`], with transport parameters that turn into nonsense after so many bytes.
    ///
    /// # Errors
    /// When nothing can be sent.
    pub fn bent(&mut self, from: &UdpSocket, after: usize) -> Result<()> {
        let config = ClientConfig::new(Arc::new(Bender { tls: Arc::clone(&self.tls), after }));
        self.begin(from, config)
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    #[expect(clippy::disallowed_methods, reason = "quinn_proto's timers want an Instant; none of them is ever awaited")]
    fn begin(&mut self, from: &UdpSocket, config: ClientConfig) -> Result<()> {
        let now = Instant::now();
        let (_, mut connection) = self.endpoint.connect(now, config, self.target, SERVER_NAME)?;
        let mut datagram = Vec::new();
        let transmit = connection.poll_transmit(now, 1, &mut datagram).context("nothing to send")?;
        let first = datagram.get(..transmit.size).context("a short datagram")?;
        self.sent += from.send_to(first, self.target)?;
        Ok(())
    }
}

/// Whatever has arrived on a socket.
///
/// # Errors
/// When the socket fails.
pub fn read_all(socket: &UdpSocket) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut buffer = [0; 2_048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => all.push(buffer.get(..length).unwrap_or_default().to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes sessions that spoil their own greeting.
struct Bender {
    tls: Arc<QuicClientConfig>,
    after: usize,
}

impl CryptoConfig for Bender {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> std::result::Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.tls).start_session(version, server_name, params)?;
        Ok(Box::new(Bent { inner, after: self.after }))
    }
}

struct Bent {
    inner: Box<dyn Session>,
    after: usize,
}

/// Fills the transport parameters of a ClientHello with ones, from a place on: numbers that promise far more
/// than follows.
fn bend(hello: &mut [u8], after: usize) {
    let found = hello.windows(4).rposition(|window| {
        let length =
            window.get(2..).map_or(0, |length| length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
        window.starts_with(&PARAMETERS) && (8..512).contains(&length)
    });
    let Some(at) = found else { return };
    let Some(length) = hello.get(at + 2..at + 4).map(|l| l.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    else {
        return;
    };
    let end = (at + 4 + length).min(hello.len());
    if let Some(rest) = hello.get_mut((at + 4 + after).min(end)..end) {
        rest.fill(0xff);
    }
}

impl Session for Bent {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buf);
        bend(buf, self.after);
        keys
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> std::result::Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> std::result::Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> std::result::Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_bent_and_nothing_else() {
        let mut hello = vec![1, 2, 0x00, 0x39, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9];
        bend(&mut hello, 3);
        assert_eq!(hello, [1, 2, 0x00, 0x39, 0x00, 0x08, 1, 2, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 9, 9]);
    }
}
