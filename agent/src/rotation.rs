//! Which collector address is dialed next. Pure: no names are resolved here.
//!
//! The list is in order of preference. A failure moves on to the following address, a success stays; a
//! collector that asks for patience is passed over until its time has come.

use std::time::Duration;

use rollcall_common::{address::Address, time::BootTime};

/// The addresses and where we stand among them.
#[derive(Debug, Clone)]
pub struct Rotation {
    entries: Vec<Entry>,
    at: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    address: Address,
    not_before: BootTime,
    /// Counts failed dials: after each, another IP address of the same name has its turn, and the one
    /// that works stays.
    failures: u32,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Where to dial.
    pub address: Address,
    /// Which of the name's IP addresses, modulo their number.
    pub variant: u32,
}

impl Rotation {
    /// Starts at the first address.
    #[must_use]
    pub fn new(addresses: Vec<Address>) -> Self {
        let entries = addresses.into_iter().map(Entry::new).collect();
        Self { entries, at: 0 }
    }

    /// The addresses, best first.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.entries.iter().map(|entry| &entry.address)
    }

    /// The address to dial now: the current one or, where it asked for patience, the next that did not.
    ///
    /// # Errors
    /// When each of them asked for patience: the moment at which the first may be dialed. With an empty
    /// list that moment never comes.
    pub fn pick(&mut self, now: BootTime) -> Result<Pick, BootTime> {
        let count = self.entries.len();
        let order = (self.at..count).chain(0..self.at);
        let ready = order.into_iter().find(|n| self.entries.get(*n).is_some_and(|entry| entry.not_before <= now));
        match ready.and_then(|n| self.entries.get(n).map(|entry| (n, entry))) {
            Some((n, entry)) => {
                self.at = n;
                Ok(Pick { address: entry.address.clone(), variant: entry.failures })
            }
            None => Err(self.entries.iter().map(|entry| entry.not_before).min().unwrap_or(BootTime(u64::MAX))),
        }
    }

    /// The address dialed last worked.
    pub fn succeeded(&mut self) {
        if let Some(entry) = self.entries.get_mut(self.at) {
            entry.not_before = BootTime::default();
        }
    }

    /// The address dialed last failed, or its collector wants us elsewhere: move on.
    pub fn failed(&mut self, now: BootTime, patience: Duration) {
        if let Some(entry) = self.entries.get_mut(self.at) {
            entry.failures = entry.failures.wrapping_add(1);
            if !patience.is_zero() {
                entry.not_before = now.after(patience);
            }
        }
        self.at = self.at.checked_add(1).filter(|next| *next < self.entries.len()).unwrap_or(0);
    }

    /// Takes a new list over, keeping what is known of addresses that stay, and staying where we are if
    /// that address stays.
    pub fn replace(&mut self, addresses: Vec<Address>) {
        let current = self.entries.get(self.at).map(|entry| entry.address.clone());
        let known = |address: Address| {
            let old = self.entries.iter().find(|entry| entry.address == address);
            old.cloned().unwrap_or_else(|| Entry::new(address))
        };
        let entries: Vec<Entry> = addresses.into_iter().map(known).collect();
        self.at = entries.iter().position(|entry| Some(&entry.address) == current.as_ref()).unwrap_or(0);
        self.entries = entries;
    }

    /// Forgets all requests for patience: somebody asked for a try right now.
    pub fn hurry(&mut self) {
        for entry in &mut self.entries {
            entry.not_before = BootTime::default();
        }
    }
}

impl Entry {
    fn new(address: Address) -> Self {
        Self { address, not_before: BootTime::default(), failures: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: BootTime = BootTime(1_000);

    fn rotation(list: &[&str]) -> Rotation {
        Rotation::new(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn picked(rotation: &mut Rotation) -> String {
        rotation.pick(NOW).unwrap().address.host()
    }

    #[test]
    fn failures_move_on_and_come_round() {
        let mut all = rotation(&["a", "b", "c"]);
        assert_eq!(picked(&mut all), "a");
        assert_eq!(picked(&mut all), "a");
        for host in ["b", "c", "a", "b"] {
            all.failed(NOW, Duration::ZERO);
            assert_eq!(picked(&mut all), host);
        }
        all.succeeded();
        assert_eq!(picked(&mut all), "b");
    }

    #[test]
    fn each_failure_tries_another_ip_of_the_name() {
        let mut one = rotation(&["a"]);
        assert_eq!(one.pick(NOW).unwrap().variant, 0);
        one.failed(NOW, Duration::ZERO);
        assert_eq!(one.pick(NOW).unwrap().variant, 1);
        one.succeeded();
        assert_eq!(one.pick(NOW).unwrap().variant, 1, "what works stays");
    }

    #[test]
    fn patience_is_kept_unless_somebody_hurries() {
        let mut two = rotation(&["a", "b"]);
        two.failed(NOW, Duration::from_secs(9));
        assert_eq!(picked(&mut two), "b");
        two.failed(NOW, Duration::from_secs(5));
        assert_eq!(two.pick(NOW), Err(NOW.after(Duration::from_secs(5))));
        assert_eq!(two.pick(NOW.after(Duration::from_secs(5))).unwrap().address.host(), "b");
        two.hurry();
        assert!(two.pick(NOW).is_ok());
    }

    #[test]
    fn a_new_list_keeps_the_place() {
        let mut two = rotation(&["a", "b"]);
        two.failed(NOW, Duration::ZERO);
        two.replace(["c", "b"].iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(picked(&mut two), "b");
        two.replace(vec!["d".parse().unwrap()]);
        assert_eq!(picked(&mut two), "d");
        two.replace(vec![]);
        assert_eq!(two.pick(NOW), Err(BootTime(u64::MAX)));
    }
}
