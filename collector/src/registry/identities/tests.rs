//! The enrollment transaction as a plan: real certificates, a real roster, no store.
//!
//! Each test plays the store by applying what was planned; T-numbers are those of the attack list.

use super::*;
use crate::{
    ca::tests::{START, World as CaWorld, honest_csr, new_key},
    registry::{
        services::{
            Move, Register, activation,
            acts::{Reenroll, Reinstate},
        },
        tokens::{CreateToken, RevokeToken},
    },
    store::{
        Position,
        rows::{Applied, Said},
    },
};
use rollcall_common::{
    health::ProgressReport,
    id::Seq,
    lifecycle::Act,
    time::{BootTime, Now},
};

const FROM: &str = "192.0.2.7";

struct Fleet {
    _files: CaWorld,
    ca: Arc<Ca>,
    roster: Roster,
    now: Now,
    seq: u64,
}

impl Fleet {
    fn new() -> Self {
        let files = CaWorld::new();
        let ca = Arc::new(files.open());
        let now = Now { boot: BootTime(3_600_000), wall: START };
        Self { _files: files, ca, roster: Roster::default(), now, seq: 0 }
    }

    fn world(&self) -> World<'_> {
        World { roster: &self.roster, now: self.now }
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
        let (change, answer) = request.plan(self.world())?;
        self.apply(&change);
        Ok(answer)
    }

    fn later(&mut self, by: Duration) {
        self.now = Now { boot: self.now.boot.after(by), wall: self.now.wall.after(by) };
    }

    fn token(&mut self, change: impl FnOnce(&mut TokenPolicy)) -> TokenId {
        let (from, to) = (self.now.wall, self.now.wall.after(Duration::from_secs(3_600)));
        let mut policy = TokenPolicy::single(Kind::Poller, IdRule::Fixed("p1".parse().unwrap()), from, to);
        change(&mut policy);
        let id = TokenId::random().unwrap();
        let hash = Secret::from_bytes([7; 32]).hash(id);
        self.does(&CreateToken { id, hash, policy, note: String::new(), by: By::system() }).unwrap();
        id
    }

    fn asks(&self, token: TokenId) -> Enroll {
        let csr = Ca::read_csr(&honest_csr(&new_key())).unwrap();
        Enroll {
            token,
            csr,
            kind: Kind::Poller,
            parent: None,
            id: None,
            fresh_id: "01fresh".parse().unwrap(),
            checker_kind: None,
            labels: Pairs::default(),
            metadata: Pairs::default(),
            from: FROM.parse().unwrap(),
            ca: Arc::clone(&self.ca),
        }
    }

    fn code<R: Request>(&self, request: &R) -> Option<Code> {
        request.plan(self.world()).err().map(|refusal| refusal.code())
    }

    fn uses(&self, token: TokenId) -> u32 {
        self.roster.token(token).unwrap().uses
    }

    fn register(&mut self, key: &str, parent: Option<&str>) -> Result<(), Refusal> {
        self.does(&Register {
            key: key.parse().unwrap(),
            parent: parent.map(|p| p.parse().unwrap()),
            checker_kind: None,
            source: Source::Config,
            said: Said::default(),
            by: By::system(),
        })
    }

    fn act(&mut self, key: &str, act: Act) {
        self.does(&Move::new(key.parse().unwrap(), act, "", By::system())).unwrap();
    }
}

#[test]
fn a_label_decides_the_parent_and_nobody_else() {
    let labels = |pairs: &[(&str, &str)]| {
        let pairs: std::collections::BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Pairs::try_from(pairs).unwrap()
    };
    let mut fleet = Fleet::new();
    fleet.register("poller/poller-zrh", None).unwrap();
    fleet.register("poller/poller-ber", None).unwrap();
    let token = fleet.token(|p| {
        p.kind = Kind::Agent;
        p.id_rule = IdRule::Pattern("edge-*".parse().unwrap());
        p.parent_rule = "site=poller-{}".parse().ok();
        p.labels = labels(&[("tier", "edge")]);
        p.max_uses = 9;
        p.ephemeral_after = Some(3_600);
    });
    let asks = |fleet: &Fleet, site: &[(&str, &str)], id: &str| Enroll {
        kind: Kind::Agent,
        id: id.parse().ok(),
        labels: labels(site),
        ..fleet.asks(token)
    };
    assert_eq!(fleet.code(&asks(&fleet, &[], "edge-1")), Some(Code::ParentLabel));
    assert_eq!(fleet.code(&asks(&fleet, &[("site", "Zürich 3")], "edge-1")), Some(Code::ParentLabel));
    assert_eq!(fleet.code(&asks(&fleet, &[("site", "nowhere")], "edge-1")), Some(Code::ParentUnknown));
    assert_eq!(fleet.code(&asks(&fleet, &[("site", "zrh")], "core-1")), Some(Code::IdRule));
    let other = Enroll { parent: "poller-ber".parse().ok(), ..asks(&fleet, &[("site", "zrh")], "edge-1") };
    assert_eq!(fleet.code(&other), Some(Code::ParentOther));
    assert_eq!(fleet.uses(token), 0, "nothing was burned");

    fleet.does(&asks(&fleet, &[("site", "zrh"), ("tier", "core")], "edge-1")).unwrap();
    let row = Arc::clone(&fleet.roster.get(&"agent/edge-1".parse().unwrap()).unwrap().row);
    assert_eq!(row.parent.as_ref().map(|id| id.as_str()), Some("poller-zrh"));
    assert_eq!((row.labels.get("tier"), row.ephemeral_after), (Some("edge"), Some(3_600)));

    // What an operator registered ahead has its own labels, and they count.
    fleet.register("agent/edge-2", Some("poller-ber")).unwrap();
    assert_eq!(fleet.code(&asks(&fleet, &[("site", "zrh")], "edge-2")), Some(Code::ParentOther));
    fleet.does(&asks(&fleet, &[("site", "ber")], "edge-2")).unwrap();
}

#[test]
fn policies_that_contradict_themselves_are_no_tokens() {
    let fleet = Fleet::new();
    let refused = |change: &dyn Fn(&mut TokenPolicy)| {
        let (from, to) = (fleet.now.wall, fleet.now.wall.after(Duration::from_secs(3_600)));
        let mut policy = TokenPolicy::single(Kind::Agent, IdRule::Assigned, from, to);
        change(&mut policy);
        let id = TokenId([3; 10]);
        let hash = Secret::from_bytes([7; 32]).hash(id);
        let asked = CreateToken { id, hash, policy, note: String::new(), by: By::system() };
        asked.plan(fleet.world()).map(drop).err().map(|refusal| refusal.to_string())
    };
    let rule = || "site=poller-{}".parse().ok();
    assert_eq!(refused(&|p| p.parent_rule = rule()), None);
    let both = refused(&|p| (p.parent_rule, p.parent) = (rule(), "p".parse().ok()));
    assert!(both.is_some_and(|why| why.contains("either a parent or a rule")));
    assert!(refused(&|p| (p.parent_rule, p.kind) = (rule(), Kind::Poller)).is_some());
    let fixed = std::collections::BTreeMap::from([("site".to_owned(), "zrh".to_owned())]);
    assert!(refused(&|p| (p.parent_rule, p.labels) = (rule(), fixed.clone().try_into().unwrap())).is_some());
    assert!(refused(&|p| p.ephemeral_after = Some(1)).is_some_and(|why| why.contains("ephemeral_after")));
    assert!(refused(&|p| (p.implicit_children, p.kind) = (true, Kind::Instance)).is_some());
}

#[test]
fn t1_t2_a_spent_token_serves_its_own_key_only() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let first = fleet.asks(token);
    let granted = fleet.does(&first).unwrap();
    let again = fleet.does(&first).unwrap();
    assert_eq!(again.service, granted.service);
    assert_eq!(fleet.uses(token), 1);
    assert_eq!(again.issued.serial.generation(), Generation(2));
    let entry = fleet.roster.get(&granted.service).unwrap();
    let identity = entry.identity.as_ref().unwrap();
    assert_eq!(
        (identity.current.serial, identity.pending.as_ref().unwrap().serial),
        (granted.issued.serial, again.issued.serial)
    );
    assert_eq!(fleet.code(&fleet.asks(token)), Some(Code::TokenExhausted));
}

#[test]
fn t4_t5_time_and_revocation_bar_a_token() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|p| p.not_before = START.after(Duration::from_secs(60)));
    assert_eq!(fleet.code(&fleet.asks(token)), Some(Code::TokenNotYetValid));
    fleet.later(Duration::from_secs(60));
    assert_eq!(fleet.code(&fleet.asks(token)), None);
    fleet.later(Duration::from_secs(3_600));
    assert_eq!(fleet.code(&fleet.asks(token)), Some(Code::TokenExpired));
    let token = fleet.token(|_| {});
    fleet.does(&RevokeToken { id: token, by: By::system() }).unwrap();
    assert_eq!(fleet.code(&fleet.asks(token)), Some(Code::TokenRevoked));
}

#[test]
fn t6_t7_t8_what_the_record_says_beats_what_the_sidecar_says() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let wrong_kind = Enroll { kind: Kind::Checker, ..fleet.asks(token) };
    assert_eq!(fleet.code(&wrong_kind), Some(Code::KindMismatch));
    let wrong_id = Enroll { id: Some("p2".parse().unwrap()), ..fleet.asks(token) };
    assert_eq!(fleet.code(&wrong_id), Some(Code::IdRule));
    assert_eq!(fleet.uses(token), 0, "nothing was burnt");

    fleet.register("poller/p9", None).unwrap();
    fleet.register("instance/i1", None).unwrap();
    let agent = fleet.token(|p| {
        p.kind = Kind::Agent;
        p.id_rule = IdRule::Prefix("edge-".into());
        p.max_uses = 5;
    });
    let asks = |fleet: &Fleet, parent: &str| Enroll {
        kind: Kind::Agent,
        id: Some("edge-1".parse().unwrap()),
        parent: Some(parent.parse().unwrap()),
        ..fleet.asks(agent)
    };
    assert_eq!(fleet.code(&asks(&fleet, "nobody")), Some(Code::ParentUnknown));
    assert_eq!(fleet.code(&asks(&fleet, "i1")), Some(Code::ParentKind));
    assert_eq!(fleet.code(&Enroll { parent: None, ..asks(&fleet, "p9") }), Some(Code::ParentUnknown));
    assert_eq!(fleet.code(&asks(&fleet, "p9")), None);
    fleet.act("poller/p9", Act::Revoke);
    assert_eq!(fleet.code(&asks(&fleet, "p9")), Some(Code::ParentBarred));
    fleet.register("poller/p10", None).unwrap();
    let bound = fleet.token(|p| {
        p.kind = Kind::Agent;
        p.parent = Some("p10".parse().unwrap());
        p.id_rule = IdRule::Assigned;
    });
    let other = Enroll { kind: Kind::Agent, parent: Some("p9".parse().unwrap()), ..fleet.asks(bound) };
    assert_eq!(fleet.code(&other), Some(Code::ParentOther));
    let named = Enroll { kind: Kind::Agent, id: Some("mine".parse().unwrap()), ..fleet.asks(bound) };
    assert_eq!(fleet.code(&named), Some(Code::IdRule));
    let granted = fleet.does(&Enroll { kind: Kind::Agent, ..fleet.asks(bound) }).unwrap();
    assert_eq!(granted.service.to_string(), "agent/01fresh");
}

#[test]
fn t8_an_unbound_row_is_adopted_and_a_bound_one_is_not() {
    let mut fleet = Fleet::new();
    fleet.register("poller/p1", None).unwrap();
    let (first, second) = (fleet.token(|_| {}), fleet.token(|_| {}));
    let granted = fleet.does(&fleet.asks(first)).unwrap();
    let entry = fleet.roster.get(&granted.service).unwrap();
    assert_eq!((entry.row.source, entry.row.status), (Source::Config, Status::Pending), "source and status stay");
    assert_eq!(fleet.code(&fleet.asks(second)), Some(Code::IdTaken));
    assert_eq!(fleet.uses(second), 0);
}

/// What the host before said is gone with it, and what this one says is what its later words are compared with.
#[test]
fn an_adoption_begins_with_the_words_of_its_host() {
    let mut fleet = Fleet::new();
    fleet.register("poller/p1", None).unwrap();
    let service: rollcall_common::id::ServiceKey = "poller/p1".parse().unwrap();
    let report = ProgressReport { progress: Progress::Stalled, ..ProgressReport::default() };
    let write = Write::Progress { service: service.clone(), said: (report, START) };
    fleet.apply(&Change { writes: vec![write], audit: Vec::new() });
    assert_eq!(progress_of(&fleet.roster.get(&service).unwrap().row), Progress::Stalled);
    let token = fleet.token(|_| {});
    let metadata = std::collections::BTreeMap::from([("rack".to_owned(), "7".to_owned())]);
    let asked = Enroll { metadata: metadata.try_into().unwrap(), ..fleet.asks(token) };
    fleet.does(&asked).unwrap();
    let row = &fleet.roster.get(&service).unwrap().row;
    assert_eq!(progress_of(row), Progress::Unwatched);
    assert_eq!(row.announced.as_ref().map(|said| &said.metadata), Some(&asked.metadata));
    assert_eq!(row.metadata, asked.metadata);
}

#[test]
fn t14_an_address_outside_the_range_learns_nothing() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|p| p.cidr_allow = vec!["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(fleet.code(&fleet.asks(token)), Some(Code::Denied));
    let inside = Enroll { from: "198.51.100.9".parse().unwrap(), ..fleet.asks(token) };
    assert_eq!(fleet.code(&inside), None);
}

#[test]
fn c4_a_key_belongs_to_one_identity() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let first = fleet.asks(token);
    fleet.does(&first).unwrap();
    let token = fleet.token(|p| p.id_rule = IdRule::Fixed("p2".parse().unwrap()));
    let stolen = Enroll { csr: first.csr.clone(), ..fleet.asks(token) };
    assert_eq!(fleet.code(&stolen), Some(Code::KeyInUse));
}

#[test]
fn renewal_has_two_phases() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let granted = fleet.does(&fleet.asks(token)).unwrap();
    let renew = |fleet: &Fleet, serial| Renew {
        service: granted.service.clone(),
        serial,
        csr: Ca::read_csr(&honest_csr(&new_key())).unwrap(),
        ca: Arc::clone(&fleet.ca),
    };
    let first = fleet.does(&renew(&fleet, granted.issued.serial)).unwrap();
    // The reply was lost; the next request overwrites what was pending.
    let second = fleet.does(&renew(&fleet, granted.issued.serial)).unwrap();
    assert_eq!(fleet.code(&renew(&fleet, first.issued.serial)), Some(Code::SerialRefused));
    fleet.does(&Promote { service: granted.service.clone(), serial: second.issued.serial }).unwrap();
    assert_eq!(fleet.code(&renew(&fleet, granted.issued.serial)), Some(Code::SerialRefused), "the old one died");
    let (change, ()) =
        Promote { service: granted.service.clone(), serial: second.issued.serial }.plan(fleet.world()).unwrap();
    assert!(change.writes.is_empty(), "promoting twice changes nothing");
    // A session on a certificate that was never promoted renews too.
    let third = fleet.does(&renew(&fleet, second.issued.serial)).unwrap();
    let fourth = fleet.does(&renew(&fleet, third.issued.serial)).unwrap();
    let identity = fleet.roster.get(&granted.service).unwrap().identity.clone().unwrap();
    assert_eq!(
        (identity.current.serial, identity.pending.as_ref().unwrap().serial),
        (third.issued.serial, fourth.issued.serial)
    );
}

#[test]
fn l12_rejoin_needs_the_bound_key_in_time_and_within_its_limit() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|p| p.rejoin_limit = Some(2));
    let granted = fleet.does(&fleet.asks(token)).unwrap();
    let rejoin = |fleet: &Fleet, key: Option<Pin>| Rejoin {
        service: granted.service.clone(),
        csr: Ca::read_csr(&honest_csr(&new_key())).unwrap(),
        signed_by: key,
        blind_since_end: Duration::ZERO,
        outage_was_ours: false,
        from: FROM.parse().unwrap(),
        ca: Arc::clone(&fleet.ca),
    };
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let key = granted.issued.key;
    assert_eq!(fleet.code(&rejoin(&fleet, None)), Some(Code::RejoinKey));
    assert_eq!(fleet.code(&rejoin(&fleet, Some(Pin([9; 32])))), Some(Code::RejoinKey));
    fleet.later(days(7 + 31));
    assert_eq!(fleet.code(&rejoin(&fleet, Some(key))), Some(Code::RejoinTooLate));
    let ours = Rejoin { blind_since_end: days(2), ..rejoin(&fleet, Some(key)) };
    assert_eq!(fleet.code(&ours), None, "an outage of ours is not counted");

    let mut fleet = Fleet::new();
    let token = fleet.token(|p| p.rejoin_limit = Some(2));
    let granted = fleet.does(&fleet.asks(token)).unwrap();
    let key = granted.issued.key;
    let rejoin = |fleet: &Fleet| Rejoin {
        ca: Arc::clone(&fleet.ca),
        service: granted.service.clone(),
        signed_by: Some(key),
        ..rejoin(fleet, None)
    };
    fleet.later(days(10));
    for _ in 0..2 {
        fleet.does(&rejoin(&fleet)).unwrap();
    }
    assert_eq!(fleet.code(&rejoin(&fleet)), Some(Code::RejoinLimit));
    let ours = Rejoin { outage_was_ours: true, ..rejoin(&fleet) };
    assert_eq!(fleet.code(&ours), None, "a rejoin that we caused is not counted");
    fleet.later(days(8));
    assert_eq!(fleet.code(&rejoin(&fleet)), None, "a week of health forgets");
    fleet.act("poller/p1", Act::Revoke);
    assert_eq!(fleet.code(&rejoin(&fleet)), Some(Code::Revoked));
}

/// Nobody had barred it: it was silent for long, and here it is with its key.
#[test]
fn an_archived_service_returns_with_its_bound_key() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let asks = fleet.asks(token);
    let granted = fleet.does(&asks).unwrap();
    let key = granted.service.clone();
    let entry = fleet.roster.get(&key).unwrap();
    let change = activation(entry, None, fleet.now.wall).unwrap();
    fleet.apply(&change);
    let entry = fleet.roster.get(&key).unwrap().clone();
    let to = |to, archived| Change {
        writes: vec![Write::SetStatus {
            service: key.clone(),
            expect: entry.row.seq,
            to,
            at: fleet.now.wall,
            seen: None,
            archived,
        }],
        audit: Vec::new(),
    };
    let (inactive, revoked) = (to(Status::Inactive, false), to(Status::Revoked, false));
    fleet.apply(&inactive);
    fleet.act("poller/p1", Act::Archive);
    assert!(!fleet.roster.denies(granted.issued.serial), "its certificate is still good for coming back");
    let rejoin = Rejoin {
        service: key.clone(),
        csr: Ca::read_csr(&honest_csr(&new_key())).unwrap(),
        signed_by: Some(granted.issued.key),
        blind_since_end: Duration::ZERO,
        outage_was_ours: false,
        from: FROM.parse().unwrap(),
        ca: Arc::clone(&fleet.ca),
    };
    let stranger = Reinstate { key: key.clone(), serial: Serial::random(Generation(1)).unwrap() };
    fleet.does(&stranger).unwrap();
    assert_eq!(fleet.roster.get(&key).unwrap().row.status, Status::Revoked, "another certificate is no way back");

    fleet.does(&rejoin).unwrap();
    let row = &fleet.roster.get(&key).unwrap().row;
    assert_eq!((row.status, row.archived), (Status::Inactive, false));
    fleet.act("poller/p1", Act::Archive);
    fleet.does(&Reinstate { key: key.clone(), serial: granted.issued.serial }).unwrap();
    assert_eq!(fleet.roster.get(&key).unwrap().row.status, Status::Inactive);
    // An operator's revocation is another matter.
    fleet.apply(&revoked);
    assert_eq!(fleet.code(&rejoin), Some(Code::Revoked));
    fleet.does(&Reinstate { key: key.clone(), serial: granted.issued.serial }).unwrap();
    assert_eq!(fleet.roster.get(&key).unwrap().row.status, Status::Revoked);
    // And it may fall on what is archived already.
    fleet.act("poller/p1", Act::Unrevoke);
    fleet.act("poller/p1", Act::Archive);
    fleet.act("poller/p1", Act::Revoke);
    assert!(fleet.roster.denies(granted.issued.serial));
    fleet.does(&Reinstate { key: key.clone(), serial: granted.issued.serial }).unwrap();
    let row = &fleet.roster.get(&key).unwrap().row;
    assert_eq!((row.status, row.archived), (Status::Revoked, false));
    assert_eq!(fleet.code(&rejoin), Some(Code::Revoked));
}

/// L15, L17: an id that is removed and made anew, or re-enrolled, is another identity.
#[test]
fn a_re_enrollment_unbinds_and_refuses_the_old_certificate() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let asks = fleet.asks(token);
    let old = fleet.does(&asks).unwrap();
    let fresh = CreateToken {
        id: TokenId::random().unwrap(),
        hash: Secret::from_bytes([9; 32]).hash(TokenId([0; 10])),
        policy: fleet.roster.token(token).unwrap().policy.clone(),
        note: String::new(),
        by: By::system(),
    };
    let again = Reenroll { key: old.service.clone(), token: fresh.clone(), reason: "lost key".into(), expect: None };
    assert!(matches!(again.plan(fleet.world()), Err(Refusal::Arrow(_))), "only a revoked one");
    fleet.act("poller/p1", Act::Revoke);
    fleet.does(&again).unwrap();
    let entry = fleet.roster.get(&old.service).unwrap();
    assert!(entry.identity.is_none() && entry.row.status == Status::Pending);
    assert!(fleet.roster.denies(old.issued.serial));
    // The old key with the old token finds nothing; the fresh token with a fresh key does.
    assert_eq!(fleet.code(&asks), Some(Code::TokenExhausted));
    let mut anew = fleet.asks(fresh.id);
    anew.id = Some("p1".parse().unwrap());
    let granted = fleet.does(&anew).unwrap();
    assert_eq!(granted.service, old.service);
    assert!(fleet.roster.denies(old.issued.serial) && !fleet.roster.denies(granted.issued.serial));

    for act in [Act::Delete, Act::Remove] {
        fleet.act("poller/p1", act);
    }
    fleet.register("poller/p1", None).unwrap();
    let third = fleet.token(|_| {});
    fleet.does(&fleet.asks(third)).unwrap();
    assert!(fleet.roster.denies(old.issued.serial) && fleet.roster.denies(granted.issued.serial));
}

#[test]
fn revocation_denies_the_serials_and_unrevocation_allows_them() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    let granted = fleet.does(&fleet.asks(token)).unwrap();
    fleet.act("poller/p1", Act::Revoke);
    assert!(fleet.roster.denies(granted.issued.serial));
    fleet.act("poller/p1", Act::Unrevoke);
    assert!(!fleet.roster.denies(granted.issued.serial));
    assert_eq!(fleet.roster.get(&granted.service).unwrap().row.status, Status::Inactive);
}

#[test]
fn t9_an_unknown_token_and_a_wrong_secret_read_alike() {
    let mut fleet = Fleet::new();
    let token = fleet.token(|_| {});
    assert!(proves(&fleet.roster, token, &Secret::from_bytes([7; 32])));
    assert!(!proves(&fleet.roster, token, &Secret::from_bytes([8; 32])));
    assert!(!proves(&fleet.roster, TokenId([1; 10]), &Secret::from_bytes([7; 32])));
}
