//! H10 and the end of what was let in: streams whose credential ends, guesses of login codes, another user of the host.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::SOON,
    until::{same, until, within},
    world::{self, Api, Plan, api::word, process::find},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::scene::{Door, all, key};

/// Who nobody is on every distribution.
const NOBODY: u32 = 65_534;
/// Failures of one address before it has to wait.
const BURST: usize = 20;
/// Guesses, far more of them.
const GUESSES: usize = 200;

/// A stream that has said hello.
async fn stream(api: &Api, credential: &str, query: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(api.addr()).await?;
    let head = format!("GET /api/admin/feed{query} HTTP/1.1\r\nHost: {}\r\n", api.addr());
    stream.write_all(format!("{head}Authorization: Bearer {credential}\r\n\r\n").as_bytes()).await?;
    let mut heard = Vec::new();
    let hello = async {
        while !String::from_utf8_lossy(&heard).contains("event: hello") {
            ensure!(stream.read_buf(&mut heard).await? > 0, "it ended: {}", String::from_utf8_lossy(&heard));
        }
        Ok(())
    };
    within(SOON, "the stream says hello", hello).await??;
    Ok(stream)
}

/// Everything until the other side ends.
async fn rest(mut stream: TcpStream) -> Result<String> {
    let mut heard = Vec::new();
    within(SOON, "the stream ends", stream.read_to_end(&mut heard)).await??;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn shut_out(heard: &str) -> Result<()> {
    let last = heard.rsplit("\nevent: ").next().unwrap_or_default();
    ensure!(last.starts_with("dropped") && last.contains("credential: it has ended"), "{last}");
    Ok(())
}

/// A silent stream and one in which events never stop: both end with the credential that opened them.
#[tokio::test]
async fn open_streams_end_with_their_credential() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let made = key(&api, "viewer", "").await?;
        world.keep_secret("viewer key", &made);
        let silent = stream(&api, &made, "?type=service.removed").await?;
        let busy = stream(&api, &made, "").await?;
        let id = made.split('_').nth(2).context("an id")?;
        let heard = tokio::select! {
            heard = async { tokio::try_join!(rest(silent), rest(busy)) } => heard?,
            ended = noise_and_a_revocation(&api, id) => return ended,
        };
        shut_out(&heard.0)?;
        shut_out(&heard.1)?;
        ensure!(heard.1.contains("service.registered"), "the busy one was not busy: {}", heard.1);
        api.wait_metric("rollcall_feed_dropped_total", "reason=\"credential\"", 2.0).await?;
        same("the credential", &Api::new(api.addr(), &made).get("/api/admin/whoami").await?.status, &401)?;
        let events = api.audit(&format!("action=credential.revoked&object=credential:{id}")).await?;
        same("events", &events.len(), &1)
    })
    .await
}

/// Events without a pause, and after the first of them the key's end.
async fn noise_and_a_revocation(api: &Api, key: &str) -> Result<()> {
    let mut n = 0;
    loop {
        api.post("/api/admin/services/instances", &json!({ "id": format!("n{n}") })).await?.expect(201)?;
        if n == 0 {
            api.post(&format!("/api/admin/keys/{key}/revoke"), &json!({})).await?.expect(200)?;
        }
        n += 1;
    }
}

/// As a revocation, so the end of its time.
#[tokio::test]
async fn an_open_stream_ends_when_its_credential_expires() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let body = json!({ "role": "viewer", "ttl": "10s" });
        let made = api.post("/api/admin/keys", &body).await?.expect(201)?;
        let made = word(&made, "key")?.to_owned();
        world.keep_secret("short key", &made);
        let open = stream(&api, &made, "").await?;
        shut_out(&rest(open).await?)?;
        same("the credential", &Api::new(api.addr(), &made).get("/api/admin/whoami").await?.status, &401)
    })
    .await
}

/// Whoever guesses codes is slowed down; whoever has one comes in, even from the guesser's own address.
#[tokio::test]
async fn guesses_of_login_codes_are_braked() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let api = world.api().clone();
        let before = all(&api).await?;
        let login = async |door: &Door, code: &str| door.post("/api/admin/login", &json!({ "code": code })).await;
        let guesser = Door::new(&api, 2)?;
        // All at once: one of them comes back each second, and nobody knows how fast this machine is.
        let guess = |n: usize| {
            let letter = char::from(b'a' + u8::try_from(n % 26).unwrap_or_default());
            vec![letter.to_string().repeat(5); 5].join("-")
        };
        let guesses: Vec<_> = (0..GUESSES).map(guess).collect();
        let (mut refused, mut braked) = (0, 0);
        for answer in futures_util::future::join_all(guesses.iter().map(|guess| login(&guesser, guess))).await {
            let (status, said) = answer?;
            match status {
                401 => refused += 1,
                429 => {
                    braked += 1;
                    same("the code", &said["code"], &json!("throttled"))?;
                }
                other => anyhow::bail!("{other}: {said}"),
            }
        }
        ensure!(refused >= BURST && braked > 0, "{refused} were looked at, {braked} told to wait");
        same("another address", &login(&Door::new(&api, 3)?, "hello").await?.0, &401)?;
        same("what is there", &all(&api).await?, &before)?;
        let failed = api.metric("rollcall_http_logins_total", "outcome=\"failed\"").await?;
        same("failures", &failed, &f64::from(u32::try_from(GUESSES + 1)?))?;
        let on_record = api.audit("action=login.failed").await?.len();
        ensure!((1..GUESSES).contains(&on_record), "{on_record} on record");
        let made = api.post("/api/admin/login/codes", &json!({})).await?.expect(201)?;
        let code = word(&made, "code")?.to_owned();
        world.keep_secret("login code", &code.replace('-', "_"));
        let (status, session) = login(&guesser, &code).await?;
        same("a good code", &status, &201)?;
        world.keep_secret("session", word(&session, "credential")?);
        same("the same code again", &matches!(login(&guesser, &code).await?.0, 401 | 429), &true)
    })
    .await
}

/// Runs the operator's program as a user of the host.
fn as_user(program: &Path, uid: Option<u32>, args: &[&str], env: &[(&str, &Path)]) -> Result<Output> {
    let run = |mut command: Command| {
        command.args(args).env_clear().envs(env.iter().copied()).current_dir("/");
        command.output().with_context(|| format!("{} does not start", program.display()))
    };
    match uid {
        None => run(Command::new(program)),
        Some(uid) if rustix::process::geteuid().is_root() => {
            let mut command = Command::new(program);
            command.uid(uid).gid(uid);
            run(command)
        }
        Some(uid) => {
            let mut command = Command::new("sudo");
            command.args(["-n", "-u", &format!("#{uid}")]).arg(program);
            run(command)
        }
    }
}

fn told(output: &Output) -> String {
    let words = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{} {}{}", output.status, words[0], words[1])
}

/// H10: over the administrators' socket everybody is whoever the kernel says, and only root and the collector's own
/// user are administrators. On the host itself they need no flag at all.
#[tokio::test]
async fn the_socket_is_for_administrators_of_the_host() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        // Where another user can get at it: what systemd calls the runtime directory, and the program beside it.
        let run = tempfile::Builder::new().prefix("rollcall-run-").tempdir()?;
        fs::set_permissions(run.path(), fs::Permissions::from_mode(0o755))?;
        let program = run.path().join("rollcall-collector");
        fs::copy(find("rollcall-collector")?, &program)?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("UTF-8");
        world.collector().kill9().await?;
        world.collector().env("RUNTIME_DIRECTORY", &text(run.path())?);
        world.start_collector().await?;
        let (api, socket) = (world.api().clone(), run.path().join("admin.sock"));
        same("its mode", &(fs::metadata(&socket)?.permissions().mode() & 0o777), &0o660)?;
        let (unix, state) = (format!("unix:{}", text(&socket)?), world.state());
        let whoami = ["whoami", "--output", "json", "--api", &unix];

        // Where nothing is said, the collector of this host says where it is.
        let me = format!("local:uid={}", rustix::process::geteuid().as_raw());
        for line in [&whoami[..3], &whoami[..]] {
            let done = as_user(&program, None, line, &[("ROLLCALL_STATE_DIR", &state)])?;
            ensure!(done.status.code() == Some(0), "{}", told(&done));
            let shown: serde_json::Value = serde_json::from_slice(&done.stdout)?;
            same("who", &shown["actor"], &json!(me))?;
        }
        let shown = as_user(&program, None, &["context", "show"], &[("ROLLCALL_STATE_DIR", &state)])?;
        ensure!(told(&shown).contains(&unix) && told(&shown).contains("endpoints.json"), "{}", told(&shown));

        // To others it is closed by its mode, and where somebody opened it, by whoever they are.
        let before = all(&api).await?;
        let closed = as_user(&program, Some(NOBODY), &whoami, &[])?;
        ensure!(closed.status.code() == Some(69) && told(&closed).contains("use sudo"), "{}", told(&closed));
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        let refused = as_user(&program, Some(NOBODY), &whoami, &[])?;
        ensure!(refused.status.code() == Some(77), "{}", told(&refused));
        ensure!(told(&refused).contains("the kernel says who you are"), "{}", told(&refused));
        let register = ["services", "register", "poller", "p", "--api", &unix];
        let refused = as_user(&program, Some(NOBODY), &register, &[])?;
        ensure!(refused.status.code() == Some(77), "{}", told(&refused));
        same("what is there", &all(&api).await?, &before)?;
        ensure!(api.metric("rollcall_http_problems_total", "code=\"forbidden\"").await? >= 2.0, "not counted");
        let line = world.collector().line_with("no administrator was refused")?;
        ensure!(line.contains(&NOBODY.to_string()), "{line}");

        // With a credential they are whoever that makes them.
        let made = key(&api, "viewer", "").await?;
        world.keep_secret("viewer key", &made);
        let file = run.path().join("viewer");
        fs::write(&file, &made)?;
        let with = ["whoami", "--output", "json", "--api", &unix, "--credential-file", &text(&file)?];
        let shown = as_user(&program, Some(NOBODY), &with, &[])?;
        ensure!(told(&shown).contains("\"viewer\""), "{}", told(&shown));
        fs::remove_file(file)?;

        // Nobody listens any more: said as such.
        world.collector().kill9().await?;
        let gone = until(SOON, "the end is told", async || {
            as_user(&program, None, &["whoami"], &[("ROLLCALL_STATE_DIR", &state)])
        })
        .await?;
        ensure!(gone.status.code() == Some(69) && told(&gone).contains("is it running?"), "{}", told(&gone));
        Ok(())
    })
    .await
}
