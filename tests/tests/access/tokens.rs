//! H2 to H5, H7 and H9: tokens of an identity provider, honest, bent and forged, and a provider that misbehaves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use rollcall_tests::{
    peer::SOON,
    until::{same, until},
    world::{self, Plan, World},
};
use serde_json::{Value, json};

use super::{
    idp::{CHARACTERS, Idp, Signer, now},
    scene::{Door, all, raw, status_of},
};

/// Fetches of an issuer's keys begin this far apart; a new key must be taken soon after.
const ROTATED: Duration = Duration::from_secs(45);

async fn with_idp(play: impl AsyncFnOnce(&mut World, &mut Idp, &Signer, &Signer) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (good, other) = (Signer::new("k1")?, Signer::new("k1")?);
    let mut idp = Idp::start(dir.path(), &good, &other).await?;
    world::run(Plan::calm().with(&idp.settings()), async |world| {
        for (name, signer) in [("good", &good), ("other", &other)] {
            let (door, token) = (Door::new(world.api(), 2)?, signer.token(&idp.claims(name))?);
            world.keep_secret("a token's signature", token.rsplit('.').next().unwrap_or_default());
            until(SOON, "the issuer's keys are there", async || {
                let (status, who) = door.whoami(&token).await?;
                ensure!(status == 200, "{status}: {who}");
                ensure!(who["actor"] == format!("oidc:{name}:alice"), "{who}");
                same("the roles", &who["roles"], &json!(["operator"]))
            })
            .await?;
        }
        play(world, &mut idp, &good, &other).await
    })
    .await
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    if let Some(all) = claims.as_object_mut() {
        all.insert(name.into(), value);
    }
    claims
}

fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().map(|all| all.remove(name));
    claims
}

fn bent(good: &Signer, other: &Signer, idp: &Idp) -> Result<Vec<(&'static str, String)>> {
    let (claims, header) = (idp.claims("good"), good.header());
    let token = good.token(&claims)?;
    let head = |name: &str, value: Value| good.sign(&with(&header, name, value), &claims);
    let body = |name: &str, value: Value| good.token(&with(&claims, name, value));
    let mut parts = token.split('.');
    let (first, second, third) =
        (parts.next().context("a header")?, parts.next().context("claims")?, parts.next().context("a signature")?);
    let mut damaged = BASE64URL_NOPAD.decode(third.as_bytes())?;
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    let swapped = BASE64URL_NOPAD.encode(with(&claims, "sub", json!("mallory")).to_string().as_bytes());
    let boundless = claims.to_string().replace(&format!("\"exp\":{}", claims["exp"]), "\"exp\":1e400");
    let trap = format!("{}/keys", idp.issuer("other"));
    Ok(vec![
        ("no algorithm", head("alg", json!("none"))?),
        ("no algorithm, spelt oddly", head("alg", json!("nOnE"))?),
        ("no algorithm, spelt in capitals", head("alg", json!("None"))?),
        ("an unknown key id", head("kid", json!("k9"))?),
        ("a certificate elsewhere", other.sign(&with(&header, "x5u", json!(trap)), &claims)?),
        ("a shared secret", head("alg", json!("HS256"))?),
        ("another algorithm than its key's", head("alg", json!("ES384"))?),
        ("a key id that is a path", head("kid", json!("../../k1"))?),
        ("a key id that is SQL", head("kid", json!("k1' OR '1'='1"))?),
        ("keys elsewhere", other.sign(&with(&header, "jku", json!(trap)), &claims)?),
        ("a key in the header", other.sign(&with(&header, "jwk", other.jwk()), &claims)?),
        ("expired", body("exp", json!(now() - 31))?),
        ("not yet", body("nbf", json!(now() + 120))?),
        ("an expiry that is text", body("exp", json!((now() + 300).to_string()))?),
        ("an expiry beyond all numbers", good.sign_text(&header, &boundless)?),
        ("made in the far future", body("iat", json!(now() + 86_400))?),
        ("too long", good.token(&with(&claims, "pad", json!("x".repeat(9_000))))?),
        ("no expiry", good.token(&without(&claims, "exp"))?),
        ("for somebody else", body("aud", json!("another"))?),
        ("for nobody", good.token(&without(&claims, "aud"))?),
        ("for a number", body("aud", json!(5))?),
        ("for others", body("aud", json!(["another", "and-another"]))?),
        ("from nobody", good.token(&without(&claims, "iss"))?),
        ("from a stranger", body("iss", json!("https://idp.example"))?),
        ("another issuer's key", other.token(&claims)?),
        ("this issuer's key for another", good.token(&idp.claims("other"))?),
        ("no subject", good.token(&without(&claims, "sub"))?),
        ("no signature", format!("{first}.{second}.")),
        ("no third part", format!("{first}.{second}")),
        ("a damaged signature", format!("{first}.{second}.{}", BASE64URL_NOPAD.encode(&damaged))),
        ("other claims", format!("{first}.{swapped}.{third}")),
    ])
}

/// H2 to H5: each flaw alone is enough, and nothing is fetched on a token's word.
#[tokio::test]
async fn a_bent_token_is_nobodys() -> Result<()> {
    with_idp(async |world, idp, good, other| {
        let before = all(world.api()).await?;
        let asked = idp.asked();
        let refused = world.api().metric("rollcall_oidc_tokens_total", "outcome").await?;
        let cases = bent(good, other, idp)?;
        let count = cases.len();
        for (n, (flaw, token)) in cases.into_iter().enumerate() {
            let door = Door::new(world.api(), u8::try_from(10 + n / 10)?)?;
            let (status, said) = door.whoami(&token).await?;
            ensure!(status == 401, "{flaw}: {status} {said}");
            same(flaw, &said["code"], &json!("unauthenticated"))?;
        }
        let counted = world.api().metric("rollcall_oidc_tokens_total", "outcome").await? - refused;
        ensure!(counted >= f64::from(u32::try_from(count)?) - 1.0, "{counted} of {count} were counted");
        // Bad issuers are asked again after a while; a key that nobody knows may cost one fetch each.
        ensure!(idp.asked() - asked <= 2 * CHARACTERS.len() as u64, "{} fetches", idp.asked() - asked);
        same("connections elsewhere", &idp.trapped(), &0)?;
        // A megabyte does not come so far as to be looked at.
        let (api, long) = (world.api(), "x".repeat(1 << 20));
        let head = format!("GET /api/admin/whoami HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", api.addr());
        let answer = raw(api.addr(), format!("{head}Authorization: Bearer ey{long}\r\n\r\n").as_bytes()).await;
        ensure!(answer.is_err() || matches!(status_of(&answer?)?, 401 | 431), "a megabyte of token");
        same("what is there", &all(world.api()).await?, &before)
    })
    .await
}

/// H7: what a token says of roles gives what the configuration lets its issuer give, and nothing else.
#[tokio::test]
async fn claims_give_no_more_than_is_configured() -> Result<()> {
    with_idp(async |world, idp, good, _| {
        let door = Door::new(world.api(), 2)?;
        for (claimed, given) in [
            (json!(["boss"]), json!([])),
            (json!(["boss", "staff"]), json!(["viewer"])),
            (json!(["staff", "ADMIN", "admin", "OPS"]), json!(["viewer"])),
            (json!("ops"), json!([])),
            (json!({ "ops": true }), json!([])),
            (json!([["ops"]]), json!([])),
            (json!(["ops", 7]), json!([])),
            (Value::Null, json!([])),
        ] {
            let token = good.token(&with(&idp.claims("good"), "roles", claimed.clone()))?;
            let (status, who) = door.whoami(&token).await?;
            ensure!(status == 200, "{claimed}: {status} {who}");
            ensure!(who["roles"] == given, "{claimed} gives {}", who["roles"]);
            let wanted = if given == json!([]) { 403 } else { 200 };
            same("a list", &door.status(reqwest::Method::GET, "/api/admin/services", Some(&token)).await?, &wanted)?;
            same("a key", &door.status(reqwest::Method::GET, "/api/admin/keys", Some(&token)).await?, &403)?;
        }
        Ok(())
    })
    .await
}

/// H9: a new key is taken soon, the last good keys outlive the provider, and one that talks nonsense or leads
/// elsewhere is not believed and not followed.
#[tokio::test]
async fn a_provider_rotates_goes_down_and_misleads() -> Result<()> {
    with_idp(async |world, idp, good, _| {
        let door = Door::new(world.api(), 2)?;
        for (n, name) in ["huge", "html", "moved", "plain", "meta"].into_iter().enumerate() {
            let door = Door::new(world.api(), u8::try_from(20 + n)?)?;
            let token = good.token(&idp.claims(name))?;
            until(SOON, "the bad answer is counted", async || {
                let failed = format!("issuer=\"{name}\",outcome=\"failed\"");
                ensure!(world.api().metric("rollcall_oidc_fetches_total", &failed).await? > 0.0, "it is not");
                Ok(())
            })
            .await?;
            let (status, said) = door.whoami(&token).await?;
            ensure!(status == 503, "{name}: {status} {said}");
            same("the code", &said["code"], &json!("issuer_unavailable"))?;
        }
        same("connections elsewhere", &idp.trapped(), &0)?;
        let log = world.collector().said()?;
        ensure!(log.contains("http://169.254.169.254/latest/meta-data"), "the false address is not named");
        let next = Signer::new("k2")?;
        let (old, new) = (good.token(&idp.claims("good"))?, next.token(&idp.claims("good"))?);
        idp.rotate(&next);
        // From one address each time: a token that is refused at first counts as a bad attempt.
        let mut host = 30;
        until(ROTATED, "the new key is taken", async || {
            host = if host < 250 { host + 1 } else { 30 };
            let (status, said) = Door::new(world.api(), host)?.whoami(&new).await?;
            ensure!(status == 200, "{status} {said}");
            Ok(())
        })
        .await?;
        same("the key that went", &door.whoami(&old).await?.0, &401)?;
        idp.stop().await;
        let asked = idp.asked();
        same("while the provider is down", &door.whoami(&new).await?.0, &200)?;
        same("fetches for a known key", &idp.asked(), &asked)
    })
    .await
}
