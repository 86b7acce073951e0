//! Requests about onboarding packages: a pre-registration, its token and its configuration, handed out once.
//!
//! What is inside a package is made and sealed by the asker (`http/packages`): the registry keeps hashes and a
//! blob that it cannot open. A package is fetched with its download secret; the first to fetch it may do so
//! again for [`FETCH_AGAIN`], for a lost download; then what it holds is wiped. The first heartbeat of the
//! service, if the package's token let it in, activates it in the change that activates the service.

mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rollcall_common::{
    id::ServiceKey,
    lifecycle::{Act, Status},
    service::Source,
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use serde_json::json;

pub use self::state::{NoPackageArrow, PackageAct, decide, standing};
use super::{
    Refusal, Request, World,
    roster::{Entry, Roster},
    services::{self, By, Move, Register, check_parent},
    tokens::CreateToken,
};
use crate::store::rows::{
    Change, IdRule, PackageId, PackageRow, PackageSettings, PackageStatus, Said, TokenPolicy, Write,
};

/// How long whoever fetched a package may fetch it again.
pub const FETCH_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Packages that may be kept; beyond it a new one is refused.
pub const MAX_PACKAGES: usize = 100_000;
/// How long a deleted package is still shown.
pub const DELETED_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// How long one that did its work, or never will, is still shown.
pub const ENDED_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Packages that one sweep changes.
const SWEEP: usize = 256;

/// Why a package is not made, handed out or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageProblem {
    /// No such package, or another one's secret: whoever has no right to know is told the same.
    #[error("there is no such package, or this is not its download secret")]
    Unknown,
    /// Its life has no such arrow.
    #[error(transparent)]
    Arrow(#[from] NoPackageArrow),
    /// It is not to be fetched any more.
    #[error("package {0} is {1} and cannot be fetched (again): issue it again with `packages reissue {0}`")]
    Gone(PackageId, PackageStatus),
    /// Another package brings in the same service.
    #[error("package {0} brings in {1} already: revoke it, or issue it again with `packages reissue {0}`")]
    Another(PackageId, ServiceKey),
    /// The service has an identity already.
    #[error("{0} is in already: a package could not enroll it again")]
    Bound(ServiceKey),
    /// Too many.
    #[error("there are {MAX_PACKAGES} packages: delete some")]
    Full,
}

/// What a package holds at one time of its life: made by the asker, opaque to the registry.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The token's public half.
    pub token: TokenId,
    /// What proves the token.
    pub token_hash: SecretHash,
    /// What proves the download secret.
    pub secret_hash: SecretHash,
    /// The token's text under the download secret.
    pub sealed: Vec<u8>,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// The rest of what the token allows; identity and time are the package's.
    pub policy: TokenPolicy,
}

/// Makes a package: row, token and package in one change.
#[derive(Debug, Clone)]
pub struct CreatePackage {
    /// Which.
    pub id: PackageId,
    /// The service to register; its source is always onboarding.
    pub register: Register,
    /// Whether a row that is registered already, unbound and never seen, may be taken over.
    pub adopt: bool,
    /// What it holds.
    pub contents: Contents,
    /// The rest of its configuration.
    pub settings: PackageSettings,
    /// A note of the maker's.
    pub note: String,
}

impl Request for CreatePackage {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let (roster, now) = (world.roster, world.now.wall);
        let key = &self.register.key;
        if roster.packages().len() >= MAX_PACKAGES {
            return Err(PackageProblem::Full.into());
        }
        let open = |row: &&std::sync::Arc<PackageRow>| {
            matches!(standing(row, now), PackageStatus::Issued | PackageStatus::Delivered)
        };
        if let Some(other) = roster.packages().of(key).find(open) {
            return Err(PackageProblem::Another(other.id, key.clone()).into());
        }
        let mut change = match roster.get(key) {
            None => {
                let mut register = Register { source: Source::EdgeOnboarding, ..self.register.clone() };
                register.said.component_id.get_or_insert_with(|| self.id.to_string());
                register.plan(world)?.0
            }
            Some(entry) if self.adopt => {
                self.may_adopt(roster, entry)?;
                Change::default()
            }
            Some(_) => return Err(Refusal::Exists(key.clone())),
        };
        let adopted = change.writes.is_empty();
        let by = &self.register.by;
        change.extend(token(key, &self.register, &self.contents, &self.note).plan(world)?.0);
        let row = PackageRow {
            id: self.id,
            service: key.clone(),
            parent: self.register.parent.clone(),
            component_id: self.register.said.component_id.clone().unwrap_or_else(|| self.id.to_string()),
            token: self.contents.token,
            secret_hash: self.contents.secret_hash,
            sealed: Some(self.contents.sealed.clone()),
            settings: self.settings.clone(),
            status: PackageStatus::Issued,
            status_since: now,
            issues: 1,
            note: self.note.clone(),
            created_by: by.actor.clone(),
            created_at: now,
            expires_at: self.contents.expires_at,
            delivered_at: None,
            delivered_to: None,
            activated_at: None,
            seq: rollcall_common::id::Seq::default(),
        };
        change.audit.push(by.did(
            now,
            "package.created",
            object(self.id),
            [
                ("service", json!(key.to_string())),
                ("token", json!(self.contents.token.to_string())),
                ("adopted", json!(adopted)),
                ("after", json!(PackageStatus::Issued)),
                ("note", json!(self.note)),
            ],
        ));
        change.writes.push(Write::PutPackage { row: Box::new(row), expect: None });
        Ok((change, ()))
    }
}

impl CreatePackage {
    /// What is registered already is taken over only as it was asked for, and only before it ever lived.
    fn may_adopt(&self, roster: &Roster, entry: &Entry) -> Result<(), Refusal> {
        let (key, row) = (&self.register.key, &entry.row);
        if entry.identity.is_some() || row.first_seen.is_some() {
            return Err(PackageProblem::Bound(key.clone()).into());
        }
        if row.status != Status::Pending {
            return Err(Refusal::Invalid(format!("{key} is {}: only what is pending can be taken over", row.status)));
        }
        if row.parent != self.register.parent {
            let parent = row.parent.as_ref().map_or("none", |id| id.as_str());
            return Err(Refusal::Invalid(format!("{key} is registered with the parent {parent}")));
        }
        check_parent(roster, key.kind, row.parent.as_ref())?;
        Ok(())
    }
}

/// The token of a package: one host, one id.
fn token(key: &ServiceKey, register: &Register, contents: &Contents, note: &str) -> CreateToken {
    let policy = TokenPolicy {
        kind: key.kind,
        parent: register.parent.clone(),
        id_rule: IdRule::Fixed(key.id.clone()),
        checker_kind: register.checker_kind.clone(),
        max_uses: 1,
        expires_at: contents.expires_at,
        labels: register.said.labels.clone(),
        ..contents.policy.clone()
    };
    CreateToken {
        id: contents.token,
        hash: contents.token_hash,
        policy,
        note: note.to_owned(),
        by: register.by.clone(),
    }
}

/// Hands a package out.
#[derive(Debug, Clone)]
pub struct FetchPackage {
    /// Which.
    pub id: PackageId,
    /// The download secret's proof.
    pub secret_hash: SecretHash,
    /// Who fetches: only the same one may fetch it again.
    pub to: String,
    /// Who asks.
    pub by: By,
}

impl Request for FetchPackage {
    type Answer = Box<PackageRow>;

    fn plan(&self, world: World<'_>) -> Result<(Change, Box<PackageRow>), Refusal> {
        let now = world.now.wall;
        // An unknown id takes the same way as a wrong secret.
        let row = world.roster.packages().get(self.id);
        let wanted = row.map_or(SecretHash([0; 32]), |row| row.secret_hash);
        let proven = self.secret_hash == wanted;
        let row = row.filter(|_| proven).ok_or(PackageProblem::Unknown)?;
        let gone = |status| Err(PackageProblem::Gone(row.id, status).into());
        if row.sealed.is_none() {
            return gone(standing(row, now));
        }
        let told = |action: &str| self.by.did(now, action, object(row.id), [("to", json!(self.to))]);
        match standing(row, now) {
            PackageStatus::Issued => {
                let next = PackageRow {
                    status: decide(PackageStatus::Issued, PackageAct::Deliver).map_err(PackageProblem::from)?,
                    status_since: now,
                    delivered_at: Some(now),
                    delivered_to: Some(self.to.clone()),
                    ..PackageRow::clone(row)
                };
                let write = Write::PutPackage { row: Box::new(next.clone()), expect: Some(row.seq) };
                Ok((Change { writes: vec![write], audit: vec![told("package.delivered")] }, Box::new(next)))
            }
            PackageStatus::Delivered => {
                let fresh = row.delivered_at.is_some_and(|at| now.since(at) < FETCH_AGAIN);
                if !fresh || row.delivered_to.as_ref() != Some(&self.to) {
                    return gone(PackageStatus::Delivered);
                }
                let change = Change { writes: Vec::new(), audit: vec![told("package.fetched_again")] };
                Ok((change, Box::new(PackageRow::clone(row))))
            }
            status @ (PackageStatus::Activated
            | PackageStatus::Revoked
            | PackageStatus::Expired
            | PackageStatus::Deleted) => gone(status),
        }
    }
}

/// Takes a package back; its token ends with it.
#[derive(Debug, Clone)]
pub struct RevokePackage {
    /// Which.
    pub id: PackageId,
    /// Whether its service is revoked, too.
    pub service: bool,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who asks.
    pub by: By,
}

impl Request for RevokePackage {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let now = world.now.wall;
        let row = known(world.roster, self.id)?;
        let mut change = turned(row, PackageAct::Revoke, now, &self.by, &self.reason)?;
        change.writes.extend(end_token(world.roster, row, now));
        if self.service && world.roster.get(&row.service).is_some_and(|entry| !entry.row.status.is_barred()) {
            let (key, reason, by) = (row.service.clone(), self.reason.clone(), self.by.clone());
            change.extend(Move::new(key, Act::Revoke, reason, by).plan(world)?.0);
        }
        Ok((change, ()))
    }
}

/// Puts a package away.
#[derive(Debug, Clone)]
pub struct DeletePackage {
    /// Which.
    pub id: PackageId,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who asks.
    pub by: By,
}

impl Request for DeletePackage {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let row = known(world.roster, self.id)?;
        let change = turned(row, PackageAct::Delete, world.now.wall, &self.by, &self.reason)?;
        Ok((change, ()))
    }
}

/// Gives a package a new token and a new download secret; the old ones end.
#[derive(Debug, Clone)]
pub struct ReissuePackage {
    /// Which.
    pub id: PackageId,
    /// What it holds from now on.
    pub contents: Contents,
    /// Who asks.
    pub by: By,
}

impl Request for ReissuePackage {
    type Answer = ();

    fn plan(&self, world: World<'_>) -> Result<(Change, ()), Refusal> {
        let (roster, now) = (world.roster, world.now.wall);
        let row = known(roster, self.id)?;
        let status = decide(standing(row, now), PackageAct::Reissue).map_err(PackageProblem::from)?;
        let entry = roster.get(&row.service).ok_or_else(|| Refusal::UnknownService(row.service.clone()))?;
        if entry.identity.is_some() {
            return Err(PackageProblem::Bound(row.service.clone()).into());
        }
        if entry.row.status.is_barred() {
            return Err(Refusal::Invalid(format!("{} is {}: it could not enroll", row.service, entry.row.status)));
        }
        let said = Said { labels: row.settings.labels.clone(), ..Said::default() };
        let register = Register {
            checker_kind: row.settings.checker_kind.clone(),
            said,
            ..Register::new(row.service.clone(), row.parent.clone(), Source::EdgeOnboarding, self.by.clone())
        };
        let mut change = token(&row.service, &register, &self.contents, &row.note).plan(world)?.0;
        change.writes.extend(end_token(roster, row, now));
        let next = PackageRow {
            token: self.contents.token,
            secret_hash: self.contents.secret_hash,
            sealed: Some(self.contents.sealed.clone()),
            status,
            status_since: now,
            issues: row.issues.saturating_add(1),
            expires_at: self.contents.expires_at,
            delivered_at: None,
            delivered_to: None,
            ..PackageRow::clone(row)
        };
        change.audit.push(self.by.did(
            now,
            "package.reissued",
            object(row.id),
            [
                ("before", json!(row.status)),
                ("after", json!(status)),
                ("old_token", json!(row.token.to_string())),
                ("token", json!(next.token.to_string())),
            ],
        ));
        change.writes.push(Write::PutPackage { row: Box::new(next), expect: Some(row.seq) });
        Ok((change, ()))
    }
}

/// Records what time did: packages expire, what was delivered is wiped, old rows go. Bounded; ask again while it
/// answers that it did something.
#[derive(Debug, Clone)]
pub struct SweepPackages {
    /// Who asks.
    pub by: By,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packages that expired.
    pub expired: usize,
    /// Packages whose contents were wiped.
    pub wiped: usize,
    /// Rows that went.
    pub removed: usize,
}

impl Swept {
    /// Packages that were touched.
    #[must_use]
    pub fn all(self) -> usize {
        self.expired + self.wiped + self.removed
    }
}

impl Request for SweepPackages {
    type Answer = Swept;

    fn plan(&self, world: World<'_>) -> Result<(Change, Swept), Refusal> {
        let now = world.now.wall;
        let (mut change, mut swept) = (Change::default(), Swept::default());
        for (row, due) in due(world.roster, now).take(SWEEP) {
            match due {
                Due::Expire => {
                    change.extend(turned(row, PackageAct::Expire, now, &self.by, "")?);
                    swept.expired += 1;
                }
                Due::Wipe => {
                    let next = PackageRow { sealed: None, ..PackageRow::clone(row) };
                    change.writes.push(Write::PutPackage { row: Box::new(next), expect: Some(row.seq) });
                    change.audit.push(self.by.did(now, "package.wiped", object(row.id), []));
                    swept.wiped += 1;
                }
                Due::Remove => {
                    change.writes.push(Write::DropPackage(row.id));
                    let details = [("service", json!(row.service.to_string())), ("before", json!(row.status))];
                    change.audit.push(self.by.did(now, "package.removed", object(row.id), details));
                    swept.removed += 1;
                }
            }
        }
        Ok((change, swept))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Expire,
    Wipe,
    Remove,
}

/// The packages that time did something to.
fn due(roster: &Roster, now: Timestamp) -> impl Iterator<Item = (&PackageRow, Due)> {
    roster.packages().seek(None).filter_map(move |row| {
        let kept = match row.status {
            PackageStatus::Deleted => Some(DELETED_KEPT),
            PackageStatus::Activated | PackageStatus::Revoked | PackageStatus::Expired => Some(ENDED_KEPT),
            PackageStatus::Issued | PackageStatus::Delivered => None,
        };
        let over = |at: Timestamp, wait: Duration| now.since(at) >= wait;
        let due = if standing(row, now) != row.status && !came_in(roster, row) {
            Due::Expire
        } else if kept.is_some_and(|kept| over(row.status_since, kept)) {
            Due::Remove
        } else if row.sealed.is_some() && row.delivered_at.is_some_and(|at| over(at, FETCH_AGAIN)) {
            Due::Wipe
        } else {
            return None;
        };
        Some((&**row, due))
    })
}

/// Whether its token let its service in, which is then as good as its first heartbeat: only that is still to come.
fn came_in(roster: &Roster, row: &PackageRow) -> bool {
    let identity = roster.get(&row.service).and_then(|entry| entry.identity.as_ref());
    identity.is_some_and(|identity| identity.enrolled_via == row.token)
}

/// Whether there is something to sweep.
#[must_use]
pub fn needs_sweep(roster: &Roster, now: Timestamp) -> bool {
    due(roster, now).next().is_some()
}

/// Whether the first heartbeat of a service activates a package.
#[must_use]
pub fn awaited(roster: &Roster, entry: &Entry) -> bool {
    awaiting(roster, entry).is_some()
}

fn awaiting<'a>(roster: &'a Roster, entry: &Entry) -> Option<&'a PackageRow> {
    let token = entry.identity.as_ref()?.enrolled_via;
    roster.packages().awaiting(&entry.row.key, token).map(|row| &**row)
}

/// What a heartbeat changes, its own or its parent's report of one: the service's status, and the package that
/// brought it in.
#[must_use]
pub fn activation(roster: &Roster, entry: &Entry, reporter: Option<&ServiceKey>, seen: Timestamp) -> Option<Change> {
    let mut change = services::activation(entry, reporter, seen);
    if let Some(row) = awaiting(roster, entry) {
        // Delivered in time is what counts: a token that let its bearer in was good.
        let by = By::sidecar(&entry.row.key);
        let audit = by.did(
            seen,
            "package.activated",
            object(row.id),
            [("before", json!(row.status)), ("after", json!(PackageStatus::Activated))],
        );
        let next = PackageRow {
            status: PackageStatus::Activated,
            status_since: seen,
            activated_at: Some(seen),
            sealed: None,
            ..PackageRow::clone(row)
        };
        let change = change.get_or_insert_default();
        change.writes.push(Write::PutPackage { row: Box::new(next), expect: Some(row.seq) });
        change.audit.push(audit);
    }
    change
}

fn known(roster: &Roster, id: PackageId) -> Result<&PackageRow, Refusal> {
    roster.packages().get(id).map(|row| &**row).ok_or(Refusal::Package(PackageProblem::Unknown))
}

/// One arrow of its life; what it held goes.
fn turned(row: &PackageRow, act: PackageAct, now: Timestamp, by: &By, reason: &str) -> Result<Change, Refusal> {
    // What time did is no act of the one who asks: a package that is over can still be taken back.
    let from = if act == PackageAct::Expire { row.status } else { standing(row, now) };
    let status = decide(from, act).map_err(PackageProblem::from)?;
    let next = PackageRow { status, status_since: now, sealed: None, ..PackageRow::clone(row) };
    let audit = by.did(
        now,
        &format!("package.{}", act.as_str()),
        object(row.id),
        [
            ("service", json!(row.service.to_string())),
            ("before", json!(row.status)),
            ("after", json!(status)),
            ("reason", json!(reason)),
        ],
    );
    let write = Write::PutPackage { row: Box::new(next), expect: Some(row.seq) };
    Ok(Change { writes: vec![write], audit: vec![audit] })
}

/// Ends the token of a package, unless it ended already.
fn end_token(roster: &Roster, row: &PackageRow, at: Timestamp) -> Option<Write> {
    let token = roster.token(row.token).filter(|token| token.revoked_at.is_none())?;
    Some(Write::RevokeToken { token: token.id, at })
}

fn object(id: PackageId) -> String {
    format!("package:{id}")
}
