//! H11 to H13 and H17 to H19: hostile names, bodies, connections and origins.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_tests::{
    peer::SOON,
    until::{same, within},
    world::{self, Plan, World},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::scene::{all, poller, raw, status_of};

/// Connections of one host that queue up for few places.
const CROWD: usize = 200;
/// Connections that say nothing: more than the collector holds at once.
const IDLE: usize = 600;

fn credential(world: &World) -> Result<String> {
    Ok(std::fs::read_to_string(world.state().join("admin.credential"))?.trim().to_owned())
}

fn files(world: &World) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(world.state())?.collect::<Result<Vec<_>, _>>()?;
    let names = entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // The database comes and goes with its journals.
    Ok(names.filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm") && !name.ends_with("-journal")).collect())
}

/// H11 and H13: a name that is none registers nothing, makes no file and splits no header.
#[tokio::test]
async fn hostile_names_are_refused() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let (before, kept, secret) = (all(&api).await?, files(world)?, credential(world)?);
        let long = "a".repeat(10 * 1024);
        for id in [
            "../../etc/passwd",
            "%2e%2e%2f",
            "a/b",
            "a\0b",
            "*",
            "{x}",
            "a\r\nSet-Cookie: x=1",
            "a\nb",
            "",
            ".",
            "..",
            "а-cyrillic",
            "A",
            "a b",
            "<script>",
            "=HYPERLINK(1)",
            "\u{202e}a",
            "a..b",
            long.as_str(),
        ] {
            for (path, body) in [
                ("/api/admin/services/pollers", json!({ "id": id })),
                ("/api/admin/services/agents", json!({ "id": "a", "parent": id })),
                ("/api/admin/tokens", json!({ "kind": "poller", "id": id })),
            ] {
                let status = api.post(path, &body).await?.status;
                ensure!(matches!(status, 400 | 413 | 422), "{path} {:.40}: {status}", body.to_string());
            }
        }
        for path in ["%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a%2fb", "a%00b", "*", "a%0d%0aSet-Cookie:%20x=1", "%ff", "A"] {
            for root in ["/api/admin/services/pollers/", "/api/admin/tokens/", "/api/admin/packages/", "/api/docs/"] {
                let head = format!("GET {root}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", api.addr());
                let answer =
                    raw(api.addr(), format!("{head}Authorization: Bearer {secret}\r\n\r\n").as_bytes()).await?;
                ensure!(matches!(status_of(&answer)?, 400 | 404), "{root}{path}: {answer}");
                let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
                ensure!(!head.contains("set-cookie"), "{answer}");
            }
        }
        same("what is there", &all(&api).await?, &before)?;
        let counted = api.metric("rollcall_http_problems_total", "code=\"invalid\"").await?;
        ensure!(counted > 30.0, "{counted} were counted");
        same("the files", &files(world)?, &kept)
    })
    .await
}

/// H12: whatever stands in a record, no answer is run by a browser, lists and exports included.
#[tokio::test]
async fn answers_are_inert() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let metadata = json!({
            "note": "<script>alert(1)</script>", "link": "javascript:alert(1)", "t": "{{7*7}}",
            "i": "\"><img onerror=alert(1)>", "sheet": "=HYPERLINK(\"http://evil.example\")",
        });
        let made = json!({ "id": "p", "metadata": metadata });
        api.post("/api/admin/services/pollers", &made).await?.expect(201)?;
        same("the text", &api.service("poller/p").await?["metadata"], &metadata)?;
        let secret = credential(world)?;
        for (path, kind) in [
            ("/api/admin/services", "application/json"),
            ("/api/admin/services/pollers/p", "application/json"),
            ("/api/admin/services/pollers/<script>", "application/problem+json"),
            ("/api/admin/nothing?x=<script>", "application/problem+json"),
            ("/api/admin/services/tree", "application/json"),
            ("/api/admin/sd", "application/json"),
            ("/api/admin/config", "application/json"),
            ("/api/admin/config/pollers/p.json", "application/json"),
            ("/api/admin/config.tar.gz", "application/gzip"),
            ("/api/admin/audit", "application/json"),
            ("/api/admin/audit/export", "application/x-ndjson"),
            ("/metrics", "text/plain"),
            ("/api/docs", "text/html"),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", api.addr());
            let answer = raw(api.addr(), format!("{head}Authorization: Bearer {secret}\r\n\r\n").as_bytes()).await?;
            let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
            // What is no request target may end before the router.
            if status_of(&answer)? == 400 && !head.contains("content-type") {
                continue;
            }
            ensure!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
            ensure!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
            ensure!(head.contains("content-security-policy: default-src 'self'"), "{path}: {head}");
            ensure!(kind != "application/gzip" || head.contains("content-disposition: attachment"), "{path}: {head}");
        }
        Ok(())
    })
    .await
}

/// H17: no body and no number is too large to be refused.
#[tokio::test]
async fn large_and_deep_bodies_are_refused() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let (before, secret) = (all(&api).await?, credential(world)?);
        let head = |len: usize| {
            format!(
                "POST /api/admin/services/pollers HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {secret}\r\n\
                 Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n",
                api.addr()
            )
        };
        let answer = raw(api.addr(), head(10 << 20).as_bytes()).await?;
        same("10 MB", &status_of(&answer)?, &413)?;
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let answer = raw(api.addr(), format!("{}{deep}", head(deep.len())).as_bytes()).await?;
        ensure!(matches!(status_of(&answer)?, 400 | 413 | 422), "{answer}");
        let answer = raw(api.addr(), format!("{}{{", head(100)).as_bytes()).await?;
        same("a body that does not come", &status_of(&answer)?, &408)?;
        let counted = |code: &'static str| {
            let api = api.clone();
            async move { api.metric("rollcall_http_problems_total", &format!("code=\"{code}\"")).await }
        };
        ensure!(counted("too_large").await? >= 1.0 && counted("slow_body").await? >= 1.0, "they are not counted");
        for path in ["services?limit=99999999", "audit?limit=99999999", "tokens?limit=-1", "services?limit=1e400"] {
            same(path, &api.get(&format!("/api/admin/{path}")).await?.status, &400)?;
        }
        same("what is there", &all(&api).await?, &before)
    })
    .await
}

/// H17: a crowd that queues up for every place that falls free is no longer queue for anybody else.
#[tokio::test]
async fn renewed_connections_keep_nobody_out() -> Result<()> {
    let plan = Plan::calm().with(
        "[limits]
http_connections = 8",
    );
    world::run(plan, async |world| {
        let api = world.api().clone();
        let mut crowd = Vec::new();
        // From an address of its own, a hundred times what can be held at once: each that is given up after the time of
        // a head makes room for the next of them.
        for n in 0..CROWD {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind("127.0.0.2:0".parse()?)?;
            let mut stream = within(SOON, "a connection", socket.connect(api.addr())).await??;
            // Half of a head, or a head and half of a body.
            let half: &[u8] = if n % 2 == 0 {
                b"GET /livez HTTP/1.1\r\n"
            } else {
                b"POST /api/admin/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            };
            // One that yielded already takes nothing any more.
            let _ = stream.write_all(half).await;
            crowd.push(stream);
        }
        for _ in 0..3 {
            within(SOON * 2, "an honest client is answered", api.get("/api/admin/services")).await??.expect(200)?;
        }
        let yielded = api.get("/metrics").await?.text;
        ensure!(yielded.contains("rollcall_http_connections_yielded_total"), "{yielded}");
        drop(crowd);
        Ok(())
    })
    .await
}

/// H17: those who hold connections and say nothing keep nobody out for long.
#[tokio::test]
async fn idle_connections_keep_nobody_out() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            let mut stream = within(SOON, "a connection", TcpStream::connect(api.addr())).await??;
            // Half a head, so that it is no unused connection.
            stream.write_all(b"GET /livez HTTP/1.1\r\n").await?;
            idle.push(stream);
        }
        rollcall_tests::until::until(SOON * 3, "a well-behaved client is answered", async || {
            api.get("/api/admin/services").await?.expect(200)
        })
        .await?;
        drop(idle);
        Ok(())
    })
    .await
}

/// H18: a page of another origin has nothing to send and nothing to read.
#[tokio::test]
async fn other_origins_and_hosts_are_refused() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let (before, secret) = (all(&api).await?, credential(world)?);
        let ask = async |method: &str, host: &str, more: &str, body: &str| {
            let head =
                format!("{method} /api/admin/services/pollers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
            let len = body.len();
            raw(api.addr(), format!("{head}{more}Content-Length: {len}\r\n\r\n{body}").as_bytes()).await
        };
        let (here, auth) = (api.addr().to_string(), format!("Authorization: Bearer {secret}\r\n"));
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example"] {
            same(host, &status_of(&ask("GET", host, &auth, "").await?)?, &421)?;
        }
        ensure!(api.metric("rollcall_http_problems_total", "code=\"wrong_host\"").await? >= 3.0, "not counted");
        same("this host", &status_of(&ask("GET", &here, &auth, "").await?)?, &200)?;
        let body = json!({ "id": "p" }).to_string();
        let origin = "Origin: https://evil.example\r\n";
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let more = format!("{auth}{origin}Content-Type: {kind}\r\n");
            let answer = ask("POST", &here, &more, &body).await?;
            same(kind, &status_of(&answer)?, &415)?;
        }
        for method in ["OPTIONS", "GET"] {
            let answer = ask(method, &here, &format!("{origin}Access-Control-Request-Method: POST\r\n"), "").await?;
            ensure!(!answer.to_ascii_lowercase().contains("access-control-allow"), "{answer}");
        }
        same("what is there", &all(&api).await?, &before)
    })
    .await
}

/// H1 and H19: what strangers write becomes no label, and no series of its own.
#[tokio::test]
async fn strangers_make_no_series() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        poller(&api, "p", "1").await?;
        let noise = async |n: usize| {
            for path in [format!("/evil{n}"), format!("/api/admin/services/pollers/evil{n}\"}} 1")] {
                api.get(&path.replace(['"', '}', ' '], "%22")).await?;
            }
            let ask =
                |more: &str| format!("GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{more}\r\n", api.addr());
            raw(api.addr(), ask(&format!("User-Agent: evil{n}\r\n")).as_bytes()).await?;
            let odd = Method::from_bytes(format!("EVIL{n}").as_bytes())?;
            api.call(odd, "/livez", None).await.map(drop)
        };
        noise(0).await?;
        let series = async || {
            let text = api.get("/metrics").await?.text;
            ensure!(!text.to_ascii_lowercase().contains("evil"), "a stranger's word is in the metrics");
            let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
            anyhow::Ok(names.map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>())
        };
        api.get("/metrics").await?;
        let before = series().await?;
        for n in 1..20 {
            noise(n).await?;
        }
        let new: Vec<_> = series().await?.difference(&before).cloned().collect();
        ensure!(new.is_empty(), "{new:?}");
        // H1: neither another scheme nor another place, nor two credentials, is a credential.
        let ours = credential(world)?;
        for more in [
            format!("Authorization: Basic {ours}\r\n"),
            format!("Authorization: {ours}\r\n"),
            format!("Authorization: Bearer {ours}\r\nAuthorization: Bearer {ours}\r\n"),
            format!("Cookie: access_token={ours}\r\n"),
            format!("X-Api-Key: {ours}\r\n"),
            String::new(),
        ] {
            let head = format!("GET /api/admin/services HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", api.addr());
            same(
                "a way that is none",
                &status_of(&raw(api.addr(), format!("{head}{more}\r\n").as_bytes()).await?)?,
                &401,
            )?;
        }
        ensure!(api.metric("rollcall_http_problems_total", "code=\"unauthenticated\"").await? >= 6.0, "not counted");
        let named = api.anonymous().get(&format!("/api/admin/services?access_token={}", credential(world)?)).await?;
        same("a credential in a query", &named.status, &401)?;
        api.get("/livez").await?.expect(200).map(drop).context("it lives")
    })
    .await
}
