//! A certificate authority for tests: honest by default, and able to issue everything that ours never would.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rollcall_common::{
    id::TrustDomain,
    identity::{Pin, pin_of},
    time::Timestamp,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

/// The moment at which every case plays: 2026-11-21T02:46:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_795_229_160_000);
pub(crate) const DAY: i64 = 86_400;
pub(crate) const YEAR: i64 = 365 * DAY;

/// The trust domain under test.
pub(crate) fn domain() -> TrustDomain {
    "fleet.test".parse().expect("a trust domain")
}

/// A validity period, in seconds relative to [`NOW`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Span {
    pub(crate) const ROOT: Self = Self { from: -30 * DAY, to: 10 * YEAR };
    pub(crate) const LEAF: Self = Self { from: -DAY, to: 7 * DAY };
    pub(crate) const PAST: Self = Self { from: -30 * DAY, to: -DAY };
    pub(crate) const FUTURE: Self = Self { from: DAY, to: 30 * DAY };

    pub(crate) fn start(self) -> Timestamp {
        Timestamp::from_secs(NOW.as_secs() + self.from)
    }

    pub(crate) fn end(self) -> Timestamp {
        Timestamp::from_secs(NOW.as_secs() + self.to)
    }

    fn apply(self, params: &mut CertificateParams) {
        let at = |t: Timestamp| OffsetDateTime::from_unix_timestamp(t.as_secs()).expect("a date");
        (params.not_before, params.not_after) = (at(self.start()), at(self.end()));
    }
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) span: Span,
    pub(crate) serial: Vec<u8>,
}

impl Leaf {
    /// The honest sidecar `agent/edge-17`, generation 5.
    pub(crate) fn sidecar() -> Self {
        let serial = [[1, 0, 0, 0, 0, 0, 0, 5], [9; 8]].concat();
        let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self { names: vec![uri("spiffe://fleet.test/agent/edge-17")], purposes, span: Span::LEAF, serial }
    }

    /// The honest collector `main`.
    pub(crate) fn collector() -> Self {
        let names = vec![uri("spiffe://fleet.test/collector/main")];
        Self { names, purposes: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Self::sidecar() }
    }

    pub(crate) fn named(self, names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| uri(name)).collect(), ..self }
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A certificate chain, leaf first, and the leaf's key.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Holder {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Holder {
    /// The same holder presenting one more certificate at the end.
    pub(crate) fn with(mut self, extra: &CertificateDer<'static>) -> Self {
        self.chain.push(extra.clone());
        self
    }

    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a leaf")
    }

    /// Uses the leaf as if it were a CA, as a thief of a sidecar's key would.
    pub(crate) fn sign_like_a_ca(&self, leaf: &Leaf) -> Self {
        let key = KeyPair::try_from(self.key.secret_der()).expect("a key");
        // The subject that chains to a sidecar's certificate: the empty one.
        let own = params(&Leaf::sidecar(), "");
        let issuer = Issuer::from_params(&own, key);
        let mut held = issue(leaf, &issuer);
        held.chain.extend(self.chain.clone());
        held
    }

    /// A certificate signed by its own key.
    pub(crate) fn self_signed(leaf: &Leaf) -> Self {
        let key = new_key();
        let cert = params(leaf, "self").self_signed(&key).expect("a certificate");
        Self { chain: vec![cert.der().clone()], key: der(&key) }
    }
}

/// A root or an intermediate.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) cert: CertificateDer<'static>,
    /// Certificates between the root and this authority's leaves, nearest first; empty for a root.
    above: Vec<CertificateDer<'static>>,
}

impl Authority {
    pub(crate) fn root(span: Span) -> Self {
        let key = new_key();
        let params = ca_params("Rollcall test root", span);
        let cert = params.self_signed(&key).expect("a root").der().clone();
        Self { issuer: Issuer::new(params, key), cert, above: vec![] }
    }

    pub(crate) fn intermediate(&self, span: Span) -> Self {
        let key = new_key();
        let params = ca_params("Rollcall test intermediate", span);
        let cert = params.signed_by(&key, &self.issuer).expect("an intermediate").der().clone();
        let above = [vec![cert.clone()], self.above.clone()].concat();
        Self { issuer: Issuer::new(params, key), cert, above }
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Holder {
        let mut held = issue(leaf, &self.issuer);
        held.chain.extend(self.above.clone());
        held
    }

    pub(crate) fn pin(&self) -> Pin {
        pin_of(&self.cert).expect("a certificate that parses")
    }
}

fn issue(leaf: &Leaf, issuer: &Issuer<'_, KeyPair>) -> Holder {
    let key = new_key();
    let cert = params(leaf, "").signed_by(&key, issuer).expect("a certificate");
    Holder { chain: vec![cert.der().clone()], key: der(&key) }
}

fn params(leaf: &Leaf, subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !subject.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params.subject_alt_names = leaf.names.clone();
    params.extended_key_usages = leaf.purposes.clone();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from_slice(&leaf.serial));
    leaf.span.apply(&mut params);
    params
}

fn ca_params(name: &str, span: Span) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    span.apply(&mut params);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).expect("a key")
}
