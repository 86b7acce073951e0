//! Events of the audit trail, and which of them are wanted.

use std::collections::BTreeMap;

use rollcall_common::{id::Seq, time::Timestamp};
use serde::{Deserialize, Serialize};

/// An audit event before it has its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDraft {
    /// When it happened, on the collector's wall clock.
    pub at: Timestamp,
    /// What: `service.registered`, `service.activated`, `token.created`, `token.reuse`, …
    pub action: String,
    /// Who: `system`, `sidecar:agent/x`, `credential:<id>`, …
    pub actor: String,
    /// Of what: `agent/edge-17`, `token:<id>`, …
    pub object: String,
    /// The request that caused it, if any.
    pub request_id: Option<String>,
    /// Details, before and after.
    pub details: BTreeMap<String, serde_json::Value>,
}

/// An audit event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its place in the commit order.
    pub seq: Seq,
    /// What happened.
    #[serde(flatten)]
    pub draft: AuditDraft,
}

/// Which audit events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only of this object.
    pub object: Option<String>,
    /// Only with this action; one that ends with a dot is the beginning of several.
    pub action: Option<String>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only of this request.
    pub request_id: Option<String>,
    /// Only at or after this moment.
    pub since: Option<Timestamp>,
    /// Only before this moment.
    pub until: Option<Timestamp>,
    /// Only before this seq: the seek key of the next page.
    pub before: Option<Seq>,
    /// At most so many; capped at 1,000 by the store.
    pub limit: usize,
}
