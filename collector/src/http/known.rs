//! Whether a service is known: the question that everybody who is offered data asks first.

use rollcall_common::id::{Kind, ServiceKey};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::Permission,
    extract::{Call, Id},
    openapi::words,
    routes::{Operation, Routes},
};

/// Whether a service is known.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KnownView {
    /// Registered and neither revoked nor deleted, or named by the configuration.
    known: bool,
    /// By what: `registry`, `static` or `none`.
    #[schema(value_type = words::Via)]
    via: &'static str,
    /// Its status, where it is registered.
    #[schema(value_type = Option<words::Status>)]
    status: Option<&'static str>,
    /// The registry's seq when it was read.
    seq: u64,
    /// The registry's epoch.
    epoch: u64,
}

pub(super) fn routes(routes: Routes) -> Routes {
    Kind::ALL.into_iter().fold(routes, |routes, kind| {
        let path = format!("/api/admin/services/{}/{{id}}/known", kind.plural());
        let operation = Operation::get(&path, Permission::Read, &format!("is_{kind}_known"))
            .scoped()
            .about(format!("Whether a {kind} is known"))
            .more(
                "Answered from memory and right from the moment a change commits. A service that nobody knows is an \
                 answer too, never 404.",
            )
            .path::<words::Id>("id", "The service")
            .answer::<KnownView>(200, "Whether it is");
        routes.add(operation, move |call: Call, id: Id| known(kind, call, id))
    })
}

async fn known(kind: Kind, call: Call, id: Id) -> axum::Json<KnownView> {
    let key = ServiceKey::new(kind, id.0);
    let known = call.state.registry.is_known(&key);
    // What lies beyond the caller's reach is answered like what is not there.
    // The static list has no labels, so that no scope reaches it.
    let beyond = if known.status.is_some() { !call.reaches(&key) } else { !call.scope().is_everything() };
    axum::Json(KnownView {
        known: known.is_known() && !beyond,
        via: if beyond { "none" } else { known.via.as_str() },
        status: known.status.filter(|_| !beyond).map(|status| status.as_str()),
        seq: known.position.seq.0,
        epoch: known.position.epoch,
    })
}
