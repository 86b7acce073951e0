//! The label sets of what is counted: words of ours, so that no stranger makes a series.

use prometheus_client::encoding::EncodeLabelSet;

/// A refusal or close, by its word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    /// The word of [`rollcall_common::code::Code`].
    pub code: &'static str,
}

/// A session, by what carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransportLabel {
    /// The word of [`rollcall_common::wire::Transport`].
    pub transport: &'static str,
}

/// A refusal that is kept, by its true reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The word of [`crate::store::rows::Why`].
    pub reason: &'static str,
}

/// A status change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransitionLabel {
    /// Kind of the service.
    pub r#type: &'static str,
    /// Status before.
    pub from: &'static str,
    /// Status after.
    pub to: &'static str,
}

/// A presence that a service took.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PresenceLabel {
    /// Kind of the service.
    pub r#type: &'static str,
    /// The presence.
    pub presence: &'static str,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabel {
    /// Its name.
    pub job: &'static str,
}

/// A run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobRunLabel {
    /// The job.
    pub job: &'static str,
    /// How it ended.
    pub outcome: &'static str,
}

/// What a job did.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobItemLabel {
    /// The job.
    pub job: &'static str,
    /// What became of the thing.
    pub outcome: &'static str,
}

/// A way out of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutletLabel {
    /// `file`, `syslog` or `webhook`.
    pub sink: &'static str,
}

/// Something that asked to come in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AdmissionLabel {
    /// `handshake`, `greeting`, `enroll`, `rejoin` or `hello`.
    pub lane: &'static str,
    /// `admitted`, `waited`, `retried` or `refused`.
    pub outcome: &'static str,
}

/// Something that waits for the registry's store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabel {
    /// Which queue.
    pub queue: &'static str,
}
