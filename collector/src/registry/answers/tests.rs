use proptest::prelude::*;
use rollcall_common::time::{BootTime, Now};

use super::*;
use crate::{
    registry::{
        roster::Roster,
        services::{By, Register},
    },
    store::rows::Loaded,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn of(caller: &str, key: &str) -> AnswerKey {
    AnswerKey { caller: caller.into(), key: key.into() }
}

fn row(caller: &str, key: &str, at: Timestamp) -> AnswerRow {
    AnswerRow {
        of: of(caller, key),
        fingerprint: Fingerprint([1; 32]),
        status: 201,
        location: None,
        body: "{}".into(),
        secret: false,
        at,
        seq: Seq(7),
    }
}

fn roster(answers: Vec<AnswerRow>) -> Roster {
    Roster::from_loaded(&Loaded { answers, ..Loaded::default() })
}

fn world(roster: &Roster) -> World<'_> {
    World { roster, now: Now { wall: NOW, boot: BootTime(1) } }
}

fn register(key: &str, fingerprint: u8) -> Once<Register, impl Fn(&Change) -> Told + Send + 'static> {
    let service = "poller/p".parse().unwrap();
    Once {
        request: Register::new(service, None, rollcall_common::service::Source::Http, By::system()),
        named: Some(Named { of: of("credential:a", key), fingerprint: Fingerprint([fingerprint; 32]) }),
        tell: |change: &Change| Told {
            status: 201,
            location: None,
            body: change.registered().map(|row| row.key.to_string()).unwrap_or_default(),
            secret: false,
        },
    }
}

#[test]
fn an_answer_is_kept_with_what_it_is_about_and_given_again() {
    let roster = roster(vec![row("credential:a", "known", NOW), row("credential:b", "other", NOW)]);
    let (change, outcome) = register("new", 1).plan(world(&roster)).unwrap();
    assert!(matches!(outcome, Outcome::Done((), 0)), "{outcome:?}");
    let [Write::InsertService(_), Write::KeepAnswer(kept)] = change.writes.as_slice() else { panic!("{change:?}") };
    assert_eq!((kept.body.as_str(), kept.at, &kept.of), ("poller/p", NOW, &of("credential:a", "new")));
    // Another caller's name is another name.
    assert_eq!(register("other", 1).plan(world(&roster)).unwrap().0.writes.len(), 2);
    let (change, outcome) = register("known", 1).plan(world(&roster)).unwrap();
    assert!(change.writes.is_empty() && change.audit.is_empty(), "nothing is done again");
    assert!(matches!(outcome, Outcome::Known(row) if row.seq == Seq(7)));
    assert_eq!(register("known", 2).plan(world(&roster)).map(drop), Err(Refusal::NameReused));
}

#[test]
fn a_refusal_is_not_kept_and_no_name_keeps_nothing() {
    let roster = roster(vec![]);
    let mut request = register("k", 1);
    request.request.key = "agent/a".parse().unwrap();
    assert!(request.plan(world(&roster)).is_err());
    let unnamed = Once { named: None, ..register("k", 1) };
    assert_eq!(unnamed.plan(world(&roster)).unwrap().0.writes.len(), 1);
}

#[test]
fn an_answer_that_is_too_old_is_none() {
    let (old, young) = (NOW.before(KEPT_FOR), NOW.before(KEPT_FOR).after(Duration::from_millis(1)));
    let roster = roster(vec![row("credential:a", "old", old), row("credential:a", "young", young)]);
    assert!(roster.answers().get(&of("credential:a", "old"), NOW).is_none());
    assert!(roster.answers().get(&of("credential:a", "young"), NOW).is_some());
    let (change, outcome) = register("old", 9).plan(world(&roster)).unwrap();
    assert!(matches!(outcome, Outcome::Done((), 0)));
    let [_, Write::ForgetAnswer(gone), Write::KeepAnswer(_)] = change.writes.as_slice() else { panic!("{change:?}") };
    assert_eq!(*gone, of("credential:a", "old"));
    let (change, count) = ForgetAnswers { before: young, most: 10 }.plan(world(&roster)).unwrap();
    assert!(count == 1 && matches!(&change.writes[..], [Write::ForgetAnswer(gone)] if gone.key == "old"));
}

#[test]
fn a_caller_with_too_many_loses_its_own() {
    let at = |n: usize| NOW.before(Duration::from_secs(3_600 - n as u64));
    let mut rows: Vec<_> = (0..MAX_OF_CALLER).map(|n| row("credential:a", &format!("k{n}"), at(n))).collect();
    rows.push(row("credential:b", "oldest", at(0).before(Duration::from_secs(60))));
    let roster = roster(rows);
    let (change, outcome) = register("new", 1).plan(world(&roster)).unwrap();
    assert!(matches!(outcome, Outcome::Done((), 1)), "it is counted: {outcome:?}");
    let [_, Write::ForgetAnswer(gone), Write::KeepAnswer(_)] = change.writes.as_slice() else { panic!("{change:?}") };
    assert_eq!(*gone, of("credential:a", "k0"), "not the older one of another caller");
}

#[test]
fn too_many_bytes_cost_the_oldest() {
    let body = "x".repeat(MAX_BYTES / 4);
    let at = |n: u64| NOW.before(Duration::from_secs(100 - n));
    let rows = (0..4).map(|n| AnswerRow { body: body.clone(), ..row(&format!("c{n}"), "k", at(n)) }).collect();
    let roster = roster(rows);
    let (change, _) = register("new", 1).plan(world(&roster)).unwrap();
    let gone = change
        .writes
        .iter()
        .filter_map(|write| if let Write::ForgetAnswer(of) = write { Some(of.caller.as_str()) } else { None });
    assert_eq!(gone.collect::<Vec<_>>(), ["c0"]);
}

proptest! {
    /// Whatever is kept and forgotten: the books agree with the rows.
    #[test]
    fn the_books_agree(ops in prop::collection::vec((any::<bool>(), 0..3_u8, 0..4_u8, 0..9_i64), 0..60)) {
        let mut answers = Answers::default();
        for (keep, caller, key, at) in ops {
            let row = row(&format!("c{caller}"), &format!("k{key}"), Timestamp(NOW.0 + at));
            if keep { answers.keep(&row, Seq(1)) } else { answers.forget(&row.of) }
        }
        let by_age: BTreeSet<_> = answers.rows.values().map(|row| (row.at, row.of.clone())).collect();
        prop_assert_eq!(&answers.by_age, &by_age);
        let own: usize = answers.callers.values().map(BTreeSet::len).sum();
        prop_assert_eq!((own, answers.bytes), (answers.len(), answers.len() * 2));
        prop_assert!(answers.callers.values().all(|own| !own.is_empty()));
    }
}
