//! Changes of what operators say of a service.

use rollcall_common::id::{Kind, ServiceKey};
use utoipa::ToSchema;

use super::super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Id, Json},
    openapi::words,
    position::Tagged,
    routes::{Operation, Routes},
    view::ServiceDetail,
};
use crate::{
    registry::services::edit::{Edit, Patch},
    store::rows::Said,
};

/// A JSON merge patch: what is not named stays, `null` takes a value out.
#[derive(Debug, ToSchema)]
#[schema(as = ServicePatch)]
#[expect(dead_code, reason = "the shape of `Patch` for the contract")]
struct PatchBody {
    #[schema(value_type = Option<words::Text>)]
    component_id: Option<String>,
    #[schema(value_type = Option<words::PairsPatch>)]
    labels: Option<String>,
    #[schema(value_type = Option<words::PairsPatch>)]
    metadata: Option<String>,
    #[schema(required = false)]
    placeholder: bool,
    #[schema(value_type = Option<words::SpiffeId>)]
    spiffe_identity: Option<String>,
    ephemeral_after_secs: Option<u32>,
    #[schema(required = false)]
    implicit_children: bool,
}

pub(super) fn of_kind(routes: Routes, kind: Kind) -> Routes {
    let one = format!("{}/{}/{{id}}", super::ROOT, kind.plural());
    let operation = Operation::patch(&one, Permission::Operate, &format!("edit_{kind}"))
        .scoped()
        .about("Changes what operators say of a service: labels, metadata and the like")
        .more("A JSON merge patch (RFC 7396). Nothing but what it names is touched.")
        .path::<words::Id>("id", "The service")
        .body::<PatchBody>()
        .matches()
        .answer::<ServiceDetail>(200, "As it is now")
        .gives(&[ProblemCode::UnknownService, ProblemCode::Deleted, ProblemCode::SpiffeIdentity]);
    routes.add(operation, move |call: Call, id: Id, body: Json<Patch>| edit(kind, call, id, body))
}

async fn edit(kind: Kind, call: Call, id: Id, Json(patch): Json<Patch>) -> Result<Tagged<ServiceDetail>, Problem> {
    let key = ServiceKey::new(kind, id.0);
    let seen = call.find(&key)?;
    // A caller with a scope must not put a service out of its own reach.
    let after: Said = patch.over(&seen.entry.row.said())?;
    call.holds(&after.labels)?;
    let trust_domain = call.state.registry.whoami().trust_domain.clone();
    let request = Edit { key: key.clone(), patch, expect: None, trust_domain, by: call.by() };
    call.change(super::seq_of(&key), request).await?;
    let seen = call.find(&key)?;
    Ok(super::shown(&call, &seen))
}
