//! Whether the process lives, and whether it is of use: the only routes that ask for no credential.

use std::sync::Arc;

use axum::{
    extract::State as Held,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    LivenessSight, State,
    access::Permission,
    routes::{Operation, Routes},
};

/// What `/readyz` answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    registry: StoreState,
    liveness: StoreState,
    draining: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct StoreState {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    ok: bool,
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .tag("health", "Whether the collector lives and is of use")
        .add(
            Operation::get("/livez", Permission::Open, "get_liveness").about("Whether the process lives").answer_as(
                200,
                "text/plain",
                "It does",
            ),
            livez,
        )
        .add(
            Operation::get("/readyz", Permission::Open, "get_readiness")
                .about("Whether the collector is of use")
                .answer::<Readiness>(200, "It takes changes and answers queries")
                .answer::<Readiness>(503, "It does not, and says which part fails"),
            readyz,
        )
}

/// Living means answering.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(Held(state): Held<Arc<State>>) -> Response {
    let readiness = judge(state.registry.store_ok(), (state.liveness)(), state.draining.is_cancelled());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

/// What sort of store it is: where it stands is for the log, and this is told to anybody.
fn sort_of(store: &str) -> String {
    store.split(' ').next().unwrap_or_default().to_owned()
}

/// The liveness store is a cache: without it everything goes on, so that it is shown and does not decide.
fn judge(registry_ok: bool, liveness: LivenessSight, draining: bool) -> Readiness {
    Readiness {
        ready: registry_ok && !draining,
        registry: StoreState { store: None, ok: registry_ok },
        liveness: StoreState { store: Some(sort_of(&liveness.store)), ok: liveness.ok },
        draining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_changes_are_taken() {
        for (registry_ok, liveness_ok, draining, ready) in [
            (true, true, false, true),
            (true, false, false, true),
            (false, true, false, false),
            (true, true, true, false),
        ] {
            let liveness = LivenessSight { store: "redis cache:6379".into(), ok: liveness_ok };
            let readiness = judge(registry_ok, liveness, draining);
            assert_eq!(readiness.ready, ready);
            let shown = serde_json::to_value(&readiness).unwrap();
            assert_eq!(shown["liveness"]["store"], "redis", "where it stands is told to nobody");
            assert_eq!(shown["liveness"]["ok"], liveness_ok);
            assert_eq!(shown["draining"], draining);
        }
    }
}
