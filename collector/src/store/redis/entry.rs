//! Keys and values as they stand on the server: a format that strangers read, so it does not change.

use std::collections::BTreeMap;

use redis::Pipeline;
use rollcall_common::{
    id::{BeatNo, ServiceKey, SessionNo},
    time::Timestamp,
};

use crate::store::Mark;

/// Over how many hashes the services are spread.
pub(super) const SHARDS: u64 = 64;

/// The TTL key of a service.
pub(super) fn live_key(service: &ServiceKey) -> String {
    format!("rollcall:live:{}:{}", service.kind, service.id)
}

/// The hash of a shard.
pub(super) fn shard_key(shard: u64) -> String {
    format!("rollcall:shard:{shard}")
}

/// The shard of a service: FNV-1a, 64 bits, of `kind/id`.
pub(super) fn shard(service: &ServiceKey) -> u64 {
    let name = service.to_string();
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash % SHARDS
}

/// Adds the commands that publish some marks: a key each, a command for each shard touched.
pub(super) fn publish(pipe: &mut Pipeline, marks: &[Mark], now: Timestamp) {
    let mut shards = BTreeMap::<_, Vec<(String, String)>>::new();
    for mark in marks {
        // The server refuses a time to live of nothing.
        let ttl = mark.ttl_ms.max(1);
        let value = format!("{}:{}:{ttl}", mark.session, mark.beat_no);
        pipe.cmd("SET").arg(live_key(&mark.service)).arg(&value).arg("PX").arg(ttl).ignore();
        let field = (mark.service.to_string(), format!("{value}:{}", now.0));
        shards.entry(shard(&mark.service)).or_default().push(field);
    }
    for (shard, fields) in shards {
        let command = pipe.cmd("HSET").arg(shard_key(shard));
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        command.ignore();
    }
}

/// The value of a TTL key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    session: SessionNo,
    beat_no: BeatNo,
    ttl_ms: u32,
}

impl Entry {
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let entry = Self::take(&mut parts)?;
        parts.next().is_none().then_some(entry)
    }

    fn take<'t>(parts: &mut impl Iterator<Item = &'t str>) -> Option<Self> {
        Some(Self {
            session: SessionNo(parts.next()?.parse().ok()?),
            beat_no: BeatNo(parts.next()?.parse().ok()?),
            ttl_ms: parts.next()?.parse().ok()?,
        })
    }

    pub(super) fn mark(self, service: ServiceKey) -> Mark {
        Mark { service, session: self.session, beat_no: self.beat_no, ttl_ms: self.ttl_ms }
    }
}

/// A field of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) service: ServiceKey,
    entry: Entry,
    published: Timestamp,
}

impl Field {
    pub(super) fn parse(name: &[u8], value: &[u8]) -> Option<Self> {
        let service = std::str::from_utf8(name).ok()?.parse().ok()?;
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let entry = Entry::take(&mut parts)?;
        let published = Timestamp(parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { service, entry, published })
    }

    /// Whether its time to live is not over.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.age(now) < i64::from(self.entry.ttl_ms)
    }

    /// Whether even twice its time to live is over.
    pub(super) fn is_outlived(&self, now: Timestamp) -> bool {
        self.age(now) > i64::from(self.entry.ttl_ms).saturating_mul(2)
    }

    fn age(&self, now: Timestamp) -> i64 {
        now.0.saturating_sub(self.published.0)
    }

    pub(super) fn mark(self) -> Mark {
        self.entry.mark(self.service)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::suite::samples::key;

    /// Another collector, of another version, must look for a service where this one put it.
    #[test]
    fn the_released_form_stands() {
        let shards = ["agent/edge-17", "poller/p1", "checker/disk", "instance/x"].map(|name| shard(&key(name)));
        assert_eq!(shards, [5, 51, 32, 45]);
        let mark = Mark { service: key("agent/a"), session: SessionNo(1), beat_no: BeatNo(2), ttl_ms: 30_000 };
        let mut pipe = redis::pipe();
        publish(&mut pipe, &[mark], Timestamp(5));
        let sent = String::from_utf8(pipe.get_packed_pipeline()).unwrap();
        let words: Vec<_> = sent.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
        assert_eq!(
            words.join(" ").trim_end(),
            "SET rollcall:live:agent:a 1:2:30000 PX 30000 HSET rollcall:shard:30 agent/a 1:2:30000:5"
        );
    }

    #[test]
    fn what_no_collector_writes_is_not_read() {
        for value in ["", "1", "1:2", "1:2:3:4", "a:2:3", "1:-2:3", "1:2:99999999999", "1:2:3 "] {
            assert_eq!(Entry::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Field::parse(b"agent/A", b"1:2:3:4"), None);
        assert_eq!(Field::parse(b"agent/a", b"1:2:3"), None);
        assert_eq!(Field::parse(b"agent/a", b"1:2:3:4:5"), None);
        assert!(Field::parse(b"agent/a", b"1:2:3:4").is_some());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            name in proptest::collection::vec(any::<u8>(), 0..20),
            value in "[0-9:a\\PC]{0,40}",
            now in any::<i64>(),
        ) {
            let _ = Entry::parse(&name);
            let _ = Field::parse(&name, value.as_bytes());
            if let Some(field) = Field::parse(b"agent/a", value.as_bytes()) {
                prop_assert!(!(field.is_fresh(Timestamp(now)) && field.is_outlived(Timestamp(now))));
            }
        }
    }
}
