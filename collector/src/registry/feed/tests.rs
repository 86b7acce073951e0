use std::collections::BTreeMap;

use proptest::prelude::*;
use rollcall_common::{
    health::{Health, HealthReport, Text},
    id::{BootId, Seq, ServiceKey},
    lease::Presence,
    lifecycle::Status,
    service::Pairs,
    time::{BootTime, Timestamp},
};
use serde_json::Value;

use super::{ring::Ring, *};
use crate::{
    http::fixture::row,
    registry::roster::Roster,
    store::{
        Position,
        rows::{Applied, AuditDraft, Change, IntervalRow, Loaded, Write},
    },
};

const NAMES: [&str; 4] = ["poller/p", "agent/a", "agent/b", "checker/c"];

#[derive(Debug, Clone)]
enum Op {
    Insert(usize),
    Status(usize, usize),
    Describe(usize, u8),
    Note(usize, usize),
    Remove(usize),
    Interval(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..NAMES.len();
    prop_oneof![
        4 => who.clone().prop_map(Op::Insert),
        3 => (who.clone(), 0..Status::ALL.len()).prop_map(|(who, to)| Op::Status(who, to)),
        2 => (who.clone(), 0..4_u8).prop_map(|(who, site)| Op::Describe(who, site)),
        2 => (who.clone(), 0..3_usize).prop_map(|(who, health)| Op::Note(who, health)),
        1 => who.clone().prop_map(Op::Remove),
        4 => (who, 0..Presence::ALL.len()).prop_map(|(who, presence)| Op::Interval(who, presence)),
    ]
}

/// A roster that takes writes as the actor does, and the feed that comes of it.
struct Fleet {
    roster: Roster,
    deriver: Deriver,
    /// What is on record, kept the naive way.
    presence: BTreeMap<ServiceKey, Presence>,
    seq: Seq,
}

impl Fleet {
    fn new() -> Self {
        let loaded = Loaded { position: Position { epoch: 7, seq: Seq(40) }, ..Loaded::default() };
        Self {
            roster: Roster::from_loaded(&loaded),
            deriver: Deriver::from_loaded(&loaded),
            presence: BTreeMap::new(),
            seq: loaded.position.seq,
        }
    }

    fn write(&self, op: &Op) -> Option<Write> {
        let key = |who: &usize| NAMES[*who].parse::<ServiceKey>().unwrap();
        let held = |who: &usize| self.roster.get(&key(who)).map(|entry| (key(who), entry.row.seq));
        Some(match op {
            Op::Insert(who) => {
                held(who).is_none().then_some(())?;
                Write::InsertService(Box::new(row(NAMES[*who])))
            }
            Op::Status(who, to) => {
                let (service, expect) = held(who)?;
                let to = Status::ALL[*to];
                Write::SetStatus { service, expect, to, at: Timestamp(5), seen: None, archived: false }
            }
            Op::Describe(who, site) => {
                let (service, expect) = held(who)?;
                let labels = Pairs::try_from(BTreeMap::from([("site".to_owned(), site.to_string())])).unwrap();
                Write::Describe { service, expect, metadata: labels.clone(), labels }
            }
            Op::Note(who, health) => {
                let health = [Health::Healthy, Health::Degraded, Health::Unhealthy][*health];
                let report = HealthReport { health, reason: Text::new("because").unwrap() };
                Write::Note { service: held(who)?.0, health: Some((report, Timestamp(6))), facts: None }
            }
            Op::Remove(who) => {
                let (service, expect) = held(who)?;
                Write::RemoveService { service, expect }
            }
            Op::Interval(who, presence) => Write::BeginInterval(Box::new(IntervalRow {
                service: held(who)?.0,
                from: Timestamp(7),
                to: None,
                presence: Presence::ALL[*presence],
                cause: "beat".into(),
                evidence: Value::Null,
                decided_at: Timestamp(8),
                recorded_at: None,
                superseded_at: None,
                boot_id: BootId([1; 16]),
                from_boot: BootTime(7),
            })),
        })
    }

    fn take(&mut self, op: &Op, feed: &Feed) {
        let Some(write) = self.write(op) else { return };
        if let Write::BeginInterval(row) = &write {
            self.presence.insert(row.service.clone(), row.presence);
        }
        if let Write::InsertService(row) = &write {
            self.presence.insert(row.key.clone(), Presence::NeverSeen);
        }
        self.seq = self.seq.next();
        let audit = AuditDraft {
            at: Timestamp(9),
            action: "service.did".into(),
            actor: "credential:x".into(),
            object: "agent/a".into(),
            request_id: Some("r-1".into()),
            details: BTreeMap::new(),
        };
        let position = Position { epoch: 7, seq: self.seq };
        let applied = Applied { rows: vec![Some(self.seq)], audit: Vec::new(), position };
        let change = Change { writes: vec![write], audit: vec![audit] };
        let (deriver, mut events) = (&mut self.deriver, Vec::new());
        self.roster.repeat(&change, &applied, |write, seq, (before, after)| {
            let audit = change.audit.first();
            events.extend(deriver.take(Telling { write, seq, before, after, audit, at: Timestamp(1) }));
        });
        assert_eq!(events.len(), 1, "each of these writes is told");
        feed.add(&events, self.seq, BootTime(self.seq.0));
    }

    /// What a list would show.
    fn shown(&self) -> BTreeMap<String, Value> {
        let show = |entry: &crate::registry::roster::Entry| {
            let row = &entry.row;
            let health = row.health.as_ref().map_or(Health::Unchecked, |(report, _)| report.health);
            let shown = serde_json::json!({
                "status": row.status, "presence": self.presence[&row.key], "health": health,
                "labels": row.labels, "metadata": row.metadata, "parent": row.parent,
            });
            (row.key.to_string(), shown)
        };
        self.roster.iter().map(show).collect()
    }
}

/// What a reader does with an event.
fn replay(state: &mut BTreeMap<String, Value>, event: &Value) {
    let key = format!("{}/{}", event["kind"].as_str().unwrap(), event["id"].as_str().unwrap());
    match event["type"].as_str().unwrap() {
        "service.removed" => drop(state.remove(&key)),
        "service.registered" => {
            let mut shown = serde_json::json!({ "parent": null });
            for field in ["status", "presence", "health", "labels", "metadata", "parent"] {
                if let Some(value) = event.get(field) {
                    shown[field] = value.clone();
                }
            }
            state.insert(key, shown);
        }
        _ => {
            let shown = state.get_mut(&key).expect("an event of a service that was told of");
            for field in ["status", "presence", "health", "labels", "metadata"] {
                if let Some(value) = event.get(field) {
                    shown[field] = value.clone();
                }
            }
        }
    }
}

/// Everything behind a position, as a reader gets it.
fn follow(feed: &Feed, mut seq: Seq) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    loop {
        match feed.after(seq) {
            Next::Gone => return None,
            Next::Wait(_) => return Some(all),
            Next::Batch(batch) => {
                let frames = batch.frames_after(seq);
                let events = batch.events().iter().filter(|kept| kept.seq > seq);
                let mut same = Vec::new();
                for kept in events {
                    same.extend_from_slice(batch.frame(kept));
                    all.push(serde_json::from_slice(batch.json(kept)).unwrap());
                }
                assert_eq!(frames, same, "one print serves both");
                seq = batch.last();
            }
        }
    }
}

proptest! {
    /// Whoever reads a page at a position and follows from there ends with the roster.
    #[test]
    fn a_replay_over_any_snapshot_is_the_roster(ops in prop::collection::vec(op(), 1..80), at in 0..80_usize) {
        let (mut fleet, feed) = (Fleet::new(), Feed::new(Position { epoch: 7, seq: Seq(40) }));
        let mut snapshot = None;
        for (n, op) in ops.iter().enumerate() {
            if n == at {
                snapshot = Some((fleet.shown(), fleet.seq));
            }
            fleet.take(op, &feed);
        }
        feed.publish(BootTime(1_000));
        let (mut state, seq) = snapshot.unwrap_or_else(|| (fleet.shown(), fleet.seq));
        for event in follow(&feed, seq).unwrap() {
            replay(&mut state, &event);
        }
        prop_assert_eq!(state, fleet.shown());
    }

    /// A reader gets every event behind its position exactly once and in order, or learns that it is gone;
    /// the ring never holds more than it may.
    #[test]
    fn a_ring_is_complete_or_says_so(
        steps in prop::collection::vec((0..12_u64, prop::bool::ANY), 1..60),
        most in 1..40_usize,
        from in 0..200_u64,
    ) {
        let mut fleet = Fleet::new();
        let feed = Feed::new(Position::default());
        fleet.take(&Op::Insert(0), &feed);
        feed.publish(BootTime(1));
        let Next::Batch(batch) = feed.after(Seq(0)) else {
            return Err(TestCaseError::fail("nothing was told"));
        };
        let sample = batch.events().first().map(|kept| kept.subject.clone()).unwrap();
        let mut ring = Ring::new(Position { epoch: 3, seq: Seq(10) }, Limits { events: most, bytes: usize::MAX });
        let (mut seq, mut published, mut told) = (10, 10, Vec::new());
        for (events, publish) in steps {
            for _ in 0..events {
                seq += 2;
                told.push(seq);
                ring.push(&Event {
                    seq: Seq(seq),
                    at: Timestamp(0),
                    kind: EventKind::Status,
                    subject: sample.clone(),
                    presence: Presence::Alive,
                    health: Health::Healthy,
                    reason: None,
                    previous: BTreeMap::new(),
                    now: BTreeMap::new(),
                    actor: None,
                    request_id: None,
                });
            }
            seq += 1;
            ring.reach(Seq(seq));
            if publish {
                ring.publish(BootTime(0));
                published = seq;
            }
            prop_assert!(ring.depth().events <= most);
        }
        let (floor, _) = ring.range();
        let mut at = from;
        let mut got = Vec::new();
        let gone = loop {
            match ring.after(Seq(at)) {
                Next::Gone => break true,
                Next::Wait(upto) => {
                    prop_assert_eq!(upto.0, at.max(published));
                    break false;
                }
                Next::Batch(batch) => {
                    got.extend(batch.events().iter().map(|kept| kept.seq.0).filter(|seq| *seq > at));
                    at = batch.last().0;
                }
            }
        };
        prop_assert_eq!(gone, from < floor.0 || from > seq);
        if !gone {
            let wanted: Vec<_> = told.into_iter().filter(|seq| *seq > from && *seq <= published).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}

#[test]
fn an_event_says_what_was_and_who_did_it() {
    let (mut fleet, feed) = (Fleet::new(), Feed::new(Position { epoch: 7, seq: Seq(40) }));
    fleet.take(&Op::Insert(1), &feed);
    fleet.take(&Op::Status(1, 3), &feed);
    fleet.take(&Op::Interval(1, 3), &feed);
    feed.publish(BootTime(1_000));
    let events = follow(&feed, Seq(40)).unwrap();
    let [registered, status, presence] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((registered["seq"].as_u64(), registered["epoch"].as_u64()), (Some(41), Some(7)));
    assert_eq!((&registered["parent"], &registered["presence"]), (&"p".into(), &"never_seen".into()));
    assert_eq!(status["previous"]["status"], "pending");
    assert_eq!((&status["actor"], &status["request_id"]), (&"credential:x".into(), &"r-1".into()));
    assert_eq!((&presence["previous"]["presence"], &presence["reason"]), (&"never_seen".into(), &"beat".into()));
    assert_eq!(presence["presence"], "lost");
}
