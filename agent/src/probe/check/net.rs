//! Connections to what is watched.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
};

use tokio::net::TcpStream;

use super::{Host, Look};
use crate::probe::plan::Target;

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 4;

/// Connects; what went wrong is told as what was seen.
pub(super) async fn connect(target: &Target, host: &Host) -> Result<TcpStream, Look> {
    let mut last = Look::blind(format!("{} has no address", target.host));
    for address in resolve(target, host).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
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
    let found = host.by_hand(move || (name.as_str(), port).to_socket_addrs()).await?;
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
