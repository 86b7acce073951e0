//! What this host may ask: a Unix socket that answers every connection with the status and closes it.
//!
//! Nothing is read from a caller, so that nothing can be sent to us. At most [`CALLERS`] are answered at a
//! time; more are turned away.

pub mod systemd;

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rollcall_common::time::Clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::status::{Board, Report};

/// Callers answered at a time.
const CALLERS: usize = 8;
/// How long a caller may take.
const WITHIN: Duration = Duration::from_secs(2);
/// No report is larger.
const MAX_REPORT: u64 = 64 * 1024;

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
        Ok(Self { listener, path: path.into() })
    }

    /// Answers callers until dropped.
    pub async fn serve(self, board: SharedBoard, clock: Arc<dyn Clock>) {
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if callers.len() < CALLERS => {
                        let report = board.lock().unwrap_or_else(PoisonError::into_inner).report(clock.now());
                        callers.spawn(answer(stream, report));
                    }
                    Ok(_) => tracing::debug!(callers = CALLERS, "a status caller was turned away"),
                    Err(error) => {
                        tracing::debug!(%error, "the status socket accepts no caller");
                        tokio::time::sleep(WITHIN).await;
                    }
                },
                Some(_) = callers.join_next() => {}
            }
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Whatever is left is cleared away at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, report: Report) {
    let Ok(mut text) = serde_json::to_vec(&report) else { return };
    text.push(b'\n');
    let written = tokio::time::timeout(WITHIN, async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    });
    // A caller that went away needs no answer.
    let _ = written.await;
}

/// Asks the sidecar that answers at a socket.
///
/// # Errors
/// When nobody answers there, or not with a report.
pub async fn ask(path: &Path) -> io::Result<Report> {
    let asked = tokio::time::timeout(WITHIN, async {
        let mut text = Vec::new();
        UnixStream::connect(path).await?.take(MAX_REPORT).read_to_end(&mut text).await?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    });
    asked.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
