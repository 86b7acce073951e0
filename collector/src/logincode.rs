//! The one-time login code: what it looks like, and what is kept of it.
//!
//! It owns making, reading and comparing. It does not know who keeps the hash, nor what a code is exchanged for.
//! A code has 125 random bits in five groups of letters that are easily told apart and typed; nobody stores it.
//! Whoever exchanges it gets a session whose public id follows from the code, so that a second exchange of the
//! same code meets a session that exists: the code is burnt in the very transaction that uses it.

use std::{fmt, str::FromStr, time::Duration};

use data_encoding::HEXLOWER;
use rollcall_common::{
    id::{NoRandomness, random},
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// How long a code is good for.
pub const LIFE: Duration = Duration::from_secs(600);
/// The file of the code within the state directory.
pub const FILE: &str = "login.code";
/// Longest text that is looked at.
const MAX_TEXT: usize = 128;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const LETTERS: usize = 25;
const GROUP: usize = 5;

/// A code, in the clear.
#[derive(Clone)]
pub struct LoginCode(Zeroizing<[u8; LETTERS]>);

/// A text that is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a login code is five groups of five letters and digits, as in abcde-fghij-klmno-pqrst-uvwxy")]
pub struct NoCode;

impl LoginCode {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        let chance: Zeroizing<[u8; LETTERS]> = Zeroizing::new(random()?);
        let mut letters = Zeroizing::new([0; LETTERS]);
        for (letter, byte) in letters.iter_mut().zip(chance.iter()) {
            // 256 is a multiple of 32: every letter is as likely as every other.
            *letter = ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or(b'a');
        }
        Ok(Self(letters))
    }

    /// Prints it in groups; wipe the text after use.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LETTERS + LETTERS / GROUP));
        for (at, letter) in self.0.iter().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(*letter));
        }
        text
    }

    /// What is kept instead.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(self.digest(b"rollcall-login-code"))
    }

    /// The public id of the session that it is exchanged for.
    #[must_use]
    pub fn session(&self) -> TokenId {
        let mut id = TokenId([0; 10]);
        for (byte, of) in id.0.iter_mut().zip(self.digest(b"rollcall-login-session")) {
            *byte = of;
        }
        id
    }

    fn digest(&self, tag: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(tag);
        hasher.update(*self.0);
        hasher.finalize().into()
    }
}

impl fmt::Debug for LoginCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginCode(REDACTED)")
    }
}

impl FromStr for LoginCode {
    type Err = NoCode;

    /// As people type: in any case, with or without dashes and spaces, and with the digits that look like letters.
    fn from_str(text: &str) -> Result<Self, NoCode> {
        if text.len() > MAX_TEXT {
            return Err(NoCode);
        }
        let mut letters = Zeroizing::new([0; LETTERS]);
        let mut places = letters.iter_mut();
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let letter = match c.to_ascii_lowercase() {
                '0' => b'o',
                '1' => b'l',
                '8' => b'b',
                c @ ('a'..='z' | '2'..='7') => u8::try_from(c).map_err(|_| NoCode)?,
                _ => return Err(NoCode),
            };
            *places.next().ok_or(NoCode)? = letter;
        }
        match places.next() {
            None => Ok(Self(letters)),
            Some(_) => Err(NoCode),
        }
    }
}

/// What is kept of a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    hash: SecretHash,
    expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    hash: String,
    expires_at_ms: i64,
}

impl Kept {
    /// What to keep of a code that was made now.
    #[must_use]
    pub fn of(code: &LoginCode, now: Timestamp) -> Self {
        Self { hash: code.hash(), expires_at: now.after(LIFE) }
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether this is the code, and still good. The comparison takes the same time for every code.
    #[must_use]
    pub fn is(&self, code: &LoginCode, now: Timestamp) -> bool {
        let same = self.hash == code.hash();
        // A clock that was set back does not lengthen a code's life beyond reason.
        same && now < self.expires_at && self.expires_at <= now.after(LIFE)
    }

    /// The text of its file.
    #[must_use]
    pub fn print(&self) -> String {
        let written = Written { hash: HEXLOWER.encode(&self.hash.0), expires_at_ms: self.expires_at.0 };
        let mut text = serde_json::to_string(&written).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads the text of its file; nothing where there is no code in it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(text).ok()?;
        let hash = HEXLOWER.decode(written.hash.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { hash: SecretHash(hash), expires_at: Timestamp(written.expires_at_ms) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = LoginCode::random().unwrap();
        let text = code.reveal();
        assert_eq!(text.len(), 29);
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [5; 5]);
        let typed = [
            text.to_string(),
            text.to_uppercase(),
            text.replace('-', ""),
            text.replace('-', " "),
            format!(" {}\n", text.as_str()),
            text.replace('o', "0").replace('l', "1").replace('b', "8"),
        ];
        for typed in typed {
            let read: LoginCode = typed.parse().unwrap();
            assert_eq!((read.hash(), read.session()), (code.hash(), code.session()), "{typed}");
        }
        for bad in ["", "abcde", &"a".repeat(24), &"a".repeat(26), &"9".repeat(25), &"ä".repeat(25), &"a-".repeat(90)]
        {
            assert_eq!(bad.parse::<LoginCode>().unwrap_err(), NoCode, "{bad}");
        }
        assert_eq!(format!("{code:?}"), "LoginCode(REDACTED)");
    }

    #[test]
    fn what_is_kept_tells_no_code_and_ends() {
        let (code, other) = (LoginCode::random().unwrap(), LoginCode::random().unwrap());
        let kept = Kept::of(&code, NOW);
        assert!(kept.is(&code, NOW) && !kept.is(&other, NOW));
        assert!(kept.is(&code, NOW.after(LIFE - Duration::from_millis(1))));
        assert!(!kept.is(&code, NOW.after(LIFE)));
        assert!(!kept.is(&code, NOW.before(Duration::from_secs(1))), "a clock that was set back");
        let text = kept.print();
        assert!(!text.contains(code.reveal().as_str()) && !text.contains(&code.reveal().replace('-', "")));
        assert_eq!(Kept::parse(text.as_bytes()), Some(kept));
        for bad in ["", "{}", "[]", "{\"hash\":\"00\",\"expires_at_ms\":1}", "{\"hash\":1}"] {
            assert_eq!(Kept::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_ne!(code.session(), other.session());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            let _ = text.parse::<LoginCode>();
            let _ = Kept::parse(&bytes);
        }
    }
}
