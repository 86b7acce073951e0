//! How long an issuer's keys are good, and when others are fetched.
//!
//! Keys are fetched anew every [`FRESH`]. While the issuer is down the last good ones stay, but not beyond
//! [`HARD`]: a key that was taken back must not live on because its issuer cannot be asked. A token that names
//! an unknown key asks for a fetch at once, and whoever asks, fetches begin at least [`APART`] apart: no flood
//! of invented keys becomes a flood of requests.

use std::time::Duration;

use rollcall_common::time::BootTime;

/// Age at which keys are fetched anew.
pub(super) const FRESH: Duration = Duration::from_secs(600);
/// Age beyond which keys are not used.
pub(super) const HARD: Duration = Duration::from_secs(3600);
/// Least time between the beginnings of two fetches.
pub(super) const APART: Duration = Duration::from_secs(30);

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Shelf<K> {
    held: Option<(K, BootTime)>,
    /// When the last fetch began.
    asked: Option<BootTime>,
    fetching: bool,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self { held: None, asked: None, fetching: false }
    }
}

impl<K> Shelf<K> {
    /// The keys, while they may be used.
    pub(super) fn keys(&self, now: BootTime) -> Option<&K> {
        self.held.as_ref().filter(|(_, at)| now.since(*at) < HARD).map(|(keys, _)| keys)
    }

    /// How old they are.
    pub(super) fn age(&self, now: BootTime) -> Option<Duration> {
        self.held.as_ref().map(|(_, at)| now.since(*at))
    }

    /// Whether a fetch is under way.
    pub(super) fn is_fetching(&self) -> bool {
        self.fetching
    }

    /// Whether a fetch may begin now.
    pub(super) fn may_fetch(&self, now: BootTime) -> bool {
        !self.fetching && self.asked.is_none_or(|asked| now.since(asked) >= APART)
    }

    /// When the next fetch is due without anybody's asking.
    pub(super) fn due(&self, now: BootTime) -> Duration {
        let wait = |from: BootTime, long: Duration| long.saturating_sub(now.since(from));
        let apart = self.asked.map_or(Duration::ZERO, |asked| wait(asked, APART));
        self.held.as_ref().map_or(Duration::ZERO, |(_, at)| wait(*at, FRESH)).max(apart)
    }

    /// A fetch begins.
    pub(super) fn begin(&mut self, now: BootTime) {
        self.fetching = true;
        self.asked = Some(now);
    }

    /// A fetch ended. Keys are as old as the beginning of their fetch; without any the old ones stay.
    pub(super) fn end(&mut self, keys: Option<K>, now: BootTime) {
        self.fetching = false;
        if let Some(keys) = keys {
            self.held = Some((keys, self.asked.unwrap_or(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> BootTime {
        BootTime(1_000_000 + secs * 1000)
    }

    /// H9: the last good keys stay while the issuer is down, until the hard limit and not a moment longer.
    #[test]
    fn keys_outlive_an_outage_up_to_the_hard_limit() {
        let mut shelf = Shelf::default();
        assert_eq!((shelf.keys(at(0)), shelf.due(at(0))), (None, Duration::ZERO));
        shelf.begin(at(0));
        shelf.end(Some("a"), at(3));
        assert_eq!(shelf.due(at(3)), Duration::from_secs(597));
        for secs in (600..3600).step_by(30) {
            assert_eq!(shelf.due(at(secs)), Duration::ZERO);
            shelf.begin(at(secs));
            shelf.end(None, at(secs + 5));
            assert_eq!(shelf.keys(at(secs + 5)).is_some(), secs + 5 < 3600);
            assert_eq!(shelf.due(at(secs + 5)), Duration::from_secs(25));
        }
        assert_eq!(shelf.keys(at(3600)), None);
        shelf.begin(at(3700));
        shelf.end(Some("b"), at(3701));
        assert_eq!(shelf.keys(at(3701)), Some(&"b"));
    }

    /// H2: however many ask, fetches begin at least half a minute apart, and one at a time.
    #[test]
    fn a_flood_of_unknown_keys_is_one_fetch_each_half_minute() {
        let mut shelf = Shelf::<()>::default();
        let mut fetches = 0;
        for ms in 0..300_000_u64 {
            let now = BootTime(5_000 + ms);
            if shelf.may_fetch(now) {
                shelf.begin(now);
                fetches += 1;
            }
            if ms % 7_000 == 0 && shelf.is_fetching() {
                shelf.end(None, now);
            }
        }
        assert!((8..=10).contains(&fetches), "{fetches}");
    }
}
