//! H6 and H8: every route of the served contract under every role, and a key that reaches one site.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use rollcall_tests::{
    until::same,
    world::{self, Api, Plan},
};
use serde_json::json;

use super::scene::{Door, all, key, poller};

/// Bad attempts from one address before the next takes over.
const PATIENCE: usize = 15;

/// What each role may, written down a second time.
const MATRIX: &[(&str, &[&str])] = &[
    ("none", &["open"]),
    ("revoked", &["open"]),
    ("metrics", &["open", "know", "scrape"]),
    ("enroller", &["open", "know", "mint"]),
    ("viewer", &["open", "know", "scrape", "read"]),
    ("operator", &["open", "know", "scrape", "read", "mint", "operate"]),
    ("admin", &["open", "know", "scrape", "read", "mint", "operate", "administer"]),
];

/// Every operation of the contract: method, path, permission.
async fn operations(api: &Api) -> Result<Vec<(Method, String, String)>> {
    let contract = api.anonymous().get("/api/openapi.json").await?.expect(200)?;
    let mut found = Vec::new();
    for (path, methods) in contract["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            let permission = operation["x-permission"].as_str();
            let permission = permission.with_context(|| format!("{method} {path} names no permission"))?;
            let path = path.replace("{file}", "nobody.json").replace("{id}", "nobody").replace("{name}", "nobody");
            ensure!(!path.contains('{'), "{path}");
            found.push((method.to_uppercase().parse()?, path, permission.to_owned()));
        }
    }
    ensure!(found.len() > 50, "only {} operations", found.len());
    Ok(found)
}

/// H6. Whoever may, gets past the guard: what is then missing is a body, or the thing itself.
#[tokio::test]
async fn every_route_demands_what_it_declares() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let enroller = json!({ "role": "enroller", "ttl": "1h", "policy": { "kinds": ["agent"] } });
        let enroller = api.post("/api/admin/keys", &enroller).await?.expect(201)?;
        let revoked = key(&api, "admin", "").await?;
        let id = revoked.split('_').nth(2).context("an id")?;
        api.post(&format!("/api/admin/keys/{id}/revoke"), &json!({})).await?.expect(200)?;
        let mut credentials = vec![("none", None), ("revoked", Some(revoked.clone()))];
        credentials.push(("enroller", enroller["key"].as_str().map(str::to_owned)));
        for role in ["metrics", "viewer", "operator", "admin"] {
            credentials.push((role, Some(key(&api, role, "").await?)));
        }
        for (what, credential) in &credentials {
            if let Some(credential) = credential {
                world.keep_secret(what, credential);
            }
        }
        let (before, operations) = (all(&api).await?, operations(&api).await?);
        let counted = async |code: &str| api.metric("rollcall_http_problems_total", &format!("code=\"{code}\"")).await;
        let (unknown, denied) = (counted("unauthenticated").await?, counted("forbidden").await?);
        let mut heard = (0.0, 0.0);
        let mut host = 2;
        for (who, credential) in &credentials {
            let may = MATRIX.iter().find(|(role, _)| role == who).context("a role")?.1;
            for chunk in operations.chunks(PATIENCE) {
                host += 1;
                let door = Door::new(&api, host)?;
                for (method, path, permission) in chunk {
                    let status = door.status(method.clone(), path, credential.as_deref()).await?;
                    let told = format!("{method} {path} ({permission}) as {who}: {status}");
                    match status {
                        401 => heard.0 += 1.0,
                        403 => heard.1 += 1.0,
                        _ => {}
                    }
                    let nobody = matches!(*who, "none" | "revoked");
                    match (may.contains(&permission.as_str()), nobody) {
                        (true, _) => ensure!(!matches!(status, 401 | 403 | 405 | 429 | 500), "{told}"),
                        (false, true) => ensure!(status == 401, "{told}"),
                        (false, false) => ensure!(status == 403, "{told}"),
                    }
                }
            }
        }
        same("what is there", &all(&api).await?, &before)?;
        // Each refusal is counted once, and denied acts are on record under whoever tried them first.
        same("refused", &(counted("unauthenticated").await? - unknown, counted("forbidden").await? - denied), &heard)?;
        let events = api.audit("action=access.denied").await?;
        let actors: BTreeSet<_> = events.iter().map(|event| event["actor"].to_string()).collect();
        let all_named = events.iter().all(|event| event["details"]["operation"].is_string());
        ensure!(!actors.is_empty() && all_named && events.len() < 200, "{} by {actors:?}", events.len());
        Ok(())
    })
    .await
}

/// H8: what is out of a key's reach is not there for it, wherever it looks.
#[tokio::test]
async fn a_key_for_one_site_sees_no_other() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let start = api.get("/api/admin/services/stats").await?.expect(200)?;
        let since = format!("{}-{}", start["epoch"], start["seq"]);
        poller(&api, "north-1", "1").await?;
        poller(&api, "south-2", "2").await?;
        let made = key(&api, "operator", "site=1").await?;
        world.keep_secret("scoped key", &made);
        let scoped = Api::new(api.addr(), &made);
        let before = all(&api).await?;
        let south = "/api/admin/services/pollers/south-2";
        let missing = scoped.get("/api/admin/services/pollers/nobody").await?;
        for path in [south.to_owned(), format!("{south}/history"), format!("{south}/agents")] {
            same(&path, &scoped.get(&path).await?.status, &404)?;
        }
        let code = |text: &str| serde_json::from_str(text).map(|body: serde_json::Value| body["code"].clone());
        same("the refusal", &code(&scoped.get(south).await?.text)?, &code(&missing.text)?)?;
        let act = json!({ "act": "deactivate", "reason": "a test" });
        same("an act", &scoped.post(&format!("{south}/status"), &act).await?.status, &404)?;
        let edit = json!({ "labels": { "site": "1" } });
        let counted = api.metric("rollcall_http_problems_total", "code=\"unknown_service\"").await?;
        ensure!(counted >= 4.0, "{counted} were counted");
        same("an edit", &scoped.call(Method::PATCH, south, Some(&edit)).await?.status, &404)?;
        let stolen = json!({ "id": "new", "labels": { "site": "2" } });
        let stolen = scoped.post("/api/admin/services/pollers", &stolen).await?;
        ensure!(stolen.status != 201, "it registers for another site");
        same("what is there", &all(&api).await?, &before)?;
        for path in [
            "/api/admin/services".to_owned(),
            "/api/admin/services/pollers".to_owned(),
            "/api/admin/services/tree".to_owned(),
            format!("/api/admin/changes?since={since}&wait=5s"),
        ] {
            let seen = scoped.get(&path).await?;
            ensure!(seen.status == 200, "{path}: {} {}", seen.status, seen.text);
            ensure!(seen.text.contains("north-1") && !seen.text.contains("south-2"), "{path}: {}", seen.text);
        }
        for path in [
            "/api/admin/audit",
            "/api/admin/audit?text=south",
            "/api/admin/audit/export",
            "/api/admin/config.tar.gz",
            "/api/admin/config",
            "/api/admin/sd",
            "/api/admin/services?q=south",
            "/api/admin/services?label=site%3D2",
        ] {
            let seen = scoped.get(path).await?;
            ensure!(!seen.text.contains("south-2"), "{path}: {}", seen.text);
        }
        let stats = scoped.get("/api/admin/services/stats").await?.expect(200)?;
        same("the count", &stats["total"], &json!(1))?;
        same("the whole count", &api.get("/api/admin/services/stats").await?.expect(200)?["total"], &json!(2))
    })
    .await
}
