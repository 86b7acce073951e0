//! Generated histories against a naive model: after every batch the answers agree, at the end all rows do.
//!
//! The names are few, so that writes meet each other; expectations are right more often than wrong, so
//! that histories get somewhere.

mod model;

use proptest::prelude::*;
use rollcall_common::{
    health::{Health, Progress},
    id::{Generation, Seq, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    time::Timestamp,
};

use self::model::{Model, sort};
use super::{
    Place,
    samples::{
        NOON, announced, answer, approval, cert, credential, event, facts, health, hold, identity, interval, job, key,
        package, pairs, progress, reported, service, settings, token, token_id, use_token, window,
    },
};
use crate::store::{
    RegistryStore,
    rows::{AuditQuery, Change, Said, Write},
};

const NAMES: [&str; 4] = ["poller/p", "agent/a", "agent/b", "checker/a"];

/// A write before the state is known that it meets.
#[derive(Debug, Clone)]
enum Op {
    Insert(usize),
    Status { who: usize, right: bool, to: usize, seen: Option<i64> },
    Describe { who: usize, right: bool, site: u8 },
    Note { who: usize, health: Option<u8>, facts: Option<u8> },
    Progress { who: usize, n: u8 },
    Settings { who: usize, right: bool, n: u8 },
    Reported { who: usize, n: Option<u8> },
    Announce { who: usize, right: bool, n: u8 },
    Remove { who: usize, right: bool },
    Bind { who: usize, right: bool, current: u8, pending: Option<u8> },
    Unbind(usize),
    Deny { n: u8, until: i64 },
    Allow(u8),
    Token { n: u8, uses: u32 },
    RevokeToken(u8),
    RemoveToken(u8),
    Approval { n: u8, key: u8 },
    DropApproval { n: u8, key: u8 },
    UseToken { n: u8, key: u8, at: i64 },
    Credential(u8),
    TouchCredential { n: u8, at: i64 },
    RevokeCredential { n: u8, at: i64 },
    Interval { who: usize, presence: usize, from: i64 },
    Job { n: u8, runs: u64 },
    Hold { n: u8, step: Option<i64> },
    Answer(u8),
    ForgetAnswer(u8),
    Window { n: u8, right: bool, reason: u8 },
    DropWindow(u8),
    Package { n: u8, right: bool, note: u8 },
    DropPackage(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let (who, n) = (0..NAMES.len(), 1..4_u8);
    let right = || prop::bool::weighted(0.85);
    prop_oneof![
        4 => who.clone().prop_map(Op::Insert),
        4 => (who.clone(), right(), 0..Status::ALL.len(), prop::option::of(-5..50_i64))
            .prop_map(|(who, right, to, seen)| Op::Status { who, right, to, seen }),
        2 => (who.clone(), right(), n.clone()).prop_map(|(who, right, site)| Op::Describe { who, right, site }),
        2 => (who.clone(), prop::option::of(n.clone()), prop::option::of(n.clone()))
            .prop_map(|(who, health, facts)| Op::Note { who, health, facts }),
        1 => (who.clone(), n.clone()).prop_map(|(who, n)| Op::Progress { who, n }),
        2 => (who.clone(), right(), n.clone()).prop_map(|(who, right, n)| Op::Settings { who, right, n }),
        1 => (who.clone(), prop::option::of(n.clone())).prop_map(|(who, n)| Op::Reported { who, n }),
        2 => (who.clone(), right(), n.clone()).prop_map(|(who, right, n)| Op::Announce { who, right, n }),
        1 => (who.clone(), right()).prop_map(|(who, right)| Op::Remove { who, right }),
        4 => (who.clone(), right(), n.clone(), prop::option::of(n.clone()))
            .prop_map(|(who, right, current, pending)| Op::Bind { who, right, current, pending }),
        1 => who.clone().prop_map(Op::Unbind),
        1 => (n.clone(), 0..9_i64).prop_map(|(n, until)| Op::Deny { n, until }),
        1 => n.clone().prop_map(Op::Allow),
        2 => (n.clone(), 1..3_u32).prop_map(|(n, uses)| Op::Token { n, uses }),
        1 => n.clone().prop_map(Op::RevokeToken),
        1 => n.clone().prop_map(Op::RemoveToken),
        2 => (n.clone(), n.clone()).prop_map(|(n, key)| Op::Approval { n, key }),
        1 => (n.clone(), n.clone()).prop_map(|(n, key)| Op::DropApproval { n, key }),
        4 => (n.clone(), n.clone(), prop_oneof![8 => Just(1), 1 => Just(-1), 1 => Just(3_600_001)])
            .prop_map(|(n, key, at)| Op::UseToken { n, key, at }),
        1 => n.clone().prop_map(Op::Credential),
        1 => (n.clone(), 0..9_i64).prop_map(|(n, at)| Op::TouchCredential { n, at }),
        1 => (n.clone(), 0..9_i64).prop_map(|(n, at)| Op::RevokeCredential { n, at }),
        1 => (n.clone(), 0..9_u64).prop_map(|(n, runs)| Op::Job { n, runs }),
        1 => (n.clone(), prop::option::of(0..9_i64)).prop_map(|(n, step)| Op::Hold { n, step }),
        2 => (n.clone(), right(), n.clone()).prop_map(|(n, right, reason)| Op::Window { n, right, reason }),
        1 => n.clone().prop_map(Op::DropWindow),
        2 => n.clone().prop_map(Op::Answer),
        1 => n.clone().prop_map(Op::ForgetAnswer),
        2 => (n.clone(), right(), n.clone()).prop_map(|(n, right, note)| Op::Package { n, right, note }),
        1 => n.prop_map(Op::DropPackage),
        4 => (who, 0..Presence::ALL.len(), -5..50_i64)
            .prop_map(|(who, presence, from)| Op::Interval { who, presence, from }),
    ]
}

/// One step: a batch of changes, or a flush.
#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(Vec<Op>, usize)>),
    Flush(Vec<(usize, i64)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (prop::collection::vec(op(), 0..4), 0..3_usize);
    let step = prop_oneof![
        5 => prop::collection::vec(change, 1..6).prop_map(Step::Batch),
        1 => prop::collection::vec((0..NAMES.len(), 0..60_i64), 0..5).prop_map(Step::Flush),
    ];
    prop::collection::vec(step, 1..40)
}

fn later(ms: i64) -> Timestamp {
    Timestamp(NOON.0 + ms)
}

fn write(op: &Op, model: &Model) -> Write {
    let name = |who: &usize| NAMES[*who];
    let seq = |who: &usize, right: &bool| {
        let now = model.services.get(&key(name(who))).map_or(Seq(0), |row| row.seq);
        if *right { now } else { now.next() }
    };
    match op {
        Op::Insert(who) => Write::InsertService(Box::new(service(name(who)))),
        Op::Status { who, right, to, seen } => Write::SetStatus {
            service: key(name(who)),
            expect: seq(who, right),
            to: Status::ALL[*to],
            at: later(2),
            seen: seen.map(later),
            archived: *to % 2 == 0,
        },
        // An operator's statement replaces more than an enrollment's.
        Op::Describe { who, right, site: 3 } => Write::Edit {
            service: key(name(who)),
            expect: seq(who, right),
            said: Box::new(Said {
                component_id: Some("other".into()),
                labels: pairs("site", "3"),
                placeholder: *right,
                ..Said::default()
            }),
        },
        Op::Describe { who, right, site } => Write::Describe {
            service: key(name(who)),
            expect: seq(who, right),
            labels: pairs("site", &site.to_string()),
            metadata: pairs("rack", "9"),
        },
        Op::Note { who, health: said, facts: told } => Write::Note {
            service: key(name(who)),
            health: said.map(|n| (health(Health::Unhealthy, &format!("reason {n}")), later(n.into()))),
            facts: told.map(|n| facts(&format!("host-{n}"))),
        },
        Op::Progress { who, n } => Write::Progress {
            service: key(name(who)),
            said: (progress(Progress::Stalled, &format!("reason {n}")), later((*n).into())),
        },
        Op::Settings { who, right, n } => {
            Write::PutSettings { service: key(name(who)), expect: seq(who, right), row: settings((*n).into()) }
        }
        Op::Reported { who, n } => Write::KeepReported { service: key(name(who)), row: n.map(|n| reported(n.into())) },
        Op::Announce { who, right, n } => Write::Announce {
            service: key(name(who)),
            expect: seq(who, right),
            row: announced(&n.to_string()),
            metadata: pairs("rack", &format!("m{n}")),
        },
        Op::Remove { who, right } => Write::RemoveService { service: key(name(who)), expect: seq(who, right) },
        Op::Bind { who, right, current, pending } => {
            let bound = model.identities.get(&key(name(who))).map(|row| row.latest());
            let next = bound.map_or(1, |generation| generation.0 + 1);
            let mut row = identity(name(who), next, *current);
            row.pending = pending.map(|key| cert(next + 1, key));
            Write::PutIdentity { row: Box::new(row), expect: if *right { bound } else { Some(Generation(next)) } }
        }
        Op::Unbind(who) => Write::DropIdentity(key(name(who))),
        Op::Deny { n, until } => Write::Deny { serial: cert(1, *n).serial, until: later(*until) },
        Op::Allow(n) => Write::Allow(cert(1, *n).serial),
        Op::Token { n, uses } => Write::InsertToken(Box::new(token(*n, *uses))),
        Op::RevokeToken(n) => Write::RevokeToken { token: token_id(*n), at: later(4) },
        Op::UseToken { n, key, at } => use_token(*n, *key, later(*at)),
        Op::Credential(n) => Write::InsertCredential(credential(*n)),
        Op::TouchCredential { n, at } => Write::TouchCredential { id: credential(*n).id, at: later(*at) },
        Op::RevokeCredential { n, at } => Write::RevokeCredential { id: credential(*n).id, at: later(*at) },
        Op::Interval { who, presence, from } => {
            Write::BeginInterval(Box::new(interval(name(who), Presence::ALL[*presence], *from)))
        }
        Op::Job { n, runs } => Write::PutJob(Box::new(job(&format!("job-{n}"), *runs))),
        Op::Hold { n, step: Some(step) } => Write::PutHold(Box::new(hold(&format!("hold-{n}"), *step))),
        Op::Hold { n, step: None } => Write::DropHold(format!("hold-{n}")),
        Op::Window { n, right, reason } => {
            let row = window(*n, &format!("reason {reason}"));
            let found = model.windows.get(&row.id).map(|old| old.seq);
            let expect = if *right { found } else { Some(found.map_or(Seq(1), Seq::next)) };
            Write::PutWindow { row: Box::new(row), expect }
        }
        Op::RemoveToken(n) => Write::RemoveToken(token_id(*n)),
        Op::Approval { n, key } => Write::PutApproval(Box::new(approval(*n, *key))),
        Op::DropApproval { n, key } => Write::DropApproval(approval(*n, *key).id),
        Op::Answer(n) => Write::KeepAnswer(Box::new(answer(*n, "{}"))),
        Op::ForgetAnswer(n) => Write::ForgetAnswer(answer(*n, "").of),
        Op::DropWindow(n) => Write::DropWindow(window(*n, "").id),
        Op::Package { n, right, note } => {
            let row = package(*n, &format!("note {note}"));
            let found = model.packages.get(&row.id).map(|old| old.seq);
            let expect = if *right { found } else { Some(found.map_or(Seq(1), Seq::next)) };
            Write::PutPackage { row: Box::new(row), expect }
        }
        Op::DropPackage(n) => Write::DropPackage(package(*n, "").id),
    }
}

async fn run(store: &dyn RegistryStore, steps: &[Step]) -> Result<(), TestCaseError> {
    let epoch = store.load().await.map(|loaded| loaded.position.epoch);
    let epoch = epoch.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Batch(ops) => {
                let mut batch = Vec::new();
                let mut wanted = Vec::new();
                for (ops, events) in ops {
                    let change = Change {
                        writes: ops.iter().map(|op| write(op, &model)).collect(),
                        audit: (0..*events).map(|n| event(&format!("did.{n}"), NAMES[0])).collect(),
                    };
                    wanted.push(model.change(&change, later(7)));
                    batch.push(change);
                }
                let answers = store.commit(&batch, later(7)).await;
                let answers = answers.map_err(|error| TestCaseError::fail(error.to_string()))?;
                for (answer, (wanted, change)) in answers.into_iter().zip(wanted.into_iter().zip(&batch)) {
                    if let Ok(applied) = &answer {
                        prop_assert_eq!(applied.position.seq, model.seq);
                    }
                    let answer = answer.map(|applied| (applied.rows, applied.audit));
                    prop_assert_eq!(answer, wanted, "{:?}", change);
                }
            }
            Step::Flush(seen) => {
                let seen: Vec<_> = seen.iter().map(|(who, at)| (key(NAMES[*who]), later(*at))).collect();
                model.flush(&seen);
                prop_assert_eq!(store.flush_last_seen(&seen).await, Ok(()));
            }
        }
    }
    let mut loaded = store.load().await.map_err(|error| TestCaseError::fail(error.to_string()))?;
    sort(&mut loaded);
    prop_assert_eq!(loaded, model.loaded(epoch));
    let audit = store.audit(&AuditQuery { limit: 1_000, ..AuditQuery::default() }).await;
    prop_assert_eq!(audit, Ok(model.audit.iter().rev().cloned().collect::<Vec<_>>()));
    for name in NAMES {
        let name: ServiceKey = key(name);
        let mut wanted: Vec<_> = model.intervals.iter().filter(|row| row.service == name).cloned().collect();
        wanted.reverse();
        wanted.sort_by_key(|row| std::cmp::Reverse(row.from));
        prop_assert_eq!(store.history(&name, 1_000, true).await, Ok(wanted));
    }
    Ok(())
}

/// Runs generated histories, each in a fresh place.
pub(crate) fn histories_agree_with_the_model<P: Place>(fresh: impl Fn() -> P) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: 48, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        let place = fresh();
        runtime.block_on(async {
            let store = place.open().await;
            let verdict = run(&*store, &steps).await;
            store.close().await;
            verdict
        })?;
    });
}
