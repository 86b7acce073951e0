//! H14: whatever callers write, and wherever, the log stays one line an event and moves no terminal's cursor.

use anyhow::{Context as _, Result, ensure};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::{Ask, Phone, enroll},
    until::same,
    world::{self, Plan, Policy, World},
};
use serde_json::{Value, json};

use super::scene::{all, raw};

/// A forged event, a cleared screen, a clipboard that is written, text that runs backwards, a one-byte CSI, a NUL.
const NASTY: &str = "x\n{\"level\":\"INFO\",\"message\":\"forged-event\"}\r\u{1b}[2J\u{1b}]52;c;Zm9v\u{7}\u{202e}\u{9b}2J\u{0}\u{2028}y";

/// Says it in every place that a caller has a word in; each is refused or kept as text.
async fn say_it_everywhere(world: &mut World) -> Result<()> {
    let api = world.api().clone();
    let secret = std::fs::read_to_string(world.state().join("admin.credential"))?;
    let host = api.addr();
    // Heads: bytes that no header may have are refused, the others are a caller's own.
    let in_head = "x\u{1b}[2J\u{202e}\u{9b}2Jy";
    for head in [
        format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {in_head}\r\n"),
        format!("GET /api/admin/services HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {in_head}\r\n"),
        format!("GET /api/admin/services HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {in_head}\r\n"),
        format!("GET /livez HTTP/1.1\r\nHost: {in_head}\r\n"),
        format!("GET /{in_head} HTTP/1.1\r\nHost: {host}\r\n"),
        format!("{in_head} /livez HTTP/1.1\r\nHost: {host}\r\n"),
    ] {
        // What is no request may be cut off; what the log says of it is what counts.
        drop(raw(host, format!("{head}Connection: close\r\n\r\n").as_bytes()).await);
    }
    let escaped: String = NASTY.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for path in [
        format!("/{escaped}"),
        format!("/api/admin/services/{escaped}"),
        format!("/api/admin/services?q={escaped}"),
        format!("/api/admin/services?{escaped}=1"),
        format!("/api/admin/services?label={escaped}"),
        format!("/api/admin/audit?actor={escaped}&text={escaped}"),
        format!("/api/docs/{escaped}"),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n", secret.trim());
        // What is no request may be cut off; what the log says of it is what counts.
        drop(raw(host, format!("{head}Connection: close\r\n\r\n").as_bytes()).await);
    }
    for (path, body) in [
        ("/api/admin/services/pollers", json!({ "id": NASTY })),
        ("/api/admin/services/pollers", json!({ "id": "a", "metadata": { "note": NASTY } })),
        ("/api/admin/services/pollers", json!({ "id": "a", "labels": { NASTY: "1" } })),
        ("/api/admin/services/pollers", json!({ "id": "a", NASTY: "1" })),
        ("/api/admin/services/pollers/p/status", json!({ "act": NASTY })),
        ("/api/admin/services/pollers/p/status", json!({ "act": "deactivate", "reason": NASTY })),
        ("/api/admin/tokens", json!({ "kind": "poller", "id": "t", "local": true, "note": NASTY })),
        ("/api/admin/keys", json!({ "role": "viewer", "ttl": "1h", "note": NASTY })),
        ("/api/admin/keys", json!({ "role": "viewer", "ttl": "1h", "scope": NASTY })),
        ("/api/admin/login", json!({ "code": NASTY })),
    ] {
        let answer = api.post(path, &body).await?;
        ensure!(answer.status < 500, "{path}: {} {}", answer.status, answer.text);
        if answer.status == 201
            && let Some(secret) = answer.json["key"].as_str().or(answer.json["token"].as_str())
        {
            world.keep_secret("a secret of this run", secret);
        }
    }
    // And somebody honest in between.
    let token = world.token(Policy::fixed(Kind::Poller, "q")).await?;
    enroll(&Phone::new()?, world.quic(), &token, &Ask::poller("q")?).await?.identity().map(drop)
}

fn is_harmless(log: &str) -> Result<()> {
    let moves = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    let line = log.lines().find(|line| line.chars().any(moves));
    ensure!(line.is_none(), "a line moves the cursor: {line:?}");
    ensure!(!log.lines().any(|line| line.starts_with("{\"level\":\"INFO\",\"message\":\"forged")), "a line was forged");
    Ok(())
}

/// One JSON object an event, however the words in it try to end it.
#[tokio::test]
async fn nothing_that_callers_write_forges_a_line_of_json() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        world.collector().kill9().await?;
        let old = world.collector().said()?.len();
        world.collector().env("ROLLCALL_LOG_FORMAT", "json");
        world.start_collector().await?;
        let api = world.api().clone();
        api.post("/api/admin/services/pollers", &json!({ "id": "p" })).await?.expect(201)?;
        say_it_everywhere(world).await?;
        world.collector().terminate().await?;
        let log = world.collector().said()?;
        let log = log.get(old..).context("the second life")?;
        is_harmless(log)?;
        for line in log.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(event["message"].is_string() && event["message"] != "forged-event", "{line}");
        }
        Ok(())
    })
    .await
}

/// For people the same, and what is kept is told as it is, in JSON alone.
#[tokio::test]
async fn nothing_that_callers_write_moves_a_terminal() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        api.post("/api/admin/services/pollers", &json!({ "id": "p" })).await?.expect(201)?;
        let before = all(&api).await?;
        say_it_everywhere(world).await?;
        is_harmless(&world.collector().said()?)?;
        // Notes and reasons may say what they like: an answer holds them escaped, or they were refused.
        for path in ["/api/admin/audit", "/api/admin/audit/export", "/api/admin/tokens", "/api/admin/keys", "/metrics"]
        {
            let answer = api.get(path).await?;
            ensure!(!answer.text.contains('\u{1b}') && !answer.text.contains('\u{0}'), "{path} holds an escape");
            ensure!(!answer.text.lines().any(|line| line.starts_with("{\"level\"")), "{path} was forged");
        }
        ensure!(before.iter().all(|line| !line.contains('\u{1b}')), "{before:?}");
        let services = api.get("/api/admin/services").await?.expect(200)?;
        same("services", &services["items"].as_array().map(Vec::len), &Some(2))
    })
    .await
}
