//! The promises of [`LivenessStore`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rollcall_common::id::{BeatNo, SessionNo};

use super::{samples::key, until};
use crate::store::{Continuity, LivenessStore, Mark};

/// Longer than any test lasts, in milliseconds.
const LONG: u32 = 3_600_000;

/// A mark of a service.
#[must_use]
pub fn mark(name: &str, session: u64, beat_no: u64, ttl_ms: u32) -> Mark {
    Mark { service: key(name), session: SessionNo(session), beat_no: BeatNo(beat_no), ttl_ms }
}

/// Asks every promise, each of a store that `fresh` gives empty. `pass` moves the store's time on, where
/// it does not move by itself.
///
/// # Panics
/// Where one is not kept.
pub async fn liveness_suite(fresh: impl Fn() -> Arc<dyn LivenessStore>, pass: impl Fn(Duration)) {
    what_is_published_is_read(&*fresh()).await;
    the_last_mark_counts(&*fresh()).await;
    marks_end(&*fresh(), &pass).await;
    a_publication_starts_the_time_anew(&*fresh(), &pass).await;
    who_is_retired_is_gone(&*fresh()).await;
    a_whole_fleet_fits_into_one_publication(&*fresh()).await;
}

async fn publish(store: &dyn LivenessStore, marks: &[Mark]) {
    assert_eq!(store.publish(marks).await, Ok(Continuity::Kept));
}

async fn all(store: &dyn LivenessStore) -> BTreeSet<String> {
    let marks = store.all().await.unwrap_or_else(|error| unreachable!("{error}"));
    let names: BTreeSet<_> = marks.iter().map(|mark| mark.service.to_string()).collect();
    assert_eq!(names.len(), marks.len(), "each service once");
    names
}

async fn what_is_published_is_read(store: &dyn LivenessStore) {
    assert!(!store.name().is_empty());
    publish(store, &[]).await;
    assert_eq!(store.all().await, Ok(Vec::new()));
    assert_eq!(store.get(&key("agent/a")).await, Ok(None));
    let marks =
        [mark("agent/a", 1, 2, LONG), mark("poller/a", u64::MAX, u64::MAX, LONG), mark("checker/x.y_z", 0, 0, LONG)];
    publish(store, &marks).await;
    for mark in &marks {
        assert_eq!(store.get(&mark.service).await, Ok(Some(mark.clone())));
    }
    let mut read = store.all().await.unwrap_or_else(|error| unreachable!("{error}"));
    read.sort_by_key(|mark| marks.iter().position(|known| known.service == mark.service));
    assert_eq!(read, marks);
}

async fn the_last_mark_counts(store: &dyn LivenessStore) {
    for last in [mark("agent/a", 1, 9, LONG), mark("agent/a", 2, 1, LONG), mark("agent/a", 2, 2, LONG - 1)] {
        publish(store, std::slice::from_ref(&last)).await;
        assert_eq!(store.get(&last.service).await, Ok(Some(last.clone())));
        assert_eq!(store.all().await, Ok(vec![last]));
    }
}

async fn marks_end(store: &dyn LivenessStore, pass: impl Fn(Duration)) {
    publish(store, &[mark("agent/short", 1, 1, 300), mark("agent/long", 1, 1, LONG)]).await;
    gone(store, "agent/short", &pass).await;
    assert_eq!(all(store).await, ["agent/long".to_owned()].into());
    publish(store, &[mark("agent/short", 1, 2, LONG)]).await;
    assert_eq!(all(store).await.len(), 2, "who beats again is back");
}

async fn a_publication_starts_the_time_anew(store: &dyn LivenessStore, pass: impl Fn(Duration)) {
    publish(store, &[mark("agent/a", 1, 1, 300), mark("agent/witness", 1, 1, 300)]).await;
    publish(store, &[mark("agent/a", 1, 2, LONG)]).await;
    gone(store, "agent/witness", &pass).await;
    assert_eq!(store.get(&key("agent/a")).await, Ok(Some(mark("agent/a", 1, 2, LONG))));
    // Shorter is as good as longer.
    publish(store, &[mark("agent/a", 1, 3, 300)]).await;
    gone(store, "agent/a", &pass).await;
}

/// Waits until neither way of reading shows a service.
async fn gone(store: &dyn LivenessStore, name: &str, pass: impl Fn(Duration)) {
    until(&format!("the mark of {name} ends"), async || {
        pass(Duration::from_millis(50));
        let absent = store.get(&key(name)).await == Ok(None) && !all(store).await.contains(name);
        absent.then_some(())
    })
    .await;
}

async fn who_is_retired_is_gone(store: &dyn LivenessStore) {
    publish(store, &["agent/a", "agent/b", "poller/a"].map(|name| mark(name, 1, 1, LONG))).await;
    assert_eq!(store.retire(&[]).await, Ok(()));
    assert_eq!(store.retire(&["agent/a", "agent/b", "agent/nobody"].map(key)).await, Ok(()));
    assert_eq!(store.get(&key("agent/a")).await, Ok(None));
    assert_eq!(all(store).await, ["poller/a".to_owned()].into());
    publish(store, &[mark("agent/a", 2, 1, LONG)]).await;
    assert_eq!(all(store).await.len(), 2);
}

async fn a_whole_fleet_fits_into_one_publication(store: &dyn LivenessStore) {
    let fleet: Vec<_> = (0..3_000).map(|n| mark(&format!("agent/a{n}"), n, 1, LONG)).collect();
    publish(store, &fleet).await;
    assert_eq!(all(store).await.len(), fleet.len());
    for mark in fleet.iter().step_by(500) {
        assert_eq!(store.get(&mark.service).await, Ok(Some(mark.clone())));
    }
    let names: Vec<_> = fleet.into_iter().map(|mark| mark.service).collect();
    assert_eq!(store.retire(&names).await, Ok(()));
    assert_eq!(all(store).await.len(), 0);
}
