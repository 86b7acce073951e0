//! From `setup` over the first start to a session, and out again.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::place::{Place, code_in};

#[tokio::test]
async fn from_setup_to_a_session_and_out_again() -> Result<()> {
    let mut place = Place::new()?;
    let said = place.set_up().await?;
    let code = code_in(&said)?;
    for word in ["https://localhost:", "open UDP 7411", "stays on this host", "rollcall-collector login --api"] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    ensure!(place.mode("state/login.code")? == 0o600 && place.mode("state")? == 0o700);
    let kept = fs::read_to_string(place.path("state/login.code"))?;
    ensure!(!kept.contains(&code.replace('-', "")) && !kept.contains(&code), "only a hash is kept");

    // A second time it finds that nothing is to be done; a file that somebody edited it leaves alone.
    let again = place.set_up().await?;
    ensure!(again.contains("says all of it already"), "{again}");
    let code = code_in(&again)?;
    let config = place.path("collector.toml");
    let written = fs::read_to_string(&config)?;
    fs::write(&config, format!("{written}ttl = \"1m\"\n"))?;
    let (path, state) = (place.text("collector.toml")?, place.text("state")?);
    let change = ["setup", "--yes", "--config", &path, "--state-dir", &state, "--name", "other"];
    let refused = place.cli(&change, "").await?.expect(78)?;
    ensure!(refused.contains("was edited") && refused.contains("- ttl = \"1m\""), "{refused}");
    ensure!(fs::read_to_string(&config)?.ends_with("ttl = \"1m\"\n"));
    fs::write(&config, written)?;

    let http = place.start().await?;
    let (api, ca) = (format!("https://localhost:{}", http.port()), place.text("ca.pem")?);
    let login = ["login", "--api", &api, "--ca-file", &ca];
    let leaf = fs::read(place.path("state/login.code"))?;

    // Typed in capitals, without dashes.
    let done = place.cli(&login, &code.to_uppercase().replace('-', " ")).await?.expect(0)?;
    ensure!(done.contains("localhost") && done.contains("in 11h59m") || done.contains("in 12h"), "{done}");
    ensure!(!done.contains("rollcall_api1_"), "the credential is not shown: {done}");
    ensure!(place.mode("home/rollcall/localhost.credential")? == 0o600);
    let credential = fs::read_to_string(place.path("home/rollcall/localhost.credential"))?;

    // From now on no flag is needed, and everything is allowed.
    place.cli(&["services", "list"], "").await?.expect(0)?;
    let mint = ["tokens", "create", "--kind", "poller", "--id", "p", "--local", "--output", "raw"];
    let token = place.cli(&mint, "").await?.expect(0)?;
    ensure!(token.starts_with("rollcall_enr1_"), "{token}");

    // Used, unknown, and no code at all are one answer.
    let used = place.cli(&login, &code).await?.expect(77)?;
    let unknown = place.cli(&login, "aaaaa-bbbbb-ccccc-ddddd-eeeee").await?.expect(77)?;
    let without = |text: &str| text.split(", request").next().map(str::to_owned);
    ensure!(without(&used) == without(&unknown) && used.contains("login-code"), "{used}{unknown}");
    ensure!(place.cli(&login, "hello").await?.expect(64)?.contains("five groups"), "a typing error is not sent");

    // A kill, a restart and the old file put back: the code stays burnt.
    place.collector.kill9().await?;
    fs::write(place.path("state/login.code"), leaf)?;
    let http = place.start().await?;
    let api = format!("https://localhost:{}", http.port());
    let login = ["login", "--as", "again", "--api", &api, "--ca-file", &ca];
    place.cli(&login, &code).await?.expect(77)?;

    // A new one, made while it runs; then one that the API makes for a colleague.
    let config = place.text("collector.toml")?;
    let code = place.cli(&["login-code", "--config", &config, "--output", "raw"], "").await?.expect(0)?;
    place.cli(&login, &code).await?.expect(0)?;
    let colleagues = place.cli(&["login-code", "--context", "again", "--output", "raw"], "").await?.expect(0)?;
    let login = ["login", "--as", "colleague", "--api", &api, "--ca-file", &ca, colleagues.trim()];
    // The context of that collector exists: a second name for it is another session.
    place.cli(&login, "").await?.expect(0)?;
    let second = fs::read_to_string(place.path("home/rollcall/again.credential"))?;

    let trail = place.cli(&["audit", "--output", "json"], "").await?.expect(0)?;
    let trail: Value = serde_json::from_str(&trail)?;
    let actions = trail.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let count = |action: &str| actions.iter().filter(|event| event.get("action") == Some(&action.into())).count();
    ensure!(count("login.succeeded") == 3 && count("login.failed") == 3, "{trail}");

    // Out again: the credential is refused, and gone from the disk.
    place.cli(&["logout", "--context", "again"], "").await?.expect(0)?;
    ensure!(!place.path("home/rollcall/again.credential").exists());
    fs::write(place.path("stolen"), &second)?;
    fs::set_permissions(place.path("stolen"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let stolen = place.text("stolen")?;
    let reuse = ["services", "list", "--api", &api, "--ca-file", &ca, "--credential-file", &stolen];
    ensure!(place.cli(&reuse, "").await?.expect(77)?.contains("unauthenticated"));

    // H15: at the finest level, no log has seen a code, a session or a token.
    let log = place.collector.said()?;
    for secret in [&credential, &second, &token] {
        let blob = secret.trim().rsplit('_').next().unwrap_or_default();
        ensure!(blob.len() > 64 && !log.contains(&blob[..24]), "a credential was logged");
    }
    for code in [code.trim(), colleagues.trim()] {
        ensure!(!log.contains(code), "a login code was logged");
    }
    Ok(())
}
