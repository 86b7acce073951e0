//! The collector's public API, as far as a swarm needs it.

use std::{collections::BTreeSet, fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, Method};
use rollcall_common::{
    id::{Kind, ServiceId, ServiceKey},
    lease::Presence,
    time::Timestamp,
    token::{Token, TokenId},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(20);
/// Services of one page: the most that the API gives.
const PAGE: usize = 1_000;
/// Rows of history looked at.
const ROWS: usize = 50;

/// A caller with a credential.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    credential: String,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Api({})", self.base)
    }
}

/// A row of presence history.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was observed.
    pub presence: Presence,
    /// Why, in one word.
    pub cause: String,
    /// When the verdict fell.
    pub decided_at: Timestamp,
    /// For a loss, the last accepted beat.
    pub last_beat: Option<Timestamp>,
}

impl Api {
    /// A caller; `credential` names the file that holds the bearer credential.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(base: String, credential: &Path) -> Result<Self> {
        let text = fs::read_to_string(credential).with_context(|| format!("cannot read {credential:?}"))?;
        let client = Client::builder().timeout(WITHIN).build()?;
        Ok(Self { client, base, credential: text.trim().to_owned() })
    }

    /// Makes a token for `uses` services whose ids begin with `prefix`.
    ///
    /// # Errors
    /// When the collector refuses.
    pub async fn mint(&self, kind: Kind, prefix: &str, uses: u32, local: bool) -> Result<Token> {
        #[derive(Deserialize)]
        struct Minted {
            token: String,
        }
        let body = json!({
            "kind": kind, "id_prefix": prefix, "max_uses": uses, "ttl": "1d", "local": local,
            "note": "rollcall-swarm", "labels": { "swarm": "yes" },
        });
        let minted: Minted = serde_json::from_value(self.call(Method::POST, "tokens", Some(&body)).await?)?;
        minted.token.parse().context("the collector gave an unusable token")
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When the collector refuses.
    pub async fn revoke(&self, token: TokenId) -> Result<()> {
        self.call(Method::POST, &format!("tokens/{token}/revoke"), Some(&json!({}))).await.map(drop)
    }

    /// Every service whose presence is one of these now.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn in_presence(&self, wanted: &[Presence]) -> Result<BTreeSet<ServiceKey>> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Item>,
            next: Option<String>,
        }
        #[derive(Deserialize)]
        struct Item {
            kind: Kind,
            id: ServiceId,
        }
        let words: Vec<&str> = wanted.iter().map(|presence| presence.as_str()).collect();
        let first = format!("services?limit={PAGE}&presence={}", words.join(","));
        let (mut all, mut path) = (BTreeSet::new(), first.clone());
        loop {
            let page: Page = serde_json::from_value(self.call(Method::GET, &path, None).await?)?;
            all.extend(page.items.into_iter().map(|item| ServiceKey::new(item.kind, item.id)));
            match page.next {
                Some(cursor) => path = format!("{first}&cursor={cursor}"),
                None => return Ok(all),
            }
        }
    }

    /// The newest rows of a service's presence history.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn history(&self, service: &ServiceKey) -> Result<Vec<Row>> {
        let path = format!("services/{}/{}/history?limit={ROWS}", service.kind.plural(), service.id);
        let answer = self.call(Method::GET, &path, None).await?;
        let items = answer.get("items").and_then(Value::as_array).context("a history without items")?;
        items.iter().map(row).collect()
    }

    /// What stands under a path of `/api/admin/`.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// The size of what stands there, in bytes, unread.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn size(&self, path: &str) -> Result<u64> {
        let url = format!("{}/api/admin/{path}", self.base);
        let answer = self.client.get(&url).bearer_auth(&self.credential).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.len() as u64)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}/api/admin/{path}", self.base);
        let mut request = self.client.request(method, &url).bearer_auth(&self.credential);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("{url} answered {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }
}

fn row(shown: &Value) -> Result<Row> {
    let text = |field: &str| shown.get(field).and_then(Value::as_str).with_context(|| format!("no {field} in {shown}"));
    let last_beat = shown.pointer("/evidence/last_beat").and_then(Value::as_str).map(moment).transpose()?;
    Ok(Row {
        presence: text("presence")?.parse()?,
        cause: text("cause")?.to_owned(),
        decided_at: moment(text("decided_at")?)?,
        last_beat,
    })
}

fn moment(text: &str) -> Result<Timestamp> {
    let time: jiff::Timestamp = text.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_with_their_evidence() {
        let shown = json!({
            "from": "1970-01-01T00:00:01.000Z", "to": null, "presence": "lost", "cause": "ttl",
            "evidence": { "last_beat": "1970-01-01T00:00:01.500Z" }, "decided_at": "1970-01-01T00:00:02.250Z",
        });
        let found = row(&shown).unwrap();
        assert_eq!((found.decided_at, found.last_beat), (Timestamp(2_250), Some(Timestamp(1_500))));
        let bare =
            json!({ "presence": "alive", "cause": "beat", "evidence": null, "decided_at": "1970-01-01T00:00:02Z" });
        assert_eq!(row(&bare).unwrap().last_beat, None);
        assert!(row(&json!({ "presence": "alive", "cause": "beat", "decided_at": "soon" })).is_err());
    }
}
