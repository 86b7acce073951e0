//! From an operator's command line to a host that is in: real processes, the CLI included.

mod operator;
mod packages;
mod ssh;
