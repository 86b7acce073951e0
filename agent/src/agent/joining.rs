//! From a token to a first identity, and from an expired one to a fresh one: the waiting and the retries
//! around `enroll`'s single tries.

use std::{sync::Arc, time::Duration};

use rollcall_common::{address::Address, backoff::Backoff, id::Kind, identity::Pin};

use super::{Agent, Fault, patient};
use crate::{
    carriage::Ways,
    enroll::{Admission, EnrollError, Next, Request, Target, enroll, rejoin},
    identity::Identity,
    key::Key,
    rotation::Rotation,
    signals::{Rest, Signals},
    status::Stage,
    token::{Damaged, Found, Origin, is_exposed, look},
};

/// How often the places of the token are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A collector that asks for more patience than this is not believed.
const PATIENCE_CAP: Duration = Duration::from_secs(3600);

/// The tries with one token.
struct Campaign {
    found: Found,
    key: Arc<Key>,
    rotation: Rotation,
    /// Tries that gave nothing.
    tries: u32,
}

impl Agent {
    /// Waits for a token and enrolls with it; `None` where the process stops before.
    pub(super) async fn enroll(&mut self, signals: &mut Signals) -> Result<Option<Admission>, Fault> {
        let mut campaign: Option<Campaign> = None;
        loop {
            let Some(found) = self.await_token(signals).await? else { return Ok(None) };
            if std::mem::take(&mut self.has_reread) {
                campaign = None;
            }
            let kind = self.config.kind.ok_or(Fault::NoKind)?;
            let current = match campaign.take().filter(|old| old.found.token.id == found.token.id) {
                Some(current) => current,
                None => self.begin(found)?,
            };
            let current = campaign.insert(current);
            let request = self.request(kind);
            let Ok(pick) = current.rotation.pick(self.clock.now().boot) else { return Err(Fault::NoAddress) };
            let ways = self.carriage.ways();
            let target = Target {
                dialer: &self.dialer,
                address: &pick.address,
                variant: pick.variant,
                ways,
                head_start: self.carriage.head_start(),
                clock: &self.clock,
            };
            let asked = enroll(target, &current.found.token, &request, Arc::clone(&current.key));
            let Some(outcome) = signals.unless_stopped(asked).await else { return Ok(None) };
            self.judge_way(ways, &pick.address, &outcome);
            let error = match outcome {
                Ok(admission) => match self.vault.keep_first(&admission.identity, &admission.addresses) {
                    Ok(()) => {
                        self.consume(&current.found.origin);
                        return Ok(Some(admission));
                    }
                    // The collector gives the same identity again for the same key.
                    Err(error) => error.to_string(),
                },
                Err(error) => match error.next() {
                    Next::GiveUp => return Err(Fault::Refused { origin: current.found.origin.clone(), error }),
                    Next::Retry(_) | Next::RetrySlowly => {
                        let delay = self.delay(&error);
                        if error.awaits_approval() {
                            // Nothing failed: the same collector is asked again, with the same key.
                            let fingerprint = current.key.pin();
                            if self.await_approval(fingerprint, delay, signals).await {
                                return Ok(None);
                            }
                            continue;
                        }
                        current.rotation.failed(self.clock.now().boot, Duration::ZERO);
                        current.tries = current.tries.saturating_add(1);
                        let tries = current.tries;
                        self.persist(tries, &error)?;
                        if self.pause(false, &pick.address, error.to_string(), delay, signals).await {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            let delay = self.chance.next_delay(None);
            if self.pause(false, &pick.address, error, delay, signals).await {
                return Ok(None);
            }
        }
    }

    /// Asks with a bound key until that gives a fresh identity, kept as the next one; `None` where the
    /// process stops before. After a kill in mid-renewal, either of two keys may be the bound one: they
    /// take turns.
    pub(super) async fn rejoin(&mut self, expired: &[Identity], signals: &mut Signals) -> Option<Identity> {
        self.show(Stage::Asking { rejoin: true, last: None, again_at: None });
        let mut rotation = Rotation::new(self.addresses.clone());
        self.chance.reset();
        // One key for all tries, so that a collector which answered in vain recognizes it.
        let newest = expired.iter().map(|identity| identity.term().generation).max()?;
        for signer in (0..expired.len()).cycle() {
            let signer = expired.get(signer)?;
            if signals.take_reload() {
                self.reload(true);
                rotation.replace(self.addresses.clone());
            }
            let now = self.clock.now().boot;
            // None of our own picks is ever put off.
            let pick = rotation.pick(now).ok()?;
            let (words, delay) = match self.vault.rejoin_key(newest) {
                Ok(key) => {
                    let ways = self.carriage.ways();
                    let target = Target {
                        dialer: &self.dialer,
                        address: &pick.address,
                        variant: pick.variant,
                        ways,
                        head_start: self.carriage.head_start(),
                        clock: &self.clock,
                    };
                    let asked = rejoin(target, signer, Arc::new(key), self.instance_id);
                    let outcome = signals.unless_stopped(asked).await?;
                    self.judge_way(ways, &pick.address, &outcome);
                    match outcome {
                        Ok(admission) => match self.vault.keep_next(&admission.identity) {
                            Ok(()) => {
                                tracing::info!(generation = admission.identity.term().generation.0, "rejoined");
                                return Some(admission.identity);
                            }
                            Err(error) => (error.to_string(), self.chance.next_delay(None)),
                        },
                        Err(error) => {
                            rotation.failed(now, Duration::ZERO);
                            let is_last = expired.last().is_some_and(|last| std::ptr::eq(last, signer));
                            let delay = if is_last { self.delay(&error) } else { self.chance.next_delay(None) };
                            (error.to_string(), delay)
                        }
                    }
                }
                Err(error) => (error.to_string(), self.chance.next_delay(None)),
            };
            if self.pause(true, &pick.address, words, delay, signals).await {
                return None;
            }
        }
        None
    }

    /// Learns from a try which way leads to a collector.
    fn judge_way(&mut self, ways: Ways, address: &Address, outcome: &Result<Admission, EnrollError>) {
        match outcome {
            Ok(admission) => {
                self.carriage.opened(admission.transport);
                if let Some(turn) = self.carriage.greeted(admission.transport, self.clock.now().boot) {
                    self.log_turn(address, &turn);
                }
            }
            Err(EnrollError::Refused(..)) => self.carriage.answered(ways),
            Err(error) => {
                if let Some(why) = error.unanswered() {
                    self.carriage.unanswered(ways, why);
                }
            }
        }
    }

    /// Looks for a token each second, and says so while there is none.
    async fn await_token(&mut self, signals: &mut Signals) -> Result<Option<Found>, Fault> {
        let mut damaged: Option<Damaged> = None;
        let mut said = false;
        loop {
            if signals.take_reload() {
                self.reload(false);
            }
            match look(&self.config.token) {
                Ok(look) => {
                    damaged = None;
                    if let Some(found) = look.found {
                        return Ok(Some(found));
                    }
                    let place = self.config.token.file.clone();
                    self.show(Stage::WaitingForToken { place, obstacles: look.obstacles });
                    if !said {
                        tracing::info!("{}", self.systemd.line());
                        said = true;
                    }
                }
                // Read while it was being written: the second look decides.
                Err(now) if damaged.as_ref() != Some(&now) => damaged = Some(now),
                Err(now) => return Err(now.into()),
            }
            match signals.rest(LOOK_EVERY).await {
                Rest::Over | Rest::Hurried => {}
                Rest::Stopped => return Ok(None),
            }
        }
    }

    fn begin(&mut self, found: Found) -> Result<Campaign, Fault> {
        tracing::info!(token = %found.token.id, from = %found.origin, "enrolling");
        match &found.origin {
            Origin::Environment => tracing::warn!(
                "the token is in the environment, which other programs of this user can read: prefer the token file"
            ),
            Origin::File(path) if is_exposed(path) => {
                tracing::warn!("{} can be read by everybody: `chmod 600 {}`", path.display(), path.display());
            }
            Origin::File(_) | Origin::Credential(_) => {}
        }
        let key = Arc::new(self.vault.enrollment_key(found.token.id)?);
        let addresses = if self.config.addresses.is_empty() {
            found.token.addresses.clone()
        } else {
            self.config.addresses.clone()
        };
        self.edit(|board| board.addresses.clone_from(&addresses));
        self.show(Stage::Asking { rejoin: false, last: None, again_at: None });
        self.chance = match self.config.enrollment.retry_delay {
            Some(delay) => Backoff::new(delay, delay, self.seed),
            None => patient(self.seed),
        };
        Ok(Campaign { found, key, rotation: Rotation::new(addresses), tries: 0 })
    }

    /// Whether it goes on after so many tries, and how.
    fn persist(&mut self, tries: u32, last: &EnrollError) -> Result<(), Fault> {
        let enrollment = self.config.enrollment;
        if enrollment.tries != Some(tries) {
            return Ok(());
        }
        if enrollment.fail_on_error {
            return Err(Fault::Unheard { tries, last: last.to_string() });
        }
        tracing::warn!(tries, "no identity yet: going on with longer pauses");
        self.chance = patient(self.seed);
        Ok(())
    }

    fn request(&self, kind: Kind) -> Request {
        let config = &self.config;
        Request {
            kind,
            id: config.id.clone(),
            parent: config.parent.clone(),
            checker_kind: config.checker_kind.clone(),
            labels: config.labels.clone(),
            metadata: config.metadata.clone(),
            instance_id: self.instance_id,
        }
    }

    fn delay(&mut self, error: &EnrollError) -> Duration {
        match error.next() {
            Next::Retry(patience) => {
                let patience = patience.min(PATIENCE_CAP);
                let patience = self.chance.between(patience, patience.saturating_add(patience / 4));
                self.chance.next_delay(None).max(patience)
            }
            Next::RetrySlowly | Next::GiveUp => self.chance.jitter(self.config.revoked_retry, 10),
        }
    }

    /// Shows why and rests; tells whether the process stops.
    async fn pause(
        &mut self,
        rejoin: bool,
        address: &Address,
        words: String,
        delay: Duration,
        signals: &mut Signals,
    ) -> bool {
        tracing::warn!(collector = %address, again_in_ms = delay.as_millis(), "no identity yet: {words}");
        let now = self.clock.now();
        self.edit(|board| board.errors.push(now.wall, words.clone()));
        let again_at = Some(now.boot.after(delay));
        self.show(Stage::Asking { rejoin, last: Some(words), again_at });
        signals.rest(delay).await == Rest::Stopped
    }

    /// Says whose key waits for an operator, and rests; tells whether the process stops.
    async fn await_approval(&mut self, fingerprint: Pin, delay: Duration, signals: &mut Signals) -> bool {
        let again_at = Some(self.clock.now().boot.after(delay));
        let again_in_ms = delay.as_millis();
        tracing::info!(%fingerprint, again_in_ms, "an operator must approve this host: `rollcall-collector approvals list`");
        self.show(Stage::AwaitingApproval { fingerprint, again_at });
        signals.rest(delay).await == Rest::Stopped
    }

    fn consume(&self, origin: &Origin) {
        let Origin::File(path) = origin else { return };
        if !self.config.token.consume_file {
            return;
        }
        match std::fs::remove_file(path) {
            Ok(()) => tracing::info!("removed {}: its token did its work", path.display()),
            Err(error) => tracing::warn!("cannot remove {}: {error}", path.display()),
        }
    }
}
