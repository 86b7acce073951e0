//! Every attack and abuse of `identity.md` §4 that this version answers, against a real collector.
//!
//! `cases.rs` is the list: which case is tested where.

mod cases;
mod children;
mod lifecycle;
mod scene;
mod settings;
mod tcp;
mod tls;
mod tokens;
mod wire;
