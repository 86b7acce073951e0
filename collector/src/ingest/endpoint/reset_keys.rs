//! The two keys that let a restarted collector reset the connections of the one before it: the key of reset
//! tokens, and that of connection ids, without which quinn drops packets for unknown ids unanswered.

use std::{fmt, path::PathBuf, sync::Arc};

use aws_lc_rs::hmac;
use quinn::crypto::HmacKey;
use rollcall_common::id::{NoRandomness, random};
use zeroize::Zeroizing;

use crate::statedir::{StateDir, StateDirError};

/// The file: the reset key, then the key of connection ids.
const FILE: &str = "reset.keys";
const RESET_LEN: usize = 64;
const CONNECTION_IDS_LEN: usize = 8;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum ResetKeysError {
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The file is not what was written.
    #[error(
        "{} is damaged: it has {len} bytes instead of {}; restore it, or remove it to get new keys (sidecars then \
         notice one restart later than usual)",
        path.display(), RESET_LEN + CONNECTION_IDS_LEN
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        len: usize,
    },
    /// No randomness for new keys.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// Keys that outlive the process.
#[derive(Clone)]
pub struct ResetKeys {
    reset: Zeroizing<[u8; RESET_LEN]>,
    connection_ids: u64,
}

impl fmt::Debug for ResetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKeys(REDACTED)")
    }
}

impl ResetKeys {
    /// The keys of this state directory, made at the first start.
    ///
    /// # Errors
    /// When the file is damaged, open to others, or cannot be written.
    pub fn open(state: &StateDir) -> Result<Self, ResetKeysError> {
        if let Some(bytes) = state.read(FILE)? {
            let damaged = || ResetKeysError::Damaged { path: state.path_of(FILE), len: bytes.len() };
            let (reset, connection_ids) = bytes.split_first_chunk::<RESET_LEN>().ok_or_else(damaged)?;
            let connection_ids = connection_ids.try_into().map(u64::from_be_bytes).map_err(|_| damaged())?;
            return Ok(Self { reset: Zeroizing::new(*reset), connection_ids });
        }
        let keys = Self {
            reset: Zeroizing::new(random()?),
            connection_ids: u64::from_be_bytes(random::<CONNECTION_IDS_LEN>()?),
        };
        let bytes = Zeroizing::new([keys.reset.as_slice(), &keys.connection_ids.to_be_bytes()].concat());
        state.write(FILE, &bytes)?;
        Ok(keys)
    }

    pub(super) fn connection_ids(&self) -> u64 {
        self.connection_ids
    }

    pub(super) fn into_hmac(self) -> Arc<dyn HmacKey> {
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, self.reset.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_stay() {
        let outer = tempfile::tempdir().unwrap();
        let state = StateDir::open(&outer.path().join("state")).unwrap();
        let made = ResetKeys::open(&state).unwrap();
        let read = ResetKeys::open(&state).unwrap();
        assert_eq!((*made.reset, made.connection_ids), (*read.reset, read.connection_ids));
        assert_ne!(*made.reset, [0; RESET_LEN]);
        assert_eq!(format!("{made:?}"), "ResetKeys(REDACTED)");
    }

    #[test]
    fn a_file_of_another_length_is_named_and_kept() {
        let outer = tempfile::tempdir().unwrap();
        let state = StateDir::open(&outer.path().join("state")).unwrap();
        for len in [0, 8, 63, 71, 73] {
            state.write(FILE, &vec![7; len]).unwrap();
            let error = ResetKeys::open(&state).unwrap_err().to_string();
            assert!(error.starts_with(&state.path_of(FILE).display().to_string()), "{error}");
            assert!(error.contains(&format!("{len} bytes instead of 72")), "{error}");
            assert_eq!(state.read(FILE).unwrap().unwrap().len(), len);
        }
    }
}
