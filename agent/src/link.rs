//! Connections to collectors: dials, frames, the exporter, over whatever carries them.
//!
//! A [`Dialer`] may be shared by any number of sessions; a [`Link`] is one connection. Nothing here decides when to
//! dial or what to say. A dial that succeeds proves that *we* trust the peer; whether the peer accepts us is known from
//! its first frame only, since a TLS 1.3 server looks at our certificate after our side is done.
//!
//! | module | owns |
//! |---|---|
//! | `quic` | the UDP sockets, and a connection over QUIC |
//! | `tcp` | a connection over TLS on TCP |
//! | `resolve` | from an address to IP addresses |

mod quic;
mod resolve;
mod tcp;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use rollcall_common::{
    address::Address,
    code::Code,
    wire::{
        EXPORTER_LEN, Transport,
        codec::{Deframer, FrameError, encode},
        message::{Down, Up},
    },
};

use crate::{carriage::Ways, session::End};

/// How long the first address family has for itself (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a failed send waits for what the collector said before.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(300);

/// Why a link could not be made or went away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The name does not resolve.
    #[error("{address} does not resolve: {why}")]
    Resolve {
        /// What was looked up.
        address: Address,
        /// The resolver's words.
        why: String,
    },
    /// No socket of the needed family.
    #[error("no UDP socket for {remote}: {why}")]
    Socket {
        /// Where it should have led.
        remote: SocketAddr,
        /// The system's words.
        why: String,
    },
    /// The TLS settings do not fit QUIC.
    #[error("TLS settings: {0}")]
    Tls(String),
    /// Nobody answered.
    #[error("{0}")]
    Unanswered(String),
    /// The collector closed with a code.
    #[error("the collector closed: {0}")]
    Closed(Code),
    /// The collector's TLS refused us.
    #[error("the collector's TLS refused us with alert {0}")]
    Alert(u8),
    /// We refused the collector.
    #[error("{0}")]
    Distrusted(String),
    /// A frame that is none.
    #[error("the collector sent {0}")]
    Frame(#[from] FrameError),
    /// The network or the peer is gone.
    #[error("{0}")]
    Lost(String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed(code) => Self::Told(code),
            LinkError::Alert(alert) => Self::Alert(alert),
            LinkError::Distrusted(words) => Self::Distrusted(words),
            LinkError::Frame(error) => Self::Nonsense(error.to_string()),
            LinkError::Socket { .. } | LinkError::Unanswered(_) => Self::Unanswered(error.to_string()),
            LinkError::Resolve { .. } | LinkError::Tls(_) | LinkError::Lost(_) => Self::Lost(error.to_string()),
        }
    }
}

/// The sockets of a process, bound when first needed.
#[derive(Debug, Default)]
pub struct Dialer {
    quic: quic::Sockets,
}

impl Dialer {
    /// Binds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Over an endpoint bound elsewhere, which serves its own address family: a load generator chooses its
    /// sockets, their buffers and what is counted on them.
    #[must_use]
    pub fn with_endpoint(endpoint: quinn::Endpoint) -> Self {
        Self { quic: quic::Sockets::over(endpoint) }
    }

    /// Dials a collector. `variant` chooses among the IP addresses of a name, which is resolved anew each time. Where
    /// the name has addresses of both families, the second family gets its chance after [`HEAD_START`]: a family that
    /// does not work costs no more than that. So it is with transports, where both are tried, after `head_start`.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent on the link then.
    pub async fn dial(
        &self,
        address: &Address,
        variant: u32,
        ways: Ways,
        head_start: Duration,
        tls: rustls::ClientConfig,
    ) -> Result<Link, LinkError> {
        let choice = resolve::choose(address, variant).await?;
        let over = |transport| self.over(transport, choice, tls.clone());
        match ways {
            Ways::Only(transport) => over(transport).await,
            Ways::Both(first) => {
                let raced = race(over(first), head_start, || over(first.other()));
                raced.await.map_err(|(first, second)| more_telling(first, second))
            }
        }
    }

    async fn over(
        &self,
        transport: Transport,
        choice: resolve::Choice,
        tls: rustls::ClientConfig,
    ) -> Result<Link, LinkError> {
        let (remote, wire) = match transport {
            Transport::Quic => {
                let config = quic::settings(tls)?;
                let connect = |remote| self.quic.connect(remote, config.clone());
                let (remote, wire) = either_family(choice, connect).await?;
                (remote, Wire::Quic(wire))
            }
            Transport::Tcp => {
                let config = Arc::new(tls);
                let connect = |remote| tcp::connect(remote, Arc::clone(&config));
                let (remote, wire) = either_family(choice, connect).await?;
                (remote, Wire::Tcp(Box::new(wire)))
            }
        };
        Ok(Link { remote, wire, frames: Deframer::default() })
    }

    /// Waits until every close is on its way, so that no collector waits for a timeout; bounded.
    pub async fn settle(&self, within: Duration) {
        self.quic.settle(within).await;
    }
}

/// Of two failures, the one of whoever answered; where nobody did, both.
fn more_telling(first: LinkError, second: LinkError) -> LinkError {
    match (first, second) {
        (LinkError::Unanswered(first), LinkError::Unanswered(second)) => {
            LinkError::Unanswered(format!("{first}; {second}"))
        }
        (LinkError::Unanswered(_) | LinkError::Socket { .. } | LinkError::Lost(_), second) => second,
        (first, _) => first,
    }
}

/// Connects to the first address, and after a head start to the second one too: the first that works is taken.
async fn either_family<T, F: Future<Output = Result<T, LinkError>>>(
    resolve::Choice { first, second }: resolve::Choice,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T), LinkError> {
    let connect = async |remote| connect(remote).await.map(|made| (remote, made));
    let Some(second) = second else { return connect(first).await };
    race(connect(first), HEAD_START, || connect(second)).await.map_err(|(first, second)| more_telling(first, second))
}

/// Runs the first, and after a head start, or once the first has failed, the second too: the first that works is taken.
async fn race<T, E, B: Future<Output = Result<T, E>>>(
    first: impl Future<Output = Result<T, E>>,
    head_start: Duration,
    second: impl FnOnce() -> B,
) -> Result<T, (E, E)> {
    let mut first = std::pin::pin!(first);
    if let Ok(outcome) = tokio::time::timeout(head_start, &mut first).await {
        return match outcome {
            Ok(made) => Ok(made),
            Err(error) => second().await.map_err(|other| (error, other)),
        };
    }
    let mut second = std::pin::pin!(second());
    tokio::select! {
        outcome = &mut first => match outcome {
            Ok(made) => Ok(made),
            Err(error) => second.await.map_err(|other| (error, other)),
        },
        outcome = &mut second => match outcome {
            Ok(made) => Ok(made),
            Err(other) => first.await.map_err(|error| (error, other)),
        },
    }
}

/// One connection. Dropping it closes the connection without a code; prefer [`Link::close`].
pub struct Link {
    remote: SocketAddr,
    wire: Wire,
    frames: Deframer,
}

#[derive(Debug)]
enum Wire {
    Quic(quic::Wire),
    /// Boxed: most are not.
    Tcp(Box<tcp::Wire>),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {})", self.remote, self.transport())
    }
}

impl Link {
    /// The IP address and port that answered.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// What carries it.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match &self.wire {
            Wire::Quic(_) => Transport::Quic,
            Wire::Tcp(_) => Transport::Tcp,
        }
    }

    /// Keying material that only the two ends of this very connection know.
    ///
    /// # Errors
    /// When TLS cannot export it.
    pub fn exporter(&self) -> Result<[u8; EXPORTER_LEN], LinkError> {
        let exported = match &self.wire {
            Wire::Quic(wire) => wire.exporter(),
            Wire::Tcp(wire) => wire.exporter(),
        };
        exported.ok_or_else(|| LinkError::Tls("no keying material can be exported".into()))
    }

    /// Sends one frame. Not cancel-safe: a frame cut short spoils the connection.
    ///
    /// # Errors
    /// When the frame is too large or the connection is gone.
    pub async fn send(&mut self, up: &Up) -> Result<(), LinkError> {
        let frame = zeroize::Zeroizing::new(encode(up)?);
        match &mut self.wire {
            Wire::Quic(wire) => wire.write(&frame).await,
            Wire::Tcp(wire) => match wire.write(&frame).await {
                Ok(()) => Ok(()),
                // TCP tells of the end before it is read why.
                Err(error) => Err(self.last_words().await.unwrap_or(error)),
            },
        }
    }

    /// Why the collector ended it, where it said so.
    async fn last_words(&mut self) -> Option<LinkError> {
        let heard = tokio::time::timeout(LAST_WORDS_WITHIN, async {
            loop {
                match self.recv().await {
                    Ok(Down::Bye(bye)) => return Some(LinkError::Closed(bye.code)),
                    Ok(_) => {}
                    Err(LinkError::Lost(_)) => return None,
                    Err(error) => return Some(error),
                }
            }
        });
        heard.await.ok().flatten()
    }

    /// Waits for one frame. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is gone or ended, or a frame does not decode.
    pub async fn recv(&mut self) -> Result<Down, LinkError> {
        loop {
            if let Some(down) = self.frames.next_message()? {
                return Ok(down);
            }
            match &mut self.wire {
                Wire::Quic(wire) => wire.read(&mut self.frames).await?,
                Wire::Tcp(wire) => wire.read(&mut self.frames).await?,
            }
        }
    }

    /// Ends our side and waits until the peer has all of it. QUIC tells that itself; over TCP the peer's own farewell
    /// does, which it says after the last frame.
    ///
    /// # Errors
    /// When the connection is gone before that.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        match &mut self.wire {
            Wire::Quic(wire) => return wire.finish().await,
            Wire::Tcp(wire) => wire.shutdown().await?,
        }
        while !matches!(self.recv().await?, Down::Bye(_)) {}
        Ok(())
    }

    /// Closes the connection, with a code where what carries it has room for one. What was sent but not yet delivered
    /// may be lost.
    pub fn close(&self, code: Code) {
        match &self.wire {
            Wire::Quic(wire) => wire.close(code),
            // What was to be said is said in frames; dropping the socket ends it.
            Wire::Tcp(_) => {}
        }
    }
}
