//! What carries a session: bytes in order both ways, who is at the other end, and an end with a reason.
//!
//! `stream` makes frames of its bytes and the gate looks at who comes; neither knows what carries them. Nothing here
//! has a deadline of its own: `stream` sets them all.

mod quic;
pub(super) mod tcp;

use std::net::SocketAddr;

use rollcall_common::{
    code::Code,
    wire::{EXPORTER_LEN, Transport, codec::Deframer},
};
use rustls::pki_types::CertificateDer;

/// The peer is gone; there is nobody to tell.
#[derive(Debug)]
pub(super) struct Gone;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) enum Carrier {
    /// Over QUIC.
    Quic(quic::Carrier),
    /// Over TLS on TCP. Boxed: most are not.
    Tcp(Box<tcp::Carrier>),
}

impl From<quinn::Connection> for Carrier {
    fn from(connection: quinn::Connection) -> Self {
        Self::Quic(quic::Carrier::new(connection))
    }
}

impl From<tcp::Carrier> for Carrier {
    fn from(connection: tcp::Carrier) -> Self {
        Self::Tcp(Box::new(connection))
    }
}

impl Carrier {
    /// What carries it.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Tcp(_) => Transport::Tcp,
        }
    }

    /// Where it comes from.
    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Self::Quic(quic) => quic.remote(),
            Self::Tcp(tcp) => tcp.remote(),
        }
    }

    /// The protocol that was agreed on; empty where there is none.
    pub(super) fn protocol(&self) -> Vec<u8> {
        match self {
            Self::Quic(quic) => quic.protocol(),
            Self::Tcp(tcp) => tcp.protocol(),
        }
    }

    /// The certificate that the peer showed, if it showed one.
    pub(super) fn leaf(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::Quic(quic) => quic.leaf(),
            Self::Tcp(tcp) => tcp.leaf(),
        }
    }

    /// Keying material that only the two ends of this very connection know.
    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        match self {
            Self::Quic(quic) => quic.exporter(),
            Self::Tcp(tcp) => tcp.exporter(),
        }
    }

    /// It is known who is there.
    pub(super) fn greeted(&mut self) {
        match self {
            Self::Quic(_) => {}
            Self::Tcp(tcp) => tcp.greeted(),
        }
    }

    /// Waits until bytes can flow.
    pub(super) async fn open(&mut self) -> Result<(), Gone> {
        match self {
            Self::Quic(quic) => quic.open().await,
            Self::Tcp(_) => Ok(()),
        }
    }

    /// Waits for bytes and adds them; safe to cancel.
    pub(super) async fn read(&mut self, frames: &mut Deframer) -> Result<(), Gone> {
        match self {
            Self::Quic(quic) => quic.read(frames).await,
            Self::Tcp(tcp) => tcp.read(frames).await,
        }
    }

    /// Hands all the bytes on.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match self {
            Self::Quic(quic) => quic.write(bytes).await,
            Self::Tcp(tcp) => tcp.write(bytes).await,
        }
    }

    /// Ends our half, and waits until the peer has all of it.
    pub(super) async fn finish(&mut self) {
        match self {
            Self::Quic(quic) => quic.finish().await,
            Self::Tcp(tcp) => tcp.finish().await,
        }
    }

    /// Waits until the peer has left.
    pub(super) async fn closed(&mut self) {
        match self {
            Self::Quic(quic) => quic.closed().await,
            Self::Tcp(tcp) => tcp.closed().await,
        }
    }

    /// Ends it, with a code where what carries it has room for one.
    pub(super) fn close(self, code: Code) {
        match self {
            Self::Quic(quic) => quic.close(code),
            // What is said last is a frame; dropping the socket ends it.
            Self::Tcp(_) => {}
        }
    }
}
