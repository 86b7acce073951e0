//! Endpoint.
