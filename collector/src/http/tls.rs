//! TLS of the API: the pair in force, its replacement without a restart, and the handshake.
//!
//! Owns certificates, their files and handshakes; refuses to know requests. TLS 1.3 only: whoever calls an API
//! of today speaks it, and there is no suite, no renegotiation and no resumption to configure. Nothing is
//! resumed, so that each new connection meets the certificate that is in force, and open ones live on.
//! A new pair is read on SIGHUP, or once the files have changed and stand still; one that does not hold is
//! refused loudly, and the old pair stays.

mod pair;
mod watch;

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as Exposition,
};
use rollcall_common::time::Timestamp;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::MissedTickBehavior,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

pub use self::pair::{Pair, PairError};
use self::watch::{Marks, Reminder, Watch};
use super::error::{Problem, ProblemCode};
use crate::{admission::network, config::HttpTls, crowd::Crowd};

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Handshakes in progress; the oldest yields.
const HANDSHAKES: usize = 128;
/// Handshakes that one address may have in progress; its own oldest yields.
const HANDSHAKES_OF_ONE: usize = 32;
/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The first byte of a TLS record that carries a handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// What is read of a request in plain HTTP before the connection is closed, so that its answer arrives.
const PLAIN_LIMIT: usize = 16 * 1024;

/// Why TLS does not start.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The settings.
    #[error("TLS cannot be set up: {0}")]
    Settings(#[from] rustls::Error),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: Family<OutcomeLabel, Counter>,
    in_progress: Gauge,
    reloads: Family<OutcomeLabel, Counter>,
    not_after: Gauge,
    broken: Gauge,
}

/// The pair in force, and all that is done with it.
#[derive(Debug)]
pub(super) struct Certificates {
    files: HttpTls,
    current: Arc<Current>,
    acceptor: Acceptor,
    crowd: Mutex<Crowd>,
    asked: Notify,
    /// The files as they were when the pair in force was read.
    first: Marks,
    counts: Counts,
}

#[derive(Debug)]
struct Current(ArcSwap<Pair>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Certificates {
    /// Reads the pair.
    pub(super) fn open(files: HttpTls, now: Timestamp) -> Result<Self, TlsError> {
        // Before they are read: a pair that is replaced meanwhile is read again.
        let first = marks(&files);
        let pair = Pair::load(&files)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let settings = settings(Arc::<Current>::clone(&current))?;
        let counts = Counts::default();
        for outcome in ["loaded", "failed"] {
            drop(counts.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
        let certificates = Self {
            files,
            current,
            acceptor: Acceptor(Arc::new(settings).into()),
            crowd: Mutex::new(Crowd::new(HANDSHAKES, HANDSHAKES_OF_ONE)),
            asked: Notify::new(),
            first,
            counts,
        };
        certificates.announce(now);
        Ok(certificates)
    }

    /// Whether the certificate in force stands for the host of a `Host` header.
    pub(super) fn covers(&self, host: &str) -> bool {
        self.current.0.load().covers(host)
    }

    /// Has the files read again, whether they changed or not.
    pub(super) fn reload(&self) {
        self.asked.notify_one();
    }

    /// Keeps looking at the files and at the end of the certificate, until it is told to stop.
    pub(super) async fn watch(self: Arc<Self>, now: impl Fn() -> Timestamp + Send, stop: CancellationToken) {
        let (mut watch, mut reminder) = (Watch::new(self.first), Reminder::default());
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => true,
                _ = ticks.tick() => false,
            };
            let found = self.blocking(marks).await;
            let Some(found) = found else { return };
            if asked {
                watch.read(found);
            }
            if asked || watch.look(found) {
                let Some(read) = self.blocking(Pair::load).await else { return };
                self.take(read, now());
            }
            let end = self.current.0.load().not_after;
            if reminder.due(end, now()) {
                self.remind(end, now());
            }
        }
    }

    /// Disks may hang; the tasks of others must not.
    async fn blocking<T: Send + 'static>(&self, look: impl FnOnce(&HttpTls) -> T + Send + 'static) -> Option<T> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || look(&files)).await.ok()
    }

    fn take(&self, read: Result<Pair, PairError>, now: Timestamp) {
        let outcome = match read {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                self.announce(now);
                "loaded"
            }
            Err(error) => {
                self.counts.broken.set(1);
                let end = self.current.0.load().not_after;
                tracing::error!(
                    %error,
                    until = %end,
                    "the new HTTPS certificate cannot be used; the one in force stays"
                );
                "failed"
            }
        };
        self.counts.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    fn announce(&self, now: Timestamp) {
        let pair = self.current.0.load();
        self.counts.broken.set(0);
        self.counts.not_after.set(pair.not_after.as_secs());
        let names = pair.names.join(" ");
        tracing::info!(names, until = %pair.not_after, "HTTPS certificate in force");
        for doubt in &pair.doubts {
            tracing::warn!(cert = %self.files.cert.display(), doubt, "clients may not accept the HTTPS certificate");
        }
        if now < pair.not_before {
            tracing::warn!(from = %pair.not_before, %now, "the HTTPS certificate is not valid yet");
        }
    }

    fn remind(&self, end: Timestamp, now: Timestamp) {
        let cert = self.files.cert.display();
        if now >= end {
            tracing::error!(%cert, since = %end, "the HTTPS certificate has expired: clients refuse it; put a new pair there");
        } else {
            let days = end.since(now).as_secs() / 86_400;
            tracing::warn!(%cert, until = %end, days, "the HTTPS certificate ends soon; put a new pair there");
        }
    }

    /// Shakes hands with a client; `None` where it came to nothing.
    pub(super) async fn shake(
        &self,
        stream: TcpStream,
        place: Place,
        stop: &CancellationToken,
    ) -> Option<TlsStream<TcpStream>> {
        let shaking = tokio::time::timeout(HANDSHAKE_WITHIN, self.accept(stream));
        let (outcome, stream) = tokio::select! {
            biased;
            () = stop.cancelled() => ("stopped", None),
            () = place.yields.cancelled() => ("crowded_out", None),
            shaken = shaking => match shaken {
                Ok(Ok(Some(stream))) => ("done", Some(stream)),
                Ok(Ok(None)) => ("plain_http", None),
                Ok(Err(error)) => {
                    tracing::debug!(from = %place.from, %error, "a TLS handshake failed");
                    ("failed", None)
                }
                Err(_) => ("late", None),
            },
        };
        self.counts.handshakes.get_or_create(&OutcomeLabel { outcome }).inc();
        stream
    }

    async fn accept(&self, mut stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A request in plain HTTP begins with a letter, which no TLS record does.
        if first != [HANDSHAKE_RECORD] && first.iter().all(u8::is_ascii_alphabetic) {
            answer_plain(&mut stream).await?;
            return Ok(None);
        }
        self.acceptor.0.accept(stream).await.map(Some)
    }

    /// Takes a place among the handshakes in progress. Places are taken as connections are accepted, not when
    /// somebody comes to serve them: otherwise one that came earlier could push out one that came later.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Place {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        let (no, yields) = crowd.begin(network(from));
        self.counts.in_progress.set(i64::try_from(crowd.len()).unwrap_or(i64::MAX));
        Place { certificates: Arc::clone(self), from, no, yields }
    }

    /// Adds what is counted to a scrape.
    pub(super) fn register(&self, exposition: &mut Exposition) {
        let counts = &self.counts;
        exposition.register(
            "rollcall_http_certificate_not_after_timestamp_seconds",
            "End of the HTTPS certificate in force",
            counts.not_after.clone(),
        );
        exposition.register(
            "rollcall_http_certificate_broken",
            "Whether the files hold a pair that cannot be used, while an older one stays in force",
            counts.broken.clone(),
        );
        exposition.register(
            "rollcall_http_certificate_reloads",
            "Readings of a new HTTPS certificate by outcome",
            counts.reloads.clone(),
        );
        exposition.register("rollcall_http_handshakes", "TLS handshakes by outcome", counts.handshakes.clone());
        exposition.register(
            "rollcall_http_handshakes_in_progress",
            "TLS handshakes in progress",
            counts.in_progress.clone(),
        );
    }
}

/// A place among the handshakes in progress; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    certificates: Arc<Certificates>,
    from: IpAddr,
    no: u64,
    yields: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.certificates.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.end(self.no);
        self.certificates.counts.in_progress.set(i64::try_from(crowd.len()).unwrap_or(i64::MAX));
    }
}

fn marks(files: &HttpTls) -> Marks {
    [watch::mark(&files.cert), watch::mark(&files.key)]
}

fn settings(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let mut settings = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    settings.send_tls13_tickets = 0;
    settings.session_storage = Arc::new(NoServerSessionStorage {});
    settings.max_early_data_size = 0;
    Ok(settings)
}

/// Tells a client that speaks plain HTTP what to do, in the words of its protocol.
async fn answer_plain(stream: &mut TcpStream) -> io::Result<()> {
    let detail = "this port speaks HTTPS: use https:// in the URL. A credential that came with this request \
                  travelled unencrypted: replace it";
    let answer = Problem::new(ProblemCode::HttpsRequired, detail).respond("");
    let body = axum::body::to_bytes(answer.into_body(), PLAIN_LIMIT).await.map_err(io::Error::other)?;
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        super::error::MEDIA_TYPE,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    // What is not read makes the kernel reset the connection, and the answer be lost.
    let mut rest = [0; 1024];
    let mut read = 0;
    while read < PLAIN_LIMIT {
        match stream.read(&mut rest).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
