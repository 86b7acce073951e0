//! Requests about API keys and the bootstrap credential.

use rollcall_common::{time::Timestamp, token::TokenId};
use serde_json::json;

use super::{Refusal, Request, World, services::By};
use crate::store::rows::{Change, CredentialRow, EnrollPolicy, Write};

/// Longest life of a key, in seconds: a year.
pub const MAX_LIFE_SECS: u64 = 366 * 86_400;
/// Most credentials that are kept, ended ones included.
pub const MAX_CREDENTIALS: usize = 10_000;
/// The word in the row of a bootstrap credential: it gives the role of an administrator, and can be told
/// from an administrator's key.
pub const BOOTSTRAP: &str = "bootstrap";

/// Notes that somebody whom we know asked for what it may not do. It changes nothing.
#[derive(Debug, Clone)]
pub struct NoteDenied {
    /// What was asked: method and path as declared.
    pub operation: String,
    /// Why it was refused, as the caller was told.
    pub why: String,
    /// Who asked.
    pub by: By,
}

impl Request for NoteDenied {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let details = [("operation", json!(self.operation)), ("why", json!(self.why))];
        let audit = self.by.did(world.now.wall, "access.denied", "api".into(), details);
        Ok((Change { writes: Vec::new(), audit: vec![audit] }, ()))
    }
}

/// Adds a key. The secret is made by the asker and never reaches the registry.
#[derive(Debug, Clone)]
pub struct CreateKey {
    /// The whole row.
    pub row: CredentialRow,
    /// Who asks.
    pub by: By,
}

impl Request for CreateKey {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let row = &self.row;
        let invalid = |why: String| Err(Refusal::Invalid(why));
        let Some(end) = row.expires_at else { return invalid("a key has an end".into()) };
        if end <= world.now.wall {
            return invalid("the key would end before it begins".into());
        }
        if end.since(world.now.wall).as_secs() > MAX_LIFE_SECS {
            return invalid("a key lives a year at most".into());
        }
        if (row.role == "enroller") != row.policy.is_some() {
            return invalid("an enroller has a policy, and nobody else has one".into());
        }
        if let Some(policy) = &row.policy {
            check_policy(policy).map_err(Refusal::Invalid)?;
        }
        if world.roster.credentials().count() >= MAX_CREDENTIALS {
            return invalid(format!("there are {MAX_CREDENTIALS} credentials already: ended ones go after 90 days"));
        }
        let audit = self.by.did(
            world.now.wall,
            "credential.created",
            format!("credential:{}", row.id),
            [
                ("role", json!(row.role)),
                ("scope", json!(row.scope)),
                ("policy", json!(row.policy)),
                ("note", json!(row.note)),
                ("expires_at", json!(row.expires_at)),
            ],
        );
        Ok((Change { writes: vec![Write::InsertCredential(row.clone())], audit: vec![audit] }, ()))
    }
}

fn check_policy(policy: &EnrollPolicy) -> Result<(), String> {
    if policy.kinds.is_empty() {
        return Err("a policy names the kinds that may be let in".into());
    }
    if policy.max_uses == 0 || policy.max_uses > super::tokens::MAX_USES {
        return Err(format!("max_uses of a policy must lie between 1 and {}", super::tokens::MAX_USES));
    }
    if policy.longest_secs == 0 || policy.longest_secs > super::tokens::MAX_LIFE_SECS {
        return Err("a policy lets tokens live for a second to 30 days".into());
    }
    if policy.parents.len() > 256 {
        return Err("a policy names at most 256 parents".into());
    }
    Ok(())
}

/// Ends a credential.
#[derive(Debug, Clone)]
pub struct RevokeKey {
    /// Which.
    pub id: TokenId,
    /// Who asks.
    pub by: By,
}

impl Request for RevokeKey {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let row = world.roster.credential(self.id).ok_or(Refusal::UnknownCredential(self.id))?;
        if row.revoked_at.is_some() {
            return Err(Refusal::CredentialRevoked(self.id));
        }
        let write = Write::RevokeCredential { id: self.id, at: world.now.wall };
        let audit = self.by.did(
            world.now.wall,
            "credential.revoked",
            format!("credential:{}", self.id),
            [("role", json!(row.role)), ("last_used_at", json!(row.last_used_at))],
        );
        Ok((Change { writes: vec![write], audit: vec![audit] }, ()))
    }
}

/// Ends every bootstrap credential; answers how many.
#[derive(Debug, Clone)]
pub struct CloseBootstrap {
    /// Why, in one word.
    pub why: &'static str,
    /// Who asks.
    pub by: By,
}

impl Request for CloseBootstrap {
    type Answer = usize;

    fn plan(&self, world: World<'_>) -> Result<(Change, usize), Refusal> {
        let mut change = Change::default();
        let live = world.roster.credentials().filter(|row| row.role == BOOTSTRAP && row.revoked_at.is_none());
        for row in live {
            change.writes.push(Write::RevokeCredential { id: row.id, at: world.now.wall });
            change.audit.push(self.by.did(
                world.now.wall,
                "credential.revoked",
                format!("credential:{}", row.id),
                [("role", json!(row.role)), ("cause", json!(self.why))],
            ));
        }
        let closed = change.writes.len();
        Ok((change, closed))
    }
}

/// Notes when credentials were used last. Nothing is told of it.
#[derive(Debug, Clone)]
pub struct NoteUses(pub Vec<(TokenId, Timestamp)>);

impl Request for NoteUses {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let known = self.0.iter().filter(|(id, _)| world.roster.credential(*id).is_some());
        let writes = known.map(|(id, at)| Write::TouchCredential { id: *id, at: *at }).collect();
        Ok((Change { writes, audit: Vec::new() }, ()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_common::{
        id::Kind,
        time::{BootTime, Now},
        token::SecretHash,
    };

    use super::*;
    use crate::{registry::roster::Roster, store::rows::Loaded};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn row(n: u8, role: &str) -> CredentialRow {
        let end = Some(NOW.after(Duration::from_secs(60)));
        CredentialRow { expires_at: end, ..CredentialRow::new(TokenId([n; 10]), SecretHash([n; 32]), role, NOW) }
    }

    fn plan<R: Request>(rows: &[CredentialRow], request: &R) -> Result<(Change, R::Answer), Refusal> {
        let roster = Roster::from_loaded(&Loaded { credentials: rows.to_vec(), ..Loaded::default() });
        request.plan(World { roster: &roster, now: Now { wall: NOW, boot: BootTime(1) } })
    }

    fn policy() -> Option<Box<EnrollPolicy>> {
        Some(Box::new(EnrollPolicy {
            kinds: vec![Kind::Agent],
            max_uses: 1,
            longest_secs: 60,
            id_prefix: String::new(),
            parents: Vec::new(),
            labels: rollcall_common::service::Pairs::default(),
        }))
    }

    #[test]
    fn keys_end_and_enrollers_are_bound() {
        let create = |row: CredentialRow| plan(&[], &CreateKey { row, by: By::system() }).map(|(change, ())| change);
        let change = create(row(1, "viewer")).unwrap();
        assert_eq!((change.writes.len(), change.audit[0].action.as_str()), (1, "credential.created"));
        assert!(create(CredentialRow { policy: policy(), ..row(1, "enroller") }).is_ok());
        for bad in [
            CredentialRow { expires_at: None, ..row(1, "viewer") },
            CredentialRow { expires_at: Some(NOW), ..row(1, "viewer") },
            CredentialRow { expires_at: Some(NOW.after(Duration::from_secs(367 * 86_400))), ..row(1, "viewer") },
            row(1, "enroller"),
            CredentialRow { policy: policy(), ..row(1, "operator") },
        ] {
            assert!(matches!(create(bad), Err(Refusal::Invalid(_))));
        }
    }

    #[test]
    fn a_key_is_revoked_once_and_the_bootstrap_as_a_whole() {
        let rows = [row(1, BOOTSTRAP), row(2, BOOTSTRAP), row(3, "admin")];
        let revoke = |n| plan(&rows, &RevokeKey { id: TokenId([n; 10]), by: By::system() }).map(drop);
        assert_eq!(revoke(3), Ok(()));
        assert_eq!(revoke(9), Err(Refusal::UnknownCredential(TokenId([9; 10]))));
        let ended = [CredentialRow { revoked_at: Some(NOW), ..row(1, "admin") }];
        let again = plan(&ended, &RevokeKey { id: TokenId([1; 10]), by: By::system() }).map(drop);
        assert_eq!(again, Err(Refusal::CredentialRevoked(TokenId([1; 10]))));
        let (change, closed) = plan(&rows, &CloseBootstrap { why: "asked", by: By::system() }).unwrap();
        assert_eq!((closed, change.writes.len(), change.audit.len()), (2, 2, 2));
        let (change, closed) = plan(&ended, &CloseBootstrap { why: "asked", by: By::system() }).unwrap();
        assert!(closed == 0 && change.writes.is_empty());
    }
}
