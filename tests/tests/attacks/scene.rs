//! What attacks have in common: what they must not change, and how a refusal shows.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rollcall_common::{code::Code, token::Token, wire::message::Refused};
use rollcall_tests::{
    peer::{Ask, Phone, enroll},
    until::same,
    world::{Api, World, api::at},
};
use serde_json::Value;

/// All that is registered, without what changes by itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Registered(BTreeMap<String, Value>);

impl Registered {
    /// As it is now.
    pub(crate) async fn now(api: &Api) -> Result<Self> {
        let mut all = BTreeMap::new();
        for kinds in ["pollers", "agents", "checkers", "instances"] {
            for service in api.list(kinds).await? {
                let name = format!("{kinds}/{}", at(&service, "/id"));
                let fields =
                    ["parent", "status", "source", "spiffe_identity", "labels", "metadata", "first_seen", "seq"];
                all.insert(name, fields.map(|field| at(&service, &format!("/{field}"))).into_iter().collect());
            }
        }
        for token in api.tokens().await? {
            let fields = ["state", "uses", "last_used_at"];
            all.insert(
                format!("token {}", at(&token, "/id")),
                fields.map(|field| at(&token, &format!("/{field}"))).into_iter().collect(),
            );
        }
        Ok(Self(all))
    }

    /// Fails where something changed since.
    pub(crate) async fn unchanged(&self, api: &Api) -> Result<()> {
        same("what is registered", &Self::now(api).await?, self)
    }
}

/// Tries an enrollment that must be refused with this code, counted, and without effect.
pub(crate) async fn refused(world: &World, token: &Token, ask: &Ask, code: Code) -> Result<Refused> {
    refused_from(&Phone::new()?, world, token, ask, code).await
}

/// As [`refused`], from a given socket.
pub(crate) async fn refused_from(
    phone: &Phone,
    world: &World,
    token: &Token,
    ask: &Ask,
    code: Code,
) -> Result<Refused> {
    let api = world.api();
    let before = Registered::now(api).await?;
    let counted = refusals(api, code).await?;
    let refused = enroll(phone, world.quic(), token, ask).await?.refusal()?;
    same("the code", &refused.code, &code)?;
    before.unchanged(api).await?;
    let now = refusals(api, code).await?;
    ensure!(now > counted, "the refusal was not counted: {counted} before, {now} after");
    Ok(refused)
}

/// Refusals counted with this code.
pub(crate) async fn refusals(api: &Api, code: Code) -> Result<f64> {
    api.metric("rollcall_refusals_total", &format!("code=\"{}\"", code.as_str())).await
}
