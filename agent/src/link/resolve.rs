//! From an address to one IP address. Names are looked up at each dial and never remembered.

use std::net::SocketAddr;

use rollcall_common::address::Address;

use super::LinkError;

/// One IP address to dial, and one of the other family for when the first does not answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) first: SocketAddr,
    pub(super) second: Option<SocketAddr>,
}

/// The IP addresses to dial: with each variant another one begins, and the families take turns.
pub(super) async fn choose(address: &Address, variant: u32) -> Result<Choice, LinkError> {
    if let Some(ip) = address.ip() {
        return Ok(Choice { first: SocketAddr::new(ip, address.port()), second: None });
    }
    let failed = |why: String| LinkError::Resolve { address: address.clone(), why };
    let host = address.host();
    let found = tokio::net::lookup_host((host.as_str(), address.port())).await.map_err(|e| failed(e.to_string()))?;
    turn(found.collect(), variant).ok_or_else(|| failed("the name has no IP address".into()))
}

fn turn(found: Vec<SocketAddr>, variant: u32) -> Option<Choice> {
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
    let first = order.get(at).copied()?;
    order.rotate_left(at);
    let second = order.into_iter().find(|addr| addr.is_ipv6() != first.is_ipv6());
    Some(Choice { first, second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"].iter().map(|text| text.parse().unwrap()).collect();
        let nth = |n| {
            let Choice { first, second } = turn(all.clone(), n).unwrap();
            (first.to_string(), second.unwrap().to_string())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(nth(0), pair("[2001:db8::1]:1", "192.0.2.1:1"));
        assert_eq!(nth(1), pair("192.0.2.1:1", "[2001:db8::2]:1"));
        assert_eq!(nth(2), pair("[2001:db8::2]:1", "192.0.2.1:1"));
        assert_eq!(nth(3), nth(0));
        let alone = turn(vec![all[2]], 5).unwrap();
        assert_eq!(alone, Choice { first: all[2], second: None });
        assert_eq!(turn(vec![], 0), None);
    }
}
