//! The promises of [`RegistryStore`].

mod batches;
mod knocks;
mod packages;
mod reads;
mod trail;
mod upkeep;
mod writes;

use super::{Place, samples::NOON};
use crate::store::{
    RegistryStore,
    rows::{Applied, Change, Conflict, Loaded, Write},
};

/// Asks every promise, each of a fresh place.
///
/// # Panics
/// Where one is not kept.
pub async fn registry_suite<P: Place>(fresh: impl Fn() -> P) {
    writes::services(&*fresh().open().await).await;
    writes::settings(&*fresh().open().await).await;
    writes::a_change_does_not_trip_over_itself(&*fresh().open().await).await;
    writes::removal(&*fresh().open().await).await;
    writes::identities(&*fresh().open().await).await;
    writes::refused_serials(&*fresh().open().await).await;
    writes::tokens(&*fresh().open().await).await;
    writes::credentials(&*fresh().open().await).await;
    writes::intervals(&*fresh().open().await).await;
    upkeep::jobs_and_holds(&*fresh().open().await).await;
    upkeep::windows(&*fresh().open().await).await;
    upkeep::answers(&*fresh().open().await).await;
    packages::packages(&*fresh().open().await).await;
    upkeep::retention_takes_what_ended(&*fresh().open().await).await;
    upkeep::a_crowded_history_is_cut(&*fresh().open().await).await;
    batches::each_change_stands_or_falls_alone(&*fresh().open().await).await;
    batches::seqs_follow_the_order(&*fresh().open().await).await;
    batches::concurrent_batches_do_not_mix(fresh().open().await).await;
    for max_uses in [1, 3] {
        batches::a_token_is_never_overspent(fresh().open().await, max_uses).await;
    }
    reads::last_seen_never_moves_back(&*fresh().open().await).await;
    reads::observers_and_blind_times(&*fresh().open().await).await;
    reads::audit_pages(&*fresh().open().await).await;
    trail::events_come_in_order(&*fresh().open().await).await;
    trail::seals_follow_one_another(&fresh()).await;
    trail::retired_batches_keep_their_seals(&*fresh().open().await).await;
    knocks::knocks_are_kept_and_go(&fresh()).await;
    reads::what_was_answered_is_there_after_reopening(&fresh()).await;
    reads::a_dump_enrolls_nobody(&fresh()).await;
    reads::a_closed_store_says_so(&*fresh().open().await).await;
}

/// Commits one change.
async fn try_commit(store: &dyn RegistryStore, change: Change) -> Result<Applied, Conflict> {
    let mut answers = store.commit(&[change], NOON).await.unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!(answers.len(), 1, "one answer a change");
    answers.swap_remove(0)
}

/// Commits writes that must go through.
async fn commit(store: &dyn RegistryStore, writes: impl IntoIterator<Item = Write>) -> Applied {
    let change = super::samples::change(writes);
    try_commit(store, change.clone()).await.unwrap_or_else(|conflict| unreachable!("{conflict}: {change:?}"))
}

/// Commits writes that must not go through.
async fn conflict(store: &dyn RegistryStore, writes: impl IntoIterator<Item = Write>) -> Conflict {
    let change = super::samples::change(writes);
    match try_commit(store, change.clone()).await {
        Ok(applied) => unreachable!("{applied:?}: {change:?}"),
        Err(conflict) => conflict,
    }
}

async fn load(store: &dyn RegistryStore) -> Loaded {
    store.load().await.unwrap_or_else(|error| unreachable!("{error}"))
}
