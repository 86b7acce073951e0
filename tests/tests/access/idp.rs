//! An identity provider: discovery and keys over TLS with a CA of its own, in several characters at once.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use anyhow::{Context as _, Result};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rollcall_common::{
    identity::tls::provider,
    time::{Clock as _, SystemClock},
};
use rollcall_tests::peer::Key;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// How an issuer behaves; each is one of the provider's paths.
pub(crate) const CHARACTERS: [&str; 7] = ["good", "other", "huge", "html", "moved", "plain", "meta"];

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemClock.now().wall.0 / 1000
}

/// A key of the provider.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    key: Key,
    kid: &'static str,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Result<Self> {
        Ok(Self { key: Key::generate()?, kid })
    }

    fn point(&self) -> (String, String) {
        let raw = self.key.pair().public_key_raw();
        let half = |from: usize| BASE64URL_NOPAD.encode(raw.get(from..from + 32).unwrap_or_default());
        (half(1), half(33))
    }

    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.point();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y })
    }

    /// A token with this header and these claims, signed with ES256 whatever the header says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        self.sign_text(header, &claims.to_string())
    }

    /// The same with claims that no JSON value can hold.
    pub(crate) fn sign_text(&self, header: &Value, claims: &str) -> Result<String> {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(&header.to_string()), part(claims));
        let signature = fixed(&self.key.sign(signed.as_bytes())?).context("no signature in ASN.1")?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
    }

    /// An honest header.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" })
    }

    /// As [`Self::sign`], honestly.
    pub(crate) fn token(&self, claims: &Value) -> Result<String> {
        self.sign(&self.header(), claims)
    }
}

/// ASN.1 to the two numbers of 32 bytes that a token carries.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.get(2..)?;
    let mut out = Vec::new();
    for _ in 0..2 {
        let len = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + len)?;
        let number = number.get(len.saturating_sub(32)..)?;
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend_from_slice(number);
        rest = rest.get(2 + len..)?;
    }
    Some(out)
}

/// What the provider serves now, and who asked where.
#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    trap: SocketAddr,
    keys: Mutex<Value>,
    others: Mutex<Value>,
    asked: AtomicU64,
    trapped: AtomicU64,
}

/// A running provider; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Idp {
    shared: Arc<Shared>,
    ca_file: PathBuf,
    serving: JoinSet<()>,
}

impl Idp {
    /// Starts one; `good` serves the first key, `other` the second.
    pub(crate) async fn start(dir: &Path, good: &Signer, other: &Signer) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = ca.self_signed(&ca_key)?;
        let ca_file = dir.join("idp-ca.pem");
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in BASE64.encode(root.der()).as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line)?);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        fs::write(&ca_file, pem)?;
        let key = Key::generate()?;
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(key.pair(), &Issuer::new(ca, ca_key))?;
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.for_tls())?;
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            trap: trap.local_addr()?,
            keys: Mutex::new(json!({ "keys": [good.jwk()] })),
            others: Mutex::new(json!({ "keys": [other.jwk()] })),
            asked: AtomicU64::new(0),
            trapped: AtomicU64::new(0),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&shared)));
        let caught = Arc::clone(&shared);
        serving.spawn(async move {
            while trap.accept().await.is_ok() {
                caught.trapped.fetch_add(1, SeqCst);
            }
        });
        Ok(Self { shared, ca_file, serving })
    }

    /// The collector's settings for all of its characters.
    pub(crate) fn settings(&self) -> String {
        let mut text = String::new();
        for name in CHARACTERS {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[oidc]]\nname = \"{name}\"\nissuer = \"{}\"\naudience = \"rollcall\"\nroles_claim = \"roles\"\n\
                 roles = {{ boss = \"admin\", ops = \"operator\", staff = \"viewer\" }}\n\
                 roles_allowed = [\"viewer\", \"operator\"]\nca_file = \"{}\"\n",
                self.issuer(name),
                self.ca_file.display(),
            );
        }
        text
    }

    pub(crate) fn issuer(&self, name: &str) -> String {
        format!("https://{}/{name}", self.shared.addr)
    }

    /// Claims that are all right.
    pub(crate) fn claims(&self, name: &str) -> Value {
        json!({ "iss": self.issuer(name), "aud": "rollcall", "sub": "alice", "iat": now(), "exp": now() + 300,
                "roles": ["ops"] })
    }

    /// Serves other keys from now on.
    pub(crate) fn rotate(&self, to: &Signer) {
        *self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner) = json!({ "keys": [to.jwk()] });
    }

    /// Goes down.
    pub(crate) async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(SeqCst)
    }

    /// Connections to where only redirects and false addresses lead.
    pub(crate) fn trapped(&self) -> u64 {
        self.shared.trapped.load(SeqCst)
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        open.spawn(async move {
            if let Ok(stream) = tls.accept(stream).await {
                // Whoever hangs up early has heard enough.
                let _ = answer(stream, &shared).await;
            }
        });
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    shared.asked.fetch_add(1, SeqCst);
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let mut parts = path.splitn(3, '/').skip(1);
    let (name, place) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let base = format!("https://{}/{name}", shared.addr);
    let read = |keys: &Mutex<Value>| keys.lock().unwrap_or_else(PoisonError::into_inner).to_string();
    let leads_to = |jwks: String| json!({ "issuer": base, "jwks_uri": jwks }).to_string();
    let (status, more, body) = match (name, place) {
        ("moved", _) => ("302 Found", format!("Location: http://{}/keys\r\n", shared.trap), String::new()),
        ("html", _) => ("200 OK", String::new(), "<html>{\"keys\": []}</html>".into()),
        ("plain", ".well-known/openid-configuration") => {
            ("200 OK", String::new(), leads_to(format!("http://{}/keys", shared.trap)))
        }
        ("meta", ".well-known/openid-configuration") => {
            ("200 OK", String::new(), leads_to("http://169.254.169.254/latest/meta-data".into()))
        }
        (_, ".well-known/openid-configuration") => ("200 OK", String::new(), leads_to(format!("{base}/keys"))),
        ("huge", _) => ("200 OK", String::new(), " ".repeat(10 << 20) + &read(&shared.keys)),
        ("other", _) => ("200 OK", String::new(), read(&shared.others)),
        _ => ("200 OK", String::new(), read(&shared.keys)),
    };
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
