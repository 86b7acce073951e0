//! The way to an issuer: its discovery document, then its key set.
//!
//! HTTPS only, no redirects, small bodies, short waits. An issuer that leads elsewhere, talks at length or
//! says nothing is an issuer whose keys could not be had.

use std::time::Duration;

use reqwest::{Certificate, Client, Url, redirect::Policy};
use serde::Deserialize;

use super::{Issuer, keys::Keys};

/// How long both requests may take together.
const WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Largest document, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// Why an issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// An address that is not allowed.
    #[error("{url:?} is not allowed: {why}")]
    Address {
        /// Which.
        url: String,
        /// Why.
        why: &'static str,
    },
    /// The file of certificates.
    #[error("the certificates in {path}: {why}")]
    Certificates {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The client itself.
    #[error("the HTTP client does not start: {0}")]
    Client(String),
    /// The request failed.
    #[error("{url} did not answer: {why}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// It answered, but not what was wanted.
    #[error("{url} answered with something else: {why}")]
    Strange {
        /// What was asked.
        url: String,
        /// What.
        why: String,
    },
}

/// What is read of a discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// A way to one issuer.
pub(super) struct Way {
    http: Client,
    issuer: String,
    discovery: Url,
    insecure_loopback: bool,
}

impl Way {
    pub(super) fn new(issuer: &Issuer) -> Result<Self, FetchError> {
        let place = format!("{}/.well-known/openid-configuration", issuer.issuer.trim_end_matches('/'));
        let discovery = allowed(&place, issuer.insecure_loopback)?;
        let mut http = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(Policy::none())
            .user_agent("rollcall-collector");
        if let Some(path) = &issuer.ca_file {
            let bad = |why: String| FetchError::Certificates { path: path.display().to_string(), why };
            let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            let all = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
            if all.is_empty() {
                return Err(bad("it holds none: it must be PEM".into()));
            }
            http = http.tls_certs_only(all);
        } else if discovery.scheme() == "http" {
            http = http.tls_certs_only([]);
        }
        if discovery.scheme() == "http" {
            // It never leaves this host.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| FetchError::Client(innermost(&error)))?;
        let insecure_loopback = issuer.insecure_loopback;
        Ok(Self { http, issuer: issuer.issuer.clone(), discovery, insecure_loopback })
    }

    /// Fetches the keys.
    pub(super) async fn keys(&self) -> Result<Keys, FetchError> {
        let late = |_| FetchError::Unreachable { url: self.discovery.to_string(), why: "it took too long".into() };
        tokio::time::timeout(WITHIN, self.fetch()).await.map_err(late)?
    }

    async fn fetch(&self) -> Result<Keys, FetchError> {
        let strange = |url: &Url, why: &str| FetchError::Strange { url: url.to_string(), why: why.into() };
        let body = self.get(&self.discovery).await?;
        let found: Discovery = serde_json::from_slice(&body)
            .map_err(|_| strange(&self.discovery, "it is no discovery document of OpenID Connect"))?;
        if found.issuer != self.issuer {
            return Err(strange(&self.discovery, "it speaks for another issuer"));
        }
        let place = allowed(&found.jwks_uri, self.insecure_loopback)?;
        Keys::read(&self.get(&place).await?).map_err(|why| strange(&place, why))
    }

    async fn get(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let unreachable =
            |error: reqwest::Error| FetchError::Unreachable { url: url.to_string(), why: innermost(&error) };
        let strange = |why: String| FetchError::Strange { url: url.to_string(), why };
        let mut answer = self.http.get(url.clone()).send().await.map_err(unreachable)?;
        if !answer.status().is_success() {
            return Err(strange(format!("status {}", answer.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(strange(format!("more than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Whether an address may be asked: HTTPS, or on request plain HTTP to this very host.
pub(super) fn allowed(text: &str, insecure_loopback: bool) -> Result<Url, FetchError> {
    let bad = |why| FetchError::Address { url: text.chars().take(200).collect(), why };
    let url: Url = text.parse().map_err(|_| bad("it is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(bad("it carries a credential or a fragment"));
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let local = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure_loopback && local => Ok(url),
        "http" if insecure_loopback => Err(bad("plain HTTP goes to 127.0.0.1 or [::1] only")),
        "http" => Err(bad("it must be https")),
        _ => Err(bad("it must begin with https://")),
    }
}

/// The innermost cause: the outer ones repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encrypted_or_very_near_addresses_are_asked() {
        for good in ["https://idp.example/realms/x", "https://127.0.0.1:1/"] {
            assert!(allowed(good, false).is_ok(), "{good}");
        }
        for bad in [
            "http://idp.example/",
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "ftp://idp.example/",
            "file:///etc/passwd",
            "https://user:hush@idp.example/",
            "https://idp.example/#x",
            "idp.example",
        ] {
            assert!(allowed(bad, false).is_err(), "{bad}");
        }
        assert!(allowed("http://127.0.0.1:1/", true).is_ok() && allowed("http://[::1]:1/", true).is_ok());
        for bad in ["http://169.254.169.254/", "http://localhost.evil.example/", "http://10.0.0.1/"] {
            assert!(allowed(bad, true).is_err(), "{bad}");
        }
    }
}
