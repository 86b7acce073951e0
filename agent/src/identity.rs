//! What a sidecar proves itself with: a key, a certificate chain, the roots it trusts.
//!
//! A value of [`Identity`] is proof that its parts fit together. It lives in memory; `vault` keeps it on
//! disk, `enroll` obtains it, `link` dials with it.

#[cfg(test)]
pub(crate) mod specimen;

use std::sync::Arc;

use rollcall_common::{
    id::{Generation, ServiceKey, TrustDomain},
    identity::{
        Party, PeerCert, PeerCertError,
        tls::{Trust, beat_config, enroll_config},
    },
    time::{Clock, Timestamp},
    wire::message::{Bytes, Renewed},
};
use rustls::{ClientConfig, pki_types::CertificateDer};

use crate::key::Key;

/// A key and the certificate that binds it to a service.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Arc<Key>,
    granted: Renewed,
    service: ServiceKey,
    trust_domain: TrustDomain,
}

/// Why a key and what a collector granted for it make no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate.
    #[error("the certificate chain is empty")]
    NoChain,
    /// No root to trust.
    #[error("the bundle of trusted roots is empty")]
    NoBundle,
    /// The leaf names nobody.
    #[error(transparent)]
    Leaf(#[from] PeerCertError),
    /// The leaf names a collector.
    #[error("the certificate is a collector's, not a service's")]
    NotAService,
    /// The leaf is for another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// A renewal changed who we are.
    #[error("the certificate is for {found}, not for {wanted}")]
    OtherService {
        /// Who we are.
        wanted: ServiceKey,
        /// Whom it names.
        found: ServiceKey,
    },
}

impl Identity {
    /// Joins a key with what was granted for it.
    ///
    /// # Errors
    /// [`IdentityError`] where they do not fit.
    pub fn new(key: Arc<Key>, granted: Renewed) -> Result<Self, IdentityError> {
        let leaf = granted.chain.first().ok_or(IdentityError::NoChain)?;
        if granted.bundle.is_empty() {
            return Err(IdentityError::NoBundle);
        }
        let cert = PeerCert::read(&CertificateDer::from(leaf.0.as_slice()))?;
        if cert.key != key.pin() {
            return Err(IdentityError::OtherKey);
        }
        match cert.peer.party {
            Party::Service(service) => Ok(Self { key, granted, service, trust_domain: cert.peer.trust_domain }),
            Party::Collector(_) => Err(IdentityError::NotAService),
        }
    }

    /// The identity that follows this one: another key, the same service.
    ///
    /// # Errors
    /// [`IdentityError`] where the parts do not fit or name another service.
    pub fn successor(&self, key: Arc<Key>, granted: Renewed) -> Result<Self, IdentityError> {
        let next = Self::new(key, granted)?;
        if next.service != self.service {
            return Err(IdentityError::OtherService { wanted: self.service.clone(), found: next.service });
        }
        Ok(next)
    }

    /// Who this is.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// The deployment.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What the collector granted.
    #[must_use]
    pub fn granted(&self) -> &Renewed {
        &self.granted
    }

    /// What a session must know of it.
    #[must_use]
    pub fn term(&self) -> Term {
        Term { generation: self.granted.generation, not_after: self.granted.not_after, renew_at: self.granted.renew_at }
    }

    /// TLS for heartbeats: proves this identity, trusts its bundle.
    ///
    /// # Errors
    /// When rustls refuses the key or the chain.
    pub fn beat_tls(&self, clock: Arc<dyn Clock>) -> Result<ClientConfig, rustls::Error> {
        let chain = ders(&self.granted.chain);
        beat_config(self.trust(), self.trust_domain.clone(), chain, self.key.to_rustls(), clock)
    }

    /// TLS for a rejoin: proves nothing, trusts the bundle.
    ///
    /// # Errors
    /// When rustls refuses the combination.
    pub fn rejoin_tls(&self, clock: Arc<dyn Clock>) -> Result<ClientConfig, rustls::Error> {
        enroll_config(self.trust(), self.trust_domain.clone(), clock)
    }

    fn trust(&self) -> Trust {
        Trust::Bundle(ders(&self.granted.bundle))
    }
}

/// The dates and the number of one certificate, all on the collector's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Counts the identity's certificates.
    pub generation: Generation,
    /// When it ends.
    pub not_after: Timestamp,
    /// When to renew it, before jitter.
    pub renew_at: Timestamp,
}

fn ders(list: &[Bytes]) -> Vec<CertificateDer<'static>> {
    list.iter().map(|der| CertificateDer::from(der.0.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_make_no_identity() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let granted = specimen::granted(&key, "poller/p1", 1);
        let key = Arc::new(key);
        let made = |key: &Arc<Key>, granted: Renewed| Identity::new(Arc::clone(key), granted).map(|_| ());
        assert_eq!(made(&Arc::new(other), granted.clone()), Err(IdentityError::OtherKey));
        assert_eq!(made(&key, Renewed { chain: vec![], ..granted.clone() }), Err(IdentityError::NoChain));
        assert_eq!(made(&key, Renewed { bundle: vec![], ..granted.clone() }), Err(IdentityError::NoBundle));
        assert_eq!(made(&key, specimen::granted(&key, "collector/c1", 1)), Err(IdentityError::NotAService));
        assert!(matches!(made(&key, specimen::granted(&key, "robot/r1", 1)), Err(IdentityError::Leaf(_))));
        assert_eq!(made(&key, granted), Ok(()));
    }

    #[test]
    fn a_renewal_does_not_change_who_we_are() {
        let current = specimen::identity(Key::generate().unwrap(), "poller/p1", 1);
        let key = Arc::new(Key::generate().unwrap());
        let other = current.successor(Arc::clone(&key), specimen::granted(&key, "poller/p2", 2));
        assert!(matches!(other, Err(IdentityError::OtherService { .. })));
        assert!(current.successor(Arc::clone(&key), specimen::granted(&key, "poller/p1", 2)).is_ok());
    }
}
