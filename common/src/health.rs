//! What is said of a service, and of the host it runs on. Never presence, never status.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::service::{UnknownWord, is_printable};

/// What a sidecar says of the service beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All probes pass.
    Healthy,
    /// It works, with a reservation.
    Degraded,
    /// It does not work.
    Unhealthy,
    /// Nobody looked.
    #[default]
    Unchecked,
}

impl Health {
    /// Every health.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Unchecked];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unchecked => "unchecked",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Health {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|health| health.as_str() == text)
            .ok_or_else(|| UnknownWord { what: "health", text: text.into() })
    }
}

/// Longest text of a reason or a fact, in bytes.
pub const MAX_TEXT: usize = 256;

/// A short printable text from outside: at most [`MAX_TEXT`] bytes, no control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

/// Why a text was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text must be printable and at most {MAX_TEXT} bytes long")]
pub struct TextError;

impl Text {
    /// Checks the rule.
    ///
    /// # Errors
    /// [`TextError`] where it is too long or holds control characters.
    pub fn new(text: &str) -> Result<Self, TextError> {
        if text.len() <= MAX_TEXT && is_printable(text) { Ok(Self(text.into())) } else { Err(TextError) }
    }

    /// Makes any local text fit: unprintable characters become spaces, the end is cut.
    #[must_use]
    pub fn fit(text: &str) -> Self {
        let mut out = String::with_capacity(text.len().min(MAX_TEXT));
        for c in text.chars() {
            let c = if is_printable(c.encode_utf8(&mut [0; 4])) { c } else { ' ' };
            if out.len() + c.len_utf8() > MAX_TEXT {
                break;
            }
            out.push(c);
        }
        Self(out)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        Self::new(&text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A statement about health, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// What is said.
    pub health: Health,
    /// Why, in words; may be empty when healthy.
    pub reason: Text,
}

/// Whether a service gets on with its work: a fact beside its health. One that answers every question may be stuck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It gets on.
    Moving,
    /// It was expected to get on, and does not.
    Stalled,
    /// Nobody looks.
    #[default]
    Unwatched,
}

impl Progress {
    /// Every progress.
    pub const ALL: [Self; 3] = [Self::Moving, Self::Stalled, Self::Unwatched];

    /// The word used in the API and in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Stalled => "stalled",
            Self::Unwatched => "unwatched",
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Progress {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|progress| progress.as_str() == text);
        found.ok_or_else(|| UnknownWord { what: "progress", text: text.into() })
    }
}

/// A statement about progress, with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// What is said.
    pub progress: Progress,
    /// Why, in words; may be empty when it gets on.
    pub reason: Text,
}

/// What a sidecar tells of its host; sent when it changes, never in every beat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Host name.
    pub hostname: Text,
    /// Distribution name and version.
    pub os: Text,
    /// Kernel release.
    pub kernel: Text,
    /// Processor architecture.
    pub arch: Text,
    /// Logical processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Seconds since boot, when the facts were taken.
    pub uptime_secs: u64,
    /// Version of the sidecar.
    pub agent_version: Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fit_always_fits() {
        let long = "é\n".repeat(400);
        let text = Text::fit(&long);
        assert!(text.as_str().len() <= MAX_TEXT);
        assert!(Text::new(text.as_str()).is_ok());
        assert!(Text::new("a\u{1b}[2J").is_err());
    }
}
