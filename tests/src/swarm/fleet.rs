//! The sessions of a swarm and their fates.
//!
//! Each sidecar is one task that owns one [`Drive`](rollcall_agent::drive::Drive). A stage, set for all at once, says what time it is; a
//! fate, given at the start, says what becomes of a sidecar when the faults begin. Nothing here judges what
//! was seen: it goes to the [`Board`].

mod board;
mod sidecar;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rollcall_agent::sample::host;
use rollcall_common::{
    address::Address,
    id::ServiceKey,
    time::{Clock, SystemClock},
};
use tokio::{sync::watch, task::JoinSet};

pub use self::board::Board;
use self::sidecar::Sidecar;
use super::{
    shelf::Member,
    wire::{Traffic, Wire},
};

/// How long goodbyes may take altogether.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);
/// How long the last closes may take to leave the sockets.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// What becomes of a sidecar when the faults begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Steady,
    /// It is gone without a word.
    Killed,
    /// It says goodbye.
    Stopped,
}

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// All beat.
    Beating,
    /// Fates are fulfilled.
    Faults,
    /// Whoever was killed or stopped starts again.
    Revival,
    /// Everybody says goodbye.
    Leaving,
}

/// How a fleet is set up.
#[derive(Debug, Clone)]
pub struct Manner {
    /// First dials are spread over this time, and those of the revived too.
    pub ramp: Duration,
    /// Where to dial instead of what the identities know.
    pub collector: Option<SocketAddr>,
    /// UDP sockets that the steady ones share.
    pub sockets: u8,
    /// Share of all that is killed.
    pub kill: f64,
    /// Share of all that is stopped.
    pub stop: f64,
    /// Decides who meets which fate, and all jitter.
    pub seed: u64,
}

/// A running swarm.
#[derive(Debug)]
pub struct Fleet {
    board: Arc<Board>,
    stage: watch::Sender<Stage>,
    tasks: JoinSet<()>,
    fates: Vec<(ServiceKey, Fate)>,
    steady: Wire,
    doomed: Option<Wire>,
    clock: Arc<dyn Clock>,
}

impl Fleet {
    /// Starts every session; each dials after its share of the ramp.
    ///
    /// # Errors
    /// When there is nobody, no address to dial, or no socket.
    pub fn launch(members: Vec<Member>, manner: &Manner) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let target = target(&members, manner.collector)?;
        let steady = Wire::bind(target, 0, manner.sockets)?;
        let doomed = (manner.kill > 0.0).then(|| Wire::bind(target, manner.sockets, 1)).transpose()?;
        let board = Arc::new(Board::new(members.len()));
        let (stage, seen) = watch::channel(Stage::Beating);
        let (mut tasks, mut fates) = (JoinSet::new(), vec![]);
        let boot_id = host::boot_id()?;
        for (n, (member, fate)) in members.into_iter().zip(draw(manner)).enumerate() {
            fates.push((member.identity.service().clone(), fate));
            let dialer = match (&doomed, fate) {
                (Some(doomed), Fate::Killed) => doomed.dialer(n),
                (Some(_) | None, _) => steady.dialer(n),
            };
            let sidecar = Sidecar {
                n,
                identity: member.identity,
                addresses: manner.collector.map_or(member.addresses, |at| vec![at.into()]),
                fate,
                dialer,
                spare: steady.dialer(n),
                board: Arc::clone(&board),
                stage: seen.clone(),
                clock: Arc::clone(&clock),
                boot_id,
                ramp: manner.ramp,
                rng: fastrand::Rng::with_seed(manner.seed.wrapping_add(u64::try_from(n)?).wrapping_mul(0x9e37_79b9)),
            };
            tasks.spawn(sidecar.run());
        }
        Ok(Self { board, stage, tasks, fates, steady, doomed, clock })
    }

    /// What the sessions see.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Everybody with their fate, in the order of the plan.
    #[must_use]
    pub fn fates(&self) -> &[(ServiceKey, Fate)] {
        &self.fates
    }

    /// The services that meet a fate.
    #[must_use]
    pub fn of_fate(&self, wanted: Fate) -> BTreeSet<ServiceKey> {
        self.fates.iter().filter(|(_, fate)| *fate == wanted).map(|(service, _)| service.clone()).collect()
    }

    /// What passed over all sockets.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let doomed = self.doomed.as_ref().map(Wire::traffic).unwrap_or_default();
        self.steady.traffic().and(doomed)
    }

    /// The clock that the sessions use.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Fulfills the fates.
    pub fn strike(&self) {
        if let Some(doomed) = &self.doomed {
            doomed.silence();
        }
        self.stage.send_replace(Stage::Faults);
    }

    /// Starts those again that were killed or stopped.
    pub fn revive(&self) {
        self.stage.send_replace(Stage::Revival);
    }

    /// Says goodbye for everybody and waits until it is said.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn leave(mut self) -> Result<()> {
        self.stage.send_replace(Stage::Leaving);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(LEAVE_WITHIN, all).await.context("some sidecars did not end in time")?;
        self.steady.settle(SETTLE_WITHIN).await;
        Ok(())
    }
}

/// One fate a sidecar, without end.
fn draw(manner: &Manner) -> impl Iterator<Item = Fate> {
    let (kill, stop) = (manner.kill, manner.stop);
    let mut rng = fastrand::Rng::with_seed(manner.seed);
    std::iter::repeat_with(move || match rng.f64() {
        x if x < kill => Fate::Killed,
        x if x < kill + stop => Fate::Stopped,
        _ => Fate::Steady,
    })
}

/// An address of the collector, to choose sockets by.
fn target(members: &[Member], collector: Option<SocketAddr>) -> Result<SocketAddr> {
    ensure!(!members.is_empty(), "there is nobody to run");
    let known = members.iter().flat_map(|member| &member.addresses);
    let known = known.filter_map(|address: &Address| Some(SocketAddr::new(address.ip()?, address.port())));
    collector.or_else(|| known.into_iter().next()).context("no IP address to dial is known: give --collector")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_follow_their_shares_and_their_seed() {
        let manner = Manner { ramp: Duration::ZERO, collector: None, sockets: 1, kill: 0.1, stop: 0.2, seed: 7 };
        let fates: Vec<Fate> = draw(&manner).take(10_000).collect();
        let count = |wanted| fates.iter().filter(|fate| **fate == wanted).count();
        assert!((900..1_100).contains(&count(Fate::Killed)), "{}", count(Fate::Killed));
        assert!((1_850..2_150).contains(&count(Fate::Stopped)), "{}", count(Fate::Stopped));
        assert_eq!(fates, draw(&manner).take(10_000).collect::<Vec<_>>());
        let calm = Manner { kill: 0.0, stop: 0.0, ..manner };
        assert!(draw(&calm).take(1_000).all(|fate| fate == Fate::Steady));
    }
}
