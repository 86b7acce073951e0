//! What a load generator refuses to be aimed at: other hosts, unless it is told so, and more than a bound.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use rollcall_common::address::Address;

/// Most sidecars of one swarm.
pub const MAX_COUNT: u32 = 200_000;
/// Longest part of a run.
pub const MAX_TIME: Duration = Duration::from_secs(24 * 3_600);

/// Refuses collectors on other hosts.
///
/// # Errors
/// Names the address and the flag.
pub fn local_only<'a>(addresses: impl IntoIterator<Item = &'a Address>, allow_remote: bool) -> Result<()> {
    for address in addresses {
        ensure!(
            allow_remote || address.is_local(),
            "{address} is another host: a swarm is a flood there; if that is what you want, add --allow-remote"
        );
    }
    Ok(())
}

/// Reads the base URL of an API: `http://host:port`. A credential goes there, unencrypted.
///
/// # Errors
/// When it is something else, or another host.
pub fn api(url: &str, allow_remote: bool) -> Result<String> {
    let rest = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let host = rest.and_then(|rest| rest.parse::<Address>().ok().filter(|_| rest.contains(':')));
    let Some(host) = host else {
        anyhow::bail!("{url:?} is no base URL: write http://127.0.0.1:7410");
    };
    local_only([&host], allow_remote)?;
    Ok(url.trim_end_matches('/').to_owned())
}

/// Refuses a collector given by address where it is on another host.
///
/// # Errors
/// Names the address and the flag.
pub fn collector(at: Option<SocketAddr>, allow_remote: bool) -> Result<()> {
    let at = at.map(Address::from);
    local_only(&at, allow_remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_take_a_flag() {
        let far: Address = "192.0.2.7:7411".parse().unwrap();
        assert!(local_only([&far], false).unwrap_err().to_string().contains("--allow-remote"));
        assert!(local_only([&far], true).is_ok());
        assert!(collector(Some("127.0.0.1:7411".parse().unwrap()), false).is_ok());
        assert!(collector(Some("192.0.2.7:7411".parse().unwrap()), false).is_err());
    }

    #[test]
    fn credentials_stay_on_this_host() {
        assert_eq!(api("http://127.0.0.1:7410/", false).unwrap(), "http://127.0.0.1:7410");
        assert_eq!(api("http://[::1]:7410", false).unwrap(), "http://[::1]:7410");
        assert!(api("http://localhost:7410", false).is_ok());
        for bad in ["http://192.0.2.7:7410", "https://127.0.0.1:7410", "127.0.0.1:7410", "http://127.0.0.1:7410/x", ""]
        {
            assert!(api(bad, false).is_err(), "{bad}");
        }
    }
}
