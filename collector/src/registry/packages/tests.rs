//! The life of a package, planned on a real roster without a store.

use rollcall_common::{
    id::{Generation, Kind, Seq},
    identity::{Pin, Serial},
    time::{BootTime, Now},
};

use super::*;
use crate::store::{
    Position,
    rows::{Applied, CertRow, IdentityRow},
    suite::samples,
};

struct Fleet {
    roster: Roster,
    now: Now,
    seq: u64,
}

fn by() -> By {
    By { actor: "credential:test".into(), request_id: Some("r".into()) }
}

fn blank(key: ServiceKey) -> Register {
    Register::new(key, None, Source::Config, by())
}

fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

impl Fleet {
    fn new() -> Self {
        let now = Now { boot: BootTime(1_000), wall: samples::NOON };
        let mut fleet = Self { roster: Roster::default(), now, seq: 0 };
        fleet.does(&blank(key("poller/site-3"))).unwrap();
        fleet
    }

    fn apply(&mut self, change: &Change) {
        let mut next = || {
            self.seq += 1;
            Seq(self.seq)
        };
        let rows = change.writes.iter().map(|_| Some(next())).collect();
        let audit = change.audit.iter().map(|_| next()).collect();
        self.roster.apply(change, &Applied { rows, audit, position: Position { epoch: 1, seq: Seq(self.seq) } });
    }

    fn does<R: Request>(&mut self, request: &R) -> Result<R::Answer, Refusal> {
        let (change, answer) = request.plan(World { roster: &self.roster, now: self.now })?;
        self.apply(&change);
        Ok(answer)
    }

    fn later(&mut self, by: Duration) {
        self.now = Now { boot: self.now.boot.after(by), wall: self.now.wall.after(by) };
    }

    fn contents(&self, n: u8) -> Contents {
        Contents {
            token: samples::token_id(n),
            token_hash: SecretHash([n; 32]),
            secret_hash: SecretHash([n + 100; 32]),
            sealed: vec![n; 40],
            expires_at: self.now.wall.after(Duration::from_secs(3600)),
            policy: TokenPolicy::single(Kind::Agent, IdRule::Assigned, self.now.wall, self.now.wall),
        }
    }

    fn create(&self, n: u8, service: &str) -> CreatePackage {
        let parent = (key(service).kind == Kind::Agent).then(|| key("poller/site-3").id);
        CreatePackage {
            id: PackageId(samples::token_id(n)),
            register: Register { parent, ..blank(key(service)) },
            adopt: false,
            contents: self.contents(n),
            settings: PackageSettings::default(),
            note: "roof".into(),
        }
    }

    fn fetch(&mut self, n: u8, secret: u8, to: &str) -> Result<Box<PackageRow>, Refusal> {
        let id = PackageId(samples::token_id(n));
        self.does(&FetchPackage { id, secret_hash: SecretHash([secret + 100; 32]), to: to.into(), by: by() })
    }

    fn package(&self, n: u8) -> &PackageRow {
        self.roster.packages().get(PackageId(samples::token_id(n))).unwrap()
    }

    /// The service enrolled with a token and beat.
    fn enrolls(&mut self, service: &str, token: u8) {
        let cert = CertRow {
            serial: Serial::random(Generation(1)).unwrap(),
            key: Pin([token; 32]),
            spki: vec![1],
            not_after: self.now.wall.after(Duration::from_secs(86_400)),
        };
        let row = IdentityRow {
            service: key(service),
            current: cert,
            pending: None,
            enrolled_via: samples::token_id(token),
            enrolled_at: self.now.wall,
            rejoins: 0,
            rejoins_since: self.now.wall,
            rejoin_limit: None,
            machine: None,
        };
        self.apply(&Change { writes: vec![Write::PutIdentity { row: Box::new(row), expect: None }], audit: vec![] });
    }

    fn beats(&mut self, service: &str) -> Option<Change> {
        let entry = self.roster.get(&key(service)).unwrap();
        let change = activation(&self.roster, entry, None, self.now.wall);
        if let Some(change) = &change {
            self.apply(change);
        }
        change
    }
}

fn problem<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> PackageProblem {
    match outcome {
        Err(Refusal::Package(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_package_is_row_token_and_package_in_one_change() {
    let mut fleet = Fleet::new();
    let create = fleet.create(1, "agent/edge-17");
    let (change, ()) = create.plan(World { roster: &fleet.roster, now: fleet.now }).unwrap();
    let kinds: Vec<_> =
        change.writes.iter().map(|write| format!("{write:?}").split(['(', ' ']).next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["InsertService", "InsertToken", "PutPackage"]);
    let actions: Vec<_> = change.audit.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["service.registered", "token.created", "package.created"]);
    fleet.apply(&change);
    let row = &fleet.roster.get(&key("agent/edge-17")).unwrap().row;
    assert_eq!((row.source, row.status), (Source::EdgeOnboarding, Status::Pending));
    let token = fleet.roster.token(samples::token_id(1)).unwrap();
    assert_eq!(token.policy.id_rule, IdRule::Fixed(key("agent/edge-17").id));
    assert_eq!((token.policy.max_uses, token.policy.parent.clone()), (1, Some(key("poller/site-3").id)));
    assert_eq!(fleet.package(1).status, PackageStatus::Issued);
}

#[test]
fn parents_and_duplicates_are_refused() {
    let mut fleet = Fleet::new();
    let mut orphan = fleet.create(1, "agent/edge-17");
    orphan.register.parent = Some(key("poller/nowhere").id);
    assert!(matches!(fleet.does(&orphan), Err(Refusal::Parent(_))));
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    let again = fleet.create(2, "agent/edge-17");
    assert!(matches!(problem(fleet.does(&again)), PackageProblem::Another(..)));
    fleet
        .does(&RevokePackage { id: PackageId(samples::token_id(1)), service: false, reason: String::new(), by: by() })
        .unwrap();
    assert!(matches!(fleet.does(&again), Err(Refusal::Exists(_))), "taking a row over is asked for");
    fleet.does(&CreatePackage { adopt: true, ..again }).unwrap();
    assert_eq!(fleet.roster.packages().of(&key("agent/edge-17")).count(), 2);
}

#[test]
fn only_what_never_lived_is_taken_over() {
    let mut fleet = Fleet::new();
    let parent = Some(key("poller/site-3").id);
    fleet.does(&Register { parent, ..blank(key("agent/edge-17")) }).unwrap();
    let adopt = CreatePackage { adopt: true, ..fleet.create(1, "agent/edge-17") };
    let mut other = adopt.clone();
    fleet.does(&blank(key("poller/site-4"))).unwrap();
    other.register.parent = Some(key("poller/site-4").id);
    assert!(matches!(fleet.does(&other), Err(Refusal::Invalid(_))), "another parent");
    fleet.enrolls("agent/edge-17", 9);
    assert!(matches!(problem(fleet.does(&adopt)), PackageProblem::Bound(_)));
}

#[test]
fn the_first_to_fetch_may_fetch_again_for_a_while_and_nobody_else() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    assert_eq!(problem(fleet.fetch(1, 2, "a")), PackageProblem::Unknown, "a wrong secret");
    assert_eq!(problem(fleet.fetch(7, 1, "a")), PackageProblem::Unknown, "an unknown package");
    let first = fleet.fetch(1, 1, "a").unwrap();
    assert_eq!(first.sealed, Some(vec![1; 40]));
    assert_eq!(fleet.package(1).status, PackageStatus::Delivered);
    fleet.later(FETCH_AGAIN - Duration::from_secs(1));
    assert_eq!(fleet.fetch(1, 1, "a").unwrap().sealed, first.sealed);
    assert!(matches!(problem(fleet.fetch(1, 1, "b")), PackageProblem::Gone(_, PackageStatus::Delivered)));
    fleet.later(Duration::from_secs(1));
    assert!(matches!(problem(fleet.fetch(1, 1, "a")), PackageProblem::Gone(_, PackageStatus::Delivered)));
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap(), Swept { wiped: 1, ..Swept::default() });
    assert_eq!(fleet.package(1).sealed, None);
    assert!(!needs_sweep(&fleet.roster, fleet.now.wall), "once is enough");
}

#[test]
fn the_first_heartbeat_of_whom_it_let_in_activates_it() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    fleet.fetch(1, 1, "a").unwrap();
    fleet.enrolls("agent/edge-17", 1);
    assert!(awaited(&fleet.roster, fleet.roster.get(&key("agent/edge-17")).unwrap()));
    let change = fleet.beats("agent/edge-17").unwrap();
    assert_eq!(change.writes.len(), 2, "service and package in one change");
    let row = fleet.package(1);
    assert_eq!(
        (row.status, row.sealed.clone(), row.activated_at),
        (PackageStatus::Activated, None, Some(fleet.now.wall))
    );
    assert!(fleet.beats("agent/edge-17").is_none(), "only the first one");
    assert!(matches!(
        problem(fleet.does(&ReissuePackage { id: row_id(1), contents: fleet.contents(2), by: by() })),
        PackageProblem::Arrow(_)
    ));
}

fn row_id(n: u8) -> PackageId {
    PackageId(samples::token_id(n))
}

#[test]
fn whoever_came_in_another_way_activates_nothing() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    fleet.fetch(1, 1, "a").unwrap();
    fleet.enrolls("agent/edge-17", 8);
    fleet.beats("agent/edge-17").unwrap();
    assert_eq!(fleet.package(1).status, PackageStatus::Delivered);
    let reissue = ReissuePackage { id: row_id(1), contents: fleet.contents(2), by: by() };
    assert!(matches!(problem(fleet.does(&reissue)), PackageProblem::Bound(_)), "it could let nobody in");
}

#[test]
fn issuing_again_ends_what_was_handed_out() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    fleet.fetch(1, 1, "a").unwrap();
    fleet.later(Duration::from_secs(3600));
    assert!(matches!(problem(fleet.fetch(1, 1, "a")), PackageProblem::Gone(_, PackageStatus::Expired)));
    fleet.does(&ReissuePackage { id: row_id(1), contents: fleet.contents(2), by: by() }).unwrap();
    let row = fleet.package(1);
    assert_eq!((row.status, row.issues, row.delivered_at), (PackageStatus::Issued, 2, None));
    assert!(fleet.roster.token(samples::token_id(1)).unwrap().revoked_at.is_some());
    assert!(fleet.roster.token(samples::token_id(2)).unwrap().revoked_at.is_none());
    assert_eq!(problem(fleet.fetch(1, 1, "a")), PackageProblem::Unknown, "the old secret opens nothing");
    fleet.fetch(1, 2, "b").unwrap();
}

#[test]
fn what_is_taken_back_holds_nothing_and_lets_nobody_in() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    let revoke = RevokePackage { id: row_id(1), service: true, reason: "stolen".into(), by: by() };
    assert!(matches!(
        problem(fleet.does(&DeletePackage { id: row_id(1), reason: String::new(), by: by() })),
        PackageProblem::Arrow(_)
    ));
    fleet.does(&revoke).unwrap();
    assert_eq!((fleet.package(1).status, fleet.package(1).sealed.clone()), (PackageStatus::Revoked, None));
    assert!(fleet.roster.token(samples::token_id(1)).unwrap().revoked_at.is_some());
    assert_eq!(fleet.roster.get(&key("agent/edge-17")).unwrap().row.status, Status::Revoked);
    assert!(matches!(problem(fleet.does(&revoke)), PackageProblem::Arrow(_)));
    fleet.does(&DeletePackage { id: row_id(1), reason: String::new(), by: by() }).unwrap();
    fleet.later(DELETED_KEPT);
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap(), Swept { removed: 1, ..Swept::default() });
    assert!(fleet.roster.packages().is_empty());
    assert_eq!(fleet.roster.packages().of(&key("agent/edge-17")).count(), 0);
}

#[test]
fn time_is_recorded_once() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    fleet.later(Duration::from_secs(3600));
    assert!(needs_sweep(&fleet.roster, fleet.now.wall));
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap(), Swept { expired: 1, ..Swept::default() });
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap(), Swept::default());
    assert_eq!((fleet.package(1).status, fleet.package(1).sealed.clone()), (PackageStatus::Expired, None));
    fleet.later(ENDED_KEPT);
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap().removed, 1);
}

/// Enrolled in time and slow to beat: nobody's package expires under them.
#[test]
fn who_came_in_before_the_end_may_beat_after_it() {
    let mut fleet = Fleet::new();
    fleet.does(&fleet.create(1, "agent/edge-17")).unwrap();
    fleet.fetch(1, 1, "192.0.2.7").unwrap();
    fleet.enrolls("agent/edge-17", 1);
    fleet.later(Duration::from_secs(3600));
    assert_eq!(fleet.does(&SweepPackages { by: by() }).unwrap(), Swept { wiped: 1, ..Swept::default() });
    assert!(!needs_sweep(&fleet.roster, fleet.now.wall));
    fleet.beats("agent/edge-17").unwrap();
    assert_eq!(fleet.package(1).status, PackageStatus::Activated);
}
