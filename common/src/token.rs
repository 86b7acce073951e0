//! The onboarding token and the API credential: parse, print, checksum.
//!
//! ```text
//! rollcall_enr1_<id>_<blob>
//!   id   = 10 random bytes, public, may be logged
//!   blob = base32( version u8 | flags u8 | secret[32] | ca_pin[32] | expires u32 | trust domain | 1..=4 addresses | crc32 )
//! ```
//! Texts inside the blob carry a length byte. Base32 is lower case without padding, so that a double
//! click selects all of it and no shell, URL or YAML file minds. The checksum covers everything before
//! it, prefix included; it finds typing errors and feeds secret scanners, and is no security. One string
//! holds all that a sidecar needs: whom to dial, whom to trust (the pin is mandatory), what to prove.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    address::Address,
    id::{NoRandomness, TrustDomain, random},
    identity::Pin,
    time::Timestamp,
};

/// Longest token text that is looked at, in characters.
pub const MAX_TEXT: usize = 1024;
/// Most collector addresses in one token.
pub const MAX_ADDRESSES: usize = 4;
const VERSION: u8 = 1;
const ENROLL_PREFIX: &str = "rollcall_enr1_";
const PACKAGE_PREFIX: &str = "rollcall_pkg1_";

/// The public half of a token or credential; may be logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 10]);

impl TokenId {
    /// A fresh random id.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        random().map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        unbase32(text)?.as_slice().try_into().map(Self).map_err(|_| TokenError::Form)
    }
}

/// 256 secret bits: never printed, wiped when dropped, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh random secret.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// Wraps bytes that came from elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What a collector stores instead: SHA-256 of a tag, the id and the secret. The input is 256 random
    /// bits, so that a slow hash would only give attackers a lever.
    #[must_use]
    pub fn hash(&self, id: TokenId) -> SecretHash {
        let mut hasher = Sha256::new();
        hasher.update(b"rollcall-enr1");
        hasher.update(id.0);
        hasher.update(self.0);
        SecretHash(hasher.finalize().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(REDACTED)")
    }
}

/// The stored form of a secret; compares in constant time.
#[derive(Clone, Copy, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// An onboarding token, with all that a sidecar needs to enroll.
#[derive(Clone)]
pub struct Token {
    /// Which token; public.
    pub id: TokenId,
    /// What proves it.
    pub secret: Secret,
    /// SHA-256 of the root key that the collector must chain to.
    pub pin: Pin,
    /// When it ends; a hint for clear messages, the collector decides.
    pub expires: Timestamp,
    /// The trust domain that the collector must belong to.
    pub trust_domain: TrustDomain,
    /// Where to dial, best first; 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<Address>,
}

/// Why a text is not a usable token. Nothing is ever sent for such a text, and no variant carries it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty")]
    Empty,
    /// Over [`MAX_TEXT`].
    #[error("the token has more than {MAX_TEXT} characters")]
    Long,
    /// Another kind of secret.
    #[error("this is not an onboarding token: one starts with {ENROLL_PREFIX}")]
    Prefix,
    /// Not of the form.
    #[error("the token is damaged: it is lower-case letters and the digits 2 to 7 in two parts; copy it again in full")]
    Form,
    /// The checksum disagrees.
    #[error("the token is damaged: its checksum does not match; copy it again in full")]
    Checksum,
    /// Made by a newer collector.
    #[error("the token has version {0}, which this program does not know; upgrade it")]
    Version(u8),
    /// A field inside breaks its rule although the checksum holds.
    #[error("the token is invalid inside: {0}")]
    Field(String),
}

impl Token {
    /// Prints the token. This is the only way its secret leaves the value; wipe the text after use.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut blob = Zeroizing::new(vec![VERSION, 0]);
        blob.extend_from_slice(&self.secret.0);
        blob.extend_from_slice(&self.pin.0);
        let expires = u32::try_from(self.expires.as_secs()).unwrap_or(u32::MAX);
        blob.extend_from_slice(&expires.to_be_bytes());
        put_text(&mut blob, self.trust_domain.as_str());
        let addresses = self.addresses.iter().take(MAX_ADDRESSES);
        blob.push(u8::try_from(addresses.len()).unwrap_or(0));
        for address in addresses {
            put_text(&mut blob, &address.to_string());
        }
        seal(ENROLL_PREFIX, self.id, &blob)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (id, blob) = unseal(ENROLL_PREFIX, text)?;
        let mut rest = Bytes(&blob);
        let version = rest.byte()?;
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let _flags = rest.byte()?;
        let secret = Secret(rest.array()?);
        let pin = Pin(rest.array()?);
        let expires = Timestamp::from_secs(u32::from_be_bytes(rest.array()?).into());
        let field = |e: &dyn fmt::Display| TokenError::Field(e.to_string());
        let trust_domain = rest.text()?.parse().map_err(|e: crate::id::NameError| field(&e))?;
        let count = rest.byte()?;
        if count == 0 || usize::from(count) > MAX_ADDRESSES {
            return Err(TokenError::Field(format!("{count} collector addresses")));
        }
        let mut addresses = Vec::with_capacity(count.into());
        for _ in 0..count {
            addresses.push(rest.text()?.parse().map_err(|e: crate::address::AddressError| field(&e))?);
        }
        if !rest.0.is_empty() {
            return Err(TokenError::Field("bytes after the last address".into()));
        }
        Ok(Self { id, secret, pin, expires, trust_domain, addresses })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("secret", &self.secret)
            .field("trust_domain", &self.trust_domain)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Which door an API credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// The local bootstrap credential of an administrator.
    Bootstrap,
    /// A key for automation.
    ApiKey,
}

impl CredentialKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Bootstrap => "rollcall_adm1_",
            Self::ApiKey => "rollcall_api1_",
        }
    }
}

/// A bearer credential for the HTTP API: `rollcall_adm1_<id>_<blob>` or `rollcall_api1_<id>_<blob>`.
#[derive(Clone)]
pub struct Credential {
    /// Which door.
    pub kind: CredentialKind,
    /// Public half.
    pub id: TokenId,
    secret: Zeroizing<[u8; 60]>,
}

impl Credential {
    /// A fresh random credential.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random(kind: CredentialKind) -> Result<Self, NoRandomness> {
        Ok(Self { kind, id: TokenId::random()?, secret: Zeroizing::new(random()?) })
    }

    /// A fresh random credential whose public half is given.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random_with(kind: CredentialKind, id: TokenId) -> Result<Self, NoRandomness> {
        Ok(Self { kind, id, secret: Zeroizing::new(random()?) })
    }

    /// Prints the credential; wipe the text after use.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        seal(self.kind.prefix(), self.id, &*self.secret)
    }

    /// What a collector stores instead.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let mut hasher = Sha256::new();
        hasher.update(self.kind.prefix());
        hasher.update(self.id.0);
        hasher.update(*self.secret);
        SecretHash(hasher.finalize().into())
    }
}

impl FromStr for Credential {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let kind = [CredentialKind::Bootstrap, CredentialKind::ApiKey]
            .into_iter()
            .find(|kind| text.trim().starts_with(kind.prefix()))
            .ok_or(TokenError::Prefix)?;
        let (id, blob) = unseal(kind.prefix(), text)?;
        let secret = blob.as_slice().try_into().map_err(|_| TokenError::Form)?;
        Ok(Self { kind, id, secret: Zeroizing::new(secret) })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?} {}, REDACTED)", self.kind, self.id)
    }
}

/// What fetches an onboarding package: `rollcall_pkg1_<package>_<blob>`. A collector keeps its hash, and what
/// the package holds encrypted under it; the secret itself is kept by nobody but its bearer.
#[derive(Clone)]
pub struct PackageSecret {
    /// The package; public.
    pub package: TokenId,
    secret: Zeroizing<[u8; 32]>,
}

impl PackageSecret {
    /// A fresh random secret for a package.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random(package: TokenId) -> Result<Self, NoRandomness> {
        Ok(Self { package, secret: Zeroizing::new(random()?) })
    }

    /// Prints the secret; wipe the text after use.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        seal(PACKAGE_PREFIX, self.package, &*self.secret)
    }

    /// What a collector stores instead.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let mut hasher = Sha256::new();
        hasher.update(PACKAGE_PREFIX);
        hasher.update(self.package.0);
        hasher.update(*self.secret);
        SecretHash(hasher.finalize().into())
    }

    /// The bytes that a key is derived from.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl FromStr for PackageSecret {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (package, blob) = unseal(PACKAGE_PREFIX, text)?;
        let secret = blob.as_slice().try_into().map_err(|_| TokenError::Form)?;
        Ok(Self { package, secret: Zeroizing::new(secret) })
    }
}

impl fmt::Debug for PackageSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackageSecret({}, REDACTED)", self.package)
    }
}

fn seal(prefix: &str, id: TokenId, blob: &[u8]) -> Zeroizing<String> {
    let head = format!("{prefix}{id}_");
    let mut sealed = Zeroizing::new(blob.to_vec());
    sealed.extend_from_slice(&checksum(&head, blob));
    let mut text = Zeroizing::new(head);
    text.push_str(&Zeroizing::new(base32(&sealed)));
    text
}

fn unseal(prefix: &str, text: &str) -> Result<(TokenId, Zeroizing<Vec<u8>>), TokenError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(TokenError::Long);
    }
    let rest = text.strip_prefix(prefix).ok_or(TokenError::Prefix)?;
    let (id, blob) = rest.split_once('_').ok_or(TokenError::Form)?;
    let head = format!("{prefix}{id}_");
    let id = id.parse()?;
    let mut blob = unbase32(blob)?;
    let at = blob.len().checked_sub(4).ok_or(TokenError::Form)?;
    let (body, sum) = blob.split_at_checked(at).ok_or(TokenError::Form)?;
    if sum != checksum(&head, body) {
        return Err(TokenError::Checksum);
    }
    blob.truncate(at);
    Ok((id, blob))
}

fn checksum(head: &str, blob: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head.as_bytes());
    crc.update(blob);
    crc.finalize().to_be_bytes()
}

fn base32(bytes: &[u8]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

fn unbase32(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(TokenError::Form);
    }
    let upper = Zeroizing::new(text.to_ascii_uppercase());
    BASE32_NOPAD.decode(upper.as_bytes()).map(Zeroizing::new).map_err(|_| TokenError::Form)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(text.bytes().take(length.into()));
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TokenError> {
        let short = || TokenError::Field("it ends too early".into());
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        self.take(N)?.try_into().map_err(|_| TokenError::Form)
    }

    fn byte(&mut self) -> Result<u8, TokenError> {
        self.array::<1>().map(|[b]| b)
    }

    fn text(&mut self) -> Result<&'a str, TokenError> {
        let n = self.byte()?;
        std::str::from_utf8(self.take(n.into())?).map_err(|_| TokenError::Field("a text is not UTF-8".into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            id: TokenId([7; 10]),
            secret: Secret([9; 32]),
            pin: Pin([3; 32]),
            expires: Timestamp::from_secs(1_800_000_000),
            trust_domain: "fleet.example".parse().unwrap_or_else(|e| unreachable!("{e}")),
            addresses: vec!["collector.example.net:7411".parse().unwrap_or_else(|e| unreachable!("{e}"))],
        }
    }

    #[test]
    fn a_package_secret_is_read_again_and_never_shown() {
        let secret = PackageSecret::random(TokenId([4; 10])).unwrap();
        let text = secret.reveal();
        assert!(text.starts_with("rollcall_pkg1_"));
        let back: PackageSecret = text.parse().unwrap();
        assert_eq!((back.package, back.hash()), (secret.package, secret.hash()));
        assert!(!format!("{secret:?}").contains(text.rsplit('_').next().unwrap()));
        let other = PackageSecret::random(TokenId([4; 10])).unwrap();
        assert_ne!(other.hash(), secret.hash());
        assert!(text.replace("pkg1", "enr1").parse::<PackageSecret>().is_err());
        let mut typed = text.to_string();
        let last = if typed.pop() == Some('a') { 'b' } else { 'a' };
        typed.push(last);
        assert!(typed.parse::<PackageSecret>().is_err());
    }

    #[test]
    fn the_released_form_stands() {
        let text = token().reveal();
        assert_eq!(
            text.as_str(),
            "rollcall_enr1_a4dqobyha4dqobyh_aeaascijbeeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeeqscidambqgaydambqgaydam\
             bqgaydambqgaydambqgaydambqgaydanvutuqabvtgyzlfoqxgk6dbnvygyzibdjrw63dmmvrxi33sfzsxqylnobwgkltomv2dunzugey\
             qvf564q"
        );
        let back: Token = text.parse().unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(back.reveal(), text);
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let token = token();
        let shown = format!("{token:?} {:?}", token.secret.hash(token.id));
        assert!(shown.contains("REDACTED") && !shown.contains("9, 9") && !shown.contains("9090"));
        let credential = Credential::random(CredentialKind::Bootstrap).unwrap_or_else(|e| unreachable!("{e}"));
        let text = credential.reveal();
        let secret = text.rsplit('_').next().unwrap_or_default().to_owned();
        assert!(!format!("{credential:?}").contains(&secret));
    }

    /// T10: broken in any way means a local error.
    #[test]
    fn damaged_tokens_are_refused_locally() {
        let text = token().reveal().to_string();
        let refused = |text: &str| text.parse::<Token>().err();
        assert_eq!(refused(""), Some(TokenError::Empty));
        assert_eq!(refused("-"), Some(TokenError::Prefix));
        assert_eq!(refused(&text.to_uppercase()), Some(TokenError::Prefix));
        let mixed = text.replace("_aeaasc", "_Aeaasc");
        assert_eq!(refused(&mixed), Some(TokenError::Form));
        assert_eq!(refused(&"x".repeat(10_240)), Some(TokenError::Long));
        let cut = &text[..text.len() - 8];
        assert_eq!(refused(cut), Some(TokenError::Checksum));
        let mut blob = vec![2, 0];
        blob.extend([0; 70]);
        assert_eq!(refused(&seal(ENROLL_PREFIX, TokenId([1; 10]), &blob)), Some(TokenError::Version(2)));
        for n in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            if let Some(b) = bytes.get_mut(n) {
                *b = if *b == b'a' { b'b' } else { b'a' };
            }
            let changed = String::from_utf8(bytes).unwrap_or_default();
            assert!(refused(&changed).is_some(), "a change at {n} went unnoticed");
        }
    }

    #[test]
    fn credentials_round_trip_and_fit_the_scanners_pattern() {
        for kind in [CredentialKind::Bootstrap, CredentialKind::ApiKey] {
            let credential = Credential::random(kind).unwrap_or_else(|e| unreachable!("{e}"));
            let text = credential.reveal();
            let back: Credential = text.parse().unwrap_or_else(|e| unreachable!("{e}"));
            assert_eq!(back.hash(), credential.hash());
            let mut parts = text.rsplitn(3, '_');
            assert!(parts.next().is_some_and(|blob| blob.len() >= 100));
            assert_eq!(parts.next().map(str::len), Some(16));
        }
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,300}", blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = text.parse::<Token>();
            let _ = text.parse::<Credential>();
            let _ = seal(ENROLL_PREFIX, TokenId([1; 10]), &blob).parse::<Token>();
        }
    }
}
