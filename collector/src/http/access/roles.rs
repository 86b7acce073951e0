//! Roles, and the matrix of what each may do.

use std::fmt;

/// What a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads everything.
    Viewer,
    /// Reads, registers, mints and revokes tokens, takes services out of and back into use.
    Operator,
    /// Everything.
    Admin,
    /// Reads `/metrics` and nothing else.
    Metrics,
    /// Mints tokens and nothing else.
    Enroller,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Admin, Self::Metrics, Self::Enroller];

    /// The role's word in a credential's row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Enroller => "enroller",
        }
    }

    /// The role that a credential's row names; an unknown word gives none.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        if word == crate::registry::credentials::BOOTSTRAP {
            return Some(Self::Admin);
        }
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// The matrix.
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        use Permission as P;
        match (self, permission) {
            (_, P::Open | P::Know) | (Self::Admin, _) => true,
            (Self::Operator, P::Read | P::Scrape | P::Mint | P::Operate) => true,
            (Self::Viewer, P::Read | P::Scrape) => true,
            (Self::Metrics, P::Scrape) | (Self::Enroller, P::Mint) => true,
            (Self::Operator, P::Administer)
            | (Self::Viewer, P::Mint | P::Operate | P::Administer)
            | (Self::Metrics, P::Read | P::Mint | P::Operate | P::Administer)
            | (Self::Enroller, P::Read | P::Scrape | P::Operate | P::Administer) => false,
        }
    }
}

/// The roles of one caller: what one of them allows is allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Whether one of them allows it. Without a role nothing is allowed that demands something.
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        matches!(permission, Permission::Open | Permission::Know) || self.iter().any(|role| role.may(permission))
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

fn bit(role: Role) -> u8 {
    1 << role as u8
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(bit(role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Self {
        Self(roles.into_iter().fold(0, |all, role| all | bit(role)))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Role::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing: only for what tells a machine that the process lives.
    Open,
    /// To be somebody, whatever the role.
    Know,
    /// To read the metrics.
    Scrape,
    /// To read what is registered and what happened.
    Read,
    /// To make onboarding tokens.
    Mint,
    /// To register services, revoke tokens, take services out of and back into use.
    Operate,
    /// To revoke, delete and remove services.
    Administer,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Know, Self::Scrape, Self::Read, Self::Mint, Self::Operate, Self::Administer];

    /// The word in the API's contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Know => "know",
            Self::Scrape => "scrape",
            Self::Read => "read",
            Self::Mint => "mint",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}
