//! Requests about identities: enroll, rejoin, renew, promote.
//!
//! Proofs (the certificate request, the signature over the channel) are checked where the bytes arrive;
//! here is policy. Every check comes before the token is consumed, and both in one change, so that a bad
//! request burns nothing. Certificates are signed while planning: one that never commits was never given
//! to anybody.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rollcall_common::{
    code::Code,
    health::Progress,
    id::{Generation, Kind, ServiceId, ServiceKey},
    identity::{Pin, Serial},
    lifecycle::Status,
    service::{CheckerKind, Pairs, Source},
    time::Timestamp,
    token::{Secret, TokenId},
};
use serde_json::json;

use super::{
    Refusal, Request, World,
    approvals::{Claim, Gate},
    roster::{Entry, Roster},
    services::{By, acts::reinstatement, check_parent},
    settings::{progress_of, unwatched},
    tokens::TokenState,
};
use crate::{
    ca::{Ca, Issued, ProvenCsr},
    store::rows::{
        AnnouncedRow, Approval, CertRow, Change, IdRule, IdentityRow, ServiceRow, TokenPolicy, TokenRow, Write,
    },
};

/// How long after its end a certificate can still be exchanged by a rejoin; outages of ours do not count.
pub const REJOIN_WITHIN: Duration = Duration::from_secs(30 * 86_400);
/// Health after which the count of rejoins starts anew.
pub const REJOINS_FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Whether a secret proves a token. For an unknown token the same work is done, so that the answer tells
/// nothing by its time.
#[must_use]
pub fn proves(roster: &Roster, id: TokenId, secret: &Secret) -> bool {
    let given = secret.hash(id);
    let dummy = rollcall_common::token::SecretHash([0; 32]);
    let stored = roster.token(id).map_or(dummy, |token| token.hash);
    given == stored
}

/// An enrollment whose secret, certificate request and channel proof have passed.
#[derive(Debug, Clone)]
pub struct Enroll {
    /// The proven token.
    pub token: TokenId,
    /// The proven key.
    pub csr: ProvenCsr,
    /// The kind the sidecar believes to be.
    pub kind: Kind,
    /// The parent it believes to have.
    pub parent: Option<ServiceId>,
    /// The id it asks for.
    pub id: Option<ServiceId>,
    /// An unused id, for tokens that assign one.
    pub fresh_id: ServiceId,
    /// For checkers.
    pub checker_kind: Option<CheckerKind>,
    /// Labels it proposes.
    pub labels: Pairs,
    /// Free metadata.
    pub metadata: Pairs,
    /// Where it comes from.
    pub from: IpAddr,
    /// Who signs.
    pub ca: Arc<Ca>,
}

/// A fresh certificate.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Whose.
    pub service: ServiceKey,
    /// The certificate.
    pub issued: Issued,
}

impl Request for Enroll {
    type Answer = Granted;

    fn plan(&self, world: World<'_>) -> Result<(Change, Granted), Refusal> {
        let (token, used_before) = self.admitted(world)?;
        if let Some(service) = used_before {
            return self.again(world, token, service);
        }
        let (roster, policy) = (world.roster, &token.policy);
        let Place { key, parent, poller, labels } = self.place(world, token)?;
        let found = roster.get(&key);
        let mut change = Change::default();
        change.writes.push(self.use_token(&key, world.now.wall));
        if policy.approval == Approval::Manual {
            match self.claim(token, &key, &parent, &labels).decide(world, &self.by())? {
                Gate::Open(done) => change.writes.push(done),
                Gate::Wait(..) => return Err(Refusal::Wire(Code::PendingApproval)),
            }
        }
        match found {
            None => {
                let row = self.new_row(world, token, &key, parent, poller, labels);
                change.writes.push(Write::InsertService(Box::new(row)));
                change.audit.push(self.by().did(
                    world.now.wall,
                    "service.registered",
                    key.to_string(),
                    [("source", json!(Source::EdgeOnboarding)), ("token", json!(self.token.to_string()))],
                ));
            }
            Some(entry) => {
                change.writes.extend(adopt(entry, parent.as_ref(), labels, &self.metadata)?);
                let said = self.announced();
                if entry.row.announced.as_deref().unwrap_or(&AnnouncedRow::default()) != &said {
                    let metadata = laid(&self.metadata, &entry.row)?;
                    let (service, row) = (key.clone(), Arc::new(said));
                    change.writes.push(Write::Announce { service, expect: entry.row.seq, row, metadata });
                }
                // What is wanted stays wanted; what the host before said of it says nothing of this one.
                if entry.row.reported.is_some() {
                    change.writes.push(Write::KeepReported { service: key.clone(), row: None });
                }
                if progress_of(&entry.row) != Progress::Unwatched {
                    let said = (unwatched(), world.now.wall);
                    change.writes.push(Write::Progress { service: key.clone(), said });
                }
            }
        }
        let issued = self.issue(&key, Generation(1))?;
        change.writes.push(Write::PutIdentity {
            row: Box::new(IdentityRow {
                service: key.clone(),
                current: cert_row(&issued),
                pending: None,
                enrolled_via: self.token,
                enrolled_at: world.now.wall,
                rejoins: 0,
                rejoins_since: world.now.wall,
                rejoin_limit: policy.rejoin_limit,
                machine: None,
            }),
            expect: None,
        });
        change.audit.push(self.bound(world, &key, &issued));
        Ok((change, Granted { service: key, issued }))
    }
}

/// Where an enrollment would stand.
struct Place {
    key: ServiceKey,
    parent: Option<ServiceId>,
    poller: Option<ServiceId>,
    labels: Pairs,
}

/// Asks whether an operator has let an enrollment in, and keeps the request where none has decided.
#[derive(Debug, Clone)]
pub struct AskApproval(pub Enroll);

impl Request for AskApproval {
    /// How long to wait before asking again; `None` = it may enroll now.
    type Answer = Option<Duration>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Option<Duration>), Refusal> {
        let asked = &self.0;
        let (token, used_before) = asked.admitted(world)?;
        if used_before.is_some() || token.policy.approval == Approval::Auto {
            return Ok((Change::default(), None));
        }
        let Place { key, parent, poller: _, labels } = asked.place(world, token)?;
        if let Some(entry) = world.roster.get(&key) {
            // What could not be taken over needs no operator's time.
            adopt(entry, parent.as_ref(), labels.clone(), &asked.metadata)?;
        }
        match asked.claim(token, &key, &parent, &labels).decide(world, &asked.by())? {
            Gate::Open(_) => Ok((Change::default(), None)),
            Gate::Wait(change, pause) => Ok((change, Some(pause))),
        }
    }
}

impl Enroll {
    /// The token, if it may be used from there now, and what this key has made of it before.
    fn admitted<'w>(&self, world: World<'w>) -> Result<(&'w TokenRow, Option<&'w ServiceKey>), Refusal> {
        let refuse = |code| Err(Refusal::Wire(code));
        let Some(token) = world.roster.token(self.token) else { return refuse(Code::Denied) };
        let ranges = &token.policy.cidr_allow;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(self.from)) {
            return refuse(Code::Denied);
        }
        let used_before = world.roster.use_of(self.token, self.csr.key());
        match TokenState::of(token, world.now.wall) {
            TokenState::Usable => {}
            TokenState::Exhausted if used_before.is_some() => {}
            TokenState::Exhausted => return refuse(Code::TokenExhausted),
            TokenState::Revoked => return refuse(Code::TokenRevoked),
            TokenState::Expired => return refuse(Code::TokenExpired),
            TokenState::NotYetValid => return refuse(Code::TokenNotYetValid),
        }
        Ok((token, used_before))
    }

    /// Every check of what is asked for.
    fn place(&self, world: World<'_>, token: &TokenRow) -> Result<Place, Refusal> {
        let (roster, policy) = (world.roster, &token.policy);
        if policy.kind != self.kind {
            return Err(Refusal::Wire(Code::KindMismatch));
        }
        let asked_before = roster.approvals().of(self.token, self.csr.key());
        let id = match (&policy.id_rule, asked_before) {
            // An id that was made up for this key, and that an operator saw, stays.
            (IdRule::Assigned, Some(row)) if self.id.is_none() => row.service.id.clone(),
            (_, _) => self.choose_id(policy)?,
        };
        let key = ServiceKey::new(policy.kind, id);
        let labels = self.choose_labels(policy, roster.get(&key))?;
        let parent = self.choose_parent(policy, &labels)?;
        let poller = check_parent(roster, policy.kind, parent.as_ref())?;
        if self.ca.is_own_key(&self.csr.key()) || roster.holder_of(&self.csr.key()).is_some() {
            return Err(Refusal::Wire(Code::KeyInUse));
        }
        Ok(Place { key, parent, poller, labels })
    }

    fn claim(&self, token: &TokenRow, key: &ServiceKey, parent: &Option<ServiceId>, labels: &Pairs) -> Claim {
        let checker_kind = token.policy.checker_kind.clone().or_else(|| self.checker_kind.clone());
        Claim {
            token: self.token,
            key: self.csr.key(),
            service: key.clone(),
            parent: parent.clone(),
            checker_kind: checker_kind.filter(|_| key.kind == Kind::Checker),
            labels: labels.clone(),
            metadata: self.metadata.clone(),
            from: self.from.to_string(),
        }
    }

    /// The same key with the same token: a reply was lost. The identity gets another certificate for that
    /// key, pending until it is used; nothing is consumed.
    fn again(&self, world: World<'_>, token: &TokenRow, service: &ServiceKey) -> Result<(Change, Granted), Refusal> {
        let refuse = |code| Err(Refusal::Wire(code));
        let Some(entry) = world.roster.get(service) else { return refuse(Code::TokenExhausted) };
        if let Some(code) = barred(entry.row.status) {
            return refuse(code);
        }
        let Some(identity) = &entry.identity else { return refuse(Code::TokenExhausted) };
        let key = self.csr.key();
        if identity.enrolled_via != token.id || identity.current.key != key {
            return refuse(Code::TokenExhausted);
        }
        let issued = self.issue(service, next_generation(identity))?;
        let row = IdentityRow { pending: Some(cert_row(&issued)), ..IdentityRow::clone(identity) };
        let writes = vec![
            self.use_token(service, world.now.wall),
            Write::PutIdentity { row: Box::new(row), expect: Some(identity.latest()) },
        ];
        let audit = vec![self.bound(world, service, &issued)];
        Ok((Change { writes, audit }, Granted { service: service.clone(), issued }))
    }

    fn choose_id(&self, policy: &TokenPolicy) -> Result<ServiceId, Refusal> {
        let chosen = match (&policy.id_rule, &self.id) {
            (IdRule::Fixed(id), None) => Some(id.clone()),
            (IdRule::Fixed(id), Some(asked)) => (id == asked).then(|| id.clone()),
            (IdRule::Prefix(prefix), Some(asked)) => asked.as_str().starts_with(prefix.as_str()).then(|| asked.clone()),
            (IdRule::Pattern(pattern), Some(asked)) => pattern.matches(asked).then(|| asked.clone()),
            (IdRule::Assigned, None) => Some(self.fresh_id.clone()),
            (IdRule::Prefix(_) | IdRule::Pattern(_), None) | (IdRule::Assigned, Some(_)) => None,
        };
        chosen.ok_or(Refusal::Wire(Code::IdRule))
    }

    /// The labels that the service will have: what an operator registered ahead wins over the token, the
    /// token over what a parent's report brought, and all of them over what the sidecar proposes.
    fn choose_labels(&self, policy: &TokenPolicy, found: Option<&Entry>) -> Result<Pairs, Refusal> {
        let lay = |under: &Pairs, over: &Pairs| under.overlaid(over).map_err(|e| Refusal::Invalid(e.to_string()));
        match found.map(|entry| &entry.row) {
            None => lay(&self.labels, &policy.labels),
            Some(row) if row.source == Source::Implicit => lay(&lay(&self.labels, &row.labels)?, &policy.labels),
            Some(row) => lay(&lay(&self.labels, &policy.labels)?, &row.labels),
        }
    }

    /// The token's record decides; what the sidecar believes may repeat that, never change it.
    fn choose_parent(&self, policy: &TokenPolicy, labels: &Pairs) -> Result<Option<ServiceId>, Refusal> {
        let bound = match (&policy.parent, &policy.parent_rule) {
            (Some(bound), _) => bound.clone(),
            (None, Some(rule)) => rule.parent(labels).ok_or(Refusal::Wire(Code::ParentLabel))?,
            (None, None) => return Ok(self.parent.clone()),
        };
        match &self.parent {
            Some(asked) if *asked != bound => Err(Refusal::Wire(Code::ParentOther)),
            Some(_) | None => Ok(Some(bound)),
        }
    }

    fn new_row(
        &self,
        world: World<'_>,
        token: &TokenRow,
        key: &ServiceKey,
        parent: Option<ServiceId>,
        poller: Option<ServiceId>,
        labels: Pairs,
    ) -> ServiceRow {
        let checker_kind = token.policy.checker_kind.clone().or_else(|| self.checker_kind.clone());
        ServiceRow {
            key: key.clone(),
            parent,
            poller,
            checker_kind: checker_kind.filter(|_| key.kind == Kind::Checker),
            component_id: None,
            source: Source::EdgeOnboarding,
            labels,
            metadata: self.metadata.clone(),
            placeholder: false,
            declared_spiffe: None,
            ephemeral_after: token.policy.ephemeral_after,
            implicit_children: token.policy.implicit_children,
            created_by: format!("token:{}", self.token),
            first_registered: world.now.wall,
            first_seen: None,
            last_seen: None,
            status: Status::Pending,
            status_since: world.now.wall,
            archived: false,
            health: None,
            facts: None,
            progress: None,
            settings: None,
            reported: None,
            announced: Some(Arc::new(self.announced())),
            seq: rollcall_common::id::Seq::default(),
        }
    }

    /// What its host says: what its later words are compared with.
    fn announced(&self) -> AnnouncedRow {
        AnnouncedRow { labels: self.labels.clone(), metadata: self.metadata.clone() }
    }

    fn use_token(&self, service: &ServiceKey, at: Timestamp) -> Write {
        Write::UseToken {
            token: self.token,
            key: self.csr.key(),
            service: service.clone(),
            at,
            from: self.from.to_string(),
        }
    }

    fn issue(&self, service: &ServiceKey, generation: Generation) -> Result<Issued, Refusal> {
        issue(&self.ca, service, &self.csr, generation)
    }

    fn by(&self) -> By {
        By { actor: format!("token:{}", self.token), request_id: None }
    }

    fn bound(&self, world: World<'_>, service: &ServiceKey, issued: &Issued) -> crate::store::rows::AuditDraft {
        self.by().did(
            world.now.wall,
            "identity.enrolled",
            service.to_string(),
            [("serial", json!(issued.serial.to_string())), ("from", json!(self.from.to_string()))],
        )
    }
}

/// What it takes to give an unbound row to an enrollment; its source and history stay.
fn adopt(entry: &Entry, parent: Option<&ServiceId>, labels: Pairs, metadata: &Pairs) -> Result<Option<Write>, Refusal> {
    if entry.identity.is_some() {
        return Err(Refusal::Wire(Code::IdTaken));
    }
    if let Some(code) = barred(entry.row.status) {
        return Err(Refusal::Wire(code));
    }
    if entry.row.parent.as_ref() != parent {
        return Err(Refusal::Wire(Code::ParentOther));
    }
    // What an operator registered ahead wins over what the sidecar proposes.
    let metadata = laid(metadata, &entry.row)?;
    let same = labels == entry.row.labels && metadata == entry.row.metadata;
    Ok((!same).then(|| Write::Describe { service: entry.row.key.clone(), expect: entry.row.seq, labels, metadata }))
}

/// What a host says of itself below what is in force.
fn laid(metadata: &Pairs, row: &ServiceRow) -> Result<Pairs, Refusal> {
    metadata.overlaid(&row.metadata).map_err(|e| Refusal::Invalid(e.to_string()))
}

/// The refusal that a barred status means to its sidecar.
#[must_use]
pub fn barred(status: Status) -> Option<Code> {
    match status {
        Status::Revoked => Some(Code::Revoked),
        Status::Deleted => Some(Code::Deleted),
        Status::Pending | Status::Active | Status::Inactive => None,
    }
}

/// A rejoin whose certificate request has passed.
#[derive(Debug, Clone)]
pub struct Rejoin {
    /// Who.
    pub service: ServiceKey,
    /// The proven new key.
    pub csr: ProvenCsr,
    /// The bound key that signed the channel proof, if one did.
    pub signed_by: Option<Pin>,
    /// Time since the end of the old certificate that could not be observed by us.
    pub blind_since_end: Duration,
    /// Whether we were blind while the old certificate should have been renewed.
    pub outage_was_ours: bool,
    /// Where it comes from.
    pub from: IpAddr,
    /// Who signs.
    pub ca: Arc<Ca>,
}

impl Request for Rejoin {
    type Answer = Granted;

    fn plan(&self, world: World<'_>) -> Result<(Change, Granted), Refusal> {
        let refuse = |code| Err(Refusal::Wire(code));
        let bound = world.roster.get(&self.service).and_then(|entry| Some((entry, entry.identity.as_ref()?)));
        let Some((entry, identity)) = bound else { return refuse(Code::UnknownIdentity) };
        let certs = || std::iter::once(&identity.current).chain(&identity.pending);
        let Some(old) = certs().find(|cert| Some(cert.key) == self.signed_by) else { return refuse(Code::RejoinKey) };
        let now = world.now.wall;
        let back = reinstatement(entry, now);
        if let Some(code) = barred(entry.row.status).filter(|_| back.is_none()) {
            return refuse(code);
        }
        let ended_for = now.since(old.not_after).saturating_sub(self.blind_since_end);
        if ended_for > REJOIN_WITHIN {
            return refuse(Code::RejoinTooLate);
        }
        let forgotten = now.since(identity.rejoins_since) > REJOINS_FORGOTTEN_AFTER;
        let (so_far, since) = if forgotten { (0, now) } else { (identity.rejoins, identity.rejoins_since) };
        let rejoins = if self.outage_was_ours { so_far } else { so_far.saturating_add(1) };
        if identity.rejoin_limit.is_some_and(|limit| rejoins > limit) {
            return refuse(Code::RejoinLimit);
        }
        if foreign_key(world.roster, &self.ca, &self.service, self.csr.key()) {
            return refuse(Code::KeyInUse);
        }
        let issued = issue(&self.ca, &self.service, &self.csr, next_generation(identity))?;
        let row = IdentityRow {
            // The key that signed stays current until the new certificate is used.
            current: old.clone(),
            pending: Some(cert_row(&issued)),
            rejoins,
            rejoins_since: since,
            ..IdentityRow::clone(identity)
        };
        let audit = By::sidecar(&self.service).did(
            now,
            "identity.rejoined",
            self.service.to_string(),
            [
                ("serial", json!(issued.serial.to_string())),
                ("from", json!(self.from.to_string())),
                ("rejoins", json!(rejoins)),
            ],
        );
        let mut change = Change::default();
        if let Some((writes, audit)) = back {
            change.writes.extend(writes);
            change.audit.push(audit);
        }
        change.writes.push(Write::PutIdentity { row: Box::new(row), expect: Some(identity.latest()) });
        change.audit.push(audit);
        Ok((change, Granted { service: self.service.clone(), issued }))
    }
}

/// A renewal on a live session.
#[derive(Debug, Clone)]
pub struct Renew {
    /// Who, proven by the certificate.
    pub service: ServiceKey,
    /// The certificate of the session.
    pub serial: Serial,
    /// The proven new key.
    pub csr: ProvenCsr,
    /// Who signs.
    pub ca: Arc<Ca>,
}

impl Request for Renew {
    type Answer = Granted;

    fn plan(&self, world: World<'_>) -> Result<(Change, Granted), Refusal> {
        let refuse = |code| Err(Refusal::Wire(code));
        let bound = world.roster.get(&self.service).and_then(|entry| Some((entry, entry.identity.as_ref()?)));
        let Some((entry, identity)) = bound else { return refuse(Code::UnknownIdentity) };
        if let Some(code) = barred(entry.row.status) {
            return refuse(code);
        }
        let certs = std::iter::once(&identity.current).chain(&identity.pending);
        let mut held = certs.filter(|cert| cert.serial == self.serial);
        let Some(held) = held.next() else { return refuse(Code::SerialRefused) };
        if foreign_key(world.roster, &self.ca, &self.service, self.csr.key()) {
            return refuse(Code::KeyInUse);
        }
        let issued = issue(&self.ca, &self.service, &self.csr, next_generation(identity))?;
        let row =
            IdentityRow { current: held.clone(), pending: Some(cert_row(&issued)), ..IdentityRow::clone(identity) };
        let audit = By::sidecar(&self.service).did(
            world.now.wall,
            "identity.renewed",
            self.service.to_string(),
            [("serial", json!(issued.serial.to_string()))],
        );
        let write = Write::PutIdentity { row: Box::new(row), expect: Some(identity.latest()) };
        Ok((Change { writes: vec![write], audit: vec![audit] }, Granted { service: self.service.clone(), issued }))
    }
}

/// A pending certificate was presented: it becomes current, and the older one dies.
#[derive(Debug, Clone)]
pub struct Promote {
    /// Whose.
    pub service: ServiceKey,
    /// The certificate presented.
    pub serial: Serial,
}

impl Request for Promote {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let identity = world.roster.get(&self.service).and_then(|entry| entry.identity.as_ref());
        let Some(identity) = identity else { return Err(Refusal::Wire(Code::UnknownIdentity)) };
        let Some(pending) = identity.pending.as_ref().filter(|cert| cert.serial == self.serial) else {
            return Ok((Change::default(), ()));
        };
        let row = IdentityRow { current: pending.clone(), pending: None, ..IdentityRow::clone(identity) };
        let write = Write::PutIdentity { row: Box::new(row), expect: Some(identity.latest()) };
        Ok((Change { writes: vec![write], audit: Vec::new() }, ()))
    }
}

fn issue(ca: &Ca, service: &ServiceKey, csr: &ProvenCsr, generation: Generation) -> Result<Issued, Refusal> {
    ca.issue(service, csr, generation).map_err(|error| {
        tracing::error!(%service, %error, "no certificate could be signed");
        Refusal::Wire(Code::Internal)
    })
}

fn next_generation(identity: &IdentityRow) -> Generation {
    identity.latest().next()
}

/// Whether a key is somebody else's: the CA's own, or bound to another service.
fn foreign_key(roster: &Roster, ca: &Ca, service: &ServiceKey, key: Pin) -> bool {
    ca.is_own_key(&key) || roster.holder_of(&key).is_some_and(|holder| holder != service)
}

fn cert_row(issued: &Issued) -> CertRow {
    CertRow { serial: issued.serial, key: issued.key, spki: issued.spki.clone(), not_after: issued.not_after }
}

#[cfg(test)]
mod tests;
