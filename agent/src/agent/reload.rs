//! The configuration, read again while the sidecar runs. How it looks at the service beside it and at children
//! changes at once; what a running sidecar is built on stays as it is, and is named.
//!
//! A configuration with anything wrong in it changes nothing.

use std::fmt;

use super::Agent;
use crate::config::{Config, Problems};

/// Reads the configuration from where the running one came from.
pub struct Reread(Box<dyn Fn() -> Result<Config, Problems> + Send>);

impl Reread {
    /// By this.
    pub fn by(read: impl Fn() -> Result<Config, Problems> + Send + 'static) -> Self {
        Self(Box::new(read))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reread")
    }
}

impl Agent {
    /// Has the configuration read again when somebody asks for it; without this, it stays as it is.
    #[must_use]
    pub fn rereading(self, reread: Reread) -> Self {
        Self { reread: Some(reread), ..self }
    }

    /// Reads the configuration again; tells whether other things are looked at now.
    pub(super) fn reload(&mut self) -> bool {
        let fresh = match self.reread.as_ref().map(|Reread(read)| read()) {
            Some(Ok(fresh)) => fresh,
            Some(Err(problems)) => {
                tracing::error!("the configuration stays as it was: {problems}");
                return false;
            }
            None => return false,
        };
        let later = built_on(&self.config, &fresh);
        if !later.is_empty() {
            tracing::warn!("until the next start these stay as they were: {}", later.join(", "));
        }
        let others = looks_otherwise(&self.config, &fresh);
        tracing::info!(
            probes = fresh.probes.len(),
            children = fresh.children.len(),
            "the configuration was read again"
        );
        let old = std::mem::replace(&mut self.config, fresh);
        self.config.keep_what_it_is_built_on(old);
        others
    }
}

fn looks_otherwise(old: &Config, new: &Config) -> bool {
    (&old.probes, &old.children, old.children_interval) != (&new.probes, &new.children, new.children_interval)
}

/// What differs and takes another start.
fn built_on(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("state_dir", old.state_dir != new.state_dir),
        ("socket", old.socket != new.socket),
        ("local", old.local != new.local),
        ("bind_machine", old.bind_machine != new.bind_machine),
        ("addresses", old.addresses != new.addresses),
        ("revoked_retry", old.revoked_retry != new.revoked_retry),
        ("log", old.log != new.log),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

impl Config {
    fn keep_what_it_is_built_on(&mut self, old: Self) {
        self.state_dir = old.state_dir;
        self.socket = old.socket;
        self.local = old.local;
        self.bind_machine = old.bind_machine;
        self.addresses = old.addresses;
        self.revoked_retry = old.revoked_retry;
        self.log = old.log;
    }
}
