//! Who may do what: roles, permissions, credentials, and the brake on guessing.
//!
//! It owns the matrix and the check of a credential. It does not know the routes: each declares a
//! [`Permission`] when it is registered (`http/routes.rs`), and nothing is served without one. A credential
//! comes in the `Authorization` header and nowhere else: never in a query, never in a cookie.
//!
//! | module | owns |
//! |---|---|
//! | `roles` | roles, permissions, the matrix |
//! | `caller` | whoever passed: a name, roles, a scope |
//! | `bearer` | the header, and credentials of ours |
//! | `brake` | failed attempts by address |
//! | `hosts` | the `Host` header |

mod bearer;
mod brake;
mod caller;
mod hosts;
mod roles;

pub use self::{
    bearer::{Shown, bearer, check, missing, refused},
    brake::Failures,
    caller::{Caller, Via},
    hosts::host_allowed,
    roles::{Permission, Role, Roles},
};

#[cfg(test)]
mod tests;
