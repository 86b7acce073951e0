//! Many hand-driven sidecars that keep their pace by themselves, and a count of how they fare.
//!
//! Each is one task: dial, greet, beat at the granted pace, dial again when the connection is gone. They
//! share a few sockets. Unlike the real sidecar they never renew, and unlike the load generator they
//! measure nothing: they exist to be there while something happens to the collector.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollcall_common::{
    backoff::Backoff,
    lease::Pace,
    time::{Clock as _, SystemClock, Timestamp},
    token::Token,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    peer::{Ask, Identity, Live, Phone, Puppet, enroll},
    until::until,
};

/// Enrollments under way at once.
const ENROLLING: usize = 16;
/// Sidecars on one socket.
const PER_PHONE: usize = 250;

/// Enrolls pollers named `<prefix><n>` with a token of many uses.
///
/// # Errors
/// The first that is refused.
pub async fn enroll_many(to: SocketAddr, token: &Token, prefix: &str, count: usize) -> Result<Vec<Identity>> {
    let phone = Phone::new()?;
    let phone = &phone;
    stream::iter(0..count)
        .map(|n| async move {
            let ask = Ask::poller(&format!("{prefix}{n}"))?;
            // A full admission lane tells when to come again, and many ask at once.
            until(Duration::from_secs(60), "an enrollment is granted", async || {
                enroll(phone, to, token, &ask).await?.identity()
            })
            .await
        })
        .buffer_unordered(ENROLLING)
        .try_collect()
        .await
}

/// Sidecars that beat; they stop without a goodbye when dropped.
#[derive(Debug)]
pub struct Fleet {
    state: Arc<State>,
    to: watch::Sender<SocketAddr>,
    size: usize,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    acked: AtomicU64,
    late: AtomicU64,
    greeted: AtomicU64,
    /// When each was last acknowledged.
    last_ack: Mutex<Vec<Timestamp>>,
}

impl Fleet {
    /// Sets all of them going.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start(identities: Vec<Identity>, to: SocketAddr) -> Result<Self> {
        let size = identities.len();
        let state = Arc::new(State { last_ack: Mutex::new(vec![Timestamp(0); size]), ..State::default() });
        let (to, target) = watch::channel(to);
        let mut tasks = JoinSet::new();
        let phones = (0..size.div_ceil(PER_PHONE).max(1)).map(|_| Phone::new()).collect::<Result<Vec<_>>>()?;
        for (n, (identity, phone)) in identities.into_iter().zip(phones.iter().cycle()).enumerate() {
            let member = Member { n, puppet: Puppet::new(identity)?, phone: phone.clone(), state: Arc::clone(&state) };
            tasks.spawn(member.live(target.clone()));
        }
        Ok(Self { state, to, size, _tasks: tasks })
    }

    /// Tells all where to dial from now on.
    pub fn dial(&self, to: SocketAddr) {
        self.to.send_replace(to);
    }

    /// Beats acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.state.acked.load(SeqCst)
    }

    /// Beats that were not acknowledged within the time of their pace.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.state.late.load(SeqCst)
    }

    /// Sessions greeted so far.
    #[must_use]
    pub fn greeted(&self) -> u64 {
        self.state.greeted.load(SeqCst)
    }

    /// Waits until each was acknowledged after a moment.
    ///
    /// # Errors
    /// When one was not, with how many were.
    pub async fn all_acked_since(&self, moment: Timestamp, within: Duration) -> Result<()> {
        until(within, "every sidecar of the fleet is acknowledged", async || {
            let acks = self.state.last_ack.lock().unwrap_or_else(PoisonError::into_inner);
            let back = acks.iter().filter(|at| **at > moment).count();
            ensure!(back == self.size, "{back} of {} are", self.size);
            Ok(())
        })
        .await
    }
}

struct Member {
    n: usize,
    puppet: Puppet,
    phone: Phone,
    state: Arc<State>,
}

impl Member {
    async fn live(mut self, target: watch::Receiver<SocketAddr>) {
        let seed = u64::try_from(self.n).unwrap_or(0);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2), seed);
        loop {
            let to = *target.borrow();
            // A dial that hangs is given up long before the patience of a single peer ends.
            if let Ok(Ok(live)) = timeout(Duration::from_secs(4), self.puppet.live(&self.phone, to)).await {
                self.state.greeted.fetch_add(1, SeqCst);
                backoff.reset();
                self.beat(live).await;
            }
            tokio::time::sleep(backoff.next_delay(None)).await;
        }
    }

    /// Beats until an acknowledgement fails to come.
    async fn beat(&self, mut live: Live) {
        let Ok(pace) = Pace::try_from(live.pace) else { return };
        let mut beats = interval(pace.interval());
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            match timeout(pace.ack_within(), live.beat()).await {
                Ok(Ok(_)) => {
                    self.state.acked.fetch_add(1, SeqCst);
                    let mut acks = self.state.last_ack.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(at) = acks.get_mut(self.n) {
                        *at = SystemClock.now().wall;
                    }
                }
                Ok(Err(_)) => return,
                Err(_) => {
                    self.state.late.fetch_add(1, SeqCst);
                    return;
                }
            }
        }
    }
}
