//! Changes of single services: edit, re-enroll, and whether one is known.

use std::collections::BTreeMap;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::super::{
    Failure,
    client::{Client, Output},
    print::{Screen, Word, field},
    which::{Named, Which, path},
};
use crate::config::duration;

#[derive(Debug, Args)]
pub(in crate::cli) struct EditArgs {
    #[command(flatten)]
    which: Which,
    /// Sets a label, as in site=3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::pair)]
    label: Vec<(String, String)>,
    /// Takes a label out; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset_label: Vec<String>,
    /// Sets metadata, as in rack=b7; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::pair)]
    metadata: Vec<(String, String)>,
    /// Takes metadata out; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset_metadata: Vec<String>,
    /// The onboarding package's component; an empty one takes it out.
    #[arg(long, value_name = "ID")]
    component_id: Option<String>,
    /// Whether it stands in the tree for what has no sidecar.
    #[arg(long, value_name = "BOOL")]
    placeholder: Option<bool>,
    /// Whether its sidecar may register children that are not known yet.
    #[arg(long, value_name = "BOOL")]
    implicit_children: Option<bool>,
    /// The SPIFFE id that it is registered with; an empty one takes it out.
    #[arg(long, value_name = "SPIFFE ID")]
    spiffe_identity: Option<String>,
    /// Remove it so long after its goodbye or loss, as in 30m; never keeps it.
    #[arg(long, value_name = "DURATION")]
    ephemeral_after: Option<String>,
    #[command(flatten)]
    bound: super::Bound,
}

impl EditArgs {
    fn patch(&self) -> Result<Value, Failure> {
        let mut patch = Map::new();
        for (name, set, unset) in
            [("labels", &self.label, &self.unset_label), ("metadata", &self.metadata, &self.unset_metadata)]
        {
            let gone = unset.iter().map(|key| (key.clone(), Value::Null));
            let pairs: BTreeMap<String, Value> =
                gone.chain(set.iter().map(|(key, value)| (key.clone(), json!(value)))).collect();
            if !pairs.is_empty() {
                patch.insert(name.into(), json!(pairs));
            }
        }
        let text = |text: &Option<String>| text.clone().map(|text| Some(text).filter(|text| !text.is_empty()));
        if let Some(component) = text(&self.component_id) {
            patch.insert("component_id".into(), json!(component));
        }
        if let Some(id) = text(&self.spiffe_identity) {
            patch.insert("spiffe_identity".into(), json!(id));
        }
        for (name, flag) in [("placeholder", self.placeholder), ("implicit_children", self.implicit_children)] {
            if let Some(flag) = flag {
                patch.insert(name.into(), json!(flag));
            }
        }
        match self.ephemeral_after.as_deref() {
            Some("never") => drop(patch.insert("ephemeral_after_secs".into(), Value::Null)),
            Some(text) => {
                let time = duration::parse(text).map_err(|error| Failure::usage(error.to_string()))?;
                patch.insert("ephemeral_after_secs".into(), json!(time.as_secs()));
            }
            None => {}
        }
        if patch.is_empty() {
            return Err(Failure::usage("say what is to change, as in --label site=3"));
        }
        Ok(Value::Object(patch))
    }
}

pub(super) async fn edit(client: &Client, screen: &mut Screen, args: EditArgs) -> Result<(), Failure> {
    let patch = args.patch()?;
    let key = args.which.key(client).await?;
    let call = client.call(Method::PATCH, &path(&key)).json(&patch).if_match(args.bound.tag());
    let item = call.send().await?.document;
    super::print_one(screen, &item)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReenrollArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
    /// Revoke it first, where it is not.
    #[arg(long)]
    revoke: bool,
    /// Life of the token, as in 1h.
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// For a sidecar on the collector's own host.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    bound: super::Bound,
}

pub(super) async fn reenroll(client: &Client, screen: &mut Screen, args: ReenrollArgs) -> Result<(), Failure> {
    let key = args.which.key(client).await?;
    let body = json!({ "reason": args.reason, "revoke": args.revoke, "ttl": args.ttl, "local": args.local });
    let call = client.call(Method::POST, &format!("{}/reenroll", path(&key))).json(&body);
    let made = call.if_match(args.bound.tag()).send().await?.document;
    match screen.output() {
        Output::Table => {
            screen.line(&field(&made, "token"))?;
            screen.remark(&format!(
                "{key} waits for its sidecar; the token is shown once, until {}",
                field(&made, "expires_at")
            ))?;
        }
        Output::Raw => screen.line(&field(&made, "token"))?,
        Output::Json => screen.json(&made)?,
    }
    Ok(())
}

pub(super) async fn known(client: &Client, screen: &mut Screen, which: &Named) -> Result<(), Failure> {
    let known = client.get(&format!("{}/known", path(&which.key)), &[]).await?;
    match screen.output() {
        Output::Table => screen.facts(vec![
            ("service", Word::plain(which.key.to_string())),
            ("known", Word::plain(field(&known, "known"))),
            ("via", Word::plain(field(&known, "via"))),
            ("status", Word::state(field(&known, "status"))),
        ])?,
        Output::Raw => screen.line(&field(&known, "known"))?,
        Output::Json => screen.json(&known)?,
    }
    Ok(())
}
