//! What the collector counts about itself.
//!
//! Counters and gauges are plain handles that the parts hold; whatever can be read from the roster is
//! read when somebody scrapes (`http/metrics.rs`), so that no series outlives its service. Labels are words of
//! ours (`labels`), never texts from outside. A help text ends without a full stop: printing adds it.
//! `docs/metrics.md` lists every family; a test prints it anew.

mod labels;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use rollcall_common::{code::Code, id::Kind, lifecycle::Status, wire::Transport};

pub use self::labels::{
    AdmissionLabel, CodeLabel, JobItemLabel, JobLabel, JobRunLabel, OutletLabel, PresenceLabel, QueueLabel,
    ReasonLabel, TransitionLabel, TransportLabel,
};

/// All counters, ready to be registered once.
#[derive(Debug)]
pub struct Metrics {
    /// Accepted heartbeats.
    pub beats: Counter,
    /// Heartbeats acknowledged with `retry_after`, not counted for the lease.
    pub throttled: Counter,
    /// Heartbeats whose number had been seen.
    pub replayed: Counter,
    /// Sessions that were greeted.
    pub sessions: Family<TransportLabel, Counter>,
    /// Greetings of sidecars whose clock is off by more than 30 s.
    pub skewed: Counter,
    /// Reports of children that were heard.
    pub child_reports: Counter,
    /// Reports of children that were not, by code.
    pub child_refused: Family<CodeLabel, Counter>,
    /// Batches of child reports over what a session may send.
    pub child_throttled: Counter,
    /// Refusals that an operator can do something about, by reason.
    pub knocks: Family<ReasonLabel, Counter>,
    /// Knocks that were forgotten because there were too many.
    pub knocks_evicted: Counter,
    /// Enrollments that gave an identity.
    pub enrolled: Counter,
    /// Rejoins that gave a certificate.
    pub rejoined: Counter,
    /// Renewals that gave a certificate.
    pub renewed: Counter,
    /// Refusals, by code.
    pub refused: Family<CodeLabel, Counter>,
    /// Connections that the collector closed, by code.
    pub closed: Family<CodeLabel, Counter>,
    /// What became of whoever asked to come in, by lane.
    pub admission: Family<AdmissionLabel, Counter>,
    /// Handshakes in progress.
    pub handshakes: Gauge,
    /// Attempts that wait for theirs.
    pub handshakes_waiting: Gauge,
    /// Connections that have not said yet who they are.
    pub unheard: Gauge,
    /// TCP connections of sidecars that are open.
    pub tcp_connections: Gauge,
    /// Handshakes that failed or ran out of time.
    pub handshakes_failed: Counter,
    /// Requests and notices lost because the registry's mailbox was full.
    pub mailbox_full: Counter,
    /// Status changes.
    pub transitions: Family<TransitionLabel, Counter>,
    /// Presence verdicts.
    pub verdicts: Family<PresenceLabel, Counter>,
    /// Presence rows that wait for the store.
    pub unrecorded: Gauge,
    /// Services that can still be registered.
    pub room: Gauge,
    /// Presence rows lost because too many waited.
    pub unrecorded_lost: Counter,
    /// What waits for the next commit.
    pub queues: Queues,
    /// Group commits.
    pub commits: Counter,
    /// Group commits that failed.
    pub commits_failed: Counter,
    /// Seconds that a group commit took.
    pub commit_seconds: Histogram,
    /// Rows of a group commit.
    pub commit_rows: Histogram,
    /// Publications to the liveness store that failed.
    pub publish_failed: Counter,
    /// Times that the liveness store had lost what was published.
    pub liveness_lost: Counter,
    /// Seconds credited to leases for time that could not be observed.
    pub credited_seconds: Counter<f64>,
    /// Audit events that an outlet has not taken yet, up to a batch.
    pub outlet_lag: Family<OutletLabel, Gauge>,
    /// Whether a head of the audit trail was missed, and nobody has removed the evidence.
    pub audit_evidence: Gauge,
    /// Runs of jobs.
    pub job_runs: Family<JobRunLabel, Counter>,
    /// Things that jobs touched.
    pub job_items: Family<JobItemLabel, Counter>,
    /// When a job last ended well.
    pub job_success: Family<JobLabel, Gauge>,
    /// Seconds that a run took.
    pub job_seconds: Family<JobLabel, Histogram, fn() -> Histogram>,
}

/// How much waits for the registry's store; set by the registry at each of its turns.
#[derive(Debug)]
pub struct Queues {
    family: Family<QueueLabel, Gauge>,
    /// Mails that nobody has looked at.
    pub mailbox: Gauge,
    /// Requests for a change.
    pub requests: Gauge,
    /// Services whose beat makes them active.
    pub activations: Gauge,
    /// Health and facts.
    pub notes: Gauge,
    /// Audit events that are no part of a change.
    pub audit: Gauge,
}

impl Default for Queues {
    fn default() -> Self {
        let family = Family::<QueueLabel, Gauge>::default();
        // The handles are kept, so that a turn looks nothing up.
        let one = |queue| family.get_or_create(&QueueLabel { queue }).clone();
        Self {
            mailbox: one("mailbox"),
            requests: one("requests"),
            activations: one("activations"),
            notes: one("notes"),
            audit: one("audit"),
            family,
        }
    }
}

/// Sets a gauge to a number of things.
pub fn set(gauge: &Gauge, number: usize) {
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
}

/// The arrows of the status table.
const ARROWS: [(Status, Status); 14] = {
    use Status::{Active, Deleted, Inactive, Pending, Revoked};
    [
        (Pending, Active),
        (Pending, Revoked),
        (Pending, Deleted),
        (Active, Inactive),
        (Active, Revoked),
        (Active, Deleted),
        (Inactive, Active),
        (Inactive, Revoked),
        (Inactive, Deleted),
        (Revoked, Inactive),
        (Revoked, Pending),
        (Revoked, Deleted),
        (Deleted, Inactive),
        (Deleted, Pending),
    ]
};

/// 10 ms to an hour or so.
fn job_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 4.0, 10))
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 8 s: a durable commit takes 4 ms on an ordinary disk, a stalled one takes seconds.
        let commit_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let metrics = Self {
            beats: Counter::default(),
            throttled: Counter::default(),
            replayed: Counter::default(),
            sessions: Family::default(),
            skewed: Counter::default(),
            child_reports: Counter::default(),
            child_refused: Family::default(),
            child_throttled: Counter::default(),
            knocks: Family::default(),
            knocks_evicted: Counter::default(),
            enrolled: Counter::default(),
            rejoined: Counter::default(),
            renewed: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            admission: Family::default(),
            handshakes: Gauge::default(),
            handshakes_waiting: Gauge::default(),
            unheard: Gauge::default(),
            tcp_connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            mailbox_full: Counter::default(),
            transitions: Family::default(),
            verdicts: Family::default(),
            unrecorded: Gauge::default(),
            room: Gauge::default(),
            unrecorded_lost: Counter::default(),
            queues: Queues::default(),
            commits: Counter::default(),
            commits_failed: Counter::default(),
            commit_seconds,
            // One row to 16,384: a commit is bounded below that.
            commit_rows: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            publish_failed: Counter::default(),
            liveness_lost: Counter::default(),
            credited_seconds: Counter::default(),
            job_runs: Family::default(),
            job_items: Family::default(),
            job_success: Family::default(),
            job_seconds: Family::new_with_constructor(job_seconds),
            outlet_lag: Family::default(),
            audit_evidence: Gauge::default(),
        };
        metrics.begin();
        metrics
    }
}

impl Metrics {
    /// Brings forth every series whose labels are known beforehand: a rate sees the first event only of a series that
    /// was there before it.
    fn begin(&self) {
        for (kind, (from, to)) in Kind::ALL.into_iter().flat_map(|kind| ARROWS.map(|arrow| (kind, arrow))) {
            let label = TransitionLabel { r#type: kind.as_str(), from: from.as_str(), to: to.as_str() };
            drop(self.transitions.get_or_create(&label));
        }
        let codes = [
            Code::ChildOfAnother,
            Code::ChildUnknown,
            Code::ChildLimit,
            Code::ParentKind,
            Code::ParentUnknown,
            Code::ParentBarred,
        ];
        for code in codes {
            drop(self.child_refused.get_or_create(&CodeLabel { code: code.as_str() }));
        }
        for lane in ["handshake", "greeting", "enroll", "rejoin", "hello"] {
            for outcome in ["admitted", "refused"] {
                drop(self.admission.get_or_create(&AdmissionLabel { lane, outcome }));
            }
        }
        for transport in Transport::ALL {
            drop(self.sessions.get_or_create(&TransportLabel { transport: transport.as_str() }));
        }
        for outcome in ["admitted", "refused", "nonsense", "left", "late", "crowded_out"] {
            drop(self.admission.get_or_create(&AdmissionLabel { lane: "tcp", outcome }));
        }
        for outcome in ["waited", "retried"] {
            drop(self.admission.get_or_create(&AdmissionLabel { lane: "handshake", outcome }));
        }
    }

    /// Counts a session that was greeted.
    pub fn greeted(&self, transport: Transport) {
        self.sessions.get_or_create(&TransportLabel { transport: transport.as_str() }).inc();
    }

    /// Counts what became of somebody who asked to come in.
    pub fn admit(&self, lane: &'static str, outcome: &'static str) {
        self.admission.get_or_create(&AdmissionLabel { lane, outcome }).inc();
    }

    /// Puts everything into a registry under its published name; counters get `_total` when printed.
    pub fn register(&self, into: &mut Registry) {
        let mut add = |name: &str, help: &str, metric: &Counter| into.register(name, help, metric.clone());
        add("rollcall_heartbeats", "Heartbeats accepted", &self.beats);
        add("rollcall_heartbeats_throttled", "Heartbeats over the pace, acknowledged without effect", &self.throttled);
        add("rollcall_heartbeats_replayed", "Heartbeats whose number had been seen", &self.replayed);
        add("rollcall_clocks_skewed", "Greetings of sidecars whose clock is off by more than 30 s", &self.skewed);
        add("rollcall_child_reports", "Reports of children heard", &self.child_reports);
        add("rollcall_child_batches_throttled", "Batches of child reports over the limit", &self.child_throttled);
        add("rollcall_knocks_evicted", "Knocks forgotten because there were too many", &self.knocks_evicted);
        add("rollcall_enrollments", "Enrollments that gave an identity", &self.enrolled);
        add("rollcall_rejoins", "Rejoins that gave a certificate", &self.rejoined);
        add("rollcall_renewals", "Renewals that gave a certificate", &self.renewed);
        add("rollcall_handshakes_failed", "Handshakes failed or out of time", &self.handshakes_failed);
        add("rollcall_mailbox_full", "Requests and notices lost to a full registry mailbox", &self.mailbox_full);
        add("rollcall_presence_rows_lost", "Presence rows lost because too many waited", &self.unrecorded_lost);
        add("rollcall_commits", "Group commits to the registry store", &self.commits);
        add("rollcall_commits_failed", "Group commits that failed", &self.commits_failed);
        add("rollcall_liveness_publish_failed", "Publications to the liveness store that failed", &self.publish_failed);
        add("rollcall_liveness_lost", "Times the liveness store had lost what was published", &self.liveness_lost);
        into.register(
            "rollcall_audit_head_missed",
            "1 while evidence of a database that lacked the noted head lies in the state directory",
            self.audit_evidence.clone(),
        );
        into.register(
            "rollcall_lease_credit_seconds",
            "Seconds credited to leases for time that this collector could not observe",
            self.credited_seconds.clone(),
        );
        let lag = self.outlet_lag.clone();
        into.register("rollcall_audit_sink_lag_events", "Audit events that a sink has not taken yet, at most 500", lag);
        into.register("rollcall_sessions", "Sessions greeted, by what carries them", self.sessions.clone());
        into.register("rollcall_refusals", "Refusals by code", self.refused.clone());
        into.register(
            "rollcall_child_reports_refused",
            "Reports of children not heard, by code",
            self.child_refused.clone(),
        );
        into.register("rollcall_knocks", "Refusals that an operator can mend, by reason", self.knocks.clone());
        into.register(
            "rollcall_connections_closed",
            "Connections closed by the collector, by code",
            self.closed.clone(),
        );
        into.register("rollcall_presence_rows_waiting", "Presence rows waiting for the store", self.unrecorded.clone());
        into.register("rollcall_registry_room", "Services that can still be registered", self.room.clone());
        into.register("rollcall_presence_verdicts", "Presence verdicts by kind", self.verdicts.clone());
        into.register(
            "service_registry_state_transitions",
            "Status changes by kind of service",
            self.transitions.clone(),
        );
        into.register("rollcall_job_runs", "Runs of jobs by how they ended", self.job_runs.clone());
        into.register("rollcall_job_items", "Things that jobs touched, by what became of them", self.job_items.clone());
        into.register(
            "rollcall_job_last_success_timestamp_seconds",
            "When a job last ended well, in seconds since the Unix epoch",
            self.job_success.clone(),
        );
        into.register("rollcall_job_duration_seconds", "Seconds that a run of a job took", self.job_seconds.clone());
        into.register(
            "rollcall_commit_seconds",
            "Seconds that a group commit to the registry store took",
            self.commit_seconds.clone(),
        );
        let rows = "Rows of a group commit: what it writes and the audit events of that";
        into.register("rollcall_commit_rows", rows, self.commit_rows.clone());
        let waiting = "What waits for the registry's next turn or its next commit, by queue";
        into.register("rollcall_registry_waiting", waiting, self.queues.family.clone());
        let asked = "What became of whoever asked to come in, by lane";
        into.register("rollcall_admissions", asked, self.admission.clone());
        into.register("rollcall_handshakes_in_progress", "QUIC handshakes in progress", self.handshakes.clone());
        let waiting = "Connection attempts that wait for their handshake";
        into.register("rollcall_handshakes_waiting", waiting, self.handshakes_waiting.clone());
        let unheard = "Connections whose first frame has not come yet";
        into.register("rollcall_connections_unheard", unheard, self.unheard.clone());
        let open = "Open TCP connections of sidecars, greeted or not; limits.tcp_connections bounds them";
        into.register("rollcall_tcp_connections", open, self.tcp_connections.clone());
    }
}
