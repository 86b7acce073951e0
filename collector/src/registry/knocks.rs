//! Knocks: who was turned away, how often, and what to do about it.
//!
//! Refusals of one party for one reason are one row. Two classes with bounds of their own: what proved a secret, a
//! bound key or a certificate, and what proved nothing; so noise pushes out nothing but noise, and noise of one
//! network only its own. Rows change in memory; what changed is written down every few seconds, so that a flood
//! costs the store as much as a single knock.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use rollcall_common::{
    code::Code,
    id::{Kind, ServiceId},
    time::Timestamp,
    token::TokenId,
};
use sha2::{Digest as _, Sha256};

use super::{Refusal, Request, World, services::By};
use crate::store::rows::{Change, Door, KnockRow, Why};

/// Rows of one class; the one that was quiet longest goes.
pub const MAX_OF_CLASS: usize = 1_000;
/// Rows of one network among those that proved nothing; the quietest of that network goes.
pub const MAX_OF_NETWORK: usize = 64;
/// How long a knock is kept after its last time.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Rows of one flush.
pub const FLUSH_ROWS: usize = 256;

/// One refusal.
#[derive(Debug, Clone)]
pub struct Knock {
    /// Whether something was proven.
    pub proven: bool,
    /// Where.
    pub door: Door,
    /// The true reason.
    pub why: Why,
    /// The token that was named, if there is such a one.
    pub token: Option<TokenId>,
    /// The kind that was claimed.
    pub kind: Option<Kind>,
    /// The id that was claimed.
    pub service: Option<ServiceId>,
    /// The parent that was claimed.
    pub parent: Option<ServiceId>,
    /// Where it came from.
    pub from: IpAddr,
}

/// All knocks in memory.
#[derive(Debug, Default)]
pub struct Knocks {
    rows: HashMap<TokenId, KnockRow>,
    proven: BTreeSet<(Timestamp, TokenId)>,
    noise: BTreeSet<(Timestamp, TokenId)>,
    networks: HashMap<String, BTreeSet<(Timestamp, TokenId)>>,
    /// What the store has.
    stored: HashSet<TokenId>,
    dirty: BTreeSet<TokenId>,
}

impl Knocks {
    pub(super) fn from_rows(rows: &[KnockRow]) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.stored.insert(row.id);
            all.put(row.clone());
        }
        all
    }

    /// Counts a refusal. Answers how many rows had to go for it.
    pub fn note(&mut self, knock: Knock, now: Timestamp) -> usize {
        let network = network_of(knock.from);
        let id = id_of(&knock, &network);
        let row = match self.take(id) {
            Some(row) => KnockRow {
                parent: knock.parent,
                from: knock.from.to_string(),
                last_at: now,
                times: row.times.saturating_add(1),
                ..row
            },
            None => KnockRow {
                id,
                proven: knock.proven,
                door: knock.door,
                why: knock.why,
                token: knock.token,
                kind: knock.kind,
                service: knock.service,
                parent: knock.parent,
                network,
                from: knock.from.to_string(),
                first_at: now,
                last_at: now,
                times: 1,
            },
        };
        self.put(row);
        self.dirty.insert(id);
        self.make_room(id)
    }

    fn put(&mut self, row: KnockRow) {
        let place = (row.last_at, row.id);
        if row.proven {
            self.proven.insert(place);
        } else {
            self.noise.insert(place);
            self.networks.entry(row.network.clone()).or_default().insert(place);
        }
        self.rows.insert(row.id, row);
    }

    fn take(&mut self, id: TokenId) -> Option<KnockRow> {
        let row = self.rows.remove(&id)?;
        let place = (row.last_at, id);
        self.proven.remove(&place);
        self.noise.remove(&place);
        if let Some(rows) = self.networks.get_mut(&row.network) {
            rows.remove(&place);
            if rows.is_empty() {
                self.networks.remove(&row.network);
            }
        }
        Some(row)
    }

    fn make_room(&mut self, newcomer: TokenId) -> usize {
        let Some(row) = self.rows.get(&newcomer) else { return 0 };
        let oldest = |rows: &BTreeSet<(Timestamp, TokenId)>, most: usize| {
            let others = rows.iter().map(|(_, id)| *id).filter(|id| *id != newcomer);
            others.take(rows.len().saturating_sub(most)).collect::<Vec<_>>()
        };
        let mut leaving = Vec::new();
        if row.proven {
            leaving.extend(oldest(&self.proven, MAX_OF_CLASS));
        } else {
            leaving.extend(self.networks.get(&row.network).into_iter().flat_map(|rows| oldest(rows, MAX_OF_NETWORK)));
            if leaving.is_empty() {
                leaving.extend(oldest(&self.noise, MAX_OF_CLASS));
            }
        }
        leaving.into_iter().filter(|id| self.dismiss(*id).is_some()).count()
    }

    /// Forgets a row.
    pub fn dismiss(&mut self, id: TokenId) -> Option<KnockRow> {
        let row = self.take(id)?;
        if self.stored.contains(&id) {
            self.dirty.insert(id);
        } else {
            self.dirty.remove(&id);
        }
        Some(row)
    }

    /// Forgets what was quiet for so long. Answers how many rows went.
    pub fn forget(&mut self, now: Timestamp) -> usize {
        let end = now.before(KEPT_FOR);
        let old = |rows: &BTreeSet<(Timestamp, TokenId)>| {
            rows.iter().take_while(|(at, _)| *at < end).map(|(_, id)| *id).collect::<Vec<_>>()
        };
        let all = [old(&self.proven), old(&self.noise)].concat();
        all.into_iter().filter(|id| self.dismiss(*id).is_some()).count()
    }

    /// One knock.
    #[must_use]
    pub fn get(&self, id: TokenId) -> Option<&KnockRow> {
        self.rows.get(&id)
    }

    /// All knocks, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<&KnockRow> {
        let mut rows: Vec<_> = self.rows.values().collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.last_at, row.id)));
        rows
    }

    /// What the store is to learn: rows as they are now, and those that are gone.
    pub fn take_unflushed(&mut self) -> (Vec<KnockRow>, Vec<TokenId>) {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..FLUSH_ROWS {
            let Some(id) = self.dirty.pop_first() else { break };
            match self.rows.get(&id) {
                Some(row) => {
                    self.stored.insert(id);
                    put.push(row.clone());
                }
                None => {
                    self.stored.remove(&id);
                    gone.push(id);
                }
            }
        }
        (put, gone)
    }

    /// Marks what the store did not take.
    pub fn put_back(&mut self, put: &[KnockRow], gone: &[TokenId]) {
        self.dirty.extend(put.iter().map(|row| row.id));
        self.dirty.extend(gone.iter().copied());
        // Whether the store has them is not known: saying so twice does no harm.
        self.stored.extend(gone.iter().copied());
    }
}

/// The network of an address: what one party commonly holds.
#[must_use]
pub fn network_of(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => format!("{}/24", Ipv4Addr::from_bits(ip.to_bits() & !0xff)),
        IpAddr::V6(ip) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

/// What refusals of one party for one reason have in common.
fn id_of(knock: &Knock, network: &str) -> TokenId {
    let text = |id: Option<&ServiceId>| id.map_or(String::new(), ToString::to_string);
    let parts = [
        knock.proven.to_string(),
        knock.door.as_str().to_owned(),
        knock.why.as_str().to_owned(),
        knock.token.map_or(String::new(), |token| token.to_string()),
        knock.kind.map_or(String::new(), |kind| kind.to_string()),
        text(knock.service.as_ref()),
        network.to_owned(),
    ];
    let digest: [u8; 32] = Sha256::digest(parts.join("\n").as_bytes()).into();
    let mut id = [0; 10];
    for (to, from) in id.iter_mut().zip(digest) {
        *to = from;
    }
    TokenId(id)
}

/// Whether an operator can do something about a refusal: the others are about us, or about waiting.
#[must_use]
pub fn is_kept(code: Code) -> bool {
    match code {
        Code::Busy
        | Code::StoreUnavailable
        | Code::Internal
        | Code::Draining
        | Code::PendingApproval
        | Code::TokenNotYetValid
        | Code::Goodbye
        | Code::Superseded
        | Code::Protocol
        | Code::FrameTooLarge
        | Code::Deadline
        | Code::Throttled
        | Code::ChildOfAnother
        | Code::ChildUnknown
        | Code::ChildLimit
        | Code::Other(_) => false,
        Code::Revoked
        | Code::CertExpired
        | Code::IdentityMismatch
        | Code::ClientCertRequired
        | Code::VersionUnsupported
        | Code::Denied
        | Code::TokenExpired
        | Code::TokenExhausted
        | Code::TokenRevoked
        | Code::KindMismatch
        | Code::ParentUnknown
        | Code::ParentKind
        | Code::ParentBarred
        | Code::ParentOther
        | Code::ParentLabel
        | Code::ApprovalRejected
        | Code::RegistryFull
        | Code::IdTaken
        | Code::IdRule
        | Code::CsrInvalid
        | Code::KeyInUse
        | Code::ClockSkew
        | Code::UnknownIdentity
        | Code::SerialRefused
        | Code::RejoinLimit
        | Code::RejoinTooLate
        | Code::RejoinKey
        | Code::Quarantined
        | Code::Deleted => true,
    }
}

/// What to do about it, in words.
#[must_use]
pub fn fix(why: Why) -> &'static str {
    let code = match why {
        Why::UnknownToken => {
            return "no such token here: check that the host talks to the right collector, or make a new token";
        }
        Why::WrongSecret => {
            return "the token exists and its secret is wrong: give the host the whole token again, or revoke it";
        }
        Why::Address => return "the host's address is outside the token's cidr_allow: make a token for that network",
        Why::Proof => return "the request was signed for another connection: an attack, or a proxy in between",
        Why::Code(code) => code,
    };
    match code {
        Code::TokenExpired => "the token's time is over: make a new one",
        Code::TokenExhausted => {
            "the token was used by other keys already: make a new one, with more uses if it is for several hosts"
        }
        Code::TokenRevoked => "the token is revoked: make a new one",
        Code::KindMismatch => {
            "the token is for another kind: correct `kind` on the host, or make a token for that kind"
        }
        Code::ParentUnknown => "its parent is not registered: register it, or correct `parent` on the host",
        Code::ParentKind => "its parent is of the wrong kind: an agent has a poller, a checker has an agent",
        Code::ParentBarred => "its parent is revoked or deleted: bring the parent back first",
        Code::ParentOther => {
            "the token, or what was registered ahead, names another parent: correct `parent` on the host"
        }
        Code::ParentLabel => {
            "the token finds the parent by a label that the host does not give: set it in `labels` on the host"
        }
        Code::ApprovalRejected => "an operator rejected this key: approve it after all, or ignore it",
        Code::IdTaken => {
            "an identity is bound to that id: choose another id, or `services reenroll` where the host was replaced"
        }
        Code::IdRule => "the id does not follow the token's rule: correct `id` on the host, or make another token",
        Code::CsrInvalid => "the certificate request is malformed: upgrade the sidecar",
        Code::KeyInUse => {
            "the key belongs to another identity: the host's state was copied; remove it there and enroll anew"
        }
        Code::UnknownIdentity => {
            "no such identity here: the service was removed, or the host talks to the wrong collector; enroll it anew"
        }
        Code::SerialRefused => {
            "an older certificate was shown: a copy, or a host restored from a backup; `services reenroll` repairs"
        }
        Code::RejoinLimit => "it rejoined too often: look why its certificate expires, then `services reenroll`",
        Code::RejoinTooLate => "it was away for too long: `services reenroll`",
        Code::RejoinKey => "another key is bound: `services reenroll` where the host was reinstalled",
        Code::Revoked => "the service is revoked: `services unrevoke` lets it back in",
        Code::Deleted => "the service is deleted: `services recover` brings it back",
        Code::Quarantined => "the identity is in quarantine: look at the evidence",
        Code::VersionUnsupported => "the sidecar speaks another version: upgrade it, or the collector",
        Code::IdentityMismatch => "the sidecar claims to be another than its certificate says: its state was mixed up",
        Code::CertExpired => "its certificate is over: it rejoins by itself",
        Code::ClientCertRequired => "it showed no certificate: enroll it",
        Code::RegistryFull => "the registry is full: remove or purge services that are gone",
        Code::ClockSkew => "its clock is far off: correct it on the host",
        Code::Goodbye
        | Code::Draining
        | Code::Superseded
        | Code::Protocol
        | Code::FrameTooLarge
        | Code::Deadline
        | Code::Throttled
        | Code::Busy
        | Code::StoreUnavailable
        | Code::Internal
        | Code::Denied
        | Code::TokenNotYetValid
        | Code::PendingApproval
        | Code::ChildOfAnother
        | Code::ChildUnknown
        | Code::ChildLimit
        | Code::Other(_) => "it comes again by itself; nothing is to be done here",
    }
}

/// Writes down that an operator dismissed knocks; the rows themselves take no part in the commit order.
#[derive(Debug, Clone)]
pub struct Dismissed {
    /// Which.
    pub knocks: Vec<KnockRow>,
    /// Who asks.
    pub by: By,
}

impl Request for Dismissed {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let told = |row: &KnockRow| {
            let details = [
                ("reason", serde_json::json!(row.why.as_str())),
                ("token", serde_json::json!(row.token.map(|token| token.to_string()))),
                ("from", serde_json::json!(row.from)),
                ("times", serde_json::json!(row.times)),
            ];
            self.by.did(world.now.wall, "knock.dismissed", format!("knock:{}", row.id), details)
        };
        Ok((Change { writes: Vec::new(), audit: self.knocks.iter().map(told).collect() }, ()))
    }
}

#[cfg(test)]
mod tests;
