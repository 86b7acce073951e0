//! The first credential: made once, kept in a private file, good for whoever may read that file. At most one
//! is live: whoever makes one ends the others.
//!
//! It owns the rule when one is made, and so how it is rotated. It does not write files: the caller brings the reading and writing,
//! so that modes, owners and atomic replacement stay in one place.

use std::{error::Error, time::Duration};

use rollcall_common::{
    id::NoRandomness,
    time::Timestamp,
    token::{Credential, CredentialKind, TokenId},
};
use zeroize::Zeroizing;

use super::{
    State,
    access::{Caller, Role, Via},
};
use crate::{
    registry::{Refusal, Registry, credentials::CloseBootstrap, roster::Roster, services::By, tokens::AddCredential},
    store::rows::CredentialRow,
};

pub use crate::registry::credentials::BOOTSTRAP as WORD;

/// How long it is good for. It is there to make the first administrators; afterwards whoever is root on the host has
/// the administrators' socket, login codes, and a restart, which makes another one.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Why it was closed: an operator asked.
pub(super) const ASKED: &str = "asked";
/// Why it was closed: an administrator came in through an identity provider.
const REPLACED: &str = "identity_provider";

/// What was found or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// The file holds a credential that works.
    Kept,
    /// A credential was made and written; every earlier one is revoked.
    Made,
    /// There were such credentials and each of them is revoked: somebody closed this door, and it stays closed.
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
/// `found` is what the file holds, if there is one; `write` replaces it, private and as a whole. Deleting the
/// file and restarting rotates the credential: the change that adds the new row revokes the earlier ones. It
/// is committed before the file is written: a kill in between leaves a credential that nobody knows, and the
/// next start replaces that one too.
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
    let replaces = match registry.read(|roster| standing(roster, found, now)) {
        Standing::Settled(settled) => return Ok(settled),
        Standing::Wanted { replaces } => replaces,
    };
    let (row, text) = make(now)?;
    registry.ask(AddCredential { row, replaces, by: By::system() }).await?;
    write(text.as_bytes()).map_err(|error| BootstrapError::File(error.into()))?;
    Ok(Bootstrap::Made)
}

/// Ends the bootstrap credential once it is not needed: when an administrator of the whole has come in through
/// an identity provider, and the administrators' socket listens. So there is always a way back in for whoever
/// is root here, whatever becomes of the provider.
pub(super) async fn retire(state: &State, caller: &Caller) {
    let proves = caller.via == Via::Issuer && caller.roles.has(Role::Admin) && caller.scope.is_everything();
    if !proves || !state.local_door {
        return;
    }
    let open = |roster: &Roster| roster.credentials().any(|row| row.role == WORD && row.revoked_at.is_none());
    if !state.registry.read(open) {
        return;
    }
    let by = By { actor: caller.actor.clone(), request_id: None };
    match state.registry.ask(CloseBootstrap { why: REPLACED, by }).await {
        Ok(closed) => tracing::info!(
            closed,
            "an administrator came in through an identity provider: the bootstrap credential ended"
        ),
        // The next such caller tries again.
        Err(error) => tracing::warn!(%error, "the bootstrap credential was not ended"),
    }
}

/// What there is already.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing is to be made.
    Settled(Bootstrap),
    /// One must be made, in the place of all that are not revoked.
    Wanted { replaces: Vec<TokenId> },
}

fn standing(roster: &Roster, found: Option<&[u8]>, now: Timestamp) -> Standing {
    let ours = || roster.credentials().filter(|row| row.role == WORD);
    let held = found.and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse::<Credential>().ok());
    if held.is_some_and(|held| ours().any(|row| row.id == held.id && row.hash == held.hash() && row.is_live(now))) {
        return Standing::Settled(Bootstrap::Kept);
    }
    let replaces: Vec<_> = ours().filter(|row| row.revoked_at.is_none()).map(|row| row.id).collect();
    // A rotation revokes rows too, but never the last one.
    if replaces.is_empty() && ours().next().is_some() {
        return Standing::Settled(Bootstrap::Closed);
    }
    Standing::Wanted { replaces }
}

fn make(now: Timestamp) -> Result<(CredentialRow, Zeroizing<String>), NoRandomness> {
    let credential = Credential::random(CredentialKind::Bootstrap)?;
    let row = CredentialRow {
        expires_at: Some(now.after(LIFE)),
        ..CredentialRow::new(credential.id, credential.hash(), WORD, now)
    };
    let mut text = credential.reveal();
    text.push('\n');
    Ok((row, text))
}

#[cfg(test)]
mod tests;
