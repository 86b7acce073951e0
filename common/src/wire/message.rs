//! All that crosses the network. Frozen once released: append variants, never change one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    children::{Children, ChildrenAck, ChildrenGone},
    settings::{Settings, SettingsState},
};
use crate::{
    address::Address,
    code::Code,
    health::{HealthReport, HostFacts, ProgressReport},
    id::{BeatNo, BootId, Generation, InstanceId, Kind, PaceNo, ServiceId, ServiceKey, SessionNo},
    machine::MachineTag,
    service::{CheckerKind, Pairs},
    time::Timestamp,
    token::{Secret, TokenId},
};

/// From sidecar to collector.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Up {
    /// First frame on the enroll ALPN: a token for an identity.
    Enroll(Box<Enroll>),
    /// First frame on the enroll ALPN: a bound key for a fresh certificate.
    Rejoin(Rejoin),
    /// First frame on the beat ALPN.
    Hello(Hello),
    /// A heartbeat.
    Beat(Beat),
    /// What is said of the service changed.
    Health(HealthReport),
    /// The host's facts changed.
    Facts(Box<HostFacts>),
    /// A request for the next certificate.
    Renew(Renew),
    /// The sidecar stops.
    Bye(Goodbye),
    /// What it says of services of its subtree; only where both have [`capability::CHILDREN`].
    Children(Box<Children>),
    /// Its goodbye for services of its subtree; only where both have [`capability::CHILDREN_GONE`].
    ChildrenGone(Box<ChildrenGone>),
    /// Which settings are in force on this host; only where both have [`capability::SETTINGS`].
    Settings(Box<SettingsState>),
    /// What the host's files say of the service; only where both have [`capability::ABOUT`].
    About(Box<About>),
    /// Whether the service gets on with its work; only where both have [`capability::PROGRESS`].
    Progress(ProgressReport),
}

/// From collector to sidecar.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Down {
    /// The identity that an enrollment or rejoin gave.
    Enrolled(Box<Enrolled>),
    /// The request did not pass.
    Refused(Refused),
    /// The session stands.
    HelloAck(HelloAck),
    /// One beat arrived.
    Ack(Ack),
    /// The next certificate.
    Renewed(Box<Renewed>),
    /// Something to do or to know.
    Directive(Directive),
    /// The collector ends this connection.
    Bye(Bye),
    /// What became of a batch of child reports.
    Children(Box<ChildrenAck>),
    /// Settings to apply; only where both have [`capability::SETTINGS`].
    Settings(Box<Settings>),
}

/// Asks for an identity with an onboarding token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enroll {
    /// Which token.
    pub token: TokenId,
    /// Its secret; sent only after the pinned handshake.
    pub secret: Secret,
    /// PKCS#10 request in DER; only its public key is used.
    pub csr: Bytes,
    /// Signature by the new key over [`super::proof_message`], ASN.1 ECDSA P-256 SHA-256.
    pub proof: Bytes,
    /// What the sidecar believes it is; checked against the token.
    pub kind: Kind,
    /// The parent it believes it has; checked against the token.
    pub parent: Option<ServiceId>,
    /// The id it asks for; checked against the token's rule.
    pub id: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels it proposes; the token's own labels win.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// This process.
    pub instance_id: InstanceId,
    /// The sidecar's wall clock, for a clear message about skew.
    pub clock: Timestamp,
}

/// Asks for a fresh certificate with the key that is bound already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rejoin {
    /// Who.
    pub service: ServiceKey,
    /// The generation of the certificate at hand.
    pub generation: Generation,
    /// PKCS#10 request in DER for the new key.
    pub csr: Bytes,
    /// Signature by the *old* key over [`super::proof_message`].
    pub proof: Bytes,
    /// This process.
    pub instance_id: InstanceId,
    /// The sidecar's wall clock.
    pub clock: Timestamp,
}

/// What the host says of itself and of the service, as its enrollment would say it today. Sent after each greeting
/// and when it changes. It proposes; what operators set stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The machine that the sidecar runs on, where it can be told.
    pub machine: Option<MachineTag>,
    /// Labels that it proposes.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
}

/// Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions that the sidecar speaks, best first; at most 8.
    pub versions: Vec<u16>,
    /// Bit set of [`capability`] values.
    pub capabilities: u64,
    /// Whom the sidecar believes to be; checked against the certificate.
    pub service: ServiceKey,
    /// This process.
    pub instance_id: InstanceId,
    /// Counts the dials of this process.
    pub session: SessionNo,
    /// The host's boot.
    pub boot_id: BootId,
    /// The sidecar's wall clock: a gauge of skew, never a judge.
    pub clock: Timestamp,
}

/// Optional abilities, as bits.
pub mod capability {
    /// Reports for children: [`super::Up::Children`] and [`super::Down::Children`].
    pub const CHILDREN: u64 = 1;
    /// Goodbyes for children: [`super::Up::ChildrenGone`].
    pub const CHILDREN_GONE: u64 = 2;
    /// What a service is called may change after its enrollment: [`super::Up::About`].
    pub const ABOUT: u64 = 4;
    /// Progress is told apart from health: [`super::Up::Progress`].
    pub const PROGRESS: u64 = 8;
    /// Settings from the collector: [`super::Down::Settings`] and [`super::Up::Settings`].
    pub const SETTINGS: u64 = 16;
    /// What this version can do.
    pub const OURS: u64 = CHILDREN | CHILDREN_GONE | ABOUT | PROGRESS | SETTINGS;
}

/// Accepts a session. Only now is a sidecar registered with this collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    /// The version both speak.
    pub version: u16,
    /// Abilities that both have.
    pub capabilities: u64,
    /// The pace to keep.
    pub pace: Granted,
    /// Revision of the address list in force.
    pub addresses_revision: u64,
    /// The collector's wall clock.
    pub server_time: Timestamp,
    /// When the certificate should be renewed, before jitter.
    pub renew_at: Timestamp,
}

/// A granted pace as it crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Which pace.
    pub pace_no: PaceNo,
    /// Milliseconds between beats.
    pub interval_ms: u32,
    /// Milliseconds that one beat is good for.
    pub ttl_ms: u32,
}

/// A heartbeat: who sends it is in the certificate, when it arrived is on the collector's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Strictly rising within one instance.
    pub beat_no: BeatNo,
    /// The pace it runs under.
    pub pace_no: PaceNo,
}

/// One beat arrived: never a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Which beat.
    pub beat_no: BeatNo,
    /// The pace to keep from now on.
    pub pace: Granted,
    /// Milliseconds to wait before the next beat because this one was too many; 0 when all is well.
    /// A beat acknowledged so did not touch the lease.
    pub retry_after_ms: u32,
}

/// Asks for the next certificate on a live session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// PKCS#10 request in DER for a new key.
    pub csr: Bytes,
}

/// The next certificate. It becomes current when it is first used; until then the old one stays good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Certificate chain in DER, leaf first, without the root.
    pub chain: Vec<Bytes>,
    /// Trusted roots in DER.
    pub bundle: Vec<Bytes>,
    /// Rises with each change of the bundle.
    pub bundle_revision: u64,
    /// Counts this identity's certificates.
    pub generation: Generation,
    /// When the leaf ends.
    pub not_after: Timestamp,
    /// When to renew, before jitter.
    pub renew_at: Timestamp,
}

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Who the sidecar is from now on.
    pub service: ServiceKey,
    /// The certificate and what it hangs on.
    pub identity: Renewed,
    /// Where to dial from now on.
    pub addresses: Addresses,
    /// The pace to start with.
    pub pace: Granted,
    /// The collector's wall clock.
    pub server_time: Timestamp,
}

/// The collectors to dial, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Rises with each change.
    pub revision: u64,
    /// At most [`MAX_ADDRESSES`]; none = keep those at hand.
    pub list: Vec<Address>,
}

/// Most addresses that a list may carry.
pub const MAX_ADDRESSES: usize = 16;

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub code: Code,
    /// Milliseconds to wait before asking again; 0 where the code alone decides.
    pub retry_after_ms: u32,
    /// The collector's wall clock, so that skew can be named.
    pub server_time: Timestamp,
}

/// Something to do or to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Directive {
    /// The address list changed.
    Addresses(Addresses),
    /// Renew now, whatever the age of the certificate.
    RenewNow,
}

/// The collector ends this connection; the QUIC close carries the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why.
    pub code: Code,
    /// Milliseconds to wait before dialing this address again; 0 where the code alone decides.
    pub retry_after_ms: u32,
}

/// The sidecar says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
    /// Seconds after which it expects to be back, if it knows.
    pub back_in_secs: Option<u32>,
}

/// Why a sidecar stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodbyeReason {
    /// An operator or the service manager stopped it.
    Stop,
    /// It restarts.
    Restart,
    /// The host shuts down or reboots.
    HostShutdown,
    /// It is being removed from the host.
    Uninstall,
}

impl GoodbyeReason {
    /// The word used in history and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::HostShutdown => "host_shutdown",
            Self::Uninstall => "uninstall",
        }
    }
}

/// Opaque bytes: DER or a signature.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<crate::lease::Pace> for Granted {
    fn from(pace: crate::lease::Pace) -> Self {
        Self { pace_no: pace.no, interval_ms: pace.interval_ms, ttl_ms: pace.ttl_ms }
    }
}

impl TryFrom<Granted> for crate::lease::Pace {
    type Error = crate::lease::PaceError;
    fn try_from(granted: Granted) -> Result<Self, Self::Error> {
        Self::new(granted.pace_no, granted.interval_ms, granted.ttl_ms)
    }
}
