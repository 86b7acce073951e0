//! The `[local]` table: the loopback port of the local service.

use std::net::SocketAddr;

use serde::Deserialize;

/// What one source says of it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented in LocalPort")]
pub struct LocalLayer {
    pub http: Option<SocketAddr>,
    pub http_reports: Option<bool>,
}

/// The loopback port of the local service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalPort {
    /// Where it listens; nowhere unless told.
    pub http: Option<SocketAddr>,
    /// Whether it takes reports: on loopback nobody can tell one user of the host from another.
    pub http_reports: bool,
}

impl LocalLayer {
    pub(super) fn overlaid(under: Option<Self>, over: Option<Self>) -> Option<Self> {
        match (under, over) {
            (Some(under), Some(over)) => {
                Some(Self { http: over.http.or(under.http), http_reports: over.http_reports.or(under.http_reports) })
            }
            (under, over) => over.or(under),
        }
    }

    pub(super) fn port(self) -> LocalPort {
        LocalPort { http: self.http, http_reports: self.http_reports.unwrap_or(false) }
    }

    pub(super) fn fault(&self) -> Option<String> {
        let http = self.http.filter(|http| !http.ip().is_loopback())?;
        Some(format!("local: http: {http} can be reached from outside this host: use 127.0.0.1 or [::1]"))
    }
}
