//! The rules by which a token names services: a pattern for ids, and a label that finds the parent.
//!
//! Pure texts with a check when they are made, so that a rule which can give no valid name does not exist.

use std::{fmt, str::FromStr};

use rollcall_common::{
    id::{NameError, ServiceId},
    service::{MAX_KEY, Pairs},
};
use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes: no id is longer.
const MAX_PATTERN: usize = 64;
/// Most stars of one pattern: matching costs at most the product of both lengths, however they are set.
const MAX_STARS: usize = 8;
/// Stands for the label's value in the template of a parent.
const GAP: &str = "{}";

fn named(what: &'static str, text: &str, rule: &'static str) -> NameError {
    NameError { what, text: text.chars().take(80).collect(), rule }
}

/// A pattern for ids: `*` stands for any run of characters, `?` for exactly one; it covers the whole id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPattern(String);

impl IdPattern {
    /// Whether an id follows the pattern.
    #[must_use]
    pub fn matches(&self, id: &ServiceId) -> bool {
        let (pattern, text) = (self.0.as_bytes(), id.as_str().as_bytes());
        // The last star met, and how much of the text it has swallowed so far.
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(b'?') => (p, t) = (p + 1, t + 1),
                Some(byte) if Some(byte) == text.get(t) => (p, t) = (p + 1, t + 1),
                Some(_) | None => match star {
                    Some((at, swallowed)) => {
                        star = Some((at, swallowed + 1));
                        (p, t) = (at + 1, swallowed + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
    }
}

impl FromStr for IdPattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        const RULE: &str = "use 1 to 64 of a-z 0-9 . _ - with * for any run (8 at most) and ? for one character, so \
                            that some id follows it";
        let stars = text.bytes().filter(|byte| *byte == b'*').count();
        // A pattern that some id follows is followed by one of these.
        let one = text.replace('?', "0");
        let follows = [one.replace('*', ""), one.replace('*', "0")].iter().any(|id| ServiceId::new(id).is_ok());
        if text.len() <= MAX_PATTERN && stars <= MAX_STARS && follows {
            Ok(Self(text.into()))
        } else {
            Err(named("id pattern", text, RULE))
        }
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IdPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<IdPattern> for String {
    fn from(pattern: IdPattern) -> Self {
        pattern.0
    }
}

/// How a label finds the parent: its value takes the place of `{}` in a template. Written `site=poller-{}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RuleText", into = "RuleText")]
pub struct ParentRule {
    label: String,
    parent: String,
}

/// The rule as it is written in JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    label: String,
    parent: String,
}

impl ParentRule {
    /// A checked rule.
    ///
    /// # Errors
    /// Where the label can be none, or the template gives no id.
    pub fn new(label: &str, parent: &str) -> Result<Self, NameError> {
        const LABEL: &str = "use 1 to 63 of a-z 0-9 _ . -, as labels do";
        const TEMPLATE: &str = "write an id with one {} in it for the label's value, as in poller-{}";
        let label_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        if label.is_empty() || label.len() > MAX_KEY || !label.bytes().all(label_byte) {
            return Err(named("label", label, LABEL));
        }
        if parent.matches(GAP).count() != 1 || ServiceId::new(&parent.replace(GAP, "0")).is_err() {
            return Err(named("parent template", parent, TEMPLATE));
        }
        Ok(Self { label: label.into(), parent: parent.into() })
    }

    /// The label that decides.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The template of the parent's id.
    #[must_use]
    pub fn template(&self) -> &str {
        &self.parent
    }

    /// The parent of a service with these labels; nothing where the label is missing or makes no id.
    #[must_use]
    pub fn parent(&self, labels: &Pairs) -> Option<ServiceId> {
        ServiceId::new(&self.parent.replace(GAP, labels.get(&self.label)?)).ok()
    }
}

impl FromStr for ParentRule {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let rule = text.split_once('=').map(|(label, parent)| Self::new(label, parent));
        rule.unwrap_or_else(|| Err(named("parent rule", text, "write LABEL=TEMPLATE, as in site=poller-{}")))
    }
}

impl fmt::Display for ParentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.label, self.parent)
    }
}

impl TryFrom<RuleText> for ParentRule {
    type Error = NameError;
    fn try_from(text: RuleText) -> Result<Self, NameError> {
        Self::new(&text.label, &text.parent)
    }
}

impl From<ParentRule> for RuleText {
    fn from(rule: ParentRule) -> Self {
        Self { label: rule.label, parent: rule.parent }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn follows(pattern: &str, id: &str) -> bool {
        pattern.parse::<IdPattern>().unwrap().matches(&id.parse().unwrap())
    }

    #[test]
    fn a_pattern_covers_the_whole_id() {
        for (pattern, id, wanted) in [
            ("edge-*", "edge-17", true),
            ("edge-*", "edge-", false),
            ("edge-*", "my-edge-17", false),
            ("*-edge", "north-edge", true),
            ("*-edge", "north-edge-2", false),
            ("edge-??", "edge-17", true),
            ("edge-??", "edge-7", false),
            ("edge-??", "edge-177", false),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzz", false),
            ("*", "anything.at_all", true),
            ("edge", "edge", true),
            ("edge", "edgy", false),
        ] {
            let id_ok = id.parse::<ServiceId>().is_ok();
            assert_eq!(id_ok && follows(pattern, id), wanted, "{pattern} {id}");
        }
    }

    #[test]
    fn a_pattern_that_no_id_follows_is_refused() {
        let long = format!("{}*", "a".repeat(64));
        for bad in ["", "Edge-*", "a..*", ".*..", "a/*", "a b*", "*********", "[a-z]*", "-", long.as_str()] {
            assert!(bad.parse::<IdPattern>().is_err(), "{bad}");
        }
        let json = serde_json::from_str::<IdPattern>("\"Ünfug*\"");
        assert!(json.is_err());
    }

    #[test]
    fn a_label_finds_the_parent_or_none() {
        let rule: ParentRule = "site=poller-{}".parse().unwrap();
        let labels = |value: &str| Pairs::try_from(BTreeMap::from([("site".to_owned(), value.to_owned())])).unwrap();
        assert_eq!(rule.parent(&labels("zrh")).map(|id| id.to_string()).as_deref(), Some("poller-zrh"));
        assert_eq!(rule.parent(&labels("Zürich 3")), None);
        assert_eq!(rule.parent(&labels("")), None);
        assert_eq!(rule.parent(&Pairs::default()), None);
        assert_eq!(serde_json::to_string(&rule).unwrap(), r#"{"label":"site","parent":"poller-{}"}"#);
        assert_eq!(rule.to_string().parse(), Ok(rule));
        for bad in ["site", "=poller-{}", "site=poller", "site={}{}", "site=Poller-{}", "SITE=poller-{}", "s t={}"] {
            assert!(bad.parse::<ParentRule>().is_err(), "{bad}");
        }
        assert!("site={}".parse::<ParentRule>().is_ok());
    }

    /// What a glob means, said in the fewest words.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if naive(rest, text) => true,
            (Some((b'*', _)), Some((_, behind))) => naive(pattern, behind),
            (Some((b'?', rest)), Some((_, behind))) => naive(rest, behind),
            (Some((byte, rest)), Some((first, behind))) => byte == first && naive(rest, behind),
            (Some(_) | None, _) => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_naive_reading(pattern in "[ab*?]{1,10}", id in "[ab]{1,10}") {
            let Ok(parsed) = pattern.parse::<IdPattern>() else { return Ok(()) };
            let id: ServiceId = id.parse().map_err(|_| TestCaseError::fail("id"))?;
            prop_assert_eq!(parsed.matches(&id), naive(pattern.as_bytes(), id.as_str().as_bytes()), "{} {}", pattern, id);
        }
    }
}
