//! The ways to the collectors: names, the handshake with its pin over QUIC and over TCP, and where one fails, whether
//! anything passes at all.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rollcall_common::{
    address::Address,
    code::Code,
    id::TrustDomain,
    identity::{
        Pin,
        tls::{Trust, enroll_config},
    },
    time::Clock,
    wire::Transport,
};
use tokio::net::TcpStream;

use super::{
    Case, Finding, Grade,
    udp::{self, Echo},
};
use crate::{
    carriage::{Policy, Ways},
    link::{Dialer, LinkError},
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a name, or TCP, may take.
const SHORT: Duration = Duration::from_secs(3);
/// Addresses that are looked at.
const MOST: usize = 8;

/// Looks at every way.
pub(super) async fn ways(case: &Case<'_>, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let (addresses, from) = case.addresses();
    if addresses.is_empty() {
        return vec![Finding::new("collectors", Grade::Fail, "it is not known where a collector is").fix(
            "lay down a token, which names them, or set `addresses`; run this as root to see the state directory",
        )];
    }
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut found = vec![Finding::new("collectors", Grade::Ok, format!("{} (from {from})", list.join(", ")))];
    let mut reached = 0;
    for address in addresses.iter().take(MOST) {
        let (findings, is_reached) = way(case, address, clock).await;
        reached += usize::from(is_reached);
        found.extend(findings);
    }
    if reached > 0 {
        // One that answers is enough; the others are worth a look.
        for finding in found.iter_mut().filter(|finding| finding.grade == Grade::Fail) {
            finding.grade = Grade::Warn;
        }
    }
    found
}

async fn way(case: &Case<'_>, address: &Address, clock: &Arc<dyn Clock>) -> (Vec<Finding>, bool) {
    let mut found = Vec::new();
    let ips = match resolve(address).await {
        Ok(ips) => ips,
        Err(error) => {
            let finding = Finding::new("name", Grade::Fail, format!("{} is not resolved: {error}", address.host()))
                .fix("correct the name or this host's DNS (resolvectl query NAME)");
            return (vec![finding], false);
        }
    };
    if address.ip().is_none() {
        let list: Vec<String> = ips.iter().map(|addr| addr.ip().to_string()).collect();
        found.push(Finding::new("name", Grade::Ok, format!("{} is {}", address.host(), list.join(", "))));
    }
    let (handshake, over_tcp) =
        tokio::join!(shake(case, address, Transport::Quic, clock), shake(case, address, Transport::Tcp, clock));
    let policy = case.config.transport;
    let quic = match &handshake {
        Ok(()) | Err(Unmet::Unchecked) => OverQuic::Works,
        Err(Unmet::Silent | Unmet::Unanswered(_)) => OverQuic::Unanswered,
        Err(Unmet::Distrusted(_) | Unmet::Lost(_)) => OverQuic::Answered,
    };
    let has_tcp = matches!(over_tcp, Ok(()) | Err(Unmet::Unchecked));
    let is_reached = match (policy, quic) {
        (Policy::Auto | Policy::Quic, OverQuic::Works) => true,
        (Policy::Auto, OverQuic::Unanswered) | (Policy::Tcp, _) => has_tcp,
        // Whoever answers there keeps a sidecar from looking for another way.
        (Policy::Auto, OverQuic::Answered) | (Policy::Quic, OverQuic::Unanswered | OverQuic::Answered) => false,
    };
    let first = ips.first().copied();
    let (echo, tcp) = match (&handshake, first) {
        (Err(Unmet::Silent | Unmet::Unanswered(_) | Unmet::Lost(_)), Some(remote)) => {
            let (echo, tcp) = tokio::join!(udp::ask(remote), knock(remote));
            (Some(echo), Some(tcp))
        }
        (Ok(()) | Err(_), _) => (None, None),
    };
    found.push(judge(address, &handshake, echo.as_ref(), tcp));
    found.push(judge_tcp(address, &over_tcp, quic, policy));
    (found, is_reached)
}

async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    if let Some(ip) = address.ip() {
        return Ok(vec![SocketAddr::new(ip, address.port())]);
    }
    let host = address.host();
    let found = tokio::time::timeout(SHORT, tokio::net::lookup_host((host.as_str(), address.port()))).await;
    let found: Vec<SocketAddr> = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.collect();
    if found.is_empty() { Err(io::Error::other("the name has no IP address")) } else { Ok(found) }
}

/// Why a handshake is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unmet {
    /// Nothing came back in time.
    Silent,
    /// The collector is there, and nothing at hand says whom to trust.
    Unchecked,
    /// Its certificate is not the one to trust.
    Distrusted(String),
    /// Nobody is there, or nothing gets there.
    Unanswered(String),
    /// Somebody answered, and it came to nothing.
    Lost(String),
}

/// What became of QUIC, as far as TCP's part depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverQuic {
    /// Its handshake was done.
    Works,
    /// Nobody answered: a sidecar looks for another way.
    Unanswered,
    /// Somebody answered, if only to refuse: a sidecar stays with QUIC.
    Answered,
}

/// A handshake as a stranger, with the pin or the roots at hand; nothing is said on it.
async fn shake(case: &Case<'_>, address: &Address, transport: Transport, clock: &Arc<dyn Clock>) -> Result<(), Unmet> {
    let identity = case.stored.as_ref().and_then(|stored| stored.current.as_ref());
    let token = case.look.as_ref().and_then(|look| look.found.as_ref()).map(|found| &found.token);
    let (tls, is_checked) = match (identity, token) {
        (Some(identity), _) => (identity.rejoin_tls(Arc::clone(clock)), true),
        (None, Some(token)) => {
            (enroll_config(Trust::Pin(token.pin), token.trust_domain.clone(), Arc::clone(clock)), true)
        }
        (None, None) => {
            // No root has this pin: whoever is there is told apart from nobody, and not trusted.
            let domain: TrustDomain = "unknown".parse().map_err(|_| Unmet::Unchecked)?;
            (enroll_config(Trust::Pin(Pin([0; 32])), domain, Arc::clone(clock)), false)
        }
    };
    let tls = tls.map_err(|error| Unmet::Lost(error.to_string()))?;
    let dialer = Dialer::new();
    let dialed =
        tokio::time::timeout(HANDSHAKE, dialer.dial(address, 0, Ways::Only(transport), Duration::ZERO, tls)).await;
    let outcome = match dialed {
        Err(_) => Err(Unmet::Silent),
        Ok(Ok(link)) => {
            link.close(Code::Goodbye);
            Ok(())
        }
        Ok(Err(LinkError::Distrusted(_))) if !is_checked => Err(Unmet::Unchecked),
        Ok(Err(LinkError::Distrusted(words))) => Err(Unmet::Distrusted(words)),
        Ok(Err(error @ (LinkError::Unanswered(_) | LinkError::Socket { .. }))) => {
            Err(Unmet::Unanswered(error.to_string()))
        }
        Ok(Err(error)) => Err(Unmet::Lost(error.to_string())),
    };
    dialer.settle(Duration::from_millis(200)).await;
    outcome
}

/// What TCP says at the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    /// Somebody listens.
    Open,
    /// The host is there, nobody listens.
    Refused,
    /// Nothing came back.
    Silent,
}

async fn knock(remote: SocketAddr) -> Tcp {
    match tokio::time::timeout(SHORT, TcpStream::connect(remote)).await {
        Ok(Ok(_)) => Tcp::Open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Tcp::Refused,
        Ok(Err(_)) | Err(_) => Tcp::Silent,
    }
}

/// Says what all of it means.
pub(super) fn judge(
    address: &Address,
    handshake: &Result<(), Unmet>,
    echo: Option<&Echo>,
    tcp: Option<Tcp>,
) -> Finding {
    let unmet = match handshake {
        Ok(()) => return Finding::new("quic", Grade::Ok, format!("{address} answers and has the pinned root")),
        Err(unmet) => unmet,
    };
    let fail = |words: String| Finding::new("quic", Grade::Fail, words);
    match (unmet, echo) {
        (Unmet::Unchecked, _) => Finding::new(
            "quic",
            Grade::Note,
            format!("{address} answers; neither token nor state is at hand to say whether it is the right one"),
        )
        .fix("run this as root, or as the sidecar's user"),
        (Unmet::Distrusted(words), _) if words.contains("expired") || words.contains("not valid yet") => {
            fail(format!("{address} answers, and its certificate does not hold now: {words}"))
                .fix("compare the clocks (timedatectl), then the collector's certificate")
        }
        (Unmet::Distrusted(words), _) => {
            fail(format!("{address} answers, and is not the collector that was pinned: {words}"))
                .fix("correct the address; after a new CA, enroll again with a new token")
        }
        (_, Some(Echo::Answered)) => {
            fail(format!("{address} answers over UDP, and the handshake is not completed: {}", words(unmet)))
                .fix("large packets may be dropped on the way (tunnel, MTU below 1280), or the collector is overloaded")
        }
        (_, Some(Echo::Nonsense)) => {
            fail(format!("something answers at UDP {address} that speaks no QUIC")).fix("correct address and port")
        }
        (_, Some(Echo::Refused)) => {
            fail(format!("{address} refuses UDP: the host is there, and nobody listens at that port"))
                .fix("start the collector, correct the port, or look for a firewall that rejects UDP")
        }
        (_, Some(Echo::Unsent(error))) => fail(format!("nothing leaves this host for {address}: {error}"))
            .fix("look at routes and at this host's own firewall (ip route get, nft list ruleset)"),
        (_, Some(Echo::Silent)) => {
            let beside = match tcp {
                Some(Tcp::Open) => "; TCP at that port is answered, so that UDP alone is blocked",
                Some(Tcp::Refused) => "; TCP at that port is refused by the host, so that UDP alone is blocked",
                Some(Tcp::Silent) => "; TCP at that port is silent too: the host is down, or all of it is blocked",
                None => "",
            };
            fail(format!("{address} is silent over UDP{beside}"))
                .fix(format!("let UDP {} out of this network and into the collector's, both ways", address.port()))
        }
        (unmet, None) => fail(format!("{address}: {}", words(unmet))).fix("see the collector's log at this moment"),
    }
}

/// Says what TLS on TCP at the same port means beside that.
pub(super) fn judge_tcp(address: &Address, handshake: &Result<(), Unmet>, quic: OverQuic, policy: Policy) -> Finding {
    let port = address.port();
    let has_quic = quic == OverQuic::Works;
    let unmet = match handshake {
        Ok(()) if has_quic => {
            return Finding::new(
                "tcp",
                Grade::Ok,
                format!("{address} answers over TLS on TCP too, should UDP be blocked"),
            );
        }
        Ok(()) if policy == Policy::Quic => {
            let words = format!("{address} answers over TLS on TCP, which `transport = \"quic\"` does not allow");
            return Finding::new("tcp", Grade::Warn, words).fix("set transport = \"auto\"");
        }
        Ok(()) if (policy, quic) == (Policy::Auto, OverQuic::Answered) => {
            let words =
                format!("{address} answers over TLS on TCP, which is not used: over UDP, too, somebody answers");
            return Finding::new("tcp", Grade::Warn, words)
                .fix("mend what `quic` says above, or set transport = \"tcp\"");
        }
        Ok(()) => {
            let words = format!("{address} answers over TLS on TCP: that is how heartbeats go while UDP is blocked");
            return Finding::new("tcp", Grade::Ok, words);
        }
        Err(unmet) => unmet,
    };
    let here = format!("let TCP {port} out of this network and into the collector's");
    match unmet {
        Unmet::Unchecked => Finding::new("tcp", Grade::Note, format!("{address} answers over TLS on TCP, unchecked"))
            .fix("run this as root, or as the sidecar's user"),
        Unmet::Distrusted(words) if has_quic => {
            Finding::new("tcp", Grade::Warn, format!("over TCP, somebody else answers at {address}: {words}"))
                .fix(format!("look who listens on TCP {port} there, or what is in between (a proxy)"))
        }
        Unmet::Distrusted(words) => {
            Finding::new("tcp", Grade::Fail, format!("{address} answers over TCP, and is not to be trusted: {words}"))
                .fix("correct the address; look for a proxy in between that ends TLS; compare the clocks")
        }
        Unmet::Silent | Unmet::Unanswered(_) | Unmet::Lost(_) if has_quic => {
            let words = format!("no way round through TCP, should UDP be blocked: {}", words(unmet));
            Finding::new("tcp", Grade::Note, words).fix(format!("{here}, unless tcp_fallback is off there"))
        }
        Unmet::Silent | Unmet::Unanswered(_) | Unmet::Lost(_) => {
            let words = format!("{address} does not answer over TCP either: {}", words(unmet));
            Finding::new("tcp", Grade::Fail, words).fix(format!("{here}: it carries heartbeats where UDP is blocked"))
        }
    }
}

fn words(unmet: &Unmet) -> &str {
    match unmet {
        Unmet::Silent => "nothing came back in time",
        Unmet::Unchecked => "nobody knows whom to trust",
        Unmet::Distrusted(words) | Unmet::Unanswered(words) | Unmet::Lost(words) => words,
    }
}
