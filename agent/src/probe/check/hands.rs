//! Threads for what may hang in the kernel: files, programs that are started, names.
//!
//! Few errands are under way at a time. One that is not over when nobody waits for it any more is written off: its
//! thread is lost until the kernel lets it go, its place is free again, and nobody reaches for the same thing
//! meanwhile. So a file system that hangs costs one thread, however often it is looked at, and no other look waits
//! behind it; once as many are lost as may be, places stay taken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Look;

/// Threads for one sort of errands.
#[derive(Debug)]
pub(super) struct Hands {
    free: Arc<Semaphore>,
    lost: Arc<Lost>,
    most: usize,
}

/// Errands that nobody waits for any more.
#[derive(Debug, Default)]
struct Lost(Mutex<Vec<Arc<Errand>>>);

#[derive(Debug)]
struct Errand {
    /// What it reaches for.
    what: String,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    UnderWay(OwnedSemaphorePermit),
    WrittenOff,
    Over,
}

impl Hands {
    /// So many at a time, and so many more that may be lost.
    pub(super) fn new(at_a_time: usize, most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(at_a_time)), lost: Arc::default(), most }
    }

    /// Does something that may hang, apart from everything else.
    pub(super) async fn lend<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Look> {
        if self.lost.list().iter().any(|errand| errand.what == what) {
            return Err(Look::blind(format!("the look before still hangs at {what}, in the kernel")));
        }
        let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
            return Err(Look::blind("the sidecar is stopping"));
        };
        let errand = Arc::new(Errand { what: what.to_owned(), stage: Mutex::new(Stage::UnderWay(permit)) });
        let ends = End { errand: Arc::clone(&errand), lost: Arc::clone(&self.lost) };
        let _waiting = Waiting { errand, lost: &self.lost, most: self.most };
        let done = tokio::task::spawn_blocking(move || {
            let _ends = ends;
            work()
        });
        done.await.map_err(|error| Look::blind(format!("the look failed: {error}")))
    }

    /// How many threads hang.
    #[cfg(test)]
    pub(super) fn lost(&self) -> usize {
        self.lost.list().len()
    }
}

impl Lost {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Errand>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Errand {
    /// Its next stage; gives the one before.
    fn goes_on(&self, next: Stage) -> Stage {
        std::mem::replace(&mut *self.stage.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    fn is_under_way(&self) -> bool {
        matches!(*self.stage.lock().unwrap_or_else(PoisonError::into_inner), Stage::UnderWay(_))
    }
}

/// Held by the thread: dropped, the errand is over.
struct End {
    errand: Arc<Errand>,
    lost: Arc<Lost>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut list = self.lost.list();
        match self.errand.goes_on(Stage::Over) {
            Stage::UnderWay(permit) => drop(permit),
            Stage::WrittenOff | Stage::Over => list.retain(|errand| !Arc::ptr_eq(errand, &self.errand)),
        }
    }
}

/// Held by who waits: dropped before the errand is over, it is written off, where that many may be.
struct Waiting<'a> {
    errand: Arc<Errand>,
    lost: &'a Lost,
    most: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut list = self.lost.list();
        if self.errand.is_under_way() && list.len() < self.most {
            list.push(Arc::clone(&self.errand));
            drop(self.errand.goes_on(Stage::WrittenOff));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// An errand that hangs until it is let go, and for which nobody waits.
    async fn hang(hands: &Hands, what: &str) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let errand = hands.lend(what, move || {
            let _ = begun.send(());
            let _ = wait.recv();
        });
        tokio::select! {
            _ = errand => panic!("it hangs"),
            begun = begins => begun.expect("it began"),
        }
        go
    }

    async fn until_lost(hands: &Hands, wanted: usize) {
        let seen = async {
            while hands.lost() != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, seen).await.unwrap_or_else(|_| panic!("{} are lost", hands.lost()));
    }

    #[tokio::test]
    async fn who_hangs_is_left_alone_and_costs_nobody_a_place() {
        let hands = Hands::new(1, 2);
        let first = hang(&hands, "/nfs/a").await;
        assert_eq!(hands.lost(), 1);
        assert_eq!(hands.lend("/etc/b", || 7).await.ok(), Some(7), "its place is free again");
        let again = hands.lend("/nfs/a", || 7).await.expect_err("nobody reaches there");
        assert!(again.words.contains("still hangs at /nfs/a"), "{}", again.words);
        let second = hang(&hands, "/nfs/c").await;
        assert_eq!(hands.lost(), 2);
        // As many as may be: the next one keeps its place.
        let third = hang(&hands, "/nfs/d").await;
        assert_eq!(hands.lost(), 2);
        let full = tokio::time::timeout(Duration::from_millis(50), hands.lend("/etc/b", || 7)).await;
        assert!(full.is_err(), "there is no place");
        third.send(()).unwrap();
        assert_eq!(tokio::time::timeout(SOON, hands.lend("/etc/b", || 7)).await.expect("in time").ok(), Some(7));
        first.send(()).unwrap();
        until_lost(&hands, 1).await;
        assert_eq!(hands.lend("/nfs/a", || 8).await.ok(), Some(8), "what came back is looked at again");
        drop(second);
        until_lost(&hands, 0).await;
        assert_eq!(hands.free.available_permits(), 1);
    }
}
