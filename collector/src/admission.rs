//! Admission: who may come in now, who waits, who is sent away. Pure: state, event and now.
//!
//! Handshakes are bounded in number and fair by address; enroll, rejoin and hello have lanes of their own,
//! so that none starves another, and heartbeats a bucket each. Whoever is refused is told when to come
//! back, and every refusal is counted by the caller.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use rollcall_common::{lease::Pace, time::BootTime};

/// Bounds; the defaults are those of the design (`identity.md` §2.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes that progress at once.
    pub handshakes: usize,
    /// Connection attempts that wait for their turn.
    pub incoming: usize,
    /// Waiting attempts from which on an address must prove itself by a Retry.
    pub retry_from: usize,
    /// Handshakes that one address (IPv4, or IPv6 /64) may have in progress.
    pub per_address: usize,
    /// Attempts of one address that wait.
    pub waiting_per_address: usize,
    /// Connections that have not said yet who they are; each may cost 30 kB.
    pub unheard: usize,
    /// The same of one address.
    pub unheard_per_address: usize,
    /// Enrollments a second, all together.
    pub enroll_per_second: u32,
    /// Enrollments at once, all together.
    pub enroll_burst: u32,
    /// Unproven enrollments a second from one address.
    pub failures_per_second: u32,
    /// Unproven enrollments at once from one address.
    pub failures_burst: u32,
    /// Rejoins a second.
    pub rejoin_per_second: u32,
    /// Greetings a second.
    pub hello_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 128,
            incoming: 4_096,
            retry_from: 256,
            per_address: 20,
            waiting_per_address: 512,
            unheard: 4_096,
            unheard_per_address: 512,
            enroll_per_second: 100,
            enroll_burst: 200,
            failures_per_second: 1,
            failures_burst: 50,
            rejoin_per_second: 1_000,
            hello_per_second: 4_000,
        }
    }
}

/// Addresses whose failures are remembered; the longest quiet one is forgotten first.
const MAX_FAILING: usize = 16_384;
/// Longest time that an attempt waits: beyond it the peer has given up or tries anew.
const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// A token bucket. Level and rate are in thousandths of a token.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    level: u64,
    last: BootTime,
    per_second: u32,
    burst: u32,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, now: BootTime) -> Self {
        Self { level: u64::from(burst) * 1_000, last: now, per_second: per_second.max(1), burst }
    }

    /// Takes a token, or tells how long to wait for one.
    ///
    /// # Errors
    /// The time until the next token.
    pub fn take(&mut self, now: BootTime) -> Result<(), Duration> {
        self.refill(now);
        match self.level.checked_sub(1_000) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err(Duration::from_millis((1_000 - self.level).div_ceil(u64::from(self.per_second)).max(1))),
        }
    }

    /// Whether a token is there, without taking it.
    fn check(&mut self, now: BootTime) -> Result<(), Duration> {
        let before = *self;
        let answer = self.take(now);
        if answer.is_ok() {
            *self = Self { last: self.last, level: self.level.saturating_add(1_000), ..before };
        }
        answer
    }

    fn is_full(&mut self, now: BootTime) -> bool {
        self.refill(now);
        self.level >= u64::from(self.burst) * 1_000
    }

    fn refill(&mut self, now: BootTime) {
        let ms = u64::try_from(now.since(self.last).as_millis()).unwrap_or(u64::MAX);
        self.level =
            self.level.saturating_add(ms.saturating_mul(self.per_second.into())).min(u64::from(self.burst) * 1_000);
        self.last = self.last.max(now);
    }
}

/// Which lane a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// An onboarding token.
    Enroll,
    /// A bound key with an expired certificate.
    Rejoin,
    /// A new heartbeat session.
    Hello,
}

/// What happens to a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Its handshake starts.
    Proceed,
    /// It waits for its turn.
    Wait,
    /// Its address must prove itself first; costs nothing to remember.
    Retry,
    /// It is sent away.
    Refuse,
}

/// All lanes of one collector.
#[derive(Debug)]
pub struct Lanes {
    limits: Limits,
    enroll: Bucket,
    rejoin: Bucket,
    hello: Bucket,
    failing: HashMap<Net, Bucket>,
    shaking: HashMap<Net, usize>,
    in_progress: usize,
    greeting: HashMap<Net, usize>,
    unheard: usize,
}

impl Lanes {
    /// Empty lanes.
    #[must_use]
    pub fn new(limits: Limits, now: BootTime) -> Self {
        Self {
            limits,
            enroll: Bucket::new(limits.enroll_per_second, limits.enroll_burst, now),
            rejoin: Bucket::new(limits.rejoin_per_second, limits.rejoin_per_second, now),
            hello: Bucket::new(limits.hello_per_second, limits.hello_per_second, now),
            failing: HashMap::new(),
            shaking: HashMap::new(),
            in_progress: 0,
            greeting: HashMap::new(),
            unheard: 0,
        }
    }

    /// Handshakes in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// Connections that have not said yet who they are.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.unheard
    }

    /// Decides about a connection attempt. [`Arrival::Proceed`] takes a place, which
    /// [`Self::handshake_done`] gives back. An attempt queues behind those of its own address only.
    pub fn arrive<T>(&mut self, ip: IpAddr, validated: bool, waiting: &Waiting<T>) -> Arrival {
        if !waiting.holds(ip) && self.start(ip) {
            return Arrival::Proceed;
        }
        if waiting.len() >= self.limits.incoming || waiting.of(ip) >= self.limits.waiting_per_address {
            return Arrival::Refuse;
        }
        if !validated && waiting.len() >= self.limits.retry_from { Arrival::Retry } else { Arrival::Wait }
    }

    /// Takes a place for a handshake, if there is one for this address.
    pub fn start(&mut self, ip: IpAddr) -> bool {
        let net = Net::of(ip);
        let here = self.shaking.get(&net).copied().unwrap_or(0);
        if self.in_progress >= self.limits.handshakes || here >= self.limits.per_address {
            return false;
        }
        self.shaking.insert(net, here + 1);
        self.in_progress += 1;
        true
    }

    /// Gives a place back.
    pub fn handshake_done(&mut self, ip: IpAddr) {
        release(&mut self.shaking, Net::of(ip));
        self.in_progress = self.in_progress.saturating_sub(1);
    }

    /// Admits a request to its lane.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&mut self, lane: Lane, now: BootTime) -> Result<(), Duration> {
        match lane {
            Lane::Enroll => self.enroll.take(now),
            Lane::Rejoin => self.rejoin.take(now),
            Lane::Hello => self.hello.take(now),
        }
    }

    /// Whether an address may try to prove a secret or a key now.
    ///
    /// # Errors
    /// How long to wait: it failed too often.
    pub fn may_prove(&mut self, ip: IpAddr, now: BootTime) -> Result<(), Duration> {
        self.failing.get_mut(&Net::of(ip)).map_or(Ok(()), |bucket| bucket.check(now))
    }

    /// Takes a place for a connection that has not said who it is yet. Answers whether there was one.
    pub fn greet(&mut self, ip: IpAddr) -> bool {
        let net = Net::of(ip);
        let here = self.greeting.get(&net).copied().unwrap_or(0);
        if self.unheard >= self.limits.unheard || here >= self.limits.unheard_per_address {
            return false;
        }
        self.greeting.insert(net, here + 1);
        self.unheard += 1;
        true
    }

    /// Gives that place back.
    pub fn greeted(&mut self, ip: IpAddr) {
        release(&mut self.greeting, Net::of(ip));
        self.unheard = self.unheard.saturating_sub(1);
    }

    /// Remembers that an address showed a secret that proves nothing. Addresses that fail too often are
    /// refused before their secret is looked at; others behind the same lane are not affected.
    pub fn failed(&mut self, ip: IpAddr, now: BootTime) {
        if self.failing.len() >= MAX_FAILING {
            self.failing.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.failing.len() >= MAX_FAILING {
            let quietest = self.failing.iter().min_by_key(|(_, bucket)| bucket.last).map(|(net, _)| *net);
            quietest.map(|net| self.failing.remove(&net));
        }
        let (rate, burst) = (self.limits.failures_per_second, self.limits.failures_burst);
        let bucket = self.failing.entry(Net::of(ip)).or_insert_with(|| Bucket::new(rate, burst, now));
        // An empty bucket stays empty: the address is refused until it refills.
        let _ = bucket.take(now);
    }
}

fn release(places: &mut HashMap<Net, usize>, net: Net) {
    match places.get_mut(&net) {
        Some(taken) if *taken > 1 => *taken -= 1,
        Some(_) | None => {
            places.remove(&net);
        }
    }
}

/// Connection attempts that wait, served in turn by address.
#[derive(Debug)]
pub struct Waiting<T> {
    by_net: HashMap<Net, VecDeque<(IpAddr, T, BootTime)>>,
    turns: VecDeque<Net>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_net: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> Waiting<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of this address wait.
    #[must_use]
    pub fn of(&self, ip: IpAddr) -> usize {
        self.by_net.get(&Net::of(ip)).map_or(0, VecDeque::len)
    }

    /// Whether one of this address waits.
    #[must_use]
    pub fn holds(&self, ip: IpAddr) -> bool {
        self.by_net.contains_key(&Net::of(ip))
    }

    /// Adds one at the end of its address's queue. The caller has asked [`Lanes::arrive`] for room.
    pub fn push(&mut self, ip: IpAddr, item: T, now: BootTime) {
        let net = Net::of(ip);
        let queue = self.by_net.entry(net).or_default();
        if queue.is_empty() {
            self.turns.push_back(net);
        }
        queue.push_back((ip, item, now));
        self.len += 1;
    }

    /// The next whose address has a place, which it takes; those that waited too long are left out in
    /// `stale`. Each address gets one turn before any gets its second.
    pub fn next(&mut self, lanes: &mut Lanes, now: BootTime, stale: &mut Vec<T>) -> Option<T> {
        for _ in 0..self.turns.len() {
            let net = self.turns.pop_front()?;
            let queue = self.by_net.get_mut(&net)?;
            while queue.front().is_some_and(|(_, _, since)| now.since(*since) > WAIT_AT_MOST) {
                stale.extend(queue.pop_front().map(|(_, item, _)| item));
                self.len -= 1;
            }
            let ready = queue.front().is_some_and(|(ip, _, _)| lanes.start(*ip));
            let item = if ready { queue.pop_front() } else { None };
            if queue.is_empty() {
                self.by_net.remove(&net);
            } else {
                self.turns.push_back(net);
            }
            if let Some((_, item, _)) = item {
                self.len -= 1;
                return Some(item);
            }
        }
        None
    }
}

/// An address as admission sees it: hosts behind one IPv6 /64 are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Net(IpAddr);

impl Net {
    fn of(ip: IpAddr) -> Self {
        Self(network(ip))
    }
}

/// What of an address belongs to one party: all of IPv4, the /64 of IPv6.
#[must_use]
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Beats that a session may have in hand.
const BEAT_BURST: u32 = 5;
/// Throttled beats in a row that end a session: ten times the pace leaves nine between two that pass.
const BEAT_PATIENCE: u8 = 10;

/// What happens to a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatVerdict {
    /// It counts.
    Pass,
    /// It is acknowledged and does not count.
    Throttle {
        /// When the next one will.
        retry_after_ms: u32,
    },
    /// The session ends.
    Close,
}

/// The bucket of one session, scaled to the granted pace. It fills a fifth faster than the pace, so that
/// jitter never empties it.
#[derive(Debug, Clone, Copy)]
pub struct BeatBucket {
    /// Saved time, in milliseconds; a beat costs 5/6 of an interval.
    saved_ms: u64,
    last: BootTime,
    throttled: u8,
}

impl BeatBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(now: BootTime) -> Self {
        Self { saved_ms: u64::MAX, last: now, throttled: 0 }
    }

    /// Takes a beat.
    pub fn take(&mut self, now: BootTime, pace: Pace) -> BeatVerdict {
        let cost = (u64::from(pace.interval_ms) * 5 / 6).max(1);
        let elapsed = u64::try_from(now.since(self.last).as_millis()).unwrap_or(u64::MAX);
        self.last = self.last.max(now);
        self.saved_ms = self.saved_ms.saturating_add(elapsed).min(cost * u64::from(BEAT_BURST));
        if let Some(rest) = self.saved_ms.checked_sub(cost) {
            self.saved_ms = rest;
            self.throttled = 0;
            return BeatVerdict::Pass;
        }
        self.throttled = self.throttled.saturating_add(1);
        if self.throttled >= BEAT_PATIENCE {
            return BeatVerdict::Close;
        }
        let retry_after_ms = u32::try_from(cost - self.saved_ms).unwrap_or(u32::MAX).max(1);
        BeatVerdict::Throttle { retry_after_ms }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_common::id::PaceNo;

    use super::*;

    const PACE: Pace = Pace { no: PaceNo(1), interval_ms: 10_000, ttl_ms: 30_000 };

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn lanes() -> Lanes {
        Lanes::new(Limits::default(), BootTime(0))
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let mut lanes = lanes();
        let mut waiting = Waiting::default();
        for _ in 0..20 {
            assert_eq!(lanes.arrive(ip(1), false, &waiting), Arrival::Proceed);
        }
        assert_eq!(lanes.arrive(ip(1), false, &waiting), Arrival::Wait);
        waiting.push(ip(1), 0, BootTime(0));
        assert_eq!(lanes.arrive(ip(2), false, &waiting), Arrival::Proceed, "others are not kept behind it");
        lanes.handshake_done(ip(1));
        assert_eq!(lanes.arrive(ip(1), false, &waiting), Arrival::Wait, "its own queue comes first");
        for n in 0..255 {
            waiting.push(ip(1), n, BootTime(0));
        }
        assert_eq!(lanes.arrive(ip(1), false, &waiting), Arrival::Retry);
        assert_eq!(lanes.arrive(ip(1), true, &waiting), Arrival::Wait);
        for n in 0..256 {
            waiting.push(ip(1), n, BootTime(0));
        }
        assert_eq!(lanes.arrive(ip(1), true, &waiting), Arrival::Refuse, "its own share of the room is taken");
        assert_eq!(lanes.arrive(ip(3), false, &waiting), Arrival::Proceed);
    }

    #[test]
    fn waiting_addresses_take_turns() {
        let mut lanes = Lanes::new(Limits { handshakes: 1, ..Limits::default() }, BootTime(0));
        let mut waiting = Waiting::default();
        for n in 0..3 {
            waiting.push(ip(1), (1, n), BootTime(0));
        }
        waiting.push(ip(2), (2, 0), BootTime(0));
        let mut order = Vec::new();
        let mut stale = Vec::new();
        while let Some(item) = waiting.next(&mut lanes, BootTime(1), &mut stale) {
            order.push(item);
            lanes.handshake_done(ip(item.0));
        }
        assert_eq!(order, [(1, 0), (2, 0), (1, 1), (1, 2)]);
        assert!(waiting.is_empty() && stale.is_empty());
        waiting.push(ip(1), (1, 9), BootTime(0));
        assert_eq!(waiting.next(&mut lanes, BootTime(5_001), &mut stale), None);
        assert_eq!(stale, [(1, 9)]);
        assert!(waiting.is_empty());
    }

    /// T12: guessing is slowed at its address and nowhere else.
    #[test]
    fn failures_bar_their_own_address_only() {
        let mut lanes = lanes();
        let mut tried = 0;
        for ms in 0..1_000 {
            if lanes.may_prove(ip(1), BootTime(ms)).is_ok() {
                tried += 1;
                lanes.failed(ip(1), BootTime(ms));
            }
        }
        assert!((50..=52).contains(&tried), "{tried}");
        assert!(lanes.may_prove(ip(2), BootTime(1_000)).is_ok());
        assert!(lanes.may_prove(ip(1), BootTime(3_000)).is_ok(), "it may try again later");
    }

    #[test]
    fn remembered_failures_are_bounded() {
        let mut lanes = lanes();
        for n in 0..u32::try_from(MAX_FAILING).unwrap() + 100 {
            lanes.failed(IpAddr::from(n.to_be_bytes()), BootTime(n.into()));
        }
        assert!(lanes.failing.len() <= MAX_FAILING);
    }

    #[test]
    fn five_hundred_hosts_of_one_address_enroll_within_a_minute() {
        let mut lanes = lanes();
        let mut admitted = 0;
        for ms in 0..60_000 {
            admitted += u32::from(lanes.admit(Lane::Enroll, BootTime(ms)).is_ok());
        }
        assert!(admitted >= 500, "{admitted}");
    }

    #[test]
    fn a_jittered_pace_never_meets_the_bucket_and_a_flood_does() {
        let mut bucket = BeatBucket::new(BootTime(0));
        for n in 0..1_000 {
            assert_eq!(bucket.take(BootTime(n * 9_500), PACE), BeatVerdict::Pass);
        }
        let mut bucket = BeatBucket::new(BootTime(0));
        let verdicts: Vec<_> = (0..100).map(|n| bucket.take(BootTime(n * 1_000), PACE)).collect();
        assert!(
            verdicts.contains(&BeatVerdict::Close) || verdicts.iter().filter(|v| **v != BeatVerdict::Pass).count() > 80
        );
        let mut bucket = BeatBucket::new(BootTime(0));
        let flood = (0..20).map(|n| bucket.take(BootTime(n), PACE)).position(|v| v == BeatVerdict::Close);
        assert_eq!(flood, Some(14), "five pass, nine are throttled, the tenth ends it");
    }

    proptest! {
        /// Against the naive model: in any window, never more than burst + rate × time.
        #[test]
        fn a_bucket_never_gives_too_much(rate in 1u32..200, burst in 1u32..200, steps in proptest::collection::vec(0u64..500, 1..300)) {
            let mut bucket = Bucket::new(rate, burst, BootTime(0));
            let (mut now, mut given) = (0u64, 0u64);
            for step in steps {
                now += step;
                match bucket.take(BootTime(now)) {
                    Ok(()) => given += 1,
                    Err(wait) => {
                        let later = BootTime(now).after(wait);
                        prop_assert!(bucket.clone().take(later).is_ok(), "the wait that is told suffices");
                    }
                }
                prop_assert!(given * 1_000 <= u64::from(burst) * 1_000 + now * u64::from(rate));
            }
        }
    }
}
