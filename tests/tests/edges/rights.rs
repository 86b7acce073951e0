//! Files that the sidecar's user may not read: each is named with the command that mends it, and that command does.

use std::os::unix::fs::{PermissionsExt as _, chown};

use rollcall_common::id::Kind;
use rollcall_tests::world::{self, Plan, Policy, Process};

use super::*;

/// Who owns nothing.
const NOBODY: u32 = 65_534;

/// The command behind "mend it: " in a message.
fn fix(text: &str) -> Result<String> {
    let (_, rest) = text.split_once("mend it: ").with_context(|| format!("no fix in {text}"))?;
    Ok(rest.lines().next().unwrap_or_default().to_owned())
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[tokio::test]
async fn what_the_service_s_user_may_not_read_is_mended_by_what_is_said() -> Result<()> {
    if !is_root("another user") {
        return Ok(());
    }
    world::run(Plan::calm(), async |world| {
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let pid_file = world.dir().join("closed.pid");
        fs::write(&pid_file, "1\n")?;
        chmod(&pid_file, 0o600)?;
        let settings = format!(
            "kind = \"poller\"\n[[probe]]\nname = \"closed\"\ntype = \"process\"\npid_file = {:?}\ninterval = \"1s\"",
            pid_file.display().to_string()
        );
        let sidecar = world.sidecar("p", &settings)?;
        sidecar.give_token(&token)?;
        // As an administrator with umask 077 leaves it.
        let dir = sidecar.state().with_file_name("");
        let (config, fragments) = (dir.join("agent.toml"), dir.join("agent.d"));
        fs::create_dir(&fragments)?;
        fs::write(fragments.join("site.toml"), "site = \"zrh\"\n")?;
        fs::create_dir(sidecar.state())?;
        chown(sidecar.state(), Some(NOBODY), Some(NOBODY))?;
        chmod(&sidecar.state(), 0o700)?;
        for dir in [world.dir(), &dir] {
            open_to_all(dir)?;
        }
        for (path, mode) in [(&config, 0o600), (&fragments, 0o700), (&fragments.join("site.toml"), 0o600)] {
            chmod(path, mode)?;
        }
        // A target directory may be closed to others.
        let program = world.dir().join("rollcall-agent");
        fs::hard_link(find("rollcall-agent")?, &program)
            .or_else(|_| fs::copy(find("rollcall-agent").unwrap(), &program).map(drop))?;
        chmod(&program, 0o755)?;
        let program = program.display().to_string();
        let config = config.display().to_string();
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", program.as_str()];
        let as_nobody = async |words: &[&str]| {
            let words: Vec<&str> = user.iter().chain(words).copied().chain(["--config", &config]).collect();
            ran(Path::new("/usr/bin/setpriv"), &words, &[]).await
        };

        // Root sees with the sidecar's eyes.
        let (code, text) = agent(&sidecar, &["doctor", "--output", "json"]).await?;
        let closed = finding(&text, "permissions")?;
        ensure!(code == 78 && word(&closed, "grade")? == "fail", "{code}: {text}");
        ensure!(word(&closed, "words")?.contains("agent.toml (mode 0600) is closed to user"), "{closed}");

        let mut mended = Vec::new();
        let text = loop {
            let (code, text) = as_nobody(&["check"]).await?;
            if code == 0 {
                break text;
            }
            ensure!(code == 78 && text.contains("Permission denied") && mended.len() < 5, "{code}: {text}: {mended:?}");
            let fix = fix(&text)?;
            mend(&fix).await?;
            mended.push(fix);
        };
        ensure!(text.contains("well: not enrolled yet"), "{text}");
        ensure!(mended.len() == 3, "the file, the directory, the fragment: {mended:?}");
        ensure!(mended[0].ends_with(&format!("&& chmod 640 {config}")), "{mended:?}");

        // It waits for a token that it may not read, and says so; then it goes on by itself.
        let (_, text) = as_nobody(&["doctor"]).await?;
        ensure!(text.contains("cannot read") && text.contains("token: Permission denied"), "{text}");
        let mut process = Process::installed("setpriv", "nobody", world.dir())?;
        let words = user.iter().copied().chain(["run", "--config", &config]);
        process.args(words.map(str::to_owned));
        process.start()?;
        let line = until(SOON, "it waits", async || process.line_with("mend it: ")).await?;
        mend(&fix(&line)?).await?;
        world.api().wait_alive("poller/p").await?;
        // What is closed of the service's is told with what opens it, and never healthy.
        let shown = until(SOON, "the pid file is told of", async || {
            let shown = world.api().service("poller/p").await?;
            let reason = shown.pointer("/health/reason").and_then(Value::as_str).unwrap_or_default().to_owned();
            ensure!(reason.contains("cannot read the pid file"), "{shown}");
            Ok(reason)
        })
        .await?;
        ensure!(shown.contains("mend it: setfacl -m u:"), "{shown}");
        // Whoever may not ask is told who may; whoever cannot read the configuration can ask all the same.
        let (code, text) = as_nobody(&["status"]).await?;
        ensure!(code == 0 && text.contains("poller/p"), "{code}: {text}");
        process.terminate().await.map(drop)
    })
    .await
}
