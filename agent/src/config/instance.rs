//! The names of one of several sidecars on a host, as `rollcall-agent@NAME.service` has them.

use std::{path::PathBuf, str::FromStr};

/// Longest name.
const MAX: usize = 64;

/// Which of several sidecars on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// Its main configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        format!("/etc/rollcall/agent/{}.toml", self.0).into()
    }

    /// Where its onboarding token is looked for.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        format!("/etc/rollcall/agent/{}.token", self.0).into()
    }

    /// Where its state is kept.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        format!("/var/lib/rollcall-agent@{}", self.0).into()
    }

    /// The service that runs it.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("rollcall-agent@{}.service", self.0)
    }

    /// Its packaged service's status socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        format!("/run/rollcall-agent@{}/agent.sock", self.0).into()
    }
}

impl FromStr for Instance {
    type Err = String;

    /// The characters that need no escape in a unit's name and lead to no other directory.
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= MAX && text.chars().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no name of an instance: take 1 to {MAX} of a-z A-Z 0-9 _ - . :, a letter or digit first"
            ))
        }
    }
}
