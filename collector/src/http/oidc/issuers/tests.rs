//! An issuer on this host that was good and turns bad, with a clock that is moved by hand.

use std::net::{Ipv4Addr, SocketAddr};

use rollcall_common::time::{ManualClock, Timestamp};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    super::tests::{Signer, good_claims, issuer},
    *,
};

/// How long any awaited fact may take to come true.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the issuer answers now: by the end of the path, the status, more of the head, the body.
type Answers = Arc<Mutex<Box<dyn Fn(&str) -> (&'static str, String, String) + Send>>>;

async fn answer(mut stream: TcpStream, answers: Answers) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (status, more, body) = answers.lock().unwrap()(head.split(' ').nth(1).unwrap_or_default());
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever has heard enough hangs up.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
}

/// Serves until it is dropped; where, and how to change what it says.
async fn serve(tasks: &mut JoinSet<()>) -> (SocketAddr, Answers) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let nothing = |_: &str| ("404 Not Found", String::new(), String::new());
    let answers: Answers = Arc::new(Mutex::new(Box::new(nothing)));
    let said = Arc::clone(&answers);
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(answer(stream, Arc::clone(&said)));
        }
    });
    (at, answers)
}

struct Scene {
    issuers: Arc<Issuers>,
    clock: Arc<ManualClock>,
}

impl Scene {
    async fn who(&self, token: &str) -> &'static str {
        match self.issuers.verify(token).await {
            Verdict::Caller(_) => "somebody",
            Verdict::Refused => "nobody",
            Verdict::Unavailable => "cannot be told",
        }
    }

    fn fetches(&self, outcome: &'static str) -> u64 {
        self.issuers.fetched.get_or_create(&Label { issuer: "corp".into(), outcome }).get()
    }

    /// Asks with a token until it comes to what it should.
    async fn until(&self, token: &str, wanted: &str) {
        let asking = async {
            while self.who(token).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, asking).await;
        assert!(waited.is_ok(), "it did not come to {wanted}: {}", self.who(token).await);
    }
}

/// H9: whatever it turns to, its last good keys stay and nothing else is believed or followed; beyond the hard limit
/// nobody can tell, and when it is back with a new key that one counts and the old one does not.
#[tokio::test]
async fn a_provider_that_turns_bad_is_not_believed_and_not_forgotten() {
    let mut tasks = JoinSet::new();
    let (at, answers) = serve(&mut tasks).await;
    let (trap, trapped) = serve(&mut tasks).await;
    let caught = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&caught);
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let keys = |signer: &Signer| json!({ "keys": [signer.jwk()] }).to_string();
    let bait = keys(&new);
    *trapped.lock().unwrap() = Box::new(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        ("200 OK", String::new(), bait.clone())
    });
    let base = format!("http://{at}/corp");
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(good_claims()["iat"].as_i64().unwrap())));
    let configured = Issuer { issuer: base.clone(), insecure_loopback: true, ..issuer() };
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let scene = Scene { issuers: Arc::new(Issuers::new(vec![configured], shared).unwrap()), clock };
    let speak = |discovery: Value, jwks: (&'static str, String, String)| {
        let discovery = discovery.to_string();
        *answers.lock().unwrap() = Box::new(move |path: &str| {
            if path.ends_with("/openid-configuration") {
                ("200 OK", String::new(), discovery.clone())
            } else {
                jwks.clone()
            }
        });
    };
    let honest = json!({ "issuer": base, "jwks_uri": format!("{base}/keys") });
    let fine = |body: String| ("200 OK", String::new(), body);
    let mut claims = good_claims();
    (claims["iss"], claims["exp"]) = (json!(base), json!(claims["iat"].as_i64().unwrap() + 100_000));
    let (known, unknown) = (old.good(&claims), new.good(&claims));

    speak(honest.clone(), fine(keys(&old)));
    let stop = CancellationToken::new();
    tasks.spawn(Arc::clone(&scene.issuers).run(stop.clone()));
    scene.until(&known, "somebody").await;
    assert_eq!(scene.who(&unknown).await, "nobody");

    let moved = ("302 Found", format!("Location: http://{trap}/keys\r\n"), String::new());
    let elsewhere = |place: String| json!({ "issuer": base, "jwks_uri": place });
    let turns: Vec<(&str, Value, (&'static str, String, String))> = vec![
        ("ten megabytes", honest.clone(), fine(" ".repeat(10 << 20) + &keys(&new))),
        ("HTML", honest.clone(), fine("<html>{\"keys\":[]}</html>".into())),
        ("a redirect in the clear", honest.clone(), moved),
        ("the cloud's metadata", elsewhere("http://169.254.169.254/latest/meta-data".into()), fine(keys(&new))),
        ("another host in the clear", elsewhere("http://192.0.2.1/keys".into()), fine(keys(&new))),
        ("a credential in the address", elsewhere(format!("http://a:b@{trap}/keys")), fine(keys(&new))),
        ("a file", elsewhere("file:///etc/passwd".into()), fine(keys(&new))),
        ("another issuer", json!({ "issuer": "http://x", "jwks_uri": format!("{base}/keys") }), fine(keys(&new))),
        ("no keys", honest.clone(), fine("{\"keys\":[]}".into())),
        ("an error", honest.clone(), ("500 Internal Server Error", String::new(), keys(&new))),
    ];
    for (n, (how, discovery, jwks)) in turns.into_iter().enumerate() {
        speak(discovery, jwks);
        // Half a minute between two fetches, however much is asked.
        scene.clock.advance(Duration::from_secs(31));
        let failed = u64::try_from(n).unwrap() + 1;
        let asking = async {
            while scene.fetches("failed") < failed {
                assert_ne!(scene.who(&unknown).await, "somebody", "{how} is believed");
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, asking).await.is_ok(), "{how}: no fetch failed");
        assert_eq!(scene.who(&unknown).await, "nobody", "{how}");
        assert_eq!(scene.who(&known).await, "somebody", "{how}: the last good keys stay");
    }
    assert_eq!(caught.load(std::sync::atomic::Ordering::SeqCst), 0, "it was led astray");
    assert_eq!(scene.fetches("fetched"), 1);

    scene.clock.advance(Duration::from_secs(3600));
    assert_eq!(scene.who(&known).await, "cannot be told", "beyond the hard limit nothing is good");
    speak(honest, fine(keys(&new)));
    scene.clock.advance(Duration::from_secs(31));
    scene.until(&unknown, "somebody").await;
    assert_eq!(scene.who(&known).await, "nobody", "the old key was taken back");
    stop.cancel();
    tasks.shutdown().await;
}
