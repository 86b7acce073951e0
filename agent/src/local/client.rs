//! The other end of the socket: what `rollcall-agent status` and `report` ask of the sidecar that runs.
//!
//! One request a connection, whose answer ends with it: that needs no more HTTP than a line and a blank line.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::answers::Refusal;
use crate::status::Report;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// No answer is longer.
const MAX_ANSWER: u64 = 256 * 1024;

/// An answer: its status and its body.
pub type Reply = (u16, Vec<u8>);

/// Asks the sidecar that answers at a socket how it is.
///
/// # Errors
/// When nobody answers there, or not with a report.
pub async fn ask(socket: &Path) -> io::Result<Report> {
    let (status, body) = call(socket, "GET", "/status", b"").await?;
    if status != 200 {
        return Err(io::Error::other(refusal(status, &body)));
    }
    serde_json::from_slice(&body).map_err(io::Error::other)
}

/// Sends one request.
///
/// # Errors
/// When nobody answers there, or not in HTTP.
pub async fn call(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Reply> {
    let exchange = tokio::time::timeout(WITHIN, async {
        let mut stream = UnixStream::connect(socket).await?;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        // Whoever is refused early closes early: what it answered still counts.
        let sent = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
        if answer.is_empty() {
            sent?;
            read?;
        }
        parse(&answer).ok_or_else(|| io::Error::other("what answers there is no sidecar of this version"))
    });
    exchange.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The words of a refusal.
#[must_use]
pub fn refusal(status: u16, body: &[u8]) -> String {
    serde_json::from_slice::<Refusal>(body).map_or_else(|_| format!("HTTP {status}"), |refusal| refusal.error)
}

fn parse(answer: &[u8]) -> Option<Reply> {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(at)?;
    let status = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.get(4..)?.to_vec()))
}
