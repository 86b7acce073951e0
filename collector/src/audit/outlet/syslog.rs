//! Syslog (RFC 5424) over TLS with octet counting (RFC 5425).
//!
//! The server is verified against the authorities of a file, or against the system's; it may ask for a certificate of
//! ours. Syslog acknowledges nothing: a batch counts as
//! taken when the transport has it and the server has not hung up; what was on its way to a server that dies may
//! be lost with it, and seals tell that it is missing.

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Outlet, OutletError};
use crate::audit::offline::Line;

/// Log audit (13), notice (5).
const PRIORITY: u32 = 13 * 8 + 5;
/// How long a server gets to hang up before a batch counts as taken.
const SETTLE: Duration = Duration::from_millis(50);

/// Sends to a syslog server.
pub struct Syslog {
    address: String,
    server: ServerName<'static>,
    connector: TlsConnector,
    collector: String,
    stream: Option<TlsStream<TcpStream>>,
}

impl std::fmt::Debug for Syslog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Syslog({})", self.address)
    }
}

impl Syslog {
    /// A server at `host:port`, vouched for by the authorities in `roots` (PEM), or by the system's where there are
    /// none; `client` is the certificate that it is shown, with its key (PEM both).
    ///
    /// # Errors
    /// What is wrong with any of them.
    pub fn new(
        address: &str,
        roots: Option<&[u8]>,
        client: Option<(&[u8], &[u8])>,
        collector: &str,
    ) -> Result<Self, String> {
        let (host, port) = address.rsplit_once(':').ok_or("write host:port, as in logs.example.net:6514")?;
        port.parse::<u16>().map_err(|_| format!("{port:?} is no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let server = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host:?}: {error}"))?;
        let builder = ClientConfig::builder().with_root_certificates(match roots {
            Some(roots) => of_file(roots)?,
            None => of_system()?,
        });
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
                let chain =
                    chain.ok().filter(|chain| !chain.is_empty()).ok_or("there is no certificate in cert_file")?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in key_file")?;
                builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client's pair: {error}"))?
            }
        };
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { address: address.into(), server, connector, collector: collector.into(), stream: None })
    }

    async fn send(&mut self, text: &[u8]) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                self.connector.connect(self.server.clone(), stream).await?
            }
        };
        stream.write_all(text).await?;
        stream.flush().await?;
        let mut nothing = [0; 64];
        match tokio::time::timeout(SETTLE, stream.read(&mut nothing)).await {
            Ok(Ok(0)) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server hung up")),
            Ok(Err(error)) => return Err(error),
            // What a syslog server says is of no interest; that it is there is.
            Ok(Ok(_)) | Err(_) => {}
        }
        self.stream = Some(stream);
        Ok(())
    }

    fn message(&self, line: &Line, out: &mut Vec<u8>) -> Result<(), OutletError> {
        let (at, id, seq) = match line {
            Line::Event(event) => (event.draft.at, event.draft.action.as_str(), event.seq.0),
            Line::Seal(seal) => (seal.sealed_at, "audit.sealed", seal.last.0),
        };
        // A message id is at most 32 printable characters without a space.
        let id: String = id.chars().filter(char::is_ascii_graphic).take(32).collect();
        let json = serde_json::to_string(line).map_err(|error| OutletError::Refused(error.to_string()))?;
        let mut text = String::new();
        let collector = &self.collector;
        let _ = write!(
            text,
            "<{PRIORITY}>1 {at} {collector} rollcall-collector - {id} [rollcall@32473 seq=\"{seq}\"] {json}"
        );
        out.extend_from_slice(format!("{} ", text.len()).as_bytes());
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn of_file(roots: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots) {
        let certificate = certificate.map_err(|_| "the authorities are no PEM".to_owned())?;
        store.add(certificate).map_err(|error| format!("an authority is not usable: {error}"))?;
    }
    if store.is_empty() {
        return Err("there is no authority in the file".into());
    }
    Ok(store)
}

/// What this host trusts. A few odd ones among them are nobody's harm.
fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!("this host trusts no authority{why}: install ca-certificates, or name a ca_file"));
    }
    Ok(store)
}

#[async_trait]
impl Outlet for Syslog {
    fn name(&self) -> &'static str {
        "syslog"
    }

    async fn take(&mut self, lines: &[Line]) -> Result<(), OutletError> {
        let mut text = Vec::new();
        for line in lines {
            self.message(line, &mut text)?;
        }
        Ok(self.send(&text).await?)
    }
}
