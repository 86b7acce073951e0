//! One test of a label, as people write it.

use std::{collections::BTreeSet, str::FromStr};

use rollcall_common::service::{MAX_KEY, Pairs};

/// Most values that one test names.
pub(in crate::http) const MAX_VALUES: usize = 64;

/// A test that labels pass or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum LabelTest {
    /// The label has one of these values.
    In(String, BTreeSet<String>),
    /// The label is missing or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// There is such a label.
    Exists(String),
    /// There is none.
    Missing(String),
}

/// A text that is no test.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "label {0:?} is no test: write label=key:value, label=key=value, label=key!=value, label=key, label=!key, \
     label=key in (a,b) or label=key notin (a,b), with 1 to 63 of a-z 0-9 _ . - as key and at most 64 values"
)]
pub(in crate::http) struct LabelError(String);

impl LabelTest {
    /// Whether labels pass.
    pub(in crate::http) fn passes(&self, labels: &Pairs) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::Missing(key) => labels.get(key).is_none(),
        }
    }
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    ((1..=MAX_KEY).contains(&key.len()) && key.bytes().all(fits)).then(|| key.to_owned())
}

fn values_of(text: &str) -> Option<BTreeSet<String>> {
    let list = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    let values: BTreeSet<String> = list.split(',').map(|value| value.trim().to_owned()).collect();
    (values.len() <= MAX_VALUES).then_some(values)
}

impl FromStr for LabelTest {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let one = |value: &str| BTreeSet::from([value.to_owned()]);
        let read = || {
            if let Some(key) = text.strip_prefix('!') {
                return key_of(key).map(Self::Missing);
            }
            // The first sign decides, so that a value may hold any.
            let sign = text.find([':', '=', '!', ' ']).unwrap_or(text.len());
            let (key, rest) = text.split_at_checked(sign)?;
            let key = key_of(key)?;
            if let Some(value) = rest.strip_prefix("!=") {
                return Some(Self::NotIn(key, one(value)));
            }
            if let Some(value) = rest.strip_prefix(['=', ':']) {
                return Some(Self::In(key, one(value)));
            }
            match rest.trim_start().split_once(['(', ' ']) {
                None if rest.is_empty() => Some(Self::Exists(key)),
                Some(("in", _)) => values_of(rest.trim_start().strip_prefix("in")?).map(|all| Self::In(key, all)),
                Some(("notin", _)) => {
                    values_of(rest.trim_start().strip_prefix("notin")?).map(|all| Self::NotIn(key, all))
                }
                Some(_) | None => None,
            }
        };
        read().ok_or_else(|| LabelError(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fixture::pairs;

    #[test]
    fn tests_are_read_and_applied() {
        let labels = pairs(&[("site", "3"), ("env", "a=b")]);
        for (text, passes) in [
            ("site=3", true),
            ("site:3", true),
            ("site=4", false),
            ("site!=4", true),
            ("site!=3", false),
            ("rack!=3", true),
            ("site", true),
            ("rack", false),
            ("!rack", true),
            ("!site", false),
            ("site in (2,3)", true),
            ("site in (2, 4)", false),
            ("site in(3)", true),
            ("site notin (2,4)", true),
            ("site notin (3)", false),
            ("rack notin (3)", true),
            ("env=a=b", true),
            ("env:a=b", true),
            ("site=", false),
        ] {
            let test: LabelTest = text.parse().unwrap();
            assert_eq!(test.passes(&labels), passes, "{text}");
        }
        for bad in ["", ":x", "=x", "!", "Site=3", "site in 3", "site in (3", "site of (3)", "a b", "!=3", "site !3"] {
            assert!(bad.parse::<LabelTest>().is_err(), "{bad}");
        }
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        assert!(format!("site in ({})", many.join(",")).parse::<LabelTest>().is_err());
    }
}
