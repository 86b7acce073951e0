//! What one application does; that any of them is repeatable is shown with the other histories.

use rollcall_common::lifecycle::Act;

use super::*;
use crate::registry::services::tests::Fleet;

fn item(key: &str, parent: Option<&str>, patch: &str) -> Item {
    Item {
        key: key.parse().unwrap(),
        parent: parent.map(|id| id.parse().unwrap()),
        checker_kind: None,
        source: Source::Config,
        patch: serde_json::from_str(patch).unwrap(),
        past: None,
    }
}

fn apply(items: Vec<Item>) -> Apply {
    Apply {
        items,
        recover: false,
        scope: Scope::everything(),
        trust_domain: "fleet.example".parse().unwrap(),
        by: By::system(),
    }
}

#[test]
fn parents_may_stand_behind_their_children() {
    let mut fleet = Fleet::new();
    let asked = apply(vec![
        item("checker/c", Some("a"), "{}"),
        item("agent/a", Some("p"), r#"{"labels":{"site":"3"}}"#),
        item("agent/b", Some("nobody"), "{}"),
        item("checker/d", Some("b"), "{}"),
        item("poller/p", None, r#"{"placeholder":true}"#),
        item("poller/p", None, "{}"),
    ]);
    let outcomes = fleet.does(&asked).unwrap();
    assert_eq!(outcomes[0], Outcome::Created);
    assert_eq!((&outcomes[1], &outcomes[4]), (&Outcome::Created, &Outcome::Created));
    assert!(matches!(&outcomes[2], Outcome::Refused(Refusal::Parent(ParentProblem::Unknown(_)))));
    assert!(matches!(&outcomes[3], Outcome::Refused(Refusal::Parent(ParentProblem::Unknown(_)))));
    assert!(matches!(&outcomes[5], Outcome::Refused(Refusal::Invalid(_))));
    let checker = fleet.roster.get(&"checker/c".parse().unwrap()).unwrap();
    assert_eq!(checker.row.poller.as_ref().map(ServiceId::as_str), Some("p"));

    let moved = fleet.does(&apply(vec![item("agent/a", Some("q"), "{}")])).unwrap();
    assert!(matches!(&moved[0], Outcome::Refused(Refusal::Settled { field: "parent", .. })));
    let changed = fleet.does(&apply(vec![item("agent/a", None, r#"{"labels":{"site":"4","rack":"b"}}"#)])).unwrap();
    let Outcome::Updated(differences) = &changed[0] else { panic!("{changed:?}") };
    assert_eq!(differences.len(), 2);
    assert_eq!((&differences[1].field[..], &differences[1].before), ("labels.site", &json!("3")));
}

#[test]
fn a_deletion_is_taken_back_only_where_that_is_asked() {
    let mut fleet = Fleet::new();
    let both = || vec![item("agent/a", Some("p"), r#"{"labels":{"site":"3"}}"#), item("poller/p", None, "{}")];
    fleet.does(&apply(both())).unwrap();
    fleet.act("poller/p", Act::Delete, true).unwrap();
    let outcomes = fleet.does(&apply(both())).unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Deleted(_)))), "{outcomes:?}");
    let outcomes = fleet.does(&Apply { recover: true, ..apply(both()) }).unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Updated(_))), "{outcomes:?}");
    assert_eq!(fleet.status("agent/a"), Some(Status::Pending));
    // A revocation is nobody's desired state to undo.
    fleet.act("agent/a", Act::Revoke, false).unwrap();
    let outcomes = fleet.does(&Apply { recover: true, ..apply(both()) }).unwrap();
    assert_eq!(outcomes, [Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(fleet.status("agent/a"), Some(Status::Revoked));
}

#[test]
fn another_registrys_past_fills_new_rows_only() {
    let mut fleet = Fleet::new();
    let now = fleet.now.wall;
    let ago = |secs: i64| Some(Timestamp(now.0 - secs * 1_000));
    let past = |status, first_seen: Option<Timestamp>| Past {
        first_registered: ago(900),
        first_seen,
        last_seen: first_seen.and(ago(5)),
        created_by: Some("migration".into()),
        status: Some(status),
    };
    let with = |key: &str, parent, past| Item { past: Some(past), ..item(key, parent, "{}") };
    let asked = apply(vec![
        with("poller/p", None, past(Status::Active, ago(600))),
        with("poller/q", None, past(Status::Active, None)),
        with("poller/gone", None, past(Status::Deleted, ago(600))),
        with("agent/gone", Some("gone"), past(Status::Deleted, None)),
        with("agent/left", Some("gone"), past(Status::Inactive, ago(600))),
        with("poller/future", None, Past { last_seen: ago(-60), ..Past::default() }),
        with("poller/back", None, Past { first_seen: ago(5), last_seen: ago(60), ..Past::default() }),
    ]);
    let outcomes = fleet.does(&asked).unwrap();
    assert_eq!(outcomes[..4], [Outcome::Created, Outcome::Created, Outcome::Created, Outcome::Created]);
    assert!(matches!(&outcomes[4], Outcome::Refused(Refusal::Parent(ParentProblem::Barred(..)))));
    assert!(outcomes[5..].iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Invalid(_)))));
    let row = &fleet.roster.get(&"poller/p".parse().unwrap()).unwrap().row;
    assert_eq!((row.status, row.first_seen, row.last_seen), (Status::Inactive, ago(600), ago(5)));
    assert_eq!((Some(row.first_registered), row.created_by.as_str()), (ago(900), "migration"));
    assert_eq!(fleet.status("poller/q"), Some(Status::Pending), "what was never heard is pending");
    // It lives here now: its past is no longer anybody's to say.
    fleet.beat("poller/p");
    let again = fleet.does(&apply(vec![with("poller/p", None, past(Status::Revoked, ago(1)))])).unwrap();
    assert_eq!(again, [Outcome::Unchanged]);
    assert_eq!(fleet.status("poller/p"), Some(Status::Active));
}

#[test]
fn an_item_beyond_the_scope_is_refused_as_if_it_were_unknown() {
    let mut fleet = Fleet::new();
    let site = |n: u8| format!("{{\"labels\":{{\"site\":\"{n}\"}}}}");
    let all = apply(vec![
        item("poller/p", None, &site(3)),
        item("poller/q", None, &site(4)),
        item("agent/b", Some("q"), &site(3)),
    ]);
    fleet.does(&all).unwrap();
    let scoped = |items| Apply { scope: "site=3".parse().unwrap(), ..apply(items) };
    let outcomes = fleet.does(&scoped(vec![
        // Within: made, changed, and its children with it.
        item("agent/a", Some("p"), &site(3)),
        item("checker/c", Some("a"), &site(3)),
        item("poller/p", None, "{\"labels\":{\"site\":\"3\",\"rack\":\"b\"}}"),
        item("agent/b", None, "{}"),
        // Beyond: what is there, what would stand there, and what would go there.
        item("poller/q", None, "{\"labels\":{\"site\":\"3\"}}"),
        item("agent/n", Some("q"), &site(3)),
        item("agent/m", Some("p"), "{}"),
        item("agent/o", Some("p"), &site(4)),
    ]));
    let outcomes = outcomes.unwrap();
    assert_eq!(outcomes[..2], [Outcome::Created, Outcome::Created]);
    assert!(matches!(outcomes[2], Outcome::Updated(_)) && outcomes[3] == Outcome::Unchanged, "{outcomes:?}");
    assert!(matches!(&outcomes[4], Outcome::Refused(Refusal::UnknownService(key)) if key.to_string() == "poller/q"));
    assert!(matches!(&outcomes[5], Outcome::Refused(Refusal::Parent(ParentProblem::Unknown(_)))), "{:?}", outcomes[5]);
    assert!(
        outcomes[6..].iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Invalid(_)))),
        "{outcomes:?}"
    );
    // Nothing of one's own is put out of one's reach.
    let outcomes = fleet
        .does(&scoped(vec![item("poller/p", None, &site(4)), item("agent/a", None, "{\"labels\":null}")]))
        .unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Invalid(_)))), "{outcomes:?}");
    assert_eq!(fleet.roster.get(&"poller/q".parse().unwrap()).unwrap().row.labels.get("site"), Some("4"));
}
