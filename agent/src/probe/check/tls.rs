//! TLS towards what is watched: whom it is believed, and with which certificates of the host.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rollcall_common::identity::tls::provider;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Host, Look, net::Stream};
use crate::{
    leave::{self, Whose},
    probe::plan::{Target, Trust},
};

/// Where distributions keep the certificates that a host believes.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// No bundle is larger.
const MAX_BUNDLE: usize = 4 * 1024 * 1024;

/// Settings that were made once. Bounded by the number of probes.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<Vec<Entry>>);

type Entry = ((Trust, &'static [u8]), Arc<ClientConfig>);

/// Shakes hands; what went wrong is told as what was seen.
pub(super) async fn wrap(
    stream: Stream,
    target: &Target,
    trust: &Trust,
    alpn: &'static [u8],
    host: &Host,
) -> Result<TlsStream<Stream>, Look> {
    let config = settings(trust, target, alpn, host).await?;
    let name = ServerName::try_from(target.host.clone());
    let name = name.map_err(|_| Look::blind(format!("{} is no name that a certificate could have", target.host)))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        // A certificate file may have been replaced: the next look reads it again.
        host.tls.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|((kept, _), _)| kept != trust);
        Look::ill(format!("TLS with {target}: {error}"))
    })
}

async fn settings(trust: &Trust, target: &Target, alpn: &'static [u8], host: &Host) -> Result<Arc<ClientConfig>, Look> {
    let key = (trust.clone(), alpn);
    let shelf = || host.tls.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, config)) = shelf().iter().find(|(kept, _)| *kept == key) {
        return Ok(Arc::clone(config));
    }
    let wanted = trust.clone();
    let what = format!("the certificates of {}", target.host);
    let config = host.files.lend(&what, move || make(&wanted, alpn)).await?.map_err(Look::blind)?;
    shelf().push((key, Arc::clone(&config)));
    Ok(config)
}

fn make(trust: &Trust, alpn: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth(),
        Trust::File(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
        Trust::Host => {
            let found = BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
            let path = found.ok_or("this host keeps no certificates in a known place: give `ca`, or verify = false")?;
            builder.with_root_certificates(roots(&path)?).with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let failed = |error: &dyn std::fmt::Display| format!("certificates in {}: {error}", path.display());
    let text = super::file::head(path, MAX_BUNDLE)
        .map_err(|error: io::Error| failed(&format!("{error}{}", leave::hint(path, &error, Whose::Ours))))?;
    let mut store = RootCertStore::empty();
    // One that does not read is believed by nobody; a bundle has old ones.
    for certificate in CertificateDer::pem_slice_iter(&text).flatten() {
        let _ = store.add(certificate);
    }
    if store.is_empty() { Err(failed(&"none")) } else { Ok(store) }
}

/// Believes whoever has a key: the probe says that something answers, not who.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
