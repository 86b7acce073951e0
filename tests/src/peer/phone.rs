//! A UDP socket that dials with any TLS settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
};
use rollcall_common::{
    id::TrustDomain,
    identity::tls::{Trust, enroll_config},
    time::SystemClock,
    wire::SERVER_NAME,
};

use super::{Identity, SOON};
use crate::until::within;

/// How long a connection may be idle: longer than any test.
const IDLE: VarInt = VarInt::from_u32(120_000);

/// A client endpoint.
#[derive(Debug, Clone)]
pub struct Phone {
    endpoint: Endpoint,
    ip: IpAddr,
}

impl Phone {
    /// A phone on 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn new() -> Result<Self> {
        Self::on(Ipv4Addr::LOCALHOST.into())
    }

    /// A phone on another address; all of 127.0.0.0/8 is this host.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn on(ip: IpAddr) -> Result<Self> {
        Ok(Self { endpoint: Endpoint::client((ip, 0).into())?, ip })
    }

    /// Dials with these TLS settings.
    ///
    /// # Errors
    /// How the handshake failed. With a client certificate that the collector refuses, dialing succeeds:
    /// the refusal shows at the first use.
    pub async fn dial(&self, to: SocketAddr, tls: rustls::ClientConfig) -> Result<Connection> {
        self.dial_as(to, quic(tls)?).await
    }

    /// Dials with these QUIC settings.
    ///
    /// # Errors
    /// How the handshake failed.
    pub async fn dial_as(&self, to: SocketAddr, config: ClientConfig) -> Result<Connection> {
        Ok(self.try_dial(to, config).await??)
    }

    /// Dials with these QUIC settings and hands out how the handshake failed.
    ///
    /// # Errors
    /// When it takes longer than [`SOON`].
    pub async fn try_dial(&self, to: SocketAddr, config: ClientConfig) -> Result<Result<Connection, ConnectionError>> {
        let connecting = self.endpoint.connect_with(config, to, SERVER_NAME)?;
        within(SOON, "the handshake", connecting).await
    }

    /// The endpoint below.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Moves to another local port, as a host that changes its network.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn rebind(&self) -> Result<()> {
        let socket = UdpSocket::bind((self.ip, 0))?;
        self.endpoint.rebind(socket).context("the endpoint keeps its socket")
    }
}

/// QUIC settings around TLS settings.
///
/// # Errors
/// When the TLS settings do not fit QUIC.
pub fn quic(tls: rustls::ClientConfig) -> Result<ClientConfig> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::from(IDLE)));
    transport.initial_rtt(Duration::from_millis(20));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// TLS settings to enroll with.
///
/// # Errors
/// When rustls refuses them.
pub fn enrolling(trust: Trust, trust_domain: &TrustDomain) -> Result<rustls::ClientConfig> {
    Ok(enroll_config(trust, trust_domain.clone(), Arc::new(SystemClock))?)
}

/// TLS settings to beat with.
///
/// # Errors
/// When key and certificate do not fit.
pub fn beating(identity: &Identity) -> Result<rustls::ClientConfig> {
    identity.tls(Arc::new(SystemClock))
}
