//! Whether UDP gets through at all, told from what QUIC makes of it: one datagram that every QUIC server answers.
//!
//! A long header with a version that nobody speaks must be answered with the versions that the server has
//! (RFC 9000, section 6). That needs no key and no TLS, and a refusal by the host comes back as an error, which a
//! handshake would swallow.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::UdpSocket;

/// How long an answer may take; the question is asked again each third of it.
const WITHIN: Duration = Duration::from_millis(2_400);
/// No server answers less.
const DATAGRAM: usize = 1_200;
/// Reserved for provoking an answer.
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// What became of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Echo {
    /// A QUIC server answered.
    Answered,
    /// Something answered that is none.
    Nonsense,
    /// The host, or somebody on the way, said no.
    Refused,
    /// Nothing came back.
    Silent,
    /// It did not leave this host.
    Unsent(String),
}

/// Asks.
pub(super) async fn ask(remote: SocketAddr) -> Echo {
    let local: SocketAddr = if remote.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let asked = tokio::time::timeout(WITHIN, async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(remote).await?;
        let mut answer = [0; 1_500];
        loop {
            socket.send(&question()).await?;
            if let Ok(got) = tokio::time::timeout(WITHIN / 3, socket.recv(&mut answer)).await {
                return got.map(|length| answer.get(..length).map(<[u8]>::to_vec).unwrap_or_default());
            }
        }
    });
    match asked.await {
        Err(_) => Echo::Silent,
        Ok(Ok(answer)) if is_version_negotiation(&answer) => Echo::Answered,
        Ok(Ok(_)) => Echo::Nonsense,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Echo::Refused,
        Ok(Err(error)) => Echo::Unsent(error.to_string()),
    }
}

fn question() -> Vec<u8> {
    let mut datagram = vec![0xc0];
    datagram.extend(NO_VERSION);
    // Two connection ids of eight bytes each; whose, is nobody's business.
    datagram.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1]);
    datagram.resize(DATAGRAM, 0);
    datagram
}

fn is_version_negotiation(answer: &[u8]) -> bool {
    answer.len() > 7 && answer.first().is_some_and(|first| first & 0x80 != 0) && answer.get(1..5) == Some(&[0; 4])
}
