//! What is registered about a service, apart from its status, presence and health.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How a service came to be registered; set once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// By an onboarding token or package.
    EdgeOnboarding,
    /// From a Kubernetes `ClusterSPIFFEID`.
    K8sSpiffe,
    /// From configuration or by an operator ahead of time.
    Config,
    /// By a parent's report, where policy allows it.
    Implicit,
    /// By one of the HTTP dialects.
    Http,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 5] = [Self::EdgeOnboarding, Self::K8sSpiffe, Self::Config, Self::Implicit, Self::Http];

    /// The word used in the API, in rows and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdgeOnboarding => "edge_onboarding",
            Self::K8sSpiffe => "k8s_spiffe",
            Self::Config => "config",
            Self::Implicit => "implicit",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of the expected ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}")]
pub struct UnknownWord {
    /// What was expected.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

impl FromStr for Source {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| UnknownWord { what: "source", text: text.into() })
    }
}

/// Most pairs of labels or metadata that one service may carry.
pub const MAX_PAIRS: usize = 32;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 63;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 256;

/// Labels or metadata: few, short, printable. A value of this type is proof of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Pairs(BTreeMap<String, String>);

/// Why pairs were rejected; nothing is ever stripped or cut to fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    /// Over [`MAX_PAIRS`].
    #[error("{0} pairs given; at most {MAX_PAIRS} are allowed")]
    TooMany(usize),
    /// The key breaks its rule.
    #[error("key {0:?} is invalid: use 1 to {MAX_KEY} of a-z 0-9 _ . -")]
    Key(String),
    /// The value is too long.
    #[error("the value of {0:?} has {1} bytes; at most {MAX_VALUE} are allowed")]
    Long(String, usize),
    /// The value could disturb a terminal, a log or a reader's eye.
    #[error("the value of {0:?} holds a control or text-direction character")]
    Unprintable(String),
}

impl Pairs {
    /// The pairs, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These pairs with others laid over them.
    ///
    /// # Errors
    /// [`PairsError::TooMany`] when the union is too large.
    pub fn overlaid(&self, over: &Self) -> Result<Self, PairsError> {
        let mut all = self.0.clone();
        all.extend(over.0.clone());
        Self::try_from(all)
    }
}

impl TryFrom<BTreeMap<String, String>> for Pairs {
    type Error = PairsError;
    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, PairsError> {
        if pairs.len() > MAX_PAIRS {
            return Err(PairsError::TooMany(pairs.len()));
        }
        for (key, value) in &pairs {
            let key_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
            if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(key_byte) {
                return Err(PairsError::Key(key.chars().take(80).collect()));
            }
            if value.len() > MAX_VALUE {
                return Err(PairsError::Long(key.clone(), value.len()));
            }
            if !is_printable(value) {
                return Err(PairsError::Unprintable(key.clone()));
            }
        }
        Ok(Self(pairs))
    }
}

impl From<Pairs> for BTreeMap<String, String> {
    fn from(pairs: Pairs) -> Self {
        pairs.0
    }
}

/// Whether a text is free of control characters and of characters that turn the reading direction.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    })
}

/// The `checker_kind` of a checker: `snmp`, `sysmon`, `rperf` and so on.
pub type CheckerKind = crate::id::ServiceId;

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(key: &str, value: &str) -> Result<Pairs, PairsError> {
        BTreeMap::from([(key.to_owned(), value.to_owned())]).try_into()
    }

    #[test]
    fn rejects_rather_than_strips() {
        assert!(pairs("site", "Zürich 3").is_ok());
        assert!(matches!(pairs("Site", "x"), Err(PairsError::Key(_))));
        assert!(matches!(pairs("", "x"), Err(PairsError::Key(_))));
        assert!(matches!(pairs("site", "a\nb"), Err(PairsError::Unprintable(_))));
        assert!(matches!(pairs("site", "\u{202e}evil"), Err(PairsError::Unprintable(_))));
        assert!(matches!(pairs("site", "\u{1b}[2J"), Err(PairsError::Unprintable(_))));
        assert!(matches!(pairs("site", &"x".repeat(257)), Err(PairsError::Long(_, 257))));
        let many: BTreeMap<_, _> = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
        assert_eq!(Pairs::try_from(many), Err(PairsError::TooMany(33)));
    }

    #[test]
    fn sources_round_trip() {
        for source in Source::ALL {
            assert_eq!(source.as_str().parse(), Ok(source));
        }
    }
}
