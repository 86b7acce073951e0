//! Somebody who came and has not shaken hands yet, over whatever: what admission decides about.

use std::{net::SocketAddr, sync::Arc};

use rustls::ServerConfig;

use super::{
    HANDSHAKE_WITHIN,
    carrier::{Carrier, tcp},
    listener::Hello,
    stream::Stream,
};

/// One attempt at a connection.
#[derive(Debug)]
pub(super) enum Newcomer {
    /// Over QUIC.
    Quic(Box<quinn::Incoming>),
    /// Over TCP; its first words are here.
    Tcp(Box<Hello>),
}

/// A handshake that came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing is left to do.
    Over,
    /// The alert is on its way.
    Parting(tcp::Parting),
}

impl Newcomer {
    /// Where it comes from.
    pub(super) fn from(&self) -> SocketAddr {
        match self {
            Self::Quic(incoming) => incoming.remote_address(),
            Self::Tcp(hello) => hello.from,
        }
    }

    /// Whether its address is proven to be its own: TCP's always is.
    pub(super) fn is_validated(&self) -> bool {
        match self {
            Self::Quic(incoming) => incoming.remote_address_validated(),
            Self::Tcp(_) => true,
        }
    }

    /// Has it prove its address and come again.
    pub(super) fn retry(self) {
        match self {
            // A peer that has answered a Retry before cannot get another; it is validated already.
            Self::Quic(incoming) => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
            }
            Self::Tcp(_) => {}
        }
    }

    /// Sends it away.
    pub(super) fn refuse(self) {
        match self {
            Self::Quic(incoming) => incoming.refuse(),
            Self::Tcp(_) => {}
        }
    }

    /// Forgets it: it has given up, or tries anew.
    pub(super) fn ignore(self) {
        match self {
            Self::Quic(incoming) => incoming.ignore(),
            Self::Tcp(_) => {}
        }
    }

    /// Shakes hands, within the deadline.
    pub(super) async fn shake_hands(self, tls: Option<Arc<ServerConfig>>) -> Result<Stream, Failed> {
        let from = self.from();
        let shaken = match self {
            Self::Quic(incoming) => {
                let connecting = incoming.accept().map_err(|error| {
                    tracing::debug!(%from, %error, "not accepted");
                    Failed::Over
                })?;
                let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, connecting).await;
                shaken.map(|shaken| shaken.map(Carrier::from).map_err(|error| (error.to_string(), Failed::Over)))
            }
            Self::Tcp(hello) => {
                let tls = tls.ok_or(Failed::Over)?;
                let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, tcp::Carrier::shake(*hello, tls)).await;
                shaken.map(|shaken| {
                    let failed = |(error, parting): (std::io::Error, _)| (error.to_string(), Failed::Parting(parting));
                    shaken.map(Carrier::from).map_err(failed)
                })
            }
        };
        match shaken {
            Ok(Ok(carrier)) => Ok(Stream::new(carrier)),
            Ok(Err((error, failed))) => {
                tracing::debug!(%from, error, "the handshake failed");
                Err(failed)
            }
            Err(_) => {
                tracing::debug!(%from, "the handshake took too long");
                Err(Failed::Over)
            }
        }
    }
}
