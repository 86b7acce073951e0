//! Gathering and settling by hand, on a real SQLite store: what a batch takes together, and what a failure leaves.

use rollcall_common::id::Seq;

use super::*;
use crate::store::{
    rows::{ApprovalRow, ApprovalState, Loaded},
    suite::samples::{approval, change, pin, token, token_id, use_token},
};


#[test]
fn a_decision_and_the_enrollment_that_it_is_about_do_not_commit_together() {
    let waits = ApprovalRow { seq: Seq(3), ..approval(1, 7) };
    let loaded = Loaded { tokens: vec![token(1, 9)], approvals: vec![waits.clone()], ..Loaded::default() };
    let roster = Roster::from_loaded(&loaded);
    let rejected = ApprovalRow { state: ApprovalState::Rejected, ..waits.clone() };
    let rejects = change([Write::PutApproval(Box::new(rejected))]);
    let at = waits.first_asked;
    let enrolls = change([Write::DropApproval(waits.id), use_token(1, 7, at)]);
    let other = change([use_token(1, 8, at)]);
    let ends = change([Write::RevokeToken { token: token_id(1), at }]);
    assert_eq!(waits.key, pin(7));
    for (first, second, together) in [
        (&rejects, &enrolls, false),
        (&enrolls, &rejects, false),
        (&enrolls, &enrolls, false),
        (&enrolls, &other, true),
        (&rejects, &other, true),
        (&ends, &enrolls, false),
        (&other, &ends, false),
    ] {
        let mut ground = Ground::default();
        assert!(ground.bears(first, &roster));
        assert_eq!(ground.bears(second, &roster), together, "{first:?} and {second:?}");
    }
}
