//! A machine told apart from others, without telling which one it is.
//!
//! The id of a machine (`machine-id(5)`) is confidential: whoever has it could follow the host elsewhere. What is kept
//! and shown is a hash under it, made as systemd makes its own application-specific ids, so that
//! `systemd-id128 machine-id --app-specific=…` on the host gives the same.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Names our use of the id; drawn once, never changed.
pub const APPLICATION: [u8; 16] =
    [0x5d, 0x1e, 0x0c, 0x8f, 0x7a, 0x3b, 0x4e, 0x62, 0x94, 0x3f, 0xd0, 0x7c, 0x21, 0xb8, 0xe6, 0xa4];

/// The id of a machine. It is never printed, kept or sent.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineId([u8; 16]);

/// Why a text is no id of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MachineIdError {
    /// An image that was not started yet.
    #[error("it is not set yet")]
    Unset,
    /// Something else.
    #[error("it is not 32 hexadecimal digits")]
    Form,
}

impl FromStr for MachineId {
    type Err = MachineIdError;

    fn from_str(text: &str) -> Result<Self, MachineIdError> {
        let text = text.trim();
        if text.is_empty() || text == "uninitialized" {
            return Err(MachineIdError::Unset);
        }
        let mut id = [0; 16];
        let lower = text.to_ascii_lowercase();
        match HEXLOWER.decode(lower.as_bytes()) {
            Ok(bytes) if bytes.len() == id.len() => id.copy_from_slice(&bytes),
            Ok(_) | Err(_) => return Err(MachineIdError::Form),
        }
        if id == [0; 16] { Err(MachineIdError::Unset) } else { Ok(Self(id)) }
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineId(REDACTED)")
    }
}

impl MachineId {
    /// What may be kept and shown of it.
    #[must_use]
    pub fn tag(&self) -> MachineTag {
        let mut tag = [0; 16];
        for (to, from) in tag.iter_mut().zip(hmac(&self.0, &APPLICATION)) {
            *to = from;
        }
        // A version 4 UUID, as systemd has it.
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut tag;
        *version = (*version & 0x0f) | 0x40;
        *variant = (*variant & 0x3f) | 0x80;
        MachineTag(tag)
    }
}

/// The same for the same machine, and nothing else can be told from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineTag([u8; 16]);

impl fmt::Display for MachineTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MachineTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineTag({self})")
    }
}

impl From<MachineTag> for String {
    fn from(tag: MachineTag) -> Self {
        tag.to_string()
    }
}

impl TryFrom<String> for MachineTag {
    type Error = MachineIdError;

    fn try_from(text: String) -> Result<Self, MachineIdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| MachineIdError::Form)?;
        bytes.try_into().map(Self).map_err(|_| MachineIdError::Form)
    }
}

/// HMAC-SHA256 (RFC 2104) with a key that is no longer than a block.
fn hmac(key: &[u8; 16], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK];
        for (to, from) in block.iter_mut().zip(key) {
            *to ^= from;
        }
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_the_tag_that_systemd_gives() {
        let id: MachineId = "0123456789abcdef0123456789abcdef\n".parse().unwrap();
        assert_eq!(id.tag().to_string(), "f94cd30f4da540fcba130e6f8775480d");
        let other: MachineId = "0123456789ABCDEF0123456789ABCDEE".parse().unwrap();
        assert_ne!(id.tag(), other.tag());
        assert_eq!(MachineTag::try_from(id.tag().to_string()), Ok(id.tag()));
        assert!(!format!("{id:?}").contains("0123"));
    }

    #[test]
    fn what_names_no_machine_is_none() {
        for text in ["", "\n", "uninitialized\n", "00000000000000000000000000000000"] {
            assert_eq!(text.parse::<MachineId>(), Err(MachineIdError::Unset), "{text:?}");
        }
        for text in ["0123", "0123456789abcdef0123456789abcdeg", "0123456789abcdef0123456789abcdef00"] {
            assert_eq!(text.parse::<MachineId>(), Err(MachineIdError::Form), "{text:?}");
        }
    }
}
