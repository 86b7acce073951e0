//! JSON lines to a web hook, signed.
//!
//! `x-rollcall-signature: sha256=` and the HMAC-SHA256 of the body in hex; `idempotency-key` is the same for the
//! same batch. Any answer of 200 to 299 takes it.

use async_trait::async_trait;
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use reqwest::{Client, Url, header};

use super::{Outlet, OutletError, print};
use crate::audit::offline::Line;

/// Posts batches.
pub struct Webhook {
    client: Client,
    url: Url,
    key: hmac::Key,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", self.url)
    }
}

impl Webhook {
    /// A web hook: https, or http to loopback.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn new(url: &str, secret: &[u8]) -> Result<Self, String> {
        let url: Url = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err("must begin with https://; plain http is for loopback".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("takes no credential: the secret signs what is sent".into());
        }
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| format!("the HTTP client does not start: {error}"))?;
        Ok(Self { client, url, key: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }
}

#[async_trait]
impl Outlet for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn take(&mut self, lines: &[Line]) -> Result<(), OutletError> {
        let body = print(lines)?;
        let signature = HEXLOWER.encode(hmac::sign(&self.key, &body).as_ref());
        let place = |line: Option<&Line>| match line {
            Some(Line::Event(event)) => format!("e{}", event.seq),
            Some(Line::Seal(seal)) => format!("s{}", seal.no),
            None => String::new(),
        };
        let name = format!("rollcall-{}-{}", place(lines.first()), place(lines.last()));
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header("idempotency-key", name)
            .header("x-rollcall-signature", format!("sha256={signature}"))
            .body(body);
        let answer = request.send().await.map_err(|error| OutletError::Refused(error.without_url().to_string()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(OutletError::Refused(format!("it answered {status}"))) }
    }
}
