//! What the host asks of the process: stop, or read the configuration again and try right now.
//!
//! Whoever waits here is alive: the service manager's watchdog is fed while somebody listens, and only then. All
//! waiting of a sidecar's loop listens, so that a loop which hangs goes hungry.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};

use crate::local::systemd;

/// A request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: say goodbye and leave; the second time, leave.
    Stop,
    /// SIGHUP: read the configuration again, and whatever is waited for, try it now.
    Reload,
}

/// A queue of requests. Its sender may be anybody: the process's signals, or a test.
#[derive(Debug)]
pub struct Signals {
    asked: mpsc::Receiver<Signal>,
    feeding: Option<Interval>,
    /// Somebody who rested or worked was asked to reload and has not done it yet.
    reload: bool,
}

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
        (sender, Self { asked: receiver, feeding: None, reload: false })
    }

    /// Feeds the watchdog so often from now on, while somebody listens.
    pub fn feed_watchdog(&mut self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.feeding = Some(ticks);
    }

    /// The next request; once nobody can ask any more, that is a stop. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        loop {
            let feeding = async {
                match &mut self.feeding {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = self.asked.recv() => return signal.unwrap_or(Signal::Stop),
                _ = feeding => systemd::feed_watchdog(),
            }
        }
    }

    /// Whether a reload was asked for while it was worked or rested; asks once.
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.reload)
    }

    /// Works until done; `None` where the process stops before.
    pub async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                signal = self.next() => match signal {
                    Signal::Stop => return None,
                    Signal::Reload => self.reload = true,
                },
            }
        }
    }

    /// Rests, unless something is asked.
    pub async fn rest(&mut self, delay: Duration) -> Rest {
        tokio::select! {
            () = tokio::time::sleep(delay) => Rest::Over,
            signal = self.next() => match signal {
                Signal::Stop => Rest::Stopped,
                Signal::Reload => {
                    self.reload = true;
                    Rest::Hurried
                }
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
            _ = hang_up.recv() => Signal::Reload,
        };
        // A full queue asks for the same already.
        let _ = to.try_send(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few turns of the runtime.
    async fn signals_pass() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn feeding_ends_no_wait_and_loses_no_request() {
        let (sender, mut signals) = Signals::channel();
        signals.feed_watchdog(Duration::from_millis(1));
        assert_eq!(signals.rest(Duration::from_millis(20)).await, Rest::Over);
        sender.send(Signal::Reload).await.unwrap();
        assert_eq!(signals.rest(Duration::from_secs(60)).await, Rest::Hurried);
        assert!(signals.take_reload() && !signals.take_reload());
        let outcome = signals.unless_stopped(signals_pass()).await;
        assert_eq!(outcome, Some(()));
        drop(sender);
        assert_eq!(signals.next().await, Signal::Stop);
    }
}
