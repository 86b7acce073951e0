//! What this host may ask and say: one small HTTP service on a Unix socket and, where it is wanted, on loopback.
//!
//! | | |
//! |---|---|
//! | `GET /health` | 200 or 503, with the three facts: sidecar, service, progress |
//! | `GET /status` | everything the sidecar knows of itself, as JSON |
//! | `GET /metrics` | the same for Prometheus |
//! | `POST /progress` | "I got on" |
//! | `POST /report` | how the service, or a child of it, is |
//!
//! Who may connect to the socket is a matter of its mode; who said what is kept with the user id that the kernel
//! tells. A loopback port has no such thing: it tells, and takes reports only where the configuration says so.
//!
//! Whoever is slow, floods or sends garbage disturbs itself: [`CALLERS`] at a time, and where more come, the oldest
//! of the user who has most of them yields (`crowd`); a caller has [`WITHIN`], a body [`http::MAX_BODY`] bytes, and
//! all together say [`answers::WRITES_A_SECOND`] things a second.

pub mod answers;
pub mod client;
mod crowd;
mod http;
mod metrics;
pub mod systemd;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

pub use self::client::ask;
use self::{
    answers::{House, Peer},
    crowd::{Class, Crowd},
};
use crate::status::Board;

/// Callers served at a time.
const CALLERS: usize = 16;
/// How long a caller may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long to leave a listener alone that accepts nobody.
const BREATHER: Duration = Duration::from_secs(1);

/// The board, shared between the agent, which writes it, and the socket, which tells it.
pub type SharedBoard = Arc<Mutex<Board>>;

/// Why there is no status socket.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another sidecar answers there.
    #[error("another sidecar answers at {}: stop it, or set another `socket`", .0.display())]
    Taken(PathBuf),
    /// Something else is in the way.
    #[error("{} is in the way and is no socket: remove it, or set another `socket`", .0.display())]
    InTheWay(PathBuf),
    /// The system refuses.
    #[error("status socket {}: {source} (set another `socket`)", .path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The bound socket; its file goes when this does.
#[derive(Debug)]
pub struct Local {
    listener: UnixListener,
    port: Option<TcpListener>,
    path: PathBuf,
}

impl Local {
    /// Binds the socket, over one that a killed sidecar left.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn bind(path: &Path) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Bind { path: path.into(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(LocalError::InTheWay(path.into())),
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(LocalError::Taken(path.into()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self { listener, port: None, path: path.into() })
    }

    /// Listens on a loopback port as well; tells which one it became.
    ///
    /// # Errors
    /// When the port cannot be had. The socket is not touched by that.
    pub fn listen(&mut self, at: SocketAddr) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let bound = listener.local_addr()?;
        self.port = Some(listener);
        Ok(bound)
    }

    /// Serves callers until dropped.
    pub async fn serve(self, house: House) {
        let house = Arc::new(house);
        let mut crowd = Crowd::new(CALLERS);
        let mut callers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted.map(|(stream, _)| {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    let serve = http::serve(stream, Peer::Unix(uid), Arc::clone(&house));
                    (Class::User(uid), callers.spawn(http::in_time(serve, WITHIN)))
                }),
                accepted = accept(self.port.as_ref()) => accepted.map(|stream| {
                    let serve = http::serve(stream, Peer::Loopback, Arc::clone(&house));
                    (Class::Loopback, callers.spawn(http::in_time(serve, WITHIN)))
                }),
                Some(_) = callers.join_next() => continue,
            };
            match accepted {
                Ok((class, task)) => {
                    crowd.leave(|task: &tokio::task::AbortHandle| task.is_finished());
                    if let Some(yielding) = crowd.enter(class, task) {
                        yielding.abort();
                        house.tally.crowded();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the local service accepts no caller");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }
}

/// The next caller on loopback; none ever where nobody listens there.
async fn accept(port: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match port {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Whatever is left is cleared away at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
