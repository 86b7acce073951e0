//! The socket itself, and callers who mean no good.

use rollcall_common::{
    address::Address,
    time::{Clock as _, SystemClock},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    health::{SharedHealth, Subject},
    status::{Errors, SettingsView, Stage},
};

/// How long anything may take on a loaded machine.
const SOON: Duration = Duration::from_secs(30);

struct Place {
    dir: tempfile::TempDir,
    health: SharedHealth,
    port: SocketAddr,
    _serving: tokio_util::task::AbortOnDropHandle<()>,
}

impl Place {
    fn start(loopback_reports: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut local = Local::bind(&dir.path().join("s")).unwrap();
        let port = local.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let clock = Arc::new(SystemClock);
        let board = Board {
            stage: Stage::Stopping,
            service: None,
            addresses: vec![Address::from(port)],
            warnings: vec![],
            errors: Errors::default(),
            settings: SettingsView::default(),
            started: clock.now().wall,
        };
        let health = SharedHealth::default();
        let house = House::new(Arc::new(Mutex::new(board)), health.clone(), clock, Arc::new(loopback_reports.into()));
        let task = TaskTracker::new().spawn(local.serve(house));
        Self { dir, health, port, _serving: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, body) = client::call(&self.socket(), method, path, body.as_bytes()).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

async fn raw(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    let exchange = async {
        // Whoever is turned away early may not get all of it out.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(SOON, exchange).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_socket_of_a_killed_sidecar_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    let first = Local::bind(&path).unwrap();
    assert!(matches!(Local::bind(&path), Err(LocalError::Taken(_))));
    // A kill leaves the file and closes the socket.
    let path_kept = dir.path().join("kept");
    std::fs::rename(&path, &path_kept).unwrap();
    drop(first);
    std::fs::rename(&path_kept, &path).unwrap();
    let second = Local::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    drop(second);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Local::bind(&path), Err(LocalError::InTheWay(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_path_that_is_too_long_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let error = Local::bind(&dir.path().join("x".repeat(120))).unwrap_err();
    assert!(error.to_string().contains("set another `socket`"), "{error}");
}

#[tokio::test]
async fn any_program_reports_and_all_answers_agree() {
    let place = Place::start(false);
    assert_eq!(place.call("GET", "/health", "").await.0, 200, "nobody looks, and nobody complains");
    let bad = r#"{"source":"app","health":"unhealthy","reason":"no database","ttl_s":600}"#;
    assert_eq!(place.call("POST", "/report", bad).await, (204, String::new()));
    let (status, health) = place.call("GET", "/health", "").await;
    assert_eq!(status, 503);
    assert!(health.contains(r#""service":{"ok":false,"state":"unhealthy","reason":"app: no database"}"#), "{health}");
    assert_eq!(place.call("GET", "/health?of=progress", "").await.0, 200);
    assert_eq!(place.call("POST", "/progress", r#"{"name":"queue","count":7,"within_s":60}"#).await.0, 204);
    assert_eq!(place.call("POST", "/progress", "").await.0, 204, "curl -X POST is enough");
    let report = ask(&place.socket()).await.unwrap();
    let names: Vec<_> = report.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["app", "progress", "queue"]);
    assert_eq!(report.sources[2].count, Some(7));
    assert_eq!(report.sources[0].uid, Some(rustix::process::geteuid().as_raw()), "the kernel says who");
    let (status, metrics) = place.call("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("rollcall_agent_health{fact=\"service\",health=\"unhealthy\"} 1\n"), "{metrics}");
    assert!(metrics.contains("source=\"app\"} 3\n"), "{metrics}");
    assert_eq!(place.call("POST", "/report", r#"{"source":"app","withdraw":true}"#).await.0, 204);
    assert_eq!(place.call("GET", "/health", "").await.0, 200);
}

/// What Prometheus' own tool says of the page.
#[tokio::test]
async fn the_figures_are_clean() {
    let place = Place::start(false);
    place.call("POST", "/report", r#"{"health":"degraded","reason":"a \"quote\"\nand \\ more"}"#).await;
    let (_, metrics) = place.call("GET", "/metrics", "").await;
    let mut names: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    for name in &names {
        let (name, sort) = name.split_once(' ').unwrap();
        assert!(name.starts_with("rollcall_agent_"), "{name}");
        assert_eq!(name.ends_with("_total"), sort == "counter", "{name} is a {sort}");
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a family twice");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("rollcall_agent_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_and_changes_nothing() {
    let place = Place::start(false);
    let long = format!(r#"{{"health":"healthy","reason":"{}"}}"#, "x".repeat(http::MAX_BODY));
    for (method, path, body, wanted) in [
        ("GET", "/", "", 404),
        ("GET", "/report", "", 405),
        ("POST", "/status", "", 405),
        ("DELETE", "/report", "", 405),
        ("GET", "/health?of=everything", "", 400),
        ("GET", "/health?or=service", "", 400),
        ("POST", "/report", "", 400),
        ("POST", "/report", "health=healthy", 400),
        ("POST", "/report", r#"{"health":"splendid"}"#, 400),
        ("POST", "/report", r#"{"health":"healthy","secret":1}"#, 400),
        ("POST", "/report", r#"{"reason":"why"}"#, 422),
        ("POST", "/report", r#"{"health":"unchecked"}"#, 422),
        ("POST", "/report", r#"{"health":"healthy","ttl_s":0}"#, 422),
        ("POST", "/report", r#"{"health":"healthy","ttl_s":9999999}"#, 422),
        ("POST", "/report", r#"{"health":"healthy","source":"../etc"}"#, 400),
        ("POST", "/report", r#"{"health":"healthy","child":"checker/c1"}"#, 422),
        ("POST", "/progress", r#"{"count":-1}"#, 400),
        ("POST", "/progress", "[", 400),
        ("POST", "/report", &long, 413),
    ] {
        let (status, answer) = place.call(method, path, body).await;
        assert_eq!(status, wanted, "{method} {path} {body:.60}: {answer}");
        assert!(answer.contains("\"error\":"), "{answer}");
    }
    assert!(place.health.read(|board| board.of(&Subject::Own).next().is_none()));
}

#[tokio::test]
async fn loopback_tells_and_takes_nothing_unless_it_may() {
    let place = Place::start(false);
    let request = |head: &str| format!("{head}\r\nconnection: close\r\n\r\n");
    let ask = async |head: &str| raw(TcpStream::connect(place.port).await.unwrap(), request(head).as_bytes()).await;
    let status = ask("GET /status HTTP/1.1\r\nhost: localhost:1").await;
    assert!(status.starts_with("HTTP/1.1 200 ") && status.contains("\"state\":\"stopping\""), "{status}");
    for head in [
        "POST /progress HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0",
        "GET /status HTTP/1.1\r\nhost: evil.example",
        "GET /status HTTP/1.1\r\nhost: 127.0.0.1.evil.example:80",
        "GET /status HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example",
        "GET /status HTTP/1.0",
    ] {
        let answer = ask(head).await;
        assert!(answer.contains(" 403 "), "{head}: {answer}");
    }
    let open = Place::start(true);
    let post = request("POST /progress HTTP/1.1\r\nhost: [::1]:80\r\ncontent-length: 0");
    let answer = raw(TcpStream::connect(open.port).await.unwrap(), post.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn nobody_speaks_under_another_ones_name() {
    let place = Place::start(true);
    let said = r#"{"source":"app","health":"unhealthy"}"#;
    assert_eq!(place.call("POST", "/report", said).await.0, 204);
    let body = r#"{"source":"app","health":"healthy"}"#;
    let post = format!("POST /report HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = raw(TcpStream::connect(place.port).await.unwrap(), post.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("take another name"), "{answer}");
    assert_eq!(place.call("GET", "/health", "").await.0, 503, "what was said stands");
}

/// Slow ones, many of them, and garbage: whoever asks properly is answered all the same.
#[tokio::test]
async fn a_hostile_crowd_disturbs_only_itself() {
    let place = Place::start(true);
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(place.port).await.unwrap();
        stream.write_all(b"POST /report HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000\r\n").await.unwrap();
        slow.push(stream);
        if n % 10 == 0 {
            assert_eq!(place.call("GET", "/health", "").await.0, 200);
        }
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"POST /report HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /report HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n\r\n",
        b"POST /report HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        &[b'A'; 100_000],
    ] {
        let mut stream = UnixStream::connect(place.socket()).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let answer = raw(stream, b"").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(place.call("GET", "/status", "").await.0, 200);
    let (_, metrics) = place.call("GET", "/metrics", "").await;
    let crowded = metrics
        .lines()
        .find_map(|line| line.strip_prefix("rollcall_agent_local_callers_lost_total{reason=\"crowded\"} "));
    assert!(crowded.unwrap().parse::<f64>().unwrap() >= 80.0, "{metrics}");
}
