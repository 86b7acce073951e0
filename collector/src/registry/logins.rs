//! Requests about logins: a code is exchanged for a session, or was not.

use std::net::IpAddr;

use rollcall_common::token::TokenId;
use serde_json::json;

use super::{Refusal, Request, World, services::By};
use crate::store::rows::{Change, CredentialRow, Write};

/// Who makes sessions, in their rows and in the audit trail.
pub const BY: &str = "login";

/// Begins a session. Its id follows from the code that it is exchanged for: where there is one with that id, the
/// code was used.
#[derive(Debug, Clone)]
pub struct LogIn {
    /// The session's credential, as a whole row.
    pub row: CredentialRow,
    /// Whence.
    pub from: Option<IpAddr>,
    /// Who asks.
    pub by: By,
}

impl Request for LogIn {
    /// Whether the code was good for it.
    type Answer = bool;

    fn plan(&self, world: World<'_>) -> Result<(Change, bool), Refusal> {
        if world.roster.credential(self.row.id).is_some() {
            return Ok((Change::default(), false));
        }
        let details =
            [("role", json!(self.row.role)), ("expires_at", json!(self.row.expires_at)), ("from", json!(self.from))];
        let audit = self.by.did(world.now.wall, "login.succeeded", format!("credential:{}", self.row.id), details);
        Ok((Change { writes: vec![Write::InsertCredential(self.row.clone())], audit: vec![audit] }, true))
    }
}

/// Notes that somebody came with a code that was not good. It changes nothing.
#[derive(Debug, Clone)]
pub struct NoteFailedLogin {
    /// Whence.
    pub from: Option<IpAddr>,
    /// Who asks.
    pub by: By,
}

impl Request for NoteFailedLogin {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let audit = self.by.did(world.now.wall, "login.failed", "login".into(), [("from", json!(self.from))]);
        Ok((Change { writes: Vec::new(), audit: vec![audit] }, ()))
    }
}

/// Ends a session.
#[derive(Debug, Clone)]
pub struct LogOut {
    /// The session's credential.
    pub id: TokenId,
    /// Who asks.
    pub by: By,
}

impl Request for LogOut {
    /// Whether it was one, and had not ended.
    type Answer = bool;

    fn plan(&self, world: World<'_>) -> Result<(Change, bool), Refusal> {
        let row = world.roster.credential(self.id).filter(|row| row.created_by == BY && row.revoked_at.is_none());
        if row.is_none() {
            return Ok((Change::default(), false));
        }
        let write = Write::RevokeCredential { id: self.id, at: world.now.wall };
        let audit = self.by.did(world.now.wall, "login.ended", format!("credential:{}", self.id), []);
        Ok((Change { writes: vec![write], audit: vec![audit] }, true))
    }
}

/// Notes that a code was made by the API.
#[derive(Debug, Clone)]
pub struct NoteLoginCode {
    /// Who asks.
    pub by: By,
}

impl Request for NoteLoginCode {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let audit = self.by.did(world.now.wall, "login.code_created", "login".into(), []);
        Ok((Change { writes: Vec::new(), audit: vec![audit] }, ()))
    }
}
