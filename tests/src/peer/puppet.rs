//! An enrolled identity on strings: hello, beat, renew, rejoin, each when the test says so.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rollcall_common::{
    id::{BeatNo, BootId, Generation, InstanceId, PaceNo, ServiceKey, SessionNo, TrustDomain, random},
    identity::{
        PeerCert,
        tls::{Trust, beat_config},
    },
    time::{Clock, SystemClock, Timestamp},
    wire::{
        BEAT_VERSION,
        message::{
            Ack, Beat, Bytes, Down, Enrolled, Goodbye, GoodbyeReason, Granted, Hello, HelloAck, Refused, Rejoin, Renew,
            Renewed, Up,
        },
    },
};
use rustls::pki_types::CertificateDer;

use super::{Answer, Ending, Key, Line, Phone, answer_of, dial_to_enroll_with, phone};

/// What an enrollment gave.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who it is.
    pub service: ServiceKey,
    /// Its key.
    pub key: Key,
    /// Its chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom it trusts.
    pub roots: Vec<CertificateDer<'static>>,
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// Counts its certificates.
    pub generation: Generation,
    /// The end of the certificate.
    pub not_after: Timestamp,
    /// When it should be renewed.
    pub renew_at: Timestamp,
    /// The pace to begin with.
    pub pace: Granted,
}

impl Identity {
    pub(super) fn of(enrolled: Enrolled, key: &Key, trust_domain: &TrustDomain) -> Self {
        let Enrolled { service, identity, pace, .. } = enrolled;
        Self {
            service,
            key: key.clone(),
            chain: certificates(&identity.chain),
            roots: certificates(&identity.bundle),
            trust_domain: trust_domain.clone(),
            generation: identity.generation,
            not_after: identity.not_after,
            renew_at: identity.renew_at,
            pace,
        }
    }

    /// This identity with its next certificate.
    #[must_use]
    pub fn renewed(&self, renewed: &Renewed, key: &Key) -> Self {
        Self {
            key: key.clone(),
            chain: certificates(&renewed.chain),
            roots: certificates(&renewed.bundle),
            generation: renewed.generation,
            not_after: renewed.not_after,
            renew_at: renewed.renew_at,
            ..self.clone()
        }
    }

    /// TLS settings to beat with, by any clock.
    ///
    /// # Errors
    /// When key and certificate do not fit.
    pub fn tls(&self, clock: Arc<dyn Clock>) -> Result<rustls::ClientConfig> {
        let trust = Trust::Bundle(self.roots.clone());
        Ok(beat_config(trust, self.trust_domain.clone(), self.chain.clone(), self.key.for_tls(), clock)?)
    }

    /// What the leaf says.
    ///
    /// # Errors
    /// When it is not of Rollcall's form.
    pub fn leaf(&self) -> Result<PeerCert> {
        Ok(PeerCert::read(self.chain.first().context("an empty chain")?)?)
    }

    /// Exchanges the bound key for a fresh certificate.
    ///
    /// # Errors
    /// When the connection does not come about; a refusal is an [`Answer`].
    pub async fn rejoin(&self, phone: &Phone, to: SocketAddr, signer: &Key, next: &Key) -> Result<Answer> {
        let trust = Trust::Bundle(self.roots.clone());
        let mut line = dial_to_enroll_with(phone, to, trust, &self.trust_domain).await?;
        let csr = next.csr()?;
        let proof = line.proof(signer, &csr)?;
        let rejoin = Rejoin {
            service: self.service.clone(),
            generation: self.generation,
            csr: Bytes(csr),
            proof: Bytes(proof),
            instance_id: InstanceId(random()?),
            clock: SystemClock.now().wall,
        };
        line.say(&Up::Rejoin(rejoin)).await?;
        answer_of(&mut line, next, &self.trust_domain).await
    }
}

fn certificates(chain: &[Bytes]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|Bytes(der)| CertificateDer::from(der.clone())).collect()
}

/// One process with an identity: its instance, its dials, its beats.
#[derive(Debug, Clone)]
pub struct Puppet {
    /// Its identity; replace it after a renewal.
    pub identity: Identity,
    /// This process.
    pub instance: InstanceId,
    /// The boot it claims.
    pub boot: BootId,
    session: SessionNo,
}

impl Puppet {
    /// A process that has not dialed yet.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(identity: Identity) -> Result<Self> {
        Ok(Self { identity, instance: InstanceId(random()?), boot: BootId(random()?), session: SessionNo(0) })
    }

    /// The greeting of its next dial.
    pub fn next_hello(&mut self) -> Hello {
        self.session = self.session.next();
        Hello {
            versions: vec![BEAT_VERSION],
            capabilities: 0,
            service: self.identity.service.clone(),
            instance_id: self.instance,
            session: self.session,
            boot_id: self.boot,
            clock: SystemClock.now().wall,
        }
    }

    /// Dials and greets.
    ///
    /// # Errors
    /// When no session comes of it.
    pub async fn live(&mut self, phone: &Phone, to: SocketAddr) -> Result<Live> {
        match self.dial(phone, to).await? {
            Ok(live) => Ok(live),
            Err(ending) => bail!("{} was not greeted: {ending:?}", self.identity.service),
        }
    }

    /// Dials and greets, and hands out how it was turned away.
    ///
    /// # Errors
    /// When the handshake itself fails, or what comes is no greeting.
    pub async fn dial(&mut self, phone: &Phone, to: SocketAddr) -> Result<Result<Live, Ending>> {
        let hello = self.next_hello();
        self.dial_saying(phone, to, hello).await
    }

    /// As [`Self::dial`], with any greeting.
    ///
    /// # Errors
    /// When the handshake itself fails, or what comes is no greeting.
    pub async fn dial_saying(&self, phone: &Phone, to: SocketAddr, hello: Hello) -> Result<Result<Live, Ending>> {
        let connection = phone.dial(to, phone::beating(&self.identity)?).await?;
        let line = match Line::open(connection.clone()).await {
            Ok(line) => line,
            // A refused certificate shows here.
            Err(_) => return Ok(Err(Ending { bye: None, close: super::line::end_of(&connection).await? })),
        };
        line.greet(hello).await
    }
}

impl Line {
    /// Greets on this line.
    ///
    /// # Errors
    /// When what comes is no greeting.
    pub async fn greet(mut self, hello: Hello) -> Result<Result<Live, Ending>> {
        if self.say(&Up::Hello(hello)).await.is_err() {
            return Ok(Err(self.ending().await?));
        }
        match self.hear().await? {
            Some(Down::HelloAck(ack)) => Ok(Ok(Live { line: self, pace: ack.pace, greeting: ack, beat: BeatNo(0) })),
            Some(Down::Bye(bye)) => Ok(Err(Ending { bye: Some(bye), ..self.ending().await? })),
            None => Ok(Err(self.ending().await?)),
            Some(
                down @ (Down::Enrolled(_)
                | Down::Refused(_)
                | Down::Ack(_)
                | Down::Renewed(_)
                | Down::Directive(_)
                | Down::Children(_)
                | Down::Settings(_)),
            ) => {
                bail!("a hello was answered with {down:?}")
            }
        }
    }
}

/// A session that was greeted.
#[derive(Debug)]
pub struct Live {
    /// The connection.
    pub line: Line,
    /// The pace in force.
    pub pace: Granted,
    /// How it was greeted.
    pub greeting: HelloAck,
    beat: BeatNo,
}

impl Live {
    /// Beats once and waits for the acknowledgement.
    ///
    /// # Errors
    /// When none comes.
    pub async fn beat(&mut self) -> Result<Ack> {
        self.beat = self.beat.next();
        self.beat_no(self.beat, self.pace.pace_no).await
    }

    /// Beats with any numbers and waits for the acknowledgement.
    ///
    /// # Errors
    /// When none comes.
    pub async fn beat_no(&mut self, beat_no: BeatNo, pace_no: PaceNo) -> Result<Ack> {
        self.line.say(&Up::Beat(Beat { beat_no, pace_no })).await?;
        let ack = self.acknowledged().await?;
        if ack.beat_no != beat_no {
            bail!("beat {beat_no} was acknowledged as {}", ack.beat_no);
        }
        self.pace = ack.pace;
        Ok(ack)
    }

    /// The next acknowledgement; directives are passed over.
    ///
    /// # Errors
    /// When something else comes, or nothing.
    pub async fn acknowledged(&mut self) -> Result<Ack> {
        loop {
            match self.line.hear().await? {
                Some(Down::Ack(ack)) => return Ok(ack),
                Some(Down::Directive(_) | Down::Children(_) | Down::Settings(_)) => {}
                Some(
                    down @ (Down::Bye(_) | Down::Enrolled(_) | Down::Refused(_) | Down::HelloAck(_) | Down::Renewed(_)),
                ) => bail!("a beat was answered with {down:?}"),
                None => bail!("a beat was not acknowledged: {:?}", self.line.ending().await?),
            }
        }
    }

    /// Asks for the next certificate.
    ///
    /// # Errors
    /// When neither a certificate nor a refusal comes.
    pub async fn renew(&mut self, next: &Key) -> Result<std::result::Result<Renewed, Refused>> {
        self.line.say(&Up::Renew(Renew { csr: Bytes(next.csr()?) })).await?;
        loop {
            match self.line.hear().await? {
                Some(Down::Renewed(renewed)) => return Ok(Ok(*renewed)),
                Some(Down::Refused(refused)) => return Ok(Err(refused)),
                Some(Down::Directive(_) | Down::Ack(_) | Down::Children(_) | Down::Settings(_)) => {}
                Some(down @ (Down::Bye(_) | Down::Enrolled(_) | Down::HelloAck(_))) => {
                    bail!("a renewal was answered with {down:?}")
                }
                None => bail!("a renewal was not answered: {:?}", self.line.ending().await?),
            }
        }
    }

    /// Says goodbye and waits for the end.
    ///
    /// # Errors
    /// When the collector does not end the connection.
    pub async fn goodbye(mut self) -> Result<Ending> {
        self.line.say(&Up::Bye(Goodbye { reason: GoodbyeReason::Stop, back_in_secs: None })).await?;
        self.line.hang_up();
        self.line.ending().await
    }

    /// How the collector ended the session.
    ///
    /// # Errors
    /// When it has not.
    pub async fn ending(mut self) -> Result<Ending> {
        self.line.ending().await
    }
}
