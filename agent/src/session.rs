//! One sidecar's session with its collectors, as a pure state machine: Offline → Dialing → Greeting →
//! Live → Draining.
//!
//! It takes events and a reading of the clock, and answers with actions and the next deadline. It owns
//! every decision: when and where to dial, with which certificate, when to beat, when to give a
//! connection up, when to renew, how to obey a refusal, how to leave. It knows no socket, no file, no
//! clock and no transport: `drive` performs what it orders.
//!
//! At most one dial is under way at any time. A renewed certificate is proven on a second connection
//! while the first one keeps beating; whichever certificate a collector accepts is the current one.

mod beating;
mod beats;
mod orders;
mod parting;
mod reaching;
mod renewal;
#[cfg(test)]
mod tests;
mod vitals;
mod vocabulary;

use std::{collections::VecDeque, time::Duration};

use rollcall_common::{
    address::Address,
    backoff::Backoff,
    code::Code,
    health::HostFacts,
    id::{BeatNo, BootId, InstanceId, ServiceKey, SessionNo},
    lease::Pace,
    time::{BootTime, Now, Timestamp},
    wire::{
        Transport,
        children::ChildGone,
        message::{Down, Granted, Up},
        settings::Settings,
    },
};

pub use self::vocabulary::{Action, Dial, End, Event, Notice, Paper};
use self::{
    beats::Beats,
    orders::Orders,
    renewal::{Renewal, Step},
    vitals::{Telling, Words},
};
use crate::{
    carriage::{Carriage, Fallback, Ways},
    identity::Term,
    rotation::Rotation,
};

/// First delay between dials is drawn from half of this to all of it.
const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Longest delay between dials, so that a fleet is back within one interval + 10 s of its collector.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
/// No two dials are closer than this, however little is left of a lease.
const PAUSE_FLOOR: Duration = Duration::from_millis(100);
/// Longest wait for a handshake, and again for the greeting.
const REACH_CAP: Duration = Duration::from_secs(10);
/// Shortest wait for a handshake or a greeting.
const REACH_FLOOR: Duration = Duration::from_millis(500);
/// The same where both transports are tried: the other one begins later.
const REACH_FLOOR_BOTH: Duration = Duration::from_secs(2);
/// How long a goodbye may take to be delivered.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// A collector that asks for more patience than this is not believed.
const PATIENCE_CAP: Duration = Duration::from_secs(3600);
/// Clocks that differ by more, in milliseconds, are worth a warning.
pub const SKEW_MS: i64 = 30_000;

/// What a session is made from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Who we are.
    pub service: ServiceKey,
    /// This process.
    pub instance_id: InstanceId,
    /// The host's boot.
    pub boot_id: BootId,
    /// Where to dial, best first.
    pub addresses: Vec<Address>,
    /// Whether a collector may replace the addresses.
    pub follow_addresses: bool,
    /// The certificate in use.
    pub current: Term,
    /// One that is kept but not yet proven.
    pub next: Option<Term>,
    /// How often a barred sidecar tries again.
    pub revoked_retry: Duration,
    /// When to dial first, counted from now: zero, or a share of a spread.
    pub first_dial_in: Duration,
    /// Seed of all jitter.
    pub seed: u64,
    /// What is known of transports.
    pub carriage: Carriage,
}

/// The state machine. See the module for what it owns.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    phase: Phase,
    rotation: Rotation,
    backoff: Backoff,
    renewal: Renewal,
    /// Which certificate the next dial proves.
    paper: Paper,
    /// Both certificates were refused in turn.
    swapped: bool,
    last_session: SessionNo,
    last_beat: BeatNo,
    pace: Option<Pace>,
    lease_until: Option<BootTime>,
    last_ack: Option<(BeatNo, BootTime)>,
    facts: Option<Box<HostFacts>>,
    /// What is told to each collector.
    words: Words,
    orders: Orders,
    /// Children to say goodbye for.
    gone: Vec<ChildGone>,
    /// The collector's wall clock at a moment of our boot clock.
    anchor: Option<(Timestamp, BootTime)>,
    skew_ms: Option<i64>,
    last_end: Option<End>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum Phase {
    /// No connection; at that moment, something is tried.
    Offline { at: BootTime, then: Then },
    /// The owner rejoins.
    Rejoining,
    /// Dialing, or greeting.
    Reaching(Attempt),
    /// Beating. Boxed: the others are small.
    Live(Box<Live>),
    /// Saying goodbye.
    Draining { no: SessionNo, until: BootTime },
    /// Nothing more happens.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Dial,
    Rejoin,
}

#[derive(Debug)]
struct Attempt {
    no: SessionNo,
    address: Address,
    paper: Paper,
    deadline: BootTime,
    errand: Errand,
    ways: Ways,
    /// What the dial reached a collector over; the greeting is awaited since.
    opened: Option<(Transport, BootTime)>,
}

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    /// A connection, as there is none.
    Arrive,
    /// To prove the next certificate.
    ProvePaper,
    /// To find out whether QUIC works, while TCP carries the session.
    ProveQuic,
}

impl Attempt {
    fn is_greeting(&self) -> bool {
        self.opened.is_some()
    }

    fn too_late(&self) -> End {
        let (address, over) = (&self.address, self.ways);
        match self.opened {
            None => End::Unanswered(format!("{address} did not complete the handshake over {over} in time")),
            Some(_) => End::Silent(format!("{address} did not complete the greeting in time")),
        }
    }
}

#[derive(Debug)]
struct Live {
    no: SessionNo,
    address: Address,
    since: BootTime,
    transport: Transport,
    beats: Beats,
    telling: Telling,
    /// What both can do.
    capabilities: u64,
    /// Settings that wait to be applied.
    wanted: Option<Box<Settings>>,
    /// The owner applies settings and has not said yet what became of them.
    owes_state: bool,
    /// The last batch of child reports.
    batch_no: u64,
    /// The last batch of goodbyes that was not answered yet.
    parting_no: Option<u64>,
    /// A second connection, which proves the next certificate, or that QUIC works.
    successor: Option<Attempt>,
}

impl Live {
    fn can(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }
}

/// The name of a session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waiting for the moment of the next dial.
    Offline,
    /// The certificate expired; a rejoin is under way.
    Rejoining,
    /// A handshake is under way.
    Dialing,
    /// The handshake is done; the collector has not accepted yet.
    Greeting,
    /// Accepted, beating.
    Live,
    /// Saying goodbye.
    Draining,
    /// Done.
    Over,
}

/// What can be seen of a session.
#[derive(Debug, Clone)]
pub struct View {
    /// Its state.
    pub state: State,
    /// The collector dialed, greeted or in use.
    pub address: Option<Address>,
    /// The last dial.
    pub session: SessionNo,
    /// The pace in force.
    pub pace: Option<Pace>,
    /// The last beat sent.
    pub beat_no: BeatNo,
    /// The last beat acknowledged, and when that was.
    pub last_ack: Option<(BeatNo, BootTime)>,
    /// When the next dial or rejoin is tried, while offline.
    pub again_at: Option<BootTime>,
    /// Why the last connection, or try, ended.
    pub last_end: Option<End>,
    /// Collector's clock less the host's, in milliseconds.
    pub skew_ms: Option<i64>,
    /// The certificate in use.
    pub current: Term,
    /// Whether another one waits to be proven.
    pub has_next: bool,
    /// Since when it is live.
    pub live_since: Option<BootTime>,
    /// What carries it, while it is live.
    pub transport: Option<Transport>,
    /// Why TCP carries it, where it does.
    pub fallback: Option<Fallback>,
}

impl Session {
    /// A session that dials `first_dial_in` from now.
    #[must_use]
    pub fn new(setup: Setup, now: Now) -> Self {
        let paper = if setup.next.is_some() { Paper::Next } else { Paper::Current };
        Self {
            phase: Phase::Offline { at: now.boot.after(setup.first_dial_in), then: Then::Dial },
            rotation: Rotation::new(setup.addresses.clone()),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, setup.seed),
            renewal: Renewal::new(setup.seed.wrapping_add(1)),
            paper,
            swapped: false,
            last_session: SessionNo::default(),
            last_beat: BeatNo::default(),
            pace: None,
            lease_until: None,
            last_ack: None,
            facts: None,
            words: Words::default(),
            orders: Orders::default(),
            gone: Vec::new(),
            anchor: None,
            skew_ms: None,
            last_end: None,
            actions: VecDeque::new(),
            setup,
        }
    }

    /// The next thing to do, oldest first. Ask until there is none after each event.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Tick`], unless something else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        match &self.phase {
            Phase::Offline { at, .. } => Some(*at).filter(|at| *at < BootTime(u64::MAX)),
            Phase::Reaching(attempt) => Some(attempt.deadline),
            Phase::Live(live) => {
                let successor = live.successor.as_ref().map(|attempt| attempt.deadline);
                let (beat, unacked, renewal) = (live.beats.due(), self.unacked_at(live), self.renewal.deadline());
                let probe = self.setup.carriage.probe_at().filter(|_| live.successor.is_none());
                let all = [Some(beat), unacked, successor, renewal, self.telling_due(), self.apply_due(), probe];
                all.into_iter().flatten().min()
            }
            Phase::Draining { until, .. } => Some(*until),
            Phase::Rejoining | Phase::Over => None,
        }
    }

    /// What is known of transports.
    #[must_use]
    pub fn carriage(&self) -> &Carriage {
        &self.setup.carriage
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn view(&self) -> View {
        let (state, address, again_at) = match &self.phase {
            Phase::Offline { at, .. } => (State::Offline, None, Some(*at)),
            Phase::Rejoining => (State::Rejoining, None, None),
            Phase::Reaching(attempt) => {
                let state = if attempt.is_greeting() { State::Greeting } else { State::Dialing };
                (state, Some(attempt.address.clone()), None)
            }
            Phase::Live(live) => (State::Live, Some(live.address.clone()), None),
            Phase::Draining { .. } => (State::Draining, None, None),
            Phase::Over => (State::Over, None, None),
        };
        View {
            state,
            address,
            session: self.last_session,
            pace: self.pace,
            beat_no: self.last_beat,
            last_ack: self.last_ack,
            again_at,
            last_end: self.last_end.clone(),
            skew_ms: self.skew_ms,
            current: self.setup.current,
            has_next: self.setup.next.is_some(),
            transport: match &self.phase {
                Phase::Live(live) => Some(live.transport),
                Phase::Offline { .. }
                | Phase::Rejoining
                | Phase::Reaching(_)
                | Phase::Draining { .. }
                | Phase::Over => None,
            },
            fallback: self.setup.carriage.fallback(),
            live_since: match &self.phase {
                Phase::Live(live) => Some(live.since),
                Phase::Offline { .. }
                | Phase::Rejoining
                | Phase::Reaching(_)
                | Phase::Draining { .. }
                | Phase::Over => None,
            },
        }
    }

    /// Takes an event in. Actions follow from [`Self::next_action`].
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Tick => {}
            Event::Opened(no, transport) => self.opened(no, transport, now),
            Event::Frame(no, down) => self.frame(no, down, now),
            Event::Closed(no, end) => self.parted(no, end, Duration::ZERO, now),
            Event::Delivered(no) => self.delivered(no),
            Event::KeyMade(csr) => self.ask_renewal(csr, now),
            Event::NextKept(term) => {
                self.setup.next = Some(term);
                self.paper = Paper::Next;
                self.swapped = false;
                self.renewal.prove(now.boot);
            }
            Event::KeepingFailed(why) => self.renewal_failed(why, Duration::ZERO, now),
            Event::Rejoined(term, carriage) => {
                self.setup.carriage = *carriage;
                self.setup.next = Some(term);
                self.paper = Paper::Next;
                self.swapped = false;
                if let Phase::Rejoining = self.phase {
                    self.phase = Phase::Offline { at: now.boot, then: Then::Dial };
                }
            }
            Event::Facts(facts) => {
                if let Phase::Live(live) = &self.phase {
                    self.actions.push_back(Action::Send(live.no, Up::Facts(facts.clone())));
                }
                self.facts = Some(facts);
            }
            Event::Vitals(vitals) => self.words.vitals = Some(vitals),
            Event::About(about) => self.words.about = Some(about),
            Event::InForce(state) => {
                self.words.in_force = Some(state);
                self.settled();
            }
            Event::Reconfigured { addresses, follow_addresses, revoked_retry, transport } => {
                self.setup.carriage.allow(transport, now.boot);
                self.setup.follow_addresses = follow_addresses;
                self.setup.revoked_retry = revoked_retry;
                self.rotation.replace(addresses);
            }
            Event::ChildrenGone(gone) => {
                self.gone = gone;
                self.part_children();
            }
            Event::Children { interval_ms, reports } => self.report_children(interval_ms, reports),
            Event::Retry => {
                self.rotation.hurry();
                let is_idle = matches!(&self.phase, Phase::Live(live) if live.successor.is_none());
                self.setup.carriage.hurry(is_idle, now.boot);
                if let Phase::Offline { at, .. } = &mut self.phase {
                    *at = now.boot;
                }
            }
            Event::Stop(goodbye) => self.stop(Some(goodbye), now),
            Event::Leave => self.stop(None, now),
        }
        self.pass_time(now);
    }

    fn pass_time(&mut self, now: Now) {
        match &self.phase {
            Phase::Offline { at, then } if *at <= now.boot => match then {
                Then::Dial => self.dial(now),
                Then::Rejoin => {
                    self.phase = Phase::Rejoining;
                    self.actions.push_back(Action::Rejoin);
                }
            },
            Phase::Reaching(attempt) if attempt.deadline <= now.boot => {
                let (no, end) = (attempt.no, attempt.too_late());
                self.actions.push_back(Action::Close(no, Code::Deadline));
                self.parted(no, end, Duration::ZERO, now);
            }
            Phase::Live(_) => self.pass_live_time(now),
            Phase::Draining { no, until } if *until <= now.boot => self.leave(*no),
            Phase::Offline { .. } | Phase::Rejoining | Phase::Reaching(_) | Phase::Draining { .. } | Phase::Over => {}
        }
    }

    fn pass_live_time(&mut self, now: Now) {
        let Phase::Live(live) = &self.phase else { return };
        if let (Some(at), Some((no, sent))) = (self.unacked_at(live), live.beats.oldest())
            && at <= now.boot
        {
            let waited = now.boot.since(sent).as_millis();
            let words = format!("{} did not acknowledge beat {no} within {waited} ms", live.address);
            let session = live.no;
            self.actions.push_back(Action::Close(session, Code::Deadline));
            return self.parted(session, End::Silent(words), Duration::ZERO, now);
        }
        if live.beats.due() <= now.boot {
            self.beat(now);
        }
        self.tell_all(now);
        self.apply(now);
        // Applied settings may have hastened one.
        if matches!(&self.phase, Phase::Live(live) if live.beats.due() <= now.boot) {
            self.beat(now);
        }
        let Phase::Live(live) = &self.phase else { return };
        if let Some(attempt) = live.successor.as_ref().filter(|attempt| attempt.deadline <= now.boot) {
            let (no, end) = (attempt.no, attempt.too_late());
            self.actions.push_back(Action::Close(no, Code::Deadline));
            self.parted(no, end, Duration::ZERO, now);
        }
        if self.setup.carriage.probe_at().is_some_and(|at| at <= now.boot) {
            self.dial_probe(now);
        }
        match self.renewal.step(now.boot) {
            Some(Step::MakeKey) => self.actions.push_back(Action::MakeKey),
            Some(Step::GiveUp) => self.renewal_failed("the collector did not answer".into(), Duration::ZERO, now),
            Some(Step::Prove) => self.dial_successor(now),
            None => {}
        }
    }

    /// When the oldest beat has waited too long.
    fn unacked_at(&self, live: &Live) -> Option<BootTime> {
        let (_, sent) = live.beats.oldest()?;
        Some(sent.after(self.pace?.ack_within()))
    }

    fn frame(&mut self, no: SessionNo, down: Down, now: Now) {
        let outcome = if self.attempt_mut(no).is_some_and(|attempt| attempt.is_greeting()) {
            self.greeting_frame(no, down, now)
        } else if matches!(&self.phase, Phase::Live(live) if live.no == no) {
            self.live_frame(no, down, now)
        } else {
            // A frame that was on its way while we turned to another connection.
            Ok(())
        };
        if let Err(words) = outcome {
            self.actions.push_back(Action::Close(no, Code::Protocol));
            self.parted(no, End::Nonsense(words), Duration::ZERO, now);
        }
    }
}

fn pace(granted: Granted) -> Result<Pace, String> {
    Pace::try_from(granted).map_err(|error| format!("it granted an impossible pace: {error}"))
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(PATIENCE_CAP)
}
