//! The administrators' socket: a way in for those who could read the collector's memory anyway.
//!
//! Whoever connects is whoever the kernel says (`SO_PEERCRED`): root and the collector's own user are
//! administrators without a credential, everybody else needs one like anywhere. It is what keeps every other
//! way in from being the last one.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use rustix::process::geteuid;
use tokio::{net::UnixListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::server::{ACCEPT_PAUSE, Paced, Peer, Seat, serve as serve_one};

/// Who may connect: the owner and the group, of whom the kernel's word still has to make administrators.
const MODE: u32 = 0o660;
/// Connections at once; others wait in the backlog.
const CONNECTIONS: usize = 16;

/// Listens on a socket, in the place of one that a killed predecessor left.
///
/// # Errors
/// As binding does; a file of another kind in its place is left alone.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else has its place")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Whether a user is an administrator by being who it is.
pub(super) fn is_administrator(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Serves the socket until it is told to stop and the last connection has ended.
pub(super) async fn serve(listener: UnixListener, router: Router, stop: CancellationToken, within: Duration) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            (accepted, permit) = next => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, say: whoever waits is still there, and trying at once would spin.
                        tracing::warn!(%error, "a connection of the administrators' socket could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                // A peer that the kernel cannot name is nobody.
                let Ok(who) = stream.peer_cred() else { continue };
                let (router, stop) = (router.clone(), stop.clone());
                let seat = Arc::new(Seat::taken(Arc::clone(&room), permit.ok()));
                let stream = Paced::new(stream, within, Arc::clone(&seat));
                connections.spawn(serve_one(stream, (Peer::Local(who.uid()), seat), router, stop));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
