//! Looks at real sockets, files and programs: what each says of what it may meet.

use std::{future::pending, io::Write as _, net::SocketAddr, process::Stdio};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinSet,
};

use super::*;
use crate::probe::plan::{Grpc, Http, Moves, Process, Progress, Target, Trust, Url};

const SOON: Duration = Duration::from_secs(30);

async fn see(check: Check) -> Look {
    look(&check, SOON, &Host::default(), None).await
}

/// A server that does the same with each connection.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut answering = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answering.spawn(answer(stream));
        }
    });
    addr
}

/// A server that reads a request's head and says these bytes.
async fn says(tasks: &mut JoinSet<()>, answer: String) -> SocketAddr {
    serve(tasks, move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn page(url: String) -> Http {
    Http { url: Url::read(&url).unwrap(), status: vec![(200, 299)], body: None, redirects: 0, trust: Trust::Host }
}

#[tokio::test]
async fn ports() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::read(&listener.local_addr().unwrap().to_string()).unwrap();
    let seen = see(Check::Tcp(target.clone())).await;
    assert_eq!((seen.health, seen.alive), (Health::Healthy, Some(true)));
    let by_name = Target { host: "localhost".into(), ..target.clone() };
    assert_eq!(see(Check::Tcp(by_name)).await.health, Health::Healthy);
    drop(listener);
    let seen = see(Check::Tcp(target.clone())).await;
    assert_eq!((seen.health, seen.alive), (Health::Unhealthy, Some(false)));
    assert_eq!(seen.words, format!("{target} refuses connections"));
}

#[tokio::test]
async fn pages_are_what_they_are_expected_to_be_or_it_is_said_why_not() {
    let mut tasks = JoinSet::new();
    let good = says(&mut tasks, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nit is ok!".into()).await;
    let ill = says(&mut tasks, "HTTP/1.1 503 Nope\r\ncontent-length: 0\r\n\r\n".into()).await;
    let garbage = says(&mut tasks, "SSH-2.0-OpenSSH_9.2\r\n".into()).await;
    let silent = says(&mut tasks, String::new()).await;
    let cut = says(&mut tasks, "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nshort".into()).await;
    let long = says(&mut tasks, format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(40_000))).await;
    for (http, health, words) in [
        (page(format!("http://{good}/")), Health::Healthy, "answers 200 OK"),
        (
            Http { body: Some("is ok".into()), ..page(format!("http://{good}/")) },
            Health::Healthy,
            "answers 200 OK with",
        ),
        (Http { body: Some("no".into()), ..page(format!("http://{good}/")) }, Health::Unhealthy, "but not with \"no\""),
        (page(format!("http://{ill}/")), Health::Unhealthy, "answers 503 Service Unavailable"),
        (Http { status: vec![(503, 503)], ..page(format!("http://{ill}/")) }, Health::Healthy, "answers 503"),
        (page(format!("http://{garbage}/")), Health::Unhealthy, "something that is no HTTP"),
        (page(format!("http://{silent}/")), Health::Unhealthy, "closed the connection without an answer"),
        (Http { body: Some("no".into()), ..page(format!("http://{cut}/")) }, Health::Unhealthy, "its body breaks off"),
        (page(format!("http://{long}/")), Health::Unhealthy, "no HTTP"),
        (page(format!("https://{good}/")), Health::Unhealthy, "TLS with"),
    ] {
        let shown = format!("{http:?}");
        let seen = see(Check::Http(http)).await;
        assert_eq!(seen.health, health, "{shown}: {}", seen.words);
        assert!(seen.words.contains(words), "{shown}: {}", seen.words);
        assert_eq!(seen.alive, Some(true), "an answer of any kind is one");
    }
}

#[tokio::test]
async fn redirects_are_followed_as_often_as_allowed() {
    let mut tasks = JoinSet::new();
    let round = says(&mut tasks, "HTTP/1.1 302 x\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n".into()).await;
    let good = says(&mut tasks, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
    let there =
        says(&mut tasks, format!("HTTP/1.1 301 x\r\nlocation: http://{good}/\r\ncontent-length: 0\r\n\r\n")).await;
    let nowhere = says(&mut tasks, "HTTP/1.1 302 x\r\nlocation: ftp://x\r\ncontent-length: 0\r\n\r\n".into()).await;
    let hops = |addr, redirects| Http { redirects, ..page(format!("http://{addr}/")) };
    for (http, health, words) in [
        (hops(round, 0), Health::Unhealthy, "redirects are not followed"),
        (hops(round, 10), Health::Unhealthy, "leads on and on: 10 redirects were followed"),
        (hops(there, 1), Health::Healthy, "answers 200"),
        (hops(nowhere, 1), Health::Unhealthy, "\"ftp://x\""),
    ] {
        let seen = see(Check::Http(http)).await;
        assert_eq!(seen.health, health, "{}", seen.words);
        assert!(seen.words.contains(words), "{}", seen.words);
    }
}

/// Whoever never ends answering costs a look its time and 64 KiB, no more.
#[tokio::test]
async fn who_floods_or_hangs_is_left() {
    let mut tasks = JoinSet::new();
    let flood = serve(&mut tasks, |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 8_192]).await.is_ok() {}
    })
    .await;
    let flooded = Http { body: Some("needle".into()), ..page(format!("http://{flood}/")) };
    let seen = see(Check::Http(flooded)).await;
    assert!(seen.words.contains("but not with"), "{}", seen.words);
    let hang = serve(&mut tasks, |stream| async move {
        pending::<()>().await;
        drop(stream);
    })
    .await;
    let host = Host::default();
    let target = Target::read(&hang.to_string()).unwrap();
    let grpc = Grpc { url: Url::read(&format!("http://{hang}")).unwrap(), service: String::new(), trust: Trust::Host };
    for check in [Check::Http(page(format!("http://{hang}/"))), Check::Grpc(grpc)] {
        let seen = look(&check, Duration::from_millis(50), &host, None).await;
        assert_eq!((seen.health, seen.alive), (Health::Unhealthy, None));
        assert_eq!(seen.words, "no answer within 50ms");
    }
    assert_eq!(look(&Check::Tcp(target), SOON, &host, None).await.health, Health::Healthy);
}

/// A health service of HTTP/2, which says this status.
async fn health_service(tasks: &mut JoinSet<()>, message: &'static [u8], status: &'static str) -> SocketAddr {
    serve(tasks, move |stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let head = hyper::Response::builder().header("content-type", "application/grpc");
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(bytes::Bytes::from_static(message), false).unwrap();
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn grpc_health() {
    let mut tasks = JoinSet::new();
    let serving = health_service(&mut tasks, &[0, 0, 0, 0, 2, 8, 1], "0").await;
    let not_serving = health_service(&mut tasks, &[0, 0, 0, 0, 2, 8, 2], "0").await;
    let without = health_service(&mut tasks, &[], "12").await;
    let unknown = health_service(&mut tasks, &[], "5").await;
    let garbled = health_service(&mut tasks, &[9, 9, 9], "0").await;
    let http = says(&mut tasks, "HTTP/1.1 400 Bad Request\r\n\r\n".into()).await;
    for (addr, health, words) in [
        (serving, Health::Healthy, "is serving"),
        (not_serving, Health::Unhealthy, "a.B says that it is not serving"),
        (without, Health::Unchecked, "has no gRPC health service"),
        (unknown, Health::Unhealthy, "knows no service \"a.B\""),
        (garbled, Health::Unhealthy, "something that is no health"),
        (http, Health::Unhealthy, "does not speak gRPC"),
    ] {
        let url = Url::read(&format!("http://{addr}")).unwrap();
        let seen = see(Check::Grpc(Grpc { url, service: "a.B".into(), trust: Trust::Host })).await;
        assert_eq!(seen.health, health, "{}", seen.words);
        assert!(seen.words.contains(words), "{}", seen.words);
    }
}

fn shell(script: &str) -> Check {
    Check::Exec(["/bin/sh", "-c", script].map(str::to_owned).into())
}

#[tokio::test]
async fn programs_tell_by_their_exit_code() {
    for (script, health, words) in [
        ("echo 'OK - fine | load=3'; exit 0", Health::Healthy, "OK - fine"),
        ("echo slow; exit 1", Health::Degraded, "slow"),
        ("echo >&2 broken; exit 2", Health::Unhealthy, "broken"),
        ("exit 3", Health::Unhealthy, "exit code 3, without a word"),
        ("printf 'a\\033[2Jb\\n'", Health::Healthy, "a [2Jb"),
        ("kill -9 $$", Health::Unhealthy, "it was ended by signal 9"),
        ("while :; do echo flood; done", Health::Unchecked, "it said more than 64 KiB and was stopped"),
        ("test -z \"$HOME$CARGO_MANIFEST_DIR\" && pwd", Health::Healthy, "/"),
    ] {
        let seen = see(shell(script)).await;
        assert_eq!((seen.health, seen.words.as_str()), (health, words), "{script}");
    }
    let missing = see(Check::Exec(vec!["/nonexistent/check".into()])).await;
    assert_eq!(missing.health, Health::Unchecked);
    assert!(missing.words.starts_with("cannot run /nonexistent/check: "), "{}", missing.words);
}

/// What a program started goes with it: when it ends and when it takes too long.
#[tokio::test]
async fn a_program_goes_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    for (script, timeout) in [("", SOON), ("; wait", Duration::from_millis(500))] {
        let file = dir.path().join(format!("pid{}", script.len()));
        let script = format!("sleep 1000 & echo $! > {}{script}", file.display());
        let seen = look(&shell(&script), timeout, &Host::default(), None).await;
        if timeout == SOON {
            assert_eq!(seen.health, Health::Healthy, "it need not wait for what keeps its output open");
        } else {
            assert_eq!(seen.words, "it did not end within 500ms");
        }
        let pid = std::fs::read_to_string(&file).unwrap();
        until_gone(pid.trim()).await;
    }
}

async fn until_gone(pid: &str) {
    let gone = async {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it is killed");
}

/// A process that does nothing, and the name of its program.
fn sleeper(dir: &Path, name: &str) -> tokio::process::Child {
    let program = dir.join(name);
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let mut command = tokio::process::Command::new(program);
    command.arg("1000").stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test]
async fn processes_are_found_held_and_missed() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("rollcall-{}-sleeper", std::process::id());
    let mut child = sleeper(dir.path(), &name);
    let pid = child.id().unwrap();
    let file = dir.path().join("x.pid");
    std::fs::write(&file, format!("{pid}\n")).unwrap();
    let by_file =
        |name: Option<&str>| Check::Process(Process::PidFile { file: file.clone(), name: name.map(str::to_owned) });
    let by_name = Check::Process(Process::Name(name.clone()));
    for check in [by_file(None), by_file(Some(&name)), by_name.clone()] {
        let seen = see(check).await;
        assert_eq!((seen.health, seen.alive), (Health::Healthy, Some(true)), "{}", seen.words);
        let Some(Prey::Process(_, held)) = &seen.prey else { panic!("{seen:?}") };
        assert_eq!(u32::try_from(*held).unwrap(), pid);
    }
    let other = see(by_file(Some("nginx"))).await;
    assert_eq!((other.health, other.alive), (Health::Unhealthy, Some(false)));
    assert!(other.words.ends_with(", not nginx"), "{}", other.words);

    let prey = see(by_name.clone()).await.prey.unwrap();
    child.start_kill().unwrap();
    let ended = tokio::time::timeout(SOON, crate::probe::watch::end_of(&prey)).await;
    ended.expect("its end is noticed").unwrap();
    // It is gone even while nobody has collected it.
    let gone = see(by_file(None)).await;
    assert_eq!((gone.health, gone.alive), (Health::Unhealthy, Some(false)));
    assert_eq!(gone.words, format!("process {pid} of {} is gone", file.display()));
    child.wait().await.unwrap();
    assert_eq!(see(by_name).await.words, format!("no process {name} runs"));
    assert_eq!(see(by_file(None)).await.health, Health::Unhealthy);
}

#[tokio::test]
async fn a_pid_file_may_hold_anything() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pid");
    let check = Check::Process(Process::PidFile { file: file.clone(), name: None });
    let missing = see(check.clone()).await;
    assert_eq!((missing.health, missing.alive), (Health::Unhealthy, Some(false)));
    assert!(missing.words.starts_with("there is no pid file"), "{}", missing.words);
    for (text, words) in [
        ("garbage", "holds no process number but \"garbage\""),
        ("", "holds no process number but \"\""),
        ("-1", "holds no process number but \"-1\""),
        ("0", "holds no process number"),
        ("99999999999999999999", "holds no process number"),
        ("\u{1b}[2J\nx", "holds no process number"),
        ("4194305", "is gone"),
    ] {
        std::fs::write(&file, text).unwrap();
        let seen = see(check.clone()).await;
        assert_eq!(seen.health, Health::Unhealthy);
        assert!(seen.words.contains(words), "{text:?}: {}", seen.words);
    }
    // Not a file, and one that nobody ever writes to.
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let seen = see(check).await;
    assert_eq!((seen.health, seen.alive), (Health::Unchecked, None));
    assert!(seen.words.ends_with("it is no regular file"), "{}", seen.words);
}

/// As under hidepid=2 or ProtectProc=invisible: nobody but ourselves is to be seen.
#[tokio::test]
async fn a_hidden_proc_is_told_from_a_dead_process() {
    let proc = tempfile::tempdir().unwrap();
    let host = Host { proc: proc.path().into(), ..Host::default() };
    let seen = look(&Check::Process(Process::Name("nginx".into())), SOON, &host, None).await;
    assert_eq!((seen.health, seen.alive), (Health::Unchecked, None));
    assert!(seen.words.contains("no process nginx can be seen") && seen.words.contains("hidepid"), "{}", seen.words);
    // Who has a number is held all the same.
    let file = proc.path().join("x.pid");
    std::fs::write(&file, std::process::id().to_string()).unwrap();
    let by_file =
        |name: Option<&str>| Check::Process(Process::PidFile { file: file.clone(), name: name.map(str::to_owned) });
    assert_eq!(look(&by_file(None), SOON, &host, None).await.health, Health::Healthy);
    assert_eq!(look(&by_file(Some("x")), SOON, &host, None).await.health, Health::Unchecked);
    let nowhere = Host { proc: "/nonexistent".into(), ..Host::default() };
    let seen = look(&Check::Process(Process::Name("nginx".into())), SOON, &nowhere, None).await;
    assert_eq!(seen.health, Health::Unchecked);
}

#[tokio::test]
async fn control_groups() {
    let root = tempfile::tempdir().unwrap();
    let group = root.path().join("system.slice/x.service");
    std::fs::create_dir_all(&group).unwrap();
    let host = Host { cgroups: vec![root.path().into()], ..Host::default() };
    let check = Check::Process(Process::Cgroup("system.slice/x.service".into()));
    let events = group.join("cgroup.events");
    std::fs::write(&events, "populated 1\nfrozen 0\n").unwrap();
    let seen = look(&check, SOON, &host, None).await;
    assert_eq!(seen.health, Health::Healthy, "{}", seen.words);
    let prey = seen.prey.unwrap();
    let (noticed, ()) = tokio::join!(crate::probe::watch::end_of(&prey), async {
        // In place, as the kernel does.
        let mut file = std::fs::File::options().write(true).open(&events).unwrap();
        file.write_all(b"populated 0\nfrozen 0\n").unwrap();
    });
    noticed.unwrap();
    assert_eq!(look(&check, SOON, &host, None).await.words, "nothing runs in cgroup system.slice/x.service");
    std::fs::remove_file(&events).unwrap();
    std::fs::write(group.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
    assert_eq!(look(&check, SOON, &host, None).await.health, Health::Healthy, "the older hierarchy");
    std::fs::remove_dir_all(&group).unwrap();
    let seen = look(&check, SOON, &host, None).await;
    assert_eq!((seen.health, seen.alive), (Health::Unhealthy, Some(false)));
    let none = Host { cgroups: vec!["/nonexistent".into()], ..Host::default() };
    assert_eq!(look(&check, SOON, &none, None).await.health, Health::Unchecked);
}

#[tokio::test]
async fn files_move_or_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("counter");
    let marked = async |moves| {
        let progress = Progress { file: file.clone(), within: SOON, moves };
        let seen = see(Check::Progress(progress)).await;
        assert_eq!(seen.health, Health::Healthy, "{}", seen.words);
        seen.mark
    };
    assert_eq!(marked(Moves::Content).await, None, "not there");
    std::fs::write(&file, "41").unwrap();
    let (content, size, mtime) = (marked(Moves::Content).await, marked(Moves::Size).await, marked(Moves::Mtime).await);
    assert!(content.is_some() && size.is_some() && mtime.is_some());
    std::fs::write(&file, "42").unwrap();
    assert_ne!(marked(Moves::Content).await, content);
    assert_eq!(marked(Moves::Size).await, size);
    std::fs::write(&file, "100").unwrap();
    assert_ne!(marked(Moves::Size).await, size);
    let past = std::time::UNIX_EPOCH + Duration::from_secs(1);
    std::fs::File::open(&file).unwrap().set_modified(past).unwrap();
    assert_ne!(marked(Moves::Mtime).await, mtime);
    // A directory that files come and go in moves too; other things that are no file cannot be looked at.
    let fifo = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let huge = dir.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    for (file, moves, health, is_marked) in [
        (dir.path(), Moves::Content, Health::Unchecked, false),
        (dir.path(), Moves::Size, Health::Unchecked, false),
        (dir.path(), Moves::Mtime, Health::Healthy, true),
        (&fifo, Moves::Content, Health::Unchecked, false),
        (&fifo, Moves::Mtime, Health::Unchecked, false),
        (Path::new("/dev/zero"), Moves::Content, Health::Unchecked, false),
        (Path::new("/dev/zero"), Moves::Mtime, Health::Unchecked, false),
        (&dangling, Moves::Mtime, Health::Healthy, false),
        (&huge, Moves::Content, Health::Healthy, true),
        (&huge, Moves::Size, Health::Healthy, true),
    ] {
        let seen = see(Check::Progress(Progress { file: file.into(), within: SOON, moves })).await;
        assert_eq!((seen.health, seen.mark.is_some()), (health, is_marked), "{}: {}", file.display(), seen.words);
    }
}

/// A file that hangs costs its own probe, and nobody else's: not even that of a file beside it.
#[tokio::test]
async fn a_file_system_that_hangs_costs_nobody_else() {
    let host = Host::default();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let hangs = host.files.lend("/nfs/counter", move || wait.recv().is_ok());
    assert!(tokio::time::timeout(Duration::from_millis(50), hangs).await.is_err());
    let progress = |file: &str| Check::Progress(Progress { file: file.into(), within: SOON, moves: Moves::Mtime });
    let seen = look(&progress("/nfs/counter"), SOON, &host, None).await;
    assert_eq!(seen.health, Health::Unchecked);
    assert!(seen.words.contains("still hangs at /nfs/counter"), "{}", seen.words);
    assert_eq!(look(&progress("/etc/hostname"), SOON, &host, None).await.health, Health::Healthy);
    drop(go);
    // Where all places are taken, whoever waits for one says so.
    let mut hanging = Vec::new();
    for n in 0..FILES.0 + FILES.1 {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let what = format!("/nfs/{n}");
        let hangs =
            tokio::time::timeout(Duration::from_millis(20), host.files.lend(&what, move || wait.recv().is_ok()));
        hanging.push((go, hangs.await.is_err()));
    }
    let seen = look(&progress("/etc/hostname"), Duration::from_millis(50), &host, None).await;
    assert_eq!(seen.health, Health::Unchecked);
    assert!(seen.words.contains("does a file system hang?"), "{}", seen.words);
}

/// A program that the kernel does not let go is not started again beside itself.
#[tokio::test]
async fn what_cannot_be_killed_is_not_started_twice() {
    let host = Host::default();
    let words = ["/bin/true".to_owned()];
    let mut command = tokio::process::Command::new("sleep");
    let stuck = command.arg("1000").stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let pid = stuck.id().unwrap();
    host.remains.leave(&words, stuck);
    let check = Check::Exec(words.to_vec());
    let seen = look(&check, SOON, &host, None).await;
    assert_eq!((seen.health, seen.alive), (Health::Unhealthy, None));
    assert!(seen.words.ends_with(&format!("the kernel holds process {pid}")), "{}", seen.words);
    assert_eq!(look(&shell("true"), SOON, &host, None).await.health, Health::Healthy, "another one is not in its way");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let again = async {
        while look(&check, SOON, &host, None).await.health != Health::Healthy {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("it is started again");
}

/// Whoever ignores the polite signal, with children that do too, is gone with the look, and nobody is left unburied.
#[tokio::test]
async fn a_program_that_heeds_nothing_is_buried_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!(
        "trap '' TERM INT HUP; for n in 1 2 3; do (trap '' TERM INT HUP; while :; do sleep 1000; done) & \
         echo $! >> {0}; done; echo $$ >> {0}; while :; do sleep 1000; done",
        file.display()
    );
    let host = Host::default();
    let seen = look(&shell(&script), Duration::from_millis(700), &host, None).await;
    assert_eq!(seen.words, "it did not end within 700ms");
    let pids = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pids.lines().count(), 4, "{pids}");
    for pid in pids.lines() {
        until_gone(pid).await;
    }
    let own = format!("/proc/{}/stat", pids.lines().last().unwrap());
    assert!(std::fs::read_to_string(own).is_err(), "our own child was waited for");
}

/// A bus that lets us in and answers each property with the next of these.
async fn bus(path: &Path, tasks: &mut JoinSet<()>, answers: &'static [&'static [u8]]) {
    let listener = UnixListener::bind(path).unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = vec![0; 4_096];
            let _ = stream.read(&mut said).await;
            let _ = stream.write_all(b"OK 0123\r\n").await;
            let _ = stream.read(&mut said).await;
            // A signal that nobody asked for, then the answers: serial in field 5, the body behind.
            for (n, body) in answers.iter().enumerate() {
                let serial = u32::try_from(n).unwrap() + 2;
                let mut message = vec![b'l', 2, 1, 1];
                message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
                message.extend([9, 0, 0, 0, 8, 0, 0, 0, 5, 1, b'u', 0]);
                message.extend(serial.to_le_bytes());
                message.extend(*body);
                let _ = stream.write_all(&message).await;
            }
            let _ = stream.read(&mut said).await;
        }
    });
}

#[tokio::test]
async fn units_are_asked_over_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = JoinSet::new();
    let check = Check::Systemd("x.service".into());
    let host = |name: &str| Host { bus: dir.path().join(name), ..Host::default() };
    let nobody = look(&check, SOON, &host("nobody"), None).await;
    assert_eq!(nobody.health, Health::Unchecked);
    assert!(nobody.words.contains("does systemd run here?"), "{}", nobody.words);

    bus(
        &dir.path().join("good"),
        &mut tasks,
        &[
            b"\x01s\0\0\x06\0\0\0loaded\0",
            b"\x01s\0\0\x06\0\0\0active\0",
            b"\x01s\0\0\x07\0\0\0running\0",
            b"\x01s\0\0\x07\0\0\0success\0",
            b"\x01u\0\0\x01\0\0\0",
            b"\x01s\0\0\x00\0\0\0\0",
            b"\x01s\0\0\x06\0\0\0notify\0",
            b"\x01t\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
        ],
    )
    .await;
    let seen = look(&check, SOON, &host("good"), None).await;
    assert_eq!((seen.health, seen.words.as_str()), (Health::Healthy, "x.service is active (running)"));
    assert!(matches!(seen.prey, Some(Prey::Process(_, 1))), "{:?}", seen.prey);

    let listener = UnixListener::bind(dir.path().join("bad")).unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"REJECTED EXTERNAL\r\n").await;
        }
    });
    let seen = look(&check, SOON, &host("bad"), None).await;
    assert!(seen.words.ends_with("it does not let us in"), "{}", seen.words);
    let listener = UnixListener::bind(dir.path().join("long")).unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"OK 0\r\nl\x02\x01\x01\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff").await;
            pending().await
        }
    });
    let seen = look(&check, SOON, &host("long"), None).await;
    assert!(seen.words.ends_with("its message is too long"), "{}", seen.words);
    assert_eq!(seen.health, Health::Unchecked);
}
