//! Targets of probes that hang, flood, mislead and change what they are.

use std::{net::SocketAddr, os::unix::fs::symlink, sync::Arc};

use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rollcall_common::id::Kind;
use rollcall_tests::{
    until::same,
    world::{self, Plan, Policy, Process},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that does the same to each connection.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tasks.spawn(async move {
        let mut answering = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answering.spawn(answer(stream));
        }
    });
    Ok(addr)
}

/// It reads a little, says this, and then says that again and again; where that is nothing, it says no more.
async fn says(tasks: &mut JoinSet<()>, first: &'static [u8], again: &'static [u8]) -> Result<SocketAddr> {
    serve(tasks, move |mut stream| async move {
        let _ = stream.read(&mut [0; 1_024]).await;
        if stream.write_all(first).await.is_err() {
            return;
        }
        if again.is_empty() {
            return std::future::pending().await;
        }
        let much = again.repeat(1 + 8_192 / again.len());
        while stream.write_all(&much).await.is_ok() {}
    })
    .await
}

/// Fifteen hostile targets and one honest one: each is told of in its own words, and neither the others, the beats nor
/// the host feel anything of it.
#[tokio::test]
async fn hostile_targets_are_each_told_of_and_disturb_nobody() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut tasks = JoinSet::new();
        let tasks = &mut tasks;
        let dir = world.dir().to_owned();
        let mut service = Process::installed("sleep", "service", &dir)?;
        service.args(["100000".to_owned()]);
        service.start()?;
        fs::write(dir.join("main.pid"), service.pid().context("no pid")?.to_string())?;
        mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        symlink("nowhere", dir.join("dangling"))?;

        let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        let drip = says(tasks, b"HTTP/1.1 200 OK\r\nx-", b"").await?;
        let endless = says(tasks, b"HTTP/1.1 200 OK\r\n\r\n", b"never what is looked for ").await?;
        let goes_on = says(tasks, b"", b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        let heads = says(tasks, b"HTTP/1.1 200 OK\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await?;
        let around = says(tasks, b"HTTP/1.1 302 x\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n", b"").await?;
        let garbage = says(tasks, b"\x00\xff\x1b[2J\r\n\r\n", b"\xff\xfe\x00").await?;
        let no_grpc = says(tasks, b"\xff", b"\xff\x00\xaa").await?;
        let goaway: &'static [u8] =
            b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b";
        let goaway = says(tasks, goaway, b"").await?;
        let pings = says(tasks, settings, b"\x00\x00\x08\x06\x00\x00\x00\x00\x00rollcall").await?;

        let pids = dir.join("stubborn.pids");
        let stubborn = format!(
            "trap '' TERM INT HUP; (trap '' TERM INT HUP; while :; do sleep 1000; done) & \
             echo $! $$ >> {}; while :; do sleep 1000; done",
            pids.display()
        );
        let exec = |script: &str| format!("type = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]");
        let http = |addr, more: &str| format!("type = \"http\"\nurl = \"http://{addr}/\"\n{more}");
        let grpc = |addr| format!("type = \"grpc\"\nurl = \"http://{addr}\"");
        let path = |name: &str| dir.join(name).display().to_string();
        let file =
            |name: &str, more: &str| format!("type = \"progress\"\nfile = {:?}\nwithin = \"1s\"\n{more}", path(name));
        let pid_file = |name: &str| format!("type = \"process\"\npid_file = {:?}", path(name));
        let probes = [
            ("main", pid_file("main.pid"), "healthy", ""),
            ("drip", http(drip, ""), "unhealthy", "no answer within 1s"),
            ("endless", http(endless, "body = \"needle\""), "unhealthy", "but not with \"needle\""),
            ("goes-on", http(goes_on, ""), "unhealthy", "it sent more than 192 KiB"),
            ("heads", http(heads, ""), "unhealthy", "no HTTP"),
            ("around", http(around, "redirects = 5"), "unhealthy", "leads on and on: 5 redirects were followed"),
            ("garbage", http(garbage, ""), "unhealthy", "no HTTP"),
            ("no-grpc", grpc(no_grpc), "unhealthy", "does not speak gRPC"),
            ("goaway", grpc(goaway), "unhealthy", "ends the connection"),
            ("pings", grpc(pings), "unhealthy", "it sent more than 192 KiB"),
            ("stubborn", exec(&stubborn), "unhealthy", "it did not end within 1s"),
            ("flood", exec("while :; do echo flood >&2; done"), "unchecked", "it said more than 64 KiB"),
            ("escapes", exec("printf '\\033]0;owned\\007\\033[2Jno database\\n'; exit 2"), "unhealthy", "no database"),
            ("pipe-pid", pid_file("pipe"), "unchecked", "it is no regular file"),
            ("pipe", file("pipe", ""), "unchecked", "neither a regular file nor a directory"),
            ("dangling", file("dangling", ""), "unhealthy", "has not moved for longer than 1s"),
        ];
        let mut text = "kind = \"poller\"\n".to_owned();
        for (name, probe, _, _) in &probes {
            text += &format!(
                "[[probe]]\nname = \"{name}\"\ninterval = \"1s\"\ntimeout = \"1s\"\nfall = 1\nrise = 1\n{probe}\n"
            );
        }
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", &text)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        let api = world.api().clone();
        api.wait_alive("poller/p").await?;
        for (name, _, health, words) in &probes {
            let said = wait_source(&sidecar, name, health, words).await?;
            let reason = word(&said, "reason")?;
            ensure!(!reason.chars().any(char::is_control), "a terminal would obey {reason:?}");
        }
        // Beats go on, and the honest one is looked at in its turn, for some rounds of all the others.
        let acked = async || api.metric("rollcall_heartbeats_total", "").await;
        let before = acked().await?;
        let rounds = || fs::read_to_string(&pids).unwrap_or_default().lines().count();
        let first = rounds();
        until(SOON * 3, "some rounds", async || {
            let (beats, rounds) = (acked().await? - before, rounds() - first);
            ensure!(beats >= 20.0 && rounds >= 4, "{beats} beats, {rounds} rounds");
            Ok(())
        })
        .await?;
        wait_source(&sidecar, "main", "healthy", "").await?;
        api.never_lost("poller/p").await?;
        let pid = sidecar.pid().context("no pid")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
        let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse()?;
        ensure!(peak < 128 * 1_024, "{peak} kB of memory");
        until(SOON, "nobody is left unburied", async || {
            let dead = children_of(pid).into_iter().filter(|child| state_of(child) == Some('Z')).count();
            same("the unburied", &dead, &0)
        })
        .await?;

        // What is watched is watched all the same.
        service.kill9().await?;
        wait_source(&sidecar, "main", "unhealthy", "process ").await?;
        // It changes type, and comes back.
        for (made, words) in [("dir", "it is no regular file"), ("fifo", "it is no regular file")] {
            let target = dir.join("main.pid");
            if target.is_dir() {
                fs::remove_dir(&target)?
            } else {
                fs::remove_file(&target)?
            }
            match made {
                "dir" => fs::create_dir(&target)?,
                _ => mknodat(CWD, &target, FileType::Fifo, Mode::RUSR, 0)?,
            }
            wait_source(&sidecar, "main", "unchecked", words).await?;
        }
        fs::remove_file(dir.join("main.pid"))?;
        wait_source(&sidecar, "main", "unhealthy", "there is no pid file").await?;
        service.start()?;
        fs::write(dir.join("new.pid"), service.pid().context("no pid")?.to_string())?;
        fs::rename(dir.join("new.pid"), dir.join("main.pid"))?;
        wait_source(&sidecar, "main", "healthy", "").await?;

        sidecar.terminate().await?;
        let all = fs::read_to_string(&pids)?;
        until(SOON, "what was started is gone", async || {
            let left: Vec<_> = all.split_whitespace().filter(|pid| state_of(pid).is_some_and(|s| s != 'Z')).collect();
            same("left", &left, &Vec::new())
        })
        .await
    })
    .await
}

fn state_of(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn children_of(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    children.flat_map(|children| children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// As the first process of a container it inherits whoever loses its parent, and buries them.
#[tokio::test]
async fn the_first_process_of_a_container_buries_strays() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let looks = world.dir().join("looks");
        let script = format!("setsid true & echo look >> {}; exit 0", looks.display());
        let settings = format!(
            "kind = \"poller\"\n[[probe]]\nname = \"stray\"\ntype = \"exec\"\ninterval = \"1s\"\n\
             command = [\"/bin/sh\", \"-c\", {script:?}]"
        );
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let sidecar = world.sidecar("p", &settings)?;
        sidecar.give_token(&token)?;
        let mut container = Process::installed("unshare", "container", world.dir())?;
        let own = if rustix::process::geteuid().is_root() { "-pf" } else { "-Urpf" };
        let program = find("rollcall-agent")?.display().to_string();
        let config = sidecar.state().with_file_name("agent.toml").display().to_string();
        let args = [own, "--mount-proc", "--kill-child", &program, "run", "--config", &config];
        container.args(args.map(str::to_owned));
        container.start()?;
        world.api().wait_alive("poller/p").await?;
        let outer = container.pid().context("no pid")?;
        until(SOON * 2, "some looks", async || {
            let count = fs::read_to_string(&looks)?.lines().count();
            ensure!(count >= 6, "{count}");
            Ok(())
        })
        .await?;
        let first = children_of(outer).into_iter().next().context("the container has no process")?.parse()?;
        until(SOON, "the strays are buried", async || {
            let dead = children_of(first).into_iter().filter(|child| state_of(child) == Some('Z')).count();
            // The last look's own may be on its way.
            ensure!(dead <= 2, "{dead} are not");
            Ok(())
        })
        .await?;
        container.kill9().await.map(drop)
    })
    .await
}

/// A page behind TLS: of one's own authority, of another one, ended, and under another name.
#[tokio::test]
async fn a_page_behind_tls_is_believed_by_its_certificate_alone() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let mut tasks = JoinSet::new();
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
        let authority = |name: &str| -> Result<(String, Issuer<'static, KeyPair>)> {
            let mut params = CertificateParams::new(Vec::<String>::new())?;
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = key()?;
            Ok((params.self_signed(&key)?.pem(), Issuer::new(params, key)))
        };
        let (own, issuer) = authority("ours")?;
        let (other, _) = authority("theirs")?;
        fs::write(world.dir().join("own.pem"), own)?;
        fs::write(world.dir().join("other.pem"), other)?;
        let mut tls = async |name: &str, ended: bool| -> Result<SocketAddr> {
            let mut params = CertificateParams::new([name.to_owned()])?;
            if ended {
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            }
            let key = key()?;
            let certificate = params.signed_by(&key, &issuer)?;
            let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow::anyhow!("{error}"))?;
            let config = rustls::ServerConfig::builder_with_provider(rollcall_common::identity::tls::provider())
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], private)?;
            let acceptor = TlsAcceptor::from(Arc::new(config));
            serve(&mut tasks, move |stream| {
                let acceptor = acceptor.clone();
                async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let _ = stream.read(&mut [0; 1_024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    let _ = stream.shutdown().await;
                }
            })
            .await
        };
        let (good, ended, elsewhere) =
            (tls("localhost", false).await?, tls("localhost", true).await?, tls("elsewhere.test", false).await?);
        let ca = |name: &str| format!("ca = {:?}", world.dir().join(name).display().to_string());
        let probes = [
            ("good", good, ca("own.pem"), "healthy", ""),
            ("stranger", good, ca("other.pem"), "unhealthy", "UnknownIssuer"),
            ("host", good, String::new(), "", "TLS with localhost"),
            ("anybody", good, "verify = false".to_owned(), "healthy", ""),
            ("ended", ended, ca("own.pem"), "unhealthy", "expired"),
            ("elsewhere", elsewhere, ca("own.pem"), "unhealthy", "not valid for name"),
            ("nobody", good, ca("none.pem"), "unchecked", "none.pem: No such file"),
        ];
        let mut text = "kind = \"poller\"\n".to_owned();
        for (name, addr, trust, ..) in &probes {
            let port = addr.port();
            text += &format!(
                "[[probe]]\nname = \"{name}\"\ntype = \"http\"\nurl = \"https://localhost:{port}/\"\ninterval = \"1s\"\n\
                 fall = 1\nbody = \"ok\"\n{trust}\n"
            );
        }
        let token = world.token_text(Policy::fixed(Kind::Poller, "p")).await?;
        let mut sidecar = world.sidecar("p", &text)?;
        sidecar.give_token(&token)?;
        sidecar.start()?;
        world.api().wait_alive("poller/p").await?;
        for (name, _, _, health, words) in &probes {
            // Whether this host keeps certificates is its own affair; ours is not among them.
            let health = if health.is_empty() { word_of(&sidecar, name).await? } else { (*health).to_owned() };
            ensure!(*name != "host" || health != "healthy", "a stranger's authority is believed");
            let words = if *name == "host" { "" } else { words };
            wait_source(&sidecar, name, &health, words).await?;
        }
        // A certificate that was replaced is believed at the next look.
        fs::copy(world.dir().join("own.pem"), world.dir().join("other.pem"))?;
        wait_source(&sidecar, "stranger", "healthy", "").await?;
        sidecar.terminate().await.map(drop)
    })
    .await
}

/// What it says once it has looked.
async fn word_of(sidecar: &Sidecar, name: &str) -> Result<String> {
    until(SOON, "it has looked", async || {
        let said = source(sidecar, name).await?;
        ensure!(word(&said, "reason")? != "not looked at yet", "{said}");
        Ok(word(&said, "health")?.to_owned())
    })
    .await
}
