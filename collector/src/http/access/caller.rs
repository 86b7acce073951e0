//! Whoever passed the guard: a name for the audit trail, roles, and the part of the deployment that is reached.

use std::sync::Arc;

use rollcall_common::{time::Timestamp, token::TokenId};

use super::{Permission, Role, Roles};
use crate::{
    http::error::{Problem, ProblemCode},
    registry::services::By,
    scope::Scope,
    store::rows::EnrollPolicy,
};

/// Whoever passed the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As the audit trail names it: `credential:<id>`, `oidc:<issuer>:<subject>`, `local:uid=0`.
    pub actor: String,
    /// What it may do.
    pub roles: Roles,
    /// Which part of the deployment it reaches.
    pub scope: Scope,
    /// The credential of ours, if it is one.
    pub credential: Option<TokenId>,
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

    /// Whether tokens are all it may make, and only by its policy.
    #[must_use]
    pub fn only_enrolls(&self) -> bool {
        self.roles == Roles::from(Role::Enroller)
    }

    /// The caller as the audit trail names it.
    #[must_use]
    pub fn by(&self, request_id: &str) -> By {
        By { actor: self.actor.clone(), request_id: Some(request_id.into()) }
    }
}
