//! `/metrics` of a collector that has had something to do: promtool finds nothing to say against it, and
//! `docs/metrics.md` lists exactly what is there.
//!
//! `UPDATE_SNAPSHOT=1 cargo test --workspace --test access metrics` writes the page's table anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rollcall_common::id::Kind;
use rollcall_tests::{
    peer::{Ask, Live, Phone, SOON, enroll},
    until::{same, until, within},
    world::{self, Api, Plan, Policy, Process, World},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use super::{
    idp::{Idp, Signer},
    scene::Door,
};

/// A seal of the trail comes after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const OPEN: &str = "application/openmetrics-text; version=1.0.0";
const MARKS: (&str, &str) = ("<!-- families: begin -->\n", "<!-- families: end -->\n");

/// A family as it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// The families of an exposition in the text format 0.0.4 that have samples.
fn families(text: &str) -> Result<BTreeMap<String, Told>> {
    let mut found = BTreeMap::<String, Told>::new();
    let (mut help, mut now) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').context("a help without words")?.1.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type without a word")?;
            now = name.to_owned();
            found.insert(now.clone(), Told { kind: kind.into(), help: help.clone(), labels: BTreeSet::new() });
        } else {
            ensure!(line.starts_with(&now), "{line} stands below {now}");
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).unwrap_or_default().0;
            let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            found.entry(now.clone()).or_default().labels.extend(names.filter(|name| name != "le"));
        }
    }
    Ok(found)
}

/// The program of Prometheus: on the path, or where `tests/setup.sh` puts it.
fn promtool() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let target = env::current_exe()?.ancestors().nth(3).map(|target| target.join("tools"));
    let mut places = env::split_paths(&path).chain(target).map(|dir| dir.join("promtool"));
    places.find(|place| place.is_file()).context("promtool is missing: run tests/setup.sh, or install prometheus")
}

async fn checked(text: &str) -> Result<()> {
    let mut tool = Command::new(promtool()?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = tool.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let said = within(SOON, "promtool", tool.wait_with_output()).await??;
    let words = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.success() && words.trim().is_empty(), "promtool: {}\n{words}", said.status);
    Ok(())
}

/// Opens a stream of the feed and reads its beginning.
async fn reader(api: &Api, credential: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(api.addr()).await?;
    let head =
        format!("GET /api/admin/feed HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {credential}\r\n\r\n", api.addr());
    stream.write_all(head.as_bytes()).await?;
    let hello = async {
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains("event: hello") {
            ensure!(stream.read_buf(&mut heard).await? > 0, "the stream ended: {}", String::from_utf8_lossy(&heard));
        }
        anyhow::Ok(())
    };
    within(SOON, "the feed says hello", hello).await??;
    Ok(stream)
}

/// Something of everything that is counted. What it answers must be kept: it is still there when it is looked at.
async fn live(world: &mut World, idp: &Idp, good: &Signer) -> Result<(Live, TcpStream)> {
    let phone = Phone::new()?;
    let (_, mut stays) = world.live_poller(&phone, "stays").await?;
    let (_, goes) = world.live_poller(&phone, "goes").await?;
    world.api().act("poller/goes", "revoke").await?;
    goes.ending().await?;
    let token = world.token(Policy::prefix(Kind::Poller, "p").uses(3)).await?;
    let mut ask = Ask::poller("p9")?;
    ask.secret = Some(rollcall_common::token::Secret::random()?);
    enroll(&phone, world.quic(), &token, &ask).await?.refusal()?;
    let api = world.api().clone();
    let code = json!({ "code": "aaaaa-bbbbb-ccccc-ddddd-eeeee" });
    same("a code that nobody made", &api.anonymous().post("/api/admin/login", &code).await?.status, &401)?;
    let credential = fs::read_to_string(world.state().join("admin.credential"))?;
    let reader = reader(&api, credential.trim()).await?;
    let token = good.token(&idp.claims("good"))?;
    world.keep_secret("a token's signature", token.rsplit('.').next().unwrap_or_default());
    let door = Door::new(&api, 2)?;
    until(SOON, "the issuer's keys are there", async || {
        let (status, who) = door.whoami(&token).await?;
        ensure!(status == 200, "{status}: {who}");
        Ok(())
    })
    .await?;
    stays.beat().await?;
    until(PATIENCE, "a seal of the trail, and a run of the job that marks somebody", async || {
        // Whoever does not beat for a second is marked.
        api.post("/api/admin/jobs/mark_inactive/run", &json!({})).await?.expect(200)?;
        let text = api.get("/metrics").await?.text;
        for family in ["rollcall_audit_head", "rollcall_job_last_success_timestamp_seconds", "rollcall_job_items_total"]
        {
            ensure!(text.contains(&format!("{family}{{")), "no {family}");
        }
        Ok(())
    })
    .await?;
    Ok((stays, reader))
}

/// What a collector tells that speaks HTTPS.
async fn encrypted(dir: &Path) -> Result<String> {
    let state = dir.join("encrypted");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?.pem();
    for (name, text) in [("web.pem", &cert), ("web.key", &key.serialize_pem())] {
        fs::write(dir.join(name), text)?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))?;
    }
    let config = dir.join("encrypted.toml");
    fs::write(
        &config,
        format!(
            "name = \"encrypted\"\nstate_dir = \"{}\"\nquic_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
             http_tls_cert = \"{}\"\nhttp_tls_key = \"{}\"\n",
            state.display(),
            dir.join("web.pem").display(),
            dir.join("web.key").display(),
        ),
    )?;
    let mut process = Process::new("rollcall-collector", "encrypted", dir)?;
    process.args(["serve".into(), "--config".into(), config.display().to_string()]);
    process.start()?;
    let port = until(SOON, "it listens", async || {
        let told: Value = serde_json::from_slice(&fs::read(state.join("endpoints.json"))?)?;
        let at = told["http"].as_str().and_then(|at| at.rsplit_once(':')).context("no address")?;
        Ok(at.1.to_owned())
    })
    .await?;
    let credential = fs::read_to_string(state.join("admin.credential"))?;
    let root = reqwest::Certificate::from_pem(cert.as_bytes())?;
    let client = reqwest::Client::builder().tls_certs_only([root]).no_proxy().timeout(SOON).build()?;
    process.signal(Signal::HUP)?;
    let text = until(SOON, "it answers", async || {
        let asked = client.get(format!("https://127.0.0.1:{port}/metrics")).bearer_auth(credential.trim());
        Ok(asked.send().await?.error_for_status()?.text().await?)
    })
    .await?;
    process.kill9().await?;
    Ok(text)
}

fn table(families: &BTreeMap<String, Told>) -> String {
    let mut text = String::from("| family | type | labels | what it tells |\n|---|---|---|---|\n");
    for (name, told) in families {
        let labels: Vec<String> = told.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{name}` | {} | {} | {} |\n", told.kind, labels.join(", "), told.help));
    }
    text
}

/// Every name of a family that the collector's source holds.
fn written(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            written(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path)?;
            let literals = text.split('"').filter(|literal| {
                ["rollcall_", "service_registry_", "process_"].iter().any(|prefix| literal.starts_with(prefix))
                    && literal.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                    // How credentials begin.
                    && !["rollcall_api1", "rollcall_adm1", "rollcall_enr1", "rollcall_pkg1"]
                        .iter()
                        .any(|prefix| literal.starts_with(prefix))
            });
            found.extend(literals.map(str::to_owned));
        }
    }
    Ok(())
}

#[tokio::test]
async fn promtool_is_content_and_the_page_is_true() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (good, other) = (Signer::new("k1")?, Signer::new("k1")?);
    let idp = Idp::start(dir.path(), &good, &other).await?;
    let trail = format!("[audit.file]\npath = \"{}\"\n", dir.path().join("trail.jsonl").display());
    let plan = Plan::calm()
        .with("inactive_after = \"1s\"\n[metrics]\nservice_ages = true\n")
        .with(&trail)
        .with(&idp.settings());
    world::run(plan, async |world| {
        let kept = live(world, &idp, &good).await?;
        let plain = world.api().get("/metrics").await?;
        same("the status", &plain.status, &200)?;
        checked(&plain.text).await?;
        let encrypted = encrypted(world.dir()).await?;
        checked(&encrypted).await?;
        let mut told = families(&encrypted)?;
        for (name, family) in families(&plain.text)? {
            told.entry(name).or_insert_with(|| family.clone()).labels.extend(family.labels.clone());
        }
        drop(kept);

        let credential = fs::read_to_string(world.state().join("admin.credential"))?;
        let asked =
            reqwest::Client::builder().no_proxy().build()?.get(format!("http://{}/metrics", world.api().addr()));
        let open = asked.bearer_auth(credential.trim()).header("accept", OPEN).timeout(SOON).send().await?;
        let media = open.headers().get("content-type").context("no type")?.to_str()?.to_owned();
        ensure!(media.starts_with(OPEN) && open.text().await?.ends_with("\n# EOF\n"), "{media}");

        // Whatever the source registers was seen with samples; opt-in aliases apart.
        let mut names = BTreeSet::new();
        written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/src"), &mut names)?;
        names.remove("service_registry_total");
        let unseen: Vec<_> = names
            .iter()
            .filter(|name| !told.contains_key(*name) && !told.contains_key(&format!("{name}_total")))
            .collect();
        ensure!(unseen.is_empty(), "no sample of {unseen:?}");

        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = fs::read_to_string(&page)?;
        let (before, rest) = text.split_once(MARKS.0).context("the page has no table")?;
        let (held, after) = rest.split_once(MARKS.1).context("the table has no end")?;
        let table = table(&told);
        if env::var_os("UPDATE_SNAPSHOT").is_some() {
            fs::write(&page, format!("{before}{}{table}{}{after}", MARKS.0, MARKS.1))?;
            return Ok(());
        }
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (held, found) = (lines(held), lines(&table));
        let stale: Vec<_> = held.symmetric_difference(&found).collect();
        ensure!(stale.is_empty(), "docs/metrics.md is not what is there (UPDATE_SNAPSHOT=1 renews it): {stale:#?}");
        Ok(())
    })
    .await
}
