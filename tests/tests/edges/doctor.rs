//! `rollcall-agent doctor` where something is wrong: each condition is made, found, and told with what to do.

use std::net::UdpSocket;

use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy, World},
};

use super::*;

async fn doctor(of: &Sidecar, more: &[&str]) -> Result<(i32, String)> {
    agent(of, &[&["doctor", "--output", "json"], more].concat()).await
}

/// How bad a check is; what is worse than well says what to do.
fn grade(text: &str, check: &str) -> Result<String> {
    let found = finding(text, check)?;
    let grade = word(&found, "grade")?.to_owned();
    ensure!(!["warn", "fail"].contains(&grade.as_str()) || word(&found, "fix").is_ok(), "no fix: {found}");
    Ok(grade)
}

async fn other_collector(world: &World) -> Result<(rollcall_tests::world::Process, String)> {
    let state = world.dir().join("other");
    let process = world.another_collector(&state)?;
    let told = until(SOON, "the other one listens", async || {
        let told: Value = serde_json::from_slice(&fs::read(state.join("endpoints.json"))?)?;
        told.get("quic").and_then(Value::as_str).map(str::to_owned).context("no address")
    })
    .await?;
    Ok((process, told))
}

#[tokio::test]
async fn what_is_wrong_is_found_and_told_with_its_fix() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let sidecar = world.sidecar("p", "kind = \"poller\"")?;
        let config = sidecar.state().with_file_name("agent.toml");
        let good = fs::read_to_string(&config)?;
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        sidecar.give_token(&token)?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        same("well", &code, &0)?;
        // Without a live sidecar the clock is judged as far as that goes, and that is said.
        let clock = finding(&text, "clock")?;
        ensure!(word(&clock, "words")?.contains("once a sidecar is live"), "{clock}");

        // A name that nobody knows, an address where nobody answers, one that is somebody else's.
        let (code, text) = doctor(&sidecar, &["--address", "nowhere.invalid:7411"]).await?;
        ensure!(code == 69 && grade(&text, "name")? == "fail", "{code}: {text}");
        let deaf = UdpSocket::bind("127.0.0.1:0")?;
        let (code, text) = doctor(&sidecar, &["--address", &deaf.local_addr()?.to_string()]).await?;
        ensure!(code == 69 && grade(&text, "quic")? == "fail", "{code}: {text}");
        let (mut other, address) = other_collector(world).await?;
        let (code, text) = doctor(&sidecar, &["--address", &address]).await?;
        ensure!(code == 69 && grade(&text, "quic")? == "fail" && text.contains("pinned"), "{code}: {text}");
        // One that answers is enough: the others are worth a look.
        let both = ["--address", &address, "--address", &world.quic().to_string()];
        let (code, text) = doctor(&sidecar, &both).await?;
        ensure!(code == 0 && grade(&text, "quic")? == "warn", "{code}: {text}");
        other.kill9().await?;

        // A token that was cut, one that everybody may read, one whose time is over.
        sidecar.give_token(token.get(..40).unwrap_or_default())?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(code == 78 && grade(&text, "token")? == "fail", "{code}: {text}");
        ensure!(!text.contains(token.get(20..40).unwrap_or_default()), "a piece of a secret is told");
        sidecar.give_token(&token)?;
        let (code, text) =
            ran(Path::new("/bin/chmod"), &["644", &sidecar.token_file().display().to_string()], &[]).await?;
        ensure!(code == 0, "{text}");
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(code == 0 && text.contains("can be read by everybody") && text.contains("chmod 600"), "{code}: {text}");
        fs::remove_file(sidecar.token_file())?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(code == 78 && grade(&text, "token")? == "fail" && text.contains("token create"), "{code}: {text}");
        sidecar.give_token(&token)?;

        // No kind to enroll as; a configuration that does not read, told in the form that was asked for.
        fs::write(&config, good.replace("kind = \"poller\"", ""))?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(
            code == 78 && grade(&text, "settings")? == "fail" && text.contains("`kind` is not set"),
            "{code}: {text}"
        );
        fs::write(&config, format!("{good}\nkynd = 1\n[[probe]]\ntype = \"tcp\"\n"))?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(code == 78 && grade(&text, "settings")? == "fail" && text.contains("kynd"), "{code}: {text}");
        // As people read it, too.
        let (code, text) = agent(&sidecar, &["doctor"]).await?;
        ensure!(code == 78 && text.starts_with("FAIL  settings") && text.contains("1 to mend"), "{code}: {text}");
        fs::write(&config, &good)?;

        // A socket's place that is taken by something else.
        fs::create_dir(sidecar.state()).or_else(|error| if sidecar.state().is_dir() { Ok(()) } else { Err(error) })?;
        let (code, text) = ran(Path::new("/bin/chmod"), &["700", &sidecar.state().display().to_string()], &[]).await?;
        ensure!(code == 0, "{text}");
        fs::write(sidecar.state().join("agent.sock"), "")?;
        let (code, text) = doctor(&sidecar, &[]).await?;
        ensure!(code == 78 && grade(&text, "socket")? == "fail", "{code}: {text}");
        Ok(())
    })
    .await
}
