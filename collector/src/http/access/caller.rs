//! Whoever passed the guard: a name for the audit trail, roles, and the part of the deployment that is reached.

use std::sync::Arc;

use rollcall_common::{time::Timestamp, token::TokenId};

use super::{Permission, Roles};
use crate::{
    http::error::{Problem, ProblemCode},
    registry::services::By,
    scope::Scope,
    store::rows::{EnrollPolicy, IdRule, TokenPolicy},
};

/// How a caller proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// With a credential of ours.
    Credential(TokenId),
    /// With a token of a configured issuer.
    Issuer,
    /// By being who the kernel says, on this host.
    Local,
}

/// Whoever passed the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As the audit trail names it: `credential:<id>`, `oidc:<issuer>:<subject>`, `local:uid=0`.
    pub actor: String,
    /// What it may do.
    pub roles: Roles,
    /// Which part of the deployment it reaches.
    pub scope: Scope,
    /// How it proved itself.
    pub via: Via,
    /// What an enroller's tokens may be.
    pub policy: Option<Arc<EnrollPolicy>>,
    /// When it ends, if ever.
    pub ends: Option<Timestamp>,
}

impl Caller {
    /// Refuses what the roles do not allow.
    ///
    /// # Errors
    /// [`ProblemCode::Forbidden`], naming the roles.
    pub fn demand(&self, permission: Permission) -> Result<(), Problem> {
        if self.roles.may(permission) {
            return Ok(());
        }
        let detail = if self.roles.is_empty() {
            "this caller has no role here".to_owned()
        } else {
            format!("the role {} does not allow this", self.roles)
        };
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// Refuses a caller that reaches a part of the deployment only.
    ///
    /// # Errors
    /// [`ProblemCode::Forbidden`], naming the scope.
    pub fn demand_everything(&self) -> Result<(), Problem> {
        if self.scope.is_everything() {
            return Ok(());
        }
        let detail = format!("this concerns the whole deployment, and the caller reaches only {}", self.scope);
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// Refuses a token that an enroller's policy does not allow. Who may operate is bound by no policy.
    ///
    /// # Errors
    /// [`ProblemCode::Forbidden`], naming what the policy says.
    pub fn may_enroll(&self, token: &TokenPolicy, now: Timestamp) -> Result<(), Problem> {
        if self.roles.may(Permission::Operate) {
            return Ok(());
        }
        let refused = |why: String| Err(Problem::new(ProblemCode::Forbidden, format!("the key's policy {why}")));
        let Some(policy) = &self.policy else { return refused("allows no tokens".into()) };
        if !policy.kinds.contains(&token.kind) {
            return refused(format!("allows no tokens for a {}", token.kind));
        }
        if token.max_uses > policy.max_uses {
            return refused(format!("allows {} uses of a token at most", policy.max_uses));
        }
        if token.expires_at.since(now).as_secs() > policy.longest_secs {
            return refused(format!("lets a token live for {} seconds at most", policy.longest_secs));
        }
        let begins = match &token.id_rule {
            IdRule::Fixed(id) => id.as_str().starts_with(&policy.id_prefix),
            IdRule::Prefix(prefix) => prefix.starts_with(&policy.id_prefix),
            // What is fixed in a pattern comes before its first wildcard, and a prefix holds none.
            IdRule::Pattern(pattern) => pattern.to_string().starts_with(&policy.id_prefix),
            IdRule::Assigned => policy.id_prefix.is_empty(),
        };
        if !begins {
            return refused(format!("demands ids that begin with {:?}", policy.id_prefix));
        }
        let named = token.parent.as_ref().is_some_and(|parent| policy.parents.contains(parent));
        if !policy.parents.is_empty() && (!named || token.parent_rule.is_some()) {
            return refused("names the parents that a token must name".into());
        }
        if let Some((key, value)) = policy.labels.iter().find(|(key, value)| token.labels.get(key) != Some(*value)) {
            return refused(format!("demands the label {key}={value}"));
        }
        if token.rejoin_limit.is_none_or(|limit| limit > TokenPolicy::REJOINS) || token.implicit_children {
            let most = TokenPolicy::REJOINS;
            return refused(format!("allows no implicit children, and {most} rejoins at most"));
        }
        Ok(())
    }

    /// The caller as the audit trail names it.
    #[must_use]
    pub fn by(&self, request_id: &str) -> By {
        By { actor: self.actor.clone(), request_id: Some(request_id.into()) }
    }
}
