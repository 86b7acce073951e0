//! Child reports on a heartbeat connection: heard at once, registered where that is needed and allowed.
//!
//! Nothing waits for the store: the answer to a batch tells what memory knows. Unknown children that may be
//! registered are, in a task of their own, one change at a time for each session; whoever is not yet known when
//! the next batch comes is asked for again by it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use rollcall_common::{
    id::{ServiceKey, SessionNo},
    time::BootTime,
    wire::{
        children::{ChildReport, Children, ChildrenAck, ChildrenGone},
        message::Goodbye,
    },
};

use super::{CHANGE_WITHIN, Context};
use crate::registry::{
    Notice, Registry,
    children::{Batch, RegisterChildren},
};

/// Whether a change of this session is on its way.
#[derive(Debug, Clone, Default)]
pub(super) struct Registering(Arc<AtomicBool>);

/// Hears a batch; answers with whom it refuses.
pub(super) fn hear(
    context: &Arc<Context>,
    reporter: &ServiceKey,
    session: SessionNo,
    batch: Children,
    registering: &mut Registering,
) -> ChildrenAck {
    let registry = &context.registry;
    let at = registry.now().boot;
    let Children { batch_no, interval_ms, children } = batch;
    let heard = registry.hear_children(Batch { reporter, session, batch_no, interval_ms, reports: &children, at });
    if !heard.unknown.is_empty() && !registering.0.swap(true, SeqCst) {
        let task = register(
            Arc::clone(context),
            reporter.clone(),
            session,
            (batch_no, interval_ms, at),
            heard.unknown,
            registering.clone(),
        );
        context.tasks.spawn(task);
    }
    ChildrenAck { batch_no, refused: heard.refused, retry_after_ms: 0 }
}

/// Hears goodbyes for children; answers with those that were not the sidecar's to say.
pub(super) async fn part(registry: &Registry, reporter: &ServiceKey, gone: ChildrenGone) -> ChildrenAck {
    let (parted, refused) = registry.hear_farewells(reporter, &gone.children);
    for (slot, reason) in parted {
        registry.tell_surely(Notice::Goodbye(slot, Goodbye { reason, back_in_secs: None })).await;
    }
    ChildrenAck { batch_no: gone.batch_no, refused, retry_after_ms: 0 }
}

/// Registers, and then counts the report that asked for it, as of its arrival.
async fn register(
    context: Arc<Context>,
    reporter: ServiceKey,
    session: SessionNo,
    (batch_no, interval_ms, at): (u64, u32, BootTime),
    reports: Vec<ChildReport>,
    registering: Registering,
) {
    let registry = &context.registry;
    let request = RegisterChildren { reporter: reporter.clone(), reports: reports.clone() };
    let asked = tokio::time::timeout(CHANGE_WITHIN, registry.ask(request)).await;
    match asked {
        Ok(Ok(())) => {
            let again = Batch { reporter: &reporter, session, batch_no, interval_ms, reports: &reports, at };
            let heard = registry.hear_children(again);
            tracing::debug!(%reporter, refused = heard.refused.len(), "children registered");
        }
        Ok(Err(refusal)) => {
            tracing::info!(%reporter, %refusal, "children were not registered; the next batch asks again")
        }
        Err(_) => tracing::info!(%reporter, "children were not registered in time; the next batch asks again"),
    }
    registering.0.store(false, SeqCst);
}
