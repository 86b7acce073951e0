//! The baseline's server: axum over TLS, a map behind a lock.

use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{Json, Router, extract::State, routing::post};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rollcall_common::{
    identity::tls,
    time::{BootTime, Clock as _, SystemClock},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;

#[derive(Deserialize)]
struct Beat {
    id: String,
    beat_no: u64,
}

#[derive(Serialize)]
struct Ack {
    beat_no: u64,
    interval_ms: u64,
}

type Map = Arc<Mutex<HashMap<String, (u64, BootTime)>>>;

async fn beat(State(map): State<Map>, Json(beat): Json<Beat>) -> Json<Ack> {
    let Beat { id, beat_no } = beat;
    let now = SystemClock.now().boot;
    map.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (beat_no, now));
    Json(Ack { beat_no, interval_ms: 10_000 })
}

/// Serves on a free port of loopback, which it prints, until it is killed.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(dir: &Path) -> Result<()> {
    super::raise_files(u64::from(super::super::guard::MAX_COUNT).min(hard_limit()))?;
    let (cert, key) = super::files(dir)?;
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(cert)], PrivatePkcs8KeyDer::from(key).into())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let app = Router::new().route("/beat", post(beat)).with_state(Map::default());

    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", listener.local_addr()?).context("nobody reads the port")?;
    out.flush()?;
    drop(out);

    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let (acceptor, app) = (acceptor.clone(), app.clone());
                tasks.spawn(async move {
                    // A client that does not finish its handshake is counted there.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(app);
                    let http = hyper::server::conn::http1::Builder::new();
                    // It ends when the client does.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn hard_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
