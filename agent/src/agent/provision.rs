//! An identity and nothing else, for whoever provisions a host: the same steps, without a session.

use std::{sync::Arc, time::Duration};

use rollcall_common::{
    id::ServiceKey,
    time::{Clock, Timestamp},
};

use super::{Agent, Fault};
use crate::{
    config::{Config, LocalPort},
    signals::Signals,
    status::Stage,
};

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provisioned {
    /// There is an identity.
    Done {
        /// Whose.
        service: ServiceKey,
        /// Whether it was given just now.
        fresh: bool,
        /// When its certificate ends.
        not_after: Timestamp,
    },
    /// None yet, and why.
    NotYet(String),
}

impl Agent {
    /// Like [`Self::prepare`]; nobody is answered meanwhile.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn prepare_to_enroll(config: Config, clock: Arc<dyn Clock>) -> Result<Self, Fault> {
        let config = Config { local: LocalPort::default(), ..config };
        let mut agent = Self::prepare(config, clock)?;
        agent.local = None;
        Ok(agent)
    }

    /// Whether there is an identity that may be used here.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        self.stored.current.is_some()
    }

    /// Enrolls where that is not done yet, trying for so long.
    ///
    /// # Errors
    /// [`Fault`] where another try would not help.
    pub async fn provision(mut self, signals: &mut Signals, within: Duration) -> Result<Provisioned, Fault> {
        if let Some(current) = &self.stored.current {
            let (service, not_after) = (current.service().clone(), current.term().not_after);
            return Ok(Provisioned::Done { service, fresh: false, not_after });
        }
        let outcome = tokio::time::timeout(within, self.enroll(signals)).await;
        self.dialer.settle(super::SETTLE_WITHIN).await;
        match outcome {
            Ok(Ok(Some(admission))) => Ok(Provisioned::Done {
                service: admission.identity.service().clone(),
                fresh: true,
                not_after: admission.identity.term().not_after,
            }),
            Ok(Ok(None)) => Ok(Provisioned::NotYet("it was stopped".into())),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Ok(Provisioned::NotYet(self.why_not())),
        }
    }

    fn why_not(&self) -> String {
        let board = self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &board.stage {
            Stage::Asking { last: Some(last), .. } => last.clone(),
            Stage::Asking { last: None, .. } => "no collector answered".into(),
            Stage::WaitingForToken { .. } | Stage::AwaitingApproval { .. } | Stage::Session(_) | Stage::Stopping => {
                board.line()
            }
        }
    }
}
