//! One connection and its stream: frames out, frames in, and how it ended.

use anyhow::{Context as _, Result, anyhow};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream};
use rollcall_common::{
    code::Code,
    wire::{
        EXPORTER_LABEL, EXPORTER_LEN,
        codec::{Deframer, encode},
        message::{Bye, Down, Up},
        proof_message,
    },
};

use super::{Key, SOON};
use crate::until::within;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The collector closed it with a code of the table.
    Code(Code),
    /// A TLS alert.
    Alert(u8),
    /// Another QUIC transport error.
    Transport(u64),
    /// A stateless reset: the collector was restarted.
    Reset,
    /// Nothing came for too long.
    TimedOut,
    /// No QUIC version in common.
    Version,
    /// Our own side closed it.
    Local,
}

impl From<&ConnectionError> for Close {
    fn from(error: &ConnectionError) -> Self {
        let transport = |code: u64| match u8::try_from(code.wrapping_sub(0x100)) {
            Ok(alert) => Self::Alert(alert),
            Err(_) => Self::Transport(code),
        };
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let number = u16::try_from(close.error_code.into_inner()).unwrap_or(u16::MAX);
                Self::Code(Code::from(number))
            }
            ConnectionError::ConnectionClosed(close) => transport(close.error_code.into()),
            ConnectionError::TransportError(error) => transport(error.code.into()),
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => Self::Local,
        }
    }
}

/// The last that was heard of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The farewell frame, if one came.
    pub bye: Option<Bye>,
    /// The close.
    pub close: Close,
}

/// A connection with its one bidirectional stream.
#[derive(Debug)]
pub struct Line {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    frames: Deframer,
}

impl Line {
    /// Opens the stream.
    ///
    /// # Errors
    /// When the connection is over already.
    pub async fn open(connection: Connection) -> Result<Self> {
        let opened = within(SOON, "the collector allows a stream", connection.open_bi()).await?;
        let (send, recv) = opened.map_err(|error| {
            let close = Close::from(&error);
            anyhow!(error).context(format!("the connection ended with {close:?}"))
        })?;
        Ok(Self { connection, send, recv, frames: Deframer::default() })
    }

    /// The connection below.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Proof of possession of a key, bound to this connection.
    ///
    /// # Errors
    /// When signing fails.
    pub fn proof(&self, key: &Key, csr: &[u8]) -> Result<Vec<u8>> {
        let mut exporter = [0; EXPORTER_LEN];
        self.connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .map_err(|error| anyhow!("no keying material: {error:?}"))?;
        key.sign(&proof_message(&exporter, csr))
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the stream takes no more.
    pub async fn say(&mut self, up: &Up) -> Result<()> {
        self.say_bytes(&encode(up)?).await
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// When the stream takes no more.
    pub async fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = within(SOON, "the collector takes bytes", self.send.write_all(bytes)).await?;
        sent.context("the stream takes no more")
    }

    /// Ends our half of the stream.
    pub fn hang_up(&mut self) {
        // Only a second time fails.
        let _ = self.send.finish();
    }

    /// The next frame; `None` when the stream or the connection is over.
    ///
    /// # Errors
    /// When nothing comes for [`SOON`], or what comes is no frame.
    pub async fn hear(&mut self) -> Result<Option<Down>> {
        within(SOON, "the collector says something", self.hear_patiently()).await?
    }

    /// As [`Self::hear`], with the caller's own patience.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub async fn hear_patiently(&mut self) -> Result<Option<Down>> {
        loop {
            if let Some(down) = self.frames.next_message()? {
                return Ok(Some(down));
            }
            match self.recv.read_chunk(16 * 1024, true).await {
                Ok(Some(chunk)) => self.frames.push(&chunk.bytes),
                Ok(None) | Err(ReadError::ConnectionLost(_) | ReadError::Reset(_)) => return Ok(None),
                Err(error @ (ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected)) => {
                    return Err(error.into());
                }
            }
        }
    }

    /// Listens until the connection is over.
    ///
    /// # Errors
    /// When it is not over within [`SOON`].
    pub async fn ending(&mut self) -> Result<Ending> {
        let ending = async {
            let mut bye = None;
            while let Some(down) = self.hear_patiently().await? {
                if let Down::Bye(said) = down {
                    bye = Some(said);
                }
            }
            Ok(Ending { bye, close: Close::from(&self.connection.closed().await) })
        };
        within(SOON, "the collector ends the connection", ending).await?
    }
}

/// How a connection ends on which nothing is said.
///
/// # Errors
/// When it is not over within [`SOON`].
pub async fn end_of(connection: &Connection) -> Result<Close> {
    Ok(Close::from(&within(SOON, "the collector ends the connection", connection.closed()).await?))
}
