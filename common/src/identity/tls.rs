//! TLS settings of both ends, and the one verifier that sidecars use.
//!
//! TLS 1.3 only; no tickets, no session storage, no early data: rustls resumes without asking the client
//! verifier again, so that a resumed session would outlive a revocation or an expiry. One provider,
//! aws-lc-rs, with X25519 and P-256.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};

use super::{Party, PeerCert, PeerCertError, Pin, Serial, pin_of};
use crate::{
    id::TrustDomain,
    time::{Clock, Timestamp},
    wire::{ALPN_BEAT, ALPN_ENROLL},
};

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        // The hybrid post-quantum exchange makes the first flight two datagrams and costs handshake
        // CPU beyond the 550 µs budget of the collector.
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Whom a sidecar trusts to be its collector.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Bootstrap: the root in the presented chain whose key has this pin.
    Pin(Pin),
    /// Steady state: these roots.
    Bundle(Vec<CertificateDer<'static>>),
}

/// Why a collector's certificate was not trusted. The words are for the operator of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// No root with the pinned key was presented.
    #[error(
        "the collector presented no root with the pinned key {0}: wrong collector, or a token of another deployment"
    )]
    Pin(Pin),
    /// A certificate of the chain has ended.
    #[error("CLOCK_SKEW or expired: the collector's certificate ended at {not_after} and this host's clock says {now}")]
    Expired {
        /// This host's clock.
        now: Timestamp,
        /// The end of the certificate.
        not_after: Timestamp,
    },
    /// A certificate of the chain has not begun.
    #[error("CLOCK_SKEW: the collector's certificate begins at {not_before} and this host's clock says {now}")]
    NotYetValid {
        /// This host's clock.
        now: Timestamp,
        /// The begin of the certificate.
        not_before: Timestamp,
    },
    /// The chain does not hold.
    #[error("the collector's certificate does not chain to a trusted root: {0}")]
    Chain(String),
    /// The leaf is of another party.
    #[error("the peer is not a collector of trust domain {wanted}: {found}")]
    Party {
        /// What was wanted.
        wanted: TrustDomain,
        /// What the certificate names.
        found: String,
    },
}

impl TrustError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, growing enum: all but the dates read alike to an operator"
    )]
    fn of(error: webpki::Error) -> Self {
        let at = |t: UnixTime| Timestamp::from_secs(i64::try_from(t.as_secs()).unwrap_or(i64::MAX));
        match error {
            webpki::Error::CertExpired { time, not_after } => Self::Expired { now: at(time), not_after: at(not_after) },
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { now: at(time), not_before: at(not_before) }
            }
            other => Self::Chain(format!("{other:?}")),
        }
    }
}

impl From<TrustError> for TlsError {
    /// QUIC hands on no more of a TLS error than its text. `CertificateError::Other` prints the debug form
    /// of what it carries; `Error::Other` prints the words meant for the operator.
    fn from(error: TrustError) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}

/// Checks that the peer is a collector of the trust domain, by chain, dates, purpose and SPIFFE id;
/// never by DNS name or address, which may change.
#[derive(Debug)]
pub struct CollectorVerifier {
    trust: Trust,
    trust_domain: TrustDomain,
    provider: Arc<CryptoProvider>,
}

impl CollectorVerifier {
    /// A verifier with its trust.
    #[must_use]
    pub fn new(trust: Trust, trust_domain: TrustDomain) -> Self {
        Self { trust, trust_domain, provider: provider() }
    }

    fn check(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TrustError> {
        let roots: Vec<&CertificateDer<'_>> = match &self.trust {
            Trust::Pin(pin) => {
                let root = chain.iter().find(|cert| pin_of(cert) == Some(*pin)).ok_or(TrustError::Pin(*pin))?;
                vec![root]
            }
            Trust::Bundle(roots) => roots.iter().collect(),
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let mut anchors = Vec::with_capacity(roots.len());
        let mut stale = None;
        for root in roots {
            // A trust anchor carries no dates. Checked as an end entity, a root fails on its dates
            // first, and otherwise on being a CA, which is what a root must be.
            let as_leaf = webpki::EndEntityCert::try_from(root).map_err(TrustError::of)?;
            match as_leaf.verify_for_usage(algorithms, &[], &[], now, webpki::KeyUsage::server_auth(), None, None) {
                Err(webpki::Error::CaUsedAsEndEntity) => {
                    anchors.push(webpki::anchor_from_trusted_cert(root).map_err(TrustError::of)?);
                }
                Err(error) => stale = Some(TrustError::of(error)),
                Ok(_) => stale = Some(TrustError::Chain("the root is not a CA".into())),
            }
        }
        if let (true, Some(error)) = (anchors.is_empty(), stale) {
            return Err(error);
        }
        let end = webpki::EndEntityCert::try_from(leaf).map_err(TrustError::of)?;
        end.verify_for_usage(algorithms, &anchors, chain, now, webpki::KeyUsage::server_auth(), None, None)
            .map_err(TrustError::of)?;
        let wrong = |found| TrustError::Party { wanted: self.trust_domain.clone(), found };
        let cert = PeerCert::read(leaf).map_err(|error| wrong(error.to_string()))?;
        match &cert.peer.party {
            Party::Collector(_) if cert.peer.trust_domain == self.trust_domain => Ok(()),
            Party::Collector(_) | Party::Service(_) => Err(wrong(cert.peer.to_string())),
        }
    }
}

impl ServerCertVerifier for CollectorVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(leaf, chain, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Which certificates are refused although they verify.
pub trait DenySet: Send + Sync + fmt::Debug {
    /// Whether this serial is revoked.
    fn denies(&self, serial: Serial) -> bool;
}

/// Checks sidecars: chain, dates, purpose, form, trust domain and the deny set. It lets a peer without a
/// certificate pass, since enrollment has none: the gate after the handshake knows the ALPN.
#[derive(Debug)]
pub struct SidecarVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
    denied: Arc<dyn DenySet>,
}

impl SidecarVerifier {
    /// A verifier that trusts these roots.
    ///
    /// # Errors
    /// When a root does not parse.
    pub fn new(
        roots: &[CertificateDer<'static>],
        trust_domain: TrustDomain,
        denied: Arc<dyn DenySet>,
    ) -> Result<Self, TlsError> {
        let mut store = rustls::RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
            .clear_root_hint_subjects()
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?;
        Ok(Self { inner, trust_domain, denied })
    }
}

impl ClientCertVerifier for SidecarVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.inner.verify_client_cert(leaf, chain, now)?;
        let other =
            |error: PeerCertError| TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))));
        let cert = PeerCert::read(leaf).map_err(other)?;
        let ours = matches!(cert.peer.party, Party::Service(_)) && cert.peer.trust_domain == self.trust_domain;
        if !ours {
            return Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        if self.denied.denies(cert.serial) {
            return Err(TlsError::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The collector's TLS: both ALPNs, mutual TLS on offer, nothing resumable.
///
/// # Errors
/// When rustls refuses the combination.
pub fn collector_config(
    verifier: Arc<SidecarVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN_ENROLL.to_vec(), ALPN_BEAT.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// A sidecar's TLS for enrollment and rejoin: no certificate of its own.
///
/// # Errors
/// When rustls refuses the combination.
pub fn enroll_config(trust: Trust, trust_domain: TrustDomain, clock: Arc<dyn Clock>) -> Result<ClientConfig, TlsError> {
    let mut config = sidecar_builder(trust, trust_domain, clock)?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_ENROLL.to_vec()];
    harden(&mut config);
    Ok(config)
}

/// A sidecar's TLS for heartbeats: its chain, leaf first, and its key.
///
/// # Errors
/// When the key does not fit the certificate.
pub fn beat_config(
    trust: Trust,
    trust_domain: TrustDomain,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let mut config = sidecar_builder(trust, trust_domain, clock)?.with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_BEAT.to_vec()];
    harden(&mut config);
    Ok(config)
}

fn sidecar_builder(
    trust: Trust,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CollectorVerifier::new(trust, trust_domain))))
}

fn harden(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

/// Our clock as rustls wants it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().wall.as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs)))
    }
}
