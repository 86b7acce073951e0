//! What each certificate says: pure, from names and dates to parameters. No key and no file is touched here.
//!
//! Four kinds exist. URI name constraints are never used: rustls' verifier refuses every chain with one.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rollcall_common::{
    id::{CollectorName, TrustDomain},
    identity::{PeerId, Pin, Serial},
    time::Timestamp,
};
use time::OffsetDateTime;

use super::CaError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a root lives.
const ROOT_LIFE: Duration = DAY.saturating_mul(3_652);
/// How long an intermediate lives.
const INTERMEDIATE_LIFE: Duration = DAY.saturating_mul(365);
/// How long the collector's own leaf lives.
const COLLECTOR_LIFE: Duration = DAY.saturating_mul(30);
/// How far a sidecar's leaf is dated back: its only judges are collectors, whose clocks are kept.
const SIDECAR_BACKDATE: Duration = Duration::from_secs(5 * 60);
/// How far all that sidecars judge is dated back: a host whose clock is behind must still trust it.
const COLLECTOR_BACKDATE: Duration = DAY;

/// From when to when a certificate holds, in whole seconds, as certificates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// The first moment.
    pub(super) not_before: Timestamp,
    /// The last moment.
    pub(super) not_after: Timestamp,
}

impl Validity {
    /// Of a root made now.
    pub(super) fn root(now: Timestamp) -> Self {
        Self::new(now, COLLECTOR_BACKDATE, ROOT_LIFE)
    }

    /// Of an intermediate made now under a root.
    pub(super) fn intermediate(now: Timestamp, root: Self) -> Self {
        Self::new(now, COLLECTOR_BACKDATE, INTERMEDIATE_LIFE).within(root)
    }

    /// Of the collector's own leaf made now under an intermediate.
    pub(super) fn collector(now: Timestamp, issuer: Self) -> Self {
        Self::new(now, COLLECTOR_BACKDATE, COLLECTOR_LIFE).within(issuer)
    }

    /// Of a sidecar's leaf made now under an intermediate.
    pub(super) fn sidecar(now: Timestamp, life: Duration, issuer: Self) -> Self {
        Self::new(now, SIDECAR_BACKDATE, life).within(issuer)
    }

    fn new(now: Timestamp, backdate: Duration, life: Duration) -> Self {
        let whole = |at: Timestamp| Timestamp::from_secs(at.as_secs());
        Self { not_before: whole(now.before(backdate)), not_after: whole(now.after(life)) }
    }

    /// Never longer than the issuer: a leaf that outlives what it hangs on only looks valid.
    fn within(self, issuer: Self) -> Self {
        Self { not_after: self.not_after.min(issuer.not_after), ..self }
    }

    /// Whether half the life of a certificate that was dated back by a day is over.
    pub(super) fn past_half(self, now: Timestamp) -> bool {
        let made = self.not_before.after(COLLECTOR_BACKDATE);
        now >= half_way(made, self.not_after)
    }

    /// Whether this moment lies within.
    pub(super) fn covers(self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// The middle between two moments.
pub(super) fn half_way(from: Timestamp, to: Timestamp) -> Timestamp {
    from.after(to.since(from) / 2)
}

/// The name that every CA certificate of a deployment carries as its URI.
pub(super) fn trust_domain_uri(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

/// A root; its subject holds the start of its pin, so that two roots never share a name.
pub(super) fn root(
    trust_domain: &TrustDomain,
    key: Pin,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    authority(trust_domain, format!("Rollcall root {}", short(key)), 1, serial, validity)
}

/// An intermediate of one collector.
pub(super) fn intermediate(
    trust_domain: &TrustDomain,
    collector: &CollectorName,
    key: Pin,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    // A common name ends at 64 characters, and a collector's name alone may take them all.
    let collector: String = collector.as_str().chars().take(20).collect();
    let name = format!("Rollcall intermediate {collector} {}", short(key));
    authority(trust_domain, name, 0, serial, validity)
}

fn authority(
    trust_domain: &TrustDomain,
    name: String,
    below: u8,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    let mut params = params(trust_domain_uri(trust_domain), serial, validity)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// The collector's own leaf: good for serving only.
pub(super) fn collector_leaf(peer: &PeerId, serial: Serial, validity: Validity) -> Result<CertificateParams, CaError> {
    leaf(peer, ExtendedKeyUsagePurpose::ServerAuth, serial, validity)
}

/// A sidecar's leaf: good for calling only, so that a stolen key never passes for a collector.
pub(super) fn sidecar_leaf(peer: &PeerId, serial: Serial, validity: Validity) -> Result<CertificateParams, CaError> {
    leaf(peer, ExtendedKeyUsagePurpose::ClientAuth, serial, validity)
}

fn leaf(
    peer: &PeerId,
    purpose: ExtendedKeyUsagePurpose,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    let mut params = params(peer.to_string(), serial, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    Ok(params)
}

/// What all have in common: one URI name, a serial of ours, dates, an empty subject.
fn params(uri: String, serial: Serial, validity: Validity) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    Ok(params)
}

fn date(at: Timestamp) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(at.as_secs()).map_err(|_| CaError::Date(at))
}

fn short(key: Pin) -> String {
    key.to_string().chars().take(16).collect()
}
