//! The first credential: made once, kept in a private file, good for whoever may read that file.
//!
//! It owns the rule when one is made. It does not write files: the caller brings the reading and writing,
//! so that modes, owners and atomic replacement stay in one place.

use std::error::Error;

use rollcall_common::{
    id::NoRandomness,
    time::Timestamp,
    token::{Credential, CredentialKind},
};
use zeroize::Zeroizing;

use crate::{
    registry::{Refusal, Registry, roster::Roster, services::By, tokens::AddCredential},
    store::rows::CredentialRow,
};

/// The word in the row of a bootstrap credential: it gives the role of an administrator, and can be told
/// from an administrator's key.
pub const WORD: &str = "bootstrap";

/// What was found or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// The file holds a credential that works.
    Kept,
    /// A credential was made and written.
    Made,
    /// An operator closed this door; it stays closed.
    Closed,
}

/// Why there is no bootstrap credential.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The operating system has no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The file could not be read or written.
    #[error("the bootstrap credential's file: {0}")]
    File(#[source] Box<dyn Error + Send + Sync>),
    /// The registry did not take it.
    #[error("the bootstrap credential was not registered: {0}")]
    Refused(#[from] Refusal),
}

/// Sees to it that the file holds a credential that works, unless an operator closed this door.
///
/// `found` is what the file holds, if there is one; `write` replaces it, private and as a whole. The row is
/// committed first: a kill in between leaves a credential that nobody knows, and the next start makes
/// another. Deleting the file and restarting gives a new credential; the old one keeps working until it is
/// revoked.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn ensure<E>(
    registry: &Registry,
    found: Option<&[u8]>,
    write: impl FnOnce(&[u8]) -> Result<(), E>,
) -> Result<Bootstrap, BootstrapError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let now = registry.now().wall;
    if let Some(standing) = registry.read(|roster| standing(roster, found, now)) {
        return Ok(standing);
    }
    let (row, text) = make(now)?;
    registry.ask(AddCredential { row, by: By::system() }).await?;
    write(text.as_bytes()).map_err(|error| BootstrapError::File(error.into()))?;
    Ok(Bootstrap::Made)
}

/// What there is already; `None` = one must be made.
fn standing(roster: &Roster, found: Option<&[u8]>, now: Timestamp) -> Option<Bootstrap> {
    let ours = || roster.credentials().filter(|row| row.role == WORD);
    let lives = |row: &CredentialRow| row.revoked_at.is_none() && row.expires_at.is_none_or(|end| now < end);
    let held = found.and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse::<Credential>().ok());
    if held.is_some_and(|held| ours().any(|row| row.id == held.id && row.hash == held.hash() && lives(row))) {
        return Some(Bootstrap::Kept);
    }
    ours().any(|row| row.revoked_at.is_some()).then_some(Bootstrap::Closed)
}

fn make(now: Timestamp) -> Result<(CredentialRow, Zeroizing<String>), NoRandomness> {
    let credential = Credential::random(CredentialKind::Bootstrap)?;
    let row = CredentialRow {
        id: credential.id,
        hash: credential.hash(),
        role: WORD.into(),
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    let mut text = credential.reveal();
    text.push('\n');
    Ok((row, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::Loaded;

    fn roster(rows: &[CredentialRow]) -> Roster {
        Roster::from_loaded(&Loaded { credentials: rows.to_vec(), ..Loaded::default() })
    }

    #[test]
    fn one_is_made_where_none_works_and_none_where_the_door_was_closed() {
        let now = Timestamp::from_secs(1_800_000_000);
        let (row, text) = make(now).unwrap();
        let (other, _) = make(now).unwrap();
        assert_eq!(standing(&roster(&[]), None, now), None, "first start");
        assert_eq!(standing(&roster(&[]), Some(text.as_bytes()), now), None, "a file of another deployment");
        assert_eq!(standing(&roster(std::slice::from_ref(&row)), Some(text.as_bytes()), now), Some(Bootstrap::Kept));
        assert_eq!(standing(&roster(std::slice::from_ref(&row)), None, now), None, "a lost file");
        assert_eq!(standing(&roster(std::slice::from_ref(&row)), Some(b"rubbish"), now), None);
        assert_eq!(standing(&roster(&[other]), Some(text.as_bytes()), now), None, "a stale file");
        let ended = CredentialRow { expires_at: Some(now), ..row.clone() };
        assert_eq!(standing(&roster(&[ended]), Some(text.as_bytes()), now), None);
        let closed = CredentialRow { revoked_at: Some(now), ..row.clone() };
        assert_eq!(
            standing(&roster(std::slice::from_ref(&closed)), Some(text.as_bytes()), now),
            Some(Bootstrap::Closed)
        );
        assert_eq!(standing(&roster(&[closed]), None, now), Some(Bootstrap::Closed));
        let key = CredentialRow { role: "admin".into(), revoked_at: Some(now), ..row };
        assert_eq!(standing(&roster(&[key]), None, now), None, "an administrator's key is another door");
    }
}
