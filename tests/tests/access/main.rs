//! Who gets in and what hostile callers come to, against a real collector: the cases H1 to H19 of
//! `identity.md` §4 as a whole. What a single part answers is tested beside the part.
#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for what is not there")]

mod ends;
mod hostile;
mod idp;
mod logs;
mod metrics;
mod routes;
mod scene;
mod secrets;
mod tokens;
mod ways;
