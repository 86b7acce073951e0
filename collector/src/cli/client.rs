//! The operator's side of the HTTP API: one request at a time, and words for each way it can fail.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Exit, Failure};
use crate::config::{self, CREDENTIAL_FILE, DEFAULT_HTTP, Source};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the collector gives itself for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Items that one request asks for.
const PAGE: usize = 1000;

/// How to reach the collector and what to print.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// The collector's API [env: ROLLCALL_API] [default: http://127.0.0.1:7410].
    #[arg(long, value_name = "URL", global = true, help_heading = "Reaching the collector")]
    pub(super) api: Option<String>,
    /// File with the credential [env: ROLLCALL_CREDENTIAL_FILE]
    /// [default: admin.credential in the state directory].
    #[arg(long, value_name = "FILE", global = true, help_heading = "Reaching the collector")]
    pub(super) credential_file: Option<PathBuf>,
    /// What to print: a table for people, the API's JSON, or the bare essence for a shell.
    #[arg(long, short, value_enum, default_value_t = Output::Table, global = true)]
    pub(super) output: Output,
}

/// What to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// What the API answered.
    Json,
    /// Ids, one a line; for a new token, the token alone.
    Raw,
}

/// A way to a collector.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    credential: Zeroizing<String>,
    file: PathBuf,
}

/// A list that was followed through its pages.
pub(super) struct Listed {
    pub(super) items: Vec<Value>,
    /// Whether there are more than were asked for.
    pub(super) more: bool,
    pub(super) seq: Value,
    pub(super) epoch: Value,
}

impl Client {
    /// Finds the collector's address and the credential.
    pub(super) fn open(reach: &Reach, source: &dyn Source) -> Result<Self, Failure> {
        let variable = |name| source.variable(name).filter(|value| !value.is_empty());
        let api = reach.api.clone().or_else(|| variable("ROLLCALL_API").and_then(|value| value.into_string().ok()));
        let base = base(api.as_deref().unwrap_or(&format!("http://{DEFAULT_HTTP}")))?;
        let named = reach.credential_file.clone().or_else(|| variable("ROLLCALL_CREDENTIAL_FILE").map(PathBuf::from));
        let state_dir = || variable("ROLLCALL_STATE_DIR").map_or_else(|| config::state_dir_of(source), PathBuf::from);
        let file = named.unwrap_or_else(|| state_dir().join(CREDENTIAL_FILE));
        let text = source.file(&file).map(Zeroizing::new).map_err(|error| {
            let hint = "run as the collector's user or as root, or name another file with --credential-file or \
                        ROLLCALL_CREDENTIAL_FILE";
            Failure::new(Exit::Config, format!("cannot read the credential in {}: {error}; {hint}", file.display()))
        })?;
        let credential = Zeroizing::new(text.trim().to_owned());
        if credential.parse::<rollcall_common::token::Credential>().is_err() {
            let message = format!(
                "{} holds no credential: it must be one line, rollcall_adm1_… or rollcall_api1_…",
                file.display()
            );
            return Err(Failure::new(Exit::Config, message));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            // The collector is on this host: a proxy could only see what it must not.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::new(Exit::Config, format!("the HTTP client does not start: {error}")))?;
        Ok(Self { http, base, credential, file })
    }

    /// Reads something.
    pub(super) async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Value, Failure> {
        self.send(Method::GET, path, query, None).await
    }

    /// Changes something.
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str, query: &[(String, String)]) -> Result<(), Failure> {
        self.send(Method::DELETE, path, query, None).await.map(drop)
    }

    /// Follows a list through its pages, up to a number of items.
    pub(super) async fn list(&self, path: &str, query: &[(String, String)], max: usize) -> Result<Listed, Failure> {
        let mut listed = Listed { items: Vec::new(), more: true, seq: Value::Null, epoch: Value::Null };
        let mut cursor: Option<String> = None;
        while listed.more && listed.items.len() < max {
            let mut query = query.to_vec();
            query.push(("limit".into(), (max - listed.items.len()).min(PAGE).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor".into(), cursor)));
            let mut page = self.get(path, &query).await?;
            let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
                return Err(self.strange("an answer without items"));
            };
            listed.items.extend(items);
            if listed.seq.is_null() {
                listed.seq = page.get_mut("seq").map(Value::take).unwrap_or_default();
                listed.epoch = page.get_mut("epoch").map(Value::take).unwrap_or_default();
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            listed.more = cursor.is_some();
        }
        Ok(listed)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).bearer_auth(self.credential.as_str());
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|_| self.strange(&format!("an answer that is no JSON, with status {status}")))?;
        if status.is_success() { Ok(document) } else { Err(self.refused(status, &document)) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        // The error's own words repeat the URL; its innermost cause says what happened.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let api = self.api();
        let message = if error.is_timeout() {
            format!("the collector at {api} did not answer in time")
        } else if error.is_connect() {
            format!(
                "cannot reach the collector at {api}: {cause}\nstart it with `systemctl start rollcall-collector` or \
                 `rollcall-collector serve`, or name another one with --api or ROLLCALL_API"
            )
        } else {
            format!("the conversation with the collector at {api} broke off: {cause}")
        };
        Failure::new(Exit::Unreachable, message)
    }

    fn refused(&self, status: StatusCode, document: &Value) -> Failure {
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let detail = text("detail").or_else(|| text("title")).unwrap_or("no reason was given");
        let request = text("request_id").map(|id| format!(", request {id}")).unwrap_or_default();
        let code = text("code").map(|code| format!(" ({code}{request})")).unwrap_or_default();
        let detail: String = detail.chars().filter(|c| !c.is_control()).collect();
        if status == StatusCode::UNAUTHORIZED {
            let message = format!(
                "the collector at {} did not accept the credential in {}: {detail}{code}",
                self.api(),
                self.file.display()
            );
            return Failure::new(Exit::Refused, message);
        }
        let exit = if status.is_server_error() { Exit::Unreachable } else { Exit::Refused };
        Failure::new(exit, format!("{detail}{code}"))
    }

    fn strange(&self, what: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("{} gave {what}: is it a Rollcall collector?", self.api()))
    }

    fn api(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }
}

/// Reads the API's address: scheme, host and port.
fn base(text: &str) -> Result<Url, Failure> {
    let bad =
        |why: &str| Failure::usage(format!("--api (or ROLLCALL_API) {text:?} {why}: write http://127.0.0.1:7410"));
    let url: Url = text.parse().map_err(|_| bad("is no URL"))?;
    if url.scheme() != "http" {
        return Err(bad("must begin with http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::usage("--api (or ROLLCALL_API) takes no credential: that belongs into a file of its own"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("must be scheme, host and port alone"));
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    if !loopback && host != "localhost" {
        return Err(bad("is on another host, and the credential would travel unencrypted; open an SSH tunnel to it"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_a_plain_local_address() {
        for good in ["http://127.0.0.1:7410", "http://localhost:7410/", "http://[::1]:1"] {
            assert!(base(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("127.0.0.1:7410", "no URL"),
            ("https://127.0.0.1:7410", "begin with http://"),
            ("http://127.0.0.1:7410/api", "alone"),
            ("http://user:hush@127.0.0.1:7410", "no credential"),
            ("http://collector.example.net:7410", "SSH tunnel"),
            ("http://127.0.0.1.evil.example", "SSH tunnel"),
        ] {
            let failure = base(bad).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            let shown = failure.to_string();
            assert!(shown.contains(word), "{bad}: {shown}");
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}
