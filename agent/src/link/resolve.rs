//! From an address to one IP address. Names are looked up at each dial and never remembered.

use std::net::SocketAddr;

use rollcall_common::address::Address;

use super::LinkError;

/// The IP address to dial: the families take turns, so that one that does not work costs one try only.
pub(super) async fn choose(address: &Address, variant: u32) -> Result<SocketAddr, LinkError> {
    if let Some(ip) = address.ip() {
        return Ok(SocketAddr::new(ip, address.port()));
    }
    let failed = |why: String| LinkError::Resolve { address: address.clone(), why };
    let host = address.host();
    let found = tokio::net::lookup_host((host.as_str(), address.port())).await.map_err(|e| failed(e.to_string()))?;
    turn(found.collect(), variant).ok_or_else(|| failed("the name has no IP address".into()))
}

fn turn(found: Vec<SocketAddr>, variant: u32) -> Option<SocketAddr> {
    let first_is_v6 = found.first()?.is_ipv6();
    // The resolver's preference decides which family begins, and the order within each.
    let (preferred, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    loop {
        let pair = (preferred.next(), other.next());
        order.extend(pair.0.into_iter().chain(pair.1));
        if pair == (None, None) {
            break;
        }
    }
    let at = usize::try_from(variant).unwrap_or(0).checked_rem(order.len())?;
    order.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"].iter().map(|text| text.parse().unwrap()).collect();
        let nth = |n| turn(all.clone(), n).unwrap().to_string();
        assert_eq!(nth(0), "[2001:db8::1]:1");
        assert_eq!(nth(1), "192.0.2.1:1");
        assert_eq!(nth(2), "[2001:db8::2]:1");
        assert_eq!(nth(3), "[2001:db8::1]:1");
        assert_eq!(turn(vec![], 0), None);
    }
}
