//! What the tests of this room look at: a few rows, a registry that stands still, and a store that is deaf.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rollcall_common::{
    health::{Health, HealthReport, HostFacts, Text},
    id::{BeatNo, Kind, PaceNo, Seq, ServiceKey, SessionNo},
    identity::Pin,
    lease::{Pace, Presence, Unknown},
    lifecycle::Status,
    service::{Pairs, Source},
    time::{BootTime, Clock, ManualClock, Timestamp},
    token::{Credential, CredentialKind, SecretHash, TokenId},
};
use tokio_util::sync::CancellationToken;

use super::{LivenessSight, Parts, Settings, State, access::Role, oidc::Issuers};
use crate::{
    config::{Config, Flags, Source as Settled},
    jobs::Jobs,
    registry::{
        Registry,
        leases::{Phase, Sight},
        roster::Roster,
    },
    store::{
        Position, RegistryStore, StoreError, TrailStore,
        rows::{
            Applied, AuditEvent, AuditQuery, BlindRow, Change, Conflict, CredentialRow, IdRule, IntervalRow, KnockRow,
            Loaded, ObserverMark, Outlived, Prune, Scope, SealRow, ServiceRow, TokenPolicy, TokenRow, WindowRow,
        },
    },
};

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub(crate) const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };

/// A row with nothing remarkable about it; the parent of `agent/a` is `p`, of `checker/c` is `a`.
pub(crate) fn row(key: &str) -> ServiceRow {
    let key: ServiceKey = key.parse().unwrap();
    let parent = match key.kind {
        Kind::Agent => Some("p".parse().unwrap()),
        Kind::Checker => Some("a".parse().unwrap()),
        Kind::Poller | Kind::Instance => None,
    };
    ServiceRow {
        parent,
        poller: None,
        checker_kind: None,
        component_id: None,
        source: Source::Config,
        labels: Pairs::default(),
        metadata: Pairs::default(),
        placeholder: false,
        declared_spiffe: None,
        ephemeral_after: None,
        implicit_children: false,
        created_by: "credential:x".into(),
        first_registered: NOW,
        first_seen: None,
        last_seen: None,
        status: Status::Pending,
        status_since: NOW,
        archived: false,
        health: None,
        facts: None,
        progress: None,
        settings: None,
        reported: None,
        announced: None,
        seq: Seq(3),
        key,
    }
}

pub(crate) fn pairs(all: &[(&str, &str)]) -> Pairs {
    let all: BTreeMap<String, String> = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    all.try_into().unwrap()
}

pub(crate) fn said(health: Health, reason: &str) -> Option<(HealthReport, Timestamp)> {
    Some((HealthReport { health, reason: Text::new(reason).unwrap() }, NOW))
}

pub(crate) fn host(name: &str) -> HostFacts {
    HostFacts { hostname: Text::new(name).unwrap(), cpus: 4, memory_mib: 2048, ..HostFacts::default() }
}

/// A lease with this presence, last beaten five seconds before the boot clock stood at `now`.
pub(crate) fn sight(presence: Presence, unknown: Option<Unknown>, now: BootTime) -> Sight {
    let last_beat = BootTime(now.0 - 5_000);
    Sight {
        phase: Phase::Live,
        presence,
        unknown,
        last_beat: Some(last_beat),
        pace: PACE,
        deadline: last_beat.after(PACE.ttl()),
        beat_no: BeatNo(7),
        session: SessionNo(1),
        origin: crate::registry::leases::Origin::Own,
    }
}

pub(crate) fn token(number: u8) -> TokenRow {
    TokenRow {
        id: TokenId([number; 10]),
        hash: SecretHash([number; 32]),
        policy: TokenPolicy {
            parent: Some("p".parse().unwrap()),
            max_uses: 3,
            cidr_allow: vec!["192.0.2.0/24".parse().unwrap()],
            labels: pairs(&[("site", "3")]),
            ..TokenPolicy::single(Kind::Agent, IdRule::Prefix("edge-".into()), NOW, Timestamp(NOW.0 + 3_600_000))
        },
        uses: 1,
        created_by: "credential:x".into(),
        created_at: NOW,
        note: "for the north".into(),
        revoked_at: None,
        last_used_at: None,
        last_used_from: None,
        seq: Seq(9),
    }
}

/// A deployment with services, tokens and credentials: one for each role, an expired one, and `<role>@3` for
/// those that reach only what has the label `site=3`.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) credentials: BTreeMap<&'static str, String>,
    loaded: Loaded,
}

impl World {
    pub(crate) fn new(services: &[ServiceRow]) -> Self {
        let mut loaded = Loaded {
            position: Position { epoch: 2, seq: Seq(41) },
            services: services.to_vec(),
            tokens: (1..=5).map(token).collect(),
            ..Loaded::default()
        };
        let mut credentials = BTreeMap::new();
        for word in Role::ALL.map(Role::as_str).into_iter().chain(["expired", "viewer@3", "operator@3", "admin@3"]) {
            let credential = Credential::random(CredentialKind::ApiKey).unwrap();
            credentials.insert(word, credential.reveal().to_string());
            let role = if word == "expired" { "admin" } else { word.trim_end_matches("@3") };
            loaded.credentials.push(CredentialRow {
                expires_at: (word == "expired").then_some(NOW),
                scope: if word.ends_with("@3") { "site=3".parse().unwrap() } else { Scope::everything() },
                ..CredentialRow::new(credential.id, credential.hash(), role, NOW)
            });
        }
        Self { clock: Arc::new(ManualClock::new(NOW)), credentials, loaded }
    }

    /// The same deployment while it is being worked on.
    pub(crate) fn working_on(mut self, windows: Vec<WindowRow>) -> Self {
        self.loaded.windows = windows;
        self
    }

    /// The rows of the credentials, for a store of its own.
    pub(crate) fn credentials(&self) -> Vec<CredentialRow> {
        self.loaded.credentials.clone()
    }

    pub(crate) fn registry(&self) -> Registry {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        Registry::still(Roster::from_loaded(&self.loaded), clock, PACE)
    }

    pub(crate) fn parts(&self, registry: Registry) -> Parts {
        let store: Arc<dyn RegistryStore> = Arc::new(Deaf);
        // Nobody runs them: what is ordered is answered as by a collector that stops.
        let (jobs, _) = Jobs::new(registry.clone(), Arc::clone(&store), job_settings());
        Parts {
            store,
            liveness: Box::new(|| LivenessSight { store: "memory".into(), ok: true }),
            pin: Pin([7; 32]),
            advertised: Arc::new(ArcSwap::from_pointee(vec!["collector.example.net:7411".parse().unwrap()])),
            quic: "[::]:7411".parse().unwrap(),
            jobs,
            oidc: Arc::new(Issuers::new(Vec::new(), registry.clock()).unwrap()),
            registry,
            login_file: Arc::new(NoCodes),
            draining: CancellationToken::new(),
            sealed: Arc::default(),
        }
    }

    pub(super) fn state(&self, registry: Registry) -> Arc<State> {
        Arc::new(State::new(self.parts(registry), settings()).unwrap())
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: None,
        hosts: Vec::new(),
        connections: 4,
        tls: None,
        streams: 3,
        write_within: std::time::Duration::from_secs(5),
        extra: super::Extra { service_ages: Some(10), total_alias: false },
        counted_labels: vec!["site".into()],
    }
}

/// What a list of services can be asked for.
pub(crate) fn filters_of_services() -> impl Iterator<Item = &'static str> {
    super::filter::QUERY.iter().chain([&super::filter::KIND, &super::filter::PARENT]).map(|param| param.name)
}

/// What jobs go by where nobody configured anything.
pub(crate) fn job_settings() -> crate::jobs::Settings {
    struct Bare;
    impl Settled for Bare {
        fn file(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn files_in(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
            Ok(Vec::new())
        }
        fn variable(&self, _: &str) -> Option<OsString> {
            None
        }
    }
    let config = Config::load(&Bare, &Flags::default()).unwrap();
    crate::jobs::Settings { upkeep: config.upkeep, leaf_ttl: config.leaf_ttl, sent: Default::default() }
}

/// A host without a login code.
struct NoCodes;

impl super::login::CodeFile for NoCodes {
    fn read(&self) -> Option<Vec<u8>> {
        None
    }

    fn clear(&self) {}
}

/// A registry store that does not answer.
#[derive(Debug)]
struct Deaf;

fn deaf<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { store: "deaf".into(), why: "it never answers".into() })
}

#[async_trait]
impl RegistryStore for Deaf {
    async fn load(&self) -> Result<Loaded, StoreError> {
        deaf()
    }

    async fn commit(&self, _: &[Change], _: Timestamp) -> Result<Vec<Result<Applied, Conflict>>, StoreError> {
        deaf()
    }

    async fn flush_last_seen(&self, _: &[(ServiceKey, Timestamp)]) -> Result<(), StoreError> {
        deaf()
    }

    async fn keep_knocks(&self, _: &[KnockRow], _: &[TokenId]) -> Result<(), StoreError> {
        deaf()
    }

    async fn mark_observing(&self, _: &ObserverMark) -> Result<(), StoreError> {
        deaf()
    }

    async fn record_blind(&self, _: &BlindRow) -> Result<(), StoreError> {
        deaf()
    }

    async fn blind_since(&self, _: Timestamp, _: usize) -> Result<Vec<BlindRow>, StoreError> {
        deaf()
    }

    async fn audit(&self, _: &AuditQuery) -> Result<Vec<AuditEvent>, StoreError> {
        deaf()
    }

    async fn history(&self, _: &ServiceKey, _: usize, _: bool) -> Result<Vec<IntervalRow>, StoreError> {
        deaf()
    }

    async fn prune(&self, _: &Prune, _: usize) -> Result<u64, StoreError> {
        deaf()
    }

    async fn outlived(&self, _: &Outlived) -> Result<u64, StoreError> {
        deaf()
    }

    async fn crowded(&self, _: u32, _: Option<&ServiceKey>, _: usize) -> Result<Vec<ServiceKey>, StoreError> {
        deaf()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        deaf()
    }

    async fn close(&self) {}
}

#[async_trait]
impl TrailStore for Deaf {
    async fn position(&self) -> Result<Position, StoreError> {
        deaf()
    }

    async fn begin_epoch(&self, _: u64) -> Result<(), StoreError> {
        deaf()
    }

    async fn trail(&self, _: Seq, _: Seq, _: usize) -> Result<Vec<AuditEvent>, StoreError> {
        deaf()
    }

    async fn seals(&self, _: u64, _: usize) -> Result<Vec<SealRow>, StoreError> {
        deaf()
    }

    async fn last_seal(&self) -> Result<Option<SealRow>, StoreError> {
        deaf()
    }

    async fn seal(&self, _: &SealRow) -> Result<bool, StoreError> {
        deaf()
    }

    async fn retire_audit(&self, _: Timestamp, _: Seq, _: Timestamp) -> Result<Option<u64>, StoreError> {
        deaf()
    }
}
