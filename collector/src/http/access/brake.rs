//! The brake on guessing: how many failed attempts one address may make.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use rollcall_common::time::BootTime;

/// Failures at once that one address may make before it is told to wait.
pub(super) const BURST: u32 = 20;
/// Time that gives one failure back.
const REFILL: Duration = Duration::from_secs(1);
/// Addresses that are remembered; beyond them all others share one allowance.
pub(super) const MAX_ADDRESSES: usize = 4096;

/// Counts failed attempts by address. A good credential always passes: whoever floods one address with bad
/// ones must not lock its other users out.
#[derive(Debug, Default)]
pub struct Failures {
    /// For each address, when its allowance is whole again.
    pub(super) whole_at: HashMap<IpAddr, BootTime>,
    /// When the table may be swept again, so that a flood of addresses does not sweep it each time.
    sweep_at: BootTime,
}

impl Failures {
    /// Notes a failure; answers how many seconds to wait where there were too many.
    pub fn note(&mut self, from: IpAddr, now: BootTime) -> Option<u32> {
        let mut from = network(from);
        if self.whole_at.len() >= MAX_ADDRESSES && !self.whole_at.contains_key(&from) {
            if now >= self.sweep_at {
                self.whole_at.retain(|_, whole| *whole > now);
                self.sweep_at = now.after(REFILL);
            }
            if self.whole_at.len() >= MAX_ADDRESSES {
                from = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let whole = self.whole_at.entry(from).or_insert(now);
        let debt = whole.since(now);
        if debt > REFILL * (BURST - 1) {
            let over = debt.saturating_sub(REFILL * (BURST - 1));
            return Some(u32::try_from(over.as_secs()).unwrap_or(u32::MAX).saturating_add(1));
        }
        *whole = (*whole).max(now).after(REFILL);
        None
    }
}

/// One host owns a whole /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}
