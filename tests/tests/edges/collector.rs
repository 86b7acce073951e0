//! `rollcall-collector doctor` beside a real collector: each thing that goes wrong is found, with what mends it.

use std::net::UdpSocket;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rollcall_tests::world::{self, Plan, World};

use super::{disk::Disk, *};

/// What it finds, with a changed configuration where that is wanted.
async fn doctor(world: &World, change: impl FnOnce(String) -> String) -> Result<(i32, String)> {
    let config = world.dir().join("doctor.toml");
    fs::write(&config, change(fs::read_to_string(world.dir().join("collector.toml"))?))?;
    let config = config.display().to_string();
    let words = ["doctor", "--output", "json", "--config", &config];
    ran(&find("rollcall-collector")?, &words, &[]).await
}

/// All findings of a check: verdict, words, fix.
fn findings(text: &str, check: &str) -> Result<Vec<(String, String, String)>> {
    let start = text.find('{').with_context(|| format!("no findings in {text}"))?;
    let mut stream = serde_json::Deserializer::from_str(text.get(start..).unwrap_or_default()).into_iter::<Value>();
    let shown = stream.next().context("nothing")??;
    let all = shown.get("findings").and_then(Value::as_array).context("no findings")?;
    let of = all.iter().filter(|finding| finding.get("check").is_some_and(|name| name == check));
    let text = |finding: &Value, key: &str| finding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(of.map(|one| (text(one, "verdict"), text(one, "what"), text(one, "fix"))).collect())
}

/// One of them has this verdict and says these words.
fn says(text: &str, check: &str, verdict: &str, words: &str) -> Result<String> {
    let all = findings(text, check)?;
    let found = all.iter().find(|(found, what, _)| found == verdict && what.contains(words));
    let (_, _, fix) = found.with_context(|| format!("{check} is not {verdict} ({words}), but {all:?}"))?;
    ensure!((verdict == "well") == fix.is_empty(), "a fix where one is needed: {all:?}");
    Ok(fix.clone())
}

#[tokio::test]
async fn a_doctor_beside_a_collector_finds_what_is_wrong() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    world::run(Plan::calm(), async |world| {
        let same = |text: String| text;
        let quic = world.quic();
        let (_, text) = doctor(world, same).await?;
        says(&text, "configuration", "well", "")?;
        says(&text, "api", "well", "answers")?;
        says(&text, "udp", "well", &format!("QUIC answers at {quic}"))?;
        says(&text, "udp", "doubt", "sidecars are told no address")?;
        says(&text, "certificate", "well", "stays on this host")?;
        says(&text, "authority", "well", "the root that tokens pin ends")?;
        says(&text, "liveness", "well", "in memory")?;
        ensure!(!findings(&text, "registry")?.is_empty() && !findings(&text, "file limit")?.is_empty(), "{text}");

        // Who is told of, and not there; who cannot be found.
        let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let advertised = format!("advertise = [\"{quic}\", \"{free}\", \"nowhere.invalid:7411\"]\n");
        let (code, text) = doctor(world, |text| advertised + &text).await?;
        says(&text, "udp", "well", &format!("QUIC answers at {quic}"))?;
        says(&text, "udp", "doubt", &format!("{free}, which sidecars are told to dial, does not answer"))?;
        says(&text, "udp", "fault", "nowhere.invalid:7411, which sidecars are told to dial, is not found")?;
        ensure!(code == 1, "{code}: {text}");

        // A copy of liveness that is away costs no lease.
        let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (_, text) = doctor(world, |text| format!("liveness = \"redis://{gone}\"\n{text}")).await?;
        says(&text, "liveness", "doubt", "does not answer")?;

        // A certificate that has ended, one that is not there.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let (cert, private) = (world.dir().join("ended.crt"), world.dir().join("ended.key"));
        fs::write(&cert, params.self_signed(&key)?.pem())?;
        fs::write(&private, key.serialize_pem())?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600))?;
        let pair = |cert: &Path| {
            format!(
                "http_tls_cert = {:?}\nhttp_tls_key = {:?}\n",
                cert.display().to_string(),
                private.display().to_string()
            )
        };
        let (code, text) = doctor(world, |text| pair(&cert) + &text).await?;
        says(&text, "certificate", "fault", "it is not valid now")?;
        ensure!(code == 1, "{code}: {text}");
        let (_, text) = doctor(world, |text| pair(&world.dir().join("none.crt")) + &text).await?;
        says(&text, "certificate", "fault", "none.crt")?;

        // Open to others.
        let state = world.state();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
        let (_, text) = doctor(world, same).await?;
        mend(&says(&text, "state", "fault", "is open to others (0755)")?).await?;
        ensure!(fs::metadata(&state)?.permissions().mode() & 0o777 == 0o700, "the fix mends it");

        // It hangs: neither its API nor its port answers.
        world.collector().pause()?;
        let (code, text) = doctor(world, same).await?;
        world.collector().resume()?;
        says(&text, "api", "fault", "a collector runs, and its API does not answer")?;
        says(&text, "udp", "fault", &format!("a collector runs, and nothing answers at {quic}"))?;
        ensure!(code == 1, "{code}: {text}");

        // Not running, with its port free, or taken by somebody else.
        world.collector().kill9().await?;
        let (_, text) = doctor(world, same).await?;
        says(&text, "api", "doubt", "no collector runs here")?;
        says(&text, "udp", "well", &format!("UDP {quic} is free"))?;
        let taken = UdpSocket::bind(quic)?;
        let (code, text) = doctor(world, same).await?;
        says(&text, "udp", "fault", "cannot be had")?;
        ensure!(code == 1, "{code}: {text}");
        drop(taken);

        let (code, text) = doctor(world, |text| format!("quic_lissten = 1\n{text}")).await?;
        says(&text, "configuration", "fault", "quic_lissten")?;
        ensure!(code == 78, "{code}: {text}");
        if is_root("a small disk") {
            let small = world.dir().join("small");
            let disk = Disk::new(&small, 96)?;
            disk.fill()?;
            let elsewhere = format!("state_dir = \"{}\"", small.display());
            let here = format!("state_dir = \"{}\"", state.display());
            let (code, text) = doctor(world, |text| text.replace(&here, &elsewhere)).await?;
            says(&text, "disk", "fault", "")?;
            says(&text, "registry", "fault", "takes no file")?;
            ensure!(code == 1, "{code}: {text}");
        }
        Ok(())
    })
    .await
}
