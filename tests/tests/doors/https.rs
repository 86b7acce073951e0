//! HTTPS as clients and operators meet it.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{peer::SOON, until::until};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::place::{Ca, Place};

fn client(ca: &Ca) -> Result<reqwest::Client> {
    let ca = reqwest::Certificate::from_pem(ca.pem().as_bytes())?;
    Ok(reqwest::Client::builder().tls_certs_only([ca]).no_proxy().timeout(Duration::from_secs(10)).build()?)
}

/// H16, and what else makes a start senseless: it ends with 78 and names the file.
#[tokio::test]
async fn a_pair_that_does_not_hold_ends_the_start() -> Result<()> {
    let mut place = Place::new()?;
    place.set_up().await?;
    fs::set_permissions(place.path("web.key"), fs::Permissions::from_mode(0o644))?;
    place.collector.start()?;
    ensure!(place.collector.ended().await?.code() == Some(78));
    let line = place.collector.line_with("not started")?;
    ensure!(line.contains("http_tls_key") && line.contains("web.key") && line.contains("chmod 600"), "{line}");
    let (config, pair) = (place.text("collector.toml")?, place.ca.issue("localhost")?);
    place.put_pair(&(pair.0, place.ca.issue("localhost")?.1))?;
    let refused = place.cli(&["check", "--config", &config], "").await?.expect(78)?;
    ensure!(refused.contains("does not belong to the certificate"), "{refused}");
    place.put_pair(&place.ca.issue("localhost")?)?;
    let shown = place.cli(&["check", "--config", &config], "").await?.expect(0)?;
    ensure!(shown.contains("https://127.0.0.1:0") && shown.contains("for localhost, until"), "{shown}");
    Ok(())
}

/// The client knows whom it talks to, and says what is wrong when it does not.
#[tokio::test]
async fn the_command_line_trusts_nobody_else() -> Result<()> {
    let mut place = Place::new()?;
    place.set_up().await?;
    let port = place.start().await?.port();
    let (ca, credential) = (place.text("ca.pem")?, place.text("state/admin.credential")?);
    let (named, by_address) = (format!("https://localhost:{port}"), format!("https://127.0.0.1:{port}"));
    let list = |api: String, ca: Option<String>| {
        let mut line = vec!["services".into(), "list".into(), "--api".into(), api];
        line.extend(["--credential-file".into(), credential.clone()]);
        line.extend(ca.map(|ca| format!("--ca-file={ca}")));
        line
    };
    let run = async |line: Vec<String>| {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        place.cli(&line, "").await
    };
    run(list(named.clone(), Some(ca.clone()))).await?.expect(0)?;
    let refused = run(list(by_address, Some(ca))).await?.expect(69)?;
    ensure!(refused.contains("certificate"), "a name that it does not stand for: {refused}");
    fs::write(place.path("other.pem"), Ca::new()?.pem())?;
    let refused = run(list(named.clone(), Some(place.text("other.pem")?))).await?.expect(69)?;
    ensure!(refused.contains("--ca-file"), "{refused}");
    run(list(named, None)).await?.expect(69)?;
    // In the clear: told by the port itself; to another host nothing is ever sent.
    let refused = run(list(format!("http://127.0.0.1:{port}"), None)).await?.expect(77)?;
    ensure!(refused.contains("https_required"), "{refused}");
    let refused = run(list(format!("http://192.0.2.1:{port}"), None)).await?.expect(64)?;
    ensure!(refused.contains("unencrypted"), "{refused}");
    Ok(())
}

/// A new pair on SIGHUP, a broken one by itself: open connections feel nothing of either.
#[tokio::test]
async fn certificates_change_under_open_connections() -> Result<()> {
    let mut place = Place::new()?;
    place.set_up().await?;
    let api = format!("https://localhost:{}/livez", place.start().await?.port());
    // One connection, kept open by the client's pool.
    let settled = client(&place.ca)?;
    settled.get(&api).send().await?.error_for_status()?;
    let next = Ca::new()?;
    place.put_pair(&next.issue("localhost")?)?;
    place.collector.signal(Signal::HUP)?;
    until(SOON, "the new certificate is served", async || {
        Ok(client(&next)?.get(&api).send().await?.error_for_status().map(drop)?)
    })
    .await?;
    ensure!(client(&place.ca)?.get(&api).send().await.is_err(), "the old one is served no more");
    settled.get(&api).send().await?.error_for_status().context("the open connection lives on")?;

    place.put_pair(&(next.issue("localhost")?.0, next.issue("localhost")?.1))?;
    let collector = &place.collector;
    until(SOON, "the broken pair is told", async || collector.line_with("cannot be used").map(drop)).await?;
    client(&next)?.get(&api).send().await?.error_for_status()?;
    settled.get(&api).send().await?.error_for_status()?;
    Ok(())
}

/// Two thousand clients that say nothing hold up neither those who are in nor those who come.
#[tokio::test]
async fn two_thousand_silent_clients_starve_nobody() -> Result<()> {
    let mut place = Place::new()?;
    place.set_up().await?;
    let http = place.start().await?;
    let api = format!("https://localhost:{}", http.port());
    let settled = client(&place.ca)?;
    settled.get(format!("{api}/livez")).send().await?.error_for_status()?;
    let mut silent = Vec::new();
    for no in 0..2_000 {
        let mut stream = TcpStream::connect(http).await?;
        if no % 3 == 0 {
            // The head of a TLS record, and no more; it may have been closed already.
            let _ = stream.write_all(&[22, 3, 1, 2, 0]).await;
        }
        silent.push(stream);
        if no % 250 == 249 {
            settled.get(format!("{api}/livez")).send().await?.error_for_status()?;
            client(&place.ca)?.get(format!("{api}/livez")).send().await?.error_for_status()?;
        }
    }
    let credential = fs::read_to_string(place.path("state/admin.credential"))?;
    let scrape = settled.get(format!("{api}/metrics")).bearer_auth(credential.trim()).send().await?.text().await?;
    let crowded =
        scrape.lines().find_map(|line| line.strip_prefix("rollcall_http_handshakes_total{outcome=\"crowded_out\"} "));
    ensure!(crowded.context("none yielded")?.parse::<u32>()? > 1_000, "{crowded:?}");
    // Each of them was closed, not merely forgotten.
    for stream in silent.iter_mut().take(1_000) {
        let _ = stream.read(&mut [0; 64]).await;
    }
    Ok(())
}

/// H14: what a client puts into a head cannot forge a line of the log, which is one JSON object an event.
#[tokio::test]
async fn every_event_is_one_line_of_json() -> Result<()> {
    let mut place = Place::new()?;
    place.set_up().await?;
    place.collector.env("ROLLCALL_LOG_FORMAT", "json");
    let api = format!("https://localhost:{}", place.start().await?.port());
    let nasty = "x\u{202e}\u{9b}2J";
    let head = reqwest::header::HeaderValue::from_bytes(nasty.as_bytes())?;
    let asked = client(&place.ca)?.get(format!("{api}/api/admin/services/%1b[2J%0a{{}}")).header("user-agent", head);
    asked.bearer_auth("rollcall_api1_aaaaaaaaaaaaaaaa_secretsecretsecretsecretsecretsecretsecret").send().await?;
    let credential = fs::read_to_string(place.path("state/admin.credential"))?;
    let body = r#"{"id":"edge-1","labels":{"site":"canary-label-value"},"metadata":{"note":"canary-metadata-value"}}"#;
    let register = client(&place.ca)?.post(format!("{api}/api/admin/services/pollers")).bearer_auth(credential.trim());
    let made = register.header("content-type", "application/json").body(body).send().await?;
    ensure!(made.status().is_success(), "{}", made.text().await?);
    place.collector.terminate().await?;
    let log = place.collector.said()?;
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        for key in ["timestamp", "level", "target", "message"] {
            ensure!(event.get(key).is_some_and(Value::is_string), "no {key}: {line}");
        }
        ensure!(event.as_object().is_some_and(|event| event.values().all(|value| !value.is_object())), "{line}");
    }
    for hidden in ["secretsecret", "canary-label-value", "canary-metadata-value", "\u{202e}", "\u{9b}", "\u{1b}"] {
        ensure!(!log.contains(hidden), "the log tells {hidden:?}");
    }
    Ok(())
}
