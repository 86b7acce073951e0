//! Root and intermediate on disk: made at first start, completed after a crash, the intermediate renewed at
//! half its life.
//!
//! | file in `ca/` | holds | written |
//! |---|---|---|
//! | `root.key` | the root's key | first of all, once |
//! | `root.crt` | its self-signed certificate | second, once |
//! | `intermediate.pem` | the intermediate's key and certificate, one file so that they never part | last, and at each renewal |
//!
//! A kill between two writes leaves a prefix of that list, and the next start writes the rest from what is
//! there: a key on disk is never replaced. What no kill can leave (a damaged file, a gap in the list) is an
//! error that names the file, and nothing is written. The root's key is read only to sign an intermediate
//! and not kept: with an intermediate on disk it may be moved offline.

use std::path::PathBuf;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rollcall_common::{
    id::{CollectorName, Generation, TrustDomain},
    identity::{Pin, Serial},
    time::Timestamp,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};
use zeroize::Zeroizing;

use super::{
    CaError,
    template::{self, Validity},
};
use crate::statedir::StateDir;

/// Directory of the CA within the state directory.
const DIR: &str = "ca";
const ROOT_KEY: &str = "root.key";
const ROOT_CERT: &str = "root.crt";
const INTERMEDIATE: &str = "intermediate.pem";

/// No clock is right that reads less (2026-01-01): a root made under such a clock would end too early.
const CLOCK_FLOOR: Timestamp = Timestamp(1_767_225_600_000);

/// The root as everyone may see it.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: Pin,
    validity: Validity,
}

/// The intermediate, ready to sign.
#[derive(Debug)]
pub(super) struct Intermediate {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: Pin,
    pub(super) validity: Validity,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

/// The files of one collector's CA.
#[derive(Debug)]
pub(super) struct Vault {
    dir: StateDir,
    trust_domain: TrustDomain,
    collector: CollectorName,
}

impl Vault {
    pub(super) fn open(state: &StateDir, trust_domain: TrustDomain, collector: CollectorName) -> Result<Self, CaError> {
        Ok(Self { dir: state.subdir(DIR)?, trust_domain, collector })
    }

    /// The root that is there, or the one and only root made now.
    pub(super) fn root(&self, now: Timestamp) -> Result<Root, CaError> {
        let Some(pem) = self.dir.read(ROOT_CERT)? else {
            if self.dir.read(INTERMEDIATE)?.is_some() {
                return Err(CaError::Missing { path: self.dir.path_of(ROOT_CERT) });
            }
            return self.make_root(now);
        };
        let path = self.dir.path_of(ROOT_CERT);
        let cert = self.read_authority(path.clone(), &pem)?;
        if !is_signed_by(&cert.der, &cert.der) {
            return Err(damaged(path, "it is not signed by its own key"));
        }
        if self.root_key()?.is_some_and(|key| pin_of(&key) != cert.key) {
            return Err(damaged(self.dir.path_of(ROOT_KEY), "it is not the key of root.crt"));
        }
        if now < cert.validity.not_before {
            return Err(CaError::NotYetValid { path, not_before: cert.validity.not_before, now });
        }
        if now > cert.validity.not_after {
            return Err(CaError::Expired { path, not_after: cert.validity.not_after, now });
        }
        Ok(Root { der: cert.der, key: cert.key, validity: cert.validity })
    }

    /// The intermediate that is there, or a first one made now.
    pub(super) fn intermediate(&self, root: &Root, now: Timestamp) -> Result<Intermediate, CaError> {
        let Some(pem) = self.dir.read(INTERMEDIATE)? else {
            return self.make_intermediate(root, now);
        };
        let path = self.dir.path_of(INTERMEDIATE);
        let cert = self.read_authority(path.clone(), &pem)?;
        let key = read_key(path.clone(), &pem)?;
        if pin_of(&key) != cert.key {
            return Err(damaged(path, "its key and its certificate do not belong together"));
        }
        if !is_signed_by(&cert.der, &root.der) {
            return Err(damaged(path, "it is not signed by the root in root.crt"));
        }
        if now < cert.validity.not_before {
            return Err(CaError::NotYetValid { path, not_before: cert.validity.not_before, now });
        }
        let issuer = Issuer::from_ca_cert_der(&cert.der, into_inner(key)?)?;
        Ok(Intermediate { der: cert.der, key: cert.key, validity: cert.validity, issuer })
    }

    /// The next intermediate where half of this one's life is over; `None` where it may stay. Leaves under the
    /// old one remain good: sidecars send it along, and it outlives every leaf by months.
    pub(super) fn renewed(
        &self,
        root: &Root,
        current: &Intermediate,
        now: Timestamp,
    ) -> Result<Option<Intermediate>, CaError> {
        // Under a root that ends soon, a new intermediate would end when the old one does.
        let gains = Validity::intermediate(now, root.validity).not_after > current.validity.not_after;
        if !current.validity.past_half(now) || !gains {
            return Ok(None);
        }
        match self.make_intermediate(root, now) {
            Ok(next) => Ok(Some(next)),
            Err(CaError::RootKeyAway { path }) if current.validity.covers(now) => {
                tracing::warn!(
                    path = %path.display(),
                    not_after = %current.validity.not_after,
                    "the intermediate is past half its life and the root's key is away: put it back until then",
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the intermediate is.
    pub(super) fn intermediate_path(&self) -> PathBuf {
        self.dir.path_of(INTERMEDIATE)
    }

    fn make_root(&self, now: Timestamp) -> Result<Root, CaError> {
        if now < CLOCK_FLOOR {
            return Err(CaError::ClockUnset { now });
        }
        let key = if let Some(key) = self.root_key()? {
            key
        } else {
            let key = new_key()?;
            self.dir.write(ROOT_KEY, Zeroizing::new(key.serialize_pem()).as_bytes())?;
            key
        };
        let pin = pin_of(&key);
        let validity = Validity::root(now);
        let cert =
            template::root(&self.trust_domain, pin, Serial::random(Generation(0))?, validity)?.self_signed(&*key)?;
        self.dir.write(ROOT_CERT, cert.pem().as_bytes())?;
        tracing::info!(pin = %pin, not_after = %validity.not_after, "made the root");
        Ok(Root { der: cert.der().clone(), key: pin, validity })
    }

    fn make_intermediate(&self, root: &Root, now: Timestamp) -> Result<Intermediate, CaError> {
        let root_key = self.root_key()?.ok_or_else(|| CaError::RootKeyAway { path: self.dir.path_of(ROOT_KEY) })?;
        let issuer = Issuer::from_ca_cert_der(&root.der, &*root_key)?;
        let key = new_key()?;
        let pin = pin_of(&key);
        let validity = Validity::intermediate(now, root.validity);
        let serial = Serial::random(Generation(0))?;
        let params = template::intermediate(&self.trust_domain, &self.collector, pin, serial, validity)?;
        let cert = params.signed_by(&*key, &issuer)?;
        let file = Zeroizing::new(format!("{}{}", *Zeroizing::new(key.serialize_pem()), cert.pem()));
        self.dir.write(INTERMEDIATE, file.as_bytes())?;
        tracing::info!(serial = %serial, not_after = %validity.not_after, "made an intermediate");
        let issuer = Issuer::new(params, into_inner(key)?);
        Ok(Intermediate { der: cert.der().clone(), key: pin, validity, issuer })
    }

    fn root_key(&self) -> Result<Option<Zeroizing<KeyPair>>, CaError> {
        let Some(pem) = self.dir.read(ROOT_KEY)? else { return Ok(None) };
        read_key(self.dir.path_of(ROOT_KEY), &pem).map(Some)
    }

    fn read_authority(&self, path: PathBuf, pem: &[u8]) -> Result<AuthorityCert, CaError> {
        let Ok(der) = CertificateDer::from_pem_slice(pem) else {
            return Err(damaged(path, "it holds no certificate in PEM"));
        };
        let Ok((_, cert)) = X509Certificate::from_der(&der) else {
            return Err(damaged(path, "its certificate does not parse"));
        };
        if !cert.is_ca() {
            return Err(damaged(path, "its certificate is not one of a CA"));
        }
        let found = uri_of(&cert).unwrap_or_default();
        let wanted = template::trust_domain_uri(&self.trust_domain);
        if found != wanted {
            return Err(CaError::TrustDomain { path, found: found.to_owned(), wanted });
        }
        let dates = cert.validity();
        let validity = Validity {
            not_before: Timestamp::from_secs(dates.not_before.timestamp()),
            not_after: Timestamp::from_secs(dates.not_after.timestamp()),
        };
        let key = Pin::of_spki(cert.public_key().raw);
        Ok(AuthorityCert { der, key, validity })
    }
}

/// A CA certificate as read from disk.
struct AuthorityCert {
    der: CertificateDer<'static>,
    key: Pin,
    validity: Validity,
}

/// A fresh P-256 key.
pub(super) fn new_key() -> Result<Zeroizing<KeyPair>, CaError> {
    Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
}

/// The pin of a key.
pub(super) fn pin_of(key: &KeyPair) -> Pin {
    Pin::of_spki(&key.subject_public_key_info())
}

/// A copy for an issuer, which owns its key and cannot hold a wiping wrapper.
fn into_inner(key: Zeroizing<KeyPair>) -> Result<KeyPair, CaError> {
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key.serialized_der()), &PKCS_ECDSA_P256_SHA256)?)
}

fn read_key(path: PathBuf, pem: &[u8]) -> Result<Zeroizing<KeyPair>, CaError> {
    let Ok(der) = PrivatePkcs8KeyDer::from_pem_slice(pem) else {
        return Err(damaged(path, "it holds no private key in PEM (PKCS#8)"));
    };
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map(Zeroizing::new)
        .map_err(|_| damaged(path, "its private key is not an ECDSA P-256 key"))
}

fn is_signed_by(cert: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, cert)), Ok((_, issuer))) = (X509Certificate::from_der(cert), X509Certificate::from_der(issuer)) else {
        return false;
    };
    cert.issuer().as_raw() == issuer.subject().as_raw() && cert.verify_signature(Some(issuer.public_key())).is_ok()
}

fn uri_of<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = cert.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
}

fn damaged(path: PathBuf, what: &'static str) -> CaError {
    CaError::Damaged { path, what }
}
