//! A connection over TLS on TCP, by hand: frames out, frames in, and how it ended.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rollcall_common::{
    code::Code,
    id::{BeatNo, InstanceId, PaceNo, random},
    identity::tls::Trust,
    time::{Clock as _, SystemClock},
    token::Token,
    wire::{
        EXPORTER_LABEL, EXPORTER_LEN, SERVER_NAME,
        codec::{Deframer, encode},
        message::{Beat, Bytes, Down, Enroll, Up},
        proof_message,
    },
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Ask, Identity, Key, Puppet, SOON, phone};
use crate::until::within;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// With this farewell.
    Bye(Code),
    /// With this TLS alert.
    Alert(u8),
    /// In order, without a word.
    End,
    /// In the middle.
    Broken,
}

/// A connection.
#[derive(Debug)]
pub struct Cable {
    tls: TlsStream<TcpStream>,
    frames: Deframer,
}

impl Cable {
    /// Connects and shakes hands, with any TLS settings.
    ///
    /// # Errors
    /// How that failed; with a certificate that the collector refuses it does not: that shows at the first use.
    pub async fn dial(to: SocketAddr, tls: rustls::ClientConfig) -> Result<Self> {
        let stream = within(SOON, "TCP connects", TcpStream::connect(to)).await??;
        let name = ServerName::try_from(SERVER_NAME)?;
        let tls = within(SOON, "TLS is done", TlsConnector::from(Arc::new(tls)).connect(name, stream)).await??;
        Ok(Self { tls, frames: Deframer::default() })
    }

    /// Connects as whoever enrolls does.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub async fn dial_to_enroll(to: SocketAddr, token: &Token) -> Result<Self> {
        Self::dial(to, phone::enrolling(Trust::Pin(token.pin), &token.trust_domain)?).await
    }

    /// Dials, greets, and beats once.
    ///
    /// # Errors
    /// When no session comes of it.
    pub async fn live(to: SocketAddr, puppet: &mut Puppet) -> Result<Self> {
        let mut cable = Self::dial(to, phone::beating(&puppet.identity)?).await?;
        cable.say(&Up::Hello(puppet.next_hello())).await?;
        match cable.hear().await? {
            Ok(Down::HelloAck(_)) => {}
            other => bail!("a hello was answered with {other:?}"),
        }
        cable.beat(1).await?;
        Ok(cable)
    }

    /// Beats once and waits for the acknowledgement.
    ///
    /// # Errors
    /// When none comes.
    pub async fn beat(&mut self, no: u64) -> Result<()> {
        self.say(&Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(1) })).await?;
        loop {
            match self.hear().await? {
                Ok(Down::Ack(ack)) if ack.beat_no == BeatNo(no) => return Ok(()),
                Ok(Down::Directive(_)) => {}
                other => bail!("beat {no} was answered with {other:?}"),
            }
        }
    }

    /// Proof of possession of a key, bound to this connection.
    ///
    /// # Errors
    /// When signing fails.
    pub fn proof(&self, key: &Key, csr: &[u8]) -> Result<Vec<u8>> {
        let material = [0; EXPORTER_LEN];
        let exporter = self.tls.get_ref().1.export_keying_material(material, EXPORTER_LABEL, Some(b""))?;
        key.sign(&proof_message(&exporter, csr))
    }

    /// Enrolls on this connection, with a proof for it unless another one is brought.
    ///
    /// # Errors
    /// When nothing is answered; a refusal is one.
    pub async fn enroll(&mut self, token: &Token, ask: &Ask) -> Result<std::result::Result<Identity, Code>> {
        let csr = ask.key.csr()?;
        let proof = ask.proof.clone().map_or_else(|| self.proof(&ask.key, &csr), Ok)?;
        let enroll = Enroll {
            token: token.id,
            secret: token.secret.clone(),
            csr: Bytes(csr),
            proof: Bytes(proof),
            kind: ask.kind,
            parent: ask.parent.clone(),
            id: ask.id.clone(),
            checker_kind: ask.checker_kind.clone(),
            labels: ask.labels.clone(),
            metadata: ask.metadata.clone(),
            instance_id: InstanceId(random()?),
            clock: SystemClock.now().wall,
        };
        self.say(&Up::Enroll(Box::new(enroll))).await?;
        match self.hear().await? {
            Ok(Down::Enrolled(enrolled)) => Ok(Ok(Identity::of(*enrolled, &ask.key, &token.trust_domain))),
            Ok(Down::Refused(refused)) => Ok(Err(refused.code)),
            other => bail!("an enrollment was answered with {other:?}"),
        }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection takes no more.
    pub async fn say(&mut self, up: &Up) -> Result<()> {
        self.say_bytes(&encode(up)?).await
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// When the connection takes no more.
    pub async fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        within(SOON, "the collector takes bytes", self.tls.write_all(bytes)).await??;
        within(SOON, "the collector takes bytes", self.tls.flush()).await?.context("the connection takes no more")
    }

    /// The next frame, or how it ended.
    ///
    /// # Errors
    /// When nothing comes for [`SOON`], or what comes is no frame.
    pub async fn hear(&mut self) -> Result<std::result::Result<Down, Cut>> {
        within(SOON, "the collector says something", async {
            let mut space = [0; 4_096];
            loop {
                if let Some(down) = self.frames.next_message()? {
                    return Ok(Ok(down));
                }
                match self.tls.read(&mut space).await {
                    Ok(0) => return Ok(Err(Cut::End)),
                    Ok(length) => self.frames.push(space.get(..length).unwrap_or_default()),
                    Err(error) => {
                        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                        return Ok(Err(match tls {
                            Some(rustls::Error::AlertReceived(alert)) => Cut::Alert(u8::from(*alert)),
                            Some(_) | None => Cut::Broken,
                        }));
                    }
                }
            }
        })
        .await?
    }

    /// How the collector ends it; what it says before is passed over.
    ///
    /// # Errors
    /// When it does not within [`SOON`].
    pub async fn ending(&mut self) -> Result<Cut> {
        let mut bye = None;
        loop {
            match self.hear().await? {
                Ok(Down::Bye(said)) => bye = Some(Cut::Bye(said.code)),
                Ok(_) => {}
                Err(cut) => return Ok(bye.unwrap_or(cut)),
            }
        }
    }

    /// Ends our half.
    ///
    /// # Errors
    /// When it is over already.
    pub async fn hang_up(&mut self) -> Result<()> {
        within(SOON, "the collector takes the end", self.tls.shutdown()).await?.context("it is over already")
    }
}
