//! What the attacks on the API have in common: a caller with an address of its own, and raw bytes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Method, redirect};
use rollcall_tests::{
    until::within,
    world::{Api, api::word},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long a raw conversation may take.
const TALK: Duration = Duration::from_secs(30);

/// A caller at an address of its own: bad attempts of one address slow down no other.
#[derive(Debug)]
pub(crate) struct Door {
    client: Client,
    addr: SocketAddr,
}

impl Door {
    /// Calls from 127.0.0.`host`.
    pub(crate) fn new(api: &Api, host: u8) -> Result<Self> {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
        let client = Client::builder()
            .local_address(from)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(15))
            .build()?;
        Ok(Self { client, addr: api.addr() })
    }

    /// The status of an answer, whose body is not waited for.
    pub(crate) async fn status(&self, method: Method, path: &str, credential: Option<&str>) -> Result<u16> {
        let mut request = self.client.request(method, format!("http://{}{path}", self.addr));
        if let Some(credential) = credential {
            request = request.bearer_auth(credential);
        }
        Ok(request.send().await?.status().as_u16())
    }

    /// Sends something without a credential.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = self.client.post(format!("http://{}{path}", self.addr)).json(body).send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_str(&answer.text().await?).unwrap_or_default()))
    }

    /// Who the collector takes a credential for.
    pub(crate) async fn whoami(&self, credential: &str) -> Result<(u16, Value)> {
        let url = format!("http://{}/api/admin/whoami", self.addr);
        let answer = self.client.get(url).bearer_auth(credential).send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_str(&answer.text().await?).unwrap_or_default()))
    }
}

/// Sends bytes and answers everything that comes until the other side ends.
pub(crate) async fn raw(addr: SocketAddr, sent: &[u8]) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(sent).await?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await?;
        anyhow::Ok(String::from_utf8_lossy(&heard).into_owned())
    };
    within(TALK, "an answer to raw bytes", talk).await?
}

/// The status in the first line of a raw answer.
pub(crate) fn status_of(answer: &str) -> Result<u16> {
    let status = answer.split(' ').nth(1).with_context(|| format!("no status in {answer:?}"))?;
    Ok(status.parse()?)
}

/// Makes a key.
pub(crate) async fn key(api: &Api, role: &str, scope: &str) -> Result<String> {
    let made = api.post("/api/admin/keys", &json!({ "role": role, "scope": scope, "ttl": "1h" })).await?.expect(201)?;
    Ok(word(&made, "key")?.to_owned())
}

/// Registers a poller with a label.
pub(crate) async fn poller(api: &Api, id: &str, site: &str) -> Result<()> {
    let body = json!({ "id": id, "labels": { "site": site } });
    api.post("/api/admin/services/pollers", &body).await?.expect(201).map(drop)
}

/// What is there: the ids of all services, tokens and keys.
pub(crate) async fn all(api: &Api) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for path in ["/api/admin/services", "/api/admin/tokens", "/api/admin/keys"] {
        let page = api.get(&format!("{path}?limit=500")).await?.expect(200)?;
        ensure!(page["next"].is_null(), "more than a page");
        for item in page["items"].as_array().context("items")? {
            found.insert(format!("{path} {} {} {}", item["id"], item["status"], item["state"]));
        }
    }
    Ok(found)
}
