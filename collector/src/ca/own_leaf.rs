//! The collector's own certificate, as rustls asks for it. Its key lives in memory only.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rollcall_common::{
    id::Generation,
    identity::{PeerId, Pin, Serial, tls::provider},
    time::Timestamp,
    wire::ALPN_ENROLL,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    CaError,
    template::{self, Validity},
    vault::{Intermediate, new_key, pin_of},
};

/// Answers rustls from the newest leaf.
#[derive(Debug)]
pub(super) struct OwnLeaf(ArcSwap<Leaf>);

/// One leaf with both of its chains.
#[derive(Debug)]
struct Leaf {
    key: Pin,
    validity: Validity,
    /// Leaf and intermediate: who heartbeats holds the root already.
    beat: Arc<CertifiedKey>,
    /// With the root: a sidecar that knows only a pin finds the root in the chain.
    enroll: Arc<CertifiedKey>,
}

impl OwnLeaf {
    pub(super) fn new(
        peer: &PeerId,
        root: &CertificateDer<'static>,
        issuer: &Intermediate,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        Ok(Self(ArcSwap::from_pointee(Leaf::issue(peer, root, issuer, now)?)))
    }

    /// Puts a fresh leaf in place; handshakes that run keep the old one.
    pub(super) fn renew(
        &self,
        peer: &PeerId,
        root: &CertificateDer<'static>,
        issuer: &Intermediate,
        now: Timestamp,
    ) -> Result<(), CaError> {
        self.0.store(Arc::new(Leaf::issue(peer, root, issuer, now)?));
        Ok(())
    }

    /// Whether it should be renewed: half its life is over, or the clock stepped out of it.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let leaf = self.0.load();
        leaf.validity.past_half(now) || !leaf.validity.covers(now)
    }

    pub(super) fn key(&self) -> Pin {
        self.0.load().key
    }
}

impl Leaf {
    fn issue(
        peer: &PeerId,
        root: &CertificateDer<'static>,
        issuer: &Intermediate,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let key = new_key()?;
        let validity = Validity::collector(now, issuer.validity);
        let cert = template::collector_leaf(peer, Serial::random(Generation(0))?, validity)?
            .signed_by(&*key, &issuer.issuer)?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()));
        let signer = provider().key_provider.load_private_key(der)?;
        let beat = vec![cert.der().clone(), issuer.der.clone()];
        let enroll = vec![cert.der().clone(), issuer.der.clone(), root.clone()];
        Ok(Self {
            key: pin_of(&key),
            validity,
            beat: Arc::new(CertifiedKey::new(beat, Arc::clone(&signer))),
            enroll: Arc::new(CertifiedKey::new(enroll, signer)),
        })
    }
}

impl ResolvesServerCert for OwnLeaf {
    /// An unknown ALPN gets the short chain: rustls refuses it with its proper alert right afterwards.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let leaf = self.0.load();
        let enrolling = hello.alpn().is_some_and(|mut offered| offered.any(|alpn| alpn == ALPN_ENROLL));
        Some(Arc::clone(if enrolling { &leaf.enroll } else { &leaf.beat }))
    }
}
