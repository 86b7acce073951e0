//! A registry without its actor, for tests of those who read: it shows a roster and takes no change.

use std::sync::Arc;

use rollcall_common::{
    id::{BeatNo, BootId, ServiceKey, SessionNo},
    lease::Pace,
    time::Clock,
};
use tokio::sync::mpsc;

use super::{
    Registry, Shared, Whoami,
    history::Ledger,
    leases::{Leases, Phase},
    roster::Roster,
};

impl Registry {
    /// Shows a roster; every request is answered with `Stopping`.
    pub(crate) fn still(roster: Roster, clock: Arc<dyn Clock>, pace: Pace) -> Self {
        let (mail, _) = mpsc::channel(1);
        let leases = Leases::default();
        for entry in roster.iter() {
            leases.reserve(entry.slot);
            leases.set_phase(entry.slot, Phase::NeverSeen);
        }
        let shared = Shared::new(roster, leases, Ledger::default(), (pace, None), clock.now());
        let whoami = Whoami {
            trust_domain: "fleet.example".parse().unwrap(),
            collector: "c1".parse().unwrap(),
            boot_id: BootId([1; 16]),
        };
        Self { mail, shared: Arc::new(shared), clock, whoami: Arc::new(whoami), metrics: Arc::default() }
    }

    /// Has the feed tell of events, as if they had been committed now.
    pub(crate) fn feeds(&self, events: &[super::feed::Event]) {
        if let Some(last) = events.last() {
            let now = self.clock.now().boot;
            self.shared.feed.add(events, last.seq, now);
            self.shared.feed.publish(now);
        }
    }

    /// Has a service beat once, now.
    pub(crate) fn beaten(self, service: &str) -> Self {
        let key: ServiceKey = service.parse().unwrap();
        let slot = self.read(|roster| roster.get(&key).unwrap().slot);
        let (pace, now) = (self.pace().0, self.now().boot);
        self.leases().touch(slot, SessionNo(1), BeatNo(1), pace, now);
        self.leases().set_phase(slot, Phase::Live);
        self
    }
}
