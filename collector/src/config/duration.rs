//! Durations as people write them: `10s`, `1h30m`, `7d`.
//!
//! One spelling for the configuration, the command line and the HTTP API. Days are 24 hours: nothing here
//! knows a calendar.

use std::time::Duration;

/// Unit words with their milliseconds, largest first.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write a number and a unit of ms, s, m, h, d or w, as in 10s, 1h30m or 7d")]
pub struct DurationError(String);

/// Reads a duration of whole milliseconds.
///
/// # Errors
/// When there is no number, no unit, an unknown unit, or more time than 2⁶⁴ ms.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError(text.chars().take(40).collect());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, millis) = UNITS.iter().find(|(word, _)| *word == unit).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration in at most two units, rounded down: `1h30m`, `7d`, `250ms`. For people.
#[must_use]
pub fn print(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    let mut parts = 0;
    // Weeks read worse than days; they are understood, not written.
    for (word, millis) in UNITS.iter().skip(1) {
        let count = left / millis;
        // Beside whole units a remainder of milliseconds is noise.
        if count == 0 || (parts > 0 && *word == "ms") {
            if parts > 0 {
                break;
            }
            continue;
        }
        out.push_str(&format!("{count}{word}"));
        left %= millis;
        parts += 1;
        if parts == 2 {
            break;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        let millis = |text: &str| parse(text).map(|d| d.as_millis());
        for (text, expected) in [
            ("10s", 10_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("7d", 604_800_000),
            ("1w", 604_800_000),
            ("1h30m", 5_400_000),
            (" 2s ", 2_000),
            ("0s", 0),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for bad in ["", "10", "s", "10 s", "-1s", "1.5s", "10S", "10x", "1h 30m", "1d30", "99999999999999999999s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("{}w", u64::MAX)).is_err(), "does not wrap");
    }

    #[test]
    fn writes_what_people_read() {
        for (millis, expected) in [
            (0, "0s"),
            (250, "250ms"),
            (1_250, "1s"),
            (10_000, "10s"),
            (5_400_000, "1h30m"),
            (604_800_000, "7d"),
            (3_600_500, "1h"),
            (90_061_000, "1d1h"),
        ] {
            assert_eq!(print(Duration::from_millis(millis)), expected);
        }
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics_and_printing_never_grows(text in "\\PC{0,40}", millis: u64) {
            let _ = parse(&text);
            let duration = Duration::from_millis(millis);
            let back = parse(&print(duration)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(back <= duration);
        }
    }
}
