//! H15: at the most talkative level, nothing that the collector says, shows or is started with holds a secret.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::Phone,
    world::{self, Plan, Policy, api::word},
};

use super::scene::key;

/// Every form in which a text could slip out; the part after the last separator is the secret.
fn forms(secret: &str) -> Vec<String> {
    let half = secret.rsplit('_').next().unwrap_or(secret);
    let mut all = Vec::new();
    for text in [secret, half] {
        let bytes = text.as_bytes();
        all.extend([text.to_owned(), HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)]);
        // The last characters depend on what follows.
        for code in [BASE64.encode(bytes), BASE64URL_NOPAD.encode(bytes)] {
            all.push(code.get(..code.len().saturating_sub(4)).unwrap_or_default().to_owned());
        }
    }
    all
}

#[tokio::test]
async fn no_secret_is_told_anywhere() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        world.collector().kill9().await?;
        world.collector().env("ROLLCALL_LOG_LEVEL", "trace");
        world.start_collector().await?;
        let api = world.api().clone();
        let bootstrap = fs::read_to_string(world.state().join("admin.credential"))?.trim().to_owned();
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut secrets = vec![("bootstrap credential", bootstrap.clone()), ("token", token)];
        for role in ["viewer", "admin", "metrics"] {
            secrets.push((role, key(&api, role, "").await?));
        }
        for (what, secret) in &secrets {
            world.keep_secret(what, secret);
            // Shown well, shown damaged, and shown where none belongs.
            for shown in [secret.clone(), format!("{secret}x"), secret.to_uppercase()] {
                world::Api::new(api.addr(), &shown).get("/api/admin/whoami").await?;
            }
            api.get(&format!("/api/admin/services?access_token={secret}")).await?;
            api.get(&format!("/api/admin/tokens/{secret}")).await?;
        }
        let phone = Phone::new()?;
        let (puppet, live) = world.live_poller(&phone, "q").await?;
        let mut said = vec![("log".to_owned(), world.collector().said()?.into_bytes())];
        ensure!(
            said.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("TRACE")
                || String::from_utf8_lossy(text).contains("trace")),
            "the log is not at its most talkative"
        );
        let contract = api.get("/api/openapi.json").await?.expect(200)?;
        let mut read = 0;
        for (path, methods) in contract["paths"].as_object().context("paths")? {
            // The stream has no end; what the changes tell is the same.
            if methods.get("get").is_none() || path == "/api/admin/feed" {
                continue;
            }
            let path = path.replace("{id}", "p").replace("{name}", "p").replace("{file}", "p.json");
            said.push((path.clone(), api.get(&path).await?.text.into_bytes()));
            read += 1;
        }
        ensure!(read > 20, "only {read} answers");
        let key_list = api.get("/api/admin/keys").await?.expect(200)?;
        ensure!(key_list["items"].as_array().is_some_and(|items| items.len() >= 3), "{key_list}");
        word(&api.get("/api/admin/whoami").await?.expect(200)?, "actor")?;
        let pid = world.collector().pid().context("it runs")?;
        for file in ["cmdline", "environ"] {
            said.push((file.to_owned(), fs::read(format!("/proc/{pid}/{file}"))?));
        }
        for (place, text) in &said {
            let text = String::from_utf8_lossy(text);
            for (what, secret) in &secrets {
                for form in forms(secret) {
                    ensure!(!text.contains(&form), "{place} holds the {what}");
                }
            }
            world.secrets().check(text.as_bytes()).with_context(|| place.clone())?;
        }
        drop((puppet, live));
        Ok(())
    })
    .await
}
