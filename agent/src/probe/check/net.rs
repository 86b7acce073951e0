//! Connections to what is watched. What comes over one is bounded as a whole: whoever floods, in whatever protocol,
//! costs no more time than that takes to read.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Host, Look};
use crate::probe::plan::Target;

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 4;
/// What is read of one connection: a page of 64 KiB, its head, certificates, and as much again.
const MAX_READ: usize = 192 * 1024;

/// A connection of which no more than [`MAX_READ`] is read.
#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    left: usize,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let flood = format!("it sent more than {} KiB and was left", MAX_READ / 1024);
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        let room = into.remaining().min(self.left);
        let mut some = ReadBuf::new(into.initialize_unfilled_to(room));
        let read = Pin::new(&mut self.stream).poll_read(context, &mut some);
        let count = some.filled().len();
        into.advance(count);
        self.left = self.left.saturating_sub(count);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connects; what went wrong is told as what was seen. `within` is what the whole look may take.
pub(super) async fn connect(target: &Target, within: Duration, host: &Host) -> Result<Stream, Look> {
    let mut last = Look::blind(format!("{} has no address", target.host));
    // A name that is not found in time is no fault of the service: that is told before the look is over.
    let patience = within.saturating_mul(3) / 4;
    let found = tokio::time::timeout(patience, resolve(target, host)).await;
    let found = found.map_err(|_| Look::blind(format!("{} was not looked up within {patience:?}", target.host)))?;
    for address in found? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(Stream { stream, left: MAX_READ }),
            Err(error) => last = refused(target, &error),
        }
    }
    Err(last)
}

async fn resolve(target: &Target, host: &Host) -> Result<Vec<SocketAddr>, Look> {
    let with_port = |ip: IpAddr| SocketAddr::new(ip, target.port);
    if let Ok(ip) = target.host.parse() {
        return Ok(vec![with_port(ip)]);
    }
    if target.host == "localhost" {
        return Ok(vec![with_port(Ipv4Addr::LOCALHOST.into()), with_port(Ipv6Addr::LOCALHOST.into())]);
    }
    let (name, port) = (target.host.clone(), target.port);
    let found = host.names.lend(&target.host, move || (name.as_str(), port).to_socket_addrs()).await?;
    match found {
        Ok(found) => Ok(found.take(MAX_ADDRESSES).collect()),
        Err(error) => Err(Look::blind(format!("cannot look up {}: {error}", target.host))),
    }
}

fn refused(target: &Target, error: &io::Error) -> Look {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        Look::gone(format!("{target} refuses connections"))
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Look::blind(format!("this host does not let us connect to {target}"))
    } else {
        Look::silent(format!("cannot connect to {target}: {error}"))
    }
}
