//! The configured issuers: one owned task for each, which alone fetches, and what waits for it.
//!
//! A request with an unknown key asks the task for a fetch and waits a moment; it never fetches itself, so
//! that there is one fetch at a time however many ask. Who waits is bounded, and loses when there are too many.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as Exposition,
};
use rollcall_common::time::Clock;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    FetchError, Issuer, claims,
    fetch::Way,
    jwt::{self, Flaw, Unproven},
    keys::Keys,
    shelf::Shelf,
};
use crate::http::access::Caller;

/// How long a request waits for a fetch.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that wait for fetches at once.
const WAITING: usize = 64;

/// What a token came to.
#[derive(Debug)]
pub(in crate::http) enum Verdict {
    /// Somebody.
    Caller(Box<Caller>),
    /// Nobody.
    Refused,
    /// Nobody can tell now: the issuer's keys cannot be had.
    Unavailable,
}

/// What was found of an issuer. Names are configured, words are ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    issuer: String,
    outcome: &'static str,
}

/// All configured issuers.
pub struct Issuers {
    all: Vec<Source>,
    clock: Arc<dyn Clock>,
    waiting: Semaphore,
    verified: Family<Label, Counter>,
    fetched: Family<Label, Counter>,
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|source| &source.issuer.name)).finish()
    }
}

struct Source {
    issuer: Issuer,
    way: Way,
    shelf: Mutex<Shelf<Arc<Keys>>>,
    wanted: Notify,
    /// Counts the fetches that ended.
    ended: watch::Sender<u64>,
}

impl Source {
    fn shelf(&self) -> MutexGuard<'_, Shelf<Arc<Keys>>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuers {
    /// Reads the certificates and makes the clients; nothing is fetched yet.
    ///
    /// # Errors
    /// A file that cannot be read, an address that is not allowed.
    pub fn new(issuers: Vec<Issuer>, clock: Arc<dyn Clock>) -> Result<Self, FetchError> {
        let source = |issuer: Issuer| {
            let way = Way::new(&issuer)?;
            let (shelf, wanted, ended) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
            Ok(Source { issuer, way, shelf, wanted, ended })
        };
        Ok(Self {
            all: issuers.into_iter().map(source).collect::<Result<_, FetchError>>()?,
            clock,
            waiting: Semaphore::new(WAITING),
            verified: Family::default(),
            fetched: Family::default(),
        })
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Keeps the keys fresh until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for n in 0..self.all.len() {
            let (issuers, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                if let Some(source) = issuers.all.get(n) {
                    tokio::select! {
                        () = issuers.keep(source) => {}
                        () = stop.cancelled() => {}
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn keep(&self, source: &Source) {
        let mut well = true;
        loop {
            let due = source.shelf().due(self.clock.now().boot);
            tokio::select! {
                () = tokio::time::sleep(due) => {}
                () = source.wanted.notified() => {}
            }
            let now = self.clock.now().boot;
            {
                let mut shelf = source.shelf();
                if !shelf.may_fetch(now) {
                    continue;
                }
                shelf.begin(now);
            }
            let fetched = source.way.keys().await;
            let name = &source.issuer.name;
            let outcome = match &fetched {
                Ok(keys) => {
                    tracing::debug!(issuer = %name, keys = keys.len(), "an issuer's keys were fetched");
                    "fetched"
                }
                // Once for an outage: whoever is woken by it need not hear it each half minute.
                Err(error) if well => {
                    tracing::warn!(issuer = %name, %error, "an issuer's keys could not be fetched; the last ones stay for an hour");
                    "failed"
                }
                Err(error) => {
                    tracing::debug!(issuer = %name, %error, "an issuer's keys could not be fetched");
                    "failed"
                }
            };
            if fetched.is_ok() && !well {
                tracing::info!(issuer = %name, "an issuer's keys could be fetched again");
            }
            well = fetched.is_ok();
            self.fetched.get_or_create(&Label { issuer: name.clone(), outcome }).inc();
            source.shelf().end(fetched.ok().map(Arc::new), self.clock.now().boot);
            source.ended.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Tells whom a token speaks of.
    pub(in crate::http) async fn verify(&self, text: &str) -> Verdict {
        let verdict = self.look(text).await;
        let (issuer, outcome) = match &verdict {
            Ok((name, _)) => (*name, "accepted"),
            Err((name, Some(flaw))) => (*name, flaw.as_str()),
            Err((name, None)) => (*name, "unavailable"),
        };
        self.verified.get_or_create(&Label { issuer: issuer.unwrap_or("none").to_owned(), outcome }).inc();
        match verdict {
            Ok((_, caller)) => Verdict::Caller(Box::new(caller)),
            Err((_, Some(flaw))) => {
                tracing::debug!(issuer = issuer.unwrap_or("none"), flaw = flaw.as_str(), "a token was refused");
                Verdict::Refused
            }
            Err((_, None)) => Verdict::Unavailable,
        }
    }

    /// The caller, or which flaw; `None` = no keys to tell with.
    async fn look(&self, text: &str) -> Result<(Option<&str>, Caller), (Option<&str>, Option<Flaw>)> {
        let token = jwt::read(text).map_err(|flaw| (None, Some(flaw)))?;
        // Only to find the keys: `claims::judge` asks again once the signature holds.
        let claimed = token.claims.get("iss").and_then(serde_json::Value::as_str);
        let source = self.all.iter().find(|source| claimed == Some(&source.issuer.issuer));
        let source = source.ok_or((None, Some(Flaw::Issuer)))?;
        let name = Some(source.issuer.name.as_str());
        let keys = self.keys(source, &token).await.map_err(|flaw| (name, flaw))?;
        let caller =
            keys.prove(&token).and_then(|()| claims::judge(&token.claims, &source.issuer, self.clock.now().wall));
        caller.map(|caller| (name, caller)).map_err(|flaw| (name, Some(flaw)))
    }

    /// The keys that can tell about a token, fetched anew where it names an unknown one.
    async fn keys(&self, source: &Source, token: &Unproven<'_>) -> Result<Arc<Keys>, Option<Flaw>> {
        let mut ended = source.ended.subscribe();
        let mut waited = false;
        loop {
            let now = self.clock.now().boot;
            let (held, may_fetch, fetching) = {
                let shelf = source.shelf();
                (shelf.keys(now).cloned(), shelf.may_fetch(now), shelf.is_fetching())
            };
            let flaw = held.as_ref().map(|_| Flaw::Key);
            if let Some(keys) = held.filter(|keys| keys.knows(token)) {
                return Ok(keys);
            }
            if waited || !(may_fetch || fetching) {
                return Err(flaw);
            }
            let Ok(_place) = self.waiting.try_acquire() else { return Err(flaw) };
            if may_fetch {
                source.wanted.notify_one();
            }
            // Late or not: what is there now decides.
            let _ = tokio::time::timeout(PATIENCE, ended.changed()).await;
            waited = true;
        }
    }

    /// Puts what is counted into an exposition.
    pub(in crate::http) fn register(&self, exposition: &mut Exposition) {
        exposition.register(
            "rollcall_oidc_tokens",
            "JSON Web Tokens looked at, by issuer and outcome",
            self.verified.clone(),
        );
        exposition.register(
            "rollcall_oidc_fetches",
            "Fetches of issuers' keys, by issuer and outcome",
            self.fetched.clone(),
        );
    }

    /// The name of each issuer and the age of its keys.
    pub(in crate::http) fn ages(&self) -> impl Iterator<Item = (&str, Duration)> {
        let now = self.clock.now().boot;
        let age = move |source: &Source| source.shelf().age(now);
        self.all.iter().filter_map(move |source| Some((source.issuer.name.as_str(), age(source)?)))
    }
}

#[cfg(test)]
mod tests;
