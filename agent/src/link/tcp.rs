//! A link over TLS on TCP, for networks that let no UDP pass.
//!
//! There is no close code: what a collector says last is a frame, and what its TLS says is an alert. Closing is
//! dropping the socket.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, sync::Arc, task::ready};

use rollcall_common::wire::{EXPORTER_LABEL, EXPORTER_LEN, SERVER_NAME, codec::Deframer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::LinkError;

/// Bytes read at once: more than any frame that carries no certificate.
const CHUNK: usize = 2_048;

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    remote: SocketAddr,
    tls: TlsStream<TcpStream>,
}

/// Connects and shakes hands.
pub(super) async fn connect(remote: SocketAddr, tls: Arc<ClientConfig>) -> Result<Wire, LinkError> {
    let stream = TcpStream::connect(remote).await;
    let stream = stream.map_err(|error| LinkError::Unanswered(format!("{remote} over TCP: {error}")))?;
    // Frames are small and waited for.
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| LinkError::Tls(error.to_string()))?;
    let offered = tls.alpn_protocols.clone();
    let tls = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| unmet(remote, &error))?;
    // QUIC demands that a protocol is agreed on; TLS alone does not.
    if tls.get_ref().1.alpn_protocol().is_none_or(|agreed| !offered.iter().any(|one| one == agreed)) {
        let words = format!("{remote}: what answers over TCP there does not speak our protocol");
        return Err(LinkError::Distrusted(words));
    }
    Ok(Wire { remote, tls })
}

impl Wire {
    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        self.tls.get_ref().1.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, Some(b"")).ok()
    }

    pub(super) async fn write(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let written = async {
            self.tls.write_all(frame).await?;
            self.tls.flush().await
        };
        written.await.map_err(|error| lost(self.remote, &error))
    }

    /// Waits for bytes and adds them. Cancel-safe.
    pub(super) async fn read(&mut self, frames: &mut Deframer) -> Result<(), LinkError> {
        let tls = &mut self.tls;
        let read = poll_fn(|cx| {
            // On the stack while it is polled, so that a connection at rest keeps no buffer.
            let mut space = [0; CHUNK];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *tls).poll_read(cx, &mut buffer))?;
            frames.push(buffer.filled());
            io::Result::Ok(buffer.filled().len()).into()
        });
        match read.await {
            Ok(0) => Err(LinkError::Lost(format!("{} ended the connection", self.remote))),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(self.remote, &error)),
        }
    }

    /// Ends our half.
    pub(super) async fn shutdown(&mut self) -> Result<(), LinkError> {
        self.tls.shutdown().await.map_err(|error| lost(self.remote, &error))
    }
}

/// Translates what went wrong before the peer has proven who it is: no alert is a collector's word yet, as anybody in
/// between could have said it. A collector that refuses our certificate says so after our side of the handshake is done.
fn unmet(remote: SocketAddr, error: &io::Error) -> LinkError {
    let met = lost(remote, error);
    if let LinkError::Alert(alert) = met {
        let words = format!("{remote}: what answers over TCP there ends the handshake with alert {alert}");
        return LinkError::Distrusted(words);
    }
    met
}

/// Translates the system's and rustls' reasons into ours.
fn lost(remote: SocketAddr, error: &io::Error) -> LinkError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) => LinkError::Alert(u8::from(*alert)),
        // What rustls puts before the words of our verifier tells an operator nothing.
        Some(rustls::Error::Other(words)) => LinkError::Distrusted(format!("{remote}: {words}")),
        Some(rustls::Error::InvalidMessage(_)) => {
            LinkError::Distrusted(format!("{remote}: what answers over TCP there does not speak TLS"))
        }
        Some(error) => LinkError::Distrusted(format!("{remote}: {error}")),
        None => LinkError::Lost(format!("{remote} over TCP: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{
        identity::{
            Pin,
            tls::{Trust, enroll_config},
        },
        time::SystemClock,
    };
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    /// Somebody in between who ends the handshake in plain text says nothing in the collector's name.
    #[tokio::test]
    async fn an_alert_before_anybody_has_proven_who_it_is_is_not_obeyed() {
        for alert in [44, 45, 49, 116] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let remote = listener.local_addr().unwrap();
            let trust = Trust::Pin(Pin([0; 32]));
            let tls = enroll_config(trust, "fleet.example".parse().unwrap(), Arc::new(SystemClock)).unwrap();
            let middlebox = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 64];
                stream.read_exact(&mut hello).await.unwrap();
                stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await.unwrap();
                stream
            };
            let (connected, _stream) = tokio::join!(connect(remote, Arc::new(tls)), middlebox);
            let error = connected.unwrap_err();
            assert!(matches!(error, LinkError::Distrusted(_)), "{alert}: {error:?}");
        }
    }
}
