//! The certificate authority: the only holder of signing keys.
//!
//! A root (10 years, pinned by tokens) signs one intermediate per collector (1 year), which signs sidecars'
//! leaves and the collector's own. It knows names, keys and dates. Whether somebody *may* have a
//! certificate is decided elsewhere; what a certificate says is decided here alone, never by a request.
//!
//! Time: [`Ca::refresh`] renews the intermediate and the collector's own leaf at half their lives. It is
//! called by a job every [`REFRESH_EVERY`], not by handshakes, because it may write to disk; both lives are
//! so long that a job may fail for days before anyone notices.

mod csr;
mod own_leaf;
mod template;
#[cfg(test)]
pub(crate) mod tests;
mod vault;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rollcall_common::{
    id::{CollectorName, Generation, NoRandomness, ServiceKey, TrustDomain},
    identity::{PeerId, Pin, Serial},
    time::{Clock, Timestamp},
    wire::message::Bytes,
};
use rustls::{pki_types::CertificateDer, server::ResolvesServerCert};

pub use csr::{CsrError, MAX_CSR, ProvenCsr, verify_proof};

use self::{
    own_leaf::OwnLeaf,
    template::Validity,
    vault::{Intermediate, Root, Vault},
};
use crate::statedir::{StateDir, StateDirError};

/// How often [`Ca::refresh`] wants to be called.
pub const REFRESH_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why the CA cannot be opened or cannot sign. Messages name the file and the fix.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The directory or a file in it.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// A file that no crash leaves so.
    #[error("{} is damaged: {what}; restore it from a backup (nothing was changed)", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The root is gone although it has been used.
    #[error("{} is missing although an intermediate was issued from it: restore it from a backup", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// An intermediate must be signed and the root's key is not here.
    #[error("a new intermediate is due and {} is not there: put the root's key back for this start", path.display())]
    RootKeyAway {
        /// Where it belongs.
        path: PathBuf,
    },
    /// The CA is another deployment's.
    #[error("{} belongs to {found:?}, the configured trust domain is {wanted:?}: configure that one, or another state directory", path.display())]
    TrustDomain {
        /// Which file.
        path: PathBuf,
        /// What it names.
        found: String,
        /// What is configured.
        wanted: String,
    },
    /// The clock is behind.
    #[error("{} begins at {not_before} and this host's clock says {now}: set the clock", path.display())]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// When it begins.
        not_before: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The root's time is over, or the clock is ahead.
    #[error("{} ended at {not_after} and this host's clock says {now}: set the clock, or make a new deployment", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When it ended.
        not_after: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The intermediate could not be renewed in time.
    #[error("{} ended at {not_after} and could not be renewed: put the root's key back and restart", path.display())]
    IntermediateEnded {
        /// Which file.
        path: PathBuf,
        /// When it ended.
        not_after: Timestamp,
    },
    /// A first start under a clock that cannot be right.
    #[error("this host's clock says {now}, before this program existed: set it before the first start")]
    ClockUnset {
        /// The clock.
        now: Timestamp,
    },
    /// A date that no certificate can carry.
    #[error("no certificate can carry the date {0}: set this host's clock")]
    Date(Timestamp),
    /// A request for one of the CA's own keys.
    #[error("the requested key is one of the CA's own")]
    OwnKey,
    /// No randomness for a serial.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The signing library refused.
    #[error("cannot sign a certificate")]
    Signing(#[from] rcgen::Error),
    /// The TLS library refused the collector's own key.
    #[error("cannot use the collector's own key")]
    OwnLeaf(#[from] rustls::Error),
}

/// How long sidecars' certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertPolicy {
    leaf_ttl: Duration,
}

/// A life that does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate must live between {least:?} and {most:?}, not {given:?}", most = CertPolicy::MAX_LEAF_TTL)]
pub struct PolicyError {
    given: Duration,
    least: Duration,
}

impl CertPolicy {
    /// Shortest life: a renewal and its retries fit in.
    pub const MIN_LEAF_TTL: Duration = Duration::from_secs(10 * 60);
    /// Longest life: months under the intermediate's.
    pub const MAX_LEAF_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    /// The life unless configured: short lives buy little where revocation is live, and a long outage must
    /// not expire a fleet.
    pub const DEFAULT_LEAF_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    /// Shortest life of [`Self::short_lived`]: below it, whole seconds blur everything.
    pub const MIN_SHORT_TTL: Duration = Duration::from_secs(2);

    /// A life for real use.
    ///
    /// # Errors
    /// Out of [`Self::MIN_LEAF_TTL`] to [`Self::MAX_LEAF_TTL`].
    pub fn new(leaf_ttl: Duration) -> Result<Self, PolicyError> {
        Self::checked(leaf_ttl, Self::MIN_LEAF_TTL)
    }

    /// A life for trying out expiry and renewal, down to [`Self::MIN_SHORT_TTL`].
    ///
    /// # Errors
    /// Out of [`Self::MIN_SHORT_TTL`] to [`Self::MAX_LEAF_TTL`].
    pub fn short_lived(leaf_ttl: Duration) -> Result<Self, PolicyError> {
        Self::checked(leaf_ttl, Self::MIN_SHORT_TTL)
    }

    fn checked(leaf_ttl: Duration, least: Duration) -> Result<Self, PolicyError> {
        if (least..=Self::MAX_LEAF_TTL).contains(&leaf_ttl) {
            Ok(Self { leaf_ttl })
        } else {
            Err(PolicyError { given: leaf_ttl, least })
        }
    }

    /// The life.
    #[must_use]
    pub fn leaf_ttl(self) -> Duration {
        self.leaf_ttl
    }
}

impl Default for CertPolicy {
    fn default() -> Self {
        Self { leaf_ttl: Self::DEFAULT_LEAF_TTL }
    }
}

/// Whose CA this is.
#[derive(Debug, Clone)]
pub struct CaSettings {
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// This collector.
    pub collector: CollectorName,
    /// How long leaves live.
    pub policy: CertPolicy,
}

/// What sidecars trust.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Roots in DER.
    pub roots: Vec<Bytes>,
    /// Rises with each change.
    pub revision: u64,
}

/// A freshly signed certificate of a sidecar.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf and intermediate in DER.
    pub chain: Vec<Bytes>,
    /// The leaf's serial, generation inside.
    pub serial: Serial,
    /// SHA-256 of [`Self::spki`].
    pub key: Pin,
    /// The leaf's public key as DER `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
    /// When the leaf begins, a little in the past.
    pub not_before: Timestamp,
    /// When the leaf ends.
    pub not_after: Timestamp,
    /// When half its life is over.
    pub renew_at: Timestamp,
}

/// What a [`Ca::refresh`] renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// A new intermediate signs from now on.
    pub intermediate: bool,
    /// New handshakes see a new leaf.
    pub own_leaf: bool,
}

/// The certificate authority of one collector.
pub struct Ca {
    settings: CaSettings,
    clock: Arc<dyn Clock>,
    vault: Vault,
    root: Root,
    signing: ArcSwap<Intermediate>,
    own_leaf: Arc<OwnLeaf>,
    refreshing: Mutex<()>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("settings", &self.settings).field("pin", &self.root.key).finish_non_exhaustive()
    }
}

impl Ca {
    /// Opens the CA in `ca/` of the state directory; makes it at the first start, completes what a crash
    /// interrupted, and renews the intermediate where half its life is over.
    ///
    /// # Errors
    /// When a file is damaged, missing, open to others or of another deployment, and when the clock lies
    /// outside the root's life. Nothing on disk is changed then.
    pub fn open(state: &StateDir, settings: CaSettings, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let now = clock.now().wall;
        let vault = Vault::open(state, settings.trust_domain.clone(), settings.collector.clone())?;
        let root = vault.root(now)?;
        let found = vault.intermediate(&root, now)?;
        let intermediate = vault.renewed(&root, &found, now)?.unwrap_or(found);
        let own_leaf = Arc::new(OwnLeaf::new(&own_id(&settings), &root.der, &intermediate, now)?);
        let signing = ArcSwap::from_pointee(intermediate);
        Ok(Self { settings, clock, vault, root, signing, own_leaf, refreshing: Mutex::new(()) })
    }

    /// The pin that tokens carry: SHA-256 of the root's public key.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.root.key
    }

    /// How long the certificates of sidecars live.
    #[must_use]
    pub fn leaf_ttl(&self) -> Duration {
        self.settings.policy.leaf_ttl()
    }

    /// The roots that vouch for sidecars and collectors.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.der.clone()]
    }

    /// The roots as they are sent to sidecars. The revision stands at 1: this root is never replaced.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        Bundle { roots: vec![Bytes(self.root.der.to_vec())], revision: 1 }
    }

    /// Reads a certificate request in DER.
    ///
    /// # Errors
    /// [`CsrError`]: every reason is `CSR_INVALID` to the sender.
    pub fn read_csr(der: &[u8]) -> Result<ProvenCsr, CsrError> {
        ProvenCsr::read(der)
    }

    /// Whether this key is one of the CA's own: root, intermediate or the collector's leaf. A request for
    /// such a key means that it leaked.
    #[must_use]
    pub fn is_own_key(&self, key: &Pin) -> bool {
        [self.root.key, self.signing.load().key, self.own_leaf.key()].contains(key)
    }

    /// Signs a certificate for a service. Name, purpose and dates come from here; the request gives its key.
    ///
    /// # Errors
    /// When the key is one of the CA's own, when the intermediate has ended, and when signing fails.
    pub fn issue(&self, service: &ServiceKey, csr: &ProvenCsr, generation: Generation) -> Result<Issued, CaError> {
        if self.is_own_key(&csr.key()) {
            return Err(CaError::OwnKey);
        }
        let now = self.clock.now().wall;
        let intermediate = self.signing.load();
        if now > intermediate.validity.not_after {
            let not_after = intermediate.validity.not_after;
            return Err(CaError::IntermediateEnded { path: self.vault.intermediate_path(), not_after });
        }
        let validity = Validity::sidecar(now, self.settings.policy.leaf_ttl(), intermediate.validity);
        let serial = Serial::random(generation)?;
        let peer = PeerId::service(self.settings.trust_domain.clone(), service.clone());
        let leaf = template::sidecar_leaf(&peer, serial, validity)?.signed_by(csr, &intermediate.issuer)?;
        Ok(Issued {
            chain: vec![Bytes(leaf.der().to_vec()), Bytes(intermediate.der.to_vec())],
            serial,
            key: csr.key(),
            spki: csr.spki().to_vec(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            renew_at: template::half_way(now, validity.not_after),
        })
    }

    /// What rustls serves: leaf and intermediate for heartbeats, the root too for enrollment.
    #[must_use]
    pub fn certificate_resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.own_leaf) as Arc<dyn ResolvesServerCert>
    }

    /// Renews what is past half its life. May write to disk, so call it where blocking is allowed.
    ///
    /// # Errors
    /// When signing or writing fails; what was in use stays in use.
    pub fn refresh(&self) -> Result<Refreshed, CaError> {
        let _one_at_a_time = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now().wall;
        let mut signing = self.signing.load_full();
        let next = self.vault.renewed(&self.root, &signing, now)?;
        let intermediate = next.is_some();
        if let Some(next) = next {
            signing = Arc::new(next);
            self.signing.store(Arc::clone(&signing));
        }
        let own_leaf = intermediate || self.own_leaf.is_due(now);
        if own_leaf {
            self.own_leaf.renew(&own_id(&self.settings), &self.root.der, &signing, now)?;
        }
        Ok(Refreshed { intermediate, own_leaf })
    }
}

fn own_id(settings: &CaSettings) -> PeerId {
    PeerId::collector(settings.trust_domain.clone(), settings.collector.clone())
}
