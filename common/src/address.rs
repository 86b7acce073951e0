//! Where a collector can be dialed: a name or an IP address, and a port.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// The UDP port of a collector where none is given.
pub const DEFAULT_PORT: u16 = 7411;

/// One advertised address of a collector. Names stay names: they are resolved at each dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Ip(IpAddr),
    Name(Box<str>),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {0:?} is invalid: write host:port, 192.0.2.1:7411 or [2001:db8::1]:7411")]
pub struct AddressError(String);

impl Address {
    /// The host: a name, or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.to_string(),
        }
    }

    /// The IP address, where it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        }
    }

    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it leads nowhere but to the host itself, or to no host at all.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
            Host::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(addr: std::net::SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError(text.chars().take(80).collect());
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { host: Host::Ip(ip), port: DEFAULT_PORT });
        }
        if let Ok(addr) = text.parse::<std::net::SocketAddr>() {
            return if addr.port() == 0 { Err(bad()) } else { Ok(addr.into()) };
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| bad())?),
            None => (text, DEFAULT_PORT),
        };
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // A name of digits alone is a mistyped IP address.
        let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if port == 0 || name.len() > 253 || numeric || !name.split('.').all(label) {
            return Err(bad());
        }
        Ok(Self { host: Host::Name(name.to_ascii_lowercase().into()), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_names_and_both_families() {
        for (text, printed) in [
            ("collector.example.net", "collector.example.net:7411"),
            ("Collector:1", "collector:1"),
            ("192.0.2.1", "192.0.2.1:7411"),
            ("::1", "[::1]:7411"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(printed.into()));
        }
        for bad in ["", ":1", "host:0", "host:99999", "1.2.3", "a b:1", "http://x:1", "-a:1", "host:port", "1.2.3.4:0"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_local() {
        let local = |text: &str| text.parse::<Address>().map(|a| a.is_local());
        for text in ["127.0.0.1:1", "[::1]:1", "localhost:1", "0.0.0.0:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(local(text), Ok(true), "{text}");
        }
        assert_eq!(local("192.0.2.1:1"), Ok(false));
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(text in ".{0,60}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
