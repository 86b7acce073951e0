//! The text of a token: three parts, a header that asks for nothing unusual, claims that are an object.
//!
//! Nothing here is proven yet.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::Value;

use super::MAX_TOKEN;

/// Why a token is not taken. The words go to metrics and logs; callers hear less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flaw {
    /// It is no JSON Web Token.
    Form,
    /// It asks to be read in a way that is not supported: critical extensions, embedded or linked keys.
    Header,
    /// Its algorithm is not one that the key is for.
    Algorithm,
    /// No configured issuer made it.
    Issuer,
    /// Its key is not one of the issuer's.
    Key,
    /// The signature does not hold.
    Signature,
    /// It is meant for somebody else.
    Audience,
    /// It names nobody.
    Subject,
    /// It is over, or says not when.
    Expired,
    /// Its time has not come.
    NotYet,
}

impl Flaw {
    /// The word for metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Subject => "subject",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
        }
    }
}

/// The header, as far as it matters. What links to or carries a key is not followed: it is refused.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    jku: Option<Value>,
    #[serde(default)]
    x5u: Option<Value>,
    #[serde(default)]
    jwk: Option<Value>,
    #[serde(default)]
    enc: Option<Value>,
    #[serde(default)]
    zip: Option<Value>,
    #[serde(default)]
    b64: Option<Value>,
}

/// A token that was read and proves nothing yet.
#[derive(Debug)]
pub(super) struct Unproven<'a> {
    /// What is signed.
    pub signed: &'a str,
    /// The signature.
    pub signature: &'a str,
    /// What the header says it was made with.
    pub alg: String,
    /// Which key the header names.
    pub kid: Option<String>,
    /// What it claims.
    pub claims: Value,
}

/// Reads a token.
pub(super) fn read(text: &str) -> Result<Unproven<'_>, Flaw> {
    if text.len() > MAX_TOKEN {
        return Err(Flaw::Form);
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(Flaw::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(Flaw::Form)?;
    if claims.contains('.') || signature.is_empty() {
        return Err(Flaw::Form);
    }
    // The decoder is strict: one text for one signature.
    BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| Flaw::Form)?;
    let header: Header = part(header)?;
    let claims: Value = part(claims)?;
    if !claims.is_object() {
        return Err(Flaw::Form);
    }
    let unusual = [&header.crit, &header.jku, &header.x5u, &header.jwk, &header.enc, &header.zip, &header.b64];
    let known = |typ: &str| typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt");
    if unusual.iter().any(|part| part.is_some()) || header.typ.as_deref().is_some_and(|typ| !known(typ)) {
        return Err(Flaw::Header);
    }
    Ok(Unproven { signed, signature, alg: header.alg, kid: header.kid, claims })
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Flaw> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Flaw::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| Flaw::Form)
}
