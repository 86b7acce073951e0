//! One sidecar: builds its parts, owns its tasks, takes it from a token to a session and out again.
//!
//! It performs what the session wishes and what only it can do: the vault, the rejoin, the log, the board.
//! When to do what is the session's decision, or that of `enroll`'s advice.

mod joining;
mod provision;
mod reload;
mod steering;
mod watching;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use rollcall_common::{
    address::Address,
    backoff::Backoff,
    id::{BootId, InstanceId, NoRandomness, ServiceKey},
    machine::MachineTag,
    time::Clock,
    wire::message::{About, Addresses, Goodbye, GoodbyeReason},
};
use tokio::task::JoinSet;

use crate::{
    carriage::{Carriage, Turn},
    cli::Exit,
    config::Config,
    drive::{Drive, Manner, Wish},
    enroll::EnrollError,
    health::{Attention, SharedHealth, Subject, Vitals},
    identity::Identity,
    link::Dialer,
    local::{
        Local, LocalError, SharedBoard,
        answers::House,
        systemd::{self, Systemd},
    },
    machine::{Belonging, Machine, belonging},
    remote::effective,
    sample::{
        Sampler,
        host::{BootIdError, boot_id},
    },
    session::{End, Event, Notice, Paper},
    signals::{Signal, Signals},
    status::{Board, Errors, SettingsView, Stage, skew_warning},
    token::{self, Damaged, Origin},
    vault::{Stored, Vault, VaultError},
};

/// How often the host's facts are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(600);
/// How long nobody looks whether somebody has become silent, where nobody promised to speak.
const QUIET: Duration = Duration::from_secs(3600);
/// How long closes may take to leave.
const SETTLE_WITHIN: Duration = Duration::from_millis(100);

pub use self::{provision::Provisioned, reload::Reread};
use self::{reload::Warnings, steering::Steering, watching::Watching};

/// Why a sidecar cannot go on. A restart cures none of these.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The state directory.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The status socket.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The host.
    #[error(transparent)]
    BootId(#[from] BootIdError),
    /// The host.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The token does not read.
    #[error(transparent)]
    Token(#[from] Damaged),
    /// There is a token, but not what to enroll as.
    #[error(
        "`kind` is not set: write kind = \"poller\", \"agent\", \"checker\" or \"instance\" into the configuration"
    )]
    NoKind,
    /// The state directory came from another machine.
    #[error("{}", copied(.dir, .service))]
    Copied {
        /// Where it is.
        dir: std::path::PathBuf,
        /// Whose identity is in it.
        service: ServiceKey,
    },
    /// Nobody could stop it in order.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] std::io::Error),
    /// Nowhere to dial.
    #[error(
        "there is no collector address: neither the state directory, the token nor the configuration has one; set `addresses`"
    )]
    NoAddress,
    /// Nobody gave an identity, and the configuration asks not to go on.
    #[error("no identity after {tries} tries, and `enrollment.fail_on_error` is set: {last}")]
    Unheard {
        /// How often it asked.
        tries: u32,
        /// What came of the last one.
        last: String,
    },
    /// The token is refused for good.
    #[error("the token from {origin} cannot be used. {error}")]
    Refused {
        /// Where the token is.
        origin: Origin,
        /// Why.
        error: EnrollError,
    },
}

impl Fault {
    /// How the process ends: whether a restart may help without anybody's doing.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            // The disk may have room again.
            Self::Vault(error) if error.is_transient() => Exit::Failed,
            Self::Signals(_) => Exit::Failed,
            Self::Unheard { .. } => Exit::Unavailable,
            Self::Vault(_) | Self::Local(_) | Self::BootId(_) | Self::Randomness(_) | Self::Token(_) => Exit::Config,
            Self::NoKind | Self::NoAddress | Self::Refused { .. } | Self::Copied { .. } => Exit::Config,
        }
    }
}

/// A sidecar that is ready to run: it holds its state directory, and its socket answers.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    reread: Option<Reread>,
    clock: Arc<dyn Clock>,
    vault: Vault,
    stored: Stored,
    local: Option<Local>,
    board: SharedBoard,
    health: SharedHealth,
    systemd: Systemd,
    dialer: Arc<Dialer>,
    instance_id: InstanceId,
    boot_id: BootId,
    machine: Option<MachineTag>,
    /// What the vault keeps of addresses.
    kept: Option<Addresses>,
    /// Where a session or a rejoin dials.
    addresses: Vec<Address>,
    chance: Backoff,
    /// What is known of transports, before there is a session and while it rejoins.
    carriage: Carriage,
    seed: u64,
    /// The current identity is still under the name of the next one, for want of a writable disk.
    unadopted: bool,
    last_end: Option<End>,
    /// What was said last of the service.
    verdict: Option<Vitals>,
    /// Whether it was there itself when others were to speak.
    attention: Attention,
    /// The host's files were read again, and what runs by them has not followed yet.
    has_reread: bool,
    warnings: Warnings,
    loopback_reports: Arc<AtomicBool>,
    steering: Steering,
}

impl Agent {
    /// Takes the state directory, reads it, binds the status socket.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn prepare(config: Config, clock: Arc<dyn Clock>) -> Result<Self, Fault> {
        let machine = Machine::look(config.machine_id_file.as_deref());
        let (vault, stored) = open(&config, &machine)?;
        let mut local = Local::bind(&config.socket)?;
        let mut board = Board {
            stage: Stage::WaitingForToken { place: config.token.file.clone(), obstacles: Vec::new() },
            service: stored.current.as_ref().map(|identity| identity.service().clone()),
            addresses: Vec::new(),
            warnings: Vec::new(),
            errors: Errors::default(),
            settings: SettingsView::of(None, None, &effective(config.host(), None)),
            started: clock.now().wall,
        };
        let files = stored.current.iter().flat_map(|identity| disagreements(&config, identity));
        let files = config.remarks().into_iter().chain(files).collect();
        let mut warnings = Warnings { files, ..Warnings::default() };
        // Heartbeats matter more than a port that somebody else has.
        match config.local.http.map(|at| (at, local.listen(at))) {
            Some((_, Ok(at))) => tracing::info!(%at, "the local service listens on loopback"),
            Some((at, Err(error))) => {
                warnings.start.push(format!("nobody listens at {at}: {error}; set another `http` below [local]"));
            }
            None => {}
        }
        board.warnings = warnings.start.iter().chain(&warnings.files).cloned().collect();
        for warning in &board.warnings {
            tracing::warn!("{warning}");
        }
        let health = SharedHealth::default();
        for child in &config.children {
            health.edit(|board| board.admit(child.key.clone()));
        }
        let seed = u64::from_be_bytes(rollcall_common::id::random()?);
        Ok(Self {
            instance_id: InstanceId::random()?,
            boot_id: boot_id()?,
            machine: machine.tag(),
            chance: patient(seed),
            carriage: Carriage::new(config.transport, seed.wrapping_add(2)),
            seed,
            board: Arc::new(Mutex::new(board)),
            health,
            systemd: Systemd::default(),
            dialer: Arc::new(Dialer::new()),
            local: Some(local),
            kept: None,
            addresses: Vec::new(),
            unadopted: false,
            last_end: None,
            verdict: None,
            attention: Attention::default(),
            reread: None,
            has_reread: false,
            warnings,
            loopback_reports: Arc::new(config.local.http_reports.into()),
            steering: Steering::default(),
            config,
            clock,
            vault,
            stored,
        })
    }

    /// Runs until it is asked to stop.
    ///
    /// # Errors
    /// [`Fault`] where it cannot go on.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), Fault> {
        let mut tasks = JoinSet::new();
        if let Some(local) = self.local.take() {
            let (board, health, clock) = (Arc::clone(&self.board), self.health.clone(), Arc::clone(&self.clock));
            let loopback_reports = Arc::clone(&self.loopback_reports);
            tasks.spawn(local.serve(House::new(board, health, clock, loopback_reports)));
        }
        if let Some(every) = systemd::watchdog_period() {
            signals.feed_watchdog(every);
        }
        self.systemd.ready();
        let outcome = self.lead(&mut signals).await;
        self.show(Stage::Stopping);
        self.systemd.stopping();
        self.dialer.settle(SETTLE_WITHIN).await;
        tasks.shutdown().await;
        outcome
    }

    async fn lead(&mut self, signals: &mut Signals) -> Result<(), Fault> {
        let stored = std::mem::take(&mut self.stored);
        let (current, next, addresses) = match stored {
            Stored { current: Some(current), next, addresses, made_for: _ } => (current, next, addresses),
            Stored { current: None, .. } => match self.enroll(signals).await? {
                Some(admission) => (admission.identity, None, Some(admission.addresses)),
                None => return Ok(()),
            },
        };
        tracing::info!(service = %current.service(), generation = current.term().generation.0, "enrolled");
        self.edit(|board| board.service = Some(current.service().clone()));
        self.live(current, next, addresses, signals).await
    }

    async fn live(
        &mut self,
        current: Identity,
        next: Option<Identity>,
        kept: Option<Addresses>,
        signals: &mut Signals,
    ) -> Result<(), Fault> {
        let addresses = self.settle_addresses(kept);
        if addresses.is_empty() {
            // Dialing nobody would look like waiting.
            return Err(Fault::NoAddress);
        }
        let manner = Manner {
            instance_id: self.instance_id,
            boot_id: self.boot_id,
            addresses,
            follow_addresses: self.config.addresses.is_empty(),
            revoked_retry: self.config.revoked_retry,
            first_dial_in: Duration::ZERO,
            seed: u64::from_be_bytes(rollcall_common::id::random()?),
            carriage: self.carriage.clone(),
        };
        let mut drive = Drive::new(current, next, manner, Arc::clone(&self.dialer), Arc::clone(&self.clock));
        self.recall();
        let mut watching = self.watching(&self.steering.effective)?;
        drive.tell(Event::ChildrenGone(self.parted()));
        drive.tell(Event::About(Box::new(self.about())));
        drive.tell(Event::InForce(Box::new(self.steering.state())));
        let mut sampler = Sampler::default();
        let mut sampling = tokio::time::interval(SAMPLE_EVERY);
        sampling.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let health = self.health.clone();
        loop {
            if signals.take_reload() {
                self.reload(true);
            }
            if std::mem::take(&mut self.has_reread) {
                self.follow(&mut drive, &mut watching);
            }
            let quiet = self.weigh(&mut drive);
            watching.weigh();
            tokio::select! {
                () = health.changed() => {}
                () = tokio::time::sleep(quiet) => {}
                wish = drive.next() => {
                    if matches!(wish, Wish::Note(Notice::Greeted { .. })) {
                        watching.greeted();
                    }
                    if self.fulfill(&mut drive, &mut watching, wish, signals).await.is_break() {
                        return Ok(());
                    }
                },
                event = watching.next() => drive.tell(event),
                signal = signals.next() => match signal {
                    Signal::Stop if self.config.deregister_on_stop => drive.tell(Event::Stop(goodbye())),
                    Signal::Stop => drive.tell(Event::Leave),
                    Signal::Reload => {
                        self.reload(true);
                        if std::mem::take(&mut self.has_reread) {
                            self.follow(&mut drive, &mut watching);
                        }
                        drive.tell(Event::Retry);
                    }
                },
                _ = sampling.tick() => if let Some(facts) = sampler.sample() {
                    drive.tell(Event::Facts(Box::new(facts)));
                },
            }
            self.show(Stage::Session(Box::new(drive.view())));
        }
    }

    /// Tells the session what is said of the service, also that nobody says anything: a collector may remember what
    /// was said once. Gives how long that holds by itself.
    fn weigh(&mut self, drive: &mut Drive) -> Duration {
        let now = self.clock.now().boot;
        if let Some(missed) = self.attention.missed(now) {
            tracing::info!(
                for_s = missed.as_secs(),
                "this sidecar was held up or suspended: nobody is blamed for silence"
            );
            self.health.note(|board| board.excuse(missed, now));
        }
        let (vitals, next) = self.health.read(|board| (board.vitals(&Subject::Own, now), board.next_change(now)));
        if self.verdict.as_ref() != Some(&vitals) {
            let (health, progress) = (&vitals.service, &vitals.progress);
            tracing::info!(
                health = %health.health, reason = %health.reason, progress = %progress.progress,
                stalled = %progress.reason, "the service"
            );
            self.verdict = Some(vitals.clone());
            drive.tell(Event::Vitals(Box::new(vitals)));
        }
        let quiet = next.map_or(QUIET, |at| at.since(now).min(Attention::EVERY));
        self.attention.plan(now.after(quiet));
        quiet
    }

    async fn fulfill(
        &mut self,
        drive: &mut Drive,
        watching: &mut Watching,
        wish: Wish,
        signals: &mut Signals,
    ) -> ControlFlow<()> {
        match wish {
            Wish::MakeKey => {
                // A next identity that is in use already must have the proper name before another one
                // takes its place on the disk.
                let adopted = if self.unadopted { self.vault.adopt_next() } else { Ok(()) };
                match adopted.and_then(|()| self.vault.renewal_key()) {
                    Ok(key) => {
                        self.unadopted = false;
                        drive.key_made(key);
                    }
                    Err(error) => drive.keeping_failed(&error),
                }
            }
            Wish::KeepNext(next) => match self.vault.keep_next(&next) {
                Ok(()) => drive.next_kept(*next),
                Err(error) => drive.keeping_failed(&error),
            },
            Wish::Adopt(Paper::Next) => {
                let outcome = self.vault.adopt_next();
                self.unadopted = outcome.is_err();
                warn_of(outcome);
            }
            Wish::Adopt(Paper::Current) | Wish::DropNext => warn_of(self.vault.drop_next()),
            Wish::KeepAddresses(addresses) => self.keep_addresses(addresses),
            Wish::Apply(settings) => self.apply(*settings, drive, watching),
            Wish::Note(notice) => self.log(&notice),
            Wish::Rejoin => {
                self.carriage = drive.carriage();
                match self.rejoin(&drive.identities(), signals).await {
                    Some(next) => drive.rejoined(next, self.carriage.clone()),
                    None => return ControlFlow::Break(()),
                }
            }
            Wish::Ended => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// What the host says of itself and of the service, as an enrollment would say it today.
    fn about(&self) -> About {
        let Config { labels, metadata, .. } = &self.config;
        About { machine: self.machine, labels: labels.clone(), metadata: metadata.clone() }
    }

    /// Collectors tell their addresses at each greeting: what is known already costs no write.
    fn keep_addresses(&mut self, addresses: Addresses) {
        if self.kept.as_ref() == Some(&addresses) {
            return;
        }
        warn_of(self.vault.keep_addresses(&addresses));
        let list: Vec<String> = addresses.list.iter().map(ToString::to_string).collect();
        let overridden = !self.config.addresses.is_empty();
        tracing::info!(revision = addresses.revision, overridden, "the collectors are at {}", list.join(", "));
        self.settle_addresses(Some(addresses));
    }

    /// The override of the configuration, or else what was kept, is where we dial; without either, where we dialed.
    fn settle_addresses(&mut self, kept: Option<Addresses>) -> Vec<Address> {
        let settled = match &kept {
            Some(kept) if self.config.addresses.is_empty() => kept.list.clone(),
            Some(_) | None => self.config.addresses.clone(),
        };
        if !settled.is_empty() {
            self.addresses = settled;
        }
        self.kept = kept;
        self.edit(|board| board.addresses.clone_from(&self.addresses));
        self.addresses.clone()
    }

    fn log(&mut self, notice: &Notice) {
        match notice {
            Notice::Greeted { session, address, pace, generation } => {
                self.last_end = None;
                let (interval_ms, ttl_ms, generation) = (pace.interval_ms, pace.ttl_ms, generation.0);
                tracing::info!(session = session.0, collector = %address, interval_ms, ttl_ms, generation, "live");
            }
            Notice::Turned { address, turn } => self.log_turn(address, turn),
            Notice::QuicStillAway { why, again_in } => {
                let again_in_s = again_in.map(|delay| delay.as_secs());
                tracing::debug!(again_in_s, "QUIC is still away: {why}");
            }
            Notice::Acked { beat_no, after, throttled } => {
                tracing::trace!(beat_no = beat_no.0, after_ms = after.as_millis(), throttled, "beat acknowledged");
            }
            Notice::Parted { session, address, end, again_in } => {
                let at = self.clock.now().wall;
                self.edit(|board| board.errors.push(at, end.to_string()));
                let (session, again_in_ms) = (session.0, again_in.map(|delay| delay.as_millis()));
                // The same words again at each try would bury all others.
                if self.last_end.as_ref() == Some(end) {
                    tracing::debug!(session, collector = %address, again_in_ms, "{end}");
                } else if end.is_alarming() {
                    tracing::warn!(session, collector = %address, again_in_ms, "{end}");
                } else {
                    tracing::info!(session, collector = %address, again_in_ms, "{end}");
                }
                self.last_end = Some(end.clone());
            }
            Notice::Skewed { by_ms } => {
                tracing::warn!(skew_ms = by_ms, "{}", skew_warning(*by_ms).unwrap_or_default());
            }
            Notice::ChildrenRefused { batch_no, refused, again_in } => {
                let (first, again_in_ms) = (refused.first().map(|first| first.code.as_str()), again_in.as_millis());
                tracing::warn!(batch_no, refused = refused.len(), first, again_in_ms, "not every child was heard");
            }
            Notice::ChildrenParted(heard) => {
                self.forget(heard);
                tracing::info!("said goodbye for children that are not in the configuration any more");
            }
            Notice::ChildrenTooLarge(reports) => {
                tracing::warn!(reports, "reports of children with too many labels and metadata were not sent");
            }
            Notice::RenewalFailed { why, again_in } => {
                let at = self.clock.now().wall;
                self.edit(|board| board.errors.push(at, format!("the certificate was not renewed: {why}")));
                tracing::warn!(again_in_s = again_in.as_secs(), "the certificate was not renewed: {why}");
            }
        }
    }

    /// Says once that something else carries the heartbeats now.
    fn log_turn(&self, address: &Address, turn: &Turn) {
        match turn {
            Turn::Fell { why, probe_in: Some(delay) } => tracing::warn!(
                collector = %address,
                quic_again_in_s = delay.as_secs(),
                "over TLS on TCP from now on, as QUIC is not answered: {why}; it is tried again by and by, at once on \
                 SIGHUP. Let UDP {} pass to the collector",
                address.port()
            ),
            Turn::Fell { why, probe_in: None } => tracing::info!(collector = %address, "over TLS on TCP: {why}"),
            Turn::Returned => tracing::info!(collector = %address, "over QUIC again"),
        }
    }

    fn edit(&self, change: impl FnOnce(&mut Board)) {
        change(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn show(&mut self, stage: Stage) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.stage = stage;
        self.systemd.status(board.line());
    }
}

/// The pauses between tries that may take as long as it takes.
fn patient(seed: u64) -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed)
}

fn goodbye() -> Goodbye {
    let reason = if systemd::host_is_stopping() { GoodbyeReason::HostShutdown } else { GoodbyeReason::Stop };
    Goodbye { reason, back_in_secs: None }
}

fn warn_of(outcome: Result<(), VaultError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "the state directory does not follow");
    }
}

/// Opens the vault and reads it, for this machine: an identity that was made for another one is not used. Where a
/// token lies beside it, this machine asks for one of its own; otherwise nothing can be done here.
fn open(config: &Config, machine: &Machine) -> Result<(Vault, Stored), Fault> {
    let mut vault = Vault::open(&config.state_dir)?;
    let mut stored = vault.load()?;
    vault.bind(machine.tag());
    let Some(current) = &stored.current else { return Ok((vault, stored)) };
    let service = current.service().clone();
    match belonging(stored.made_for, machine) {
        Belonging::Here => {}
        Belonging::Untold => {
            tracing::warn!("this machine has no id: whether {service} was copied here cannot be told");
        }
        Belonging::Elsewhere if config.bind_machine => {
            let fault = Fault::Copied { dir: config.state_dir.clone(), service };
            if token::look(&config.token)?.found.is_none() {
                return Err(fault);
            }
            tracing::warn!("{fault}");
            tracing::warn!("there is a token: this machine asks for an identity of its own");
            stored = Stored::default();
        }
        Belonging::Unbound | Belonging::Elsewhere => {
            // A disk that cannot be written is told when it matters; the identity is good.
            if machine.tag().is_some() {
                warn_of(vault.rebind(current));
            }
        }
    }
    if let Machine::Unknown(why) = machine {
        tracing::info!("a copied identity would not be recognized here: {why}");
    }
    Ok((vault, stored))
}

fn copied(dir: &std::path::Path, service: &ServiceKey) -> String {
    let dir = dir.display();
    format!(
        "the identity of {service} in {dir} was made for another machine, and is not used here: it came with a disk image \
         or a backup. Lay down a token of this machine's own, or `rollcall-agent reset`; if it is the same machine \
         under a new machine-id, start once with bind_machine = false"
    )
}

/// Where the configuration and the identity on disk say different things. The identity holds.
#[must_use]
pub fn disagreements(config: &Config, identity: &Identity) -> Vec<String> {
    let service = identity.service();
    let mut found = Vec::new();
    let fix =
        "the identity on disk holds; to become another service, stop, move the state directory away, enroll again";
    if config.kind.is_some_and(|kind| kind != service.kind) || config.id.as_ref().is_some_and(|id| *id != service.id) {
        let kind = config.kind.map_or("*", rollcall_common::id::Kind::as_str);
        let id = config.id.as_ref().map_or("*", |id| id.as_str());
        found.push(format!("the configuration says {kind}/{id}, the identity on disk is {service}: {fix}"));
    }
    found
}
