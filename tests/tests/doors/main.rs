//! How an operator comes in: setup, login codes, HTTPS. Real processes, a CA of our own, the command line.

mod https;
mod login;
mod place;
mod setup;
