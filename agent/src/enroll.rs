//! One try at an identity: a token for a first one, the bound key for one that expired.
//!
//! Each function dials one address once and asks once; when to try again is the caller's decision, and
//! [`EnrollError::next`] tells what makes sense. The token's secret leaves only after the handshake with a
//! collector that holds the pinned root key.

use std::{sync::Arc, time::Duration};

use rollcall_common::{
    address::Address,
    code::{Advice, Code},
    id::{InstanceId, Kind, ServiceId},
    identity::tls::{Trust, enroll_config},
    service::{CheckerKind, Pairs},
    time::{Clock, Timestamp},
    token::Token,
    wire::{
        Transport,
        message::{Addresses, Bytes, Down, Enroll, Enrolled, Granted, Refused, Rejoin, Up},
    },
};

use crate::{
    carriage::Ways,
    identity::{Identity, IdentityError},
    key::{Key, KeyError},
    link::{Dialer, Link, LinkError},
};

/// How long one dial may take, and again the answer: a collector may have to queue both.
const WITHIN: Duration = Duration::from_secs(15);

/// What a sidecar says of itself. The token's own record decides; a contradiction is refused.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it believes it is.
    pub kind: Kind,
    /// The id it asks for.
    pub id: Option<ServiceId>,
    /// The parent it believes it has.
    pub parent: Option<ServiceId>,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels it proposes.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// This process.
    pub instance_id: InstanceId,
}

/// What a collector gave.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The identity.
    pub identity: Identity,
    /// Where to dial from now on.
    pub addresses: Addresses,
    /// The pace to start with.
    pub pace: Granted,
    /// The collector's wall clock.
    pub server_time: Timestamp,
    /// What carried it.
    pub transport: Transport,
}

/// Where to ask.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The sockets.
    pub dialer: &'a Dialer,
    /// The collector.
    pub address: &'a Address,
    /// Which of a name's IP addresses, modulo their number.
    pub variant: u32,
    /// Over what.
    pub ways: Ways,
    /// How long the preferred one has for itself.
    pub head_start: Duration,
    /// Our clock, for certificates and for a clear message about skew.
    pub clock: &'a Arc<dyn Clock>,
}

/// Why a try did not give an identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The collector was not reached, or not trusted.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It did not answer.
    #[error("{0} did not answer within {WITHIN:?}")]
    Silent(Address),
    /// It said no.
    #[error("{}", explain(.0, *.1))]
    Refused(Refused, Timestamp),
    /// It said something else.
    #[error("the collector answered with a frame that has no place here")]
    Nonsense,
    /// What it gave does not fit.
    #[error("the collector gave an unusable identity: {0}")]
    Identity(#[from] IdentityError),
    /// Our key does not work.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What to do after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another address, or the same one, after a backoff and no sooner than this.
    Retry(Duration),
    /// After `revoked_retry`: an operator may change their mind.
    RetrySlowly,
    /// Never: this token cannot work.
    GiveUp,
}

impl EnrollError {
    /// Whether an operator has yet to decide.
    #[must_use]
    pub fn awaits_approval(&self) -> bool {
        matches!(self, Self::Refused(refused, _) if refused.code == Code::PendingApproval)
    }

    /// Why nobody answered the dial, where nobody did.
    #[must_use]
    pub fn unanswered(&self) -> Option<String> {
        match self {
            Self::Link(error @ (LinkError::Unanswered(_) | LinkError::Socket { .. })) => Some(error.to_string()),
            Self::Link(_) | Self::Silent(_) | Self::Refused(..) | Self::Nonsense | Self::Identity(_) | Self::Key(_) => {
                None
            }
        }
    }

    /// What makes sense after it.
    #[must_use]
    pub fn next(&self) -> Next {
        let code = match self {
            Self::Refused(refused, _) => {
                let patience = Duration::from_millis(refused.retry_after_ms.into());
                return match refused.code.advice() {
                    Advice::GiveUp => Next::GiveUp,
                    Advice::RetrySlowly => Next::RetrySlowly,
                    Advice::Retry | Advice::Rejoin | Advice::Stand => Next::Retry(patience),
                };
            }
            Self::Link(LinkError::Closed(code)) => *code,
            Self::Link(_) | Self::Silent(_) | Self::Nonsense | Self::Identity(_) | Self::Key(_) => {
                return Next::Retry(Duration::ZERO);
            }
        };
        match code.advice() {
            Advice::GiveUp => Next::GiveUp,
            Advice::RetrySlowly => Next::RetrySlowly,
            Advice::Retry | Advice::Rejoin | Advice::Stand => Next::Retry(Duration::ZERO),
        }
    }
}

/// Asks for a first identity. Repeating it with the same token and key is harmless: the collector gives
/// the same identity again.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(
    target: Target<'_>,
    token: &Token,
    request: &Request,
    key: Arc<Key>,
) -> Result<Admission, EnrollError> {
    let clock = Arc::clone(target.clock);
    let tls = enroll_config(Trust::Pin(token.pin), token.trust_domain.clone(), clock)
        .map_err(|error| LinkError::Tls(error.to_string()))?;
    let link = dial(target, tls).await?;
    let csr = key.request()?;
    let proof = key.prove(&link.exporter()?, &csr)?;
    let ask = Up::Enroll(Box::new(Enroll {
        token: token.id,
        secret: token.secret.clone(),
        csr: Bytes(csr),
        proof: Bytes(proof),
        kind: request.kind,
        parent: request.parent.clone(),
        id: request.id.clone(),
        checker_kind: request.checker_kind.clone(),
        labels: request.labels.clone(),
        metadata: request.metadata.clone(),
        instance_id: request.instance_id,
        clock: target.clock.now().wall,
    }));
    let transport = link.transport();
    let enrolled = exchange(target, link, &ask).await?;
    let Enrolled { service: _, identity, mut addresses, pace, server_time } = enrolled;
    if addresses.list.is_empty() {
        // A collector that advertises nothing is reached where its token said.
        addresses.list.clone_from(&token.addresses);
    }
    Ok(Admission { identity: Identity::new(key, identity)?, addresses, pace, server_time, transport })
}

/// Asks for a fresh certificate for an identity that expired: its key signs, the new one is certified.
///
/// # Errors
/// [`EnrollError`].
pub async fn rejoin(
    target: Target<'_>,
    expired: &Identity,
    key: Arc<Key>,
    instance_id: InstanceId,
) -> Result<Admission, EnrollError> {
    let tls = expired.rejoin_tls(Arc::clone(target.clock)).map_err(|error| LinkError::Tls(error.to_string()))?;
    let link = dial(target, tls).await?;
    let csr = key.request()?;
    let proof = expired.key().prove(&link.exporter()?, &csr)?;
    let ask = Up::Rejoin(Rejoin {
        service: expired.service().clone(),
        generation: expired.term().generation,
        csr: Bytes(csr),
        proof: Bytes(proof),
        instance_id,
        clock: target.clock.now().wall,
    });
    let transport = link.transport();
    let enrolled = exchange(target, link, &ask).await?;
    let Enrolled { service: _, identity, addresses, pace, server_time } = enrolled;
    Ok(Admission { identity: expired.successor(key, identity)?, addresses, pace, server_time, transport })
}

async fn dial(target: Target<'_>, tls: rustls::ClientConfig) -> Result<Link, EnrollError> {
    let Target { address, ways, .. } = target;
    let dial = target.dialer.dial(address, target.variant, ways, target.head_start, tls);
    let late = |_| LinkError::Unanswered(format!("{address} did not complete the handshake over {ways} in time"));
    Ok(tokio::time::timeout(WITHIN, dial).await.map_err(late)??)
}

async fn exchange(target: Target<'_>, mut link: Link, ask: &Up) -> Result<Enrolled, EnrollError> {
    let answer = tokio::time::timeout(WITHIN, async {
        link.send(ask).await?;
        link.recv().await
    });
    let answer = answer.await.map_err(|_| EnrollError::Silent(target.address.clone()))?;
    let outcome = match answer? {
        Down::Enrolled(enrolled) => Ok(*enrolled),
        Down::Refused(refused) => Err(EnrollError::Refused(refused, target.clock.now().wall)),
        Down::Bye(bye) => Err(EnrollError::Link(LinkError::Closed(bye.code))),
        Down::HelloAck(_)
        | Down::Ack(_)
        | Down::Renewed(_)
        | Down::Directive(_)
        | Down::Children(_)
        | Down::Settings(_) => Err(EnrollError::Nonsense),
    };
    link.close(Code::Goodbye);
    outcome
}

/// The refusal in words, with the fix.
fn explain(refused: &Refused, ours: Timestamp) -> String {
    let new_token = "make a new one with `rollcall-collector token create`";
    let fix = match refused.code {
        Code::Denied => format!(
            "the collector does not accept this token: it is unknown there, or this host's address is not allowed to \
             use it; {new_token}"
        ),
        Code::TokenExpired => format!("the token's time is over; {new_token}"),
        Code::TokenExhausted => format!("the token was used already, with another key; {new_token}"),
        Code::TokenRevoked => format!("the token was revoked; {new_token}"),
        Code::TokenNotYetValid => "the token's time has not come yet".into(),
        Code::KindMismatch => "the token is for another kind; correct `kind`, or use a token for this kind".into(),
        Code::ParentUnknown => "the parent is not registered; register it first, or correct `parent`".into(),
        Code::ParentKind => {
            "the parent is of the wrong kind: an agent has a poller, a checker has an agent; correct `parent`".into()
        }
        Code::ParentBarred => "the parent is revoked or deleted; bring it back first".into(),
        Code::ParentOther => "the token binds another parent; correct `parent`, or leave it out".into(),
        Code::IdTaken => {
            "an identity is bound to that id already; choose another `id`, or `rollcall-collector services reenroll`"
                .into()
        }
        Code::IdRule => "the id does not follow the token's rule; correct `id`, or leave it out".into(),
        Code::CsrInvalid => "the certificate request was refused: this is a fault of the program".into(),
        Code::KeyInUse => format!("the key belongs to another identity; remove the pending key, and {new_token}"),
        Code::PendingApproval => "an operator must approve first".into(),
        Code::ParentLabel => {
            "the token finds the parent by a label that this host does not give, or that makes no id: set it in `labels`"
                .into()
        }
        Code::ApprovalRejected => format!("an operator looked at this request and refused it; {new_token}"),
        Code::ClockSkew => format!(
            "the clocks differ too much: this host says {ours}, the collector {}; correct this host's clock",
            refused.server_time
        ),
        Code::Busy => "the collector is busy".into(),
        Code::StoreUnavailable => "the collector cannot write its registry now".into(),
        Code::Revoked => "the service is revoked".into(),
        Code::Deleted => "the service is deleted".into(),
        Code::Quarantined => "the identity is locked or in quarantine".into(),
        Code::UnknownIdentity => format!("the collector knows no such identity; {new_token}, and move the state away"),
        Code::RejoinLimit => "the identity rejoined too often; an operator must re-enroll it".into(),
        Code::RejoinTooLate => "the certificate expired too long ago; an operator must re-enroll it".into(),
        Code::RejoinKey => "the collector has another key bound to this identity; an operator must re-enroll it".into(),
        Code::RegistryFull => "the registry has no room for another service; an operator must remove some".into(),
        Code::SerialRefused => "the certificate is not one of the identity's live ones".into(),
        Code::Goodbye
        | Code::Draining
        | Code::Superseded
        | Code::CertExpired
        | Code::Protocol
        | Code::FrameTooLarge
        | Code::IdentityMismatch
        | Code::ClientCertRequired
        | Code::Deadline
        | Code::Throttled
        | Code::VersionUnsupported
        | Code::Internal
        | Code::ChildOfAnother
        | Code::ChildUnknown
        | Code::ChildLimit
        | Code::Other(_) => return format!("the collector refused: {}", refused.code),
    };
    format!("{}: {fix}", refused.code)
}
