//! Waits for the sudden end of what is watched: of a process by its pidfd, of a control group by its events. It says
//! only that a look is worth its while; what happened is for that look to tell.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::inotify;
use tokio::io::{Interest, unix::AsyncFd};

use super::check::{Prey, populated};

/// Returns when it has ended, or when that can no longer be known.
pub async fn end_of(prey: &Prey) -> io::Result<()> {
    match prey {
        Prey::Process(fd, _) => {
            let watched = owned(Arc::clone(fd))?;
            watched.readable().await?.retain_ready();
            Ok(())
        }
        Prey::Group(events) => emptied(events).await,
    }
}

async fn emptied(events: &Path) -> io::Result<()> {
    let queue = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&queue, events, inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF)?;
    let queue = owned(queue)?;
    loop {
        // Between the look and the watch it may have emptied.
        if populated(events) != Some(true) {
            return Ok(());
        }
        let mut ready = queue.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 1_024];
        let mut reader = inotify::Reader::new(queue.get_ref(), &mut buffer);
        // Equal events are one, so that this ends.
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}

/// Waits on a descriptor that is ours to keep: an owned one, alone or shared.
fn owned<T: AsRawFd + Owned>(fd: T) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "sound for what owns its descriptor; its successor is unsafe, which this house forbids"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Keeps its descriptor open for as long as it lives.
trait Owned {}
impl Owned for OwnedFd {}
impl Owned for Arc<OwnedFd> {}
