//! Acts, edits and applications as plans on a roster, and any history of them against a naive model.
//!
//! Each test plays the store by applying what was planned.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use rollcall_common::{
    id::Seq,
    lifecycle::Status,
    time::{BootTime, Now},
};

use super::{
    acts::{CASCADE, Move, Moved, Outlook, Slice},
    apply::{Apply, Item, Outcome},
    edit::{Edit, Patch},
    *,
};
use crate::store::{Position, rows::Applied};

const START: Timestamp = Timestamp(1_795_229_160_000);

pub(super) struct Fleet {
    pub(super) roster: Roster,
    pub(super) now: Now,
    seq: u64,
}

impl Fleet {
    pub(super) fn new() -> Self {
        Self { roster: Roster::default(), now: Now { boot: BootTime(1), wall: START }, seq: 0 }
    }

    pub(super) fn plan<R: Request>(&self, request: &R) -> Result<(Change, R::Answer), Refusal> {
        request.plan(World { roster: &self.roster, now: self.now })
    }

    pub(super) fn does<R: Request>(&mut self, request: &R) -> Result<R::Answer, Refusal> {
        let (change, answer) = self.plan(request)?;
        let mut next = || {
            self.seq += 1;
            Seq(self.seq)
        };
        let rows = change.writes.iter().map(|_| Some(next())).collect();
        let audit = change.audit.iter().map(|_| next()).collect();
        self.roster.apply(&change, &Applied { rows, audit, position: Position { epoch: 1, seq: Seq(self.seq) } });
        Ok(answer)
    }

    pub(super) fn register(&mut self, key: &str, parent: Option<&str>) -> Result<(), Refusal> {
        let parent = parent.map(|id| id.parse().unwrap());
        self.does(&Register::new(key.parse().unwrap(), parent, Source::Http, By::system()))
    }

    pub(super) fn act(&mut self, key: &str, act: Act, cascade: bool) -> Result<Moved, Refusal> {
        self.does(&Move { cascade, ..Move::new(key.parse().unwrap(), act, "why", By::system()) })
    }

    pub(super) fn status(&self, key: &str) -> Option<Status> {
        self.roster.get(&key.parse().unwrap()).map(|entry| entry.row.status)
    }

    pub(super) fn beat(&mut self, key: &str) {
        let key: ServiceKey = key.parse().unwrap();
        let Some(change) = self.roster.get(&key).and_then(|entry| activation(entry, None, self.now.wall)) else {
            return;
        };
        self.seq += 1;
        let position = Position { epoch: 1, seq: Seq(self.seq) };
        self.roster.apply(&change, &Applied { rows: vec![Some(position.seq)], audit: Vec::new(), position });
    }

    fn row(&self, key: &str) -> ServiceRow {
        ServiceRow::clone(&self.roster.get(&key.parse().unwrap()).unwrap().row)
    }
}

fn patch(text: &str) -> Patch {
    serde_json::from_str(text).unwrap()
}

fn edit(key: &str, text: &str) -> Edit {
    Edit {
        key: key.parse().unwrap(),
        patch: patch(text),
        expect: None,
        trust_domain: "fleet.example".parse().unwrap(),
        by: By::system(),
    }
}

/// p > a, b > w, x under a, y under b; and q, alone.
fn family() -> Fleet {
    let mut fleet = Fleet::new();
    for (key, parent) in FAMILY {
        fleet.register(key, parent).unwrap();
    }
    fleet
}

const FAMILY: [(&str, Option<&str>); 7] = [
    ("poller/p", None),
    ("poller/q", None),
    ("agent/a", Some("p")),
    ("agent/b", Some("p")),
    ("checker/w", Some("a")),
    ("checker/x", Some("a")),
    ("checker/y", Some("b")),
];

#[test]
fn a_parent_goes_with_its_children_or_not_at_all() {
    let mut fleet = family();
    let refusal = fleet.act("poller/p", Act::Delete, false).unwrap_err();
    assert_eq!(refusal, Refusal::HasChildren { service: "poller/p".parse().unwrap(), children: 2 });
    let (change, moved) = fleet
        .plan(&Move { cascade: true, ..Move::new("poller/p".parse().unwrap(), Act::Delete, "", By::system()) })
        .unwrap();
    assert_eq!(moved, Moved { services: 6, more: false });
    // Leaves first, so that whoever stops reading has never seen an orphan.
    let order: Vec<String> = change.audit.iter().map(|event| event.object.clone()).collect();
    assert_eq!(order, ["checker/w", "checker/x", "agent/a", "checker/y", "agent/b", "poller/p"]);
    assert!(change.audit.iter().all(|event| event.details["after"] == json!("deleted")));
    fleet.act("poller/p", Act::Delete, true).unwrap();
    assert_eq!(fleet.status("checker/y"), Some(Status::Deleted));
    assert_eq!(fleet.status("poller/q"), Some(Status::Pending));
    // Back from above only.
    assert!(matches!(
        fleet.act("checker/y", Act::Recover, false),
        Err(Refusal::Parent(ParentProblem::Barred(_, Status::Deleted)))
    ));
    for key in ["poller/p", "agent/b", "checker/y"] {
        fleet.act(key, Act::Recover, false).unwrap();
    }
    // What is removed leaves no children behind.
    fleet.act("agent/b", Act::Delete, true).unwrap();
    assert!(matches!(fleet.act("agent/b", Act::Remove, false), Err(Refusal::HasChildren { children: 1, .. })));
    fleet.act("checker/y", Act::Remove, false).unwrap();
    fleet.act("agent/b", Act::Remove, false).unwrap();
    assert_eq!(fleet.status("agent/b"), None);
}

#[test]
fn a_revocation_takes_along_what_is_asked_and_what_is_left() {
    let mut fleet = family();
    fleet.act("poller/p", Act::Revoke, false).unwrap();
    assert_eq!(fleet.status("agent/a"), Some(Status::Pending), "alone it leaves the children");
    assert_eq!(fleet.act("poller/p", Act::Revoke, true), Ok(Moved { services: 5, more: false }));
    assert!(
        FAMILY.iter().filter(|(key, _)| *key != "poller/q").all(|(key, _)| fleet.status(key) == Some(Status::Revoked))
    );
    assert!(matches!(fleet.act("poller/p", Act::Revoke, true), Err(Refusal::Arrow(_))));
    assert!(matches!(fleet.act("poller/p", Act::Unrevoke, true), Err(Refusal::Invalid(_))));
}

/// A subtree that is larger than one change goes in several, from the leaves to the root, and the same
/// request takes up where it was left.
#[test]
fn a_large_subtree_goes_in_slices() {
    let mut fleet = Fleet::new();
    fleet.register("poller/p", None).unwrap();
    fleet.register("agent/a", Some("p")).unwrap();
    let checkers = 2 * CASCADE + 10;
    for n in 0..checkers {
        fleet.register(&format!("checker/c{n}"), Some("a")).unwrap();
    }
    let mut done = Vec::new();
    loop {
        let moved = fleet.act("poller/p", Act::Delete, true).unwrap();
        done.push(moved.services);
        if !moved.more {
            break;
        }
        assert_ne!(fleet.status("poller/p"), Some(Status::Deleted), "the root goes last");
    }
    assert_eq!(done, [CASCADE, CASCADE, 12]);
    assert!(fleet.roster.iter().all(|entry| entry.row.status == Status::Deleted));
}

#[test]
fn an_edit_changes_what_it_names() {
    let mut fleet = family();
    let changed = fleet
        .does(&edit("agent/a", r#"{"labels":{"site":"3","rack":"b7"},"placeholder":true,"component_id":"c-1"}"#))
        .unwrap();
    assert_eq!(changed.len(), 4);
    let seq = fleet.row("agent/a").seq;
    let more =
        fleet.does(&edit("agent/a", r#"{"labels":{"rack":null,"env":"prod"},"implicit_children":true}"#)).unwrap();
    let fields: Vec<&str> = more.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["labels.env", "labels.rack", "implicit_children"]);
    let row = fleet.row("agent/a");
    assert_eq!(row.labels.iter().collect::<Vec<_>>(), [("env", "prod"), ("site", "3")]);
    assert_eq!((row.component_id.as_deref(), row.placeholder, row.implicit_children), (Some("c-1"), true, true));

    let stale = Edit { expect: Some(seq), ..edit("agent/a", r#"{"placeholder":false}"#) };
    assert!(matches!(fleet.does(&stale), Err(Refusal::Changed { expected, .. }) if expected == seq));
    let (nothing, _) = fleet.plan(&edit("agent/a", r#"{"labels":{"env":"prod","gone":null}}"#)).unwrap();
    assert!(nothing.writes.is_empty() && nothing.audit.is_empty(), "what changes nothing leaves no trace");
    fleet.does(&edit("agent/a", r#"{"labels":null,"component_id":null}"#)).unwrap();
    assert!(fleet.row("agent/a").labels.is_empty());
    assert_eq!(fleet.row("agent/a").component_id, None);
    for bad in [r#"{"labels":{"Site":"3"}}"#, r#"{"ephemeral_after_secs":0}"#, r#"{"ephemeral_after_secs":9999999}"#] {
        assert!(matches!(fleet.does(&edit("agent/a", bad)), Err(Refusal::Invalid(_))), "{bad}");
    }
    assert!(serde_json::from_str::<Patch>(r#"{"status":"active"}"#).is_err());
    fleet.act("poller/q", Act::Delete, false).unwrap();
    assert!(matches!(fleet.does(&edit("poller/q", "{}")), Err(Refusal::Deleted(_))));
}

#[test]
fn a_spiffe_id_is_ours_or_that_of_kubernetes() {
    let (domain, key) = ("fleet.example".parse().unwrap(), "agent/a".parse().unwrap());
    let check = |source, id: Option<&str>| {
        edit::check_declared(&domain, &key, source, id.map(|id| id.parse().unwrap()).as_ref()).is_ok()
    };
    let foreign = Some("spiffe://k8s.example/ns/edge/sa/a");
    for source in Source::ALL {
        let k8s = source == Source::K8sSpiffe;
        assert!(check(source, Some("spiffe://fleet.example/agent/a")));
        assert_eq!(check(source, foreign), k8s, "{source}");
        assert_eq!(check(source, None), !k8s, "{source}");
        for other in
            ["spiffe://fleet.example/agent/b", "spiffe://fleet.example/poller/a", "spiffe://fleet.example/ns/a"]
        {
            assert!(!check(source, Some(other)), "{source} {other}");
        }
    }
}

#[test]
fn a_slice_does_what_it_can() {
    let mut fleet = family();
    let keys =
        ["checker/w", "checker/x", "checker/nobody", "agent/a", "poller/p"].map(|key| key.parse().unwrap()).into();
    let slice = Slice { keys, act: Act::Delete, reason: "spring".into(), by: By::system() };
    let refused = fleet.does(&slice).unwrap();
    let names: Vec<String> = refused.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(names, ["checker/nobody", "poller/p"]);
    assert!(matches!(refused[1].1, Refusal::HasChildren { children: 1, .. }));
    assert_eq!(fleet.status("agent/a"), Some(Status::Deleted));
}

#[derive(Debug, Clone)]
enum Step {
    Register(usize),
    Beat(usize),
    Act(usize, usize, bool),
    Edit(usize, u8),
    Apply(Vec<(usize, u8)>, bool),
    Slice(Vec<usize>, usize),
    Later,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..FAMILY.len();
    let act = 0..OPERATORS.len();
    let one = prop_oneof![
        3 => who.clone().prop_map(Step::Register),
        2 => who.clone().prop_map(Step::Beat),
        4 => (who.clone(), act.clone(), any::<bool>()).prop_map(|(who, act, cascade)| Step::Act(who, act, cascade)),
        1 => (who.clone(), any::<u8>()).prop_map(|(who, n)| Step::Edit(who, n % 3)),
        2 => (proptest::collection::vec((who.clone(), any::<u8>()), 0..6), any::<bool>())
            .prop_map(|(items, recover)| Step::Apply(items, recover)),
        1 => (proptest::collection::vec(who, 0..5), act).prop_map(|(who, act)| Step::Slice(who, act)),
        1 => Just(Step::Later),
    ];
    proptest::collection::vec(one, 0..40)
}

const OPERATORS: [Act; 6] = [Act::Revoke, Act::Unrevoke, Act::Delete, Act::Recover, Act::Remove, Act::Archive];

/// What the registry should hold, said as plainly as possible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model(BTreeMap<usize, (Status, bool, Option<u8>)>);

impl Model {
    fn status(&self, who: usize) -> Option<Status> {
        self.0.get(&who).map(|(status, ..)| *status)
    }

    fn parent(who: usize) -> Option<usize> {
        let (key, parent) = FAMILY[who];
        let kind = if key.starts_with("agent") { "poller" } else { "agent" };
        parent.map(|id| FAMILY.iter().position(|(key, _)| *key == format!("{kind}/{id}")).unwrap())
    }

    fn children(who: usize) -> impl Iterator<Item = usize> {
        (0..FAMILY.len()).filter(move |child| Self::parent(*child) == Some(who))
    }

    fn may_register(&self, who: usize) -> bool {
        !self.0.contains_key(&who)
            && Self::parent(who).is_none_or(|parent| self.status(parent).is_some_and(|status| !status.is_barred()))
    }

    /// The table of the design, nobody being bound and time standing still.
    fn arrow(&self, who: usize, act: Act) -> Option<Option<Status>> {
        let (status, seen, _) = self.0.get(&who)?;
        let alive = |who: usize| self.status(who).is_some_and(|status| status != Status::Deleted);
        match (act, status) {
            (Act::Revoke, Status::Pending | Status::Active | Status::Inactive) => Some(Some(Status::Revoked)),
            (Act::Archive, Status::Inactive) => Some(Some(Status::Revoked)),
            (Act::Delete, status) if *status != Status::Deleted && !Self::children(who).any(alive) => {
                Some(Some(Status::Deleted))
            }
            (Act::Recover, Status::Deleted) if Self::parent(who).is_none_or(alive) => {
                Some(Some(if *seen { Status::Inactive } else { Status::Pending }))
            }
            (Act::Remove, Status::Inactive | Status::Revoked | Status::Deleted)
                if !Self::children(who).any(|child| self.0.contains_key(&child)) =>
            {
                Some(None)
            }
            _ => None,
        }
    }

    fn act(&mut self, who: usize, act: Act) -> bool {
        match self.arrow(who, act) {
            Some(Some(to)) => self.0.entry(who).and_modify(|row| row.0 = to),
            Some(None) => return self.0.remove(&who).is_some(),
            None => return false,
        };
        true
    }

    fn cascade(&mut self, who: usize, act: Act) -> bool {
        if !matches!(act, Act::Revoke | Act::Delete) {
            return false;
        }
        let mut any = false;
        for child in Self::children(who) {
            for below in Self::children(child) {
                any |= self.act(below, act);
            }
            any |= self.act(child, act);
        }
        self.act(who, act) || any
    }
}

proptest! {
    /// Any history: the registry does what the model does, refuses what the model refuses, never leaves
    /// somebody below a deleted parent, and an application that is repeated changes nothing.
    #[test]
    fn any_history_is_that_of_the_model(steps in steps()) {
        let (mut fleet, mut model) = (Fleet::new(), Model::default());
        for step in steps {
            match step {
                Step::Register(who) => {
                    let (key, parent) = FAMILY[who];
                    let may = model.may_register(who);
                    prop_assert_eq!(fleet.register(key, parent).is_ok(), may);
                    if may {
                        model.0.insert(who, (Status::Pending, false, None));
                    }
                }
                Step::Beat(who) => {
                    let said = fleet.roster.get(&FAMILY[who].0.parse().unwrap()).map(|entry| entry.row.said());
                    fleet.beat(FAMILY[who].0);
                    if let Some(row) = model.0.get_mut(&who).filter(|row| !row.0.is_barred()) {
                        (row.0, row.1) = (Status::Active, true);
                    }
                    let now = fleet.roster.get(&FAMILY[who].0.parse().unwrap()).map(|entry| entry.row.said());
                    prop_assert_eq!(said, now, "a heartbeat never touches what an operator set");
                }
                Step::Act(who, act, cascade) => {
                    let act = OPERATORS[act];
                    let did = if cascade { model.cascade(who, act) } else { model.act(who, act) };
                    prop_assert_eq!(fleet.act(FAMILY[who].0, act, cascade).is_ok(), did, "{:?} of {}", act, who);
                }
                Step::Edit(who, n) => {
                    let row = model.0.get_mut(&who).filter(|row| row.0 != Status::Deleted);
                    let before = fleet.roster.get(&FAMILY[who].0.parse().unwrap()).map(|entry| entry.row.clone());
                    let asked = edit(FAMILY[who].0, &format!(r#"{{"labels":{{"n":"{n}"}}}}"#));
                    prop_assert_eq!(fleet.does(&asked).is_ok(), row.is_some());
                    if let (Some(row), Some(before)) = (row, before) {
                        row.2 = Some(n);
                        let after = fleet.row(FAMILY[who].0);
                        let same = ServiceRow { labels: before.labels.clone(), seq: before.seq, ..after };
                        prop_assert_eq!(&same, &*before, "an edit touches nothing else");
                    }
                }
                Step::Apply(items, recover) => {
                    let asked = Apply {
                        items: items.iter().map(|(who, n)| item(*who, *n)).collect(),
                        recover,
                        scope: Default::default(),
                        trust_domain: "fleet.example".parse().unwrap(),
                        by: By::system(),
                    };
                    let outcomes = fleet.does(&asked).unwrap();
                    let mut order: Vec<usize> = (0..items.len()).collect();
                    order.sort_by_key(|n| asked.items[*n].key.kind);
                    let mut named = std::collections::HashSet::new();
                    for n in order {
                        let (who, label) = items[n];
                        let expected = if named.insert(who) { model.apply(who, label, recover) } else { "refused" };
                        prop_assert_eq!(word(&outcomes[n]), expected, "item {} of {:?}", n, items);
                    }
                    let (change, again) = fleet.plan(&asked).unwrap();
                    prop_assert!(change.writes.is_empty() && change.audit.is_empty());
                    prop_assert!(again.iter().all(|outcome| matches!(outcome, Outcome::Unchanged | Outcome::Refused(_))));
                }
                Step::Slice(who, act) => {
                    let act = OPERATORS[act];
                    let keys: Vec<ServiceKey> = who.iter().map(|who| FAMILY[*who].0.parse().unwrap()).collect();
                    let mut outlook = Outlook::default();
                    let foreseen = keys
                        .iter()
                        .filter(|key| outlook.judge(&fleet.roster, key, act, fleet.now.wall).is_err())
                        .cloned()
                        .collect::<Vec<_>>();
                    let distinct = keys.iter().collect::<std::collections::HashSet<_>>().len() == keys.len();
                    if !distinct {
                        continue;
                    }
                    let refused = fleet.does(&Slice { keys, act, reason: String::new(), by: By::system() }).unwrap();
                    let refused: Vec<ServiceKey> = refused.into_iter().map(|(key, _)| key).collect();
                    prop_assert_eq!(&refused, &foreseen, "a preview foresees");
                    for who in who {
                        let done = model.act(who, act);
                        prop_assert_eq!(done, !refused.contains(&FAMILY[who].0.parse().unwrap()));
                    }
                }
                Step::Later => fleet.now.wall = fleet.now.wall.after(Duration::from_secs(60)),
            }
            for (who, (key, _)) in FAMILY.iter().enumerate() {
                prop_assert_eq!(fleet.status(key), model.status(who), "{}", key);
                let orphaned = model.status(who).is_some_and(|status| status != Status::Deleted)
                    && Model::parent(who).is_some_and(|parent| {
                        model.status(parent).is_none_or(|status| status == Status::Deleted)
                    });
                prop_assert!(!orphaned, "{} stands below nobody", key);
            }
        }
    }
}

fn item(who: usize, n: u8) -> Item {
    let (key, parent) = FAMILY[who];
    Item {
        key: key.parse().unwrap(),
        parent: parent.map(|id| id.parse().unwrap()),
        checker_kind: None,
        source: Source::Config,
        patch: patch(&format!(r#"{{"labels":{{"n":"{}"}}}}"#, n % 3)),
        past: None,
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated(_) => "updated",
        Outcome::Unchanged => "unchanged",
        Outcome::Refused(_) => "refused",
    }
}

impl Model {
    fn apply(&mut self, who: usize, n: u8, recover: bool) -> &'static str {
        let n = Some(n % 3);
        if self.may_register(who) {
            self.0.insert(who, (Status::Pending, false, n));
            return "created";
        }
        let Some((status, _, label)) = self.0.get(&who).copied() else { return "refused" };
        let recovered = status == Status::Deleted && recover && self.act(who, Act::Recover);
        if status == Status::Deleted && !recovered {
            return "refused";
        }
        self.0.entry(who).and_modify(|row| row.2 = n);
        if recovered || label != n { "updated" } else { "unchanged" }
    }
}
