//! A sidecar driven by hand: honest, clumsy or hostile, one frame at a time.
//!
//! Stands on quinn and `rollcall_common` alone, and shares no code with the real sidecar, so that both are
//! held to the same treaty. It decides nothing: a test says what is sent, and gets what came back, down to
//! the close code or TLS alert.
//!
//! | module | owns |
//! |---|---|
//! | [`cable`] | one connection over TCP |
//! | [`key`] | a P-256 key, its requests and proofs |
//! | [`mod@line`] | one connection and its stream: frames out, frames in, how it ended |
//! | [`phone`] | a UDP socket that dials with any TLS settings |
//! | [`puppet`] | an enrolled identity: hello, beat, renew, rejoin |

pub mod cable;
pub mod key;
pub mod line;
pub mod phone;
pub mod puppet;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use rollcall_common::{
    id::{InstanceId, Kind, ServiceId, TrustDomain, random},
    identity::tls::Trust,
    service::{CheckerKind, Pairs},
    time::{Clock as _, SystemClock, Timestamp},
    token::{Secret, Token},
    wire::message::{Bytes, Down, Enroll, Refused, Up},
};

pub use self::{
    cable::{Cable, Cut},
    key::Key,
    line::{Close, Ending, Line},
    phone::Phone,
    puppet::{Identity, Live, Puppet},
};

/// How long anything on loopback may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// What an enrollment asks for; every field can be forged.
#[derive(Debug)]
pub struct Ask {
    /// The kind it claims.
    pub kind: Kind,
    /// The parent it claims.
    pub parent: Option<ServiceId>,
    /// The id it wants.
    pub id: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels it proposes.
    pub labels: Pairs,
    /// Metadata it brings.
    pub metadata: Pairs,
    /// Its key.
    pub key: Key,
    /// A request other than the honest one.
    pub csr: Option<Vec<u8>>,
    /// A proof other than the honest one.
    pub proof: Option<Vec<u8>>,
    /// A secret other than the token's.
    pub secret: Option<Secret>,
    /// A clock other than the host's.
    pub clock: Option<Timestamp>,
}

impl Ask {
    /// An honest enrollment with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(kind: Kind, id: &str, parent: Option<&str>) -> Result<Self> {
        Ok(Self {
            kind,
            parent: parent.map(ServiceId::new).transpose()?,
            id: Some(ServiceId::new(id)?),
            checker_kind: None,
            labels: Pairs::default(),
            metadata: Pairs::default(),
            key: Key::generate()?,
            csr: None,
            proof: None,
            secret: None,
            clock: None,
        })
    }

    /// An honest enrollment as a poller.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn poller(id: &str) -> Result<Self> {
        Self::new(Kind::Poller, id, None)
    }
}

/// What came of an enrollment or a rejoin.
#[derive(Debug)]
pub enum Answer {
    /// An identity.
    Identity(Box<Identity>),
    /// A refusal.
    Refused(Refused),
    /// The connection ended without either.
    Ended(Ending),
}

impl Answer {
    /// The identity.
    ///
    /// # Errors
    /// What came instead.
    pub fn identity(self) -> Result<Identity> {
        match self {
            Self::Identity(identity) => Ok(*identity),
            Self::Refused(refused) => bail!("refused with {}", refused.code),
            Self::Ended(ending) => bail!("ended with {ending:?}"),
        }
    }

    /// The refusal.
    ///
    /// # Errors
    /// What came instead.
    pub fn refusal(self) -> Result<Refused> {
        match self {
            Self::Refused(refused) => Ok(refused),
            Self::Identity(identity) => bail!("not refused: it is {} now", identity.service),
            Self::Ended(ending) => bail!("ended with {ending:?}"),
        }
    }
}

/// Enrolls over a fresh connection.
///
/// # Errors
/// When the connection does not come about; a refusal is an [`Answer`].
pub async fn enroll(phone: &Phone, to: SocketAddr, token: &Token, ask: &Ask) -> Result<Answer> {
    let mut line = dial_to_enroll(phone, to, token).await?;
    let enroll = enrollment(&line, token, ask)?;
    line.say(&Up::Enroll(Box::new(enroll))).await?;
    answer_of(&mut line, &ask.key, &token.trust_domain).await
}

/// Opens a connection for enrollment, with the token's pin.
///
/// # Errors
/// When it does not come about.
pub async fn dial_to_enroll(phone: &Phone, to: SocketAddr, token: &Token) -> Result<Line> {
    dial_to_enroll_with(phone, to, Trust::Pin(token.pin), &token.trust_domain).await
}

/// Opens a connection for enrollment or rejoin, with any trust.
///
/// # Errors
/// When it does not come about.
pub async fn dial_to_enroll_with(
    phone: &Phone,
    to: SocketAddr,
    trust: Trust,
    trust_domain: &TrustDomain,
) -> Result<Line> {
    let tls = phone::enrolling(trust, trust_domain)?;
    let connection = phone.dial(to, tls).await.context("the enroll connection did not come about")?;
    Line::open(connection).await
}

/// The frame that asks, with a proof for this very connection.
///
/// # Errors
/// When the request or the proof cannot be made.
pub fn enrollment(line: &Line, token: &Token, ask: &Ask) -> Result<Enroll> {
    let csr = ask.csr.clone().map_or_else(|| ask.key.csr(), Ok)?;
    let proof = ask.proof.clone().map_or_else(|| line.proof(&ask.key, &csr), Ok)?;
    Ok(Enroll {
        token: token.id,
        secret: ask.secret.clone().unwrap_or_else(|| token.secret.clone()),
        csr: Bytes(csr),
        proof: Bytes(proof),
        kind: ask.kind,
        parent: ask.parent.clone(),
        id: ask.id.clone(),
        checker_kind: ask.checker_kind.clone(),
        labels: ask.labels.clone(),
        metadata: ask.metadata.clone(),
        instance_id: InstanceId(random()?),
        clock: ask.clock.unwrap_or_else(|| SystemClock.now().wall),
    })
}

/// What the collector answers to an enrollment or a rejoin with this key.
///
/// # Errors
/// When it is none of the possible answers.
pub async fn answer_of(line: &mut Line, key: &Key, trust_domain: &TrustDomain) -> Result<Answer> {
    match line.hear().await? {
        Some(Down::Enrolled(enrolled)) => {
            let identity = Identity::of(*enrolled, key, trust_domain);
            Ok(Answer::Identity(Box::new(identity)))
        }
        Some(Down::Refused(refused)) => Ok(Answer::Refused(refused)),
        Some(Down::Bye(bye)) => Ok(Answer::Ended(Ending { bye: Some(bye), ..line.ending().await? })),
        Some(
            down @ (Down::HelloAck(_)
            | Down::Ack(_)
            | Down::Renewed(_)
            | Down::Directive(_)
            | Down::Children(_)
            | Down::Settings(_)),
        ) => {
            bail!("an enrollment was answered with {down:?}")
        }
        None => Ok(Answer::Ended(line.ending().await?)),
    }
}
