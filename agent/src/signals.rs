//! What the host asks of the process: stop, or try right now.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// A request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: say goodbye and leave; the second time, leave.
    Stop,
    /// SIGHUP: whatever is waited for, try it now.
    Retry,
}

/// A queue of requests. Its sender may be anybody: the process's signals, or a test.
#[derive(Debug)]
pub struct Signals(mpsc::Receiver<Signal>);

/// Requests that may wait; more of them would ask for nothing new, and are dropped.
const WAITING: usize = 8;

/// How a rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It was long enough.
    Over,
    /// Somebody wants a try right now.
    Hurried,
    /// The process stops.
    Stopped,
}

impl Signals {
    /// A queue and its other end.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<Signal>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (sender, Self(receiver))
    }

    /// The next request; once nobody can ask any more, that is a stop. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        self.0.recv().await.unwrap_or(Signal::Stop)
    }

    /// Works until done; `None` where the process stops before.
    pub async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                signal = self.next() => if signal == Signal::Stop { return None },
            }
        }
    }

    /// Rests, unless something is asked.
    pub async fn rest(&mut self, delay: Duration) -> Rest {
        tokio::select! {
            () = tokio::time::sleep(delay) => Rest::Over,
            signal = self.next() => match signal {
                Signal::Stop => Rest::Stopped,
                Signal::Retry => Rest::Hurried,
            },
        }
    }
}

/// Passes the process's signals on until dropped.
///
/// # Errors
/// When a handler cannot be installed.
pub async fn pass_on(to: mpsc::Sender<Signal>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        let asked = tokio::select! {
            _ = terminate.recv() => Signal::Stop,
            _ = interrupt.recv() => Signal::Stop,
            _ = hang_up.recv() => Signal::Retry,
        };
        // A full queue asks for the same already.
        let _ = to.try_send(asked);
    }
}
