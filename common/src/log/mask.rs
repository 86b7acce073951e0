//! Takes out of a text what only secrets look like, and makes one line of it.

use std::{borrow::Cow, fmt::Write as _};

/// Longest value that is printed, in bytes.
const MAX_VALUE: usize = 8 * 1024;
/// Longest text that is looked through, in bytes: of a longer one the rest is left out.
const MAX_TEXT: usize = 4 * MAX_VALUE;
/// Longest public id behind a prefix.
const MAX_ID: usize = 16;
/// Letters of base32 in a row that only a secret has.
const BLOB: usize = 32;
/// Length from which a piece of base64 that begins as a JSON object does counts as a part of a token.
const JWT: usize = 16;
/// Length from which a word after `Bearer` counts as a credential.
const BEARER: usize = 16;
/// A login code: groups, and letters of each.
const CODE: (usize, usize) = (5, 5);
/// What stands in the place of a secret.
const GONE: &str = "***";

/// The text without secrets: of a token or credential its prefix and public id stay; of a JSON Web Token, a
/// bearer's word, a URL's password, a login code and of anything that looks like a secret's blob nothing does.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    // What will be cut off anyway is not looked through.
    let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text);
    let bytes = text.as_bytes();
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    let mut fresh = true;
    while at < bytes.len() {
        let found = secret_at(bytes, at, fresh);
        if let Some(Found { from, to }) = found {
            // Secrets are ASCII, and so both ends are borders of characters.
            out.push_str(text.get(kept..from).unwrap_or_default());
            out.push_str(GONE);
            (kept, at) = (to, to);
            fresh = false;
            continue;
        }
        fresh = !bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
        at += 1;
    }
    if kept == 0 {
        return text.into();
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    out.into()
}

struct Found {
    from: usize,
    to: usize,
}

/// What begins here, if it is a secret; `fresh` says that no word runs on into this place.
fn secret_at(bytes: &[u8], at: usize, fresh: bool) -> Option<Found> {
    let rest = bytes.get(at..)?;
    match rest.first()? {
        b'r' | b'R' => prefixed(rest, at),
        b'e' => jwt(rest, at),
        b'B' | b'b' => bearer(rest, at),
        b':' => password(rest, at),
        _ => None,
    }
    .or_else(|| if fresh { code(rest, at) } else { None })
    .or_else(|| blob(rest, at))
}

fn run(bytes: &[u8], part: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| part(**byte)).count()
}

fn begins(bytes: &[u8], word: &str) -> bool {
    bytes.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
}

/// `rollcall_api1_<id>_<secret>`.
fn prefixed(rest: &[u8], at: usize) -> Option<Found> {
    const WORD: &str = "rollcall_";
    if !begins(rest, WORD) {
        return None;
    }
    let kind = rest.get(WORD.len()..)?;
    let (letters, digits) = (run(kind, |b| b.is_ascii_alphabetic()), run(kind, |b| b.is_ascii_alphanumeric()));
    if !(2..=8).contains(&letters) || !(1..=3).contains(&(digits - letters)) || kind.get(digits) != Some(&b'_') {
        return None;
    }
    let head = WORD.len() + digits + 1;
    let tail = rest.get(head..)?;
    let id = run(tail, |b| b.is_ascii_alphanumeric());
    let word = run(tail, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'/' | b'='));
    if id > MAX_ID {
        return Some(Found { from: at + head, to: at + head + word });
    }
    (word > id + 1 && tail.get(id) == Some(&b'_')).then_some(Found { from: at + head + id + 1, to: at + head + word })
}

/// `eyJ….eyJ….…`, or one part of it.
fn jwt(rest: &[u8], at: usize) -> Option<Found> {
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let first = run(rest, part);
    if !rest.starts_with(b"eyJ") || first < JWT {
        return None;
    }
    Some(Found { from: at, to: at + run(rest, |b| part(b) || b == b'.' || b == b'=') })
}

/// `Bearer …`.
fn bearer(rest: &[u8], at: usize) -> Option<Found> {
    const WORD: &str = "bearer";
    if !begins(rest, WORD) {
        return None;
    }
    let gap = run(rest.get(WORD.len()..)?, |b| b == b' ');
    let head = WORD.len() + gap;
    let word = run(rest.get(head..)?, |b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b',' | b';'));
    // A word of ours is masked by its own rule, which leaves its id.
    let ours = begins(rest.get(head..)?, "rollcall_");
    (gap > 0 && word >= BEARER && !ours).then_some(Found { from: at + head, to: at + head + word })
}

/// `scheme://user:password@host`.
fn password(rest: &[u8], at: usize) -> Option<Found> {
    let inside = rest.strip_prefix(b"://")?;
    let stays = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'<' | b'>');
    // A password may hold an unescaped slash or at sign: the last one decides.
    let word = inside.get(..run(inside, stays))?;
    let end = word.iter().rposition(|b| *b == b'@')?;
    Some(Found { from: at + 3, to: at + 3 + end })
}

/// `k7wq2-m3xnd-…`: as people type it.
fn code(rest: &[u8], at: usize) -> Option<Found> {
    let (groups, letters) = CODE;
    let length = groups * (letters + 1) - 1;
    let whole = rest.get(..length)?;
    let fits = whole
        .iter()
        .enumerate()
        .all(|(n, byte)| if n % (letters + 1) == letters { *byte == b'-' } else { base32(byte.to_ascii_lowercase()) });
    let ends = !rest.get(length).is_some_and(u8::is_ascii_alphanumeric);
    (fits && ends).then_some(Found { from: at, to: at + length })
}

/// A secret's blob without its prefix, as where somebody cut it.
fn blob(rest: &[u8], at: usize) -> Option<Found> {
    let lower = run(rest, base32);
    let upper = run(rest, |b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b));
    let length = lower.max(upper);
    (length >= BLOB).then_some(Found { from: at, to: at + length })
}

fn base32(byte: u8) -> bool {
    byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)
}

/// Whether a character could end a line, move a cursor or turn the reading direction.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Adds a text with what is harmful in it written out.
pub(super) fn escaped(out: &mut String, text: &str) {
    write_escaped(
        out,
        text,
        |_| false,
        |out, c| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_default());
        },
    );
}

/// Adds a text as a value among others: in quotes, where it could be taken for more than one.
pub(super) fn quoted(out: &mut String, text: &str) {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=' | '\\') && !is_harmful(c);
    if (1..=MAX_VALUE).contains(&text.len()) && text.chars().all(plain) {
        out.push_str(text);
        return;
    }
    out.push('"');
    write_escaped(
        out,
        text,
        |c| matches!(c, '"' | '\\'),
        |out, c| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_default());
        },
    );
    out.push('"');
}

/// Adds a JSON string.
pub(super) fn json(out: &mut String, text: &str) {
    out.push('"');
    write_escaped(
        out,
        text,
        |c| matches!(c, '"' | '\\'),
        |out, c| match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        },
    );
    out.push('"');
}

fn write_escaped(out: &mut String, text: &str, also: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) {
    let mut left = MAX_VALUE;
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.len_utf8()) else {
            out.push('…');
            return;
        };
        left = rest;
        if is_harmful(c) || also(c) { write(out, c) } else { out.push(c) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::token::{Credential, CredentialKind};

    fn secret(kind: CredentialKind) -> String {
        Credential::random(kind).unwrap().reveal().to_string()
    }

    /// The longest piece of a secret's private half that a text still shows.
    fn shown(text: &str, secret: &str) -> usize {
        let blob = secret.rsplit('_').next().unwrap().as_bytes();
        let text = text.as_bytes();
        let longest = |from: usize| (0..text.len()).map(|at| run_of(&text[at..], &blob[from..])).max().unwrap_or(0);
        (0..blob.len()).map(longest).max().unwrap_or(0)
    }

    fn run_of(a: &[u8], b: &[u8]) -> usize {
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn of_ours_the_id_stays() {
        let text = secret(CredentialKind::ApiKey);
        let (head, _) = text.rsplit_once('_').unwrap();
        assert_eq!(masked(&format!("with {text}, then")), format!("with {head}_***, then"));
        assert_eq!(masked(&format!("\"Bearer {text}\"")), format!("\"Bearer {head}_***\""));
        assert_eq!(masked(head), head, "the public half may be said");
        assert_eq!(masked(&text.to_uppercase()).to_lowercase(), format!("{head}_***"));
        assert_eq!(masked(&format!("rollcall_api1_{}", "a".repeat(20))), "rollcall_api1_***");
        for harmless in ["ROLLCALL_API", "rollcall_http_answers_total", "rollcall_api1_", "rollcall_", "rollcall_x1_y"]
        {
            assert_eq!(masked(harmless), harmless);
        }
    }

    #[test]
    fn of_others_nothing_stays() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl-_x";
        for (text, expected) in [
            (format!("token={jwt}!"), "token=***!"),
            (format!("Authorization: Bearer {jwt}"), "Authorization: Bearer ***"),
            ("eyJhbGciOiJSUzI1NiJ9".into(), "***"),
            ("bearer 0123456789abcdef/x".into(), "bearer ***"),
            ("redis://user:hu/sh@x@cache:6379/0".into(), "redis://***@cache:6379/0"),
            ("code k7wq2-m3xnd-aaaaa-bbbbb-ccccc.".into(), "code ***."),
            ("code K7WQ2-M3XND-AAAAA-BBBBB-CCCCC".into(), "code ***"),
        ] {
            assert_eq!(masked(&text), expected);
        }
        let pin = "5a".repeat(32).replace("5a5a5a", "0189af");
        for harmless in [
            "only Authorization: Bearer is accepted",
            "spiffe://rollcall.local/agent/edge-17",
            "eyJ is how they begin",
            "a-five-words-long-name",
            "01hqrs7w3v9k2m4n6p8r0t2v4x",
            "rollcall_collector::http::access::tests::a_test_with_a_very_long_name_indeed",
            &pin,
            "",
            "ä€𝄞",
        ] {
            assert_eq!(masked(harmless), harmless);
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        let nasty = "a\nb\r\t\u{1b}[2J\u{1b}]52;c;x\u{7}\u{202e}c\u{2028}d\u{9b}\u{0}\u{feff}\"\\";
        for print in [escaped, quoted, json] {
            let mut out = String::new();
            print(&mut out, nasty);
            assert!(!out.chars().any(is_harmful), "{out:?}");
        }
        let mut out = String::new();
        json(&mut out, nasty);
        assert_eq!(out, r#""a\nb\r\t\u001b[2J\u001b]52;c;x\u0007\u202ec\u2028d\u009b\u0000\ufeff\"\\""#);
        let of = |text: &str| {
            let mut out = String::new();
            quoted(&mut out, text);
            out
        };
        assert_eq!(of("plain/1:2"), "plain/1:2");
        assert_eq!(of("a b"), "\"a b\"");
        assert_eq!(of("status=200"), "\"status=200\"");
        assert_eq!(of(""), "\"\"");
        assert!(of(&"x".repeat(100_000)).len() < MAX_VALUE + 10, "a text without end");
    }

    proptest! {
        /// Wherever a secret stands and however it is cut in two, no piece that is of use is left.
        #[test]
        fn no_secret_survives(before in ".{0,20}", after in ".{0,20}", cut in 0usize..200, api in any::<bool>()) {
            let kind = if api { CredentialKind::ApiKey } else { CredentialKind::Bootstrap };
            let secret = secret(kind);
            let whole = format!("{before}{secret}{after}");
            let left = shown(&masked(&whole), &secret);
            // A text that runs on into the secret may be taken for a part of it, never the other way round.
            prop_assert!(left < BLOB, "{left} letters of {whole} in {}", masked(&whole));
            let (one, two) = secret.split_at(cut.min(secret.len()));
            for half in [one, two] {
                let text = format!("{before} {half} {after}");
                prop_assert!(shown(&masked(&text), &secret) < BLOB);
            }
        }

        /// Any text comes out as one line, no longer than its escapes make it.
        #[test]
        fn any_text_is_one_harmless_line(text in any::<String>()) {
            let text = masked(&text);
            for print in [escaped, quoted, json] {
                let mut out = String::new();
                print(&mut out, &text);
                prop_assert!(!out.chars().any(is_harmful));
                prop_assert!(out.len() <= text.len() * 8 + 8);
            }
        }

        /// What holds no secret is left alone.
        #[test]
        fn ordinary_words_stay(words in prop::collection::vec("[a-z0-9:/.=_]{1,15}", 0..8)) {
            let text = words.join(" ");
            prop_assume!(!text.contains("rollcall_") && !text.contains("eyJ") && !text.contains("bearer"));
            prop_assert_eq!(masked(&text), text.as_str());
        }
    }
}
