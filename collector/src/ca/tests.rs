//! The CA on real files, under a clock moved by hand.

mod files;
mod issuing;
mod requests;
mod serving;

use std::{path::PathBuf, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rollcall_common::{
    id::{Generation, ServiceKey},
    time::{ManualClock, Timestamp},
};

use super::{Ca, CaError, CaSettings, CertPolicy, Issued};
use crate::statedir::StateDir;

pub(crate) const START: Timestamp = Timestamp(1_795_229_160_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A state directory of its own and a clock.
pub(crate) struct World {
    outer: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { outer: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(START)) }
    }

    fn state(&self) -> PathBuf {
        self.outer.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state().join("ca").join(name)
    }

    fn settings() -> CaSettings {
        CaSettings {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "main".parse().unwrap(),
            policy: CertPolicy::default(),
        }
    }

    fn try_open(&self, settings: CaSettings) -> Result<Ca, CaError> {
        let state = StateDir::open(&self.state())?;
        Ca::open(&state, settings, Arc::clone(&self.clock) as _)
    }

    pub(crate) fn open(&self) -> Ca {
        self.try_open(Self::settings()).unwrap()
    }
}

pub(crate) fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// The request of an honest sidecar: an empty subject and a key.
pub(crate) fn honest_csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn poller() -> ServiceKey {
    "poller/p1".parse().unwrap()
}

/// A certificate for a fresh key.
fn enroll(ca: &Ca) -> (KeyPair, Issued) {
    let key = new_key();
    let csr = Ca::read_csr(&honest_csr(&key)).unwrap();
    let issued = ca.issue(&poller(), &csr, Generation(1)).unwrap();
    (key, issued)
}
