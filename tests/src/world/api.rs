//! The public HTTP API, as an operator uses it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use reqwest::{Client, Method};
use rollcall_common::{id::ServiceKey, time::Timestamp, token::TokenId};
use serde_json::{Value, json};

use crate::{peer::SOON, until::until};

/// A caller with a credential.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    addr: SocketAddr,
    credential: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, where it is JSON.
    pub json: Value,
    /// The body as it came.
    pub text: String,
}

impl Reply {
    /// The body, if the status is the wanted one.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "HTTP {} instead of {status}: {}", self.status, self.text);
        Ok(self.json)
    }
}

impl Api {
    /// Before there is a collector.
    #[must_use]
    pub(super) fn nowhere() -> Self {
        Self { client: Client::new(), addr: ([127, 0, 0, 1], 0).into(), credential: None }
    }

    /// With a bearer credential.
    #[must_use]
    pub fn new(addr: SocketAddr, credential: &str) -> Self {
        Self { addr, credential: Some(credential.into()), ..Self::nowhere() }
    }

    /// Where it calls.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same door without a credential.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { credential: None, ..self.clone() }
    }

    /// Calls.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply> {
        self.send(method, path, body, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Result<Reply> {
        let mut request = self.client.request(method, format!("http://{}{path}", self.addr));
        request = request.timeout(Duration::from_secs(15));
        if let Some(credential) = &self.credential {
            request = request.bearer_auth(credential);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok(Reply { status, json: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }

    /// GET.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.call(Method::GET, path, None).await
    }

    /// POST.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// POST of something that is made once for each key.
    ///
    /// # Errors
    /// When the collector does not answer.
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> Result<Reply> {
        self.send(Method::POST, path, Some(body), Some(key)).await
    }

    /// One service as it is shown.
    ///
    /// # Errors
    /// When it is not registered.
    pub async fn service(&self, service: &str) -> Result<Value> {
        let key: ServiceKey = service.parse()?;
        self.get(&path_of(&key)).await?.expect(200)
    }

    /// The word in one field of a service.
    ///
    /// # Errors
    /// When it is not registered, or has no such field.
    pub async fn field(&self, service: &str, field: &str) -> Result<String> {
        let shown = self.service(service).await?;
        word(&shown, field).map(str::to_owned)
    }

    /// Waits until a field of a service has this value, and gives the service.
    ///
    /// # Errors
    /// When it has not in time, with what it was.
    pub async fn wait(&self, within: Duration, service: &str, field: &str, wanted: &str) -> Result<Value> {
        until(within, &format!("{service} has {field} {wanted}"), async || {
            let shown = self.service(service).await?;
            let found = word(&shown, field)?;
            ensure!(found == wanted, "{field} is {found}: {shown}");
            Ok(shown)
        })
        .await
    }

    /// Waits until a service is active and alive.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_alive(&self, service: &str) -> Result<()> {
        self.wait(SOON, service, "presence", "alive").await?;
        self.wait(SOON, service, "status", "active").await.map(drop)
    }

    /// All services of a kind.
    ///
    /// # Errors
    /// When a page is refused.
    pub async fn list(&self, kinds: &str) -> Result<Vec<Value>> {
        self.pages(&format!("/api/admin/services/{kinds}?limit=500")).await
    }

    /// Audit events, newest first; `query` as in `object=poller/p&action=service.registered`.
    ///
    /// # Errors
    /// When a page is refused.
    pub async fn audit(&self, query: &str) -> Result<Vec<Value>> {
        self.pages(&format!("/api/admin/audit?limit=500&{query}")).await
    }

    /// Waits for an audit event.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_audit(&self, action: &str, object: &str) -> Result<Value> {
        until(SOON, &format!("an audit event {action} of {object}"), async || {
            let events = self.audit(&format!("action={action}&object={object}")).await?;
            events.into_iter().next().ok_or_else(|| anyhow!("there is none"))
        })
        .await
    }

    /// The presence history of a service, newest first.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn history(&self, service: &str) -> Result<Vec<Value>> {
        let key: ServiceKey = service.parse()?;
        self.pages(&format!("{}/history?limit=500", path_of(&key))).await
    }

    /// Waits until the history of a service shows these presences, oldest first. Presence is shown before it
    /// is on record.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_history(&self, service: &str, wanted: &[&str]) -> Result<()> {
        until(SOON, &format!("{service} has its history"), async || {
            let rows = self.history(service).await?;
            let found = rows.iter().rev().map(|row| word(row, "presence")).collect::<Result<Vec<_>>>()?;
            ensure!(found == wanted, "it is {found:?}, not {wanted:?}");
            Ok(())
        })
        .await
    }

    /// Waits for the newest row of a service's history with this presence.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_row(&self, service: &str, presence: &str) -> Result<Value> {
        until(SOON, &format!("{service} is on record as {presence}"), async || {
            let rows = self.history(service).await?;
            let found = rows.into_iter().find(|row| row.get("presence") == Some(&json!(presence)));
            found.context("there is no such row")
        })
        .await
    }

    /// Fails when a service was ever lost.
    ///
    /// # Errors
    /// The row that says so.
    pub async fn never_lost(&self, service: &str) -> Result<()> {
        let rows = self.history(service).await?;
        match rows.iter().find(|row| row.get("presence") == Some(&json!("lost"))) {
            Some(row) => bail!("{service} was lost: {row}"),
            None => Ok(()),
        }
    }

    /// All tokens.
    ///
    /// # Errors
    /// When a page is refused.
    pub async fn tokens(&self) -> Result<Vec<Value>> {
        self.pages("/api/admin/tokens?limit=500").await
    }

    /// One token, without its secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn token(&self, id: TokenId) -> Result<Value> {
        self.get(&format!("/api/admin/tokens/{id}")).await?.expect(200)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn revoke_token(&self, id: TokenId) -> Result<()> {
        self.post(&format!("/api/admin/tokens/{id}/revoke"), &json!({})).await?.expect(200).map(drop)
    }

    /// An operator's act on a status.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn act(&self, service: &str, act: &str) -> Result<Value> {
        let key: ServiceKey = service.parse()?;
        let body = json!({ "act": act, "reason": "a test" });
        self.post(&format!("{}/status", path_of(&key)), &body).await?.expect(200)
    }

    /// The sum of a metric over all its series whose labels hold a text; 0 where there is none.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let reply = self.get("/metrics").await?;
        ensure!(reply.status == 200, "HTTP {} for /metrics", reply.status);
        Ok(metric(&reply.text, name, labels))
    }

    /// Waits until a metric reaches a value.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_metric(&self, name: &str, labels: &str, at_least: f64) -> Result<f64> {
        until(SOON, &format!("{name}{{{labels}}} reaches {at_least}"), async || {
            let value = self.metric(name, labels).await?;
            ensure!(value >= at_least, "it is {value}");
            Ok(value)
        })
        .await
    }

    async fn pages(&self, path: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let page = self.get(&format!("{path}{next}")).await?.expect(200)?;
            let items = page.get("items").and_then(Value::as_array).with_context(|| format!("no items in {page}"))?;
            all.extend(items.iter().cloned());
            match page.get("next").and_then(Value::as_str) {
                Some(cursor) if !items.is_empty() => next = format!("&cursor={cursor}"),
                Some(_) | None => return Ok(all),
            }
        }
    }
}

fn path_of(key: &ServiceKey) -> String {
    format!("/api/admin/services/{}/{}", key.kind.plural(), key.id)
}

/// A text field.
///
/// # Errors
/// When there is none.
pub fn word<'a>(shown: &'a Value, field: &str) -> Result<&'a str> {
    shown.get(field).and_then(Value::as_str).with_context(|| format!("no text {field:?} in {shown}"))
}

/// What stands at a JSON pointer; null where nothing does.
#[must_use]
pub fn at(shown: &Value, pointer: &str) -> Value {
    shown.pointer(pointer).cloned().unwrap_or_default()
}

/// A time field, as milliseconds or as RFC 3339.
///
/// # Errors
/// When there is none.
pub fn moment(shown: &Value, field: &str) -> Result<Timestamp> {
    let value = shown.get(field).with_context(|| format!("no time {field:?} in {shown}"))?;
    if let Some(ms) = value.as_i64() {
        return Ok(Timestamp(ms));
    }
    let text = value.as_str().with_context(|| format!("{field} is no time: {value}"))?;
    let at: jiff::Timestamp = text.parse().with_context(|| format!("{field} is no time: {text}"))?;
    Ok(Timestamp(at.as_millisecond()))
}

/// The sum of a metric in the text format.
fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let of_name = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')) && line.contains(labels)
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(of_name).filter_map(value).fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# TYPE a counter\na_total{code=\"X\"} 2\na_total{code=\"Y\"} 3\na_total_x 9\nb 1\n";
        assert!((metric(text, "a_total", "") - 5.0).abs() < f64::EPSILON);
        assert!((metric(text, "a_total", "code=\"Y\"") - 3.0).abs() < f64::EPSILON);
        assert!((metric(text, "c", "")).abs() < f64::EPSILON);
    }

    #[test]
    fn moments_are_read_in_both_forms() {
        let row = json!({ "a": "1970-01-01T00:00:01.500Z", "b": 1_500 });
        assert_eq!(moment(&row, "a").unwrap(), Timestamp(1_500));
        assert_eq!(moment(&row, "b").unwrap(), Timestamp(1_500));
    }
}
