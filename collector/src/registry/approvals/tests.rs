//! What waits, who makes room, and that the claims approved are the claims that enroll.

use super::*;
use crate::store::suite::samples::{NOON, approval, pin, token_id};

#[test]
fn rows_are_found_by_id_and_key_and_go_with_their_token() {
    let mut all = Approvals::from_rows(&[approval(1, 1), approval(1, 2), approval(2, 1)]);
    assert_eq!((all.len(), all.of_token(token_id(1))), (3, 2));
    assert_eq!(all.of(token_id(1), pin(2)).map(|row| row.id), Some(approval(1, 2).id));
    // A newer request of the same key takes the older one's place.
    let again = ApprovalRow { id: RowId::numbered(9_999), ..approval(1, 2) };
    all.put(&again, Seq(4));
    assert_eq!((all.len(), all.get(approval(1, 2).id)), (3, None));
    all.drop_one(approval(1, 1).id);
    assert_eq!((all.of(token_id(1), pin(1)), all.len()), (None, 2));
    all.drop_token(token_id(1));
    assert_eq!((all.len(), all.of_token(token_id(1))), (1, 0));
    let order: Vec<_> = all.after(None).map(|row| row.id).collect();
    assert_eq!(order, [approval(2, 1).id]);
}

#[test]
fn when_full_the_oldest_rejected_goes_and_else_the_newcomer_waits() {
    let many = |n: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(n as u64).to_be_bytes());
        ApprovalRow { id: RowId::numbered(n as u128), key: Pin(key), state: ApprovalState::Pending, ..approval(1, 1) }
    };
    let mut all = Approvals::from_rows(&(0..MAX_OF_TOKEN).map(many).collect::<Vec<_>>());
    assert_eq!(all.room(token_id(1)), Err(Refusal::Wire(Code::Busy)));
    assert_eq!(all.room(token_id(2)), Ok(None), "another token is not touched");
    all.put(&ApprovalRow { state: ApprovalState::Rejected, ..many(7) }, Seq(1));
    all.put(&ApprovalRow { state: ApprovalState::Rejected, ..many(5) }, Seq(2));
    assert_eq!(all.room(token_id(1)), Ok(Some(RowId::numbered(5))));
}

#[test]
fn an_id_follows_from_what_it_names_and_sorts_by_time() {
    let id = |key, at: i64| id_of(token_id(1), pin(key), Timestamp(NOON.0 + at));
    assert_eq!(id(1, 0), id(1, 0));
    assert_ne!(id(1, 0), id(2, 0));
    assert!(id(9, 0) < id(1, 1));
}
