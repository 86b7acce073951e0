//! The operator's side of the HTTP API: requests, and words for each way they can fail.
//!
//! A command asks with [`Client::get`], [`Client::post`], [`Client::list`] and the like; where it needs
//! headers, another body or the answer's bytes, with [`Client::call`]. Requests that may safely be repeated
//! are, when the collector asks for patience (503 or 429 with `Retry-After`), for a bounded time.

mod failures;

use std::{path::Path, time::Duration};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use rollcall_common::token::Credential;
use serde_json::Value;
use zeroize::Zeroizing;

pub(super) use super::list::Listed;
use super::{
    Exit, Failure,
    reach::{Target, shown},
};
use crate::config::Source;

pub(super) use super::print::Output;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the collector gives itself for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A stream goes on for as long as it has something to say.
const STREAM_WITHIN: Duration = Duration::from_secs(30 * 86_400);
/// Items that one request asks for.
const PAGE: usize = 1000;
/// How often a request is repeated at most.
const TRIES: u32 = 5;
/// Pause after a connection that broke before the answer was there.
const AFTER_BREAK: Duration = Duration::from_secs(1);
/// Longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Longest answer that is read as one document: well above a page of the largest items.
const MAX_DOCUMENT: usize = 64 << 20;

/// A way to a collector.
pub(super) struct Client {
    http: reqwest::Client,
    target: Target,
    credential: Zeroizing<String>,
}

/// What a collector answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The document; `null` where there is none.
    pub(super) document: Value,
    /// Its version, for `If-Match`.
    pub(super) etag: Option<String>,
}

/// Reads a credential from a file and checks that it is one.
pub(super) fn credential(source: &dyn Source, file: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = source.file(file).map(Zeroizing::new).map_err(|error| {
        let hint = "run as the collector's user or as root, or name another file with --credential-file or \
                    ROLLCALL_CREDENTIAL_FILE";
        Failure::new(Exit::Config, format!("cannot read the credential in {}: {error}; {hint}", file.display()))
    })?;
    credential_text(&text, &file.display().to_string())
}

/// Checks that a text is a credential: ours, or a signed token of an identity provider.
pub(super) fn credential_text(text: &str, place: &str) -> Result<Zeroizing<String>, Failure> {
    let text = text.trim();
    let ours = text.parse::<Credential>().is_ok();
    let parts: Vec<&str> = text.split('.').collect();
    let url_safe =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let signed = parts.len() == 3 && parts.iter().all(url_safe);
    if ours || signed {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    let message = format!(
        "{place} holds no credential: it must be one line, rollcall_adm1_… or rollcall_api1_…, or a JSON Web Token"
    );
    Err(Failure::new(Exit::Config, message))
}

impl Client {
    /// Makes a way to a collector. Nothing is sent yet.
    pub(super) fn open(target: Target, source: &dyn Source) -> Result<Self, Failure> {
        let credential = match &target.credential_file {
            Some(file) => credential(source, file)?,
            None => Zeroizing::default(),
        };
        Self::with(target, source, credential)
    }

    /// Makes a way to a collector that proves nothing: what is sent is what gives a credential.
    pub(super) fn open_to_log_in(target: Target, source: &dyn Source) -> Result<Self, Failure> {
        Self::with(target, source, Zeroizing::default())
    }

    /// Makes a way to a collector with a credential that lies in no file yet.
    pub(super) fn open_with(
        target: Target,
        source: &dyn Source,
        credential: Zeroizing<String>,
    ) -> Result<Self, Failure> {
        Self::with(target, source, credential)
    }

    fn with(target: Target, source: &dyn Source, credential: Zeroizing<String>) -> Result<Self, Failure> {
        let config = |message: String| Failure::new(Exit::Config, message);
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            // A proxy could only see what it must not.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &target.ca_file {
            let pem = source
                .file(path)
                .map_err(|error| config(format!("cannot read the certificates in {}: {error}", path.display())))?;
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|all| !all.is_empty());
            let certificates = certificates
                .ok_or_else(|| config(format!("{} holds no certificate: it must be PEM", path.display())))?;
            http = http.tls_certs_only(certificates);
        } else if target.api.scheme() != "https" {
            // No TLS will be spoken: a host without certificates of its own is as good.
            http = http.tls_certs_only([]);
        }
        if let Some(socket) = target.socket() {
            http = http.unix_socket(socket);
        }
        let http = http.build().map_err(|error| config(format!("the HTTP client does not start: {error}")))?;
        Ok(Self { http, target, credential })
    }

    /// Reads something.
    pub(super) async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Value, Failure> {
        Ok(self.call(Method::GET, path).query(query).send().await?.document)
    }

    /// Does something that must not be done twice by accident; for what creates, see [`Self::create`].
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        Ok(self.call(Method::POST, path).json(&body).send().await?.document)
    }

    /// Creates something, once however often the request is repeated.
    pub(super) async fn create(&self, path: &str, body: Value) -> Result<Value, Failure> {
        Ok(self.call(Method::POST, path).json(&body).once().send().await?.document)
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str, query: &[(String, String)]) -> Result<(), Failure> {
        self.call(Method::DELETE, path).query(query).send().await.map(drop)
    }

    /// A request with everything that it can have.
    pub(super) fn call(&self, method: Method, path: &str) -> Call<'_> {
        let mut url = self.target.root();
        url.set_path(path);
        // What reads or replaces is the same thing done twice.
        let repeats = method != Method::POST && method != Method::PATCH;
        Call { client: self, method, url, headers: HeaderMap::new(), body: Vec::new(), repeats }
    }

    /// Follows a list through its pages, up to a number of items.
    pub(super) async fn list(&self, path: &str, query: &[(String, String)], max: usize) -> Result<Listed, Failure> {
        let mut listed = Listed { more: true, ..Listed::default() };
        while listed.more && listed.items.len() < max {
            let mut query = query.to_vec();
            query.push(("limit".into(), (max - listed.items.len()).min(PAGE).to_string()));
            query.extend(listed.next.take().map(|cursor| ("cursor".into(), cursor)));
            let mut page = self.get(path, &query).await?;
            let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
                return Err(self.strange("an answer without items"));
            };
            listed.items.extend(items);
            if listed.seq.is_null() {
                listed.seq = page.get_mut("seq").map(Value::take).unwrap_or_default();
                listed.epoch = page.get_mut("epoch").map(Value::take).unwrap_or_default();
            }
            listed.next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            listed.more = listed.next.is_some();
        }
        Ok(listed)
    }

    /// Where it leads.
    pub(super) fn api(&self) -> &str {
        shown(&self.target.api)
    }

    /// The file of the credential that it uses, if it uses one.
    pub(super) fn credential_file(&self) -> Option<&Path> {
        self.target.credential_file.as_deref()
    }
}

/// A request in the making.
pub(super) struct Call<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Vec<u8>,
    repeats: bool,
}

impl Call<'_> {
    /// Query parameters.
    pub(super) fn query(mut self, query: &[(String, String)]) -> Self {
        if !query.is_empty() {
            self.url.query_pairs_mut().extend_pairs(query);
        }
        self
    }

    /// A JSON body.
    pub(super) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().into_bytes())
    }

    /// A body of another type.
    pub(super) fn body(mut self, media_type: &'static str, bytes: Vec<u8>) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.body = bytes;
        self
    }

    /// A header. Secrets are never shown by what prints a request.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        self
    }

    /// Only if the thing is still of this version.
    pub(super) fn if_match(self, etag: Option<&str>) -> Self {
        match etag {
            Some(etag) => self.header("if-match", etag),
            None => self,
        }
    }

    /// Names the request, so that the collector knows a repetition and does it once.
    pub(super) fn once(mut self) -> Self {
        let mut name = [0; 16];
        if getrandom::fill(&mut name).is_ok() {
            self.repeats = true;
            return self.header("idempotency-key", &data_encoding::HEXLOWER.encode(&name));
        }
        self
    }

    /// Sends it and reads the answer's document.
    pub(super) async fn send(self) -> Result<Answer, Failure> {
        let client = self.client;
        let answer = self.respond(ANSWER_WITHIN).await?;
        let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let status = answer.status();
        let bytes = whole(client, answer).await?;
        if bytes.is_empty() {
            return Ok(Answer { document: Value::Null, etag });
        }
        let document = serde_json::from_slice(&bytes)
            .map_err(|_| client.strange(&format!("an answer that is no JSON, with status {status}")))?;
        Ok(Answer { document, etag })
    }

    /// Sends it; the answer is read piece by piece.
    pub(super) async fn stream(self) -> Result<Stream, Failure> {
        let target = self.client.target.clone();
        let answer = self.respond(STREAM_WITHIN).await?;
        Ok(Stream { target, answer })
    }

    /// Sends it as often as is polite, and refuses what the collector refuses.
    async fn respond(self, within: Duration) -> Result<Response, Failure> {
        let Self { client, method, url, headers, body, repeats } = self;
        let is_named = headers.contains_key("idempotency-key");
        let mut tries = 1;
        loop {
            let mut attempt = client.http.request(method.clone(), url.clone()).timeout(within);
            attempt = attempt.headers(headers.clone());
            if !client.credential.is_empty() {
                attempt = attempt.bearer_auth(client.credential.as_str());
            }
            if !body.is_empty() {
                attempt = attempt.body(body.clone());
            }
            let answer = tokio::time::timeout(ANSWER_WITHIN, attempt.send());
            let answer = match answer.await {
                Ok(Ok(answer)) => answer,
                // The request may have been done, which its name tells; a collector that is not there at all is not
                // waited for, but one that went away in between comes back soon.
                Ok(Err(error)) if is_named && tries < TRIES && (tries > 1 || !error.is_connect()) => {
                    tries += 1;
                    tokio::time::sleep(AFTER_BREAK).await;
                    continue;
                }
                Ok(Err(error)) => return Err(client.target.unreachable(&error)),
                Err(_) => return Err(client.target.silent()),
            };
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            match pause(status, answer.headers()).filter(|_| repeats && tries < TRIES) {
                Some(pause) => {
                    tries += 1;
                    tokio::time::sleep(pause).await;
                }
                None => {
                    let bytes = whole(client, answer).await?;
                    return Err(client.target.refused(status, &bytes));
                }
            }
        }
    }
}

async fn whole(client: &Client, mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| client.target.unreachable(&error))? {
        if bytes.len() + chunk.len() > MAX_DOCUMENT {
            return Err(client.strange("an answer without end"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// How long a collector asks to wait, where it does.
fn pause(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    // 409 asks to wait where the same request is under way already.
    let patience =
        matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT);
    let secs = headers.get(header::RETRY_AFTER).filter(|_| patience)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(secs)).filter(|pause| *pause <= LONGEST_PAUSE)
}

/// An answer that is read piece by piece.
pub(super) struct Stream {
    target: Target,
    answer: Response,
}

impl Stream {
    /// The next piece; nothing at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let chunk = self.answer.chunk().await.map_err(|error| self.target.unreachable(&error))?;
        Ok(chunk.map(|chunk| chunk.to_vec()))
    }

    /// How long it will be, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.answer.content_length()
    }

    /// A header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.answer.headers().get(name)?.to_str().ok()
    }
}

impl Client {
    pub(super) fn strange(&self, what: &str) -> Failure {
        self.target.strange(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_ours_or_signed_by_somebody() {
        let ours = Credential::random(rollcall_common::token::CredentialKind::Bootstrap).unwrap().reveal().to_string();
        for good in [ours.as_str(), "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln-_", " eyJ.a.b\n"] {
            assert_eq!(credential_text(good, "x").unwrap().as_str(), good.trim());
        }
        for bad in ["", "hush", "a.b", "a..b", "a.b.c.d", "eyJ.a.b\nhush", "eyJ.ä.b"] {
            let failure = credential_text(bad, "/f").unwrap_err();
            assert_eq!(failure.exit(), Exit::Config);
            assert!(failure.to_string().starts_with("/f holds no credential"), "{failure}");
            assert!(!failure.to_string().contains("hush"), "{failure}");
        }
    }

    #[test]
    fn patience_is_asked_for_and_bounded() {
        let headers =
            |text: &'static str| HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(pause(StatusCode::SERVICE_UNAVAILABLE, &headers("2")), Some(Duration::from_secs(2)));
        assert_eq!(pause(StatusCode::TOO_MANY_REQUESTS, &headers("1")), Some(Duration::from_secs(1)));
        assert_eq!(pause(StatusCode::TOO_MANY_REQUESTS, &headers("3600")), None, "nobody waits for an hour");
        assert_eq!(pause(StatusCode::SERVICE_UNAVAILABLE, &headers("soon")), None);
        assert_eq!(pause(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()), None);
        assert_eq!(pause(StatusCode::FORBIDDEN, &headers("2")), None);
    }
}
