//! Names are types: parsed once at the rim, trusted afterwards.
//!
//! One macro mints the textual identifiers; a value of such a type is proof that its rule holds.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is invalid: {rule}")]
pub struct NameError {
    /// Which name was expected.
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// The rule it breaks, in words.
    pub rule: &'static str,
}

impl NameError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

const ID_RULE: &str = "use 1 to 64 of a-z 0-9 . _ -, starting and ending with a letter or digit, without '..'";
const TRUST_DOMAIN_RULE: &str = "use 1 to 255 of a-z 0-9 . _ -, starting and ending with a letter or digit";

const SPIFFE_ID_RULE: &str =
    "write spiffe://<trust domain>/<path>, at most 2048 bytes, the path of A-Z a-z 0-9 . _ - between single slashes";

fn is_spiffe_id(text: &str) -> bool {
    let segment = |text: &str| {
        !matches!(text, "" | "." | "..")
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    text.len() <= 2048
        && spiffe_parts(text).is_some_and(|(domain, path)| is_trust_domain(domain) && path.split('/').all(segment))
}

fn spiffe_parts(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("spiffe://")?.split_once('/')
}

fn is_id(text: &str) -> bool {
    text.len() <= 64 && is_name(text)
}

fn is_trust_domain(text: &str) -> bool {
    text.len() <= 255 && is_name(text)
}

fn is_name(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the rule and wraps the text.
            ///
            /// # Errors
            /// [`NameError`] names the rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError::new($what, text, $rule))
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// The id of one service within its kind; safe as a Valkey key, a URL segment and a file name.
    ServiceId, "id", is_id, ID_RULE
);
name!(
    /// The name of one collector: the last segment of its SPIFFE id.
    CollectorName, "collector name", is_id, ID_RULE
);
name!(
    /// The SPIFFE trust domain shared by one deployment.
    TrustDomain, "trust domain", is_trust_domain, TRUST_DOMAIN_RULE
);
name!(
    /// A SPIFFE id of any trust domain and path, as somebody else's issuer may give it. One of our own
    /// form is an [`crate::identity::PeerId`].
    SpiffeId, "SPIFFE id", is_spiffe_id, SPIFFE_ID_RULE
);

impl SpiffeId {
    /// The text of its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        spiffe_parts(self.as_str()).map_or("", |(domain, _)| domain)
    }
}

/// What a service is. Pollers, agents and checkers form the tree; an instance stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Root of the tree.
    Poller,
    /// Under a poller.
    Agent,
    /// Under an agent.
    Checker,
    /// A discoverable program without a parent; a sidecar is optional.
    Instance,
}

impl Kind {
    /// Every kind, in the order of the tree.
    pub const ALL: [Self; 4] = [Self::Poller, Self::Agent, Self::Checker, Self::Instance];

    /// The kind that a parent must have; `None` where there is no parent.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        match self {
            Self::Poller | Self::Instance => None,
            Self::Agent => Some(Self::Poller),
            Self::Checker => Some(Self::Agent),
        }
    }

    /// Singular lower-case word, as in SPIFFE ids and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poller => "poller",
            Self::Agent => "agent",
            Self::Checker => "checker",
            Self::Instance => "instance",
        }
    }

    /// Plural lower-case word, as in URL paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Poller => "pollers",
            Self::Agent => "agents",
            Self::Checker => "checkers",
            Self::Instance => "instances",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text || kind.plural() == text)
            .ok_or_else(|| NameError::new("kind", text, "use poller, agent, checker or instance"))
    }
}

/// One service in the whole deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its id, unique within the kind.
    pub id: ServiceId,
}

impl ServiceKey {
    /// Joins kind and id.
    #[must_use]
    pub fn new(kind: Kind, id: ServiceId) -> Self {
        Self { kind, id }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

impl FromStr for ServiceKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, id) = text
            .split_once('/')
            .ok_or_else(|| NameError::new("service", text, "write kind/id, as in agent/edge-17"))?;
        Ok(Self::new(kind.parse()?, id.parse()?))
    }
}

/// The operating system ran out of randomness, which a start-up should report and end on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no random bytes from the operating system: {0}")]
pub struct NoRandomness(String);

/// Fills an array from the operating system's random source.
///
/// # Errors
/// When the source is not available.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
    Ok(bytes)
}

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh random value.
            ///
            /// # Errors
            /// When the operating system has no randomness.
            pub fn random() -> Result<Self, NoRandomness> {
                random().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            /// Reads 32 hexadecimal digits; dashes are passed over, so that a UUID is accepted.
            fn from_str(text: &str) -> Result<Self, NameError> {
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(digits.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| NameError::new(stringify!($name), text, "use 32 hexadecimal digits"))
            }
        }
    };
}

opaque!(
    /// 128 random bits drawn at each process start of a sidecar: two of one identity mean two processes.
    InstanceId
);
opaque!(
    /// The kernel's boot id: boot-clock marks of different boots are not comparable.
    BootId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl $name {
            /// The following number; stays at the end of the range.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

number!(
    /// Position in the registry's commit order: audit events and changed rows each take one.
    Seq(u64)
);
number!(
    /// Counts the beats of one instance; strictly rising, never called seq.
    BeatNo(u64)
);
number!(
    /// Counts the paces that a collector granted; a beat echoes the one it runs under.
    PaceNo(u32)
);
number!(
    /// Counts the dials of one instance, so that a failover is told from a clone.
    SessionNo(u64)
);
number!(
    /// Counts the certificates of one identity; signed into the serial.
    Generation(u64)
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spiffe_ids_of_any_issuer() {
        let id = |text: &str| SpiffeId::new(text);
        assert_eq!(id("spiffe://k8s.example/ns/edge/sa/Disk_1").unwrap().trust_domain(), "k8s.example");
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        for bad in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/../b",
            "spiffe://a/.",
            "https://a/b",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://a/b?c",
            "spiffe://a/b c",
            &long,
        ] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_follow_the_rule() {
        for good in ["a", "edge-17", "a.b_c-d", "0", &"x".repeat(64)] {
            assert!(ServiceId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "..",
            "a..b",
            ".a",
            "a b",
            "ä",
            "a\0b",
            "*",
            "../../etc/passwd",
            &"x".repeat(65),
        ] {
            assert!(ServiceId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_print_and_parse() {
        let key: ServiceKey = "agent/edge-17".parse().unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(key.to_string(), "agent/edge-17");
        assert!("agent".parse::<ServiceKey>().is_err());
        assert!("robot/x".parse::<ServiceKey>().is_err());
    }

    #[test]
    fn a_boot_id_reads_the_kernels_uuid() {
        let id: Result<BootId, _> = "6fd5a6a1-2f0c-4d8e-9a53-0123456789ab".parse();
        assert_eq!(id.map(|id| id.to_string()), Ok("6fd5a6a12f0c4d8e9a530123456789ab".into()));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_serde_keeps_the_rule(text in ".{0,80}") {
            let direct = ServiceId::new(&text).is_ok();
            let bytes = postcard::to_allocvec(&text).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let through: Result<ServiceId, _> = postcard::from_bytes(&bytes);
            prop_assert_eq!(direct, through.is_ok());
        }
    }
}
