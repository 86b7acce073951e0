//! What the sidecar observes of its surroundings. Today that is the host; probes of the service beside us
//! follow, and until then its health is unchecked.

pub mod host;

use rollcall_common::health::HostFacts;

/// Takes host facts and tells when they differ from the last ones.
#[derive(Debug, Default)]
pub struct Sampler {
    last: Option<HostFacts>,
}

impl Sampler {
    /// Takes the facts; `None` where nothing but the uptime moved.
    pub fn sample(&mut self) -> Option<HostFacts> {
        self.differing(host::facts())
    }

    fn differing(&mut self, facts: HostFacts) -> Option<HostFacts> {
        let changed =
            self.last.as_ref().is_none_or(|last| *last != HostFacts { uptime_secs: last.uptime_secs, ..facts.clone() });
        self.last = Some(facts.clone());
        changed.then_some(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_alone_is_no_change() {
        let mut sampler = Sampler::default();
        let facts = host::facts();
        assert!(sampler.differing(facts.clone()).is_some());
        assert!(sampler.differing(HostFacts { uptime_secs: facts.uptime_secs + 600, ..facts.clone() }).is_none());
        assert!(sampler.differing(HostFacts { cpus: facts.cpus + 1, ..facts }).is_some());
    }
}
