//! What this room reads of strangers before anybody knows them, for the fuzzer and the replay of what it kept.
//!
//! Each answers whether the bytes were taken, and checks what must hold of what was; none of it is part of a program.

use rollcall_common::service::Pairs;

use super::{
    access::Permission,
    apply,
    filter::{LabelTest, QUERY, Wanted},
    oidc::{self, JwtParts},
    page,
    routes::Operation,
};

/// The query of a list of services, as it comes behind the question mark.
///
/// # Panics
/// When what was taken breaks a bound, or reads differently a second time.
#[must_use]
pub fn query(text: &str) -> bool {
    let operation = Operation::get("/x", Permission::Read, "x").query(QUERY);
    let Ok(read) = super::extract::Query::read(text, &operation) else { return false };
    let Ok(wanted) = Wanted::read(None, &read.0) else { return false };
    assert!((1..=page::MAX_LIMIT).contains(&wanted.limit), "a page of {}", wanted.limit);
    assert!(Wanted::read(None, &read.0).ok() == Some(wanted), "a query reads as another one");
    true
}

/// One test of a label; of those that are taken, one and its opposite never both pass.
///
/// # Panics
/// When they do.
#[must_use]
pub fn label(text: &str, labels: &Pairs) -> bool {
    let Ok(test) = text.parse::<LabelTest>() else { return false };
    let opposite = match test.clone() {
        LabelTest::In(key, values) => LabelTest::NotIn(key, values),
        LabelTest::NotIn(key, values) => LabelTest::In(key, values),
        LabelTest::Exists(key) => LabelTest::Missing(key),
        LabelTest::Missing(key) => LabelTest::Exists(key),
    };
    assert!(test.passes(labels) != opposite.passes(labels), "{text:?} passes with its opposite");
    true
}

/// The items of a bulk registration, as JSON lines and as one document; how many can be registered.
#[must_use]
pub fn items(bytes: &[u8]) -> usize {
    apply::readable(bytes)
}

/// The text of a signed token, of which nothing is proven.
///
/// # Panics
/// When a part of it is not what was sent.
#[must_use]
pub fn token(text: &str) -> bool {
    let Some(JwtParts { signed, signature }) = oidc::parts(text) else { return false };
    assert!(text.len() <= oidc::MAX_TOKEN, "{} bytes were looked at", text.len());
    assert!(format!("{signed}.{signature}") == text, "something was left out");
    assert!(text.is_ascii() && !signature.is_empty(), "an unsigned token");
    true
}
