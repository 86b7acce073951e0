//! A false collector: whatever chain it is given, and a count of what sidecars tell it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use anyhow::Result;
use quinn::{Endpoint, Incoming, ServerConfig, crypto::rustls::QuicServerConfig};
use rollcall_common::{
    identity::tls::provider,
    wire::{ALPN_BEAT, ALPN_ENROLL},
};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use crate::peer::Key;

/// A false collector; it ends when dropped.
#[derive(Debug)]
pub struct Impostor {
    addr: SocketAddr,
    heard: Arc<Heard>,
    _accepting: JoinSet<()>,
}

/// What reached it.
#[derive(Debug, Default)]
struct Heard {
    dials: AtomicU64,
    bytes: AtomicU64,
}

impl Impostor {
    /// Listens on a free port of 127.0.0.1 with this chain.
    ///
    /// # Errors
    /// When chain and key do not fit, or no socket can be had.
    pub fn start(chain: Vec<CertificateDer<'static>>, key: &Key) -> Result<Self> {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key.for_tls())?;
        tls.alpn_protocols = vec![ALPN_ENROLL.to_vec(), ALPN_BEAT.to_vec()];
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = endpoint.local_addr()?;
        let heard = Arc::new(Heard::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(endpoint, Arc::clone(&heard)));
        Ok(Self { addr, heard, _accepting: accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many sidecars dialed.
    #[must_use]
    pub fn dials(&self) -> u64 {
        self.heard.dials.load(SeqCst)
    }

    /// How many bytes of application data sidecars sent, all together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.heard.bytes.load(SeqCst)
    }
}

async fn accept(endpoint: Endpoint, heard: Arc<Heard>) {
    let mut talks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        heard.dials.fetch_add(1, SeqCst);
        talks.spawn(listen(incoming, Arc::clone(&heard)));
        while talks.try_join_next().is_some() {}
    }
}

/// Whatever ends the talk: what counts is what was heard until then.
async fn listen(incoming: Incoming, heard: Arc<Heard>) {
    let Ok(connection) = incoming.await else { return };
    let Ok((_send, mut recv)) = connection.accept_bi().await else { return };
    while let Ok(Some(chunk)) = recv.read_chunk(16 * 1024, true).await {
        heard.bytes.fetch_add(chunk.bytes.len() as u64, SeqCst);
    }
}
