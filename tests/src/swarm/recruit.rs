//! From onboarding tokens to identities on the shelf. What is there is not enrolled again.
//!
//! Ids begin with a prefix that is new each time, so that an identity whose key was lost with a kill never
//! stands in the way.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::{StreamExt as _, stream};
use rollcall_agent::{
    carriage::Ways,
    enroll::{Next, Request, Target, enroll},
    key::Key,
    link::Dialer,
};
use rollcall_common::{
    backoff::Backoff,
    id::{InstanceId, Kind, ServiceId, random},
    service::Pairs,
    time::{Clock, SystemClock},
    token::Token,
    wire::Transport,
};
use serde::Serialize;

use super::{
    api::Api,
    gauge::Pid,
    guard,
    plan::Shape,
    quantile::{Quantiles, Summary},
    shelf::{Member, Shelf},
};

/// Tries for one identity before the whole is given up.
const TRIES: u32 = 60;
/// Identities between two lines of progress.
const PROGRESS: usize = 500;
/// The checker kind of a tree's checkers.
const CHECKER_KIND: &str = "snmp";

/// Where tokens come from.
#[derive(Debug)]
pub enum Mint<'a> {
    /// Made through the API, one for each kind.
    Api(&'a Api),
    /// One that somebody made.
    Given {
        /// The token.
        token: Token,
        /// Beginning of the ids to ask for; `None` lets the collector assign them.
        prefix: Option<String>,
    },
}

/// What an enrollment came to.
#[derive(Debug, Clone, Serialize)]
pub struct Enrolled {
    /// Identities enrolled now.
    pub enrolled: usize,
    /// Identities on the shelf.
    pub total: usize,
    /// Tries that were answered with a word to come back.
    pub retries: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// From a try to its identity.
    pub each: Option<Summary>,
    /// Own CPU time, in µs per identity: key, request, handshake.
    pub own_cpu_us: u64,
    /// The collector's CPU time, in µs per identity.
    pub collector_cpu_us: Option<u64>,
}

/// Enrolls what is missing of the first `count` places.
#[derive(Debug)]
pub struct Recruiting<'a> {
    /// Where tokens come from.
    pub mint: Mint<'a>,
    /// Who is who.
    pub shape: Shape,
    /// How many.
    pub count: u32,
    /// Enrollments at once.
    pub parallel: usize,
    /// The collector's process, to account its CPU time.
    pub collector: Option<Pid>,
    /// Whether other hosts are allowed.
    pub allow_remote: bool,
}

impl Recruiting<'_> {
    /// Does it.
    ///
    /// # Errors
    /// When the shelf is another shape's, and when an enrollment is refused for good.
    pub async fn run(self, dir: &Path) -> Result<Enrolled> {
        let mut shelf = Shelf::open(dir)?;
        ensure!(
            shelf.shape().is_none_or(|shape| shape == self.shape),
            "{dir:?} holds a swarm of another shape: use another directory"
        );
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let begun = clock.now().boot;
        let cpu = || (Pid::own().cpu(), self.collector.and_then(|pid| pid.cpu().ok()));
        let before = cpu();
        let (mut enrolled, mut retries, mut each) = (0, 0, Quantiles::default());
        for kind in self.shape.kinds() {
            let all = 0..self.count;
            let missing: Vec<u32> =
                all.filter(|place| self.shape.kind(*place) == *kind && !shelf.members().contains_key(place)).collect();
            if missing.is_empty() {
                continue;
            }
            let supply = self.supply(*kind, missing.len()).await?;
            let outcome = self.enroll_all(&supply, &missing, *kind, &mut shelf, &clock, &mut retries, &mut each).await;
            if let Mint::Api(api) = self.mint {
                // A used-up token is worth nothing anyway.
                let _ = api.revoke(supply.token.id).await;
            }
            enrolled += outcome?;
        }
        let after = cpu();
        let each_us = |spent: Duration| {
            u64::try_from(spent.as_micros()).unwrap_or(u64::MAX) / u64::try_from(enrolled.max(1)).unwrap_or(1)
        };
        Ok(Enrolled {
            enrolled,
            total: shelf.members().len(),
            retries,
            took_ms: u64::try_from(clock.now().boot.since(begun).as_millis())?,
            each: each.summary(),
            own_cpu_us: each_us(after.0?.saturating_sub(before.0?)),
            collector_cpu_us: before.1.zip(after.1).map(|(before, after)| each_us(after.saturating_sub(before))),
        })
    }

    async fn supply(&self, kind: Kind, uses: usize) -> Result<Supply> {
        let supply = match &self.mint {
            Mint::Api(api) => {
                let chance: [u8; 4] = random()?;
                let prefix = format!("swarm-{:08x}-", u32::from_be_bytes(chance));
                let token = api.mint(kind, &prefix, u32::try_from(uses)?, !self.allow_remote).await?;
                Supply { token, prefix: Some(prefix) }
            }
            Mint::Given { token, prefix } => Supply { token: token.clone(), prefix: prefix.clone() },
        };
        guard::local_only(&supply.token.addresses, self.allow_remote)?;
        Ok(supply)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a different thing")]
    async fn enroll_all(
        &self,
        supply: &Supply,
        missing: &[u32],
        kind: Kind,
        shelf: &mut Shelf,
        clock: &Arc<dyn Clock>,
        retries: &mut u64,
        each: &mut Quantiles,
    ) -> Result<usize> {
        let dialer = Dialer::new();
        let parents: BTreeMap<u32, ServiceId> =
            shelf.members().iter().map(|(place, member)| (*place, member.identity.service().id.clone())).collect();
        let candidates = missing.iter().map(|place| {
            let parent = self.shape.parent(*place).map(|parent| {
                parents.get(&parent).cloned().with_context(|| format!("the parent of place {place} is missing"))
            });
            let id = supply.prefix.as_ref().map(|prefix| ServiceId::new(&format!("{prefix}{place}")));
            Candidate { place: *place, kind, parent, id, supply, dialer: &dialer, clock }.enroll()
        });
        let mut done = 0;
        let mut coming = stream::iter(candidates).buffer_unordered(self.parallel.max(1));
        while let Some(outcome) = coming.next().await {
            let (member, tries, took) = outcome?;
            shelf.keep(self.shape, member)?;
            each.add(took);
            *retries += u64::from(tries - 1);
            done += 1;
            if done % PROGRESS == 0 || done == missing.len() {
                tracing::info!("{done} of {} {} enrolled", missing.len(), kind.plural());
            }
        }
        dialer.settle(Duration::from_secs(1)).await;
        Ok(done)
    }
}

struct Supply {
    token: Token,
    prefix: Option<String>,
}

struct Candidate<'a> {
    place: u32,
    kind: Kind,
    parent: Option<Result<ServiceId>>,
    id: Option<Result<ServiceId, rollcall_common::id::NameError>>,
    supply: &'a Supply,
    dialer: &'a Dialer,
    clock: &'a Arc<dyn Clock>,
}

impl Candidate<'_> {
    /// One identity, with how many tries it took and how long the last one did.
    async fn enroll(self) -> Result<(Member, u32, Duration)> {
        let key = Arc::new(Key::generate()?);
        let checker_kind = (self.kind == Kind::Checker).then(|| ServiceId::new(CHECKER_KIND)).transpose()?;
        let request = Request {
            kind: self.kind,
            id: self.id.transpose()?,
            parent: self.parent.transpose()?,
            checker_kind,
            labels: Pairs::default(),
            metadata: Pairs::default(),
            instance_id: InstanceId::random()?,
        };
        let token = &self.supply.token;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), self.place.into());
        let mut addresses = token.addresses.iter().cycle();
        for tries in 1..=TRIES {
            let address = addresses.next().context("the token holds no address")?;
            let begun = self.clock.now().boot;
            let target = Target {
                dialer: self.dialer,
                address,
                variant: tries,
                ways: Ways::Only(Transport::Quic),
                head_start: Duration::ZERO,
                clock: self.clock,
            };
            match enroll(target, token, &request, Arc::clone(&key)).await {
                Ok(admission) => {
                    let given = admission.addresses.list;
                    let addresses = if given.is_empty() { token.addresses.clone() } else { given };
                    let member = Member { place: self.place, identity: admission.identity, addresses };
                    return Ok((member, tries, self.clock.now().boot.since(begun)));
                }
                Err(error) => match error.next() {
                    Next::Retry(patience) => {
                        let pause = backoff.next_delay(None).max(patience);
                        tracing::debug!(place = self.place, %error, ?pause, "again");
                        tokio::time::sleep(pause).await;
                    }
                    Next::RetrySlowly | Next::GiveUp => {
                        return Err(anyhow!(error).context(format!("place {} was refused", self.place)));
                    }
                },
            }
        }
        Err(anyhow!("place {} was not enrolled in {TRIES} tries", self.place))
    }
}
