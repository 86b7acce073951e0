//! Who was turned away: kept as told, gone as told, there after a restart. Nothing of it takes a seq.

use rollcall_common::{code::Code, id::Kind, time::Timestamp, token::TokenId};

use super::load;
use crate::store::{
    rows::{Door, KnockRow, Why},
    suite::{
        Place,
        samples::{NOON, key},
    },
};

fn knock(n: u8, times: u64) -> KnockRow {
    KnockRow {
        id: TokenId([n; 10]),
        proven: n.is_multiple_of(2),
        door: Door::Enroll,
        why: Why::Code(Code::IdTaken),
        token: n.is_multiple_of(2).then_some(TokenId([n; 10])),
        kind: Some(Kind::Agent),
        service: Some(key("agent/edge-17").id),
        parent: n.is_multiple_of(2).then(|| key("poller/site-3").id),
        network: "192.0.2.0/24".into(),
        from: "192.0.2.7".into(),
        first_at: NOON,
        last_at: Timestamp(NOON.0 + i64::try_from(times).unwrap_or(0)),
        times,
    }
}

pub(super) async fn knocks_are_kept_and_go(place: &impl Place) {
    let store = place.open().await;
    let position = load(&*store).await.position;
    let kept = async || {
        let mut kept = load(&*store).await.knocks;
        kept.sort_by_key(|row| row.id);
        kept
    };
    assert_eq!(store.keep_knocks(&[], &[]).await, Ok(()));
    assert_eq!(store.keep_knocks(&[knock(1, 1), knock(2, 1)], &[]).await, Ok(()));
    // A repetition takes the place of what was kept; one that was never kept goes without a word.
    let gone = [TokenId([1; 10]), TokenId([9; 10])];
    assert_eq!(store.keep_knocks(&[knock(2, 5), knock(3, 1)], &gone).await, Ok(()));
    assert_eq!(kept().await, [knock(2, 5), knock(3, 1)]);
    assert_eq!(load(&*store).await.position, position, "a knock takes no seq");
    store.close().await;
    assert!(store.keep_knocks(&[knock(4, 1)], &[]).await.is_err(), "it is closed");
    drop(store);
    let store = place.open().await;
    let mut kept = load(&*store).await.knocks;
    kept.sort_by_key(|row| row.id);
    assert_eq!(kept, [knock(2, 5), knock(3, 1)]);
    store.close().await;
}
