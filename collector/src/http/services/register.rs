//! Registration ahead of the first heartbeat.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rollcall_common::{
    health::Text,
    id::{Kind, ServiceId, ServiceKey, SpiffeId},
    service::{CheckerKind, Pairs, Source},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::{
    access::Permission,
    error::{Problem, ProblemCode},
    extract::{Call, Json},
    once,
    openapi::words,
    routes::{Operation, Routes},
    view::ServiceDetail,
};
use crate::{
    registry::services::{
        Register,
        edit::{Patch, check_declared},
    },
    store::rows::{Change, Said},
};

/// A service to register ahead of its first heartbeat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    #[schema(value_type = words::Id)]
    id: ServiceId,
    /// Required of agents and checkers, and of nothing else.
    #[schema(value_type = Option<words::Id>)]
    parent: Option<ServiceId>,
    /// For checkers.
    #[schema(value_type = Option<words::Id>)]
    checker_kind: Option<CheckerKind>,
    /// The onboarding package's component.
    #[schema(value_type = Option<words::Text>)]
    component_id: Option<Text>,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    labels: Pairs,
    #[serde(default)]
    #[schema(value_type = words::Pairs)]
    metadata: Pairs,
    /// `http` (the default), `config` or `k8s_spiffe`.
    #[schema(value_type = Option<words::Source>)]
    source: Option<Source>,
    /// The SPIFFE id that it is registered with: its own, or with `k8s_spiffe` that of another trust domain.
    #[schema(value_type = Option<words::SpiffeId>)]
    spiffe_identity: Option<SpiffeId>,
    /// Stands in the tree for what has no sidecar.
    #[serde(default)]
    placeholder: bool,
    /// Whether its sidecar may register children that are not known yet.
    #[serde(default)]
    implicit_children: bool,
    /// How long after its goodbye or loss it is removed.
    ephemeral_after_secs: Option<u32>,
}

pub(super) fn of_kind(routes: Routes, kind: Kind) -> Routes {
    let all = format!("{}/{}", super::ROOT, kind.plural());
    let operation = Operation::post(&all, Permission::Operate, &format!("register_{}", kind.plural()))
        .scoped()
        .about(format!("Registers a service of kind {kind} ahead of its first heartbeat"))
        .body::<RegisterBody>()
        .once()
        .answer::<ServiceDetail>(201, "It is registered; `Location` says where it is found")
        .gives(&[
            ProblemCode::Exists,
            ProblemCode::ParentMissing,
            ProblemCode::ParentUnwanted,
            ProblemCode::ParentUnknown,
            ProblemCode::ParentKind,
            ProblemCode::ParentRevoked,
            ProblemCode::ParentDeleted,
            ProblemCode::SpiffeIdentity,
            ProblemCode::RegistryFull,
        ]);
    routes.add(operation, move |call: Call, body: Json<_>| register(kind, call, body))
}

/// The sources that a caller may claim: the others are the registry's own to give.
pub(in crate::http) fn source_of(source: Source) -> Result<Source, Problem> {
    match source {
        Source::Config | Source::Http | Source::K8sSpiffe => Ok(source),
        Source::EdgeOnboarding | Source::Implicit => {
            let detail = format!("source {source} is given by the registry alone: use http, config or k8s_spiffe");
            Err(Problem::new(ProblemCode::Invalid, detail).with("allowed", vec!["http", "config", "k8s_spiffe"]))
        }
    }
}

async fn register(kind: Kind, call: Call, Json(body): Json<RegisterBody>) -> Result<Response, Problem> {
    let key = ServiceKey::new(kind, body.id);
    call.holds(&body.labels)?;
    if let Some((kind, parent)) = kind.parent().zip(body.parent.as_ref()) {
        call.finds_parent(&ServiceKey::new(kind, parent.clone()))?;
    }
    let source = source_of(body.source.unwrap_or(Source::Http))?;
    check_declared(&call.state.registry.whoami().trust_domain, &key, source, body.spiffe_identity.as_ref())?;
    // The rules of what may be said are the patch's.
    let patch = Patch { ephemeral_after_secs: Some(body.ephemeral_after_secs), ..Patch::default() };
    let said = Said {
        component_id: body.component_id.map(String::from),
        labels: body.labels,
        metadata: body.metadata,
        placeholder: body.placeholder,
        declared_spiffe: body.spiffe_identity,
        implicit_children: body.implicit_children,
        ..patch.over(&Said::default())?
    };
    let request = Register {
        checker_kind: body.checker_kind,
        said,
        ..Register::new(key.clone(), body.parent, source, call.by())
    };
    let place = format!("/api/admin/services/{}/{}", kind.plural(), key.id);
    let (shown, told_place) = (call.fresh(), place.clone());
    let tell = move |change: &Change| {
        let view = change.registered().map(&shown);
        once::told(StatusCode::CREATED, Some(told_place.clone()), view.as_ref())
    };
    call.once(request, tell).await?;
    let seen = call.find(&key)?;
    let mut response = (StatusCode::CREATED, super::shown(&call, &seen)).into_response();
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}
