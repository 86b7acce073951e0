//! [`LivenessStore`] on one Redis or Valkey server: a published view that others read too.
//!
//! | key | value |
//! |---|---|
//! | `rollcall:live:<kind>:<id>` | `<session>:<beat_no>:<ttl_ms>`, and it expires: what any Redis user expects |
//! | `rollcall:shard:<n>` | hash of `<kind>/<id>` to `<session>:<beat_no>:<ttl_ms>:<published, wall ms>`: what collectors read |
//! | `rollcall:epoch` | random, written where there is none: a flushed server cannot know it |
//!
//! `n` is the FNV-1a hash (64 bits) of `<kind>/<id>`, modulo 64. Hash fields do not expire on their own in the
//! versions that we support: [`LivenessStore::all`] passes over what is past its time to live and removes
//! what is past twice that, if the server agrees that its TTL key is gone (the publisher's wall clock and the
//! reader's may differ), at most 1,000 fields a call.
//!
//! Continuity is asked for in the pipeline of every publication. A server that comes back with our epoch but
//! with another `run_id` was restarted from a snapshot or is a replica that took over: what it holds may be
//! older than what was published, so that is a loss as well.
//!
//! Connects when it is first used and again after any error; a call takes at most 1 s to connect and 500 ms
//! for each pipeline of up to 1,000 commands. Commands are those that Redis 6.2 and Valkey share.

mod entry;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, aio::MultiplexedConnection};
use rollcall_common::{id::ServiceKey, time::Clock};
use tokio::sync::Mutex;

use self::entry::{Entry, Field, SHARDS};
use super::{Continuity, LivenessStore, Mark, StoreError};

const EPOCH: &str = "rollcall:epoch";
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Most marks in one pipeline: with a hash command for each shard and two for the epoch, under 1,000 commands.
const MARKS: usize = 900;
/// Shards in one pipeline of a reader.
const SHARDS_AT_ONCE: usize = 8;
/// Most outlived fields that one reading removes.
const PRUNED: usize = 1_000;

/// The published view on a Redis or Valkey server.
pub struct RedisLiveness {
    client: Client,
    name: String,
    clock: Arc<dyn Clock>,
    /// Counts dials that ended, so that who waited for one in vain does not start another.
    dials: AtomicU64,
    link: Mutex<Link>,
}

/// The connection, and what is remembered of the server behind it.
#[derive(Default)]
struct Link {
    conn: Option<MultiplexedConnection>,
    /// The dial that made it, so that a call which failed on an old connection leaves a new one alone.
    dial: u64,
    /// How the last dial failed, if it did.
    error: Option<StoreError>,
    /// The server that was last connected to; inside, its `run_id`, where it tells that.
    server: Option<Option<String>>,
    /// The epoch of the last publication.
    epoch: Option<String>,
    /// A loss that no publication has answered yet.
    lost: bool,
}

impl RedisLiveness {
    /// Reads the address (`redis://[user:password@]host:port/db`, `unix:///path/to/socket`); connects later.
    /// The clock stamps publications.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] for an address that cannot work.
    pub fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        // The address may hold a password: it is never told, only its kind of fault.
        let wrong = |why: String| StoreError::Misconfigured { store: "Redis".into(), why };
        let client = Client::open(url)
            .map_err(|error| wrong(format!("{error}; write redis://host:port/db or unix:///path/to/socket")))?;
        let info = client.get_connection_info();
        if !info.addr().is_supported() {
            return Err(wrong("TLS to Redis is not built in; use redis:// or unix:// on a trusted path".into()));
        }
        let name = format!("Redis {}/{}", info.addr(), info.redis_settings().db());
        Ok(Self { client, name, clock, dials: AtomicU64::new(0), link: Mutex::default() })
    }

    /// The connection, made where there is none, and the number of its dial.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        let before = self.dials.load(Ordering::SeqCst);
        let mut link = self.link.lock().await;
        if let Some(conn) = &link.conn {
            return Ok((conn.clone(), link.dial));
        }
        if let Some(error) = &link.error
            && self.dials.load(Ordering::SeqCst) != before
        {
            return Err(error.clone());
        }
        let dialed = self.dial().await.map_err(|error| self.told(&error));
        link.dial = self.dials.fetch_add(1, Ordering::SeqCst) + 1;
        link.error = dialed.as_ref().err().cloned();
        let (conn, server) = dialed?;
        let known = link.server.replace(server.clone());
        if known.is_some_and(|known| known.is_none() || known != server) {
            link.lost = true;
        }
        link.conn = Some(conn.clone());
        tracing::info!(store = %self.name, "connected to the liveness store");
        Ok((conn, link.dial))
    }

    async fn dial(&self) -> Result<(MultiplexedConnection, Option<String>), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let mut conn = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let server = run_id(&mut conn).await?;
        Ok((conn, server))
    }

    /// Runs a pipeline. After any error the connection is given up: what the server did is not known.
    async fn run<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, StoreError> {
        let (mut conn, dial) = self.connection().await?;
        let answer = pipe.query_async(&mut conn).await;
        if answer.is_err() {
            let mut link = self.link.lock().await;
            if link.dial == dial {
                link.conn = None;
            }
        }
        answer.map_err(|error: RedisError| self.told(&error))
    }

    fn told(&self, error: &RedisError) -> StoreError {
        StoreError::Unavailable { store: self.name.clone(), why: error.to_string() }
    }

    /// Compares the epoch with the remembered one.
    async fn judge(&self, epoch: String) {
        let mut link = self.link.lock().await;
        if link.epoch.as_ref().is_some_and(|known| *known != epoch) {
            link.lost = true;
        }
        link.epoch = Some(epoch);
    }

    /// Removes outlived fields, as far as the server has no TTL key for them.
    async fn prune(&self, outlived: &[ServiceKey]) -> Result<(), StoreError> {
        let mut ask = redis::pipe();
        for service in outlived {
            ask.cmd("EXISTS").arg(entry::live_key(service));
        }
        let alive: Vec<bool> = self.run(&ask).await?;
        let gone: Vec<_> = outlived.iter().zip(alive).filter(|(_, alive)| !alive).map(|(service, _)| service).collect();
        let mut pipe = redis::pipe();
        remove_fields(&mut pipe, &gone);
        if pipe.is_empty() { Ok(()) } else { self.run(&pipe).await }
    }
}

/// Asks a server which process it is; `None` where it does not tell.
async fn run_id(conn: &mut MultiplexedConnection) -> Result<Option<String>, RedisError> {
    match redis::cmd("INFO").arg("server").query_async::<String>(conn).await {
        Ok(info) => Ok(info.lines().find_map(|line| line.strip_prefix("run_id:")).map(Into::into)),
        // Renamed, or not allowed to this user.
        Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoPerm) => Ok(None),
        Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ResponseError) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_fields(pipe: &mut Pipeline, services: &[&ServiceKey]) {
    let mut shards = BTreeMap::<_, Vec<String>>::new();
    for service in services {
        shards.entry(entry::shard(service)).or_default().push(service.to_string());
    }
    for (shard, fields) in shards {
        pipe.cmd("HDEL").arg(entry::shard_key(shard)).arg(fields).ignore();
    }
}

#[async_trait]
impl LivenessStore for RedisLiveness {
    async fn publish(&self, marks: &[Mark]) -> Result<Continuity, StoreError> {
        let now = self.clock.now().wall;
        let (first, rest) = marks.split_at(marks.len().min(MARKS));
        let mut pipe = redis::pipe();
        // A fresh epoch each time: only a server without one takes it, and it is never the remembered one.
        let epoch: [u8; 16] = rollcall_common::id::random()
            .map_err(|error| StoreError::Unavailable { store: self.name.clone(), why: error.to_string() })?;
        pipe.cmd("SET").arg(EPOCH).arg(data_encoding::HEXLOWER.encode(&epoch)).arg("NX").ignore();
        pipe.cmd("GET").arg(EPOCH);
        entry::publish(&mut pipe, first, now);
        let (epoch,): (String,) = self.run(&pipe).await?;
        self.judge(epoch).await;
        for some in rest.chunks(MARKS) {
            let mut pipe = redis::pipe();
            entry::publish(&mut pipe, some, now);
            self.run::<()>(&pipe).await?;
        }
        let lost = std::mem::take(&mut self.link.lock().await.lost);
        Ok(if lost { Continuity::Lost } else { Continuity::Kept })
    }

    async fn retire(&self, services: &[ServiceKey]) -> Result<(), StoreError> {
        for some in services.chunks(MARKS) {
            let mut pipe = redis::pipe();
            for service in some {
                pipe.cmd("DEL").arg(entry::live_key(service)).ignore();
            }
            remove_fields(&mut pipe, &some.iter().collect::<Vec<_>>());
            self.run::<()>(&pipe).await?;
        }
        Ok(())
    }

    async fn get(&self, service: &ServiceKey) -> Result<Option<Mark>, StoreError> {
        let key = entry::live_key(service);
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(&key);
        let (value,): (Option<Vec<u8>>,) = self.run(&pipe).await?;
        let Some(value) = value else { return Ok(None) };
        let entry = Entry::parse(&value).ok_or_else(|| StoreError::Corrupt {
            store: self.name.clone(),
            why: format!("the key {key} holds something that no collector writes"),
        })?;
        Ok(Some(entry.mark(service.clone())))
    }

    async fn all(&self) -> Result<Vec<Mark>, StoreError> {
        let now = self.clock.now().wall;
        let mut marks = Vec::new();
        let mut outlived = Vec::new();
        let mut strange = 0_usize;
        let shards: Vec<_> = (0..SHARDS).collect();
        for some in shards.chunks(SHARDS_AT_ONCE) {
            let mut pipe = redis::pipe();
            for shard in some {
                pipe.cmd("HGETALL").arg(entry::shard_key(*shard));
            }
            let hashes: Vec<Vec<(Vec<u8>, Vec<u8>)>> = self.run(&pipe).await?;
            for (name, value) in hashes.into_iter().flatten() {
                match Field::parse(&name, &value) {
                    Some(field) if field.is_fresh(now) => marks.push(field.mark()),
                    Some(field) if field.is_outlived(now) && outlived.len() < PRUNED => outlived.push(field.service),
                    Some(_) => {}
                    None => strange += 1,
                }
            }
        }
        if strange > 0 {
            tracing::warn!(store = %self.name, fields = strange, "passed over fields that no collector writes");
        }
        if !outlived.is_empty()
            && let Err(error) = self.prune(&outlived).await
        {
            // The answer stands; the next reader tries again.
            tracing::debug!(store = %self.name, %error, "could not remove outlived fields");
        }
        Ok(marks)
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl fmt::Debug for RedisLiveness {
    /// Without the client, which knows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLiveness").field("name", &self.name).finish_non_exhaustive()
    }
}
