use std::{os::unix::fs::PermissionsExt as _, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    http::{self, Server, fixture::World},
    statedir::outside::Keeper,
};

const WITHIN: Duration = Duration::from_secs(10);

fn ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a test's CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()).unwrap()
}

struct Place {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), ca: ca() }
    }

    fn files(&self) -> HttpTls {
        let path = |name| self.dir.path().join(name);
        HttpTls { cert: path("web.pem"), key: path("web.key"), keeper: Keeper::Operator }
    }

    fn issue(&self, names: &[&str]) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    fn put(&self, (cert, key): &(String, String)) {
        let files = self.files();
        write(&files.cert, cert);
        write(&files.key, key);
    }

    fn refused(&self) -> String {
        Pair::load(&self.files()).unwrap_err().to_string()
    }
}

/// As a careful operator does: beside, then renamed.
fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&next, path).unwrap();
}

#[test]
fn a_good_pair_tells_its_names_and_times() {
    let place = Place::new();
    place.put(&place.issue(&["Rollcall.example.net", "*.lab.example.net", "192.0.2.7", "2001:db8::7"]));
    let pair = Pair::load(&place.files()).unwrap();
    assert_eq!(pair.names, ["rollcall.example.net", "*.lab.example.net", "192.0.2.7", "2001:db8::7"]);
    assert!(pair.doubts.is_empty(), "{:?}", pair.doubts);
    assert!(pair.not_before < pair.not_after);
    for host in ["rollcall.example.net", "ROLLCALL.example.net.:7410", "a.lab.example.net", "[2001:db8::7]:1"] {
        assert!(pair.covers(host), "{host}");
    }
    for host in [
        "example.net",
        "lab.example.net",
        "a.b.lab.example.net",
        "rollcall.example.net.evil",
        "",
        "*.lab.example.net.x",
    ] {
        assert!(!pair.covers(host), "{host}");
    }
}

#[test]
fn a_pair_that_does_not_hold_is_told_in_words() {
    let place = Place::new();
    let files = place.files();
    let shown = place.refused();
    assert!(shown.starts_with("http_tls_cert: cannot read ") && shown.contains("web.pem"), "{shown}");
    let (one, other) = (place.issue(&["a"]), place.issue(&["b"]));
    place.put(&(one.0.clone(), other.1.clone()));
    let shown = place.refused();
    assert!(shown.contains("does not belong to the certificate in") && shown.contains("another issue"), "{shown}");
    place.put(&(format!("{}{}", place.ca.pem(), one.0), one.1.clone()));
    assert!(place.refused().contains("put the server's own certificate first"), "{}", place.refused());
    place.put(&(String::new(), one.1.clone()));
    assert!(place.refused().contains("holds no certificate"), "{}", place.refused());
    place.put(&("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), one.1.clone()));
    assert!(place.refused().contains("damaged certificate"), "{}", place.refused());
    for key in ["", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", &one.0] {
        place.put(&(one.0.clone(), key.into()));
        let shown = place.refused();
        assert!(shown.starts_with("http_tls_key: ") && shown.contains("holds no private key"), "{shown}");
    }
    place.put(&one);
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let shown = place.refused();
    assert!(shown.contains("http_tls_key: ") && shown.contains("chmod 600") && shown.contains("web.key"), "{shown}");
    write(&files.cert, &"x".repeat(70_000));
    assert!(place.refused().contains("larger than"), "{}", place.refused());
}

#[test]
fn what_clients_may_take_offence_at_is_said() {
    let place = Place::new();
    let (cert, key) = place.issue(&["a"]);
    // Itself again where its issuer should stand.
    place.put(&(format!("{cert}{cert}"), key));
    let doubts = Pair::load(&place.files()).unwrap().doubts.join("; ");
    assert!(doubts.contains("not in order"), "{doubts}");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    place.put(&(params.self_signed(&key).unwrap().pem(), key.serialize_pem()));
    let doubts = Pair::load(&place.files()).unwrap().doubts.join("; ");
    for word in ["names no host", "a CA's own", "not meant for servers"] {
        assert!(doubts.contains(word), "{doubts}");
    }
}

/// A server with the place's pair.
async fn started(place: &Place) -> (World, Server) {
    let world = World::new(&[crate::http::fixture::row("poller/p")]);
    let settings = http::Settings { tls: Some(place.files()), connections: 64, ..http::fixture::settings() };
    let server = http::bind(world.parts(world.registry()), settings).await.unwrap();
    (world, server)
}

fn client(place: &Place) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(place.ca.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

type Conversation = tokio_rustls::client::TlsStream<TcpStream>;

async fn dial(connector: &TlsConnector, server: &Server, name: &'static str) -> io::Result<Conversation> {
    let stream = TcpStream::connect(server.address()).await?;
    let dialing = connector.connect(ServerName::try_from(name).unwrap(), stream);
    tokio::time::timeout(WITHIN, dialing).await.expect("the server shakes hands")
}

/// Asks once; the head of the answer and its body.
async fn ask(stream: &mut Conversation, path: &str, host: &str, more: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let complete = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        (body.len() >= length).then_some(text.clone())
    };
    let reading = async {
        loop {
            if let Some(text) = complete(&answer) {
                return Ok(text);
            }
            let mut more = [0; 4096];
            match stream.read(&mut more).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => answer.extend_from_slice(&more[..read]),
            }
        }
    };
    tokio::time::timeout(WITHIN, reading).await.expect("the server answers")
}

#[tokio::test]
async fn it_speaks_https_to_its_names_and_to_addresses() {
    let place = Place::new();
    place.put(&place.issue(&["rollcall.example.net"]));
    let (_world, server) = started(&place).await;
    let mut stream = dial(&client(&place), &server, "rollcall.example.net").await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let answer = ask(&mut stream, "/livez", "rollcall.example.net:7410", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    let answer = ask(&mut stream, "/livez", "127.0.0.1", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let answer = ask(&mut stream, "/livez", "evil.example", "").await.unwrap();
    assert!(answer.contains("wrong_host"), "{answer}");
    let error = dial(&client(&place), &server, "other.example.net").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    server.stop(WITHIN).await;
}

/// A request in the clear is told where it should have gone.
#[tokio::test]
async fn plain_http_gets_an_answer_it_can_read() {
    let place = Place::new();
    place.put(&place.issue(&["a"]));
    let (_world, server) = started(&place).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"POST /api/admin/services HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WITHIN, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("https_required") && answer.contains("use https://"), "{answer}");
    // What is neither is closed without a word of HTTP.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.stop(WITHIN).await;
}

/// Waits until new connections meet a certificate of this name.
async fn until_named(place: &Place, server: &Server, name: &'static str) -> Conversation {
    let connector = client(place);
    let deadline = tokio::time::sleep(WITHIN);
    let looking = async {
        loop {
            if let Ok(stream) = dial(&connector, server, name).await {
                return stream;
            }
        }
    };
    tokio::select! {
        stream = looking => stream,
        () = deadline => panic!("no connection met the certificate of {name}"),
    }
}

/// Rotation: open connections live on, new ones meet the new certificate, and a broken pair changes nothing.
#[tokio::test]
async fn a_new_pair_is_taken_and_a_broken_one_is_not() {
    let place = Place::new();
    place.put(&place.issue(&["one.example"]));
    let (world, server) = started(&place).await;
    let mut old = dial(&client(&place), &server, "one.example").await.unwrap();
    ask(&mut old, "/livez", "one.example", "").await.unwrap();

    // By themselves, once the files have changed.
    place.put(&place.issue(&["two.example"]));
    let mut new = until_named(&place, &server, "two.example").await;
    let answer = ask(&mut old, "/livez", "two.example", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "the old connection lives on: {answer}");
    let answer = ask(&mut new, "/livez", "one.example", "").await.unwrap();
    assert!(answer.contains("wrong_host"), "the old name is gone: {answer}");

    // A broken pair, asked for: the one in force stays, and the metrics say so.
    let broken = (place.issue(&["three.example"]).0, place.issue(&["three.example"]).1);
    place.put(&broken);
    assert!(server.reload());
    let scrape = format!("Authorization: Bearer {}\r\n", world.credentials["metrics"]);
    let until_told = async {
        loop {
            let text = ask(&mut new, "/metrics", "two.example", &scrape).await.unwrap();
            if text.contains("rollcall_http_certificate_broken 1") {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(WITHIN, until_told).await.unwrap();
    assert!(text.contains("rollcall_http_certificate_reloads_total{outcome=\"failed\"} 1"), "{text}");
    assert!(text.contains("rollcall_http_certificate_reloads_total{outcome=\"loaded\"} 1"), "{text}");
    let end = text.lines().find_map(|l| l.strip_prefix("rollcall_http_certificate_not_after_timestamp_seconds "));
    assert!(end.unwrap().parse::<i64>().unwrap() > 4_000_000_000, "{text}");
    until_named(&place, &server, "two.example").await;

    // And a good one after it, asked for.
    place.put(&place.issue(&["four.example"]));
    assert!(server.reload());
    until_named(&place, &server, "four.example").await;
    server.stop(WITHIN).await;
}

/// Whoever opens connections and says nothing holds no honest client up, nor those who are in already.
#[tokio::test]
async fn silent_clients_crowd_each_other_out() {
    let place = Place::new();
    place.put(&place.issue(&["a"]));
    let (world, server) = started(&place).await;
    let mut settled = dial(&client(&place), &server, "a").await.unwrap();
    ask(&mut settled, "/livez", "a", "").await.unwrap();
    let mut silent = Vec::new();
    for no in 0..400 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        if no % 2 == 0 {
            // Begins as a handshake does, and stops.
            stream.write_all(&[HANDSHAKE_RECORD, 3, 1]).await.unwrap();
        }
        silent.push(stream);
        if no % 50 == 0 {
            ask(&mut settled, "/livez", "a", "").await.unwrap();
            let mut newcomer = dial(&client(&place), &server, "a").await.unwrap();
            ask(&mut newcomer, "/livez", "a", "").await.unwrap();
        }
    }
    let scrape = format!("Authorization: Bearer {}\r\n", world.credentials["metrics"]);
    let text = ask(&mut settled, "/metrics", "a", &scrape).await.unwrap();
    let crowded = text.lines().find_map(|l| l.strip_prefix("rollcall_http_handshakes_total{outcome=\"crowded_out\"} "));
    assert!(crowded.unwrap().parse::<u32>().unwrap() > 300, "{text}");
    server.stop(WITHIN).await;
}
