//! Requests about onboarding tokens and API credentials.

use std::time::Duration;

use rollcall_common::{
    id::Kind,
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use serde_json::json;

use super::{
    ParentProblem, Refusal, Request, World,
    services::{By, check_parent},
};
use crate::store::rows::{Change, CredentialRow, IdRule, TokenPolicy, TokenRow, Write};

/// Longest life of a token, in seconds: 30 days.
pub const MAX_LIFE_SECS: u64 = 30 * 86_400;
/// How long after its goodbye or loss an ephemeral service may stay, in seconds: a minute to 30 days.
pub const EPHEMERAL_SECS: std::ops::RangeInclusive<u32> = 60..=30 * 86_400;
/// Most uses of one token.
pub const MAX_USES: u32 = 1_000_000;

/// Makes a token. The secret is made by the asker and never reaches the registry.
#[derive(Debug, Clone)]
pub struct CreateToken {
    /// Its public half.
    pub id: TokenId,
    /// What proves its secret.
    pub hash: SecretHash,
    /// What it allows.
    pub policy: TokenPolicy,
    /// A note of the maker's.
    pub note: String,
    /// Who asks.
    pub by: By,
}

impl Request for CreateToken {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let invalid = |why: String| Err(Refusal::Invalid(why));
        let policy = &self.policy;
        if policy.max_uses == 0 || policy.max_uses > MAX_USES {
            return invalid(format!("max_uses must lie between 1 and {MAX_USES}"));
        }
        if matches!(policy.id_rule, IdRule::Fixed(_)) && policy.max_uses > 1 {
            return invalid("a token with a fixed id registers one service: max_uses must be 1".into());
        }
        if policy.expires_at <= policy.not_before || policy.expires_at <= world.now.wall {
            return invalid("the token would end before it begins".into());
        }
        if policy.expires_at.since(world.now.wall).as_secs() > MAX_LIFE_SECS {
            return invalid("a token lives 30 days at most".into());
        }
        if policy.checker_kind.is_some() && policy.kind != Kind::Checker {
            return invalid(format!("checker_kind is for checkers; this token is for a {}", policy.kind));
        }
        self.check_parents()?;
        // A token without a parent leaves the choice to the sidecar, so only a named one is looked at. It may
        // register later than its token is made; enrollment asks again.
        if policy.parent.is_some() {
            match check_parent(world.roster, policy.kind, policy.parent.as_ref()) {
                Ok(_) | Err(ParentProblem::Unknown(_)) => {}
                Err(problem) => return Err(problem.into()),
            }
        }
        let row = TokenRow {
            id: self.id,
            hash: self.hash,
            policy: policy.clone(),
            uses: 0,
            created_by: self.by.actor.clone(),
            created_at: world.now.wall,
            note: self.note.clone(),
            revoked_at: None,
            last_used_at: None,
            last_used_from: None,
            seq: rollcall_common::id::Seq::default(),
        };
        let audit = self.by.did(
            world.now.wall,
            "token.created",
            format!("token:{}", self.id),
            [("policy", json!(policy)), ("note", json!(self.note))],
        );
        Ok((Change { writes: vec![Write::InsertToken(Box::new(row))], audit: vec![audit] }, ()))
    }
}

impl CreateToken {
    /// What a rule for parents must be, beyond being one.
    fn check_parents(&self) -> Result<(), Refusal> {
        let policy = &self.policy;
        let invalid = |why: String| Err(Refusal::Invalid(why));
        if policy.ephemeral_after.is_some_and(|secs| !EPHEMERAL_SECS.contains(&secs)) {
            return invalid(format!(
                "ephemeral_after must lie between {} s and {} d",
                EPHEMERAL_SECS.start(),
                EPHEMERAL_SECS.end() / 86_400
            ));
        }
        if policy.implicit_children && !matches!(policy.kind, Kind::Poller | Kind::Agent) {
            return invalid(format!("a {} has no children: implicit_children is for pollers and agents", policy.kind));
        }
        match (&policy.parent_rule, &policy.parent, policy.kind.parent()) {
            (None, _, _) => Ok(()),
            (Some(_), Some(_), _) => invalid("give either a parent or a rule that finds it by a label".into()),
            (Some(_), None, None) => Err(ParentProblem::Unwanted(policy.kind).into()),
            (Some(rule), None, Some(_)) if policy.labels.get(rule.label()).is_some() => {
                let label = rule.label();
                invalid(format!("the token sets the label {label:?} itself, so that it names one parent: give parent"))
            }
            (Some(_), None, Some(_)) => Ok(()),
        }
    }
}

/// Revokes a token; the services that it registered stay.
#[derive(Debug, Clone)]
pub struct RevokeToken {
    /// Which.
    pub id: TokenId,
    /// Who asks.
    pub by: By,
}

impl Request for RevokeToken {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let token = world.roster.token(self.id).ok_or(Refusal::UnknownToken(self.id))?;
        if token.revoked_at.is_some() {
            return Err(Refusal::TokenRevoked(self.id));
        }
        let write = Write::RevokeToken { token: self.id, at: world.now.wall };
        let audit =
            self.by.did(world.now.wall, "token.revoked", format!("token:{}", self.id), [("uses", json!(token.uses))]);
        Ok((Change { writes: vec![write], audit: vec![audit] }, ()))
    }
}

/// Removes tokens whose end is long past, with who used them and who asked with them; the audit trail stays.
/// Requests for approval go as soon as their token has ended, since nothing can come of them.
#[derive(Debug, Clone)]
pub struct PurgeTokens {
    /// How long a token is kept after its end.
    pub keep: Duration,
    /// At most so many tokens, and so many requests, in one change.
    pub most: usize,
    /// Who asks.
    pub by: By,
}

impl Request for PurgeTokens {
    /// How many tokens and how many requests went; ask again while one is as many as were allowed.
    type Answer = (usize, usize);

    fn plan(&self, world: World<'_>) -> Result<(Change, (usize, usize)), Refusal> {
        let (roster, now) = (world.roster, world.now.wall);
        let old = roster.tokens().filter(|token| now.since(token.ended_at()) > self.keep).take(self.most);
        let old: Vec<TokenId> = old.map(|token| token.id).collect();
        let over = |id: TokenId| roster.token(id).is_none_or(|token| now >= token.ended_at());
        let asked = roster.approvals().after(None).filter(|row| over(row.token) && !old.contains(&row.token));
        let asked: Vec<_> = asked.take(self.most).map(|row| row.id).collect();
        let mut change = Change::default();
        change.writes.extend(asked.iter().map(|id| Write::DropApproval(*id)));
        for id in &old {
            change.writes.push(Write::RemoveToken(*id));
            change.audit.push(self.by.did(now, "token.purged", format!("token:{id}"), []));
        }
        Ok((change, (old.len(), asked.len())))
    }
}

/// Adds an API credential, alone or in the place of others: they end in the change that begins it.
#[derive(Debug, Clone)]
pub struct AddCredential {
    /// The whole row.
    pub row: CredentialRow,
    /// Which ones it replaces. One that is revoked already stays as it is.
    pub replaces: Vec<TokenId>,
    /// Who asks.
    pub by: By,
}

impl Request for AddCredential {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let audit = self.by.did(
            world.now.wall,
            "credential.created",
            format!("credential:{}", self.row.id),
            [("role", json!(self.row.role))],
        );
        let mut change = Change { writes: vec![Write::InsertCredential(self.row.clone())], audit: vec![audit] };
        for id in self.replaces.iter().copied() {
            let Some(old) = world.roster.credential(id) else {
                return Err(Refusal::Invalid(format!("credential {id}, which is to be replaced, does not exist")));
            };
            if old.revoked_at.is_some() {
                continue;
            }
            change.writes.push(Write::RevokeCredential { id, at: world.now.wall });
            change.audit.push(self.by.did(
                world.now.wall,
                "credential.revoked",
                format!("credential:{id}"),
                [("role", json!(old.role)), ("replaced_by", json!(self.row.id.to_string()))],
            ));
        }
        Ok((change, ()))
    }
}

/// Where a token stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It can be used.
    Usable,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
    /// It has no uses left.
    Exhausted,
    /// It was revoked.
    Revoked,
}

impl TokenState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Usable, Self::NotYetValid, Self::Expired, Self::Exhausted, Self::Revoked];

    /// Where a token stands now.
    #[must_use]
    pub fn of(token: &TokenRow, now: Timestamp) -> Self {
        if token.revoked_at.is_some() {
            Self::Revoked
        } else if now >= token.policy.expires_at {
            Self::Expired
        } else if token.uses >= token.policy.max_uses {
            Self::Exhausted
        } else if now < token.policy.not_before {
            Self::NotYetValid
        } else {
            Self::Usable
        }
    }

    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Exhausted => "exhausted",
            Self::Revoked => "revoked",
        }
    }
}
