//! A session's connection over TLS on TCP.
//!
//! There is no close code: whoever ends it says so in a frame, and then ends its half in order. A socket that is
//! closed with bytes unread would take that frame back, so that the rest is read and thrown away first.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, sync::Arc, task::ready, time::Duration};

use rollcall_common::{
    lease::Pace,
    wire::{EXPORTER_LABEL, EXPORTER_LEN, codec::Deframer},
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::Gone;
use crate::ingest::listener::{Hello, Measured};

/// Bytes read at once: more than any frame that is not an enrollment.
const CHUNK: usize = 2_048;
/// How long a silent connection is kept; as for QUIC. Dead peers are found by their leases long before.
const IDLE: Duration = Duration::from_millis(3 * Pace::MAX_INTERVAL_MS as u64);
/// What is read and thrown away after the last word, in bytes: what was on its way, and no more.
const DRAIN_BYTES: usize = 64 * 1024;
/// How long the alert of a failed handshake may take to arrive.
const ALERT_WITHIN: Duration = Duration::from_millis(300);

/// The connection.
#[derive(Debug)]
pub(in crate::ingest) struct Carrier {
    tls: TlsStream<Measured>,
    remote: SocketAddr,
}

impl Carrier {
    /// Shakes hands. Deadlines are the caller's.
    ///
    /// # Errors
    /// What went wrong, and what has to be done still, after the handshake's place was given back.
    pub(in crate::ingest) async fn shake(hello: Hello, tls: Arc<ServerConfig>) -> Result<Self, (io::Error, Parting)> {
        let Hello { mut start, from } = hello;
        start.io.begin();
        match start.into_stream(tls).into_fallible().await {
            Ok(mut tls) => {
                tls.get_mut().0.done();
                Ok(Self { tls, remote: from })
            }
            Err((error, io)) => Err((error, Parting(Box::new(io)))),
        }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(super) fn protocol(&self) -> Vec<u8> {
        self.tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default()
    }

    pub(super) fn greeted(&mut self) {
        self.tls.get_mut().0.greeted();
    }

    pub(super) fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.tls.get_ref().1.peer_certificates()?.first().cloned()
    }

    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        self.tls.get_ref().1.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, Some(b"")).ok()
    }

    pub(super) async fn read(&mut self, frames: &mut Deframer) -> Result<(), Gone> {
        let tls = &mut self.tls;
        let read = poll_fn(|cx| {
            // On the stack while it is polled, so that a connection at rest keeps no buffer.
            let mut space = [0; CHUNK];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *tls).poll_read(cx, &mut buffer))?;
            frames.push(buffer.filled());
            io::Result::Ok(buffer.filled().len()).into()
        });
        match tokio::time::timeout(IDLE, read).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) | Err(_) => Err(Gone),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.tls.write_all(bytes).await.map_err(|_| Gone)?;
        self.tls.flush().await.map_err(|_| Gone)
    }

    /// Ends our half, and waits until the peer has ended its own: then it has read ours.
    pub(super) async fn finish(&mut self) {
        if self.tls.shutdown().await.is_ok() {
            self.closed().await;
        }
    }

    pub(super) async fn closed(&mut self) {
        drain(&mut self.tls).await;
    }
}

/// A connection whose handshake failed, and which is to hear why.
#[derive(Debug)]
pub(in crate::ingest) struct Parting(Box<Measured>);

impl Parting {
    /// Waits briefly until the peer has read the alert.
    pub(in crate::ingest) async fn part(mut self) {
        let parting = async {
            if self.0.shutdown().await.is_ok() {
                self.0.done();
                drain(&mut *self.0).await;
            }
        };
        let _ = tokio::time::timeout(ALERT_WITHIN, parting).await;
    }
}

/// Reads and forgets, until there is an end, or too much.
async fn drain(from: &mut (impl AsyncRead + Unpin)) {
    let (mut space, mut left) = ([0; 512], DRAIN_BYTES);
    while let Ok(read @ 1..) = from.read(&mut space).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_never_stops_talking_is_not_heard_out() {
        let mut endless = tokio::io::repeat(7).take(u64::MAX);
        let reading = tokio::time::timeout(Duration::from_secs(30), drain(&mut endless));
        assert!(reading.await.is_ok());
        assert_eq!(endless.limit(), u64::MAX - DRAIN_BYTES as u64);
        drain(&mut tokio::io::empty()).await;
    }
}
