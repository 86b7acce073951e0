//! A server
