//! Ranges of addresses: where a token may be used from.

use std::{fmt, net::IpAddr, str::FromStr};

use rollcall_common::id::NameError;
use serde::{Deserialize, Serialize};

/// A range of source addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Whether an address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        use IpAddr::{V4, V6};
        match (self.base, ip.to_canonical()) {
            (V4(a), V4(b)) => shared(u32::from(a).into(), u32::from(b).into(), 32, self.bits),
            (V6(a), V6(b)) => shared(a.into(), b.into(), 128, self.bits),
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}

fn shared(a: u128, b: u128, width: u8, bits: u8) -> bool {
    let drop = u32::from(width.saturating_sub(bits));
    a.checked_shr(drop).unwrap_or(0) == b.checked_shr(drop).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError {
            what: "address range",
            text: text.chars().take(80).collect(),
            rule: "write an address and a length, as in 192.0.2.0/24 or 2001:db8::/32",
        };
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let base = base.to_canonical();
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width { Err(bad()) } else { Ok(Self { base, bits }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl TryFrom<String> for Cidr {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn contains_what_shares_its_bits() {
        for (range, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("10.0.0.0/9", "10.127.255.255", "10.128.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("::1", "::1", "::2"),
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
        ] {
            assert!(cidr(range).contains(ip(inside)), "{range} {inside}");
            assert!(!cidr(range).contains(ip(outside)), "{range} {outside}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        assert_eq!(cidr("192.0.2.0/24").to_string(), "192.0.2.0/24");
        assert_eq!(cidr("2001:db8::1").to_string(), "2001:db8::1/128");
        for bad in ["", "/", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2/24", "::/129", "x/8", "192.0.2.0/24/1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
