//! What a session hears and what it orders: plain values, no behaviour beyond judging an end.

use std::{fmt, time::Duration};

use rollcall_common::{
    address::Address,
    code::{Advice, Code},
    health::HostFacts,
    id::{BeatNo, Generation, ServiceKey, SessionNo},
    lease::Pace,
    wire::{
        Transport,
        children::{ChildGone, ChildRefused, ChildReport},
        message::{About, Addresses, Down, Goodbye, Renewed, Up},
        settings::{Settings, SettingsState},
    },
};

use crate::{
    carriage::{Carriage, Policy, Turn, Ways},
    health::Vitals,
    identity::Term,
};

/// Which of the sidecar's certificates a connection proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paper {
    /// The one in use.
    Current,
    /// The one that a renewal or a rejoin gave, kept but not yet proven.
    Next,
}

impl Paper {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Current => Self::Next,
            Self::Next => Self::Current,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The dial of that session reached a collector, over that: frames can be sent. It is not accepted yet.
    Opened(SessionNo, Transport),
    /// A frame arrived.
    Frame(SessionNo, Down),
    /// The connection, or the try at one, is over.
    Closed(SessionNo, End),
    /// Everything sent before [`Action::Finish`] was delivered.
    Delivered(SessionNo),
    /// The owner made and kept a key; this is its request, in DER.
    KeyMade(Vec<u8>),
    /// The owner kept the next certificate.
    NextKept(Term),
    /// The owner could not make a key, or not keep it or the next certificate.
    KeepingFailed(String),
    /// The owner rejoined, and kept what that gave as the next certificate; with what is known of transports now.
    Rejoined(Term, Box<Carriage>),
    /// The host's facts were taken, and differ.
    Facts(Box<HostFacts>),
    /// What is said of the service beside us, whether or not that differs. The last word counts.
    Vitals(Box<Vitals>),
    /// What the host's files say of the service, whether or not that differs.
    About(Box<About>),
    /// Which settings are in force: at the start, after each [`Action::Apply`], and when the host's files changed.
    InForce(Box<SettingsState>),
    /// The host's files changed how we dial. A connection that stands stays.
    Reconfigured {
        /// Where to dial, best first.
        addresses: Vec<Address>,
        /// Whether a collector may replace the addresses.
        follow_addresses: bool,
        /// How often a barred sidecar tries again.
        revoked_retry: Duration,
        /// What may carry connections.
        transport: Policy,
    },
    /// What is said of services of our subtree that have no sidecar of their own, to be said again within the
    /// interval. Forgotten where no collector takes it now: the next round tells all of it again.
    Children {
        /// Milliseconds until the next round.
        interval_ms: u32,
        /// All of them.
        reports: Vec<ChildReport>,
    },
    /// Children that are ours no longer, to be said goodbye for. Kept until a collector has heard it.
    ChildrenGone(Vec<ChildGone>),
    /// An operator wants a try right now.
    Retry,
    /// The process stops. A second one leaves without waiting.
    Stop(Goodbye),
    /// The process stops without a goodbye: whoever waits for the next beat finds out.
    Leave,
}

/// What the owner of a session does for it, in the order given.
#[derive(Debug, Clone)]
pub enum Action {
    /// Dial; answer with [`Event::Opened`] or [`Event::Closed`].
    Dial(Dial),
    /// Send a frame on that session's connection.
    Send(SessionNo, Up),
    /// End that session's stream after what was sent; answer with [`Event::Delivered`].
    Finish(SessionNo),
    /// Close that session's connection, or give its dial up. No answer is expected.
    Close(SessionNo, Code),
    /// Make a key and keep it; answer with [`Event::KeyMade`] or [`Event::KeepingFailed`].
    MakeKey,
    /// Keep this with the key made last; answer with [`Event::NextKept`] or [`Event::KeepingFailed`].
    KeepNext(Renewed),
    /// A collector accepted this one: it is the current one, and the other is worthless.
    Adopt(Paper),
    /// The next certificate was refused while the current one works: forget it.
    DropNext,
    /// Remember these addresses.
    KeepAddresses(Addresses),
    /// Judge these settings and apply them if they may be; answer with [`Event::InForce`].
    Apply(Box<Settings>),
    /// The certificate is past its time: rejoin with the bound key; answer with [`Event::Rejoined`].
    Rejoin,
    /// For logs and status.
    Note(Notice),
    /// The goodbye is said, or nobody was there to hear it.
    Ended,
}

/// One dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Counts the dials of this process.
    pub no: SessionNo,
    /// Where.
    pub address: Address,
    /// Which of the name's IP addresses, modulo their number.
    pub variant: u32,
    /// With which certificate.
    pub paper: Paper,
    /// Over what.
    pub ways: Ways,
    /// How long the preferred one has for itself where both are tried.
    pub head_start: Duration,
}

/// Why a connection, or the try at one, is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The collector said so.
    Told(Code),
    /// The collector's TLS refused us with this alert.
    Alert(u8),
    /// The collector's certificate is not to be trusted; in words.
    Distrusted(String),
    /// The collector broke the protocol; in words.
    Nonsense(String),
    /// Nobody answered the dial; in words.
    Unanswered(String),
    /// Nothing came any more within the time allowed; in words.
    Silent(String),
    /// The network or the peer is gone, or was never reached; in words.
    Lost(String),
}

/// TLS alert 44.
pub(super) const CERTIFICATE_REVOKED: u8 = 44;
/// TLS alert 45.
pub(super) const CERTIFICATE_EXPIRED: u8 = 45;

impl End {
    /// What follows from it, whatever the session's state.
    pub(super) fn advice(&self) -> Advice {
        match self {
            Self::Told(code) => code.advice(),
            Self::Alert(CERTIFICATE_REVOKED) => Advice::RetrySlowly,
            Self::Alert(CERTIFICATE_EXPIRED) => Advice::Rejoin,
            Self::Alert(_) | Self::Distrusted(_) | Self::Nonsense(_) => Advice::Retry,
            Self::Unanswered(_) | Self::Silent(_) | Self::Lost(_) => Advice::Retry,
        }
    }

    /// Whether an operator should look: time and other collectors do not cure it.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        match self {
            Self::Told(code) => match code.advice() {
                Advice::RetrySlowly | Advice::GiveUp => true,
                Advice::Retry | Advice::Rejoin | Advice::Stand => false,
            },
            Self::Alert(_) | Self::Distrusted(_) | Self::Nonsense(_) => true,
            Self::Unanswered(_) | Self::Silent(_) | Self::Lost(_) => false,
        }
    }

    /// Whether it was our certificate that did not please: another one might.
    pub(super) fn blames_certificate(&self) -> bool {
        match self {
            Self::Alert(_) => true,
            Self::Told(code) => matches!(
                code,
                Code::SerialRefused
                    | Code::CertExpired
                    | Code::UnknownIdentity
                    | Code::IdentityMismatch
                    | Code::ClientCertRequired
                    | Code::Revoked
            ),
            Self::Distrusted(_) | Self::Nonsense(_) => false,
            Self::Unanswered(_) | Self::Silent(_) | Self::Lost(_) => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(code) => write!(f, "the collector closed: {code}"),
            Self::Alert(CERTIFICATE_REVOKED) => f.write_str("the collector refused our certificate: revoked"),
            Self::Alert(CERTIFICATE_EXPIRED) => f.write_str("the collector refused our certificate: expired"),
            Self::Alert(alert) => write!(f, "the collector's TLS refused us with alert {alert}"),
            Self::Nonsense(words) => write!(f, "the collector broke the protocol: {words}"),
            Self::Distrusted(words) | Self::Unanswered(words) | Self::Silent(words) | Self::Lost(words) => {
                f.write_str(words)
            }
        }
    }
}

/// What is worth telling.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A collector accepted the session.
    Greeted {
        /// Which session.
        session: SessionNo,
        /// Which collector.
        address: Address,
        /// The pace to keep.
        pace: Pace,
        /// Of the certificate in use.
        generation: Generation,
    },
    /// Something else carries the session from now on.
    Turned {
        /// Which collector.
        address: Address,
        /// How.
        turn: Turn,
    },
    /// QUIC was tried beside a session that TCP carries, and does not work yet.
    QuicStillAway {
        /// Why.
        why: String,
        /// How long until the next try.
        again_in: Option<Duration>,
    },
    /// A beat was acknowledged.
    Acked {
        /// Which.
        beat_no: BeatNo,
        /// How long after it was sent.
        after: Duration,
        /// Asked to slow down: the beat did not count.
        throttled: bool,
    },
    /// A connection, or the try at one, is over.
    Parted {
        /// Which session.
        session: SessionNo,
        /// Which collector.
        address: Address,
        /// Why.
        end: End,
        /// How long until the next dial; `None` where that depends on something else.
        again_in: Option<Duration>,
    },
    /// This host's wall clock and the collector's differ by more than 30 s.
    Skewed {
        /// Collector less host, in milliseconds.
        by_ms: i64,
    },
    /// A collector refused some of the children of a batch, or all of it for now.
    ChildrenRefused {
        /// Which batch.
        batch_no: u64,
        /// Whom.
        refused: Vec<ChildRefused>,
        /// How long it wants to be left alone with children.
        again_in: Duration,
    },
    /// A collector heard the goodbyes for these, who are ours no longer.
    ChildrenParted(Vec<ServiceKey>),
    /// Reports that fit no frame, because of all that they carry, and were not sent.
    ChildrenTooLarge(usize),
    /// The certificate could not be renewed; the one in use stays.
    RenewalFailed {
        /// Why.
        why: String,
        /// How long until the next try.
        again_in: Duration,
    },
}
