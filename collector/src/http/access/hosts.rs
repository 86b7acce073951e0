//! Which `Host` headers are served.

use std::net::Ipv6Addr;

/// Whether a `Host` header may be served by a loopback listener. Addresses and `localhost` cannot be forged
/// by a web page whose name an attacker points here (DNS rebinding); any other name must be configured.
#[must_use]
pub fn host_allowed(host: &str, names: &[String]) -> bool {
    let name = if let Some(bracketed) = host.strip_prefix('[') {
        let Some((inside, port)) = bracketed.split_once(']') else { return false };
        return inside.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port));
    } else {
        match host.split_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            Some(_) => return false,
            None => host,
        }
    };
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok() || names.contains(&name)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}
