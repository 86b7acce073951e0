//! Whether the process lives, and whether it is of use: the only routes that ask for no credential.

use std::sync::Arc;

use axum::{
    extract::State as Held,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{LivenessSight, State};

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    ready: bool,
    registry: StoreState,
    liveness: StoreState,
    draining: bool,
}

#[derive(Debug, Serialize)]
struct StoreState {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    ok: bool,
}

/// Living means answering.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(Held(state): Held<Arc<State>>) -> Response {
    let readiness = judge(state.registry.store_ok(), (state.liveness)(), state.draining.is_cancelled());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

/// The liveness store is a cache: without it everything goes on, so that it is shown and does not decide.
fn judge(registry_ok: bool, liveness: LivenessSight, draining: bool) -> Readiness {
    Readiness {
        ready: registry_ok && !draining,
        registry: StoreState { store: None, ok: registry_ok },
        liveness: StoreState { store: Some(liveness.store), ok: liveness.ok },
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
            assert_eq!(shown["liveness"]["store"], "redis cache:6379");
            assert_eq!(shown["liveness"]["ok"], liveness_ok);
            assert_eq!(shown["draining"], draining);
        }
    }
}
