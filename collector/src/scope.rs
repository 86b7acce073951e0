//! Label scopes: which part of a deployment a credential reaches.
//!
//! A scope is a list of tests on labels that all must pass; the empty one admits everything. It owns the
//! rule and its text (`site=3,env in (prod,staging)`), and knows nothing of callers, routes or services
//! beyond their labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use rollcall_common::service::{MAX_KEY, MAX_VALUE, Pairs, is_printable};
use serde::{Deserialize, Serialize};

/// Most labels that one scope tests.
pub const MAX_TESTS: usize = 16;
/// Most values that one test names.
pub const MAX_VALUES: usize = 64;
/// Longest text of a scope, in bytes.
pub const MAX_TEXT: usize = 4096;

/// Which part of a deployment is reached: every label that is named here must have one of the values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(BTreeMap<String, BTreeSet<String>>);

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scope {text:?} is not valid: {why}; write it as in site=3,env in (prod,staging)")]
pub struct ScopeError {
    text: String,
    why: &'static str,
}

impl Scope {
    /// The scope without tests.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// The scope that is reached by carrying these labels.
    #[must_use]
    pub fn of_labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self(labels.map(|(key, value)| (key.to_owned(), BTreeSet::from([value.to_owned()]))).collect())
    }

    /// Whether everything is admitted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something with these labels is within.
    #[must_use]
    pub fn admits(&self, labels: &Pairs) -> bool {
        self.0.iter().all(|(key, values)| labels.get(key).is_some_and(|value| values.contains(value)))
    }

    /// Whether all that this scope admits is admitted by the other one too: each of the other's tests must
    /// be here, as narrow or narrower.
    #[must_use]
    pub fn lies_within(&self, outer: &Self) -> bool {
        outer.0.iter().all(|(key, allowed)| self.0.get(key).is_some_and(|values| values.is_subset(allowed)))
    }

    /// What both scopes admit. Tests of one label that share no value leave one that nothing passes.
    #[must_use]
    pub fn narrowed(mut self, by: &Self) -> Self {
        for (key, values) in &by.0 {
            match self.0.get_mut(key) {
                Some(held) => held.retain(|value| values.contains(value)),
                None => {
                    self.0.insert(key.clone(), values.clone());
                }
            }
        }
        self
    }

    /// What either scope admits, where one scope can say it: where one lies within the other, or where they
    /// differ in the values of one label only.
    #[must_use]
    pub fn joined(mut self, other: &Self) -> Option<Self> {
        if other.lies_within(&self) {
            return Some(self);
        }
        if self.lies_within(other) {
            return Some(other.clone());
        }
        if !self.0.keys().eq(other.0.keys()) {
            return None;
        }
        let mut different = self.0.iter_mut().zip(&other.0).filter(|((_, held), (_, others))| *held != *others);
        let (((_, held), (_, others)), None) = (different.next()?, different.next()) else { return None };
        held.extend(others.iter().cloned());
        Some(self)
    }

    fn test(&mut self, text: &str) -> Result<(), &'static str> {
        let (key, values) = match text.split_once('=') {
            Some((key, value)) => (key, BTreeSet::from([checked_value(value)?])),
            None => {
                let (key, list) = text.split_once(" in ").ok_or("a part is neither key=value nor key in (a,b)")?;
                let list = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'));
                let list = list.ok_or("the values after `in` stand in brackets")?;
                (key, list.split(',').map(checked_value).collect::<Result<_, _>>()?)
            }
        };
        let key = key.trim();
        let key_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(key_byte) {
            return Err("a label's key is 1 to 63 of a-z 0-9 _ . -");
        }
        if values.len() > MAX_VALUES {
            return Err("a label has too many values");
        }
        match self.0.insert(key.to_owned(), values) {
            Some(_) => Err("a label is tested twice"),
            None if self.0.len() > MAX_TESTS => Err("too many labels are tested"),
            None => Ok(()),
        }
    }
}

/// Values that could be mistaken for the rest of the text are refused, so that every scope reads one way.
fn checked_value(text: &str) -> Result<String, &'static str> {
    let value = text.trim();
    if value.is_empty() {
        return Err("a value is empty");
    }
    if value.len() > MAX_VALUE || !is_printable(value) || value.contains([',', '(', ')', '=']) {
        return Err("a value is too long, or holds one of , ( ) = or an unprintable character");
    }
    Ok(value.to_owned())
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let bad = |why| ScopeError { text: text.chars().take(80).collect(), why };
        if text.len() > MAX_TEXT {
            return Err(bad("it is too long"));
        }
        let mut scope = Self::default();
        if text.trim().is_empty() {
            return Ok(scope);
        }
        let (mut depth, mut from) = (0_usize, 0);
        for (at, c) in text.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.checked_sub(1).ok_or_else(|| bad("a bracket closes that was not opened"))?,
                ',' if depth == 0 => {
                    scope.test(text.get(from..at).unwrap_or_default()).map_err(bad)?;
                    from = at + 1;
                }
                _ => {}
            }
        }
        scope.test(text.get(from..).unwrap_or_default()).map_err(bad)?;
        Ok(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, values)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let all: Vec<&str> = values.iter().map(String::as_str).collect();
            match all.as_slice() {
                [one] => write!(f, "{comma}{key}={one}")?,
                several => write!(f, "{comma}{key} in ({})", several.join(","))?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(text: String) -> Result<Self, ScopeError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(all: &[(&str, &str)]) -> Pairs {
        let all: BTreeMap<String, String> = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.try_into().unwrap()
    }

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn every_test_must_pass() {
        let both = scope("site=3, env in (prod, staging)");
        assert_eq!(both.to_string(), "env in (prod,staging),site=3");
        assert!(both.admits(&labels(&[("site", "3"), ("env", "prod"), ("rack", "9")])));
        assert!(!both.admits(&labels(&[("site", "3")])));
        assert!(!both.admits(&labels(&[("site", "4"), ("env", "prod")])));
        assert!(!both.admits(&labels(&[])));
        assert!(scope("").admits(&labels(&[])) && scope("  ").is_everything());
    }

    #[test]
    fn what_is_narrower_lies_within() {
        for (inner, outer, within) in [
            ("site=3", "", true),
            ("", "site=3", false),
            ("site=3", "site in (3,4)", true),
            ("site in (3,5)", "site in (3,4)", false),
            ("env=prod", "site=3", false),
            ("env=prod,site=3", "site=3", true),
        ] {
            assert_eq!(scope(inner).lies_within(&scope(outer)), within, "{inner} in {outer}");
        }
        assert_eq!(scope("site in (3,4)").narrowed(&scope("env=prod,site in (4,5)")), scope("env=prod,site=4"));
        let nothing = scope("site=3").narrowed(&scope("site=4"));
        assert!(!nothing.admits(&labels(&[("site", "3")])) && !nothing.is_everything());
    }

    #[test]
    fn texts_that_read_two_ways_are_refused() {
        for bad in [
            "site",
            "=3",
            "site=",
            "Site=3",
            "site=3,site=4",
            "site in 3",
            "site in (3",
            "site in ()",
            "site=3)",
            "site==3",
            "site=a(b)",
            "site=\u{202e}3",
            ",",
            "site=3,",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("k{n}=v")).collect();
        assert!(many.join(",").parse::<Scope>().is_err());
    }

    fn any_scope() -> impl Strategy<Value = Scope> {
        let values = prop::collection::btree_set("[a-c]", 1..3);
        prop::collection::btree_map("[kl]", values, 0..3).prop_map(Scope)
    }

    proptest! {
        #[test]
        fn texts_round_trip(scope in any_scope(), text in "\\PC{0,40}") {
            prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
            let _ = text.parse::<Scope>();
        }

        #[test]
        fn within_means_no_more(inner in any_scope(), outer in any_scope(), k in "[a-c]", l in "[a-c]") {
            for labels in [labels(&[("k", &k), ("l", &l)]), labels(&[("k", &k)]), labels(&[])] {
                if inner.lies_within(&outer) && inner.admits(&labels) {
                    prop_assert!(outer.admits(&labels));
                }
                if let Some(either) = inner.clone().joined(&outer) {
                    prop_assert_eq!(either.admits(&labels), inner.admits(&labels) || outer.admits(&labels));
                }
                let both = inner.clone().narrowed(&outer);
                prop_assert_eq!(both.admits(&labels), inner.admits(&labels) && outer.admits(&labels));
            }
        }
    }
}
