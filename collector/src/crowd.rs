//! Handshakes in progress, of the API and of sidecars over TCP: how many there may be, and who yields; pure.
//!
//! An honest handshake is over in milliseconds, so that the oldest one is the least likely to be honest: it
//! yields to the newcomer. No address crowds out another one.

use std::{collections::BTreeMap, net::IpAddr};

use tokio_util::sync::CancellationToken;

/// The handshakes in progress.
#[derive(Debug)]
pub(crate) struct Crowd {
    most: usize,
    of_one: usize,
    next: u64,
    /// In the order of their begin.
    running: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

impl Crowd {
    /// At most so many, and so many of one address.
    pub(crate) fn new(most: usize, of_one: usize) -> Self {
        Self { most, of_one, next: 0, running: BTreeMap::new() }
    }

    /// Begins one; answers with its number and what is cancelled when it has to yield.
    pub(crate) fn begin(&mut self, from: IpAddr) -> (u64, CancellationToken) {
        let mut of_one = self.running.iter().filter(|(_, (address, _))| *address == from);
        let oldest_of_one = of_one.next().map(|(no, _)| *no);
        let yields = if of_one.count() + 1 >= self.of_one { oldest_of_one } else { None };
        let yields = yields.or_else(|| {
            let (no, _) = self.running.first_key_value().filter(|_| self.running.len() >= self.most)?;
            Some(*no)
        });
        if let Some((_, token)) = yields.and_then(|no| self.running.remove(&no)) {
            token.cancel();
        }
        let (no, token) = (self.next, CancellationToken::new());
        self.next += 1;
        self.running.insert(no, (from, token.clone()));
        (no, token)
    }

    /// The oldest yields, though nobody has come in its place yet.
    pub(crate) fn thin(&mut self) {
        if let Some((_, (_, token))) = self.running.pop_first() {
            token.cancel();
        }
    }

    /// It is over.
    pub(crate) fn end(&mut self, no: u64) {
        self.running.remove(&no);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_oldest_yields_and_no_address_pushes_another_out() {
        let mut crowd = Crowd::new(4, 2);
        let (_, other) = crowd.begin(ip(9));
        let mine: Vec<_> = (0..100).map(|_| crowd.begin(ip(1)).1).collect();
        assert_eq!(crowd.len(), 3);
        assert!(!other.is_cancelled(), "one address fights with itself");
        assert!(mine.iter().take(98).all(CancellationToken::is_cancelled));
        assert!(mine.iter().skip(98).all(|token| !token.is_cancelled()));
        let (_, fourth) = crowd.begin(ip(2));
        assert!(!other.is_cancelled());
        let (no, fifth) = crowd.begin(ip(3));
        assert!(other.is_cancelled(), "with no room left the oldest of all yields");
        assert!(!fourth.is_cancelled() && !fifth.is_cancelled());
        assert_eq!(crowd.len(), 4);
        crowd.end(no);
        crowd.end(no);
        assert_eq!(crowd.len(), 3);
        let (_, newest) = crowd.begin(ip(4));
        crowd.thin();
        assert!(!newest.is_cancelled() && crowd.len() == 3);
        (0..5).for_each(|_| crowd.thin());
        assert!(newest.is_cancelled() && crowd.len() == 0);
    }

    #[test]
    fn a_crowd_of_one_still_serves_the_newest() {
        let mut crowd = Crowd::new(1, 1);
        let tokens: Vec<_> = (0..5).map(|last| crowd.begin(ip(last)).1).collect();
        assert_eq!(crowd.len(), 1);
        assert_eq!(tokens.iter().filter(|token| token.is_cancelled()).count(), 4);
    }
}
