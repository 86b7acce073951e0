//! Who gets in and what hostile callers come to, against a real collector: the cases H2 to H19 of
//! `identity.md` §4 as a whole. What a single part answers is tested beside the part.
#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for what is not there")]

mod hostile;
mod idp;
mod metrics;
mod routes;
mod scene;
mod secrets;
mod tokens;
mod ways;
