//! Certificates that nobody should trust: of foreign CAs, of a stolen one, through a sidecar's leaf, or
//! malformed in just one respect.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rollcall_common::{
    id::{Generation, TrustDomain},
    identity::{Pin, Serial, pin_of},
    time::{Clock as _, SystemClock, Timestamp},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use time::OffsetDateTime;

use crate::peer::{Identity, Key};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy)]
pub struct Dates {
    /// The first moment.
    pub from: Timestamp,
    /// The last moment.
    pub to: Timestamp,
}

impl Dates {
    /// A day around now.
    #[must_use]
    pub fn now() -> Self {
        let now = SystemClock.now().wall;
        Self { from: now.before(DAY / 2), to: now.after(DAY / 2) }
    }

    /// A day that ended an hour ago.
    #[must_use]
    pub fn over() -> Self {
        let now = SystemClock.now().wall;
        Self { from: now.before(DAY), to: now.before(DAY / 24) }
    }

    /// A day that begins in an hour.
    #[must_use]
    pub fn ahead() -> Self {
        let now = SystemClock.now().wall;
        Self { from: now.after(DAY / 24), to: now.after(DAY) }
    }
}

/// What a leaf says.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its URI names.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// Its purpose.
    pub purpose: ExtendedKeyUsagePurpose,
    /// Its dates.
    pub dates: Dates,
    /// Its generation.
    pub generation: Generation,
}

impl Leaf {
    /// As an honest sidecar's.
    #[must_use]
    pub fn sidecar(uri: &str) -> Self {
        Self {
            uris: vec![uri.into()],
            dns: Vec::new(),
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            dates: Dates::now(),
            generation: Generation(1),
        }
    }

    /// As an honest collector's.
    #[must_use]
    pub fn collector(uri: &str) -> Self {
        Self { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..Self::sidecar(uri) }
    }
}

/// Somebody who signs certificates and should not.
#[derive(Debug)]
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
    /// What follows a leaf in its chain.
    above: Vec<CertificateDer<'static>>,
}

impl Forger {
    /// A root of its own.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn root(trust_domain: &TrustDomain, dates: Dates) -> Result<Self> {
        let mut params = params(&[format!("spiffe://{trust_domain}")], &[], dates, Generation(0))?;
        params.distinguished_name.push(DnType::CommonName, "Rollcall root of a forger");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let twin = KeyPair::try_from(key.serialize_der().as_slice())?;
        let root = CertifiedIssuer::self_signed(params.clone(), key)?;
        Ok(Self { above: vec![root.der().clone()], issuer: Issuer::new(params, twin) })
    }

    /// The collector's own intermediate, stolen from its state directory.
    ///
    /// # Errors
    /// When it is not there.
    pub fn stolen(state: &Path) -> Result<Self> {
        let pem = fs::read(state.join("ca/intermediate.pem"))?;
        let der = CertificateDer::from_pem_slice(&pem).context("no certificate in intermediate.pem")?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).context("no key in intermediate.pem")?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::try_from(key.secret_pkcs8_der())?)?;
        Ok(Self { issuer, above: vec![der] })
    }

    /// A sidecar that plays CA with its own leaf.
    ///
    /// # Errors
    /// When its leaf does not parse.
    pub fn with_leaf_of(identity: &Identity) -> Result<Self> {
        let leaf = identity.chain.first().context("an empty chain")?;
        let key = KeyPair::try_from(identity.key.pair().serialize_der().as_slice())?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(leaf, key)?, above: identity.chain.clone() })
    }

    /// The key that it signs with.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn key(&self) -> Result<Key> {
        Key::from_pkcs8(&self.issuer.key().serialize_der())
    }

    /// The pin of what stands at the end of the chain.
    ///
    /// # Errors
    /// When that does not parse.
    pub fn pin(&self) -> Result<Pin> {
        self.above.last().and_then(pin_of).context("no certificate to pin")
    }

    /// A chain for this key, leaf first.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn forge(&self, leaf: &Leaf, key: &Key) -> Result<Vec<CertificateDer<'static>>> {
        let mut params = params(&leaf.uris, &leaf.dns, leaf.dates, leaf.generation)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![leaf.purpose.clone()];
        let cert = params.signed_by(key.pair(), &self.issuer)?;
        Ok(std::iter::once(cert.der().clone()).chain(self.above.iter().cloned()).collect())
    }
}

/// A leaf that is its own root.
///
/// # Errors
/// When it cannot be signed.
pub fn self_signed(leaf: &Leaf, key: &Key) -> Result<Vec<CertificateDer<'static>>> {
    let mut params = params(&leaf.uris, &leaf.dns, leaf.dates, leaf.generation)?;
    params.extended_key_usages = vec![leaf.purpose.clone()];
    Ok(vec![params.self_signed(key.pair())?.der().clone()])
}

fn params(uris: &[String], dns: &[String], dates: Dates, generation: Generation) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    for name in dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.serial_number = Some(SerialNumber::from_slice(&Serial::random(generation)?.0));
    params.not_before = OffsetDateTime::from_unix_timestamp(dates.from.as_secs())?;
    params.not_after = OffsetDateTime::from_unix_timestamp(dates.to.as_secs())?;
    Ok(params)
}
