//! A session's connection over QUIC: one bidirectional stream, which the sidecar opens.

use std::net::SocketAddr;

use quinn::crypto::rustls::HandshakeData;
use rollcall_common::{
    code::Code,
    wire::{EXPORTER_LABEL, EXPORTER_LEN, codec::Deframer},
};
use rustls::pki_types::CertificateDer;

use super::Gone;

/// Bytes read at once: more than any frame that is not an enrollment.
const CHUNK: usize = 2_048;

/// The connection, and its stream once the sidecar has opened it.
#[derive(Debug)]
pub(in crate::ingest) struct Carrier {
    connection: quinn::Connection,
    stream: Option<(quinn::SendStream, quinn::RecvStream)>,
}

impl Carrier {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self { connection, stream: None }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    pub(super) fn protocol(&self) -> Vec<u8> {
        let handshake = self.connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        handshake.and_then(|data| data.protocol).unwrap_or_default()
    }

    pub(super) fn leaf(&self) -> Option<CertificateDer<'static>> {
        let chain = self.connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.into_iter().next()
    }

    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        let mut material = [0; EXPORTER_LEN];
        self.connection.export_keying_material(&mut material, EXPORTER_LABEL, b"").ok()?;
        Some(material)
    }

    pub(super) async fn open(&mut self) -> Result<(), Gone> {
        if self.stream.is_none() {
            self.stream = Some(self.connection.accept_bi().await.map_err(|_| Gone)?);
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, frames: &mut Deframer) -> Result<(), Gone> {
        let (_, recv) = self.stream.as_mut().ok_or(Gone)?;
        match recv.read_chunk(CHUNK, true).await {
            Ok(Some(chunk)) => {
                frames.push(&chunk.bytes);
                Ok(())
            }
            Ok(None) | Err(_) => Err(Gone),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let (send, _) = self.stream.as_mut().ok_or(Gone)?;
        send.write_all(bytes).await.map_err(|_| Gone)
    }

    pub(super) async fn finish(&mut self) {
        let Some((send, _)) = &mut self.stream else { return };
        if send.finish().is_ok() {
            // Either it has everything, or it is gone.
            let _ = send.stopped().await;
        }
    }

    pub(super) async fn closed(&mut self) {
        self.connection.closed().await;
    }

    pub(super) fn close(self, code: Code) {
        self.connection.close(u32::from(code.number()).into(), code.as_str().as_bytes());
    }
}
