//! What an operator says of a service at any time, and how it changes.
//!
//! A [`Patch`] is a JSON merge patch (RFC 7396) with types: what it does not name stays. It knows nothing of
//! status, presence or identity, and those who write them do not touch what it owns.

use std::collections::BTreeMap;

use rollcall_common::{
    health::Text,
    id::{Seq, ServiceKey, SpiffeId, TrustDomain},
    identity::PeerId,
    lifecycle::Status,
    service::{Pairs, Source},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::By;
use crate::{
    registry::{Refusal, Request, World},
    store::rows::{Change, Said, ServiceRow, Write},
};

/// Changes of single pairs: a value sets, `None` takes out; `None` in the place of all of them empties them.
pub type PairsPatch = Option<BTreeMap<String, Option<String>>>;

/// Longest life after a goodbye or a loss, in seconds: 30 days.
pub const MAX_EPHEMERAL_SECS: u32 = 30 * 86_400;

/// What is to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patch {
    /// The onboarding package's component.
    #[serde(deserialize_with = "given")]
    pub component_id: Option<Option<Text>>,
    /// Labels.
    #[serde(deserialize_with = "given")]
    pub labels: Option<PairsPatch>,
    /// Free metadata.
    #[serde(deserialize_with = "given")]
    pub metadata: Option<PairsPatch>,
    /// Stands in the tree for what has no sidecar.
    pub placeholder: Option<bool>,
    /// The SPIFFE id that it is registered with.
    #[serde(deserialize_with = "given")]
    pub spiffe_identity: Option<Option<SpiffeId>>,
    /// How long after its goodbye or loss it is removed.
    #[serde(deserialize_with = "given")]
    pub ephemeral_after_secs: Option<Option<u32>>,
    /// Whether its sidecar may register children that are not known yet.
    pub implicit_children: Option<bool>,
}

/// Tells `null`, which takes a value out, from a field that is not there.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which, as in `labels.site`.
    pub field: String,
    /// What it was; `null` where it was not there.
    pub before: Value,
    /// What it is to be; `null` where it goes.
    pub after: Value,
}

impl Patch {
    /// What a service is said to be once this is laid over it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where the result breaks a rule.
    pub fn over(&self, said: &Said) -> Result<Said, Refusal> {
        let mut out = said.clone();
        if let Some(component) = &self.component_id {
            out.component_id = component.as_ref().filter(|text| !text.as_str().is_empty()).map(ToString::to_string);
        }
        if let Some(pairs) = &self.labels {
            out.labels = laid(&said.labels, pairs.as_ref(), "labels")?;
        }
        if let Some(pairs) = &self.metadata {
            out.metadata = laid(&said.metadata, pairs.as_ref(), "metadata")?;
        }
        if let Some(placeholder) = self.placeholder {
            out.placeholder = placeholder;
        }
        if let Some(declared) = &self.spiffe_identity {
            out.declared_spiffe.clone_from(declared);
        }
        if let Some(secs) = self.ephemeral_after_secs {
            if secs.is_some_and(|secs| !(1..=MAX_EPHEMERAL_SECS).contains(&secs)) {
                let why = format!("ephemeral_after_secs lies between 1 and {MAX_EPHEMERAL_SECS}");
                return Err(Refusal::Invalid(why));
            }
            out.ephemeral_after = secs;
        }
        if let Some(implicit) = self.implicit_children {
            out.implicit_children = implicit;
        }
        Ok(out)
    }
}

fn laid(under: &Pairs, over: Option<&BTreeMap<String, Option<String>>>, what: &'static str) -> Result<Pairs, Refusal> {
    let Some(over) = over else { return Ok(Pairs::default()) };
    let mut all: BTreeMap<String, String> = under.clone().into();
    for (key, value) in over {
        match value {
            Some(value) => all.insert(key.clone(), value.clone()),
            None => all.remove(key),
        };
    }
    Pairs::try_from(all).map_err(|error| Refusal::Invalid(format!("{what}: {error}")))
}

/// Where two statements differ, in the order of the fields.
#[must_use]
pub fn differences(before: &Said, after: &Said) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |field: &str, before: Value, after: Value| {
        if before != after {
            found.push(Difference { field: field.into(), before, after });
        }
    };
    compare("component_id", json!(before.component_id), json!(after.component_id));
    for (name, old, new) in [("labels", &before.labels, &after.labels), ("metadata", &before.metadata, &after.metadata)]
    {
        if old == new {
            continue;
        }
        let keys: std::collections::BTreeSet<&str> = old.iter().chain(new.iter()).map(|(key, _)| key).collect();
        for key in keys {
            compare(&format!("{name}.{key}"), json!(old.get(key)), json!(new.get(key)));
        }
    }
    compare("placeholder", json!(before.placeholder), json!(after.placeholder));
    compare("spiffe_identity", json!(before.declared_spiffe), json!(after.declared_spiffe));
    compare("ephemeral_after_secs", json!(before.ephemeral_after), json!(after.ephemeral_after));
    compare("implicit_children", json!(before.implicit_children), json!(after.implicit_children));
    found
}

/// The differences as an audit event has them: all that was, all that is.
#[must_use]
pub(super) fn before_and_after(differences: &[Difference]) -> [(&'static str, Value); 2] {
    let all = |side: fn(&Difference) -> &Value| {
        Value::Object(differences.iter().map(|one| (one.field.clone(), side(one).clone())).collect())
    };
    [("before", all(|one| &one.before)), ("after", all(|one| &one.after))]
}

/// Whether a service may be registered with a SPIFFE id. One of another form or trust domain is somebody
/// else's: only Kubernetes' issuer is expected beside ours.
///
/// # Errors
/// [`Refusal::Spiffe`], with what would be right.
pub fn check_declared(
    trust_domain: &TrustDomain,
    key: &ServiceKey,
    source: Source,
    declared: Option<&SpiffeId>,
) -> Result<(), Refusal> {
    let ours = PeerId::service(trust_domain.clone(), key.clone()).to_string();
    match (declared, source) {
        (None, Source::K8sSpiffe) => {
            Err(Refusal::Spiffe(format!("source k8s_spiffe needs the spiffe_identity that {key} has there")))
        }
        (None, Source::EdgeOnboarding | Source::Config | Source::Implicit | Source::Http) => Ok(()),
        (Some(declared), _) if declared.as_str() == ours => Ok(()),
        (Some(declared), Source::K8sSpiffe) if declared.trust_domain() != trust_domain.as_str() => Ok(()),
        (Some(declared), _) => Err(Refusal::Spiffe(format!(
            "spiffe_identity {declared} is not that of {key}, which is {ours}; another trust domain's goes with source \
             k8s_spiffe"
        ))),
    }
}

/// Changes what is said of a service.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Who.
    pub key: ServiceKey,
    /// What.
    pub patch: Patch,
    /// The row's seq as the caller saw it; another one refuses the change.
    pub expect: Option<Seq>,
    /// The deployment.
    pub trust_domain: TrustDomain,
    /// Who asks.
    pub by: By,
}

impl Request for Edit {
    /// What has changed; nothing is written where that is nothing.
    type Answer = Vec<Difference>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Vec<Difference>), Refusal> {
        let entry = world.roster.get(&self.key).ok_or_else(|| Refusal::UnknownService(self.key.clone()))?;
        expected(&entry.row, self.expect)?;
        if entry.row.status == Status::Deleted {
            return Err(Refusal::Deleted(self.key.clone()));
        }
        let mut change = Change::default();
        let before = entry.row.said();
        let after = self.patch.over(&before)?;
        if after.declared_spiffe != before.declared_spiffe {
            check_declared(&self.trust_domain, &self.key, entry.row.source, after.declared_spiffe.as_ref())?;
        }
        let differences = differences(&before, &after);
        if !differences.is_empty() {
            let (audit, write) = edited(&entry.row, after, &differences, &self.by, world.now.wall);
            change.audit.push(audit);
            change.writes.push(write);
        }
        Ok((change, differences))
    }
}

/// The write of an edit, and what is told of it.
pub(super) fn edited(
    row: &ServiceRow,
    after: Said,
    differences: &[Difference],
    by: &By,
    at: rollcall_common::time::Timestamp,
) -> (crate::store::rows::AuditDraft, Write) {
    let audit = by.did(at, "service.edited", row.key.to_string(), before_and_after(differences));
    (audit, Write::Edit { service: row.key.clone(), expect: row.seq, said: Box::new(after) })
}

/// Refuses where a row has changed since the caller looked.
pub(super) fn expected(row: &ServiceRow, expect: Option<Seq>) -> Result<(), Refusal> {
    match expect {
        Some(expected) if expected != row.seq => {
            Err(Refusal::Changed { service: row.key.clone(), expected, found: row.seq })
        }
        Some(_) | None => Ok(()),
    }
}
