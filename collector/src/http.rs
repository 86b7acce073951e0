//! placeholder until the HTTP branch is merged
#![allow(missing_docs, reason = "placeholder")]
use crate::{
    config::Config,
    registry::Registry,
    store::{LivenessStore, RegistryStore},
};
use arc_swap::ArcSwap;
use rollcall_common::{identity::Pin, wire::message::Addresses};
use std::sync::Arc;
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub struct BindError;
#[derive(Debug)]
pub struct Settings;
impl From<&Config> for Settings {
    fn from(_: &Config) -> Self {
        Self
    }
}
#[derive(Debug)]
pub struct State {
    pub registry: Registry,
    pub store: Arc<dyn RegistryStore>,
    pub liveness: Arc<dyn LivenessStore>,
    pub pin: Pin,
    pub advertised: Arc<ArcSwap<Addresses>>,
    pub quic: std::net::SocketAddr,
    pub settings: Settings,
}
#[derive(Debug)]
pub struct Server;
impl Server {
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }
    pub fn drain(&self) {}
    pub async fn shutdown(self) {}
}
pub async fn bind(_: State) -> Result<Server, BindError> {
    Ok(Server)
}
