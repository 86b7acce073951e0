//! The baseline's clients: kept-alive connections that each send one request per interval.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_common::{
    identity::tls,
    time::{Clock as _, SystemClock},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{NAME, Plan};
use crate::swarm::quantile::{Quantiles, Summary};

/// Longest answer.
const ANSWER: usize = 4_096;

/// All connections.
pub(super) struct Load {
    server: SocketAddr,
    connector: TlsConnector,
    plan: Plan,
    serving: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    took: Mutex<Quantiles>,
}

impl Load {
    pub(super) fn new(server: SocketAddr, cert: CertificateDer<'static>, plan: Plan) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(cert)?;
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let zero = AtomicU64::default;
        Ok(Self {
            server,
            connector: TlsConnector::from(Arc::new(config)),
            plan,
            serving: zero(),
            answered: zero(),
            failed: zero(),
            took: Mutex::default(),
        })
    }

    /// Opens the connections, spread over the ramp; they end with the set.
    pub(super) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for n in 0..self.plan.connections {
            let load = Arc::clone(self);
            tasks.spawn(async move {
                if let Err(error) = load.connection(n).await {
                    tracing::debug!(n, "{error:#}");
                    load.failed.fetch_add(1, Relaxed);
                }
            });
        }
        tasks
    }

    /// Connections that had an answer.
    pub(super) fn serving(&self) -> u64 {
        self.serving.load(Relaxed)
    }

    /// Answers so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Connections that ended.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Forgets the times taken so far; answers the number of answers.
    pub(super) fn reset(&self) -> u64 {
        *self.took() = Quantiles::default();
        self.answered()
    }

    /// Times from a request to its answer.
    pub(super) fn summary(&self) -> Option<Summary> {
        self.took().summary()
    }

    fn took(&self) -> MutexGuard<'_, Quantiles> {
        self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self, n: u32) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(n.into());
        tokio::time::sleep(self.plan.ramp.mul_f64(rng.f64())).await;
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.connector.connect(ServerName::try_from(NAME)?, stream).await?;
        let mut answer = [0; ANSWER];
        for beat_no in 1_u64.. {
            let body = format!("{{\"id\":\"poller-{n:06}\",\"beat_no\":{beat_no}}}");
            let head = format!(
                "POST /beat HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let sent = SystemClock.now().boot;
            stream.write_all((head + &body).as_bytes()).await?;
            self.answer(&mut stream, &mut answer).await?;
            self.took().add(SystemClock.now().boot.since(sent));
            self.answered.fetch_add(1, Relaxed);
            self.serving.fetch_add(u64::from(beat_no == 1), Relaxed);
            // As a sidecar's: within five per cent.
            let pause = self.plan.interval.mul_f64(0.95 + 0.1 * rng.f64());
            let left = pause.saturating_sub(SystemClock.now().boot.since(sent));
            tokio::time::sleep(left.max(Duration::from_millis(1))).await;
        }
        Ok(())
    }

    /// One whole answer with status 200.
    async fn answer(
        &self,
        stream: &mut tokio_rustls::client::TlsStream<TcpStream>,
        buffer: &mut [u8; ANSWER],
    ) -> Result<()> {
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).filter(|room| !room.is_empty()).context("an answer too long")?;
            let read = stream.read(room).await?;
            ensure!(read > 0, "the server closed");
            filled += read;
            if whole(buffer.get(..filled).unwrap_or_default())? {
                return Ok(());
            }
        }
    }
}

/// Whether an answer is there with all of its body.
fn whole(bytes: &[u8]) -> Result<bool> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "it answered {:?}", head.lines().next());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer without a length")?.parse()?;
    Ok(bytes.len() >= end + 4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: x\r\n\r\n{}";
        for cut in 0..answer.len() {
            assert!(!whole(&answer[..cut]).unwrap(), "{cut}");
        }
        assert!(whole(answer).unwrap());
        assert!(whole(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
