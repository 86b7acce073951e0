//! Real files, a real web server and a real TLS server that fail and come back: in order, at least once.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use rollcall_common::time::Timestamp;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{
    audit::sealer::{Head, Sealer},
    store::{
        rows::Change,
        sqlite::SqliteStore,
        suite::samples::{NOON, event},
    },
};

struct Trail {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    store: Arc<dyn RegistryStore>,
    sealer: Sealer,
    kept: Arc<Mutex<Cursor>>,
}

impl Trail {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn RegistryStore> = Arc::new(SqliteStore::open(&dir.path().join("r.db")).await.unwrap());
        let sealer = Sealer::new(Arc::clone(&store), 7, Arc::new(Head::default()), Arc::new(|_| {}));
        Self { path: dir.path().into(), _dir: dir, store, sealer, kept: Arc::default() }
    }

    async fn did(&self, count: usize) {
        let audit = (0..count).map(|n| event("service.did", &format!("agent/a{n}"))).collect();
        self.store.commit(&[Change { writes: Vec::new(), audit }], NOON).await.unwrap();
    }

    async fn sealed(&self) {
        assert!(self.sealer.seal(true, Timestamp(NOON.0)).await.unwrap());
    }

    /// A run that begins where the last one stood, as after a restart.
    fn run(&self, outlet: impl Outlet + 'static) -> Run {
        let kept = Arc::clone(&self.kept);
        let cursor = *self.kept.lock().unwrap();
        Run {
            outlet: Box::new(outlet),
            store: Arc::clone(&self.store),
            head: watch::Sender::new(Seq(0)).subscribe(),
            cursor,
            keep: Arc::new(move |cursor| {
                *kept.lock().unwrap() = cursor;
                Ok(())
            }),
            lag: Gauge::default(),
            passed: Arc::new(cursor.seq.0.into()),
            seed: 1,
        }
    }
}

fn places(text: &str) -> Vec<String> {
    let place = |line: &str| match serde_json::from_str(line).unwrap() {
        Line::Event(event) => format!("e{}", event.seq),
        Line::Seal(seal) => format!("s{}", seal.no),
    };
    text.lines().map(place).collect()
}

#[tokio::test]
async fn a_file_gets_every_line_in_order_through_rotation_and_restart() {
    let trail = Trail::new().await;
    let file = trail.path.join("audit.jsonl");
    trail.did(2).await;
    let mut run = trail.run(JsonLines(file.clone()));
    assert!(run.once().await.unwrap());
    trail.sealed().await;
    trail.did(1).await;
    assert!(run.once().await.unwrap());
    assert!(!run.once().await.unwrap(), "nothing twice");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(places(&text), ["e1", "e2", "s1", "e3"]);
    assert!(crate::audit::offline::verify(text.as_bytes(), None).is_ok());
    // Moved away, and killed in the middle of a line.
    std::fs::rename(&file, trail.path.join("old")).unwrap();
    std::fs::write(&file, "{\"event\":").unwrap();
    trail.did(1).await;
    let mut run = trail.run(JsonLines(file.clone()));
    assert!(run.once().await.unwrap());
    assert_eq!(places(std::fs::read_to_string(&file).unwrap().split_once('\n').unwrap().1), ["e4"]);
    trail.store.close().await;
}

#[tokio::test]
async fn a_web_hook_gets_signed_batches_again_until_it_takes_them() {
    let trail = Trail::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (seen, left) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(2)));
    let mut server = JoinSet::new();
    let held = Arc::clone(&seen);
    server.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut head, mut line) = (String::new(), String::new());
            while stream.read_line(&mut line).await.unwrap() > 2 {
                head.push_str(&line.to_lowercase());
                line.clear();
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            held.lock().unwrap().push((head, String::from_utf8(body).unwrap()));
            let status = if left.load(SeqCst) > 0 { "503 Busy" } else { "204 Taken" };
            left.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    trail.did(3).await;
    trail.sealed().await;
    let mut run = trail.run(Webhook::new(&url, b"secret").unwrap());
    assert!(run.once().await.is_err() && run.once().await.is_err());
    assert!(run.once().await.unwrap());
    assert!(!run.once().await.unwrap());
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3);
    let key = hmac_of(b"secret", seen[0].1.as_bytes());
    for (head, body) in &seen {
        assert_eq!(places(body), ["e1", "e2", "e3", "s1"]);
        assert!(head.contains("idempotency-key: rollcall-e1-s1"), "{head}");
        assert!(head.contains(&format!("x-rollcall-signature: sha256={key}")), "{head}");
    }
    for bad in ["http://hooks.example.net/x", "ftp://127.0.0.1/", "https://u:p@h/", "no"] {
        assert!(Webhook::new(bad, b"s").is_err(), "{bad}");
    }
    trail.store.close().await;
}

fn hmac_of(secret: &[u8], body: &[u8]) -> String {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    data_encoding::HEXLOWER.encode(sign(&Key::new(HMAC_SHA256, secret), body).as_ref())
}

#[tokio::test]
async fn a_syslog_server_gets_counted_messages_and_only_if_it_is_the_right_one() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let trail = Trail::new().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut server = JoinSet::new();
    let held = Arc::clone(&heard);
    server.spawn(async move {
        let mut first = true;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if std::mem::take(&mut first) {
                // Hangs up on whoever comes first.
                continue;
            }
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                held.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        }
    });
    trail.did(2).await;
    trail.sealed().await;
    let mut wrong = trail.run(Syslog::new(&address, Some(other.cert.pem().as_bytes()), None, "main").unwrap());
    assert!(wrong.once().await.is_err(), "a stranger gets nothing");
    let mut run = trail.run(Syslog::new(&address, Some(made.cert.pem().as_bytes()), None, "main").unwrap());
    let mut tries = 0;
    while run.once().await.is_err() {
        tries += 1;
        assert!(tries < 5, "it never takes them");
    }
    assert!(tries > 0, "the first connection was hung up on");
    let wanted = ["service.did", "service.did", "audit.sealed"];
    let text = crate::store::suite::until("the messages arrive", async || {
        let text = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
        text.contains("audit.sealed").then_some(text)
    });
    let text = text.await;
    let mut rest = text.as_str();
    for id in wanted {
        let (count, behind) = rest.split_once(' ').unwrap();
        let (message, behind) = behind.split_at(count.parse().unwrap());
        assert!(
            message.starts_with("<109>1 20") && message.contains(&format!(" main rollcall-collector - {id} [")),
            "{message}"
        );
        rest = behind;
    }
    assert!(Syslog::new("logs.example.net", Some(b""), None, "main").is_err());
    trail.store.close().await;
}

/// A server that asks who comes: without the certificate, and with another's, nothing is taken; with it everything is.
/// Where no authority is named the system's count, and a server of our own is none of theirs.
#[tokio::test]
async fn a_syslog_server_may_ask_for_a_certificate() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let trail = Trail::new().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let made_up = || rcgen::generate_simple_self_signed(["main".to_owned()]).unwrap();
    let (ours, another) = (made_up(), made_up());
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut admitted = rustls::RootCertStore::empty();
    admitted.add(ours.cert.der().clone()).unwrap();
    let asks = rustls::server::WebPkiClientVerifier::builder(Arc::new(admitted)).build().unwrap();
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(asks)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut server = JoinSet::new();
    let held = Arc::clone(&heard);
    server.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                held.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        }
    });
    trail.did(2).await;
    trail.sealed().await;
    let root = made.cert.pem();
    let shown = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| (pair.cert.pem(), pair.signing_key.serialize_pem());
    let outlet = |roots: Option<&str>, client: Option<(String, String)>| {
        let client = client.as_ref().map(|(cert, key)| (cert.as_bytes(), key.as_bytes()));
        Syslog::new(&address, roots.map(str::as_bytes), client, "main")
    };
    for client in [None, Some(shown(&another))] {
        let mut refused = trail.run(outlet(Some(&root), client).unwrap());
        assert!(refused.once().await.is_err(), "somebody else was let in");
    }
    if let Ok(by_system) = outlet(None, Some(shown(&ours))) {
        assert!(trail.run(by_system).once().await.is_err(), "the system vouches for our test");
    }
    assert!(heard.lock().unwrap().is_empty());
    let mut run = trail.run(outlet(Some(&root), Some(shown(&ours))).unwrap());
    run.once().await.unwrap();
    crate::store::suite::until("the messages arrive", async || {
        String::from_utf8(heard.lock().unwrap().clone()).unwrap().contains("audit.sealed").then_some(())
    })
    .await;
    let (cert, _) = shown(&ours);
    let (_, key) = shown(&another);
    for (client, word) in [
        ((cert.clone(), key), "pair"),
        ((String::new(), String::new()), "cert_file"),
        ((cert, "no key".into()), "key_file"),
    ] {
        let refused = outlet(Some(&root), Some(client)).unwrap_err();
        assert!(refused.contains(word), "{refused}");
    }
    trail.store.close().await;
}
